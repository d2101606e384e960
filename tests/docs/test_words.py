"""Plain technical English: words that a reader of the pages or of the source stumbles over."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.advice.inventory import ROOT, SOURCES
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
    r"at work|under way": "running, in progress",
    r"held against": "checked against, compared with",
    r"thrown? away": "discarded, dropped",
    r"(?:has|have) no word for": "does not have",
    r"what comes": "what follows",
    r"asked of": "applied to",
    r"to the letter": "exactly",
    r"of (?:now|before)(?=[ .,;:])": "current, earlier",
    r"quiet machine": "idle machine",
}
# Only in the source; pages also speak of people and of connections.
OF_CODE = {
    r"(?:goes?|gone) on with": "continues",
    r"lets? go of": "releases",
    r"tells? apart": "distinguishes",
    r"whoever": "the caller, the program that",
}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "cli.md"], ids=lambda page: page.name)
def test_a_page_uses_plain_words(page: Path) -> None:
    """Code and output are as they are; ``docs/reference/cli.md`` is the help of the commands."""
    text = " ".join(HIDDEN.sub("", page.read_text(encoding="utf-8")).split())
    found = [(words, text[max(0, m.start() - 40) : m.end() + 20])
             for words in WORDS for m in re.finditer(rf"\b(?:{words})\b", text, re.IGNORECASE)]  # fmt: skip
    assert found == []


def modules() -> Iterator[Path]:
    for source in SOURCES:
        yield from sorted((ROOT / source).rglob("*.py"))


def prose(source: str) -> Iterator[str]:
    """Docstrings and comments, each on one line."""
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(part)):
            yield " ".join(text.split())
    comments: dict[int, str] = {}  # by the line that each ends on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            before = comments.pop(token.start[0] - 1, "")
            comments[token.start[0]] = f"{before} {token.string.lstrip('# ')}".strip()
    yield from comments.values()


def stumbling(source: str) -> list[tuple[str, str]]:
    words = re.compile(rf"(?<![-`])\b(?:{'|'.join((*WORDS, *OF_CODE))})\b(?![:`])", re.IGNORECASE)
    found = ((m, text) for text in prose(source) for m in words.finditer(text))
    return [(m.group(), text[max(0, m.start() - 40) : m.end() + 20]) for m, text in found]


def test_docstrings_and_comments_use_plain_words() -> None:
    """As the pages: what a module says of itself is in the field's words."""
    found = {path.relative_to(ROOT).as_posix(): stumbling(path.read_text(encoding="utf-8")) for path in modules()}
    assert {name: places for name, places in found.items() if places} == {}
    assert len(found) > 100


@pytest.mark.parametrize(
    "source", ['"""Made anew."""', 'def f():\n    """Goes on with\n    it."""', "x = 1  # held\n# against it"]
)
def test_a_word_is_found_wherever_it_is(source: str) -> None:
    """In docstrings and comments, over the end of a line too."""
    assert len(stumbling(source)) == 1
