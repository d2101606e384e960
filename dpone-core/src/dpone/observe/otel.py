"""Telemetry by the standard ``OTEL_*`` variables: the plugin, and what needs no OpenTelemetry.

``telemetry`` holds the rest, and is imported if the variables ask for it. A trace has the id of its run: a ULID and a
trace id are both 128 bits. With ``TRACEPARENT`` in the environment the run is a part of that trace.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from dpone.errors import DponeError
from dpone.hookspecs import hookimpl
from dpone.model.events import RunEvent
from dpone.model.ids import number
from dpone.model.pipeline import Pipeline
from dpone.model.report import RunReport
from dpone.model.secret import register

SIGNALS = ("traces", "metrics")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@hookimpl
def dpone_observer(pipeline: Pipeline, report: RunReport) -> Callable[[RunEvent], object] | None:
    signals = asked(os.environ)
    if not signals:
        return None
    register_headers(os.environ)
    try:
        from dpone.observe.telemetry import Telemetry
    except ModuleNotFoundError as error:
        found = (
            f"the OTEL_* variables ask for {' and '.join(signals)}, but OpenTelemetry is not installed ({error.name})"
        )
        todo = "install the extra, as in pip install './dpone-core[otel]', or set OTEL_SDK_DISABLED=true"
        raise DponeError("export telemetry", found, todo) from error
    return Telemetry(signals, pipeline, report)


def asked(env: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The exporters of each signal (OpenTelemetry's specification, environment variables): ``otlp`` if an endpoint is
    set, or what ``OTEL_TRACES_EXPORTER`` and ``OTEL_METRICS_EXPORTER`` name. Nothing by default."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    found = {}
    for signal in SIGNALS:
        name = signal.upper()
        endpoint = env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or env.get(f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
        named = env.get(f"OTEL_{name}_EXPORTER") or ("otlp" if endpoint else "none")
        if exporters := tuple(one.strip() for one in named.split(",") if one.strip() not in ("", "none")):
            found[signal] = exporters
    return found


def trace_id(run_id: str, env: Mapping[str, str]) -> str:
    """Of the trace that a run is in, as 32 hexadecimal digits."""
    above = TRACEPARENT.fullmatch(env.get("TRACEPARENT", "").strip())
    return above[1] if above else f"{own_trace_id(run_id):032x}"


def own_trace_id(run_id: str) -> int:
    """The ULID itself; a digest for a run id that a program has chosen."""
    digest = hashlib.sha256(run_id.encode()).digest()
    return number(run_id) or int.from_bytes(digest[:16])


def log_fields(run_id: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What a log line has so that it is found beside its trace; nothing if there is none."""
    return {"trace_id": trace_id(run_id, env)} if "traces" in asked(env) else {}


def register_headers(env: Mapping[str, str]) -> None:
    """Headers of the exporter hold keys: ``api-key=...,authorization=Bearer%20...``. They are never printed."""
    for name in ("", "TRACES_", "METRICS_", "LOGS_"):
        for pair in env.get(f"OTEL_EXPORTER_OTLP_{name}HEADERS", "").split(","):
            value = pair.partition("=")[2].strip()
            for text in {value, unquote(value), unquote(value).rpartition(" ")[2]}:
                register(text)
