"""Every hook a plugin may implement. Hooks find plugins and report events; rows never pass through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

    from dpone.capability import Connector
    from dpone.model.events import RunEvent
    from dpone.model.pipeline import Pipeline
    from dpone.model.report import RunReport

PROJECT = "dpone"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def dpone_sources() -> list[Connector]:
    """Sources of this plugin. Called at discovery; must import no driver."""
    raise NotImplementedError


@hookspec
def dpone_sinks() -> list[Connector]:
    """Sinks of this plugin; each record says how it commits."""
    raise NotImplementedError


@hookspec
def dpone_state_backends() -> list[Connector]:
    """State backends of this plugin."""
    raise NotImplementedError


@hookspec
def dpone_cdc_readers() -> list[Connector]:
    """Readers of change streams; the record's name is the ``--backend`` of ``dpone cdc-plan``."""
    raise NotImplementedError


@hookspec
def dpone_commands(cli: click.Group) -> None:
    """Add subcommands to ``dpone``. Import nothing heavy before a command runs.

    A group with the name of one of dpone's, such as ``ops``, adds its commands to that group.
    """


@hookspec
def dpone_run_event(event: RunEvent) -> None:
    """One step of a run happened.

    A plugin gets the events of a run in their order, in a thread of its own. What it raises is reported once. At its
    end the run waits five seconds for it. Neither ever changes the run.
    """


@hookspec
def dpone_observer(pipeline: Pipeline, report: RunReport) -> Callable[[RunEvent], object] | None:
    """What to call with every event of one run, as ``dpone_run_event``; None if this run is not to be observed.

    Asked before the first event, in the thread that gets the events. ``pipeline`` has the streams of the run, one for
    each table; ``report`` is filled by the run and is complete at ``run_finished``: read it, do not change it. A
    callable with ``observer_seconds`` has so many seconds at the end of the run instead of five.
    """
