"""A key that changes, in PostgreSQL: hosts leave it, and what stood under the old one goes on under the new one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tests.postgres.target import Target
from tests.postgres.test_kill_matrix import Run, lay, run

from dpone.config.reader import load_pipeline
from dpone.contract import Entry
from dpone.engine.key_move import MOVED
from dpone.engine.run import run as run_here
from dpone.errors import Conflict
from dpone.model.pipeline import StreamSpec
from dpone.model.strategy import Strategy
from dpone.ops.state import move

pytestmark = pytest.mark.postgres
__all__ = ["run"]  # a fixture


@pytest.fixture
def filled(target: Target) -> Target:
    target.run(
        "CREATE TABLE source (id int, day int, v text, at timestamptz)",
        "INSERT INTO source SELECT i, 1, 'v' || i, '2024-01-01Z' FROM generate_series(1, 30) AS i",
    )
    return target


def several_hosts(pipeline: Path, target: Target) -> None:
    """The same server, named twice."""
    one = f"{target.server.host}:{target.server.port}"
    text = pipeline.read_text()
    assert one in text
    pipeline.write_text(text.replace(one, f"{one},{one}"))


def named(pipeline: Path, target: Target) -> None:
    data = yaml.safe_load(pipeline.read_text())
    data["connections"] = {"shop": data["source"]["connection"]}
    data["source"]["connection"] = data["sink"]["connection"] = "shop"
    pipeline.write_text(yaml.safe_dump(data))


def key_of(pipeline: Path) -> str:
    loaded = load_pipeline(pipeline)
    return loaded.streams[0].key(loaded.name)


def heads(target: Target) -> dict[str, tuple[int, str]]:
    sql = "SELECT DISTINCT ON (key) key, seq, position::json->>'kind' FROM __dpone__loads ORDER BY key, seq DESC"
    return {key: (seq, kind) for key, seq, kind in target.query(sql)}


def require_moved(target: Target, old: str, new: str, seq: int) -> None:
    found = heads(target)
    assert set(found) == {old, new}
    assert found[old][1] == MOVED
    assert found[new][0] == seq
    assert target.query("SELECT key FROM __dpone__state WHERE value IS NOT NULL") == [(new,)]


@pytest.mark.parametrize("how", [several_hosts, named])
@pytest.mark.parametrize("name", ["append", "scd2"])
def test_a_key_loses_its_hosts_and_goes_on(
    how: Callable[[Path, Target], None], name: str, tmp_path: Path, filled: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a version wrote that had the hosts in the key is moved by the next run; rows are there once, and the key has
    no host."""
    pipeline = lay(tmp_path, filled, name)
    how(pipeline, filled)
    with monkeypatch.context() as before:
        before.setattr(StreamSpec, "key", StreamSpec.former_key)
        old = run_here(pipeline).streams[0].key
    new = key_of(pipeline)
    assert filled.server.host in old
    assert filled.server.host not in new
    filled.run("INSERT INTO source SELECT i, 1, 'new', '2024-01-02Z' FROM generate_series(31, 40) AS i")
    report = run_here(pipeline)
    assert report.exit_code == 0, report.streams[0].error
    assert report.streams[0].key == new
    require_moved(filled, old, new, 2)
    assert filled.query("SELECT id FROM orders ORDER BY id") == [(i,) for i in range(1, 41)]


def test_killed_before_any_statement_the_move_is_completed(run: Run, tmp_path: Path, filled: Target) -> None:
    """SIGKILL before every third statement of the sink while a run moves a key: the next run does the rest, each row
    once."""
    pipeline = lay(tmp_path, filled, "append")
    url = pipeline.read_text()
    old = key_of(pipeline)
    seen = []
    for n in range(1, 200, 3):
        filled.run(
            "DROP TABLE IF EXISTS orders, __dpone__loads, __dpone__staging, __dpone__parts, __dpone__state, "
            "__dpone__state_history, __dpone__locks, __dpone__columns, __dpone__added",
            "DELETE FROM source WHERE id > 30",
        )
        pipeline.write_text(url)
        assert run(pipeline)["code"] == 0
        named(pipeline, filled)
        filled.run("INSERT INTO source SELECT i, 1, 'new', '2024-01-02Z' FROM generate_series(31, 40) AS i")
        done = run(pipeline, execute=n, since="stream_started", until="recovered")
        if done["code"] == 0:
            break
        assert done["code"] == -9, done
        left = heads(filled), filled.query("SELECT key, value IS NULL FROM __dpone__state ORDER BY key")
        if left not in seen:
            seen.append(left)
            assert run(pipeline)["code"] == 0
            require_moved(filled, old, key_of(pipeline), 2)
            assert filled.query("SELECT id FROM orders ORDER BY id") == [(i,) for i in range(1, 41)], n
    assert len(seen) > 1


def test_a_commit_under_the_new_key_waits_for_the_move(tmp_path: Path, filled: Target) -> None:
    """The journal is held while a key is renamed: nobody writes an entry of either key meanwhile, and who compared
    before the move finds another head after it."""
    pipeline = lay(tmp_path, filled, "append")
    old = run_here(pipeline).streams[0].key
    named(pipeline, filled)
    seen: list[Any] = []
    sink = filled.sink(Strategy("append"))
    head = sink.journal(old)
    assert isinstance(head, Entry)
    real = sink._db.execute

    def execute(sql: str, parameters: Any = ()) -> int:
        if sql.startswith("UPDATE") and not seen:
            with filled.connect() as other:
                other.execute("SET lock_timeout = '100ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
                    other.execute("DELETE FROM __dpone__loads")
            seen.append(caught.value)
        return real(sql, parameters)

    sink._db.execute = execute  # type: ignore[method-assign]
    sink.move(old, head, "new", None, head)
    assert seen
    with pytest.raises(Conflict):
        sink.move(old, head, "other", head, head)
    sink.close()
    assert move(load_pipeline(pipeline), "new", key_of(pipeline)).what.head == head
