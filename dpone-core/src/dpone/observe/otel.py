"""Telemetry by the standard ``OTEL_*`` variables: the plugin. ``telemetry`` holds the rest, and is imported if the
variables ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from dpone.errors import DponeError
from dpone.hookspecs import hookimpl
from dpone.model.secret import register
from dpone.observe.trace import asked

if TYPE_CHECKING:
    from dpone.model.events import RunEvent
    from dpone.model.pipeline import Pipeline
    from dpone.model.report import RunReport


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


def register_headers(env: Mapping[str, str]) -> None:
    """Headers of the exporter hold keys: ``api-key=...,authorization=Bearer%20...``. They are never printed."""
    for name in ("", "TRACES_", "METRICS_", "LOGS_"):
        for pair in env.get(f"OTEL_EXPORTER_OTLP_{name}HEADERS", "").split(","):
            name_, equals, rest = pair.partition("=")
            value = (rest if equals else name_).strip()  # without a name, it may still be a key
            for text in {value, unquote(value), unquote(value).rpartition(" ")[2]}:
                register(text)
