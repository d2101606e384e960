"""Who is let in, over which listener, and what a refusal says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from tests.kafka.apache import USERS, Apache
from tests.kafka.reading import TEXT, texts
from tests.postgres.server import free_port

from dpone.cli.main import main
from dpone.contract import WindowRequest
from dpone.errors import Category, ConfigError, SourceError
from dpone.model.secret import Secret
from dpone.testing.unreachable import silent
from dpone_kafka.config import KafkaSourceOptions
from dpone_kafka.settings import settings
from dpone_kafka.testing import KafkaHarness

pytestmark = pytest.mark.kafka


def fields(user: str = "", **more: Any) -> dict[str, Any]:
    mine = {"sasl_username": user, "sasl_password": USERS.get(user, "")} if user else {}
    return {**mine, **more}


def spec_of(harness: KafkaHarness, servers: str, given: Mapping[str, Any]) -> Any:
    text = json.dumps({"bootstrap_servers": servers, **given})
    options = KafkaSourceOptions(value=TEXT, metadata=(), silence_timeout=5)
    return evolve(harness.source("t"), connection=Secret(text), options=options)


def read(harness: KafkaHarness, servers: str, given: Mapping[str, Any]) -> list[str]:
    with closing(harness.make("source", spec_of(harness, servers, given))) as source:
        found: list[str] = []
        for part in source.window(None, WindowRequest()).parts:
            with source.read(part) as stream:
                found += [text for batch in stream.batches() for text in batch.column(0).to_pylist()]
        return found


@pytest.mark.parametrize("listener", ["SASL", "SASLTLS", "TLS", "MUTUAL"])
def test_every_listener_lets_in_who_belongs_there(on_apache: KafkaHarness, apache: Apache, listener: str) -> None:
    """SASL with each mechanism, with and without TLS; TLS alone; a client certificate."""
    on_apache.make_topic(on_apache.topic("t"))
    texts(on_apache, "t", ["a"])
    tls = {"ssl_cafile": str(apache.authority), "security_protocol": "SSL"}
    if listener == "MUTUAL":
        tls |= {"ssl_certfile": str(apache.folder / "client.crt"), "ssl_keyfile": str(apache.folder / "client.key")}
    every: list[dict[str, Any]] = [tls]
    if listener.startswith("SASL"):
        more = {**tls, "security_protocol": "SASL_SSL"} if listener == "SASLTLS" else {}
        every = [fields("alice", sasl_mechanism=one, **more) for one in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")]
    for given in every:
        assert read(on_apache, apache.servers(listener), given) == ["a"]


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("SASL", {"sasl_username": "alice", "sasl_password": "wrong-one"}, "refused user or password", "sasl_password"),
    ("SASL", {"sasl_username": "nobody", "sasl_password": "wrong-one"}, "refused user or password", "sasl_username"),
    ("SASL", {"sasl_username": "alice", "sasl_password": "wrong-one", "sasl_mechanism": "PLAIN"},
     "refused user or password (PLAIN)", "sasl_password"),
    ("SASLTLS", fields("alice", security_protocol="SASL_SSL"), "unknown authority", "ssl_cafile"),
    ("TLS", {"security_protocol": "SSL"}, "unknown authority", "ssl_cafile"),
    ("MUTUAL", {"security_protocol": "SSL", "ssl_cafile": "ca.pem"}, "", "ssl_certfile"),
    ("TLS", {}, "the port speaks TLS", "security_protocol: SSL"),
    ("SASLTLS", fields("alice"), "the port speaks TLS", "security_protocol: SASL_SSL"),
    ("PLAINTEXT", {"security_protocol": "SSL"}, "the port does not speak TLS", "security_protocol: PLAINTEXT"),
    ("SASL", fields("alice", security_protocol="SASL_SSL"), "does not speak TLS", "security_protocol: SASL_PLAINTEXT"),
    ("PLAINTEXT", fields("alice"), "does not use SASL", "PLAINTEXT"),
]  # fmt: skip


@pytest.mark.parametrize(("listener", "given", "found", "todo"), WRONG)
def test_a_refusal_says_why(
    on_apache: KafkaHarness, apache: Apache, listener: str, given: dict[str, Any], found: str, todo: str
) -> None:
    """Each cause has its own words and what to do, is not tried again, and shows no password."""
    if "ssl_cafile" in given:
        given = {**given, "ssl_cafile": str(apache.folder / given["ssl_cafile"])}
    with closing(on_apache.make("source", spec_of(on_apache, apache.servers(listener), given))) as source:
        with pytest.raises(SourceError) as caught:
            source.window(None, WindowRequest())
        [finding] = source.check()
    assert found in caught.value.found
    assert todo in caught.value.todo
    assert caught.value.category is Category.AUTHORIZATION
    assert (finding.ok, finding.found, finding.todo) == (False, caught.value.found, caught.value.todo)
    assert "wrong-one" not in str(caught.value)
    assert USERS["alice"] not in str(caught.value)


def test_a_certificate_for_another_name_is_refused(on_apache: KafkaHarness, apache: Apache) -> None:
    """The host name is verified, not only the authority: 127.0.0.2 is the same broker under a name that its
    certificate does not have."""
    given = {"security_protocol": "SSL", "ssl_cafile": str(apache.authority)}
    servers = apache.servers("TLS").replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(SourceError, match=r"certificate is not for 127\.0\.0\.2|the connection is refused"):
        read(on_apache, servers, given)


def test_nobody_listens_or_nobody_answers(harness: KafkaHarness) -> None:
    """A closed port, a silent one and an unknown host are transient, each with its cause; one bad server of a list does
    no harm."""
    spec = spec_of(harness, f"127.0.0.1:{free_port()}", {})
    with closing(harness.make("source", spec)) as source:
        with pytest.raises(SourceError, match="the connection is refused") as caught:
            source.window(None, WindowRequest())
        assert caught.value.category is Category.TRANSIENT
    harness.make_topic(harness.topic("t"))
    texts(harness, "t", ["a"])
    assert read(harness, f"127.0.0.1:{free_port()},{harness.url}", {}) == ["a"]
    with silent() as port:
        spec = spec_of(harness, f"127.0.0.1:{port}", {})
        spec = evolve(spec, options=evolve(spec.options, silence_timeout=0.3))
        with (
            closing(harness.make("source", spec)) as source,
            pytest.raises(SourceError, match="does not answer") as caught,
        ):
            source.window(None, WindowRequest())
        assert caught.value.category is Category.TRANSIENT


def test_OUT_06_without_an_acl_nothing_is_read(on_apache: KafkaHarness, apache: Apache) -> None:
    """A topic that the user may not see is an error with the command that grants it; ``check`` finds the same."""
    on_apache.make_topic(on_apache.topic("t"))
    texts(on_apache, "t", ["a"])
    with closing(on_apache.make("source", spec_of(on_apache, apache.servers("SASL"), fields("bob")))) as source:
        with pytest.raises(SourceError) as caught:
            source.window(None, WindowRequest())
        [finding] = source.check()
    assert caught.value.category is Category.AUTHORIZATION
    assert (
        f"--allow-principal User:bob --operation Read --operation DescribeConfigs --topic {on_apache.topic('t')}"
        in (caught.value.todo)
    )
    assert finding.todo == caught.value.todo


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("broker", "not a list of host:port"),
        ("broker:99999", "not a list of host:port"),
        ("kafka://user:pa@ss@broker:9092", "not a list of host:port"),
        ('{"bootstrap_servers": "b:1", "user": "u"}', "unknown field user"),
        ('{"bootstrap_servers": "b:1"', "not valid JSON"),
        ('{"bootstrap_servers": "b:1", "security_protocol": "TLS"}', "an unknown protocol"),
        ('{"bootstrap_servers": "b:1", "sasl_username": "u", "sasl_password": "p", "sasl_mechanism": "X"}',
         "an unknown mechanism"),
        ('{"bootstrap_servers": "b:1", "sasl_username": "u"}', "SASL without sasl_username or sasl_password"),
        ('{"bootstrap_servers": "b:1", "sasl_username": "u", "sasl_password": "p", "security_protocol": "SSL"}',
         "would not send it"),
        ('{"bootstrap_servers": "127.0.0.1:1", "ssl_cafile": "x"}', "ssl_cafile without TLS"),
        ('{"bootstrap_servers": "b:1", "ssl_keyfile": "x"}', "ssl_keyfile without ssl_certfile"),
    ],
)  # fmt: skip
def test_OUT_17_a_connection_that_cannot_be_used(given: str, found: str) -> None:
    """What the fields do not allow is refused, without a value of the connection in the message."""
    with pytest.raises(ConfigError) as caught:
        settings(Secret(given))
    assert found in caught.value.found
    assert "pa@ss" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "protocol"),
    [
        ("broker:9092", "SSL"),
        ("localhost:9092,[::1]:9092", "PLAINTEXT"),
        ("localhost:9092,broker:9092", "SSL"),
        ('{"bootstrap_servers": ["broker:9092"], "sasl_username": "u", "sasl_password": "p"}', "SASL_SSL"),
        ('{"bootstrap_servers": "127.0.0.1:9092", "sasl_username": "u", "sasl_password": "p"}', "SASL_PLAINTEXT"),
        ('{"bootstrap_servers": "broker:9092", "security_protocol": "plaintext"}', "PLAINTEXT"),
    ],
)
def test_another_machine_is_reached_by_tls(given: str, protocol: str) -> None:
    """Without a ``security_protocol``, only brokers of this machine are reached without TLS."""
    assert settings(Secret(given)).protocol == protocol


PIPELINE = """
pipeline: p
state: {{type: file, path: state}}
source:
  type: kafka
  connection: {{bootstrap_servers: "{servers}", sasl_username: alice, sasl_password: "p@ss w/o{{rd"}}
  topic: {topic}
sink: {{type: sqlite, connection: "sqlite:///t.db", table: t, strategy: {{mode: append}}}}
"""


def test_OUT_17_no_output_shows_a_password(
    on_apache: KafkaHarness, apache: Apache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run, a plan and a check with a wrong password say that it is wrong, and never what it is."""
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINE.format(servers=apache.servers("SASL"), topic=on_apache.topic("t")))
    for words in (["run"], ["plan"], ["check", "--connect"]):
        with pytest.raises(SystemExit) as ended:
            main([words[0], str(file), *words[1:]])
        said = "".join(capsys.readouterr())
        assert ended.value.code == 1, said
        assert "refused user or password" in said
        assert "w/o{rd" not in said
