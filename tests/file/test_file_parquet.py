"""Parquet: a value of another type is the same value, or the file is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpone.connectors.file.config import FileSourceOptions
from dpone.connectors.file.source import FileSource
from dpone.contract import WindowRequest
from dpone.errors import DataError
from dpone.model.pipeline import SourceSpec

# Julian day numbers of INT96; 1970-01-01 is 2440588.
_EPOCH_DAY = 2440588


def int96(path: Path, name: str, *instants: tuple[dt.date, int], groups: int = 1) -> None:
    """A Parquet file of one INT96 column, with these days and nanoseconds in place of what pyarrow wrote."""
    marks = [1_000_000_007 * (i + 1) for i in range(len(instants))]
    rows = -(-len(instants) // groups)
    pq.write_table(
        pa.table({name: pa.array(marks, pa.timestamp("ns"))}), path, use_deprecated_int96_timestamps=True,
        compression="none", use_dictionary=False, row_group_size=rows,
    )  # fmt: skip
    content = path.read_bytes()
    for mark, (day, nanoseconds) in zip(marks, instants, strict=True):
        old = np.array([mark], "<u8").tobytes() + np.array([_EPOCH_DAY], "<u4").tobytes()
        days = (day - dt.date(1970, 1, 1)).days + _EPOCH_DAY
        assert content.count(old) == 1
        new = np.array([nanoseconds], "<u8").tobytes() + np.array([days], "<u4").tobytes()
        content = content.replace(old, new)
    path.write_bytes(content)


def column(base: Path, name: str, expected: pa.Schema | None = None, partitions: int = 1, **options: Any) -> pa.Array:
    """The values of a column of all files, as the source's stream has them."""
    source = FileSource(SourceSpec("file", path="*.parquet", options=FileSourceOptions(**options), base=base))
    window = source.window(None, WindowRequest(whole=True, expected=expected, partitions=partitions))
    batches = []
    for part in window.parts:
        with source.read(part) as stream:
            batches += list(stream.batches())
    return pa.Table.from_batches(batches, schema=window.schema).column(name).combine_chunks()


FAR = (dt.date(9999, 12, 31), 0)
OLD = (dt.date(1000, 1, 1), 0)
FINE = (dt.date(2024, 2, 29), 1_234)


@pytest.mark.parametrize("partitions", [1, 3])
def test_int96_of_far_years_is_exact(tmp_path: Path, partitions: int) -> None:
    """Days that 64 bits of nanoseconds cannot count come out as they are, in whole files and in pieces."""
    near = (dt.date(2006, 1, 2), 7_000)
    int96(tmp_path / "a.parquet", "t", FAR, OLD, near, FAR, groups=3)
    found = column(tmp_path, "t", partitions=partitions)
    assert found.type == pa.timestamp("us")
    wanted = [dt.datetime(9999, 12, 31), dt.datetime(1000, 1, 1), dt.datetime(2006, 1, 2, 0, 0, 0, 7)]
    assert found.to_pylist() == [*wanted, wanted[0]]


def test_int96_with_nanoseconds_is_never_cut(tmp_path: Path) -> None:
    """Nanoseconds stop the read; either declaration that the message names then gives all of them."""
    int96(tmp_path / "a.parquet", "t", (dt.date(2024, 2, 29), 0), FINE)
    with pytest.raises(DataError, match="column 't' has nanoseconds") as raised:
        column(tmp_path, "t")
    assert "{t: timestamp_ns}" in str(raised.value)
    assert "{t: string}" in str(raised.value)
    whole = int(dt.datetime(2024, 2, 29, tzinfo=dt.UTC).timestamp()) * 10**9
    found = column(tmp_path, "t", columns={"t": "timestamp_ns"})
    assert found.cast(pa.int64()).to_pylist() == [whole, whole + 1_234]
    texts = column(tmp_path, "t", columns={"t": "string"}).to_pylist()
    assert texts == ["2024-02-29 00:00:00.000000", "2024-02-29 00:00:00.000001234"]


def test_int96_of_far_years_does_not_wrap_where_nanoseconds_are_declared(tmp_path: Path) -> None:
    """A year that nanoseconds cannot hold is refused in such a column, and is exact as text."""
    int96(tmp_path / "a.parquet", "t", FAR, FINE, (dt.date(1000, 1, 1), 999))
    with pytest.raises(DataError, match=r"with a value that timestamp\[ns\] cannot hold"):
        column(tmp_path, "t", columns={"t": "timestamp_ns"})
    texts = column(tmp_path, "t", columns={"t": "string"}).to_pylist()
    assert [texts[0], texts[2]] == ["9999-12-31 00:00:00.000000", "1000-01-01 00:00:00.000000999"]


def test_int96_keeps_the_nanoseconds_of_a_target_that_has_them(tmp_path: Path) -> None:
    """A target that earlier loads filled with nanoseconds goes on as it is."""
    int96(tmp_path / "a.parquet", "t", FINE)
    found = column(tmp_path, "t", expected=pa.schema([("t", pa.timestamp("ns"))]))
    assert found.type == pa.timestamp("ns")
    assert found.cast(pa.int64())[0].as_py() % 10**6 == 1_234


def test_int96_inside_a_value_is_exact_or_refused(tmp_path: Path) -> None:
    """Timestamps in lists, structs and maps lose no nanosecond without a word."""
    instants = pa.array([1_000, 2_001], pa.timestamp("ns"))
    for i, good in enumerate([True, False]):
        one = instants.slice(i, 1)
        tables: dict[str, pa.Array] = {
            "list": pa.ListArray.from_arrays([0, 1], one),
            "struct": pa.StructArray.from_arrays([one], ["at"]),
            "map": pa.MapArray.from_arrays([0, 1], pa.array(["k"]), one),
        }
        for name, values in tables.items():
            pq.write_table(pa.table({name: values}), tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
            if good:
                assert "1970-01-01 00:00:00.000001" in str(column(tmp_path, name))
            else:
                with pytest.raises(DataError, match="has nanoseconds"):
                    column(tmp_path, name)


AT = dt.datetime(2024, 2, 29, 5)


@pytest.mark.parametrize(
    ("value", "stored", "wanted"),
    [
        (Decimal("12345678901234567.89"), pa.decimal128(20, 2), "double"),
        (0.1, pa.float64(), "real"),
        (1e300, pa.float64(), "real"),
        (16777217.0, pa.float64(), "real"),
        (1.25, pa.float64(), "decimal(3,1)"),
        (1.25, pa.float32(), "decimal(3,1)"),
        (2, pa.int64(), "bool"),
        (0.5, pa.float64(), "bool"),
        (AT, pa.timestamp("us"), "date"),
        (AT, pa.timestamp("us"), "time"),
        (1, pa.timestamp("ns"), "timestamp"),
        (dt.datetime(9999, 1, 1), pa.timestamp("ms"), "timestamp_ns"),
        (2**63, pa.uint64(), "int64"),
        (-1, pa.int64(), "uint64"),
        (2**53 + 1, pa.uint64(), "double"),
        (2**53 + 1, pa.int64(), "double"),
        (300, pa.int64(), "int8"),
        (Decimal("1.25"), pa.decimal128(5, 2), "decimal(5,1)"),
        (Decimal("1.25"), pa.decimal128(5, 2), "int64"),
        (float("nan"), pa.float64(), "int64"),
        (1e20, pa.float64(), "int64"),
        ("12345678901234567890.5", pa.string(), "double"),
        ("1.25", pa.string(), "decimal(3,1)"),
        ("{", pa.string(), "json"),
        ("x", pa.string(), "uuid"),
        (b"\xff", pa.binary(), "string"),
    ],
)
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "dictionary"])
def test_a_value_that_the_declared_type_changes_is_refused(
    tmp_path: Path, value: Any, stored: pa.DataType, wanted: str, encoded: bool
) -> None:
    """Rounding, cutting and wrapping are refused by file and column, whether or not the values are a dictionary."""
    values = pa.array([None, value], stored)
    pq.write_table(pa.table({"a": values.dictionary_encode() if encoded else values}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: column 'a' is .* with a value that .* cannot hold"):
        column(tmp_path, "a", columns={"a": wanted})


@pytest.mark.parametrize(
    ("value", "stored", "wanted", "read"),
    [
        (Decimal("0.10"), pa.decimal128(20, 2), "double", 0.1),
        (0.5, pa.float64(), "real", 0.5),
        (1.1, pa.float64(), "decimal(9,2)", Decimal("1.10")),
        (1, pa.int64(), "bool", True),
        (dt.datetime(2024, 2, 29), pa.timestamp("us"), "date", dt.date(2024, 2, 29)),
        (dt.date(9999, 12, 31), pa.date32(), "timestamp", dt.datetime(9999, 12, 31)),
        (2**63 - 1, pa.uint64(), "int64", 2**63 - 1),
        (7, pa.int64(), "decimal(19,0)", Decimal(7)),
        ("007", pa.string(), "int64", 7),
        ("0.1", pa.string(), "double", 0.1),
        ('{"a":1}', pa.string(), "json", '{"a":1}'),
        (1.5, pa.float64(), "string", "1.5"),
    ],
)
def test_a_value_that_the_declared_type_holds_is_read(
    tmp_path: Path, value: Any, stored: pa.DataType, wanted: str, read: Any
) -> None:
    """A declaration is used wherever it changes no value."""
    pq.write_table(pa.table({"a": pa.array([None, value], stored)}), tmp_path / "a.parquet")
    assert column(tmp_path, "a", columns={"a": wanted}).to_pylist() == [None, read]


def test_a_number_that_is_none_is_still_one_in_a_smaller_float(tmp_path: Path) -> None:
    """NaN differs from itself and is no loss."""
    pq.write_table(pa.table({"a": [float("nan"), 0.5]}), tmp_path / "a.parquet")
    assert str(column(tmp_path, "a", columns={"a": "real"}).to_pylist()) == "[nan, 0.5]"


def test_a_parquet_file_without_a_column_of_the_others_stops_the_run(tmp_path: Path) -> None:
    """It does not belong to the table, so it is named."""
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": [2]}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"read 2\.parquet: none of its columns \(b\) is in 1\.parquet"):
        column(tmp_path, "a")
