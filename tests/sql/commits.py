"""Commits of a change stream, and a plain model of the versions that they make of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from attrs import define, field, frozen
from hypothesis import strategies as st
from tests.sql.stream import Change, array
from tests.sqlite.target import START, Rows

from dpone.model.changes import ChangeTable, batch_schema

ITEMS = ChangeTable(pa.schema([("id", pa.int64()), ("x", pa.string()), ("y", pa.int64())]), ("id",))
TICK = timedelta(microseconds=1)
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def when(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@frozen
class Commit:
    """The ``number``-th of the log. ``at``: by the source's clock, which may go back; None: it does not say."""

    number: int
    at: datetime | None
    changes: tuple[Change, ...]


def rows_of(commits: Iterable[Commit], table: ChangeTable = ITEMS, size: int = 1000) -> Rows:
    """Batches of the commits' changes."""
    schema, names = batch_schema(table), table.values.names
    rows = []
    for commit in commits:
        for ordinal, change in enumerate(commit.changes, 1):
            values = dict(zip(names, change.values or (None,) * len(names), strict=True))
            rows.append({
                "__dpone__op": change.op,
                "__dpone__event_id": f"{commit.number}/{ordinal}",
                "__dpone__commit": f"{commit.number:06d}",
                "__dpone__ordinal": ordinal,
                "__dpone__committed_at": commit.at,
                "__dpone__key": change.met and dict(zip(table.key, change.met, strict=True)),
                "__dpone__unchanged": {n: n in change.left for n in names} if change.left else None,
                "__dpone__before": None,
                **{n: None if n in change.left else value for n, value in values.items()},
            })  # fmt: skip
    whole = pa.Table.from_arrays([array([r[f.name] for r in rows], f.type) for f in schema], schema=schema)
    pieces = [whole.slice(at, size).combine_chunks().to_batches() for at in range(0, len(rows), size)]
    return Rows(schema, [batch for piece in pieces for batch in piece])


@define
class Model:
    """Rows as they are, and every state that a commit left of each: begin and end."""

    rows: dict[int, tuple[Any, Any]] = field(factory=dict)
    versions: list[list[Any]] = field(factory=list)
    last: datetime = LONG_AGO

    def window(self, commits: Iterable[Commit]) -> None:
        """A table without a version has forgotten when its last commit was."""
        self.last = self.last if self.versions else LONG_AGO
        for commit in commits:
            self._commit(commit)

    def _commit(self, commit: Commit) -> None:
        before = dict(self.rows)
        for change in commit.changes:
            self._apply(change)
        assert commit.at is not None
        self.last = max(commit.at, self.last + TICK)
        for key in {*before} | {*self.rows}:
            if before.get(key) == self.rows.get(key):
                continue
            for version in self.versions:
                if version[0] == key and version[-1] is None:
                    version[-1] = self.last
            if key in self.rows:
                self.versions.append([key, *self.rows[key], self.last, None])

    def _apply(self, change: Change) -> None:
        if change.op == "truncate":
            self.rows.clear()
            return
        old = self.rows.pop(change.met[0]) if change.met else (None, None)
        if change.op == "delete":
            return
        assert change.values is not None
        key, x, y = change.values
        self.rows[key] = old[0] if "x" in change.left else x, old[1] if "y" in change.left else y

    def told(self) -> list[tuple[Any, ...]]:
        return [tuple(version) for version in self.versions]


@st.composite
def logs(draw: st.DrawFn, most: int = 8) -> list[Commit]:
    """Changes that fit the rows there are: inserts of new keys, the others on rows that live."""
    live: set[int] = set()
    commits = []
    for _ in range(draw(st.integers(1, most))):
        changes = [draw(_change(live)) for _ in range(draw(st.integers(1, 5)))]
        at = when(draw(st.integers(-3, 3)) + 2 * len(commits))
        commits.append(Commit(len(commits), at, tuple(changes)))
    return commits


@st.composite
def _change(draw: st.DrawFn, live: set[int]) -> Change:
    kinds = ["insert"] * (len(live) < 4) + ["update", "update", "move", "delete"] * bool(live) + ["truncate"]
    kind = draw(st.sampled_from(kinds))
    if kind == "truncate" and draw(st.booleans()):
        live.clear()
        return Change("truncate")
    values = draw(st.sampled_from([None, "", "a", "A"])), draw(st.sampled_from([None, 0, 1]))
    free = st.sampled_from(sorted({1, 2, 3, 4} - live)) if len(live) < 4 else None
    if not live or (kind == "insert" and free is not None):
        assert free is not None
        live.add(key := draw(free))
        return Change("insert", (key, *values))
    old = draw(st.sampled_from(sorted(live)))
    if kind == "delete":
        live.remove(old)
        return Change("delete", None, (old,))
    key = old
    if kind == "move" and free is not None:
        key = draw(free)
        live.remove(old)
        live.add(key)
    left = tuple(n for n in ("x", "y") if draw(st.booleans()))
    return Change("update", (key, *values), (old,), left)


def windows(commits: Sequence[Commit], cuts: Iterable[int]) -> list[Sequence[Commit]]:
    """The log in windows, each up to a cut."""
    found, begin = [], 0
    for end in (*sorted({c for c in cuts if c < len(commits)}), len(commits)):
        if commits[begin:end]:
            found.append(commits[begin:end])
        begin = end
    return found
