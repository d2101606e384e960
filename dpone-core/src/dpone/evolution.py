"""Schema evolution: compare what a source gives with what a target has, under a stated policy. Pure; no I/O.

Three questions about a column, asked over Arrow types:

* ``holds(target, source)``: can the target take every value as it is? Then nothing changes, also if it is wider.
* ``join(target, source)``: is there a type that holds both? Then widening the target is safe.
* otherwise the change is breaking, or goes to a column of its own (``on_type_change: new_column``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pyarrow as pa
from attrs import field, frozen

from dpone.errors import SchemaBreak
from dpone.pipeline import SchemaEvolution
from dpone.schema import PREFIX, ambiguous

NEW_COLUMN = PREFIX + "nc__"

Fidelity = Literal["exact", "checked", "lossy"]


@frozen
class Stored:
    """How a sink keeps an Arrow type. native: its DDL name. arrow: the type it comes back as. fidelity: ``exact``,
    ``checked`` (refused if a value does not fit), ``lossy`` (only by a stated policy)."""

    native: str
    arrow: pa.DataType
    fidelity: Fidelity = "exact"


@frozen
class Change:
    """One difference. ``allow``: None if the policy makes it safe, else what would allow it.

    create  the target does not exist; ``schema`` has its columns (lineage left out)
    add     a column the target lacks; ``after`` is its field
    widen   ``before`` becomes ``after``
    type    incompatible types
    drop    the source lacks a column of the target
    null    the source may give NULL where the target forbids it
    case    names that differ only by case
    """

    kind: Literal["create", "add", "widen", "type", "drop", "null", "case"]
    column: str = ""
    before: pa.Field | None = None
    after: pa.Field | None = None
    allow: str | None = None
    schema: pa.Schema | None = None

    def __str__(self) -> str:
        if self.kind == "create":
            return f"create with {len(self.schema or ())} columns"
        types = " -> ".join(str(f.type) for f in (self.before, self.after) if f is not None)
        return f"{self.kind} {self.column} {types}".strip()


@frozen
class Plan:
    """changes: safe ones, in DDL order. breaking: the rest. columns: source column -> target column."""

    changes: tuple[Change, ...] = ()
    breaking: tuple[Change, ...] = ()
    columns: Mapping[str, str] = field(factory=dict)

    def require_safe(self, target: str) -> None:
        if self.breaking:
            found = ", ".join(map(str, self.breaking))
            todo = "to allow: " + "; ".join(dict.fromkeys(c.allow for c in self.breaking if c.allow))
            raise SchemaBreak(f"evolve the schema of {target}", found, todo + "; nothing was changed")


_SIGNED = {pa.int8(): 8, pa.int16(): 16, pa.int32(): 32, pa.int64(): 64}
_UNSIGNED = {pa.uint8(): 8, pa.uint16(): 16, pa.uint32(): 32, pa.uint64(): 64}
_FLOATS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}  # bits of an exact integer
_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
_BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())


def plain(type_: pa.DataType) -> pa.DataType:
    """The type without encodings that do not change its values (dictionary, run-end)."""
    while pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        type_ = type_.value_type
    return type_


def holds(target: pa.DataType, source: pa.DataType) -> bool:
    """True if every value of ``source`` fits ``target`` as it is, or is refused by a checked cast of its unit."""
    target, source = plain(target), plain(source)
    if target == source or pa.types.is_null(source):
        return True
    if source in _SIGNED or source in _UNSIGNED:
        return _holds_integer(target, source)
    if source in _FLOATS:
        return target in _FLOATS and _FLOATS[target] >= _FLOATS[source]
    if pa.types.is_decimal(source):
        return pa.types.is_decimal(target) and _digits(target) >= _digits(source) and target.scale >= source.scale
    if source in _TEXTS:
        return target in _TEXTS
    if source in _BYTES or pa.types.is_fixed_size_binary(source):
        return target in _BYTES
    if pa.types.is_timestamp(source):
        return pa.types.is_timestamp(target) and (target.tz is None) == (source.tz is None)
    if pa.types.is_time(source):
        return bool(pa.types.is_time(target))
    if pa.types.is_duration(source):
        return bool(pa.types.is_duration(target))
    if pa.types.is_date(source):
        return bool(pa.types.is_date(target))
    return False


def _digits(decimal: pa.DataType) -> int:
    """Digits before the point."""
    return int(decimal.precision - decimal.scale)


def _integer_bits(type_: pa.DataType) -> int:
    """Bits of magnitude."""
    return _SIGNED[type_] - 1 if type_ in _SIGNED else _UNSIGNED[type_]


def _holds_integer(target: pa.DataType, source: pa.DataType) -> bool:
    bits = _integer_bits(source)
    if target in _SIGNED:
        return _SIGNED[target] - 1 >= bits
    if target in _UNSIGNED:
        return source in _UNSIGNED and _UNSIGNED[target] >= bits
    if target in _FLOATS:
        return _FLOATS[target] >= bits
    if pa.types.is_decimal(target):
        return _digits(target) >= len(str(2**bits))
    return False


_LADDER = (
    pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.decimal128(19, 0), pa.decimal128(20, 0),
    pa.string(), pa.large_string(), pa.binary(), pa.large_binary(),
)  # fmt: skip


def join(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds both, or None."""
    left, right = plain(left), plain(right)
    if holds(left, right):
        return left
    if holds(right, left):
        return right
    if pa.types.is_decimal(left) and pa.types.is_decimal(right):
        scale = max(left.scale, right.scale)
        precision = max(_digits(left), _digits(right)) + scale
        return pa.decimal128(precision, scale) if precision <= 38 else None
    return next((t for t in _LADDER if holds(t, left) and holds(t, right)), None)


def plan(
    target: pa.Schema | None,
    source: pa.Schema,
    policy: SchemaEvolution,
    stores: Callable[[pa.DataType], Stored],
    key: Sequence[str] = (),
) -> Plan:
    """What must happen to ``target`` (lineage left out) before rows of ``source`` fit it.

    ``stores`` says how the sink keeps a type, so that an int32 it keeps as int64 is no change. Key columns are never
    routed to another column nor dropped.
    """
    if clash := [*ambiguous(source.names), *_case_clash(target, source)]:
        allow = "give the columns distinct names in the source; names that differ only by case are refused"
        return Plan(breaking=tuple(Change("case", name, allow=allow) for name in dict.fromkeys(clash)))
    if target is None:
        return Plan((Change("create", schema=source),), (), {n: n for n in source.names})
    found = [_column(target, f, policy, stores, f.name in key) for f in source]
    changes = [change for change, _ in found if change is not None]
    changes += _dropped(target, source, policy, {to for _, to in found})
    safe = tuple(c for c in changes if c.allow is None)
    breaking = tuple(c for c in changes if c.allow is not None)
    return Plan(safe, breaking, {f.name: to for f, (_, to) in zip(source, found, strict=True)})


def twin(column: str) -> str:
    """The other one of a column and the column its values are routed to: a row has its value in one of the two."""
    return column.removeprefix(NEW_COLUMN) if column.startswith(NEW_COLUMN) else NEW_COLUMN + column


def _case_clash(target: pa.Schema | None, source: pa.Schema) -> list[str]:
    have = {name.casefold(): name for name in (target.names if target is not None else ())}
    return [name for name in source.names if have.get(name.casefold(), name) != name]


def _column(
    target: pa.Schema,
    source: pa.Field,
    policy: SchemaEvolution,
    stores: Callable[[pa.DataType], Stored],
    is_key: bool,
) -> tuple[Change | None, str]:
    index = target.get_field_index(source.name)
    if index < 0:
        allow = "schema_evolution.mode: additive" if policy.mode == "strict" else None
        return Change("add", source.name, after=source.with_nullable(True), allow=allow), source.name
    before = target.field(index)
    wanted = stores(source.type).arrow
    if policy.mode == "strict" and source.nullable and not before.nullable and not is_key:
        return Change("null", source.name, before, source, "schema_evolution.mode: additive"), source.name
    if before.type == wanted or (policy.mode != "strict" and holds(before.type, source.type)):
        return None, source.name
    wider = None if is_key else join(before.type, wanted)
    if wider is not None and wider != before.type:
        allow = None if policy.mode == "widening" else "schema_evolution.mode: widening"
        return Change("widen", source.name, before, before.with_type(wider), allow), source.name
    if policy.on_type_change == "new_column" and policy.mode != "strict" and not is_key:
        return _routed(target, source, before, stores)
    allow = "schema_evolution.on_type_change: new_column"
    if is_key:
        allow = f"a full refresh into a new table ({source.name} is a key column and keeps its type)"
    return Change("type", source.name, before, source, allow), source.name


def _routed(
    target: pa.Schema, source: pa.Field, before: pa.Field, stores: Callable[[pa.DataType], Stored]
) -> tuple[Change | None, str]:
    name = NEW_COLUMN + source.name
    index = target.get_field_index(name)
    if index < 0:
        return Change("add", name, after=source.with_name(name).with_nullable(True)), name
    there = target.field(index)
    if there.type == stores(source.type).arrow or holds(there.type, source.type):
        return None, name
    allow = f"dropping or renaming {name} ({there.type}), which an earlier type change filled"
    return Change("type", source.name, before, source, allow), name


def _dropped(target: pa.Schema, source: pa.Schema, policy: SchemaEvolution, filled: set[str]) -> list[Change]:
    if policy.on_missing_column == "ignore":
        return []
    given = {*source.names, *filled}
    allow = "schema_evolution.on_missing_column: ignore"
    return [
        Change("drop", f.name, before=f, allow=allow)
        for f in target
        if f.name not in given and not f.name.startswith(PREFIX)
    ]
