"""MariaDB's failures in dpone's words. Numbers: https://mariadb.com/kb/en/mariadb-error-codes/"""

from __future__ import annotations

from functools import partial

import pymysql
from pymysql.constants import CR, ER

from dpone.errors import Category, ErrorCodes
from dpone.sql import failing as sql

_LOST = (CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST)
_BUSY = (ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.CON_COUNT_ERROR, ER.SERVER_SHUTDOWN)
_RIGHTS = (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR)
CODES = ErrorCodes(
    numbers=dict.fromkeys((*_LOST, *_BUSY), Category.TRANSIENT) | dict.fromkeys(_RIGHTS, Category.AUTHORIZATION)
)
failing = partial(sql.failing, pymysql, CODES)
