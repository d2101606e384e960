"""docs/guide/runs.md does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import fields
from tests.docs.transcript import follow

from dpone.cli.runs import runs
from dpone.model.pipeline import RunLogOptions

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "guide" / "runs.md"


def test_the_page_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands print what it shows."""
    monkeypatch.chdir(tmp_path)
    assert follow(PAGE, "", capsys) == 4


def test_every_option_and_default_is_on_the_page() -> None:
    """Options of the list, and of the retention."""
    text = PAGE.read_text(encoding="utf-8")
    names = [option for one in runs.params for option in one.opts if option.startswith("--")]
    assert [name for name in names if f"| `{name} " not in text and f"| `{name}`" not in text] == []
    options = RunLogOptions()
    shown = ", ".join(
        f"{one.name}: {str(getattr(options, one.name)).lower().removesuffix('.0')}" for one in fields(RunLogOptions)
    )
    assert f"run_log: {{{shown}}}" in text


def test_the_pictures_are_small() -> None:
    """Each is shown on the page, and below 150 kB."""
    pictures = sorted((DOCS / "assets").glob("*.png"))
    assert len(pictures) == 4
    text = PAGE.read_text(encoding="utf-8")
    assert [one.name for one in pictures if f"../assets/{one.name})" not in text or one.stat().st_size > 150_000] == []
