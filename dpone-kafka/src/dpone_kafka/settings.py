"""What ``connection:`` says, checked."""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
from contextlib import suppress

from attrs import field, frozen

from dpone.errors import ConfigError
from dpone.model.secret import Secret

_FORMS = (
    "write host:9092, a list of such separated by commas, or fields: bootstrap_servers, security_protocol, "
    "sasl_mechanism, sasl_username, sasl_password, ssl_cafile, ssl_certfile, ssl_keyfile, ssl_password"
)
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_FIELDS = {
    "bootstrap_servers", "security_protocol", "sasl_mechanism", "sasl_username", "sasl_password", "ssl_cafile",
    "ssl_certfile", "ssl_keyfile", "ssl_password",
}  # fmt: skip
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@frozen
class Settings:
    """A connection, checked. ``password`` and ``key_password`` never show."""

    servers: tuple[tuple[str, int], ...]
    protocol: str
    mechanism: str = "PLAIN"
    user: str = ""
    password: str = field(default="", repr=False)
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    key_password: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.servers)

    def context(self) -> ssl.SSLContext | None:
        """TLS that verifies authority and host name. Raises ConfigError for files that cannot be used."""
        if not self.protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.cafile)
        except (OSError, ssl.SSLError) as error:
            todo = "set it to the PEM file of the authority that signed the broker's certificate"
            raise ConfigError("read connection.ssl_cafile", f"{self.cafile} cannot be read", todo) from error
        if self.certfile is not None:
            try:
                context.load_cert_chain(self.certfile, self.keyfile, self.key_password or _no_password)
            except (OSError, ssl.SSLError, _Encrypted) as error:
                todo = "set ssl_certfile and ssl_keyfile to PEM files that belong together, and ssl_password if needed"
                found = f"{self.certfile} and its key cannot be used"
                raise ConfigError("read connection.ssl_certfile", found, todo) from error
        return context


class _Encrypted(Exception):
    """OpenSSL would ask for the password on the terminal."""


def _no_password() -> str:
    raise _Encrypted


def settings(connection: Secret | None) -> Settings:
    """Does no I/O. Raises ConfigError, which never contains a value of the connection other than a host."""
    given = _given(connection.reveal() if connection else "")
    if unknown := sorted(set(given) - _FIELDS):
        raise ConfigError("read connection", f"unknown field {', '.join(unknown)}", _FORMS)
    servers = _servers(given.get("bootstrap_servers", ""))
    user, password = given.get("sasl_username", ""), given.get("sasl_password", "")
    local = all(_is_local(host) for host, _ in servers)
    protocol = given.get("security_protocol", "").upper()
    protocol = protocol or ("SASL_" if user else "") + ("PLAINTEXT" if local else "SSL")
    mechanism = given.get("sasl_mechanism", "SCRAM-SHA-512" if user else "PLAIN").upper()
    if protocol not in _PROTOCOLS:
        raise ConfigError("read connection.security_protocol", "an unknown protocol", f"use {', '.join(_PROTOCOLS)}")
    if mechanism not in _MECHANISMS:
        raise ConfigError("read connection.sasl_mechanism", "an unknown mechanism", f"use {', '.join(_MECHANISMS)}")
    if protocol.startswith("SASL") and not (user and password):
        todo = "set both, or a security_protocol without SASL"
        raise ConfigError("read connection", "SASL without sasl_username or sasl_password", todo)
    if user and not protocol.startswith("SASL"):
        todo = f"set security_protocol: SASL_{protocol}, or remove sasl_username"
        raise ConfigError("read connection", f"sasl_username with {protocol}, which would not send it", todo)
    if not protocol.endswith("SSL") and (extra := [name for name in sorted(given) if name.startswith("ssl_")]):
        todo = "set a security_protocol that ends in SSL, or remove it"
        raise ConfigError("read connection", f"{extra[0]} without TLS", todo)
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise ConfigError("read connection", "ssl_keyfile without ssl_certfile", "set ssl_certfile too")
    files = [given.get(name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")]
    return Settings(servers, protocol, mechanism, user, password, *files)


def _given(text: str) -> dict[str, str]:
    if not text.lstrip().startswith("{"):
        return {"bootstrap_servers": text}
    try:
        fields = json.loads(text)
    except ValueError:
        raise ConfigError("read connection", "it starts like a JSON object but is not valid JSON", _FORMS) from None
    if isinstance(servers := fields.get("bootstrap_servers"), list):
        fields["bootstrap_servers"] = ",".join(map(str, servers))
    return {name: str(value) for name, value in fields.items() if value is not None}


def _servers(text: str) -> tuple[tuple[str, int], ...]:
    found = [_SERVER.fullmatch(one.strip()) for one in text.split(",")]
    servers = [(one[1].strip("[]"), int(one[2])) for one in found if one is not None]
    if len(servers) < len(found) or not all(0 < port < 65536 for _, port in servers):
        raise ConfigError("read connection", "bootstrap_servers is not a list of host:port", _FORMS)
    return tuple(servers)


def _is_local(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"
