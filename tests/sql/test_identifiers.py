"""S-01: any text is a name, and only the named object is touched."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.sql.stream import Change, deliver
from tests.sqlite.target import MEMORY, Target

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.errors import ConfigError
from dpone.model.changes import ChangeTable
from dpone.model.schema import Name
from dpone.model.strategy import MODES, Strategy
from dpone.sql.dialect import Dialect
from dpone.sql.strategies.finalizers import FINALIZERS

NASTY = ['"', '""', "]", "'", "`", "a.b", "a b", '";--', '"; DROP TABLE bystander; --', "🦆", "x" * 63, "y" * 128]
NASTY += ["select", "%s", "?", ":a", "bystander2"]
plain = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
name = st.one_of(st.sampled_from(NASTY), plain)
name = name.filter(lambda n: not n.lower().startswith(("sqlite_", "__dpone__")) and n.lower() != "bystander")
dialect = SqliteDialect()


class Limited(SqliteDialect):
    max_identifier = 63


@given(st.text(min_size=1), st.text(min_size=1))
def test_S_01_quoting_is_injective(one: str, other: str) -> None:
    """Two names have one quoted form only if they are the same name."""
    try:
        same = dialect.quote(one) == dialect.quote(other)
    except ConfigError:
        return
    assert same == (one == other)


@pytest.mark.parametrize("quoted", ['"a"', "[a]", "`a`"])
def test_S_01_quoted_input_is_quoted_again(quoted: str) -> None:
    """A name that looks quoted is a name with quotes in it."""
    db = sqlite3.connect(":memory:")
    assert db.execute(f"SELECT 1 AS {dialect.quote(quoted)}").description[0][0] == quoted
    db.close()


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800"])
def test_S_01_impossible_names_are_refused(bad: str) -> None:
    """An empty name, a NUL or broken Unicode is one clear error."""
    with pytest.raises(ConfigError, match="quote an identifier"):
        dialect.quote(bad)


@pytest.mark.parametrize("text", ["", "'", "a'b''c", "\\", '"', "%s ? :a", "é🦆"])
def test_S_01_a_literal_is_its_text(text: str) -> None:
    """Text that is written into a statement comes back as it is."""
    db = sqlite3.connect(":memory:")
    assert db.execute(f"SELECT {dialect.literal(text)}").fetchone() == (text,)
    db.close()


def test_a_dialect_that_says_nothing_of_collations_compares_as_its_server_does() -> None:
    """The members a dialect may leave out change nothing of an expression."""
    assert Dialect.exact(dialect, "t.a", pa.string()) == "t.a"
    assert Dialect.ordered(dialect, "t.a", pa.string()) == "t.a"


def test_S_01_a_literal_holds_no_nul() -> None:
    """A NUL ends a statement in some servers, so it is refused."""
    with pytest.raises(ConfigError, match="it has a NUL"):
        dialect.literal("a\0b")


@pytest.mark.parametrize(
    ("unit", "fits", "found"),
    [
        ("bytes", "é" * 31, "64 bytes"),
        ("characters", "🦆" * 63, "64 characters"),
        ("UTF-16 units", "🦆" * 31, "64 UTF-16 units"),
    ],
)
def test_S_01_length_is_counted_as_the_server_counts_it(
    unit: str, fits: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dialect's limit is in its unit, and the error says both lengths."""
    monkeypatch.setattr(Limited, "unit", unit)
    assert Limited().quote(fits) == f'"{fits}"'
    with pytest.raises(ConfigError, match=f"it has {found}, the limit is 63"):
        Limited().quote(fits + fits[0])


@pytest.mark.parametrize(("length", "shown"), [(40, "x" * 40 + "'"), (41, "x" * 40 + "...'")])
def test_S_01_a_long_name_is_shown_by_its_begin(length: int, shown: str) -> None:
    """An error shows a name whole up to 40 characters, and the first 40 of a longer one."""
    with pytest.raises(ConfigError) as caught:
        type("Short", (SqliteDialect,), {"max_identifier": 39})().quote("x" * length)
    assert f"'{shown}: it has {length} bytes" in str(caught.value)


def test_S_01_a_dot_separates_nothing_inside_a_part() -> None:
    """Schema and table are told apart by structure, not by a dot."""
    assert dialect.name(Name(("a.b", 'c"d'))) == '"a.b"."c""d"'


@settings(max_examples=60)
@example("true", ["TRUE", "false"], "scd2")  # SQLite forgets the names TRUE and FALSE in a subquery
@example("true", ["TRUE", "false"], "merge")
@example("t", [".", "x"], "cdc_apply")  # to pyarrow a leading dot is a path
@given(name, st.lists(name, min_size=2, max_size=4, unique_by=str.casefold), st.sampled_from(sorted(FINALIZERS)))
def test_S_01_only_the_named_object_changes(table: str, columns: list[str], mode: str) -> None:
    """Create, load twice and add a column under any names: the rows arrive and a bystander is as before."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db", table)
        if mode == "cdc_apply" and {c.upper() for c in columns} & {"TRUE", "FALSE"}:
            return  # it needs subqueries
        target.run("CREATE TABLE bystander (a)", "INSERT INTO bystander VALUES (42)")
        where = {columns[0]: 1} if mode == "replace" else {}
        key = columns[0] if MODES[mode].needs_key else ()
        partition = columns[0] if mode == "partition_replace" else None
        strategy = Strategy(mode, key=key, where=where, partition=partition)  # type: ignore[arg-type]
        data = pa.table({c: pa.array([1], pa.int64()) for c in columns})
        later = data.append_column("later " + columns[-1], pa.array([2], pa.int64()))
        for rows in (data, later):
            if mode == "cdc_apply":
                changes = [Change("insert", tuple(rows.to_pylist()[0].values()))]
                deliver(target, ChangeTable(rows.schema, strategy.key), changes, strategy)
            else:
                target.load(rows, strategy)
        found = target.query(f"SELECT {dialect.columns(columns)} FROM {dialect.quote(table)}")
        assert found == [(1,) * len(columns)] * (2 if mode == "append" else 1)
        assert target.query("SELECT * FROM bystander") == [(42,)]
        ours = {"__dpone__loads", "__dpone__staging", "__dpone__parts", "__dpone__columns"}
        assert target.tables() - ours == {table, "bystander"}
