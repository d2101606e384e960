"""Sinks over ``dpone.sql`` whose Dialect or Database has one fault each, over SQLite. See ``faulty``."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar
from unittest import mock

from tests.testing.ddl_commits import DDL, CommittingDatabase, CommittingSink
from tests.testing.faulty import fails

from dpone.connectors.sqlite.database import SqliteDatabase, SqliteDialect
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.errors import DponeError
from dpone.model.schema import Name
from dpone.sql.dialect import Dialect


class Over(SqliteSink):
    """A sink over another Database."""

    database: ClassVar[type[SqliteDatabase]] = SqliteDatabase

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._db = self.database(self._db.path, self._db._timeout, self._db._nan_to_null)


@fails(a_lock_keeps_out_who_asks_for_it="two transactions held the same lock at the same time")
class LocksNobodyOut(Over):
    """A transaction begins beside any other."""

    class database(SqliteDatabase):
        def begin(self, lock: str) -> None:
            self.execute("BEGIN")
            self.execute("PRAGMA defer_foreign_keys=ON")


class LettingIn(SqliteDatabase):
    """Whoever writes a table that is held gets in before the next statement that changes something."""

    let_in = False

    def begin(self, lock: str) -> None:
        self.let_in = False
        super().begin(lock)

    def hold(self, table: Name) -> None:
        super().commit()
        self.let_in = True

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        if self.let_in:
            self.begin("")
        return super().execute(sql, parameters)

    def take_out(self, table: Name, column: str = "") -> str:
        """Before a drop it looks again."""
        if self.let_in:
            self.begin("")
        if not column and self.rows(f"SELECT 1 FROM {self.dialect.name(table)} LIMIT 1"):
            return "it has rows"
        return super().take_out(table, column)


@fails(who_holds_a_table_loses_no_row_of_others="the table was held, but a row added in that time is lost")
class HoldsNothing(Over):
    database = LettingIn


@fails(who_holds_a_table_loses_no_row_of_others="the table was held, but a row changed in that time is lost")
class HoldsNoRow(Over):
    """As it says, new rows may come; but rows that are there are changed as well."""

    class database(LettingIn):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.dialect = _LocksRows()


class _LocksRows(SqliteDialect):
    holds_new_rows = False


@fails(unique_claims_no_more_than_holds="unique returns True, but the index is partial")
class ClaimsAPartialIndex(Over):
    """One that keeps single the keys of some rows."""

    class database(SqliteDatabase):
        def unique(self, table: Name, key: Sequence[str]) -> bool:
            indexes = self.rows('SELECT name FROM pragma_index_list(?) WHERE "unique" AND partial', (table.last,))
            columns = [self.rows("SELECT name FROM pragma_index_info(?)", (name,)) for (name,) in indexes]
            return any({name for (name,) in one} == {*key} for one in columns) or super().unique(table, key)


@fails(execute_counts_the_rows_it_found="counted were {'same values': 0, 'other values': 2,")
class CountsWhatItChanged(Over):
    """An UPDATE of the target that leaves rows as they were does not count them, as MySQL does."""

    class database(SqliteDatabase):
        def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
            found = super().execute(sql, parameters)
            same = re.fullmatch(r"UPDATE \"orders\" AS t SET \"day\" = \? WHERE t\.\"day\" = '(\w+)'", sql)
            return 0 if same and same[1] == parameters[0] else found


@fails(keys_of_any_length_are_told_apart="a key of 3001 characters cannot be stored")
class CutsLongTexts(Over):
    """As a server whose columns are shorter, and that says nothing."""

    class database(SqliteDatabase):
        def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
            return super().execute(sql, [v[:3000] if isinstance(v, str) else v for v in parameters])


@fails(keys_of_any_length_are_told_apart="another line was deleted, too")
class TakesKeysAlike(Over):
    """Whose first 3,000 characters are the same, or that differ by case."""

    class database(SqliteDatabase):
        def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
            if sql.startswith('DELETE FROM "__dpone__kit"'):
                sql, parameters = sql.replace('"key" = ?', "substr(key, 1, 3000) = ?"), (parameters[0][:3000],)
            return super().execute(sql, parameters)


@fails(instants_come_with_their_zone="an instant is read without its time zone")
class ForgetsTheZone(Over):
    """Of what it keeps in a table of dpone's own."""

    class database(SqliteDatabase):
        def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            instant = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})\+00:00")  # as SQLite's sink keeps it
            found = super().rows(sql, parameters)
            if 'FROM "__dpone__' not in sql:
                return found
            return [tuple(instant.sub(r"\1", v) if isinstance(v, str) else v for v in row) for row in found]


@fails(a_journal_that_cannot_be_read_is_an_error="is damaged, but the journal was read without an error")
class TakesADamagedJournalForNone(SqliteSink):
    def journal(self, key: str) -> Any:
        try:
            return super().journal(key)
        except DponeError as error:
            if "is damaged" not in error.found:
                raise
            return None


@fails(what_hangs_on_the_target_outlives_a_full_refresh="the target lost its unique index")
class SwapsWhateverHangsOnIt(Over):
    class database(SqliteDatabase):
        def is_swappable(self, table: Name, key: Sequence[str]) -> bool:
            return super().is_swappable(table, key) or "index only_once" in self._attached(table)


@fails(a_table_that_others_write_is_not_taken_out="a table that holds another program's row was dropped")
class LetsInBeforeTheDrop(Over):
    class database(SqliteDatabase):
        def take_out(self, table: Name, column: str = "") -> str:
            if table.last == "orders" and not column:
                self.commit()
                until = time.monotonic() + 1
                while time.monotonic() < until and not self.rows(f"SELECT 1 FROM {self.dialect.name(table)}"):
                    time.sleep(0.02)
                self.begin("")
            return super().take_out(table, column)


@fails(
    a_table_that_was_made_again_is_not_taken_back="a table of the same name, created by another program, was dropped"
)
class TellsNoTableFromAnother(Over):
    """``identity`` as the base class has it."""

    class database(SqliteDatabase):
        def identity(self, table: Name, column: str = "") -> str:
            return ""


class _Dropping(SqliteDatabase):
    def take_out(self, table: Name, column: str = "") -> str:
        for what in self._attached(table):
            if what.startswith("index"):
                self.execute(f"DROP {what}")
        return super().take_out(table, column)


@fails(what_hangs_on_a_column_is_not_taken_back="the reason why a column stays is not reported")
class DropsWhatHangsOnIt(Over):
    database = _Dropping


@fails(changes_that_fail_halfway_are_not_made="columns of failed changes are in the target")
class AddsColumnsForGood(SqliteSink):
    """New columns are committed before the next statement of another kind."""

    def apply(self, ddl: Sequence[str]) -> None:
        for _, alike in groupby(ddl, lambda statement: "ADD COLUMN" in statement):
            super().apply([*alike])


@fails(changes_of_a_load_that_fail_halfway_are_not_made="columns of failed changes are in the target")
class ProvidesOneByOne(SqliteSink):
    def provide(self, load: Any, ddl: Sequence[str]) -> None:
        for statement in ddl or [()]:
            super().provide(load, [statement] if statement else [])


@fails(changes_of_a_load_that_fail_halfway_are_not_made="columns of failed changes were not taken back")
class ProvidesWithoutARecord(CommittingSink):
    """What its DDL has added by itself is noted after it, or never."""

    def provide(self, *args: Any) -> None:
        with mock.patch("dpone.sql.sink.Added.expect"):
            super().provide(*args)


@fails(what_follows_ddl_is_a_transaction="rows of a rolled back transaction are in the table")
class GoesOnWithoutATransaction(CommittingSink):
    """After DDL every statement commits by itself."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._db.__class__ = _AutoCommitting


class _AutoCommitting(CommittingDatabase):
    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        db = self.connection()
        ends = DDL.match(sql) and db.in_transaction
        done = super().execute(sql, parameters)
        if ends:
            db.execute("COMMIT")
        return done

    def commit(self) -> None:
        if self.connection().in_transaction:
            super().commit()
        self._release()


class FoldingDialect(SqliteDialect):
    """Texts are compared, and grouped, by less than all of their characters."""

    on_conflict = False
    folded = "rtrim({0})"

    def exact(self, expression: str, type: Any) -> str:
        return self.folded.format(expression) if self.is_text(type) else expression

    def as_key(self, expression: str, type: Any) -> str:
        return self.exact(expression, type)

    def equal(self, left: str, right: str, type: Any) -> str:
        return f"{self.exact(left, type)} = {self.exact(right, type)}"

    def delete_keys(self, target: Name, source: str, schema: Any, key: Sequence[str]) -> str:
        return Dialect.delete_keys(self, target, source, schema, key)


class OfModeFolds(Over):
    """In loads of one ``mode``."""

    mode = folded = ""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        if spec.strategy.mode == self.mode:
            dialect = FoldingDialect()
            dialect.folded = self.folded  # type: ignore[misc]
            self._db.dialect = dialect


_LOST = "rows with similar keys are lost, "


@fails(full_refresh_tells_similar_keys_apart=_LOST + "'a' and 'a '")
class FullRefreshPadsSpace(OfModeFolds):
    """Of duplicates that are none the last is kept."""

    mode, folded = "full_refresh", "rtrim({0})"


@fails(merge_tells_similar_keys_apart=_LOST + "'a' and 'a '")
class MergePadsSpace(OfModeFolds):
    """As a text of the SQL standard is compared: 'a' = 'a '."""

    mode, folded = "merge", "rtrim({0})"


@fails(snapshot_diff_tells_similar_keys_apart=_LOST + "'a' and 'A'")
class SnapshotDiffFoldsCase(OfModeFolds):
    mode, folded = "snapshot_diff", "lower({0})"


@fails(scd2_tells_similar_keys_apart=_LOST + r"'a' and 'a\x00'")
class Scd2EndsAtANul(OfModeFolds):
    mode, folded = "scd2", "substr({0}, 1, instr({0} || char(0), char(0)) - 1)"


@fails(cdc_apply_tells_similar_keys_apart=_LOST + r"'a' and 'a\u0301'")
class CdcApplyPassesOverAccents(OfModeFolds):
    mode, folded = "cdc_apply", "replace({0}, char(769), '')"


@fails(partition_replace_tells_similar_partitions_apart=_LOST + "'a' and 'a '")
class PartitionReplacePadsSpace(OfModeFolds):
    mode, folded = "partition_replace", "rtrim({0})"
