"""DDL between the windows of a stream, in whole runs of few changes each (PG-18)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_outside import Shop

pytestmark = pytest.mark.postgres

SCHEDULES = {
    "a column that comes at the end of a batch": [
        "INSERT INTO t (id, v) VALUES (1, 'a'), (2, 'b')", "ALTER TABLE t ADD x text",
        "INSERT INTO t (id, v, x) VALUES (3, 'c', 'x3')", "INSERT INTO t (id, v, x) VALUES (4, 'd', 'x4')",
        "ALTER TABLE t ADD y int", "INSERT INTO t (id, v, y) VALUES (5, 'e', 5)",
        "UPDATE t SET x = 'later' WHERE id = 1", "INSERT INTO t (id) VALUES (6)", "UPDATE t SET y = 7 WHERE id = 3",
    ],
    "a column that comes and goes before a batch sees it": [
        "INSERT INTO t (id, v) VALUES (1, 'a')", "ALTER TABLE t ADD x text", "ALTER TABLE t DROP x",
        "INSERT INTO t (id, v) VALUES (2, 'b')", "ALTER TABLE t ADD y text",
        "INSERT INTO t (id, v, y) VALUES (3, 'c', 'y3')", "INSERT INTO t (id, v, y) VALUES (4, 'd', 'y4')",
        "UPDATE t SET y = 'later' WHERE id = 1", "DELETE FROM t WHERE id = 2",
    ],
    "columns that go one after another": [
        "ALTER TABLE t ADD x text, ADD y text, ADD z text", "INSERT INTO t VALUES (1, 'a', 'w', 'x', 'y', 'z')",
        "ALTER TABLE t DROP x", "INSERT INTO t VALUES (2, 'b', 'w', 'y', 'z')", "ALTER TABLE t DROP y",
        "INSERT INTO t VALUES (3, 'c', 'w', 'z')", "UPDATE t SET z = 'later' WHERE id = 1",
        "ALTER TABLE t DROP w", "INSERT INTO t VALUES (4, 'd', 'z')",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("between", [True, False], ids=["run by run", "all at once"])
def test_PG_18_schema_changes_and_batches_of_two_changes(
    source: ChangeSource, tmp_path: Path, name: str, between: bool
) -> None:
    """No column is lost, wherever a batch ends: the target has the source's rows in the columns that are left."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text, w text)")
    source.publish("t")
    shop = Shop(source, tmp_path)
    shop.lay(limit=2)
    shop.loaded()
    for statement in SCHEDULES[name]:
        shop.sql(statement)
        if between:
            shop.loaded()
    for _ in range(len(SCHEDULES[name])):
        if shop.loaded().status == "caught_up":
            break
    left = "SELECT attname::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped"
    columns = [column for (column,) in source.query(f"{left} ORDER BY attnum")]
    shop.equal("t", columns=", ".join(columns))
