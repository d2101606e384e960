"""Schema evolution: compare what a source gives with what a target has, under a stated policy. Pure; no I/O.

Three questions about a column, asked over Arrow types:

* ``holds(target, source)``: can the target take every value as it is? Then nothing changes, also if it is wider.
* ``join(target, source)``: is there a type that holds both? Then widening the target is safe. ``united`` also finds a
  type that holds both only for some values: a double holds floats and whole numbers up to 2**53. Then existing rows are
  checked before the change, and new rows are cast with a check.
* otherwise the change is breaking, or goes to a column of its own (``on_type_change: new_column``).

``SchemaComparator`` asks them of every column. Arrow's text and binary types have no length. If a system's own type has
one, the field's metadata ``dpone.native`` contains it, as in ``varchar(50)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa
from attrs import field, frozen

from dpone.errors import SchemaBreak, counted
from dpone.model.pipeline import SchemaEvolution
from dpone.model.schema import (
    DEFAULT,
    NATIVE,
    PREFIX,
    ambiguous,
)

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
class SchemaChange:
    """One difference. ``allow``: None if the policy makes it safe, else what would allow it.

    create  the target does not exist; ``schema`` has its columns (lineage left out)
    add     a column the target lacks; ``after`` is its field
    widen   ``before`` becomes ``after``
    type    incompatible types
    drop    the source lacks a column of the target; ``where``: only this data lacks it
    null    strict: one side allows NULL and the other does not. Else: ``after`` is None, and the target's column is NOT
            NULL without a default, so that no row could be inserted; or, with ``where``, has a default, which rows that
            lack the column would get in one window and not in another
    case    names that differ only by case: ``before`` of the target and ``after`` of the source; without ``after`` both
            are of the source
    """

    kind: Literal["create", "add", "widen", "type", "drop", "null", "case"]
    column: str = ""
    before: pa.Field | None = None
    after: pa.Field | None = None
    allow: str | None = None
    schema: pa.Schema | None = None
    where: str = ""

    def __str__(self) -> str:
        if self.kind == "create":
            return f"create with {counted(len(self.schema or ()), 'column')}"
        where = f" (not in {self.where})" if self.where else ""
        if self.kind == "null":
            return f"null {self.column} {_nulls(self.before)} -> {_nulls(self.after)}{where}"
        if self.kind == "case" and self.before is not None:
            if self.after is not None:
                return f"column {self.column} of the source is {self.before.name} in the target"
            return f"columns {self.before.name} and {self.column} of the source differ only by case"
        types = " -> ".join(type_name(f) for f in (self.before, self.after) if f is not None)
        return f"{self.kind} {self.column} {types}{self.condition}".strip() + where

    @property
    def problem(self) -> str:
        """The text for the message that refuses the change; ``str`` is the short form for plans and reports."""
        column, before, after = self.column, self.before, self.after
        where = self.where or "the source"
        if self.kind == "add" and after is not None:
            return f"column {column} ({type_name(after)}) is in the source but not in the target"
        if before is None or self.kind == "case":
            return str(self)
        if self.kind == "drop":
            return f"column {column} ({type_name(before)}) is in the target but not in {where}"
        if self.kind == "null" and after is None:
            return f"column {column}, {_nulls(before)}, is in the target but not in {where}"
        if after is None:
            return str(self)
        if self.kind == "widen":
            return f"column {column} needs a wider type: {type_name(before)} -> {type_name(after)}"
        named = _nulls if self.kind == "null" else type_name
        return f"column {column} is {named(before)} in the target and {named(after)} in the source"

    @property
    def looks(self) -> bool:
        """True for a widening that checks the rows first: a value that does not fit stops it."""
        if self.kind != "widen" or self.before is None or self.after is None:
            return False
        return inexact(self.before.type, self.after.type)

    @property
    def condition(self) -> str:
        return ", if all rows fit" if self.looks else ""


def _nulls(field: pa.Field | None) -> str:
    """``absent``: the source has no such column."""
    return "absent" if field is None else "nullable" if field.nullable else "not null"


def type_name(field: pa.Field) -> str:
    """``string varchar(50)``: Arrow's type, and the native one where it has a length that Arrow's has not."""
    return f"{field.type} {_native(field)}" if length(field) is not None else str(field.type)


@frozen
class Plan:
    """changes: safe ones, in DDL order. breaking: the rest. columns: source column -> target column. replaced:
    the differences if the load replaces the target's columns; then nothing is done before its commit. missing: columns
    of the target that the rows are allowed to lack."""

    changes: tuple[SchemaChange, ...] = ()
    breaking: tuple[SchemaChange, ...] = ()
    columns: Mapping[str, str] = field(factory=dict)
    replaced: tuple[SchemaChange, ...] = ()
    missing: tuple[str, ...] = ()

    def require_safe(self, target: str, instead: str = "") -> None:
        """``instead``: an alternative to allowing the changes. Raises SchemaBreak."""
        if self.breaking:
            found, ways = ", ".join(change.problem for change in self.breaking), self._ways()
            if rename := self.rename():
                found, ways = f"{found}; {rename}", f"if it is a rename, rename the column of the target too; {ways}"
            named = all(change.kind == "case" for change in self.breaking)  # renaming is easier than a new table
            ways = f"{ways}; {instead}" if instead and not named else ways
            raise SchemaBreak(f"evolve the schema of {target}", found, f"{ways}; nothing was changed")

    def rename(self, absent: Iterable[str] = ()) -> str:
        """A text if columns are missing and others are new at the same time, else empty: dpone never guesses a rename.
        ``absent``: as in Window."""
        new = [c.column for c in (*self.changes, *self.breaking) if c.kind == "add"]
        gone = [c.column for c in self.breaking if c.kind == "drop" or (c.kind == "null" and c.after is None)]
        gone = [name for name in dict.fromkeys([*gone, *self.missing, *absent]) if name not in new]
        if not gone or not new:
            return ""
        return f"possible rename: {', '.join(gone)} is missing and {', '.join(new)} is new"

    def replacing(self, source: pa.Schema) -> Plan:
        """The plan of a load that replaces the whole target. Names that differ only by case within the source stay
        breaking."""
        if ambiguous(source.names):
            return self
        return Plan((), (), {name: name for name in source.names}, (*self.changes, *self.breaking))

    def _ways(self) -> str:
        """What allows each change; lists the columns if one way does not allow all changes."""
        ways: dict[str, list[str]] = {}
        for change in self.breaking:
            ways.setdefault(change.allow or "", []).append(change.column)
        if len(ways) == 1:
            return f"to allow it, {_imperative(next(iter(ways)))}"
        return "; ".join(f"to allow {', '.join(columns)}, {_imperative(way)}" for way, columns in ways.items())


def _imperative(allow: str) -> str:
    return f"set {allow}" if allow.startswith("schema_evolution.") else allow


_SIGNED = {pa.int8(): 8, pa.int16(): 16, pa.int32(): 32, pa.int64(): 64}
_UNSIGNED = {pa.uint8(): 8, pa.uint16(): 16, pa.uint32(): 32, pa.uint64(): 64}
_FLOATS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}  # bits of an exact integer
_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
_BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def canonical_type(type_: pa.DataType) -> pa.DataType:
    """The type without encodings and layouts that do not change its values (dictionary, run-end, view)."""
    while pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        type_ = type_.value_type
    return _VIEWS.get(type_, type_)


def holds(target: pa.DataType, source: pa.DataType) -> bool:
    """True if every value of ``source`` fits ``target`` as it is, or is refused by a checked cast of its unit."""
    target, source = canonical_type(target), canonical_type(source)
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
        return bool(pa.types.is_date(target) or (pa.types.is_timestamp(target) and target.tz is None))
    return False


def _digits(decimal: pa.DataType) -> int:
    """Digits before the point."""
    return int(decimal.precision - decimal.scale)


def _integer_bits(type_: pa.DataType) -> int:
    """Bits of magnitude."""
    return _SIGNED[type_] - 1 if type_ in _SIGNED else _UNSIGNED[type_]


def _as_decimal(type_: pa.DataType, other: pa.DataType) -> pa.DataType:
    """If one type is an integer and the other a decimal, the integer counts as the decimal that holds it."""
    if pa.types.is_decimal(other) and (type_ in _SIGNED or type_ in _UNSIGNED):
        return pa.decimal128(len(str(2 ** _integer_bits(type_))), 0)
    return type_


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
    pa.float16(), pa.float32(), pa.float64(), pa.decimal128(20, 0),
    pa.string(), pa.large_string(), pa.binary(), pa.large_binary(),
)  # fmt: skip


def join(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds both, or None."""
    left, right = canonical_type(left), canonical_type(right)
    if holds(left, right):
        return left
    if holds(right, left):
        return right
    left, right = _as_decimal(left, right), _as_decimal(right, left)
    if pa.types.is_decimal(left) and pa.types.is_decimal(right):
        scale = max(left.scale, right.scale)
        precision = max(_digits(left), _digits(right)) + scale
        return pa.decimal128(precision, scale) if precision <= 38 else None
    return next((t for t in _LADDER if holds(t, left) and holds(t, right)), None)


def united(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """``join``, or double for a whole number and a float, whose values must be checked."""
    if (both := join(left, right)) is not None:
        return both
    left, right = canonical_type(left), canonical_type(right)
    numbers = {*_SIGNED, *_UNSIGNED, *_FLOATS}
    return pa.float64() if left in numbers and right in numbers else None


# IEEE 754: 53 bits of precision. Above it a double skips whole numbers.
EXACT_IN_DOUBLE = 1 << 53


def inexact(before: pa.DataType, after: pa.DataType) -> bool:
    """True if a stored value may not fit the wider type: a whole number beyond ``EXACT_IN_DOUBLE``, a far date."""
    number = pa.types.is_integer(canonical_type(before)) and pa.types.is_floating(after) and not holds(after, before)
    return bool(number or (pa.types.is_date(before) and pa.types.is_timestamp(after)))


_LENGTH = re.compile(r"(.*?[^\s(])\s*\(\s*(\d+)\s*\)\s*", re.DOTALL)


def _native(field: pa.Field) -> str:
    return str((field.metadata or {}).get(NATIVE, b"").decode(errors="replace"))


def length(field: pa.Field) -> int | None:
    """The n of ``varchar(n)`` and its like; None: unlimited, or not stated."""
    match = _LENGTH.fullmatch(_native(field)) if field.type in _TEXTS or field.type in _BYTES else None
    return int(match[2]) if match else None


def _lengthened(before: pa.Field, source: pa.Field) -> pa.Field:
    """The target's column with the length of the source, in the target's own type name; without a limit if the source
    has none."""
    match, wanted = _LENGTH.fullmatch(_native(before)), length(source)
    word = {NATIVE: f"{match[1]}({wanted})".encode()} if match and wanted is not None else {}
    return before.with_metadata(_without_native(before) | word)


def _field(schema: pa.Schema, name: str) -> pa.Field | None:
    at = schema.get_field_index(name)
    return schema.field(at) if at >= 0 else None


def has_default(field: pa.Field) -> bool:
    """True if a target column has a default or is filled by the server."""
    return DEFAULT in (field.metadata or {})


_STRICT = "schema_evolution.mode: additive or widening"
_WIDENING = "schema_evolution.mode: widening"
_NEW_COLUMN = "schema_evolution.on_type_change: new_column"
_IGNORE = "schema_evolution.on_missing_column: ignore"


def _as_it_is(type_: pa.DataType) -> Stored:
    return Stored(str(type_), type_)


def any_length(name: str) -> str:
    """The ``too_long`` of a sink that accepts names of any length."""
    return ""


@frozen
class SchemaComparator:
    """Compares the columns of a source with those of a target, under a policy. Pure: it changes neither.

    policy          ``strict``: any drift is breaking, nullability included. ``additive``: a new column is safe, and is
                    nullable; anything else is breaking. ``widening``: a wider type is safe too. ``on_type_change`` and
                    ``on_missing_column`` have no effect under ``strict``
    stores          how the sink stores a type: if it stores int32 as int64, that is not a change. By default a type is
                    stored as it is
    key             the columns that identify a row: never dropped, routed or narrowed
    too_long        how long a column name is, and what the sink's limit is; empty if it is not (``Dialect.too_long``)
    own_schema, absent  as in Window

    Except under ``strict``, a target that holds every value of the source is not changed, and a NOT NULL column that
    the source may leave NULL stays as it is: the database decides about each row. Names that differ only by case are
    refused whatever the policy.
    """

    policy: SchemaEvolution = field(factory=SchemaEvolution)
    stores: Callable[[pa.DataType], Stored] = _as_it_is
    key: tuple[str, ...] = ()
    too_long: Callable[[str], str] = any_length
    own_schema: bool = True
    absent: Mapping[str, str] = field(factory=dict)

    def compare(self, target: pa.Schema | None, source: pa.Schema) -> Plan:
        """What must happen to ``target`` (lineage left out; None: it does not exist) before rows of ``source`` fit."""
        if clash := (*_ambiguous(source), *_case_clash(target, source)):
            return Plan(breaking=clash)
        if target is None:
            left_out = tuple(self._left_out(None, source, {name: name for name in source.names}, self._lenient))
            long = tuple(SchemaChange("add", f.name, after=f, allow=w) for f in source if (w := self._too_long(f.name)))
            if long or left_out:
                create = () if long else (SchemaChange("create", schema=source),)
                return Plan(create, (*long, *left_out), {n: n for n in source.names})
            return Plan((SchemaChange("create", schema=source),), (), {n: n for n in source.names})
        found = [self._column(target, source, f) for f in source]
        columns = {f.name: to for f, (_, to) in zip(source, found, strict=True)}
        missing = self._missing(target, source, {*columns.values()})
        changes = [change for change, _ in found if change is not None]
        lenient = self._lenient and (self.policy.on_missing_column == "ignore" or self._shares(target, columns))
        changes += filter(None, (self._gone(f, lenient) for f in missing))
        changes += self._left_out(target, source, columns, lenient)
        safe = tuple(c for c in changes if c.allow is None)
        breaking = tuple(c for c in changes if c.allow is not None)
        stops = {c.column for c in breaking}
        may = tuple(f.name for f in missing if f.name not in stops and not has_default(f))
        return Plan(safe, breaking, columns, missing=may)

    def _column(self, target: pa.Schema, given: pa.Schema, source: pa.Field) -> tuple[SchemaChange | None, str]:
        """The change that a source column requires, and the target column for its values."""
        before = _field(target, source.name)
        if before is None:
            allow = _STRICT if self.policy.mode == "strict" else self._too_long(source.name)
            return SchemaChange("add", source.name, after=source.with_nullable(True), allow=allow), source.name
        change = self._fitted(before, source)
        if change is None or change.kind != "type":
            return change, source.name
        if source.name in self.key:
            allow = f"load it into a new table with a full refresh ({source.name} is a key column and keeps its type)"
        elif self.policy.mode == "strict":
            allow = _STRICT if holds(before.type, source.type) else f"{_WIDENING}, and {_NEW_COLUMN}"
        elif self.policy.on_type_change == "new_column":
            return self._routed(target, given, source, before)
        else:
            allow = _NEW_COLUMN
        return SchemaChange("type", source.name, before, source, allow), source.name

    def _fitted(self, before: pa.Field, source: pa.Field) -> SchemaChange | None:
        """None if the column fits; a change of kind ``type`` if the two types have no common wider type."""
        strict, kept = self.policy.mode == "strict", self.stores(source.type).arrow
        alike = before.type in (source.type, kept)
        fits = alike or (not strict and (_takes(before.type, source.type) or _takes(before.type, kept)))
        if not fits:
            joined = united(before.type, kept)
            wider = None if joined is None else self.stores(joined).arrow
            if wider is None or wider == before.type:
                return SchemaChange("type", source.name, before, source)
            after = before.with_type(wider).with_metadata(_without_native(before))
            return SchemaChange("widen", source.name, before, after, self._unless_widening())
        return self._length(before, source) or (self._nullability(before, source) if strict else None)

    def _unless_widening(self) -> str | None:
        return None if self.policy.mode == "widening" else _WIDENING

    def _length(self, before: pa.Field, source: pa.Field) -> SchemaChange | None:
        """Compares lengths only if the source gives its native type; otherwise the database decides."""
        has, wants = length(before), length(source)
        if has is None or not _native(source) or has == wants:
            return None
        if wants is None or wants > has:
            return SchemaChange("widen", source.name, before, _lengthened(before, source), self._unless_widening())
        return SchemaChange("type", source.name, before, source) if self.policy.mode == "strict" else None

    def _nullability(self, before: pa.Field, source: pa.Field) -> SchemaChange | None:
        if before.nullable == source.nullable or source.name in self.key:
            return None
        return SchemaChange("null", source.name, before, source, _STRICT)

    def _too_long(self, name: str) -> str | None:
        found = self.too_long(name)
        return f"shorten the name in the source ({_NAMED}): {name} has {found}" if found else None

    def _routed(
        self, target: pa.Schema, given: pa.Schema, source: pa.Field, before: pa.Field
    ) -> tuple[SchemaChange | None, str]:
        """Routes the values to ``__dpone__nc__<column>``, which is created once and then treated like other columns."""
        name = NEW_COLUMN + source.name
        there, routed = _field(target, name), source.with_name(name).with_nullable(True)
        change = SchemaChange("add", name, after=routed) if there is None else self._fitted(there, routed)
        allow = self._too_long(name)
        # SE-07: the name may be taken by the source, by an earlier change of type, or be too long for the server.
        if name in given.names:
            allow = f"rename the source column {name}: values of {source.name} are routed to a column of this name"
        elif not before.nullable and not has_default(before):
            allow = f"give {source.name} a default, or make it nullable: routed rows leave it empty"
        elif there is not None and change is not None and change.kind == "type":
            allow = f"drop or rename {name} ({there.type}), which an earlier type change filled"
        if allow is not None:
            return SchemaChange("type", source.name, before, source, allow), source.name
        return change, name

    def _shares(self, target: pa.Schema, columns: Mapping[str, str]) -> bool:
        """True if the data and the target share a column; if not, it is other data, or was parsed as one column."""
        return any(to in target.names and name not in self.absent for name, to in columns.items())

    def _missing(self, target: pa.Schema, source: pa.Schema, filled: set[str]) -> list[pa.Field]:
        """Columns of the target that the source does not have."""
        given = {*source.names, *filled}
        return [f for f in target if f.name not in given and not f.name.startswith(PREFIX)]

    @property
    def _lenient(self) -> bool:
        """A column may be missing."""
        policy = self.policy.on_missing_column
        return self.policy.mode != "strict" and (policy == "ignore" or (policy == "auto" and not self.own_schema))

    def _gone(self, before: pa.Field, lenient: bool) -> SchemaChange | None:
        name = before.name
        if name in self.key:
            return SchemaChange("drop", name, before, allow=f"restore column {name} in the source: it is a key column")
        fill = "" if before.nullable or has_default(before) else f"give {name} a default, or make it nullable"
        if not lenient:
            return SchemaChange("drop", name, before, allow=" and ".join(filter(None, (self._ignore, fill))))
        return SchemaChange("null", name, before, allow=fill) if fill else None

    @property
    def _ignore(self) -> str:
        return f"{_STRICT}, and {_IGNORE}" if self.policy.mode == "strict" else _IGNORE

    def _left_out(
        self, target: pa.Schema | None, source: pa.Schema, columns: Mapping[str, str], lenient: bool
    ) -> Iterator[SchemaChange]:
        """Columns that some of the data lacks. Their rows get NULL or stop the load, whatever other data is read with
        them."""
        for name, where in self.absent.items():
            to = columns[name]
            have = _field(target, to) if target is not None else None
            before = have if have is not None else source.field(name)
            if name in self.key:
                yield SchemaChange(
                    "drop", name, before, allow=f"restore column {name} in the source: it is a key column", where=where
                )
            elif not lenient:
                yield SchemaChange("drop", name, before, allow=self._ignore, where=where)
            elif have is not None and (not have.nullable or has_default(have)):
                allow = f"drop the default of {to} and make it nullable, or write {name} in all of the data"
                yield SchemaChange("null", name, before, allow=allow, where=where)


def not_kept(target: str, column: str, type_: str, rows: int) -> SchemaBreak:
    """The error of a sink that checked the rows before widening a column to ``type_``."""
    found = f"{counted(rows, 'row has', 'rows have')} a value in column {column} that its new type {type_} would change"
    todo = "correct the values, or reload everything with --full-refresh"
    if type_ == str(pa.float64()):
        todo += f", or declare the column as decimal in the source, as in columns: {{{column}: 'decimal(38,9)'}}"
    return SchemaBreak(f"evolve the schema of {target}", found, f"{todo}; nothing was changed")


def _takes(target: pa.DataType, source: pa.DataType) -> bool:
    """True if the target column needs no change: it holds every source value, or refuses those it cannot hold."""
    return holds(target, source) or (target == united(target, source) == pa.float64())


def _without_native(field: pa.Field) -> dict[bytes, bytes]:
    return {k: v for k, v in (field.metadata or {}).items() if k != NATIVE}


_NAMED = "AS in source.query, options.names of a CSV file"


def _ambiguous(source: pa.Schema) -> Iterator[SchemaChange]:
    for name in ambiguous(source.names):
        first = next(f for f in source if f.name.casefold() == name.casefold())
        yield SchemaChange("case", name, first, allow=f"give {name} another name in the source ({_NAMED})")


def _case_clash(target: pa.Schema | None, source: pa.Schema) -> Iterator[SchemaChange]:
    have = {f.name.casefold(): f for f in target or ()}
    for given in source:
        there = have.get(given.name.casefold(), given)
        if there.name != given.name:
            allow = f"give {given.name} the name {there.name} in the source ({_NAMED}), or rename column {there.name}"
            yield SchemaChange("case", given.name, there, given, f"{allow} of the target to {given.name}")


def plan(
    target: pa.Schema | None,
    source: pa.Schema,
    policy: SchemaEvolution,
    stores: Callable[[pa.DataType], Stored],
    key: Sequence[str] = (),
    too_long: Callable[[str], str] = any_length,
    own_schema: bool = True,
    absent: Mapping[str, str] | None = None,
) -> Plan:
    """``SchemaComparator.compare`` in one call, as a run asks it."""
    given = (policy, stores, tuple(key), too_long, own_schema, absent or {})
    return SchemaComparator(*given).compare(target, source)


def twin(column: str) -> str:
    """Maps a column to the column its values are routed to, and back. A row has its value in one of the two."""
    return column.removeprefix(NEW_COLUMN) if column.startswith(NEW_COLUMN) else NEW_COLUMN + column
