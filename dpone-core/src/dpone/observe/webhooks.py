"""Messages to webhooks at the end of a run: ``notify:`` of a pipeline.

Each webhook gets at most one message, as JSON: ``text`` for people, as Slack and its like show it, and the rest for
programs. All webhooks together have ``TOTAL`` seconds. TLS is verified, and no redirect is followed: a moved address
would get what was meant for another host. Whatever fails becomes one warning and never changes the run.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from attrs import asdict

from dpone.contract import SupportsRunLog
from dpone.errors import DponeError, counted
from dpone.model.events import RunEvent
from dpone.model.pipeline import Notification, Occasion, Pipeline
from dpone.model.report import RunReport, StreamReport
from dpone.model.secret import redact, redacted
from dpone.plugins import discover

TOTAL = 30.0  # seconds
MOST = 100  # streams that a message names; those with an error come first
MOST_SHOWN = 10  # of them in its text
LOOKED_AT = 100  # records of earlier runs
LONGEST = 300  # characters of an error in its text


class Notifier:
    """Sends when the run is finished. A dry run, or one that a signal has ended, is nobody's news."""

    observer_seconds = TOTAL + 1

    def __init__(self, pipeline: Pipeline, report: RunReport) -> None:
        self._pipeline, self._report = pipeline, report
        self._wanted = pipeline.notify

    def __call__(self, event: RunEvent) -> None:
        if event.step == "run_finished" and not self._report.dry_run:
            found = list(occasions(self._report))
            asked = any("recovered" in one.on for one in self._wanted)
            if "succeeded" in found and asked and after_a_failure(self._pipeline, self._report.run_id):
                found.insert(0, "recovered")
            self._send(found)

    def _send(self, occasions: Sequence[Occasion]) -> None:
        posts = []
        for one in self._wanted:
            if mine := [occasion for occasion in occasions if occasion in one.on]:
                posts.append(_Post(one, json.dumps(message(self._report, mine)).encode()))
        until = time.monotonic() + TOTAL
        for post in posts:
            threading.Thread(target=post.send, args=(until,), name="dpone-notify", daemon=True).start()
        for post in posts:
            post.done.wait(max(0.0, until - time.monotonic()))
        if failures := [f"{post.to.host} ({post.fault or 'no answer in time'})" for post in posts if not post.sent]:
            todo = "check the webhook and the way to it; the run itself is not affected"
            raise DponeError("send the notification", ", ".join(failures), todo)


def occasions(report: RunReport) -> Iterator[Occasion]:
    """What a finished run gives to say, the gravest first."""
    if report.status in ("failed", "stopped"):
        yield "failed" if report.status == "failed" else "stopped"
    elif report.status in ("succeeded", "incomplete"):
        yield "succeeded"
    if any(map(_changed, report.streams)):
        yield "schema_changed"


def after_a_failure(pipeline: Pipeline, run_id: str) -> bool:
    """Whether the last run that came to an end of its own failed or stopped, by the run log of the state. A run that a
    signal ended says nothing about the pipeline. Without a run log nothing is known."""
    plugins, spec = discover(), pipeline.state
    with closing(plugins.load("state", spec.type)(spec)) as state:
        keeping = plugins.offered(SupportsRunLog, state, spec.type)
        records = keeping.run_log().records(pipeline.name) if keeping else iter(())
        for record in islice(records, LOOKED_AT):
            shown = "running" if record.run_id == run_id else record.shown(time.time())
            if shown not in ("running", "interrupted"):
                return shown in ("failed", "stopped", "crashed")
    return False


def message(report: RunReport, occasions: Sequence[Occasion]) -> dict[str, Any]:
    """No secret and no value of a row: what an error says is redacted, and never has values."""
    streams = sorted(report.streams, key=lambda stream: stream.error is None)
    end = report.finished_at or report.started_at
    data = {
        "text": _text(report, occasions[0], streams),
        "event": occasions[0],
        "events": list(occasions),
        "run_id": report.run_id,
        "pipeline": report.pipeline,
        "labels": dict(report.labels),
        "status": report.status,
        "exit_code": report.exit_code,
        "started_at": report.started_at.isoformat(),
        "finished_at": end.isoformat(),
        "seconds": round((end - report.started_at).total_seconds(), 3),
        "streams_total": len(streams),
        "streams": [_stream(stream) for stream in streams[:MOST]],
    }
    found: dict[str, Any] = redacted(data)
    return found


def _stream(stream: StreamReport) -> dict[str, Any]:
    error = asdict(stream.error) if stream.error else None
    found = {"stream": stream.stream, "status": stream.status, "rows": asdict(stream.rows), "error": error}
    return {**found, "load_id": stream.load_id, "attempts": stream.attempts, "schema_changes": stream.schema_changes}


def _text(report: RunReport, occasion: Occasion, streams: Sequence[StreamReport]) -> str:
    """``orders failed: 1 of 2 streams loaded, 1,200 rows written`` and a line for each error or change, in the markup
    of Slack: its three control characters are escaped (docs.slack.dev, formatting message text)."""
    loaded = [stream for stream in streams if stream.status in ("loaded", "caught_up")]
    rows = counted(sum(stream.rows.written for stream in loaded), "row")
    done = f"{len(loaded)} of {counted(len(streams), 'stream')} loaded, {rows} written"
    lines = [f"{report.pipeline} {occasion.replace('_', ' ')}: {done} (run {report.run_id})"]
    named = [stream for stream in streams if stream.error is not None or _changed(stream)]
    lines += [line for stream in named[:MOST_SHOWN] for line in _lines(stream)]
    lines += [f"... and {len(named) - MOST_SHOWN} more"] if len(named) > MOST_SHOWN else []
    text = redact("\n".join(lines))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _changed(stream: StreamReport) -> bool:
    return bool(stream.schema_changes) and stream.status == "loaded"


def _lines(stream: StreamReport) -> Iterator[str]:
    if stream.error is not None:
        text = redact(stream.error.message)
        yield f"{stream.stream}: {text if len(text) <= LONGEST else text[:LONGEST] + ' ...'}"
    if _changed(stream):
        yield f"{stream.stream}: schema: {', '.join(stream.schema_changes)}"


class _Post:
    """One message on its way. ``fault`` says why it has not arrived yet."""

    def __init__(self, to: Notification, body: bytes) -> None:
        self.to, self.body = to, body
        self.sent, self.fault, self.done = False, "", threading.Event()

    def send(self, until: float) -> None:
        for attempt in range(self.to.retries + 1):
            if attempt:
                wait = random.uniform(0.5, 1.0) * min(8.0, 0.5 * 2**attempt)  # noqa: S311  # spreads retries
                time.sleep(max(0.0, min(wait, until - time.monotonic())))
            again = time.monotonic() < until and self._attempt(min(self.to.seconds, until - time.monotonic()))
            if not again:
                break
        self.done.set()

    def _attempt(self, timeout: float) -> bool:
        """Whether to try again."""
        import http.client
        from urllib.error import HTTPError

        try:
            _post(self.to.webhook.reveal(), self.body, timeout)
        except HTTPError as error:
            error.close()
            self.fault = f"HTTP status {error.code}"
            return error.code == 429 or error.code >= 500
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)
            self.fault = redact(cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}")
            return True
        self.sent, self.fault = True, ""
        return False


def _post(url: str, body: bytes, timeout: float) -> None:
    """Raises HTTPError for every status but 2xx, and OSError. Through the proxy of ``https_proxy``, if there is one."""
    import ssl
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *given: Any) -> None:
            """None: a redirect is an error."""

    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "dpone"}
    request = Request(url, body, headers, method="POST")  # noqa: S310  # Notification allows http and https alone
    verified = HTTPSHandler(context=ssl.create_default_context())
    build_opener(Stay, verified).open(request, timeout=timeout).close()
