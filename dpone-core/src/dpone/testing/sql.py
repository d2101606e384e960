"""SqlHarness: what the Harness of every system that speaks SQL has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pyarrow as pa

from dpone.capability import Role
from dpone.model.pipeline import (
    Incremental,
    SinkSpec,
    SourceSpec,
    StateSpec,
)
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone.sql.state import STATE
from dpone.testing.harness import TABLE, Change, Harness
from dpone.testing.loads import waiting
from dpone.testing.rows import inferred

STREAMED = (TABLE, "lines")  # the tables of a change stream


class SqlHarness(Harness):
    """A system that speaks SQL, with a DB-API driver as the independent client. Give ``url`` and ``connect``; override
    whatever your system says otherwise.

    schema   that the tables of this case are in; None: there is none
    mark     the driver's placeholder for a value
    types    how a table that the kit makes declares the types of its rows
    making   what a CREATE TABLE of the kit ends with
    missing  what the driver raises for a table that is not there
    locking  for ``stuck``: a statement that locks the table {} against readers until the transaction ends, and the
             option of the connector that limits its wait, in seconds. None: ``stuck`` is not made
    """

    url: str
    schema: str | None = None
    mark = "?"
    types: Mapping[pa.DataType, str] = {
        pa.bool_(): "boolean", pa.int64(): "bigint", pa.float64(): "double precision", pa.string(): "text",
        pa.binary(): "blob",
    }  # fmt: skip
    making = ""
    missing: type[Exception]
    locking: tuple[str, str] | None = None

    def connect(self) -> Any:
        """A new connection of the driver, which commits nothing until ``commit``."""
        raise self._lacks("connect")

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """A cursor of the driver (``execute``, ``executemany``, ``fetchall``, ``description``) on a new connection, in
        a transaction that the end of the block commits."""
        with closing(self.connect()) as db:
            yield db.cursor()
            db.commit()

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def natives(self) -> Sequence[tuple[str, str, Any]]:
        """Native types that a source of this system reads: the type in DDL, a literal of SQL, and the Python value that
        a reader must find. Choose values that a wrong type would change: the least and the greatest, a negative one."""
        return ()

    # ---- made of the above

    def stuck(self, role: Role, seconds: float) -> AbstractContextManager[Any] | None:
        return None if self.locking is None else self._locked(role, seconds, *self.locking)

    @contextmanager
    def _locked(self, role: Role, seconds: float, statement: str, option: str) -> Iterator[Any]:
        with self.cursor() as cursor:
            cursor.execute(statement.format(self.at(STATE if role == "state" else TABLE)))
            yield waiting(self, role, **{option: seconds})

    def name(self, table: str) -> Name:
        return Name((table,) if self.schema is None else (self.schema, table))

    def at(self, table: str) -> str:
        return ".".join(map(self.quoted, self.name(table).parts))

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows that it gives, if any."""
        with self.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def settings(self, question: str, *names: str) -> dict[str, str]:
        """What the server answers to a question of each setting, for ``durability``. The {} of the question stands for
        the name: ``settings("SHOW {}", "fsync")``."""
        return {name: str(self.run(question.format(name))[0][0]) for name in names}

    def source(
        self, table: str = TABLE, *, incremental: Incremental | None = None, query: str | None = None
    ) -> SourceSpec:
        name, options = None if query else self.name(table), self.options("source", incremental=incremental)
        return SourceSpec(self.connector, self.connection, name, query=query, options=options)

    def seed(self, rows: pa.Table, table: str = TABLE) -> None:
        """The table is made in a transaction before: some servers have no IF NOT EXISTS, some take no row into a table
        that is not committed."""
        if not self._is_there(table):
            columns = ", ".join(f"{self.quoted(f.name)} {self.types[f.type]}" for f in rows.schema)
            self.run(f"CREATE TABLE {self.at(table)} ({columns}){self.making}")
        if rows.num_rows:
            with self.cursor() as cursor:
                self._insert(cursor, rows, table)

    def _is_there(self, table: str) -> bool:
        try:
            self.run(f"SELECT * FROM {self.at(table)} WHERE 1 = 0")
        except self.missing:
            return False
        return True

    @contextmanager
    def late(self, rows: pa.Table, table: str = TABLE) -> Iterator[None]:
        with self.cursor() as cursor:
            self._insert(cursor, rows, table)
            yield

    def _insert(self, cursor: Any, rows: pa.Table, table: str) -> None:
        values = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        if values:
            cursor.executemany(f"INSERT INTO {self.at(table)} VALUES ({self._marks(rows.num_columns)})", values)

    def _marks(self, count: int) -> str:
        return ", ".join([self.mark] * count)

    def disturb(self, table: str = TABLE) -> None:
        """In two statements: not every system reads the table that it is updating."""
        id, name = self.quoted("id"), self.quoted("name")
        [(first,)] = self.run(f"SELECT min({id}) FROM {self.at(table)}")
        self.run(f"UPDATE {self.at(table)} SET {name} = 'disturbed' WHERE {id} = {first}")

    def rewrite(self, rows: pa.Table, table: str = TABLE) -> None:
        with self.cursor() as cursor:
            cursor.execute(f"DELETE FROM {self.at(table)}")
            self._insert(cursor, rows, table)

    def query(self, table: str = TABLE) -> str:
        return f"SELECT * FROM {self.at(table)} -- all of it"

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        given = self.options("sink", **options)
        return SinkSpec(self.connector, strategy, self.connection, self.name(table), options=given)

    def rows(self, table: str = TABLE) -> pa.Table | None:
        with self.cursor() as cursor:
            try:
                cursor.execute(f"SELECT * FROM {self.at(table)}")
            except self.missing:
                return None
            names, rows = [column[0] for column in cursor.description], cursor.fetchall()
        return pa.table({name: inferred([row[i] for row in rows]) for i, name in enumerate(names)})

    def empty(self, table: str = TABLE) -> bool:
        self.run(f"DELETE FROM {self.at(table)}")
        return True

    def refer(self, table: str = TABLE) -> bool:
        referring, id = self.at("referring"), self.quoted("id")
        foreign = f"FOREIGN KEY ({id}) REFERENCES {self.at(table)} ({id}) ON DELETE CASCADE"
        self.run(f"CREATE TABLE {referring} ({id} {self.types[pa.int64()]}, {foreign})")
        self.run(f"INSERT INTO {referring} VALUES (1)")
        return True

    def state(self) -> StateSpec:
        given = {} if self.schema is None else {"schema": self.schema}
        return StateSpec(self.connector, self.connection, options=self.options("state", **given))

    def damage(self, role: Role, text: str, table: str = TABLE) -> None:
        self.run(f"UPDATE {self.at(STATE)} SET {self.quoted('value')} = '{text}'")

    def shut(self) -> tuple[str, str]:
        """Two statements: after the first one every call of the state backend fails at once; the second one restores
        it."""
        raise self._lacks("shut")

    @contextmanager
    def away(self) -> Iterator[None]:
        before, after = self.shut()
        self.run(before)
        try:
            yield
        finally:
            self.run(after)

    # ---- change streams

    def make_streamed(self) -> None:
        """Create the tables of the change stream unless they exist."""
        for table in (table for table in STREAMED if self.rows(table) is None):
            with self.cursor() as cursor:
                cursor.execute(f"CREATE TABLE {self.at(table)} ({self.quoted('id')} bigint PRIMARY KEY)")
                self.add_text(cursor, table, "name")

    def add_text(self, cursor: Any, table: str, name: str) -> None:
        """Add a column of texts."""
        cursor.execute(f"ALTER TABLE {self.at(table)} ADD {self.quoted(name)} {self.types[pa.string()]}")

    def change(self, changes: Sequence[Change]) -> None:
        self.make_streamed()
        with self.cursor() as cursor:
            for change in changes:
                self._change(cursor, change)

    def _change(self, cursor: Any, change: Change) -> None:
        table = self.at(change.table)
        cursor.execute(f"SELECT * FROM {table} WHERE 1 = 0")
        there = [column[0] for column in cursor.description]
        for name in change.row:
            if name not in there:
                self.add_text(cursor, change.table, name)
        names, values = [self.quoted(name) for name in change.row], list(change.row.values())
        if change.operation == "insert":
            cursor.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({self._marks(len(names))})", values)
        elif change.operation == "update":
            sets = ", ".join(f"{name} = {self.mark}" for name in names)
            cursor.execute(f"UPDATE {table} SET {sets} WHERE {self.quoted('id')} = {self.mark}", [*values, change.key])
        elif change.operation == "delete":
            cursor.execute(f"DELETE FROM {table} WHERE {self.quoted('id')} = {self.mark}", [change.key])
        else:
            cursor.execute(f"TRUNCATE TABLE {table}")
