"""Loads in parts, PostgreSQL to PostgreSQL: staged at once, killed and cut half way, and gone on with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from tests.postgres.target import Target
from tests.postgres.test_kill_matrix import Run, run
from tests.sqlite.target import KEY, at, evolve, load, rows

from dpone.cli.main import assemble
from dpone.config.reader import load_pipeline
from dpone.contract import Part
from dpone.engine.run import Run as Pipe
from dpone.engine.run import run as run_pipeline
from dpone.errors import DataError, SinkError
from dpone.hookspecs import hookimpl
from dpone.model.strategy import Strategy
from dpone.plugins import discover
from dpone.sql.writer import open_stage
from dpone_postgres.sink import PostgresSink

__all__ = ["run"]  # a fixture
FULL, MERGE = Strategy("full_refresh", key="id"), Strategy("merge", key="id")
SHAPE = pa.schema([("id", pa.int64()), ("v", pa.string())])
STEPS = (
    ("part_started", 3),
    ("part_staged", 1),
    ("part_staged", 3),
    ("staged", 1),
    ("commit_started", 1),
    ("committed", 1),
)


def some(first: int, last: int, v: str = "a") -> pa.Table:
    return pa.table([range(first, last + 1), [v] * (last + 1 - first)], schema=SHAPE)


def opened(sink: PostgresSink, strategy: Strategy, **more: Any) -> Any:
    evolve(sink, SHAPE, strategy)  # type: ignore[arg-type]
    return sink.open(load(SHAPE, strategy, **more))


def at_once(writer: Any, tables: list[pa.Table]) -> list[BaseException]:
    """Each from a thread of its own, which waits for all others with half of its rows sent; what failed."""
    barrier, failed = threading.Barrier(len(tables), timeout=20), []

    def stage(n: int, table: pa.Table) -> None:
        try:
            writer.stage(Part(f"p{n}"), rows(table, lambda batch: barrier.wait() if batch == 1 else None))
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=stage, args=one) for one in enumerate(tables)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


@pytest.mark.parametrize("strategy", [FULL, MERGE], ids=lambda s: s.mode)
@pytest.mark.parametrize("parts", [0, 4])
def test_parts_are_staged_at_once(target: Target, strategy: Strategy, parts: int) -> None:
    """Four connections write into one staging at the same time; the commit makes the key and the lineage, one and the
    same for all rows, and the table is as after a load of one part."""
    target.load(some(1, 10, "old"), strategy)
    before = target.query("SELECT attname::text FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0")
    with closing(target.sink(strategy)) as sink:
        writer = opened(sink, strategy, parts=parts, load_id="SECOND")
        assert at_once(writer, [some(n * 10 + 1, n * 10 + 10) for n in range(4)]) == []
        receipt = writer.commit(sink.journal(KEY), at(1))
    assert sum(receipt.entry.rows.values()) == (50 if strategy is FULL else 40)
    assert target.rows("id, v, __dpone__load_id", "id") == [(i, "a", "SECOND") for i in range(1, 41)]
    assert target.query("SELECT count(DISTINCT __dpone__loaded_at), count(*) FROM orders") == [(1, 40)]
    after = target.query("SELECT attname::text FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0")
    assert after == before
    assert target.query("SELECT indisvalid FROM pg_index WHERE indrelid = 'orders'::regclass") == [(True,)]
    assert not target.stages()


def test_a_key_in_two_parts_is_refused(target: Target) -> None:
    """Nobody sees it before all parts are there; the commit does, says so, and the target is as it was."""
    target.load(some(1, 3, "old"), FULL)
    with closing(target.sink(FULL)) as sink:
        writer = opened(sink, FULL, parts=2)
        assert at_once(writer, [some(1, 9), some(9, 17)]) == []
        with pytest.raises(DataError, match="key") as error:
            writer.commit(sink.journal(KEY), at(1))
        assert "9" not in error.value.found
        writer.abort()
    assert target.rows("id, v", "id") == [(1, "old"), (2, "old"), (3, "old")]
    assert not target.stages()


def test_a_failed_part_leaves_the_others(target: Target) -> None:
    """Of two parts one fails half way: its rows are gone, those of the other stay, and it can be staged again."""
    with closing(target.sink(MERGE)) as sink:
        writer = opened(sink, MERGE, parts=2)
        with pytest.raises(ZeroDivisionError):
            writer.stage(Part("p0"), rows(some(1, 10), lambda batch: 1 // (batch - 1)))
        writer.stage(Part("p1"), rows(some(11, 20)))
        assert [*writer.staged()] == ["p1"]
        writer.stage(Part("p0"), rows(some(1, 10)))
        writer.commit(None, at(1))
    assert target.rows("id", "id") == [(i,) for i in range(1, 21)]


@pytest.mark.parametrize("strategy", [FULL, MERGE], ids=lambda s: s.mode)
@pytest.mark.parametrize("prepared", [True, False])
def test_another_runner_goes_on_with_staged_parts(target: Target, strategy: Strategy, prepared: bool) -> None:
    """The staging lacks key and lineage until the commit; a runner that comes after a crash, also after one between
    the making of the staging and of its bare shape, takes it up, and all rows bear the id of the load."""
    if prepared:
        with closing(target.sink(strategy)) as sink:
            writer = opened(sink, strategy, parts=2, repeatable=True, load_id="FIRST")
            writer.stage(Part("p0"), rows(some(1, 10)))
    else:
        with closing(target.sink(strategy)) as sink:
            evolve(sink, SHAPE, strategy)  # type: ignore[arg-type]
            first = load(SHAPE, strategy, parts=2, repeatable=True, load_id="FIRST")
            sink._own_tables(first)
            open_stage(sink._db, sink._target, first, True)
    with closing(target.sink(strategy)) as sink:
        writer = sink.open(load(SHAPE, strategy, parts=2, repeatable=True))
        assert (writer.load_id, [*writer.staged()]) == ("FIRST", ["p0"] if prepared else [])
        for n, part in enumerate((some(1, 10), some(11, 20))):
            writer.stage(Part(f"p{n}"), rows(part))
        writer.commit(None, at(1))
    assert target.rows("id, __dpone__load_id", "id") == [(i, "FIRST") for i in range(1, 21)]
    assert target.query("SELECT count(*) FROM orders WHERE __dpone__loaded_at IS NULL") == [(0,)]


def test_a_load_under_way_keeps_others_of_its_key_out(target: Target) -> None:
    """Connections that stage share the lock of the load: who would sweep its staging waits for it."""
    with closing(target.sink(MERGE)) as sink, closing(target.sink(MERGE, lock_timeout=0.1)) as other:
        writer = opened(sink, MERGE, parts=2)

        def intrude(batch: int) -> None:
            if batch == 1:
                with pytest.raises(SinkError, match="lock timeout"):
                    other.open(load(SHAPE, MERGE, parts=2))

        writer.stage(Part("p0"), rows(some(1, 10), intrude))
        writer.commit(None, at(1))
    assert len(target.rows("id")) == 10


# ---- whole runs


def lay(folder: Path, target: Target, strategy: str, *, by: str = "", **runtime: Any) -> Path:
    url, schema = target.server.url, target.schema
    options = {"partition": {"by": by}} if by else {}
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": url, "table": f"{schema}.source", "options": options},
        "sink": {
            "type": "postgres", "connection": url, "table": f"{schema}.orders",
            "strategy": {"mode": strategy, "key": ["id"]},
        },
        "state": {"type": "sqlite", "connection": "sqlite:///state.db"},
        "runtime": {"partitions": 4, "workers": 2, "retries": 0, **runtime},
    }  # fmt: skip
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def fill(target: Target, n: int = 2000) -> None:
    target.run(
        "DROP TABLE IF EXISTS source, orders, __dpone__loads, __dpone__staging, __dpone__parts",
        "CREATE TABLE source (id int PRIMARY KEY, v text)",
        f"INSERT INTO source SELECT i, repeat('x', 100) FROM generate_series(1, {n}) AS i",
    )


def change(target: Target) -> None:
    target.run(
        "UPDATE source SET v = 'new' WHERE id % 7 = 0", "DELETE FROM source WHERE id % 100 = 1",
        "INSERT INTO source SELECT i, 'late' FROM generate_series(9001, 9100) AS i",
    )  # fmt: skip


def same(target: Target) -> bool:
    sql = "SELECT id, v FROM {} ORDER BY id"
    return target.query(sql.format("orders")) == target.query(sql.format("source"))


@pytest.mark.parametrize(("step", "nth"), STEPS)
@pytest.mark.parametrize(("strategy", "by"), [("full_refresh", ""), ("merge", "range")])
def test_MF_05_a_load_in_parts_killed_at_any_step_is_mended(
    run: Run, tmp_path: Path, target: Target, strategy: str, by: str, step: str, nth: int
) -> None:
    """A killed run has lost its snapshot: the next one reads all parts again, never rows of two moments, and leaves
    the rows of the source as they are then, each once, and no staging."""
    fill(target)
    pipeline = lay(tmp_path, target, strategy, by=by)
    assert run(pipeline, step=step, nth=nth)["code"] == -9, step
    if step != "committed":
        change(target)
    done = run(pipeline)
    assert done["code"] == 0, (step, done)
    report = done["report"]["streams"][0]
    assert report["partitions_resumed"] == 0
    assert report["partitions"] > 3
    assert same(target), step
    assert not target.stages(), step


def test_MF_05_mixed_snapshots_go_on_with_the_parts_that_are_left(run: Run, tmp_path: Path, target: Target) -> None:
    """With ``resume: mixed_snapshots`` parts that were staged are not read again: their rows are those of the first
    snapshot, the others those of the second, and the report says so."""
    for by in ("range", "hash", "pages"):
        fill(target)
        folder = tmp_path / by
        folder.mkdir()
        pipeline = lay(folder, target, "full_refresh", by=by, workers=1, resume="mixed_snapshots")
        assert run(pipeline, step="part_staged", nth=2)["code"] == -9
        staged = {i for (i,) in target.query(f'SELECT id FROM "{target.stages().pop()}"')}
        assert 0 < len(staged) < 2000
        target.run("INSERT INTO source SELECT i, 'late' FROM generate_series(9001, 9040) AS i")
        done = run(pipeline)
        report = done["report"]["streams"][0]
        assert (done["code"], report["partitions_resumed"]) == (0, 2), (by, done)
        assert any("earlier snapshot" in told for told in report["warnings"])
        found = [i for (i,) in target.rows("id", "id")]
        assert found[:2000] == [*range(1, 2001)], by
        assert {*found[2000:]} <= {*range(9001, 9041)}
        assert 0 < len({*found[2000:]}) == len(found[2000:])
        ids = target.query("SELECT count(DISTINCT __dpone__load_id), count(__dpone__loaded_at) FROM orders")
        assert ids == [(1, len(found))]


def test_OUT_16_a_load_whose_rows_moved_to_other_pages_is_started_over(
    run: Run, tmp_path: Path, target: Target
) -> None:
    """Half of it staged by pages, then the table is rewritten: the command of the message, and the run is green with
    the rows of now."""
    fill(target)
    pipeline = lay(tmp_path, target, "full_refresh", by="pages", workers=1, resume="mixed_snapshots")
    assert run(pipeline, step="part_staged", nth=2)["code"] == -9
    change(target)
    target.run("VACUUM FULL source")
    for _ in range(2):
        stopped = run(pipeline)
        assert stopped["code"] == 3, stopped
        [stream] = stopped["report"]["streams"]
        assert "its rows are on other pages" in stream["error"]["message"]
    command = stream["error"]["message"].partition("restart the load with 'dpone ")[2].rstrip("'")
    done = CliRunner().invoke(assemble(), [*command.split(), str(pipeline)])
    assert done.exit_code == 0, done.output
    assert not target.stages()
    done = run(pipeline)
    assert (done["code"], done["report"]["streams"][0]["partitions_resumed"]) == (0, 0), done
    assert same(target)


CUT = {
    "a worker that writes": "query LIKE 'COPY%FROM STDIN%'",
    "a worker that reads": "query LIKE 'COPY%TO STDOUT%'",
    "the holder of the snapshot": "query LIKE '%pg_export_snapshot%'",
}


class Saboteur:
    """Ends, once, the server's side of a connection, when the first rows are on their way."""

    def __init__(self, strike: Callable[[], int]) -> None:
        self._strike, self.struck, self._lock = strike, 0, threading.Lock()

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        with self._lock:
            if event.step == "batch" and not self.struck:
                self.struck = self._strike()


@pytest.mark.parametrize("who", CUT)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_connection_cut_while_parts_are_moved(tmp_path: Path, target: Target, who: str, workers: int) -> None:
    """Whichever connection of a load in parts is ended by the server, the run tries again by itself, in a new snapshot,
    and the target has every row once."""
    fill(target, 20_000)
    pipeline = lay(tmp_path, target, "full_refresh", workers=workers, retries=2)

    def strike() -> int:
        sql = (
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'dpone' AND "
        )
        [(ended,)] = target.query(sql + CUT[who])
        return int(ended)

    plugins, saboteur = discover(), Saboteur(strike)
    plugins.manager.register(saboteur)
    try:
        done = Pipe(load_pipeline(str(pipeline)), plugins=plugins)
        done.execute()
    finally:
        plugins.manager.unregister(saboteur)
    assert saboteur.struck > 0
    assert done.report.exit_code == 0, done.report.to_json()
    assert same(target)
    assert not target.stages()


@pytest.mark.parametrize("workers", [1, 2])
def test_files_staged_at_once_are_in_the_order_of_their_names(tmp_path: Path, target: Target, workers: int) -> None:
    """With ``order_by: file`` the last file wins, whichever connection staged its rows and when."""
    for name in "abcd":
        text = "".join(f"{i},{name}{i}\n" for i in range(0, 40, "abcd".index(name) + 1))
        (tmp_path / f"{name}.csv").write_text("id,v\n" + text)
    strategy = {"mode": "merge", "key": ["id"], "duplicates": "last", "order_by": "file"}
    data = {
        "pipeline": "p",
        "source": {"type": "file", "path": "*.csv"},
        "sink": {"type": "postgres", "connection": target.server.url, "table": target.name, "strategy": strategy},
        "state": {"type": "file", "path": "state"},
        "runtime": {"workers": workers},
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(data))
    report = run_pipeline(tmp_path / "p.yaml")
    assert report.exit_code == 0, report
    wanted = [(i, next(f"{n}{i}" for n in "dcba" if i % ("abcd".index(n) + 1) == 0)) for i in range(40)]
    assert target.rows("id, v", "id") == wanted
