"""The tables that dpone keeps beside a target: a later version finds what an earlier one wrote by these names."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
from tests.partition.stores import manifest, store
from tests.sql.stream import Change, deliver
from tests.sqlite.target import Target, load

from dpone.model.changes import ChangeTable
from dpone.model.evolution import SchemaChange as Drift
from dpone.model.pipeline import Undo
from dpone.model.strategy import Strategy

ORDERS = ChangeTable(pa.schema([("id", pa.int64()), ("x", pa.string())]), ("id",))
COLUMNS = {
    "__dpone__loads": "key seq epoch load_id run_id token position rows committed_at kept undoes",
    "__dpone__staging": "stage key load_id token created_at unique",
    "__dpone__parts": "stage part rows bytes filtered quarantined checks",
    "__dpone__targets": "target load_id",
    "__dpone__columns": "target column since",
    "__dpone__commits": "target stream commit at",
    "__dpone__added": "target column key run_id made",
    "__dpone__manifests": "key manifest",
    "__dpone__partitions": "key ordinal id bounds status rows_extracted rows_loaded bytes artifact checksum attempts "
    "error reason owner expires_at",
}


def test_tables_that_are_kept_have_the_columns_they_always_had(tmp_path: Path) -> None:
    """Of the journal, open loads, undo, versions, what was added, and partition manifests; a new column comes last."""
    plain, versions = Target(tmp_path / "t.db"), Target(tmp_path / "t.db", "versions")
    table = pa.table({"id": [1], "x": ["a"]})
    for _ in range(2):
        plain.load(table, Strategy("merge", key="id"), undo=Undo(loads=2))
    history = Target(tmp_path / "t.db", "history")
    for rows in (table, table.append_column("new", pa.array([7]))):  # a column that came to rows that are there
        history.load(rows, Strategy("scd2", key="id"))
    deliver(versions, ORDERS, [Change("insert", (1, "a"))], Strategy("scd2", key="id"))
    with closing(plain.sink(Strategy("append"))) as sink:
        wider = table.schema.append(pa.field("new", pa.int64()))
        sink.provide(load(wider, Strategy("append")), sink.ddl([Drift("add", "new", after=wider.field("new"))]))
    store("sqlite", tmp_path).create(manifest())
    found: dict[str, str] = {}
    for path in tmp_path.glob("*.db"):
        of = Target(path)
        for name in of.tables():
            if name in COLUMNS:
                found[name] = " ".join(one for (one,) in of.query("SELECT name FROM pragma_table_info(?)", name))
    assert found == COLUMNS
