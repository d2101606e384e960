"""``dpone schema-plan`` compares two files of columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.cli.schemas import require_valid

from dpone.certify.matrix import type_matrix
from dpone.connectors.sqlite.database import SqliteDialect
from dpone.model.types import (
    JSON,
    UUID,
    arrow,
    standard,
)
from dpone.plugins import discover

Dpone = Callable[..., Any]
Planned = Callable[..., Any]


@pytest.fixture
def planned(tmp_path: Path, dpone: Dpone) -> Planned:
    """Plan with these columns, each (name, type) or (name, type, nullable)."""

    def run(target: list[tuple[Any, ...]], source: list[tuple[Any, ...]], *options: str) -> Any:
        files = []
        for name, columns in (("source", source), ("target", target)):
            listed = [dict(zip(("name", "type", "nullable"), column, strict=False)) for column in columns]
            (tmp_path / f"{name}.json").write_text(json.dumps(listed), encoding="utf-8")
            files += [f"--{name}", tmp_path / f"{name}.json"]
        done = dpone("schema-plan", *files, "--table", "dbo.orders", *options)
        if "json" in options:
            require_valid("schema-plan.json" if done.exit_code != 2 else "error.json", done.json)
        return done

    return run


def test_the_command_of_the_page(tmp_path: Path, process: Callable[..., Any]) -> None:
    """As the page on production readiness writes it, two-part table name included, in a process of its own."""
    (tmp_path / "source-columns.json").write_text('{"columns": [{"name": "id", "type": "bigint"}]}', encoding="utf-8")
    (tmp_path / "target-columns.json").write_text('[{"name": "id", "type": "numeric(10,2)"}]', encoding="utf-8")
    done = process(
        *["schema-plan", "--source", "source-columns.json", "--target", "target-columns.json"],
        *["--table", "dbo.orders", "--mode", "widening", "--format", "json"],
    )
    assert (done.exit_code, done.err) == (0, "")
    assert done.json["ddl"][0] == 'ALTER TABLE "dbo"."orders" ADD COLUMN "__dpone__wide__id" DECIMAL_TEXT(21,2)'


def test_the_shape_of_the_json(planned: Planned) -> None:
    """The whole output, key by key: it is an interface."""
    done = planned([("id", "int", False)], [("id", "bigint", False), ("note", "varchar(50)")], "--format", "json")
    add = 'ALTER TABLE "dbo"."orders" ADD COLUMN "note" TEXT'
    int_, bigint = {"type": "int32", "native": "int", "nullable": False}, {"type": "int64", "native": None}
    note = {"type": "string", "native": "varchar(50)", "nullable": True}
    assert done.json == {
        "table": "dbo.orders",
        "dialect": "sqlite",
        "mode": "widening",
        "on_type_change": "fail",
        "on_missing_column": "fail",
        "compatible": True,
        "changes": [
            {"kind": "widen", "column": "id", "before": int_, "after": {**bigint, "nullable": False}, "ddl": [],
             "rewrites": None},
            {"kind": "add", "column": "note", "before": None, "after": note, "ddl": [add], "rewrites": None},
        ],
        "breaking": [],
        "ddl": [add],
        "columns": {"id": "id", "note": "note"},
    }  # fmt: skip


def test_breaking_changes_are_in_both_formats(planned: Planned) -> None:
    """Exit 3, each breaking change with the option that would allow it, and no DDL that a run would execute."""
    columns = [("a", "int"), ("b", "text")], [("a", "text"), ("c", "date")]
    shown = planned(*columns, "--format", "json")
    route, ignore = "schema_evolution.on_type_change: new_column", "schema_evolution.on_missing_column: ignore"
    assert shown.exit_code == 3
    found = [(c["kind"], c["column"], c["allow"]) for c in shown.json["breaking"]]
    assert found == [("type", "a", route), ("drop", "b", ignore)]
    assert (shown.json["compatible"], shown.json["ddl"]) == (False, [])
    text = planned(*columns)
    assert text.exit_code == 3
    lines = [line.strip() for line in text.out.splitlines()]
    assert lines[lines.index("BREAKING  type a int -> text") + 1] == f"to allow: {route}"
    assert lines[lines.index("BREAKING  drop b text") + 1] == f"to allow: {ignore}"
    assert lines[-1] == "2 breaking changes: a run would stop with exit code 3 and change nothing"


def test_the_options_allow_what_they_say(planned: Planned) -> None:
    """The options that the plan names make it pass; a key column stays protected."""
    columns = [("a", "int"), ("b", "text")], [("a", "text"), ("c", "date")]
    options = ("--on-type-change", "new_column", "--on-missing-column", "ignore", "--format", "json")
    done = planned(*columns, *options)
    assert (done.exit_code, done.json["columns"]) == (0, {"a": "__dpone__nc__a", "c": "c"})
    assert planned(*columns, *options, "--key", "a").exit_code == 3
    assert "no column z" in planned(*columns, *options, "--key", "z").error


@pytest.mark.parametrize(
    ("target", "source", "mode", "kinds"),
    [
        ("bigint", "int", "widening", []), ("int", "bigint", "widening", ["widen"]), ("int", "bigint", "additive", [3]),
        ("varchar(50)", "text", "widening", ["widen"]), ("varchar(200)", "varchar(50)", "widening", []),
        ("real", "double precision", "widening", ["widen"]), ("real", "double precision", "additive", [3]),
        ("double precision", "real", "strict", [3]), ("timestamp", "timestamptz", "widening", [3]),
        ("timestamp with time zone", "timestamp without time zone", "widening", [3]),
        ("numeric(10,2)", "numeric(18,6)", "widening", ["widen"]), ("bigint", "int64", "strict", []),
        ("int", "text", "widening", [3]),
    ],
)  # fmt: skip
def test_types(planned: Planned, target: str, source: str, mode: str, kinds: list[Any]) -> None:
    """A wider target is no change, a wider source a widening; real and double, and timestamps with and without a zone,
    are never taken for equal."""
    done = planned([("a", target)], [("a", source)], "--mode", mode, "--format", "json")
    assert ([3] if done.exit_code else [c["kind"] for c in done.json["changes"]]) == kinds


def test_a_widening_that_looks_says_so(planned: Planned) -> None:
    """The plan shows the SELECT that must find no row, before the statements that change the column."""
    columns = [("a", "bigint"), ("d", "date")], [("a", "double precision"), ("d", "timestamp")]
    done = planned(*columns, "--format", "json")
    looks = [change["ddl"][0] for change in done.json["changes"]]
    number = """SELECT 'a', 'double', COUNT(*) FROM "dbo"."orders" AS t WHERE t."a" NOT BETWEEN """
    assert looks[0] == f"{number}-9007199254740992 AND 9007199254740992"
    assert looks[1].startswith(
        """SELECT 'd', 'timestamp[us]', COUNT(*) FROM "dbo"."orders" AS t WHERE t."d" NOT GLOB"""
    )
    assert "safe      widen a bigint -> double, if all rows fit" in planned(*columns).out


def test_strict_tells_of_nullability(planned: Planned) -> None:
    """NOT NULL on one side only is drift."""
    done = planned([("a", "int", False)], [("a", "int", True)], "--mode", "strict")
    assert done.exit_code == 3
    assert "BREAKING  null a not null -> nullable" in done.out


def test_a_table_that_does_not_exist_is_created(planned: Planned) -> None:
    """An empty list of target columns stands for no table; --key makes the primary key."""
    done = planned([], [("id", "bigint"), ('Na"me', "text")], "--key", "id", "--format", "json")
    create = 'CREATE TABLE "dbo"."orders" ("id" INTEGER NOT NULL, "Na""me" TEXT, PRIMARY KEY ("id"))'
    assert (done.exit_code, done.json["ddl"]) == (0, [create])


def test_no_change(planned: Planned) -> None:
    """Alike is said in one line, exit 0."""
    done = planned([("a", "int")], [("a", "integer")])
    assert (done.exit_code, done.out.splitlines()[-1]) == (0, "no changes")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no such file"), ("{", "not JSON"), ("{}", "list of columns"), ("[]", "list of columns is empty"),
        ('"x"', "not contain a list"), ('{"columns": [], "more": 1}', "not contain a list"),
        ("[1]", "column 1 is not an object with name and type"), ('[{"name": "a"}]', "column 1 is not an object"),
        ('[{"name": "a", "type": "int", "nulable": true}]', "unknown keys: 'nulable'"),
        ('[{"name": "a", "type": "int", "nullable": "YES"}]', "nullable true or false"),
        ('[{"name": "", "type": "int"}]', "must be strings"), ('[{"name": "a", "type": 5}]', "must be strings"),
        ('[{"name": "a", "type": "point"}]', "column 'a' has the unknown type 'point'"),
        ('[{"name": "a", "type": "numeric"}]', "unknown type 'numeric'"),
        ('[{"name": "a", "type": "numeric(2,5)"}]', "unknown type"),
        ('[{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]', "column 'a' twice"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path: Path, dpone: Dpone, text: str | None, found: str) -> None:
    """Missing, malformed or ambiguous: one line that names the file and the place, exit 2."""
    source, target = tmp_path / "source.json", tmp_path / "target.json"
    target.write_text('[{"name": "a", "type": "int"}]', encoding="utf-8")
    if text is not None:
        source.write_text(text, encoding="utf-8")
    done = dpone("schema-plan", "--source", source, "--target", target, "--table", "t")
    assert done.exit_code == 2
    assert "source.json" in done.error
    assert found in done.error


def test_columns_that_differ_by_case_are_breaking(planned: Planned) -> None:
    """SE-03: also between the two files; the files themselves are valid."""
    done = planned([("id", "int")], [("ID", "int")], "--format", "json")
    assert (done.exit_code, [c["kind"] for c in done.json["breaking"]]) == (3, ["case"])


SQL_SINKS = [name for name in discover().names("sink") if discover().supports("sink", name, "sql")]


@pytest.mark.parametrize("dialect", SQL_SINKS)
def test_every_sql_sink_has_a_plan(planned: Planned, dialect: str) -> None:
    """Of every type that the sink stores a table is created, in quotes of its own, and to a table with only the key all
    columns are added; nothing is connected to."""
    types = [row.type for row in type_matrix(dialect) if row.fidelity not in ("refused", "lossy") and arrow(row.type)]
    assert len(types) > 15
    columns: list[tuple[Any, ...]] = [("id", "bigint", False), *((f"c {i}", one) for i, one in enumerate(types))]
    options = ("--dialect", dialect, "--key", "id", "--format", "json")
    created = planned([], columns, *options)
    assert (created.exit_code, created.json["dialect"]) == (0, dialect)
    text = " ".join(created.json["ddl"])
    assert all(re.search(rf'["`\[]{name}["`\]]', text) for name, *_ in columns), text
    added = planned(columns[:1], columns, *options)
    assert (added.exit_code, [one["kind"] for one in added.json["changes"]]) == (0, ["add"] * len(types))
    assert all(one["ddl"] for one in added.json["changes"])
    stopped = planned([*columns, ("more", "text")], columns, *options)
    assert (stopped.exit_code, stopped.json["ddl"]) == (3, [])


THIRD_PARTY = """
import dpone
from dpone.capability import Connector, declare
from dpone.connectors.sqlite.database import SqliteDatabase, SqliteDialect
from dpone.connectors.sqlite.plugin import dpone_sinks as of_sqlite
from dpone.connectors.sqlite.sink import SqliteSink
from attrs import evolve

class Dialect(SqliteDialect):
    def quote(self, name): return f"[{name}]"

class Sink(SqliteSink):
    dialect = Dialect()

@dpone.hookimpl
def dpone_sinks():
    [made] = of_sqlite()
    return [evolve(made, name="zz_sql", implementation="zz_sql:Sink", example="sqlite:///zz.db")]
"""


def test_the_dialect_of_another_plugin_is_discovered(
    planned: Planned, install: Callable[[str, str], Path], dpone: Dpone
) -> None:
    """A SQL sink that somebody installed has a plan in its own dialect, without a change here."""
    install("zz_sql", THIRD_PARTY)
    done = planned([("a", "int")], [("a", "int"), ("b", "text")], "--dialect", "zz_sql", "--format", "json")
    assert done.json["ddl"] == ["ALTER TABLE [dbo].[orders] ADD COLUMN [b] TEXT"]
    assert "use one of postgres, sqlite, zz_sql" in planned([], [("a", "int")], "--dialect", "file").error


@pytest.mark.parametrize(
    ("dialect", "found"),
    [
        ("file", "is not a SQL database; use one of postgres, sqlite"),
        ("mssql", "this version has no sink for mssql; use one of postgres, sqlite"), ("nope", "is not installed"),
    ],
)  # fmt: skip
def test_a_dialect_that_is_none(planned: Planned, dialect: str, found: str) -> None:
    """Only a SQL sink has statements to print."""
    done = planned([("a", "int")], [("a", "int")], "--dialect", dialect)
    assert done.exit_code == 2
    assert found in done.error


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("INT", pa.int32()), ("Double  Precision", pa.float64()), ("float(24)", pa.float32()), ("float", pa.float64()),
        ("numeric(10)", pa.decimal128(10, 0)), ("decimal(50, 4)", pa.decimal256(50, 4)), ("numeric", None),
        ("timestamp(6) with time zone", pa.timestamp("us", "UTC")), ("datetime2(7)", pa.timestamp("ns")),
        ("time(3)", pa.time64("us")), ("timestamp(12)", None), ("nvarchar(max)", pa.string()), ("int(5)", None),
        ("varbinary(20)", pa.binary()), ("jsonb", JSON), ("uniqueidentifier", UUID), ("int64", None), ("date(", None),
        ("text with time zone", None), ("", None), ("varchar(1,2)", None),
    ],
)  # fmt: skip
def test_standard_names(name: str, type_: pa.DataType | None) -> None:
    """Names that servers share mean what the standard says; anything else is unknown rather than guessed."""
    assert standard(name) == type_


@pytest.mark.parametrize("type_", [pa.int8(), pa.float16(), pa.decimal128(10, 2), pa.decimal256(50, 4), pa.string(),
                                   pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("us"), pa.date32(), JSON, UUID,
                                   pa.large_binary(), pa.duration("us"), pa.time64("us")])  # fmt: skip
def test_arrow_names(type_: pa.DataType) -> None:
    """A type is read by the name Arrow prints."""
    assert arrow(str(type_)) == type_


def test_names_of_a_dialect() -> None:
    """What SQLite's sink writes is read too; words that SQLite would take for a type by a part of them are not."""
    assert SqliteDialect().reads("DECIMAL_TEXT(9,2)") == pa.decimal128(9, 2)
    assert SqliteDialect().reads("DURATION_US") == pa.duration("us")
    assert SqliteDialect().reads("POINT") is None
