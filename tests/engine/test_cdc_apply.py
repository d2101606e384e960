"""cdc_apply from a change log to its targets: what a run leaves equals a dict to which plain Python applied the log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cdc.log import delete, insert, orders, transaction, update, write
from tests.engine.project import KILLED, TABLES, ApplyProject, ChangeProject, applied, memory_folder, with_plugins

from dpone.config.reader import load_pipeline
from dpone.engine.run import run
from dpone.engine.undo import undo
from dpone.errors import SinkError, StateError
from dpone.model.position import Position
from dpone.ops.state import reposition

TRUNCATE = {"op": "truncate", "table": "orders"}


@pytest.fixture
def shop(tmp_path: Path) -> ApplyProject:
    """Applies the changes of all tables to ``landing_<table>``."""
    return ApplyProject(tmp_path / "c", {"mode": "cdc_apply"}).save()


def limited(project: ApplyProject, limit: int | None, **changes: Any) -> ApplyProject:
    incremental = {"by": "cdc"} if limit is None else {"by": "cdc", "limit": limit}
    return project.but(source={**project.source, "options": {"incremental": incremental}}, **changes)


def require(project: ApplyProject, **policies: str) -> None:
    """The targets hold what the log makes of nothing."""
    wanted = applied(project.log.read_text().splitlines(), **policies)
    assert {table: project.now(table) for table in TABLES} == {table: wanted.get(table, {}) for table in TABLES}


# -- one commit, whole rows -----------------------------------------------------------------------------------------


def test_many_tables_in_one_commit(shop: ApplyProject) -> None:
    """Rows of all tables as they are after the last commit, under one load id; nothing new is caught up."""
    write(shop.log, orders(1, 30, "01"), transaction("02", update("orders", {"id": 3}, note="new"),
                                                      delete("customers", {"cid": 6})))  # fmt: skip
    stream = shop.load()
    require(shop)
    assert (stream.rows.read, stream.rows.inserted, stream.rows.deleted) == (42, 39, 0)
    [entry] = shop.journal()
    assert {row[-1] for row in shop.lineage()} == {entry.load_id}
    write(shop.log, transaction("03", delete("orders", {"id": 1}), update("customers", {"cid": 3}, city="x")))
    second = shop.load()
    assert (second.rows.inserted, second.rows.updated, second.rows.deleted) == (0, 1, 1)
    require(shop)
    assert shop.load().status == "caught_up"
    assert len(shop.journal()) == 2


def test_one_table_of_many(shop: ApplyProject) -> None:
    """A stream that names one table leaves the others alone."""
    one = shop.but(source={**shop.source, "table": "orders"}, table="landing_orders")
    write(one.log, orders(1, 9, "01"))
    one.load()
    assert one.now("orders") == applied(one.log.read_text().splitlines())["orders"]
    assert "landing_customers" not in one.tables()


def test_through_the_command_line(shop: ApplyProject) -> None:
    """plan makes nothing and says the DDL; run loads; a run of nothing new says so."""
    write(shop.log, orders(1, 9, "01"))
    planned = shop.dpone("plan", "pipeline.yaml")
    assert (planned.code, "CREATE TABLE" in planned.out, shop.database.exists()) == (0, True, False)
    assert shop.dpone("run", "pipeline.yaml").code == 0
    require(shop)
    assert "caught up" in shop.dpone("run", "pipeline.yaml").out


# -- policies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deletes", "truncate"),
    [("hard", "apply"), ("hard", "ignore"), ("soft", "apply"), ("soft", "ignore"), ("ignore", "ignore")],
)
@pytest.mark.parametrize("limit", [None, 1])
def test_deletes_and_truncates_by_policy(shop: ApplyProject, deletes: str, truncate: str, limit: int | None) -> None:
    """Deletes and truncates by policy, in one window or in several."""
    policies = {"deletes": deletes, "truncate": truncate}
    project = limited(shop, limit, strategy={"mode": "cdc_apply", **policies})
    write(
        project.log,
        transaction("01", *(insert("orders", {"id": i}, note=f"n{i}") for i in range(1, 6)), at="2026-01-01T00:00:00Z"),
        transaction(
            "02", delete("orders", {"id": 2}), update("orders", {"id": 3}, note="x"), at="2026-01-02T00:00:00Z"
        ),
        transaction("03", TRUNCATE, insert("orders", {"id": 4}, note="again"), at="2026-01-03T00:00:00Z"),
        transaction("04", insert("orders", {"id": 2}, other="back"), at="2026-01-04T00:00:00Z"),
    )
    while not project.load().caught_up:
        pass
    require(project, **policies)
    if deletes == "soft":
        gone = project.query("SELECT id, __dpone__deleted_at FROM landing_orders WHERE __dpone__deleted_at IS NOT NULL")
        times = {1: "03", 3: "03", 5: "03"} if truncate == "apply" else {}
        assert dict(gone) == {i: f"2026-01-{day} 00:00:00.000000+00:00" for i, day in times.items()}


def test_a_truncate_stops_unless_a_policy_is_stated(shop: ApplyProject) -> None:
    """Exit 3, on every rerun, with no table touched; the policy that the message names goes on."""
    write(shop.log, orders(1, 9, "01"))
    shop.load()
    write(shop.log, transaction("02", insert("customers", {"cid": 99}, city="x"), TRUNCATE))
    before = shop.state_bytes(), shop.journal(), shop.rows()
    for _ in range(2):
        report = shop.run()
        assert (report.exit_code, report.streams[0].error.kind) == (3, "DeletesRefused")
        assert "strategy.truncate: apply" in report.streams[0].error.message
        assert (shop.state_bytes(), shop.journal(), shop.rows(), shop.staging()) == (*before, [])
    shop.but(strategy={"mode": "cdc_apply", "truncate": "apply"}).load()
    require(shop, truncate="apply")


# -- values and keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1])
def test_values_left_out_keys_that_change_and_late_columns(shop: ApplyProject, limit: int | None) -> None:
    """PG-09, PG-11: whether the row is in the window or in the target."""
    project = limited(shop, limit)
    write(
        project.log,
        transaction("01", insert("orders", {"id": 1}, a="one", b=1), insert("orders", {"id": 2}, a="two", b=2)),
        transaction("02", update("orders", {"id": 1}, id=10, b=None)),
        transaction("03", update("orders", {"id": 10}, c="late"), update("orders", {"id": 2}, id=1)),
        transaction("04", insert("orders", {"id": 2}, a="anew"), update("orders", {"id": 1}, b=3)),
    )
    streams = [project.load()]
    while not streams[-1].caught_up:
        streams.append(project.load())
    changes = [change for stream in streams for change in stream.schema_changes]
    assert ("landing_orders: add c string" in changes) == (limit == 1)
    require(project)
    assert project.now("orders") == {
        1: {"id": 1, "a": "two", "b": 3},
        2: {"id": 2, "a": "anew"},
        10: {"id": 10, "a": "one", "c": "late"},
    }


def test_an_update_of_a_row_that_is_not_there_stops(shop: ApplyProject) -> None:
    """Values that nobody knows are never made NULL: nothing of any table is changed, and no value is in the message."""
    write(shop.log, orders(1, 9, "01"))
    shop.load()
    write(shop.log, transaction("02", insert("customers", {"cid": 50}, city="x"),
                                update("orders", {"id": 777}, note="hush-hush")))  # fmt: skip
    before = shop.state_bytes(), shop.journal(), shop.rows()
    report = shop.run()
    assert report.exit_code == 1
    assert "of 1 update" in report.streams[0].error.message
    assert "hush" not in report.streams[0].error.message
    assert (shop.state_bytes(), shop.journal(), shop.rows(), shop.staging()) == (*before, [])


# -- again ----------------------------------------------------------------------------------------------------------


def test_a_commit_that_fails_is_gone_on_with(shop: ApplyProject, faulty: ModuleType) -> None:
    """A retry applies what is staged; a run that failed for good leaves nothing, and the next has all once."""
    write(shop.log, orders(1, 30, "01"))
    faulty.faults["commit"] = [SinkError("commit", "no", "wait")]
    [stream] = run(shop.pipeline, plugins=with_plugins(**faulty.PLUGINS)).streams
    assert (stream.status, shop.journal(), shop.staging()) == ("failed", [], [])
    retrying = shop.but(runtime={"retries": 1})
    faulty.faults["commit"] = [ConnectionError("cut")]
    faulty.log.clear()
    [stream] = run(retrying.pipeline, plugins=with_plugins(**faulty.PLUGINS)).streams
    assert (stream.status, stream.partitions_resumed, faulty.log.count("stage")) == ("loaded", 2, 2)
    require(shop)


def test_a_state_that_is_not_saved_is_adopted(shop: ApplyProject, faulty: ModuleType) -> None:
    """The rows are in, the state is not: the next run takes the journal's word and applies nothing twice."""
    write(shop.log, orders(1, 9, "01"), transaction("02", update("orders", {"id": 1}, id=100)))
    faulty.faults["save"] = [StateError("save", "no", "wait")]
    assert run(shop.pipeline, plugins=with_plugins(**faulty.PLUGINS)).streams[0].status == "failed"
    before = shop.rows()
    assert shop.load().status == "caught_up"
    assert shop.rows() == before
    assert shop.state() == shop.head()


def test_a_log_that_is_delivered_again_changes_nothing(shop: ApplyProject) -> None:
    """Transactions that were loaded and come once more are filtered: rows deleted since do not come back."""
    first = transaction("01", insert("orders", {"id": 1}, a="x"), insert("orders", {"id": 2}, a="y"))
    write(shop.log, first, transaction("02", delete("orders", {"id": 1})))
    shop.load()
    write(shop.log, first, transaction("03", update("orders", {"id": 2}, a="z")))
    stream = shop.load()
    assert (stream.rows.filtered, shop.now("orders")) == (2, {2: {"id": 2, "a": "z"}})


def test_a_position_set_back_applies_the_same_changes_again(shop: ApplyProject) -> None:
    """'dpone state set': the changes behind it meet rows that have them already; the end is the same."""
    write(shop.log, orders(1, 9, "01"))
    first = Position.from_json(shop.load().position_after)
    write(shop.log, transaction("02", update("orders", {"id": 1}, note="n"), delete("orders", {"id": 2}),
                                insert("orders", {"id": 20}, note="m")))  # fmt: skip
    shop.load()
    before = shop.rows()
    reposition(load_pipeline(shop.pipeline), "p", first)
    assert shop.load().rows.read == 3
    assert [row[:-1] for row in shop.lineage()] == before
    require(shop)


def test_a_full_refresh_keeps_rows_that_no_delete_takes(shop: ApplyProject) -> None:
    """deletes: ignore means that no row ever goes; those the log lacks stay beside those it brings."""
    project = shop.but(strategy={"mode": "cdc_apply", "deletes": "ignore"})
    write(project.log, orders(1, 3, "01"))
    project.load()
    write(project.log, orders(3, 5, "01"), mode="w")
    project.load(full_refresh=True)
    assert sorted(project.now("orders")) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("deletes", ["hard", "soft"])
def test_a_full_refresh_builds_the_targets_anew(shop: ApplyProject, deletes: str) -> None:
    """A log that was rewritten: the targets hold what it says from its beginning, and no row of before that lives."""
    project = shop.but(strategy={"mode": "cdc_apply", "deletes": deletes})
    write(project.log, orders(1, 30, "01"))
    project.load()
    write(project.log, orders(21, 40, "01"), transaction("02", delete("orders", {"id": 22})), mode="w")
    assert project.run().exit_code == 3
    stream = project.load(full_refresh=True)
    require(project, deletes=deletes)
    assert stream.rows.inserted + stream.rows.deleted > 0
    assert {row[-1] for row in project.lineage()} == {stream.load_id}
    assert [entry.epoch for entry in project.journal()] == [0, 1]
    assert project.load().status == "caught_up"


def test_a_full_refresh_that_fails_leaves_the_rows(shop: ApplyProject) -> None:
    """The targets are emptied in the commit that fills them, and not before."""
    write(shop.log, orders(1, 9, "01"))
    shop.load()
    before = shop.rows()
    changes = update("orders", {"id": 1}, name="n"), update("orders", {"id": 2}, note="n")
    write(shop.log, transaction("01", *changes), mode="w")
    report = shop.run(full_refresh=True)
    assert report.exit_code == 1
    assert "start the log with an insert of each existing row" in report.streams[0].error.message
    assert (shop.rows(), shop.staging()) == (before, [])


def test_staging_of_a_table_that_never_comes_again_is_swept(shop: ApplyProject) -> None:
    """Killed when all was staged; then the log is another, which lacks one of the tables."""
    write(shop.log, orders(1, 9, "01"))
    with shop.child(step="staged") as killed:
        killed.communicate(timeout=60)
    assert (killed.returncode, len(shop.staging()) > 2) == (KILLED, True)
    write(shop.log, transaction("01", insert("orders", {"id": 1}, name="n", note="x")), mode="w")
    shop.load()
    assert shop.staging() == []
    require(shop)


@pytest.mark.parametrize("full_refresh", [False, True])
@pytest.mark.parametrize("modes", [("cdc_apply", "append"), ("append", "cdc_apply")])
def test_a_history_is_no_table_of_rows(shop: ApplyProject, modes: tuple[str, str], full_refresh: bool) -> None:
    """append and cdc_apply do not take turns on one target: refused before a column is added; the first goes on."""
    columns = "SELECT name FROM pragma_table_info('landing_orders')"
    first, second = (ChangeProject(shop.folder, {"mode": mode}) for mode in modes)
    write(first.log, orders(1, 9, "01"))
    first.save().load()
    before = first.query(columns), first.query("SELECT * FROM landing_orders"), first.journal()
    write(first.log, transaction("02", insert("orders", {"id": 10}, name="n", note="x")))
    lenient = second.but(sink_options={"schema_evolution": {"on_missing_column": "ignore"}})
    report = lenient.run(full_refresh=full_refresh)
    assert (report.exit_code, report.streams[0].error.kind) == (3, "SchemaBreak")
    assert "or load into another table" in report.streams[0].error.message
    assert (first.query(columns), first.query("SELECT * FROM landing_orders"), first.journal()) == before
    first.save().load()
    assert first.query("SELECT COUNT(*) FROM landing_orders") == [(10,)]


def test_names_that_differ_by_case_are_one_table(shop: ApplyProject) -> None:
    """SQLite takes Orders and orders for one table: refused before anything is made."""
    write(shop.log, transaction("01", insert("orders", {"id": 1}), insert("Orders", {"id": 2})))
    report = shop.run()
    assert report.exit_code == 3
    assert "Orders and orders have the same target table" in report.streams[0].error.message
    assert "landing_orders" not in shop.tables()


@pytest.mark.parametrize("limit", [None, 1])
def test_a_truncate_of_a_table_that_was_never_seen_is_nothing(shop: ApplyProject, limit: int | None) -> None:
    """Neither its key nor its columns are known, and it has no rows: the stream goes on."""
    project = limited(shop, limit, strategy={"mode": "cdc_apply", "truncate": "apply"})
    write(project.log, transaction("01", TRUNCATE), orders(1, 9, "02"))
    while not project.load().caught_up:
        pass
    require(project, truncate="apply")


def test_undo_takes_changes_back(shop: ApplyProject) -> None:
    """One table: rows changed, moved and deleted are as before, and the next run applies the changes again."""
    source = {**shop.source, "table": "orders"}
    one = shop.but(source=source, table="landing_orders", sink_options={"undo": {"loads": 2}})
    write(one.log, orders(1, 9, "01"))
    one.load()
    before = one.now("orders")
    write(one.log, transaction("02", update("orders", {"id": 1}, note="x"), update("orders", {"id": 2}, id=22),
                               delete("orders", {"id": 3}), insert("orders", {"id": 30}, note="y")))  # fmt: skip
    load_id = one.load().load_id
    after = one.now("orders")
    undo(one.pipeline, "landing_orders", str(load_id))
    assert one.now("orders") == before
    assert one.load().rows.read == 4
    assert one.now("orders") == after


# -- whatever the windows -------------------------------------------------------------------------------------------

_LATE = ("a", "b", "c")


@st.composite
def logs(draw: st.DrawFn) -> list[str]:
    """Transactions that fit what is there: inserts of new keys, the rest on keys that live."""
    live: dict[str, set[int]] = {table: set() for table in TABLES}
    made = []
    for number in range(draw(st.integers(1, 8))):
        changes = [draw(_change(live, _LATE[: 1 + number // 2])) for _ in range(draw(st.integers(1, 5)))]
        made.append(transaction(f"{number:02}", *changes))
    return made


@st.composite
def _change(draw: st.DrawFn, live: dict[str, set[int]], names: tuple[str, ...]) -> Mapping[str, Any]:
    table = draw(st.sampled_from(TABLES))
    key = "id" if table == "orders" else "cid"
    kinds = ["insert"] * (len(live[table]) < 9) + ["update", "update", "move", "delete"] * bool(live[table])
    kind = draw(st.sampled_from([*kinds, "truncate"]))
    if kind == "truncate":
        live[table].clear()
        return {"op": "truncate", "table": table}
    values = draw(st.dictionaries(st.sampled_from(names), st.sampled_from([None, "x", "y", "z"])))
    if kind == "insert":
        live[table].add(new := draw(_free(live[table])))
        return insert(table, {key: new}, **values)
    old = draw(st.sampled_from(sorted(live[table])))
    if kind == "update":
        return update(table, {key: old}, **values)
    live[table].remove(old)
    if kind == "delete":
        return delete(table, {key: old})
    live[table].add(new := draw(_free(live[table])))
    return update(table, {key: old}, **values, **{key: new})


def _free(live: set[int]) -> st.SearchStrategy[int]:
    return st.sampled_from([key for key in range(1, 10) if key not in live])


@settings(max_examples=25, deadline=None)
@given(logs(), st.lists(st.one_of(st.none(), st.integers(1, 12)), max_size=5), st.sampled_from(["hard", "soft"]))
def test_windows_do_not_matter(log: list[str], limits: Iterable[int | None], deletes: str) -> None:
    """A random log read in random windows, while it grows, leaves what it leaves when it is applied line by line."""
    policies = {"deletes": deletes, "truncate": "apply"}
    with memory_folder() as folder:
        project = ApplyProject(folder, {"mode": "cdc_apply", **policies}).save()
        for at, limit in enumerate(limits):
            write(project.log, *log[at : at + 1])
            limited(project, limit).load()
        write(project.log, *log[len(list(limits)) :])
        project.save().load()
        require(project, **policies)


# -- behind our back ------------------------------------------------------------------------------------------------


def test_a_target_changed_by_hand_is_met_as_it_is(shop: ApplyProject) -> None:
    """Values written by hand stay where the log leaves them out; a column more is left alone and reported."""
    write(shop.log, transaction("01", insert("orders", {"id": 1}, a="x", b="y")))
    shop.load()
    with closing(sqlite3.connect(shop.database)) as db, db:
        db.execute("ALTER TABLE landing_orders ADD COLUMN mine TEXT")
        db.execute("UPDATE landing_orders SET b = 'hand', mine = 'kept'")
    write(shop.log, transaction("02", update("orders", {"id": 1}, a="z")))
    strict = shop.but(sink_options={"schema_evolution": {"on_missing_column": "fail"}})
    assert "column mine (string) is in the target but not in the source" in strict.run().streams[0].error.message
    shop.but(sink_options={})
    assert ["column mine " in text for text in shop.run().streams[0].warnings] == [True]
    assert shop.query("SELECT a, b, mine FROM landing_orders") == [("z", "hand", "kept")]


def test_journal_entries_of_tables_follow(shop: ApplyProject) -> None:
    """Each table has entries under a key of its own, for the loads that touched it."""
    write(shop.log, orders(1, 9, "01"))
    shop.load()
    write(shop.log, transaction("02", delete("customers", {"cid": 3})))
    shop.load()
    found = shop.query("SELECT key, seq, rows FROM __dpone__loads WHERE key LIKE '%|customers' ORDER BY seq")
    assert [(seq, json.loads(rows)["deleted"]) for _, seq, rows in found] == [(1, 0), (2, 1)]
