"""A target that somebody emptied between two runs (OUT-07): noticed where the journal knows that it had rows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from tests.cdc.log import delete, insert, orders, transaction, write
from tests.engine.project import ApplyProject, ChangeProject, Project, mark, rows

from dpone.config.reader import load_pipeline
from dpone.engine.rewind import rewind
from dpone.engine.undo import undo
from dpone.model.position import Position

MERGE = {"mode": "merge", "key": ["id"]}


def run_sql(project: Project, *statements: str) -> None:
    with closing(sqlite3.connect(project.database)) as db, db:
        for statement in statements:
            db.execute(statement)


def require_stop(project: Project, found: str) -> None:
    """Exit 3, the state byte-identical, however often it is tried; a plan says it, too."""
    before, journal = project.state_bytes(), project.journal()
    for options in ({}, {}, {"dry_run": True}):
        report = project.run(**options)
        [stream] = report.streams
        assert report.exit_code == 3, stream.error
        assert stream.error is not None
        assert stream.error.kind == "StateAhead"
        assert found in stream.error.message
        assert (project.state_bytes(), project.journal()) == (before, journal)


def loaded(project: Project, n: int = 10) -> Project:
    project = project.save()
    project.csv("a", rows(1, n))
    project.load()
    return project


@pytest.fixture
def project(tmp_path: Any) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("strategy", [{"mode": "append"}, MERGE, {"mode": "scd2", "key": ["id"]}])
@pytest.mark.parametrize("new", [False, True])
def test_OUT_07_an_emptied_table_stops_the_run(project: Project, strategy: Any, new: bool) -> None:
    """Whether or not there is something to load: what the journal says was loaded is gone, and would stay so."""
    project = loaded(project.but(strategy=strategy))
    run_sql(project, "DELETE FROM t")
    if new:
        project.csv("b", rows(11, 20))
    require_stop(project, "the target has lost rows: it is empty, but had rows before")


@pytest.mark.parametrize("way", ["restore", "full_refresh", "state set", "off"])
def test_OUT_16_the_advice_for_an_emptied_table_works(project: Project, way: str) -> None:
    """Each way that the message names leads to a green run, and to a green one after it."""
    project = loaded(project.but(strategy=MERGE))
    run_sql(project, "CREATE TABLE aside AS SELECT * FROM t", "DELETE FROM t")
    project.csv("b", rows(11, 20))
    require_stop(project, "--full-refresh, or choose a position with 'dpone state set'; if rows are deleted on purpose")
    if way == "restore":
        run_sql(project, "INSERT INTO t SELECT * FROM aside")
    if way == "state set":
        rewind(load_pipeline(project.pipeline), "t", None)
    if way == "off":
        project = project.but(sink_options={"verify_target": "off"})
    project.load(full_refresh=way == "full_refresh")
    assert [row[0] for row in project.rows()] == list(range(11 if way == "off" else 1, 21))
    project.csv("c", rows(21, 22))
    project.load()
    assert project.load().status == "caught_up"
    assert [row[0] for row in project.rows()][-1] == 22


def test_OUT_07_a_position_set_by_hand_was_meant(project: Project) -> None:
    """With an empty table, and a position that is not its beginning: only what comes after it is loaded."""
    project = loaded(project.but(strategy={"mode": "append"}))
    head = project.head()
    assert head is not None
    run_sql(project, "DELETE FROM t")
    rewind(load_pipeline(project.pipeline), "t", Position.from_json(dict(head.position)))
    project.csv("b", rows(11, 12))
    project.load()
    assert [row[0] for row in project.rows()] == [11, 12]


def test_OUT_07_versions_are_not_loaded_again(project: Project) -> None:
    """scd2 that closes what a whole read lacks could fill an empty table; the history would be gone for good."""
    project = loaded(project.but(strategy={"mode": "scd2", "key": ["id"], "deletes": "close"}))
    run_sql(project, "DELETE FROM t")
    require_stop(project, "it is empty")


@pytest.mark.parametrize("mode", ["full_refresh", "snapshot_diff", "replace"])
def test_OUT_07_a_strategy_that_reads_everything_loads_it_again(project: Project, mode: str) -> None:
    """Nothing is lost, so nothing stops."""
    more = {"snapshot_diff": {"key": ["id"]}, "replace": {"where": {"day": 1}}}.get(mode, {})
    project = loaded(project.but(strategy={"mode": mode, **more}))
    run_sql(project, "DELETE FROM t")
    project.csv("b", rows(11, 12))
    project.load()
    assert [row[0] for row in project.rows()] == list(range(1, 13))


def test_OUT_07_rows_removed_by_retention_are_no_stop(project: Project) -> None:
    """Old rows that somebody deletes are ordinary, as long as some are left; with ``count`` they are missed."""
    project = loaded(project)
    run_sql(project, "DELETE FROM t WHERE id < 10")
    project.csv("b", rows(11, 12))
    project.load()
    project = project.but(sink_options={"verify_target": "count"})
    project.csv("c", rows(13, 14))
    project.load()
    run_sql(project, "DELETE FROM t WHERE id = 10")
    require_stop(project, "it has 4 rows, but had 5 before")
    project.but(sink_options={"verify_target": "empty"}).load()


def test_OUT_07_count_looks_at_the_number_the_last_load_left(project: Project) -> None:
    """Rows that others add are no loss, and a merge that deletes nothing keeps the number."""
    project = loaded(project.but(strategy=MERGE, sink_options={"verify_target": "count"}))
    run_sql(project, "INSERT INTO t (id) VALUES (99)")
    project.csv("b", rows(1, 12))
    project.load()
    run_sql(project, "DELETE FROM t WHERE id = 99")
    require_stop(project, "it has 12 rows, but had 13 before")


def test_OUT_07_a_journal_of_an_older_version_knows_no_number(project: Project) -> None:
    """Its entries do not say how they left the table: the next load says it, and nothing stops before."""
    project = loaded(project)
    [(text,)] = project.query('SELECT "rows" FROM __dpone__loads')
    counts = json.loads(text)
    assert (counts.pop("held"), counts.pop("target")) == (1, "t")
    run_sql(project, f"UPDATE __dpone__loads SET \"rows\" = '{json.dumps(counts)}'", "DELETE FROM t")
    project.csv("b", rows(11, 12))
    project.load()
    run_sql(project, "DELETE FROM t")
    require_stop(project, "it is empty")


@pytest.mark.parametrize(("look", "left"), [("empty", 0), ("count", 4)])
def test_OUT_07_a_load_that_took_rows_out_is_no_stop(project: Project, look: str, left: int) -> None:
    """Two streams share a table: what the load of one took out, the other does not miss. What nobody took out, it
    does."""
    project = loaded(project.but(sink_options={"verify_target": look}))
    other = project.but(strategy={"mode": "replace", "where": {"day": 1}, "allow_empty": True}, source={
        "type": "file", "path": "other/*.csv"
    }, sink_options={"adopt_existing": True, "verify_target": look})  # fmt: skip
    (project.folder / "other").mkdir()
    (project.folder / "other" / "x.csv").write_text("id,day,name,note\n" + "".join(f"{n},1,,\n" for n in range(left)))
    assert other.load().rows.deleted == 10
    project.csv("b", rows(11, 12))
    project.save().load()
    run_sql(project, "DELETE FROM t")
    require_stop(project, "it is empty" if look == "empty" else "it has 0 rows, but had 6 before")


def test_OUT_07_an_undone_load_is_no_stop(project: Project) -> None:
    """A load that was taken back leaves an empty table on purpose."""
    project = loaded(project.but(sink_options={"undo": {"loads": 3}}))
    head = project.head()
    assert head is not None
    undo(project.pipeline, "t", head.load_id)
    assert project.rows() == []
    project.load()
    assert len(project.rows()) == 10


# -- change streams ---------------------------------------------------------------------------------------------------


def test_OUT_07_each_table_of_a_change_stream_is_looked_at(tmp_path: Any) -> None:
    """One of two tables is emptied: the window with a change of it stops, and writes neither."""
    project = ApplyProject(tmp_path, strategy={"mode": "cdc_apply"}).save()
    write(project.log, orders(1, 9, "01"))
    project.load()
    run_sql(project, "DELETE FROM landing_customers")
    write(project.log, orders(10, 18, "02"))
    before = project.query("SELECT COUNT(*) FROM landing_orders")
    require_stop(project, "the target has lost rows: it is empty")
    assert project.query("SELECT COUNT(*) FROM landing_orders") == before
    project.load(full_refresh=True)
    assert project.load().status == "caught_up"


def test_OUT_07_a_table_whose_rows_the_source_deleted_is_no_stop(tmp_path: Any) -> None:
    """The last load left it empty: there is nothing to miss."""
    project = ApplyProject(tmp_path, strategy={"mode": "cdc_apply"}).save()
    write(project.log, transaction("01", insert("orders", {"id": 1}, a=1)))
    project.load()
    write(project.log, transaction("02", delete("orders", {"id": 1})))
    project.load()
    assert project.query("SELECT COUNT(*) FROM landing_orders") == [(0,)]
    write(project.log, transaction("03", insert("orders", {"id": 2}, a=2)))
    project.load()
    assert project.query("SELECT id FROM landing_orders") == [(2,)]


def test_OUT_07_an_emptied_history_stops(tmp_path: Any) -> None:
    """Changes that were appended are gone."""
    project = ChangeProject(tmp_path).save()
    write(project.log, orders(1, 9, "01"))
    project.load()
    run_sql(project, "DELETE FROM landing_orders")
    write(project.log, orders(10, 18, "02"))
    require_stop(project, "it is empty")


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["restore", "full_refresh", "state set"])
@pytest.mark.parametrize("all_", [True, False])
def test_OUT_07_files_that_are_gone_stop_the_run(tmp_path: Any, way: str, all_: bool) -> None:
    """A folder lacks files of its manifest; each way that the message names leads to a green run."""
    project = loaded(Project(tmp_path, target="file"))
    project.csv("b", rows(11, 12))
    project.load()
    parts = sorted(project.out.glob("part-*"))
    gone = parts if all_ else parts[:1]
    kept = [(part, part.read_bytes()) for part in gone]
    for part in gone:
        part.unlink()
    project.csv("c", rows(13, 14))
    require_stop(project, f"of 2 files in its manifest {'2 are' if all_ else '1 is'} missing")
    if way == "restore":
        for part, content in kept:
            part.write_bytes(content)
    if way == "state set":
        head = project.head()
        assert head is not None
        [stream] = project.run(dry_run=True).streams
        rewind(load_pipeline(project.pipeline), stream.stream, Position.from_json(dict(head.position)))
    project.load(full_refresh=way == "full_refresh")
    left = [11, 12] if not all_ else []
    assert [row[0] for row in project.rows()] == ([*left, 13, 14] if way == "state set" else list(range(1, 15)))
    assert project.load().status == "caught_up"
    assert mark(project.head()) == mark(project.state())
