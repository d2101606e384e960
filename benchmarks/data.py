"""Rows to measure with: orders of ten columns, the same at every call. ``python -m benchmarks.data orders 1000 FILE``.

Runs in a process of its own: whoever starts a measured process must be small (see ``measure``).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

CHUNK = 200_000
_STATUS = np.array(["new", "paid", "shipped", "returned"])


def orders(rows: int) -> Iterator[pa.Table]:
    """Ids 0 to ``rows`` - 1, in order."""
    rng = np.random.default_rng(1)
    for start in range(0, rows, CHUNK):
        yield _orders(np.arange(start, min(start + CHUNK, rows)), rng)


def delta(rows: int) -> Iterator[pa.Table]:
    """What a merge into ``orders(rows)`` brings, a tenth of it: half of it has known ids, half new ones, mixed."""
    rng = np.random.default_rng(2)
    half = max(rows // 20, 1)
    ids = np.concatenate([rng.choice(rows, half, replace=False), np.arange(rows, rows + half)])
    rng.shuffle(ids)
    for start in range(0, len(ids), CHUNK):
        yield _orders(ids[start : start + CHUNK], rng)


def changed(rows: int) -> Iterator[pa.Table]:
    """``orders(rows)`` at a later time, with a tenth as many changes: of them a half updated, a quarter gone, a quarter
    new."""
    rng = np.random.default_rng(3)
    quarter = max(rows // 40, 1)
    other = rng.permutation(rows)
    gone, touched = other[:quarter], other[quarter : 3 * quarter]
    for table in orders(rows):
        ids = table["id"].to_numpy()
        updated = np.isin(ids, touched)
        note = pa.array(np.where(updated, "changed", table["note"].to_numpy()))
        table = table.set_column(table.schema.get_field_index("note"), "note", note)
        yield table.filter(pa.array(~np.isin(ids, gone)))
    for start in range(0, quarter, CHUNK):
        yield _orders(np.arange(rows + start, rows + min(start + CHUNK, quarter)), rng)


def log(rows: int) -> Iterator[str]:
    """Changes of ``orders(rows)`` as a change log, a tenth as many, in transactions of a thousand: of them a half
    updates, a quarter deletes, a quarter inserts. Every value is named."""
    rng = np.random.default_rng(4)
    count = max(rows // 10, 4)
    quarter = count // 4
    old = rng.permutation(rows)[: count - quarter]
    table = _orders(np.concatenate([old, np.arange(rows, rows + quarter)]), rng)
    gone = set(old[:quarter].tolist())
    commit = 0
    for n, i in enumerate(rng.permutation(table.num_rows).tolist()):
        commit = 1 + n // 1000
        yield json.dumps(_change(table.slice(i, 1).to_pylist()[0], rows, gone, f"{commit:09}"), default=str) + "\n"
        if n % 1000 == 999 or n + 1 == table.num_rows:
            yield json.dumps({"op": "commit", "commit": f"{commit:09}"}) + "\n"


def _change(row: dict[str, Any], rows: int, gone: set[int], commit: str) -> dict[str, Any]:
    about = {"table": "orders", "commit": commit, "key": {"id": row["id"]}}
    if row["id"] in gone:
        return {"op": "delete", **about}
    return {"op": "update" if row["id"] < rows else "insert", **about, "values": row}


def _orders(ids: np.ndarray, rng: np.random.Generator) -> pa.Table:
    n = len(ids)
    days, seconds = rng.integers(0, 2000, n), rng.integers(0, 10**8, n)
    return pa.table(
        {
            "id": ids,
            "customer_id": rng.integers(1, 1_000_000, n),
            "quantity": rng.integers(1, 100, n, dtype=np.int32),
            "price": np.round(rng.random(n) * 1000, 2),
            "discount": np.round(rng.random(n), 4),
            "status": _STATUS[rng.integers(0, 4, n)],
            "note": [f"order note {i:x} é" for i in rng.integers(0, 1 << 40, n)],
            "active": rng.integers(0, 2, n).astype(bool),
            "ordered_on": np.datetime64("2020-01-01") + days.astype("timedelta64[D]"),
            "updated_at": np.datetime64("2024-01-01T00:00:00") + seconds.astype("timedelta64[s]"),
        }
    )


def write(tables: Iterator[pa.Table], path: Path) -> None:
    """CSV with a header; the file has its name only when it is whole."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        for i, table in enumerate(tables):
            pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(include_header=i == 0))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_parquet(tables: Iterator[pa.Table], path: Path) -> None:
    """A row group for each table; the file has its name only when it is whole."""
    beside = path.with_name(path.name + ".tmp")
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(beside, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
    beside.replace(path)


if __name__ == "__main__":
    kind, rows, path = sys.argv[1:]
    if path.endswith(".parquet"):
        write_parquet({"orders": orders}[kind](int(rows)), Path(path))
    elif kind == "log":
        beside = Path(path).with_name("log.tmp")
        with beside.open("w", encoding="utf-8") as text:
            text.writelines(log(int(rows)))
        beside.replace(path)
    else:
        write({"orders": orders, "delta": delta, "changed": changed}[kind](int(rows)), Path(path))
