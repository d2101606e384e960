"""Checks cursor columns of text and uuid, which sort by character: '11' is below '9', a random uuid sorts anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable

from dpone.errors import DataError

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_GROWING = "67"  # versions that begin with the time (RFC 9562)
_TIME = re.compile(r"\d{4}-\d\d-\d\d")
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)


def doubt(high: str, name: str, column: str, lengths: Callable[[], tuple[int, int]]) -> str:
    """A warning if nothing shows that later values of the column are higher than ``high``; empty for times, ULIDs and
    uuids that begin with the time. lengths: least and greatest length of the texts that consist of digits. Raises
    DataError if later values are known to sort below."""
    if uuid := _UUID.fullmatch(high):
        if uuid[1] in _GROWING:
            return ""
        found = f"cursor column {column} holds uuids of version {uuid[1]}, which do not increase"
        raise DataError(f"read {name}", found, "use a column that increases, or remove incremental")
    if re.fullmatch("[0-9]+", high):
        least, most = lengths()
        if least == most:
            return ""
        found = f"cursor column {column} holds numbers of {least} to {most} digits as text, and '11' sorts before '9'"
        todo = (
            f"read a query, as in SELECT t.*, CAST(t.{column} AS bigint) AS n FROM ... AS t, by column: n, beginning "
        )
        raise DataError(f"read {name}", found, f"{todo}with --full-refresh")
    if _TIME.match(high) or _ULID.fullmatch(high):
        return ""
    return f"{name}: cursor column {column} is sorted as text: a new 'x11' would be below 'x9' and never read"
