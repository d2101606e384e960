"""Messages to webhooks: the plugin. ``webhooks`` holds the rest, and is imported if a pipeline has ``notify:``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpone.hookspecs import hookimpl

if TYPE_CHECKING:
    from dpone.model.pipeline import Pipeline
    from dpone.model.report import RunReport
    from dpone.observe.webhooks import Notifier


@hookimpl
def dpone_observer(pipeline: Pipeline, report: RunReport) -> Notifier | None:
    if not pipeline.notify:
        return None
    from dpone.observe.webhooks import Notifier

    return Notifier(pipeline, report)
