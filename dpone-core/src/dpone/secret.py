"""Secrets: a type that does not print, and the last sieve before any output."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
_known: set[str] = set()


class Secret:
    """A text that is never shown: not by repr, str, format, JSON or pickle. ``reveal()`` hands it to a driver."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text
        register(text)

    def reveal(self) -> str:
        return self._text

    def location(self) -> str:
        """Where it points, without user, password, query: ``postgres://db.example:5432/shop``. ``***`` if no URL."""
        try:
            parts = urlsplit(self._text)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return MASK
        if not parts.scheme or "://" not in self._text:
            return MASK
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not serialised; pass the name of its environment variable instead")


def register(text: str) -> None:
    """Remember what must never be printed: the text itself where it is no URL, else the password inside it."""
    try:
        parts = urlsplit(text)
        password = parts.password
    except ValueError:
        parts, password = None, None
    if parts is not None and parts.scheme and "://" in text:
        hidden = [password, unquote(password)] if password else []
        hidden += [value for value in parts.query.split("&") if "password" in value.lower() and "=" in value]
    else:
        hidden = [text]
    _known.update(value for value in hidden if len(value) > 3)


def redact(text: str) -> str:
    """The text with every known secret masked, also in its URL-encoded and base64 forms."""
    for secret in sorted(_known, key=len, reverse=True):
        encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
        for form in {secret, quote(secret, safe=""), quote_plus(secret), encoded}:
            text = text.replace(form, MASK)
    return text
