"""What was altered between two runs and looks as before, or changes values without an event (OUT-01 to OUT-04).

Each ends with a target that equals the source, or with a stop whose message leads there.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import evolve
from tests.postgres.stream import ChangeSource, then_once
from tests.postgres.test_cdc_outside import ROOT, Shop, root, shop  # noqa: F401  # fixtures

from dpone.engine.run import run as run_pipeline
from dpone_postgres import outside
from dpone_postgres.cdc import PostgresLogicalReader

pytestmark = pytest.mark.postgres

Given = pytest.FixtureRequest


def version(source: ChangeSource) -> int:
    [(number,)] = source.query("SELECT current_setting('server_version_num')::int")
    return int(number)


# -- tables that were elsewhere for a while ---------------------------------------------------------------------


@pytest.mark.parametrize("glob", ["*", "t"])
@pytest.mark.parametrize(
    ("away", "table", "back"),
    [
        ("ALTER TABLE t RENAME TO x", "x", "ALTER TABLE x RENAME TO t"),
        ("ALTER TABLE t SET SCHEMA {other}", "{other}.t", "ALTER TABLE {other}.t SET SCHEMA {name}"),
    ],
)
def test_OUT_02_changes_of_a_table_that_had_another_name_for_a_while_arrive(
    shop: Shop,  # noqa: F811
    away: str,
    table: str,
    back: str,
    glob: str,
) -> None:
    """The stream has them under the other name, and the table is the same: every row as in the source."""
    name, other = shop.source.schema, f"{shop.source.schema}_o"
    if glob != "*":
        for file in ("warehouse.db", "state.db"):
            (shop.folder / file).unlink()
        shop.glob = glob
        shop.lay()
        shop.loaded()
    words = {"name": name, "other": other}
    away, table, back = (text.format(**words) for text in (away, table, back))
    shop.sql(f"CREATE SCHEMA {other}")
    try:
        shop.sql(
            away, f"UPDATE {table} SET v = 'away' WHERE id = 1", f"DELETE FROM {table} WHERE id = 2",
            f"INSERT INTO {table} VALUES (9, 'new')", back, "UPDATE t SET v = 'back' WHERE id = 3",
        )  # fmt: skip
        shop.loaded()
        shop.equal("t")
        shop.sql(away, f"TRUNCATE {table}", f"INSERT INTO {table} VALUES (1, 'other')", back)
        shop.loaded()
        shop.equal("t")
    finally:
        shop.sql(f"DROP SCHEMA {other} CASCADE")


def test_OUT_02_a_table_renamed_while_a_window_is_read_loses_nothing(shop: Shop, monkeypatch: Any) -> None:  # noqa: F811
    """Its changes come with the window, the next run names it, and back under its name it goes on."""
    then_once(
        monkeypatch,
        PostgresLogicalReader,
        "_catalogue",
        lambda: shop.sql("ALTER TABLE t RENAME TO x", "UPDATE x SET v = 'away'"),
    )
    shop.loaded()
    shop.stopped("it was renamed to")
    shop.sql("ALTER TABLE x RENAME TO t")
    shop.loaded()
    shop.equal("t")


def test_OUT_02_a_table_that_left_its_published_schema_for_a_while_stops_the_stream(
    source: ChangeSource, tmp_path: Path
) -> None:
    """A publication of a schema has no changes of it meanwhile; no such stop where it is a member by itself."""
    if version(source) < 150000:
        pytest.skip("publications of schemas are of PostgreSQL 15")
    name, other = source.schema, f"{source.schema}_o"
    source.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE u (id int PRIMARY KEY, v text)",
        "INSERT INTO t VALUES (1, 'a')", "INSERT INTO u VALUES (1, 'a')",
        f"CREATE PUBLICATION {name} FOR TABLES IN SCHEMA {name}, TABLE u",
    )  # fmt: skip
    source.make_slot()
    shop = Shop(source, tmp_path)  # noqa: F811
    shop.lay()
    shop.loaded()
    shop.sql(f"CREATE SCHEMA {other}")
    try:
        for table in ("t", "u"):
            shop.sql(
                f"ALTER TABLE {table} SET SCHEMA {other}", f"UPDATE {other}.{table} SET v = 'away'",
                f"ALTER TABLE {other}.{table} SET SCHEMA {name}",
            )  # fmt: skip
        message = shop.stopped(f"table {name}.t: it was outside its published schema or root table for a while")
        assert f"table {name}.u" not in message
        shop.follow(message)
        shop.loaded()
        shop.equal()
        shop.sql("ALTER TABLE t OWNER TO CURRENT_USER", "VACUUM FULL pg_depend", "INSERT INTO t VALUES (2, 'b')")
        shop.loaded()
        shop.equal()
    finally:
        shop.sql(f"DROP SCHEMA {other} CASCADE")


@pytest.mark.parametrize("nested", [False, True])
def test_OUT_02_a_partition_that_was_detached_for_a_while_stops_the_stream(
    source: ChangeSource, tmp_path: Path, nested: bool
) -> None:
    """Under its own name, published by its root or one further up: its changes meanwhile were not published."""
    source.run(
        "CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE m PARTITION OF r FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id)",
        "CREATE TABLE r_1 PARTITION OF m FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE r_2 PARTITION OF m FOR VALUES FROM (10) TO (20)",
        "INSERT INTO r VALUES (1, 'one'), (11, 'eleven')",
    )  # fmt: skip
    source.publish("r", options="WITH (publish_via_partition_root = false)")
    shop = Shop(source, tmp_path)  # noqa: F811
    shop.lay()
    shop.loaded()
    parent, child, bounds = ("r", "m", "(0) TO (100)") if nested else ("m", "r_1", "(0) TO (10)")
    shop.sql(
        f"ALTER TABLE {parent} DETACH PARTITION {child}", f"UPDATE {child} SET v = 'away'",
        f"ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM {bounds}",
    )  # fmt: skip
    message = shop.stopped(f"table {source.schema}.r_1: it was outside its published schema or root table for a while")
    assert (f"table {source.schema}.r_2" in message) is nested
    shop.follow(message)
    shop.loaded()
    shop.equal("r_1", "r_2")


# -- columns that had other names -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize(
    ("statements", "column"),
    [
        (["ALTER TABLE t RENAME v TO x", "UPDATE t SET x = 'lost' WHERE id = 1", "ALTER TABLE t RENAME x TO v"], "v"),
        (
            ["ALTER TABLE t RENAME v TO x", "ALTER TABLE t RENAME w TO v", "ALTER TABLE t RENAME x TO w",
             "UPDATE t SET v = 'is w' WHERE id = 1",
             "ALTER TABLE t RENAME v TO x", "ALTER TABLE t RENAME w TO v", "ALTER TABLE t RENAME x TO w"],
            "v",
        ),
        (["ALTER TABLE t ADD x text", "UPDATE t SET x = 'lost' WHERE id = 1", "ALTER TABLE t RENAME x TO y"], "y"),
        (
            ["ALTER TABLE t ADD x text", "UPDATE t SET x = 'lost' WHERE id = 1", "ALTER TABLE t RENAME x TO y",
             "ALTER TABLE t ADD z int", "ALTER TABLE t DROP z"],
            "y",
        ),
        (["ALTER TABLE t ADD x text", "UPDATE t SET x = 'lost' WHERE id = 1", "ALTER TABLE t DROP x",
          "ALTER TABLE t ADD x text"], "x"),
    ],
)  # fmt: skip
def test_OUT_04_a_column_that_had_another_name_for_a_while_stops_the_stream(
    shop: Shop,  # noqa: F811
    statements: list[str],
    column: str,
    limit: int | None,
) -> None:
    """What the stream gives under the other name is not lost, nor kept beside the column's own."""
    shop.lay(**({} if limit is None else {"limit": limit}))
    shop.sql("INSERT INTO u VALUES (2, 'x')", *statements, "UPDATE t SET v = 'z' WHERE id = 3")
    for _ in range(1 if limit else 0):
        shop.loaded()
    shop.follow(shop.stopped(f"table {shop.source.schema}.t: its column {column} had a different name for a while"))
    for _ in range(4):
        shop.loaded()
    columns = "id, v, w" if column == "v" else f"id, v, w, {column}"
    shop.equal("t", columns=columns)
    shop.sql("UPDATE t SET v = 'again'")
    shop.loaded()
    shop.equal("t", columns=columns)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE t SET v = 'a'", "ALTER TABLE t ADD x int", "UPDATE t SET x = 1", "ALTER TABLE t DROP x",
         "ALTER TABLE t ADD y int", "UPDATE t SET y = 1", "ALTER TABLE t ADD z int", "UPDATE t SET z = 1"],
        ["UPDATE t SET v = 'a'", "ALTER TABLE t DROP w", "UPDATE t SET v = 'b'", "ALTER TABLE t ADD x int",
         "UPDATE t SET x = 2", "ALTER TABLE t ALTER x SET NOT NULL, ALTER v SET STATISTICS 7", "UPDATE t SET x = 3"],
        ["ALTER TABLE t ADD g int GENERATED ALWAYS AS (id * 2) STORED", "UPDATE t SET v = 'a'",
         "ALTER TABLE t ALTER g DROP EXPRESSION", "UPDATE t SET v = 'b'"],
    ],
)  # fmt: skip
def test_OUT_04_columns_that_come_and_go_stop_nothing(shop: Shop, statements: list[str], limit: int | None) -> None:  # noqa: F811
    """Whatever the stream describes on its way to the columns of now, in one window or in many."""
    shop.lay(**({} if limit is None else {"limit": limit}))
    shop.sql("INSERT INTO u VALUES (2, 'x')", *statements)
    for _ in range(len(statements) + 1):
        shop.loaded()
    left = "SELECT attname::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped"
    columns = [column for (column,) in shop.source.query(f"{left} ORDER BY attnum")]
    shop.equal("t", columns=", ".join(columns))


def test_OUT_04_a_column_added_while_a_window_is_read_stops_nothing(shop: Shop, monkeypatch: Any) -> None:  # noqa: F811
    """The facts do not have it, and the stream does."""
    then_once(
        monkeypatch,
        PostgresLogicalReader,
        "_catalogue",
        lambda: shop.sql("ALTER TABLE t ADD x int", "UPDATE t SET x = 5 WHERE id = 1"),
    )
    shop.loaded()
    shop.loaded()
    shop.equal("t", columns="id, v, x")


def test_OUT_04_a_column_renamed_while_the_catalogue_is_read_stops_the_stream(
    shop: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the tables and their facts: it is not taken for a column that is not published."""
    read = outside.read

    def late(*given: Any) -> Any:
        monkeypatch.undo()
        shop.sql("ALTER TABLE t RENAME v TO x", "UPDATE t SET x = 'lost' WHERE id = 1")
        return read(*given)

    monkeypatch.setattr(outside, "read", late)
    shop.stopped("column v is now named x")


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE {t} ADD x int DEFAULT 7", "ALTER TABLE {t} ALTER x DROP DEFAULT"],
        ["ALTER TABLE {t} ADD x int NOT NULL DEFAULT 7, ALTER v SET DEFAULT ''", "ALTER TABLE {t} ALTER x DROP DEFAULT",
         "VACUUM FULL {t}"],
        ["ALTER TABLE {t} ADD x float DEFAULT random()", "ALTER TABLE {t} ALTER x DROP DEFAULT"],
        ["CREATE DOMAIN seven AS int DEFAULT 7", "ALTER TABLE {t} ADD x seven"],
        ["ALTER TABLE {t} ADD x int GENERATED ALWAYS AS (id) STORED", "ALTER TABLE {t} ALTER x DROP EXPRESSION"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["shop", "root"])
def test_SE_04_a_column_that_came_with_values_is_reported(request: Given, kind: str, statements: list[str]) -> None:
    """Also where its default is gone again, is that of a domain, or was an expression; reading again fills it. That the
    partitions of a root were rewritten for it cannot be told from a TRUNCATE of each."""
    made: Shop = request.getfixturevalue(kind)
    table = "t" if kind == "shop" else "r"
    made.sql(*(one.format(t=table) for one in statements))
    if kind == "root" and any(word in statements[0] for word in ("random", "STORED")):
        message = made.stopped("truncated on its own or rewritten")
    else:
        [message] = made.loaded().warnings
        assert f"table {made.source.schema}.{table}: column x was added with" in message
        assert not made.loaded().warnings
    made.follow(message)
    made.loaded()
    made.equal(table, columns="id, v, x")


@pytest.mark.releases
def test_SE_04_an_expression_dropped_later_is_reported(shop: Shop) -> None:  # noqa: F811
    """The column was not in the stream before, and its values are still to come."""
    shop.sql("ALTER TABLE t ADD g int GENERATED ALWAYS AS (id * 2) STORED")
    shop.loaded()
    shop.sql("ALTER TABLE t ALTER g DROP EXPRESSION")
    [warning] = shop.loaded().warnings
    assert "column g was added with" in warning
    shop.follow(warning)
    shop.loaded()
    shop.equal("t", columns="id, v, g")


# -- types that were altered ------------------------------------------------------------------------------------

MOOD = "CREATE TYPE mood AS ENUM ('low', 'high')"


@pytest.mark.parametrize(
    ("made", "column", "value", "altered"),
    [
        ([], "mood", "'low'", "mood"),
        ([], "mood[]", "'{low,high}'", "mood"),
        (["CREATE DOMAIN feel AS mood"], "feel", "'low'", "mood"),
        (["CREATE TYPE pair AS (a int, b mood)"], "pair", "'(1,low)'", "mood"),
        (["CREATE TYPE span AS RANGE (subtype = mood)"], "span", "'[low,high]'", "mood"),
        (["CREATE TYPE pair AS (a int, b int)"], "pair", "'(1,2)'", "pair"),
    ],
)
@pytest.mark.parametrize("kind", ["shop", "root"])
def test_OUT_04_a_type_whose_values_read_otherwise_now_stops_the_stream(
    request: Given, kind: str, made: list[str], column: str, value: str, altered: str
) -> None:
    """A renamed label, an attribute more: old rows read otherwise without an event; new labels stop nothing."""
    one: Shop = request.getfixturevalue(kind)
    table = "t" if kind == "shop" else "r"
    one.sql(MOOD, *made, f"ALTER TABLE {table} ADD m {column}", f"UPDATE {table} SET m = {value}")
    one.loaded()
    one.loaded()
    one.sql("ALTER TYPE mood ADD VALUE 'middle' AFTER 'low'", "ALTER TYPE mood ADD VALUE 'top'")
    one.loaded()
    if altered == "mood":
        one.sql("ALTER TYPE mood RENAME VALUE 'low' TO 'down'")
    else:
        one.sql("ALTER TYPE pair ADD ATTRIBUTE c int")
    one.follow(one.stopped(f"type {one.source.schema}.{altered}"))
    one.loaded()
    one.equal(table, columns="id, v")
    shown = one.source.query(f"SELECT id, m::text FROM {table} ORDER BY 1")
    assert one.rows(table, "id, m") == shown
    one.sql(f"UPDATE {table} SET v = 'again'")
    one.loaded()


# -- relations that are not in the log --------------------------------------------------------------------------


def unlogged_root(source: ChangeSource, by_root: bool) -> None:
    source.run(*ROOT, "CREATE UNLOGGED TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)")
    source.run("INSERT INTO r VALUES (25, 'x')")
    source.publish("r", options=f"WITH (publish_via_partition_root = {str(by_root).lower()})")


@pytest.mark.parametrize("by_root", [True, False])
def test_OUT_04_an_unlogged_partition_is_refused_at_the_beginning(
    source: ChangeSource, tmp_path: Path, by_root: bool
) -> None:
    """Its changes are not in the log: named, by the check too; the statement of the message mends it."""
    unlogged_root(source, by_root)
    shop = Shop(source, tmp_path)  # noqa: F811
    shop.lay()
    done = shop.run()
    assert done.error is not None
    assert (done.error.exit_code, done.status) == (3, "stopped")
    assert f"{source.schema}.r_3 is unlogged" in done.error.message
    code, said = shop.dpone("check", str(shop.path), "--connect")
    assert code == 1
    assert "is unlogged" in said
    statement = done.error.message.partition("run ALTER TABLE ")[2].partition(" SET LOGGED")[0]
    shop.sql(f"ALTER TABLE {statement} SET LOGGED")
    shop.loaded()
    shop.sql("UPDATE r SET v = 'again'")
    shop.loaded()
    shop.equal(*(["r"] if by_root else ["r_1", "r_2", "r_3"]))


def test_OUT_04_an_unlogged_partition_stops_a_stream_that_has_begun(root: Shop) -> None:  # noqa: F811
    """Made so, or altered to be; after SET LOGGED the root is read again."""
    root.sql("CREATE UNLOGGED TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')")
    message = root.stopped("r_3 is unlogged", "SET LOGGED")
    root.sql("ALTER TABLE r_3 SET LOGGED")
    root.follow(message)
    root.loaded()
    root.equal("r", "u")
    root.sql("ALTER TABLE r_1 SET UNLOGGED", "UPDATE r SET v = 'lost' WHERE id = 1")
    root.stopped("r_1 is unlogged")
    root.sql("ALTER TABLE r_1 SET LOGGED")
    root.follow(root.stopped("r_1"))
    root.loaded()
    root.equal("r", "u")


@pytest.mark.parametrize("columns", ["v text", "v int"])
@pytest.mark.parametrize("way", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA {name}"])
def test_OUT_02_a_table_that_was_unlogged_for_a_while_stops_the_stream(
    source: ChangeSource, tmp_path: Path, way: str, columns: str
) -> None:
    """Where no publication names it, the server lets it be made so: its changes meanwhile are not in the log. With
    and without values out of line; upkeep of the table, and TRUNCATE, stop nothing."""
    if version(source) < 150000:
        pytest.skip("publications of schemas are of PostgreSQL 15")
    source.run(f"CREATE TABLE t (id int PRIMARY KEY, {columns})", "INSERT INTO t VALUES (1, '1'), (2, '2'), (3, '3')")
    source.run(f"CREATE PUBLICATION {source.schema} {way.format(name=source.schema)}")
    source.make_slot()
    shop = Shop(source, tmp_path)  # noqa: F811
    shop.lay()
    shop.loaded()
    for statements in (
        ["VACUUM FULL t"], ["CLUSTER t USING t_pkey", "UPDATE t SET v = '7' WHERE id = 1"],
        ["TRUNCATE t", "INSERT INTO t VALUES (4, '4')"], ["ALTER TABLE t ALTER v SET NOT NULL", "VACUUM FULL t"],
    ):  # fmt: skip
        shop.sql(*statements)
        shop.loaded()
        shop.equal("t")
    shop.sql("ALTER TABLE t SET UNLOGGED", "UPDATE t SET v = '8'", "ALTER TABLE t SET LOGGED")
    shop.follow(shop.stopped(f"table {source.schema}.t: it was rewritten and may have been unlogged"))
    shop.loaded()
    shop.equal("t")
    shop.sql("UPDATE t SET v = '9'")
    shop.loaded()
    shop.equal("t")


# -- the moment of a snapshot -----------------------------------------------------------------------------------


@pytest.mark.parametrize("went", ["", "DROP TABLE r_3", "TRUNCATE r_3", "ALTER TABLE r DETACH PARTITION r_3"])
@pytest.mark.parametrize("begun", ["initial", "resync", "joined"])
def test_OUT_04_a_partition_made_before_the_point_of_a_snapshot_is_known(
    root: Shop,  # noqa: F811
    begun: str,
    went: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the catalogue was read and before the rows were: its rows are in the target, and missed once it went."""
    name = root.source.schema
    if begun == "initial":
        for file in ("warehouse.db", "state.db"):
            (root.folder / file).unlink()
    elif begun == "resync":
        root.dpone("cdc", "resync", str(root.path), "--table", f"{name}.r")
    else:
        root.sql(f"ALTER PUBLICATION {name} DROP TABLE r")
        root.follow(root.stopped("no longer in publication"))
        root.loaded()
        root.sql(f"ALTER PUBLICATION {name} ADD TABLE r")
    then_once(
        monkeypatch,
        outside,
        "read",
        lambda: root.sql(
            "BEGIN; CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30); "
            "INSERT INTO r VALUES (25, 'x'); COMMIT"
        ),
    )
    root.loaded()
    root.equal("r", "u")
    if went:
        root.sql(went)
        root.follow(root.stopped(f"table {name}.r: "))
    for _ in range(2):
        assert all("r_3 is selected, but not in" in one for one in root.loaded().warnings)
    root.equal("r", "u")


# -- false stops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        ["TRUNCATE r", "GRANT SELECT ON r_1 TO public", "ALTER TABLE r_2 SET (fillfactor = 50)"],
        ["TRUNCATE r", "INSERT INTO r VALUES (1, 'new')", "GRANT SELECT ON r_1 TO public", "ANALYZE r"],
        ["TRUNCATE r", "ALTER TABLE r_1 RENAME TO x", "CREATE INDEX ON r (v)"],
    ],
)
def test_OUT_04_a_leaf_altered_after_a_truncate_of_its_root_stops_nothing(root: Shop, statements: list[str]) -> None:  # noqa: F811
    """Its index tells that it was the root's TRUNCATE, and a TRUNCATE of its own after that is told from it."""
    root.sql(*statements)
    root.loaded()
    root.loaded()
    root.equal("r", "u")
    root.sql("INSERT INTO r VALUES (2, 'x'), (12, 'y')", "TRUNCATE r", "INSERT INTO r VALUES (11, 'z')", "TRUNCATE r_2",
             "GRANT SELECT ON r_2 TO public")  # fmt: skip
    root.follow(root.stopped("r_2 was truncated"))
    root.loaded()
    root.equal("r", "u")


@pytest.mark.parametrize("columns", ["v text", "v int"])
@pytest.mark.parametrize("upkeep", ["VACUUM FULL t", "CLUSTER t USING t_pkey"])
@pytest.mark.parametrize("other", ["ALTER TABLE t ALTER v SET NOT NULL", "GRANT SELECT (v) ON t TO public",
                                   "ALTER TABLE t ALTER v SET DEFAULT '7'"])  # fmt: skip
def test_OUT_04_upkeep_and_another_change_of_a_column_stop_nothing(
    source: ChangeSource, tmp_path: Path, columns: str, upkeep: str, other: str
) -> None:
    """A table rewritten by VACUUM FULL or CLUSTER is told from one that ALTER TYPE has rewritten."""
    source.run(f"CREATE TABLE t (id int PRIMARY KEY, {columns})", "INSERT INTO t VALUES (1, '1'), (2, '2'), (3, '3')")
    source.publish("t")
    shop = Shop(source, tmp_path)  # noqa: F811
    shop.lay()
    shop.loaded()
    shop.sql(upkeep, other, "UPDATE t SET v = '9' WHERE id = 1")
    shop.loaded()
    shop.equal("t")
    using = "upper(v)" if "text" in columns else "v + 1"
    shop.sql(f"ALTER TABLE t ALTER v DROP DEFAULT, ALTER v TYPE {columns[2:]} USING {using}", upkeep)
    shop.follow(shop.stopped("column v was altered"))
    shop.loaded()
    shop.equal("t")


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')",
         "VACUUM FULL r_3"],
        ["BEGIN; SAVEPOINT a; TRUNCATE r; RELEASE a; INSERT INTO r VALUES (3, 'x'); COMMIT"],
        ["TRUNCATE r", "INSERT INTO r VALUES (3, 'x')", "CLUSTER r_1 USING r_1_pkey"],
        ["CREATE TABLE r_3 PARTITION OF r FOR VALUES FROM (20) TO (30)", "INSERT INTO r VALUES (25, 'x')",
         "DELETE FROM r WHERE id = 25", "DROP TABLE r_3"],
        ["CREATE TABLE r_3 (LIKE r INCLUDING ALL)", "ALTER TABLE r ATTACH PARTITION r_3 FOR VALUES FROM (20) TO (30)",
         "INSERT INTO r VALUES (25, 'x')"],
        ["UPDATE r SET v = 'x'", "VACUUM FULL r", "ALTER TABLE r ALTER v SET NOT NULL"],
    ],
)  # fmt: skip
def test_OUT_04_what_looks_like_a_loss_stops_and_its_advice_is_right(root: Shop, statements: list[str]) -> None:  # noqa: F811
    """The list of docs/connectors/postgres-cdc.md, as far as a stop of each kind goes; read again, the target is
    equal."""
    root.sql(*statements)
    root.follow(root.stopped(f"table {root.source.schema}.r"))
    for _ in range(2):
        root.loaded()
    root.equal("r", "u")


def test_OUT_04_a_reader_who_may_read_the_root_alone_is_not_stopped_for_it(root: Shop) -> None:  # noqa: F811
    """As 'dpone cdc-plan' grants it: upkeep of a partition and an empty one attached stop nothing, and what loses rows
    does, also in a default partition."""
    role, owner = f"{root.source.schema}_reader", root.source
    owner.run(f"CREATE ROLE {role} LOGIN REPLICATION", f"GRANT USAGE ON SCHEMA {owner.schema} TO {role}",
              f"GRANT SELECT ON r, u TO {role}", "CREATE TABLE r_d PARTITION OF r DEFAULT",
              "INSERT INTO r VALUES (500, 'd')")  # fmt: skip
    root.loaded()
    made = "CREATE TABLE r_3 (LIKE r INCLUDING ALL)"
    attach = "ALTER TABLE r ATTACH PARTITION r_3 FOR VALUES FROM (20) TO (30)"
    reading = evolve(owner, server=evolve(owner.server, user=role))
    try:
        text = root.path.read_text()
        root.path.write_text(text.replace("postgres://postgres@", f"postgres://{role}@"))
        assert role in root.path.read_text()
        assert reading.query("SELECT current_user::text") == [(role,)]
        root.sql("VACUUM FULL r_1", "CLUSTER r_d USING r_d_pkey", made, attach, "INSERT INTO u VALUES (7, 'x')")
        root.loaded()
        root.equal("r", "u")
        for statements in (["TRUNCATE r_d"], ["TRUNCATE r_2", "INSERT INTO r VALUES (12, 'new')"],
                           ["DROP TABLE r_3", made, "INSERT INTO r_3 VALUES (25, 'x')", attach]):  # fmt: skip
            root.sql(*statements)
            root.follow(root.stopped(f"table {owner.schema}.r: "))
            root.loaded()
            root.equal("r", "u")
    finally:
        owner.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


# -- advice -----------------------------------------------------------------------------------------------------


def test_OUT_16_a_warning_about_an_unpublished_table_breaks_no_application(shop: Shop) -> None:  # noqa: F811
    """For a table whose updates would fail once it is published, it names exclude, and what identifies its rows
    before the ADD TABLE; both ways are followed to a run without warnings."""
    name = shop.source.schema
    shop.sql("CREATE TABLE n (id int)", "INSERT INTO n VALUES (1)")
    [warning] = shop.loaded().warnings
    assert f"source.exclude: [{name}.n]" in warning
    statements = warning.partition(", or run ")[2]
    assert "REPLICA IDENTITY FULL" in statements
    shop.sql("ALTER TABLE n ADD PRIMARY KEY (id)")
    [warning] = shop.loaded().warnings
    shop.sql(warning[warning.index("ALTER PUBLICATION") :], "UPDATE n SET id = 2")
    assert not shop.loaded().warnings


def test_OUT_16_the_advice_of_a_stop_holds_for_every_name(source: ChangeSource, tmp_path: Path) -> None:
    """A name with a dot, with a space, and one that looks like a glob: as a shell takes them."""
    names = ['"My.Table"', '"a[1]"', '"two words"']
    source.run(*(f"CREATE TABLE {name} (id int PRIMARY KEY, v text)" for name in names))
    source.publish(*names)
    shop = Shop(source, tmp_path)  # noqa: F811
    shop.lay()
    shop.loaded()
    source.run(*(f"ALTER TABLE {name} ALTER v TYPE text USING upper(v)" for name in names))
    shop.follow(shop.stopped("column v was altered"))
    shop.loaded()


def test_OUT_16_the_advice_of_a_stop_holds_where_a_pipeline_has_several_streams(shop: Shop) -> None:  # noqa: F811
    """The stream that selects the table is read again, the other stays where it is; a table of both asks which."""
    data = yaml.safe_load(shop.path.read_text())
    source, sink = data.pop("source"), data.pop("sink")
    name, other = shop.source.schema, f"{shop.source.slot}_u"
    shop.sql(f"SELECT pg_create_logical_replication_slot('{other}', 'pgoutput')")
    try:
        data["streams"] = [
            {"name": table, "source": {**source, "table": f"{name}.{table}", "options": {**source["options"], **slot}},
             "sink": {**sink, "table": f"k_{table}"}}
            for table, slot in (("t", {}), ("u", {"slot": other}))
        ]  # fmt: skip
        shop.path.write_text(yaml.safe_dump(data))
        assert {one.status for one in run_pipeline(str(shop.path)).streams} == {"loaded"}
        shop.sql("ALTER TABLE u ALTER v TYPE text USING upper(v)")
        done = run_pipeline(str(shop.path)).streams[1]
        assert done.error is not None
        shop.follow(done.error.message)
        assert [one.status for one in run_pipeline(str(shop.path)).streams] == ["caught_up", "loaded"]
        code, said = shop.dpone("cdc", "resync", str(shop.path), "--table", "*.*")
        assert code == 2
        assert "choose one with --stream" in said
        code, said = shop.dpone("cdc", "resync", str(shop.path), "--table", "*.*", "--stream", "t")
        assert code == 0, said
        assert [one.status for one in run_pipeline(str(shop.path)).streams] == ["loaded", "caught_up"]
    finally:
        shop.sql(f"SELECT pg_drop_replication_slot('{other}')")


def test_OUT_16_a_key_column_that_was_renamed_is_advised_to_a_green_run(shop: Shop) -> None:  # noqa: F811
    """The target's rows have no key of that name: its table is dropped, and read again with the command."""
    shop.sql("ALTER TABLE t RENAME id TO ident", "UPDATE t SET v = 'r' WHERE ident = 1")
    message = shop.stopped(f"drop the target of {shop.source.schema}.t", "whose key was renamed")
    with closing(sqlite3.connect(shop.folder / "warehouse.db")) as db:
        db.execute("DROP TABLE l_t")
    shop.follow(message)
    for _ in range(2):
        shop.loaded()
    shop.equal("t", columns="ident, v")


@pytest.mark.parametrize("identity", ["DROP CONSTRAINT t_pkey|ADD PRIMARY KEY (id)",
                                      "REPLICA IDENTITY NOTHING|REPLICA IDENTITY DEFAULT"])  # fmt: skip
def test_OUT_16_a_table_that_had_no_key_for_a_while_is_advised_to_a_green_run(shop: Shop, identity: str) -> None:  # noqa: F811
    """Its changes of that time are in the log without a key; read again, they are not needed."""
    away, back = identity.split("|")
    shop.sql(f"ALTER TABLE t {away}", "INSERT INTO t VALUES (50, 'n', 'n')", f"ALTER TABLE t {back}")
    before = shop.dump()
    done = shop.run()
    assert done.error is not None
    assert "reload it ('dpone cdc resync' or --full-refresh)" in done.error.message
    assert shop.dump() == before
    assert shop.dpone("cdc", "resync", str(shop.path), "--table", f"{shop.source.schema}.t")[0] == 0
    shop.loaded()
    shop.equal()


def test_a_composite_value_of_which_a_field_is_NULL_is_not_NULL(source: ChangeSource) -> None:
    """In the snapshot as in the stream; one whose fields are all NULL, too."""
    source.run("CREATE TYPE pair AS (a int, b text)", "CREATE TABLE t (id int PRIMARY KEY, p pair)")
    source.publish("t")
    source.run("INSERT INTO t VALUES (1, '(1,)'), (2, '(,)'), (3, NULL), (4, '(1,x)')")
    (_, streamed), (_, snapshot) = source.read(), source.read(initial="snapshot")
    for found in (streamed, snapshot):
        assert [(row["id"], row["p"]) for row in found["t"]] == [(1, "(1,)"), (2, "(,)"), (3, None), (4, "(1,x)")]
