"""Files as people have them: every CSV, JSON and Parquet file below the given folders is loaded into SQLite, and what
stands there is compared with what another reader finds in the file: Python's ``csv`` and ``json``, and DuckDB.

A file is equal, or refused by an error that names it; anything else is a failure. An error that says what to set is
followed, up to ``--advice`` times, and the file must then be equal, or refused for another reason.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import gzip
import io
import json
import re
import sqlite3
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import yaml

from dpone.engine.run import run
from dpone.errors import DponeError

KINDS = ("csv", "tsv", "json", "jsonl", "ndjson", "parquet")
QUOTED = "\ue000"  # stands for a quoted empty value, which Python 3.11's csv does not tell from an unquoted one
ABSENT = object()
Options = dict[str, Any]


class Table(NamedTuple):
    columns: dict[str, str]  # name -> declared type
    rows: list[tuple[Any, ...]]


# ---- dpone


def load(path: Path, base: Path, options: Options) -> Table | str:
    """What stands in SQLite after a run, or the error of the run."""
    sink: Options = {"type": "sqlite", "connection": "sqlite:///out.db", "table": "t", "strategy": {"mode": "append"}}
    sink["options"] = {key[5:]: value for key, value in options.items() if key.startswith("sink ")}
    source_options = {key: value for key, value in options.items() if not key.startswith("sink ")}
    source = {"type": "file", "path": str(path), "options": source_options}
    (base / "p.yaml").write_text(json.dumps({"pipeline": "corpus", "source": source, "sink": sink}))
    try:
        [stream] = run(base / "p.yaml").streams
    except DponeError as error:
        return str(error)
    if stream.error is not None:
        return stream.error.message
    db = sqlite3.connect(base / "out.db")
    try:
        columns = {
            name: kind for _, name, kind, *_ in db.execute("PRAGMA table_info(t)") if not name.startswith("__dpone__")
        }
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        return Table(columns, db.execute(f"SELECT {names} FROM t ORDER BY rowid").fetchall())
    finally:
        db.close()


# ---- the other readers: names, and values as dictionaries


def content(path: Path, options: Options) -> str:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    return data.decode(options.get("encoding", "utf-8-sig"))


def dialect(path: Path, options: Options) -> dict[str, Any]:
    form: dict[str, Any] = {"delimiter": options.get("delimiter", "\t" if ".tsv" in path.suffixes else ",")}
    return form | ({"escapechar": options["escape"], "doublequote": False} if "escape" in options else {})


def rows_of_csv(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    text = content(path, options)
    form = dialect(path, options)
    plain = [row for row in csv.reader(io.StringIO(text, newline=""), **form) if row]
    edge = re.escape(form["delimiter"])
    marked_text = re.sub(rf'(^|(?<=[{edge}\r\n]))""(?=[{edge}\r\n]|$)', f'"{QUOTED}"', text)
    marked = [row for row in csv.reader(io.StringIO(marked_text, newline=""), **form) if row]
    if [[value.replace(QUOTED, "") for value in row] for row in marked] != plain:
        raise ValueError("quoted empty values cannot be told apart")
    names = options.get("names") or [value.replace(QUOTED, "") for value in marked[0]]
    for row in marked if "names" in options and not options.get("header", True) else marked[1:]:
        row += [""] * (len(names) - len(row)) if "short_rows" in options else []
        if len(row) != len(names):
            raise ValueError(f"{len(row)} values for {len(names)} columns: {row}")
        yield dict(zip(names, row, strict=True))


def rows_of_json(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    text = content(path, options)
    read = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal).decode
    yield from read(text) if text.lstrip()[:1] == "[" else map(read, filter(str.strip, text.split("\n")))


def rows_of_parquet(path: Path, options: Options) -> Iterator[dict[str, Any]]:
    found = duckdb.execute("SELECT * FROM read_parquet(?)", [str(path)])
    names = [column[0] for column in found.description or ()]
    return (dict(zip(names, row, strict=True)) for row in found.fetchall())


# ---- equal values


def day(text: str) -> dt.datetime:
    read = dt.datetime.fromisoformat(text.strip())
    return read.astimezone(dt.UTC).replace(tzinfo=None) if read.tzinfo else read


def number(text: str) -> Decimal:
    """Of a number that is not a code: no leading zero, no plus sign."""
    if not re.fullmatch(r"-?((0|[1-9]\d*)?(\.\d*)?([eE][-+]?\d+)?|inf(inity)?)", text.strip(), re.IGNORECASE):
        raise InvalidOperation(f"{text!r} is a code")
    return Decimal(text.strip())


def close(written: Decimal, stored: Decimal) -> bool:
    """The digits of a double are those that name it: 17 at most, or all that were written."""
    return written == stored or (len(written.as_tuple().digits) <= 17 and float(written) == float(stored))


def equal(kind: str, given: Any, stored: Any) -> bool:
    """Whether a column of this declared type may hold ``stored`` for what the other reader found."""
    kind = kind.partition("(")[0]
    if kind in ("REAL", "FLOAT") and str(given).lower().strip("-+") == "nan":
        return stored is None  # the run was to load NaN as NULL
    if given is None or given is ABSENT or stored is None:
        return stored is None and (given is None or given is ABSENT)
    if kind in ("INTEGER", "BIGINT", "SMALLINT", "DECIMAL_TEXT"):
        return Decimal(stored) == (number(given) if isinstance(given, str) else Decimal(given))
    if kind in ("REAL", "FLOAT"):
        return close(number(given) if isinstance(given, str) else Decimal(repr(given)) if isinstance(given, float)
                     else Decimal(given), Decimal(repr(stored)))  # fmt: skip
    if kind == "BOOLEAN":
        return bool(stored) == ({"true": True, "false": False}[given.lower()] if isinstance(given, str) else given)
    if kind in ("DATE", "TIMESTAMP", "TIMESTAMPTZ"):
        return day(stored) == day(given if isinstance(given, str) else given.isoformat())
    if kind == "JSON_TEXT":
        return bool(json.loads(stored, parse_float=Decimal, parse_int=Decimal) == given)
    if kind == "TIME_TEXT":
        return dt.time.fromisoformat(stored) == (dt.time.fromisoformat(given) if isinstance(given, str) else given)
    return bool(stored == given) and type(stored) is type(given)


def difference(table: Table, rows: Sequence[dict[str, Any]], text: bool) -> str | None:
    """The first value that differs. ``text``: values are texts of CSV, where an empty one is NULL, and a quoted empty
    one too unless the column is of text."""
    names = dict.fromkeys(name for row in rows for name in row)
    if rows and list(names) != list(table.columns):
        return f"columns {list(table.columns)}, the file has {list(names)}"
    if len(rows) != len(table.rows):
        return f"{len(table.rows)} rows, the file has {len(rows)}"
    for n, (row, stored) in enumerate(zip(rows, table.rows, strict=True), 1):
        for (name, kind), have in zip(table.columns.items(), stored, strict=True):
            given = row.get(name, ABSENT)
            if text:
                given = None if given == "" or (given == QUOTED and kind != "TEXT") else given.replace(QUOTED, "")
            try:
                same = equal(kind, given, have)
            except (ValueError, ArithmeticError, KeyError, TypeError, AttributeError) as error:
                return f"row {n}, column {name!r} {kind}: {have!r} for {given!r}, {type(error).__name__}: {error}"
            if not same:
                return f"row {n}, column {name!r} {kind}: {have!r} for {given!r}"
    return None


READERS: dict[str, Callable[[Path, Options], Iterator[dict[str, Any]]]] = {
    **dict.fromkeys(("csv", "tsv"), rows_of_csv),
    **dict.fromkeys(("json", "jsonl", "ndjson"), rows_of_json),
    "parquet": rows_of_parquet,
}


# ---- errors, and what they say to do


def advised(message: str, options: Options, path: Path) -> Options | None:
    """The options with what the error says to set, if it can be followed to the letter."""
    if declared := re.search(r"as in columns: (\{.*?: \w+\})", message):
        return {**options, "columns": options.get("columns", {}) | yaml.safe_load(declared[1])}
    if given := re.search(r"as in ((?:delimiter|encoding|format|escape): (?:\"[^\"]*\"|\S+))", message):
        return {**options, **yaml.safe_load(given[1].rstrip(";,"))}
    if given := re.search(r"set sink\.options\.(\w+): (\S+)", message):
        return {**options, f"sink {given[1]}": yaml.safe_load(given[2])}
    if "or options.short_rows: null" in message:
        return {**options, **yaml.safe_load("short_rows: null")}
    if re.search(r"set options\.names|or options\.names", message) and "names" not in options:
        header = next(csv.reader(io.StringIO(content(path, options), newline=""), **dialect(path, options)))
        header = ["", *header] if "or options.names" in message else header  # as R writes the names of rows
        return {**options, "names": [f"{name}_{n}" for n, name in enumerate(header)]}
    return None


def in_an_array(path: Path, folder: Path) -> Path:
    made = folder / path.name.removesuffix(".gz")
    made.write_text(f"[{content(path, {})}]", encoding="utf-8")
    return made


def one(path: Path, kind: str, most: int, folder: Path) -> tuple[str, str]:
    """Outcome and detail of a file; ``folder`` is for what advice makes of it."""
    options: Options = {}
    followed: list[str] = []
    for _ in range(most + 1):
        with tempfile.TemporaryDirectory(prefix="dpone-corpus-") as base:
            found = load(path, Path(base), options)
        if not isinstance(found, str):
            differs = difference(found, list(READERS[kind](path, options)), READERS[kind] is rows_of_csv)
            if differs:
                return "DIFFERENT", f"{differs} {options or ''}"
            return ("equal as advised" if followed else "equal"), " | ".join(followed)
        named = path.name in found or re.match(r"load rows: column \S+, row \d|evolve the schema of t: ", found)
        if not named or "\n" in found:
            return "UNNAMED", found
        more = advised(found, options, path)
        if "write an array" in found:
            path = in_an_array(path, folder)
        elif more is None:
            break
        options, followed = more or options, [*followed, found]
    return "refused", found if isinstance(found, str) else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="nox -s corpus --", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--least", type=int, default=300, help="fewer files are a failure")
    parser.add_argument("--advice", type=int, default=40, help="how often the advice of errors is followed for a file")
    given = parser.parse_args()
    outcomes: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path in sorted({one for folder in given.folders for one in folder.rglob("*") if one.is_file()}):
        kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
        if kind in KINDS and "." in path.name:
            try:
                with tempfile.TemporaryDirectory(prefix="dpone-corpus-") as folder:
                    outcome, detail = one(path, kind, given.advice, Path(folder))
            except Exception:
                outcome, detail = "RAW", traceback.format_exc(limit=-3)
            outcomes[outcome].append((path, detail))
            if outcome.isupper():
                print(f"{outcome} {path}: {detail}", flush=True)
    for outcome in ("equal as advised", "refused"):
        groups: dict[str, list[tuple[Path, str]]] = defaultdict(list)
        for path, text in outcomes[outcome]:
            groups[re.sub(r"'[^']*'|\d+", "_", text.replace(path.name, "FILE"))[:150]].append((path, text))
        for members in sorted(groups.values(), key=len, reverse=True):
            print(f"{outcome}, {len(members)} like {members[0][0].name}: {members[0][1]}")
    total = sum(map(len, outcomes.values()))
    print(f"{total} files: " + ", ".join(f"{len(files)} {what}" for what, files in sorted(outcomes.items())))
    return int(total < given.least or any(what.isupper() for what in outcomes))


if __name__ == "__main__":
    sys.exit(main())
