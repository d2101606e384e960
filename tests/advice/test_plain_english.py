"""Messages are plain technical English: no words of a private dialect, right plurals, short."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.advice.inventory import ROOT, SOURCES

LONGEST = 25  # words before the fix
PRIVATE = re.compile(
    r"(?<!-)\b(anew|told|besides?|judged?|gravest|mend|mended|nowise|thereof)\b"
    r"|(?<!there )\b(is|are|was|were) no\b(?! longer)|\bat work on\b|\bby nobody\b|\bwithout a word\b"
    r"|\bsee (its|that)\b"
    r"|\bstands? (together|in the way|in|beside)\b|\bthrown? away\b|\bas it were\b|\bmeanwhile\b"
)
ERRORS = (
    "Error", "Busy", "Conflict", "Gap", "Changed", "SetBack", "Break", "Ahead", "Missing", "Refused", "Mismatch",
    "Paused",
)  # fmt: skip
PLURAL = re.compile(
    r"(?<!than )(?<!find )\{\} "
    r"(bytes|changes|columns|entries|errors|files|keys|parts|partitions|problems|rows|streams)\b(?!/)"
)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            name = path.relative_to((ROOT / source).parent).as_posix()
            yield name, ast.parse(path.read_text())


def texts(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of what a module may print: its strings of several words. What is filled in is ``{}``; a docstring
    is printed where it is the help of a command."""
    unprinted = {id(part.value) for part in ast.walk(module) if isinstance(part, ast.Expr)}
    for part in ast.walk(module):
        if isinstance(part, ast.JoinedStr):
            unprinted |= {id(value) for value in part.values}
        elif isinstance(part, ast.FunctionDef) and any("command" in ast.unparse(d) for d in part.decorator_list):
            unprinted -= {id(part.body[0].value)} if isinstance(part.body[0], ast.Expr) else set()
    for part in ast.walk(module):
        if id(part) not in unprinted and isinstance(part, ast.Constant | ast.JoinedStr):
            text = said(part)
            if re.search(r"[a-z{}] [a-z{(]", text):
                yield part.lineno, text


def said(node: ast.expr) -> str:
    """The text of an expression; ``{}`` for what is known only at run time."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "{}"
    if isinstance(node, ast.JoinedStr):
        return "".join(said(value) if isinstance(value, ast.Constant) else "{}" for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return said(node.left) + said(node.right)
    return "{}"


def refusals(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text before the fix of each error that is raised with its three parts."""
    for function in (part for part in ast.walk(module) if isinstance(part, ast.FunctionDef)):
        given: dict[str, list[str]] = {}
        for part in ast.walk(function):
            if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                given.setdefault(part.targets[0].id, []).append(said(part.value))
        for part in ast.walk(function):
            if isinstance(part, ast.Call) and len(part.args) == 3 and ast.unparse(part.func).endswith(ERRORS):
                failed, found = (longest(arg, given) for arg in part.args[:2])
                yield part.lineno, f"{failed}: {found}"


def longest(node: ast.expr, given: dict[str, list[str]]) -> str:
    if isinstance(node, ast.Name):
        return max(given.get(node.id, ["{}"]), key=len)
    return said(node)


def private(module: ast.Module) -> list[tuple[int, str]]:
    return [one for one in texts(module) if PRIVATE.search(one[1])]


def plurals(module: ast.Module) -> list[tuple[int, str]]:
    return [one for one in texts(module) if PLURAL.search(one[1])]


def long(module: ast.Module) -> list[tuple[int, str]]:
    alone = ((line, re.split(r"[;.\n]", text)[0]) for line, text in texts(module))
    return [one for one in (*alone, *refusals(module)) if len(one[1].split()) > LONGEST]


@pytest.mark.parametrize("rule", [private, plurals, long])
def test_messages_are_plain_english(rule: Callable[[ast.Module], list[tuple[int, str]]]) -> None:
    """No private words ('is not a change stream', 'from scratch', 'fix'); a number takes its noun by
    ``errors.counted``; at most 25 words before the fix, in each text of its own, too."""
    assert {name: found for name, module in modules() if (found := rule(module))} == {}


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def f():\n    raise ConfigError('read a', 'the source is no change stream', 'x')", private),
        ("def f(a):\n    raise DataError('check', f'{a} was told', 'x')", private),
        ("text = 'mend the source'", private),
        ("@click.command()\ndef f():\n    '''Load all rows anew.'''", private),
        ("def f(n):\n    return f'{n:,} keys repeat'", plurals),
        (f"def f():\n    found = {'w ' * 20!r}\n    raise Busy({'v ' * 6!r}, found, 'x')", long),
        (f"text = {'w ' * 26!r}", long),
    ],
)
def test_each_rule_finds_what_breaks_it(source: str, rule: Callable[[ast.Module], list[tuple[int, str]]]) -> None:
    """A rule that finds nothing would hold of any text."""
    assert len(rule(ast.parse(source))) == 1


def test_every_package_is_read() -> None:
    """A package that is moved is still looked at."""
    found = {Path(name).parts[1] for name, _ in modules()}
    assert {"cli", "connectors", "ops", "errors.py"} <= found


def test_numbers_and_nouns() -> None:
    """Thousands have commas; a plural of its own is given."""
    from dpone.errors import counted

    assert [counted(n, "key") for n in (0, 1, 2, 1234)] == ["0 keys", "1 key", "2 keys", "1,234 keys"]
    assert [counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]
