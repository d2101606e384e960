"""Strategies through the whole engine, against a few lines of plain Python that do the same."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve
from tests.engine import faulty as real
from tests.engine.project import Project, Row, rows, with_plugins
from tests.patience import PATIENCE, until

from dpone.capability import Support
from dpone.contract import BatchStream, Load, Part, Stream, Window, WindowRequest
from dpone.engine.run import run
from dpone.errors import Interrupted, SinkError
from dpone.model.position import Position

KEYED = {"mode": "merge", "key": ["id"]}
STRATEGIES: dict[str, dict[str, Any]] = {
    "full_refresh": {"mode": "full_refresh"},
    "append": {"mode": "append"},
    "merge": KEYED,
    "replace": {"mode": "replace"},
    "partition_replace": {"mode": "partition_replace", "partition": "day"},
    "snapshot_diff": {"mode": "snapshot_diff", "key": ["id"], "max_delete_share": 1.0},
    "scd2": {"mode": "scd2", "key": ["id"]},
}


def random_rows(chance: random.Random, count: int, keys: range, day: int) -> list[Row]:
    """Distinct keys, texts that repeat, and NULL."""
    picked = sorted(chance.sample(keys, count))
    return [(key, day, chance.choice(["a", "b,c", 'd"e', ""]) + "x", chance.choice([None, "n", "ñ"])) for key in picked]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", [*STRATEGIES])
def test_a_strategy_does_what_a_few_lines_of_python_do(project: Project, mode: str, seed: int) -> None:
    """Six loads of random files: after each, the table equals a list kept by hand."""
    chance = random.Random(f"{mode} {seed}")
    files: dict[str, list[Row]] = {}
    kept: list[Row] = []
    for n in range(6):
        day = chance.choice([1, 2])
        wanted = STRATEGIES[mode] | ({"where": {"day": day}} if mode == "replace" else {})
        name = chance.choice(["a", "b", f"n{n}"]) if mode in ("full_refresh", "merge", "scd2") else f"n{n}"
        name = "a" if mode == "snapshot_diff" else name  # of two files both could have a row of one key
        if mode == "replace":  # it reads all files there are
            for file in files:
                (project.folder / "data" / f"{file}.csv").unlink()
            files.clear()
        new = random_rows(chance, chance.randrange(1, 60), range(100), day)
        files[name] = new
        project.csv(name, new)
        project.but(strategy=wanted).load()
        if mode in ("full_refresh", "snapshot_diff"):
            kept = [row for file in files.values() for row in file]
        elif mode == "append":
            kept = kept + new
        elif mode == "merge":
            kept = list({row[0]: row for row in kept + new}.values())
        elif mode == "scd2":
            latest = {row[0]: row for row in kept}
            kept = kept + [row for row in new if latest.get(row[0]) != row]
        else:
            kept = [row for row in kept if row[1] != day] + new
        assert sorted(map(repr, project.rows())) == sorted(map(repr, kept))
        assert project.state() == project.head()
    assert project.head() is not None
    assert len(project.journal()) <= 6


@pytest.mark.parametrize("mode", ["full_refresh", "append"])
def test_a_folder_does_the_same(tmp_path: Any, mode: str) -> None:
    """The file sink: the rows of all files, or of every load, whatever the format."""
    for format in ("parquet", "csv"):
        options = {"format": format}
        project = Project(tmp_path / format, {"mode": mode}, "file", "file", sink_options=options).save()
        kept: list[Row] = []
        for n in range(3):
            new = rows(n * 100 + 1, n * 100 + 70)
            project.csv("a" if mode == "full_refresh" else f"n{n}", new)
            project.load()
            kept = new if mode == "full_refresh" else kept + new
            assert project.rows() == kept
        assert project.staging() == []


def test_merge_leaves_equal_rows_as_they_are(project: Project) -> None:
    """A row that did not change keeps the load id of the load that wrote it."""
    project = project.but(strategy=KEYED)
    project.csv("a", rows(1, 100))
    first = project.load()
    project.csv("a", rows(1, 90) + rows(91, 100, tag="new") + rows(101, 105))
    second = project.load()
    counts = second.rows
    assert (counts.inserted, counts.updated, counts.unchanged, counts.deleted) == (5, 10, 90, 0)
    wrote = {row[0]: row[-1] for row in project.lineage()}
    assert {wrote[key] for key in range(1, 91)} == {first.load_id}
    assert {wrote[key] for key in range(91, 106)} == {second.load_id}


def test_LS_07_duplicates_go_by_the_stated_order(project: Project) -> None:
    """The last by order_by wins, wherever it stands in the file; without a policy the load fails."""
    project.csv("a", [(1, 2, "late", None), (1, 1, "early", None), (2, 1, "only", None)])
    [stream] = project.but(strategy=KEYED).run().streams
    assert stream.error is not None
    assert stream.error.kind == "DataError"
    assert project.rows() == []
    project.but(strategy={**KEYED, "duplicates": "last", "order_by": ["day"]}).load()
    assert project.rows() == [(1, 2, "late", None), (2, 1, "only", None)]


def test_LS_13_strategies_may_change_from_load_to_load(project: Project) -> None:
    """append, merge, full_refresh, append on one table: each does its own to what it finds."""
    project.csv("a", rows(1, 10))
    project.load()
    project.csv("b", rows(11, 20))
    project.but(strategy=KEYED).load()
    assert project.rows() == rows(1, 20)
    project.csv("c", rows(21, 30))
    project.but(strategy={"mode": "full_refresh"}).load()
    assert project.rows() == rows(1, 30)
    project.csv("d", rows(31, 40))
    project.but(strategy={"mode": "append"}).load()
    assert project.rows() == rows(1, 40)
    assert [entry.seq for entry in project.journal()] == [1, 2, 3, 4]


def test_LS_09_half_a_source_stops_the_run(project: Project) -> None:
    """snapshot_diff of a source that lost half of its rows: exit code 3, rows, journal and state as before."""
    project = project.but(strategy={"mode": "snapshot_diff", "key": ["id"]})
    project.csv("a", rows(1, 100))
    project.load()
    state, head = project.state_bytes(), project.head()
    project.csv("a", rows(1, 50))
    report = project.run()
    assert (report.exit_code, report.streams[0].status) == (3, "stopped")
    assert report.streams[0].error is not None
    assert "50 of 100 rows of the target are not in the rows read" in report.streams[0].error.message
    assert (project.rows(), project.state_bytes(), project.head()) == (rows(1, 100), state, head)
    assert project.staging() == []


def test_LS_10_deletes_close_reads_everything(project: Project) -> None:
    """scd2 with deletes: close asks for the whole source, so that files that did not change are no deletes."""
    project = project.but(strategy={"mode": "scd2", "key": ["id"], "deletes": "close"})
    project.csv("a", rows(1, 10))
    project.csv("b", rows(11, 20))
    project.load()
    project.csv("b", rows(11, 19))
    counts = project.load().rows
    assert (counts.inserted, counts.updated, counts.deleted, counts.unchanged) == (0, 0, 1, 19)
    assert project.query("SELECT id FROM t WHERE __dpone__valid_to IS NOT NULL") == [(20,)]


def test_LS_10_a_new_column_through_the_engine(project: Project) -> None:
    """The column is added to the table of versions, the current ones are filled, and no version is opened for it."""
    project = project.but(strategy={"mode": "scd2", "key": ["id"]})
    project.csv("a", rows(1, 3))
    project.load()
    (project.folder / "data" / "a.csv").write_text("id,day,name,note,more\n1,1,x,y,7\n")
    first = project.load()
    assert (first.schema_changes, first.rows.inserted) == (["add more int64"], 1)
    assert project.query("SELECT id, name, more FROM t WHERE __dpone__valid_to IS NULL AND id = 1") == [(1, "x", 7)]
    lines = [f'{i},1,"n{i}, """" é",note {i},{i}' for i in (2, 3)]
    (project.folder / "data" / "b.csv").write_text("id,day,name,note,more\n" + "\n".join(lines) + "\n")
    second = project.load().rows
    assert (second.inserted, second.updated) == (0, 2)


def test_LS_13_versions_are_not_mixed_with_rows(project: Project) -> None:
    """merge after scd2 on one table stops with exit code 3, and so does scd2 after merge."""
    for number, modes in enumerate([("scd2", "merge"), ("merge", "scd2")]):
        one, two = (
            project.but(folder=project.folder / str(number), strategy={"mode": m, "key": ["id"]}) for m in modes
        )
        one.save().csv("a", rows(1, 3))
        one.load()
        one.csv("b", rows(4, 6))
        report = two.save().run()
        assert (report.exit_code, two.rows()) == (3, rows(1, 3))


# -- readers of the target ------------------------------------------------------------------------------------------


@contextmanager
def sampled(project: Project) -> Iterator[set[int]]:
    """The row counts that a reader sees meanwhile."""
    seen: set[int] = set()
    stop = threading.Event()

    def look() -> None:
        with closing(sqlite3.connect(project.database, timeout=10)) as db:
            while not stop.is_set():
                seen.add(db.execute("SELECT COUNT(*) FROM t").fetchone()[0])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("lineage", [True, False])
def test_LS_01_readers_see_the_old_rows_or_the_new_ones(project: Project, faulty: ModuleType, lineage: bool) -> None:
    """A reader that counts all the time sees 250 or 3,000 rows: never none, also when the load fails half way."""
    options = {"lineage": {"enabled": lineage}}
    project = project.but(strategy={"mode": "full_refresh"}, sink_options=options)
    project.csv("a", rows(1, 250))
    project.load()
    with closing(sqlite3.connect(project.database)) as db:
        db.execute("PRAGMA journal_mode=WAL")  # so that readers need not wait
    project.csv("a", rows(1, 3000))
    faulty.watch.append(lambda place: _fail(faulty, place))
    with sampled(project) as seen:
        [stream] = run(project.pipeline, plugins=with_plugins(**faulty.PLUGINS)).streams
    assert (stream.status, seen) == ("failed", {250})
    with sampled(project) as seen:
        project.load()
    assert seen <= {250, 3000}


def _fail(faulty: ModuleType, place: str) -> None:
    if place == "sink batch" and faulty.log.count(place) == 15:
        raise SinkError("write", "no", "wait")


# -- a table as the source --------------------------------------------------------------------------------------------


def from_table(project: Project, strategy: dict[str, Any], **incremental: Any) -> Project:
    options = {"incremental": {"by": "cursor", "column": "day", **incremental}}
    source = {"type": "sqlite", "connection": "sqlite:///source.db", "table": "s", "options": options}
    with closing(sqlite3.connect(project.folder / "source.db")) as db:
        db.execute("CREATE TABLE s (id INTEGER, day INTEGER, name TEXT, note TEXT)")
    return project.but(source=source, strategy=strategy, runtime={"batch_rows": 7, "retries": 0})


def insert(project: Project, new: list[Row]) -> None:
    with closing(sqlite3.connect(project.folder / "source.db")) as db, db:
        db.executemany("INSERT INTO s VALUES (?, ?, ?, ?)", new)


def test_CU_02_rows_of_one_cursor_value_are_neither_lost_nor_doubled(project: Project) -> None:
    """60 rows of one value, 7 a batch, then more of the same value and of the next: each is in the target once."""
    project = from_table(project, {"mode": "append"}, key=["id"])
    insert(project, rows(1, 60, day=5))
    assert project.load().rows.inserted == 60
    insert(project, rows(61, 64, day=5) + rows(65, 70, day=6))
    assert project.load().rows.inserted == 10
    assert project.rows() == rows(1, 64, day=5) + rows(65, 70, day=6)
    before = project.state_bytes()
    assert project.load().rows.inserted == 0
    assert project.state_bytes() == before


def test_CU_01_a_lookback_finds_what_came_late(project: Project) -> None:
    """merge with a lookback reads again below the last value; equal rows are not rewritten."""
    project = from_table(project, KEYED, lookback=3)
    insert(project, rows(1, 10, day=8) + rows(11, 20, day=10))
    project.load()
    insert(project, rows(21, 25, day=7) + rows(26, 30, day=2))
    assert project.load().rows.inserted == 5
    assert project.rows() == rows(1, 10, day=8) + rows(11, 20, day=10) + rows(21, 25, day=7)


def test_a_momentary_window_is_never_resumed(project: Project, faulty: ModuleType) -> None:
    """A table read again is another load: what the failed one staged is dropped, and no row is there twice."""
    project = from_table(project, {"mode": "append"}, key=["id"]).but(runtime={"retries": 1, "batch_rows": 7})
    insert(project, rows(1, 60))
    faulty.faults["commit"] = [ConnectionError("gone")]
    plugins = with_plugins(sink_sqlite=faulty.PLUGINS["sink_sqlite"])
    [stream] = run(project.pipeline, plugins=plugins).streams
    assert (stream.status, stream.attempts, stream.partitions_resumed) == ("loaded", 2, 0)
    assert project.rows() == rows(1, 60)
    assert project.staging() == []


class Splitting(real.Source):
    """One file in as many parts as the pipeline asks for."""

    def window(self, after: Position | None, request: WindowRequest) -> Window:
        window = super().window(after, request)
        [part] = window.parts
        many = request.partitions
        return evolve(window, parts=tuple(Part(str(i), {**part.detail, "every": many}) for i in range(many)))

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        with super().read(part) as stream:
            yield Some(stream, int(part.id), part.detail["every"])


class Some(BatchStream):
    """Every so manieth row, from the first-th on."""

    def __init__(self, stream: Stream, first: int, every: int) -> None:
        self.stream, self.schema, self.first, self.every = stream, stream.schema, first, every

    def batches(self) -> Iterator[Any]:
        rows = [row for batch in self.stream.batches() for row in batch.to_pylist()]
        yield pa.RecordBatch.from_pylist(rows[self.first :: self.every], self.schema)


def test_parts_of_another_split_are_not_resumed(project: Project, faulty: ModuleType) -> None:
    """A run died with one part of two staged; the pipeline now asks for three: all is read anew, each row once."""
    project.csv("a", rows(1, 90))
    plugins = with_plugins(**{**faulty.PLUGINS, "source_file": f"{__name__}:Splitting"})
    faulty.watch.append(lambda place: _die(faulty, place))
    run(project.but(runtime={"partitions": 2, "retries": 0}).pipeline, plugins=plugins)
    assert len(project.staging()) == 3  # a table, its line in the registry, and one part
    faulty.watch.clear()
    [stream] = run(project.but(runtime={"partitions": 3, "retries": 0}).pipeline, plugins=plugins).streams
    assert (stream.status, stream.partitions_resumed) == ("loaded", 0)
    assert project.rows() == rows(1, 90)


def _die(faulty: ModuleType, place: str) -> None:
    """As if killed before the second part: nothing is cleaned up."""
    if place == "abort" or (place == "stage" and faulty.log.count("stage") == 2):
        raise SinkError("write", "no", "wait")


# -- parts at once ----------------------------------------------------------------------------------------------------

MET = threading.Event()
ONE_AT_A_TIME = threading.Lock()


class Meeting(real.Source):
    """The first read waits for a second one."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        real.at("read begins")
        if real.log.count("read begins") > 1:
            MET.set()
        assert MET.wait(PATIENCE), "no other read begins"
        with super().read(part) as stream:
            yield stream


class Queueing(real.Sink):
    """Takes parts from several threads, and writes one after the other."""

    def open(self, load: Load) -> Any:
        writer = super().open(load)
        stage = writer.stage

        def in_turn(part: Part, stream: Stream) -> Any:
            with ONE_AT_A_TIME:
                return stage(part, stream)

        writer.stage = in_turn
        return writer


def parallel(source: str = "Meeting") -> Any:
    MET.clear()
    plugins = with_plugins(source_file=f"{__name__}:{source}", sink_sqlite=f"{__name__}:Queueing")
    sink = plugins.connectors["sink", "sqlite"]
    able = evolve(sink, capabilities={**sink.capabilities, "parallel_stage": Support.SUPPORTED})
    return evolve(plugins, connectors={**plugins.connectors, ("sink", "sqlite"): able})


def test_workers_read_parts_at_once(project: Project, faulty: ModuleType) -> None:
    """Two workers and a sink that takes parts in parallel: two reads are open at the same time, all rows arrive."""
    for n in range(4):
        project.csv(f"n{n}", rows(n * 100 + 1, n * 100 + 100))
    report = run(project.pipeline, plugins=parallel(), workers=2)
    assert report.streams[0].status == "loaded", report.streams[0].error
    assert project.rows() == rows(1, 400)
    assert report.streams[0].partitions == 4


def test_a_part_that_fails_among_others_fails_the_load(project: Project, faulty: ModuleType) -> None:
    """The first error is the stream's; nothing is committed, and as no part was done, nothing is left behind."""
    for n in range(4):
        project.csv(f"n{n}", rows(n * 100 + 1, n * 100 + 100))
    faulty.faults["stage"] = [SinkError("write", "no", "wait") for _ in range(4)]  # no thread may be faster
    [stream] = run(project.pipeline, plugins=parallel(), workers=2).streams
    assert stream.error is not None
    assert stream.error.kind == "SinkError"
    assert (project.rows(), project.journal(), project.staging()) == ([], [], [])


class Failing(Meeting):
    """The first part fails once the other one is on its way."""

    @contextmanager
    def read(self, part: Part) -> Iterator[Stream]:
        with super().read(part) as stream:
            if part.id.startswith("00000"):
                until(lambda: real.log.count("sink batch") >= 3, "the other part does not begin")
                real.at("first part")
            yield stream


@pytest.mark.parametrize("error", [SinkError("write", "no", "wait"), Interrupted("SIGINT")], ids=["failure", "signal"])
def test_a_part_under_way_ends_at_its_next_batch(project: Project, faulty: ModuleType, error: BaseException) -> None:
    """One of two parts fails, or a signal arrives: the other one is not read to its end, and nothing is committed."""
    project = project.but(runtime={"batch_rows": 1, "retries": 0})
    project.csv("a", rows(1, 2))
    project.csv("b", rows(101, 1000))
    plugins = parallel("Failing")

    def slowly(place: str) -> None:
        """The other part is in its midst when the first one fails, and far from its end when that is noticed."""
        if place == "sink batch" and faulty.log.count(place) > 10:
            until(lambda: "first part" in faulty.log, "the first part does not fail")
            time.sleep(0.05)

    faulty.watch.append(slowly)
    faulty.faults["first part"] = [error]
    if isinstance(error, Interrupted):
        with pytest.raises(Interrupted):
            run(project.pipeline, plugins=plugins, workers=2)
    else:
        [stream] = run(project.pipeline, plugins=plugins, workers=2).streams
        assert stream.error is not None
        assert stream.error.message == str(error)
    assert faulty.log.count("sink batch") < 500
    assert (project.rows(), project.journal(), project.staging()) == ([], [], [])


def test_tables_are_selected_by_a_glob(project: Project) -> None:
    """The source is asked which tables match: each is a stream with a target, a journal and a position of its own."""
    source = {"type": "sqlite", "connection": "sqlite:///shop.db", "table": "o*"}
    with closing(sqlite3.connect(project.folder / "shop.db")) as db, db:
        for name in ("orders", "offers", "people"):
            db.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)")
            db.execute(f"INSERT INTO {name} VALUES (1), (2)")
    report = project.but(source=source, table="landing_{table}").run()
    assert sorted((one.status, one.rows.inserted) for one in report.streams) == [("loaded", 2)] * 2
    assert len({one.key for one in report.streams}) == 2
    assert [one for one in project.tables() if one.startswith("landing")] == ["landing_offers", "landing_orders"]
