"""scd2 from a change log to its targets: what a run leaves is what each commit made of the rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cdc.log import delete, insert, orders, transaction, update, write
from tests.engine.project import KILLED, TABLES, ApplyProject

from dpone.config.document import PipelineErrors
from dpone.config.reader import load_pipeline
from dpone.model.position import Position
from dpone.ops.state import reposition

KEYS = {"orders": "id", "customers": "cid"}
SCD2 = {"mode": "scd2", "truncate": "apply"}


@pytest.fixture
def shop(tmp_path: Path) -> ApplyProject:
    return ApplyProject(tmp_path / "c", SCD2).save()


def limited(project: ApplyProject, limit: int | None) -> ApplyProject:
    incremental = {"by": "cdc"} if limit is None else {"by": "cdc", "limit": limit}
    return project.but(source={**project.source, "options": {"incremental": incremental}})


def versions(project: ApplyProject, table: str) -> list[tuple[Any, ...]]:
    """(key, other values, begin, end), NULL left out of the values."""
    with closing(sqlite3.connect(project.database)) as db:
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute(f"SELECT * FROM landing_{table}")]
    told = []
    for row in found:
        bounds = [
            row[name] and datetime.fromisoformat(row[name]) for name in ("__dpone__valid_from", "__dpone__valid_to")
        ]
        values = {n: v for n, v in row.items() if v is not None and not n.startswith("__dpone__")}
        told.append((values.pop(KEYS[table]), json.dumps(values, sort_keys=True), *bounds))
    return sorted(told, key=lambda version: (version[0], version[2]))


def made_of(log: Path) -> Mapping[str, list[tuple[Any, ...]]]:
    """What the log makes of nothing, line after line: the state that every commit left of each row."""
    rows: dict[str, dict[Any, dict[str, Any]]] = {table: {} for table in TABLES}
    before, open_ = {t: dict(r) for t, r in rows.items()}, dict[tuple[str, Any], Any]()
    told: dict[str, list[Any]] = {table: [] for table in TABLES}
    at = None
    for line in map(json.loads, log.read_text().splitlines()):
        if line["op"] != "commit":
            at = datetime.fromisoformat(line["at"])
            _apply(rows[line["table"]], line, KEYS[line["table"]])
            continue
        for table, now in rows.items():
            for key in {*before[table]} | {*now}:
                if before[table].get(key) == now.get(key):
                    continue
                if (table, key) in open_:
                    open_.pop((table, key)).append(at)
                if key in now:
                    values = {n: v for n, v in now[key].items() if v is not None and n != KEYS[table]}
                    open_[table, key] = [key, json.dumps(values, sort_keys=True), at]
                    told[table].append(open_[table, key])
            before[table] = {key: dict(row) for key, row in now.items()}
    whole = {table: [tuple(v) if len(v) == 4 else (*v, None) for v in rows_] for table, rows_ in told.items()}
    return {table: sorted(rows_, key=lambda v: (v[0], v[2])) for table, rows_ in whole.items()}


def _apply(rows: dict[Any, dict[str, Any]], line: Mapping[str, Any], key: str) -> None:
    if line["op"] == "truncate":
        rows.clear()
        return
    old = rows.pop(line["key"][key], {}) if line["op"] != "insert" else {}
    if line["op"] != "delete":
        row = {**old, **line["key"], **line["values"]}
        rows[row[key]] = row


def require(project: ApplyProject) -> None:
    wanted = made_of(project.log)
    assert {table: versions(project, table) for table in TABLES} == wanted


def day(n: int) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=n)).isoformat()


def history(project: ApplyProject) -> None:
    write(
        project.log,
        transaction("01", *(insert("orders", {"id": i}, a=f"a{i}", b=i) for i in range(1, 6)),
                    insert("customers", {"cid": 1}, city="Rome"), at=day(1)),
        transaction("02", update("orders", {"id": 1}, b=7), update("orders", {"id": 2}, id=20), at=day(2)),
        transaction("03", delete("orders", {"id": 3}), update("customers", {"cid": 1}, city="Bari"), at=day(3)),
        transaction("04", {"op": "truncate", "table": "orders"}, insert("orders", {"id": 1}, a="a1", b=7), at=day(4)),
        transaction("05", insert("orders", {"id": 3}, a="back"), delete("customers", {"cid": 1}), at=day(5)),
    )  # fmt: skip


@pytest.mark.parametrize("limit", [None, 1])
def test_every_commit_of_the_log_is_in_the_history(shop: ApplyProject, limit: int | None) -> None:
    """Two tables with keys of their own, in one window or one for each commit: changes, moves, deletes, truncates."""
    history(shop)
    project = limited(shop, limit)
    while not project.load().caught_up:
        pass
    require(project)


def test_a_position_set_back_writes_no_history_again(shop: ApplyProject) -> None:
    """Commits that the table has are left out; what came since is loaded."""
    history(shop)
    first = Position.from_json(limited(shop, 1).load().position_after)
    shop.save().load()
    write(shop.log, transaction("06", update("orders", {"id": 1}, a="z"), at=day(6)))
    reposition(load_pipeline(shop.pipeline), "p", first)
    shop.load()
    require(shop)
    reposition(load_pipeline(shop.pipeline), "p", None)
    assert shop.load().rows.inserted == 0
    require(shop)


def test_a_full_refresh_keeps_the_history(shop: ApplyProject) -> None:
    """Of the log only what it leaves counts: equal rows keep their versions, the others begin at the load."""
    history(shop)
    shop.load()
    before = versions(shop, "orders")
    shop.load(full_refresh=True)
    assert versions(shop, "orders") == before
    write(shop.log, transaction("01", insert("orders", {"id": 1}, a="a1", b=7), insert("orders", {"id": 9}), at=day(9)),
          mode="w")  # fmt: skip
    stream = shop.load(full_refresh=True)
    assert (stream.rows.inserted, stream.rows.updated, stream.rows.deleted) == (1, 0, 1)
    now = versions(shop, "orders")
    assert [v[:2] for v in now if v[-1] is None] == [(1, '{"a": "a1", "b": 7}'), (9, "{}")]
    closed = {(key, begin) for key, _, begin, end in now if end is not None}
    assert {(key, begin) for key, _, begin, end in before if end is not None} <= closed


@pytest.mark.parametrize("step", ["staged", "commit_started", "committed", "state_saved"])
def test_a_run_killed_at_any_step_is_mended(shop: ApplyProject, step: str) -> None:
    """Every version once, and no staging left."""
    history(shop)
    limited(shop, 3).load()
    shop.save()
    with shop.child(step=step) as killed:
        killed.communicate(timeout=60)
    assert killed.returncode == KILLED
    write(shop.log, transaction("06", update("orders", {"id": 1}, a="z"), at=day(6)))
    while not shop.load().caught_up:
        pass
    require(shop)
    assert shop.staging() == []


def test_versions_are_no_rows(shop: ApplyProject) -> None:
    """A table of rows takes no versions and the other way round."""
    write(shop.log, orders(1, 9, "01"))
    shop.load()
    write(shop.log, transaction("02", delete("orders", {"id": 1})))
    report = shop.but(strategy={"mode": "cdc_apply"}).run()
    assert (report.exit_code, report.streams[0].error.kind) == (3, "SchemaBreak")
    other = ApplyProject(shop.folder, {"mode": "cdc_apply"}, table="rows_{table}")
    other.save().load()
    write(shop.log, transaction("03", delete("orders", {"id": 2})))
    report = other.but(strategy=SCD2).run()
    assert (report.exit_code, report.streams[0].error.kind) == (3, "SchemaBreak")


@pytest.mark.parametrize(
    ("strategy", "options", "said"),
    [
        ({"deletes": "close"}, {}, "deletes applies to rows"),
        ({"effective_from": "a"}, {}, "effective_from applies to rows"),
        ({"new_columns": "version"}, {}, "new_columns applies to rows"),
        ({}, {"undo": {"loads": 1}}, "cannot be taken back"),
    ],
)
def test_options_that_are_about_rows_are_refused(
    shop: ApplyProject, strategy: Mapping[str, Any], options: Mapping[str, Any], said: str
) -> None:
    """The changes themselves say when versions begin and end."""
    data = yaml.safe_load(shop.pipeline.read_text())
    data["sink"] |= {"strategy": {**SCD2, **strategy}, "options": dict(options)}
    shop.pipeline.write_text(yaml.safe_dump(data))
    with pytest.raises(PipelineErrors, match=said):
        load_pipeline(shop.pipeline)
