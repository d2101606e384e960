"""TLS handshakes with a server of ours: who is trusted by default, and what a refusal says."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import frozen
from click.testing import CliRunner
from tests.postgres import server as servers
from tests.postgres.server import Server

from dpone.cli.main import assemble
from dpone.errors import Category, SourceError
from dpone.model.secret import Secret
from dpone_postgres.connect import connect, parameters

pytestmark = pytest.mark.postgres
NAME = "db.example"


@frozen
class Authority:
    """A certificate authority in a folder, made with openssl."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def make(self) -> Authority:
        self._run(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={self.name}"),
            *("-keyout", f"{self.name}.key", "-out", self.certificate.name),
        )
        return self

    def sign(self, host: str, days: int) -> tuple[Path, Path]:
        """Certificate and key of a server."""
        name, extension = f"{host}{days}", self.folder / "extension"
        extension.write_text(f"subjectAltName=DNS:{host}\n")
        self._run(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={host}", "-keyout", f"{name}.key",
            "-out", f"{name}.csr",
        )  # fmt: skip
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", self.certificate.name, "-CAkey", f"{self.name}.key"),
            *("-set_serial", "7", "-days", str(days), "-extfile", extension.name, "-out", f"{name}.crt"),
        )
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def _run(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    programs = {name: path for name, path in servers.binaries().items() if name.startswith("system")}
    if not programs or not shutil.which("openssl"):
        pytest.skip("needs a PostgreSQL that was built with TLS, and openssl: apt-get install postgresql openssl")
    made = Path(tempfile.mkdtemp(prefix="dpone-tls-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority").make()


@pytest.fixture(scope="module")
def programs(folder: Path) -> Path:
    return next(path for name, path in servers.binaries().items() if name.startswith("system"))


@contextmanager
def tls_server(programs: Path, folder: Path, certificate: Path, key: Path) -> Iterator[Server]:
    data = folder / certificate.stem
    servers.prepare(programs, data)
    for file, name in ((certificate, "server.crt"), (key, "server.key")):
        shutil.copy(file, data / name)
        (data / name).chmod(0o600)
        if servers.owner():
            shutil.chown(data / name, servers.USER)
    # TLS alone, from any address
    (data / "pg_hba.conf").write_text("hostnossl postgres postgres 127.0.0.1/32 trust\nhostssl all all all trust\n")
    server = servers.start(programs, data, ssl="on")
    try:
        yield server
    finally:
        servers.stop(server)


@pytest.fixture(scope="module")
def server(programs: Path, folder: Path, authority: Authority) -> Iterator[Server]:
    with tls_server(programs, folder, *authority.sign(NAME, 2)) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGSSLMODE", "PGSERVICE", "PGHOST", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def given(server: Server, host: str, authority: Path | None, **more: Any) -> dict[str, Any]:
    """Fields of a connection to a host of that name, which is here: what the name server says is not asked."""
    fields = {"host": host, "hostaddr": "127.0.0.1", "port": server.port, "user": "postgres", "dbname": "postgres"}
    return fields | ({"sslrootcert": str(authority)} if authority else {}) | more


def refused(fields: dict[str, Any]) -> SourceError:
    with pytest.raises(SourceError) as error:
        connect(parameters(Secret(json.dumps(fields))), SourceError)
    assert error.value.category is Category.AUTHORIZATION
    assert "\n" not in str(error.value)
    return error.value


def test_S_03_the_right_name_and_authority_connect(server: Server, authority: Authority) -> None:
    """verify-full is what a host name gets by default, and the session is encrypted."""
    found = parameters(Secret(json.dumps(given(server, NAME, authority.certificate))))
    assert found["sslmode"] == "verify-full"
    with closing(connect(found, SourceError)) as db:
        sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert db.execute(sql).fetchone() == (True, "TLSv1.3")


def test_S_03_a_wrong_host_name_is_refused(server: Server, authority: Authority) -> None:
    """A valid certificate of another host: one line with both names, and what to do."""
    error = refused(given(server, "other.example", authority.certificate))
    assert NAME in error.found
    assert "other.example" in error.found
    assert error.todo == "connect with a host name that the server's certificate contains"


def test_S_03_a_wrong_authority_is_refused(server: Server, folder: Path) -> None:
    """A certificate that another authority signed: one line that names sslrootcert."""
    error = refused(given(server, NAME, Authority(folder, "another").make().certificate))
    assert "certificate verify failed" in error.found
    assert error.todo.startswith("set sslrootcert to the CA certificate that signed the server's")


def test_S_03_without_an_authority_the_systems_are_asked(server: Server) -> None:
    """An authority that the system does not know is refused by default; nothing falls back to less."""
    fields = given(server, NAME, None)
    assert parameters(Secret(json.dumps(fields)))["sslrootcert"] == "system"
    error = refused(fields)
    assert "certificate verify failed" in error.found
    assert "sslrootcert" in error.todo


def test_S_03_an_expired_certificate_is_refused(programs: Path, folder: Path, authority: Authority) -> None:
    """A certificate whose time is over; libpq says no more of it than of a wrong authority, so the line names both."""
    with tls_server(programs, folder, *authority.sign(NAME, -1)) as server:
        error = refused(given(server, NAME, authority.certificate))
    assert "certificate verify failed" in error.found
    assert error.todo.endswith("check that neither has expired")


def test_S_03_a_server_without_tls_is_refused(postgres: Server, authority: Authority) -> None:
    """A host name of another machine never gets a plain connection by default."""
    if postgres.query("SHOW ssl") == [("on",)]:
        pytest.skip("the server of the session offers TLS")
    error = refused(given(postgres, NAME, authority.certificate))
    assert error.todo == "enable TLS on the server (ssl = on), or set sslmode"


def test_S_03_what_the_pipeline_states_is_taken(server: Server, folder: Path) -> None:
    """``sslmode: verify-ca`` asks for the authority and not for the name; ``require`` encrypts without asking."""
    for mode, authority in (("verify-ca", folder / "authority.crt"), ("require", None)):
        found = parameters(Secret(json.dumps(given(server, "other.example", authority, sslmode=mode))))
        with closing(connect(found, SourceError)) as db:
            assert db.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)


def test_S_03_a_run_ends_with_one_line_and_exit_code_1(tmp_path: Path, server: Server, authority: Authority) -> None:
    """``dpone run`` with a wrong host name: one line on stderr, no retry, exit code 1."""
    data = {
        "pipeline": "p",
        "source": {
            "type": "postgres", "connection": given(server, "other.example", authority.certificate), "table": "t"
        },
        "sink": {"type": "sqlite", "connection": "sqlite:///t.db", "table": "t", "strategy": {"mode": "append"}},
    }  # fmt: skip
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data))
    done = CliRunner().invoke(assemble(), ["run", str(path), "--format", "json", "-q"], standalone_mode=False)
    assert done.return_value == 1
    [line] = done.stderr.splitlines()
    assert "does not match host name" in line
    [stream] = json.loads(done.stdout)["streams"]
    assert (stream["attempts"], stream["error"]["category"], stream["error"]["retryable"]) == (
        1,
        "authorization",
        False,
    )
