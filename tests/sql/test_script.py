"""Statements with their values written in, as a plan prints them."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpone.connectors.sqlite.database import SqliteDialect
from dpone.sql.script import written


class Percent(SqliteDialect):
    """A driver whose placeholder is %s, and that takes %% for %."""

    placeholder = "%s"


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), texts)


@given(st.lists(values, min_size=1, max_size=4), texts.filter(bool))
def test_a_statement_written_out_means_what_it_did_when_bound(given: list[object], name: str) -> None:
    """A server answers both alike: values with quotes, placeholders and percent signs, names that have them too."""
    d = SqliteDialect()
    sql = f"SELECT {', '.join('?' for _ in given)}, {d.literal(name + '?')} AS {d.quote(name + '?')}"
    with closing(sqlite3.connect(":memory:")) as db:
        assert db.execute(written(d, sql, given)).fetchall() == db.execute(sql, given).fetchall()


@pytest.mark.parametrize("dialect", [SqliteDialect(), Percent()])
def test_a_percent_sign_is_written_once(dialect: SqliteDialect) -> None:
    """What is doubled for the driver alone is not doubled for people."""
    sql = f"SELECT {dialect.placeholder}, {dialect.literal('5 %')} AS {dialect.quote('a % b')}"
    assert written(dialect, sql, ["10 %s"]) == "SELECT '10 %s', '5 %' AS \"a % b\""
