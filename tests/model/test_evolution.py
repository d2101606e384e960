"""Schema comparison: what is safe, what is breaking, and what would allow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.errors import SchemaBreak
from dpone.model.evolution import (
    SchemaComparator,
    Stored,
    holds,
    inexact,
    join,
    plan,
    united,
)
from dpone.model.pipeline import SchemaEvolution
from dpone.model.schema import DEFAULT, NATIVE


def _as_is(type_: pa.DataType) -> Stored:
    return Stored("t", type_)


def _narrow(type_: pa.DataType) -> Stored:
    """A sink that keeps every integer as int64, as SQLite does."""
    return Stored("INTEGER", pa.int64()) if pa.types.is_integer(type_) else Stored("t", type_)


def _plan(
    target: dict[str, pa.DataType] | None, source: dict[str, pa.DataType], **policy: Any
) -> tuple[list[str], list[str]]:
    key = policy.pop("key", ())
    have = None if target is None else pa.schema(target)
    found = plan(have, pa.schema(source), SchemaEvolution(**policy), _as_is, key)
    return [str(c) for c in found.changes], [str(c) for c in found.breaking]


D = pa.decimal128


@pytest.mark.parametrize(
    ("target", "source", "fits"),
    [
        (pa.int64(), pa.int32(), True), (pa.int32(), pa.int64(), False),
        (pa.int64(), pa.uint32(), True), (pa.int32(), pa.uint32(), False), (pa.uint64(), pa.int8(), False),
        (pa.float64(), pa.int32(), True), (pa.float64(), pa.int64(), False), (pa.float32(), pa.int32(), False),
        (pa.float64(), pa.float32(), True), (pa.float32(), pa.float64(), False),
        (D(19, 0), pa.int64(), True), (D(18, 0), pa.int64(), False), (D(20, 1), pa.int64(), True),
        (D(18, 6), D(10, 2), True), (D(10, 6), D(10, 2), False), (D(12, 1), D(10, 2), False),
        (pa.large_string(), pa.string(), True), (pa.string(), pa.int64(), False), (pa.int64(), pa.string(), False),
        (pa.binary(), pa.binary(16), True), (pa.string(), pa.binary(), False),
        (pa.timestamp("us"), pa.timestamp("ns"), True), (pa.timestamp("us", "UTC"), pa.timestamp("us"), False),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), False), (pa.timestamp("us"), pa.date32(), True),
        (pa.date32(), pa.timestamp("us"), False),
        (pa.timestamp("us", "UTC"), pa.date32(), False),
        (pa.string(), pa.dictionary(pa.int8(), pa.string()), True), (pa.int8(), pa.null(), True),
        (pa.int64(), pa.bool_(), False),
        (pa.time64("us"), pa.time32("s"), True), (pa.time64("us"), pa.duration("us"), False),
        (pa.int64(), pa.time64("us"), False), (pa.duration("us"), pa.duration("s"), True),
        (pa.time64("us"), pa.timestamp("us"), False), (pa.int64(), pa.duration("s"), False),
        (pa.timestamp("us"), pa.time64("us"), False), (pa.date64(), pa.date32(), True),
        (pa.string(), pa.date32(), False),
    ],
)  # fmt: skip
def test_what_a_type_holds(target: pa.DataType, source: pa.DataType, fits: bool) -> None:
    """A target that can hold every value of the source exactly needs no change, also when it is wider."""
    assert holds(target, source) is fits


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (pa.int32(), pa.int64(), pa.int64()), (pa.int32(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.uint64(), D(20, 0)),
        (D(10, 2), D(8, 6), D(14, 6)), (D(38, 0), D(38, 38), None), (pa.int64(), pa.float64(), None),
        (pa.float32(), pa.float64(), pa.float64()), (pa.string(), pa.int64(), None),
        (pa.int64(), D(10, 2), D(21, 2)), (pa.int32(), D(38, 30), None),
        (pa.date32(), pa.timestamp("us"), pa.timestamp("us")), (pa.date32(), pa.timestamp("us", "UTC"), None),
    ],
)  # fmt: skip
def test_the_join_holds_both(left: pa.DataType, right: pa.DataType, both: pa.DataType | None) -> None:
    """The join is the narrowest type that holds both sides, in either order, or there is none."""
    assert join(left, right) == both
    assert join(right, left) == both


INTEGERS = {
    getattr(pa, name)(): (int(np.iinfo(name).min), int(np.iinfo(name).max))
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
}
FLOATS = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}  # up to there every integer is exact


@pytest.mark.parametrize("source", INTEGERS)
def test_an_integer_fits_where_its_range_does(source: pa.DataType) -> None:
    """Into another integer, a float that is exact that far, a decimal with as many digits; and two types are joined in
    the narrowest that holds the range of both, an integer if there is one."""
    low, high = INTEGERS[source]
    for target, (least, most) in INTEGERS.items():
        assert holds(target, source) is (least <= low and high <= most), target
        both = [t for t, (a, b) in INTEGERS.items() if a <= min(low, least) and max(high, most) <= b]
        assert join(target, source) == (both[0] if both else D(20, 0)), target
    for target, exact in FLOATS.items():
        assert holds(target, source) is (max(-low, high) <= exact), target
        assert holds(source, target) is False
        fits = [f for f, far in FLOATS.items() if far >= exact and far >= max(-low, high)]
        assert join(target, source) == join(source, target) == (fits[0] if fits else None), target
    for digits in range(1, 39):
        assert holds(D(digits, 0), source) is (10**digits > max(-low, high)), digits
        assert holds(D(38, 38 - digits), source) is (10**digits > max(-low, high)), digits


def test_a_target_that_holds_what_the_source_or_the_sink_makes_of_it_stays() -> None:
    """A type is held as the source gives it, or as the sink would keep it: either is enough."""
    wide = pa.schema({"a": pa.int32(), "b": pa.large_string()})

    def stores(type_: pa.DataType) -> Stored:
        return Stored("TEXT", pa.string()) if pa.types.is_decimal(type_) else _narrow(type_)

    assert plan(wide, pa.schema({"a": pa.int16(), "b": D(9, 2)}), SchemaEvolution(), stores).changes == ()


def test_a_widened_column_keeps_what_is_said_of_it() -> None:
    """That it has a default, for one; only its former type in the target's own words is gone."""
    said = pa.schema([
        pa.field("a", pa.int32(), metadata={DEFAULT: b"yes", NATIVE: b"int"}),
        pa.field("b", pa.int32(), metadata={NATIVE: b"int"}),
    ])  # fmt: skip
    found = plan(said, pa.schema({"a": pa.int64(), "b": pa.int64()}), SchemaEvolution(), _as_is)
    assert [(c.after and c.after.metadata) or {} for c in found.changes] == [{DEFAULT: b"yes"}, {}]


def test_what_a_plan_says_of_a_new_table() -> None:
    """How many columns it has; the types of what is changed, not of what is only missing."""
    assert _plan(None, {"a": pa.int64(), "b": pa.string()}) == (["create with 2 columns"], [])
    assert _plan(None, {}) == (["create with 0 columns"], [])


@pytest.mark.parametrize(
    ("target", "source", "found"),
    [
        (pa.int64(), pa.float64(), "widen a int64 -> double, if all rows fit"),
        (pa.uint64(), pa.float32(), "widen a uint64 -> double, if all rows fit"),
        (pa.int32(), pa.float64(), "widen a int32 -> double"),
        (pa.float32(), pa.int64(), "widen a float -> double"),
        (pa.float64(), pa.int64(), None),
        (pa.date32(), pa.timestamp("ms"), "widen a date32[day] -> timestamp[ms], if all rows fit"),
        (pa.timestamp("us"), pa.date32(), None),
    ],
)
def test_whole_numbers_and_fractions_meet_in_a_double(target: pa.DataType, source: pa.DataType, found: str) -> None:
    """Where a stored value may not fit, the change says that it looks; additive and strict allow none of it."""
    assert _plan({"a": target}, {"a": source}) == ([found] if found else [], [])
    assert _plan({"a": target}, {"a": source}, mode="additive") == ([], [found] if found else [])
    assert len(_plan({"a": target}, {"a": source}, mode="strict")[1]) == 1


@pytest.mark.parametrize(
    ("left", "right"),
    [(pa.int64(), D(10, 2)), (pa.float64(), D(10, 2)), (pa.int64(), pa.string()), (D(38, 0), D(38, 38))],
)
def test_nothing_else_is_united_by_looking(left: pa.DataType, right: pa.DataType) -> None:
    """Only whole numbers and floats are; the rest is as ``join`` has it."""
    assert united(left, right) == join(left, right) == join(right, left)


def test_widening_is_the_default() -> None:
    """Additions and widenings are safe by default; narrowing is no change because the target already holds it."""
    assert _plan({"a": pa.int32()}, {"a": pa.int64(), "b": pa.string()}) == (
        ["widen a int32 -> int64", "add b string"],
        [],
    )
    assert _plan({"a": pa.int64()}, {"a": pa.int32()}) == ([], [])


def test_additive_refuses_a_widening() -> None:
    """Under additive only new nullable columns are safe."""
    safe, breaking = _plan({"a": pa.int32()}, {"a": pa.int64(), "b": pa.string()}, mode="additive")
    assert (safe, breaking) == (["add b string"], ["widen a int32 -> int64"])


def test_SE_05_a_rename_is_a_drop_and_an_addition_and_stops() -> None:
    """A renamed column is not guessed: the column that is gone stops the run before anything is added."""
    found = plan(pa.schema({"old": pa.int64()}), pa.schema({"new": pa.int64()}), SchemaEvolution(), _as_is)
    with pytest.raises(
        SchemaBreak,
        match=r"column old \(int64\) is in the target but not in the source; "
        r"possible rename: old is missing and new is new; "
        r"if it is a rename, rename the column "
        r"of the target too; to allow it, set schema_evolution.on_missing_column: ignore; nothing was changed",
    ):
        found.require_safe("t")


def test_a_missing_column_can_be_ignored() -> None:
    """on_missing_column: ignore keeps the target's column and asks for nothing."""
    assert _plan({"a": pa.int64(), "b": pa.int64()}, {"a": pa.int64()}, on_missing_column="ignore") == ([], [])


def test_SE_01_a_type_change_stops_before_the_load() -> None:
    """An incompatible type is found by comparing schemas, not by a value that fails half way."""
    assert _plan({"a": pa.int64()}, {"a": pa.string()}) == ([], ["type a int64 -> string"])


def test_a_policy_that_refuses_a_wider_type_says_so() -> None:
    """Additive allows new columns alone: the message has both types, and calls the change a wider type."""
    found = plan(pa.schema({"a": pa.int32()}), pa.schema({"a": pa.int64()}), SchemaEvolution(mode="additive"), _as_is)
    with pytest.raises(SchemaBreak, match="column a needs a wider type: int32 -> int64; "):
        found.require_safe("t")


def test_SE_02_a_decimal_grows_without_losing_digits() -> None:
    """numeric(10,2) meets numeric(9,6): the target becomes numeric(14,6), which holds both."""
    assert _plan({"a": D(10, 2)}, {"a": D(9, 6)})[0] == ["widen a decimal128(10, 2) -> decimal128(14, 6)"]


def test_SE_03_names_that_differ_by_case_are_refused() -> None:
    """Two source columns, or a source and a target column, that fold together stop the run."""
    alike = ["columns id and ID of the source differ only by case"]
    assert _plan(None, {"id": pa.int64(), "ID": pa.int64()})[1] == alike
    assert _plan({"id": pa.int64()}, {"Id": pa.int64()})[1] == ["column Id of the source is id in the target"]


def test_SE_07_a_type_change_is_routed_to_a_column_of_its_own() -> None:
    """new_column adds __dpone__nc__<column> once, uses it from then on, and stops at a third type."""
    policy = SchemaEvolution(on_type_change="new_column")
    target = pa.schema({"a": pa.int64()})
    first = plan(target, pa.schema({"a": pa.string()}), policy, _as_is)
    assert [str(c) for c in first.changes] == ["add __dpone__nc__a string"]
    assert first.columns == {"a": "__dpone__nc__a"}
    target = target.append(pa.field("__dpone__nc__a", pa.string()))
    again = plan(target, pa.schema({"a": pa.string()}), policy, _as_is)
    assert (again.changes, again.breaking, again.columns) == ((), (), {"a": "__dpone__nc__a"})
    third = plan(target, pa.schema({"a": pa.bool_()}), policy, _as_is)
    assert [c.kind for c in third.breaking] == ["type"]


def test_a_key_column_is_never_routed() -> None:
    """A key column whose type changed stops the run whatever on_type_change says."""
    _, breaking = _plan({"a": pa.int64()}, {"a": pa.string()}, on_type_change="new_column", key=("a",))
    assert breaking == ["type a int64 -> string"]


def test_what_the_sink_keeps_decides() -> None:
    """An int32 that the sink keeps as int64 is no change on the second run."""
    found = plan(pa.schema({"a": pa.int64()}), pa.schema({"a": pa.int32()}), SchemaEvolution(mode="strict"), _narrow)
    assert (found.changes, found.breaking) == ((), ())


# ---- the comparator


def _native(name: str, native: str, type_: pa.DataType | None = None, **more: Any) -> pa.Field:
    return pa.field(name, type_ or pa.string(), metadata={NATIVE: native.encode()}, **more)


def _compare(
    target: list[pa.Field],
    source: list[pa.Field],
    *,
    key: tuple[str, ...] = (),
    limit: int | None = None,
    **policy: Any,
) -> tuple[list[str], list[str]]:
    dialect = type("Limited", (SqliteDialect,), {"max_identifier": limit})()
    comparator = SchemaComparator(SchemaEvolution(**policy), key=key, too_long=dialect.too_long)
    found = comparator.compare(pa.schema(target), pa.schema(source))
    return [str(c) for c in found.changes], [f"{c}; {c.allow}" for c in found.breaking]


@pytest.mark.parametrize(
    ("target", "source", "change"),
    [
        ("varchar(50)", "varchar(200)", "widen a string varchar(50) -> string varchar(200)"),
        ("nvarchar(50)", "character varying ( 200 )", "widen a string nvarchar(50) -> string nvarchar(200)"),
        ("varchar(50)", "text", "widen a string varchar(50) -> string"),
        ("varchar(50)", "nvarchar(max)", "widen a string varchar(50) -> string"),
        ("varchar(200)", "varchar(50)", None), ("text", "varchar(50)", None), ("varchar(50)", "nvarchar(50)", None),
        ("varchar(50)", "", None),  # a source without words of its own, such as a CSV
        ("", "varchar(50)", None),
    ],
)  # fmt: skip
def test_SE_02_lengths(target: str, source: str, change: str | None) -> None:
    """A longer text, or one without limit, widens a limited target; a target that is longer already is no change."""
    found = _compare([_native("a", target)], [_native("a", source)])
    assert found == ([change] if change else [], [])


def test_SE_02_a_widened_length_is_what_the_source_has() -> None:
    """After the widening of a length the two sides are alike, for the next comparison and under strict."""
    comparator = SchemaComparator()
    source = pa.schema([_native("a", "varchar(200)")])
    [change] = comparator.compare(pa.schema([_native("a", "varchar(50)")]), source).changes
    assert change.after is not None
    assert (change.after.type, change.after.metadata) == (pa.string(), {NATIVE: b"varchar(200)"})
    assert not SchemaComparator(SchemaEvolution("strict")).compare(pa.schema([change.after]), source).breaking


def test_lengths_follow_the_policy() -> None:
    """A longer text is breaking where a wider type is; strict refuses a shorter one too."""
    short, long = _native("a", "varchar(50)"), _native("a", "varchar(200)")
    widen = "widen a string varchar(50) -> string varchar(200); schema_evolution.mode: widening"
    assert _compare([short], [long], mode="additive") == ([], [widen])
    assert _compare([short], [long], mode="strict") == ([], [widen])
    assert _compare([long], [short], mode="additive") == ([], [])
    assert _compare([long], [short], mode="strict")[1][0].startswith("type a string varchar(200) -> string varchar(50)")


@pytest.mark.parametrize(
    ("target", "source", "safe", "breaking"),
    [
        (pa.float32(), pa.float64(), ["widen a float -> double"], []),
        (pa.float64(), pa.float32(), [], []),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), [], ["type a timestamp[us] -> timestamp[us, tz=UTC]"]),
        (pa.timestamp("us", "UTC"), pa.timestamp("us"), [], ["type a timestamp[us, tz=UTC] -> timestamp[us]"]),
    ],
)  # fmt: skip
def test_types_that_look_alike_are_not_equal(
    target: pa.DataType, source: pa.DataType, safe: list[str], breaking: list[str]
) -> None:
    """real and double differ, and so do timestamps with and without a zone: strict stops at each of them."""
    assert _plan({"a": target}, {"a": source}) == (safe, breaking)
    assert len(_plan({"a": target}, {"a": source}, mode="strict")[1]) == 1


@pytest.mark.parametrize(
    ("target", "source", "change"),
    [
        (pa.int64(), pa.int32(), "type a int64 -> int32"),
        (pa.float64(), pa.int32(), "type a double -> int32"),
        # each holds the other: no widening, either way
        (pa.timestamp("us"), pa.timestamp("ns"), "type a timestamp[us] -> timestamp[ns]"),
        (pa.timestamp("ns"), pa.timestamp("us"), "type a timestamp[ns] -> timestamp[us]"),
    ],
)
def test_strict_refuses_any_drift(target: pa.DataType, source: pa.DataType, change: str) -> None:
    """Under strict every difference is breaking, also a narrower source and a new column; any other mode allows it."""
    sides = [pa.field("a", target)], [pa.field("a", source), pa.field("b", pa.string())]
    way = "schema_evolution.mode: additive or widening"
    assert _compare(*sides, mode="strict") == ([], [f"{change}; {way}", f"add b string; {way}"])
    assert _compare(*sides, mode="additive") == _compare(*sides) == (["add b string"], [])


@pytest.mark.parametrize(("target", "source"), [(True, False), (False, True)])
def test_strict_refuses_a_change_of_nullability(target: bool, source: bool) -> None:
    """Under strict a column that allows NULL on one side only is breaking; otherwise the database decides."""
    sides = [pa.field("a", pa.int64(), target)], [pa.field("a", pa.int64(), source)]
    words = {True: "nullable", False: "not null"}
    change = f"null a {words[target]} -> {words[source]}; schema_evolution.mode: additive or widening"
    assert _compare(*sides, mode="strict") == ([], [change])
    assert _compare(*sides, mode="strict", key=("a",)) == ([], [])
    assert _compare(*sides, mode="additive") == ([], [])
    assert _compare(*sides) == ([], [])


def test_a_not_null_column_that_nothing_fills_is_breaking() -> None:
    """A target column that is NOT NULL and has no default stops the run if the source lacks it, ignored or not."""
    target = [pa.field("a", pa.int64()), pa.field("b", pa.int64(), False)]
    source = [pa.field("a", pa.int64())]
    fill = "give b a default, or make it nullable"
    assert _compare(target, source) == ([], [f"drop b int64; schema_evolution.on_missing_column: ignore and {fill}"])
    assert _compare(target, source, on_missing_column="ignore") == ([], [f"null b not null -> absent; {fill}"])
    target[1] = target[1].with_metadata({DEFAULT: b"yes"})
    assert _compare(target, source, on_missing_column="ignore") == ([], [])


def test_a_key_column_is_never_dropped_or_narrowed() -> None:
    """A key column may grow; it stays where the source lacks it, and keeps its type, whatever the policy allows."""
    lax = {"on_type_change": "new_column", "on_missing_column": "ignore"}
    key, other = pa.field("k", pa.int64(), False), pa.field("a", pa.int64())
    dropped = "drop k int64; restore column k in the source: it is a key column"
    assert _compare([key, other], [other], key=("k",), **lax) == ([], [dropped])
    assert _compare([key], [pa.field("k", pa.int32())], key=("k",), **lax) == ([], [])
    assert _compare([pa.field("k", pa.int32())], [key], key=("k",), **lax) == (["widen k int32 -> int64"], [])


def test_strict_outweighs_the_other_options() -> None:
    """Under strict a type change is not routed and a missing column is not ignored; the message says what to set."""
    found = _compare(
        [pa.field("a", pa.int64()), pa.field("b", pa.int64())], [pa.field("a", pa.bool_())],
        mode="strict", on_type_change="new_column", on_missing_column="ignore",
    )  # fmt: skip
    ignore = "schema_evolution.mode: additive or widening, and schema_evolution.on_missing_column: ignore"
    route = "schema_evolution.mode: widening, and schema_evolution.on_type_change: new_column"
    assert found == ([], [f"type a int64 -> bool; {route}", f"drop b int64; {ignore}"])


def test_SE_07_a_routed_column_widens_like_any_other() -> None:
    """The column of routed values follows the source's later widenings; only a third type stops."""
    target = [pa.field("a", pa.bool_()), pa.field("__dpone__nc__a", pa.int32())]
    found = _compare(target, [pa.field("a", pa.int64())], on_type_change="new_column")
    assert found == (["widen __dpone__nc__a int32 -> int64"], [])
    _, [third] = _compare(target, [pa.field("a", pa.string())], on_type_change="new_column")
    assert third.startswith("type a bool -> string; drop or rename __dpone__nc__a (int32)")


def test_SE_07_a_source_that_has_the_routed_name_itself_stops() -> None:
    """Two columns of the source never end in one of the target."""
    source = [pa.field("a", pa.string()), pa.field("__dpone__nc__a", pa.string())]
    _, breaking = _compare([pa.field("a", pa.int64())], source, on_type_change="new_column")
    assert breaking[0].startswith("type a int64 -> string; rename the source column __dpone__nc__a")


def test_SE_07_a_routed_name_beyond_the_limit_stops_and_is_named() -> None:
    """The prefix counts, in bytes of UTF-8: a name that fits alone may not fit routed; neither is ever cut."""
    name = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 26
    sides = [pa.field(name, pa.int64())], [pa.field(name, pa.string())]
    assert _compare(*sides, on_type_change="new_column", limit=65) == ([f"add __dpone__nc__{name} string"], [])
    _, [found] = _compare(*sides, on_type_change="new_column", limit=63)
    assert "shorten the name in the source (AS in source.query" in found
    assert found.endswith(f"): __dpone__nc__{name} has 65 bytes, the limit is 63")
    _, [added] = _compare([pa.field("b", pa.int64())], [pa.field("b", pa.int64()), *sides[1]], limit=51)
    assert added.endswith(f"{name} has 52 bytes, the limit is 51")


def test_routing_away_from_a_column_that_must_be_filled_stops() -> None:
    """Routed rows leave the old column empty, so one that is NOT NULL without a default cannot be routed."""
    sides = [pa.field("a", pa.int64(), False)], [pa.field("a", pa.string())]
    _, breaking = _compare(*sides, on_type_change="new_column")
    allow = "give a a default, or make it nullable: routed rows leave it empty"
    assert breaking == [f"type a int64 -> string; {allow}"]


def test_every_breaking_change_comes_with_its_way_out() -> None:
    """The message lists all changes and says for each what would allow it."""
    target, source = {"a": pa.int64(), "b": pa.int64()}, {"a": pa.string(), "c": pa.int64()}
    with pytest.raises(SchemaBreak) as caught:
        SchemaComparator().compare(pa.schema(target), pa.schema(source)).require_safe("t")
    assert str(caught.value) == (
        "evolve the schema of t: column a is int64 in the target and string in the source, "
        "column b (int64) is in the target but not in the source; possible rename: b is missing and c is new; "
        "if it is a rename, rename the column of the target too; "
        "to allow a, set schema_evolution.on_type_change: new_column; "
        "to allow b, set schema_evolution.on_missing_column: ignore; nothing was changed"
    )


def test_SE_08_a_type_change_is_no_dead_end() -> None:
    """new_column goes on loading, and a source that takes its change back fills the old column again."""
    policy = SchemaEvolution(on_type_change="new_column")
    target = pa.schema({"a": pa.int64(), "__dpone__nc__a": pa.string()})
    back = SchemaComparator(policy).compare(target, pa.schema({"a": pa.int64()}))
    assert (back.changes, back.breaking, back.columns) == ((), (), {"a": "a"})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (pa.date32(), pa.timestamp("us"), True), (pa.date32(), pa.string(), False),
        (pa.timestamp("s"), pa.timestamp("us"), False), (pa.int64(), pa.timestamp("us"), False),
        (pa.int64(), pa.float64(), True), (pa.int32(), pa.float64(), False), (pa.int64(), pa.decimal128(19), False),
        (pa.float32(), pa.float64(), False),
    ],
)  # fmt: skip
def test_a_widening_that_may_lose_a_value_is_looked_at(before: pa.DataType, after: pa.DataType, expected: bool) -> None:
    """A far date has no microseconds of 64 bits, and a whole number beyond 2**53 no double."""
    assert inexact(before, after) is expected
