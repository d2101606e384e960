"""docs/internals/write-a-connector.md shows the example connector as it is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from dpone.contract import OPTIONAL, Source
from dpone.sql.catalog import Catalog
from dpone.sql.cursor import Cursored
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Database, Dialect
from dpone.sql.source import SqlSource
from dpone.sql.system import SqlSystem
from dpone.testing import Harness, LogHarness, SqlHarness, StoreHarness, hostile

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "internals" / "write-a-connector.md").read_text(encoding="utf-8")
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


INHERITED = {DbapiDatabase: (Database, Catalog), Catalog: (Database,), SqlSource: (Source,)}


@pytest.mark.parametrize("kind", [Dialect, SqlSystem, Database, DbapiDatabase, Catalog, SqlSource])
def test_the_page_lists_every_member_of_a_sql_connector(kind: type) -> None:
    """Each in one row of its table, and those that have no default in bold; of a base, what it adds to its own base."""
    section = re.search(rf"^### The {kind.__name__}\n(.*?)^### ", PAGE, re.MULTILINE | re.DOTALL)
    assert section
    first = [cell for line in section[1].splitlines() if (cell := line.removeprefix("| ").partition(" | ")[0]) != line]
    found = [one for cell in first for one in re.findall(r"`(\w+)(\(.*?\))?`", cell)]
    listed = [name for name, _ in found]
    bold = {name for cell in first for name in re.findall(r"\*\*`(\w+)(?:\(.*?\))?`\*\*", cell)}
    known = {name for base in INHERITED.get(kind, ()) for name in vars(base)}
    stated = {*inspect.get_annotations(kind)}
    members = {*vars(kind), *stated} - known
    assert sorted(listed) == sorted(name for name in members if not name.startswith("_"))
    assert bold == ({*getattr(kind, "__abstractmethods__", ())} & members) | {n for n in stated if not hasattr(kind, n)}
    assert found == [(name, _signature(kind, name)) for name in listed]


def _signature(kind: type, name: str) -> str:
    """As the page has it: names and defaults, without types; empty of what is not called."""
    member = inspect.getattr_static(kind, name, None)
    if not (inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod))):
        return ""
    signature = inspect.signature(getattr(member, "__func__", member))
    given = [one.replace(annotation=one.empty) for n, one in signature.parameters.items() if n not in ("self", "cls")]
    return str(signature.replace(parameters=given, return_annotation=signature.empty)).replace("'", '"')


@pytest.mark.parametrize("base", [SqlHarness, LogHarness, StoreHarness])
def test_the_page_lists_every_member_of_a_base_of_harnesses(base: type) -> None:
    """What it adds to a Harness, in one row of the table of its section."""
    section = re.search(rf"^### {base.__name__}\n(.*?)^### ", PAGE, re.MULTILINE | re.DOTALL)
    assert section
    cells = re.findall(r"^\| (`.*?) \|", section[1], re.MULTILINE)
    listed = [name for cell in cells for name in re.findall(r"`(\w+)(?:\(.*?\))?`", cell)]
    members = {*vars(base), *inspect.get_annotations(base)} - {*vars(Harness), *inspect.get_annotations(Harness)}
    assert sorted(listed) == sorted(name for name in members if not name.startswith("_"))


def test_the_page_lists_the_types_that_every_sink_keeps() -> None:
    """Those that the kit loads, and no other."""
    [answer] = re.findall(r"^\* \*\*Which types must a sink keep\?\*\* (.*?) \(`hostile\.VALUES`\)", PAGE, re.M | re.S)
    assert re.findall(r"`(.*?)`", answer) == [str(type) for type in hostile.VALUES]


def test_a_source_by_cursor_answers_six_questions() -> None:
    """As many as the page says."""
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
