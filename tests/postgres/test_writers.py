"""Eight processes at once: on one target with a key each, and all with the same key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.postgres.target import Target
from tests.postgres.test_postgres_sink import MERGE, staged, table
from tests.sqlite.target import KEY, at, evolve, load

from dpone.errors import Category, SinkError
from dpone.model.strategy import Strategy
from dpone.sql import writer
from dpone_postgres import sink as postgres_sink

pytestmark = pytest.mark.postgres
WRITERS = range(8)
ROUNDS = 2
# Forks a process for each pipeline when all is imported, lets them go at once, and answers how each ended.
_AT_ONCE = """
import json, os, sys
from tests.engine.child import execute
import dpone_postgres.sink, dpone_postgres.source, dpone_postgres.state
from dpone.plugins import discover
discover()
start, go = os.pipe()
jobs = []
for pipeline in json.load(sys.stdin):
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(go)
        os.read(start, 1)
        code, answer = execute({"pipeline": pipeline})
        with os.fdopen(write, "w") as out:
            json.dump({"code": code, **answer}, out)
        os._exit(0)
    os.close(write)
    jobs.append(read)
os.close(start)
os.close(go)
print(json.dumps([json.load(os.fdopen(read)) for read in jobs]))
"""


def run_at_once(pipelines: Sequence[Path]) -> list[Mapping[str, Any]]:
    """The reports of the streams."""
    done = subprocess.run(
        [sys.executable, "-c", _AT_ONCE], input=json.dumps([str(path) for path in pipelines]), text=True,
        capture_output=True, timeout=120, check=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return [{"code": one["code"], **one["report"]["streams"][0]} for one in json.loads(done.stdout)]


def pipeline(folder: Path, target: Target, n: int, table: str, strategy: Mapping[str, Any], **more: Any) -> Path:
    path = folder / f"{n}" / "pipeline.yaml"
    path.parent.mkdir()
    url, schema = target.server.url, target.schema
    data = {
        "pipeline": more.get("name", f"p{n}"),
        "source": {
            "type": "postgres", "connection": url, "table": f"{schema}.{table}", "options": more.get("options", {}),
        },
        "sink": {
            "type": "postgres", "connection": url, "table": f"{schema}.orders", "strategy": strategy,
            "options": {"adopt_existing": True},
        },
        "state": more.get("state", {"type": "postgres", "connection": url, "options": {"schema": schema}}),
        "runtime": {"retries": more.get("retries", 2)},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(data))
    return path


def test_LS_08_eight_pipelines_write_one_table_at_once(tmp_path: Path, target: Target) -> None:
    """Five merge the same forty rows and ten of their own, three append: the table is made once, no deadlock comes
    through, the shared rows are those of one load, and every load of every writer is there."""
    paths = []
    for n in WRITERS:
        merges = n < 5
        strategy = {"mode": "merge", "key": ["id"]} if merges else {"mode": "append"}
        paths.append(pipeline(tmp_path, target, n, f"source_{n}", strategy))
        target.run(f"CREATE TABLE source_{n} (id int, n int, round int)")
    for r in range(1, ROUNDS + 1):
        for n in WRITERS:
            shared = f"UNION ALL SELECT i, {n}, {r} FROM generate_series(1, 40) AS i" if n < 5 else ""
            first = 1000 * (n + 1) + (0 if n < 5 else 100 * r)
            own = f"SELECT i, {n}, {r} FROM generate_series({first + 1}, {first + 10}) AS i"
            # each in an order of its own, so that they would meet row by row
            rows = f"SELECT * FROM ({own} {shared}) AS s ORDER BY hashint4(i + {n})"
            target.run(f"TRUNCATE source_{n}", f"INSERT INTO source_{n} {rows}")
        done = run_at_once(paths)
        assert [one["code"] for one in done] == [0] * 8, [one["error"] for one in done if one["error"]]
        assert target.query("SELECT count(*), count(DISTINCT (n, round)), min(round) FROM orders WHERE id <= 40") == [
            (40, 1, r)
        ]
    wanted = {(n, ROUNDS): 10 for n in range(5)} | {(n, r): 10 for n in range(5, 8) for r in range(1, ROUNDS + 1)}
    own = target.query("SELECT n, round, count(*) FROM orders WHERE id NOT BETWEEN 1 AND 40 GROUP BY 1, 2")
    assert {(n, r): count for n, r, count in own} == wanted
    assert target.query("SELECT count(DISTINCT key), min(last), max(last) FROM (SELECT key, max(seq) AS last "
                        "FROM __dpone__loads GROUP BY key) AS k") == [(8, ROUNDS, ROUNDS)]  # fmt: skip
    assert not target.stages()


CURSOR = {"incremental": {"by": "cursor", "column": "id"}}


@pytest.mark.parametrize("shared", [True, False], ids=["one lease", "a state each"])
def test_MF_07_eight_runs_of_one_pipeline_load_once(tmp_path: Path, target: Target, shared: bool) -> None:
    """One loads; the others are told that it is at work, or that it was faster, or find nothing new. Without a common
    state there is no lease, and the fence of the commit alone keeps them apart."""
    target.run("CREATE TABLE source AS SELECT i AS id FROM generate_series(1, 1000) AS i")
    state: dict[str, Any] = {} if shared else {"state": {"type": "file", "path": "state"}}
    paths = [
        pipeline(tmp_path, target, n, "source", {"mode": "append"}, name="p", options=CURSOR, retries=0, **state)
        for n in WRITERS
    ]
    done = run_at_once(paths)
    lost = {(1, "failed", "Busy"), (3, "stopped", "Conflict"), (0, "caught_up", None), (1, "failed", "another run")}
    found = [(one["code"], one["status"], _told(one["error"])) for one in done]
    assert found.count((0, "loaded", None)) == 1, found
    odd = [one["error"] for one, how in zip(done, found, strict=True) if how not in lost | {(0, "loaded", None)}]
    assert odd == []
    assert target.query("SELECT count(*), count(DISTINCT id) FROM orders") == [(1000, 1000)]
    assert [one["code"] for one in run_at_once(paths[:1])] == [0]
    assert target.query("SELECT count(*) FROM orders") == [(1000,)]
    assert target.query("SELECT max(seq), count(*) FROM __dpone__loads") == [(1, 1)]
    assert not target.stages()


def _told(error: Mapping[str, Any] | None) -> str | None:
    """``another run`` was about to create the table too, took back the one it had made, or swept the staging: the loser
    may try again."""
    if error is None:
        return None
    swept = any(
        words in error["message"]
        for words in ("another run", "no longer exists; run again", "the table does not exist")
    )
    return "another run" if error["retryable"] and swept else str(error["kind"])


def test_a_target_that_another_run_takes_back_is_made_by_the_next_attempt(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone between plan and staging: an error that may be tried again, which says who did it."""
    look, append, schema = writer.is_empty, Strategy("append"), table(1, 2).schema

    def taken_back(*given: Any) -> bool:
        target.run("DROP TABLE orders")
        return look(*given)

    monkeypatch.setattr(writer, "is_empty", taken_back)
    with closing(target.sink(append)) as sink:
        evolve(sink, schema, append)  # type: ignore[arg-type]
        with pytest.raises(
            SinkError, match=r"another run changed the table at the same time: relation .* does not exist"
        ) as told:
            sink.open(load(schema, append))
    assert told.value.category is Category.TRANSIENT


def test_a_serialization_failure_is_tried_again(target: Target) -> None:
    """40001 undoes the transaction; the commit is run again in a fresh one, and the rows are there once."""
    target.load(table(1, 2), MERGE)
    fail_until(target, 3)
    with closing(target.sink(MERGE)) as sink:
        receipt = staged(sink, table(1, 3, "b"), MERGE).commit(sink.journal(KEY), at(1))
    assert (receipt.updated, receipt.inserted) == (2, 1)
    assert target.rows("id, v", "id") == [(1, "b"), (2, "b"), (3, "b")]
    assert target.query("SELECT last_value FROM tries") == [(3,)]


def test_a_serialization_failure_that_stays_is_an_error_that_may_be_retried(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After six transactions the run gives up with the code of the server, and nothing was written."""
    monkeypatch.setattr(postgres_sink.time, "sleep", lambda seconds: None)
    target.load(table(1, 2), MERGE)
    fail_until(target, 1000)
    with closing(target.sink(MERGE)) as sink:
        writer = staged(sink, table(1, 3, "b"), MERGE)
        with pytest.raises(SinkError, match=r"SQLSTATE 40001.*run again") as error:
            writer.commit(sink.journal(KEY), at(1))
        writer.abort()
    assert error.value.category is not None
    assert error.value.category.value == "transient"
    assert target.query("SELECT last_value FROM tries") == [(6,)]
    assert target.rows("id, v", "id") == [(1, "a"), (2, "a")]


def fail_until(target: Target, nth: int) -> None:
    """Writes into the target fail with 40001 until the nth. A sequence counts also in transactions that are undone."""
    target.run(
        "CREATE SEQUENCE tries",
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('{target.schema}.tries') < {nth} THEN "
        " RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION fail()",
    )
