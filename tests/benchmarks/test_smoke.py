"""The benchmarks work: no figure of theirs is judged here."""

from __future__ import annotations

import importlib
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def bench(work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--work", str(work), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def results(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return {one["case"]: one for one in json.loads(done.stdout)["results"]}


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the baseline of one case is the sqlite3 shell")
def test_every_case_runs_and_both_sides_write_equal_rows(tmp_path: Path) -> None:
    """Each case runs both sides once, and the rows they wrote were compared before the first pair."""
    found = results(bench(tmp_path, "--rows", "400", "--pairs", "1", "--format", "json"))
    same = {"help": "help printed", "parquet": "400 rows equal", "partitions": "400 rows equal",
            "sqlite": "400 rows equal", "merge": "420 rows equal",
            "snapshot_diff": "400 rows equal", "scd2": "430 rows equal", "cdc_apply": "400 rows equal",
            "contract_check": "400 rows read", "telemetry": "400 rows equal"}  # fmt: skip
    assert {name: one["same"] for name, one in found.items()} == same
    assert all(pair[side]["wall"] > 0 and pair[side]["peak"] > 1 for one in found.values() for pair in one["pairs"]
               for side in ("ours", "baseline"))  # fmt: skip
    assert not list(tmp_path.glob("leg-*")), "folders of legs are left"


def test_the_export_of_metrics_is_measured() -> None:
    """The report that the benchmark makes is one that is exported, with every stream."""
    command = [sys.executable, "-m", "benchmarks.metrics_export", "--streams", "3", "--times", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 run, 3 streams, ")


def test_memory_is_measured_at_two_sizes(tmp_path: Path) -> None:
    """--memory runs ours alone, at the rows asked for and ten times that."""
    found = results(bench(tmp_path, "--memory", "--case", "parquet", "--rows", "100", "--format", "json"))
    assert [peak["rows"] for peak in found["parquet"]["peaks"]] == [100, 1000]


def test_a_difference_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that differs between the two sides is found, and named by its row."""
    monkeypatch.syspath_prepend(str(ROOT))
    compare = importlib.import_module("benchmarks.compare")
    columns = importlib.import_module("benchmarks.baseline_merge").COLUMNS
    files = []
    for i, note in enumerate("xxy"):
        files.append(str(tmp_path / f"{i}.db"))
        with closing(sqlite3.connect(files[-1])) as db:
            db.execute(f"CREATE TABLE orders ({columns})")
            db.execute("INSERT INTO orders (id, note) VALUES (1, ?)", (note,))
            db.commit()
    assert compare.sqlite(files[0], files[1]) == 1
    with pytest.raises(SystemExit, match=r"row 0 \(from 0\) differs"):
        compare.sqlite(files[0], files[2])
