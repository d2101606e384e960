"""Three tables of one slot into one PostgreSQL database: one load, one transaction, one acknowledgement."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from attrs import evolve as replace
from click.testing import CliRunner
from tests.patience import until
from tests.postgres.proxy import proxy
from tests.postgres.stream import ChangeSource
from tests.postgres.target import Target
from tests.postgres.test_cdc_runs import saved
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture
from tests.sqlite.target import at, evolve, load, rows

from dpone.cli.main import assemble
from dpone.config.reader import load_pipeline
from dpone.contract import Part, Receipt
from dpone.engine.rewind import rewind
from dpone.engine.run import run as run_pipeline
from dpone.errors import SinkError
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone_postgres.database import PostgresDatabase
from dpone_postgres.sink import PostgresSink

pytestmark = pytest.mark.postgres

TABLES = ("accounts", "cards", "funds")
KILLS = (("part_staged", 2), ("staged", 1), ("commit_started", 1), ("committed", 1), ("state_saved", 1))
TOTAL = "SELECT sum(amount) FROM (" + " UNION ALL ".join(f"SELECT amount FROM {{0}}{t}" for t in TABLES) + ") AS x"


def begin(source: ChangeSource) -> None:
    """Three tables with the same total for ever: what one loses the others gain, in one transaction."""
    source.drop_slot()
    own = ", ".join([*TABLES, *(f"landing_{t}" for t in TABLES)])
    source.run(
        f"DROP PUBLICATION IF EXISTS {source.schema}",
        f"DROP TABLE IF EXISTS {own}, __dpone__loads, __dpone__staging, __dpone__parts",
        *(f"CREATE TABLE {t} (id int PRIMARY KEY, amount int NOT NULL, note text)" for t in TABLES),
        *(f"INSERT INTO {t} SELECT i, 100, 'first' FROM generate_series(1, 10) AS i" for t in TABLES),
    )
    source.publish(*TABLES)


def move(source: ChangeSource, n: int = 1) -> None:
    """A transaction that touches all of them, and one that touches the last alone."""
    one, two, three = TABLES
    source.run(
        f"BEGIN; UPDATE {one} SET amount = amount - 20, note = 'moved' WHERE id = {n}; "
        f"INSERT INTO {two} VALUES ({100 + n}, 15, 'new'); UPDATE {three} SET id = {200 + n} WHERE id = {n}; "
        f"UPDATE {three} SET amount = amount + 5 WHERE id = {200 + n}; COMMIT",
        f"UPDATE {three} SET note = 'alone' WHERE id = {5 + n % 5}",
    )


def lay(folder: Path, source: ChangeSource, url: str = "") -> Path:
    server, schema = source.server.url, source.schema
    options = {"incremental": {"by": "cdc"}, "slot": source.slot, "publication": schema}
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": server, "options": options, "table": f"{schema}.*"},
        "sink": {
            "type": "postgres", "connection": url or server, "table": f"{schema}.landing_{{table}}",
            "strategy": {"mode": "cdc_apply"},
        },
        "state": {"type": "sqlite", "connection": "sqlite:///state.db"},
        "runtime": {"retries": 0 if not url else 2},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def require_equal(source: ChangeSource, why: object) -> None:
    for table in TABLES:
        columns = "id, amount, note"
        found = source.query(f"SELECT {columns} FROM landing_{table} ORDER BY id")
        assert found == source.query(f"SELECT {columns} FROM {table} ORDER BY id"), (why, table)


def journal(source: ChangeSource) -> list[tuple[Any, ...]]:
    """The stream's own entries: those of its tables have longer keys."""
    sql = "SELECT load_id, count(*) FILTER (WHERE key ~ %s), count(*) FROM __dpone__loads GROUP BY 1 ORDER BY min(seq)"
    return source.query(sql.replace("%s", r"'\|[^|]*\.(accounts|cards|funds)$'"))


def fingerprint(source: ChangeSource) -> list[tuple[Any, ...]]:
    """Every row version of the targets, by table."""
    return [
        row
        for t in (f"landing_{t}" for t in TABLES)
        for row in source.query(f"SELECT '{t}', ctid::text, xmin::text FROM {t} ORDER BY 2")
    ]


@pytest.mark.parametrize(
    ("moment", "step", "nth"), [*(("stream", *kill) for kill in KILLS), *(("snapshot", *kill) for kill in KILLS[2:4])]
)
def test_PG_01_a_run_of_many_tables_killed_at_any_step_is_mended(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
    moment: str,
    step: str,
    nth: int,
) -> None:
    """Wherever a run is killed, readers have all tables as they were or all as they are to be; the next run leaves the
    rows of the source, with one journal entry per load of the stream and one of each table it brought rows for."""
    begin(source)
    pipeline = lay(tmp_path, source)
    if moment == "stream":
        assert run(pipeline)["code"] == 0
        move(source)
    slot = source.confirmed()
    assert run(pipeline, step=step, nth=nth)["code"] == -9, step
    assert source.confirmed() == slot, step
    whole = source.query("SELECT 1 FROM pg_tables WHERE tablename = 'landing_funds' AND schemaname = current_schema")
    if whole and source.query("SELECT 1 FROM landing_funds"):
        assert source.query(TOTAL.format("landing_")) == [(3000,)], step
    move(source, 2)
    if moment == "snapshot" or step in ("part_staged", "staged", "commit_started"):
        assert run(pipeline)["code"] == 0, step
    assert run(pipeline)["code"] == 0, step
    require_equal(source, step)
    entries = [entry[1:] for entry in journal(source)]
    assert (entries[0], {*entries} - {(3, 4)}) in (((3, 4), set()), ((3, 4), {(0, 1)})), step  # or only the position
    assert source.confirmed() == saved(pipeline.parent)["value"]["lsn"], step


@pytest.mark.parametrize("fault", ["answer", "request"])
def test_a_connection_lost_at_any_commit_of_many_tables(tmp_path: Path, source: ChangeSource, fault: Any) -> None:
    """Whether the server had the COMMIT or not, at whichever step: the retries bring every change once, to all tables
    or to none, and no staging outlives the next load."""
    begin(source)
    server, folder = source.server, tmp_path / "counted"
    with proxy((server.host, server.port)) as way:
        assert run_pipeline(lay(folder, source, server.at(way.port))).exit_code == 0
        move(source)
        snapshot, _ = way.commits, run_pipeline(folder / "pipeline.yaml")
        commits = way.commits - snapshot
    assert commits > 4
    for nth in (2, commits - 1, commits):  # on the way, the load's own, that of the sweep after it
        begin(source)
        with proxy((server.host, server.port)) as way:
            pipeline = lay(tmp_path, source, server.at(way.port))
            assert run_pipeline(pipeline).exit_code == 0
            move(source)
            way.nth, way.fault = way.commits + nth, fault
            report = run_pipeline(pipeline)
            assert report.exit_code == 0, (nth, report.streams[0].error)
            require_equal(source, nth)
            assert [entry[1:] for entry in journal(source)] == [(3, 4)] * 2, nth
            source.run(f"UPDATE {TABLES[-1]} SET note = 'again' WHERE id = 3")  # the other tables have no load
            assert run_pipeline(pipeline).exit_code == 0, nth
        require_equal(source, nth)
        assert not source.query("SELECT 1 FROM __dpone__staging"), nth
        assert not source.query("SELECT 1 FROM pg_tables WHERE schemaname = current_schema AND tablename ~ 'stage_'"), (
            nth
        )


def test_a_second_run_changes_no_row(tmp_path: Path, source: ChangeSource) -> None:
    """With nothing new in the tables a run writes nothing, not even for the WAL that the last run has written; neither
    does it if the state is lost, for the journal of the sink knows the position."""
    begin(source)
    pipeline = lay(tmp_path, source)
    assert run_pipeline(pipeline).exit_code == 0
    move(source)
    assert run_pipeline(pipeline).streams[0].rows.inserted == 2
    stood = fingerprint(source)
    for _ in range(2):
        [again] = run_pipeline(pipeline).streams
        assert (again.error, again.rows.read, again.rows.inserted, again.rows.updated) == (None, 0, 0, 0)
        assert fingerprint(source) == stood
        assert [entry[1:] for entry in journal(source)][:2] == [(3, 4)] * 2
        assert len(journal(source)) == 2
        (tmp_path / "state.db").unlink()
    require_equal(source, "the last run")


def test_a_window_that_is_read_again_changes_no_row(tmp_path: Path, source: ChangeSource) -> None:
    """Set back to the position before it, the stream brings the same changes again, and no row of a target is written:
    they are what the rows are already."""
    begin(source)
    pipeline = lay(tmp_path, source)
    assert run_pipeline(pipeline).exit_code == 0
    source.run(f"SELECT pg_copy_logical_replication_slot('{source.slot}', '{source.schema}_copy')")
    try:
        move(source)
        [first] = run_pipeline(pipeline).streams
        source.drop_slot()
        sql = "SELECT pg_copy_logical_replication_slot"
        source.run(f"{sql}('{source.schema}_copy', '{source.slot}')")
        stood = fingerprint(source)
        assert first.position_before is not None
        back = Position.from_json(first.position_before)
        rewind(load_pipeline(pipeline), first.stream, back)
        assert run_pipeline(pipeline).exit_code == 0
        assert fingerprint(source) == stood
    finally:
        source.run(f"SELECT pg_drop_replication_slot('{source.schema}_copy')")


def test_a_table_that_refuses_its_rows_holds_all_of_them_back(tmp_path: Path, source: ChangeSource) -> None:
    """If the last of the tables cannot take its rows, no other has them, and neither position nor slot moves."""
    begin(source)
    pipeline = lay(tmp_path, source)
    assert run_pipeline(pipeline).exit_code == 0
    move(source)
    source.run("ALTER TABLE landing_funds ADD CONSTRAINT no CHECK (note <> 'alone')")
    stood, slot = fingerprint(source), source.confirmed()
    for _ in range(2):
        report = run_pipeline(pipeline)
        assert report.exit_code != 0
        assert "constraint no" in str(report.streams[0].error)
        assert (fingerprint(source), source.confirmed()) == (stood, slot)
    source.run("ALTER TABLE landing_funds DROP CONSTRAINT no")
    assert run_pipeline(pipeline).exit_code == 0
    require_equal(source, "once it may")


# ---- the sink alone


MERGE = Strategy("merge", key="id")
NAMES = ("a", "b", "c")


def table(n: int) -> pa.Table:
    return pa.table({"id": pa.array(range(50), pa.int64()), "v": pa.array([n] * 50, pa.int64())})


def commit(target: Target, key: str, order: tuple[str, ...], n: int) -> Receipt:
    """Rows for several tables in one commit, whose writers come in a stated order."""
    with ExitStack() as stack:
        leader = stack.enter_context(closing(replace(target, table="leader").sink(MERGE)))
        writers = []
        for name in order:
            sink = leader.for_table(replace(leader._spec, table=Name((target.schema, name))))
            evolve(sink, table(n).schema, MERGE)  # type: ignore[arg-type]
            writer = sink.open(load(table(n).schema, MERGE, key=f"{key}|{name}"))
            writer.stage(Part("all"), rows(table(n)))
            writers.append(writer)
        head = leader.journal(key)
        return leader.open(load(None, MERGE, key=key)).commit(head, at(n), writers)


def test_LS_08_targets_are_locked_in_one_order(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order the tables of a load come in, its commit asks for the locks of the targets in the same one."""
    asked: list[str] = []
    real = PostgresDatabase.lock

    def lock(db: PostgresDatabase, text: str) -> None:
        asked.append(text)
        real(db, text)

    monkeypatch.setattr(PostgresDatabase, "lock", lock)
    for n, order in enumerate([NAMES, NAMES[::-1], ("b", "c", "a")]):
        commit(target, "one", order, n)
    wanted = [f"target {target.schema}.{name}" for name in NAMES]
    assert [text for text in asked if text in wanted] == wanted * 3


def test_LS_08_loads_of_the_same_tables_in_other_orders_do_not_deadlock(target: Target) -> None:
    """Six loads of three tables at once, half of them the other way round: the server sees no deadlock, and the tables
    agree on who was last."""
    commit(target, "first", NAMES, 0)
    sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    others = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'dpone' AND datname = current_database()"
    until(lambda: not target.query(others), "sessions of earlier tests, which report their deadlocks at their end")
    before = target.query(sql)
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(commit, target, f"key {n}", NAMES[:: 1 if n % 2 else -1], n) for n in range(1, 7)]
        assert [one.result(60).updated for one in done] == [150] * 6
    target.run("SELECT pg_stat_force_next_flush()")
    assert target.query(sql) == before
    assert len({tuple(target.query(f"SELECT DISTINCT v FROM {name}")) for name in NAMES}) == 1


def test_all_tables_go_over_one_connection(target: Target) -> None:
    """Sinks beside each other have one connection, which any of them closes for all; each names its own table when
    something fails."""
    with closing(replace(target, table="leader").sink(MERGE)) as sink:
        beside = sink.for_table(replace(sink._spec, table=Name((target.schema, "other"))))
        assert isinstance(beside, PostgresSink)
        assert beside._db.connection() is sink._db.connection()
        with pytest.raises(SinkError, match=rf"write {target.schema}\.other at"):
            beside._db.execute("SELECT * FROM nothing")
        beside.close()
        assert sink._db._session.db is None


def test_OUT_16_a_table_whose_key_is_json_can_be_left_out_of_a_stream(tmp_path: Path, source: ChangeSource) -> None:
    """One table that cannot be applied is named, and the way that the message offers lets the others go on."""
    begin(source)
    path = lay(tmp_path, source)
    source.run(
        "CREATE TABLE odd (k jsonb PRIMARY KEY)", f"ALTER PUBLICATION {source.schema} ADD TABLE odd",
        "INSERT INTO odd VALUES ('1')",
    )  # fmt: skip
    move(source)
    data = yaml.safe_load(path.read_text())
    data["sink"] |= {"type": "sqlite", "connection": "sqlite:///copy.db", "table": "landing_{table}"}
    path.write_text(yaml.safe_dump(data))
    [stream] = run_pipeline(path).streams
    assert stream.error is not None
    assert (stream.error.kind, stream.error.exit_code) == ("PipelineMismatch", 3)
    name = f"{source.schema}.odd"
    assert (
        f"table {name}: its type is json, whose values have no order; change the key of the table; "
        in stream.error.message
    )
    assert f"; or exclude the table with source.exclude: [{name}]" in stream.error.message
    data["source"]["exclude"] = [name]
    path.write_text(yaml.safe_dump(data))
    [stream] = run_pipeline(path).streams
    assert stream.error is None, stream.error
    with closing(sqlite3.connect(tmp_path / "copy.db")) as db:
        for table in TABLES:
            sql = f"SELECT id, amount, note FROM {{}}{table} ORDER BY id"
            assert db.execute(sql.format("landing_")).fetchall() == source.query(sql.format("")), table


def test_check_speaks_of_the_tables_of_a_stream_and_of_none_named_by_its_pattern(
    tmp_path: Path, source: ChangeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tables there are is known when their changes come; none is called after the pattern."""
    begin(source)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(assemble(), ["check", "--connect", str(lay(tmp_path, source))])
    assert f"{source.schema}.landing_{{table}}, for each table of the stream" in done.output
    assert "will be created" not in done.output.replace("state.db (will be created)", "")
