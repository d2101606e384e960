"""Bad inputs, end to end through ``dpone run``: one line that says what is wrong, and nothing is changed."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.engine.project import Project, rows

from dpone.cli.main import main

Refuse = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run, expecting a failure with ``code``; answers its one line, or the first of ``most``."""

    def run(project: Project, code: int, *args: str, pipeline: Path | None = None, most: int = 1) -> str:
        def everything() -> Any:
            return project.state_bytes(), project.journal(), project.rows(), project.staging()

        before = everything()
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["run", str(pipeline or project.pipeline), "-q", *args])
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert ended.value.code == code, (out, err)
        assert 1 <= len(lines) <= most, err
        assert all(line.startswith("error: ") for line in lines), err
        assert "Traceback" not in out + err
        assert everything() == before
        return lines[0]

    return run


@pytest.fixture(params=["first", "later"])
def loaded(request: pytest.FixtureRequest, project: Project) -> Project:
    """With nothing loaded yet, and with one load done."""
    if request.param == "later":
        project.csv("a", rows(1, 250))
        project.load()
    return project


def says(line: str, *words: str) -> None:
    missing = [word for word in words if word not in line]
    assert not missing, line


def test_a_predicate_of_another_type_makes_no_table(project: Project, refused: Refuse) -> None:
    """``where`` is compared with the columns before the target is made, not when its rows are to be replaced."""
    project = project.but(strategy={"mode": "replace", "where": {"id": "abc"}})
    project.csv("a", rows(1, 3))
    says(refused(project, 3), "read strategy.where: 'abc' is not a valid int64")
    assert not project.database.exists()


# -- pipeline files -------------------------------------------------------------------------------------------------


def test_a_missing_pipeline_file(project: Project, refused: Refuse) -> None:
    """Exit 2, the path in the line."""
    says(refused(project, 2, pipeline=project.folder / "nowhere.yaml"), "nowhere.yaml")


def test_a_directory_for_a_pipeline_file(project: Project, refused: Refuse) -> None:
    """Exit 2: it is a directory."""
    says(refused(project, 2, pipeline=project.folder), "directory")


@pytest.mark.parametrize(
    "content", [b"pipeline: [", b"a: b: c", b"\x00\xff\xfe\x81", b"", b"- a\n- b\n", b"just a text"], ids=repr
)
def test_a_file_that_is_no_pipeline(project: Project, refused: Refuse, content: bytes) -> None:
    """Not YAML, binary, empty, or no mapping: exit 2 and the file's name, in every line if keys are missing, too."""
    bad = project.folder / "bad.yaml"
    bad.write_bytes(content)
    says(refused(project, 2, pipeline=bad, most=4), "bad.yaml")


def test_a_report_that_cannot_be_written(project: Project, refused: Refuse) -> None:
    """Found out before anything runs: exit 2."""
    project.csv("a", rows(1, 10))
    says(refused(project, 2, "--report", str(project.folder)), "write the report")


# -- sources --------------------------------------------------------------------------------------------------------


def test_a_source_file_that_is_missing(project: Project, refused: Refuse) -> None:
    """Exit 1: no file matches, and where was looked."""
    says(refused(project, 1), "data/*.csv", "no file matches")


def test_a_source_path_that_is_a_directory(project: Project, refused: Refuse) -> None:
    """Exit 1: a directory, and which glob to give."""
    project.csv("a", rows(1, 10))
    project = project.but(source={"type": "file", "path": "data"})
    says(refused(project, 1), "a directory", "data/*")


def test_an_empty_csv(loaded: Project, refused: Refuse) -> None:
    """A file of no byte at all has not even a header: exit 1, the file is named."""
    loaded.csv("b", []).write_text("")
    says(refused(loaded, 1), "b.csv", "empty")


def test_a_csv_with_a_short_row(loaded: Project, refused: Refuse) -> None:
    """Exit 1: file, row, values expected and found."""
    path = loaded.csv("b", rows(251, 260))
    path.write_text(path.read_text() + "261,1\n")
    says(refused(loaded, 1), "b.csv", "row 11", "4", "2")


def test_a_csv_with_a_long_row(loaded: Project, refused: Refuse) -> None:
    """Exit 1: file, row, values expected and found."""
    path = loaded.csv("b", rows(251, 260))
    path.write_text(path.read_text() + "261,1,a,b,c\n")
    says(refused(loaded, 1), "b.csv", "row 11", "4", "5")


def test_a_bad_number_is_named_by_row_and_column(loaded: Project, refused: Refuse) -> None:
    """Exit 1: file, row and column; never the value."""
    loaded.csv("b", [*rows(251, 260), ("canary", 1, "x", None)])
    project = loaded.but(source={"type": "file", "path": "data/*.csv", "options": {"columns": {"id": "int64"}}})
    line = refused(project, 1)
    says(line, "b.csv", "11", "id", "int64")
    assert "canary" not in line


def test_a_bad_number_deep_in_a_file_is_named_by_row_and_column(tmp_path: Path, refused: Refuse) -> None:
    """Row 1,234,567, far behind everything a type could be guessed from."""
    project = Project(tmp_path / "p", target="file", state_type="file", runtime={"retries": 0}).save()
    path = project.folder / "data" / "a.csv"
    path.parent.mkdir()
    good = "".join(f"{i},1,n,\n" for i in range(1000, 2000))
    with path.open("w") as file:
        file.write("id,day,name,note\n")
        for _ in range(1234):
            file.write(good)
        file.writelines(f"{i},1,n,\n" for i in range(566))
        file.write("12x4,1,n,\n")
        file.write(good)
    line = refused(project, 1)
    says(line.replace(",", ""), "a.csv", "1234567", "id")
    assert "12x4" not in line


def test_a_csv_of_another_encoding(loaded: Project, refused: Refuse) -> None:
    """Exit 1: the file, that it is not UTF-8, and the option to set."""
    loaded.csv("b", []).write_bytes("id,day,name,note\n251,1,Zoë,\n".encode("latin-1"))
    says(refused(loaded, 1), "b.csv", "utf-8", "encoding")


@pytest.mark.parametrize("what", [{"table": "nowhere"}, {"query": "SELECT * FROM nowhere"}], ids=["table", "query"])
def test_a_table_that_does_not_exist(project: Project, refused: Refuse, what: dict[str, str]) -> None:
    """A source table that is not there: its name in the line."""
    with closing(sqlite3.connect(project.folder / "source.db")) as db:
        db.execute("CREATE TABLE here (id INTEGER)")
    project = project.but(source={"type": "sqlite", "connection": "sqlite:///source.db", **what})
    says(refused(project, 3 if "query" in what else 1), "nowhere")


def test_a_source_database_that_does_not_exist(project: Project, refused: Refuse) -> None:
    """It is not created: exit 1."""
    project = project.but(source={"type": "sqlite", "connection": "sqlite:///source.db", "table": "t"})
    says(refused(project, 1), "source.db", "the file does not exist")
    assert not (project.folder / "source.db").exists()


# -- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        {"mode": "merge", "key": ["nokey"]},
        {"mode": "merge", "key": ["id"], "duplicates": "last", "order_by": ["nokey"]},
        {"mode": "replace", "where": {"nokey": 1}},
    ],
    ids=["key", "order_by", "where"],
)
def test_a_column_that_does_not_exist(loaded: Project, refused: Refuse, strategy: dict[str, Any]) -> None:
    """Exit 3: the option, the column, and the columns there are."""
    loaded.csv("b", rows(251, 260))
    says(refused(loaded.but(strategy=strategy), 3), "nokey", "id, day, name, note")


def test_keys_that_repeat(loaded: Project, refused: Refuse) -> None:
    """Exit 1: how many and which column, no value."""
    loaded.csv("b", [*rows(251, 260), *rows(251, 253)])
    says(refused(loaded.but(strategy={"mode": "merge", "key": ["id"]}), 1), "3", "id")


def test_a_key_that_is_null(loaded: Project, refused: Refuse) -> None:
    """Exit 1: the row and the column."""
    loaded.csv("b", [*rows(251, 260), (None, 1, "x", None)])
    says(refused(loaded.but(strategy={"mode": "merge", "key": ["id"]}), 1), "11", "id", "NULL")


def test_a_column_that_went_away(project: Project, refused: Refuse) -> None:
    """A breaking schema change: exit 3, the column, and what would allow it."""
    project = project.but(sink_options={"schema_evolution": {"on_missing_column": "fail"}})
    project.csv("a", rows(1, 10))
    project.load()
    project.csv("b", [row[:3] for row in rows(11, 20)], ("id", "day", "name"))
    project = project.but(source={"type": "file", "path": "data/*.csv", "options": {"columns": {"id": "int64"}}})
    says(refused(project, 3), "note", "on_missing_column")


# -- targets --------------------------------------------------------------------------------------------------------


def test_a_target_that_is_a_directory(project: Project, refused: Refuse) -> None:
    """Exit 1: it is a directory."""
    project.csv("a", rows(1, 10))
    (project.folder / "dir.db").mkdir()
    text = project.pipeline.read_text().replace("warehouse.db", "dir.db")
    project.pipeline.write_text(text)
    says(refused(project, 1), "dir.db", "directory")


def test_a_target_that_is_no_database(project: Project, refused: Refuse) -> None:
    """A text file is not written over: exit 1."""
    project.csv("a", rows(1, 10))
    text = project.folder / "notes.txt"
    text.write_text("these are my notes, and they are longer than a header of SQLite, which has 100 bytes " * 3)
    before = text.read_bytes()
    project.pipeline.write_text(project.pipeline.read_text().replace("warehouse.db", "notes.txt"))
    says(refused(project, 1), "notes.txt", "not a SQLite database")
    assert text.read_bytes() == before


def test_a_target_folder_that_does_not_exist(project: Project, refused: Refuse) -> None:
    """Exit 1: the folder to make."""
    project.csv("a", rows(1, 10))
    project.pipeline.write_text(project.pipeline.read_text().replace("warehouse.db", "no/warehouse.db"))
    says(refused(project, 1), "folder")


def test_a_locked_database(loaded: Project, refused: Refuse) -> None:
    """Another program holds the target: exit 1, tried again first, and the line says locked."""
    loaded.csv("b", rows(251, 260))
    project = loaded.but(sink_options={"busy_timeout": 0.05})
    with closing(sqlite3.connect(project.database, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        line = refused(project, 1)
    says(line, "locked", "warehouse.db")
    project.load()


class Small:
    """A file system of its own in ``folder``."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))

    def remount(self, options: str) -> None:
        self._mount("-o", f"remount,{options}", str(self.folder))

    def _mount(self, *args: str) -> None:
        try:
            subprocess.run(["mount", *args], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user or container may not mount a file system")

    def end(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=False, capture_output=True)


@pytest.fixture
def mounted() -> Iterator[Callable[[Path, str], Small]]:
    made: list[Small] = []

    def mount(folder: Path, size: str) -> Small:
        made.append(Small(folder, size))
        return made[-1]

    yield mount
    for one in made:
        one.end()


def on_a_mount(project: Project, folder: str) -> None:
    """The target lives in ``folder``, and is found under its usual name."""
    if project.target == "sqlite":
        project.database.symlink_to(Path(folder) / "warehouse.db")
    else:
        project.out.symlink_to(Path(folder) / "out")
        (project.folder / folder / "out").mkdir(exist_ok=True)


@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_a_full_disk(tmp_path: Path, refused: Refuse, mounted: Callable[..., Small], target: str) -> None:
    """Exit 1: the disk is full; the rows of before are all there, and with more room the next run is well."""
    project = Project(tmp_path / "p", target=target, state_type=target, runtime={"retries": 0}).save()
    small = mounted(project.folder / "small", "300k")
    on_a_mount(project, "small")
    project.csv("a", rows(1, 250))
    project.load()
    noise = [(i, 1, os.urandom(40).hex(), os.urandom(40).hex()) for i in range(251, 5000)]
    project.csv("b", noise)
    assert any(word in refused(project, 1) for word in ("disk is full", "No space left", "free"))
    small.remount("size=64m")
    project.load()
    assert project.rows() == rows(1, 250) + noise


@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_a_read_only_target(tmp_path: Path, refused: Refuse, mounted: Callable[..., Small], target: str) -> None:
    """Exit 1: it is read-only; nothing is changed."""
    project = Project(tmp_path / "p", target=target, state_type=target, runtime={"retries": 0}).save()
    small = mounted(project.folder / "small", "4m")
    on_a_mount(project, "small")
    project.csv("a", rows(1, 250))
    project.load()
    project.csv("b", rows(251, 260))
    small.remount("ro")
    line = refused(project, 1).lower()
    assert "read-only" in line, line
    small.remount("rw")
    assert project.load().rows.inserted == 10


def test_a_state_that_is_a_folder(project: Project, refused: Refuse) -> None:
    """Exit 1 before anything is loaded."""
    project.csv("a", rows(1, 10))
    project.state_path.mkdir(parents=True)
    text = project.pipeline.read_text()
    project.pipeline.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(project.pipeline), "-q"])
    assert ended.value.code == 1
    assert project.rows() == []


# -- files of our own ---------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("state", ["sqlite", "file"])
def test_S_07_state_and_staging_are_the_owners_alone(tmp_path: Path, state: str) -> None:
    """Whatever the umask: folders 0700, files 0600."""
    before = os.umask(0)
    try:
        project = Project(tmp_path / "p", target="file", state_type=state).save()
        project.csv("a", rows(1, 10))
        project.load()
    finally:
        os.umask(before)
    own = [project.folder / ".dpone", project.out / ".dpone"] if state == "sqlite" else [project.out / ".dpone"]
    private = [*own, project.state_path] if state == "file" else own
    for folder in private:
        assert mode(folder) == 0o700, folder
        for path in folder.rglob("*"):
            assert mode(path) == (0o700 if path.is_dir() else 0o600), path
