"""A server's address: ``scheme://user:password@host:port/database?option=value``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qs, unquote, urlsplit

from attrs import frozen

from dpone.errors import ConfigError
from dpone.model.secret import Secret


@frozen
class ServerAddress:
    """``stable``: for messages and identities, without user and password."""

    host: str
    port: int
    user: str
    password: Secret
    database: str
    options: Mapping[str, str]

    @property
    def stable(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"


def server(
    connection: Secret | None, schemes: Collection[str], port: int, options: Collection[str], todo: str
) -> ServerAddress:
    """The parts of an address; ``port`` is the default. Raises ConfigError with ``todo``, never with the address, which
    may contain a password."""
    try:
        url = urlsplit(connection.reveal() if connection else "")
        query, database = parse_qs(url.query, keep_blank_values=True), url.path.removeprefix("/")
        given = {name: value for name, (value,) in query.items()}  # each once
        if url.scheme not in schemes or not url.hostname or not database or {*given} - {*options}:
            raise ValueError
        user, password = unquote(url.username or ""), Secret(unquote(url.password or ""))
        return ServerAddress(url.hostname, url.port or port, user, password, unquote(database), given)
    except ValueError:
        raise ConfigError("read connection", "it does not name a database of a server", todo) from None
