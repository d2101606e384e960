"""The tutorial is followed to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.generate import DOCS
from tests.docs.transcript import follow
from tests.postgres.server import Server


@pytest.mark.postgres
def test_each_command_prints_what_the_tutorial_shows(
    database: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an empty folder and an empty database; ids and times are its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAREHOUSE", database.url)
    assert follow(DOCS / "guide" / "tutorial.md", database.url, capsys) >= 10
