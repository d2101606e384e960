"""Runs a pipeline in a process that kills or stops itself at a stated point.

``child.py JOB`` runs one job. ``child.py --serve`` imports everything once and forks a child for each line it reads,
which spares each of hundreds of kills the start of an interpreter.

A job is JSON: ``pipeline``, ``options`` of dpone.engine.run, ``signal`` (KILL), and where to send it:

    step, nth       the nth time an event of that step is told
    after           so many seconds later instead; the run waits for it before its next part, and before its commit
    call            before the nth call that changes the disk (rename, replace, fsync, unlink)
    statement       before the nth SQL statement; only: of those that begin so
    execute         before the nth statement of SqliteDatabase (or of PostgresDatabase, where that is imported); for
                    signals that Python handles: what a handler raises inside a callback of SQLite is lost
    ops             after that many virtual machine instructions of SQLite
    undo            stream and load id: take that load back instead of running; these four are counted from its start
    rollback        sink, target and load id: ``dpone.ops.rollback``, counted from its start, too
    sweep           ``dpone.ops.sweep`` of all that is older than this very moment, counted from its start, too
    move            old and new key: rename it instead of running; counted from its start, too
    replay          options of a replay of a change stream (``from``), planned now and executed instead of a run
    since, until    the steps between which these four are counted (commit_started, committed)

As a plugin of ``dpone`` it takes its job from the environment variable DPONE_TRAP.

The answer is JSON: ``code`` (negative: the signal), ``report``, ``count`` (calls or statements seen, when the run ended
by itself).
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import dpone.connectors.file.sink
import dpone.connectors.file.source
import dpone.connectors.sqlite.sink  # noqa: F401  # imported before the fork, like those above
from dpone.config.reader import load_pipeline
from dpone.connectors.file.state import _FileLease
from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.engine.job import Replay
from dpone.engine.run import Run
from dpone.engine.undo import undo
from dpone.errors import Interrupted
from dpone.hookspecs import hookimpl
from dpone.ops.replay import replay_plans
from dpone.ops.rollback import rollback
from dpone.ops.state import move
from dpone.ops.sweep import sweep
from dpone.plugins import discover
from dpone.sql.state import SqlLease


class Trap:
    """Counts what happens and sends the signal when its time has come."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.seen, self.armed, self.count = job, Counter[str](), False, 0
        self.signal = getattr(signal, "SIG" + job.get("signal", "KILL"))
        self.connections: list[sqlite3.Connection] = []
        self.late: threading.Timer | None = None
        self.renewing = threading.Lock()

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        self.seen[event.step] += 1
        if event.step == self.job.get("since", "commit_started"):
            self._arm()
        elif event.step == self.job.get("until", "committed"):
            self.armed = False
        if (event.step, self.seen[event.step]) == (self.job.get("step"), self.job.get("nth", 1)):
            if "after" in self.job:
                self.late = threading.Timer(self.job["after"], self.fire)
                self.late.start()
            else:
                self.fire()
        if self.late and event.step in ("part_started", "staged"):
            self.late.join()

    def fire(self) -> None:
        """Not while the lease is renewed: a suspended process would hold the state's lock for as long."""
        with self.renewing:
            os.kill(os.getpid(), self.signal)

    def watch_leases(self) -> None:
        for lease in (_FileLease, SqlLease):
            lease.renew = self._guarded(lease.renew)

    def _guarded(self, real: Any) -> Any:
        def renew(lease: Any) -> None:
            with self.renewing:
                real(lease)

        return renew

    def _arm(self) -> None:
        self.armed = True
        if ops := self.job.get("ops"):
            for db in self.connections:
                db.set_progress_handler(self.fire, ops)

    def watch_disk(self) -> None:
        for name in ("rename", "replace", "fsync", "unlink", "rmdir"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self._tick(self.job.get("call"))
            return real(*args, **options)

        return call

    def watch_sql(self) -> None:
        real = sqlite3.connect

        def connect(*args: Any, **options: Any) -> sqlite3.Connection:
            db = real(*args, **options)
            db.set_trace_callback(self._statement)
            self.connections.append(db)
            return db

        sqlite3.connect = connect  # type: ignore[assignment]

    def _statement(self, sql: str) -> None:
        if sql.startswith(tuple(self.job.get("only", [""]))):
            self._tick(self.job.get("statement"))

    def watch_database(self) -> None:
        real = SqliteDatabase.execute

        def execute(db: SqliteDatabase, sql: str, parameters: Any = ()) -> int:
            self._tick(self.job.get("execute"))
            return real(db, sql, parameters)

        SqliteDatabase.execute = execute  # type: ignore[method-assign]
        if postgres := sys.modules.get("dpone_postgres.database"):
            self._watch_postgres(postgres.PostgresDatabase)

    def _watch_postgres(self, database: Any) -> None:
        real = database._run

        def run(db: Any, sql: str, parameters: Any) -> Any:
            self._tick(self.job.get("execute"))
            return real(db, sql, parameters)

        database._run = run

    def _tick(self, limit: int | None) -> None:
        if self.armed and threading.current_thread().name != "dpone-lease":
            self.count += 1
            if self.count == limit:
                self.fire()


def set_trap(job: dict[str, Any]) -> Trap:
    trap = Trap(job)
    trap.watch_leases()
    if "call" in job:
        trap.watch_disk()
    if "statement" in job or "ops" in job:
        trap.watch_sql()
    if "execute" in job:
        trap.watch_database()
    return trap


TRAP = set_trap(json.loads(os.environ["DPONE_TRAP"])) if "DPONE_TRAP" in os.environ else None


@hookimpl
def dpone_commands(cli: Any) -> None:
    """A plugin's own observer would be told in a thread of its own: the program has to stop in the thread that runs."""
    if TRAP is not None:
        discover().manager.register(TRAP)


def execute(job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    trap = set_trap(job)
    plugins = discover()
    if "move" in job:
        trap.armed = True
        move(load_pipeline(job["pipeline"]), *job["move"])
        return 0, {"count": trap.count}
    if "replay" in job:
        job["options"] = {"replay": planned(job)}
    if "undo" in job:
        trap.armed = True
        undo(job["pipeline"], *job["undo"], plugins)
        return 0, {"count": trap.count}
    if "rollback" in job:
        trap.armed = True
        rollback(*job["rollback"], job["pipeline"], plugins)
        return 0, {"count": trap.count}
    if "sweep" in job:
        trap.armed = True
        sweep(job["pipeline"], timedelta(0), True, plugins)
        return 0, {"count": trap.count}
    plugins.manager.register(trap)
    run = Run(load_pipeline(job["pipeline"]), plugins=plugins, **job.get("options", {}))
    try:
        run.execute()
    except (KeyboardInterrupt, Interrupted):
        pass
    finally:
        plugins.manager.unregister(trap)
    return run.report.exit_code, {"report": run.report.to_json(), "count": trap.count}


def planned(job: dict[str, Any]) -> Replay:
    """The replay that ``dpone cdc replay --execute`` makes of a plan from the earliest position."""
    [plan] = replay_plans(load_pipeline(job["pipeline"]), None, job["replay"].get("from"))
    assert plan.start is not None, plan
    assert plan.applied is not None, plan
    assert not plan.blockers, plan
    return Replay(plan.start.position, plan.applied.load_id or "")


def forked(job: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            code, answer = execute(job)
        except BaseException as error:
            code, answer = 99, {"failed": repr(error)}
        with os.fdopen(write, "w") as out:
            json.dump(answer, out)
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as source:
        text = source.read()
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), **(json.loads(text) if text else {})}


def serve() -> None:
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve()
    else:
        code, answer = execute(json.loads(sys.argv[1]))
        print(json.dumps(answer))
        sys.exit(code)
