"""What every reader of a change stream shares: offsets and settings as JSON, and the spool a window is read into.

The spool is where all changes pass on their way to the sink, so the rules of ``contract.ChangeWindow`` and of
``dpone.changes`` are kept here and nowhere else:

* A change at or below the position the window begins after was delivered again; it is dropped and counted. One above
  the window's end is an error.
* (commit, ordinal) grows within a table. A change that does not grow was delivered twice: the same content is dropped
  and counted, other content under one event id is a DataError. As everything before lies on the disk in that order,
  one look into it decides, and no list of ids is kept in memory.
* Shapes of a table are united; what cannot be united ends the window before it.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypeVar, get_args

import attrs
import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, evolve, field, frozen
from attrs.validators import (
    and_,
    deep_iterable,
    deep_mapping,
    ge,
    in_,
    instance_of,
    matches_re,
    min_len,
    not_,
    optional,
)  # fmt: skip

from dpone.changes import (
    BEFORE,
    COMMIT,
    DELETE,
    EVENT_ID,
    IDENTITY,
    INSERT,
    KEY,
    OPERATION,
    ORDINAL,
    UNCHANGED,
    UPDATE,
    batch_schema,
)  # fmt: skip
from dpone.contract import BatchStream, CDCReader, ChangeTable, Finding, Part, Stream, Window, WindowRequest
from dpone.errors import ConfigError, DataError, DponeError, SchemaBreak, SourceError, StateError
from dpone.evolution import join
from dpone.pipeline import SourceSpec
from dpone.position import Position
from dpone.schema import LINEAGE, PREFIX, Name
from dpone.strategy import CHANGES

# -- settings and offsets as JSON --------------------------------------------------------------------------------

VERSION = 1
_OF_SOURCE: Mapping[str, Any] = {"identity": True}
_text: Any = and_(instance_of(str), min_len(1))
_number: Any = and_(instance_of(int), not_(instance_of(bool)), ge(0))
_lsn: Any = matches_re(r"[0-9A-F]{1,8}/[0-9A-F]{1,8}")
_binary_lsn: Any = matches_re(r"0x[0-9A-F]{20}")


def _texts(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_names: Any = deep_iterable(_text, instance_of(tuple))
_facts: Any = deep_mapping(_text, instance_of(dict), instance_of(dict))
Truncate = Literal["apply", "fail", "ignore"]
_truncate: Any = in_(get_args(Truncate))
J = TypeVar("J", bound="_Versioned")


class _Versioned:
    """An attrs class as JSON: ``version``, ``backend``, and its fields. ``kinds`` are the classes of a family by their
    backend; ``error`` is raised for anything else."""

    backend: ClassVar[str] = ""
    what: ClassVar[str] = ""
    error: ClassVar[type[DponeError]] = DponeError
    kinds: ClassVar[dict[str, type[Any]]]

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, "backend": self.backend, **_plain(self)}

    @classmethod
    def from_json(cls: type[J], data: Any) -> J:
        """The class of the data's backend. Raises ``error``."""
        if not isinstance(data, Mapping):
            raise cls._bad(f"a JSON object is needed, found {type(data).__name__}")
        if data.get("version") != VERSION or isinstance(data.get("version"), bool):
            raise cls._bad(f"version {data.get('version')!r}, this dpone reads {VERSION}")
        kind = cls.kinds.get(str(data.get("backend")))
        if kind is None or not issubclass(kind, cls):
            known = [name for name, one in cls.kinds.items() if issubclass(one, cls)]
            raise cls._bad(f"backend {data.get('backend')!r}, known here: {', '.join(known)}")
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


def _plain(value: Any) -> dict[str, Any]:
    return {name: _json(one) for name, one in attrs.asdict(value, recurse=False).items()}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


class CDCOffset(_Versioned):
    """How far a change stream was read: resume strictly after it. Fields of the source's identity go into
    ``Position.identity``, the others into its value; nothing is lost either way."""

    what = "a change stream's offset"
    error = StateError
    kinds: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls) -> None:
        CDCOffset.kinds[cls.backend] = cls  # attrs creates the class twice; the second one stays

    def to_position(self, epoch: int = 0) -> Position:
        fields = attrs.fields(type(self))  # type: ignore[arg-type]  # every subclass is an attrs class
        mine, values = {f.name for f in fields if f.metadata.get("identity")}, _plain(self)
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


@frozen
class PostgresLogicalOffset(CDCOffset):
    """PG-17, PG-02: another system, timeline, database or slot is another stream. ``lsn``: the end of the last commit
    (``16/B374D848``); rows of one transaction share an LSN, so nothing finer could be resumed. ``tables``: the oid of
    each table of the stream, so that one that was made again is known (PG-19).

    ``commit``: the last commit read, by LSN, xid and time, or the marker that was written before a snapshot
    (``message ..``); empty before the first. ``exact``: a slot that stands anywhere before ``lsn`` gives ``commit``
    again, so that a server which does not has another history (OUT-05). Positions of earlier versions may end at a
    place in the log that nothing marks, and are not exact.

    ``outside``: what decides which changes of each table arrive (OUT-01 to OUT-04); None: not known, adopted by the
    next window. ``due``: tables whose rows are still to be read as a whole."""

    backend = "postgres_logical"
    system_identifier: str = field(validator=_text, metadata=_OF_SOURCE)
    timeline: int = field(validator=_number, metadata=_OF_SOURCE)
    database: str = field(validator=_text, metadata=_OF_SOURCE)
    slot: str = field(validator=_text, metadata=_OF_SOURCE)
    plugin: str = field(validator=_text, metadata=_OF_SOURCE)
    publication: str = field(validator=_text, metadata=_OF_SOURCE)
    lsn: str = field(validator=_lsn)
    tables: Mapping[str, int] = field(factory=dict, validator=deep_mapping(_text, _number, instance_of(dict)))
    commit: str = field(default="", validator=instance_of(str))
    exact: bool = field(default=False, validator=instance_of(bool))
    outside: Mapping[str, Any] | None = field(default=None, validator=optional(_facts))
    due: tuple[str, ...] = field(default=(), converter=_texts, validator=_names)


@frozen
class MssqlCDCOffset(CDCOffset):
    """SC-03, SC-08: ``lsn`` is the last commit LSN read whole (``0x`` and 20 hex digits); ``captures`` has the start
    LSN of each capture instance read, so that a recreated one is detected."""

    backend = "mssql_cdc"
    database_guid: str = field(validator=_text, metadata=_OF_SOURCE)
    recovery_fork: str = field(validator=_text, metadata=_OF_SOURCE)
    lsn: str = field(validator=_binary_lsn)
    captures: Mapping[str, str] = field(validator=deep_mapping(_text, _binary_lsn, instance_of(dict)))


@frozen
class MssqlChangeTrackingOffset(CDCOffset):
    """CT-05, CT-09: a version for each table, so that a slow one holds no other back. A restored database has another
    recovery fork, and its versions mean something else."""

    backend = "mssql_change_tracking"
    database_guid: str = field(validator=_text, metadata=_OF_SOURCE)
    recovery_fork: str = field(validator=_text, metadata=_OF_SOURCE)
    versions: Mapping[str, int] = field(validator=deep_mapping(_text, _number, instance_of(dict)))


class CDCConfig(_Versioned):
    """What a change stream needs at its source, as ``dpone cdc-plan`` prints it."""

    what = "the settings of a change stream"
    error = ConfigError
    kinds: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls) -> None:
        CDCConfig.kinds[cls.backend] = cls


@frozen
class PostgresLogicalConfig(CDCConfig):
    """truncate: what a TRUNCATE in the stream does (PG-12)."""

    backend = "postgres_logical"
    slot: str = field(validator=_text)
    publication: str = field(validator=_text)
    tables: tuple[str, ...] = field(converter=_texts, validator=_names)
    plugin: str = field(default="pgoutput", validator=_text)
    truncate: Truncate = field(default="fail", validator=_truncate)


@frozen
class MssqlCDCConfig(CDCConfig):
    """captures: capture instances; empty: the one of each table that fits. SQL Server refuses to truncate such tables
    (SC-15), so there is no policy for it."""

    backend = "mssql_cdc"
    tables: tuple[str, ...] = field(converter=_texts, validator=_names)
    captures: tuple[str, ...] = field(default=(), converter=_texts, validator=_names)


@frozen
class MssqlChangeTrackingConfig(CDCConfig):
    """Truncating a table at the source restarts its versions (CT-01), so there is no policy for it."""

    backend = "mssql_change_tracking"
    tables: tuple[str, ...] = field(converter=_texts, validator=_names)


# -- shapes -----------------------------------------------------------------------------------------------------


def unite(left: ChangeTable, right: ChangeTable) -> ChangeTable | None:
    """One shape for rows of both, or None. Columns keep their order; one that only one side has is nullable."""
    if left.key != right.key:
        return None
    names = [*left.values.names, *(n for n in right.values.names if n not in left.values.names)]
    fields = [_united(_field(left.values, name), _field(right.values, name)) for name in names]
    given = [f for f in fields if f is not None]
    return ChangeTable(pa.schema(given), left.key) if len(given) == len(fields) else None


def _field(schema: pa.Schema, name: str) -> pa.Field | None:
    at = schema.get_field_index(name)
    return schema.field(at) if at >= 0 else None


def _united(left: pa.Field | None, right: pa.Field | None) -> pa.Field | None:
    if left is None or right is None:
        one = left if right is None else right
        return None if one is None else one.with_nullable(True)
    if (type_ := join(left.type, right.type)) is None:
        return None
    metadata = left.metadata if left.metadata == right.metadata else None
    return pa.field(left.name, type_, left.nullable or right.nullable, metadata)


def _conformed(batch: pa.RecordBatch, shape: ChangeTable, table: ChangeTable) -> pa.RecordBatch:
    """A batch of ``shape`` as one of ``table``, which unites it with others. Columns that the shape did not have are
    marked as unchanged: the row says nothing of them."""
    schema = batch_schema(table)
    if batch.schema.equals(schema):
        return batch
    unchanged = _mask(batch, shape.values.names, table.values.names)
    columns = [unchanged if f.name == UNCHANGED else _cast(batch, f) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _mask(batch: pa.RecordBatch, had: Sequence[str], names: Sequence[str]) -> pa.StructArray:
    given = dict(zip(had, batch.column(UNCHANGED).flatten(), strict=True))
    says = pc.is_in(batch.column(OPERATION), pa.array([INSERT, UPDATE]))
    columns = [given[name].fill_null(False) if name in given else says for name in names]
    return mask_of(names, columns, batch.num_rows)


def mask_of(names: Sequence[str], columns: Sequence[pa.Array], rows: int) -> pa.StructArray:
    """The mask of unchanged columns from one array of booleans each; NULL for a row in which none is."""
    any_: pa.Array = pa.repeat(False, rows)
    for column in columns:
        any_ = pc.or_(any_, column)
    return pa.StructArray.from_arrays(columns, fields=[pa.field(n, pa.bool_()) for n in names], mask=pc.invert(any_))


def _cast(batch: pa.RecordBatch, wanted: pa.Field) -> pa.Array:
    at = batch.schema.get_field_index(wanted.name)
    return pa.nulls(batch.num_rows, wanted.type) if at < 0 else cast(batch.column(at), wanted.type, wanted.name)


def cast(column: pa.Array, type_: pa.DataType, name: str) -> pa.Array:
    """The column converted to a wider type, structs field by field, missing fields as NULL. Raises DataError."""
    if column.type == type_:
        return column
    if pa.types.is_struct(type_):
        have = dict(zip((f.name for f in column.type), column.flatten(), strict=True))
        missing = pa.nulls(len(column), pa.null())
        children = [cast(have.get(f.name, missing), f.type, f.name) for f in type_]
        return pa.StructArray.from_arrays(children, fields=list(type_), mask=column.is_null())
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), type_)
    try:
        return column.cast(type_)
    except pa.ArrowException:  # its text quotes the value, so it is not chained
        found = f"column {name} has a {column.type} value that does not fit {type_}"
        raise DataError("combine the changes of a table", found, "declare the column's type in the source") from None


# -- the spool --------------------------------------------------------------------------------------------------


@frozen
class _Block:
    """A batch on the disk. ``first``: commit and ordinal of its first row."""

    at: int
    size: int
    rows: int
    first: tuple[str, int]
    shape: ChangeTable


@define
class _Table:
    """The blocks of a table, in order. ``whole``: how many of them, which shape, and which last row stood at the last
    commit."""

    shape: ChangeTable
    blocks: list[_Block] = field(factory=list)
    last: tuple[str, int] | None = None
    filtered: int = 0
    whole: tuple[ChangeTable, int, tuple[str, int] | None, int] | None = None


OLD_KEY = PREFIX + "old_key"
_RESERVED = {*IDENTITY.names, KEY, UNCHANGED, BEFORE, OLD_KEY}


class Spool:
    """The changes of one window on the disk, in one file that no crash leaves behind. In memory is one batch, and about
    a hundred bytes for each batch written, whatever the size of a transaction.

    source  names the source in event ids: ``source/commit/ordinal``
    after   mark of the commit the window begins after; empty for the beginning
    upto    mark of the last commit of the window; None if it is known only after the read
    """

    def __init__(self, source: str, after: str = "", upto: str | None = None) -> None:
        self._source, self._after, self._upto = source, after, upto
        self._file = tempfile.TemporaryFile(prefix="dpone-cdc-")  # noqa: SIM115  # lives as long as the window
        self._end = 0
        self._tables: dict[str, _Table] = {}
        self._committed = False

    @property
    def tables(self) -> Mapping[str, ChangeTable]:
        """Of the whole transactions: those with a change, all shapes united. Sorted by name."""
        whole = {name: table.whole for name, table in sorted(self._tables.items())}
        return {name: state[0] for name, state in whole.items() if state is not None and state[1]}

    @property
    def changes(self) -> int:
        return sum(block.rows for name in self.tables for block in self._blocks(name))

    @property
    def filtered(self) -> int:
        return sum(self.filtered_of(name) for name in self._tables)

    def filtered_of(self, table: str) -> int:
        """Number of changes that were dropped because they had been delivered before."""
        state = self._tables[table].whole if table in self._tables else None
        return state[3] if state else 0

    def add(self, table: str, shape: ChangeTable, batch: pa.RecordBatch) -> bool:
        """Changes of one table in the order of their commits: ``batch_schema(shape)`` without the event id.

        False: the shape cannot be united with those before it. The window ends with the last ``commit``; nothing may
        be added any more. Raises DataError; SchemaBreak if that transaction is the first of the window.
        """
        if taken := [name for name in shape.values.names if name in _RESERVED]:
            todo = "rename the column in the source, or leave it out"
            raise DataError(f"read changes of table {table}", f"a column has the reserved name {taken[0]}", todo)
        known = self._tables.setdefault(table, _Table(shape))
        united = shape if not known.blocks else unite(known.shape, shape)
        if united is None:
            return self._end_window(table)
        batch = self._new(known, self._named(batch, shape), table)
        known.shape = united if batch.num_rows or known.blocks else known.shape
        if batch.num_rows:
            self._write(known, shape, batch)
        return True

    def _end_window(self, table: str) -> bool:
        if self._committed:
            return False
        found = f"one transaction changes table {table} with columns of two types that have no common type"
        raise SchemaBreak(
            "read a change window", found, "declare the types of the columns, or resume after the transaction"
        )

    def commit(self, tables: Collection[str] | None = None) -> None:
        """All that was added is whole transactions; or all that was added to these tables."""
        self._committed = self._committed or self._end > 0
        for table in (table for name, table in self._tables.items() if tables is None or name in tables):
            table.whole = (table.shape, len(table.blocks), table.last, table.filtered)

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """The changes of a table under its united schema, event ids filled in. May be called from several threads."""
        wanted = self.tables[table]
        for block in self._blocks(table):
            yield _conformed(self._load(block), block.shape, wanted)

    def close(self) -> None:
        self._file.close()

    def _blocks(self, table: str) -> Sequence[_Block]:
        known = self._tables[table]
        return known.blocks[: known.whole[1]] if known.whole else ()

    def _named(self, batch: pa.RecordBatch, shape: ChangeTable) -> pa.RecordBatch:
        """With event ids: a name made of commit and ordinal, so that two changes have one only if they have both."""
        source = pa.scalar(self._source)
        ordinals = batch.column(ORDINAL).cast(pa.string())
        ids = pc.binary_join_element_wise(source, batch.column(COMMIT), ordinals, "/")
        schema = batch_schema(shape)
        columns = [ids if f.name == EVENT_ID else batch.column(f.name) for f in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _new(self, known: _Table, batch: pa.RecordBatch, table: str) -> pa.RecordBatch:
        """The changes that were not delivered before."""
        commits = batch.column(COMMIT)
        if self._upto is not None and pc.any(pc.greater(commits, self._upto)).as_py():
            found = f"a change of table {table} belongs to a commit after {self._upto}, the end of the window"
            raise DataError("read a change window", found, "this is a bug in the change reader; report it")
        fresh = batch.filter(pc.greater(commits, self._after))
        known.filtered += batch.num_rows - fresh.num_rows
        if fresh.num_rows and not _grows(fresh, known.last):
            fresh = self._without_repeated(known, fresh, table)
        if fresh.num_rows:
            known.last = _mark(fresh, fresh.num_rows - 1)
        return fresh

    def _without_repeated(self, known: _Table, batch: pa.RecordBatch, table: str) -> pa.RecordBatch:
        """Row by row; only where something was delivered twice."""
        last, kept, places = known.last, [], dict[tuple[str, int], int]()
        for i in range(batch.num_rows):
            mark = _mark(batch, i)
            if last is None or mark > last:
                last, places[mark] = mark, i
                kept.append(i)
                continue
            before = _row(batch, places[mark]) if mark in places else self._find(known, mark)
            _require_same(_row(batch, i), before, table)
            known.filtered += 1
        return batch.take(pa.array(kept, pa.int64()))

    def _find(self, known: _Table, mark: tuple[str, int]) -> Mapping[str, Any] | None:
        """The row of a commit and ordinal that is on the disk."""
        at = bisect_right(known.blocks, mark, key=lambda block: block.first) - 1
        if at < 0:
            return None
        batch = self._load(known.blocks[at])
        same = pc.and_(pc.equal(batch.column(COMMIT), mark[0]), pc.equal(batch.column(ORDINAL), mark[1]))
        at = pc.index(same, True).as_py()
        return _row(batch, at) if at >= 0 else None

    def _write(self, known: _Table, shape: ChangeTable, batch: pa.RecordBatch) -> None:
        data = batch.serialize()
        try:
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            todo = f"free space in {tempfile.gettempdir()}, or set TMPDIR to another folder"
            raise SourceError("spool a change window", error.strerror or "the disk write failed", todo) from error
        known.blocks.append(_Block(self._end, data.size, batch.num_rows, _mark(batch, 0), shape))
        self._end += data.size

    def _load(self, block: _Block) -> pa.RecordBatch:
        data = os.pread(self._file.fileno(), block.size, block.at)
        return pa.ipc.read_record_batch(pa.py_buffer(data), batch_schema(block.shape))


def _mark(batch: pa.RecordBatch, i: int) -> tuple[str, int]:
    return batch.column(COMMIT)[i].as_py(), batch.column(ORDINAL)[i].as_py()


def _grows(batch: pa.RecordBatch, last: tuple[str, int] | None) -> bool:
    """True if (commit, ordinal) grows from row to row, and above ``last``."""
    if last is not None and _mark(batch, 0) <= last:
        return False
    n = batch.num_rows - 1
    commits, ordinals = batch.column(COMMIT), batch.column(ORDINAL)
    later = pc.greater(commits.slice(1), commits.slice(0, n))
    within = pc.and_(
        pc.equal(commits.slice(1), commits.slice(0, n)), pc.greater(ordinals.slice(1), ordinals.slice(0, n))
    )
    return bool(n == 0 or pc.all(pc.or_(later, within)).as_py())


_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}


def _row(batch: pa.RecordBatch, i: int) -> dict[str, Any]:
    """A row as values to compare: each is equal to itself, and Python can hold each."""
    return {name: _comparable(batch.column(name)[i]) for name in batch.schema.names}


def _comparable(value: pa.Scalar) -> Any:
    """Times as a count: Python's datetime ends with the year 9999 and has no nanoseconds."""
    type_ = value.type
    if not value.is_valid:
        return None
    if pa.types.is_timestamp(type_) or pa.types.is_time(type_) or pa.types.is_duration(type_):
        return value.value * _NANOSECONDS[type_.unit]
    if pa.types.is_date(type_):
        return value.value * (_NANOSECONDS["ms"] if pa.types.is_date64(type_) else 86_400 * 10**9)
    if isinstance(value, pa.ExtensionScalar):
        return _comparable(value.value)
    if isinstance(value, pa.StructScalar):
        return {name: _comparable(member) for name, member in value.items()}
    if isinstance(value, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return [_comparable(one) for one in value.values]
    plain = value.as_py()
    return "NaN" if plain != plain else plain


def _require_same(row: Mapping[str, Any], before: Mapping[str, Any] | None, table: str) -> None:
    failed = f"read changes of table {table}"
    if before is None:
        found = f"change {row[EVENT_ID]} comes after a later one"
        raise DataError(failed, found, "check that the log is in commit order")
    columns = {*row, *before}
    if any(_given(row, c) != _given(before, c) for c in columns):
        found = f"event {row[EVENT_ID]} was delivered twice, with different content"
        raise DataError(
            failed, found, "check the program that writes the log: commit and ordinal must identify one change"
        )


def _given(row: Mapping[str, Any], column: str) -> Any:
    """A value as compared: structs without what they lack, so that the shape of the batch does not matter."""
    value = row.get(column)
    if isinstance(value, Mapping):
        left_out = (None, False) if column == UNCHANGED else (None,)
        value = {k: v for k, v in value.items() if not any(v is one for one in left_out)} or None
    return value


# -- a change stream as a source --------------------------------------------------------------------------------


def history_schema(table: ChangeTable) -> pa.Schema:
    """The columns that ``append`` stores for a change: its identity, the table's columns, the names of the columns that
    the log left out, separated by commas, and the key before an update that changed it, as a JSON object."""
    values = [f.with_nullable(True) for f in table.values]
    return pa.schema([*IDENTITY, *values, pa.field(UNCHANGED, pa.string()), pa.field(OLD_KEY, pa.string())])


def _history(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    keys = dict(zip((f.name for f in batch.schema.field(KEY).type), batch.column(KEY).flatten(), strict=True))
    deleted = pc.equal(batch.column(OPERATION), DELETE)
    columns = []
    for f in schema:
        if f.name == OLD_KEY:
            columns.append(_old_keys(batch, keys))
            continue
        column = batch.column(f.name)
        if f.name == UNCHANGED:
            column = _names_of(column)
        elif f.name in keys:  # a delete has no values; its key says which row it was
            column = either(deleted, keys[f.name], column)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def either(first: pa.Array, left: pa.Array, right: pa.Array) -> pa.Array:
    """``left`` where ``first`` is true, else ``right``. Kernels know no extension types (uuid): their storage is
    chosen, and the type put back."""
    return pc.if_else(first, _plain_of(left), _plain_of(right)).cast(right.type)


def _old_keys(batch: pa.RecordBatch, keys: Mapping[str, pa.Array]) -> pa.Array:
    """Of updates that changed a column of their key; they are few, so that each is made for itself."""
    updates = pc.and_(pc.equal(batch.column(OPERATION), UPDATE), batch.column(KEY).is_valid())
    moved: pa.Array = pa.repeat(False, batch.num_rows)
    for name, old in keys.items():
        new = batch.column(name)
        other = pc.coalesce(pc.not_equal(_plain_of(old), _plain_of(new)), pc.not_equal(old.is_null(), new.is_null()))
        kept = pc.struct_field(batch.column(UNCHANGED), name).fill_null(False)
        moved = pc.or_(moved, pc.and_(updates, pc.and_not(other, kept)))
    rows = pc.indices_nonzero(moved)
    texts: list[str | None] = [None] * batch.num_rows
    for i, key in zip(rows.to_pylist(), batch.column(KEY).take(rows), strict=True):
        texts[i] = json.dumps({name: _value(one) for name, one in key.items()}, default=_told, ensure_ascii=False)
    return pa.array(texts, pa.string())


def _value(scalar: pa.Scalar) -> Any:
    """As Python has it; a time that Python cannot hold, in Arrow's text. Raises DataError for one that has none."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):  # nanoseconds, or a year after 9999
        zone = getattr(scalar.type, "tz", None)
        text = str((scalar.cast(pa.timestamp(scalar.type.unit)) if zone else scalar).cast(pa.string()).as_py())
    if text.startswith("<value out of range"):  # a year beyond 32767 (pyarrow 26)
        raise DataError(
            "keep the old key of an update",
            f"a {scalar.type} value of the key cannot be written as text",
            "fix the source",
        )
    return f"{text}+00:00" if zone else text


def _told(value: Any) -> str:
    """What JSON has no word for: bytes in base64, anything else as it is written."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _plain_of(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def _names_of(mask: pa.StructArray) -> pa.Array:
    """``note,photo``; NULL where the log gave every value."""
    if mask.null_count == len(mask):
        return pa.nulls(len(mask), pa.string())
    pairs = zip(mask.type, mask.flatten(), strict=True)
    # No NULL among the parts: with null_handling="skip" pyarrow 26 leaves rows of nothing but NULL out of the answer.
    names = [pc.if_else(column.fill_null(False), f"{f.name},", "") for f, column in pairs]
    joined = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*names, ""), 0, -1)
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)


class ChangeStream:
    """A CDCReader as the engine's Source. Its window has a part for each table that changed; ``tables`` says what each
    holds. A single table is the one the source names, or the only one there is."""

    def __init__(self, spec: SourceSpec, reader: CDCReader) -> None:
        self._spec, self._reader = spec, reader
        self._changed: Mapping[str, ChangeTable] = {}
        self._fresh: frozenset[str] = frozenset()
        self._history: bool  # what the latest window is read as

    def check(self) -> list[Finding]:
        return self._reader.check()

    def tables(self, pattern: str) -> list[str]:
        """Those that changed in the latest window: a change stream is not asked for a list."""
        return list(self._changed)

    def schema(self) -> pa.Schema:
        return pa.schema([])

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        incremental = self._spec.options.incremental
        # A full refresh replaces the tables it meets: what it left for later would be added to the rows of before.
        changes = self._reader.window(after, None if request.whole else incremental.limit)
        wanted = {name: table for name, table in changes.tables.items() if not self._spec.excludes(Name.parse(name))}
        self._changed = {name: _without_lineage(table) for name, table in wanted.items()}
        self._history = request.mode not in CHANGES
        self._fresh = changes.fresh
        parts = tuple(map(Part, wanted))
        whole = request.whole or changes.whole
        return Window(
            changes.position, parts, True, pa.schema([]), whole, changes.caught_up, changes.proof, changes.warnings,
            changes.own_schema,
        )  # fmt: skip

    def require_one(self) -> None:
        if len(self._changed) > 1:
            found = f"the log has changes of {', '.join(self._changed)}"
            todo = "set source.table to one of them, or use a glob there and {table} in the sink's table"
            raise ConfigError(f"read {self._spec.location}", found, todo)

    def bare(self, table: str) -> bool:
        """Nothing but its name is known: it was truncated, and no change of a row was ever seen."""
        return not self._changed[table].values.names and not self._history

    def require_kind(self, have: pa.Schema | None, target: str, loaded: bool) -> None:
        """Refuse to load changes into a table of rows, or rows into a table of changes. ``have``: the target's columns;
        ``loaded``: this stream has loaded the table before. Raises SchemaBreak."""
        if have is None or self._history == (EVENT_ID in have.names):
            return
        todo = "keep the strategy that filled the table, or load into another table; nothing was changed"
        if not self._history:
            found = "the table holds a history of changes, written by append"
            raise SchemaBreak(f"load changes into {target}", found, todo)
        if loaded:
            raise SchemaBreak(f"append changes to {target}", "the table holds current rows, written by cdc_apply", todo)

    def share(self, window: Window, table: str) -> Window:
        """The part of the window that is one table's, under the schema of the rows it brings to the target."""
        changed = self._changed[table]
        schema = history_schema(changed) if self._history else changed.values
        parts = tuple(p for p in window.parts if p.id == table)
        return evolve(window, parts=parts, schema=schema, whole=window.whole or table in self._fresh)

    def key(self, table: str, stated: tuple[str, ...]) -> tuple[str, ...]:
        """The key that identifies rows. Raises ConfigError if there is none, or if it differs from the log's."""
        key = self._changed[table].key
        if not key and not stated:
            todo = "give the table a key in the source and reload it ('dpone cdc resync' or --full-refresh), "
            todo += "set strategy.key, or use strategy append"
            raise ConfigError(f"apply changes of {table}", "the log has no key for it", todo)
        if key and stated and {*key} != {*stated}:
            found = f"strategy.key is {', '.join(stated)}, but the key in the log is {', '.join(key)}"
            raise ConfigError(f"apply changes of {table}", found, "remove strategy.key")
        return key or stated

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        with self._reader.read(part.id) as stream:
            if self._history:
                yield _Shaped(stream, history_schema(self._changed[part.id]), _history)
            else:
                yield _Shaped(stream, batch_schema(self._changed[part.id]), _with_keys)

    def ack(self, position: Position) -> None:
        self._reader.ack(position)

    def close(self) -> None:
        self._reader.close()


class _Shaped(BatchStream):
    """A stream whose batches go through ``shape``."""

    def __init__(self, stream: Stream, schema: pa.Schema, shape: Any) -> None:
        self._stream, self.schema, self._shape = stream, schema, shape

    @property
    def filtered(self) -> int:
        return self._stream.filtered

    @property
    def quarantined(self) -> int:
        return self._stream.quarantined

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._stream.batches():
            yield self._shape(batch, self.schema)


def _with_keys(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """PG-10: an update or delete without a key is an error, never skipped."""
    meets = pc.is_in(batch.column(OPERATION), pa.array([UPDATE, DELETE]))
    lost = pc.and_(meets, batch.column(KEY).is_null())
    if pc.any(lost).as_py():
        event = batch.filter(lost).column(EVENT_ID)[0].as_py()
        todo = "make the source log the key (PostgreSQL: a primary key or REPLICA IDENTITY), or use strategy append"
        raise DataError("apply changes", f"event {event} updates or deletes a row without its key", todo)
    if batch.schema.equals(schema):
        return batch
    return pa.RecordBatch.from_arrays([_cast(batch, f) for f in schema], schema=schema)


def _without_lineage(table: ChangeTable) -> ChangeTable:
    """Drops lineage columns of the source: they describe an earlier load, and each target gets its own."""
    return evolve(table, values=pa.schema([f for f in table.values if f.name not in LINEAGE]))


def renamed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A change batch whose table's columns have other names in the target, in the structs as well."""
    if batch.schema.equals(schema):
        return batch
    columns = []
    for f, column in zip(schema, batch.columns, strict=True):
        if f.name == KEY and len(column.type) == 0:  # the log names no key: the pipeline does
            column = pa.nulls(len(column), f.type)
        elif f.name in (KEY, UNCHANGED, BEFORE):
            column = pa.StructArray.from_arrays(column.flatten(), fields=list(f.type), mask=column.is_null())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)
