"""The examples of docs/guide/schema-evolution.md do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dpone.cli.main import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "guide" / "schema-evolution.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
SHOWN = [text.partition("\n")[::2] for kind, text in FENCE.findall(PAGE) if kind == "console"]


@pytest.mark.parametrize(("command", "output"), SHOWN)
def test_commands_print_what_the_page_shows(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command line, run in a folder with the files of the page, prints the lines below it."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    prompt, program, *args = shlex.split(command)
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert (prompt, program) == ("$", "dpone")
    assert capsys.readouterr().out == output
    assert ended.value.code == (3 if "BREAKING" in output else 0)


def test_the_python_of_the_page_runs() -> None:
    """What the page shows of the Python API holds."""
    [code] = [text for kind, text in FENCE.findall(PAGE) if kind == "python"]
    exec(code, {})  # noqa: S102  (our own page)


def test_the_page_has_its_examples() -> None:
    """The page shows two files and two commands."""
    assert (set(FILES), len(SHOWN)) == ({"source.json", "target.json"}, 2)
