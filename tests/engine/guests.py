"""Observers as an installed plugin brings them: found by discovery, with a thread of their own."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from attrs import evolve
from tests.engine.project import with_plugins

from dpone.hookspecs import hookimpl
from dpone.plugins import FoundPlugin, Plugins


def installed(
    dpone_run_event: Callable[..., Any] | None = None,
    dpone_observer: Callable[..., Any] | None = None,
    **connectors: str,
) -> Plugins:
    """The installed plugins, and one more with these hooks; connectors as in ``with_plugins``."""
    module = types.ModuleType("guest")
    for name, call in (("dpone_run_event", dpone_run_event), ("dpone_observer", dpone_observer)):
        if call is not None:
            setattr(module, name, hookimpl(call))
    plugins = with_plugins(**connectors)
    plugins.manager.register(module, name="guest")
    return evolve(plugins, found=(*plugins.found, FoundPlugin("guest", "guest", None)))
