"""Partition manifests in PostgreSQL: the rules of every store, and loads in parts whose manifest is kept there."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tests.partition import test_stores
from tests.partition.stores import KEY, manifest, store
from tests.patience import PATIENCE
from tests.postgres.server import Server
from tests.postgres.target import Target
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture

from dpone.cli.main import assemble
from dpone.engine.run import run as run_pipeline
from dpone.errors import StateError
from dpone.partition import PartitionManifestStore

pytestmark = pytest.mark.postgres


@pytest.fixture
def kind(postgres: Server, schema: str) -> str:
    return f"postgres {postgres.url} {schema}"


@pytest.fixture
def manifests(kind: str, tmp_path: Path) -> PartitionManifestStore:
    return store(kind, tmp_path)


for name, test in inspect.getmembers(test_stores, inspect.isfunction):
    if name.startswith("test_") and {"kind", "manifests"} & {*inspect.signature(test).parameters}:
        globals()[name] = test


def test_looking_makes_no_tables(target: Target, manifests: PartitionManifestStore) -> None:
    """Whoever asks for a manifest that is not there leaves no table behind; neither does who forgets it."""
    assert manifests.load(KEY) is None
    manifests.forget(KEY)
    assert target.tables() == set()


def test_tables_are_made_by_one(target: Target, kind: str, tmp_path: Path) -> None:
    """Runners of several streams that are the first in a schema, all at once: each has its manifest."""
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: store(kind, tmp_path).create(manifest(2, key=f"{KEY}{n}")), range(6)))
    assert target.query('SELECT count(*) FROM "__dpone__manifests"') == [(6,)]
    assert target.tables() == {"__dpone__manifests", "__dpone__partitions"}


def test_a_claim_does_not_wait_for_the_staging(target: Target, manifests: PartitionManifestStore) -> None:
    """A sink in the same database holds the key while it stages a part: leases are renewed meanwhile all the same."""
    manifests.create(manifest())
    manifests.claim(KEY, "000", "me", 60)
    with target.connect() as db:
        db.execute("BEGIN")
        db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [KEY])
        with ThreadPoolExecutor(1) as pool:
            pool.submit(manifests.renew, KEY, "000", "me", 60).result(PATIENCE)


def test_a_server_out_of_reach_is_an_error_of_the_state(tmp_path: Path) -> None:
    """A manifest that cannot be asked for is told as a failure of the state backend, which may pass."""
    with pytest.raises(StateError, match="write the partition manifest") as error:
        store("postgres postgres://postgres@127.0.0.1:1/x public", tmp_path).load(KEY)
    assert error.value.category is not None
    assert error.value.category.value == "transient"


# ---- runs


def lay(folder: Path, target: Target, bad: Sequence[int] = ()) -> Path:
    """Six files, of which some cannot be read, into one table; state in the same schema."""
    (folder / "in").mkdir(exist_ok=True)
    for n in range(6):
        text = "x" if n in bad else str(n)
        (folder / "in" / f"{n}.csv").write_text(f"id,part\n{10 * n},{text}\n{10 * n + 1},{n}\n")
    data = {
        "pipeline": "p",
        "source": {"type": "file", "path": "in/*.csv", "options": {"columns": {"part": "int64"}}},
        "sink": {
            "type": "postgres", "connection": target.server.url, "table": f"{target.schema}.orders",
            "strategy": {"mode": "append"},
        },
        "state": {"type": "postgres", "connection": target.server.url, "options": {"schema": target.schema}},
        "runtime": {"retries": 0},
    }  # fmt: skip
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def dpone(*args: str) -> str:
    done = CliRunner().invoke(assemble(), args)
    assert done.exit_code == 0, done.output
    return done.output


def loaded(target: Target) -> list[Any]:
    return [n for (n,) in target.query("SELECT part FROM orders WHERE id % 10 = 0 ORDER BY 1")]


def test_MF_03_a_killed_run_goes_on_with_what_is_staged(
    run: Run,  # noqa: F811
    tmp_path: Path,
    target: Target,
) -> None:
    """Killed after three of six parts: the manifest says so, and the next run reads the other three alone."""
    pipeline = lay(tmp_path, target)
    assert run(pipeline, step="part_staged", nth=3)["code"] == -9
    states = "SELECT status, count(*) FROM __dpone__partitions GROUP BY 1 ORDER BY 1"
    assert dict(target.query(states))["pending"] == 3
    [stream] = run_pipeline(pipeline).streams
    assert (stream.status, stream.partitions_resumed) == ("loaded", 3)
    assert loaded(target) == [0, 1, 2, 3, 4, 5]
    assert target.query(states) == [("success", 6)]


def test_show_skip_and_retry(tmp_path: Path, target: Target) -> None:
    """One broken part fails the run; it is shown as failed, can be skipped and taken back, and the rest is loaded."""
    pipeline = lay(tmp_path, target, bad=[4])
    assert run_pipeline(pipeline).exit_code != 0
    name = str(pipeline)
    shown = json.loads(dpone("partitions", "show", name, "--format", "json"))[0]["manifest"]["partitions"]
    failed = [one["id"] for one in shown if one["status"] == "failed"]
    assert (len(shown), len(failed)) == (6, 1)
    dpone("partitions", "skip", name, *failed, "--reason", "broken at the vendor")
    dpone("partitions", "retry", name, *failed)
    assert "pending" in dpone("partitions", "show", name)
    dpone("partitions", "skip", name, *failed, "--reason", "broken at the vendor")
    report = run_pipeline(pipeline)
    assert (report.exit_code, report.streams[0].partitions_skipped) == (4, failed)
    assert loaded(target) == [0, 1, 2, 3, 5]
