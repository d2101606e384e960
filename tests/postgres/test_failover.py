"""A server that is not the one of before: a standby that was promoted, and a backup that was put back."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import frozen
from tests.postgres import server as servers
from tests.postgres.server import Server
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_runs import begin, change, dump, lay, require_equal
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.postgres


@frozen
class Cluster:
    """Data folders of one service: whichever is started answers at the same port."""

    programs: Path
    folder: Path
    port: int

    @contextmanager
    def started(self, data: str, **settings: str) -> Iterator[ChangeSource]:
        server = servers.start(self.programs, self.folder / data, port=str(self.port), **settings)
        try:
            yield ChangeSource(server, "shop")
        finally:
            servers.stop(server, "fast")

    def new(self, data: str, *options: str) -> None:
        servers.prepare(self.programs, self.folder / data, *options)

    def copy(self, data: str, to: str) -> None:
        """Of a server that is stopped, slots included."""
        shutil.copytree(self.folder / data, self.folder / to, symlinks=True)
        if servers.owner():
            for path in [self.folder / to, *(self.folder / to).rglob("*")]:
                shutil.chown(path, servers.USER)

    def standby(self, data: str) -> None:
        """A standby of the server that runs; it has no slots."""
        command = [self.programs / "pg_basebackup", "-D", self.folder / data, "-h", "127.0.0.1", "-p", str(self.port)]
        options = ["-U", "postgres", "-R", "-c", "fast"]
        subprocess.run([*command, *options], check=True, cwd="/", capture_output=True, **servers.owner())


@pytest.fixture
def cluster(postgres: Server) -> Iterator[Cluster]:
    if postgres.programs is None:
        pytest.skip("needs the server's programs: it makes clusters of its own")
    folder = Path(tempfile.mkdtemp(prefix="dpone-failover-"))
    folder.chmod(0o755)
    if servers.owner():
        shutil.chown(folder, servers.USER)
    yield Cluster(postgres.programs, folder, servers.free_port())
    shutil.rmtree(folder, ignore_errors=True)


def begin_shop(source: ChangeSource) -> None:
    source.server.run(f"CREATE SCHEMA {source.schema}")
    begin(source)


def code(run: Run, pipeline: Path, **options: Any) -> int:  # noqa: F811
    found: int = run(pipeline, **options)["code"]
    return found


def test_PG_17_a_promoted_standby_is_a_stop_until_the_stream_begins_anew(
    run: Run,  # noqa: F811
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    """Exit code 3 with state and target as they were, on every run, also once the slot was made again; a full refresh
    then loads what the new primary has."""
    cluster.new("primary")
    with cluster.started("primary") as source:
        begin_shop(source)
        pipeline = lay(tmp_path, source, "sqlite")
        assert code(run, pipeline) == 0
        cluster.standby("standby")
    with cluster.started("standby") as source:
        source.server.run("SELECT pg_promote()")
        change(source)
        before = dump(tmp_path)
        assert code(run, pipeline) == 3
        source.make_slot()
        for _ in range(2):
            assert code(run, pipeline) == 3
        assert dump(tmp_path) == before
        assert code(run, pipeline, options={"full_refresh": True}) == 0
        require_equal(source, tmp_path, "sqlite", "after the failover")


def test_XM_04_a_promoted_standby_is_read_anew(
    run: Run,  # noqa: F811
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    """Ids of transactions that the old primary has used mean others now: the whole table is read, no row is missing."""
    cluster.new("primary")
    with cluster.started("primary") as source:
        begin_shop(source)
        pipeline = lay_xmin(tmp_path, source)
        cluster.standby("standby")
        source.run(*(f"UPDATE bills SET amount = {n}" for n in range(20)))  # ids that the standby uses for others
        assert code(run, pipeline) == 0
    with cluster.started("standby") as source:
        source.server.run("SELECT pg_promote()")
        source.run("INSERT INTO orders VALUES (500, 1, 'of the new primary')")
        assert code(run, pipeline) == 0
        require_orders(source, tmp_path)


def lay_xmin(folder: Path, source: ChangeSource) -> Path:
    data = yaml.safe_load(lay(folder, source, "sqlite").read_text())
    data["source"] |= {"table": f"{source.schema}.orders", "options": {"incremental": {"by": "xmin"}}}
    data["sink"] |= {"table": "landing_orders", "strategy": {"mode": "merge", "key": ["id"]}}
    path = folder / "xmin.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def require_orders(source: ChangeSource, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "warehouse.db")) as db:
        found = db.execute("SELECT id, n, long FROM landing_orders ORDER BY id").fetchall()
    assert found == source.query("SELECT id, n, long FROM orders ORDER BY id")


def test_PG_17_a_backup_put_back_is_a_stop(
    run: Run,  # noqa: F811
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    """The same system and timeline, slot included, but its WAL ends before the position: exit code 3, nothing moves."""
    cluster.new("data")
    with cluster.started("data") as source:
        begin_shop(source)
        pipeline = lay(tmp_path, source, "sqlite")
        assert code(run, pipeline) == 0
    cluster.copy("data", "backup")
    with cluster.started("data") as source:
        source.run("INSERT INTO orders SELECT i, i, repeat('x', 2000) FROM generate_series(1000, 3000) AS i")
        assert code(run, pipeline) == 0
    with cluster.started("backup") as source:
        before = dump(tmp_path)
        for _ in range(2):
            assert code(run, pipeline) == 3
            assert dump(tmp_path) == before
        change(source)
        assert code(run, pipeline) == 3
        assert dump(tmp_path) == before


@pytest.mark.parametrize("idle", [False, True])
def test_PG_17_a_backup_that_went_on_past_the_position_is_a_stop(
    run: Run,  # noqa: F811
    cluster: Cluster,
    tmp_path: Path,
    idle: bool,
) -> None:
    """As above, but its WAL has grown beyond the position with other changes, as that of a machine put back by its
    snapshot may: the commit that was read last is not in it, and nothing is passed over in silence."""
    cluster.new("data")
    with cluster.started("data") as source:
        begin_shop(source)
        pipeline = lay(tmp_path, source, "sqlite")
        assert code(run, pipeline) == 0
    cluster.copy("data", "backup")
    with cluster.started("data") as source:
        change(source)
        assert code(run, pipeline) == 0
        if idle:
            source.run("CREATE TABLE other (id int)", "INSERT INTO other VALUES (1)")
            assert code(run, pipeline) == 0
    with cluster.started("backup") as source:
        change(source, 1)
        source.run("INSERT INTO orders SELECT i, i, repeat('x', 2000) FROM generate_series(1000, 3000) AS i")
        source.run("INSERT INTO bills VALUES (77, 1)")
        before = dump(tmp_path)
        for _ in range(2):
            assert code(run, pipeline) == 3
            assert dump(tmp_path) == before
