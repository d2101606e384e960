"""What ``check`` of each role says, word for word: the name of each line, what was found and what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from tests.cdc.log import delete, insert, transaction

from dpone.connectors.file.changelog import FileChangeLog
from dpone.connectors.file.sink import FileSink
from dpone.connectors.file.source import FileSource
from dpone.connectors.file.state import FileState
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.connectors.sqlite.source import SqliteSource
from dpone.connectors.sqlite.state import SqliteState
from dpone.formats.manifest import Manifest, PartFile
from dpone.model.pipeline import SinkSpec, SourceSpec, StateSpec
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.sql.sink import SqlSink

Make = Callable[[Path], Any]
Found = tuple[str, bool | None, str, str]
APPEND = Strategy("append")
LIBRARY: Found = ("sqlite library", True, sqlite3.sqlite_version, "")
CONNECTION: Found = ("connection", True, "{at}/t.db", "")
WRITABLE: Found = ("write access", True, "yes", "")
RIGHTS = (os.W_OK, os.X_OK, os.W_OK | os.X_OK)
EACH = "l_{table} for each table of the stream"
FOLDER, USER = "give the path of a folder", "give the user that runs dpone write access"


def file_source(at: Path) -> FileSource:
    return FileSource(SourceSpec("file", path="*.csv", base=at))


def change_log(at: Path) -> FileChangeLog:
    return FileChangeLog(SourceSpec("file", path="log.jsonl", base=at))


def file_sink(at: Path) -> FileSink:
    return FileSink(SinkSpec("file", APPEND, path="out", base=at))


def file_state(at: Path) -> FileState:
    return FileState(StateSpec("file", path="states", base=at))


def _url(at: Path) -> Secret:
    return Secret(f"sqlite:///{at}/t.db")


def sqlite_source(at: Path) -> SqliteSource:
    return SqliteSource(SourceSpec("sqlite", _url(at), Name.parse("t")))


def sqlite_sink(at: Path, table: str = "t") -> SqliteSink:
    return SqliteSink(SinkSpec("sqlite", APPEND, _url(at), Name((table,))))


def tables_sink(at: Path) -> SqliteSink:
    return sqlite_sink(at, "l_{table}")


def sql_sink(at: Path, table: str = "t") -> SqlSink:
    """What a connector that overrides nothing inherits."""
    return SqlSink(SinkSpec("sqlite", APPEND, _url(at), Name((table,))), None, SqliteDatabase(at / "t.db", 5))


def sql_tables_sink(at: Path) -> SqlSink:
    return sql_sink(at, "l_{table}")


def sqlite_state(at: Path) -> SqliteState:
    return SqliteState(StateSpec("sqlite", _url(at)))


def nothing(at: Path) -> None:
    pass


def text(name: str, content: str = "") -> Callable[[Path], None]:
    def prepare(at: Path) -> None:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(content)

    return prepare


def database(at: Path) -> None:
    with closing(sqlite3.connect(at / "t.db")) as db, db:
        db.execute("CREATE TABLE t (id INTEGER, name TEXT)")


def saved(at: Path) -> None:
    file_state(at).save("k", {}, 0)
    sqlite_state(at).save("k", {}, 0)


LOG = transaction("07", insert("orders", {"id": 1}, name="a"), delete("people", {"id": 2}))


@frozen
class Case:
    """``lacks``: the right that the user does not have; root has every right, so ``os.access`` is asked for it."""

    make: Make
    prepare: Callable[[Path], None]
    says: list[Found]
    lacks: int = 0


NO_DATABASE = "the file is not a SQLite database ({at}/t.db)", "use the path of a SQLite file, or of a new file"
BROKEN = text("t.db", "text" * 999)
CASES = [
    Case(file_source, text("a.csv", "a,b\n1,2\n"), [("files", True, "1 file, 8 bytes; 2 columns in a.csv", "")]),
    Case(
        file_source,
        nothing,
        [("files", False, "no file matches in its folder, which has 0 entries",
          "check the path, and that the files have arrived")],
    ),
    Case(change_log, text("log.jsonl", LOG), [("change log", True, "2 changes of orders, people up to commit 07", "")]),
    Case(change_log, text("log.jsonl"), [("change log", True, "0 changes of no table up to commit -", "")]),
    Case(
        change_log,
        nothing,
        [("change log", False, "No such file or directory",
          "check that the file still exists and its disk works, then run again")],
    ),
    Case(file_sink, nothing, [("target", True, "out will be created by the first load", "")]),
    Case(file_sink, text("out"), [("target", False, "out is a file", FOLDER)]),
    Case(
        file_sink,
        text("out/.dpone/manifest.json", "{}"),
        [("manifest", False, "the file is damaged (KeyError: 'format')",
          "restore out/.dpone/manifest.json.bak, the manifest before the last load; nothing was changed")],
    ),
    *(Case(file_sink, nothing, [("target", False, "out is read-only", USER)], right) for right in RIGHTS),
    Case(file_state, nothing, [("state", True, "states: 0 keys", "")]),
    Case(file_state, saved, [("state", True, "states: 1 key", "")]),
    Case(file_state, text("states"), [("state", False, "states is a file", FOLDER)]),
    *(Case(file_state, nothing, [("state", False, "states is read-only", USER)], right) for right in RIGHTS),
    Case(sqlite_source, database, [LIBRARY, ("source", True, "t in {at}/t.db: 2 columns", "")]),
    Case(
        sqlite_source,
        nothing,
        [LIBRARY, ("source", False, "the file does not exist", "fix the path in the connection")],
    ),
    Case(sqlite_sink, database, [LIBRARY, CONNECTION, ("target", True, "t exists", ""), WRITABLE]),
    Case(sqlite_sink, nothing, [LIBRARY, CONNECTION, ("target", True, "t will be created", ""), WRITABLE]),
    Case(tables_sink, nothing, [LIBRARY, CONNECTION, ("target", True, EACH.replace(" for", ", for"), ""), WRITABLE]),
    Case(sqlite_sink, BROKEN, [LIBRARY, ("connection", False, *NO_DATABASE)]),
    Case(
        sqlite_sink,
        nothing,
        [LIBRARY, CONNECTION, ("target", True, "t will be created", ""),
         ("write access", False, "no", "grant write access to {at}/t.db and its folder")],
        os.W_OK,
    ),
    Case(sql_sink, database, [("target", True, "t exists", "")]),
    Case(sql_sink, nothing, [("target", True, "t will be created", "")]),
    Case(sql_sink, BROKEN, [("target", False, *NO_DATABASE)]),
    Case(sql_tables_sink, database, [("target", True, EACH, "")]),
    Case(sqlite_state, nothing, [("state", True, "{at}/t.db (will be created)", "")]),
    Case(sqlite_state, saved, [("state", True, "{at}/t.db", "")]),
    Case(
        sqlite_state,
        BROKEN,
        [("state", False, f"check at {{at}}/t.db: {NO_DATABASE[0]}", NO_DATABASE[1])],
    ),
    Case(
        sqlite_state,
        saved,
        [("state", False, "{at}/t.db is not writable", "grant write access to it and its folder")],
        os.W_OK,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.make.__name__}-{case.says[-1][2][:30]}")
def test_check_says_what_it_found_and_creates_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line has the name of what was looked at, and if it is not right, what to do; the folder stays as it was."""
    case.prepare(tmp_path)
    before = there(tmp_path)
    made, real = case.make(tmp_path), os.access
    monkeypatch.setattr(os, "access", lambda path, how: not how & case.lacks and real(path, how))
    found = made.check()
    monkeypatch.undo()
    at = str(tmp_path)
    assert [(one.name, one.ok, one.found, one.todo) for one in found] == [
        (name, ok, says.replace("{at}", at), todo.replace("{at}", at)) for name, ok, says, todo in case.says
    ]
    assert there(tmp_path) == before


def there(folder: Path) -> dict[Path, bytes | None]:
    """Files with their bytes, and folders."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_check_of_a_loaded_folder_counts_its_parts_and_rows(tmp_path: Path) -> None:
    """Parts and rows are those of the manifest, with plurals."""
    for n, says in ((1, "out: 1 part, 1 row"), (2, "out: 2 parts, 3 rows")):
        part = PartFile(f"part-{'0' * 26}-{n}.parquet", str(n), n, 10, "", "", "k")
        folder = file_sink(tmp_path).folder
        with folder.lock():
            have = folder.read() or Manifest()
            folder.write(evolve(have, files=(*have.files, part)))
        [one] = file_sink(tmp_path).check()
        assert (one.name, one.ok, one.found, one.todo) == ("target", True, says, "")


@pytest.mark.parametrize("there", [True, False])
def test_status_of_a_change_log_names_the_log(there: bool, tmp_path: Path) -> None:
    """It has so many bytes, or why it cannot be read and what to do."""
    if there:
        text("log.jsonl", "x" * 1200)(tmp_path)
    [one] = change_log(tmp_path).status(None).findings
    missing = "No such file or directory", "check that the file still exists and its disk works, then run again"
    says = ("log.jsonl has 1,200 bytes", "") if there else missing
    assert (one.name, one.ok, one.found, one.todo) == ("log", there, *says)
