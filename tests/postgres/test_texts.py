"""A value has one text, by whichever way it is read: a table by columns, a query by rows, the snapshot of a stream and
the stream itself. A pipeline that is changed from one to the other would else double a key, or change a value."""

from __future__ import annotations

from typing import Any

import psycopg
import pyarrow as pa
import pytest
from tests.postgres.stream import ChangeSource
from tests.postgres.target import Target
from tests.postgres.test_own_types import EXTENSIONS, OWN
from tests.postgres.test_types import SPECIMENS

pytestmark = pytest.mark.postgres

# Beside those that the tests of types have: casts to text that say something else than the output function.
MORE: dict[str, tuple[str, ...]] = {
    "date": ("'2024-02-29'", "'0001-01-01'", "'9999-12-31'"),  # those that Python has
    "timestamp": ("'2024-02-29 12:34:56.789012'", "'0001-01-01'"),
    "inet": ("'10.0.0.1'", "'10.0.0.1/32'", "'10.0.0.1/8'", "'::1'", "'::1/128'", "'::ffff:10.0.0.1'"),
    "cidr": ("'10.0.0.0/8'", "'10.0.0.1'", "'::1'"),
    "macaddr": ("'08:00:2b:01:02:03'",),
    "address": ("'10.0.0.1'",),
    "address[]": ("'{10.0.0.1,NULL}'",),
    "inet[]": ("'{10.0.0.1,::1/64}'",),
    "hosts": ("ROW(1, '10.0.0.1')", "ROW(NULL, '10.0.0.1')", "ROW(NULL, NULL)", "ROW(2, NULL)"),
    "bpchar": ("'a '",),
    "character(5)": ("'ab'", "''"),
    '"char"': ("'x'", "''"),
    "bit varying": ("B''", "B'101'"),
    "interval": ("'1 day'", "'24:00:00'", "'-1 mons +3 days -04:05:06.000007'"),
    "time with time zone": ("'12:00:00.5+05:30'", "'24:00:00-08'"),
    "regclass": ("'pg_class'", "'pg_catalog.pg_type'"),
    "money": ("'-1234.50'",),
    "xid": ("'3'",),
    "labelled": ("'a'",),
    "box": ("'(1,2),(0,0)'",),
    "jsonb": ('\'{"b": 1, "a": [1.10, null]}\'', "'null'"),
    "boolean[]": ("'{t,NULL,f}'",),
}
SPECIAL = {
    "date": ("'infinity'",), "timestamp": ("'-infinity'",), "timestamptz": ("'infinity'", "'2024-01-01 00:00+01'"),
    "time": ("'24:00'",), "numeric(12,2)": ("'NaN'", "1.5"),
}  # fmt: skip
CASES = [
    *(pytest.param(t, v, False, id=t) for t, v in {**SPECIMENS, **OWN, **EXTENSIONS, **MORE}.items()),
    *(pytest.param(t, v, True, id=f"special {t}") for t, v in SPECIAL.items()),
]


@pytest.fixture
def typed(source: ChangeSource) -> ChangeSource:
    source.run(
        "CREATE TYPE mood AS ENUM ('sad', 'o k', 'o \"k')",
        "CREATE DOMAIN posint AS integer CHECK (VALUE > 0)",
        "CREATE DOMAIN shortname AS varchar(3)",
        "CREATE TYPE twin AS (a int, b int)",
        "CREATE TYPE place AS (n int, t text, m mood[], p twin)",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE DOMAIN few AS integer[] CHECK (array_length(VALUE, 1) < 4)",
        "CREATE TYPE floats AS RANGE (subtype = float8)",
        "CREATE DOMAIN address AS inet",
        "CREATE TYPE hosts AS (n int, i inet)",
        "CREATE TYPE labelled AS ENUM ('a')",
        "CREATE FUNCTION label(labelled) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'label' $$",
        "CREATE CAST (labelled AS text) WITH FUNCTION label(labelled)",
    )
    return source


@pytest.mark.parametrize(("type_", "values", "special"), CASES)
def test_OUT_10_a_value_has_one_text_by_every_way_of_reading(
    typed: ChangeSource, type_: str, values: tuple[str, ...], special: bool
) -> None:
    """Table, query, snapshot and stream, as Arrow values; NULL is NULL, and a composite of NULLs is not."""
    source = typed
    if type_ in EXTENSIONS:
        try:
            source.run(*(f"CREATE EXTENSION IF NOT EXISTS {name} SCHEMA public" for name in ("hstore", "citext")))
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("the server lacks the contributed extensions")
        source.run("CREATE DOMAIN folded AS public.citext")
    options: dict[str, Any] = {"special_values": "text"} if special else {}
    fill = [
        "INSERT INTO TABLE_ VALUES (0, NULL)",
        *(f"INSERT INTO TABLE_ VALUES ({i}, {v})" for i, v in enumerate(values, 1)),
    ]
    path = f"SET search_path = {source.schema}, public"
    source.run(path, *(f"CREATE TABLE {t} (id int PRIMARY KEY, v {type_})" for t in ("old", "new", "orders")))
    source.run(path, *(one.replace("TABLE_", t) for t in ("old", "orders") for one in fill))
    source.publish("old", "new")
    target = Target(source.server, source.schema)
    rows = {
        "table": values_of(target.read(**options)),
        "query": values_of(target.read(query=f"SELECT * FROM {source.schema}.orders", **options)),
    }
    _, found = source.read(table="old", initial="snapshot", **options)
    rows["snapshot"] = {row["id"]: row["v"] for row in found["old"]}
    window, _ = source.read(table="new", initial="none", **options)
    source.run(path, *(one.replace("TABLE_", "new") for one in fill))
    _, found = source.read(window.position, table="new", **options)
    rows["stream"] = {row["id"]: row["v"] for row in found["new"]}
    assert repr(rows["table"]) == repr(rows["query"]) == repr(rows["snapshot"]) == repr(rows["stream"])
    assert [key for key, value in rows["table"].items() if value is None] == [0]


def values_of(table: pa.Table) -> dict[int, Any]:
    table = table.sort_by("id")
    return dict(zip(table.column("id").to_pylist(), table.column("v").to_pylist(), strict=True))
