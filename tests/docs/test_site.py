"""The pages as a site: what a reader of it can reach, and what its Markdown shows. ``nox -s docs`` builds it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.generate import DOCS
from tests.docs.test_links import HIDDEN

PAGES = sorted(DOCS.rglob("*.md"))
_BEGINS = re.compile(r"([*-]|1\.) |\|")
_GOES_ON = re.compile(r"$|\s|([*-]|\d+\.) |\|")


def linked(page: Path) -> Iterator[Path]:
    """The pages that a page leads to."""
    text = HIDDEN.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s#]+\.md)(?:#[^)]*)?\)", text):
        yield (page.parent / link).resolve()


def test_every_page_is_two_clicks_from_the_index() -> None:
    """At most: index, a page that it names, a page that this one names."""
    one = {*linked(DOCS / "index.md")}
    assert len(one) >= 20
    two = one | {far for near in one for far in linked(near)}
    assert [str(page.relative_to(DOCS)) for page in PAGES if page not in two | {DOCS / "index.md"}] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_list_or_table_follows_an_empty_line(page: Path) -> None:
    """A forge shows one that follows a line of text; MkDocs makes it part of the paragraph. A nested list has four
    blanks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = text.splitlines()
    pairs = itertools.pairwise(lines)
    assert [now for before, now in pairs if _BEGINS.match(now) and not _GOES_ON.match(before)] == []
    assert not re.search(r"^ {1,3}[*-] ", text, re.MULTILINE)
