"""A stream that must stop does so in whole runs, with state and target as they were to the byte, every time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve
from tests.postgres import server as servers
from tests.postgres.proxy import proxy
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_runs import begin, change, dump, lay, require_equal
from tests.postgres.test_cdc_slot import cluster
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.postgres


def require_stop(run: Run, pipeline: Path, said: str, code: int = 3) -> None:  # noqa: F811
    before = dump(pipeline.parent)
    for _ in range(2):
        done = run(pipeline)
        assert done["code"] == code, done
        assert said in str(done), done
        assert dump(pipeline.parent) == before


def standing(source: ChangeSource, run: Run, folder: Path) -> Path:  # noqa: F811
    """A pipeline that has loaded once, and changes that wait."""
    begin(source)
    pipeline = lay(folder, source, "sqlite")
    assert run(pipeline)["code"] == 0
    change(source)
    return pipeline


def test_PG_14_a_slot_of_another_plugin(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """Under the name of ours: it is neither read nor moved."""
    pipeline = standing(source, run, tmp_path)
    source.drop_slot()
    source.make_slot("test_decoding")
    before = source.confirmed()
    require_stop(run, pipeline, "plugin test_decoding")
    assert source.confirmed() == before


def test_PG_14_a_slot_of_another_database(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """Under the name of ours: names of slots are the server's, not the database's."""
    pipeline = standing(source, run, tmp_path)
    source.drop_slot()
    other = evolve(source.server, database=f"{source.schema}_other")
    source.run(f"CREATE DATABASE {other.database}")
    try:
        other.run(f"SELECT pg_create_logical_replication_slot('{source.slot}', 'pgoutput')")
        require_stop(run, pipeline, f"belongs to database {other.database}")
        source_of_other = evolve(source, server=other)
        source_of_other.drop_slot()
    finally:
        source.run(f"DROP DATABASE {other.database} WITH (FORCE)")


@contextmanager
def streaming(source: ChangeSource) -> Iterator[None]:
    """Another client reads from the slot."""
    other = source.server.connect(replication="database")
    active = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{source.slot}' AND active"
    try:
        other.pgconn.send_query(
            f"START_REPLICATION SLOT {source.slot} LOGICAL 0/0 (proto_version '1', "
            f"publication_names '{source.schema}')".encode()
        )
        while not source.query(active):
            pass
        yield
    finally:
        other.pgconn.finish()
    while source.query(active):
        pass


def test_PG_14_a_slot_that_is_active_elsewhere(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
) -> None:
    """A failure and no stop: it passes, and then the stream goes on where it stood."""
    pipeline = standing(source, run, tmp_path)
    with streaming(source):
        require_stop(run, pipeline, "in use by process", code=1)
    assert run(pipeline)["code"] == 0
    require_equal(source, tmp_path, "sqlite", "afterwards")


def test_PG_14_a_slot_that_is_lost(
    run: Run,  # noqa: F811
    tmp_path: Path,
    postgres: Server,
) -> None:
    """Its WAL was removed; loading anew mends it."""
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "wal_keep_size": "0"}
    with cluster(postgres, **settings) as server:
        server.run("CREATE SCHEMA shop")
        source = ChangeSource(server, "shop")
        pipeline = standing(source, run, tmp_path)
        source.run("CREATE TABLE other (v text)")
        for _ in range(4):
            source.run("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            source.run("SELECT pg_switch_wal()", "CHECKPOINT")
        require_stop(run, pipeline, "is lost")
        source.drop_slot()
        source.make_slot()
        require_stop(run, pipeline, "has skipped changes")
        assert run(pipeline, options={"full_refresh": True})["code"] == 0
        require_equal(source, tmp_path, "sqlite", "anew")


def test_PG_17_a_server_that_was_recovered_to_another_timeline(
    run: Run,  # noqa: F811
    tmp_path: Path,
    postgres: Server,
) -> None:
    """As after a promotion: what the slot has is of another history, which may lack commits of the old one."""
    with cluster(postgres) as server, proxy((server.host, server.port)) as way:
        server.run("CREATE SCHEMA shop")
        source = ChangeSource(evolve(server, port=way.port), "shop")  # the same address before and after
        pipeline = standing(source, run, tmp_path)
        assert server.data is not None
        assert server.programs is not None
        servers.stop(server, "fast")
        signal = server.data / "recovery.signal"
        signal.touch()
        shutil.chown(signal, signal.parent.owner())
        again = servers.start(server.programs, server.data, restore_command="/bin/false")
        try:
            way.upstream = again.host, again.port
            while source.query("SELECT pg_is_in_recovery()") == [(True,)]:
                pass
            require_stop(run, pipeline, "timeline was 1, is 2")
        finally:
            servers.stop(again)
