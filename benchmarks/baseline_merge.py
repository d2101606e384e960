"""CSV merged into a SQLite table as one writes it by hand: ``python baseline_merge.py IN.csv TARGET.db``.

One transaction: typed values into a temporary table without a key, then one upsert in the order of the key. Of the
ways that were tried this is the fastest (docs/internals/performance.md).
"""

from __future__ import annotations

import csv
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from typing import Any

COLUMNS = """id INTEGER PRIMARY KEY NOT NULL, customer_id INTEGER, quantity INTEGER, price REAL, discount REAL,
status TEXT, note TEXT, active BOOLEAN, ordered_on DATE, updated_at TIMESTAMP"""
VALUES = ("customer_id", "quantity", "price", "discount", "status", "note", "active", "ordered_on", "updated_at")


def typed(rows: Iterable[list[str]]) -> Iterator[tuple[Any, ...]]:
    for id_, customer, quantity, price, discount, status, note, active, on, at in rows:
        numbers = int(id_), int(customer), int(quantity), float(price), float(discount)
        yield (*numbers, status, note, active == "true", on, at)


def main(source: str, target: str) -> None:
    db = sqlite3.connect(target, isolation_level=None)
    with open(source, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        db.execute(f"CREATE TABLE IF NOT EXISTS orders ({COLUMNS})")
        db.execute(f"CREATE TEMP TABLE stage ({COLUMNS.replace('PRIMARY KEY', '')})")
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO stage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", typed(rows))
    sets = ", ".join(f"{name} = excluded.{name}" for name in VALUES)
    upsert = f"ON CONFLICT (id) DO UPDATE SET {sets}"
    db.execute(f"INSERT INTO orders SELECT * FROM stage WHERE true ORDER BY id {upsert}")
    db.execute("COMMIT")
    db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
