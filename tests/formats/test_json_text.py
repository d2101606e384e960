"""JSON text of any Arrow value: exact, NULL where there is none, or refused with its row."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpone.formats.json_text import NotJson, json_texts

BERLIN = "Europe/Berlin"
DAY = dt.datetime(2024, 2, 29)
PAIR = pa.struct({"a": pa.int64(), "b": pa.string()})
VALUES: list[tuple[pa.DataType, list[Any], list[str | None]]] = [
    (pa.null(), [None, None], [None, None]),
    (pa.bool_(), [True, None, False], ["true", None, "false"]),
    (pa.int64(), [2**63 - 1, None, -(2**63)], ["9223372036854775807", None, "-9223372036854775808"]),
    (pa.uint64(), [2**64 - 1], ["18446744073709551615"]),
    (pa.float64(), [0.1, 1.0, -0.0, 1e300, 5e-324], ["0.1", "1.0", "-0.0", "1e+300", "5e-324"]),
    (pa.float32(), [0.5, None, 0.1], ["0.5", None, "0.10000000149011612"]),
    (pa.float16(), [0.5, None], ["0.5", None]),
    (pa.decimal128(38, 10), [Decimal("1.5"), Decimal("0.0000000001")], ['"1.5000000000"', '"0.0000000001"']),
    (pa.decimal256(76, 0), [Decimal(10) ** 75, None], ['"1' + "0" * 75 + '"', None]),
    (pa.string(), ['a"\\\n\x01', "ä😀", "", None], ['"a\\"\\\\\\n\\u0001"', '"ä😀"', '""', None]),
    (pa.large_string(), ["x", None], ['"x"', None]),
    (pa.string_view(), ["x", None], ['"x"', None]),
    (pa.binary(), [b"\xff\x00", None], ['"/wA="', None]),
    (pa.binary(2), [b"ab", None], ['"YWI="', None]),
    (pa.date32(), [dt.date(9999, 12, 31), dt.date(1, 1, 1), None], ['"9999-12-31"', '"0001-01-01"', None]),
    (pa.date64(), [dt.date(2024, 2, 29)], ['"2024-02-29"']),
    (pa.time32("s"), [dt.time(1, 2, 3)], ['"01:02:03"']),
    (pa.time32("ms"), [dt.time(1, 2, 3, 4000)], ['"01:02:03.004000"']),
    (pa.time64("ns"), [1, 1000, 0], ['"00:00:00.000000001"', '"00:00:00.000001"', '"00:00:00"']),
    (pa.timestamp("s"), [DAY], ['"2024-02-29T00:00:00"']),
    (pa.timestamp("ms"), [dt.datetime(2024, 2, 29, 1, 2, 3, 4000)], ['"2024-02-29T01:02:03.004000"']),
    (pa.timestamp("us"), [dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)], ['"9999-12-31T23:59:59.999999"']),
    (pa.timestamp("ns"), [1, 1000, -1], ['"1970-01-01T00:00:00.000000001"', '"1970-01-01T00:00:00.000001"',
                                         '"1969-12-31T23:59:59.999999999"']),
    (pa.timestamp("us", BERLIN), [dt.datetime(2024, 7, 1, tzinfo=dt.UTC)], ['"2024-07-01T00:00:00+00:00"']),
    (pa.duration("ns"), [1, -1, 0, 90 * 10**9], ["0.000000001", "-0.000000001", "0.0", "90.0"]),
    (pa.duration("s"), [2**53 + 1], ["9007199254740993.0"]),
    (pa.month_day_nano_interval(), [(1, -2, 3_500_000_000), None], ['"P1M-2DT3.500000000S"', None]),
    (pa.uuid(), [uuid.UUID(int=1).bytes, None], ['"00000000-0000-0000-0000-000000000001"', None]),
    (pa.json_(), ['{"b": 1.0,  "a":[]}', None], ['{"b": 1.0,  "a":[]}', None]),
    (pa.dictionary(pa.int8(), pa.string()), ["x", None, "x"], ['"x"', None, '"x"']),
    (pa.struct([]), [{}, None], ["{}", None]),
    (PAIR, [{"a": 1, "b": None}, None, {"a": None, "b": "x"}], ['{"a": 1, "b": null}', None, '{"a": null, "b": "x"}']),
    (pa.struct({'q"': pa.int8()}), [{'q"': 1}], ['{"q\\"": 1}']),
    (pa.list_(pa.int64()), [[1, None], [], None, [3]], ["[1, null]", "[]", None, "[3]"]),
    (pa.large_list(pa.string()), [["a"], None], ['["a"]', None]),
    (pa.list_(pa.int8(), 2), [[1, 2], None, [3, None]], ["[1, 2]", None, "[3, null]"]),
    (pa.list_view(pa.int8()), [[1, 2], None, []], ["[1, 2]", None, "[]"]),
    (pa.list_(PAIR), [[{"a": 1, "b": "x"}, None], None], ['[{"a": 1, "b": "x"}, null]', None]),
    (pa.map_(pa.string(), pa.int64()), [[("k", 1), ("l", None)], [], None], ['{"k": 1, "l": null}', "{}", None]),
    (pa.map_(pa.int32(), pa.list_(pa.bool_())), [[(7, [True])]], ['{"7": [true]}']),
    (pa.map_(pa.date32(), pa.int8()), [[(dt.date(2024, 2, 29), 1)]], ['{"2024-02-29": 1}']),
    (pa.struct({"j": pa.json_()}), [{"j": '{"x":1e2}'}, {"j": None}], ['{"j": {"x":1e2}}', '{"j": null}']),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "values", "texts"), VALUES, ids=[str(type_) for type_, _, _ in VALUES])
def test_every_type_has_one_exact_form(type_: pa.DataType, values: list[Any], texts: list[str | None]) -> None:
    """The text of each value is valid JSON and stands for just that value; NULL stays NULL, also in slices."""
    array = _array(type_, values)
    assert json_texts(array).to_pylist() == texts
    for start in range(len(values)):
        assert json_texts(array.slice(start, 1)).to_pylist() == texts[start : start + 1]
    assert json_texts(array.slice(0, 0)).to_pylist() == []
    for text in texts:
        assert text is None or json.loads(text) is not ...


def _array(type_: pa.DataType, values: list[Any]) -> pa.Array:
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, pa.array(values, type_.storage_type))
    if pa.types.is_struct(type_) and any(isinstance(field.type, pa.BaseExtensionType) for field in type_):
        children = [_array(field.type, [value[field.name] for value in values]) for field in type_]
        return pa.StructArray.from_arrays(children, fields=list(type_))
    return pa.array(values, type_)


def test_run_end_encoded_values_and_extension_types_are_those_inside() -> None:
    """An encoding or a wrapper changes no text."""
    encoded = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["x", None]))
    assert json_texts(encoded).to_pylist() == ['"x"', '"x"', None]
    tensor = pa.fixed_shape_tensor(pa.int8(), (2,))
    array = pa.ExtensionArray.from_storage(tensor, pa.array([[1, 2], [3, 4]], tensor.storage_type))
    assert json_texts(array).to_pylist() == ["[1, 2]", "[3, 4]"]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([[0.5], [float("nan")]]), "NaN or an infinity"),
        (pa.array([{"a": 0.5}, {"a": float("inf")}]), "NaN or an infinity"),
        (pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8())), "a duplicate key"),
        (pa.array([[0], [2**40]]).cast(pa.list_(pa.timestamp("s"))), "a year outside 0001 to 9999"),
        (pa.array([[0], [-(2**30)]], pa.list_(pa.int32())).cast(pa.list_(pa.date32())), "a year outside 0001 to 9999"),
        (pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, 2])]), "union"),
        (pa.array([[], [([1], 1)]], pa.map_(pa.list_(pa.int8()), pa.int8())), "keys are nested"),
        (
            pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]),
            "two members with the same name",
        ),
    ],
)  # fmt: skip
def test_what_has_no_json_is_refused_with_its_row(array: pa.Array, reason: str) -> None:
    """NaN, a repeated key, a far year, a union: the error says which row, never a value."""
    with pytest.raises(NotJson, match=reason) as raised:
        json_texts(array)
    bad_in_all = "union" in reason or "name" in reason or "nested" in reason
    assert raised.value.row == (len(array) - 1 if not bad_in_all else raised.value.row)


@given(
    st.lists(
        st.none()
        | st.fixed_dictionaries(
            {
                "s": st.none() | st.text(),
                "l": st.none() | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
                "m": st.none() | st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
            }
        ),
        max_size=8,
    )
)
def test_python_reads_back_the_same(values: list[dict[str, Any] | None]) -> None:
    """Whatever text, number or depth: Python's own reader finds the value that went in."""
    type_ = pa.struct({"s": pa.string(), "l": pa.list_(pa.int64()), "m": pa.map_(pa.string(), pa.float64())})
    given_ = [None if v is None else {**v, "m": None if v["m"] is None else list(v["m"].items())} for v in values]
    texts = json_texts(pa.array(given_, type_)).to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == values
