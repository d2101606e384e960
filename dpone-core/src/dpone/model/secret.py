"""Secrets: a type that does not print, and the last filter before any output.

A connection is one text in one of these forms; only credentials inside it are secret where the form is known:

* a URL: the password and query or ``;`` parameters with a telling name (``password``, ``sig``, ``token`` ...). Of a URL
  that does not say for certain where the password ends (``unclear``), everything up to its last ``@``
* ``key=value`` pairs (libpq, ODBC) or a JSON object: the values with a telling name, and the text as a whole
* ``host:port``, or a comma-separated list of them: nothing is secret
* anything else: the whole text

``redact`` searches for secrets of four characters or more: shorter ones would shred every message. A Secret of any
length does not print, and a password in a URL or after ``password=`` is masked because of its position.
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
LONG = 12  # of a part of a path: shorter ones are words such as services, hooks

_known: set[str] = set()
_pattern: re.Pattern[str] | None = None

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.:-]*)://(?P<authority>[^/?#;]*)(?P<path>[^?#;]*)(?P<rest>.*)", re.I | re.S)
_HOSTS = re.compile(r"[\w.-]+:\d+(,[\w.-]+:\d+)*", re.ASCII)
_SENSITIVE = re.compile(
    r"pass|pwd|secret|token|credential|signature|jaas|scram|^sig$|^sas$|(access|account|api|private|shared)[._-]?key",
    re.I,
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
            raise TypeError("a Secret must be text")
        self._text = text
        register(text)

    def reveal(self) -> str:
        return self._text

    def location(self) -> str:
        """Where it points, for people, without user, password and parameters: ``postgres://db.example:5432/shop``, or
        ``host=db.example,dbname=shop`` for pairs and JSON. ``***`` where the text does not say it safely. Stable: a
        changed password does not change it."""
        if _HOSTS.fullmatch(self._text):
            return self._text
        if url := _URL.fullmatch(self._text):
            if unclear(self._text):
                return f"{url['scheme']}://{MASK}"
            return f"{url['scheme']}://{url['authority'].rpartition('@')[2].lower()}{url['path']}"
        pairs = {name.lower(): value for name, value in _places(self._text)}
        return ",".join(f"{name}={pairs[name]}" for name in _PLACE if pairs.get(name)) or MASK

    def place(self) -> str:
        """``location``, but with ``*`` for a list of hosts: which servers it names, and in what order, does not
        identify the system. Bootstrap servers are such a list, even if there is only one."""
        if _HOSTS.fullmatch(self._text):
            return "*"
        if url := _URL.fullmatch(self._text):
            several = "," in url["authority"].rpartition("@")[2] and not unclear(self._text)
            return f"{url['scheme']}://*{url['path']}" if several else self.location()
        pairs = {name.lower(): value for name, value in _places(self._text)}
        if not pairs.get("bootstrap_servers") and not any("," in pairs.get(name, "") for name in ("host", "hostaddr")):
            return self.location()
        hosts = ("host", "hostaddr", "port", "bootstrap_servers")
        rest = [f"{name}={pairs[name]}" for name in _PLACE if name not in hosts and pairs.get(name)]
        return ",".join(["host=*", *rest])

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __getstate__(self) -> Any:
        raise TypeError("a Secret cannot be serialised; pass the name of its environment variable instead")

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


def register_path(url: Secret) -> None:
    """Of a webhook, path and query are the credential: as a whole, and each long part of them."""
    rest = re.sub("^[^:]*://[^/?#]*", "", url.reveal())
    for text in (rest, *(part for part in re.split(r"[/?#&=]", rest) if len(part) >= LONG)):
        register(text.strip("/"))


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


# Placeholders that our own messages write in place of a password.
_EXAMPLE = r"(?:\$\{\w*\}|\.\.\.|\*\*\*|<password>|password(?=@))"
_WORD = r"(?:password|passwd|pwd|passphrase|secret)"
_BY_PLACE = (
    (re.compile(rf"(://)(?![^\s/@:]*:{_EXAMPLE}@[^\s@]*(?:\s|$))[^\s\"]*?:[^\s\"]*@"), rf"\1{MASK}@"),
    (re.compile(rf"({_WORD}\s*=\s*)(?!{_EXAMPLE})[^\s,;&\"'{{}}]+", re.I), rf"\1{MASK}"),
    (re.compile(rf"({_WORD}[\"']?\s*[=:]\s*([\"']))(?!{_EXAMPLE}\2)(?:(?!\2)[^\\\n]|\\.)*(?=\2)", re.I), rf"\1{MASK}"),
    (re.compile(rf"({_WORD}\s*=\s*\{{)[^}}\n]*(?=\}})", re.I), rf"\1{MASK}"),
)


def _credentials(text: str) -> Iterator[str]:
    url = _URL.fullmatch(text)
    if url:
        userinfo = url["authority"].rpartition("@")[0]
        if unclear(text):
            userinfo = _before_at(text, url)
            yield userinfo
        yield from _decoded(userinfo.partition(":")[2])
        for name, value in _parameters(url["rest"]):
            if sensitive(name):
                yield from _decoded(value)
    elif not _HOSTS.fullmatch(text):
        yield text
        for name, value in (*_pairs(text), *_libpq(text)):
            if sensitive(name):
                yield value
            elif _URL.fullmatch(value):
                yield from _credentials(value)


CLEAR = (
    "percent-encode user and password (%40 for @, %2F for /, %3F for ?, %23 for #, %3B for ;), or give the connection "
    "as fields: {host, port, user, password, ...}"
)


def unclear(text: str) -> str:
    """What keeps a URL from saying where its user and password end; empty if nothing does, or if it is not a URL.

    RFC 3986 ends them at the last ``@`` before a ``/``, ``?`` or ``#``, libpq at the first ``@``: a password with a raw
    one of them would become part of a host, which every error prints.
    """
    url = _URL.fullmatch(text)
    if url is None:
        return ""
    authority, before = url["authority"], _before_at(text, url)
    if "@" in authority and "@" in before:
        return "the URL has an '@' in its user or password"
    if not authority and re.match(r"/+[^/@:]*:[^/]*@", text[len(url["scheme"]) + 3 :]):
        return "the URL has an extra slash before its user and password"
    raw = re.search("[/?#;]", before)
    if authority and raw and (":" in before or raw[0] in "?#"):  # libpq: the host of 'h?password=a@b' is b
        return f"the URL has an '@' after a '{raw[0]}'"
    if raw and url["scheme"].lower() in _OF_LIBPQ and ("@" in url["path"] or raw[0] == ";"):  # no path of s3 or a file
        return f"the URL has an '@' after a '{raw[0]}'"
    if "@" not in text and not re.fullmatch(rf"{_HOST}(,{_HOST})*", authority):
        return "the URL has a port that is not a number"
    return ""


_OF_LIBPQ = ("postgres", "postgresql")
_HOST = r"(?:\[[^\]]*\]|[^:\[\],]*)(?::\d*)?"


def _before_at(text: str, url: re.Match[str]) -> str:
    return text[len(url["scheme"]) + 3 :].rpartition("@")[0]


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


_LIBPQ = re.compile(r"\s*([\w.-]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?!')(?:[^\s\\]|\\.)*))(?=\s|$)", re.S)


def _libpq(text: str) -> list[tuple[str, str]]:
    """Names and values as libpq reads them (its documentation, 34.1.1.1): only a single quote quotes, a backslash
    escapes. None where the text is not that, or is ODBC's, with a semicolon between the pairs.

    ``;`` is an ordinary character here: read as ODBC's, ``host=h password=a;b`` would have a host that holds it."""
    found, at = [], 0
    while match := _LIBPQ.match(text, at):
        value = match[3] if match[2] is None else match[2]
        found.append((match[1], re.sub(r"\\(.)", r"\1", value, flags=re.S)))
        at = match.end()
    odbc = all(value.endswith(";") for _, value in found[:-1]) and ";" in text
    return [] if odbc or text[at:].strip() else found


def _places(text: str) -> list[tuple[str, str]]:
    """The pairs, if they are certain: a text that is neither libpq's nor JSON, and as ODBC's gives values that look
    like more pairs, may have a piece of its password under any name."""
    if text.lstrip().startswith("{"):
        return _pairs(text)
    odbc = _pairs(text) if ";" in text else []
    return _libpq(text) or ([] if any("=" in value and not sensitive(name) for name, value in odbc) else odbc)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a JSON value, each with the name of its nearest key."""
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
    encoded = secret.encode("utf-8", "surrogatepass")  # the environment may contain bytes that are not text
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
