"""Settings and offsets of change streams as JSON. Those of a backend live in its connector."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar, Literal, TypeVar, get_args

import attrs
from attrs.validators import and_, deep_iterable, deep_mapping, ge, in_, instance_of, min_len, not_

from dpone.errors import ConfigError, DponeError, StateError
from dpone.model.position import Position
from dpone.plugins import discover

VERSION = 1
OF_SOURCE: Mapping[str, Any] = {"identity": True}
valid_text: Any = and_(instance_of(str), min_len(1))
valid_number: Any = and_(instance_of(int), not_(instance_of(bool)), ge(0))


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


valid_names: Any = deep_iterable(valid_text, instance_of(tuple))
valid_facts: Any = deep_mapping(valid_text, instance_of(dict), instance_of(dict))
Truncate = Literal["apply", "fail", "ignore"]
valid_truncate: Any = in_(get_args(Truncate))
J = TypeVar("J", bound="_Versioned")


class _Versioned:
    """An attrs class as JSON: ``version``, ``backend``, and its fields. ``kinds`` are the classes of a family by their
    backend; ``error`` is raised for anything else."""

    backend: ClassVar[str] = ""
    what: ClassVar[str] = ""
    error: ClassVar[type[DponeError]] = DponeError
    kinds: ClassVar[dict[str, type[Any]]]

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, "backend": self.backend, **_fields_of(self)}

    @classmethod
    def from_json(cls: type[J], data: Any) -> J:
        """The class of the data's backend. Raises ``error``."""
        if not isinstance(data, Mapping):
            raise cls._bad(f"a JSON object is needed, found {type(data).__name__}")
        if data.get("version") != VERSION or isinstance(data.get("version"), bool):
            raise cls._bad(f"version {data.get('version')!r}, this dpone reads {VERSION}")
        kind = cls.kinds.get(str(data.get("backend"))) or _of_a_connector(str(data.get("backend")), cls.kinds)
        if kind is None or not issubclass(kind, cls):
            known = [name for name, one in cls.kinds.items() if issubclass(one, cls)]
            raise cls._bad(f"backend {data.get('backend')!r}, known here: {', '.join(known) or 'none'}")
        given = {key: value for key, value in data.items() if key not in ("version", "backend")}
        made: J = kind._made(given)
        return made

    @classmethod
    def _made(cls: type[J], given: Mapping[str, Any]) -> J:
        names = {f.name: f for f in attrs.fields(cls)}  # type: ignore[arg-type]  # every subclass is an attrs class
        if unknown := sorted(set(given) - set(names)):
            raise cls._bad(f"unknown keys: {', '.join(unknown)}")
        required = {name for name, f in names.items() if f.default is attrs.NOTHING}
        if missing := sorted(required - set(given)):
            raise cls._bad(f"missing keys: {', '.join(missing)}")
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise cls._bad(str(error.args[0] if error.args else error)) from error

    @classmethod
    def _bad(cls, found: str) -> DponeError:
        todo = "use the dpone version that wrote it, or copy a position from 'dpone state history'"
        return cls.error(f"read {cls.what}", " ".join(found.split()), todo)


def _of_a_connector(backend: str, kinds: Mapping[str, type[Any]]) -> type[Any] | None:
    """From the module ``offsets`` next to the connector's change reader, which is imported when it is first needed."""
    if (record := discover().connectors.get(("cdc", backend))) is not None:
        package = record.implementation.partition(":")[0].rpartition(".")[0]
        with suppress(ModuleNotFoundError):
            import_module(f"{package}.offsets")
    return kinds.get(backend)


def _fields_of(value: Any) -> dict[str, Any]:
    return {name: _json(one) for name, one in attrs.asdict(value, recurse=False).items()}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


class CDCOffset(_Versioned):
    """How far a change stream was read: resume strictly after it. Later versions read what this one writes.

    A subclass per backend, in the module ``offsets`` of its connector:

    ``postgres_logical``       identity: system_identifier, timeline, database, slot, plugin, publication; lsn, tables,
                               commit, exact, outside, due
    ``mssql_cdc``              identity: database_guid, recovery_fork; lsn, captures
    ``mssql_change_tracking``  identity: database_guid, recovery_fork; versions

    ``to_json`` gives ``{"version": 1, "backend": ..., and the fields}``, ``from_json`` reads it. ``to_position`` puts
    the fields of the source's identity into ``Position.identity``, the others into its value; ``from_position`` is its
    inverse. Both readers raise StateError for another version, a backend that no installed connector has, a missing or
    unknown key and a value of the wrong form: an offset is never guessed.
    """

    what = "a change stream's offset"
    error = StateError
    kinds: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls) -> None:
        CDCOffset.kinds[cls.backend] = cls  # attrs creates the class twice; the second one stays

    def to_position(self, epoch: int = 0) -> Position:
        fields = attrs.fields(type(self))  # type: ignore[arg-type]  # every subclass is an attrs class
        mine, values = {f.name for f in fields if f.metadata.get("identity")}, _fields_of(self)
        identity = {name: value for name, value in values.items() if name in mine}
        value = {name: value for name, value in values.items() if name not in mine}
        return Position(self.backend, identity, {"version": VERSION, **value}, epoch)

    @classmethod
    def from_position(cls: type[O], position: Position) -> O:
        """Raises StateError for a position that no ``to_position`` made."""
        if twice := sorted({*position.identity} & {*position.value}):
            raise cls._bad(f"{', '.join(twice)} in identity and value")
        return cls.from_json({**position.identity, **position.value, "backend": position.kind})


O = TypeVar("O", bound=CDCOffset)  # noqa: E741  # an offset


class CDCConfig(_Versioned):
    """What a change stream reads, and what it needs at its source. A shape that stays readable.

    A subclass per backend, in the module ``offsets`` of its connector:

    ``postgres_logical``       slot, publication, tables; plugin (pgoutput), truncate (apply, fail or ignore)
    ``mssql_cdc``              tables; captures
    ``mssql_change_tracking``  tables

    ``to_json`` gives ``{"version": 1, "backend": ..., and the fields}``. ``from_json`` reads it, and raises ConfigError
    for another version, a backend that no installed connector has, a missing or unknown key and a value of the wrong
    form.
    """

    what = "the settings of a change stream"
    error = ConfigError
    kinds: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls) -> None:
        CDCConfig.kinds[cls.backend] = cls
