"""A large load in partitions, killed ten times at random moments: file -> sqlite, then sqlite -> Parquet.

DPONE_SOAK_ROWS says how many rows (``nox -s large`` takes 20 million), DPONE_SOAK_FOLDER where, DPONE_SOAK_SEED which
moments. What must be in the target is a formula over the row's number, held against it by plain SQL and by pyarrow.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from attrs import define, field
from tests.engine.project import KILLED, MEMORY, Project

ROWS = int(os.environ.get("DPONE_SOAK_ROWS", "60000"))
SEED = int(os.environ.get("DPONE_SOAK_SEED", "1"))
KILLS = 10
PARTITIONS = 40
PEAK = 300.0  # MB (10**6 bytes) that no process may exceed
CHUNK = 500_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    where = os.environ.get("DPONE_SOAK_FOLDER") or (MEMORY if os.access(MEMORY, os.W_OK) else None)
    with TemporaryDirectory(prefix="dpone-soak-", dir=where) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Project, Runs]:
    """The rows as CSV, loaded into sqlite under fire."""
    project = Project(folder / "in", {"mode": "append"}).but(
        source={"type": "file", "path": "data/a.csv"}, runtime={"partitions": PARTITIONS, "retries": 0}
    )
    path = project.folder / "data" / "a.csv"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(b"id,v,name\n")
        for first in range(1, ROWS + 1, CHUNK):
            ids = np.arange(first, min(first + CHUNK, ROWS + 1))
            names = pc.binary_join_element_wise("name", pa.array(ids).cast(pa.string()), "-")
            table = pa.table({"id": ids, "v": ids * 7919 % 1_000_003, "name": names})
            options = pacsv.WriteOptions(include_header=False, quoting_style="none")
            pacsv.write_csv(table, file, options)
    return project, under_fire(project, 1)


@define
class Runs:
    """What the processes told. read: ids of the parts started, for each process; staged: of those finished."""

    read: list[list[str]] = field(factory=list)
    staged: list[list[str]] = field(factory=list)
    peaks: list[float] = field(factory=list)
    seconds: float = 0.0


def under_fire(project: Project, parts: float) -> Runs:
    """Ten processes that are killed, each after a random number of batches, and one that is not. parts: how many of
    them a process may read, at most, before it is killed."""
    most = max(4, round(parts * ROWS / PARTITIONS / 10_000))
    pause = min(0.05, 5e-6 * ROWS / PARTITIONS)  # about as long as a part takes, so that no process reads many more
    chance, runs, start = random.Random(SEED), Runs(), time.perf_counter()
    for _ in range(KILLS):
        code = one(project, runs, chance.randint(1, most), chance.random() * pause)
        assert code == KILLED, "the load was over before its time"
    assert one(project, runs, None, 0) == 0
    runs.seconds = time.perf_counter() - start
    print(
        f"{project.target}: {ROWS:,} rows, {len(runs.read)} processes, {runs.seconds:.0f} s, "
        f"peak {max(runs.peaks):.0f} MB, {sum(map(len, runs.read))} parts started, seed {SEED}"
    )
    return runs


def one(project: Project, runs: Runs, batches: int | None, pause: float) -> int:
    """Start a process that is killed, by itself, a moment after it has told of so many batches."""
    trap = {"step": "batch", "nth": batches, "after": pause}
    read, staged, peak = [], [], 0.0
    with project.start(
        *("run", "pipeline.yaml", "--log-format", "json"),
        trap=trap if batches else None, ARROW_DEFAULT_MEMORY_POOL="system",
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            event = _event(line)
            if event.get("step") in ("part_started", "part_staged"):
                (read if event["step"] == "part_started" else staged).append(_part(event))
            if event.get("step") in ("batch", "part_started", "part_staged", "staged", "committed"):
                peak = max(peak, _peak(process.pid))
    runs.read.append(read)
    runs.staged.append(staged)
    runs.peaks.append(peak)
    return process.returncode


def _event(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:  # the last line of a killed process
        return {}


def _part(event: dict[str, Any]) -> str:
    return str(event.get("part") or event["data"]["part"])


def _peak(pid: int) -> float:
    """VmHWM, which begins anew with the program; ru_maxrss would count the one that started it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 1024 / 1e6 if found else 0.0


def require_once(runs: Runs) -> None:
    """A part that was told to be staged is not started again."""
    done: set[str] = set()
    for read, staged in zip(runs.read, runs.staged, strict=True):
        assert not done & set(read)
        done |= set(staged)
    assert len(done) >= PARTITIONS - KILLS  # of a part killed right after it was staged nobody has told


@pytest.mark.crash
def test_soak_file_to_sqlite(loaded: tuple[Project, Runs]) -> None:
    """Killed ten times: every row once, no finished partition read again, little memory."""
    project, runs = loaded
    wrong = "v <> id * 7919 % 1000003 OR name <> 'name-' || id OR id NOT BETWEEN 1 AND ?"
    assert project.query("SELECT COUNT(*), SUM(id), MIN(id), MAX(id) FROM t") == [
        (ROWS, ROWS * (ROWS + 1) // 2, 1, ROWS)
    ]
    assert project.query(f"SELECT COUNT(*) FROM t WHERE {wrong}", ROWS) == [(0,)]
    assert project.query("SELECT COUNT(DISTINCT id) FROM t") == [(ROWS,)]
    require_once(runs)
    assert max(runs.peaks) < PEAK


@pytest.mark.crash
def test_soak_sqlite_to_parquet(loaded: tuple[Project, Runs], folder: Path) -> None:
    """The snapshot is lost with the process, so every run reads all of it; the last one leaves every row once."""
    before, _ = loaded
    connection = f"sqlite:///{before.database}"
    project = Project(folder / "out", {"mode": "full_refresh"}, "file").but(
        source={"type": "sqlite", "connection": connection, "table": "t"},
        runtime={"partitions": PARTITIONS, "retries": 0},
    )
    runs = under_fire(project, 6)
    seen, rows = np.zeros(ROWS + 1, dtype=bool), 0
    for file in project.manifest()["files"]:
        for batch in pq.ParquetFile(project.out / file["name"]).iter_batches(columns=["id", "v", "name"]):
            ids = batch.column("id").to_numpy()
            assert (batch.column("v").to_numpy() == ids * 7919 % 1_000_003).all()
            names = pc.binary_join_element_wise("name", batch.column("id").cast(pa.string()), "-")
            assert batch.column("name").equals(names)
            seen[ids], rows = True, rows + len(ids)
    assert rows == ROWS
    assert seen[1:].all()
    assert len(runs.read[-1]) == PARTITIONS
    assert max(runs.peaks) < PEAK
