"""Schema evolution on a real target: what is planned is what happens, and no value is lost on the way."""

from __future__ import annotations

import decimal
import re
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sqlite.target import KEY, MEMORY, Target, at, load, rows

from dpone.config.reader import load_pipeline
from dpone.connectors.sqlite.database import SqliteDialect
from dpone.contract import Part
from dpone.engine.run import run
from dpone.errors import DataError, SchemaBreak, SinkError
from dpone.model.evolution import Plan, SchemaComparator, inexact
from dpone.model.pipeline import Lineage, SchemaEvolution
from dpone.model.schema import DEFAULT, LINEAGE
from dpone.model.strategy import Strategy

APPEND = Strategy("append")
MERGE = Strategy("merge", key=("id",))
D = decimal.Decimal


def prices(type_: pa.DataType, *values: Any) -> pa.Table:
    return pa.table({"id": pa.array(range(len(values)), pa.int64()), "x": pa.array(values, type_)})


def test_ddl_shows_the_lineage_columns_that_a_target_lacks(target: Target) -> None:
    """The plan names every column that the load will add; opening the load adds none."""
    target.run("CREATE TABLE orders (id INTEGER, __dpone__load_id TEXT)")
    with closing(target.sink(APPEND)) as sink:
        assert sink.ddl([]) == ['ALTER TABLE "orders" ADD COLUMN "__dpone__loaded_at" TIMESTAMPTZ']
        with pytest.raises(SinkError, match="no column __dpone__loaded_at; apply the schema changes first"):
            sink.open(load(pa.schema({"id": pa.int64()}), APPEND))
        sink.apply(sink.ddl([]))
        assert sink.ddl([]) == []
    with closing(target.sink(APPEND, lineage=Lineage(False))) as sink:
        assert sink.ddl([]) == []


def test_what_fills_itself_is_told(target: Target) -> None:
    """A default, and a rowid under the name of a column, count as filled; a key of two columns does not."""
    target.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, a TEXT NOT NULL DEFAULT '', b TEXT NOT NULL, c TEXT)")
    target.run("CREATE TABLE pair (id INTEGER, k INTEGER, PRIMARY KEY (id, k))")
    for name, filled in (("orders", {"id", "a"}), ("pair", set())):
        with closing(Target(target.path, name).sink(APPEND)) as sink:
            schema = sink.schema()
            assert schema is not None
            assert {f.name for f in schema if DEFAULT in (f.metadata or {})} == filled


@pytest.mark.parametrize(
    "hanging",
    [
        "CREATE INDEX i ON orders (x)",
        "CREATE UNIQUE INDEX i ON orders (x)",
        "CREATE VIEW v AS SELECT x FROM orders",
        "CREATE TRIGGER r AFTER INSERT ON orders BEGIN UPDATE orders SET x = new.x WHERE id = -1; END",
    ],
)  # fmt: skip
def test_widening_a_column_that_something_hangs_on(target: Target, hanging: str) -> None:
    """An index, view or trigger on the column stops the widening in one line; rows, schema and journal stay."""
    target.load(prices(pa.decimal128(5, 2), D("1.50")), APPEND)
    target.run(hanging)
    before = target.dump()
    with pytest.raises(SinkError, match=r"^change the columns of orders: .*; drop the object in the way") as caught:
        target.load(prices(pa.decimal128(9, 4), D("2.1234")), APPEND)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert target.dump() == before


@pytest.mark.parametrize("column", ["x DECIMAL_TEXT(5,2) PRIMARY KEY", "x DECIMAL_TEXT(5,2) NOT NULL",
                                    "x DECIMAL_TEXT(5,2) DEFAULT '0.00'"])  # fmt: skip
def test_widening_a_column_whose_rule_would_get_lost(target: Target, column: str) -> None:
    """A key, NOT NULL or default that SQLite could not carry over stops the run before anything is done."""
    target.run(f"CREATE TABLE orders (id INTEGER, {column})", "INSERT INTO orders VALUES (1, '1.50')")
    before = target.dump()
    with pytest.raises(SchemaBreak, match=r"^widen column x of orders: .*; nothing was changed$"):
        target.load(prices(pa.decimal128(9, 4), D("2.1234")), APPEND, lineage=Lineage(False))
    assert target.dump() == before


def test_columns_that_a_table_has_no_room_for(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """New columns count with those that are there and dpone's own, a widened one does not; nothing is changed."""
    monkeypatch.setattr(SqliteDialect, "max_columns", 5)
    target.load(pa.table({"id": pa.array([1], pa.int32()), "a": ["x"]}), APPEND)
    wider = {"id": pa.array([2], pa.int64()), "a": ["x"], "b": ["y"]}
    target.load(pa.table(wider), APPEND)
    before = target.dump()
    with pytest.raises(SchemaBreak, match="6 columns including dpone's own, but a table can have at most 5; "):
        target.load(pa.table({**wider, "c": ["z"]}), APPEND)
    assert target.dump() == before


def test_widening_a_primary_key_that_dpone_made(target: Target) -> None:
    """A key that outgrows its type is refused in one line, and the loads before it stand."""
    target.load(prices(pa.string(), "a"), MERGE)
    before, grown = target.dump(), pa.table({"id": pa.array([D("1.5")], pa.decimal128(21, 2)), "x": ["b"]})
    with pytest.raises(
        SchemaBreak, match="widen column id of orders: SQLite cannot change the type of a column that is a key"
    ):
        target.load(grown, MERGE)
    assert target.dump() == before


# ---- a run

PIPELINE = """
pipeline: p
source: {type: sqlite, connection: "sqlite:///source.db", table: t}
sink:
  type: sqlite
  connection: "sqlite:///target.db"
  table: t
  strategy: {mode: full_refresh}
"""


def test_SE_01_a_breaking_change_leaves_rows_and_state_alone(tmp_path: Path) -> None:
    """A type change and a dropped column stop the run before the load: same rows, same journal, same state."""
    (tmp_path / "pipeline.yaml").write_text(PIPELINE, encoding="utf-8")
    source = Target(tmp_path / "source.db", "t")
    source.run("CREATE TABLE t (id INTEGER, a INTEGER, b TEXT)", "INSERT INTO t VALUES (1, 2, 'x')")
    pipeline = load_pipeline(tmp_path / "pipeline.yaml")
    assert run(pipeline).streams[0].status == "loaded"
    source.run("DROP TABLE t", "CREATE TABLE t (id INTEGER, a TEXT)", "INSERT INTO t VALUES (1, 'two')")
    before = [Target(path).dump() for path in (tmp_path / "target.db", tmp_path / ".dpone" / "state.db")]
    [stream] = run(pipeline).streams
    assert stream.status == "stopped"
    assert stream.error is not None
    assert (
        "column a is int64 in the target and string in the source, column b (string) is in the target but"
        in stream.error.message
    )
    after = [Target(path).dump() for path in (tmp_path / "target.db", tmp_path / ".dpone" / "state.db")]
    assert _of_loads(after) == _of_loads(before)


def _of_loads(dumps: list[list[str]]) -> list[list[str]]:
    """Without the locks, and without the log of runs."""
    return [[line for line in dump if not re.search("__dpone__(locks|runs)", line)] for dump in dumps]


def test_a_dry_run_shows_lineage_too(tmp_path: Path) -> None:
    """What a dry run prints for a table of somebody else is all that the run then does to it."""
    (tmp_path / "pipeline.yaml").write_text(PIPELINE.replace("full_refresh}", "append}"), encoding="utf-8")
    source, target = Target(tmp_path / "source.db", "t"), Target(tmp_path / "target.db", "t")
    source.run("CREATE TABLE t (id INTEGER, a INTEGER)", "INSERT INTO t VALUES (1, 2)")
    target.run("CREATE TABLE t (id INTEGER)")
    pipeline = load_pipeline(tmp_path / "pipeline.yaml")
    [planned] = run(pipeline, dry_run=True).streams
    assert [s.split("ADD COLUMN ")[1] for s in planned.ddl] == [
        '"a" INTEGER', '"__dpone__load_id" TEXT', '"__dpone__loaded_at" TIMESTAMPTZ',
    ]  # fmt: skip
    assert run(pipeline).streams[0].ddl == planned.ddl


# ---- random schemas

# A few values of each type, the widest among them, and how they stand in SQLite's own terms.
WHOLE = (0, -1, 127)
VALUES: Mapping[pa.DataType, tuple[Any, ...]] = {
    pa.bool_(): (True, False), pa.int8(): WHOLE, pa.int16(): (*WHOLE, -(2**15)), pa.int32(): (*WHOLE, 2**31 - 1),
    pa.int64(): (*WHOLE, 2**63 - 1), pa.uint8(): (0, 255), pa.uint32(): (0, 2**32 - 1),
    pa.float32(): (0.5, -1.25), pa.float64(): (0.1, 1e300),
    pa.decimal128(5, 0): (D("-99999"), D(0)), pa.decimal128(5, 2): (D("999.99"), D("-0.01")),
    pa.decimal128(12, 6): (D("-999999.999999"), D("0.000001")), pa.decimal128(38, 10): (D("1E+27"), D("1E-10")),
    pa.string(): ("", "a"), pa.large_string(): ("b",), pa.binary(): (b"", b"\x00"),
}  # fmt: skip
TYPES = sorted(VALUES, key=str)
FIELDS = st.builds(pa.field, st.sampled_from("abcde"), st.sampled_from(TYPES), st.booleans())
SCHEMAS = st.lists(FIELDS, min_size=1, max_size=4, unique_by=lambda f: f.name).map(pa.schema)
POLICIES = st.builds(
    SchemaEvolution,
    st.sampled_from(["widening", "widening", "additive", "strict"]),
    st.sampled_from(["fail", "new_column"]),
    st.sampled_from(["fail", "ignore"]),
)


def rows_of(schema: pa.Schema) -> pa.Table:
    """As many rows as the longest list of values; shorter ones go round."""
    count = max(len(VALUES[f.type]) for f in schema)
    columns = [[VALUES[f.type][i % len(VALUES[f.type])] for i in range(count)] for f in schema]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)


def plain(value: Any) -> Any:
    """A number by its value: SQLite has it as an integer, as a double, or as text of digits."""
    if isinstance(value, bool | int | float | D):
        return D(value)
    try:
        return D(value)
    except (ArithmeticError, TypeError, ValueError):
        return value


def compared(target: Target, source: pa.Schema, policy: SchemaEvolution) -> tuple[Plan, list[str]]:
    with closing(target.sink(APPEND, schema_evolution=policy)) as sink:
        have = sink.schema()
        bare = None if have is None else pa.schema([f for f in have if f.name not in LINEAGE])
        plan = SchemaComparator(policy, sink.stores).compare(bare, source)
        return plan, [] if plan.breaking else sink.ddl(plan.changes)


def apply(target: Target, ddl: list[str]) -> None:
    with closing(target.sink(APPEND)) as sink:
        sink.apply(ddl)


def append(target: Target, table: pa.Table, policy: SchemaEvolution) -> None:
    """Stage and commit without evolving: what was applied must be enough."""

    with closing(target.sink(APPEND, schema_evolution=policy)) as sink:
        writer = sink.open(load(table.schema, APPEND))
        writer.stage(Part("all"), rows(table))
        writer.commit(sink.journal(KEY), at())


@settings(max_examples=60)
@given(st.lists(SCHEMAS, min_size=1, max_size=4), POLICIES)
def test_evolution_is_a_fixpoint_and_keeps_every_value(rounds: list[pa.Schema], policy: SchemaEvolution) -> None:
    """Plan, apply, plan again: nothing is left; every row before is there after, by value; and the rows load.
    Where a whole number meets a double, or a row is looked at before it is changed, the load may be refused, and then
    nothing is changed."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        expected: list[dict[str, Any]] = []
        for source in rounds:
            given_as = source.serialize().to_pybytes()
            plan, ddl = compared(target, source, policy)
            assert source.serialize().to_pybytes() == given_as
            if plan.breaking:
                with pytest.raises(SchemaBreak):
                    plan.require_safe("t")
                continue
            if any(change.looks for change in plan.changes):
                try:
                    apply(target, ddl)
                except SchemaBreak:
                    assert stored(target) == [{n: row.get(n) for n in stored_names(target)} for row in expected]
                    continue
            else:
                apply(target, ddl)
            again, nothing = compared(target, source, policy)
            assert (again.changes, again.breaking, nothing) == ((), (), [])
            assert again.columns == plan.columns
            table = rows_of(source)
            into = table.rename_columns([plan.columns[n] for n in table.column_names])
            with closing(target.sink(APPEND)) as sink:
                have = sink.schema()
            assert have is not None
            if any(inexact(f.type, have.field(f.name).type) for f in into.schema):  # each value is looked at
                with suppress(DataError):
                    append(target, into, policy)
                    expected += [{plan.columns[n]: plain(v) for n, v in row.items()} for row in table.to_pylist()]
                assert stored(target) == [{n: row.get(n) for n in stored_names(target)} for row in expected]
                continue
            append(target, into, policy)
            expected += [{plan.columns[n]: plain(v) for n, v in row.items()} for row in table.to_pylist()]
            assert stored(target) == [{n: row.get(n) for n in stored_names(target)} for row in expected]


def stored_names(target: Target) -> list[str]:
    return [n for (n,) in target.query("SELECT name FROM pragma_table_info('orders')") if n not in LINEAGE]


def stored(target: Target) -> list[dict[str, Any]]:
    names = stored_names(target)
    columns = ", ".join(f'"{n}"' for n in names)
    return [dict(zip(names, map(plain, row), strict=True)) for row in target.rows(columns)]
