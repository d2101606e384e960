"""The PostgreSQL state backend: compare and set, history, and one runner per key."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from tests.postgres.proxy import proxy
from tests.postgres.target import Target
from tests.sqlite.test_sqlite_state import (  # noqa: F401  # the rules of every state backend, with this module's state
    test_a_value_is_saved_and_counted,
    test_delete_forgets_the_value_and_counts_on,
    test_ST_01_a_save_over_another_version_is_refused,
    test_ST_02_an_expired_lease_is_taken_over,
    test_the_value_must_be_json,
)

from dpone.errors import Busy, Conflict, StateError
from dpone.model.pipeline import StateSpec
from dpone.model.secret import Secret
from dpone.sql.dialect import transaction
from dpone_postgres.config import PostgresStateOptions
from dpone_postgres.state import PostgresState


@pytest.fixture
def state(target: Target) -> PostgresState:
    return make(target)


def make(target: Target, url: str = "") -> PostgresState:
    return PostgresState(
        StateSpec("postgres", Secret(url or target.server.url), options=PostgresStateOptions(schema=target.schema))
    )


def test_of_many_savers_one_wins(target: Target) -> None:
    """Eight runners that make the tables and save over the same version at once: one save, seven conflicts."""
    barrier = threading.Barrier(8)

    def save(n: int) -> str:
        barrier.wait()
        try:
            make(target).save("k", {"n": n}, 0)
            return "saved"
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(save, range(8))) == ["conflict"] * 7 + ["saved"]


def test_history_keeps_the_last_fifty(state: PostgresState) -> None:
    """Newest first, fifty at most, those of other keys apart."""
    for n in range(53):
        state.save("k", {"n": n}, n)
    assert [v.value["n"] for v in state.history("k", 3)] == [52, 51, 50]
    assert len(state.history("k", 1000)) == 50
    assert state.history("other") == []


def test_ST_02_a_lock_has_one_holder(target: Target, state: PostgresState) -> None:
    """While a lease lives, another runner is refused and told who holds it; afterwards it gets the lock."""
    with state.lock("k", 60):
        with pytest.raises(Busy, match=f"process {os.getpid()} on "), make(target).lock("k", 60):
            pass
        with state.lock("other", 60):
            pass
    with make(target).lock("k", 60):
        pass


def test_OUT_12_a_server_that_was_away_at_the_release_locks_nobody_out(target: Target) -> None:
    """The server refuses connections when the run ends, so that the lease stays in the table: this process takes it
    over once the server is back, and then has it alone."""
    upstream = (target.server.host, target.server.port)
    with proxy(upstream) as way, make(target, target.server.at(way.port)).lock("k", 3600) as lost:
        way._listener.shutdown(socket.SHUT_RDWR)  # from here on connections are refused
    assert target.query(f'SELECT owner FROM "{target.schema}"."__dpone__locks"') == [(lost.owner,)]
    with make(target).lock("k", 3600), pytest.raises(Busy), make(target).lock("k", 60):
        pass


def test_the_clock_goes_on_within_a_transaction(state: PostgresState) -> None:
    """Whoever has waited for a lock there is not told the time at which it began to wait."""
    with closing(state.database()) as db, transaction(db, "x"):
        before = state.now(db)
        db.rows("SELECT 1 FROM pg_sleep(0.01)")
        assert state.now(db) > before


def test_ST_02_renewal_keeps_the_lease(target: Target, state: PostgresState) -> None:
    """A lease counts from its last renewal: one that was about to end has its whole time again."""
    with state.lock("k", 3600) as lease:
        for _ in range(2):
            target.run("UPDATE __dpone__locks SET expires = now() + interval '1 ms'")
            lease.renew()
            [(left,)] = target.query("SELECT extract(epoch FROM expires - now()) FROM __dpone__locks")
            assert 3000 < left <= 3600
        with pytest.raises(Busy), make(target).lock("k", 60):
            pass


def test_ST_02_the_lock_of_a_dead_process_is_taken_over_at_once(target: Target, state: PostgresState) -> None:
    """Killed with its lease still running: the next runner on the same machine does not wait for it."""
    code = (
        "import os, sys\nfrom dpone_postgres.config import PostgresStateOptions\n"
        "from dpone_postgres.state import PostgresState\nfrom dpone.model.pipeline import StateSpec\n"
        "from dpone.model.secret import Secret\nspec = StateSpec('postgres', Secret(sys.argv[1]), "
        "options=PostgresStateOptions(schema=sys.argv[2]))\n"
        "held = PostgresState(spec).lock('k', 3600)\nheld.__enter__()\nos._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, target.server.url, target.schema], check=False)
    assert done.returncode == 9
    assert target.query("SELECT count(*) FROM __dpone__locks") == [(1,)]
    with state.lock("k", 60):
        pass


def test_looking_creates_nothing(target: Target, state: PostgresState) -> None:
    """check, load and history leave no table behind."""
    assert [f.ok for f in state.check()] == [True]
    assert state.load("k") is None
    assert state.history("k") == []
    assert target.tables() == set()


_BEFORE = {  # as versions before SqlState made them
    "__dpone__state": "key text PRIMARY KEY, version bigint NOT NULL, value text, saved_at timestamptz NOT NULL",
    "__dpone__state_history": "key text NOT NULL, version bigint NOT NULL, value text NOT NULL, "
    "saved_at timestamptz NOT NULL, PRIMARY KEY (key, version)",
    "__dpone__locks": "key text PRIMARY KEY, owner text NOT NULL, host text NOT NULL, machine text NOT NULL, "
    "pid bigint NOT NULL, started text NOT NULL, expires timestamptz NOT NULL",
}
_COLUMNS = (
    "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = current_schema "
    "AND table_name = '{}' ORDER BY ordinal_position"
)


def test_ST_03_a_state_of_earlier_versions_goes_on(target: Target, state: PostgresState) -> None:
    """Its values and leases count; a new one has the same columns."""
    state.save("k", {}, 0)
    made = {table: target.query(_COLUMNS.format(table)) for table in _BEFORE}
    for table, columns in _BEFORE.items():
        target.run(f"DROP TABLE {table}", f"CREATE TABLE {table} ({columns})")
    assert {table: target.query(_COLUMNS.format(table)) for table in _BEFORE} == made
    target.run(
        "INSERT INTO __dpone__state VALUES ('k', 7, '{\"a\": 1}', '2026-01-31 12:00:00.000005+00')",
        "INSERT INTO __dpone__locks VALUES ('k', 'old', 'elsewhere', 'another', 1, '1', now() + interval '1 hour')",
    )
    found = state.load("k")
    assert found is not None
    assert (found.version, found.value, found.saved_at.microsecond) == (7, {"a": 1}, 5)
    with pytest.raises(Busy, match="process 1 on elsewhere"), state.lock("k", 60):
        pass
    assert state.save("k", {"a": 2}, 7) == 8


def test_a_damaged_value_is_one_clear_line(target: Target, state: PostgresState) -> None:
    """A value that is no JSON is named with its version and a way out."""
    state.save("k", {}, 0)
    target.run("UPDATE __dpone__state SET value = '{'")
    with pytest.raises(StateError, match="version 1 is not JSON"):
        state.load("k")


def test_a_schema_that_is_gone_is_not_a_state_that_was_never_saved(target: Target, state: PostgresState) -> None:
    """A schema that is missing, or was renamed, is an error that says how to make it; one without tables has no
    state."""
    assert (state.load("k"), state.history("k")) == (None, [])
    state.save("k", {"a": 1}, 0)
    target.run(f"ALTER SCHEMA {target.schema} RENAME TO {target.schema}_aside")
    try:
        for call in (state.load, state.history):
            with pytest.raises(
                StateError, match=f'schema {target.schema} does not exist; CREATE SCHEMA "{target.schema}";'
            ):
                call("k")
    finally:
        target.run(f"ALTER SCHEMA {target.schema}_aside RENAME TO {target.schema}")
    found = state.load("k")
    assert found is not None
    assert found.value == {"a": 1}


def test_a_state_out_of_reach(target: Target) -> None:
    """A server that is down is a finding of check and a transient error of load."""
    state = make(target, "postgres://postgres@127.0.0.1:1/x")
    assert [f.ok for f in state.check()] == [False]
    with pytest.raises(StateError) as error:
        state.load("k")
    assert error.value.category is not None
    assert error.value.category.value == "transient"
