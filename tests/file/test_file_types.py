"""Types of files: the names a pipeline may write, files whose types differ, and values that no sink has a type for."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pjson
import pyarrow.parquet as pq
import pytest

from dpone.connectors.file.changelog import _table_from, _table_json
from dpone.connectors.file.config import FileSinkOptions, FileSourceOptions
from dpone.connectors.file.sink import write_part
from dpone.connectors.file.source import FileSource
from dpone.contract import WindowRequest
from dpone.engine.run import run
from dpone.errors import ConfigError, DataError
from dpone.formats.write import refused
from dpone.model.changes import ChangeTable
from dpone.model.pipeline import SourceSpec
from dpone.model.report import RunReport
from dpone.model.schema import NATIVE
from dpone.testing.rows import Rows


def table(base: Path, path: str, expected: pa.Schema | None = None, **options: Any) -> pa.Table:
    """All rows, as the source's streams have them."""
    source = FileSource(SourceSpec("file", path=path, options=FileSourceOptions(**options), base=base))
    window = source.window(None, WindowRequest(whole=True, expected=expected))
    batches = []
    for part in window.parts:
        with source.read(part) as stream:
            batches += [batch.replace_schema_metadata() for batch in stream.batches()]
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(b.columns, schema=window.schema) for b in batches])


def load(base: Path, path: str, sink: str = "sqlite", full_refresh: bool = False, **options: Any) -> RunReport:
    """A run that appends the files to out.db or to out/."""
    target = {"type": "file", "path": "out", "strategy": {"mode": "append"}, "options": {}}
    if sink == "sqlite":
        target |= {"connection": "sqlite:///out.db", "table": "t"}
        del target["path"]
    else:
        target["options"] = {"format": sink}
    target["type"] = "sqlite" if sink == "sqlite" else "file"
    source_options, sink_options = options.pop("source", {}), options.pop("sink_options", {})
    target["options"] |= sink_options
    source = {"type": "file", "path": path, "options": source_options}
    (base / "p.yaml").write_text(json.dumps({"pipeline": "p", "source": source, "sink": target}))
    return run(base / "p.yaml", full_refresh=full_refresh)


def rows(base: Path, sql: str = "SELECT * FROM t ORDER BY 1") -> list[tuple[Any, ...]]:
    db = sqlite3.connect(base / "out.db")
    try:
        return [row[: len(row) - 2] if "*" in sql else row for row in db.execute(sql)]
    finally:
        db.close()


def error(report: RunReport) -> str:
    [stream] = report.streams
    assert stream.error is not None, stream.status
    assert "\n" not in stream.error.message
    assert stream.error.kind in ("DataError", "SchemaBreak", "ConfigError", "SourceError", "SinkError"), stream.error
    return stream.error.message


def write(base: Path, name: str, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), base / name)


# ---- names


def test_names_by_case_of_a_later_file_are_one_mismatch(tmp_path: Path) -> None:
    """The error speaks of the names that the file has, and the first way out that it names leads to a load."""
    (tmp_path / "a.csv").write_text("ID,v\n1,2\n")
    assert load(tmp_path, "*.csv").exit_code == 0
    (tmp_path / "b.csv").write_text("id,v\n3,4\n")
    report = load(tmp_path, "*.csv")
    assert report.exit_code == 3
    assert "column id of the source is ID in the target; to allow it, " in error(report)
    assert "differ only by case" not in error(report)
    assert load(tmp_path, "*.csv", source={"names": ["ID", "v"]}).exit_code == 0
    assert rows(tmp_path, "SELECT ID, v FROM t ORDER BY 1") == [(1, 2), (3, 4)]


TEXTS = {
    "boolean": "true", "smallint": "-7", "integer": "70000", "int": "7", "bigint": "5000000000", "tinyint": "255",
    "numeric(12,2)": "10.50", "decimal(50,2)": "10.50", "real": "0.5", "double precision": "0.1", "float": "0.1",
    "text": "x", "varchar": "x", "varchar(20)": "x", "char(3)": "abc", "date": "2024-02-29", "time": "01:02:03",
    "timestamp": "2024-02-29 01:02:03", "timestamptz": "2024-02-29 01:02:03Z", "json": "[1.0]", "bytea": "YWI=",
    "uuid": "00000000-0000-0000-0000-000000000001", "timestamp_ns": "2024-02-29 01:02:03.000000001",
    "money": "1.0000", "datetime2(7)": "2024-02-29 01:02:03", "time(9)": "01:02:03", "timestamptz(9)":
    "2024-02-29 01:02:03Z", "large_string": "x", "date64": "2024-02-29", "time32[s]": "01:02:03", "uint64":
    "18446744073709551615", "timestamp[ms]": "2024-02-29 01:02:03", "large_binary": "YWI=",
    "timestamp[s, tz=UTC]": "2024-02-29 01:02:03Z", "decimal128(9, 0)": "7",
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_every_name_is_read_from_every_format(tmp_path: Path, name: str) -> None:
    """CSV, JSON Lines and a Parquet file of texts agree on the value."""
    text = TEXTS[name]
    (tmp_path / "a.csv").write_text(f'a,b\n"{text}",1\n')
    value = text if name in ("json", "boolean") else json.dumps(text)
    (tmp_path / "a.jsonl").write_text(f'{{"a":{value},"b":1}}\n')
    write(tmp_path, "a.parquet", a=pa.array([text]), b=pa.array([1]))
    found = [table(tmp_path, f"a.{end}", columns={"a": name}).column("a") for end in ("csv", "jsonl")]
    bytes_ = "binary" in str(found[0].type)  # base64 in JSON alone
    assert found[0].type == found[1].type
    assert bytes_ or found[0].equals(found[1])
    assert not found[0].null_count
    other = table(tmp_path, "a.parquet", columns={"a": name}).column("a")
    assert bytes_ or other.equals(found[0])


@pytest.mark.parametrize(
    "name", ["null", "halffloat", "duration[s]", "month_day_nano_interval", "string_view", "numeric", "pear"]
)
def test_a_type_that_no_text_has_is_refused_with_the_options(name: str) -> None:
    """Before any file is looked at, with what to write instead."""
    with pytest.raises(ConfigError, match=r"read columns.a: .*; write "):
        FileSourceOptions(columns={"a": name})


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", ["varchar(3)", "char(3)", "CHARACTER VARYING (3)"])
def test_a_declared_length_cuts_nothing(tmp_path: Path, form: str, name: str) -> None:
    """Characters count, not bytes; a longer text stops the read with its row and column, and the length goes along."""
    texts = ["äöü", "", "a", "ab c"]
    for end, content in (
        ("csv", "a\n" + "".join(f'"{text}"\n' for text in texts)),
        ("jsonl", "".join(json.dumps({"a": text}) + "\n" for text in texts)),
    ):
        (tmp_path / f"a.{end}").write_text(content)
    write(tmp_path, "a.parquet", a=pa.array(texts))
    with pytest.raises(DataError, match=r"row 4 \(of the data, from 1\), column 'a' has more than 3 characters"):
        table(tmp_path, f"a.{form}", columns={"a": name})
    found = table(tmp_path, f"a.{form}", columns={"a": name.replace("3", "4")})
    assert found.column("a").to_pylist() == texts
    assert found.schema.field("a").metadata == {NATIVE: b"varchar(4)"}


def test_positions_keep_the_types_that_they_were_written_with() -> None:
    """A change log's position of any version: ``float`` has four bytes there, whatever it means in a pipeline."""
    old = {"columns": {"a": "float", "b": "date", "c": "decimal(9,2)", "d": "json", "e": "int8", "f": "timestamptz"},
           "key": ["a"]}  # fmt: skip
    types = [pa.float32(), pa.date32(), pa.decimal128(9, 2), pa.json_(), pa.int8(), pa.timestamp("us", "UTC")]
    assert _table_from(old).values.types == types
    assert _table_json(_table_from(old)) == old
    more = [pa.decimal256(50, 2), pa.timestamp("ns", "UTC"), pa.time32("s"), pa.large_string(), pa.uuid(), pa.float64()]
    made = ChangeTable(pa.schema([(str(i), type_) for i, type_ in enumerate(more)]), ("0",))
    assert _table_from(json.loads(json.dumps(_table_json(made)))).values.types == more


# ---- types that unite


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_case_14_fractions_in_a_later_file_widen_the_column(tmp_path: Path, form: str) -> None:
    """Whole numbers, then fractions, then whole numbers again: all rows are there, none is rounded."""
    for number, qty in ((1, 5), (2, 5.5), (3, 7)):
        path = tmp_path / f"d-{number}.{form}"
        if form == "parquet":
            write(tmp_path, path.name, id=pa.array([number]), qty=pa.array([qty]))
        else:
            path.write_text(f"id,qty\n{number},{qty}\n" if form == "csv" else f'{{"id": {number}, "qty": {qty}}}\n')
        report = load(tmp_path, f"d-*.{form}")
        assert report.exit_code == 0, error(report)
    assert report.streams[0].schema_changes == []
    assert rows(tmp_path, "SELECT id, qty FROM t ORDER BY 1") == [(1, 5.0), (2, 5.5), (3, 7.0)]


@pytest.mark.parametrize("sink", ["sqlite", "parquet"])
def test_a_stored_number_that_a_double_rounds_stops_the_widening(tmp_path: Path, sink: str) -> None:
    """2**53 + 1 stays what it is: exit 3, nothing changed, and both ways that the message names lead on."""
    write(tmp_path, "d-1.parquet", id=pa.array([1]), qty=pa.array([2**53 + 1]))
    assert load(tmp_path, "d-*.parquet", sink).exit_code == 0
    write(tmp_path, "d-2.parquet", id=pa.array([2]), qty=pa.array([5.5]))
    report = load(tmp_path, "d-*.parquet", sink)
    assert report.exit_code == 3
    assert "1 row has a value in column qty that its new type double would change" in error(report)
    if sink == "sqlite":
        assert rows(tmp_path) == [(1, 2**53 + 1)]
    report = load(tmp_path, "d-*.parquet", sink, source={"columns": {"qty": "decimal(38,9)"}})
    assert report.exit_code == 0, error(report)
    if sink == "sqlite":
        assert [Decimal(qty) for (qty,) in rows(tmp_path, "SELECT qty FROM t")] == [2**53 + 1, Decimal("5.5")]


@pytest.mark.parametrize("sink", ["sqlite", "parquet"])
def test_a_full_refresh_replaces_the_column_instead(tmp_path: Path, sink: str) -> None:
    """What stood there goes, so that nothing has to fit it."""
    write(tmp_path, "d-1.parquet", id=pa.array([1]), qty=pa.array([2**53 + 1]))
    assert load(tmp_path, "d-*.parquet", sink).exit_code == 0
    write(tmp_path, "d-1.parquet", id=pa.array([2]), qty=pa.array([5.5]))
    report = load(tmp_path, "d-*.parquet", sink, full_refresh=True)
    assert report.exit_code == 0, error(report)
    if sink == "sqlite":
        assert rows(tmp_path) == [(2, 5.5)]


@pytest.mark.parametrize("sink", ["sqlite", "parquet", "jsonl"])
def test_dates_in_one_file_and_timestamps_in_the_next(tmp_path: Path, sink: str) -> None:
    """A day is its midnight, in the target's own form, in either order and in one window."""
    day, moment = pa.array([dt.date(2024, 2, 29), None]), pa.array([dt.datetime(2024, 3, 1, 5), None])
    for i, (one, two) in enumerate([(day, moment), (moment, day)]):
        base = tmp_path / str(i)
        base.mkdir()
        write(base, "d-1.parquet", t=one)
        assert load(base, "d-*.parquet", sink).exit_code == 0
        write(base, "d-2.parquet", t=two)
        report = load(base, "d-*.parquet", sink)
        assert report.exit_code == 0, error(report)
        if sink == "sqlite":
            texts = ["2024-02-29 00:00:00.000000", "2024-03-01 05:00:00.000000"]
            assert rows(base, "SELECT t FROM t WHERE t IS NOT NULL ORDER BY 1") == [(text,) for text in texts]
        both = [dt.datetime(2024, 2, 29), dt.datetime(2024, 3, 1, 5)]
        assert sorted(filter(None, table(base, "d-*.parquet").column("t").to_pylist())) == both


@pytest.mark.parametrize("first", [0, 1])
def test_dates_and_timestamps_of_csv_files(tmp_path: Path, first: int) -> None:
    """In either order, in one run and in two: the column is of timestamps, and NULL is NULL."""
    texts = ["id,t\n1,2024-02-29\n2,\n", "id,t\n3,2024-03-01 05:00:00\n"]
    for name, text in zip(("d-1", "d-2"), (texts[first], texts[1 - first]), strict=True):
        (tmp_path / f"{name}.csv").write_text(text)
        report = load(tmp_path, "d-*.csv")
        assert report.exit_code == 0, error(report)
    wanted = [(1, "2024-02-29 00:00:00.000000"), (2, None), (3, "2024-03-01 05:00:00.000000")]
    assert rows(tmp_path, "SELECT id, t FROM t ORDER BY 1") == wanted
    (tmp_path / "out.db").unlink()
    report = load(tmp_path, "d-*.csv", full_refresh=True)
    assert report.exit_code == 0, error(report)
    assert rows(tmp_path, "SELECT id, t FROM t ORDER BY 1") == wanted


def test_a_date_column_of_other_texts_is_not_widened(tmp_path: Path) -> None:
    """SQLite keeps any text in a column of dates; what is not one stops the run, and stays."""
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("CREATE TABLE t (id INTEGER, t DATE)")
        db.execute("INSERT INTO t VALUES (1, '29.02.2024'), (2, '2024-02-29')")
    db.close()
    (tmp_path / "a.csv").write_text("id,t\n3,2024-03-01 05:00:00\n")
    report = load(tmp_path, "a.csv", sink_options={"adopt_existing": True})
    assert report.exit_code == 3
    assert "1 row has a value in column t that its new type timestamp[us] would change" in error(report)
    assert rows(tmp_path, "SELECT id, t FROM t ORDER BY 1") == [(1, "29.02.2024"), (2, "2024-02-29")]
    report = load(tmp_path, "a.csv", full_refresh=True)
    assert report.exit_code == 0, error(report)
    assert rows(tmp_path, "SELECT id, t FROM t ORDER BY 1") == [(3, "2024-03-01 05:00:00.000000")]


def test_whole_and_fractional_files_of_one_window_are_doubles(tmp_path: Path) -> None:
    """In either order; a whole number that a double rounds is refused with the file, the column, and a way out."""
    write(tmp_path, "a.parquet", x=pa.array([1, 2**53]))
    write(tmp_path, "b.parquet", x=pa.array([0.5]))
    write(tmp_path, "c.parquet", x=pa.array([7], pa.int32()))
    assert table(tmp_path, "*.parquet").column("x").to_pylist() == [1.0, 2.0**53, 0.5, 7.0]
    write(tmp_path, "c.parquet", x=pa.array([2**53 + 1]))
    with pytest.raises(DataError, match=r"read c.parquet: column 'x' is int64.*columns: {x: string}"):
        table(tmp_path, "*.parquet")
    assert table(tmp_path, "c.parquet", columns={"x": "string"}).column("x").to_pylist() == [str(2**53 + 1)]


def test_a_declaration_comes_before_files_are_compared(tmp_path: Path) -> None:
    """Types that have nothing in common do not matter where the pipeline says what the column is."""
    write(tmp_path, "a.parquet", x=pa.array([1]), y=pa.array([[1]]))
    write(tmp_path, "b.parquet", x=pa.array(["2"]), y=pa.array([{"k": 1}]))
    with pytest.raises(
        DataError, match=r"column 'x' is string here and int64 in an earlier file.*columns: {x: string}"
    ):
        table(tmp_path, "*.parquet", columns={"y": "json"})
    with pytest.raises(DataError, match=r"column 'y'.*columns: {y: json}"):
        table(tmp_path, "*.parquet", columns={"x": "bigint"})
    found = table(tmp_path, "*.parquet", columns={"x": "bigint", "y": "json"})
    assert found.column("x").to_pylist() == [1, 2]
    assert [one.as_py() for one in found.column("y")] == ["[1]", '{"k": 1}']


def test_bytes_among_texts_are_declared_as_bytes(tmp_path: Path) -> None:
    """The type that the error names holds every value: bytes need not be text."""
    write(tmp_path, "a.parquet", x=pa.array([b"\xff"]))
    write(tmp_path, "b.parquet", x=pa.array(["2"]))
    for options in ({}, {"columns": {"x": "string"}}):
        with pytest.raises(DataError, match=r"column 'x'.*columns: {x: bytea}"):
            table(tmp_path, "*.parquet", **options)
    assert table(tmp_path, "*.parquet", columns={"x": "bytea"}).column("x").to_pylist() == [b"\xff", b"2"]


# ---- nested and odd types

INSTANT = dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.UTC)
ODD: dict[str, tuple[pa.Array, str | None]] = {
    "struct": (pa.array([{"a": 1, "b": {"c": "x"}}]), '{"a": 1, "b": {"c": "x"}}'),
    "list": (pa.array([[1, None]]), "[1, null]"),
    "list_of_struct": (pa.array([[{"a": 1.5}]]), '[{"a": 1.5}]'),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), '{"k": 1}'),
    "fixed_list": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "[1, 2]"),
    "large_list": (pa.array([["x"]], pa.large_list(pa.string())), '["x"]'),
    "dates_inside": (pa.array([[dt.date(2024, 2, 29)]]), '["2024-02-29"]'),
    "instants_inside": (pa.array([[INSTANT]]), '["2024-02-29T01:02:03+00:00"]'),
    "nanoseconds_inside": (pa.array([[1]]).cast(pa.list_(pa.timestamp("ns"))), '["1970-01-01T00:00:00.000000001"]'),
    "decimals_inside": (pa.array([{"d": Decimal("1.50")}]), '{"d": "1.50"}'),
    "bytes_inside": (pa.array([[b"\xff"]]), '["/w=="]'),
    "null": (pa.nulls(1), None),
    "duration": (pa.array([dt.timedelta(seconds=1)]), None),
    "float16": (pa.array([0.5], pa.float16()), None),
    "decimal256": (pa.array([Decimal("1.5")], pa.decimal256(50, 2)), None),
    "time_s": (pa.array([dt.time(1)], pa.time32("s")), None),
    "time_ns": (pa.array([1000], pa.time64("ns")), None),
    "large_string": (pa.array(["x"], pa.large_string()), None),
    "string_view": (pa.array(["x"], pa.string_view()), None),
    "binary_view": (pa.array([b"x"], pa.binary_view()), None),
    "dictionary": (pa.array(["x"]).dictionary_encode(), None),
    "uint64": (pa.array([7], pa.uint64()), None),
    "uuid": (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16], pa.binary(16))), None),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1e2}'])), '{"a":1e2}'),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())), None),
    "tensor": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int8(), (2,)), pa.array([[1, 2]], pa.list_(pa.int8(), 2))
        ),
        "[1, 2]",
    ),
}


@pytest.mark.parametrize("sink", ["sqlite", "parquet", "csv", "jsonl"])
@pytest.mark.parametrize("name", ODD)
def test_no_type_of_parquet_ends_in_a_raw_error(tmp_path: Path, name: str, sink: str) -> None:
    """Carried, nested ones as JSON text where the sink has no such type; or refused in a line that names the column."""
    array, text = ODD[name]
    try:
        write(tmp_path, "a.parquet", odd=array)
    except pa.ArrowException:
        pytest.skip("this pyarrow writes no such file")
    report = load(tmp_path, "a.parquet", sink)
    if report.exit_code:
        assert sink == "csv"
        assert "column odd is" in error(report)
        report = load(tmp_path, "a.parquet", sink, source={"columns": {"odd": "json"}})
        assert report.exit_code == 0 or "column 'odd' is" in error(report), error(report)
    if text is not None and sink == "sqlite":
        assert rows(tmp_path) == [(text,)]
    if text is not None and sink == "jsonl":
        [out] = (tmp_path / "out").glob("*.jsonl")
        assert json.loads(out.read_text())["odd"] == json.loads(text)
    if text is not None and sink == "csv":
        [out] = (tmp_path / "out").glob("*.csv")
        assert '"' + text.replace('"', '""') + '"' in out.read_text()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([[1.0], [float("nan")]]), "NaN or an infinity"),
        (pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8())), "a map with a duplicate key"),
    ],
)
@pytest.mark.parametrize("sink", ["sqlite", "jsonl"])
def test_a_nested_value_without_json_names_its_column(tmp_path: Path, array: pa.Array, reason: str, sink: str) -> None:
    """The load fails in one line, and nothing of it is there."""
    write(tmp_path, "a.parquet", odd=array)
    message = error(load(tmp_path, "a.parquet", sink))
    assert "column odd" in message
    assert reason in message


@pytest.mark.parametrize(
    ("unit", "fine", "shown"),
    [
        (pa.timestamp("ns"), 1_709_168_523_000_000_999, "2024-02-29 01:02:03.000000"),
        (pa.timestamp("ns"), -1, "1969-12-31 23:59:59.999999"),
        (pa.timestamp("ns", "Europe/Berlin"), 1_709_168_523_000_000_999, "2024-02-29 01:02:03.000000+00:00"),
        (pa.time64("ns"), 86_399_999_999_999, "23:59:59.999999"),
    ],
)
def test_nanoseconds_stop_the_load_or_are_cut_as_the_message_says(
    tmp_path: Path, unit: pa.DataType, fine: int, shown: str
) -> None:
    """Digits are dropped, not rounded; the option that the error names leads to a green run, and NULL stays NULL."""
    write(tmp_path, "a.parquet", t=pa.array([fine, None], pa.int64()).cast(unit))
    message = error(load(tmp_path, "a.parquet"))
    assert "column t, row 1" in message
    assert "sink.options.nanoseconds: cut" in message
    report = load(tmp_path, "a.parquet", sink_options={"nanoseconds": "cut"})
    assert report.exit_code == 0, error(report)
    assert rows(tmp_path, "SELECT t FROM t") == [(shown,), (None,)]


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_files_of_microseconds_and_nanoseconds(tmp_path: Path, zone: str | None) -> None:
    """They are read together where no digit is lost; else what the error says to declare gives a green run."""
    write(tmp_path, "a.parquet", t=pa.array([1], pa.int64()).cast(pa.timestamp("us", zone)))
    write(tmp_path, "b.parquet", t=pa.array([2_000], pa.int64()).cast(pa.timestamp("ns", zone)))
    assert table(tmp_path, "*.parquet").column("t").cast(pa.int64()).to_pylist() == [1, 2]
    write(tmp_path, "b.parquet", t=pa.array([2_999], pa.int64()).cast(pa.timestamp("ns", zone)))
    kind = "timestamptz(9)" if zone else "timestamp_ns"
    with pytest.raises(DataError, match=re.escape(f"columns: {{t: {kind}}}, with sink.options.nanoseconds: cut")):
        table(tmp_path, "*.parquet")
    report = load(tmp_path, "*.parquet", source={"columns": {"t": kind}}, sink_options={"nanoseconds": "cut"})
    assert report.exit_code == 0, error(report)
    wanted = ["1970-01-01 00:00:00.000001", "1970-01-01 00:00:00.000002"]
    assert [text[:26] for (text,) in rows(tmp_path, "SELECT t FROM t ORDER BY 1")] == wanted


def test_a_target_of_nanoseconds_gets_microseconds_if_they_are_cut(tmp_path: Path) -> None:
    """The option is about the rows, not about what the target could hold."""
    write(tmp_path, "a.parquet", t=pa.array([1_999], pa.int64()).cast(pa.timestamp("ns")))
    assert load(tmp_path, "a.parquet", "parquet", sink_options={"nanoseconds": "cut"}).exit_code == 0
    [part] = (tmp_path / "out").glob("*.parquet")
    assert pq.read_table(part).column("t").cast(pa.int64()).to_pylist() == [1]


# ---- the bytes of JSON


KEPT = [
    '{"b" :  1.0, "a":1e2,"a": 123456789012345678901234567890.10}',
    "[1, 2 ,3.00]", "1.50", "1e2", "-0", '"\\u00e4\\/"', "{ }", "[ 1,\t2 ]", "true",
]  # fmt: skip


@pytest.mark.parametrize("sink", ["sqlite", "jsonl"])
def test_a_json_column_keeps_its_bytes(tmp_path: Path, sink: str) -> None:
    """Blanks, the order and repetition of keys, the spelling of numbers and escapes, from CSV and from JSON Lines."""
    (tmp_path / "a.jsonl").write_text("".join(f'{{"id": {i}, "j": {text} }}\n' for i, text in enumerate(KEPT)))
    quoted = [text.replace('"', '""') for text in KEPT]
    (tmp_path / "a.csv").write_text("id,j\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(quoted)))
    for path in ("a.jsonl", "a.csv"):
        report = load(tmp_path, path, sink, full_refresh=True, source={"columns": {"j": "json"}})
        assert report.exit_code == 0, error(report)
        if sink == "sqlite":
            assert rows(tmp_path, "SELECT j FROM t ORDER BY id") == [(text,) for text in KEPT]
        else:
            [out] = [p for p in (tmp_path / "out").glob("*.jsonl") if p.read_text()]
            lines = out.read_text().splitlines()
            assert [line[line.index('"j":') + 4 : line.index(',"__dpone')] for line in lines] == KEPT


def test_a_line_end_inside_json_becomes_a_blank_in_json_lines_alone(tmp_path: Path) -> None:
    """Between tokens it is no part of the value, and would end the line; elsewhere it stays."""
    (tmp_path / "a.csv").write_text('id,j\n1,"{\n""a"": 1}"\n')
    assert load(tmp_path, "a.csv", source={"columns": {"j": "json"}}).exit_code == 0
    assert rows(tmp_path, "SELECT j FROM t") == [('{\n"a": 1}',)]
    assert load(tmp_path, "a.csv", "jsonl", source={"columns": {"j": "json"}}).exit_code == 0
    [out] = (tmp_path / "out").glob("*.jsonl")
    assert '"j":{ "a": 1}' in out.read_text()
    assert pjson.read_json(out).num_rows == 1


SIMPLE = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 2),
    pa.decimal256(50, 2), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(3),
    pa.large_binary(), pa.binary_view(), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"),
    pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "Europe/Berlin"), pa.duration("us"),
    pa.month_day_nano_interval(), pa.uuid(), pa.json_(), pa.bool8(), pa.struct([]),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int8(), pa.list_(pa.int8())),
    pa.run_end_encoded(pa.int32(), pa.int8()), pa.sparse_union([pa.field("a", pa.int8())]),
    pa.fixed_shape_tensor(pa.int8(), (2,)),
]  # fmt: skip
DEEP = [
    type_
    for one in SIMPLE
    for type_ in (
        pa.list_(one), pa.large_list(one), pa.struct({"a": one}), pa.map_(pa.string(), one), pa.list_(pa.list_(one)),
        pa.list_view(one), pa.large_list_view(one), pa.list_(one, 2),
    )
]  # fmt: skip


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_type_that_a_format_says_it_keeps_can_be_written(tmp_path: Path, form: str) -> None:
    """Of every type, and of every type inside every other: written, or refused, never a raw error."""
    kept = 0
    for type_ in [*SIMPLE, *DEEP]:
        if refused(form, type_):
            continue
        try:
            column = pa.nulls(2, type_)
            column.validate(full=True)
        except pa.ArrowException:
            continue  # pyarrow itself makes no such array
        schema = pa.schema([pa.field("a", type_)])
        path = tmp_path / f"{kept}.{form}"
        rows = Rows(pa.table([column], schema=schema))
        with contextlib.suppress(DataError):  # of what is inside a dictionary inside a view
            write_part(path, rows, schema, {}, FileSinkOptions(format=form))
            assert path.stat().st_size
            kept += 1
    assert kept > {"parquet": 150, "csv": 20, "jsonl": 150}[form]


def test_rows_put_aside_show_nested_values_as_json(tmp_path: Path) -> None:
    """Also times of nanoseconds and far years, which Python has no value for."""
    fine = pa.array([[1], [1]]).cast(pa.list_(pa.timestamp("ns")))
    far = pa.array([[0], [2**45]]).cast(pa.list_(pa.timestamp("s")))
    write(tmp_path, "a.parquet", id=pa.array([1, None]), fine=fine, far=far)
    contract = {"not_null": ["id"], "on_violation": "quarantine", "quarantine": {"values": True, "max_share": 1}}
    source = {"type": "file", "path": "a.parquet"}
    sink = {"type": "file", "path": "out", "strategy": {"mode": "append"}, "contract": contract}
    (tmp_path / "p.yaml").write_text(json.dumps({"pipeline": "p", "source": source, "sink": sink}))
    report = run(tmp_path / "p.yaml")
    assert report.exit_code == 0, error(report)
    [file] = (tmp_path / ".dpone" / "quarantine").rglob("*.jsonl")
    values = json.loads(file.read_text())["values"]
    assert values["fine"] == '["1970-01-01T00:00:00.000000001"]'
    assert values["far"] == "a year outside 0001 to 9999, which cannot be written as JSON"


YEARS = [  # a date or timestamp, and its text; None: Arrow has none
    (pa.date32(), 11_248_737, "32767-12-31"), (pa.date32(), 11_248_738, None), (pa.date32(), -(2**31), None),
    (pa.timestamp("ms"), 11_248_738 * 86_400_000 - 1, "32767-12-31 23:59:59.999"), (pa.timestamp("ms"), 2**62, None),
    (pa.timestamp("us"), -12_687_428 * 86_400_000_000, "-32767-01-01 00:00:00.000000"),
    (pa.timestamp("us", "UTC"), -12_687_428 * 86_400_000_000 - 1, None), (pa.timestamp("ms"), -(2**62), None),
]  # fmt: skip


@pytest.mark.parametrize("sink", ["csv", "jsonl", "declared"])
@pytest.mark.parametrize(("type_", "number", "text"), YEARS)
def test_a_year_without_a_text_is_refused(
    tmp_path: Path, type_: pa.DataType, number: int, text: str | None, sink: str
) -> None:
    """Arrow would write "<value out of range>" in its place."""
    integer = pa.int32() if type_ == pa.date32() else pa.int64()
    write(tmp_path, "a.parquet", t=pa.array([0, number], integer).cast(type_))
    declared = {"source": {"columns": {"t": "string"}}} if sink == "declared" else {}
    report = load(tmp_path, "a.parquet", "jsonl" if sink == "declared" else sink, **declared)
    if text is None:
        assert "column t" in error(report).replace("'", "")
    else:
        assert report.exit_code == 0, error(report)
        [out] = (tmp_path / "out").glob("part-*")
        assert text in out.read_text()


def test_a_json_column_of_parquet_is_json(tmp_path: Path) -> None:
    """What only claims to be would spoil a file of JSON Lines; as text it is loaded."""
    texts = pa.array(["[1.0]", None, "nope"])
    write(tmp_path, "a.parquet", j=pa.ExtensionArray.from_storage(pa.json_(), texts))
    message = error(load(tmp_path, "a.parquet", "jsonl"))
    assert "column 'j' has a text that is not JSON; declare the column, as in columns: {j: string}" in message
    assert table(tmp_path, "a.parquet", columns={"j": "string"}).column("j").to_pylist() == texts.to_pylist()
