"""Every hook a plugin may implement. Hooks find plugins and report events; rows never pass through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from dpone.capability import Connector
    from dpone.model.events import RunEvent

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
    """One step of a run happened. What it raises is reported once and never changes the run."""
