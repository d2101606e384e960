"""A driver's errors in dpone's words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.sql.test_sql_source import Least

from dpone.connectors.sqlite.database import SqliteDatabase
from dpone.errors import Category, DataError, DponeError, ErrorCodes, SinkError, SourceError
from dpone.model.secret import Secret
from dpone.sql.driver_errors import failing

CODES = ErrorCodes(numbers={1205: Category.TRANSIENT})
RAISED = [
    (sqlite3.OperationalError("no such table: t\nand more"), SourceError, "no such table: t", None),
    (
        sqlite3.OperationalError("SQL Error\n-no such table\n-T\nsecret"),
        SourceError,
        "SQL Error -no such table -T",
        None,
    ),
    (sqlite3.OperationalError(1205, "Lock wait timeout"), SourceError, "error 1205: Lock wait timeout", "TRANSIENT"),
    (sqlite3.OperationalError(9, "odd"), SourceError, "error 9: odd", None),
    (sqlite3.OperationalError(), SourceError, "the driver reported no reason", None),
    (sqlite3.IntegrityError("value 'secret' is there"), DataError, "constraint (IntegrityError)", "DATA_QUALITY"),
    (sqlite3.DataError(1264, "secret"), DataError, "constraint (error 1264)", "DATA_QUALITY"),
]


@pytest.mark.parametrize(("error", "kind", "found", "category"), RAISED, ids=[repr(one[0]) for one in RAISED])
def test_an_error_is_one_line_with_its_cause(
    error: Exception, kind: type[DponeError], found: str, category: str | None
) -> None:
    """Where a row is at fault the driver's text, which may show a value, is left out."""
    with pytest.raises(DponeError) as caught, failing(sqlite3, CODES, SourceError, "read t"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error
    assert caught.value.found.endswith(found)
    assert caught.value.category is (Category[category] if category else None)
    assert "secret" not in str(caught.value)


class OneForAll(sqlite3.DatabaseError):
    """Of a driver that tells nothing by classes."""


@pytest.mark.parametrize(
    ("state", "kind", "found", "category"),
    [
        ("22001", DataError, "constraint (SQLSTATE 22001)", Category.DATA_QUALITY),
        ("23000", DataError, "constraint (SQLSTATE 23000)", Category.DATA_QUALITY),
        ("40001", SourceError, "value secret", Category.TRANSIENT),
        ("08006", SourceError, "value secret", Category.TRANSIENT),
        ("40002", SourceError, "value secret", Category.AUTHORIZATION),
        ("28000", SourceError, "value secret", Category.AUTHORIZATION),
        ("42000", SourceError, "value secret", None),
        (None, SourceError, "value secret", None),
    ],
)
def test_a_sqlstate_tells_what_no_class_does(
    state: str | None, kind: type[DponeError], found: str, category: Category | None
) -> None:
    """22 and 23 are the fault of a row, whose value is not shown; 08 and 40 are transient, unless the connector says
    otherwise of the very state or its class."""
    codes = ErrorCodes(sqlstates={"28": Category.AUTHORIZATION, "40002": Category.AUTHORIZATION})
    with pytest.raises(DponeError) as caught, failing(sqlite3, codes, SourceError, "read t", lambda error: state):
        raise OneForAll("value secret")
    assert type(caught.value) is kind
    assert (caught.value.found.endswith(found), caught.value.category) == (True, category)
    assert ("secret" in str(caught.value)) is (kind is SourceError)


@pytest.mark.parametrize("error", [ValueError("ours"), SourceError("read", "no", "do"), KeyboardInterrupt()], ids=repr)
def test_what_is_not_the_driver_s_passes(error: Any) -> None:
    """As it is."""
    with pytest.raises(type(error)) as caught, failing(sqlite3, CODES, SourceError, "read t"):
        raise error
    assert caught.value is error


def test_an_error_has_its_statement_as_a_note(tmp_path: Path) -> None:
    """Once, without the values that were bound, and not in its text; a long one by its begin."""

    class Wrapping(SqliteDatabase):
        def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            return super().rows(sql, parameters)

    with closing(Wrapping(tmp_path / "t.db", 5.0)) as db:
        for ask in (db.execute, db.rows):
            for sql, note in (
                ("SELECT x FROM t WHERE y = ?", "SELECT x FROM t WHERE y = ?"),
                ("x" * 2001, "x" * 2000 + "..."),
            ):
                with pytest.raises(SinkError) as caught:
                    ask(sql, ("secret",))
                assert caught.value.__notes__ == [f"statement: {note}"]
                assert note not in str(caught.value)


def test_an_error_of_a_source_has_its_statement_as_a_note(tmp_path: Path) -> None:
    """Of a query too, in which a secret is not shown."""
    password = Secret("hunter2-hunter2").reveal()

    class Failing(Least):
        def failing(self) -> Any:
            return failing(sqlite3, CODES, SourceError, "read")

    with closing(Failing(tmp_path / "t.db", f"SELECT '{password}' AS x FROM nope")) as source:
        asks: list[Callable[[], Any]] = [
            lambda: source.rows(source.statement(["id"], ""), ()), lambda: list(source.select(["id"], "", ()))
        ]  # fmt: skip
        for ask in asks:
            with pytest.raises(SourceError) as caught:
                ask()
            [note] = caught.value.__notes__
            assert note.startswith("statement: SELECT")
            assert "FROM nope" in note
            assert password not in note
