"""How a connection is written, what is on by default, and what never shows."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.postgres.server import Server, free_port

from dpone.errors import ConfigError, SourceError
from dpone.model.secret import Secret, redact
from dpone_postgres.connect import connect, is_local, parameters

ODD = ["with blank", "quo'te", 'dou"ble', "back\\slash", "a%b@c:d/e?f#g", "é😀", "x=y;z"]


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGSSLMODE", "PGSERVICE", "PGHOST", "PGSSLROOTCERT", "PGSERVICEFILE", "PGPASSFILE", "PGSYSCONFDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def given(text: str) -> dict[str, str]:
    return parameters(Secret(text))


@pytest.mark.parametrize("password", ODD)
def test_passwords_of_every_kind(password: str) -> None:
    """In a URL percent-encoded, in fields and pairs as they are written there: the password arrives as it is."""
    from urllib.parse import quote

    escaped = password.replace("\\", "\\\\").replace("'", "\\'")
    for text in (
        f"postgres://u:{quote(password, safe='')}@h/d",
        json.dumps({"host": "h", "user": "u", "password": password, "database": "d"}),
        f"host=h user=u dbname=d password='{escaped}'",
    ):
        found = given(text)
        assert (found["password"], found["host"], found["dbname"], found["user"]) == (password, "h", "d", "u")


@pytest.mark.parametrize("password", ODD)
def test_a_password_of_every_kind_logs_in(postgres: Server, password: str) -> None:
    """The same ones against a server that checks them, through every form."""
    with postgres.connect() as db:
        db.execute("DROP ROLE IF EXISTS odd")
        db.execute(f"CREATE ROLE odd LOGIN PASSWORD '{password.replace(chr(39), chr(39) * 2)}'")
    text = json.dumps(
        {"host": postgres.host, "port": postgres.port, "user": "odd", "password": password, "dbname": postgres.database}
    )
    with closing(connect(parameters(Secret(text)), SourceError)) as db:
        sql = "SELECT current_user, current_setting('application_name'), current_setting('TimeZone')"
        assert db.execute(sql).fetchone() == (
            "odd", "dpone", "UTC",
        )  # fmt: skip


REMOTE: list[tuple[str, dict[str, str], str | None]] = [
    ("postgres://db.example/d", {}, "verify-full"),
    ("postgres://10.0.0.1/d", {}, "verify-full"),
    ("postgres://localhost,db.example/d", {}, "verify-full"),
    ("host=/var/run/x hostaddr=10.0.0.1", {}, "verify-full"),
    ("postgres://db.example/d?sslmode=require", {}, "require"),
    ("postgres://db.example/d", {"PGSSLMODE": "verify-ca"}, None),
    ("dbname=d", {"PGHOST": "db.example"}, "verify-full"),
    ("postgres://localhost/d", {}, None),
    ("postgres://127.0.0.2/d", {}, None),
    ("postgres://[::1]/d", {}, None),
    ("dbname=d", {}, None),
    ("host=/var/run/postgresql dbname=d", {}, None),
]


@pytest.mark.parametrize(("text", "environment", "mode"), REMOTE)
def test_S_03_tls_is_verified_for_every_other_machine(
    monkeypatch: pytest.MonkeyPatch, text: str, environment: dict[str, str], mode: str | None
) -> None:
    """verify-full unless the connection or the environment says otherwise, or the server is on this machine."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert given(text).get("sslmode") == mode


def test_S_03_the_systems_authorities_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a certificate of the user's the system's authorities are asked; with one, that."""
    assert given("postgres://db.example/d")["sslrootcert"] == "system"
    assert "sslrootcert" not in given("postgres://db.example/d?sslmode=verify-full")
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").write_text("x")
    assert "sslrootcert" not in given("postgres://db.example/d")


def test_a_service_file_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: Server) -> None:
    """Host, port and sslmode come from the service; without sslmode, another machine's is verified."""
    file = tmp_path / "services"
    file.write_text(
        f"[near]\nhost={postgres.host}\nport={postgres.port}\nuser={postgres.user}\ndbname={postgres.database}\n"
        f"password={postgres.password}\n[far]\nhost=db.example\n[told]\nhost=db.example\nsslmode=require\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    assert given("service=far")["sslmode"] == "verify-full"
    assert "sslmode" not in given("service=told")
    assert "sslmode" not in given("service=near")
    with closing(connect(given("service=near"), SourceError)) as db:
        assert db.info.port == postgres.port


def test_a_password_file_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPASSFILE reaches libpq: nothing here sets a password beside it."""
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pass"))
    assert not {"password", "passfile"} & set(given("postgres://u@localhost/d"))


def test_keepalives_and_timeouts_are_on(postgres: Server) -> None:
    """A machine that is gone is noticed, by the server too; statements and locks have the timeouts of the options."""
    found = given(postgres.url)
    assert (found["keepalives"], found["connect_timeout"]) == ("1", "10")
    assert "tcp_user_timeout" not in found  # it would end a connection whose server is busy and reads nothing
    assert given("postgres://localhost/d?connect_timeout=3&application_name=mine")["application_name"] == "mine"
    with closing(connect(found, SourceError, lock_timeout=1.5, statement_timeout=2)) as db:
        sql = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
        assert db.execute(sql).fetchone() == ("1500ms", "2s")


@pytest.mark.parametrize("text", ["postgres://u:canary99@[h/d", "host='canary99", '{"password": canary99}', "canary99"])
def test_S_02_a_connection_that_is_none_never_shows(text: str) -> None:
    """A text that libpq does not understand is refused without a piece of it."""
    with pytest.raises(ConfigError) as error:
        given(text)
    assert "canary99" not in str(error.value)


def test_a_field_that_libpq_lacks_is_named() -> None:
    """A misspelt field is an error, not ignored."""
    with pytest.raises(ConfigError, match="unknown field pasword"):
        given('{"host": "h", "pasword": "x"}')


FAILURES: list[tuple[dict[str, Any], str, str]] = [
    ({"port": 1}, "transient", "check that the server"),
    ({"dbname": "no such"}, "unknown", "correct the name"),
    ({"user": "no such"}, "authorization", ""),
    ({"sslmode": "require"}, "authorization", "enable TLS on the server"),
]


@pytest.mark.parametrize(("change", "category", "todo"), FAILURES, ids=[str(f[0]) for f in FAILURES])
def test_a_failed_connection_is_sorted(postgres: Server, change: dict[str, Any], category: str, todo: str) -> None:
    """Down, unknown database, unknown role, no TLS: each with its category and the next step, in one line."""
    fields = {"host": postgres.host, "port": postgres.port, "user": "postgres", "dbname": postgres.database} | change
    if change.get("port"):
        fields["port"] = free_port()
    with pytest.raises(SourceError) as error:
        connect(parameters(Secret(json.dumps(fields))), SourceError)
    found = error.value.category
    if change.get("user"):
        assert found is not None
    else:
        assert (found.value if found else None) == category
        assert todo in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_local() -> None:
    """Sockets, localhost and loopback addresses."""
    assert all(map(is_local, ["", "/tmp", "@abstract", "localhost", "LOCALHOST", "127.1.2.3", "::1"]))  # noqa: S108
    assert not any(map(is_local, ["10.0.0.1", "db", "localhost.example", "::2"]))


def test_S_02_a_password_in_a_driver_message_is_masked() -> None:
    """What the sieve of core knows of a connection covers each of our forms."""
    for text in ("postgres://u:canary-77@h/d", '{"host": "h", "password": "canary-77"}', "host=h password='canary-77'"):
        Secret(text)
        assert "canary-77" not in redact("connection failed for canary-77")


@pytest.mark.parametrize(
    ("role", "here"), [("off", "local"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")]
)
def test_a_commit_is_on_the_servers_disk(postgres: Server, role: str, here: str) -> None:
    """Whatever the role says, no commit of ours is reported before it is durable; a stricter setting is kept."""
    with postgres.connect() as db:
        db.execute("DROP ROLE IF EXISTS fast")
        db.execute("CREATE ROLE fast LOGIN")
        db.execute(f"ALTER ROLE fast SET synchronous_commit = {role}")
    text = json.dumps({"host": postgres.host, "port": postgres.port, "user": "fast", "dbname": postgres.database})
    with closing(connect(parameters(Secret(text)), SourceError)) as db:
        assert db.execute("SELECT current_setting('synchronous_commit')").fetchone() == (here,)
