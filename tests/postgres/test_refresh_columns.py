"""--full-refresh into PostgreSQL replaces columns too, with what hangs on the table; and case 21 to its green end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Done, dpone  # noqa: F401  # a fixture
from tests.postgres.stream import ChangeSource

pytestmark = pytest.mark.postgres


def lay(folder: Path, source: ChangeSource, sink: str, **strategy: Any) -> Path:
    target = (
        {"type": "sqlite", "connection": "sqlite:///out.db", "table": "l_{table}"}
        if sink == "sqlite"
        else {"type": "postgres", "connection": source.server.url, "table": f"{source.schema}.l_{{table}}"}
    )
    options = {"incremental": {"by": "cdc"}, "slot": source.slot, "publication": source.schema}
    data = {
        "pipeline": "p",
        "source": {
            "type": "postgres", "connection": source.server.url, "table": f"{source.schema}.t*", "options": options,
        },
        "sink": {**target, "strategy": strategy or {"mode": "cdc_apply"}},
    }  # fmt: skip
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def set_(path: Path, *where: str, to: Any) -> None:
    data = yaml.safe_load(path.read_text())
    place = data
    for name in where[:-1]:
        place = place.setdefault(name, {})
    place[where[-1]] = to
    path.write_text(yaml.safe_dump(data))


def landed(source: ChangeSource, path: Path, sink: str, columns: str = "id, ts", table: str = "l_t") -> list[Any]:
    if sink == "postgres":
        return source.query(f"SELECT {columns} FROM {table} ORDER BY 1, 2")
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path.parent / "out.db")) as db:
        return db.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()


def begin(source: ChangeSource) -> None:
    source.run(
        "SET timezone = 'UTC'; CREATE TABLE t (id int PRIMARY KEY, ts timestamptz)",
        "CREATE TABLE t2 (id int PRIMARY KEY, v text)",
        "INSERT INTO t VALUES (1, '2024-01-01Z')",
        "INSERT INTO t2 VALUES (1, 'one')",
    )


@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
@pytest.mark.parametrize("mode", ["cdc_apply", "append"])
def test_OUT_16_a_stream_that_met_infinity_is_followed_to_a_green_run(
    tmp_path: Path,
    source: ChangeSource,
    dpone: Any,  # noqa: F811
    sink: str,
    mode: str,
) -> None:
    """Case 21: each message names the next step, both options together end it, in one commit with a table that has no
    such column; the next changes arrive, and the slot moves again."""
    begin(source)
    path = lay(tmp_path, source, sink, mode=mode)
    assert dpone("cdc", "create", path).exit_code == 0
    assert dpone("run", path).exit_code == 0
    source.run("INSERT INTO t VALUES (2, 'infinity')", "INSERT INTO t2 VALUES (2, 'two')")
    failed: Done = dpone("run", path)
    assert failed.exit_code == 1
    assert "set source.options.special_values: text" in failed.err
    assert "--full-refresh" in failed.err
    set_(path, "source", "options", "special_values", to="text")
    stopped: Done = dpone("run", path)
    assert stopped.exit_code == 3
    assert "or replace the table with --full-refresh" in stopped.err
    assert [row[0] for row in landed(source, path, sink)] == [1]
    assert dpone("run", path, "--full-refresh").exit_code == 0
    found = landed(source, path, sink)
    assert [row[0] for row in found] == [1, 2]
    assert str(found[0][1]).startswith("2024-01-01 00:00:00")
    assert found[1][1] == "infinity"
    assert landed(source, path, sink, "id, v", "l_t2") == [(1, "one"), (2, "two")]
    source.run("INSERT INTO t VALUES (3, '-infinity')", "INSERT INTO t2 VALUES (3, 'three')")
    before = source.confirmed()
    assert dpone("run", path).exit_code == 0
    assert landed(source, path, sink)[-1] == (3, "-infinity")
    assert source.confirmed() != before
    assert dpone("run", path).exit_code == 0


@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    "strategy", [{"mode": "scd2"}, {"mode": "cdc_apply", "deletes": "soft"}, {"mode": "cdc_apply", "deletes": "ignore"}]
)
def test_OUT_16_a_strategy_that_keeps_rows_offers_two_green_ways(
    tmp_path: Path,
    source: ChangeSource,
    dpone: Any,  # noqa: F811
    sink: str,
    strategy: dict[str, Any],
) -> None:
    """--full-refresh keeps versions and rows marked as deleted, so the message names a column of its own, and another
    table; either ends in a green run."""
    begin(source)
    path = lay(tmp_path, source, sink, **strategy)
    dpone("cdc", "create", path)
    assert dpone("run", path).exit_code == 0
    source.run("INSERT INTO t VALUES (2, 'infinity')")
    set_(path, "source", "options", "special_values", to="text")
    for options in ((), ("--full-refresh",)):
        stopped: Done = dpone("run", path, *options)
        assert stopped.exit_code == 3
        assert "schema_evolution.on_type_change: new_column" in stopped.err
        assert "or load into another table" in stopped.err
    set_(path, "sink", "options", to={"schema_evolution": {"on_type_change": "new_column"}})
    assert dpone("run", path).exit_code == 0
    assert [row[1] for row in landed(source, path, sink, "id, __dpone__nc__ts") if row[0] == 2] == ["infinity"]
    data = yaml.safe_load(path.read_text())
    set_(path, "sink", "options", to={})
    set_(path, "sink", "table", to=data["sink"]["table"].replace("l_", "m_"))
    assert dpone("run", path).exit_code == 0
    assert [row[0] for row in landed(source, path, sink, table="m_t")] == [1, 2]


@pytest.mark.parametrize(("truncate", "code", "left"), [("fail", 3, [1]), ("ignore", 0, [1]), ("apply", 0, [])])
@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
def test_an_empty_source_table_meets_strategy_truncate_when_columns_are_replaced(
    tmp_path: Path,
    source: ChangeSource,
    dpone: Any,  # noqa: F811
    sink: str,
    truncate: str,
    code: int,
    left: list[int],
) -> None:
    """As in any snapshot: the rows of the target go only where the pipeline says so."""
    begin(source)
    path = lay(tmp_path, source, sink, mode="cdc_apply", truncate=truncate)
    dpone("cdc", "create", path)
    assert dpone("run", path).exit_code == 0
    source.run("DELETE FROM t")
    set_(path, "source", "options", "special_values", to="text")
    assert dpone("run", path, "--full-refresh").exit_code == code
    assert [row[0] for row in landed(source, path, sink)] == left


def batch(folder: Path, source: ChangeSource, mode: str, **options: Any) -> Path:
    connection = source.server.url
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": connection, "table": f"{source.schema}.s"},
        "sink": {
            "type": "postgres", "connection": connection, "table": f"{source.schema}.l_t",
            "strategy": {"mode": mode}, "options": options,
        },
    }  # fmt: skip
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("full_refresh", ["auto", "swap", "truncate", "delete"])
def test_what_hangs_on_the_target_stays_or_is_named(
    tmp_path: Path,
    source: ChangeSource,
    dpone: Any,  # noqa: F811
    full_refresh: str,
) -> None:
    """Grants stay whatever replaces the table; so do a view, an index and a default of columns that do not change. A
    view of the column that changes is named, nothing has changed, and dropping it is the way."""
    path = batch(tmp_path, source, "append", full_refresh=full_refresh)
    source.run("CREATE TABLE s (id int PRIMARY KEY, n int, gone int)", "INSERT INTO s VALUES (1, 1, 1), (2, 2, 2)")
    assert dpone("run", path).exit_code == 0
    source.run("GRANT SELECT ON l_t TO PUBLIC")
    if full_refresh != "swap":
        source.run(
            "CREATE VIEW ids AS SELECT id FROM l_t", "CREATE INDEX by_n ON l_t (n)",
            "ALTER TABLE l_t ALTER n SET DEFAULT 7", "CREATE VIEW ns AS SELECT n FROM l_t",
        )  # fmt: skip
    source.run("ALTER TABLE s ALTER n TYPE text USING 'n' || n, DROP gone")
    if full_refresh != "swap":
        failed: Done = dpone("run", path, "--full-refresh")
        assert failed.exit_code == 1
        assert "drop what depends on the table" in failed.err
        assert source.query("SELECT id, n, gone FROM l_t ORDER BY 1") == [(1, 1, 1), (2, 2, 2)]
        source.run("DROP VIEW ns")
    assert dpone("run", path, "--full-refresh").exit_code == 0
    assert source.query("SELECT id, n FROM l_t ORDER BY 1") == [(1, "n1"), (2, "n2")]
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'l_t'::regclass AND attnum > 0 AND NOT attisdropped"
    assert ("gone",) not in source.query(columns)
    assert source.query("SELECT has_table_privilege('public', 'l_t', 'SELECT')") == [(True,)]
    if full_refresh != "swap":
        assert source.query("SELECT id FROM ids ORDER BY 1") == [(1,), (2,)]
        assert source.query("SELECT count(*) FROM pg_indexes WHERE indexname = 'by_n'") == [(1,)]
    assert not source.query("SELECT 1 FROM pg_class WHERE relname LIKE '\\_\\_dpone\\_\\_anew%'")
    source.run("INSERT INTO s VALUES (3, 'n3')")
    assert dpone("run", path).exit_code == 0
