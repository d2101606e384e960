"""What the pages say is compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs import generate

from dpone import hookspecs
from dpone.config.reader import load_pipeline
from dpone.model.strategy import MODES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*/README.md"), ROOT / "README.md"])


def _fences(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


PIPELINES = [(page, text) for page in PAGES for text in _fences(page, "yaml") if text.startswith("pipeline:")]


@pytest.mark.parametrize("page", generate.PAGES, ids=lambda page: page.stem)
def test_a_generated_page_is_what_the_code_gives(page: Path) -> None:
    """Word for word; ``python -m tests.docs.generate`` writes it."""
    assert page.read_text(encoding="utf-8") == generate.PAGES[page]()


@pytest.mark.parametrize(("page", "text"), PIPELINES, ids=[f"{p.name}-{i}" for i, (p, _) in enumerate(PIPELINES)])
def test_every_pipeline_on_a_page_is_valid(
    page: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline file shown to a reader passes the checks that a reader's own file has to pass."""
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(name, "sqlite:///example.db")
    file = tmp_path / "pipeline.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_pipeline(file).streams


def test_there_are_pipelines_to_check() -> None:
    """The pages do show pipelines, so that the check above checks something."""
    assert len(PIPELINES) >= 4


def test_every_hook_is_documented() -> None:
    """docs/internals/plugins.md names every hook there is."""
    text = (DOCS / "internals" / "plugins.md").read_text(encoding="utf-8")
    assert [name for name in vars(hookspecs) if name.startswith("dpone_") and f"`{name}`" not in text] == []


def test_every_strategy_is_documented() -> None:
    """docs/guide/load-strategies.md names every strategy of the contract."""
    text = (DOCS / "guide" / "load-strategies.md").read_text(encoding="utf-8")
    assert [name for name in MODES if f"`{name}`" not in text] == []
