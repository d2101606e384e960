"""Every wait has a limit: what could block for ever is not called without one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ROOT.glob("dpone-*/src")
    for path in folder.rglob("*.py")
    if "testing" not in path.relative_to(folder).with_suffix("").parts  # neither the kit nor a harness is a run
)
# Methods that wait for ever unless they are given a limit.
ENDLESS = {"get", "join", "wait", "acquire", "poll", "communicate"}
# Calls of a module -> how many arguments they need to be limited, or the argument that limits them.
LIMITED = {"select.select": 4, "subprocess.run": "timeout", "subprocess.check_output": "timeout"}
# Where connections of a driver are made: what they wait for is limited there, and nowhere else.
CONNECTING = {"connect.py", "waiting.py"}


def endless(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, given = ast.unparse(node.func), {word.arg for word in node.keywords}
        limit = LIMITED.get(name)
        if (
            (node.func.attr in ENDLESS and not node.args and not given and name != "select.poll")
            or (isinstance(limit, int) and len(node.args) < limit)
            or (isinstance(limit, str) and limit not in given)
            or (name == "fcntl.flock" and "LOCK_NB" not in ast.unparse(node) and "LOCK_UN" not in ast.unparse(node))
            or (name in ("psycopg.connect", "sqlite3.connect") and path.name not in CONNECTING)
        ):
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_OUT_11_every_wait_has_a_limit() -> None:
    """Queues, threads, events, locks, sockets, processes and drivers are waited for with a limit (architecture.md)."""
    assert len(SOURCES) > 100
    assert [line for path in SOURCES for line in endless(path)] == []


@pytest.mark.parametrize(
    "code",
    ["ready.get()", "thread.join()", "event.wait()", "lock.acquire()", "select.select([a], [], [])", "poll.poll()",
     "fcntl.flock(f, fcntl.LOCK_EX)", "subprocess.run(['git'])", "psycopg.connect('')"],
)  # fmt: skip
def test_OUT_11_a_wait_without_a_limit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The rule sees each way to wait for ever."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "one.py").write_text(code)
    assert list(endless(tmp_path / "one.py")) == [f"one.py:1: {ast.unparse(ast.parse(code))}"]
