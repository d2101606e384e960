"""Secrets: a type that does not print, and the last sieve before any output.

A connection is one text in one of these forms; only credentials inside it are secret where the form is known:

* a URL: the password and query or ``;`` parameters with a telling name (``password``, ``sig``, ``token`` ...)
* ``key=value`` pairs (libpq, ODBC) or a JSON object: the values with a telling name, and the text as a whole
* ``host:port``, or a comma-separated list of them: nothing
* anything else: the whole text

``redact`` searches for secrets of four characters or more: shorter ones would shred every message. Whatever its
length, a Secret does not print, and a password in a URL or after ``password=`` is masked by its place.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
SHORTEST = 4

_known: set[str] = set()
_pattern: re.Pattern[str] | None = None

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.:-]*)://(?P<authority>[^/?#;]*)(?P<path>[^?#;]*)(?P<rest>.*)", re.I | re.S)
_HOSTS = re.compile(r"[\w.-]+:\d+(,[\w.-]+:\d+)*", re.ASCII)
_SENSITIVE = re.compile(
    r"pass|pwd|secret|token|credential|signature|jaas|^sig$|^sas$|(access|account|api|private|shared)[._-]?key", re.I
)
_PLACE = (
    "host",
    "hostaddr",
    "server",
    "address",
    "port",
    "service",
    "database",
    "dbname",
    "bootstrap_servers",
    "bucket",
)


class Secret:
    """A text that is never shown: not by repr, str, format, JSON or pickle. ``reveal()`` hands it to a driver."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError("a Secret holds text")
        self._text = text
        register(text)

    def reveal(self) -> str:
        return self._text

    def location(self) -> str:
        """Where it points, without user, password and parameters: ``postgres://db.example:5432/shop``, or
        ``host=db.example,dbname=shop`` for pairs and JSON. ``***`` where the text does not say it safely. Stable: a
        changed password does not change it."""
        if _HOSTS.fullmatch(self._text):
            return self._text
        if url := _URL.fullmatch(self._text):
            if _misread(url):
                return f"{url['scheme']}://{MASK}"
            return f"{url['scheme']}://{url['authority'].rpartition('@')[2].lower()}{url['path']}"
        pairs = {name.lower(): value for name, value in _pairs(self._text)}
        return ",".join(f"{name}={pairs[name]}" for name in _PLACE if pairs.get(name)) or MASK

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __getstate__(self) -> Any:
        raise TypeError("a Secret is not serialised; pass the name of its environment variable instead")

    def __reduce__(self) -> Any:
        return self.__getstate__()


def sensitive(name: str) -> bool:
    """Whether a key of this name holds a credential: ``password``, ``sasl.jaas.config``, ``AccountKey``..."""
    return _SENSITIVE.search(name) is not None


def register(text: str) -> None:
    """Remember what must never be printed: the credentials inside a connection, or the text itself (see above)."""
    global _pattern
    known = {value for value in _credentials(text) if len(value) >= SHORTEST}
    if not known <= _known:
        _known.update(known)
        _pattern = None


def redact(text: str) -> str:
    """The text with every known secret masked, also in its URL-encoded, base64, JSON and repr forms, and with
    whatever stands where a password stands."""
    global _pattern
    if _pattern is None and _known:
        forms = {form for secret in tuple(_known) for form in _forms(secret)}
        _pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))
    if _pattern is not None:
        text = _pattern.sub(MASK, text)
    for pattern, kept in _BY_PLACE:
        text = pattern.sub(kept, text)
    return text


_WORD = r"(?:password|passwd|pwd|passphrase|secret)"
_BY_PLACE = (
    (re.compile(r"(://)[^\s/@:]*:[^\s/]*@"), rf"\1{MASK}@"),
    (re.compile(rf"({_WORD}\s*=\s*)[^\s,;&\"'{{}}]+", re.I), rf"\1{MASK}"),
    (re.compile(rf"({_WORD}[\"']?\s*[=:]\s*([\"']))(?:(?!\2)[^\\\n]|\\.)*(?=\2)", re.I), rf"\1{MASK}"),
    (re.compile(rf"({_WORD}\s*=\s*\{{)[^}}\n]*(?=\}})", re.I), rf"\1{MASK}"),
)


def _credentials(text: str) -> Iterator[str]:
    url = _URL.fullmatch(text)
    if url:
        userinfo = url["authority"].rpartition("@")[0]
        if _misread(url):
            userinfo = text[len(url["scheme"]) + 3 :].rpartition("@")[0]
        yield from _decoded(userinfo.partition(":")[2])
        for name, value in _parameters(url["rest"]):
            if sensitive(name):
                yield from _decoded(value)
    elif not _HOSTS.fullmatch(text):
        yield text
        for name, value in _pairs(text):
            if sensitive(name):
                yield value


def _misread(url: re.Match[str]) -> bool:
    """A password with a raw / ? # or ; in it: the ``@`` stands behind what looks like the authority."""
    path, rest = url["path"], url["rest"]
    behind = "@" in path or ("@" in rest and not re.match(r"[?;#][\w.%-]+=", rest))
    return behind and (":" in url["authority"] or "@" in url["authority"])


def _decoded(value: str) -> set[str]:
    return {value, unquote(value), unquote_plus(value)}


def _parameters(rest: str) -> Iterator[tuple[str, str]]:
    for pair in re.split("[?&;#]", rest):
        name, _, value = pair.partition("=")
        yield name, value


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names and values of a JSON object, of ODBC's ``a=b;c={d}`` or of libpq's ``a=b c='d'``."""
    if text.lstrip().startswith("{"):
        try:
            return list(_flat(json.loads(text)))
        except (ValueError, RecursionError):
            return []
    bare = r"[^;]*" if ";" in text else r"\S*"
    quoted = r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|\{((?:[^}]|\}\})*)\}"""
    found = []
    for match in re.finditer(rf"(?<![\w.-])([\w.-]+)\s*=\s*(?:{quoted}|({bare}))", text):
        value = next((group for group in match.groups()[1:] if group is not None), "")
        if match[2] is not None or match[3] is not None:
            value = re.sub(r"\\(.)", r"\1", value)
        found.append((match[1], value.replace("}}", "}") if match[4] is not None else value))
    return found


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a JSON value, each under the name of the key it stands below."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, name)
    elif value is not None:
        yield name, str(value)


def _forms(secret: str) -> set[str]:
    """How a secret may appear in an output."""
    encoded = secret.encode("utf-8", "surrogatepass")  # the environment may hold bytes that are no text
    percent = {quote(encoded, safe=""), quote(encoded), quote_plus(encoded)}
    percent |= {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in percent}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    one_line = " ".join(secret.split())  # errors are written so
    forms = {secret, one_line, *percent, *escaped, *_base64(encoded)}
    return {form for form in forms if len(form) >= SHORTEST}


def _base64(secret: bytes) -> Iterator[str]:
    """On its own, and inside a longer text (``user:password`` of HTTP Basic), where it may start at any of three
    bit offsets."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(secret).decode()
        yield from (whole, whole.rstrip("="))
        for offset in range(3):
            first, end = (0, 2, 3)[offset], (offset + len(secret)) * 8 // 6
            inner = encode(b"\0" * offset + secret).decode()[first:end]
            if len(inner) >= 8:
                yield inner


def redacted(value: Any) -> Any:
    """A JSON value with every text in it redacted. Not the same as redacting its JSON: there a quote or a letter
    outside ASCII is escaped, and a secret that has one would pass."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redacted(k): redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(v) for v in value]
    return value
