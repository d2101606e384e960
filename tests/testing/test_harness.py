"""A plugin names its Harness, and the kit makes it, closes it, and is imported by nobody else."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve

from dpone.certify.evidence import Durability
from dpone.errors import PluginError
from dpone.model.strategy import Strategy
from dpone.plugins import discover, resolve
from dpone.testing import harness as kit
from dpone.testing.builtin import FileHarness, SqliteHarness
from dpone.testing.harness import Change, Harness, opened

# The kit's cases of a change stream have transactions over several tables, and a topic has neither.
WITHOUT = ("cdc", "kafka_changes")
OURS = [(key, one) for key, one in discover().connectors.items() if one.implemented and key != WITHOUT]


class Closed(SqliteHarness):
    """Notes that it was closed."""

    closed = 0

    def close(self) -> None:
        type(self).closed += 1


def declare(monkeypatch: pytest.MonkeyPatch, harness: str | None) -> None:
    """What the plugin of sqlite says of its sink."""
    plugins = discover()
    sqlite = evolve(plugins.get("sink", "sqlite"), harness=harness)
    changed = evolve(plugins, connectors={**plugins.connectors, ("sink", "sqlite"): sqlite})
    monkeypatch.setattr(kit, "discover", lambda: changed)


@pytest.mark.parametrize(("key", "connector"), OURS, ids=lambda v: "-".join(v) if isinstance(v, tuple) else "")
def test_every_connector_of_ours_names_its_harness(key: Any, connector: Any) -> None:
    """The class that a record names can be imported, is a Harness, and is that of the connector."""
    found = resolve(connector.harness)
    assert issubclass(found, Harness)
    assert found.connector == connector.name == key[1]


class Particular(SqliteHarness):
    """A client that notes each transaction. Names without quotes are in capitals there, as in Oracle and Firebird."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.did: list[list[str]] = []

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        with super().cursor() as cursor:
            did: list[str] = []
            cursor.connection.set_trace_callback(did.append)
            yield cursor
            cursor.connection.set_trace_callback(None)
            self.did.append([sql for sql in did if sql != "BEGIN "])


def test_a_sql_harness_asks_no_more_than_every_server_has(tmp_path: Path) -> None:
    """A table is made once, in a transaction of its own, without IF NOT EXISTS; no row is no transaction; and each name
    is quoted, since a server folds others."""
    rows = pa.table({"id": [1, 2], "name": ["a", "b"]})
    with closing(Particular(tmp_path)) as harness:
        harness.seed(rows.slice(0, 0))
        harness.seed(rows)
        done = [[" ".join(sql.split()[:3]) for sql in one] for one in harness.did]
        insert = 'INSERT INTO "orders"'
        assert done == [['CREATE TABLE "orders"'], ["SELECT * FROM"], [insert, insert]]
        harness.did.clear()
        harness.disturb()
        harness.refer()
        row = {"id": 1, "name": "a"}
        harness.change([Change("insert", row, None, "lines"), Change("update", row, 1, "lines")])
        harness.change([Change("delete", {}, 1, "lines")])
        said = [sql for one in harness.did for sql in one]
        assert len(said) > 8
        assert [sql for sql in said if re.search(r"""(?<!["'])\b(id|name)\b(?!["'])""", sql)] == []


def test_a_contract_without_a_connector_says_so(tmp_path: Path) -> None:
    """A class that names no connector is answered with what to write."""
    said = re.escape('the class names no connector; write connector = "..." in it')
    with pytest.raises(PluginError, match=said), opened("sink", "", tmp_path):
        pass


def test_a_member_that_was_left_out_is_named(tmp_path: Path) -> None:
    """What a case needs of a Harness and does not find is said by its name."""

    class Half(Harness):
        """Has nothing."""

    half = Half(tmp_path)
    asked: dict[str, Any] = {
        "source": half.source, "seed": lambda: half.seed(pa.table({})), "disturb": half.disturb, "query": half.query,
        "late": lambda: half.late(pa.table({})), "sink": lambda: half.sink(Strategy("append")), "rows": half.rows,
        "native": lambda: half.native(pa.table({})), "state": half.state, "away": half.away,
        "change_stream": half.change_stream, "change": lambda: half.change([]), "lose": half.lose,
    }  # fmt: skip
    for member, ask in asked.items():
        with pytest.raises(NotImplementedError, match=f"^Half has no {member}: write it, or "):
            ask()


def test_help_shows_the_kit() -> None:
    """``help(dpone.testing)`` and ``help(dpone)`` show what there is, though it is imported on first use."""
    import pydoc

    import dpone
    import dpone.testing

    for module in (dpone, dpone.testing):
        shown = pydoc.plain(pydoc.render_doc(module))
        names = [name for name in module.__all__ if f"class {name}(" not in shown and f"    {name}(" not in shown]
        assert [name for name in names if f"    {name} = " not in shown] == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_harness_is_made_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """It gets a folder that is there, and is closed once, also after a case that failed."""
    declare(monkeypatch, f"{__name__}:Closed")
    monkeypatch.setattr(Closed, "closed", 0)
    try:
        with opened("sink", "sqlite", tmp_path / "new") as harness:
            assert (type(harness), harness.folder.is_dir(), Closed.closed) == (Closed, True, 0)
            if fails:
                raise LookupError
    except LookupError:
        pass
    assert Closed.closed == 1


def test_a_connector_without_a_harness_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who subclasses a contract by name reads what the plugin lacks."""
    declare(monkeypatch, None)
    with pytest.raises(PluginError, match=r"^find the harness of sink sqlite: its plugin names none; name it in .+$"):
        opened("sink", "sqlite", tmp_path).__enter__()


@pytest.mark.parametrize("module", ["dpone.testing.builtin", "dpone_postgres.testing"])
def test_a_harness_needs_no_pytest(module: str) -> None:
    """What a benchmark or an operator runs by a Harness imports neither pytest nor hypothesis."""
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & {"pytest", "_pytest", "hypothesis"} == set()


def test_a_server_that_is_not_named_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Harness of PostgreSQL says which variable names the server, before it connects to anything."""
    monkeypatch.delenv("DPONE_TEST_POSTGRES_URL", raising=False)
    with pytest.raises(
        Exception, match="DPONE_TEST_POSTGRES_URL is not set; set DPONE_TEST_POSTGRES_URL to postgres://"
    ):
        opened("sink", "postgres", tmp_path).__enter__()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_says_how_the_connector_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """The journal of the database, and the level of the connector's own connection, whatever others have."""
    monkeypatch.setattr(kit, "file_system", lambda folder: "ext4")
    harness = SqliteHarness(tmp_path)
    with closing(sqlite3.connect(harness.path)) as other:
        other.execute("PRAGMA synchronous=OFF")
        other.execute(f"PRAGMA journal_mode={mode}")
    settings = {"journal_mode": mode, "synchronous": "EXTRA", "file system": "ext4"}
    assert harness.durability() == Durability(True, settings)


@pytest.mark.parametrize(("system", "safe"), [("ext4", True), ("tmpfs", False), ("ramfs", False), ("unknown", True)])
@pytest.mark.parametrize("of", [FileHarness, SqliteHarness])
def test_files_in_memory_are_not_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: Any, system: str, safe: bool
) -> None:
    """Whatever is synced there is gone with the power."""
    monkeypatch.setattr(kit, "file_system", lambda folder: system)
    found = of(tmp_path).durability()
    assert (found.settings["file system"], found.safe) == (system, safe)


MOUNTS = [("/proc", "1/task", "proc"), ("/dev/shm", "deep/er", "tmpfs")]  # noqa: S108  # nothing is written


@pytest.mark.parametrize(("mount", "below", "name"), MOUNTS)
def test_the_file_system_is_that_of_the_nearest_mount(mount: str, below: str, name: str) -> None:
    """A folder deep in a mount has the mount's."""
    if not os.path.ismount(mount):
        pytest.skip("there is no such mount")
    assert kit.file_system(Path(mount) / below) == name
