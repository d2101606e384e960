"""Tables that refer to the target by foreign keys: what cannot be loaded is refused before a row is read."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from attrs import evolve as replace
from tests.postgres.target import Target
from tests.sqlite.target import at, evolve, load, rows

from dpone.config.reader import load_pipeline
from dpone.contract import Part
from dpone.engine.run import run as run_pipeline
from dpone.errors import DataError
from dpone.model.report import StreamReport
from dpone.model.strategy import Strategy
from dpone.ops.check import connections

pytestmark = pytest.mark.postgres

MODES: dict[str, dict[str, Any]] = {
    "full_refresh": {"mode": "full_refresh"},
    "replace": {"mode": "replace", "where": {"v": "old"}},
    "partition_replace": {"mode": "partition_replace", "partition": "v"},
    "window": {"mode": "partition_replace", "partition": "v", "where": {"v": {"from": "a", "to": "z"}}},
    "snapshot_diff": {"mode": "snapshot_diff", "key": ["id"], "max_delete_share": 1.0},
    "merge": {"mode": "merge", "key": ["id"]},
}


class Shop:
    """The table t with rows 1 and 2 and a table child that may refer to them; a file with rows 2 and 3."""

    def __init__(self, folder: Path, target: Target) -> None:
        self.folder, self.target = folder, replace(target, table="t")
        self.target.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'old'), (2, 'old')")
        self.file("id,v\n2,old\n3,old\n")

    def file(self, text: str) -> None:
        (self.folder / "d.csv").write_text(text)

    def child(self, reference: str, row: str = "(10, 1)") -> None:
        self.target.run(f"CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t (id) {reference})")
        self.target.run(f"INSERT INTO child VALUES {row}")

    def pipeline(self, strategy: dict[str, Any], **options: Any) -> Path:
        given = {
            "pipeline": "p",
            "source": {"type": "file", "path": "d.csv"},
            "sink": {
                "type": "postgres", "connection": self.target.server.url, "table": f"{self.target.schema}.t",
                "strategy": strategy, "options": {"adopt_existing": True, **options},
            },
            "runtime": {"retries": 0},
        }  # fmt: skip
        path = self.folder / "p.yaml"
        path.write_text(yaml.safe_dump(given))
        return path

    def run(self, strategy: dict[str, Any], dry: bool = False, refresh: bool = False, **options: Any) -> StreamReport:
        [stream] = run_pipeline(self.pipeline(strategy, **options), dry_run=dry, full_refresh=refresh).streams
        return stream

    def check(self, strategy: dict[str, Any]) -> str:
        """What ``dpone check --connect`` says of the strategy; empty if nothing."""
        found = connections(load_pipeline(self.pipeline(strategy)))
        return "".join(f"{f.found}; {f.todo}" for f in found if f.ok is False)

    def rows(self) -> tuple[list[Any], list[Any]]:
        return self.target.rows("id, v", "id"), self.target.query("SELECT id, t_id FROM child ORDER BY id")


@pytest.fixture
def shop(tmp_path: Path, target: Target) -> Shop:
    return Shop(tmp_path, target)


OLD = ([(1, "old"), (2, "old")], [(10, 1)])


@pytest.mark.parametrize("mode", ["full_refresh", "replace", "window"])
@pytest.mark.parametrize("action", ["", "ON DELETE RESTRICT", "ON DELETE NO ACTION DEFERRABLE INITIALLY IMMEDIATE"])
def test_case_11_replacing_rows_that_others_refer_to_is_refused(shop: Shop, mode: str, action: str) -> None:
    """Before a row is staged, by a dry run and by ``check --connect``: named are the table that refers and a strategy
    that works; nothing was made or changed."""
    shop.child(action)
    before = shop.target.tables()
    says = [shop.run(MODES[mode], dry=True).error, shop.run(MODES[mode]).error]
    for error in says:
        assert error is not None
        assert error.exit_code == 1
        assert f"{shop.target.schema}.child references its rows" in error.message
        assert ("snapshot_diff" if mode == "full_refresh" else "merge") in error.message
    assert "child references its rows" in shop.check(MODES[mode])
    assert shop.rows() == OLD
    assert shop.target.tables() == before


@pytest.mark.parametrize("instead", ["snapshot_diff", "merge"])
def test_case_11_what_the_refusal_advises_works(shop: Shop, instead: str) -> None:
    """With the strategy that the error names the same file is loaded, and rows that others refer to stay."""
    shop.child("")
    shop.file("id,v\n1,a\n2,b\n")
    assert shop.run(MODES["full_refresh"]).error is not None
    assert shop.check(MODES[instead]) == ""
    assert shop.run(MODES[instead]).status == "loaded"
    assert shop.rows() == ([(1, "a"), (2, "b")], [(10, 1)])


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "merge"])
@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_rows_of_another_table_never_go_with_those_deleted(shop: Shop, mode: str, action: str) -> None:
    """Whatever deletes rows is refused where a foreign key would delete or change rows of another table, in silence:
    also ``snapshot_diff``, which deletes only what is gone. ``merge``, which the error names, works."""
    shop.child(f"ON DELETE {action}")
    error = shop.run(MODES[mode]).error
    assert error is not None
    assert "child references it with an ON DELETE action" in error.message
    assert "use strategy merge" in error.message
    assert "ON DELETE action" in shop.check(MODES[mode])
    assert shop.rows() == OLD
    assert shop.run(MODES["merge"]).status == "loaded"
    assert shop.rows()[1] == [(10, 1)]


LOADED = {
    "no row refers": ("", "(10, NULL)"),
    "the commit looks": ("DEFERRABLE INITIALLY DEFERRED", "(10, 2)"),
}


@pytest.mark.parametrize("case", LOADED)
@pytest.mark.parametrize("mode", ["full_refresh", "replace", "window", "snapshot_diff"])
def test_what_can_succeed_is_loaded(shop: Shop, mode: str, case: str) -> None:
    """No row refers to one that is deleted, or the foreign key is looked at when the row is there again."""
    shop.child(*LOADED[case])
    assert shop.run(MODES[mode]).status == "loaded"
    assert shop.rows()[0] == [(2, "old"), (3, "old")]


def test_rows_outside_the_predicate_may_be_referred_to(shop: Shop) -> None:
    """``replace`` is refused for the rows that it replaces, not for the others."""
    shop.child("", "(10, 1)")
    shop.target.run("UPDATE t SET v = 'kept' WHERE id = 1")
    assert shop.run(MODES["replace"]).status == "loaded"
    assert shop.rows()[0] == [(1, "kept"), (2, "old"), (3, "old")]


@pytest.mark.parametrize("mode", ["partition_replace", "snapshot_diff"])
def test_only_the_rows_tell_and_the_commit_names_the_table(shop: Shop, mode: str) -> None:
    """Which partitions are read, and which rows are gone, is known late: the commit fails as a whole and names the
    table that refers, and does not blame the rows."""
    shop.child("")
    error = shop.run(MODES[mode]).error
    assert error is not None
    assert f"{shop.target.schema}.child references rows that would be deleted" in error.message
    assert "correct the rows in the source" not in error.message
    assert shop.rows() == OLD


def test_a_row_that_refers_to_nothing_is_the_fault_of_the_rows(shop: Shop) -> None:
    """The other way round the rows are to be corrected, also in a partition of the target."""
    shop.target.run(
        "CREATE TABLE lines (id int, t_id int REFERENCES t (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE lines_1 PARTITION OF lines DEFAULT",
    )
    lines = replace(shop.target, table="lines")
    with pytest.raises(DataError, match=r"foreign key violation .*; correct the rows in the source"):
        lines.load(pa.table({"id": pa.array([1], pa.int32()), "t_id": pa.array([7], pa.int32())}), Strategy("append"))


def test_a_refresh_of_other_columns_is_refused_too(shop: Shop) -> None:
    """``--full-refresh`` that replaces the columns deletes every row first, whatever the strategy."""
    shop.child("")
    shop.file("id,v\n1,a\n2,a\n")
    shop.target.run("ALTER TABLE t ALTER v TYPE date USING NULL")
    for dry in (True, False):
        error = shop.run(MODES["snapshot_diff"], dry=dry, refresh=True).error
        assert error is not None
        assert "child references its rows" in error.message
    assert shop.target.query("SELECT id, v FROM t ORDER BY id") == [(1, None), (2, None)]


@pytest.mark.parametrize("way", ["truncate", "swap"])
def test_a_stated_way_that_foreign_keys_rule_out_is_found_by_the_plan(shop: Shop, way: str) -> None:
    """``options.full_refresh: truncate`` of a table that another one refers to, empty or not, never works."""
    shop.child("DEFERRABLE INITIALLY DEFERRED", "(10, NULL)")
    error = shop.run(MODES["full_refresh"], dry=True, full_refresh=way).error
    assert error is not None
    assert f"options.full_refresh: {way}" in error.message
    assert "foreign key" in error.message


def test_a_table_that_refers_to_itself_is_replaced_as_a_whole(target: Target) -> None:
    """All of its rows go at once and come again."""
    target.run("CREATE TABLE orders (id bigint PRIMARY KEY, up bigint REFERENCES orders (id))")
    data = pa.table({"id": pa.array([1, 2], pa.int64()), "up": pa.array([None, 1], pa.int64())})
    for _ in range(2):
        target.load(data, Strategy("full_refresh", key="id"), adopt_existing=True)
    assert target.rows("id, up", "id") == [(1, None), (2, 1)]


def test_rows_that_the_role_may_not_see_are_left_to_the_commit(shop: Shop) -> None:
    """Without the right to look at the other table nobody knows; the commit decides, and names it."""
    shop.child("")
    role = f"loader_{shop.target.schema}"
    shop.target.run(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT ALL ON SCHEMA {shop.target.schema} TO {role}",
        f"GRANT ALL ON t TO {role}", f"ALTER TABLE t OWNER TO {role}",
    )  # fmt: skip
    url = replace(shop.target.server, user=role, password="x").url
    full, data = Strategy("full_refresh", key="id"), pa.table({"id": pa.array([2], pa.int32()), "v": ["x"]})
    try:
        with closing(shop.target.sink(full, url)) as sink:
            evolve(sink, data.schema, full)  # type: ignore[arg-type]
            writer = sink.open(load(data.schema, full, parts=1))
            writer.stage(Part("all"), rows(data))
            with pytest.raises(DataError, match="child references rows that would be deleted"):
                writer.commit(None, at(1))
            writer.abort()
    finally:
        shop.target.run("ALTER TABLE t OWNER TO CURRENT_USER", f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


@pytest.mark.parametrize("deletes", ["hard", "soft"])
def test_a_change_stream_is_refused_before_it_stages(shop: Shop, deletes: str) -> None:
    """``cdc_apply`` that deletes rows, where an ON DELETE action would take those of another table along; with
    ``deletes: soft``, which the error names, it is loaded."""
    shop.child("ON DELETE CASCADE")
    change = {"table": "t", "op": "delete", "commit": "1", "key": {"id": 1}}
    (shop.folder / "d.csv").write_text(json.dumps(change) + '\n{"op": "commit", "commit": "1"}\n')
    path = shop.pipeline({"mode": "cdc_apply", "deletes": deletes})
    given = yaml.safe_load(path.read_text())
    given["source"]["options"] = {"incremental": {"by": "cdc"}}
    given["sink"]["options"]["schema_evolution"] = {"on_missing_column": "ignore"}
    path.write_text(yaml.safe_dump(given))
    for dry in (True, False):
        [stream] = run_pipeline(path, dry_run=dry).streams
        assert stream.status == ("failed" if deletes == "hard" else "planned" if dry else "loaded"), stream.error
        assert ("set strategy.deletes: soft" in stream.error.message) if stream.error else deletes == "soft"
    assert shop.rows() == OLD
