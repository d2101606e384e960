"""MariaDB's failures in dpone's words. Numbers: https://mariadb.com/kb/en/mariadb-error-codes/"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pymysql
from pymysql.constants import CR, ER

from dpone.errors import Category, DataError, DponeError, ErrorCodes

_LOST = (CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST)
_BUSY = (ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.CON_COUNT_ERROR, ER.SERVER_SHUTDOWN)
_RIGHTS = (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR)
CODES = ErrorCodes(
    numbers=dict.fromkeys((*_LOST, *_BUSY), Category.TRANSIENT) | dict.fromkeys(_RIGHTS, Category.AUTHORIZATION)
)


@contextmanager
def failing(kind: type[DponeError], failed: str) -> Iterator[None]:
    """Raise ``kind`` (DataError where the rows are at fault), with the driver's error as cause."""
    try:
        yield
    except (pymysql.DataError, pymysql.IntegrityError) as error:  # their texts show values, so they are not repeated
        found = f"a value does not fit its column or breaks a constraint (error {error.args[0]})"
        raise DataError(failed, found, "correct the rows in the source, or the table") from error
    except pymysql.Error as error:
        number, text = (*error.args, "")[:2] if error.args else (0, "the driver gave no reason")
        raised = kind(failed, f"error {number}: {text}", "correct what the text names; nothing was changed")
        raised.category = CODES.numbers.get(number, Category.UNKNOWN)
        raise raised from error
