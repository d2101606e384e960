"""ULIDs for runs and loads: 48 bits of milliseconds, 80 random bits, Crockford base32, sortable by time."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid() -> str:
    """26 characters; https://github.com/ulid/spec."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def number(text: str) -> int | None:
    """The 128 bits of a ULID; None for any other text."""
    if len(text) != 26 or text[0] > "7" or not {*text} <= {*_ALPHABET}:
        return None
    found = 0
    for letter in text:
        found = found << 5 | _ALPHABET.index(letter)
    return found


def ulid_time(text: str) -> datetime | None:
    """When a ULID was made; None for any other text."""
    found = number(text)
    return None if found is None else datetime.fromtimestamp((found >> 80) / 1000, UTC)
