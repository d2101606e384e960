"""A page followed as its reader would: its files are written, its commands run, and the output compared."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dpone.cli.main import main

_FENCE = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OWN = [(r"\b(load|run) [0-9A-Z]{26}\b", r"\1 ID"), (r"( in|,) [\d.]+ s\b", r"\1 0.05 s")]


def steps(page: Path) -> Iterator[tuple[str, str, str]]:
    """Every fence of a page, in its order: the file that the line before names, the language, the text."""
    yield from _FENCE.findall(page.read_text(encoding="utf-8"))


def follow(page: Path, url: str, capsys: pytest.CaptureFixture[str]) -> int:
    """In the current folder: writes each file, runs each command of a ``console`` fence (its output is compared) or a
    ``sh`` fence (it must succeed). Returns how many ran."""
    ran = 0
    for name, language, text in steps(page):
        if name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text, encoding="utf-8")
        elif language in ("console", "sh"):
            for command, expected in _commands(text, language):
                code, output = typed(command, url, capsys)
                if language == "console":
                    assert re.fullmatch(_shown(expected), output), f"{command} prints:\n{output}"
                assert (code == 0) == ("error: " not in expected), (command, output)
                ran += 1
    return ran


def _commands(text: str, language: str) -> Iterator[tuple[str, str]]:
    if language == "sh":
        for line in text.splitlines():
            if line.startswith(("dpone ", "psql ")):
                yield line.partition("  #")[0], ""
        return
    for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = block.partition("\n")
        yield command, output


def typed(command: str, url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code, and what it prints: stdout, then the errors."""
    program, *args = shlex.split(command)
    if program == "psql":
        return 0, _psql(url, args[-1])
    assert program == "dpone", command
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(args)
    done = capsys.readouterr()
    errors = [line for line in done.err.splitlines(keepends=True) if line.startswith("error: ")]
    return int(ended.value.code or 0), normal(done.out + "".join(errors))


def normal(text: str) -> str:
    """Without what differs from run to run: ids and times."""
    for pattern, shown in _OWN:
        text = re.sub(pattern, shown, text)
    return text


def _shown(text: str) -> str:
    """``...`` stands for the rest of a line."""
    return re.escape(text).replace(r"\.\.\.", ".*")


def _psql(url: str, sql: str) -> str:
    with psycopg.connect(url, autocommit=True) as db:
        done = db.execute(sql)  # type: ignore[call-overload]
        if done.description is None:
            return f"{done.statusmessage}\n"
        return _aligned([column.name for column in done.description], done.fetchall())


def _aligned(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """As psql prints a result: numbers to the right."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    wide = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    right = [all(isinstance(row[i], int | float | Decimal) for row in rows) for i in range(len(names))]
    head = "|".join(f" {name.center(width)} " for name, width in zip(names, wide, strict=True))
    lines = [head.rstrip(), "+".join("-" * (width + 2) for width in wide)]
    for row in cells:
        parts = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, wide, right, strict=True)]
        lines.append("|".join(f" {part} " for part in parts).rstrip())
    return "\n".join([*lines, f"({len(rows)} {'row' if len(rows) == 1 else 'rows'})"]) + "\n"
