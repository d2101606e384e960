"""The parts in which long tests are run, another for each commit."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.conftest import GIVEN, in_part, part

ROOT = Path(__file__).parent.parent
CASES = {"one": 1, "few": 5, "six": 6, "many": 40}
NAMES = [f"a.py::{test}[{case}]" for test, cases in CASES.items() for case in range(cases)] + ["a.py::alone"]
PROJECT = """
import pytest

@pytest.mark.parametrize("case", range(9))
def test_many(case): ...

def test_alone(): ...

@pytest.mark.releases
@pytest.mark.parametrize("case", range(3))
def test_of_releases(case): ...

def test_skipped(): pytest.skip("not here")
"""


def grouped(names: Iterable[str]) -> dict[str, set[str]]:
    """The cases of each test."""
    found: dict[str, set[str]] = {}
    for name in names:
        found.setdefault(name.split("[")[0], set()).add(name)
    return found


@pytest.mark.parametrize("of", [3, 9])
def test_every_test_is_in_one_part(of: int) -> None:
    """The parts are disjoint and together all tests, and of the cases of a test each has as many."""
    parts = [in_part(NAMES, n, of, 1) for n in range(of)]
    assert set.union(*parts) == {*NAMES}
    assert sum(map(len, parts)) == len(NAMES)
    sizes = [len(grouped(one)["a.py::many"]) for one in parts]
    assert max(sizes) - min(sizes) <= 1


def test_tests_of_one_case_are_in_all_parts() -> None:
    """As many as chance brings, and not all of them in the first."""
    sizes = [len(in_part([f"a.py::test_{one}" for one in range(90)], n, 3, 1)) for n in range(3)]
    assert sum(sizes) == 90
    assert min(sizes) > 20


def test_a_test_of_few_cases_is_in_each_part_and_of_another_one_some() -> None:
    """With ``--divide-from`` no test is left out as a whole, and what is divided is divided as without it."""
    for n in range(3):
        found = grouped(in_part(NAMES, n, 3, 6))
        assert {test: len(cases) for test, cases in found.items() if len(cases) < 6} == {
            "a.py::one": 1,
            "a.py::few": 5,
            "a.py::alone": 1,
            "a.py::six": 2,
        }
        assert found["a.py::many"] == grouped(in_part(NAMES, n, 3, 1))["a.py::many"]
        assert 13 <= len(found["a.py::many"]) <= 14


def test_a_part_does_not_depend_on_the_order_of_the_tests() -> None:
    """Processes of xdist must have the same, and whoever repeats it another order."""
    assert in_part(NAMES, 1, 3, 1) == in_part(reversed(NAMES), 1, 3, 1)


def run(folder: Path, *options: str, **given: str) -> list[str]:
    """What pytest prints of the tests of PROJECT, in a process of its own; with a server ``given``, of its refusal."""
    (folder / "test_two.py").write_text(PROJECT)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest"]
    where = ("--rootdir", str(folder), str(folder / "test_two.py"))
    env = {name: value for name, value in os.environ.items() if name != GIVEN} | given
    done = subprocess.run(
        [*command, "-v", *options, *where], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == (4 if given else 0), done.stdout + done.stderr
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def ran(lines: list[str]) -> set[str]:
    return {found[0] for line in lines if (found := re.search(r"test_two\.py::\S+", line))}


def test_what_is_skipped_is_written_down(tmp_path: Path) -> None:
    """By its name as a test, one a line, and nothing else, where several processes run them."""
    run(tmp_path, "-n", "2", "--skipped", str(tmp_path / "skipped"))
    assert (tmp_path / "skipped").read_text() == "test_two.py::test_skipped\n"


def test_a_part_is_said_and_what_is_named_is_in_each(tmp_path: Path) -> None:
    """With ``--also``, which another server has: the tests of the file and those marked ``releases``, too. The last
    lines say which part it was, by the options that repeat it."""
    (tmp_path / "skipped").write_text("test_two.py::test_many[3]\n")
    lines = run(tmp_path, "--part", "8/9", "--also", str(tmp_path / "skipped"))
    mine = in_part((f"test_two.py::test_many[{n}]" for n in range(9)), 8, 9, 1)
    assert ran(lines) >= mine | {
        "test_two.py::test_many[3]",
        *(f"test_two.py::test_of_releases[{n}]" for n in range(3)),
    }
    assert len([name for name in ran(lines) if "many" in name]) == len(mine | {"test_two.py::test_many[3]"})
    assert any("this was part 8 of 9 of the tests: --part 8/9 repeats it" in line for line in lines[-3:])


def test_a_part_of_the_cases_is_said(tmp_path: Path) -> None:
    """Every test runs, of one with many cases a third; the last lines name both options."""
    lines = run(tmp_path, "--part", "1/3", "--divide-from", "6")
    assert {test: len(cases) for test, cases in grouped(ran(lines)).items()} == {
        "test_two.py::test_many": 3,
        "test_two.py::test_of_releases": 3,
        "test_two.py::test_alone": 1,
        "test_two.py::test_skipped": 1,
    }
    assert any("--part 1/3 --divide-from 6 repeats it" in line for line in lines[-3:])


def test_processes_that_would_share_a_given_server_are_refused(tmp_path: Path) -> None:
    """By the name of the variable and of the option, before any test."""
    lines = run(tmp_path, "-n", "2", **{GIVEN: "postgres://localhost/none"})
    assert ran(lines) == set()
    assert any(f"{GIVEN} names one server, which the processes of -n would share; leave out -n" in one for one in lines)


@pytest.mark.parametrize("given", ["3/3", "-1/3", "1", "a/b", "1/0"])
def test_a_part_that_there_is_not_is_refused(given: str) -> None:
    """Nothing runs instead of all tests or none."""
    with pytest.raises((ValueError, ZeroDivisionError)):
        part(given)
