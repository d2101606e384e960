"""Each error text on the troubleshooting page is one that dpone prints."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from tests.advice.inventory import ROOT, SOURCES
from tests.docs.generate import DOCS

from dpone import errors

PAGE = (DOCS / "reference" / "troubleshooting.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^\| error text \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
TEXTS = [text for table in TABLES for text in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)]
SERVERS = {"permission denied"}  # what PostgreSQL says, printed as it is


@cache
def texts() -> str:
    """All texts of the source, a line each; what is filled in is ``{}``."""
    found = set()
    for source in SOURCES:
        for path in (ROOT / source).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(" ".join(node.value.split()))
                elif isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
                    found.add(" ".join("".join(map(str, parts)).split()))
    return "\n".join(found)


@pytest.mark.parametrize("text", [text for text in TEXTS if text not in SERVERS])
def test_an_error_text_of_the_page_is_one_that_dpone_prints(text: str) -> None:
    """Word for word; ``..`` is what is filled in. A text that was reworded has to be reworded on the page."""
    found = re.search(re.escape(text).replace(r"\.\.", r"\{\}"), texts())
    assert found is not None, f"no source has the text {text!r}"


def test_the_page_has_its_texts() -> None:
    """So that the check above checks something."""
    assert len(TABLES) == 7
    assert len(TEXTS) >= 40


def test_every_kind_of_error_is_on_the_page_with_its_exit_code() -> None:
    """All classes that a report or an exit code may be of."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\d+) \|", PAGE, re.MULTILINE)
    listed = {(name.strip("` "), int(code)) for names, code in rows for name in names.split(",")}
    kinds = [*_below(errors.DponeError), errors.Interrupted]
    assert listed == {(kind.__name__, kind.exit_code) for kind in kinds}


def _below(kind: type[errors.DponeError]) -> list[type[errors.DponeError]]:
    """Classes of ``dpone.errors`` alone: tests and plugins may have their own."""
    found = [one for one in kind.__subclasses__() if one.__module__ == "dpone.errors"]
    return [*found, *(further for one in found for further in _below(one))]
