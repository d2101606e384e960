"""Addresses of servers."""

from __future__ import annotations

import pytest

from dpone.errors import ConfigError
from dpone.model.secret import Secret
from dpone.sql.address import ServerAddress, server


def read(address: str | None) -> ServerAddress:
    return server(Secret(address) if address is not None else None, ("acme",), 7, ("tls", "ca"), "write acme://h/db")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("acme://u%40x:p%2Fw@db.example:99/a%20b?tls=off&ca=/x", ("db.example", 99, "u@x", "p/w", "a b",
                                                                  {"tls": "off", "ca": "/x"})),
        ("acme://h/db", ("h", 7, "", "", "db", {})),
        ("acme://u@[::1]/db?tls=", ("::1", 7, "u", "", "db", {"tls": ""})),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart(address: str, expected: tuple[object, ...]) -> None:
    """What is written with % is what it stands for; a port that is not given is the server's own."""
    found = read(address)
    taken = (found.host, found.port, found.user, found.password.reveal(), found.database, found.options)
    assert taken == expected
    assert found.stable == f"{expected[0]}:{expected[1]}/{expected[4]}"


WRONG = (None, "", "other://h/db", "acme:///db", "acme://h", "acme://h/", "acme://h/db?ssl=1", "acme://u:hunter2@h:x/db",
         "acme://u:hunter2@h:99999/db", "acme://u:hunter2@[h/db", "acme://u:hunter2@h/db?tls=on&tls=off")  # fmt: skip


@pytest.mark.parametrize("address", WRONG)
def test_what_names_no_database_is_refused(address: str | None) -> None:
    """One line that says what to write, and shows nothing of what was written."""
    with pytest.raises(ConfigError, match="does not name a database of a server; write acme://h/db") as caught:
        read(address)
    assert "hunter2" not in str(caught.value)
