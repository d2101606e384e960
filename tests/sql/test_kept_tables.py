"""The tables that dpone keeps beside a target: a later version finds what an earlier one wrote by these names."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from tests.partition.stores import manifest
from tests.sql.stream import Change, deliver
from tests.sqlite.target import Target, load

from dpone.connectors.sqlite.state import SqliteState
from dpone.contract import Entry, UndoRecord
from dpone.model.changes import ChangeTable
from dpone.model.evolution import SchemaChange as Drift
from dpone.model.pipeline import StateSpec, Undo
from dpone.model.position import Position
from dpone.model.run_record import Process, RunRecord
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.sql.journal import Journal

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
    "__dpone__state": "key version value saved_at",
    "__dpone__state_history": "key version value saved_at",
    "__dpone__locks": "key owner host machine pid started expires",
    "__dpone__runs": "pipeline run_id began record report",
}
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_tables_that_are_kept_have_the_columns_they_always_had(tmp_path: Path) -> None:
    """Of the journal, open loads, undo, versions, what was added, and a state backend; a new column comes last."""
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
    state = SqliteState(StateSpec("sqlite", Secret(f"sqlite:///{tmp_path / 'state.db'}"), base=tmp_path))
    state.partitions().create(manifest())
    state.run_log().begin(RunRecord("RUN", "p", AT, Process.this(), 0.0))
    with state.lock("k", 60):
        state.save("k", {"n": 1}, 0)
    found: dict[str, str] = {}
    for path in tmp_path.glob("*.db"):
        of = Target(path)
        for name in of.tables():
            if name in COLUMNS:
                found[name] = " ".join(one for (one,) in of.query("SELECT name FROM pragma_table_info(?)", name))
    assert found == COLUMNS


def test_an_entry_has_the_names_it_always_had(tmp_path: Path) -> None:
    """Beside the counts of a load, how many rows which table had after it; what is kept to take the load back."""
    target = Target(tmp_path / "t.db")
    with closing(target.sink(Strategy("merge", key="id"))) as sink:
        journal = Journal(sink._db, Name(("orders",)))
        journal.create()
        kept = (UndoRecord("orders", "generation", "u", 5, 6, {"id": "int64"}, ("id",), "LAST"),)
        counts = {"inserted": 1, "updated": 2}
        journal.append("k", Entry(1, 0, "LOAD", "RUN", "TOKEN", Position("test", {}, {}, 0), AT, counts, kept, "", 7))
    assert target.query("SELECT rows, kept, committed_at FROM __dpone__loads") == [
        (
            '{"held": 7, "inserted": 1, "target": "orders", "updated": 2}',
            '[{"columns": {"id": "int64"}, "key": ["id"], "kind": "generation", "name": "u", "previous": "LAST", '
            '"rows": 5, "target": "orders", "written": 6}]',
            "2026-01-02T03:04:05.000000+00:00",
        )
    ]
