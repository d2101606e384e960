"""``.ci/run`` with sessions that do nothing: what it runs, and what it prints last."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STUBS = {
    "python3": 'if [ "$1" = -m ]; then mkdir -p "$3/bin"; : > "$3/bin/activate"; fi',
    "pip": "exit 0",
    "nox": 'echo "$@" >> "$SEEN"; case " $* " in *" -s $FAILS "*) exit 3;; esac',
}
ORDER = (
    *("nox", "environment", "tests", "lint", "typing", "docs", "lowest", "certify", "example, wheels", "postgres"),
    *("crash", "attack, fuzz"),
)  # fmt: skip


def run(folder: Path, fails: str) -> tuple[int, list[str]]:
    """Exit code, and what is printed."""
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SEEN": str(folder / "seen"), "FAILS": fails}
    done = subprocess.run(["bash", ROOT / ".ci/run"], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_ci_ends_with_the_minutes_of_each_session(tmp_path: Path) -> None:
    """One line for each session in their order, and the sum; every default session of nox is among them."""
    code, lines = run(tmp_path, "nothing")
    table = lines[lines.index("minutes  session") + 1 :]
    assert code == 0
    assert [line.split(maxsplit=1)[1] for line in table] == [*ORDER, "in all"]
    assert all(re.fullmatch(r" +\d+\.\d  .+", line) for line in table)
    [default] = re.findall(r"nox.options.sessions = \[(.+)\]", (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    assert set(re.findall(r'"(\w+)"', default)) <= set(ORDER)


@pytest.mark.parametrize(("fails", "session"), [
    *((one, one) for one in ("lint", "postgres", "crash")),
    *((one, "example, wheels") for one in ("example", "wheels")),
    *((one, "attack, fuzz") for one in ("attack", "fuzz")),
])  # fmt: skip
def test_ci_ends_with_the_session_that_failed(tmp_path: Path, fails: str, session: str) -> None:
    """No session runs after it, or after the two that run at once; the table has those until then, and the last line
    names it."""
    code, lines = run(tmp_path, fails)
    table = lines[lines.index("minutes  session") + 1 : -1]
    assert code != 0
    assert [line.split(maxsplit=1)[1] for line in table] == [*ORDER[: ORDER.index(session) + 1], "in all"]
    assert lines[-1] == f"failed: {session}"
    seen = [re.findall(r"-s (\w+)", line)[0] for line in (tmp_path / "seen").read_text().splitlines()]
    assert {*seen[-len(session.split(", ")) :]} == {*session.split(", ")}
