"""Change logs written with json alone, for the tests of readers and of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Change = Mapping[str, Any]


def insert(table: str, key: Mapping[str, Any], **values: Any) -> Change:
    return {"op": "insert", "table": table, "key": key, "values": {**key, **values}}


def update(table: str, key: Mapping[str, Any], **values: Any) -> Change:
    return {"op": "update", "table": table, "key": key, "values": values}


def delete(table: str, key: Mapping[str, Any], **before: Any) -> Change:
    return {"op": "delete", "table": table, "key": key, **({"before": before} if before else {})}


def transaction(commit: str, *changes: Change, at: str | None = None) -> str:
    """The lines of a whole transaction."""
    time = {"at": at} if at else {}
    lines = [json.dumps({**change, "commit": commit, **time}) for change in changes]
    return "".join(line + "\n" for line in [*lines, json.dumps({"op": "commit", "commit": commit})])


def write(path: Path, *transactions: str, mode: str = "a") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode, encoding="utf-8") as file:
        file.writelines(transactions)


def orders(first: int, last: int, commit: str) -> str:
    """Inserts of the keys ``first`` to ``last`` in one transaction, every third with a customer of its own."""
    changes: list[Change] = []
    for i in range(first, last + 1):
        changes.append(insert("orders", {"id": i}, name=f'n{i}, "é"', note=None if i % 5 == 0 else f"note {i}"))
        if i % 3 == 0:
            changes.append(insert("customers", {"cid": i}, city=f"city {i}"))
    return transaction(commit, *changes)


def events(lines: Iterable[str], source: str, tables: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Of each table: (event id, op) of all changes of whole transactions, in order. Plain Python over the lines."""
    found: dict[str, list[tuple[str, str]]] = {table: [] for table in tables}
    waiting: list[tuple[str, str, str]] = []
    for line in lines:
        row = json.loads(line)
        if row["op"] == "commit":
            for table, event, op in waiting:
                found[table].append((event, op))
            waiting = []
        else:
            waiting.append((row["table"], f"{source}/{row['commit']}/{len(waiting) + 1}", row["op"]))
    return found
