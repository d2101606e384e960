"""Statements that no dialect can override are those that every server takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from tests.testing.faulty_sql import Over
from tests.testing.test_faults import run

from dpone.connectors.sqlite.database import SqliteDatabase, SqliteDialect
from dpone.errors import SinkError
from dpone.model.schema import Name
from dpone.sql.cursor import Value
from dpone.sql.cursored import SqlCursor
from dpone.sql.source import SqlSource
from dpone.testing import SinkContract

NOT_TAKEN = (r"SELECT CASE WHEN EXISTS .* END$", r"SELECT (?!.* FROM ).*", r".*SUBSTRING\(", r"SELECT DISTINCT \w+\(.*")


class StrictDialect(SqliteDialect):
    """As of Firebird: no SELECT without FROM, no SUBSTRING with commas."""

    dual: ClassVar[str] = "pragma_schema_version"  # one row

    def character(self, text: str, place: int) -> str:
        return f"substr({text}, {place}, 1)"


class StrictDatabase(SqliteDatabase):
    def __init__(self, path: Path, timeout: float, nan_to_null: bool = False) -> None:
        super().__init__(path, timeout, nan_to_null)
        self.dialect = StrictDialect()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        taken(sql)
        return super().execute(sql, parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        taken(sql)
        return super().rows(sql, parameters)


def taken(sql: str) -> None:
    for pattern in NOT_TAKEN:
        if re.match(pattern, sql, re.DOTALL):
            raise SinkError("parse", sql, "write it as the standard says")


class Strict(Over):
    database = StrictDatabase


@pytest.mark.parametrize(
    "case",
    [
        "merge_counts_and_leaves_equal_rows",
        "cdc_apply_applies_changes_in_commit_order",
        "a_failed_load_takes_back_what_it_added",
        "a_key_is_renamed_whole",
        "a_key_column_compares_as_was_said",
    ],
)
def test_a_strict_server_takes_every_statement(case: str) -> None:
    """A SELECT without FROM and a SUBSTRING with commas are words of the dialect; DISTINCT is of a column."""
    error = run(Strict, SinkContract, f"test_{case}")
    if error is not None:
        raise error


class ShortDialect(SqliteDialect):
    max_identifier = 30  # Oracle before 12.2


class ShortDatabase(SqliteDatabase):
    def __init__(self, path: Path, timeout: float, nan_to_null: bool = False) -> None:
        super().__init__(path, timeout, nan_to_null)
        self.dialect = ShortDialect()

    def create(self, table: Name, schema: pa.Schema, key: Sequence[str] = ()) -> None:
        assert len(table.last) <= 30
        super().create(table, schema, key)


class Short(Over):
    database = ShortDatabase


@pytest.mark.parametrize(
    "case",
    [
        "a_staging_that_nobody_knows_is_swept",
        "columns_are_replaced_by_the_commit_alone",
        "a_load_is_taken_back",
        "a_commit_cut_off_between_two_statements_is_made_good",
    ],
)
def test_names_of_dpone_s_own_fit_in_thirty_characters(case: str) -> None:
    """Stagings, what an undo needs, and indexes have short names where the server has no long ones."""
    error = run(Short, SinkContract, f"test_{case}")
    if error is not None:
        raise error


def test_a_name_is_short_only_where_it_must_be() -> None:
    """Whole up to the limit, which older versions have tables by; beyond it by its first word, a digest and its end."""
    stage, end = "__dpone__stage_01HX0000000000000000000000_0123abcd", "_0123abcd"
    names = {
        size: type("Sized", (SqliteDialect,), {"max_identifier": size})().fitting(stage, end)
        for size in (None, 50, 49, 30)
    }
    assert (names[None], names[50]) == (stage, stage)
    for size in (49, 30):
        short = names[size]
        assert re.fullmatch(rf"__dpone__stage_[0-9a-f]{{{size - 24}}}{end}", short)
    other = ShortDialect().fitting(stage.replace("01HX", "01HY"), end)
    assert len(other) == 30
    assert other != names[30]


def test_a_cursor_is_compared_in_a_table_of_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """``SqlCursor.compare`` asks the rows by ``Dialect.exists``."""
    asked = list[str]()

    class Source:
        dialect, relation = StrictDialect(), '"orders"'

        def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[int, int]]:
            taken(sql)
            asked.append(sql)
            return [(0, 1)]

    source: SqlSource = Source()  # type: ignore[assignment]
    assert SqlCursor(source, pa.field("id", pa.int64())).compare(Value("integer", "7")) == 0
    assert asked[0].endswith(" FROM pragma_schema_version")
