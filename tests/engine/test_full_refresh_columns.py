"""--full-refresh replaces columns as well: what no type holds together may come in, in one commit, for every sink."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.engine.project import declaring

import dpone
from dpone.engine.commit import CommitStep
from dpone.engine.plan import _instead
from dpone.engine.stage import StageStep
from dpone.engine.undo import undo
from dpone.errors import UndoRefused
from dpone.model.report import RunReport
from dpone.model.strategy import Strategy
from dpone.plugins import discover

Rows = list[Mapping[str, Any]]
BEFORE: Rows = [{"id": 1, "n": 1, "gone": 1}, {"id": 2, "n": 2, "gone": 1}, {"id": 3, "n": 3, "gone": 1}]
AFTER: Rows = [{"id": 1, "n": "one"}, {"id": 2, "n": "two"}, {"id": 4, "n": "four"}]
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "full_refresh": {}, "append": {}, "merge": {"key": ["id"]}, "snapshot_diff": {"key": ["id"]},
}  # fmt: skip
KEEPING: Mapping[str, Mapping[str, Any]] = {
    "scd2": {"key": ["id"]}, "replace": {"where": {"gone": 1}}, "partition_replace": {"partition": "id"},
}  # fmt: skip


class Project:
    """A table of SQLite, and a pipeline into another table or a folder."""

    def __init__(self, folder: Path, sink: str, mode: str, **strategy: Any) -> None:
        self.folder, self.sink = folder, sink
        to: dict[str, Any] = {"type": "sqlite", "connection": "sqlite:///warehouse.db", "table": "t"}
        if sink == "file":
            to = {"type": "file", "path": "out", "options": {"format": "parquet"}}
        self.data: dict[str, Any] = {
            "pipeline": "p", "runtime": {"retries": 0},
            "source": {"type": "sqlite", "connection": "sqlite:///source.db", "table": "s"},
            "sink": {**to, "strategy": {"mode": mode, **strategy}},
        }  # fmt: skip

    def write(self, rows: Rows) -> None:
        types = {name: "TEXT" if isinstance(value, str) else "INTEGER" for name, value in rows[0].items()}
        columns = ", ".join(f"{name} {type_}" for name, type_ in types.items())
        self.execute("DROP TABLE IF EXISTS s", f"CREATE TABLE s ({columns})", file="source.db")
        for row in rows:
            values = ", ".join(map(repr, row.values()))
            self.execute(f"INSERT INTO s VALUES ({values})", file="source.db")

    def run(self, **options: Any) -> RunReport:
        path = self.folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(self.data))
        return dpone.run(path, **options)

    def stop(self, **options: Any) -> str:
        report = self.run(**options)
        assert report.exit_code == 3, report.streams[0].error
        assert report.streams[0].error is not None
        return report.streams[0].error.message

    def execute(self, *statements: str, file: str = "warehouse.db") -> None:
        with closing(sqlite3.connect(self.folder / file)) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    def names(self) -> set[str]:
        with closing(sqlite3.connect(self.folder / "warehouse.db")) as db:
            return {name for (name,) in db.execute("SELECT name FROM sqlite_master")}

    def rows(self, table: str = "t") -> Rows:
        if self.sink == "file":
            return self._of_folder()
        with closing(sqlite3.connect(self.folder / "warehouse.db")) as db:
            db.row_factory = sqlite3.Row
            found = [dict(row) for row in db.execute(f'SELECT * FROM "{table}"')]
        return sorted(map(_own, found), key=lambda row: row["id"])

    def _of_folder(self) -> Rows:
        import pyarrow.parquet as pq

        manifest = json.loads(next((self.folder / "out").rglob("manifest.json")).read_text())
        found: Rows = []
        for one in manifest["files"]:
            found += pq.read_table(self.folder / "out" / one["name"]).to_pylist()
        return sorted(map(_own, found), key=lambda row: row["id"])


def _own(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("__dpone__")}


@pytest.mark.parametrize(
    ("sink", "mode"), [*(("sqlite", mode) for mode in STRATEGIES), ("file", "full_refresh"), ("file", "append")]
)
def test_OUT_16_a_stop_for_another_type_is_followed_by_a_full_refresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, mode: str
) -> None:
    """The message names --full-refresh, and it works: types change, columns go, the rows are those of the source. The
    old rows are there until the commit, nothing is left beside the target, and the next run is green."""
    project = Project(tmp_path, sink, mode, **STRATEGIES[mode])
    project.write(BEFORE)
    assert project.run().exit_code == 0
    project.write(AFTER)
    assert "or replace the table with --full-refresh" in project.stop()
    assert project.rows() == BEFORE
    seen: list[Rows] = []
    commit = CommitStep.execute

    def watched(attempt: Any, *given: Any) -> Any:
        seen.append(project.rows())
        return commit(attempt, *given)

    monkeypatch.setattr(CommitStep, "execute", watched)
    [stream] = project.run(full_refresh=True).streams
    assert (stream.error, stream.status) == (None, "loaded")
    assert seen == [BEFORE]
    assert {change.split()[0] for change in stream.schema_changes} == {"type", "drop"}
    assert project.rows() == AFTER
    if sink == "sqlite":
        assert {name for name in project.names() if name.startswith("__dpone__")} <= {
            "__dpone__loads", "__dpone__staging", "__dpone__parts", "__dpone__added",
        }  # fmt: skip
    project.write([*AFTER, {"id": 5, "n": "five"}])
    assert project.run().exit_code == 0
    assert {"id": 5, "n": "five"} in project.rows()


@pytest.mark.parametrize(
    ("able", "keeps", "strategy", "words"),
    [
        (True, False, Strategy("append"), "or replace the table with --full-refresh"),
        (False, False, Strategy("append"), "or drop the table and use --full-refresh"),
        (True, True, Strategy("scd2", key="id"), "or load into another table, because scd2 keeps existing rows"),
        (False, True, Strategy("cdc_apply", key="id", deletes="soft"),
         "or load into another table, because cdc_apply with deletes: soft keeps existing rows"),
    ],
)  # fmt: skip
def test_what_else_gets_rows_of_other_columns_into_the_target(
    able: bool, keeps: bool, strategy: Strategy, words: str
) -> None:
    """A strategy that keeps rows needs another table, and says by which option; the others need a full refresh."""
    assert _instead(able, keeps, strategy) == words


@pytest.mark.parametrize("mode", KEEPING)
def test_a_strategy_that_keeps_rows_says_what_else_to_do(tmp_path: Path, mode: str) -> None:
    """Rows of before stay with it, and cannot take the new type: not even --full-refresh changes anything, and the
    message's other table is a green run."""
    project = Project(tmp_path, "sqlite", mode, **KEEPING[mode])
    project.write(BEFORE)
    assert project.run().exit_code == 0
    project.write([{**row, "gone": 1} for row in AFTER])
    before = project.rows()
    for options in ({}, {"full_refresh": True}):
        assert "or load into another table" in project.stop(**options)
        assert project.rows() == before
    project.data["sink"]["table"] = "other"
    assert project.run().exit_code == 0
    assert [row["n"] for row in project.rows("other")] == ["one", "two", "four"]


def test_what_hangs_on_the_target_stays_or_is_named(tmp_path: Path) -> None:
    """A view goes on; an index over a column that changes stands in the way of SQLite, is named, and nothing has
    changed until it is dropped as the message says."""
    project = Project(tmp_path, "sqlite", "append")
    project.write(BEFORE)
    project.run()
    project.execute("CREATE VIEW ids AS SELECT id FROM t", "CREATE INDEX by_n ON t (n)")
    project.write(AFTER)
    report = project.run(full_refresh=True)
    assert report.exit_code == 1
    assert report.streams[0].error is not None
    assert "by_n" in report.streams[0].error.message
    assert "drop what depends on the table" in report.streams[0].error.message
    assert project.rows() == BEFORE
    project.execute("DROP INDEX by_n")
    assert project.run(full_refresh=True).exit_code == 0
    assert project.rows() == AFTER
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as db:
        assert sorted(db.execute("SELECT id FROM ids")) == [(1,), (2,), (4,)]


def test_a_source_that_has_lost_most_rows_does_not_pass_the_guard_of_snapshot_diff(tmp_path: Path) -> None:
    """max_delete_share holds for a target that is made anew as well, by the count of rows."""
    project = Project(tmp_path, "sqlite", "snapshot_diff", key=["id"], max_delete_share=0.5)
    project.write(BEFORE)
    project.run()
    project.write(AFTER[:1])
    assert "max_delete_share allows 50.0%" in project.stop(full_refresh=True)
    assert project.rows() == BEFORE
    project.data["sink"]["strategy"]["max_delete_share"] = 1.0
    assert project.run(full_refresh=True).exit_code == 0
    assert project.rows() == AFTER[:1]


@pytest.mark.parametrize("allowed", [False, True])
def test_an_empty_source_of_other_columns_empties_the_target_only_if_allowed(tmp_path: Path, allowed: bool) -> None:
    """Without ``allow_empty`` the target keeps its columns and its rows, and the report counts nothing."""
    project = Project(tmp_path, "sqlite", "full_refresh", allow_empty=allowed)
    project.write(BEFORE)
    project.run()
    project.write(AFTER)
    project.execute("DELETE FROM s", file="source.db")
    report = project.run(full_refresh=True)
    [stream] = report.streams
    assert (report.exit_code, stream.rows.inserted, stream.rows.deleted) == (0, 0, 3 if allowed else 0)
    assert project.rows() == ([] if allowed else BEFORE)


def test_a_sink_that_cannot_says_to_drop_the_table(tmp_path: Path) -> None:
    """One that does not declare ``replace_columns`` stops, and its message's way is a green run."""
    plugins = declaring(discover(), "sink", "sqlite", without="replace_columns")
    project = Project(tmp_path, "sqlite", "append")
    project.write(BEFORE)
    project.run()
    project.write(AFTER)
    assert "or drop the table and use --full-refresh" in project.stop(full_refresh=True, plugins=plugins)
    assert project.rows() == BEFORE
    project.execute("DROP TABLE t")
    assert project.run(full_refresh=True, plugins=plugins).exit_code == 0
    assert project.rows() == AFTER


def test_a_load_that_fails_leaves_the_target_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is given up, or dies and the next load sweeps: the table that was to take the place is gone."""
    project = Project(tmp_path, "sqlite", "append")
    project.write(BEFORE)
    project.run()
    project.write(AFTER)

    def fails(self: Any, *given: Any) -> Any:
        raise RuntimeError("before the commit")

    commit: Callable[..., Any] = CommitStep.execute
    for lost in (False, True):
        monkeypatch.setattr(CommitStep, "execute", fails)
        if lost:  # as if killed: nobody gives the load up
            monkeypatch.setattr(StageStep, "give_up", lambda *given: None)
        assert project.run(full_refresh=True).exit_code == 1
        assert project.rows() == BEFORE
        assert any(name.startswith("__dpone__anew") for name in project.names()) == lost
    monkeypatch.setattr(CommitStep, "execute", commit)
    project.write([*BEFORE, {"id": 9, "n": 9, "gone": 1}])
    assert project.run().exit_code == 0
    assert not any(name.startswith("__dpone__anew") for name in project.names())


@pytest.mark.parametrize("sink", ["sqlite", "file"])
def test_a_load_that_replaced_the_columns_is_not_taken_back(tmp_path: Path, sink: str) -> None:
    """Its rows of before do not fit the new columns: nothing is kept of it, and the loads before it are not the last.
    The next load can be taken back again."""
    project = Project(tmp_path, sink, "full_refresh")
    project.data["sink"].setdefault("options", {})["undo"] = {"loads": 5}
    project.write(BEFORE)
    loads = [project.run().streams[0]]
    project.write(AFTER)
    loads.append(project.run(full_refresh=True).streams[0])
    for load in reversed(loads):
        assert load.load_id is not None
        with pytest.raises(UndoRefused):
            undo(project.folder / "pipeline.yaml", load.stream, load.load_id)
    project.write(AFTER[:1])
    last = project.run().streams[0]
    assert project.rows() == AFTER[:1]
    assert last.load_id is not None
    undo(project.folder / "pipeline.yaml", last.stream, last.load_id)
    assert project.rows() == AFTER
