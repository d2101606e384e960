"""What the plan says of a change that rewrites the table, and what the server does."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from attrs import evolve as replace
from click.testing import CliRunner
from tests.postgres.target import Target

from dpone.cli.main import assemble
from dpone.model.evolution import SchemaChange, plan
from dpone.model.pipeline import SchemaEvolution
from dpone.model.schema import NATIVE
from dpone.model.strategy import Strategy

# type of the target, type of the source, what the target becomes, whether PostgreSQL writes the table anew
CHANGES = [
    ("varchar(3)", "varchar(5)", "character varying(5)", False),
    ("varchar(3)", "varchar", "text", False),
    ("varchar(3)", "text", "text", False),
    ("bit varying(3)", "bit varying(5)", "bit varying(5)", False),
    ("character(3)", "character(5)", "character(5)", True),
    ("numeric(5,2)", "numeric(9,2)", "numeric(9,2)", False),
    ("numeric(5,2)", "numeric(12,4)", "numeric(12,4)", True),
    ("smallint", "integer", "integer", True),
    ("integer", "bigint", "bigint", True),
    ("integer", "numeric(12,0)", "numeric(12,0)", True),
    ("real", "double precision", "double precision", True),
]
ADDED = [("text", False), ("numeric(5,2)", False), ("plain", None), ("positive", True)]


def _filenode(target: Target) -> int:
    [(number,)] = target.query("SELECT pg_relation_filenode('orders')")
    return int(number)


def _applied(target: Target) -> tuple[list[str], list[str], bool]:
    """The statements that bring ``orders`` to the columns of ``given``, what is said of them, and whether the server
    wrote the table anew."""
    before = _filenode(target)
    with (
        closing(replace(target, table="given").source()) as source,
        closing(target.sink(Strategy("append"), adopt_existing=True)) as sink,
    ):
        have, wanted = sink.schema(), source.schema()
        changes = plan(have, wanted, SchemaEvolution(), sink.stores).changes
        told = [sink.dialect.rewrites(change) for change in changes]
        statements = sink.ddl(changes)
        sink.apply(statements)
    return statements, [one for one in told if one], _filenode(target) != before


@pytest.mark.parametrize(("old", "new", "made", "rewritten"), CHANGES, ids=[f"{c[0]} to {c[1]}" for c in CHANGES])
def test_a_widening_that_rewrites_the_table_is_told(
    target: Target, old: str, new: str, made: str, rewritten: bool
) -> None:
    """The plan says of each change of a type what the server does: the table keeps its file, or gets a new one."""
    target.run(f"CREATE TABLE orders (v {old})", "INSERT INTO orders VALUES (NULL)", f"CREATE TABLE given (v {new})")
    statements, told, written = _applied(target)
    assert written is rewritten
    assert bool(told) is rewritten
    assert statements[0].endswith(f'ALTER COLUMN "v" TYPE {made}')


@pytest.mark.parametrize(("type_", "rewritten"), ADDED, ids=[a[0] for a in ADDED])
def test_a_new_column_of_a_constrained_domain_rewrites_the_table(
    target: Target, type_: str, rewritten: bool | None
) -> None:
    """A new column is a matter of the catalogue, unless its type is a domain with a constraint; whether a domain has
    one is not known without the server, so the plan says what if."""
    target.run(
        "CREATE DOMAIN plain AS integer", "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
        "CREATE TABLE orders (id int)", "INSERT INTO orders VALUES (1)", f"CREATE TABLE given (id int, v {type_})",
    )  # fmt: skip
    _, told, written = _applied(target)
    assert written is (rewritten or False)
    assert [("is a domain with a constraint" in one) for one in told] == ([] if rewritten is False else [True])


def test_lineage_and_constants_do_not_rewrite(target: Target) -> None:
    """The columns of the lineage are added to a table with rows, and its file stays."""
    target.run("CREATE TABLE orders (id int)", "INSERT INTO orders VALUES (1)", "CREATE TABLE given (id int)")
    statements, told, written = _applied(target)
    assert (len(statements), told, written) == (2, [], False)


def test_dpone_plan_says_it(tmp_path: Path, target: Target) -> None:
    """``dpone plan`` names the change beside its statement, in text and in JSON; no change of the catalogue."""
    target.run(
        "CREATE TABLE source (id bigint, v varchar(9))", "INSERT INTO source VALUES (1, 'a')",
        "CREATE TABLE orders (id integer, v varchar(3))",
    )  # fmt: skip
    url = target.server.url
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": url, "table": f"{target.schema}.source"},
        "sink": {
            "type": "postgres", "connection": url, "table": f"{target.schema}.orders", "strategy": {"mode": "append"}
        },
    }  # fmt: skip
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    locked = "while other sessions can neither read nor write (ACCESS EXCLUSIVE)"
    told = f"widen id int32 -> int64: every row and index, {locked}"
    shown = CliRunner().invoke(assemble(), ["plan", str(path)])
    assert [line.strip() for line in shown.output.splitlines() if "rewrites" in line] == [f"rewrites the table: {told}"]
    shown = CliRunner().invoke(assemble(), ["plan", str(path), "--format", "json"])
    assert json.loads(shown.stdout)["streams"][0]["rewrites"] == [told]


def columns(path: Path, **types: str) -> Path:
    path.write_text(json.dumps([{"name": name, "type": type_} for name, type_ in types.items()]))
    return path


def test_schema_plan_says_it_without_a_server(tmp_path: Path) -> None:
    """``dpone schema-plan --dialect postgres`` knows it from the names of the types alone."""
    source = columns(tmp_path / "s.json", a="bigint", b="varchar(9)", c="numeric(12,2)", d="varchar", e="numeric(9,4)")
    have = columns(tmp_path / "t.json", a="int", b="varchar(3)", c="numeric(9,2)", d="varchar(3)", e="decimal(7,2)")
    files = ["schema-plan", "--source", str(source), "--target", str(have), "--table", "s.t", "--dialect", "postgres"]
    shown = json.loads(CliRunner().invoke(assemble(), [*files, "--format", "json"]).stdout)
    assert [(c["column"], bool(c["rewrites"])) for c in shown["changes"]] == [
        ("a", True), ("b", False), ("c", False), ("d", False), ("e", True),
    ]  # fmt: skip
    assert [statement.rpartition(" TYPE ")[2] for statement in shown["ddl"]] == [
        "bigint", "varchar(9)", "numeric(12,2)", "text", "numeric(9,4)",
    ]  # fmt: skip
    assert CliRunner().invoke(assemble(), files).stdout.count("rewrites the table: every row and index") == 2


def test_sqlite_says_it_of_every_widening(tmp_path: Path) -> None:
    """A dialect that copies a column to widen it says so; the comparison of values of one type needs no statement."""
    from dpone.connectors.sqlite.database import SqliteDialect

    wider = SchemaChange("widen", "v", pa.field("v", pa.decimal128(9, 2)), pa.field("v", pa.decimal128(12, 4)))
    alike = SchemaChange(
        "widen", "v", pa.field("v", pa.int32()), pa.field("v", pa.int64(), metadata={NATIVE: b"bigint"})
    )
    assert [SqliteDialect().rewrites(change) for change in (wider, alike)] == ["every row", ""]
