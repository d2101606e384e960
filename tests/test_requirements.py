"""S-10: what builds and tests this repository is locked, by hash."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECTS = [
    ROOT,
    *sorted(path.parent for found in ("dpone-*", "examples/*") for path in ROOT.glob(f"{found}/pyproject.toml")),
]


def read(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def entries(lock: Path) -> list[str]:
    """Each requirement with its hashes, on one line."""
    text = re.sub(r"^#.*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


def locked(name: str) -> dict[str, list[str]]:
    """Versions by package; several where the Python decides."""
    found: dict[str, list[str]] = {}
    for entry in entries(ROOT / "requirements" / f"{name}.txt"):
        one = Requirement(entry.partition(" --hash")[0])
        found.setdefault(canonicalize_name(one.name), []).extend(s.version for s in one.specifier)
    return found


def test_S_10_the_locks_are_those_the_sessions_install() -> None:
    """Each file of requirements/ is installed by a session or by CI, and each such command wants hashes."""
    used = (ROOT / "noxfile.py").read_text(encoding="utf-8") + (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert {path.stem for path in LOCKS} == {"nox", "lint", "build", "tests", "docs", "corpus", "browser"}
    assert {path.name for path in LOCKS} == set(re.findall(r"requirements/(\w+\.txt)", used))
    plain = [line for line in used.splitlines() if re.search(r'"-r", ("requirements/|lock)', line)]
    assert plain
    assert [line for line in plain if "--require-hashes" not in line] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_S_10_every_requirement_is_one_version_with_hashes(lock: Path) -> None:
    """No range, no file without a SHA-256, no index or other address, and none of our own distributions."""
    found = entries(lock)
    assert found
    form = r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^\s;]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+"
    assert [entry for entry in found if not re.fullmatch(form, entry)] == []
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"://|index|find-links|^-|@", text, re.MULTILINE)
    assert not [entry for entry in found if entry.startswith("dpone")]


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda path: path.name)
def test_S_10_the_lock_has_what_the_distributions_ask_for(folder: Path) -> None:
    """Each dependency of a distribution, of its extra for tests and of its build is locked at a version it allows:
    otherwise 'nox -s lock' was forgotten."""
    project = read(folder)
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    asked += project["project"].get("optional-dependencies", {}).get("testing", [])
    have = locked("tests")
    for one in map(Requirement, asked):
        if not one.name.startswith("dpone"):
            assert have.get(canonicalize_name(one.name)), one
            assert all(one.specifier.contains(version) for version in have[canonicalize_name(one.name)]), one


@pytest.mark.parametrize(
    ("group", "lock"),
    [
        ("tests", "tests"),
        ("typing", "tests"),
        ("build", "tests"),
        ("build", "build"),
        ("lint", "lint"),
        ("nox", "nox"),
        ("docs", "docs"),
        ("corpus", "corpus"),
    ],
)
def test_S_10_the_lock_has_what_the_sessions_ask_for(group: str, lock: str) -> None:
    """Each requirement of a dependency group is locked at a version it allows."""
    have = locked(lock)
    for one in map(Requirement, read(ROOT)["dependency-groups"][group]):
        assert have.get(canonicalize_name(one.name)), one
        assert all(one.specifier.contains(version) for version in have[canonicalize_name(one.name)]), one


def test_S_10_the_site_is_built_with_what_the_tests_use() -> None:
    """Two locks that are installed into one environment agree on every package that both have."""
    docs, tests = locked("docs"), locked("tests")
    shared = {*docs} & {*tests}
    assert shared
    assert {name: docs[name] for name in shared} == {name: tests[name] for name in shared}


def test_what_users_install_keeps_floors_only() -> None:
    """No distribution pins or caps what it needs of others: two applications in one environment can agree."""
    for folder in PROJECTS:
        project = read(folder)["project"]
        asked = [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
        for one in map(Requirement, asked):
            assert one.name.startswith("dpone") or {s.operator for s in one.specifier} == {">="}, (folder.name, one)
