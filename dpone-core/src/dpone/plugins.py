"""Discovery: load the entry points of the group ``dpone`` one by one, record what each provides, and survive broken
ones."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args
from urllib.parse import unquote

import pluggy
from attrs import define, field, frozen

from dpone import hookspecs
from dpone.capability import INCREMENTAL, NEED_A_JOURNAL, WHAT, Commit, Connector, Role, Support, known
from dpone.errors import ErrorClassifier, ErrorCodes, PluginError

HOOKS: Mapping[str, Role] = {
    "dpone_sources": "source",
    "dpone_sinks": "sink",
    "dpone_state_backends": "state",
    "dpone_cdc_readers": "cdc",
}
TAKES = ("connection", *WHAT)
COMMITS = "transaction, manifest, log or none"
State = Literal["ok", "broken", "blocked"]
P = TypeVar("P")


@define
class FoundPlugin:
    """One entry point. ``cause`` says why it is not ok; ``roles`` maps a role to the names of its connectors.

    Distribution and version are read when they are asked for: parsing the metadata of every plugin takes longer than
    all the rest of discovery.
    """

    name: str
    module: str
    _dist: Distribution | None = field(repr=False, eq=False)
    state: State = "ok"
    cause: str = ""
    roles: dict[str, list[str]] = field(factory=dict)

    @property
    def distribution(self) -> str:
        return self._dist.name if self._dist else "?"

    @property
    def version(self) -> str:
        return self._dist.version if self._dist else "?"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "module": self.module,
            "distribution": self.distribution,
            "version": self.version,
            "state": self.state,
            "cause": self.cause,
            "roles": self.roles,
        }


# None of our distributions is on a public index, where another project has the name dpone. So messages name paths to
# install from.
CORE = "dpone-core"
OTHERS = "install its distribution from a path or wheel"
OURS = ("kafka", "mssql", "objectstore", "postgres")  # plugins of this repository that are distributions of their own


def _distribution(connector: str) -> str | None:
    """``postgres``, ``postgres_logical`` -> ``dpone-postgres``."""
    name = connector.partition("_")[0]
    return f"dpone-{name}" if name in OURS else None


def how_to_install(name: str) -> str:
    """The command that installs a plugin of ``OURS``. It can be typed in any folder if dpone-core came from a folder of
    the repository, and in the repository otherwise."""
    folders = [CORE, f"dpone-{name}"]
    here = _repository()
    if here is None or not (here / folders[1] / "pyproject.toml").is_file():
        return f"pip install ./{folders[0]} ./{folders[1]}, in the repository"
    return f"pip install {' '.join(shlex.quote(str(here / folder)) for folder in folders)}"


def _repository() -> Path | None:
    """From pip's record of what it installed dpone-core from (PEP 610)."""
    try:
        url = json.loads(distribution(CORE).read_text("direct_url.json") or "{}").get("url", "")
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    return Path(unquote(url.removeprefix("file://"))).parent if url.startswith("file://") else None


@frozen
class Plugins:
    """What discovery found. ``connectors`` has only those of healthy plugins."""

    manager: pluggy.PluginManager
    found: tuple[FoundPlugin, ...]
    connectors: Mapping[tuple[Role, str], Connector]

    def names(self, role: Role) -> list[str]:
        return sorted(name for r, name in self.connectors if r == role)

    def absent(self) -> list[str]:
        """Plugins of ``OURS`` that are not installed."""
        return [name for name in OURS if name not in {one.name for one in self.found}]

    def get(self, role: Role, name: str) -> Connector:
        if connector := self.connectors.get((role, name)):
            return connector
        sick = next((f for f in self.found if f.name == name and f.state != "ok"), None)
        if sick:
            raise PluginError(f"use {role} {name}", f"plugin is {sick.state} ({sick.cause})", "see 'dpone plugins'")
        known = ", ".join(n for n in self.names(role) if self.connectors[role, n].implemented) or "none"
        install = f"pip install ./{CORE} ./{ours}, in the repository" if (ours := _distribution(name)) else OTHERS
        raise PluginError(f"use {role} {name}", "the connector is not installed", f"use one of: {known}; or {install}")

    def supports(self, role: Role, name: str, capability: str) -> bool:
        return self.get(role, name).capabilities.get(capability) is Support.SUPPORTED

    def offered(self, protocol: Callable[..., P], made: object, name: str) -> P | None:
        """``made``, an object of connector ``name``, as one of ``contract.OPTIONAL``; None if its plugin does not
        declare it."""
        from dpone.contract import OPTIONAL

        [(role, capability)] = [(r, c) for r, named in OPTIONAL.items() for c, p in named.items() if p is protocol]
        return cast(P, made) if self.supports(role, name, capability) else None

    def reader(self, source: str, by: str) -> Connector | None:
        """The change reader that serves a type of source, if there is one."""
        return next((c for (role, _), c in self.connectors.items() if role == "cdc" and c.serves == (source, by)), None)

    def load(self, role: Role, name: str) -> type:
        """Import the implementation and check that it has every member of the contract."""
        connector = self.get(role, name)
        if not connector.implemented:
            todo = "see 'dpone plugins' and 'dpone certify' for what this version supports"
            raise PluginError(f"use {role} {name}", "the connector does not implement it", todo)
        cls = resolve(connector.implementation)
        if missing := lacking(role, cls, connector):
            todo = f"implement every member of dpone.contract ({role}), or declare fewer capabilities"
            raise PluginError(f"load {role} {name}", f"{connector.implementation} lacks {', '.join(missing)}", todo)
        return cast(type, cls)

    def increments(self, source: str) -> list[str]:
        """The values of ``incremental.by`` for a source: those it declares, and those that change readers serve."""
        declared = self.get("source", source).capabilities
        own = [n.removeprefix(INCREMENTAL) for n in declared if n.startswith(INCREMENTAL)]
        own = [by for by in own if declared[INCREMENTAL + by] is Support.SUPPORTED]
        served = [c.serves[1] for (r, _), c in self.connectors.items() if r == "cdc" and c.serves and c.implemented]
        of = [by for by in served if self.reader(source, by)]
        return list(dict.fromkeys([*own, *of]))

    def options(self, role: Role, name: str) -> type:
        """The attrs class of ``options:``. Raises PluginError if it lacks what every connector of the role has."""
        from dpone.model.pipeline import SinkOptions, SourceOptions, StateOptions

        base = {"source": SourceOptions, "cdc": SourceOptions, "sink": SinkOptions, "state": StateOptions}[role]
        reference = self.get(role, name).options
        if not (isinstance(cls := resolve(reference), type) and issubclass(cls, base)):
            found = f"{reference} does not extend dpone.model.pipeline.{base.__name__}"
            raise PluginError(f"load the options of {role} {name}", found, "derive the class from it")
        return cls

    def errors(self, role: Role, name: str) -> ErrorCodes | None:
        """The error codes of the connector's driver."""
        reference = self.get(role, name).errors
        if reference is None or isinstance(codes := resolve(reference), ErrorCodes):
            return codes if reference else None
        found = f"{reference} is not a dpone.errors.ErrorCodes"
        raise PluginError(f"load the errors of {role} {name}", found, "assign an ErrorCodes to it")

    def classifier(self) -> ErrorClassifier:
        """Knows the codes of every connector whose error table can be imported."""
        tables: list[ErrorCodes] = []
        for reference in sorted({c.errors for c in self.connectors.values() if c.errors}):
            with contextlib.suppress(PluginError):  # its driver is missing, so none of its errors can occur
                tables.append(resolve(reference))
        return ErrorClassifier(*tables)


def resolve(reference: str) -> Any:
    """``module:Name`` -> the object. Only references declared by installed plugins come here, never configuration."""
    path, _, name = reference.partition(":")
    try:
        module = importlib.import_module(path)
        if not hasattr(module, name):
            found = f"module {path} does not define {name}"
            raise PluginError(f"import {reference}", found, "fix the name in the plugin, or reinstall the connector")
        return getattr(module, name)
    except PluginError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise PluginError(f"import {reference}", found, "reinstall the connector and its driver") from error


def lacking(role: Role, cls: Any, connector: Connector) -> list[str]:
    """Members of the contract that a class does not have, and the capability that promises each."""
    from dpone.contract import OPTIONAL, PROTOCOLS

    lacks = without(PROTOCOLS[role], cls)
    for capability, protocol in OPTIONAL.get(role, {}).items():
        if connector.capabilities.get(capability) is Support.SUPPORTED:
            more = getattr(cls, "missing", None)  # of ``sql.sink.SqlSink``: what its parts lack
            lacks += [f"{n} (of {capability})" for n in [*without(protocol, cls), *(more(capability) if more else ())]]
    return lacks


def undeclared(role: Role, cls: Any, connector: Connector) -> list[str]:
    """Capabilities whose members a class has in full, although its plugin does not declare them."""
    from dpone.contract import OPTIONAL

    silent = (Support.NOT_IMPLEMENTED, None)
    return [
        capability
        for capability, protocol in OPTIONAL.get(role, {}).items()
        if connector.capabilities.get(capability) in silent and not without(protocol, cls)
    ]


def without(protocol: type, cls: Any) -> list[str]:
    """Members of a Protocol that a class lacks. A class removes an inherited member with None, as in ``undo =
    None``."""
    return [n for n in vars(protocol) if not n.startswith("_") and getattr(cls, n, None) is None]


def troubles(plugins: Plugins, one: FoundPlugin) -> list[str]:
    """Why implementations of a healthy plugin cannot be used; imports them, and so their drivers."""
    causes = []
    for role, names in one.roles.items():
        for name in names:
            if plugins.get(cast(Role, role), name).implemented:
                try:
                    plugins.load(cast(Role, role), name)
                    plugins.options(cast(Role, role), name)
                    plugins.errors(cast(Role, role), name)
                except PluginError as error:
                    causes.append(str(error))
    return list(dict.fromkeys(causes))


@functools.lru_cache(maxsize=1)
def discover() -> Plugins:
    """Every plugin installed in this environment; read once per process."""
    return _discover(entry_points(group=hookspecs.PROJECT), os.environ.get("DPONE_BLOCK", ""))


def _discover(points: Iterable[EntryPoint], blocked: str) -> Plugins:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    blocks = {name.strip() for name in blocked.split(",") if name.strip()}
    connectors: dict[tuple[Role, str], Connector] = {}
    points = sorted(points, key=lambda point: (point.name, point.value))
    pairs = [(FoundPlugin(point.name, point.value, point.dist), point) for point in points]
    found = tuple(one for one, _ in pairs)
    shared = _claimed_twice(found)
    for one, point in pairs:
        if point.name in blocks:
            one.state, one.cause = "blocked", "DPONE_BLOCK"
        elif point.name in shared:
            one.state, one.cause = (
                "broken",
                f"{' and '.join(shared[point.name])} use the same name; uninstall one of them",
            )
        else:
            try:
                _register(manager, point, one, connectors)
            except Exception as error:  # a plugin may raise anything; the others must go on
                one.state, one.cause = "broken", " ".join(f"{type(error).__name__}: {error}".split())
                one.roles.clear()
    return Plugins(manager, found, connectors)


def _claimed_twice(found: Iterable[FoundPlugin]) -> dict[str, list[str]]:
    """Names with several distributions or modules behind them. The same distribution listed twice (an editable
    install seen through two paths) is one."""
    times = Counter(one.name for one in found)
    owners: dict[str, list[str]] = {}
    for one in (one for one in found if times[one.name] > 1):
        owner = f"{re.sub('[-_.]+', '-', one.distribution).lower()} ({one.module})"
        if owner not in owners.setdefault(one.name, []):
            owners[one.name].append(owner)
    return {name: who for name, who in owners.items() if len(who) > 1}


def _register(
    manager: pluggy.PluginManager, point: EntryPoint, one: FoundPlugin, connectors: dict[tuple[Role, str], Connector]
) -> None:
    if manager.has_plugin(point.name):
        return
    module = point.load()
    _check_hooks(module)
    mine: dict[tuple[Role, str], Connector] = {}
    for hook, role in HOOKS.items():
        for connector in getattr(module, hook, list)():
            if not isinstance(connector, Connector):
                todo = "return a list of dpone.capability.Connector"
                raise PluginError(f"call {hook}", type(connector).__name__, todo)
            _check_words(role, connector)
            if unknown := sorted(n for n in connector.capabilities if not known(role, n)):
                todo = f"use the names of dpone.capability.CAPABILITIES[{role!r}]"
                raise PluginError(f"read {role} {connector.name}", f"unknown capabilities: {', '.join(unknown)}", todo)
            _check_commit(role, connector)
            if (role, connector.name) in connectors or (role, connector.name) in mine:
                found = "another plugin has the same name"
                raise PluginError(f"read {role} {connector.name}", found, "uninstall one of them")
            mine[role, connector.name] = connector
            one.roles.setdefault(role, []).append(connector.name)
    manager.register(module, name=point.name)
    connectors.update(mine)


def _check_words(role: Role, connector: Connector) -> None:
    """Check types and values of a record that would otherwise fail only when they are used, far from the plugin."""
    read = f"read {role} {connector.name}"
    made = "build it with dpone.capability.declare"
    if not isinstance(connector.capabilities, Mapping):
        raise PluginError(read, f"capabilities is of type {type(connector.capabilities).__name__}", made)
    if strange := [value for value in connector.capabilities.values() if not isinstance(value, Support)]:
        raise PluginError(read, f"capabilities holds {strange[0]!r}", made)
    if isinstance(connector.takes, str):
        raise PluginError(read, "takes is of type str", "write a tuple")
    if unknown := [key for key in connector.takes if key not in TAKES]:
        raise PluginError(read, f"takes holds {unknown[0]!r}", f"use {', '.join(TAKES)}")
    if connector.commit not in (None, *get_args(Commit)):
        raise PluginError(read, f"commit is {connector.commit!r}", f"use {COMMITS}")


def _check_commit(role: Role, connector: Connector) -> None:
    """Check that a sink says how it commits, and that one without a journal declares no capability that needs a
    journal."""
    if role != "sink":
        return
    if connector.commit is None:
        todo = f"set commit to {COMMITS} (dpone.capability.Connector)"
        raise PluginError(f"read sink {connector.name}", "commit is not set", todo)
    claimed = [n for n in NEED_A_JOURNAL if connector.capabilities.get(n) is Support.SUPPORTED]
    if connector.commit == "none" and claimed:
        todo = "store the journal in the sink and set commit, or do not declare them"
        raise PluginError(f"read sink {connector.name}", f"commit is none, but it declares {', '.join(claimed)}", todo)


def _check_hooks(module: Any) -> None:
    specs = {n for n in vars(hookspecs) if n.startswith("dpone_")}
    named = {n for n in dir(module) if n.startswith("dpone_") and hasattr(getattr(module, n), "dpone_impl")}
    if misspelt := sorted(named - specs):
        raise PluginError(
            "read hooks", f"unknown hooks: {', '.join(misspelt)}", f"use one of {', '.join(sorted(specs))}"
        )
    if not named:
        todo = f"mark at least one of {', '.join(sorted(specs))} with @dpone.hookimpl"
        raise PluginError("read hooks", "the plugin has no hooks", todo)
