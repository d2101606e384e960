"""``dpone init`` and the quickstart, which is what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Dpone = Callable[..., Any]
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
FILES = ["pipeline.yaml", "data/orders-2026-01.csv", "data/orders-2026-02.csv", ".gitignore", "README.md"]


def test_init_says_what_it_created(tmp_path: Path, dpone: Dpone) -> None:
    """The new files are named, also as JSON."""
    done = dpone("init", tmp_path / "new" / "project", "--format", "json")
    assert done.exit_code == 0
    assert done.json == {"created": [str(tmp_path / "new" / "project" / name) for name in FILES]}
    assert all((tmp_path / "new" / "project" / name).is_file() for name in FILES)


def test_quickstart_is_what_init_writes(project: Path) -> None:
    """The example in the repository and the project of a newcomer are the same, byte by byte."""
    for name in FILES:
        assert (QUICKSTART / name).read_bytes() == (project.parent / name).read_bytes(), name


def test_quickstart_is_small() -> None:
    """The data of the example stay below 200 kB."""
    assert sum(file.stat().st_size for file in QUICKSTART.glob("data/*.csv")) < 200_000


@pytest.mark.parametrize("there", FILES)
def test_init_overwrites_nothing(there: str, tmp_path: Path, dpone: Dpone) -> None:
    """One file that exists stops it; it is named, kept, and nothing is written beside it."""
    file = tmp_path / there
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    done = dpone("init", tmp_path)
    assert done.exit_code == 2
    assert str(file) in done.error
    assert file.read_text() == "mine"
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [file]


def test_init_into_a_dangling_link_writes_nothing(tmp_path: Path, dpone: Dpone) -> None:
    """A link in the place of a file is not written through."""
    (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere")
    assert dpone("init", tmp_path).exit_code == 2
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_init_where_no_directory_can_be(where: str, tmp_path: Path, dpone: Dpone) -> None:
    """A file in the place of the directory is one line, exit 2."""
    (tmp_path / "file").write_text("")
    done = dpone("init", tmp_path / where)
    assert done.exit_code == 2
    assert "choose a writable directory" in done.error


def test_init_that_fails_half_way_leaves_nothing(tmp_path: Path, dpone: Dpone) -> None:
    """When a later file cannot be written, the earlier ones are taken back."""
    (tmp_path / "data").write_text("a file where a directory should be")
    done = dpone("init", tmp_path)
    assert done.exit_code == 2
    assert [f.name for f in tmp_path.iterdir()] == ["data"]
