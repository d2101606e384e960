"""Did both sides write the same rows? ``python -m benchmarks.compare KIND OURS BASELINE`` prints how many.

KIND is parquet, sqlite or versions. Every value of every column is compared; dpone's lineage columns are left out, for
the baselines have none.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import zip_longest
from typing import Any

# A CSV import keeps the text of a boolean and of a time as it stands in the file.
_ROWS = """SELECT id, customer_id, quantity, price, discount, status, note,
CASE active WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE active END, ordered_on, substr(updated_at, 1, 19),
typeof(id), typeof(customer_id), typeof(quantity), typeof(price), typeof(discount), typeof(status), typeof(note)
FROM orders ORDER BY id"""


def sqlite(ours: str, baseline: str) -> int:
    with closing(sqlite3.connect(ours)) as left, closing(sqlite3.connect(baseline)) as right:
        return _equal(left.execute(_ROWS), right.execute(_ROWS))


def versions(ours: str, baseline: str) -> int:
    """All versions in their order; of the intervals, whose times differ between the sides, whether they are open."""
    rows = _ROWS.replace("FROM orders ORDER BY id", ", {0}valid_to IS NULL FROM orders ORDER BY id, {0}valid_from")
    with closing(sqlite3.connect(ours)) as left, closing(sqlite3.connect(baseline)) as right:
        return _equal(left.execute(rows.format("__dpone__")), right.execute(rows.format("")))


def _equal(ours: Iterator[Any], baseline: Iterator[Any]) -> int:
    rows = 0
    for mine, theirs in zip_longest(ours, baseline):
        if mine != theirs:
            raise SystemExit(f"row {rows} (from 0) differs:\n  ours     {mine}\n  baseline {theirs}")
        rows += 1
    return rows


def parquet(ours: str, baseline: str) -> int:
    import pyarrow.dataset

    left = pyarrow.dataset.dataset(ours, format="parquet", exclude_invalid_files=False)
    right = pyarrow.dataset.dataset(baseline, format="parquet", exclude_invalid_files=False)
    names = [name for name in right.schema.names if not name.startswith("__dpone__")]
    rows = 0
    size = 1 << 16
    for mine, theirs in zip_longest(_chunks(left, names, size), _chunks(right, names, size)):
        if mine is None or theirs is None or not mine.equals(theirs.cast(mine.schema)):
            raise SystemExit(f"the rows from {rows} on (from 0) differ")
        rows += mine.num_rows
    return rows


def _chunks(dataset: Any, names: list[str], size: int) -> Iterator[Any]:
    """Tables of ``size`` rows in the order of the file, whatever its row groups are."""
    import pyarrow as pa

    held = None
    for batch in dataset.to_batches(columns=names, batch_size=size):
        table = pa.Table.from_batches([batch])
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= size:
            yield held.slice(0, size)
            held = held.slice(size)
    if held is not None and held.num_rows:
        yield held


if __name__ == "__main__":
    kind, *paths = sys.argv[1:]
    print({"parquet": parquet, "sqlite": sqlite, "versions": versions}[kind](*paths))
