"""Connections that end at every step and at every COMMIT of a run, and SIGKILL inside a commit: after each fault the
target is the source, every load is in the journal once, and no staging outlives the next load."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from attrs import define, field, frozen
from tests.engine.project import with_plugins
from tests.postgres.proxy import Proxy, _reset
from tests.postgres.target import Target
from tests.postgres.test_kill_matrix import STRATEGIES, Run, lay, run  # noqa: F401  # a fixture

from dpone.config.reader import load_pipeline
from dpone.engine.run import Run as Execution
from dpone.hookspecs import hookimpl
from dpone.model.report import StreamReport

STEPS = (
    "locked", "recovered", "window_fixed", "schema_applied", "load_opened", "part_started", "batch", "part_staged",
    "staged", "commit_started", "committed", "state_saved", "acknowledged",
)  # fmt: skip
CASES = [(name, False) for name in STRATEGIES] + [("merge", True), ("full_refresh", True)]
CHEAP = ("merge", True)  # in every run of the session; the others with the marker crash


@define
class Line(Proxy):
    """A proxy whose connections can all be cut at once."""

    ends: list[tuple[socket.socket, socket.socket]] = field(factory=list)

    def _up(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        self.ends.append((client, server))
        Proxy._up(self, client, server, lost)

    def cut(self) -> None:
        while self.ends:
            _reset(*self.ends.pop())

    def await_fault(self, nth: int, fault: Literal["answer", "request"]) -> None:
        self.nth, self.fault, self.commits = nth, fault, 0


@contextmanager
def line(target: Target) -> Iterator[Line]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Line((target.server.host, target.server.port), listener=listener)
        threading.Thread(target=one._accept, daemon=True).start()
        yield one
        one.cut()


@define
class CutAt:
    """Cuts the line when it is told of a step for the first time."""

    line: Line
    step: str
    done: bool = False

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        if event.step == self.step and not self.done:
            self.done = True
            self.line.cut()


@frozen
class Bench:
    """A source of 30 rows that changes before every load, and what the target must be afterwards."""

    target: Target
    name: str
    arrow: bool
    pipeline: Path

    def fill(self) -> None:
        enum = ["CREATE TYPE mood AS ENUM ('sad')"] if self.arrow else []
        tags = f", tags {self.target.schema}.mood[]" if self.arrow else ""  # which has no binary form that passes
        self.target.run(
            *enum,
            f"CREATE TABLE source (id int, day int, v text, at timestamptz{tags})",
            "INSERT INTO source SELECT i, 1, 'v' || i, '2024-01-01Z' FROM generate_series(1, 30) AS i",
        )

    def change(self, n: int) -> None:
        """Three new rows, and two that are changed where the strategy sees them."""
        at, first = f"timestamptz '2024-01-01Z' + interval '{n} days'", 30 + 3 * n
        self.target.run(f"INSERT INTO source SELECT i, 1, 'new', {at} FROM generate_series({first}, {first + 2}) AS i")
        if self.name != "append":
            self.target.run(f"UPDATE source SET v = 'changed {n}', at = {at} WHERE id <= 2")

    def require_whole(self, n: int, *, seq: int | None, swept: bool = True) -> None:
        """n: changes so far. scd2 has a version of each new row and of each change, and no other."""
        versions = " WHERE __dpone__valid_to IS NULL" if self.name == "scd2" else ""
        columns = "id, day, v, at"
        found = self.target.query(f"SELECT {columns} FROM orders{versions} ORDER BY id, v")
        assert found == self.target.query(f"SELECT {columns} FROM source ORDER BY id, v")
        if self.name == "scd2":
            assert self.target.query("SELECT count(*) FROM orders") == [(30 + 5 * n,)]
        if seq is not None:
            assert self.target.query("SELECT max(seq), count(*) FROM __dpone__loads") == [(seq, seq)]
        assert not (swept and self.target.stages())


def bench(folder: Path, target: Target, name: str, arrow: bool) -> Bench:
    made = Bench(target, name, arrow, lay(folder, target, name))
    made.fill()
    return made


def through(bench: Bench, url: str, *roles: str) -> None:
    """The connections of these roles go through ``url``; a failed attempt is followed by two more."""
    data = yaml.safe_load(bench.pipeline.read_text())
    for role in roles:
        data[role]["connection"] = url
    data["runtime"]["retries"] = 2
    bench.pipeline.write_text(yaml.safe_dump(data))


def executed(bench: Bench, observer: Any = None) -> StreamReport:
    job = Execution(load_pipeline(bench.pipeline), plugins=with_plugins(observer))
    job.execute()
    [stream] = job.report.streams
    assert job.report.exit_code == 0, stream.error
    return stream


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other without a pause."""
    monkeypatch.setattr("dpone.engine.run.random.uniform", lambda a, b: 0.0)


def marked() -> list[Any]:
    return [pytest.param(*c, id=_id(c), marks=() if c == CHEAP else pytest.mark.crash) for c in CASES]


def _id(case: tuple[str, bool]) -> str:
    return f"{case[0]} {'through arrow' if case[1] else 'passed through'}"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("name", "arrow"), marked())
def test_a_sinks_connection_cut_at_any_step(tmp_path: Path, target: Target, name: str, arrow: bool) -> None:
    """Whichever step its connection ends at: the same run goes on over a new one, the target is the source, the load is
    in the journal once. Up to the commit all strategies take the same way."""
    cut_at(STEPS if (name, arrow) == CHEAP else STEPS[-6:], tmp_path, target, name, arrow, "sink")


@pytest.mark.crash
@pytest.mark.parametrize(("name", "arrow"), [CHEAP], ids=["merge"])
@pytest.mark.usefixtures("at_once")
def test_a_sources_connection_cut_at_any_step(tmp_path: Path, target: Target, name: str, arrow: bool) -> None:
    """The same of the source's, whose snapshot is lost with it: the window is read anew."""
    cut_at(STEPS, tmp_path, target, name, arrow, "source")


def cut_at(steps: tuple[str, ...], folder: Path, target: Target, name: str, arrow: bool, role: str) -> None:
    made, n, cuts = bench(folder, target, name, arrow), 0, 0
    with line(target) as way:
        through(made, target.server.at(way.port), role)
        executed(made)
        for step in steps:
            n += 1
            made.change(n)
            observer = CutAt(way, step)
            executed(made, observer)
            cuts += observer.done
            made.require_whole(n, seq=n + 1)
    assert cuts == len(steps)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("name", "arrow"), marked())
def test_PG_01_the_answer_to_a_commit_is_lost(tmp_path: Path, target: Target, name: str, arrow: bool) -> None:
    """Any COMMIT of sink or state is done and answered to nobody: the same run finds out that it happened, the target
    is the source, the load is in the journal once, and its staging is gone after the next load at the latest."""
    fault_at_every_commit("answer", tmp_path, target, name, arrow)


@pytest.mark.usefixtures("at_once")
def test_PG_01_a_commit_never_arrives(tmp_path: Path, target: Target) -> None:
    """The same where the connection ends before the server has the COMMIT: it is done again."""
    fault_at_every_commit("request", tmp_path, target, *CHEAP)


def fault_at_every_commit(
    fault: Literal["answer", "request"], folder: Path, target: Target, name: str, arrow: bool
) -> None:
    made, n = bench(folder, target, name, arrow), 0
    left: set[str] = set()
    with line(target) as way:
        through(made, target.server.at(way.port), "sink", "state")
        executed(made)
        while True:
            n += 1
            made.change(n)
            way.await_fault(n, fault)
            executed(made)
            made.require_whole(n, seq=n + 1, swept=way.commits < n)
            before, left = left, target.stages()  # where the load's own answer is lost, or that of the sweep after it
            assert len(left) <= 1
            assert not before & left
            if way.commits < n:
                break
    assert n >= 6  # lease, staging, its part, the load, state, release


@pytest.mark.crash
@pytest.mark.parametrize(("name", "arrow"), CASES, ids=map(_id, CASES))
def test_LS_03_killed_inside_the_commit(
    run: Run,  # noqa: F811
    tmp_path: Path,
    target: Target,
    name: str,
    arrow: bool,
) -> None:
    """SIGKILL before statements of a run, every sixth of them: the target is as before, or, once the commit is durable
    and only its staging is left to drop, as it will be; the next run loads what is missing."""
    made, n, seq = bench(tmp_path, target, name, arrow), 0, 1
    assert run(made.pipeline)["code"] == 0
    for statement in itertools.count(1 + CASES.index((name, arrow)) % 6, 6):
        n, seq = n + 1, seq + 1
        made.change(n)
        before = target.query("SELECT count(*), max(v) FROM orders")
        ended = run(made.pipeline, execute=statement)
        if ended["code"] != -9:
            break
        left = target.query("SELECT count(*), max(v) FROM orders")
        again = run(made.pipeline)
        assert again["code"] == 0
        committed, loaded = left != before, again["report"]["streams"][0]["status"] == "loaded"
        assert committed or loaded
        seq += committed and loaded  # a source that is read as a whole is loaded once more
        made.require_whole(n, seq=seq)
        assert left in (before, target.query("SELECT count(*), max(v) FROM orders"))
    assert ended["code"] == 0
    assert statement > 8
    made.require_whole(n, seq=seq)
