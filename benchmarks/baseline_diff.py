"""A CSV made the content of a SQLite table by hand: ``python baseline_diff.py diff|scd2 IN.csv TARGET.db``.

One transaction: typed values into a temporary table with the key, then delete, update and insert (``diff``), or close
and open versions (``scd2``), where rows differ. Both compare NULL-safely, column by column.
"""

from __future__ import annotations

import csv
import sqlite3
import sys
from datetime import UTC, datetime

from baseline_merge import COLUMNS, VALUES, typed

DIFFERS = " OR ".join(f"t.{name} IS NOT s.{name}" for name in VALUES)
STAGE = f"CREATE TEMP TABLE stage ({COLUMNS})"
NAMES = ", ".join(("id", *VALUES))
TARGET = {
    "diff": f"CREATE TABLE IF NOT EXISTS orders ({COLUMNS})",
    "scd2": f"CREATE TABLE IF NOT EXISTS orders ({COLUMNS.replace('PRIMARY KEY', '')}, "
    "valid_from TIMESTAMPTZ NOT NULL, valid_to TIMESTAMPTZ, PRIMARY KEY (id, valid_from))",
}
SETS = ", ".join(f"{name} = s.{name}" for name in VALUES)
APPLY = {
    "diff": (
        "DELETE FROM orders AS t WHERE NOT EXISTS (SELECT 1 FROM stage AS s WHERE s.id = t.id)",
        f"UPDATE orders AS t SET {SETS} FROM stage AS s WHERE t.id = s.id AND ({DIFFERS})",
        "INSERT INTO orders SELECT s.* FROM stage AS s LEFT JOIN orders AS t ON t.id = s.id WHERE t.id IS NULL",
    ),
    "scd2": (
        "UPDATE orders AS t SET valid_to = :at WHERE valid_to IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM stage AS s WHERE s.id = t.id)",
        "UPDATE orders AS t SET valid_to = :at FROM stage AS s "
        f"WHERE t.id = s.id AND t.valid_to IS NULL AND ({DIFFERS})",
        f"INSERT INTO orders ({NAMES}, valid_from) SELECT s.*, :at FROM stage AS s "
        "LEFT JOIN orders AS t ON t.id = s.id AND t.valid_to IS NULL WHERE t.id IS NULL",
    ),
}


def main(kind: str, source: str, target: str) -> None:
    db = sqlite3.connect(target, isolation_level=None)
    at = datetime.now(UTC).isoformat(" ", "microseconds")
    with open(source, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        db.execute(TARGET[kind])
        db.execute(STAGE)
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO stage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", typed(rows))
    for statement in APPLY[kind]:
        db.execute(statement, {"at": at} if ":at" in statement else {})
    db.execute("COMMIT")
    db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
