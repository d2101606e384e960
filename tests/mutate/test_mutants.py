"""The mutation tests themselves: what is changed, what is not, and that a mutant nobody notices is reported."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.mutate import __main__ as mutate
from tests.mutate.mutants import mutants

EXAMPLE = "tests/mutate/example.py"


def changes(code: str) -> set[tuple[str, str]]:
    return {(one.before, one.after) for one in mutants("m.py", textwrap.dedent(code).encode())}


@pytest.mark.parametrize(
    ("code", "afters"),
    [
        ("a < b", {"a <= b"}),
        ("a is None", {"a is not None"}),
        ("a in b", {"a not in b"}),
        ("a == b", {"a != b"}),
        ("a and b", {"a or b"}),
        ("a + b", {"a - b"}),
        ("x = 1", {"x = 2"}),
        ("x = True", {"x = False"}),
        ("x = 'word'", {"x = 'wordx'"}),
        ("x = not a", {"x = a"}),
        ("a.b = c", {"pass"}),
        ("a += b", {"pass"}),
        ("for a in b:\n  continue", {"break"}),
        ("while not a: b", {"while a:"}),
        ("if a < b: c", {"if a <= b:", "if not a < b:"}),
        ("if a == b: c", {"if a != b:"}),
        ("f()", {"pass"}),
        ("x = f(a, b)", {"x = f(b, a)"}),
        ("raise a", {"pass"}),
        ("if a: b", {"if not a:"}),
        ("if not a: b", {"if a:"}),
        ("x = [a for a in b if c]", {"x = [a for a in b if not c]"}),
        ("def f():\n  return a", {"return None"}),
        ("x = f'{a + b} text'", {"x = f'{a - b} text'"}),
    ],
)
def test_one_node_is_changed_at_a_time(code: str, afters: set[str]) -> None:
    """Operators, conditions, constants, arguments, returned values, statements: each change is a mutant of its own."""
    assert {after for _, after in changes(code)} == afters


@pytest.mark.parametrize(
    "code",
    [
        '"""Says what it does."""',
        "assert a < b",
        "x: Literal['a'] | None",
        "T = TypeVar('T', bound=A)",
        "import a",
        "x = zip(a, strict=True)",
        "x = d.differs(a, b)",
        "x: int = field(init=False, repr=False)",
        "raise Error('failed', 'found', 'what to do')",
        "x = SinkError(failed, found, todo)",
        "@f(1)\ndef g(): ...",
    ],
)
def test_what_does_nothing_is_left_alone(code: str) -> None:
    """Docstrings, annotations, decorators, imports, assertions and the texts of messages are not mutated."""
    assert not {after for _, after in changes(code)} - {"pass"}


def test_mutants_are_python_and_differ_in_one_place() -> None:
    """Every mutant of a real module can be told from it, and nearly all compile; those that do not are never drawn."""
    source = Path(mutate.ROOT, mutate.SRC, "sql/cursor.py").read_bytes()
    made = mutants("sql/cursor.py", source)
    assert len(made) > 100
    drawn = [one for one in made if one.compiles()]
    assert len(drawn) > 0.95 * len(made)
    plain = ast.dump(ast.parse(source))
    assert all(ast.dump(ast.parse(one.changed)) != plain for one in drawn)


def test_a_mutant_nobody_notices_is_reported(tmp_path: Path) -> None:
    """A test that only runs the code lets mutants live: they are listed with file, line and change, and the run is red.
    One that looks kills them, and those known as equivalent are not run. The tree stays as it was. Each verdict is kept
    as it comes: a run that was stopped goes on with the next mutant, and only with the same code and seed."""
    lease = mutate.ROOT / mutate.SRC / "engine/lease.py"
    before = lease.read_bytes()
    lines = [line.strip() for line in before.decode().splitlines()]
    [renew] = [n for n, line in enumerate(lines, 1) if line == "lease.renew()"]
    [join] = [n for n, line in enumerate(lines, 1) if line.startswith("thread.join(")]
    args = [f"engine/lease.py:{renew}", f"engine/lease.py:{join}", "--seed", "4", "--mutants", "3", "--suite", EXAMPLE]
    kept = tmp_path / "verdicts"

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.mutate", *args, "--verdicts", str(kept), *more]
        env = {**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "types")}  # what has not changed is checked once
        return subprocess.run(command, cwd=mutate.ROOT, env=env, capture_output=True, text=True, timeout=120)

    done = run()
    said = done.stdout
    assert f"killed     {mutate.SRC}/engine/lease.py:{renew} {EXAMPLE}::test_with_teeth" in said
    survivor = f"{mutate.SRC}/engine/lease.py:{join} 2 of 2 tests ran\n       in renewing\n     - {lines[join - 1]}"
    assert f"survived   {survivor}" in said
    assert "seed 4: 3 of 3 mutants" in said
    assert "seed 4: 1 killed (0 by the time limit, 0 by mypy), 1 survived, 1 equivalent; 50.0% killed" in said
    assert (done.returncode, done.stderr) == (1, "")
    assert lease.read_bytes() == before

    head, *verdicts = kept.read_text().splitlines(keepends=True)
    assert sorted(json.loads(one)[1] for one in verdicts) == [
        ["killed", f"{EXAMPLE}::test_with_teeth"],
        ["survived", "2 of 2 tests ran"],
    ]
    kept.write_text(head + verdicts[0])  # stopped after the first
    again = run()
    assert [one for one in again.stdout.splitlines() if "mutants" not in one] == [
        one for one in said.splitlines() if "mutants" not in one
    ]
    assert kept.read_text().splitlines(keepends=True) == [head, *verdicts]
    other = run("--seed", "5")
    assert (other.returncode, other.stdout.splitlines()[1:]) == (1, [])
    assert other.stderr == f"{kept} has the verdicts of another seed, --seconds or code; name another file\n"


def test_what_runs_on_import_is_looked_for_in_all_of_the_module() -> None:
    """No test runs such a line of its own: those come first that run lines of the module which few others run."""
    code = b"A = 1\n\n\ndef f():\n    return A\n\n\ndef g():\n    return 2\n"
    [mutant] = [one for one in mutants("m.py", code) if one.line == 1]
    lines = {"1": [], "5": [0, 1, 2], "9": [1]}
    tree = mutate.Tree(Path(), [("t::a", 1.0), ("t::b", 1.0), ("t::c", 0.5)], {f"{mutate.SRC}/m.py": lines})
    assert tree.tests_of(mutant, 20) == (["t::b", "t::c", "t::a"], 2.5, 3)
