"""scd2 of a change stream, against a plain model of what every commit left, and every rule by name."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sql.commits import ITEMS, TICK, Commit, Model, logs, rows_of, when, windows
from tests.sql.stream import Change
from tests.sqlite.target import KEY, MEMORY, START, Target, at, evolve, load

from dpone.contract import Part, Receipt
from dpone.errors import ConfigError, DataError, DeletesRefused, SinkError
from dpone.model.changes import ChangeTable
from dpone.model.pipeline import Lineage, SchemaEvolution, Undo
from dpone.model.strategy import Strategy
from dpone.sql import fold

SCD2 = Strategy("scd2", key="id", truncate="apply")
TRUNCATE = Change("truncate")
PLAIN = Lineage(False)


def insert(id_: int, x: Any = None, y: Any = None) -> Change:
    return Change("insert", (id_, x, y))


def update(id_: int, x: Any = None, y: Any = None, met: int | None = None, left: tuple[str, ...] = ()) -> Change:
    return Change("update", (id_, x, y), (id_ if met is None else met,), left)


def delete(id_: int) -> Change:
    return Change("delete", None, (id_,))


def deliver(
    target: Target,
    commits: Sequence[Commit],
    strategy: Strategy = SCD2,
    table: ChangeTable = ITEMS,
    *,
    whole: bool = False,
    started: datetime = START,
    size: int = 1000,
    load_id: str = "",
    **options: Any,
) -> Receipt:
    """One window, as the engine delivers it."""
    with closing(target.sink(strategy, **options)) as sink:
        evolve(sink, table.values, strategy)
        given = {"changes": True, "repeatable": True, "whole": whole, "started_at": started}
        writer = sink.open(load(table.values, strategy, load_id=load_id, **given))
        try:
            writer.stage(Part(target.table), rows_of(commits, table, size))
            return writer.commit(sink.journal(KEY), at(0))
        except BaseException:
            writer.abort()
            raise


def found(target: Target, columns: str = "id, x, y") -> list[tuple[Any, ...]]:
    told = target.rows(f"{columns}, __dpone__valid_from, __dpone__valid_to", "id, __dpone__valid_from")
    return [(*row[:-2], *(at and datetime.fromisoformat(at) for at in row[-2:])) for row in told]


def require_sound(rows: Sequence[tuple[Any, ...]]) -> None:
    """One current version per key at most, none empty, none overlaps the next."""
    for _, of_key in itertools.groupby(rows, key=lambda row: row[0]):
        spans = sorted((row[-2], row[-1]) for row in of_key)
        assert sum(end is None for _, end in spans) <= 1
        assert all(end is None or begin < end for begin, end in spans)
        assert all(end is not None and end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


@pytest.fixture(params=[200_000, 1, 2], ids=["one chunk", "a chunk a change", "two a chunk"])
def chunked(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """The rule holds wherever a chunk ends."""
    monkeypatch.setattr(fold, "ROWS", request.param)
    return int(request.param)


DRAWN = st.tuples(
    logs(), st.lists(st.integers(1, 8), max_size=3), st.sampled_from([1, 2, 3, 100]), st.integers(1, 4),
    st.lists(st.integers(0, 7), max_size=2),
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(DRAWN)
def test_LS_10_versions_of_commits_are_those_of_the_model(drawn: Any) -> None:
    """Any log in any windows, chunks and batches, with clocks that go back, and delivered again from anywhere, leaves
    the model's versions: none empty, none overlapping, one current of each row that lives; closed ones stay."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        require_model(Target(Path(folder) / "t.db"), *drawn)


def require_model(target: Target, log: list[Commit], cuts: list[int], chunk: int, size: int, again: list[int]) -> None:
    model, closed = Model(), set[Any]()
    with patch.object(fold, "ROWS", chunk):
        for window in windows(log, cuts):
            deliver(target, window, size=size, lineage=PLAIN)
            model.window(window)
            history = found(target)
            assert history == sorted(model.told(), key=lambda row: (row[0], row[-2]))
            require_sound(history)
            assert closed <= {*history}, "closed history was touched"
            closed = {row for row in history if row[-1] is not None}
            assert {row[0]: row[1:3] for row in history if row[-1] is None} == model.rows
            for first in (n for n in again if n <= window[-1].number):
                deliver(target, log[first : window[-1].number + 1], size=size, lineage=PLAIN)
                assert found(target) == history, "a commit that was delivered again changed something"


def test_every_state_that_a_commit_left_is_a_version(target: Target, chunked: int) -> None:
    """Begins are the times of the commits; what one commit makes and unmakes was never there."""
    deliver(target, [
        Commit(1, when(1), (insert(1, "a"), insert(2, "b"))),
        Commit(2, when(2), (update(1, "x"), update(1, "c"))),
        Commit(3, when(3), (insert(3, "z"), delete(3), update(2, "q"), update(2, "b"))),
        Commit(4, when(4), (delete(1),)),
        Commit(5, when(5), (insert(1, "c"),)),
    ])  # fmt: skip
    assert found(target, "id, x") == [
        (1, "a", when(1), when(2)),
        (1, "c", when(2), when(4)),
        (1, "c", when(5), None),
        (2, "b", when(1), None),
    ]


def test_OUT_16_versions_of_a_stream_are_made_without_undo(target: Target) -> None:
    """They cannot be taken back; without the option that the message names they are there."""
    commits = [Commit(1, when(1), (insert(1, "a"),))]
    with pytest.raises(ConfigError, match=r"from a change stream; remove sink\.options\.undo; nothing was changed"):
        deliver(target, commits, undo=Undo(loads=1))
    assert found(target, "id, x") == []
    deliver(target, commits)
    assert found(target, "id, x") == [(1, "a", when(1), None)]


def test_counts_and_lineage(target: Target) -> None:
    """Opened, closed by a change, closed by a delete; a version is of the load that opened it."""
    deliver(target, [Commit(1, when(1), (insert(1, "a"), insert(2, "b"), insert(3, "c")))], load_id="first")
    second = [Commit(2, when(2), (update(1, "x"), delete(2), update(3, "c"))), Commit(3, when(3), (insert(4),))]
    receipt = deliver(target, second, load_id="second")
    assert (receipt.inserted, receipt.updated, receipt.deleted) == (2, 1, 1)
    loads = target.rows("id, __dpone__load_id", "id, __dpone__valid_from")
    assert loads == [(1, "first"), (1, "second"), (2, "first"), (3, "first"), (4, "second")]


def test_PG_11_a_key_that_changes_closes_one_history_and_opens_another(target: Target, chunked: int) -> None:
    """Values the log leaves out go along, also where two rows swap keys, in one window or from the target."""
    deliver(target, [Commit(1, when(1), (insert(1, "a", 1), insert(2, "b", 2)))])
    swap = update(9, met=1, left=("x", "y")), update(1, met=2, left=("x", "y")), update(2, met=9, left=("x", "y"))
    deliver(target, [Commit(2, when(2), swap), Commit(3, when(3), (update(7, y=5, met=2, left=("x",)),))])
    assert found(target) == [
        (1, "a", 1, when(1), when(2)),
        (1, "b", 2, when(2), None),
        (2, "b", 2, when(1), when(2)),
        (2, "a", 1, when(2), when(3)),
        (7, "a", 5, when(3), None),
    ]


def test_PG_09_values_left_out_are_those_of_the_version_before(target: Target, chunked: int) -> None:
    """From the window or from the target, of the state before the change; never NULL."""
    deliver(target, [Commit(1, when(1), (insert(1, "long", 1),))])
    steps = [Commit(n, when(n), (update(1, y=n, left=("x",)),)) for n in (2, 3)]
    deliver(target, [*steps, Commit(4, when(4), (update(1, "new", left=("y",)),))])
    assert [row[1:3] for row in found(target)] == [("long", 1), ("long", 2), ("long", 3), ("new", 3)]
    with pytest.raises(DataError, match="the target lacks the rows"):
        deliver(target, [Commit(5, when(5), (update(2, y=1, left=("x",)),))])
    assert len(found(target)) == 4


def test_PG_12_a_truncate_goes_by_the_policy(target: Target, chunked: int) -> None:
    """fail changes nothing; ignore keeps every version current; apply closes all, but not what its own commit brings
    back as it was."""
    deliver(target, [Commit(1, when(1), (insert(1, "a"), insert(2, "b")))])
    again = [Commit(2, when(2), (insert(3, "c"), TRUNCATE, insert(1, "a"), insert(2, "q")))]
    with pytest.raises(DeletesRefused, match="truncated in the source"):
        deliver(target, again, Strategy("scd2", key="id"))
    assert len(found(target)) == 2
    deliver(target, again)
    assert found(target, "id, x") == [
        (1, "a", when(1), None),
        (2, "b", when(1), when(2)),
        (2, "q", when(2), None),
    ]
    deliver(target, [Commit(3, when(3), (TRUNCATE,))], Strategy("scd2", key="id", truncate="ignore"))
    assert [row[0] for row in found(target) if row[-1] is None] == [1, 2]
    assert deliver(target, [Commit(4, when(4), (TRUNCATE,))]).deleted == 2
    assert {row[-1] for row in found(target)} == {when(2), when(4)}


def test_commits_follow_each_other_whatever_their_clocks_say(target: Target, chunked: int) -> None:
    """A commit that is not later than the one before begins a microsecond after it, across windows too."""
    deliver(target, [Commit(1, when(9), (insert(1, "a"),)), Commit(2, when(5), (update(1, "b"),))])
    deliver(target, [Commit(3, when(9), (update(1, "c"),)), Commit(4, when(20), (update(1, "d"),))])
    begins = [when(9), when(9) + TICK, when(9) + 2 * TICK, when(20)]
    assert [row[-2] for row in found(target)] == begins


def test_a_log_that_says_no_time_has_that_of_the_load(target: Target) -> None:
    """The commits of a window a microsecond apart, from the time of the load on."""
    deliver(target, [Commit(n, None, (insert(n), insert(10 + n))) for n in (1, 2)], started=when(3))
    assert {row[0]: row[-2] for row in found(target)} == {
        1: when(3), 11: when(3), 2: when(3) + TICK, 12: when(3) + TICK
    }  # fmt: skip


def test_a_whole_window_says_what_there_is_and_keeps_the_history(target: Target, chunked: int) -> None:
    """A new snapshot: equal rows keep their version, others change at the time of the load, missing ones are closed."""
    deliver(target, [Commit(1, when(1), (insert(1, "a"), insert(2, "b"), insert(3, "c"), insert(4, "d")))])
    deliver(target, [Commit(2, when(2), (delete(4),))])
    snapshot = [Commit(1, when(0), (insert(1, "a"), insert(2, "x"), insert(5, "e")))]
    receipt = deliver(target, snapshot, whole=True, started=when(9))
    assert (receipt.inserted, receipt.updated, receipt.deleted) == (2, 1, 1)
    assert found(target, "id, x") == [
        (1, "a", when(1), None),
        (2, "b", when(1), when(9)),
        (2, "x", when(9), None),
        (3, "c", when(1), when(9)),
        (4, "d", when(1), when(2)),
        (5, "e", when(9), None),
    ]
    deliver(target, [Commit(2, when(3), (update(1, "later"),))])
    assert found(target, "id, x")[:2] == [(1, "a", when(1), when(9) + TICK), (1, "later", when(9) + TICK, None)]


def test_a_whole_window_is_one_commit(target: Target, chunked: int) -> None:
    """A log read anew from its beginning: only what it leaves counts, and values come from it alone."""
    deliver(target, [Commit(1, when(1), (insert(1, "a", 1), insert(2, "b", 2)))])
    log = [Commit(1, when(1), (insert(1, "a", 1),)), Commit(2, when(2), (update(1, y=3, left=("x",)),)),
           Commit(3, when(3), (update(1, y=1, left=("x",)), insert(2, "t"), delete(2)))]  # fmt: skip
    deliver(target, log, whole=True, started=when(9))
    assert found(target) == [(1, "a", 1, when(1), None), (2, "b", 2, when(1), when(9))]
    with pytest.raises(DataError, match="no earlier change has the left-out values"):
        deliver(target, [Commit(1, when(1), (update(1, y=9, left=("x",)),))], whole=True, started=when(10))


def test_a_whole_window_into_an_empty_table_is_its_history(target: Target, chunked: int) -> None:
    """From the beginning of the log, every version with the time of its commit."""
    log = [Commit(1, when(1), (insert(1, "a"),)), Commit(2, when(2), (update(1, "b"),))]
    deliver(target, log, whole=True, started=when(9))
    assert found(target, "id, x") == [(1, "a", when(1), when(2)), (1, "b", when(2), None)]


def test_a_whole_window_without_rows_goes_by_the_policy(target: Target) -> None:
    """As a truncate: refused, ignored, or every version closed at the time of the load."""
    deliver(target, [Commit(1, when(1), (insert(1, "a"),))])
    with pytest.raises(DeletesRefused, match="the source is empty"):
        deliver(target, [], Strategy("scd2", key="id"), whole=True)
    deliver(target, [], Strategy("scd2", key="id", truncate="ignore"), whole=True)
    assert [row[-1] for row in found(target)] == [None]
    assert deliver(target, [], whole=True, started=when(5)).deleted == 1
    assert [row[-1] for row in found(target)] == [when(5)]
    assert deliver(target, [], Strategy("scd2", key="id"), whole=True).deleted == 0


def test_columns_that_the_changes_do_not_know_go_over(target: Target, chunked: int) -> None:
    """A column added by hand keeps its value in the versions that follow, through changes of the key too."""
    lenient = SchemaEvolution(on_missing_column="ignore")
    deliver(target, [Commit(1, when(1), (insert(1, "a"),))])
    target.run('ALTER TABLE "orders" ADD COLUMN mine TEXT', "UPDATE orders SET mine = 'kept'")
    log = [Commit(2, when(2), (update(1, "b"),)), Commit(3, when(3), (update(2, "b", met=1), insert(5, "new")))]
    deliver(target, log, schema_evolution=lenient)
    assert [(row[0], row[2]) for row in found(target, "id, x, mine")] == [
        (1, "kept"), (1, "kept"), (2, "kept"), (5, None)
    ]  # fmt: skip


def test_a_table_that_was_changed_since_is_not_written_to(target: Target) -> None:
    """Times are given when changes are staged; a version that another load has opened since is never overlapped."""
    deliver(target, [Commit(1, when(1), (insert(1, "a"),))])
    with closing(target.sink(SCD2)) as sink:
        given = {"changes": True, "repeatable": True, "whole": False, "started_at": START}
        writer = sink.open(load(ITEMS.values, SCD2, load_id="slow", **given))
        writer.stage(Part("t"), rows_of([Commit(2, when(2), (update(1, "b"),))]))
        target.run("UPDATE orders SET __dpone__valid_to = '2099-01-01 00:00:00.000000+00:00'")
        with pytest.raises(SinkError, match="another load changed the table"):
            writer.commit(sink.journal(KEY), at(0))
        writer.abort()


def test_what_was_delivered_is_known_by_stream(target: Target) -> None:
    """A table that was emptied has forgotten it: its history can be built again."""
    log = [Commit(1, when(1), (insert(1, "a"),)), Commit(2, when(2), (delete(1),))]
    deliver(target, log)
    history = found(target)
    assert deliver(target, log).inserted == 0
    target.run("DELETE FROM orders")
    assert deliver(target, log).inserted == 1
    assert found(target) == history


def test_rows_need_a_key(target: Target) -> None:
    """A change stream's log names it; of rows nobody does."""
    with pytest.raises(ConfigError, match="no key"):
        target.load(pa.table({"id": [1]}), Strategy("scd2"))


def test_undo_is_refused(target: Target) -> None:
    """Before anything is changed."""
    deliver(target, [Commit(1, when(1), (insert(1, "a"),))])
    with pytest.raises(ConfigError, match="undo is not possible"):
        deliver(target, [Commit(2, when(2), (delete(1),))], undo=Undo(loads=1))
    assert [row[-1] for row in found(target)] == [None]
