"""A round of the attack: one pipeline, writers that go on meanwhile, runs that are disturbed, and what must be there.

Sources and targets are written and read through psycopg, sqlite3 and pyarrow, never through dpone.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pyarrow.parquet as pq
import yaml
from attrs import define, field, frozen
from tests.attack.faults import FAULTS, LEASE, LIMIT, Line, ended
from tests.postgres import server as servers
from tests.postgres.server import Server

COLUMNS = "id, day, v, n"
SETTINGS = {"max_replication_slots": "20", "autovacuum": "on"}  # of the server, also after it was started again
CLOCK = Path(__file__).with_name("clock.py")
Row = tuple[Any, ...]


@frozen
class Work:
    """A strategy under attack: its options, how the source is read, what the writers may do to it, which of its rows
    are read."""

    strategy: Mapping[str, Any]
    options: Mapping[str, Any] = field(factory=dict)
    does: tuple[str, ...] = ("insert", "update", "delete")
    where: str = ""


BY_ID = {"incremental": {"by": "cursor", "column": "id"}}
BY_TIME = {"incremental": {"by": "cursor", "column": "at"}}
WORKS: Mapping[str, Work] = {
    "full_refresh": Work({"mode": "full_refresh", "key": ["id"]}),
    "append": Work({"mode": "append"}, BY_ID, ("insert",)),
    "merge": Work({"mode": "merge", "key": ["id"]}, BY_TIME, ("insert", "update")),
    "xmin": Work({"mode": "merge", "key": ["id"]}, {"incremental": {"by": "xmin"}}, ("insert", "update")),
    "replace": Work({"mode": "replace", "where": {"day": 1}}, where=" WHERE day = 1"),
    "partition_replace": Work({"mode": "partition_replace", "partition": "day"}, {}, ("insert", "update")),
    "snapshot_diff": Work({"mode": "snapshot_diff", "key": ["id"], "max_delete_share": 1.0}),
    "scd2": Work({"mode": "scd2", "key": ["id"], "deletes": "close", "max_delete_share": 1.0}),
    "cdc_apply": Work({"mode": "cdc_apply"}, {}, ("insert", "update", "delete", "move")),
    "history": Work({"mode": "append"}),
}
STREAMS = ("cdc_apply", "history")
# source, sink, strategies. A stream reads the source's table; files only grow.
ROUTES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("postgres", "postgres", tuple(WORKS)),
    ("postgres", "sqlite", tuple(WORKS)),
    ("postgres", "file", ("full_refresh", "append", "history")),
    ("sqlite", "sqlite", ("full_refresh", "append", "merge", "snapshot_diff", "scd2")),
    ("sqlite", "postgres", ("append", "merge", "snapshot_diff")),
    ("file", "sqlite", ("append",)),
    ("file", "postgres", ("append",)),
    ("file", "file", ("append",)),
)


class Wrong(AssertionError):
    """The target does not hold what it must, or a process said what it never may."""


@define
class Stand:
    """The server of an attack, and the line that leads to it."""

    server: Server
    line: Line

    def restart(self) -> None:
        server = self.server
        servers.stop(server)
        assert server.programs is not None
        assert server.data is not None
        self.server = servers.start(server.programs, server.data, port=str(server.port), **SETTINGS)


@define
class Round:
    """``number`` and the attack's seed decide everything but the timing."""

    seed: int
    number: int
    folder: Path
    stand: Stand
    rng: Random = field(init=False)
    source: str = field(init=False)
    sink: str = field(init=False)
    name: str = field(init=False)
    codes: Counter[str] = field(factory=Counter)
    span: float = field(default=1.0, init=False)
    _stop: threading.Event = field(factory=threading.Event)
    _broken: list[str] = field(factory=list)
    _started: int = 0

    def __attrs_post_init__(self) -> None:
        self.rng = Random(f"{self.seed} {self.number}")  # a repeatable choice, no secret
        ways = [(source, sink, name) for source, sink, names in ROUTES for name in names]
        Random(self.seed).shuffle(ways)  # every way has its turn
        self.source, self.sink, self.name = ways[(self.number - 1) % len(ways)]

    def __str__(self) -> str:
        return f"{self.source} to {self.sink} by {self.name}"

    @property
    def work(self) -> Work:
        return WORKS[self.name]

    @property
    def schema(self) -> str:
        return f"r{self.number}"

    @property
    def line(self) -> Line:
        return self.stand.line

    @property
    def needs_server(self) -> bool:
        return "postgres" in (self.source, self.sink)

    # -- the round ----------------------------------------------------------------------------------------------

    def execute(self) -> None:
        self._lay()
        writers = [threading.Thread(target=self._write, args=(Random(self.rng.random()),)) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(2):  # the first load takes longer than those to come
                started = time.monotonic()
                ended(self.start(), LIMIT, "an undisturbed run")
                self.span = time.monotonic() - started
            for _ in range(self.rng.randint(5, 9)):
                self._disturbed()
        finally:
            self._stop.set()
            for writer in writers:
                writer.join(LIMIT)
        if any(writer.is_alive() for writer in writers):
            raise Wrong("a writer does not end, and what it writes would be missing")
        self._calm()
        self._require_equal()

    def _disturbed(self) -> None:
        fit = {name: often for name, (_, often, server) in FAULTS.items() if self.needs_server or not server}
        [name] = self.rng.choices([*fit], weights=[*fit.values()])
        fault, _, _ = FAULTS[name]
        code = fault(self)
        self.codes[f"{name} {code}"] += 1
        if self._broken:
            raise Wrong(self._broken[0])
        self._require_spoken()

    def _calm(self) -> None:
        """Undisturbed runs, until there is nothing new: what a schedule does after a bad night."""
        seen = []
        for _ in range(8):
            code = ended(self.start(), LIMIT, "an undisturbed run")
            self._require_spoken()
            [stream] = json.loads((self.folder / f"report{self._started}.json").read_text())["streams"]
            seen.append((code, stream["status"], (stream["error"] or {}).get("message")))
            # A stream into its own server moves on past the WAL that its last commit has written.
            once = "incremental" not in self.work.options and self.name not in STREAMS and self.source != "file"
            if code == 0 and stream["caught_up"] and (once or not stream["rows"]["read"]):
                return
            time.sleep(LEASE / 2)
        raise Wrong(f"undisturbed runs do not come to rest: {seen}")

    def _require_spoken(self) -> None:
        """No traceback in what the last run wrote."""
        for path in self.folder.glob("stderr*.txt"):
            if "Traceback" in (text := path.read_text(errors="replace")):
                raise Wrong(f"a run printed a traceback: {text[-1500:]}")

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self, shift: float | None = None, **more: Any) -> subprocess.Popen[str]:
        self._started += 1
        program = ["-m", "dpone"] if shift is None else [str(CLOCK), str(shift)]
        command = [sys.executable, *program, "run", "pipeline.yaml", "-q", "--report", f"report{self._started}.json"]
        folder = self.folder / "tmp"
        folder.mkdir(exist_ok=True)
        with (self.folder / f"stderr{self._started}.txt").open("w") as errors:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=errors, text=True,
                env={**os.environ, "TMPDIR": str(folder)}, start_new_session=True,  # as tests.engine.project says
                **more,
            )  # fmt: skip

    def restart_server(self) -> None:
        self.stand.restart()

    # -- what is there before -----------------------------------------------------------------------------------

    def _lay(self) -> None:
        self.folder.mkdir(parents=True)
        url = self.stand.server.at(self.line.port)
        if self.needs_server:
            self._sql(f"CREATE SCHEMA {self.schema}")
        create = "CREATE TABLE {} (id {}, day int NOT NULL, v text, n numeric(12,2), at {})"
        if self.source == "postgres":
            name = f"{self.schema}.source"
            self._sql(create.format(name, "serial PRIMARY KEY", "timestamptz NOT NULL DEFAULT now()"))
            self._sql(f"INSERT INTO {name} (day, v, n) SELECT i % 3, 'v' || i, i FROM generate_series(1, 4000) AS i")
        elif self.source == "sqlite":
            with closing(self._sqlite("source.db")) as db:
                db.execute("PRAGMA journal_mode = wal")
                db.execute(create.format("source", "integer PRIMARY KEY AUTOINCREMENT", "timestamp NOT NULL"))
        self.folder.joinpath("pipeline.yaml").write_text(yaml.safe_dump(self._pipeline(url)))
        if self.name in STREAMS:
            made = subprocess.run(
                [sys.executable, "-m", "dpone", "cdc", "create", "pipeline.yaml"], cwd=self.folder, capture_output=True,
                text=True, timeout=LIMIT, check=False,
            )  # fmt: skip
            if made.returncode:
                raise Wrong(f"cdc create: {made.stderr}")

    def _pipeline(self, url: str) -> dict[str, Any]:
        # Seconds. A stopped run may hold a lock; a rival would wait for it as long as by default, and again as a retry.
        wait, busy = {"lock_timeout": 5}, {"busy_timeout": 5}
        source: dict[str, Any] = {"type": self.source, "options": dict(self.work.options)}
        if self.source == "postgres":
            source |= {"connection": url, "table": f"{self.schema}.source"}
            source["options"] |= wait
        elif self.source == "sqlite":
            source |= {"connection": "sqlite:///source.db", "table": "source"}
            source["options"] |= busy
        else:
            source = {"type": "file", "path": "in/*.csv"}
        if self.work.where:
            source["query"] = f"SELECT * FROM {source.pop('table')}{self.work.where}"
        if self.name in STREAMS:
            slot = {"slot": f"attack_{self.schema}", "publication": f"attack_{self.schema}"}
            source["options"] |= {"incremental": {"by": "cdc"}, **slot}
        sink: dict[str, Any] = {"type": self.sink, "strategy": dict(self.work.strategy)}
        sink |= {
            "postgres": {"connection": url, "table": f"{self.schema}.target", "options": wait},
            "sqlite": {"connection": "sqlite:///target.db", "table": "target", "options": busy},
            "file": {"path": "out"},
        }[self.sink]
        places: dict[str, dict[str, Any]] = {
            "postgres": {"connection": url}, "sqlite": {"connection": "sqlite:///state.db"}, "file": {"path": "state"},
        }  # fmt: skip
        kind = self.rng.choice([*places] if self.needs_server else ["sqlite", "file"])
        own = {"postgres": {"schema": self.schema, **wait}, "sqlite": busy, "file": {}}[kind]
        return {
            "pipeline": self.schema, "source": source, "sink": sink,
            "state": {"type": kind, **places[kind], "options": {"lease_seconds": LEASE, **own}},
            "runtime": {
                "retries": self.rng.choice([0, 1]), "batch_rows": 50, "partitions": self.rng.choice([1, 1, 3]),
                "workers": self.rng.choice([1, 2]),
            },
        }  # fmt: skip

    # -- writers ------------------------------------------------------------------------------------------------

    def _write(self, rng: Random) -> None:
        """Transactions of the application, until the round ends; a server that is away is waited for."""
        write = {"postgres": self._write_postgres, "sqlite": self._write_sqlite, "file": self._write_file}[self.source]
        while not self._stop.is_set():
            try:
                write(rng)
            except (psycopg.OperationalError, psycopg.errors.DeadlockDetected, sqlite3.OperationalError):
                time.sleep(0.1)
            except Exception as error:  # the round fails with it
                self._broken.append(f"a writer failed: {type(error).__name__}: {error}")
                return

    def _write_postgres(self, rng: Random) -> None:
        """Straight to the server, past the line. A transaction may stay open for a while and end with ROLLBACK."""
        table = f"{self.schema}.source"
        with psycopg.connect(self.stand.server.url, autocommit=True) as db:
            while not self._stop.is_set():
                db.execute("BEGIN")
                for _ in range(rng.randint(1, 4)):
                    db.execute(self._statement(rng, table, "now()", "random()"))
                    time.sleep(rng.choice([0, 0, 0.01, 0.2]))
                db.execute("COMMIT" if rng.random() < 0.85 else "ROLLBACK")
                time.sleep(rng.uniform(0.005, 0.06))

    def _write_sqlite(self, rng: Random) -> None:
        now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
        with closing(self._sqlite("source.db")) as db:
            while not self._stop.is_set():
                db.execute("BEGIN IMMEDIATE")
                for _ in range(rng.randint(1, 4)):
                    db.execute(self._statement(rng, "source", now, "random() / 1e19"))
                db.execute("COMMIT" if rng.random() < 0.85 else "ROLLBACK")
                time.sleep(rng.uniform(0.01, 0.1))

    def _statement(self, rng: Random, table: str, now: str, chance: str) -> str:
        some = f"(SELECT id FROM {table} ORDER BY {chance} LIMIT {rng.randint(1, 5)})"
        mark = f"'w{rng.randrange(10**9)} é ''\"'"
        what = rng.choice(self.work.does)
        if what == "insert":
            more = ", ".join(f"({rng.randrange(3)}, {mark}, {rng.randrange(10**6)}.25, {now})" for _ in range(5))
            return f"INSERT INTO {table} (day, v, n, at) VALUES {more}"
        if what == "update":
            return f"UPDATE {table} SET v = {mark}, n = NULL, at = {now} WHERE id IN {some}"
        if what == "delete":
            return f"DELETE FROM {table} WHERE id IN {some}"
        return f"UPDATE {table} SET id = id + 1000000, v = {mark} WHERE id IN {some} AND id < 1000000"

    def _write_file(self, rng: Random) -> None:
        """A file at a time, under its name only when it is whole."""
        first = rng.randrange(10**9) * 100
        folder = self.folder / "in"
        folder.mkdir(exist_ok=True)
        path = self.folder / f"{first}.tmp"
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["id", "day", "v", "n"])
            out.writerows([first + i, i % 3, f'w{first}, "{i}" é', f"{rng.randrange(10**6)}.25"] for i in range(100))
        path.rename(folder / f"{first}.csv")
        self._stop.wait(rng.uniform(0.1, 0.4))

    # -- what must be there -------------------------------------------------------------------------------------

    def _sql(self, sql: str) -> list[Row]:
        with psycopg.connect(self.stand.server.url, autocommit=True) as db:
            cursor = db.execute(sql)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def _sqlite(self, name: str) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / name, timeout=30, isolation_level=None)

    def _require_equal(self) -> None:
        have, want = sorted(self._target()), sorted(self._source())
        if have != want:
            lost, extra = Counter(want) - Counter(have), Counter(have) - Counter(want)
            raise Wrong(f"{lost.total()} rows lost, {extra.total()} too many: {[*lost][:3]} {[*extra][:3]}")
        if self.name == "scd2":
            self._require_versions()
        if left := self._left():
            raise Wrong(f"staging is left: {left}")
        for key, count, last in self._query_target("SELECT key, count(*), max(seq) FROM {}__dpone__loads GROUP BY key"):
            if count != last:
                raise Wrong(f"the journal of {key} has {count} entries up to number {last}")

    def _source(self) -> Iterator[Row]:
        if self.source == "file":
            for path in (self.folder / "in").glob("*.csv"):
                with path.open(newline="", encoding="utf-8") as file:
                    yield from ((int(i), int(day), v, _number(n)) for i, day, v, n in [*csv.reader(file)][1:])
            return
        sql = f"SELECT {COLUMNS} FROM "
        if self.source == "postgres":
            rows = self._sql(f"{sql}{self.schema}.source{self.work.where}")
        else:
            with closing(self._sqlite("source.db")) as db:
                rows = db.execute(f"{sql}source").fetchall()
        yield from ((i, day, v, _number(n)) for i, day, v, n in rows)

    def _target(self) -> Iterator[Row]:
        if self.name == "history":
            yield from self._folded()
            return
        current = " WHERE __dpone__valid_to IS NULL" if self.name == "scd2" else ""
        rows = self._rows_of_files(COLUMNS) if self.sink == "file" else self._query_target(
            f"SELECT {COLUMNS} FROM {{}}target{current}"
        )  # fmt: skip
        yield from ((i, day, v, _number(n)) for i, day, v, n in rows)

    def _folded(self) -> Iterator[Row]:
        """The rows that a history of changes makes; no event is in it twice."""
        names = f"__dpone__commit, __dpone__ordinal, __dpone__op, __dpone__event_id, {COLUMNS}"
        found = self._rows_of_files(names) if self.sink == "file" else self._query_target(
            f"SELECT {names} FROM {{}}target"
        )  # fmt: skip
        if twice := [event for event, n in Counter(row[3] for row in found).items() if n > 1]:
            raise Wrong(f"{len(twice)} events are in the history twice: {twice[:3]}")
        rows: dict[int, Row] = {}
        for _, _, op, _, i, *rest in sorted(found, key=lambda row: row[:2]):
            if op == "delete":
                rows.pop(i, None)
            else:
                rows[i] = (i, *rest)
        yield from ((i, day, v, _number(n)) for i, day, v, n in rows.values())

    def _query_target(self, sql: str) -> list[Row]:
        """``{}`` stands for the target's schema."""
        if self.sink == "file":
            return []
        if self.sink == "postgres":
            return self._sql(sql.format(f"{self.schema}."))
        with closing(self._sqlite("target.db")) as db:
            return db.execute(sql.format("")).fetchall()

    def _rows_of_files(self, names: str) -> list[Row]:
        manifest = json.loads((self.folder / "out" / ".dpone" / "manifest.json").read_text())
        tables = [pq.read_table(self.folder / "out" / file["name"]) for file in manifest["files"]]
        return [row for t in tables for row in zip(*(t[n].to_pylist() for n in names.split(", ")), strict=True)]

    def _require_versions(self) -> None:
        ends = "coalesce(a.__dpone__valid_to > b.__dpone__valid_from, true)"
        overlap = (
            f"SELECT a.id FROM {{0}}target AS a JOIN {{0}}target AS b ON a.id = b.id AND {ends} "
            "AND a.__dpone__valid_from < b.__dpone__valid_from"
        )
        if found := self._query_target(overlap):
            raise Wrong(f"{len(found)} versions overlap the next one of their key: {found[:3]}")

    def _left(self) -> list[Any]:
        if self.sink == "postgres":
            return self._sql(
                f"SELECT tablename FROM pg_tables WHERE schemaname = '{self.schema}' "
                r"AND tablename LIKE '\_\_dpone\_\_stage%'"
            )
        if self.sink == "sqlite":
            return self._query_target(
                "SELECT name FROM sqlite_master WHERE name LIKE '__dpone__stage_%' AND type = 'table'"
            )
        return [*(self.folder / "out" / ".dpone" / "staging").glob("*")]

    def clear(self) -> None:
        """What the round made at the server; a slot that stays would keep WAL."""
        if not self.needs_server:
            return
        with suppress(psycopg.Error):
            if self.name in STREAMS:
                slot = f"FROM pg_replication_slots WHERE slot_name = 'attack_{self.schema}'"
                self._sql(f"SELECT pg_terminate_backend(active_pid, 60000) {slot} AND active")
                self._sql(f"SELECT pg_drop_replication_slot(slot_name) {slot}")
                self._sql(f"DROP PUBLICATION IF EXISTS attack_{self.schema}")
            self._sql(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")


def _number(value: Any) -> str | None:
    """Numbers of every system in one spelling; the writers use halves and quarters, which doubles hold exactly."""
    return None if value in (None, "") else f"{float(value):.2f}"
