"""Source, sink and state over one MariaDB database. DDL commits by itself here, so nothing is swapped."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC as ZONE
from datetime import datetime
from typing import Any

import pyarrow as pa
import pymysql
from pymysql.constants import CLIENT, CR, ER, FIELD_TYPE
from pymysql.converters import conversions, encoders
from pymysql.cursors import SSCursor

from dpone.errors import Category, ErrorCodes, SinkError
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.sql.catalog import foreign_keys
from dpone.sql.cursor import Value
from dpone.sql.cursored import SqlCursor
from dpone.sql.dbapi import DbapiDatabase
from dpone.sql.dialect import Reference
from dpone.sql.sink import SqlSink
from dpone.sql.source import SqlSource
from dpone.sql.state import SqlState
from dpone.sql.system import SqlSystem
from dpone_mariadb.dialect import UTC, MariadbDialect

# Strict: a value that does not fit is an error, not a warning. SIMULTANEOUS_ASSIGNMENT: SET takes every value from the
# row as it was, as standard SQL does. Waits have limits: for a row, for a table (by default a day), a statement.
_SESSION = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
    "NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO,PIPES_AS_CONCAT,SIMULTANEOUS_ASSIGNMENT', time_zone = '+00:00', "
    "innodb_lock_wait_timeout = 50, lock_wait_timeout = 50, tx_isolation = 'READ-COMMITTED'"
)
_ANSWER = 3600  # seconds that one statement may take to answer
# Numbers: https://mariadb.com/kb/en/mariadb-error-codes/
_LOST = (CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST)
_BUSY = (ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.CON_COUNT_ERROR, ER.SERVER_SHUTDOWN)
_RIGHTS = (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR)
CODES = ErrorCodes(
    numbers=dict.fromkeys((*_LOST, *_BUSY), Category.TRANSIENT) | dict.fromkeys(_RIGHTS, Category.AUTHORIZATION)
)
_INSTANT = {FIELD_TYPE.DATETIME: lambda text: datetime.fromisoformat(text).replace(tzinfo=ZONE)}


class Mariadb(SqlSystem):
    dialect = MariadbDialect()
    driver = pymysql
    codes = CODES
    form = "mariadb://user:password@host:3306/database, with ?ca=FILE or ?tls=off where needed"
    aliases = ("mysql",)
    options = ("tls", "ca")

    def connect(self, *, source: bool) -> pymysql.connections.Connection[Any]:
        """A source reads values as the server writes them. UPDATE answers the rows it found, as other servers do, not
        those it changed."""
        at = self.at
        converters: dict[Any, Any] = dict(encoders) if source else {**conversions, **_INSTANT}
        return pymysql.connect(
            host=at.host, port=at.port, user=at.user, password=at.password.reveal(), database=at.database,
            charset="utf8mb4", init_command=_SESSION, client_flag=CLIENT.FOUND_ROWS, autocommit=True,
            conv=converters, connect_timeout=10, read_timeout=_ANSWER, write_timeout=_ANSWER, **self.tls(),
        )  # fmt: skip

    def tls(self) -> dict[str, Any]:
        """With a verified name, unless the URL says ``?tls=off``; ``?ca=FILE`` is the authority."""
        if self.at.options.get("tls") == "off":
            return {"ssl_disabled": True}
        return {"ssl_verify_cert": True, "ssl_verify_identity": True, "ssl_ca": self.at.options.get("ca")}


class MariadbDatabase(DbapiDatabase):
    system_class = Mariadb
    home = "database()"
    native = f"concat(i.column_type, if(i.column_comment = BINARY '{UTC}', ' COMMENT ''{UTC}''', ''))"
    filled = "coalesce(i.column_default, 'NULL') <> 'NULL' OR instr(i.extra, 'auto_increment') > 0"
    writable = "i.generation_expression IS NULL"

    _lock = ""

    # ---- transactions: a commit is durable with innodb_flush_log_at_trx_commit=1, which is the default

    def start(self, lock: str) -> None:
        """The lock is the session's (https://mariadb.com/kb/en/get_lock/), of 64 characters at most."""
        self._lock = f"dpone {hashlib.sha256(f'{self.place} {lock}'.encode()).hexdigest()[:40]}"
        if self.rows("SELECT GET_LOCK(%s, 50)", (self._lock,)) != [(1,)]:
            busy = SinkError("begin a transaction", "another run holds the lock", "let it finish, then run again")
            busy.category = Category.TRANSIENT
            raise busy
        self.execute("SET autocommit = 0")  # what follows DDL is a transaction again
        self.execute("START TRANSACTION")

    def unlock(self) -> None:
        """The lock of a connection that is closed is free."""
        if self._db is not None:
            self.execute("SET autocommit = 1")
            self.rows("SELECT RELEASE_LOCK(%s)", (self._lock,))

    def hold(self, table: Name) -> None:
        """Locks every row; new ones may come until the transaction ends."""
        self.rows(f"SELECT COUNT(*) FROM {self.dialect.name(table)} FOR UPDATE")

    # ---- the catalogue

    def keys(self, table: Name) -> list[tuple[str, str, bool]]:
        """Unique indexes of whole columns that are NOT NULL."""
        columns = "i.index_name, i.column_name, i.sub_part IS NOT NULL OR i.nullable = 'YES'"
        more = " AND i.non_unique = 0 ORDER BY i.index_name, i.seq_in_index"
        found = self.lines("statistics AS i", columns, table, more)
        loose = {index for index, _, partly in found if partly}
        return [(index, column, index == "PRIMARY") for index, column, _ in found if index not in loose]

    def unfit(self, table: Name, by: Collection[str]) -> tuple[str, str] | None:
        """CHAR loses blanks at the end and BINARY gains zeros: a key that was written is not met again."""
        if self.lines("columns AS i", "1", table, " AND NOT i.collation_name REGEXP '_nopad_bin$' LIMIT 1"):
            return "a column has a collation that is not exact", "give its texts COLLATE utf8mb4_nopad_bin"
        padded = self.lines("columns AS i", "i.column_name", table, " AND i.data_type IN ('char', 'binary')")
        for (name,) in padded:
            if name in by:
                found = f"column {name}, by which it goes, gives back other values than it was given"
                return found, "make it a varchar or varbinary, which keep blanks and zeros at the end"
        return None

    def references(self, table: Name) -> list[Reference]:
        """InnoDB checks each row at once. By ON: the server (10.11.19) dies of the same join written with USING."""
        same = " AND ".join(f"r.{n} = k.{n}" for n in ("constraint_schema", "constraint_name", "table_name"))
        home, named = self.within(table)
        names = (
            "k.table_schema, k.table_name, k.constraint_name, r.delete_rule, k.column_name, k.referenced_column_name"
        )
        sql = f"SELECT {names} FROM information_schema.key_column_usage AS k \
            JOIN information_schema.referential_constraints AS r ON {same} \
            WHERE {home.replace('i.table_schema', 'k.referenced_table_schema')} AND k.referenced_table_name = %s \
            ORDER BY 1, 2, 3, k.ordinal_position"
        return foreign_keys(self.rows(sql, (*named, table.last)))

    def identity(self, table: Name, column: str = "") -> str:
        """A table by its text."""
        return "" if column else str(self.rows(f"SHOW CREATE TABLE {self.dialect.name(table)}")[0][1])

    def attached(self, table: Name, column: str = "") -> list[str]:
        indexes = self.lines("statistics AS i", "i.index_name", table, " AND i.column_name = %s", (column,))
        return [f"index {name}" for (name,) in indexes]

    @contextmanager
    def alone(self, table: Name) -> Iterator[None]:
        self.execute(f"LOCK TABLES {self.dialect.name(table)} WRITE")
        try:
            yield
        finally:
            self.execute("UNLOCK TABLES")


class MariadbSink(SqlSink):
    database_class = MariadbDatabase


class MariadbState(SqlState):
    database_class = MariadbDatabase
    clock = "UTC_TIMESTAMP(6)"


class MariadbCursor(SqlCursor):
    """The driver gives texts. A number is bound as one, and what a FLOAT is compared by is the double that it is."""

    digits = "{} REGEXP '^[0-9]+$'"

    def __init__(self, source: SqlSource, field: pa.Field) -> None:
        super().__init__(source, field)
        self.ordered = source.shown(field.name)

    def value(self, given: Any) -> Value:
        t, type_ = pa.types, self.type
        if not isinstance(given, str):
            return super().value(given)
        word = "decimal" if t.is_decimal(type_) else "real" if t.is_floating(type_) else "text"
        return Value("integer" if t.is_integer(type_) else word, given)


class MariadbSource(SqlSource):
    """The snapshot is a read-only transaction, in which nobody can make a table. A temporary table is in no view of
    information_schema, so columns are shown by a statement of the server."""

    database_class = MariadbDatabase
    as_table = "CREATE TEMPORARY TABLE {} AS {} LIMIT 0"
    cursor = MariadbCursor
    _floats: frozenset[str] = frozenset()

    def begin(self, after: Position | None) -> None:
        self.rows("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        self.rows("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def columns(self, expected: pa.Schema | None) -> pa.Schema:
        lines = self.rows(f"SHOW FULL COLUMNS FROM {self.dialect.name(self.seen)}")
        marks = {UTC: f" COMMENT '{UTC}'"}
        found = [(name, native + marks.get(comment, "")) for name, native, *_, comment in lines]
        self._floats = frozenset(name for name, native in found if native.startswith("float"))
        return self.described(found)

    def shown(self, name: str) -> str:
        """Of a FLOAT the server shows six digits."""
        return f"CAST({super().shown(name)} AS DOUBLE)" if name in self._floats else super().shown(name)

    def streaming(self) -> Any:
        return self.connection().cursor(SSCursor)

    def disconnect(self) -> None:
        """The rest of an unbuffered answer is not waited for, nor looked for when its cursor goes."""
        if self._db is not None:
            if self._db._result is not None:
                self._db._result.unbuffered_active = False
            self._db._force_close()
        self._db = None
