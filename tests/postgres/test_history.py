"""OUT-05: a position is known by a commit that the slot gives again, so that a server put back is never read on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.postgres import server as servers
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_runs import change, dump, lay, require_equal, saved
from tests.postgres.test_cdc_slot import cluster as own_server
from tests.postgres.test_cdc_slot import orders, standing
from tests.postgres.test_failover import Cluster, begin_shop, cluster, code  # noqa: F401  # a fixture
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture

from dpone.errors import Gap, IdentityChanged
from dpone.model.position import Position
from dpone_postgres.pgoutput import lsn_number

pytestmark = pytest.mark.postgres


def idle(source: ChangeSource, rows: int = 1300) -> None:
    """WAL that no published table has a part in, more than a position stays for."""
    source.run("CREATE TABLE IF NOT EXISTS other (v text)")
    source.run(f"INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, {rows})")


def insert(source: ChangeSource, first: int, rows: int = 3) -> None:
    source.run(f"INSERT INTO orders SELECT i, 'row' FROM generate_series({first}, {first + rows - 1}) AS i")


class History:
    """What one reader has read and acknowledged."""

    position: Position | None = None

    def read(self, source: ChangeSource) -> list[int]:
        window, found = source.read(self.position, initial="snapshot")
        self.position = window.position
        return [row["id"] for row in found.get("orders", [])]

    def ack(self, source: ChangeSource) -> None:
        assert self.position is not None
        source.ack(self.position)


def version(source: ChangeSource) -> int:
    with source.server.connect() as db:
        return db.info.server_version


Step = Callable[[ChangeSource, History], list[int] | None]
SMALL = "--wal-segsize=1"  # megabytes: quick to copy


def acknowledge(source: ChangeSource, story: History) -> None:
    story.ack(source)


def snapshot(source: ChangeSource, story: History) -> list[int]:
    insert(source, 1)
    return story.read(source)


def changes(source: ChangeSource, story: History) -> list[int]:
    insert(source, 10)
    return story.read(source)


def still(source: ChangeSource, story: History) -> list[int]:
    idle(source)
    return story.read(source)


STORY: dict[str, Step] = {
    "slot made": lambda source, story: orders(source),
    "snapshot read": snapshot,
    "snapshot acknowledged": acknowledge,
    "changes read": changes,
    "changes acknowledged": acknowledge,
    "idle WAL read": still,
    "idle WAL acknowledged": acknowledge,
}


def told(cluster: Cluster, transport: str, copied: Sequence[str]) -> tuple[History, list[int]]:  # noqa: F811
    """The story, and the rows it read; a copy of the data after each step of ``copied``."""
    cluster.new("data", SMALL)
    story, seen = History(), list[int]()
    for name, step in STORY.items():
        with cluster.started("data") as source:
            if name == "slot made":
                source.server.run("CREATE SCHEMA shop")
            seen += step(evolve(source, transport=transport), story) or []
        if name in copied:
            cluster.copy("data", name.replace(" ", "_"))
    return story, seen


def advance(source: ChangeSource) -> None:
    """Someone else moves the slot as far as it goes."""
    source.run(f"SELECT pg_replication_slot_advance('{source.slot}', pg_current_wal_flush_lsn())")


def require_stop(source: ChangeSource, position: Position, why: object) -> None:
    """By a window and by an acknowledgement; the slot stays where it is."""
    before = source.confirmed()
    for _ in range(2):
        with pytest.raises((IdentityChanged, Gap)):
            source.read(position)
    if lsn_number(before) < lsn_number(position.value["lsn"]):
        with pytest.raises(IdentityChanged):
            source.ack(position)
    assert source.confirmed() == before, why


LASTING: dict[str, Callable[[ChangeSource], object]] = {
    "nothing": lambda source: None,
    "rows": lambda source: insert(source, 100),
    "unrelated": lambda source: idle(source, 6000),
    "related": lambda source: insert(source, 1000, 2000),
    "checkpoint": lambda source: source.run("CHECKPOINT", "SELECT pg_switch_wal()", "CHECKPOINT"),
    "restarted": lambda source: insert(source, 30000),
    "moved": advance,
    "restarted again": lambda source: insert(source, 40000, 6000),
}


@pytest.mark.parametrize(
    ("end", "transport", "copied"),
    [
        ("idle", "peek", [*STORY]),
        ("commit", "stream", ["changes acknowledged", "idle WAL acknowledged"]),
        ("snapshot", "peek", ["slot made", "idle WAL acknowledged"]),
    ],
)
def test_OUT_05_PG_17_a_cold_copy_put_back_is_a_stop_that_lasts(
    cluster: Cluster,  # noqa: F811
    end: str,
    transport: str,
    copied: Sequence[str],
) -> None:
    """Copied at any step, and put back when the stream has gone on by a commit, by idle WAL or by another snapshot:
    whatever the copy then writes, through checkpoints, restarts and a slot that someone else moves, it is not read."""
    story, _ = told(cluster, transport, copied)
    with cluster.started("data") as source:
        source = evolve(source, transport=transport)
        if end == "commit":
            insert(source, 20)
        elif end == "idle":
            idle(source)
        else:
            story.position = None
        story.read(source)
        story.ack(source)
        assert story.position is not None
        assert source.confirmed() == story.position.value["lsn"]
    for name in copied:
        require_lasting(cluster, name, story.position, transport)


def require_lasting(cluster: Cluster, name: str, position: Position, transport: str) -> None:  # noqa: F811
    running: Server | None = None
    try:
        for what, write in LASTING.items():
            if running is None:
                folder = cluster.folder / name.replace(" ", "_")
                running = servers.start(cluster.programs, folder, port=str(cluster.port))
            source = ChangeSource(running, "shop", transport)
            write(source)
            require_stop(source, position, (name, what))
            if what in ("checkpoint", "moved"):
                servers.stop(running, "immediate" if what == "checkpoint" else "fast")
                running = None
    finally:
        if running is not None:
            servers.stop(running)


@pytest.mark.parametrize("times", ["off", "on"])
def test_OUT_05_a_slot_of_a_copy_that_is_moved_to_the_very_position_ends_no_stop(
    cluster: Cluster,  # noqa: F811
    times: str,
) -> None:
    """It gives no commit there that proves the history; the number of the transaction does, or its time."""
    cluster.new("data", SMALL)
    with cluster.started("data", track_commit_timestamp=times) as source:
        source.server.run("CREATE SCHEMA shop")
        position = standing(source)
    cluster.copy("data", "copy")
    with cluster.started("data", track_commit_timestamp=times) as source:
        for n in range(10, 20):
            insert(source, 10 * n, 1)
        window, _ = source.read(position)
        source.ack(window.position)
        assert source.read(window.position)[0].caught_up
        position = window.position
    with cluster.started("copy", track_commit_timestamp=times) as source:
        idle(source, 6000)
        if times == "on":
            for n in range(10, 40):
                insert(source, 10 * n, 1)
        with pytest.raises(IdentityChanged):
            source.read(position)
        source.run(f"SELECT pg_replication_slot_advance('{source.slot}', '{position.value['lsn']}')")
        assert source.confirmed() == position.value["lsn"]
        for _ in range(2):
            with pytest.raises(IdentityChanged, match="is a different one" if times == "on" else "is not known"):
                source.read(position)


def test_OUT_05_a_copy_that_has_all_that_was_read_is_read_on(cluster: Cluster) -> None:  # noqa: F811
    """Put back after the position was reached, acknowledged or not, nothing was missed: no false stop."""
    copied = ["idle WAL read", "idle WAL acknowledged"]
    story, seen = told(cluster, "peek", copied)
    assert seen == [1, 2, 3, 10, 11, 12]
    for name in copied:
        with cluster.started(name.replace(" ", "_")) as source:
            insert(source, 20)
            window, found = source.read(story.position)
            assert [row["id"] for row in found["orders"]] == [20, 21, 22], name
            source.ack(window.position)
            assert source.confirmed() == window.position.value["lsn"]


def test_OUT_05_the_acknowledgement_looks_for_the_commit_on_a_server_that_was_started_since(
    cluster: Cluster,  # noqa: F811
) -> None:
    """Put back between window and acknowledgement, and grown past the position: the slot does not move."""
    cluster.new("data", SMALL)
    with cluster.started("data") as source:
        source.server.run("CREATE SCHEMA shop")
        position = standing(source)
    cluster.copy("data", "copy")
    with cluster.started("data") as source:
        insert(source, 10)
        reading = source.reader()
        reader = reading.__enter__()
        window = reader.window(position, None)
    with cluster.started("copy") as source:
        insert(source, 100, 1000)
        reader.close()
        before = source.confirmed()
        with pytest.raises(IdentityChanged, match="restored to an earlier state"):
            reader.ack(window.position)
        assert source.confirmed() == before
        with pytest.raises(IdentityChanged, match="restored to an earlier state"):
            source.read(window.position)
    reading.__exit__(None, None, None)


@pytest.mark.parametrize("step", ["window_fixed", "commit_started", "committed", "state_saved"])
def test_OUT_05_a_copy_from_before_a_killed_run_is_a_stop_in_whole_runs(
    run: Run,  # noqa: F811
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
    step: str,
) -> None:
    """A run is killed at a step, the next one ends it, and the data of before is put back: exit code 3, state and
    target as they were, on every run, while the server goes on; loading again with --full-refresh is the way out."""
    cluster.new("data", SMALL)
    with cluster.started("data") as source:
        begin_shop(source)
        pipeline = lay(tmp_path, source, "sqlite")
        assert code(run, pipeline) == 0
    cluster.copy("data", "copy")
    with cluster.started("data") as source:
        change(source)
        idle(source)
        assert run(pipeline, step=step)["code"] == -9
        for _ in range(2):
            assert code(run, pipeline) == 0
        require_equal(source, tmp_path, "sqlite", step)
    with cluster.started("copy") as source:
        before = dump(tmp_path)
        for n in range(1, 4):
            change(source, n)
            idle(source)
            done = run(pipeline)
            assert done["code"] == 3, done["report"]["streams"][0]["error"]
            assert dump(tmp_path) == before
        assert code(run, pipeline, options={"full_refresh": True}) == 0
        require_equal(source, tmp_path, "sqlite", step)
        change(source, 4)
        assert code(run, pipeline) == 0
        require_equal(source, tmp_path, "sqlite", step)


def test_PG_17_a_crash_of_the_server_is_not_taken_for_a_restore(cluster: Cluster) -> None:  # noqa: F811
    """After an immediate stop a slot stands further back; whatever was acknowledged last, the stream goes on."""
    cluster.new("data", SMALL)
    story = History()
    steps: list[tuple[Callable[[ChangeSource], object], list[int]]] = [
        (lambda source: None, [1]),
        (lambda source: insert(source, 10), [10, 11, 12]),
        (lambda source: idle(source), []),
        (lambda source: idle(source), []),
        (lambda source: insert(source, 20), [20, 21, 22]),
    ]
    with cluster.started("data") as source:
        source.server.run("CREATE SCHEMA shop")
        orders(source)
        insert(source, 1, 1)
    for step, found in steps:
        server = servers.start(cluster.programs, cluster.folder / "data", port=str(cluster.port))
        try:
            source = ChangeSource(server, "shop")
            step(source)
            assert story.read(source) == found
            story.ack(source)
        finally:
            servers.stop(server, "immediate")
    with cluster.started("data") as source:
        assert story.position is not None
        assert lsn_number(source.confirmed()) < lsn_number(story.position.value["lsn"])
        insert(source, 30)
        assert story.read(source) == [30, 31, 32]
        story.ack(source)
        assert source.confirmed() == story.position.value["lsn"]


def test_PG_13_an_idle_stream_moves_by_a_marker_and_only_for_much_WAL(source: ChangeSource) -> None:
    """A little WAL moves nothing; 1 MB moves position and slot to one commit of our own, and then all is still."""
    position = standing(source)
    source.run("CREATE TABLE other (v text)")
    for _ in range(3):
        source.run("INSERT INTO other VALUES ('x')")
        assert source.read(position)[0].position.dumps() == position.dumps()
    idle(source)
    window, found = source.read(position)
    assert found == {}
    assert lsn_number(window.position.value["lsn"]) > lsn_number(position.value["lsn"]) + 1_000_000
    source.ack(window.position)
    assert source.confirmed() == window.position.value["lsn"]
    for _ in range(3):
        again, _ = source.read(window.position)
        assert again.position.dumps() == window.position.dumps()


def test_a_position_of_an_earlier_version_is_read_on_and_becomes_exact(source: ChangeSource) -> None:
    """One that ends in idle WAL, where no commit is, also with a slot behind it; the next window knows its commit."""
    position = standing(source)
    source.run("CREATE TABLE other (v text)", "INSERT INTO other VALUES ('x')")
    [(border,)] = source.query("SELECT pg_current_wal_flush_lsn()::text")
    value = {name: of for name, of in position.value.items() if name != "exact"}
    old = evolve(position, value={**value, "lsn": border})
    bare = evolve(position, value={"version": 1, "lsn": border})
    for one in (old, bare):
        window, found = source.read(one)
        assert found == {}
        assert window.position.value["exact"]
        assert lsn_number(window.position.value["lsn"]) > lsn_number(border)
    source.run("INSERT INTO orders VALUES (7)")
    source.ack(old)
    assert [row["id"] for row in source.read(old)[1]["orders"]] == [7]


def test_a_reader_that_may_not_write_markers_says_so_and_goes_on(postgres: Server) -> None:
    """Without EXECUTE on pg_logical_emit_message, rows arrive, an idle slot stays where it is and the proof says why;
    'dpone check' names the grant, and with it the slot moves."""
    with own_server(postgres) as server:
        server.run(
            "CREATE SCHEMA shop", "CREATE ROLE reading LOGIN REPLICATION", "GRANT USAGE ON SCHEMA shop TO reading"
        )
        source = ChangeSource(server, "shop")
        orders(source)
        server.run("GRANT SELECT ON shop.orders TO reading")
        source = evolve(source, server=evolve(server, user="reading"))
        signature = server.query(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'pg_logical_emit_message'"
        )
        for (function,) in signature:
            server.run(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        shop = ChangeSource(server, "shop")
        shop.run("INSERT INTO orders VALUES (1)")
        window, found = source.read(initial="snapshot")
        assert [row["id"] for row in found["orders"]] == [1]
        source.ack(window.position)
        for n in (2, 3):
            shop.run(f"INSERT INTO orders VALUES ({n})")
            window, found = source.read(window.position)
            assert [row["id"] for row in found["orders"]] == [n]
            source.ack(window.position)
        idle(shop)
        still, _ = source.read(window.position)
        assert still.position.dumps() == window.position.dumps()
        assert "no marker could be written" in still.proof
        with source.reader() as reader:
            [told] = [f for f in reader.check() if f.name == "marker"]
        assert told.ok is None
        server.run(*told.todo.split("; ")[:1])
        with source.reader() as reader:
            assert [f.ok for f in reader.check() if f.name == "marker"] == [True]
        moved, _ = source.read(window.position)
        assert lsn_number(moved.position.value["lsn"]) > lsn_number(window.position.value["lsn"])


@pytest.mark.releases
def test_a_stream_of_a_standby_writes_no_marker(cluster: Cluster) -> None:  # noqa: F811
    """There is no writing there: rows arrive, an idle slot stays, and a heartbeat of the primary moves it on."""
    cluster.new("data", SMALL)
    with cluster.started("data") as primary:
        if version(primary) < 160000:
            pytest.skip("logical decoding on a standby is of PostgreSQL 16")
        primary.server.run("CREATE SCHEMA shop")
        primary.run("CREATE TABLE orders (id int PRIMARY KEY, item text)", "CREATE PUBLICATION shop FOR TABLE orders")
        cluster.standby("standby")
        server = servers.start(cluster.programs, cluster.folder / "standby", hot_standby_feedback="on")
        try:
            source = ChangeSource(server, "shop")
            making = threading.Thread(target=source.make_slot)
            making.start()
            while making.is_alive():
                primary.run("SELECT pg_log_standby_snapshot()")
                making.join(0.2)
            primary.run("INSERT INTO orders VALUES (1)")
            window, found = replayed(primary, source, None)
            assert [row["id"] for row in found["orders"]] == [1]
            source.ack(window.position)
            idle(primary)
            still, _ = replayed(primary, source, window.position)
            assert still.position.dumps() == window.position.dumps()
            assert "no marker could be written" in still.proof
            with source.reader() as reader:
                [told] = [f for f in reader.check() if f.name == "marker"]
            assert told.todo.startswith("run this on the primary every minute: SELECT ")
            primary.run(told.todo.partition(": ")[2])
            moved, _ = replayed(primary, source, window.position)
            assert lsn_number(moved.position.value["lsn"]) > lsn_number(window.position.value["lsn"])
            source.ack(moved.position)
            assert source.confirmed() == moved.position.value["lsn"]
        finally:
            servers.stop(server)


def replayed(primary: ChangeSource, source: ChangeSource, position: Position | None) -> Any:
    """A window of the standby, once it has all that the primary has written."""
    [(end,)] = primary.query("SELECT pg_current_wal_flush_lsn()::text")
    while source.query(f"SELECT pg_last_wal_replay_lsn() < '{end}'") == [(True,)]:
        pass
    return source.read(position)


def test_messages_of_others_are_no_changes(source: ChangeSource) -> None:
    """Transactional or not, among rows, alone, and in number: every row comes once, and nothing else does."""
    orders(source)
    emit = "SELECT pg_logical_emit_message({}, 'other', repeat('m', {}))"
    source.run(emit.format("false", 10), emit.format("true", 0))
    for n in range(1, 4):
        source.run(
            f"BEGIN; INSERT INTO orders VALUES ({n}); {emit.format('true', 5000)}; {emit.format('false', 5000)}; "
            f"INSERT INTO orders VALUES ({n + 10}); COMMIT",
            emit.format("false", 3),
        )
    window, found = source.read()
    assert [row["id"] for row in found["orders"]] == [1, 11, 2, 12, 3, 13]
    assert [row["__dpone__ordinal"] for row in found["orders"]] == [1, 2] * 3
    source.ack(window.position)
    source.run(emit.format("false", 3))
    assert source.read(window.position)[1] == {}


def test_the_position_saved_is_exact(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """After snapshot and stream, state holds a position that a server with another history cannot answer for."""
    from tests.postgres.test_cdc_runs import begin

    begin(source)
    pipeline = lay(tmp_path, source, "sqlite")
    assert code(run, pipeline) == 0
    value = saved(tmp_path)["value"]
    if version(source) >= 140000:
        assert value["exact"]
        assert value["commit"].startswith("message ")
    change(source)
    assert code(run, pipeline) == 0
    assert saved(tmp_path)["value"]["exact"]
