"""Lineage by OpenLineage's own configuration: the plugin, and what needs no OpenLineage.

``lineage`` holds the rest, and is imported if a variable or a file of OpenLineage asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dpone.errors import DponeError
from dpone.hookspecs import hookimpl
from dpone.model.secret import register, sensitive

if TYPE_CHECKING:
    from dpone.model.events import RunEvent
    from dpone.model.pipeline import Pipeline
    from dpone.model.report import RunReport

FILE = "openlineage.yml"


@hookimpl
def dpone_observer(pipeline: Pipeline, report: RunReport) -> Callable[[RunEvent], object] | None:
    found = asked(os.environ)
    if not found:
        return None
    register_keys(os.environ)
    try:
        from dpone.observe.lineage import Lineage
    except ModuleNotFoundError as error:
        missing = f"{found} asks for it, but OpenLineage's client is not installed ({error.name})"
        todo = "install the extra, as in pip install './dpone-core[openlineage]', or set OPENLINEAGE_DISABLED=true"
        raise DponeError("report lineage", missing, todo) from error
    return Lineage(pipeline, report)


def asked(env: Mapping[str, str]) -> str:
    """The variable or file that configures a transport, where OpenLineage's client looks for it; empty if none does."""
    if env.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return ""
    for name in env:
        if name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG") or name.startswith("OPENLINEAGE__TRANSPORT"):
            return name if env[name] else ""
    home = Path(env.get("HOME") or "/", ".openlineage", FILE)
    return next((str(path) for path in (Path(FILE), home) if path.is_file()), "")


def register_keys(env: Mapping[str, str]) -> None:
    """Keys of the transport are never printed."""
    for name, value in env.items():
        if name.startswith("OPENLINEAGE") and (sensitive(name) or "://" in value):
            register(value)
