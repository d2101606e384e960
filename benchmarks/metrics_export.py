"""``python -m benchmarks.metrics_export``: the metrics of a run of 1,000 streams as files, in a process of its own.

No baseline does the same, so the limit is in seconds. On a busy machine look at the processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import DPONE
from benchmarks.measure import run

LIMIT = 2.0  # seconds


def report(streams: int) -> dict[str, Any]:
    """As ``dpone run --report`` writes it: every second stream has a row contract, every tenth has failed."""
    return {
        "format": 1, "run_id": "01M8Q2RXW1GS6W5WGAQYQ4FXQK", "pipeline": "warehouse", "labels": {"env": "prod"},
        "versions": {"dpone": "1.0.0", "python": "3.11.7", "pyarrow": "26.0.1"}, "status": "failed",
        "started_at": "2026-03-04T05:06:07.250000+00:00", "finished_at": "2026-03-04T05:16:07.250000+00:00",
        "streams": [_stream(i) for i in range(streams)],
    }  # fmt: skip


def _stream(i: int) -> dict[str, Any]:
    name, steps = f"schema_{i % 7}.table_{i}", ("recover", "window", "schema", "stage", "contract", "commit", "state")
    position = {"kind": "cursor", "epoch": 0, "identity": {"server": "db.example"}, "value": {"updated_at": "x" * 30}}
    error = {"kind": "SourceError", "category": "transient", "retryable": True, "message": f"read {name}: cut; retry"}
    counts = dict.fromkeys(("read", "written", "filtered", "quarantined", "inserted", "updated", "deleted"), i)
    return {
        "stream": name, "key": f"warehouse|{name}|postgres:x|mssql:y", "status": "loaded" if i % 10 else "failed",
        "source": {"type": "postgres", "address": "postgres://db.example:5432/shop", "object": name},
        "sink": {"type": "mssql", "address": "mssql://dwh.example:1433/dwh", "object": name}, "strategy": "merge",
        "attempts": 1 + i % 3, "rows": {**counts, "unchanged": 0}, "bytes": 1000 * i, "position_before": position,
        "position_after": position, "caught_up": True, "proof": "p" * 80, "durations": dict.fromkeys(steps, 0.125),
        "error": None if i % 10 else error,
        "contract": {"rows_checked": i, "violations": {"not_null.id": 0, "unique.id": 1}} if i % 2 else None,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.metrics_export", description=__doc__.split("\n\n")[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--check", action="store_true", help=f"exit code 1 if it takes more than {LIMIT:g} s")
    options = parser.parse_args()
    command = [DPONE, "observability", "metrics-export", "--run-report", "run.json", "--output-dir", "metrics"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.json").write_text(json.dumps(report(options.streams)))
        legs = [run(command, Path(folder)) for _ in range(options.times)]
        print((Path(folder) / "out.log").read_text().splitlines()[-1])
    wall, cpu, peak = (median(getattr(leg, one) for leg in legs) for one in ("wall", "cpu", "peak"))
    print(f"{wall:.2f} s (limit {LIMIT:g}), {cpu:.2f} s of the processor, {peak:.0f} MB")
    return 1 if options.check and wall > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
