"""Folders and files of the checks, readable only by their owner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dpone.errors import SinkError
from dpone.host import durable


@contextmanager
def failing(step: str, todo: str) -> Iterator[None]:
    """Turns errors of the operating system into ours: read-only, full disk, not a folder."""
    try:
        yield
    except OSError as error:
        raise SinkError(step, error.strerror or type(error).__name__, todo) from error


def writing_into(folder: Path) -> AbstractContextManager[None]:
    return failing(
        f"write {folder}", "free disk space, or give the user that runs dpone write access; nothing was changed"
    )


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can read, and its missing parents; durable on return."""
    if not folder.is_dir():
        make_private(folder.parent)
        durable.private_folder(folder)
