"""A project to start from: a pipeline that runs as it is, with data. ``examples/quickstart`` is one."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from dpone.errors import ConfigError

PIPELINE = """\
# CSV files merged into a SQLite warehouse. Paths are relative to this file.
pipeline: orders
labels: {env: dev}
source: {type: file, path: data/orders-*.csv}
sink:
  type: sqlite
  connection: sqlite:///warehouse.db
  table: orders
  strategy: {mode: merge, key: [id]}
  options:
    schema_evolution: {mode: widening, on_type_change: new_column}
    lineage: {enabled: true}
state: {type: sqlite, connection: sqlite:///.dpone/state.db}
"""

README = """\
# Orders

`pipeline.yaml` merges the CSV files of `data/` into the table `orders` of `warehouse.db`, a SQLite database.

```
dpone check pipeline.yaml       # is the pipeline sound?
dpone plan pipeline.yaml        # what would a run do?
dpone run pipeline.yaml         # do it
dpone state show pipeline.yaml  # where does it stand?
```

Run it again: nothing is new, so nothing is loaded. Put another `data/orders-2026-03.csv` beside the others and run it
once more: only that file is read; orders it has in common with the table are updated, the rest is added.
"""

IGNORED = """\
.dpone/
warehouse.db*
"""

_START = datetime(2026, 1, 1, 8)
_CUSTOMERS = ("Ada Lovelace", "Grace Hopper", "O'Neill, Ltd.", "Zoë Müller", "Катерина Ющенко", 'The "Corner" Shop')
_STATUS = ("paid", "shipped", "delivered", "returned")


def create(folder: Path) -> list[Path]:
    """Write the project; answers the files. Raises ConfigError, and leaves nothing behind, if a file exists already or
    cannot be written."""
    files = {folder / name: text for name, text in contents().items()}
    if there := [str(file) for file in files if file.exists() or file.is_symlink()]:
        todo = "choose another directory, or move them away"
        raise ConfigError(f"create a project in {folder}", f"{', '.join(there)} would be overwritten", todo)
    written: list[Path] = []
    try:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8", newline="\n") as out:
                written.append(file)
                out.write(text)
    except OSError as error:
        with contextlib.suppress(OSError):
            for file in written:
                file.unlink()
        found = f"{error.filename}: {(error.strerror or str(error)).lower()}"
        raise ConfigError(f"create a project in {folder}", found, "choose a directory that can be written") from error
    return written


def contents() -> dict[str, str]:
    """Relative path -> text; the same every time."""
    return {
        "pipeline.yaml": PIPELINE,
        "data/orders-2026-01.csv": _csv(1, 1500),
        "data/orders-2026-02.csv": _csv(1501, 3000),
        ".gitignore": IGNORED,
        "README.md": README,
    }


def _csv(first: int, last: int) -> str:
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "customer", "status", "quantity", "price", "ordered_at", "note"])
    writer.writerows(_order(number) for number in range(first, last + 1))
    return out.getvalue()


def _order(number: int) -> Iterator[str | int]:
    """Nothing random: the number decides the rest. Notes are rare, and some have commas, quotes and line breaks."""
    yield number
    yield _CUSTOMERS[number * 7 % len(_CUSTOMERS)]
    yield _STATUS[number * 13 % len(_STATUS)]
    yield number * 31 % 9 + 1
    yield f"{number * 7919 % 20_000 / 100:.2f}"
    yield (_START + timedelta(minutes=number * 28)).isoformat(sep=" ")
    yield "" if number % 50 else ("gift", 'say "hello", please', "leave at the door\nring twice")[number // 50 % 3]
