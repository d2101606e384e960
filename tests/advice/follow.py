"""Doing what an error says: a pipeline in a folder of its own, and words of its messages put into the pipeline file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq
import yaml
from attrs import frozen

import dpone
from dpone.errors import DponeError
from dpone.model.report import StreamReport

# Where an option belongs whose first word says no more.
_PLACES = {
    "columns": "source.options.columns",
    "incremental": "source.options.incremental",
    "strategy": "sink.strategy",
    "schema_evolution": "sink.options.schema_evolution",
    "duplicates": "sink.strategy.duplicates",
    "table": "source.table",
    "delimiter": "source.options.delimiter",
    "escape": "source.options.escape",
    "format": "sink.options.format",
    "runtime": "runtime",
    "source": "source",
    "sink": "sink",
}


@frozen
class Place:
    """A folder with ``source.db``, ``target.db`` and the pipeline between them."""

    folder: Path

    def sql(self, file: str, *statements: str) -> None:
        with closing(sqlite3.connect(self.folder / f"{file}.db")) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    def rows(self, sql: str = "SELECT * FROM t") -> list[dict[str, Any]]:
        """Of the target, without the columns of dpone."""
        with closing(sqlite3.connect(self.folder / "target.db")) as db:
            db.row_factory = sqlite3.Row
            return [{k: row[k] for k in row.keys() if not k.startswith("__dpone__")} for row in db.execute(sql)]  # noqa: SIM118

    def parts(self, sink: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a folder of parts, without the columns of dpone."""
        read = {"parquet": pq.read_table, "csv": pacsv.read_csv, "jsonl": pajson.read_json}[sink["options"]["format"]]
        parts = sorted((self.folder / sink["path"]).glob("part-*"))
        rows = [row for part in parts for row in read(part).to_pylist()]
        return [{k: v for k, v in row.items() if not k.startswith("__dpone__")} for row in rows]

    def file(self, name: str, text: str | bytes) -> None:
        (self.folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def run(self, data: dict[str, Any], **options: Any) -> StreamReport:
        path = self.folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False).replace("'off'", "off"))  # as a person writes it
        [stream] = dpone.run(path, **options).streams
        return stream

    def stopped(self, data: dict[str, Any], **options: Any) -> tuple[str, str]:
        """Kind and message of the error, which of the file itself is raised before there is a report."""
        try:
            error = self.run(data, **options).error
        except DponeError as raised:
            return type(raised).__name__, str(raised)
        assert error is not None
        return error.kind, error.message


def pipeline(source: dict[str, Any], mode: str = "append", sink: dict[str, Any] | None = None, **strategy: Any) -> Any:
    """Into table t of target.db, unless ``sink`` says otherwise."""
    to = sink or {"type": "sqlite", "connection": "sqlite:///target.db", "table": "t"}
    return {
        "pipeline": "p", "source": source, "sink": {**to, "strategy": {"mode": mode, **strategy}},
        "runtime": {"retries": 0},
    }  # fmt: skip


def table(**options: Any) -> dict[str, Any]:
    return {"type": "sqlite", "connection": "sqlite:///source.db", "table": "s", "options": options}


def files(path: str, **options: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, "options": options}


def put(data: dict[str, Any], words: str, of: str = "source") -> dict[str, Any]:
    """``words`` of a message, ``path.of.an.option: value``, into the pipeline. of: whose ``options.x`` are meant."""
    path, value = words.split(": ", 1)
    first, dot, rest = path.partition(".")
    whole = f"{of}.options{dot}{rest}" if first == "options" else _PLACES[first] + dot + rest
    at = data
    *parents, last = whole.split(".")
    for name in parents:
        at = at.setdefault(name, {})
    at[last] = value if value == "off" else yaml.safe_load(value)
    if whole == "sink.strategy":
        at[last] = {"mode": at[last]}
    return data
