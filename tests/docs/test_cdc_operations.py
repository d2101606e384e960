"""docs/guide/cdc-operations.md: its commands are run, and its runbooks over a replication slot as well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.generate import DOCS
from tests.docs.transcript import follow
from tests.postgres.server import Server

PAGE = DOCS / "guide" / "cdc-operations.md"
STREAM = """\
pipeline: shop
source:
  type: postgres
  connection: %s
  table: public.orders
  options: {incremental: {by: cdc}, slot: dpone_docs, publication: dpone_docs}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: orders, strategy: {mode: cdc_apply}}
"""


def sections(word: str) -> str:
    """Those whose heading begins so, without the blanks in front of what belongs to a list."""
    text = PAGE.read_text(encoding="utf-8")
    found = [part for part in re.split(r"^(?=## )", text, flags=re.MULTILINE) if part.startswith(f"## {word}")]
    return re.sub(r"^ {3}", "", "\n".join(found), flags=re.MULTILINE)


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_page_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command does and prints what the page shows, over the change log of the page."""
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"^ {3}", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert follow(page(tmp_path, text), "", capsys) == 10


@pytest.mark.postgres
def test_the_runbooks_are_followed_over_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: Server
) -> None:
    """The same commands, over a stream of PostgreSQL with changes that wait."""
    monkeypatch.chdir(tmp_path)
    database.run("CREATE TABLE orders (id int PRIMARY KEY, item text)", "INSERT INTO orders VALUES (1, 'lamp')")
    (tmp_path / "pipeline.yaml").write_text(STREAM % database.url)
    first = "```sh\ndpone cdc create pipeline.yaml\ndpone run pipeline.yaml\n```\n"
    try:
        assert follow(page(tmp_path, first), "", capsys) == 2
        database.run("UPDATE orders SET item = 'desk'", "INSERT INTO orders VALUES (2, 'lamp')")
        assert follow(page(tmp_path, sections("Runbook")), "", capsys) == 5
    finally:
        assert follow(page(tmp_path, "```sh\ndpone cdc drop pipeline.yaml --yes\n```\n"), "", capsys) == 1
