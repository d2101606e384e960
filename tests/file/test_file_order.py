"""A key that is in several files of one load: the order of the files' names decides, where the pipeline says so."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dpone.engine.run import run as run_pipeline


def run(base: Path, strategy: dict[str, Any], **runtime: int) -> Any:
    file = {
        "pipeline": "p",
        "source": {"type": "file", "path": "*.csv", "options": {"newlines_in_values": False, "block_bytes": 4096}},
        "sink": {"type": "sqlite", "connection": "sqlite:///out.db", "table": "t", "strategy": strategy},
        "runtime": runtime,
    }
    (base / "p.yaml").write_text(json.dumps(file))
    return run_pipeline(base / "p.yaml")


def rows(base: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(base / "out.db") as db:
        found = db.execute("SELECT id, v FROM t ORDER BY id").fetchall()
    db.close()
    return found


def lay(base: Path, **files: str) -> None:
    for name, text in files.items():
        (base / f"{name}.csv").write_text(text)


@pytest.mark.parametrize("mode", ["merge", "full_refresh", "snapshot_diff"])
@pytest.mark.parametrize(("duplicates", "wanted"), [("last", ["a", "c", "c"]), ("first", ["a", "b", "b"])])
def test_the_last_file_wins(tmp_path: Path, mode: str, duplicates: str, wanted: list[str]) -> None:
    """By name, in one load; nothing of the order stays in the target."""
    lay(tmp_path, c="id,v\n2,c\n3,c\n", b="id,v\n3,b\n2,b\n", a="id,v\n1,a\n2,b\n")
    report = run(tmp_path, {"mode": mode, "key": ["id"], "duplicates": duplicates, "order_by": "file"})
    assert report.exit_code == 0, report
    assert rows(tmp_path) == list(zip([1, 2, 3], wanted, strict=True))
    with sqlite3.connect(tmp_path / "out.db") as db:
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(t)")]
    db.close()
    assert names == ["id", "v", "__dpone__load_id", "__dpone__loaded_at"]


def test_a_later_load_wins_whatever_its_files_are_called(tmp_path: Path) -> None:
    """The order is that of the files of one load."""
    strategy = {"mode": "merge", "key": ["id"], "duplicates": "last", "order_by": "file"}
    lay(tmp_path, b="id,v\n1,old\n2,b\n")
    assert run(tmp_path, strategy).exit_code == 0
    lay(tmp_path, a="id,v\n1,new\n")
    assert run(tmp_path, strategy).exit_code == 0
    assert rows(tmp_path) == [(1, "new"), (2, "b")]


def test_pieces_of_a_file_are_one_file(tmp_path: Path) -> None:
    """A key that is in two pieces of a file ties there, and a column after ``file`` decides it."""
    long = "".join(f"{i},x{i:05}\n" for i in range(5000))
    lay(tmp_path, a=f"id,v\n{long}1,twice\n", b="id,v\n1,b\n0,b\n")
    strategy = {"mode": "merge", "key": ["id"], "duplicates": "last", "order_by": "file"}
    assert run(tmp_path, strategy, partitions=6).exit_code == 0
    assert rows(tmp_path)[:3] == [(0, "b"), (1, "b"), (2, "x00002")]
    (tmp_path / "b.csv").unlink()
    (tmp_path / "out.db").unlink()
    shutil.rmtree(tmp_path / ".dpone")
    failed = run(tmp_path, strategy, partitions=6)
    assert "with rows that tie in order_by (file)" in str(failed.streams[0].error)
    assert run(tmp_path, {**strategy, "order_by": ["file", "v"]}, partitions=6).exit_code == 0
    assert rows(tmp_path)[1] == (1, "x00001")


def test_a_column_called_file_is_meant_where_there_is_one(tmp_path: Path) -> None:
    """What a column says goes before what the name could mean."""
    lay(tmp_path, a="id,v,file\n1,a,9\n", b="id,v,file\n1,b,8\n")
    assert run(tmp_path, {"mode": "merge", "key": ["id"], "duplicates": "last", "order_by": "file"}).exit_code == 0
    assert rows(tmp_path) == [(1, "a")]


def test_a_source_without_files_has_no_such_order(tmp_path: Path) -> None:
    """A table has no column ``file`` by itself: the run stops before it makes anything."""
    with sqlite3.connect(tmp_path / "in.db") as db:
        db.execute("CREATE TABLE t AS SELECT 1 AS id")
    db.close()
    strategy = {"mode": "merge", "key": ["id"], "duplicates": "last", "order_by": "file"}
    file = {
        "pipeline": "p",
        "source": {"type": "sqlite", "connection": "sqlite:///in.db", "table": "t"},
        "sink": {"type": "sqlite", "connection": "sqlite:///out.db", "table": "t", "strategy": strategy},
    }
    (tmp_path / "p.yaml").write_text(json.dumps(file))
    report = run_pipeline(tmp_path / "p.yaml")
    assert "has no column file" in str(report.streams[0].error)
