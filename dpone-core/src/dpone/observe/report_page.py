"""The report of a run as a page: what happened and when, rows over time, partitions, schema changes, warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dpone.errors import counted
from dpone.model.report import ContractReport, Endpoint, RunReport, StreamReport
from dpone.observe.page import Html, Part, badge, details, figures, items, name, page, table, tag

_STREAMS = 2000  # in the table
_DETAILED = 200  # streams with more than their line in the table
_PARTS = 100


def report_page(report: RunReport, status: str, note: str = "") -> str:
    """``report``: without secrets (``model.secret.redacted``). ``status``: its own, or ``crashed``; ``note``: what is
    known of a run that has no end."""
    streams, seconds = report.streams, _seconds(report)
    about = [f" · {key} {value}" for key, value in {**report.labels, **report.versions}.items()]
    shown = sorted(streams, key=_weight)[:_DETAILED]
    mode = ["dry run"] if report.dry_run else ["full refresh"] if report.full_refresh else []
    began = report.started_at.isoformat(sep=" ", timespec="seconds")
    title = f"{report.pipeline}: {status}"
    return page(
        f"{title}, {began}",
        tag("h1", name(report.pipeline)),
        tag("p", badge(status), f" · {began}", f" · {_took(seconds)}" if seconds is not None else None,
            [f" · {word}" for word in mode]),
        tag("p", "run ", tag("code", report.run_id), about, class_="soft"),
        tag("p", note, class_="error") if note else None,
        _sums(report, status) if streams else None,
        _errors(streams),
        [tag("h2", "Warnings about the run"), items(report.warnings)] if report.warnings else None,
        _rows_over_time(streams, seconds),
        _streams(streams, seconds),
        [tag("h2", "Details"), [_details(stream) for stream in shown]] if streams else None,
        tag("p", f"{len(streams) - _DETAILED:,} more streams have no details here; the JSON report has them all.")
        if len(streams) > _DETAILED else None,
    )  # fmt: skip


def _weight(stream: StreamReport) -> int:
    """Streams that an operator looks at first come first; else the order of the run stays."""
    return 0 if stream.error is not None else 1 if stream.warnings or stream.partitions_skipped else 2


def _seconds(report: RunReport) -> float | None:
    return None if report.finished_at is None else max(0.0, (report.finished_at - report.started_at).total_seconds())


def _took(seconds: float) -> str:
    """Without a place to break the line."""
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s" if seconds >= 0.1 else f"{seconds * 1000:.0f}\u00a0ms"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h {minutes}\u00a0min" if hours else f"{minutes}\u00a0min {rest}\u00a0s"


def _sums(report: RunReport, status: str) -> Html:
    streams = report.streams
    rows = [stream.rows for stream in streams]
    pairs: list[tuple[str, Part]] = [
        ("streams", f"{len(streams):,}"),
        ("rows in", f"{sum(one.read for one in rows):,}"),
        ("rows out", f"{sum(one.written for one in rows):,}"),
        ("bytes", _bytes(sum(stream.bytes for stream in streams))),
        ("schema changes", f"{sum(len(stream.schema_changes) for stream in streams):,}"),
        ("warnings", f"{len(report.warnings) + sum(len(stream.warnings) for stream in streams):,}"),
        ("exit code", "-" if status in ("crashed", "running") else str(report.exit_code)),
    ]
    if quarantined := sum(one.quarantined for one in rows):
        pairs.insert(3, ("quarantined", f"{quarantined:,}"))
    return figures(pairs)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _errors(streams: Sequence[StreamReport]) -> list[Html]:
    failed = [(stream, stream.error) for stream in streams if stream.error is not None]
    if not failed:
        return []
    shown = [
        tag("div", tag("strong", name(stream.stream)), f" · {error.kind}, {error.category}",
            tag("br"), error.message, class_="error")
        for stream, error in failed[:20]
    ]  # fmt: skip
    more = tag("p", f"and {len(failed) - 20:,} more") if len(failed) > 20 else None
    return [tag("h2", "Errors"), *shown, *([more] if more is not None else [])]


def _bar(begin: float, length: float, whole: float | None) -> Html:
    """A bar on the run's time line; the words in the same row say the same."""
    whole = max(whole or 0.0, begin + length, 1e-6)
    begin = min(max(begin, 0.0), whole)
    style = f"--from:{100 * begin / whole:.2f}%;--for:{100 * length / whole:.2f}%"
    return tag("span", tag("span", style=style), class_="track", aria_hidden="true")


def _streams(streams: Sequence[StreamReport], seconds: float | None) -> list[Html]:
    if not streams:
        return []
    rows: list[list[Part]] = []
    for stream in streams[:_STREAMS]:
        begin, length = stream.timeline.steps.get("stream_finished", [0.0, sum(stream.durations.values())])
        rows.append([
            name(stream.stream), badge(stream.status.replace("_", " ")), stream.strategy or "-",
            f"{stream.rows.read:,}", f"{stream.rows.written:,}", f"{max(0, stream.attempts - 1)}", _took(length),
            _bar(begin, length, seconds) if stream.attempts else "-",
        ])  # fmt: skip
    head = [
        "stream",
        "status",
        "strategy",
        "rows in",
        "rows out",
        "retries",
        "took",
        "time line",
    ]
    more = (
        tag("p", f"{len(streams) - _STREAMS:,} more streams are in the JSON report.")
        if len(streams) > _STREAMS
        else None
    )
    found = table(f"{counted(len(streams), 'stream')}, in the order of the run", head, rows, right=(3, 4, 5, 6), wide=7)
    return [tag("h2", "Streams"), found, *([more] if more is not None else [])]


def _details(stream: StreamReport) -> Html:
    parts: list[Part] = [
        tag("p", _route(stream), class_="soft"),
        tag("p", stream.error.message, class_="error") if stream.error else None,
        _steps(stream),
        _list("Warnings", stream.warnings),
        _list("Schema changes", stream.schema_changes),
        _list("Would run", stream.ddl if stream.status == "planned" else ()),
        _list("Sequences", stream.sequences),
        _list("Skipped partitions", stream.partitions_skipped),
        _partitions(stream),
        _contract(stream.contract) if stream.contract else None,
    ]
    words = [f"{counted(len(stream.warnings), 'warning')}" if stream.warnings else "",
             f"{counted(len(stream.schema_changes), 'schema change')}" if stream.schema_changes else "",
             f"{counted(stream.partitions, 'partition')}" if stream.partitions > 1 else ""]  # fmt: skip
    summary = [name(stream.stream), " ", badge(stream.status.replace("_", " ")),
               [f" · {word}" for word in words if word]]  # fmt: skip
    return details(summary, *parts, open_=stream.error is not None)


def _route(stream: StreamReport) -> list[Part]:
    rows = stream.rows
    counts = [f"{getattr(rows, one):,} {one}" for one in ("inserted", "updated", "deleted", "unchanged", "filtered")
              if getattr(rows, one)]  # fmt: skip
    known = [
        f"{_end(stream.source)} → {_end(stream.sink)}" if stream.source and stream.sink else "",
        stream.strategy, stream.delivery, f"load {stream.load_id}" if stream.load_id else "", ", ".join(counts),
        f"source: {stream.proof}" if stream.proof else "",
    ]  # fmt: skip
    return [tag("span", " · ".join(filter(None, known)))]


def _end(end: Endpoint) -> str:
    return " ".join(filter(None, (end.type, end.object)))


def _span(stream: StreamReport) -> tuple[float, float]:
    """When the stream began, and how long it took."""
    ends = [
        (begin, begin + length)
        for begin, length, *_ in (*stream.timeline.steps.values(), *stream.timeline.parts.values())
    ]
    start = min((begin for begin, _ in ends), default=0.0)
    return start, max((end for _, end in ends), default=0.0) - start


_STEPS: Mapping[str, str] = {
    "locked": "lock", "recovered": "recover", "window_fixed": "window", "schema_applied": "schema",
    "load_opened": "open the load", "staged": "stage", "committed": "commit", "state_saved": "save the state",
    "acknowledged": "acknowledge", "retry": "failed attempt",
}  # fmt: skip


def _steps(stream: StreamReport) -> Part:
    known, (start, whole) = stream.timeline.steps, _span(stream)
    found = sorted((known[step][0], known[step][1], word) for step, word in _STEPS.items() if step in known)
    rows: list[list[Part]] = [
        [word, f"+{begin:.2f} s", _took(length), _bar(begin - start, length, whole)] for begin, length, word in found
    ]
    if not rows:
        rows = [[step, "-", _took(length), "-"] for step, length in stream.durations.items()]
    head = ["step", "began", "took", "time line"]
    return table("Steps; began counts from the begin of the run", head, rows, right=(1, 2), wide=3) if rows else None


def _list(title: str, texts: Sequence[str]) -> Part:
    return [tag("h3", title), items([text[:2000] for text in texts])] if texts else None


def _partitions(stream: StreamReport) -> Part:
    parts = [*stream.timeline.parts.items()]
    if len(parts) < 2:
        return None
    start, whole = _span(stream)
    rows: list[list[Part]] = [
        [name(id), f"{count:,.0f}", f"+{begin:.2f} s", _took(length), _bar(begin - start, length, whole)]
        for id, (begin, length, count) in parts[:_PARTS]
    ]
    resumed = f", {stream.partitions_resumed:,} kept from an earlier attempt" if stream.partitions_resumed else ""
    first = f", the first {_PARTS} staged" if stream.partitions > len(rows) and len(rows) == _PARTS else ""
    head = ["partition", "rows", "began", "took", "time line"]
    return table(f"{counted(stream.partitions, 'partition')}{resumed}{first}", head, rows, right=(1, 2, 3), wide=4)


def _contract(contract: ContractReport) -> Part:
    rows: list[list[Part]] = [[rule, f"{count:,}"] for rule, count in [*contract.violations.items()][:50]]
    where = f", {counted(contract.quarantined, 'row')} in {contract.file}" if contract.file else ""
    return table(
        f"Row contract: {counted(contract.rows_checked, 'row')} checked{where}",
        ["rule", "violations"],
        rows,
        right=(1,),
    )


# ---- rows over time


def _rows_over_time(streams: Sequence[StreamReport], seconds: float | None) -> list[Html]:
    """Rows staged by all streams together. A further attempt of a stream begins at 0 again: the curve falls."""
    changes = sorted(
        (at, rows - before)
        for stream in streams
        for (_, before), (at, rows) in zip([(0, 0), *stream.timeline.rows], stream.timeline.rows, strict=False)
    )
    points, total = [(0.0, 0.0)], 0.0
    for at, rows in changes:
        total += rows
        points.append((at, total))
    end = max(seconds or 0.0, points[-1][0])
    if len(points) < 3 or not end:
        return []
    points.append((end, total))
    most = max(rows for _, rows in points)
    if not most:
        return []
    points = points[:: math.ceil(len(points) / 400)] + points[-1:]
    return [tag("h2", "Rows over time"), _chart(points, end, most), _figures_of(points, end)]


def _chart(points: Sequence[tuple[float, float]], end: float, most: float) -> Html:
    width, height = 1000, 100
    at = [(width * x / end, height - (height - 2) * y / most) for x, y in points]
    curve = " ".join(f"{x:.1f},{y:.2f}" for x, y in at)
    said = f"{counted(round(most), 'row')} staged at most, over {_took(end)}. The figures follow."
    drawn = tag(
        "svg",
        tag("polygon", points=f"0,{height} {curve} {width},{height}", class_="area"),
        tag("polyline", points=curve, class_="curve"),
        tag("line", x1=0, y1=height, x2=width, y2=height, class_="axis"),
        viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", role="img", aria_label=said,
    )  # fmt: skip
    ends = [tag("span", "0 s"), tag("span", _took(end))]
    return Html(tag("p", f"up to {counted(round(most), 'row')}", class_="soft") + drawn + tag("p", ends, class_="ends"))


def _figures_of(points: Sequence[tuple[float, float]], end: float) -> Html:
    """Ten moments, for those who do not see the curve."""
    rows: list[list[Part]] = []
    for n in range(1, 11):
        at = end * n / 10
        rows.append([f"{at:.2f} s", f"{[rows for moment, rows in points if moment <= at][-1]:,.0f}"])
    return details("Figures", table("Rows staged until then", ["after", "rows"], rows, right=(1,)))
