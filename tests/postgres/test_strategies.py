"""The tests of the shared SQL layer, once more on PostgreSQL: the same functions, with a target of another kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from tests.postgres.server import Server
from tests.postgres.target import Target
from tests.sql import (
    test_finalize,
    test_mode_flips,
    test_partition_replace,
    test_scd2,
    test_snapshot_diff,
    test_undo,
    test_versions,
)

from dpone.sql import fold

pytestmark = pytest.mark.postgres
MODULES = (
    test_finalize,
    test_mode_flips,
    test_partition_replace,
    test_scd2,
    test_snapshot_diff,
    test_undo,
    test_versions,
)

# Each example takes a dozen connections.
FEWER: dict[Any, int] = {
    test_undo.test_a_load_that_is_taken_back_was_never_there: 2,
    test_undo.test_applied_changes_that_are_taken_back_were_never_there: 6,
}

# Tests whose statements are SQLite's own: collations, pragmas, the texts in which it keeps times.
SQLITE_ONLY = {
    "test_a_change_of_case_is_a_change_under_any_collation",
    "test_partitions_are_exact_under_any_collation",
    "test_keys_are_exact_where_the_dialect_says_how",
    "test_the_primary_key_is_key_and_begin",
    "test_LS_10_closed_history_is_not_written",
    "test_LS_09_unchanged_rows_are_not_rewritten",
    "test_LS_10_versions_of_commits_are_those_of_the_model",  # below, with fewer examples
    "test_a_name_the_server_takes_for_the_same_table_is_the_same",
    "test_a_failed_load_keeps_nothing",
    "test_values_come_back_to_the_bit",
    "test_a_row_that_two_keys_meet_is_not_kept_twice",
}


@frozen
class Here(Target):
    """Takes the words that the shared tests use, and shows times as they expect them: as SQLite keeps them."""

    def run(self, *statements: str) -> None:
        for word, ours in ((" DOUBLE", " double precision"), (" REAL", " float8"), (" COLLATE NOCASE", "")):
            statements = tuple(s.replace(word, ours) for s in statements)
        super().run(*statements)

    def rows(self, columns: str = "*", order: str = "") -> list[tuple[Any, ...]]:
        keyed = self.query("SELECT 1 FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'id'", self.table)
        return super().rows(columns, order or ("id" if keyed else "1 NULLS FIRST"))

    def query(self, sql: str, *given: Any) -> list[tuple[Any, ...]]:
        return [tuple(map(_as_kept, row)) for row in super().query(sql, *given)]


def _as_kept(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC).isoformat(sep=" ", timespec="microseconds")


def here(path: Path) -> Here:
    """A target that a test makes for itself: an emptied schema."""
    server, schema = _SERVER[0], f"dpone_{os.getpid()}_own"
    server.run(f"DROP SCHEMA IF EXISTS {schema} CASCADE", f"CREATE SCHEMA {schema}")
    return Here(server, schema)


_SERVER: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def _on_postgres(postgres: Server) -> Iterator[None]:
    _SERVER[:] = [postgres]
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            if hasattr(module, "Target"):
                patch.setattr(module, "Target", here)
        for test, examples in FEWER.items():
            fewer = settings(test._hypothesis_internal_use_settings, max_examples=examples)
            patch.setattr(test, "_hypothesis_internal_use_settings", fewer)
        yield


@pytest.fixture
def target(postgres: Server) -> Target:
    return here(Path())


@pytest.fixture(params=[200_000, 2], ids=["one chunk", "two a chunk"])
def chunked(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(fold, "ROWS", request.param)
    return int(request.param)


@settings(max_examples=8, deadline=None)
@given(test_versions.DRAWN)
def test_LS_10_versions_of_commits(drawn: Any) -> None:
    """Those of the model, whatever the windows."""
    test_versions.require_model(here(Path()), *drawn)  # type: ignore[arg-type]


for module in MODULES:
    for name in dir(module):
        if name.startswith("test_") and name not in SQLITE_ONLY:
            assert name not in globals(), f"two tests are called {name}"
            globals()[name] = getattr(module, name)
