"""Apache Kafka of the tests' own, without ZooKeeper: its jars come from Maven once, and stay in a cache folder."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from aiokafka.errors import KafkaError
from attrs import define, field
from tests.kafka.client import brokers
from tests.patience import until
from tests.postgres.server import free_port

VERSION = "4.4.0"
CACHE = Path(os.environ.get("DPONE_TEST_KAFKA_JARS", Path.home() / ".cache" / "dpone" / f"kafka-{VERSION}"))
USERS = {"alice": "alice-secret-1", "bob": "bob-secret-2"}
SECURE = {"SASL": "SASL_PLAINTEXT", "TLS": "SSL", "SASLTLS": "SASL_SSL", "MUTUAL": "SSL"}
# A small heap and quick compilers: a test broker lives briefly.
_JAVA = ("java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_POM = """<project><modelVersion>4.0.0</modelVersion><groupId>tests</groupId><artifactId>broker</artifactId>
<version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>"""
_SASL = "listener.name.{}.{}.sasl.jaas.config"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required "


def jars() -> Path | None:
    """The folder with the broker's jars; None if there is neither Java nor what is needed to fetch them."""
    if shutil.which("java") is None:
        return None
    if not list(CACHE.glob("kafka_*.jar")):
        if shutil.which("mvn") is None:
            return None
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "pom.xml").write_text(_POM.format(VERSION))
        goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={CACHE}")
        subprocess.run(("mvn", "-q", "-B", "-f", str(CACHE / "pom.xml"), *goal), check=True, timeout=600)
    return CACHE


@define
class Apache:
    """A cluster of ``nodes`` brokers. ``secure``: with listeners of SASL and TLS too, and ACLs for their users."""

    folder: Path
    nodes: int = 1
    secure: bool = False
    _ports: Mapping[tuple[int, str], int] = field(init=False)
    _running: dict[int, subprocess.Popen[bytes]] = field(factory=dict, init=False)

    @_ports.default
    def _free(self) -> Mapping[tuple[int, str], int]:
        names = ("PLAINTEXT", "CONTROLLER", *(SECURE if self.secure else ()))
        return {(node, name): free_port() for node in range(1, self.nodes + 1) for name in names}

    def servers(self, listener: str = "PLAINTEXT") -> str:
        return ",".join(f"127.0.0.1:{port}" for (_, name), port in self._ports.items() if name == listener)

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.secure:
            self.sign("server")
            self.sign("client")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        for node in range(1, self.nodes + 1):
            text = "".join(f"{name}={value}\n" for name, value in self._settings(node).items())
            (self.folder / f"{node}.properties").write_text(text)
            words = ["format", "-t", cluster, "-c", str(self.folder / f"{node}.properties")]
            for user, password in USERS.items() if self.secure else ():
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    words += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
            subprocess.run((*self._java(), "kafka.tools.StorageTool", *words), check=True, capture_output=True)

    def sign(self, name: str, authority: str = "ca") -> tuple[Path, Path]:
        """Certificate and key of ``name`` for 127.0.0.1, by an authority that is made if it is not there yet."""
        ca, key = (self.folder / f"{authority}.{end}" for end in ("pem", "key"))
        if not ca.exists():
            _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", f"/CN={authority}",
                     "-keyout", str(key), "-out", str(ca))  # fmt: skip
        mine, request, made = (self.folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
        (self.folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(mine), "-out", str(request)
        )
        _openssl("x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(key), "-set_serial", "7", "-days",
                 "9", "-extfile", str(self.folder / "names"), "-out", str(made))  # fmt: skip
        (self.folder / f"{name}.pem").write_text(mine.read_text() + made.read_text() + ca.read_text())
        return made, mine

    def _settings(self, node: int) -> dict[str, str]:
        mine = {name: port for (n, name), port in self._ports.items() if n == node}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **SECURE}
        voters = [f"{n}@127.0.0.1:{port}" for (n, name), port in self._ports.items() if name == "CONTROLLER"]
        copies = str(min(3, self.nodes))
        given = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in mine.items()),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{port}" for name, port in mine.items() if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{protocols[name]}" for name in mine),
            "log.dirs": str(self.folder / f"data{node}"),
            "default.replication.factor": copies,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "2",
            "offsets.topic.num.partitions": "2",
            "log.cleaner.dedupe.buffer.size": str(8 << 20),
            "log.cleaner.backoff.ms": "200",
            "log.retention.check.interval.ms": "500",
            "auto.create.topics.enable": "true",  # as many clusters have it: nothing of ours may make a topic
        }
        return given | (self._security() if self.secure else {})

    def _security(self) -> dict[str, str]:
        given = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:alice;User:CN=client",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
            "listener.name.mutual.ssl.client.auth": "required",
        }
        plain = _PLAIN + " ".join(f'user_{user}="{password}"' for user, password in USERS.items()) + ";"
        for listener in ("sasl", "sasltls"):
            given |= {_SASL.format(listener, mechanism): _SCRAM for mechanism in ("scram-sha-256", "scram-sha-512")}
            given[_SASL.format(listener, "plain")] = plain
        return given

    def _java(self) -> tuple[str, ...]:
        return (*_JAVA, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars()}/*")

    def start(self, *nodes: int) -> None:
        for node in nodes or range(1, self.nodes + 1):
            with (self.folder / f"{node}.log").open("ab") as log:
                words = (*self._java(), "kafka.Kafka", str(self.folder / f"{node}.properties"))
                self._running[node] = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        until(self._serves, "the brokers do not answer")

    def _serves(self) -> bool:
        """The port opens before the broker serves."""
        for node, process in self._running.items():
            assert process.poll() is None, (self.folder / f"{node}.log").read_text()[-2000:]
        with suppress(KafkaError, OSError):
            return len(brokers(self.servers())) == len(self._running)
        return False

    def kill(self, node: int = 1) -> None:
        self._running[node].kill()
        self._running.pop(node).wait()

    def stop(self) -> None:
        for node in list(self._running):
            self.kill(node)


def _openssl(*words: str) -> None:
    subprocess.run(("openssl", *words), check=True, capture_output=True)


@contextmanager
def running(folder: Path, nodes: int = 1, secure: bool = False) -> Iterator[Apache]:
    kafka = Apache(folder, nodes, secure)
    try:
        kafka.make()
        kafka.start()
        yield kafka
    finally:
        kafka.stop()
