"""Every case provokes an error, does exactly what its message says, and ends in a green run with the right rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attrs import field, frozen
from tests.advice.follow import Place, files, pipeline, put, table

Rows = list[dict[str, Any]]
Do = Callable[[dict[str, Any], Place], None]


@frozen
class Case:
    """setup: before the first run; breaks: after a green run, if the error needs one. error: its kind. advice: words
    of the message, each of which is a way out of its own, with the rows it ends with. of: whose ``options.x``."""

    name: str
    data: dict[str, Any]
    setup: Callable[[Place], None]
    error: str
    advice: dict[str, Rows]
    breaks: Callable[[Place], None] | None = None
    of: str = "source"
    edit: Callable[[dict[str, Any]], None] = lambda data: None  # of the pipeline, with ``breaks``
    options: Mapping[str, Any] = field(factory=dict)  # of the run that fails
    then: str = ""  # what the next message says, where what is done makes a stream of its own


def sql(file: str, *statements: str) -> Callable[[Place], None]:
    return lambda place: place.sql(file, *statements)


def parquet(name: str, rows: pa.Table) -> Callable[[Place], None]:
    return lambda place: pq.write_table(rows, place.folder / name)


def both(*steps: Callable[[Place], None]) -> Callable[[Place], None]:
    def all_(place: Place) -> None:
        for step in steps:
            step(place)

    return all_


def text(name: str, content: str | bytes) -> Callable[[Place], None]:
    return lambda place: place.file(name, content)


NUMBERS = sql("source", "CREATE TABLE s (id INTEGER, n INTEGER)", "INSERT INTO s VALUES (1, 10), (2, 20)")
GREEN: Rows = [{"id": 1, "n": 10}, {"id": 2, "n": 20}]
TWICE: Rows = [{"id": 1, "n": 10}, {"id": 1, "n": 20}]
TO_TEXT = sql(
    "source", "DROP TABLE s", "CREATE TABLE s (id INTEGER, n TEXT)", "INSERT INTO s VALUES (1, 'x'), (2, 'y')"
)
TO_TEXT_FIRST = sql("source", "CREATE TABLE s (id INTEGER, n TEXT)", "INSERT INTO s VALUES (1, 'x'), (2, 'y')")
CURSOR = {"by": "cursor", "column": "n"}
LATE = "a\n" + "1\n" * 300_000 + "007\n1\n"


def cases() -> Iterator[Case]:
    yield Case(
        "rows that nothing explains", pipeline(table()),
        both(NUMBERS, sql("target", "CREATE TABLE t (id INTEGER, n INTEGER)", "INSERT INTO t VALUES (0, 0)")),
        "StateMissing",
        {"sink.options.adopt_existing: true": [{"id": 0, "n": 0}, *GREEN], "--full-refresh": GREEN},
    )  # fmt: skip
    yield Case(
        "a target that was dropped", pipeline(table(incremental=CURSOR)), NUMBERS, "StateAhead",
        {"--full-refresh": GREEN}, sql("target", "DROP TABLE t"),
    )  # fmt: skip
    yield Case(
        "a target that was emptied", pipeline(table(incremental=CURSOR)), NUMBERS, "StateAhead",
        {"--full-refresh": GREEN, "sink.options.verify_target: off": []}, sql("target", "DELETE FROM t"),
    )  # fmt: skip
    strict = pipeline(table(), "full_refresh")
    strict["sink"]["options"] = {"schema_evolution": {"mode": "strict"}}
    more = sql("source", "ALTER TABLE s ADD COLUMN m INTEGER")
    yield Case(
        "a new column under strict", strict, NUMBERS, "SchemaBreak",
        {"schema_evolution.mode: additive": [{**row, "m": None} for row in GREEN]}, more,
    )  # fmt: skip
    additive = pipeline(table(), "full_refresh")
    additive["sink"]["options"] = {"schema_evolution": {"mode": "additive"}}
    digits = sql("source", "CREATE TABLE s (n DECIMAL(10,2))", "INSERT INTO s VALUES ('1.5')")
    yield Case(
        "a wider type under additive", additive, digits, "SchemaBreak",
        {"schema_evolution.mode: widening": [{"n": "1.5000"}]},
        sql("source", "DROP TABLE s", "CREATE TABLE s (n DECIMAL(12,4))", "INSERT INTO s VALUES ('1.5')"),
    )  # fmt: skip
    yield Case(
        "another type", pipeline(table(), "full_refresh"), NUMBERS, "SchemaBreak",
        {
            "schema_evolution.on_type_change: new_column": [
                {"id": 1, "n": None}, {"id": 2, "n": None},
            ],
            "--full-refresh": [{"id": 1, "n": "x"}, {"id": 2, "n": "y"}],
        },
        TO_TEXT,
    )  # fmt: skip
    fewer = sql("source", "ALTER TABLE s DROP COLUMN n")
    yield Case(
        "a column that is gone", pipeline(table(), "full_refresh"), NUMBERS, "SchemaBreak",
        {
            "schema_evolution.on_missing_column: ignore": [{"id": 1, "n": None}, {"id": 2, "n": None}],
            "--full-refresh": [{"id": 1}, {"id": 2}],
        },
        fewer,
    )  # fmt: skip
    yield Case(
        "case 23: a target in capitals", pipeline(table(), "merge", key=["id"]),
        both(NUMBERS, sql("target", 'CREATE TABLE t ("ID" INTEGER PRIMARY KEY, n INTEGER)')), "SchemaBreak",
        {"rename column ID of the target to id": GREEN, "give id the name ID in the source": [
            {"ID": 1, "n": 10}, {"ID": 2, "n": 20},
        ]},
    )  # fmt: skip
    yield Case(
        "a cursor of numbers as text", pipeline(table(incremental={"by": "cursor", "column": "c"})),
        sql("source", "CREATE TABLE s (c TEXT)", "INSERT INTO s VALUES ('9'), ('11')"), "DataError",
        {"SELECT t.*, CAST(t.c AS bigint) AS n FROM ... AS t, by column: n, beginning with --full-refresh": [
            {"c": "9", "n": 9}, {"c": "11", "n": 11},
        ]},
    )  # fmt: skip
    yield Case(
        "a cursor that is NULL", pipeline(table(incremental=CURSOR)),
        both(NUMBERS, sql("source", "INSERT INTO s VALUES (3, NULL)")), "DataError",
        {"incremental.nulls: skip": GREEN},
    )  # fmt: skip
    yield Case(
        "a source that was set back", pipeline(table(incremental=CURSOR)), NUMBERS, "SetBack",
        {"incremental.set_back: report": GREEN, "--full-refresh": [{"id": 1, "n": 10}]},
        sql("source", "DELETE FROM s WHERE id = 2"),
    )  # fmt: skip
    yield Case(
        "too many deletes", pipeline(table(), "snapshot_diff", key=["id"]), NUMBERS, "DeletesRefused",
        {"strategy.max_delete_share (1.0 allows all)": [{"id": 1, "n": 10}]},
        sql("source", "DELETE FROM s WHERE id = 2"),
    )  # fmt: skip
    yield Case(
        "NaN", pipeline(files("a.csv")), text("a.csv", "id,x\n1,NaN\n2,0.5\n"), "DataError",
        {'sink.options.nan: "null"': [{"id": 1, "x": None}, {"id": 2, "x": 0.5}]},
    )  # fmt: skip
    yield Case(
        "a column without a type", pipeline(table()),
        sql("source", "CREATE TABLE s (x)", "INSERT INTO s VALUES (1), ('a')"), "DataError",
        {"options.columns: {x: string}": [{"x": "1"}, {"x": "a"}]},
    )  # fmt: skip
    yield Case(
        "another delimiter", pipeline(files("a.csv")), text("a.csv", "a;b\n1;2\n"), "DataError",
        {'delimiter: ";"': [{"a": 1, "b": 2}]},
    )  # fmt: skip
    yield Case(
        "escaped quotes", pipeline(files("a.csv")), text("a.csv", 'a\n"say \\"hi\\" now"\n'), "DataError",
        {"escape: '\\'": [{"a": 'say "hi" now'}]},
    )  # fmt: skip
    yield Case(
        "UTF-16 with its mark", pipeline(files("a.csv")), text("a.csv", "a\né\n".encode("utf-16")), "DataError",
        {"options.encoding: utf-16": [{"a": "é"}]},
    )  # fmt: skip
    yield Case(
        "UTF-16 without a byte order mark", pipeline(files("a.csv")),
        text("a.csv", "a\né\n".encode("utf-16-le")), "DataError",
        {"options.encoding: utf-16-le": [{"a": "é"}]},
    )  # fmt: skip
    yield Case(
        "a JSON array named .csv", pipeline(files("a.csv")), text("a.csv", '[{"a": 1}]'), "DataError",
        {"options.format: json": [{"a": 1}]},
    )  # fmt: skip
    yield Case(
        "no object, no columns", pipeline(files("a.jsonl")), text("a.jsonl", ""), "DataError",
        {"columns: {id: int64}": []},
    )  # fmt: skip
    yield Case(
        "keys that repeat", pipeline(table(), "merge", key=["id"]),
        both(NUMBERS, sql("source", "INSERT INTO s VALUES (2, 30)")), "DataError",
        {"duplicates: first or last with order_by": [{"id": 1, "n": 10}, {"id": 2, "n": 30}]},
    )  # fmt: skip
    yield Case(
        "a name that does not identify a format", pipeline(files("a.dat")), text("a.dat", "a\n1\n"), "PipelineMismatch",
        {"set options.format to csv": [{"a": 1}]},
    )  # fmt: skip
    yield Case(
        "files of two formats", pipeline(files("?.*")), both(text("a.csv", "a\n1\n"), text("b.jsonl", '{"a": 2}\n')),
        "PipelineMismatch", {"use one glob per format": [{"a": 1}]},
    )  # fmt: skip
    yield Case(
        "a Parquet file named .csv", pipeline(files("a.csv")), parquet("a.csv", pa.table({"a": [1]})), "DataError",
        {"options.format: parquet": [{"a": 1}]},
    )  # fmt: skip
    for name, header in (("no name", "a,"), ("one name twice", "x,x"), ("names that differ by case", "x,X")):
        yield Case(
            f"a header with {name}", pipeline(files("a.csv")), text("a.csv", f"{header}\n1,2\n"), "DataError",
            {"set options.names": [{"a": 1, "b": 2}]},
        )  # fmt: skip
    yield Case(
        "another encoding", pipeline(files("a.csv")), text("a.csv", "a\né\n".encode("latin-1")), "DataError",
        {"set options.encoding to the file's encoding, such as latin-1": [{"a": "é"}]},
    )  # fmt: skip
    yield Case(
        "a long row", pipeline(files("a.csv", block_bytes=4096)), text("a.csv", f'a\n"{"x" * 9000}"\n'), "DataError",
        {"raise options.block_bytes": [{"a": "x" * 9000}]},
    )  # fmt: skip
    to_folder = {"type": "file", "path": "out", "options": {"format": "jsonl"}}
    yield Case(
        "NaN in JSON Lines", pipeline(files("a.csv"), sink=to_folder), text("a.csv", "x\nNaN\n0.5\n"), "DataError",
        {"format: parquet": [{"x": ANY}, {"x": 0.5}]},
    )  # fmt: skip
    yield Case(
        "a cursor column that is not there", pipeline(table(incremental={**CURSOR, "column": "gone"})), NUMBERS,
        "PipelineMismatch", {"correct incremental.column": GREEN},
    )  # fmt: skip
    yield Case(
        "another cursor column", pipeline(table(incremental=CURSOR)), NUMBERS, "IdentityChanged",
        {"--full-refresh": GREEN}, lambda place: None,
        edit=lambda data: set_(data, "source", "options", "incremental", "column", to="id"),
    )  # fmt: skip
    yield Case(
        "a column that tells rows of one cursor value apart is gone", pipeline(table(incremental=CURSOR)),
        both(NUMBERS, sql("source", "ALTER TABLE s ADD COLUMN x INTEGER")), "IdentityChanged",
        {"--full-refresh": GREEN}, sql("source", "ALTER TABLE s DROP COLUMN x"),
    )  # fmt: skip
    yield Case(
        "a state that cannot be read", pipeline(table(incremental=CURSOR)), NUMBERS, "StateError",
        {"--full-refresh": GREEN}, sql(".dpone/state", "UPDATE __dpone__state SET value = '{\"format\": 99}'"),
    )  # fmt: skip
    yield Case(
        "a type for a column that is not there", pipeline(table(columns={"gone": "string"})), NUMBERS,
        "PipelineMismatch", {"use columns of the source": [{"id": 1, "n": "10"}, {"id": 2, "n": "20"}]},
    )  # fmt: skip
    yield Case(
        "a table that cannot be replaced", pipeline(table(), "full_refresh"),
        both(TO_TEXT_FIRST, sql("target", "CREATE TABLE t (id INTEGER, n INTEGER PRIMARY KEY)")), "SinkError",
        {"drop what depends on the table, or the table itself, and run again with --full-refresh": [
            {"id": 1, "n": "x"}, {"id": 2, "n": "y"},
        ]}, options={"full_refresh": True},
    )  # fmt: skip
    yield Case(
        "files whose types do not meet", pipeline(files("*.parquet")),
        both(parquet("a.parquet", pa.table({"a": [1]})), parquet("b.parquet", pa.table({"a": ["x"]}))), "DataError",
        {"columns: {a: string}": [{"a": "1"}, {"a": "x"}]},
    )  # fmt: skip
    yield Case(
        "a value of another type than was declared", pipeline(files("a.csv", columns={"a": "int64"})),
        text("a.csv", "a\n1\nx\n"), "DataError", {"columns: {a: string}": [{"a": "1"}, {"a": "x"}]},
    )  # fmt: skip
    yield Case(
        "a code after many numbers", pipeline(files("a.csv")), text("a.csv", LATE), "DataError",
        {"options.infer: full": [{"COUNT(*)": 300_002}], "columns: {a: string}": [{"COUNT(*)": 300_002}]},
    )  # fmt: skip
    yield Case(
        "a text longer than was declared", pipeline(files("a.csv", columns={"a": "varchar(2)"})),
        text("a.csv", "a\nx\nlong\n"), "DataError", {"columns: {a: string}": [{"a": "x"}, {"a": "long"}]},
    )  # fmt: skip
    yield Case(
        "an object where a number was declared", pipeline(files("a.jsonl", columns={"a": "int64"})),
        text("a.jsonl", '{"a": 1}\n{"a": {"b": 2}}\n'), "DataError",
        {"columns: {a: json}": [{"a": "1"}, {"a": '{"b": 2}'}]},
    )  # fmt: skip
    yield Case(
        "a CSV file named .jsonl", pipeline(files("a.jsonl")), text("a.jsonl", "a\n1\n"), "DataError",
        {"set options.format to the file's format": [{"a": 1}]},
    )  # fmt: skip
    yield Case(
        "a text that only claims to be JSON", pipeline(files("a.parquet")),
        parquet("a.parquet", pa.table({"j": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["[1]", "nope"]))})),
        "DataError", {"columns: {j: string}": [{"j": "[1]"}, {"j": "nope"}]},
    )  # fmt: skip
    to_csv = {"type": "file", "path": "out", "options": {"format": "csv"}}
    yield Case(
        "a list in CSV", pipeline(files("a.parquet"), sink=to_csv),
        parquet("a.parquet", pa.table({"x": [[1, 2], [3]]})), "DataError",
        {"columns: {x: json}": [{"x": "[1, 2]"}, {"x": "[3]"}], "format: parquet": [{"x": [1, 2]}, {"x": [3]}]},
    )  # fmt: skip
    yield Case(
        "bytes in CSV", pipeline(files("a.parquet"), sink=to_csv), parquet("a.parquet", pa.table({"x": [b"a"]})),
        "DataError", {"format: parquet": [{"x": b"a"}], "another type in the source": [{"x": "a"}]},
    )  # fmt: skip
    yield Case(
        "a target within the source", pipeline(files("**/*.csv"), sink=to_csv), text("a.csv", "a\n1\n"),
        "PipelineMismatch",
        {"move folder out out of it and change the sink's path": [{"a": 1}]}, lambda place: None,
    )  # fmt: skip
    yield Case(
        "a source around its target", pipeline(files("**/*.csv"), sink=to_csv), text("a.csv", "a\n1\n"),
        "PipelineMismatch", {"narrow source.path": [{"a": 1}]}, lambda place: None, then="--full-refresh",
    )  # fmt: skip
    yield Case(
        "a part that was cut off", pipeline(files("*.csv"), sink=to_csv), text("a.csv", "a\n1\n"), "SinkError",
        {"--full-refresh": [{"a": 1}, {"a": 2}], "restore the file from a backup": [{"a": 1}, {"a": 2}]},
        both(text("b.csv", "a\n2\n"), lost_part),
    )  # fmt: skip
    yield Case(
        "a year that has no text", pipeline(files("a.parquet")),
        parquet("a.parquet", pa.table({"t": pa.array([0, 400_000_000], pa.int32()).cast(pa.date32())})), "DataError",
        {"fix the value": [{"t": "1970-01-01"}, {"t": "2000-01-01"}]},
    )  # fmt: skip
    yield Case(
        "a text that is not UTF-8", pipeline(table()),
        sql("source", "CREATE TABLE s (x TEXT)", "INSERT INTO s VALUES (CAST(x'ff' AS TEXT))"), "DataError",
        {"CAST(... AS BLOB)": [{"x": b"\xff"}]},
    )  # fmt: skip
    yield Case(
        "a text in a column of numbers", pipeline(table()),
        sql("source", "CREATE TABLE s (x INTEGER)", "INSERT INTO s VALUES (1), ('a')"), "DataError",
        {"options.columns: {x: string}": [{"x": "1"}, {"x": "a"}]},
    )  # fmt: skip
    widening = pipeline(table())
    widening["sink"]["options"] = {"schema_evolution": {"mode": "widening"}}
    large = 2**53 + 1
    yield Case(
        "a number that a wider type would change", widening,
        sql("source", "CREATE TABLE s (n INTEGER)", f"INSERT INTO s VALUES ({large})"), "SchemaBreak",
        {
            "columns: {n: 'decimal(38,9)'}": [{"n": f"{large}.000000000"}, {"n": "0.500000000"}],
            "--full-refresh": [{"n": 0.5}], "correct the values": [{"n": 7.0}, {"n": 0.5}],
        },
        sql("source", "DROP TABLE s", "CREATE TABLE s (n REAL)", "INSERT INTO s VALUES (0.5)"),
    )  # fmt: skip
    yield Case(
        "more columns than a table can have", pipeline(table()),
        sql("source", f"CREATE TABLE s ({', '.join(f'c{i} INTEGER' for i in range(2000))})",
            "INSERT INTO s (c0) VALUES (1)"),
        "SchemaBreak", {"read fewer columns, as by source.query": [{"c0": 1}]},
    )  # fmt: skip
    yield Case(
        "a target with another primary key", pipeline(table(), "merge", key=["id", "n"]),
        both(
            sql("source", "CREATE TABLE s (id INTEGER, n INTEGER)", "INSERT INTO s VALUES (1, 10), (1, 20)"),
            sql("target", "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)"),
        ), "SchemaBreak",
        {"drop the target and use --full-refresh": TWICE, "change its primary key to (id, n)": TWICE},
    )  # fmt: skip
    kept = pipeline(table(), "merge", key=["id"])
    kept["sink"]["options"] = {"undo": {"loads": 2}}
    skips = "CREATE TRIGGER skips BEFORE UPDATE ON t WHEN NEW.id = 1 BEGIN SELECT RAISE(IGNORE); END"
    yield Case(
        "a trigger that leaves out a row of which the old values are kept", kept, NUMBERS, "SinkError",
        {
            "check the target's triggers": [{"id": 1, "n": 11}, {"id": 2, "n": 21}],
            "or remove sink.options.undo": [{"id": 1, "n": 10}, {"id": 2, "n": 21}],  # as the trigger says
        },
        both(sql("target", skips), sql("source", "UPDATE s SET n = n + 1")),
    )  # fmt: skip
    yield from csv_cases()


PEOPLE = "id,name\n1,a\n2\n"
NAMED: Rows = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
ENDED = "id,name,\n1,a,\n2,b\n"  # the last row without the delimiter that ends the others


def csv_cases() -> Iterator[Case]:
    """Options that say how the rows of a CSV file are written."""

    def csv(name: str, content: str, advice: dict[str, Rows], error: str = "DataError", **options: Any) -> Case:
        return Case(name, pipeline(files("a.csv", **options)), text("a.csv", content), error, advice)

    yield csv("a row with a value too few", PEOPLE, {
        "options.short_rows: null": [NAMED[0], {"id": 2, "name": None}], "fix the row, or set options.delimiter": NAMED,
    })  # fmt: skip
    yield csv("a delimiter that ends each row", "id,name\n1,a,\n2,b,\n", {"options.trailing_delimiter: true": NAMED})
    yield csv("lines above the header", "made today\nby us\nid,name\n1,a\n2,b\n", {"set options.skip_lines": NAMED})
    yield csv("marked lines above the header", "# made today\nid,name\n1,a\n2,b\n", {"or options.comment": NAMED})
    yield csv("another delimiter in the header too", "id,no;name\n1,2,3;a\n", {
        "set options.delimiter or": [{"id,no": "1,2,3", "name": "a"}],
    })  # fmt: skip
    yield csv("another quote", "id,name\n1,'a,b'\n", {"options.quote to the file's": [{"id": 1, "name": "a,b"}]})
    yield csv("a row without the last delimiter", ENDED, {
        "fix the row, or remove options.trailing_delimiter": NAMED,
    }, trailing_delimiter=True)  # fmt: skip
    for name, content in (("no delimiter", "id,name\n1,a\n2,b\n"), ("a value", "id,name,n\n1,a,7\n2,b,8\n")):
        rows = [{**row, "n": 7 + i} if name == "a value" else row for i, row in enumerate(NAMED)]
        yield csv(f"{name} at the end of each row", content, {
            "or remove options.trailing_delimiter": rows,
        }, trailing_delimiter=True)  # fmt: skip
    yield csv("a delimiter that the first line denies", "sep=;\nid;name\n1;a\n2;b\n", {
        "remove options.delimiter": NAMED,
    }, delimiter=",")  # fmt: skip
    yield csv("a first line that is wrong", "sep=;\nid,name\n1,a\n2,b\n", {
        "set options.skip_lines: 1 if that line is wrong": NAMED,
    }, delimiter=",")  # fmt: skip
    yield csv("fewer lines than are left out", "made today\nby us\nid,name\n1,a\n2,b\n", {
        "set options.skip_lines to the number of lines before the header": NAMED,
    }, skip_lines=9)  # fmt: skip
    split = csv("a line end in a value of a file that is read in parts", "id,name\n" + '1,"a\nb"\n' * 9, {
        "remove options.newlines_in_values: false": [{"id": 1, "name": "a\nb"}] * 9,
    }, newlines_in_values=False)  # fmt: skip
    split.data["runtime"]["partitions"] = 8
    yield split
    yield csv("a dot between thousands alone", 'id,n\n1,"1.234,5"\n', {
        "set options.decimal too, as in decimal: ','": [{"id": 1, "n": 1234.5}],
    }, "PipelineErrors", thousands=".", columns={"n": "float64"})  # fmt: skip
    for format, kind in (("jsonl", "PipelineErrors"), (None, "PipelineMismatch")):  # stated, or by the file's name
        given = {"delimiter": ";", **({"format": format} if format else {})}
        yield Case(
            f"an option of CSV for {format}", pipeline(files("a.jsonl", **given)), text("a.jsonl", '{"id": 1}\n'),
            kind, {"remove it, or set options.format": [{"id": 1}]},
        )  # fmt: skip
        yield Case(
            f"a CSV file that is called {format}", pipeline(files("a.jsonl", **given)), text("a.jsonl", "id;n\n1;2\n"),
            kind, {"or set options.format to the format of the files": [{"id": 1, "n": 2}]},
        )  # fmt: skip


def lost_part(place: Place) -> None:
    [part] = (place.folder / "out").glob("part-*")
    (place.folder / "backup").write_bytes(part.read_bytes())
    (place.folder / "name").write_text(part.name)
    part.write_bytes(part.read_bytes()[:-1])


def set_(data: dict[str, Any], *where: str, to: Any) -> None:
    for name in where[:-1]:
        data = data.setdefault(name, {})
    data[where[-1]] = to


def option_of(name: str, value: Any) -> Do:
    return lambda data, place: set_(data, "source", "options", name, to=value)


def without(name: str) -> Do:
    return lambda data, place: data["source"]["options"].pop(name)


def written(content: str) -> Do:
    return lambda data, place: place.file("a.csv", content)


def query(text: str, **strategy: Any) -> Do:
    def do(data: dict[str, Any], place: Place) -> None:
        del data["source"]["table"]
        set_(data, "source", "query", to=text)
        data["sink"]["strategy"] |= strategy

    return do


def as_number(data: dict[str, Any], place: Place) -> None:
    query("SELECT t.*, CAST(t.c AS bigint) AS n FROM s AS t")(data, place)
    set_(data, "source", "options", "incremental", "column", to="n")


def moved_away(data: dict[str, Any], place: Place) -> None:
    (place.folder / "out").rename(place.folder.parent / f"{place.folder.name}-old")
    set_(data, "sink", "path", to=f"../{place.folder.name}-out")


def parquet_again(data: dict[str, Any], place: Place) -> None:
    dates = pa.array([0, 10957], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"t": dates}), place.folder / "a.parquet")


def strategy(**options: Any) -> Do:
    return lambda data, place: data["sink"]["strategy"].update(options)


# Words of a message that are not just ``option: value``.
DO: dict[str, Do] = {
    "rename column ID of the target to id": lambda data, place: place.sql("target", 'ALTER TABLE t RENAME "ID" TO id'),
    "give id the name ID in the source": query('SELECT id AS "ID", n FROM s', key=["ID"]),
    "SELECT t.*, CAST(t.c AS bigint) AS n FROM ... AS t, by column: n, beginning with --full-refresh": as_number,
    "set options.format to the file's format": option_of("format", "csv"),
    "another type in the source": option_of("columns", {"x": "string"}),
    "narrow source.path": lambda data, place: set_(data, "source", "path", to="a.csv"),
    "move folder out out of it and change the sink's path": moved_away,
    "restore the file from a backup": lambda data, place: (place.folder / "backup").rename(
        place.folder / "out" / (place.folder / "name").read_text()
    ),
    "correct the values": lambda data, place: place.sql("target", "UPDATE t SET n = 7"),
    "fix the value": parquet_again,
    "read fewer columns, as by source.query": query("SELECT c0 FROM s"),
    "drop the target and use --full-refresh": lambda data, place: place.sql("target", "DROP TABLE t"),
    "change its primary key to (id, n)": lambda data, place: place.sql(
        "target", "DROP TABLE t", "CREATE TABLE t (id INTEGER, n INTEGER, PRIMARY KEY (id, n))"
    ),
    "CAST(... AS BLOB)": query("SELECT CAST(x AS BLOB) AS x FROM s"),
    "strategy.max_delete_share (1.0 allows all)": strategy(max_delete_share=1.0),
    "duplicates: first or last with order_by": strategy(duplicates="last", order_by=["n"]),
    "set options.names": option_of("names", ["a", "b"]),
    "set options.format to csv": option_of("format", "csv"),
    "use one glob per format": lambda data, place: set_(data, "source", "path", to="*.csv"),
    "set options.encoding to the file's encoding, such as latin-1": option_of("encoding", "latin-1"),
    "raise options.block_bytes": option_of("block_bytes", 1 << 20),
    "drop what depends on the table, or the table itself, and run again with --full-refresh": lambda data, place: (
        place.sql("target", "DROP TABLE t")
    ),
    "use columns of the source": option_of("columns", {"n": "string"}),
    "check the target's triggers": lambda data, place: place.sql("target", "DROP TRIGGER skips"),
    "or remove sink.options.undo": lambda data, place: data["sink"]["options"].pop("undo"),
    "correct incremental.column": option_of("incremental", {"by": "cursor", "column": "n"}),
    "fix the row, or set options.delimiter": written(PEOPLE.replace("2\n", "2,b\n")),
    "set options.skip_lines": option_of("skip_lines", 2),
    "or options.comment": option_of("comment", "#"),
    "set options.delimiter or": option_of("delimiter", ";"),
    "options.quote to the file's": option_of("quote", "'"),
    "fix the row, or remove options.trailing_delimiter": written(ENDED.replace("2,b", "2,b,")),
    "or remove options.trailing_delimiter": without("trailing_delimiter"),
    "remove options.delimiter": without("delimiter"),
    "set options.skip_lines: 1 if that line is wrong": option_of("skip_lines", 1),
    "set options.skip_lines to the number of lines before the header": option_of("skip_lines", 2),
    "remove options.newlines_in_values: false": without("newlines_in_values"),
    "set options.decimal too, as in decimal: ','": option_of("decimal", ","),
    "remove it, or set options.format": without("delimiter"),
    "or set options.format to the format of the files": option_of("format", "csv"),
}


def apply(data: dict[str, Any], place: Place, case: Case, words: str, do: Mapping[str, Do]) -> dict[str, Any]:
    """Do what the words say; the options of the run."""
    if words in do:
        do[words](data, place)
    elif words != "--full-refresh":
        put(data, words, case.of)
    return {"full_refresh": True} if "--full-refresh" in words else {}


def followed(folder: Path, case: Case, way: str, do: Mapping[str, Do]) -> None:
    """Nothing but the words of the message changes, and they are enough: green, the right rows, and green again."""
    place, data = Place(folder), copy.deepcopy(case.data)
    case.setup(place)
    if case.breaks is not None:
        assert place.run(data).error is None
        case.breaks(place)
        case.edit(data)
    kind, message = place.stopped(data, **case.options)
    assert kind == case.error, message
    assert way in message
    options = apply(data, place, case, way, do)
    done = place.run(data, **options)
    if case.then and not options:
        assert done.error is not None
        assert case.then in done.error.message
        done = place.run(data, **apply(data, place, case, case.then, do))
    assert done.error is None, done.error
    wanted = case.advice[way]
    if data["sink"]["type"] == "file":
        assert place.parts(data["sink"]) == wanted
        return
    counted = bool(wanted) and "COUNT(*)" in wanted[0]
    assert place.rows("SELECT COUNT(*) FROM t" if counted else "SELECT * FROM t") == wanted
    assert place.run(data).error is None


TABLE = [pytest.param(case, way, id=f"{case.name}: {way[:40]}") for case in cases() for way in case.advice]


@pytest.mark.parametrize(("case", "way"), TABLE)
def test_OUT_16_advice_ends_in_a_green_run(tmp_path: Path, case: Case, way: str) -> None:
    """What a message about rows, files and tables says is enough."""
    followed(tmp_path, case, way, DO)
