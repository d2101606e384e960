"""Reports and certifications with everything that a page may show, also names that a page must not obey."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dpone.certify.certification import (
    Cell,
    Certification,
    ConnectorLevel,
    GateCell,
    Level,
    RouteCell,
    Status,
    Unusable,
)
from dpone.certify.evidence import GATES
from dpone.model.report import ContractReport, Endpoint, ErrorReport, Rows, RunReport, StreamReport
from dpone.model.timeline import Timeline

# Texts that a page shows as they are, and never reads as HTML.
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "</title></style><style>*{display:none}</style>",
    "\"' onmouseover='alert(1)' x=\"",
    "<!-- --> <![CDATA[ ]]> &lt; &amp; &#x3c;b&#x3e;",
    "javascript:alert(1)",
    "📦 évènement \U0001f468‍\U0001f469‍\U0001f467",
    "طلبات הזמנות",
    "\u202egnp.exe\u202c",
    "a\x00b\x1b[31m\ud800\uffff",
    "{{7*7}} ${7*7} %s {0}",
    "x" * 300,
)
BEGAN = datetime(2026, 11, 30, 2, 0, tzinfo=UTC)
# step -> its share of the time of a stream
_STEPS = {
    "locked": 0.02, "recovered": 0.03, "window_fixed": 0.08, "schema_applied": 0.04, "load_opened": 0.03,
    "staged": 0.6, "committed": 0.15, "state_saved": 0.03, "acknowledged": 0.02,
}  # fmt: skip


def timeline(began: float, seconds: float, rows: int, parts: int = 0) -> Timeline:
    found, at = Timeline(), began
    for step, share in _STEPS.items():
        found.steps[step] = [at, seconds * share]
        at += seconds * share
    found.steps["stream_finished"] = [began, seconds]
    begin, length = found.steps["staged"]
    found.rows = [[begin + length * n / 20, rows * n // 20] for n in range(21)]
    for n in range(parts):
        found.parts[f"{n:05d}-c9265398"] = [begin + length * n / parts / 1.5, length / parts * 1.4, rows // parts]
    return found


def stream(name: str, status: Any = "loaded", began: float = 0.0, rows: int = 1000, **more: Any) -> StreamReport:
    seconds, parts = more.pop("seconds", 2.0), more.pop("parts", 0)
    written = rows if status == "loaded" else 0
    ends = {
        "source": Endpoint("postgres", "postgres://db:5432/shop", f"public.{name}"),
        "sink": Endpoint("sqlite", "sqlite:///warehouse.db", name),
    }
    given = {"strategy": "merge", "delivery": "exactly once", "attempts": 1, "partitions": parts or 1, **ends, **more}
    counts = Rows(rows, written, inserted=written // 2, updated=written // 3)
    when = timeline(began, seconds, rows, parts)
    return StreamReport(name, "key", status=status, rows=counts, bytes=rows * 87, timeline=when, **given)


def night() -> RunReport:
    """A run of a night: what failed, what stopped, what was tried again, partitions, a row contract."""
    full = "commit load 01M8Q2W8Y5PCQ6DEZC3M6FG6Z7 to warehouse.db: the disk is full; free disk space, then run again"
    changed = (
        "evolve payments: column amount is int64 in the target and string in the source; change the table by hand, "
        "or set on_type_change: new_column"
    )
    open_ = "3 transactions were open when the read began; the next run reads the rows that they commit"
    streams = [
        stream("orders", began=0.1, seconds=38, rows=1_204_331, parts=6, schema_changes=[
            "add column discount (decimal(12,2))", "widen column quantity from int32 to int64"]),
        stream("customers", began=38.2, seconds=9, rows=48_210, attempts=2, warnings=[open_]),
        stream("order_lines", "failed", 47.3, 310_000, seconds=12, attempts=4,
               error=ErrorReport("SinkError", "transient", True, full)),
        stream("payments", "stopped", 59.4, 0, error=ErrorReport("SchemaBreak", "unknown", False, changed, 3)),
        stream("événements 📦", began=61.5, seconds=6, rows=5_120, strategy="append", contract=ContractReport(
            5132, {"not_null(email)": 0, "unique(id)": 12}, 12, ".dpone/quarantine/events/01M8Q2W8Y5PC")),
        stream("returns", "caught_up", 67.6, 0, seconds=1),
    ]  # fmt: skip
    return report("failed", streams, seconds=69.4, labels={"env": "prod", "team": "data"})


def report(status: Any, streams: list[StreamReport], seconds: float | None = 4.0, **more: Any) -> RunReport:
    end = None if seconds is None else BEGAN + timedelta(seconds=seconds)
    given = {"labels": {"env": "prod"}, **more}
    versions = {"dpone": "1.0.0", "python": "3.11.7", "pyarrow": "26.0.1"}
    return RunReport(
        "01M8Q2W8DQT9DJS3E8JW0P71PM", more.pop("pipeline", "nightly_shop"), versions=versions, started_at=BEGAN,
        finished_at=end, status=status, streams=streams, **{k: v for k, v in given.items() if k != "pipeline"},
    )  # fmt: skip


def hostile(text: str) -> RunReport:
    """One text wherever a report has a text."""
    bad = stream(text, "failed", error=ErrorReport(text, text, False, text), warnings=[text], schema_changes=[text],
                 ddl=[text], sequences=[text], partitions_skipped=[text], strategy=text, delivery=text, load_id=text,
                 proof=text, source=Endpoint(text, text, text), sink=Endpoint(text, text, text), parts=2,
                 contract=ContractReport(1, {text: 1}, 1, text))  # fmt: skip
    bad.timeline.parts = {f"{n}{text}": [0.0, 1.0, 5] for n in range(2)}
    found = report("failed", [bad, stream(text, "planned", ddl=[text])], pipeline=text, labels={text: text})
    found.versions = {text: text}
    found.run_id = text
    found.warnings = [text]
    return found


def certification(text: str = "acme") -> Certification:
    """Every status; one connector is called ``text``, and so is whatever else evidence names."""
    names = ["file", "postgres", text]
    statuses = list(Status)
    able = {"source": ("read", "query"), "sink": ("write", "append", "undo"), "cdc": ("gap",)}
    cells = [
        Cell(name, role, capability, statuses[(n + m) % len(statuses)], (f"{text} 15.1",), (f"{text}.json",) * 12,
             {text: text}, {text: {text: text}})
        for role, capabilities in able.items()
        for n, capability in enumerate(capabilities) for m, name in enumerate(names)
    ]  # fmt: skip
    routes = [RouteCell(a, b, "append", statuses[n], (f"{text} 15.1",), (f"{text}.json",))
              for n, (a, b) in enumerate((a, b) for a in names for b in names[:2])]  # fmt: skip
    gates = [GateCell(text, "soak", Status.INSUFFICIENT, (text,), (text,), (text,), {"cpus": text}, {}, text, text)]
    levels = [ConnectorLevel(name, Level.TESTED, dict.fromkeys(GATES, Status.CERTIFIED)) for name in names]
    lost = (Unusable(text, text, text, text),)
    return Certification(tuple(cells), tuple(routes), tuple(levels), 7, {text: text}, tuple(gates), unusable=lost)
