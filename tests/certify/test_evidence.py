"""What evidence says of the code that was tested: the commit, and the digest of what is installed."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpone.certify import evidence


def git(folder: Path, *args: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", str(folder), *who, *args], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for the module whose commit is asked for."""
    file = tmp_path / "core" / "evidence.py"
    file.parent.mkdir()
    file.write_text("a = 1\n")
    monkeypatch.setattr(evidence, "__file__", str(file))
    evidence.commit.cache_clear()
    yield file
    evidence.commit.cache_clear()


def asked() -> str | None:
    evidence.commit.cache_clear()
    return evidence.commit()


def test_evidence_names_the_commit(core: Path) -> None:
    """The commit that core's files stand at; with + while they differ from it; none where git does not keep them."""
    assert asked() is None
    git(core.parent, "init", "-q")
    assert asked() is None
    git(core.parent, "add", "evidence.py")
    git(core.parent, "commit", "-qm", "one")
    head = git(core.parent, "rev-parse", "HEAD").strip()
    assert asked() == head
    core.write_text("a = 2\n")
    assert asked() == head + "+"


def test_evidence_does_without_git(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where git is not installed, no commit is named, and nothing fails."""
    git(core.parent, "init", "-q")
    git(core.parent, "add", "evidence.py")
    git(core.parent, "commit", "-qm", "one")
    monkeypatch.setenv("PATH", str(core.parent))
    assert asked() is None


def test_gates_of_two_suites_do_not_replace_each_other(tmp_path: Path) -> None:
    """Else a short run of a route would take the place of a measured million of rows."""
    server, figures = evidence.Server("SQLite", "1", True), [evidence.Measure("wrong_rows", 0, at_most=0)]
    paths = [
        evidence.write_gate(tmp_path, "throughput", "sqlite", [server], figures, seconds=1, suite=suite)
        for suite in ("", "certification-run file sqlite merge", "certification-run file sqlite append", "")
    ]
    assert paths[0] == paths[3]
    assert {*tmp_path.iterdir()} == {*paths}
    assert len({*paths}) == 3


def test_a_digest_covers_every_package_of_a_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in the package of the plugin, of the implementation, of the options or of the errors changes the digest;
    one elsewhere does not."""
    packages = ("acme_plugin", "acme_reads", "acme_options", "acme_errors", "acme_elsewhere")
    for name in packages:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    record = SimpleNamespace(
        implementation="acme_reads.deep:Source", options="acme_options:Options", errors="acme_errors:CODES"
    )
    other = SimpleNamespace(implementation="acme_elsewhere:Source", options="acme_elsewhere:Options", errors=None)
    plugins = SimpleNamespace(
        connectors={("source", "acme"): record, ("source", "other"): other},
        found=[
            SimpleNamespace(module="acme_plugin.hooks", roles={"source": ["acme"]}),
            SimpleNamespace(module="acme_elsewhere", roles={"source": ["other"]}),
        ],
    )
    monkeypatch.setattr(evidence, "discover", lambda: plugins)
    digests = []
    for changed in (None, *packages):
        if changed:
            (tmp_path / changed / "__init__.py").write_text("a = 1\n")
        evidence.digest.cache_clear()
        digests.append(evidence.digest("acme"))
    evidence.digest.cache_clear()
    assert [one == before for before, one in itertools.pairwise(digests)] == [False] * 4 + [True]
    assert not [name for name in sys.modules if name.startswith("acme_reads")], "a digest imports nothing of it"
