"""``dpone cdc status`` of a replication slot: position, lag, slot, tables that wait, pause, and what stops a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.cli.conftest import dpone as dpone
from tests.cli.schemas import require_valid
from tests.postgres.conftest import postgres as postgres
from tests.postgres.proxy import proxy
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_runs import begin, change, lay
from tests.postgres.test_cdc_slot import cluster
from tests.postgres.test_cdc_stops import streaming

pytestmark = pytest.mark.postgres
Dpone = Callable[..., Any]


def status(dpone: Dpone, pipeline: Path, code: int = 0) -> dict[str, Any]:
    """Valid by its schema, and the text says the same of the findings."""
    done = dpone("cdc", "status", pipeline, "--format", "json")
    assert done.exit_code == code, (done.out, done.err)
    require_valid("cdc-status.json", done.json)
    [one] = done.json
    assert one["ok"] is (code == 0)
    text = dpone("cdc", "status", pipeline)
    assert text.exit_code == code
    words = {True: "ok", False: "FAIL", None: "?"}  # not all of the text: what a cut connection says differs
    for finding in one["findings"]:
        assert re.search(rf"^  {finding['name']} +{re.escape(words[finding['ok']])}: ", text.out, re.MULTILINE), (
            text.out
        )
    return dict(one)


def findings(one: dict[str, Any]) -> dict[str, Any]:
    return {finding["name"]: finding["ok"] for finding in one["findings"]}


def test_status_follows_a_stream(tmp_path: Path, source: ChangeSource, dpone: Dpone) -> None:
    """Before the first load all tables wait; then none, until one is published or read again; the lag is what the
    server has written after the position, by its own measure, and looking moves nothing."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    new = status(dpone, pipeline)
    tables = [f"{source.schema}.{name}" for name in ("bills", "orders")]
    assert (new["position"], new["load_id"], new["waiting_for_snapshot"]) == (None, None, tables)
    assert new["at"] == source.confirmed()
    assert dpone("run", pipeline).exit_code == 0
    loaded = status(dpone, pipeline)
    assert loaded["at"] == loaded["position"]["value"]["lsn"] == source.confirmed()
    assert (loaded["waiting_for_snapshot"], findings(loaded)) == (
        [],
        dict.fromkeys(("state", "slot", "position"), True),
    )
    assert loaded["slot"]["name"] == source.slot
    assert (loaded["slot"]["active"], loaded["slot"]["wal_status"]) == (False, "reserved")
    change(source)
    before, after = source.query("SELECT pg_current_wal_flush_lsn()")[0][0], status(dpone, pipeline)
    [(least,)] = source.query(f"SELECT pg_wal_lsn_diff('{before}', '{loaded['at']}')::int8")
    assert after["lag"]["bytes"] >= least > 0
    assert after["lag"]["seconds"] >= 0
    assert source.confirmed() == loaded["at"]
    source.run("CREATE TABLE later (id int PRIMARY KEY)", f"ALTER PUBLICATION {source.schema} ADD TABLE later")
    assert status(dpone, pipeline)["waiting_for_snapshot"] == [f"{source.schema}.later"]
    assert dpone("run", pipeline).exit_code == 0
    assert status(dpone, pipeline)["waiting_for_snapshot"] == []
    assert dpone("cdc", "resync", pipeline, "--table", tables[1]).exit_code == 0
    assert status(dpone, pipeline)["waiting_for_snapshot"] == [tables[1]]


def test_status_is_told_while_a_reader_uses_the_slot(tmp_path: Path, source: ChangeSource, dpone: Dpone) -> None:
    """A slot in use and a paused stream are shown as such."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert dpone("run", pipeline).exit_code == 0
    assert dpone("cdc", "pause", pipeline, "--reason", "why not").exit_code == 0
    with streaming(source):
        found = status(dpone, pipeline)
    assert (found["slot"]["active"], found["paused"]["reason"]) == (True, "why not")
    assert "why not" in dpone("cdc", "status", pipeline).out


@pytest.mark.parametrize(
    ("broken", "name", "said"),
    [
        ("SELECT pg_drop_replication_slot('{slot}')", "slot", "dpone cdc create"),
        ("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())", "position", "has skipped changes"),
    ],
)
def test_status_shows_what_stops_a_run(
    tmp_path: Path, source: ChangeSource, dpone: Dpone, broken: str, name: str, said: str
) -> None:
    """A slot that is gone, or was moved beyond the position: exit code 1, and the next run stops as well."""
    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert dpone("run", pipeline).exit_code == 0
    change(source)
    source.run(broken.format(slot=source.slot))
    found = status(dpone, pipeline, 1)
    assert findings(found)[name] is False
    [finding] = [one for one in found["findings"] if one["name"] == name]
    assert said in finding["found"] + finding["todo"]
    assert dpone("run", pipeline).exit_code == 3


def test_status_shows_a_lost_slot(tmp_path: Path, postgres: Server, dpone: Dpone) -> None:
    """Its WAL was removed: wal_status lost and the reason, as far as the server names one."""
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "wal_keep_size": "0"}
    with cluster(postgres, **settings) as server:
        server.run("CREATE SCHEMA shop")
        source = ChangeSource(server, "shop")
        begin(source)
        pipeline = lay(tmp_path, source, "sqlite")
        assert dpone("run", pipeline).exit_code == 0
        source.run("CREATE TABLE other (v text)")
        for _ in range(4):
            source.run("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            source.run("SELECT pg_switch_wal()", "CHECKPOINT")
        found = status(dpone, pipeline, 1)
        assert (found["slot"]["wal_status"], findings(found)["slot"]) == ("lost", False)
        named = source.query("SELECT to_jsonb(s) ->> 'invalidation_reason' FROM pg_replication_slots AS s")
        assert [(found["slot"]["invalidation_reason"],)] == named


def test_a_server_out_of_reach_is_a_finding(tmp_path: Path, source: ChangeSource, dpone: Dpone) -> None:
    """What state and journal know is shown all the same."""
    begin(source)
    with proxy((source.server.host, source.server.port)) as way:
        pipeline = lay(tmp_path, evolve(source, server=evolve(source.server, port=way.port)), "sqlite")
        assert dpone("run", pipeline).exit_code == 0
        before = status(dpone, pipeline)
        way.upstream = ("127.0.0.1", 1)
        found = status(dpone, pipeline, 1)
    assert findings(found) == {"state": True, "source": False}
    assert (found["at"], found["end"], found["lag"], found["slot"]) == (
        None,
        None,
        {"bytes": None, "seconds": None},
        None,
    )
    assert (found["position"], found["load_id"]) == (before["position"], before["load_id"])
