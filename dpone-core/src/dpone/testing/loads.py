"""One load through a sink's contract, as the engine does it: evolve, open, stage, commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from attrs import evolve

from dpone.capability import Role
from dpone.contract import Entry, Load, Part, Receipt, Sink, Stream, SupportsSql, SupportsTakeBack
from dpone.model import evolution
from dpone.model.ids import ulid
from dpone.model.pipeline import SinkSpec
from dpone.model.position import Position
from dpone.model.schema import DELETED_AT, LINEAGE, VALIDITY
from dpone.model.strategy import Strategy
from dpone.plugins import discover
from dpone.testing.harness import TABLE, Harness
from dpone.testing.rows import Rows

FULL, APPEND = Strategy("full_refresh"), Strategy("append")
SINGLE = {  # a strategy of each mode, for rows of ``rows.SHAPE``
    "full_refresh": FULL,
    "append": APPEND,
    "merge": Strategy("merge", key="id"),
    "replace": Strategy("replace", where={"day": "d1"}),
    "partition_replace": Strategy("partition_replace", partition="day"),
    "snapshot_diff": Strategy("snapshot_diff", key="id", max_delete_share=1.0),
    "scd2": Strategy("scd2", key="id"),
}


def key(table: str = TABLE) -> str:
    return f"kit|stream|source|{table}"


def at(n: int, epoch: int = 0) -> Position:
    return Position("kit", {"of": "kit"}, {"n": n}, epoch)


def has(harness: Harness, capability: str) -> bool:
    return harness.declared("sink", capability) == "supported"


def simple(harness: Harness) -> Strategy:
    """A strategy of the sink that adds rows to an empty target."""
    for mode in ("append", "merge", "full_refresh"):
        if has(harness, mode):
            return SINGLE[mode]
    return APPEND


def waiting(harness: Harness, role: Role, **limits: Any) -> Any:
    """The spec of a role with these options, for ``Harness.stuck``."""
    if role == "state":
        spec: Any = harness.state()
    else:
        spec = harness.sink(simple(harness)) if role == "sink" else harness.source()
    return evolve(spec, options=evolve(spec.options, **limits))


def new_load(schema: pa.Schema | None, strategy: Strategy, table: str = TABLE, **changes: Any) -> Load:
    given: dict[str, Any] = {
        "key": key(table),
        "load_id": ulid(),
        "run_id": ulid(),
        "token": "token",
        "repeatable": False,
        "whole": not changes.get("changes"),  # of a change stream it would mean: replace what is there
        "started_at": datetime.now(UTC),
    }
    return Load(schema=schema, strategy=strategy, **{**given, **changes})


def prepare(sink: Sink, spec: SinkSpec, schema: pa.Schema, load: Load | None = None) -> evolution.Plan:
    """Make the target fit the rows, by the policy of the sink's options; for ``load``, if the sink can note that."""
    have, strategy = sink.schema(), spec.strategy
    own = (*LINEAGE, DELETED_AT, *(VALIDITY if strategy.mode == "scd2" else ()))
    bare = None if have is None else pa.schema([f for f in have if f.name not in own])
    sql = discover().offered(SupportsSql, sink, spec.type)
    too_long = sql.dialect.too_long if sql else evolution.any_length
    plan = evolution.plan(bare, schema, spec.options.schema_evolution, sink.stores, strategy.key, too_long)
    if have is None and sink.exists():  # it has no schema
        plan = evolve(plan, changes=())
    plan.require_safe(str(spec.table or spec.path or spec.topic))
    statements, taking = sink.ddl(plan.changes), discover().offered(SupportsTakeBack, sink, spec.type)
    if load is not None and taking is not None:
        taking.provide(load, statements)
    elif statements:
        sink.apply(statements)
    return plan


def head(harness: Harness, sink: Sink, key: str) -> Entry | None:
    """Of a key's journal; where the sink keeps none, the entry of the last load through here, as the engine has it."""
    if harness.plugins.get("sink", harness.connector).commit != "none":
        return sink.journal(key)
    return _kept(harness).get(key)


def _kept(harness: Harness) -> dict[str, Entry]:
    kept: dict[str, Entry] = vars(harness).setdefault("_heads", {})
    return kept


def load(
    harness: Harness,
    rows: pa.Table | Sequence[pa.Table],
    strategy: Strategy,
    table: str = TABLE,
    *,
    stream: Stream | None = None,
    n: int = 0,
    changes: Any = None,
    orders: Sequence[int] = (),
    **options: Any,
) -> Receipt:
    """One load of one part, or of a part for each table; aborted if it fails. ``orders``: of the parts' files.
    ``options``: of the sink, except ``load_id``, ``started_at``, ``whole``, which are the load's."""
    parts = [rows] if isinstance(rows, pa.Table) else list(rows)
    of_load = {name: options.pop(name) for name in ("load_id", "started_at", "whole") if name in options}
    spec = harness.sink(strategy, table, **options)
    with closing(harness.make("sink", spec)) as sink:
        prepare(sink, spec, parts[0].schema)
        with closing(sink.open(new_load(parts[0].schema, strategy, table, **of_load))) as writer:
            try:
                for i, part in enumerate(parts):
                    detail = {"order": orders[i]} if orders else {}
                    writer.stage(Part(f"p{i}", detail), stream or Rows(part))
                receipt: Receipt = writer.commit(head(harness, sink, key(table)), at(n), ())
                _kept(harness)[key(table)] = receipt.entry
                return receipt
            except BaseException:
                writer.abort()
                raise


@contextmanager
def providing(
    harness: Harness, strategy: Strategy, rows: pa.Table, table: str = TABLE, **given: Any
) -> Iterator[tuple[Sink, Any]]:
    """A sink and an open load of these rows; what the target lacks is added for this load."""
    spec, begun = harness.sink(strategy, table), new_load(rows.schema, strategy, table, **given)
    with closing(harness.make("sink", spec)) as sink:
        prepare(sink, spec, rows.schema, begun)
        with closing(sink.open(begun)) as writer:
            yield sink, writer


def failed(harness: Harness, strategy: Strategy, rows: pa.Table, dies: bool, table: str = TABLE) -> None:
    """A load that ends before its commit: by ``abort``, or, with ``dies``, without it."""
    with providing(harness, strategy, rows, table) as (_, writer):
        writer.stage(Part("p"), Rows(rows))
        if not dies:
            writer.abort()
