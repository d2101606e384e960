"""The parts in which long tests are run, another for each commit."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import part

ROOT = Path(__file__).parent.parent


def named(*options: str, where: tuple[str, ...] = ("tests/cdc/test_offsets.py",)) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *where, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_every_test_is_in_one_part_and_what_is_named_in_each(tmp_path: Path) -> None:
    """The parts are disjoint and together all tests; a test of another part runs too where ``--also`` names it."""
    parts = [named("--part", f"{n}/3") for n in range(3)]
    assert set.union(*parts) == named()
    assert sum(map(len, parts)) == len(named())
    assert min(map(len, parts)) > 0
    other = min(parts[1])
    (tmp_path / "skipped").write_text(f"{other}\n")
    assert named("--part", "0/3", "--also", str(tmp_path / "skipped")) == parts[0] | {other}


def test_what_releases_differ_in_is_in_each_part_of_another_server(tmp_path: Path) -> None:
    """With ``--also``, which another server has, every test marked ``releases``; otherwise those of the part alone."""
    (tmp_path / "skipped").write_text("")
    where = ("tests/postgres/test_cdc_setup.py", "-m", "postgres")
    some = named("--part", "0/9", where=where)
    every = named("--part", "0/9", "--also", str(tmp_path / "skipped"), where=where)
    assert some < every
    assert len(every) > 9


@pytest.mark.parametrize("given", ["3/3", "-1/3", "1", "a/b", "1/0"])
def test_a_part_that_there_is_not_is_refused(given: str) -> None:
    """Nothing runs instead of all tests or none."""
    with pytest.raises((ValueError, ZeroDivisionError)):
        part(given)


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
