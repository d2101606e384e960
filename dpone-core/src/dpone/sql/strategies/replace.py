"""replace and partition_replace: the staged rows replace the rows that match a predicate, or those of the staged
partitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dpone.errors import DataError, counted
from dpone.model.strategy import Strategy
from dpone.sql.dialect import Database, Dialect
from dpone.sql.strategies.job import RowCounts, StagedLoad, count_rows, swap_or_insert


def replace(db: Database, job: StagedLoad) -> RowCounts:
    """Rows outside the predicate are refused: the next replace would not delete them, and would duplicate them."""
    inside, values = predicate(job.dialect, job.strategy, job.schema, "s")
    outside = f"SELECT COUNT(*) FROM {job.source} AS s WHERE CASE WHEN {inside} THEN 0 ELSE 1 END = 1"
    if strays := count_rows(db, outside, values):
        found = (
            f"{strays:,} of {counted(job.rows, 'row')} do not match strategy.where ({', '.join(job.strategy.where)})"
        )
        raise DataError(f"replace rows of {job.target}", found, "read only rows that match it, or correct where")
    deleted = delete_replaced(db, job)
    return RowCounts(inserted=swap_or_insert(db, job), deleted=deleted)


def partition_replace(db: Database, job: StagedLoad) -> RowCounts:
    """With ``strategy.where`` every partition in that range is replaced, even one without staged rows; otherwise only
    partitions that have staged rows."""
    if job.strategy.where:
        return replace(db, job)
    assert job.strategy.partition is not None
    d, name = job.dialect, job.strategy.partition
    staged, type_ = f"s.{d.quote(name)}", job.schema.field(name).type
    column, image = d.exact(f"t.{d.quote(name)}", type_), d.exact(staged, type_)
    values = f"{column} IN (SELECT {image} FROM {job.source} AS s WHERE {staged} IS NOT NULL)"
    null = f"(t.{d.quote(name)} IS NULL AND EXISTS (SELECT 1 FROM {job.source} AS s WHERE {staged} IS NULL))"
    replaced = f"{values} OR {null}"
    job.keep(replaced)
    deleted = db.execute(d.delete_from(job.target, replaced))
    return RowCounts(inserted=swap_or_insert(db, job), deleted=deleted)


def predicate(d: Dialect, strategy: Strategy, schema: pa.Schema, alias: str) -> tuple[str, tuple[Any, ...]]:
    """``strategy.where`` as a condition over columns of ``schema``, and its parameters."""
    terms: list[str] = []
    values: list[Any] = []
    for name, wanted in strategy.where.items():
        type_ = schema.field(name).type
        column = d.ordered(f"{alias}.{d.quote(name)}", type_)
        if wanted is None:
            terms.append(f"{column} IS NULL")
            continue
        bounds = wanted.items() if isinstance(wanted, Mapping) else [("=", wanted)]
        for bound, value in bounds:
            terms.append(f"{column} {({'from': '>=', 'to': '<', '=': '='})[bound]} {d.placeholder}")
            values.append(d.bind(value, type_))
    return " AND ".join(terms), tuple(values)


def delete_replaced(db: Database, job: StagedLoad) -> int:
    inside, values = predicate(job.dialect, job.strategy, job.schema, "t")
    job.keep(inside, values)
    return db.execute(job.dialect.delete_from(job.target, inside), values)
