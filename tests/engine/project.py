"""A project in a folder of its own: CSV files, a pipeline, and what plain readers find in target, journal and state.

Nothing here reads through dpone: targets are read with sqlite3 and pyarrow, states with sqlite3 and json.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pluggy
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml
from attrs import evolve, field, frozen

from dpone import hookspecs
from dpone.capability import Support
from dpone.engine.run import run as run_pipeline
from dpone.model.report import RunReport, StreamReport
from dpone.plugins import Plugins, discover

MEMORY = Path("/dev/shm")  # noqa: S108  # the folder made in it is private and of a random name
CHILD = Path(__file__).with_name("child.py")
COLUMNS = ("id", "day", "name", "note")
Row = tuple[Any, ...]


def rows(first: int, last: int, day: int = 1, tag: str = "") -> list[Row]:
    """Rows with the keys ``first`` to ``last``; texts with quotes, commas and NULL among them."""
    return [(i, day, f'n{i}, "{tag}" é', None if i % 5 == 0 else f"note {i}") for i in range(first, last + 1)]


@frozen
class Entry:
    """A journal entry, or the state, as read from the disk."""

    seq: int
    epoch: int
    load_id: str
    position: Mapping[str, Any]


@frozen
class Done:
    """How a process ended. ``code`` is negative for a signal."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@frozen
class Project:
    """``target``: sqlite or file. ``state``: sqlite or file. ``strategy`` as in a pipeline file."""

    folder: Path
    strategy: Mapping[str, Any] = field(factory=lambda: {"mode": "append"})
    target: str = "sqlite"
    state_type: str = "sqlite"
    sink_options: Mapping[str, Any] = field(factory=dict)
    state_options: Mapping[str, Any] = field(factory=dict)
    source: Mapping[str, Any] = field(factory=lambda: {"type": "file", "path": "data/*.csv"})
    runtime: Mapping[str, Any] = field(factory=lambda: {"batch_rows": 100, "retries": 0})
    table: str = "t"

    @property
    def pipeline(self) -> Path:
        return self.folder / "pipeline.yaml"

    @property
    def database(self) -> Path:
        return self.folder / "warehouse.db"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def state_path(self) -> Path:
        return self.folder / ".dpone" / ("state.db" if self.state_type == "sqlite" else "state")

    def save(self) -> Project:
        """Write the pipeline file."""
        sink: dict[str, Any] = {"type": self.target, "strategy": dict(self.strategy)}
        sink |= (
            {"connection": "sqlite:///warehouse.db", "table": self.table}
            if self.target == "sqlite"
            else {"path": "out"}
        )
        where = {"connection": "sqlite:///.dpone/state.db"} if self.state_type == "sqlite" else {"path": ".dpone/state"}
        data = {
            "pipeline": "p",
            "source": dict(self.source),
            "sink": {**sink, "options": dict(self.sink_options)},
            "state": {"type": self.state_type, **where, "options": dict(self.state_options)},
            "runtime": dict(self.runtime),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pipeline.write_text(yaml.safe_dump(data))
        return self

    def two_streams(self) -> None:
        """Rewrite the pipeline file: the same files go into the tables ``t`` and ``u``."""
        data = yaml.safe_load(self.pipeline.read_text())
        data["defaults"] = {"source": data.pop("source"), "sink": data.pop("sink")}
        data["streams"] = [{"name": name, "sink": {"table": name}} for name in ("t", "u")]
        self.pipeline.write_text(yaml.safe_dump(data))

    def but(self, **changes: Any) -> Project:
        """The same project with another pipeline file."""
        return evolve(self, **changes).save()

    def csv(self, name: str, rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> Path:
        path = self.folder / "data" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)
        return path

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, **options: Any) -> RunReport:
        """In this process."""
        return run_pipeline(self.pipeline, **options)

    def load(self, **options: Any) -> StreamReport:
        """In this process; the run must succeed."""
        report = self.run(**options)
        [stream] = report.streams
        assert report.exit_code == 0, stream.error
        return stream

    def start(self, *args: str, trap: Mapping[str, Any] | None = None, **env: str) -> subprocess.Popen[str]:
        """``dpone ARGS`` in a process of its own; ``trap`` is a job of child.py, which joins as a plugin."""
        path = [str(self.folder / "site"), str(CHILD.parent), os.environ.get("PYTHONPATH", "")]
        env = {"PYTHONPATH": os.pathsep.join(filter(None, path)), **env}
        if trap is not None:
            self.plugin("child")
            env["DPONE_TRAP"] = json.dumps(trap)
        command = [sys.executable, "-m", "dpone", *args]
        environment = {**os.environ, **env}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def plugin(self, name: str, code: str | None = None) -> None:
        """Install a plugin of one module, for processes started by this project."""
        info = self.folder / "site" / f"{name}-1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[dpone]\n{name} = {name}\n")
        if code is not None:
            (info.parent / f"{name}.py").write_text(code)

    def dpone(self, *args: str, trap: Mapping[str, Any] | None = None, **env: str) -> Done:
        with self.start(*args, trap=trap, **env) as process:
            out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def child(self, **job: Any) -> subprocess.Popen[str]:
        """A run in a process and a session of its own, with the hooks of child.py. In the session of the tests the
        system continues a stopped child when the shell that began them ends (setpgid(2): an orphaned process group)."""
        command = [sys.executable, str(CHILD), json.dumps({"pipeline": str(self.pipeline), **job})]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    # -- what is on the disk ------------------------------------------------------------------------------------

    def query(self, sql: str, *values: Any) -> list[Row]:
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database)) as db:
            return db.execute(sql, values).fetchall()

    def tables(self) -> list[str]:
        return [name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]

    def rows(self) -> list[Row]:
        """The rows of the target without lineage, sorted by key."""
        return [row[:-1] for row in self.lineage()]

    def lineage(self) -> list[Row]:
        """The rows of the target with their load id."""
        return sorted(self._sqlite_rows() if self.target == "sqlite" else self._file_rows(), key=lambda r: r[0])

    def _sqlite_rows(self) -> list[Row]:
        names = ", ".join([*COLUMNS, "__dpone__load_id"])
        return self.query(f"SELECT {names} FROM t") if "t" in self.tables() else []

    def _file_rows(self) -> list[Row]:
        found: list[Row] = []
        for file in (self.manifest() or {"files": []})["files"]:
            path, names = self.out / file["name"], [*COLUMNS, "__dpone__load_id"]
            if path.suffix == ".csv":
                types = pacsv.ConvertOptions(include_columns=names, strings_can_be_null=True)
                table = pacsv.read_csv(path, convert_options=types)
            else:
                table = pq.read_table(path, columns=names)
            found += zip(*(column.to_pylist() for column in table.columns), strict=True)
        return found

    def manifest(self) -> Any:
        path = self.out / ".dpone" / "manifest.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def journal(self) -> list[Entry]:
        """All entries, oldest first; of a folder only the head."""
        if self.target == "sqlite":
            if "__dpone__loads" not in self.tables():
                return []
            # A key has four parts; those of the tables of a change stream have their name as a fifth.
            mine = "WHERE key NOT LIKE '%|%|%|%|%'"
            found = self.query(f'SELECT seq, epoch, load_id, "position" FROM __dpone__loads {mine} ORDER BY seq')
            return [Entry(seq, epoch, load_id, json.loads(position)) for seq, epoch, load_id, position in found]
        entries = (self.manifest() or {"journals": {}})["journals"].values()
        return [Entry(e["seq"], e["epoch"], e["load_id"], e["position"]) for e in entries]

    def head(self) -> Entry | None:
        return max(self.journal(), key=lambda e: e.seq, default=None)

    def state_bytes(self) -> bytes | None:
        """The value of the state as it stands, letter for letter."""
        if self.state_type == "file":
            files = list(self.state_path.glob("*.json"))
            return files[0].read_bytes() if files else None
        found = self._state_rows("SELECT value, version FROM __dpone__state WHERE value IS NOT NULL")
        return repr(found).encode() if found else None

    def _state_rows(self, sql: str, *values: Any) -> list[Row]:
        if not self.state_path.exists():
            return []
        with closing(sqlite3.connect(self.state_path)) as db:
            try:
                return db.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def state(self) -> Entry | None:
        if self.state_type == "file":
            text = self.state_bytes()
            record = json.loads(text) if text else None
            value = record["history"][0]["value"] if record and not record["deleted"] else None
        else:
            found = self._state_rows("SELECT value FROM __dpone__state WHERE value IS NOT NULL")
            value = json.loads(found[0][0]) if found else None
        if value is None:
            return None
        return Entry(value["seq"], value["position"]["epoch"], value["load_id"], value["position"])

    def staging(self) -> list[str]:
        """What is left of open loads in the target."""
        if self.target == "sqlite":
            left = [name for name in self.tables() if name.startswith("__dpone__stage_")]
            for table in ("__dpone__staging", "__dpone__parts"):
                if table in self.tables():
                    left += [f"{table}: {row}" for row in self.query(f"SELECT * FROM {table}")]
            return left
        listed = {file["name"] for file in (self.manifest() or {"files": []})["files"]}
        parts = [p.name for p in self.out.glob("*") if p.name not in (*listed, ".dpone")] if self.out.exists() else []
        return parts + [p.name for p in (self.out / ".dpone" / "staging").glob("*")]


TABLES = ("customers", "orders")


@frozen
class ChangeProject(Project):
    """Appends the changes of all tables of a change log to ``landing_<table>``, in one commit for all."""

    source: Mapping[str, Any] = field(
        factory=lambda: {
            "type": "file",
            "path": "log.jsonl",
            "table": "*",
            "options": {"incremental": {"by": "cdc"}, "block_bytes": 16384},
        }
    )
    table: str = "landing_{table}"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def _sqlite_rows(self) -> list[Row]:
        """(event id, operation, table, load id) of all tables."""
        found = []
        for table in TABLES:
            if f"landing_{table}" in self.tables():
                columns = f"__dpone__event_id, __dpone__op, '{table}', __dpone__load_id"
                found += self.query(f"SELECT {columns} FROM landing_{table}")
        return found


@frozen
class ApplyProject(ChangeProject):
    """Applies the changes instead: the targets are tables of rows."""

    def _sqlite_rows(self) -> list[Row]:
        """(key, table, values as JSON, load id) of all tables."""
        found: list[Row] = []
        for table in TABLES:
            for row in self._dicts(table):
                load_id = row.pop("__dpone__load_id")
                del row["__dpone__loaded_at"]
                found.append((json.dumps([table, next(iter(row.values()))]), json.dumps(row), load_id))
        return found

    def _dicts(self, table: str) -> list[dict[str, Any]]:
        if f"landing_{table}" not in self.tables():
            return []
        with closing(sqlite3.connect(self.database)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(f"SELECT * FROM landing_{table}")]

    def now(self, table: str) -> dict[Any, dict[str, Any]]:
        """The living rows by key; NULL is left out, and so is what is dpone's."""
        living = [row for row in self._dicts(table) if row.get("__dpone__deleted_at") is None]
        return _by_key(table, living)


KEYS = {"orders": "id", "customers": "cid"}


def _by_key(table: str, rows: Iterable[Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    plain = [{k: v for k, v in row.items() if v is not None and not k.startswith("__dpone__")} for row in rows]
    return {row[KEYS[table]]: row for row in plain}


def applied(lines: Iterable[str], deletes: str = "hard", truncate: str = "fail") -> dict[str, dict[Any, Any]]:
    """What a change log makes of nothing, one line after another: the living rows of each table by key. Columns that
    are not named stay; with deletes ``ignore`` a row that moved is still where it was."""
    tables: dict[str, dict[Any, dict[str, Any]]] = {}
    waiting: list[Mapping[str, Any]] = []
    for line in lines:
        row = json.loads(line)
        if row["op"] != "commit":
            waiting.append(row)
            continue
        for change in waiting:
            _apply(tables.setdefault(change["table"], {}), change, deletes == "ignore", truncate == "apply")
        waiting = []
    return {table: _by_key(table, rows.values()) for table, rows in tables.items()}


def _apply(rows: dict[Any, dict[str, Any]], change: Mapping[str, Any], kept: bool, truncated: bool) -> None:
    if change["op"] == "truncate":
        if truncated:
            rows.clear()
        return
    [(name, old)] = change["key"].items()
    if change["op"] == "delete":
        if not kept:
            rows.pop(old, None)
        return
    row = {**rows.get(old, {}), name: old, **change["values"]}
    if row[name] != old and not kept:
        del rows[old]
    rows[row[name]] = row


def mark(entry: Entry | None) -> tuple[int, int]:
    """Epoch and seq; what "ahead" means."""
    return (entry.epoch, entry.seq) if entry else (-1, 0)


def with_plugins(observer: Any = None, **connectors: str) -> Plugins:
    """The installed plugins, an observer, and other classes for connectors, as in ``sink_sqlite="module:Class"``."""
    found = discover()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    if observer is not None:
        manager.register(observer)
    changed: dict[Any, Any] = dict(found.connectors)
    for name, implementation in connectors.items():
        role, _, type_ = name.partition("_")
        changed[role, type_] = evolve(changed[role, type_], implementation=implementation)
    return evolve(found, manager=manager, connectors=changed)


def declaring(plugins: Plugins, role: Any, name: str, *, also: str = "", without: str = "") -> Plugins:
    """The same plugins, of which one connector declares a capability more, or one less."""
    record = plugins.get(role, name)
    changed = {also: Support.SUPPORTED, without: Support.NOT_IMPLEMENTED}
    capabilities = {**record.capabilities, **{name: support for name, support in changed.items() if name}}
    return evolve(plugins, connectors={**plugins.connectors, (role, name): evolve(record, capabilities=capabilities)})


class Steps:
    """An observer that keeps the steps it was told of."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    @hookspecs.hookimpl
    def dpone_run_event(self, event: Any) -> None:
        self.events.append(event)

    @property
    def steps(self) -> list[str]:
        return [event.step for event in self.events]


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory, where the system has that. Every step of a run syncs, which takes most of its time on a disk;
    SIGKILL takes nothing from the system's cache, so that a disk would prove no more."""
    with TemporaryDirectory(prefix="dpone-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)


@contextmanager
def zygote() -> Iterator[Any]:
    """A process that has everything imported and forks a child for each job; answers how the child ended."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), "--serve"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def run(project: Project, **job: Any) -> Mapping[str, Any]:
        process.stdin.write(json.dumps({"pipeline": str(project.pipeline), **job}) + "\n")
        process.stdin.flush()
        answer: Mapping[str, Any] = json.loads(process.stdout.readline())
        return answer

    try:
        yield run
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=60)


KILLED = -signal.SIGKILL
