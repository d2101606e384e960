"""dpone moves tables, topics and change streams, and can prove afterwards what it moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"
__all__ = ["Pipeline", "hookimpl", "load_pipeline", "run"]

if TYPE_CHECKING:
    from dpone.config.reader import load_pipeline
    from dpone.engine.run import run
    from dpone.hookspecs import hookimpl
    from dpone.model.pipeline import Pipeline

_WHERE = {
    "run": "dpone.engine.run",
    "load_pipeline": "dpone.config.reader",
    "Pipeline": "dpone.model.pipeline",
    "hookimpl": "dpone.hookspecs",
}


def __getattr__(name: str) -> Any:
    """Names of the API are imported when first used: ``import dpone`` costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module 'dpone' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """So that ``help(dpone)`` shows them."""
    return [*globals(), *__all__]
