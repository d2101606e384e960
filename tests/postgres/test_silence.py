"""A server, or the way to it, that keeps its connections open and says nothing, in each phase of a run and each role.

The run gives up within its limits, as a failure that may be tried again, and says who was silent; SIGTERM ends it while
it waits. Once the way is open again, the next run loads every row once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import evolve
from psycopg import capabilities
from tests.patience import PATIENCE, until
from tests.postgres.hole import Hole, hole
from tests.postgres.proxy import COMMIT
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.target import Target
from tests.postgres.test_cdc_runs import begin, change, lay, require_equal
from tests.postgres.test_faults import Bench, bench

from dpone.config.reader import load_pipeline
from dpone.engine.run import Run
from dpone.errors import SourceError
from dpone.model.report import StreamReport
from dpone.model.secret import Secret
from dpone_postgres import waiting
from dpone_postgres.connect import connect, parameters
from dpone_postgres.waiting import Peer

pytestmark = pytest.mark.postgres

NEW = b""  # a connection
# Phase of a run -> the words that the last of which goes unanswered, and how.
SOURCE: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "connect": ([NEW], {}),
    "session": ([b"set_config"], {}),
    "snapshot": ([b"BEGIN ISOLATION"], {"request": True}),
    "catalogue": ([b"c.relkind IN"], {}),
    "window": ([b"pg_control_system"], {"request": True}),
    "copy out": ([b"COPY ("], {}),
    "rows": ([b"COPY ("], {"answer": 4000}),
}
SINK: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "connect": ([NEW], {}),
    "journal": ([b"__dpone__loads"], {"request": True}),
    "staging": ([b"CREATE "], {}),
    "copy in": ([b"FROM STDIN"], {}),
    "rows": ([b"FROM STDIN"], {"rows": 4000}),
    "apply": ([b"ON CONFLICT"], {}),
    "commit": ([b"ON CONFLICT", COMMIT], {}),
    "answer to the commit": ([b"ON CONFLICT", COMMIT], {"request": True}),
}
STATE: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "connect": ([NEW], {}),
    "lease": ([b"__dpone__locks"], {"request": True}),
    "load": ([b'a."saved_at" FROM'], {}),
    "save": ([b"__dpone__state_history", COMMIT], {"request": True}),
    "release": ([b"__dpone__state_history", COMMIT, b"DELETE FROM"], {}),
}
PHASES = [
    pytest.param(role, *how, id=f"{role}: {phase}")
    for role, phases in (("source", SOURCE), ("sink", SINK), ("state", STATE))
    for phase, how in phases.items()
]
PEEK = (b"pg_logical_slot_peek_binary_changes",)
CHANGES = [
    pytest.param({}, [b"pg_replication_slots"], {}, id="slot"),
    pytest.param({}, PEEK, {"answer": 3000}, id="peek"),
    pytest.param({"transport": "stream"}, [b"START_REPLICATION"], {}, id="stream begins"),
    pytest.param({"transport": "stream"}, [b"START_REPLICATION"], {"answer": 3000}, id="stream"),
    pytest.param({}, [b"pg_replication_slot_advance"], {"request": True}, id="acknowledge"),
]


@pytest.fixture
def way(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hole]:
    """Limits of time are short only for what is waited for in vain: on a busy machine nothing else is given up."""

    def limited(given: Mapping[str, str]) -> Mapping[str, str]:
        vain = made.words == [NEW] or (made.silent.is_set() and not made.only)
        return {**given, "connect_timeout": "2" if vain and given.get("port") == str(made.port) else "60"}

    def asked(peer: Peer) -> waiting.Answer:
        if not made.silent.is_set():
            return "at work"
        return real(evolve(peer, limit=PATIENCE) if made.only else peer)

    real = waiting._asked
    with hole((postgres.host, postgres.port)) as made:
        monkeypatch.setattr("dpone_postgres.connect._in_haste", limited)
        monkeypatch.setattr(waiting, "_asked", asked)
        yield made


def through(way: Hole, server: Server) -> str:
    """For processes that are interrupted: the limit of a connection is far."""
    url = server.at(way.port)
    return f"{url}{'&' if '?' in url else '?'}connect_timeout=600"


def laid(
    folder: Path, target: Target, way: Hole, role: str, silence: float = 1, retries: int = 0, name: str = "merge"
) -> Bench:
    """Rows go through Arrow, those of one role through ``way``."""
    made = bench(folder, target, name, arrow=True)
    data = yaml.safe_load(made.pipeline.read_text())
    data[role]["connection"] = through(way, target.server)
    data["runtime"]["retries"] = retries
    for each in ("source", "sink", "state"):
        data[each]["options"] = {**data[each].get("options", {}), "silence_timeout": silence}
    made.pipeline.write_text(yaml.safe_dump(data))
    return made


def run_once(pipeline: Path) -> StreamReport:
    report = Run(load_pipeline(pipeline)).execute()
    return report.streams[0]


def require_done(pipeline: Path) -> StreamReport:
    stream = run_once(pipeline)
    assert stream.error is None, stream.error
    return stream


def widen(made: Bench) -> None:
    made.target.run("INSERT INTO source SELECT i, 1, md5(i::text), '2024-01-01Z' FROM generate_series(1000, 1600) AS i")


@pytest.mark.parametrize(("role", "words", "how"), PHASES)
def test_OUT_11_a_silent_server_is_given_up(
    tmp_path: Path, target: Target, way: Hole, role: str, words: list[bytes], how: dict[str, Any]
) -> None:
    """Whatever the run waits for: it ends by itself, as a failure that may be tried again, with a line that names the
    place and what was waited for. The next run loads every row once."""
    made = laid(tmp_path, target, way, role)
    require_done(made.pipeline)
    made.change(1)
    widen(made)
    way.arm(*words, **how)
    stream = run_once(made.pipeline)
    assert way.silent.wait(PATIENCE), "nothing was silent"
    if stream.error is None:  # the lease of a run that is done is left to its end
        assert role == "state"
        assert words[-1] == b"DELETE FROM"
    else:
        assert (stream.error.category, stream.error.retryable) == ("transient", True), stream.error
        assert "timeout" in stream.error.message
        assert f"127.0.0.1:{way.port}" in stream.error.message
        waited = ("waited for the answer to", "connect to", "connection timeout expired")
        assert any(words in stream.error.message for words in waited)
    way.heal()
    made.change(2)
    require_done(made.pipeline)
    made.require_whole(2, seq=None)


def test_OUT_11_the_journal_is_asked_when_the_answer_to_a_commit_is_lost(
    tmp_path: Path, target: Target, way: Hole
) -> None:
    """Only the connection of the commit is silent: the same run finds over a new one that the load is done."""
    made = laid(tmp_path, target, way, "sink")
    require_done(made.pipeline)
    made.change(1)
    way.arm(b"ON CONFLICT", COMMIT, request=True, only=True)
    stream = require_done(made.pipeline)
    assert way.silent.is_set(), "nothing was silent"
    assert (stream.status, stream.attempts) == ("loaded", 1)
    made.require_whole(1, seq=2, swept=False)
    made.change(2)
    require_done(made.pipeline)
    made.require_whole(2, seq=3)


@pytest.mark.parametrize("words", [[b"FROM STDIN"], [b"ON CONFLICT"], [b"ON CONFLICT", COMMIT]], ids=str)
def test_OUT_11_a_session_that_was_given_up_does_not_lock_out_the_next_attempt(
    tmp_path: Path, target: Target, way: Hole, words: list[bytes]
) -> None:
    """The server does not hear that its connection was closed, and goes on holding what the transaction has locked: it
    is told to end it, and the same run loads."""
    made = laid(tmp_path, target, way, "sink", retries=1)
    require_done(made.pipeline)
    made.change(1)
    way.arm(*words, only=True)
    stream = require_done(made.pipeline)
    assert (stream.status, stream.attempts) == ("loaded", 2)
    made.require_whole(1, seq=2)


@pytest.mark.usefixtures("answering")
def test_OUT_11_a_server_that_is_busy_is_waited_for(postgres: Server) -> None:
    """A statement that takes many times the silence that is allowed ends as ever: the server says that it works."""
    with closing(connect(parameters(Secret(postgres.url)), SourceError, silence_timeout=0.3)) as db:
        assert db.execute("SELECT pg_sleep(3), 7").fetchall() == [("", 7)]


@pytest.mark.usefixtures("answering")
def test_OUT_11_a_server_that_takes_no_more_connections_is_waited_for(postgres: Server) -> None:
    """A refusal is an answer, too; it says nothing of the statement, which is not given up for it."""
    name = f"lonely_{os.getpid()}"
    postgres.run(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    try:
        given = parameters(Secret(postgres.url)) | {"user": name}
        with closing(connect(given, SourceError, silence_timeout=0.3)) as db:
            assert db.execute("SELECT pg_sleep(2), 7").fetchall() == [("", 7)]
    finally:
        postgres.run(f"DROP ROLE {name}")


@pytest.mark.usefixtures("answering")
def test_OUT_11_a_balancer_that_leads_elsewhere_is_no_proof(postgres: Server) -> None:
    """A server that knows nothing of the session because it is another one does not end a statement."""
    with closing(connect(parameters(Secret(postgres.url)), SourceError, silence_timeout=0.3)) as db:
        assert db.peer is not None
        db.peer = evolve(db.peer, started="another", pid=1)
        assert db.execute("SELECT pg_sleep(2), 7").fetchall() == [("", 7)]


@pytest.mark.usefixtures("answering")
def test_OUT_11_a_reader_that_takes_its_time_is_no_silence(postgres: Server) -> None:
    """Rows that wait for us, longer than the server may be silent, are read on."""
    from dpone_postgres.transfer import copy_out

    with closing(connect(parameters(Secret(postgres.url)), SourceError, silence_timeout=0.2)) as db:
        rows = copy_out(db, "SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        next(rows)
        time.sleep(1.5)
        assert sum(1 for _ in rows) == 19_999


@pytest.mark.parametrize(("options", "words", "how"), CHANGES)
def test_PG_23_a_silent_stream_is_given_up(
    tmp_path: Path,
    source: ChangeSource,
    way: Hole,
    options: dict[str, Any],
    words: list[bytes],
    how: dict[str, Any],
) -> None:
    """By either transport, and at the acknowledgement: the run fails as one that may be tried again, and the next one
    brings every change once."""
    pipeline = streaming(tmp_path, source, way, silence=1, **options)
    way.arm(*words, **how)
    stream = run_once(pipeline)
    assert way.silent.wait(PATIENCE), "nothing was silent"
    assert stream.error is not None
    assert (stream.error.category, stream.error.retryable) == ("transient", True), stream.error
    assert f"127.0.0.1:{way.port}" in stream.error.message
    assert "timeout" in stream.error.message
    way.heal()
    require_done(pipeline)
    require_equal(source, tmp_path, "postgres", words)


def test_PG_23_a_stream_that_stays_away_half_way_is_given_up(tmp_path: Path, source: ChangeSource, way: Hole) -> None:
    """Only the connection of the stream is silent, and the server still has much to send: it says that it waits."""
    pipeline = streaming(tmp_path, source, way, silence=1, transport="stream")
    source.run("INSERT INTO orders SELECT i, i, repeat(md5(i::text), 300) FROM generate_series(2000, 4000) AS i")
    way.arm(b"START_REPLICATION", answer=3000, only=True)
    stream = run_once(pipeline)
    assert stream.error is not None
    assert "is not processing the request" in stream.error.message
    active = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{source.slot}' AND active"
    until(lambda: not source.query(active), "the session was told to end, and does not")
    require_done(pipeline)
    require_equal(source, tmp_path, "postgres", "half way")


def streaming(folder: Path, source: ChangeSource, way: Hole, silence: float, **options: Any) -> Path:
    """One window is loaded, and changes wait."""
    pipeline = lay(folder, source, "postgres")
    data = yaml.safe_load(pipeline.read_text())
    data["source"]["connection"] = through(way, source.server)
    data["source"]["options"] |= {"silence_timeout": silence, "transport": "peek", **options}
    data["runtime"] = {"retries": 0}
    pipeline.write_text(yaml.safe_dump(data))
    begin(source)
    require_done(pipeline)
    change(source)
    source.run("INSERT INTO orders SELECT i, i, md5(i::text) FROM generate_series(1000, 1500) AS i")
    return pipeline


# -- signals ----------------------------------------------------------------------------------------------------


def interrupted(folder: Path, way: Hole, *args: str, name: str = "TERM") -> tuple[int, str, str]:
    """``dpone ARGS``, with a signal once the way is silent."""
    command = [sys.executable, "-m", "dpone", *args]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not way.silent.wait(0.5):
            assert process.poll() is None, process.communicate()
        process.send_signal(getattr(signal, f"SIG{name}"))
        try:
            out, err = process.communicate(timeout=PATIENCE)  # what it waits for would take longer
        finally:
            process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize(("role", "words", "how"), PHASES)
def test_OUT_11_a_signal_ends_a_run_whose_server_is_silent(
    tmp_path: Path, target: Target, way: Hole, role: str, words: list[bytes], how: dict[str, Any]
) -> None:
    """SIGTERM, whatever the run waits for: exit 130 with a whole report, and the next run loads every row once."""
    made = laid(tmp_path, target, way, role, silence=600)
    require_done(made.pipeline)
    made.change(1)
    widen(made)
    way.arm(*words, **how)
    code, out, err = interrupted(
        tmp_path, way, "run", made.pipeline.name, "-q", "--format", "json", "--report", "report.json"
    )
    assert code == 130, err
    assert "Traceback" not in err
    assert json.loads(out)["status"] == "interrupted"
    # pending: the run log asks the state before the stream begins
    assert json.loads(out)["streams"][0]["status"] in ("pending", "interrupted", "loaded")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(out)
    way.heal()
    made.change(2)
    require_done(made.pipeline)
    made.require_whole(2, seq=None)


@pytest.mark.parametrize(("options", "words", "how"), CHANGES)
def test_OUT_11_a_signal_ends_a_silent_stream(
    tmp_path: Path,
    source: ChangeSource,
    way: Hole,
    options: dict[str, Any],
    words: list[bytes],
    how: dict[str, Any],
) -> None:
    """The same of a change stream, by either transport; Ctrl-C as well as SIGTERM."""
    pipeline = streaming(tmp_path, source, way, silence=600, **options)
    way.arm(*words, **how)
    code, _, err = interrupted(tmp_path, way, "run", pipeline.name, "-q", name="INT")
    assert code == 130, err
    assert "Traceback" not in err
    way.heal()
    require_done(pipeline)
    require_equal(source, tmp_path, "postgres", words)


@pytest.mark.parametrize(
    "command",
    [
        ("check", "--connect"), ("doctor",), ("plan",), ("state", "show"), ("cdc", "create"), ("cdc", "lag"),
        ("cdc", "drop", "--yes"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_OUT_11_a_signal_ends_every_command(
    tmp_path: Path, source: ChangeSource, way: Hole, command: tuple[str, ...]
) -> None:
    """Commands that ask a server which says nothing end with 130, in one line."""
    pipeline = streaming(tmp_path, source, way, silence=600)
    data = yaml.safe_load(pipeline.read_text())
    data["sink"]["connection"] = data["source"]["connection"]
    pipeline.write_text(yaml.safe_dump(data))
    way.arm(b"pg_catalog.")
    code, _, err = interrupted(tmp_path, way, *command, pipeline.name)
    assert code == 130, err
    assert err.splitlines() == ["error: interrupted"]


def test_OUT_11_a_signal_ends_parts_that_are_read_at_once(tmp_path: Path, target: Target, way: Hole) -> None:
    """Threads that wait for a silent server do not keep the run."""
    made = laid(tmp_path, target, way, "source", silence=600, name="full_refresh")
    require_done(made.pipeline)
    made.change(1)
    widen(made)
    data = yaml.safe_load(made.pipeline.read_text())
    data["runtime"] |= {"partitions": 4, "workers": 2}
    made.pipeline.write_text(yaml.safe_dump(data))
    way.arm(b"COPY (", answer=500)
    code, _, err = interrupted(tmp_path, way, "run", made.pipeline.name, "-q")
    assert code == 130, err
    way.heal()
    require_done(made.pipeline)
    made.require_whole(1, seq=None)


@pytest.mark.skipif(not capabilities.has_cancel_safe(), reason="libpq before 17 cancels with a wait without limit")
def test_OUT_11_a_signal_lets_the_server_end_the_statement(tmp_path: Path, target: Target, way: Hole) -> None:
    """A server that hears of it does not go on for an hour: the statement is cancelled, and the locks are free."""
    made = laid(tmp_path, target, way, "sink", silence=600)
    require_done(made.pipeline)
    made.change(1)
    target.run(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    asleep = f"SELECT 1 FROM pg_stat_activity WHERE query LIKE '%{target.schema}%' AND wait_event = 'PgSleep'"
    command = [sys.executable, "-m", "dpone", "run", made.pipeline.name, "-q"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while not target.query(asleep):
            assert process.poll() is None, process.communicate()
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    until(lambda: not target.query(asleep), "the statement goes on")
    target.run("DROP TRIGGER slow ON orders")
    require_done(made.pipeline)
    made.require_whole(1, seq=None)
