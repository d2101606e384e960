"""Working examples to start from: a pipeline with data (``examples/quickstart``), or a connector."""

from __future__ import annotations

import contextlib
import io
import keyword
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import get_args

from dpone.capability import Role
from dpone.errors import ConfigError
from dpone.plugins import discover

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
dpone check pipeline.yaml       # check the pipeline file
dpone plan pipeline.yaml        # show what a run would do
dpone run pipeline.yaml         # load the data
dpone state show pipeline.yaml  # show the position
```

Run it again: there are no new files, so nothing is loaded. Add a file `data/orders-2026-03.csv` and run it once more:
only that file is read; orders that are already in the table are updated, the others are added.
"""

IGNORED = """\
.dpone/
warehouse.db*
"""

_START = datetime(2026, 1, 1, 8)
_CUSTOMERS = ("Ada Lovelace", "Grace Hopper", "O'Neill, Ltd.", "Zoë Müller", "Катерина Ющенко", 'The "Corner" Shop')
_STATUS = ("paid", "shipped", "delivered", "returned")


def create(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Write the project and return its files. Raises ConfigError, and leaves nothing behind, if a file exists already
    or
    cannot be written."""
    files = {folder / name: text for name, text in contents.items()}
    if there := [str(file) for file in files if file.exists() or file.is_symlink()]:
        todo = "choose another directory, or move these files away"
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
        raise ConfigError(f"create a project in {folder}", found, "choose a writable directory") from error
    return written


def pipeline() -> dict[str, str]:
    """Relative path -> text; the same every time."""
    return {
        "pipeline.yaml": PIPELINE,
        "data/orders-2026-01.csv": _csv(1, 1500),
        "data/orders-2026-02.csv": _csv(1501, 3000),
        ".gitignore": IGNORED,
        "README.md": README,
    }


def connector(name: str, *, sql: bool = False) -> dict[str, str]:
    """The distribution of a connector, relative path -> text: the files of ``ops/connector``, where it is called acme.
    sql: for a database that speaks SQL. Raises ConfigError for a name that no connector can have."""
    _require_free(name)
    own = {"acme": name, "Acme": "".join(map(str.capitalize, name.split("_")))}

    def named(text: str) -> str:
        return re.sub("acme|Acme", lambda match: own[match[0]], text)

    folders = (resources.files("dpone.ops") / "connector" / kind for kind in ("shared", "sql" if sql else "plain"))
    found = chain.from_iterable(map(_texts, folders))
    return {named(path.removesuffix(".txt")): named(text) for path, text in found}


def _require_free(name: str) -> None:
    failed = "create a connector"
    if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        todo = "use lower-case letters, digits and single underscores, starting with a letter, as in my_system"
        raise ConfigError(failed, f"{name!r} is not a valid name for a Python module and a connector", todo)
    plugins = discover()
    if any(name in plugins.names(role) for role in get_args(Role)):
        raise ConfigError(
            failed, f"connector {name} already exists", "choose a name that 'dpone plugins' does not list"
        )


def _texts(folder: Traversable, path: str = "") -> Iterator[tuple[str, str]]:
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.is_dir():
            yield from _texts(file, f"{path}{file.name}/")
        elif file.name.endswith(".txt"):
            yield path + file.name, file.read_text(encoding="utf-8")


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
