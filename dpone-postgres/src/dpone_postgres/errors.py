"""PostgreSQL's errors as dpone's errors. Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html.

The server's DETAIL line and the text of errors about data contain values of rows. The messages made here never do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from dpone.errors import Category, DataError, DponeError, ErrorCodes, SinkError
from dpone.model.schema import Name

CODES = ErrorCodes(
    sqlstates={
        "08": Category.TRANSIENT, "40": Category.TRANSIENT, "40002": Category.DATA_QUALITY,
        "53": Category.TRANSIENT, "53100": Category.UNKNOWN, "53400": Category.UNKNOWN,
        "55P03": Category.TRANSIENT, "55006": Category.TRANSIENT, "57014": Category.TRANSIENT,
        "57P01": Category.TRANSIENT, "57P02": Category.TRANSIENT, "57P03": Category.TRANSIENT,
        "57P05": Category.TRANSIENT, "25006": Category.TRANSIENT, "58": Category.UNKNOWN,
        "28": Category.AUTHORIZATION, "42501": Category.AUTHORIZATION,
        "22": Category.DATA_QUALITY, "23": Category.DATA_QUALITY, "21": Category.DATA_QUALITY,
    },
)  # fmt: skip

_QUOTED = re.compile(r"[\"«„“](.+?)[\"»“”]")

RETRIED = ("40001", "40P01")  # serialization failure, deadlock: the transaction may simply be run again

# SQLSTATE or its class -> (what to do, category where the code's own is not meant)
_TODO: tuple[tuple[str, str], ...] = (
    ("55P03", "wait until the other session releases its lock (see pg_locks), or raise options.lock_timeout"),
    ("57014", "raise options.statement_timeout, or process fewer rows per statement"),
    ("40", "run again: another transaction conflicted with this one"),
    ("53100", "free disk space on the server"),
    ("53200", "give the server more memory, or load less at once"),
    ("53300", "close connections, or raise max_connections"),
    ("53", "free the resource that the message names, then run again"),
    ("08", "check that the server and the network are up, then run again"),
    ("57P", "check that the server is up, then run again"),
    ("25006", "connect to the primary, or allow the role to write (default_transaction_read_only)"),
    ("28", "correct the user and password, or the server's pg_hba.conf"),
    ("3D000", "correct the name of the database"),
    ("42501", "grant the role the privileges that docs/connectors/postgres.md lists"),
    ("42P01", "correct the name, or create the table"),
    ("54011", "load fewer columns, or recreate the table: dropped columns count until then"),
    ("0A000", "see docs/connectors/postgres.md for what dpone needs"),
)
_STANDBY = (
    "set hot_standby_feedback = on on the standby, raise its max_standby_streaming_delay (max_standby_archive_delay if "
    "it replays an archive), or read from the primary"
)
_CONNECTING: tuple[tuple[str, str, Category], ...] = (
    (
        "does not match host name",
        "connect with a host name that the server's certificate contains",
        Category.AUTHORIZATION,
    ),
    (  # libpq reports no more than this, even if a certificate has expired
        "certificate verify failed",
        "set sslrootcert to the CA certificate that signed the server's, and check that neither has expired",
        Category.AUTHORIZATION,
    ),
    ("certificate", "set sslrootcert to the CA certificate, or set sslmode", Category.AUTHORIZATION),
    ("SSL", "enable TLS on the server (ssl = on), or set sslmode", Category.AUTHORIZATION),
    ("authentication failed", "correct the user and password", Category.AUTHORIZATION),
    ("no password supplied", "set a password, or set PGPASSFILE to a file that has one", Category.AUTHORIZATION),
    ("pg_hba.conf", "allow this host and role in the server's pg_hba.conf", Category.AUTHORIZATION),
    ("does not exist", "correct the name", Category.UNKNOWN),
    ("definition of service", "correct the name, or set PGSERVICEFILE", Category.UNKNOWN),
)


@contextmanager
def failing(kind: type[DponeError], failed: str) -> Iterator[None]:
    """Turn psycopg.Error into ``kind``, or into DataError if the rows are at fault; the driver's error is the cause."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, kind, failed) from error


def translate(error: psycopg.Error, kind: type[DponeError], failed: str) -> DponeError:
    """The error to raise instead. ``failed``: what dpone was doing, as the first part of the message."""
    state = error.sqlstate
    if state is None:
        return _unconnected(error, kind, failed)
    if table := hidden(error):
        hides = f"row security would hide rows of table {table} from the role"
        todo = "read as a role with BYPASSRLS"
        if issubclass(kind, SinkError):
            todo = (
                "write as a role with BYPASSRLS, or set sink.options.row_security: on if the role sees every row that "
                "the load may match or replace"
            )
        return kind(failed, hides, todo)
    if state == "23514" and error.diag.constraint_name is None:  # the server names no constraint only for partitions
        none = f"no partition of {error.diag.table_name or 'the table'} accepts a row (SQLSTATE 23514)"
        return DataError(failed, none, "create the partition, or a default one, or correct the rows in the source")
    if other := _referring(error):
        referring = f"{other} references rows that would be deleted ({_words(error)}{_place(error)})"
        todo = "load that table first, make its foreign key DEFERRABLE INITIALLY DEFERRED, or use strategy merge"
        return DataError(failed, referring, todo)
    if state[:2] in ("21", "22", "23"):
        todo = "correct the rows in the source, or the column or constraint of the table"
        return DataError(failed, f"{_words(error)}{_place(error)}", todo)
    todo = next((todo for code, todo in _TODO if state.startswith(code)), "fix what the message names")
    todo = _STANDBY if recovers(error) else todo
    found = kind(failed, f"{error.diag.message_primary or error} (SQLSTATE {state})", todo)
    known = [category for code, category in CODES.sqlstates.items() if code in (state, state[:2])]
    found.category = CODES.sqlstates.get(state) or (known[0] if known else None)
    return found


def _referring(error: psycopg.Error) -> Name | None:
    """The table whose foreign key references a row that was deleted, or whose key was changed; else None.

    The same SQLSTATE reports a new row that references nothing. Its text quotes two names (table, foreign key); the
    text of a delete quotes three, the referenced table as well. The count is the same in every language of messages.
    """
    diag, table = error.diag, error.diag.table_name
    if error.sqlstate not in ("23503", "23001") or not table or len(_QUOTED.findall(diag.message_primary or "")) < 3:
        return None
    return Name((diag.schema_name, table)) if diag.schema_name else Name((table,))


def hidden(error: psycopg.Error) -> str | None:
    """The table whose rows a policy would hide, if that is the error (``row_security = off``); else None. Recognised by
    the server function that raises it, which is the same in every language of messages."""
    if error.sqlstate != "42501" or error.diag.source_function != "check_enable_rls":
        return None
    named = re.search(r"[\"«„“](.+)[\"»“”]", error.diag.message_primary or "")
    return named[1].strip() if named else "of the query"


def recovers(error: psycopg.Error) -> bool:
    """True if a standby cancelled the query because it conflicted with replay (hot standby, "Handling Query
    Conflicts"). Recognised by the server function that raises it, which is the same in every language of messages:
    the first name is used up to PostgreSQL 15, the second from 16 on, the third for deadlocks."""
    if error.sqlstate not in ("40001", "40P01"):
        return False
    ends = ("ProcessInterrupts", "ProcessRecoveryConflictInterrupt", "CheckRecoveryConflictDeadlock")
    return error.diag.source_function in ends


def _unconnected(error: psycopg.Error, kind: type[DponeError], failed: str) -> DponeError:
    """Errors of libpq itself, and refusals before the session begins, have no SQLSTATE: only their text tells them
    apart."""
    text = " ".join(str(error).split())
    for phrase, todo, category in _CONNECTING:
        if phrase in text:
            known = kind(failed, text, todo)
            known.category = category
            return known
    lost = kind(failed, text, "check that the server and the network are up, then run again")
    lost.category = Category.TRANSIENT if isinstance(error, psycopg.OperationalError) else None
    return lost


def _words(error: psycopg.Error) -> str:
    """``UniqueViolation`` -> ``unique violation (SQLSTATE 23505)``; the server's own text may contain a value."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return f"{words} (SQLSTATE {error.sqlstate})"


def _place(error: psycopg.Error) -> str:
    said = [("column", error.diag.column_name), ("constraint", error.diag.constraint_name)]
    found = "".join(f", {what} {name}" for what, name in said if name)
    line = re.search(r"COPY .*?, line (\d+)(?:, column ([^:\n]+))?", error.diag.context or "")
    if line and line[2] and not error.diag.column_name:
        found += f", column {line[2]}"
    return found + (f", row {int(line[1]):,} of the part" if line else "")


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of the driver's error in the chain of causes of ``error``; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, psycopg.Error):
        cause = cause.__cause__
    return cause.sqlstate if isinstance(cause, psycopg.Error) else None
