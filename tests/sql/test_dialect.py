"""What every Dialect has from ``dpone.sql``: here with as little as a connector can give."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
import pytest

from dpone.errors import ConfigError
from dpone.model.evolution import Stored
from dpone.model.schema import Name
from dpone.model.types import JSON
from dpone.sql.dialect import Dialect, Unit

T = Name(("t",))


class Least(Dialect):
    kept = {  # noqa: RUF012 - as a connector writes it
        "integer": "number", "decimal": "number({},{})", "time": "clock", "text": "words",
        "json": Stored("tree", pa.string(), "checked"),
    }  # fmt: skip
    max_key: ClassVar[int | None] = 100

    def differs(self, left: str, right: str, type: pa.DataType) -> str:
        raise NotImplementedError

    def widen_column(self, table: Name, before: pa.Field, after: pa.Field) -> list[str]:
        raise NotImplementedError


class Driven(Least):
    """By a driver whose placeholder is that of printf."""

    placeholder = "%s"
    decimals = (65, 30)
    text_index = "{}({})"


KEPT = {
    pa.int8(): Stored("number", pa.int64(), "checked"), pa.string(): Stored("words", pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()): Stored("words", pa.string()),
    pa.decimal128(38, 2): Stored("number(38,2)", pa.decimal128(38, 2)),
    pa.time64("us"): Stored("clock", pa.time64("us")), pa.time64("ns"): Stored("clock", pa.time64("us"), "checked"),
    pa.list_(pa.int8()): Stored("tree", pa.string(), "checked"), JSON: Stored("tree", pa.string(), "checked"),
}  # fmt: skip


@pytest.mark.parametrize("type_", KEPT, ids=str)
def test_a_type_is_kept_as_the_table_says(type_: pa.DataType) -> None:
    """By its kind; what comes back, and whether every value does, is the same on every server unless it is said."""
    assert Least().stores(type_) == KEPT[type_]


@pytest.mark.parametrize(
    "type_", [pa.date32(), pa.decimal256(39, 2), pa.decimal128(5, -2), pa.decimal256(66, 31)], ids=str
)
def test_a_type_without_a_place_is_refused(type_: pa.DataType) -> None:
    """One that the table does not have, and a decimal of more digits than there are."""
    with pytest.raises(ConfigError, match="does not have this type; cast the column"):
        Least().stores(type_)


def test_digits_beyond_38_come_back_in_full() -> None:
    """Arrow has a type of its own for them."""
    assert Driven().stores(pa.decimal256(65, 30)) == Stored("number(65,30)", pa.decimal256(65, 30))
    with pytest.raises(ConfigError):
        Driven().stores(pa.decimal256(65, 31))


def test_a_percent_sign_is_a_placeholder_to_some_drivers() -> None:
    """It stands for itself in names and texts whatever the driver."""
    assert (Least().quote('a%"'), Least().literal("50%'")) == ('"a%"""', "'50%'''")
    assert (Driven().quote('a%"'), Driven().literal("50%'")) == ('"a%%"""', "'50%%'''")


def test_a_text_is_indexed_as_the_server_can() -> None:
    """Whole, by its begin, or not at all; a number always whole."""
    schema = pa.schema([("n", pa.int64()), ("a", pa.string())])

    class Without(Least):
        text_index = ""

    made = {kind: kind().create_index(T, schema, ["n", "a"]) for kind in (Least, Driven, Without)}
    assert made == {
        Least: 'CREATE INDEX "t_key" ON "t" ("n", "a")',
        Driven: 'CREATE INDEX "t_key" ON "t" ("n", "a"(68))', Without: "",
    }  # fmt: skip
    assert Without().create_index(T, schema, ["n"], "x") == 'CREATE INDEX "t_x" ON "t" ("n")'


@pytest.mark.parametrize(
    ("unit", "fits", "found"), [("characters", "ä😀xyz", 6), ("bytes", "äxyz", 6), ("UTF-16 units", "ä😀xy", 6)]
)
def test_a_name_is_as_long_as_the_server_counts(unit: Unit, fits: str, found: int) -> None:
    """In characters, bytes or UTF-16 units; one that is as long as the limit is not too long."""

    class Short(Least):
        max_identifier = 5

    Short.unit = unit
    assert (Short().too_long(fits), Short().too_long(f"{fits}z")) == ("", f"{found} {unit}, the limit is 5")
    assert Least().too_long("x" * 1000) == ""


@pytest.mark.parametrize(("length", "shown"), [(40, "x" * 39), (41, "x" * 39 + "...")])
def test_a_long_name_that_cannot_be_quoted_is_cut(length: int, shown: str) -> None:
    """The message has its first 40 characters."""
    name = "\0" + "x" * (length - 1)
    with pytest.raises(ConfigError, match=rf"^quote an identifier: '\\x00{shown}': it is empty or has a NUL"):
        Least().quote(name)


def test_a_name_has_as_many_parts_as_the_server_has_levels() -> None:
    """What to write instead is said in the server's own words."""
    assert Least().table_name(Name(("a", "b"))) == Name(("a", "b"))
    with pytest.raises(ConfigError, match=r"a\.b\.c has 3 parts; write table: name, or table: schema\.name"):
        Least().table_name(Name(("a", "b", "c")))
