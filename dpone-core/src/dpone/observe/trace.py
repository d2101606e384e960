"""Which signals the ``OTEL_*`` variables ask for, and the trace that a run is in; nothing of OpenTelemetry is needed.

A trace has the id of its run: a ULID and a trace id are both 128 bits. With ``TRACEPARENT`` in the environment the run
is a part of that trace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from dpone.model.ids import number

SIGNALS = ("traces", "metrics")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


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
    """What a log line has so that it is found with its trace; nothing if there is none."""
    return {"trace_id": trace_id(run_id, env)} if "traces" in asked(env) else {}
