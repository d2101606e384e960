"""A change log applied to a SQLite table by hand: ``python baseline_cdc.py IN.jsonl TARGET.db``.

One transaction: the last change of each key into a temporary table, then delete what was deleted and upsert the rest in
the order of the key. The log names every value, so that nothing has to be kept or folded.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from baseline_merge import COLUMNS, VALUES

NAMES = ("id", *VALUES)


def last_states(lines: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    for line in lines:
        change = json.loads(line)
        if change["op"] != "commit":
            values = change.get("values") or change["key"]
            yield (*map(values.get, NAMES), change["op"] == "delete")


def main(source: str, target: str) -> None:
    db = sqlite3.connect(target, isolation_level=None)
    with open(source, encoding="utf-8") as file:
        db.execute(f"CREATE TEMP TABLE stage ({COLUMNS}, gone BOOLEAN)")
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO stage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", last_states(file))
    db.execute("DELETE FROM orders WHERE id IN (SELECT id FROM stage WHERE gone)")
    sets = ", ".join(f"{name} = excluded.{name}" for name in VALUES)
    rows = f"SELECT {', '.join(NAMES)} FROM stage WHERE NOT gone ORDER BY id"
    db.execute(f"INSERT INTO orders {rows} ON CONFLICT (id) DO UPDATE SET {sets}")
    db.execute("COMMIT")
    db.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
