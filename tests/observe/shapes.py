"""Reports of runs, one of each kind that an export may be given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dpone.model.report import ContractReport, Endpoint, ErrorReport, Rows, RunReport, StreamReport

START = datetime(2026, 3, 4, 5, 6, 7, 250_000, tzinfo=UTC)
VERSIONS = {"dpone": "1.0.0", "python": "3.11.7", "pyarrow": "24.0.0"}


def stream(name: str = "public.orders", **given: Any) -> StreamReport:
    ends = {
        "source": Endpoint("postgres", "postgres://db.example:5432/shop", name),
        "sink": Endpoint("mssql", "mssql://dwh.example:1433/dwh", f"landing.{name}"),
    }
    fields = {"status": "loaded", "attempts": 1, "strategy": "merge", **ends, **given}
    return StreamReport(name, f"shop|{name}|postgres:x|mssql:y", **fields)


def loaded(name: str = "public.orders", **given: Any) -> StreamReport:
    rows = Rows(read=12, written=9, filtered=2, quarantined=1, inserted=4, updated=3, deleted=2, unchanged=1)
    durations = {"recover": 0.25, "window": 0.5, "schema": 0.125, "stage": 2.0, "commit": 1.0, "state": 0.0625}
    contract = ContractReport(12, {"not_null.id": 0, "ranges.amount": 2, "unique.id": 1}, 1, "q")
    return stream(name, **{"rows": rows, "bytes": 4096, "durations": durations, "contract": contract, "partitions": 3,
                           "partitions_resumed": 1, "caught_up": True, "schema_changes": ["add note (string)"],
                           "warnings": ["one", "two"], "attempts": 3, **given})  # fmt: skip


def error(
    category: str = "transient", exit_code: int = 1, message: str = "read orders: gone; run again"
) -> ErrorReport:
    return ErrorReport("SourceError", category, category == "transient", message, exit_code)


def run(*streams: StreamReport, number: int = 1, seconds: float | None = 10.5, **given: Any) -> RunReport:
    start = START + timedelta(hours=number)
    report = RunReport(f"RUN{number}", "shop", labels={}, versions=dict(VERSIONS), started_at=start)
    report.streams = list(streams)
    if seconds is not None:
        report.finish(given.pop("interrupted", False))
        report.finished_at = start + timedelta(seconds=seconds)
    for name, value in given.items():
        setattr(report, name, value)
    return report


def _many() -> list[RunReport]:
    failed = stream("b", status="failed", error=error(), durations={"recover": 0.5, "new_step": 1.0})
    return [
        run(loaded("a"), failed, number=2),
        run(loaded("a"), number=1),
        run(loaded("c"), number=3, pipeline="other"),
    ]


HOSTILE = 'x"} 1\n# TYPE y counter\ny_total 2\\n\t| <script>`*[a](b)\u2028\r\x00é\ud800'
SHAPES: Mapping[str, Callable[[], Sequence[RunReport]]] = {
    "succeeded": lambda: [run(loaded(), stream("x", status="caught_up"))],
    "failed": lambda: [run(loaded(), stream("x", status="failed", error=error("data_quality")))],
    "stopped": lambda: [run(stream(status="stopped", error=error("unknown", 3)))],
    "interrupted": lambda: [run(loaded(), stream("x", status="pending", attempts=1), interrupted=True)],
    "incomplete": lambda: [run(loaded(partitions_skipped=["2"]))],
    "running": lambda: [run(loaded(), stream("x", status="pending", attempts=0), seconds=None)],
    "no streams": lambda: [run(warnings=["observer x failed at run_started: no"])],
    "set back": lambda: [run(loaded(), seconds=-3.5)],
    "a word of later versions": lambda: [run(stream(status="failed", error=error("quota")))],
    "several": _many,
    "hostile": lambda: [run(loaded(HOSTILE), loaded(HOSTILE * 50), loaded(HOSTILE * 50 + "x"), pipeline=HOSTILE,
                            labels={"a-b c": HOSTILE, "stream": "s", "__x": "y", "": "z", "9": "n"})],
}  # fmt: skip


def written(folder: Path, reports: Sequence[RunReport]) -> list[Path]:
    """As ``dpone run --report`` writes them."""
    files = [folder / f"report-{i}.json" for i in range(len(reports))]
    for file, report in zip(files, reports, strict=True):
        file.write_text(json.dumps(report.to_json()))
    return files


def earlier(report: RunReport) -> dict[str, Any]:
    """The JSON that the first version of dpone wrote: without what came later."""
    data = report.to_json()
    for key in ("dry_run", "full_refresh", "warnings"):
        del data[key]
    for one in data["streams"]:
        for key in ("source", "sink", "strategy", "retries"):
            del one[key]
    return data
