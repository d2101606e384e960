"""Running ``dpone`` in this process, as ``main`` does it, and in one of its own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from attrs import frozen

from dpone import plugins
from dpone.cli.main import assemble, main
from dpone.cli.main import cli as cli_of_cli


@frozen
class Done:
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an expected failure."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0]


@pytest.fixture
def dpone(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*args: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args])
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Done]:
    """In a process of its own, from another directory, for what only a whole process shows."""

    def run(*args: object, **env: str) -> Done:
        command = [sys.executable, "-m", "dpone", *map(str, args)]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def project(tmp_path: Path, dpone: Callable[..., Done]) -> Path:
    """The pipeline file of a fresh project."""
    dpone("init", tmp_path / "project")
    return tmp_path / "project" / "pipeline.yaml"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Install a plugin of one module, as pip would, on a path of its own."""
    groups = [assemble(), *(one for one in cli_of_cli.commands.values() if isinstance(one, click.Group))]
    builtin = [(group, dict(group.commands)) for group in groups]
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    forget = (plugins.discover.cache_clear, assemble.cache_clear, importlib.invalidate_caches)

    def add(name: str, code: str) -> Path:
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[dpone]\n{name} = {name}\n")
        (site / f"{name}.py").write_text(code)
        for clear in forget:
            clear()
        return site

    yield add
    for clear in forget:
        clear()
    for group, commands in builtin:
        group.commands = commands
    for module in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "") or "").startswith(str(site))]:
        del sys.modules[module]
