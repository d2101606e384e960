"""docs/write-a-connector.md shows the example connector as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dpone.contract import OPTIONAL
from dpone.sql.cursor import Cursored
from dpone.sql.dialect import Database

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "write-a-connector.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```\w+\n# (examples/\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "text"), FENCES, ids=[f"{i} {name}" for i, (name, _) in enumerate(FENCES)])
def test_code_on_the_page_is_code_of_the_example(name: str, text: str) -> None:
    """A piece of code that names a file of the example stands in it word for word; '# ...' marks what is left out."""
    there = (ROOT / name).read_text(encoding="utf-8")
    for piece in text.split("# ...\n"):
        assert piece.strip("\n") in there


def test_the_page_shows_the_example() -> None:
    """So that the check above checks something."""
    assert len(FENCES) >= 5


def test_members_named_on_the_page_exist() -> None:
    """What the page calls a member of a Database is one."""
    listed = re.search(r"\*\*Database\*\*: (.*?)\.\n\n", PAGE, re.DOTALL)
    assert listed
    names = re.findall(r"`(\w+)`", listed[1])
    assert len(names) >= 8
    assert [name for name in names if not hasattr(Database, name)] == []
    assert len([name for name in vars(Cursored) if not name.startswith("_")]) == 6


def test_the_page_lists_every_optional_protocol() -> None:
    """One row for each of ``contract.OPTIONAL``, with its capability and all of its members."""
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| `(\w+)`: (.*?) \|", PAGE, re.MULTILINE)
    listed = {
        (role, capability, protocol, *re.findall(r"`(\w+)`", members)) for role, capability, protocol, members in rows
    }
    assert listed == {
        (role, capability, protocol.__name__, *(name for name in vars(protocol) if not name.startswith("_")))
        for role, named in OPTIONAL.items()
        for capability, protocol in named.items()
    }
