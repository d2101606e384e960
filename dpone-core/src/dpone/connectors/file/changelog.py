"""A change log: JSON Lines with one change or one commit per line. docs/guide/cdc-runtime.md describes the format.

A transaction counts once its commit line is there. A tail without a commit line, or a line that is cut off, is not read
yet.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, evolve, field, frozen

from dpone.cdc.batch import either, mask_of
from dpone.cdc.spool import Spool
from dpone.connectors.file.config import FileSourceOptions
from dpone.contract import (
    BatchStream,
    CDCStatus,
    ChangeWindow,
    Finding,
    Stream,
)
from dpone.errors import DataError, DponeError, Gap, IdentityChanged, SchemaBreak, SourceError, counted
from dpone.formats.input import Input
from dpone.formats.jsonl import (
    batch_of,
    column_of,
    members,
    seen_in,
    seen_in_lines,
    settled,
)  # fmt: skip
from dpone.formats.text import check_names, united
from dpone.formats.types import BadValue, SeenValues, declared
from dpone.model.changes import (
    BEFORE,
    COMMIT,
    COMMITTED_AT,
    DELETE,
    EVENT_ID,
    INSERT,
    KEY,
    OPERATION,
    OPERATIONS,
    ORDINAL,
    TRUNCATE,
    UNCHANGED,
    UPDATE,
    ChangeTable,
    batch_schema,
)
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.types import (
    JSON,
    UUID,
    arrow,
    first_longer,
    limit_of,
    limited,
    named,
)

KIND = "file_changelog"
_KEYS = dict.fromkeys(("table", "op", "commit", "at", "key", "values", "unchanged", "before"))
_KEYS_OF_COMMIT = dict.fromkeys(("op", "commit", "at"))
_OBJECT = (dict, type(None))

_COUNTED = 1 << 24  # bytes of a log whose changes are counted for a status

_PARTS = ("values", "key", "before")  # the objects of a change, whose members are columns


@define
class _Rows:
    """Changes of one table from one block of lines. ``raw``: the lines, whose values pyarrow reads; ``given``: the
    columns that each line names; ``transaction``: the number of its transaction in the block. ``columns`` and
    ``unchanged``: all names that occur."""

    raw: list[bytes] = field(factory=list)
    lines: list[int] = field(factory=list)
    ops: list[str] = field(factory=list)
    commits: list[str] = field(factory=list)
    ordinals: list[int] = field(factory=list)
    times: list[str | None] = field(factory=list)
    given: list[frozenset[str]] = field(factory=list)
    keyed: list[bool] = field(factory=list)
    before: list[bool] = field(factory=list)
    transaction: list[int] = field(factory=list)
    columns: set[str] = field(factory=set)
    unchanged: set[str] = field(factory=set)
    shapes: dict[Any, frozenset[str]] = field(
        factory=dict
    )  # seen so far: most lines name the same columns as an earlier one

    def lines_of(self, first: int, end: int | None) -> list[bytes]:
        """The lines of the transactions ``first`` to ``end``."""
        high = len(self.transaction) if end is None else bisect_left(self.transaction, end)
        return self.raw[bisect_left(self.transaction, first) : high]


@frozen
class _Commit:
    """A commit line: where it ends, the number of changes of the window up to it, and its line number in the log."""

    mark: str
    end: int
    changes: int
    lines: int


@define
class _Block:
    """Parsed lines: their changes by table, in order, and the commits among them."""

    tables: dict[str, _Rows] = field(factory=dict)
    commits: list[_Commit] = field(factory=list)
    clash: int | None = None  # the transaction of the block with another key than the table had


@define
class _Parser:
    """Turns lines into changes. Knows the open transaction, and the key of every table so far."""

    log: _Log
    wanted: str | None
    line: int
    keys: dict[str, tuple[str, ...]] = field(factory=dict)
    open: str | None = None
    ordinal: int = 0
    changes: int = 0
    reads: dict[str, bool] = field(factory=dict)  # whether a table is wanted

    def block(self, data: bytes, at: int) -> _Block:
        block = _Block()
        for raw in data.split(b"\n")[:-1]:
            self.line += 1
            at += len(raw) + 1
            if raw.strip():
                self._line(raw, at, block)
        return block

    def _line(self, raw: bytes, end: int, block: _Block) -> None:
        try:
            row = _decoded(raw.decode())
        except RecursionError:
            raise self._bad("is nested too deeply", "flatten the value, or write it as a string") from None
        except ValueError as error:
            found = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not a JSON object, or has a key twice"
            raise self._bad(f"is {found}", "write one JSON object per line") from None
        if not isinstance(row, dict):
            raise self._bad("is JSON, but not an object", "write one JSON object per line")
        if (b"\\ud" in raw or b"\\uD" in raw) and not _are_text(row):
            raise self._bad(
                "has a table name, key or commit that is not valid Unicode", "fix the escape, as in \\ud83d\\ude00"
            )
        self._check(row)
        if row["op"] == "commit":
            block.commits.append(_Commit(row["commit"], end, self.changes, self.line))
            self.open, self.ordinal = None, 0
            return
        self.open = row["commit"]
        self.ordinal += 1
        if self._reads(row["table"]):
            self.changes += 1
            self._change(row, raw, block)

    def _reads(self, table: str) -> bool:
        if (reads := self.reads.get(table)) is None:
            reads = self.reads[table] = self.wanted is None or fnmatch.fnmatchcase(table, self.wanted)
        return reads

    def _check(self, row: Mapping[str, Any]) -> None:
        op, commit = row.get("op"), row.get("commit")
        if not isinstance(commit, str) or not commit:
            raise self._bad("has no commit", 'write "commit": the id of its transaction, as a string')
        if self.open is not None and commit != self.open:
            todo = 'end it with {"op": "commit", "commit": ...} first'
            raise self._bad(f"belongs to commit {commit}, but transaction {self.open} is still open", todo)
        known = _KEYS_OF_COMMIT if op == "commit" else _KEYS
        if not row.keys() <= known.keys():
            unknown = [key for key in row if key not in known]
            raise self._bad(f"has an unknown key {unknown[0]!r}", f"use {', '.join(known)}")
        if op == "commit":
            return
        if op not in OPERATIONS:
            raise self._bad("has no known 'op'", f'write "op": {", ".join(OPERATIONS)} or commit')
        if not isinstance(row.get("table"), str) or not row["table"]:
            raise self._bad("has no table", 'write "table": "name"')
        for key in ("key", "values", "before"):
            if not isinstance(row.get(key), _OBJECT):
                raise self._bad(f"has a '{key}' that is not an object", f'write "{key}": {{"column": value}}')
        if not _are_left_out(row.get("unchanged"), row.get("values") or ()):
            raise self._bad(
                "has an 'unchanged' that is not a list, or lists a column with a value", 'write "unchanged": ["column"]'
            )
        if op in (INSERT, UPDATE) and not isinstance(row.get("values"), dict):
            raise self._bad(f"is an {op} without 'values'", 'write "values": {"column": value}')
        if op in (DELETE, TRUNCATE) and row.get("values"):
            raise self._bad(f"is a {op} with 'values'", "remove 'values'; write the old row in 'key' and 'before'")

    def _change(self, row: Mapping[str, Any], raw: bytes, block: _Block) -> None:
        table, op = row["table"], row["op"]
        values, key, before = row.get("values") or {}, row.get("key") or {}, row.get("before")
        rows = block.tables.get(table) or block.tables.setdefault(table, _Rows())
        if key:
            self._key(table, tuple(key), block)
        rows.raw.append(raw)
        rows.lines.append(self.line)
        rows.ops.append(op)
        rows.commits.append(row["commit"])
        rows.ordinals.append(self.ordinal)
        rows.times.append(row.get("at"))
        rows.given.append(self._given(rows, values, key, before or (), row.get("unchanged") or ()))
        rows.keyed.append(bool(key) and op in (UPDATE, DELETE))
        rows.before.append(before is not None)
        rows.transaction.append(len(block.commits))

    def _given(self, rows: _Rows, values: Iterable[str], *others: Iterable[str]) -> frozenset[str]:
        shape = (tuple(values), *map(tuple, others))
        if (given := rows.shapes.get(shape)) is None:
            given = rows.shapes[shape] = frozenset(values)
            rows.columns.update(*shape)
            rows.unchanged.update(shape[-1])
        return given

    def _key(self, table: str, key: tuple[str, ...], block: _Block) -> None:
        known = self.keys.setdefault(table, key)
        if known != key and {*known} != {*key} and block.clash is None:
            block.clash = len(block.commits)

    def _bad(self, found: str, todo: str) -> DataError:
        return self.log.input.bad(f"line {self.line} {found}", todo)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a duplicate key")
    return made


def _are_text(row: Mapping[str, Any]) -> bool:
    """False if a name, a commit or a table has half a surrogate pair: no system could have such a name."""
    objects = (one for one in row.values() if isinstance(one, Mapping | list))
    texts = (one for one in row.values() if isinstance(one, str))
    names = [name for each in (row, texts, *objects) for name in each if isinstance(name, str)]
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_left_out(names: Any, given: Container[str]) -> bool:
    if names is None:
        return True
    return isinstance(names, list) and all(isinstance(name, str) and name not in given for name in names)


_decoder = json.JSONDecoder(object_pairs_hook=_object)


def _decoded(text: str) -> Any:
    """As ``json.loads``, which strips white space by a slower way."""
    text = text.strip(" \t\r\n")
    value, end = _decoder.raw_decode(text)
    if end != len(text):
        raise ValueError("more than one value")
    return value


@frozen
class _Log:
    """The file, read in blocks of whole lines."""

    path: Path
    label: str
    block_bytes: int

    @property
    def input(self) -> Input:
        return Input.at(self.path, self.label)

    def size(self) -> int:
        with self.input.failing():
            return self.path.stat().st_size

    def digest(self, end: int) -> Any:
        """SHA-256 of the first ``end`` bytes, as an object that can be updated."""
        sha256, left = hashlib.sha256(), end
        with self.input.failing(), self.path.open("rb") as file:
            while left and (data := file.read(min(1 << 20, left))):
                sha256.update(data)
                left -= len(data)
        return sha256

    def blocks(self, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Whole lines from ``start`` up to ``end``, and where they begin; what follows the last newline is left out."""
        at, rest = start, b""
        with self.input.failing(), self.path.open("rb") as file:
            file.seek(start)
            while left := end - at - len(rest):
                data = file.read(min(self.block_bytes, left))
                if not data:
                    break
                whole, newline, tail = (rest + data).rpartition(b"\n")
                if newline:
                    yield whole + newline, at
                    at += len(whole) + 1
                rest = tail
                if len(rest) > 1 << 26:
                    raise self.input.bad(
                        f"the line at byte {at} is longer than {1 << 26:,} bytes", "write shorter lines"
                    )


@frozen
class _After:
    """Where a window begins: the bytes, lines and commit before it, and the columns of each table so far."""

    offset: int = 0
    commit: str = ""
    lines: int = 0
    tables: Mapping[str, ChangeTable] = field(factory=dict)


@define
class _Survey:
    """The result of the first pass: where the window ends, and what the columns of each table hold. ``mark``: the
    highest commit; ``begun``: the window has a transaction."""

    end: int
    mark: str
    lines: int
    changes: int = 0
    begun: bool = False
    seen: dict[str, dict[str, SeenValues]] = field(factory=dict)
    keys: dict[str, tuple[str, ...]] = field(factory=dict)

    def take(self, seen: Mapping[str, dict[str, SeenValues]], commits: Sequence[_Commit]) -> None:
        """Add transactions and what they hold. One that was delivered again has a lower mark than those before it."""
        self.seen, self.begun, last = _joined(self.seen, seen), True, commits[-1]
        self.end, self.lines, self.changes = last.end, last.lines, last.changes
        self.mark = max(self.mark, *(commit.mark for commit in commits))


@frozen
class _Tail:
    """So many changes follow the byte ``offset`` in a log of ``size`` bytes."""

    size: int
    offset: int
    changes: int


class FileChangeLog:
    """``contract.CDCReader`` over a change log. The position holds how far it was read, the digest of all bytes before,
    the last commit, and the columns of each table."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        options = spec.options if isinstance(spec.options, FileSourceOptions) else FileSourceOptions()
        self._label = spec.path or ""
        self._log = _Log(spec.base / os.path.expanduser(self._label), self._label, options.block_bytes)
        self._words, self._declared = options.columns, declared(options.columns)
        self._wanted = str(spec.table) if spec.table else None
        self._spool: Spool | None = None
        self._tail: _Tail | None = None

    def check(self) -> list[Finding]:
        try:
            survey = self._survey(0, "", 0, self._log.size(), None)
        except DponeError as error:
            return [Finding("change log", False, error.found, error.todo)]
        tables = ", ".join(survey.seen) or "no table"
        found = f"{counted(survey.changes, 'change')} of {tables} up to commit {survey.mark or '-'}"
        return [Finding("change log", True, found)]

    def setup_plan(self) -> list[str]:
        """Nothing: the program that writes the log creates it."""
        return []

    def create(self) -> Position:
        """The beginning of the log."""
        return self._position(_Survey(0, "", 0), hashlib.sha256(), {}, 0)

    def window(self, after: Position | None, limit: int | None) -> ChangeWindow:
        before, sha256 = self._resume(after)
        size = self._log.size()
        survey = self._survey(before.offset, before.commit, before.lines, size, limit)
        self.close()
        self._spool = spool = Spool(f"{KIND}:{self._label}", before.commit, survey.mark)
        tables = {name: self._table(name, survey, before.tables.get(name)) for name in survey.seen}
        self._fill(spool, survey, before, tables, sha256)
        position = self._position(survey, sha256, {**before.tables, **tables}, after.epoch if after else 0)
        left = size - survey.end
        proof = f"{self._label}: read up to commit {survey.mark or '-'}, byte {survey.end} of {size}"
        if spool.filtered:
            proof += f"; skipped {counted(spool.filtered, 'change')} delivered before"
        marks, there = (before.commit, survey.mark), spool.tables
        return ChangeWindow(position, marks, there, left == 0, proof, spool.changes, own_schema=False)

    @contextmanager
    def read(self, table: str) -> Iterator[Stream]:
        assert self._spool is not None, "window comes first"
        yield _TableStream(self._spool, table)

    def ack(self, position: Position) -> None:
        """The log is left as it is. It must not be shortened: the position has the digest of all bytes before it."""

    def lag(self) -> Mapping[str, Any]:
        """A file does not record what was read, so this is the size of the whole log."""
        return {"log_bytes": self._log.size()}

    def status(self, position: Position | None) -> CDCStatus:
        """Does not compare the digest of what was loaded, which takes a second for each gigabyte: ``window`` does."""
        offset = 0 if position is None else position.value.get("offset", 0)
        at, end, size = f"byte {offset}", "", 0
        try:
            if position is not None:
                self._require_own(position)
                self._require_there(offset)
            size = self._log.size()
            end, found = f"byte {size}", Finding("log", True, f"{self._label} has {counted(size, 'byte')}")
        except DponeError as error:
            found = Finding("log", False, error.found, error.todo)
        behind = max(size - offset, 0) if found.ok else None
        place, changes = offset if found.ok else None, None
        if behind is not None and behind <= _COUNTED:
            with suppress(DponeError):  # what is wrong with a line, a run says
                changes = self._changes({"offset": 0} if position is None else position.value, size)
        seconds = 0.0 if behind == 0 else None
        return CDCStatus(at, end, place, behind, seconds, changes, findings=(found,))

    def _changes(self, after: Mapping[str, Any], size: int) -> int:
        """How many changes follow a position. A plan asks for many positions, newest first: what follows the one that
        was asked before is not read again."""
        offset, end, counted_before = after["offset"], size, 0
        if self._tail is not None and self._tail.size == size and offset <= self._tail.offset:
            end, counted_before = self._tail.offset, self._tail.changes
        survey = self._survey(offset, after.get("commit", ""), after.get("lines", 0), end, None)
        self._tail = _Tail(size, offset, counted_before + survey.changes)
        return self._tail.changes

    def drop(self) -> list[str]:
        """Nothing was created, so nothing is dropped."""
        return [f"kept {self._log.label}: a change log is not dpone's to remove"]

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    # -- where the window begins --------------------------------------------------------------------------------

    def _resume(self, after: Position | None) -> tuple[_After, Any]:
        """Where to continue, and the digest of all bytes before that place."""
        if after is None:
            return _After(), hashlib.sha256()
        self._require_own(after)
        value = after.value
        self._require_there(value["offset"])
        sha256 = self._log.digest(value["offset"])
        if sha256.hexdigest() != value["sha256"]:
            found = "the part that was loaded has changed since: the log was rewritten or replaced"
            raise IdentityChanged(f"resume {self._label}", found, "restore the log, or use --full-refresh")
        tables = {name: _table_from(table) for name, table in value["tables"].items()}
        return _After(value["offset"], value["commit"], value["lines"], tables), sha256

    def _require_own(self, position: Position) -> None:
        if position.kind != KIND or position.identity != {"path": self._label}:
            found = f"the position belongs to {position.kind} {dict(position.identity)}"
            raise IdentityChanged(f"resume {self._label}", found, "restore the path, or start over with --full-refresh")

    def _require_there(self, offset: int) -> None:
        todo = "restore the log, or use --full-refresh"
        try:
            size = self._log.path.stat().st_size
        except FileNotFoundError as error:
            raise Gap(
                f"resume {self._label}", f"the log is missing, but {counted(offset, 'byte')} of it were loaded", todo
            ) from error
        if size < offset:
            raise Gap(
                f"resume {self._label}",
                f"the log has {counted(size, 'byte')}, but {offset:,} were loaded: it was truncated",
                todo,
            )

    def _position(self, survey: _Survey, sha256: Any, tables: Mapping[str, ChangeTable], epoch: int) -> Position:
        value = {
            "offset": survey.end,
            "sha256": sha256.hexdigest(),
            "commit": survey.mark,
            "lines": survey.lines,
            "tables": {name: _table_json(table) for name, table in tables.items()},
        }
        return Position(KIND, {"path": self._label}, value, epoch)

    # -- first pass: where it ends, and the types ---------------------------------------------------------------

    def _survey(self, start: int, mark: str, lines: int, size: int, limit: int | None) -> _Survey:
        parser, survey = _Parser(self._log, self._wanted, lines), _Survey(start, mark, lines)
        unended: dict[str, dict[str, SeenValues]] = {}  # of a transaction whose commit line is in a later block
        for data, at in self._log.blocks(start, size):
            block = parser.block(data, at)
            commits, over = self._cut(block, survey, limit)
            if commits:
                survey.take(_joined(unended, _seen(block, 0, len(commits))), commits)
                unended = {}
            if over:
                break
            unended = _joined(unended, _seen(block, len(commits), None))
        survey.keys = parser.keys
        return survey

    def _cut(self, block: _Block, survey: _Survey, limit: int | None) -> tuple[list[_Commit], bool]:
        """The commits of the block that belong to the window, and whether it is over with the last of them."""
        commits, over = block.commits, False
        if block.clash is not None and block.clash < len(commits):
            commits, over = commits[: block.clash], True
            if not commits and not survey.begun:
                found = f"commit {block.commits[0].mark} uses different key columns for one table"
                todo = "use the same key columns for all changes of a table in a transaction"
                raise SchemaBreak(f"read {self._label}", found, todo)
        reached = [i for i, c in enumerate(commits) if limit is not None and c.changes >= limit]
        return (commits[: reached[0] + 1], True) if reached else (commits, over)

    def _table(self, name: str, survey: _Survey, before: ChangeTable | None) -> ChangeTable:
        """Columns as declared, else as they were before if the values fit, else as inferred."""
        seen, expected = survey.seen[name], before.values if before else None
        if expected is not None:
            seen = united([_without_value(expected.names), seen])
        check_names(self._log.input, list(seen), "column")
        full = {column: one for column in seen for one in (column, f"{name}.{column}") if one in self._declared}
        made = settled(seen, {column: self._declared[one] for column, one in full.items()}, expected)
        made = pa.schema([limited(f, self._words[full[f.name]]) if f.name in full else f for f in made])
        return ChangeTable(made, survey.keys.get(name, before.key if before else ()))

    # -- second pass: the changes -------------------------------------------------------------------------------

    def _fill(
        self, spool: Spool, survey: _Survey, after: _After, tables: Mapping[str, ChangeTable], sha256: Any
    ) -> None:
        parser, begun, end = _Parser(self._log, self._wanted, after.lines), set[str](), after.offset
        for data, at in self._log.blocks(after.offset, survey.end):
            sha256.update(data)
            end = at + len(data)
            for name, rows in parser.block(data, at).tables.items():
                shape = tables[name]
                if name in begun:  # later blocks have only the columns that they name; the spool unites the shapes
                    named = rows.columns | {*shape.key}
                    shape = evolve(shape, values=pa.schema([f for f in shape.values if f.name in named]))
                begun.add(name)
                spool.add(name, shape, self._batch(rows, shape))
        if end != survey.end or parser.open is not None:
            todo = "only append to the log, and run again"
            raise SourceError(f"read {self._label}", "the log was changed while it was read", todo)
        spool.commit()

    def _batch(self, rows: _Rows, shape: ChangeTable) -> pa.RecordBatch:
        """Without event ids, which the spool adds."""
        fields = [f.with_nullable(True) for f in shape.values]
        key = [f for f in fields if f.name in shape.key]
        values, keys, before = self._columns(rows, {"values": fields, "key": key, "before": fields})
        for one, array in zip(fields, values, strict=True):
            if (most := limit_of(one)) is not None and (row := first_longer(array, most)) >= 0:
                found = f"line {rows.lines[row]}, column {one.name!r} has more than {most} characters"
                todo = f"declare a longer type, or one without a limit, as in columns: {{{one.name}: string}}"
                raise self._log.input.bad(found, todo)
        columns = {
            OPERATION: pa.array(rows.ops, pa.string()),
            COMMIT: pa.array(rows.commits, pa.string()),
            ORDINAL: pa.array(rows.ordinals, pa.int64()),
            COMMITTED_AT: self._times(rows),
            KEY: _struct(keys, key, rows.keyed),
            UNCHANGED: _mask(rows, shape),
            BEFORE: _struct(before, fields, rows.before),
            **dict(zip(shape.values.names, _with_key(rows, values, keys, shape), strict=True)),
        }
        schema = pa.schema([f for f in batch_schema(shape) if f.name != EVENT_ID])
        return pa.RecordBatch.from_arrays([columns[f.name] for f in schema], schema=schema)

    def _times(self, rows: _Rows) -> pa.Array:
        for i, text in enumerate(rows.times):
            if text is not None and not _is_time(text):
                found = f"line {rows.lines[i]} has an 'at' that is not a timestamp with a time zone"
                raise self._log.input.bad(found, "write it as in 2026-01-31T12:00:00Z")
        times = [None if text is None else datetime.fromisoformat(text).astimezone(UTC) for text in rows.times]
        return pa.array(times, pa.timestamp("us", "UTC"))

    def _columns(self, rows: _Rows, parts: Mapping[str, list[pa.Field]]) -> list[list[pa.Array]]:
        """The columns of each object of the lines; a member that a line lacks is NULL."""
        structs = [(name, pa.struct(fields)) for name, fields in parts.items() if fields]
        batch = batch_of(b"\n".join(rows.raw), pa.schema(structs))
        if batch is not None:
            return [batch.column(name).flatten() if fields else [] for name, fields in parts.items()]
        lines = [_objects(raw) for raw in rows.raw]
        return [
            [self._column(rows, [line.get(name, {}).get(f.name) for line in lines], f) for f in fields]
            for name, fields in parts.items()
        ]

    def _column(self, rows: _Rows, texts: list[str | None], wanted: pa.Field) -> pa.Array:
        try:
            return column_of(texts, wanted.type)
        except BadValue as error:
            found = f"line {rows.lines[error.index]}, column {wanted.name!r} is not a valid {wanted.type}"
            todo = f"fix the line, or declare the column, as in columns: {{{wanted.name}: json}}"
            raise self._log.input.bad(found, todo) from None


def _is_time(text: Any) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _objects(raw: bytes) -> dict[str, dict[str, str]]:
    """The objects of a line, with their members as JSON text."""
    row = members(raw.decode().strip())
    return {name: members(row[name]) for name in _PARTS if row.get(name, "null") != "null"}


def _seen(block: _Block, first: int, end: int | None) -> dict[str, dict[str, SeenValues]]:
    """What the columns of each table hold in transactions ``first`` to ``end`` of a block."""
    lines = {table: rows.lines_of(first, end) for table, rows in block.tables.items()}
    return {
        table: united([*_seen_in_objects(raw), _without_value(block.tables[table].unchanged)])
        for table, raw in lines.items()
        if raw
    }


def _seen_in_objects(lines: Sequence[bytes]) -> Iterable[Mapping[str, SeenValues]]:
    found = seen_in_lines(b"\n".join(lines), _PARTS)
    if found is not None:
        return found
    return ({name: seen_in(text) for name, text in one.items()} for raw in lines for one in _objects(raw).values())


def _without_value(names: Iterable[str]) -> dict[str, SeenValues]:
    """Columns of which there is no value to infer a type from."""
    return {name: seen_in("null") for name in names}


def _struct(columns: Sequence[pa.Array], fields: Sequence[pa.Field], there: Sequence[bool]) -> pa.StructArray:
    if not fields:
        return pa.nulls(len(there), pa.struct([]))
    return pa.StructArray.from_arrays(columns, fields=list(fields), mask=pc.invert(pa.array(there)))


def _kept(rows: _Rows, shape: ChangeTable) -> pa.Array:
    """True for an update that names no key column in its values: the key did not change."""
    key = {*shape.key}
    each = zip(rows.ops, rows.keyed, rows.given, strict=True)
    return pa.array([op == UPDATE and keyed and not key & given for op, keyed, given in each])


def _with_key(
    rows: _Rows, values: Sequence[pa.Array], keys: Sequence[pa.Array], shape: ChangeTable
) -> Iterator[pa.Array]:
    kept, names = _kept(rows, shape), [name for name in shape.values.names if name in shape.key]
    for name, column in zip(shape.values.names, values, strict=True):
        yield either(kept, keys[names.index(name)], column) if name in names else column


def _mask(rows: _Rows, shape: ChangeTable) -> pa.StructArray:
    """The mask of unchanged columns: those that an insert or update does not name."""
    kinds = list(dict.fromkeys(rows.given))
    place = {given: i for i, given in enumerate(kinds)}
    each = zip(rows.ops, rows.given, strict=True)
    kind = pa.array([place[given] if op in (INSERT, UPDATE) else None for op, given in each], pa.int64())
    moved = pc.invert(_kept(rows, shape))
    columns = []
    for name in shape.values.names:
        left_out = pa.array([name not in given for given in kinds]).take(kind).fill_null(False)
        columns.append(pc.and_(left_out, moved) if name in shape.key else left_out)
    return mask_of(shape.values.names, columns, len(rows.ops))


def _joined(
    left: Mapping[str, Mapping[str, SeenValues]], right: Mapping[str, Mapping[str, SeenValues]]
) -> dict[str, dict[str, SeenValues]]:
    return {table: united([left.get(table, {}), right.get(table, {})]) for table in {**left, **right}}


def _table_json(table: ChangeTable) -> dict[str, Any]:
    return {"columns": {f.name: _kept_name(f.type) for f in table.values}, "key": list(table.key)}


def _table_from(data: Mapping[str, Any]) -> ChangeTable:
    columns = [(name, _kept_type(type_)) for name, type_ in data["columns"].items()]
    return ChangeTable(pa.schema(columns), tuple(data["key"]))


# Type names in positions: Arrow's names, except for these. They must never change, or older positions become
# unreadable.
_KEPT = {
    pa.date32(): "date", pa.time64("us"): "time", pa.timestamp("us"): "timestamp", pa.timestamp("ns"): "timestamp_ns",
    pa.timestamp("us", "UTC"): "timestamptz", JSON: "json", UUID: "uuid",
}  # fmt: skip


def _kept_name(type_: pa.DataType) -> str:
    if pa.types.is_decimal128(type_):
        return f"decimal({type_.precision},{type_.scale})"
    return _KEPT.get(type_, str(type_))


def _kept_type(name: str) -> pa.DataType:
    return arrow(name) or named(name, "read the position")  # "float" has 4 bytes to Arrow and 8 to SQL


class _TableStream(BatchStream):
    """The changes of one table. See ``dpone.contract.Stream``."""

    def __init__(self, spool: Spool, table: str) -> None:
        self._spool, self._table = spool, table
        self.schema = batch_schema(spool.tables[table])

    @property
    def filtered(self) -> int:
        return self._spool.filtered_of(self._table)

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._spool.read(self._table)
