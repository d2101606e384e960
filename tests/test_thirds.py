"""The thirds in which long tests are run, another for each commit."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def named(*options: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/cdc/test_offsets.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_every_test_is_in_one_third_and_what_is_named_in_each(tmp_path: Path) -> None:
    """The three are disjoint and together all tests; a test of another third runs too where ``--also`` names it."""
    thirds = [named("--third", str(n)) for n in range(3)]
    assert set.union(*thirds) == named()
    assert sum(map(len, thirds)) == len(named())
    assert min(map(len, thirds)) > 0
    other = min(thirds[1])
    (tmp_path / "skipped").write_text(f"{other}\n")
    assert named("--third", "0", "--also", str(tmp_path / "skipped")) == thirds[0] | {other}


def test_what_is_skipped_is_written_down(tmp_path: Path) -> None:
    """By its name as a test, one a line, and nothing else."""
    (tmp_path / "test_two.py").write_text("import pytest\ndef test_a(): pytest.skip('not here')\ndef test_b(): ...\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-p",
        "tests.conftest",
    ]
    written = tmp_path / "skipped"
    subprocess.run(
        [*command, "--rootdir", str(tmp_path), "--skipped", str(written), str(tmp_path / "test_two.py")],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    assert written.read_text() == "test_two.py::test_a\n"
