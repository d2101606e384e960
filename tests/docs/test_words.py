"""Plain technical English: words that a reader of these pages stumbles over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.test_links import HIDDEN
from tests.docs.test_pages import PAGES

# What to write instead.
WORDS = {
    r"anew|afresh": "again, from scratch",
    r"besides?": "next to, with, also",
    r"told": "reported, detected, distinguished",
    r"judges?": "check, decide",
    r"midst": "in the middle of",
    r"(?<!there )(?:is|are|was|were) no (?!longer|more)\w+": "is not a ...",
    r"(?:1|one) (?:rows|keys|columns|files|streams|parts|tables)": "the singular",
}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "cli.md"], ids=lambda page: page.name)
def test_a_page_uses_plain_words(page: Path) -> None:
    """Code and output are as they are; ``docs/reference/cli.md`` is the help of the commands."""
    text = " ".join(HIDDEN.sub("", page.read_text(encoding="utf-8")).split())
    found = [(words, text[max(0, m.start() - 40) : m.end() + 20])
             for words in WORDS for m in re.finditer(rf"\b(?:{words})\b", text, re.IGNORECASE)]  # fmt: skip
    assert found == []
