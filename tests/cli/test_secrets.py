"""S-02: a password in a connection never leaves, whatever a driver says and whichever command fails."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

Dpone = Callable[..., Any]

CANARY = 'c4n@ry/"quoted" +ü'

# A connector whose driver blurts out all it knows. DPONE_TEST_FAILS names the calls that fail.
VAULT = """
import base64, contextlib, os
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit
import pyarrow as pa
import dpone
from dpone.capability import Connector, declare, CAPABILITIES
from dpone.contract import OPTIONAL, Entry, Finding, Part, Receipt, Versioned, Window
from dpone.model.staged import Staged
from dpone.model.evolution import Stored
from dpone.model.position import Position


def leak(spec, call):
    url = spec.connection.reveal()
    password = unquote(urlsplit(url).password)
    basic = base64.b64encode(f"user:{password}".encode()).decode()
    return (f"{call}: {url} password={password} {password!r} {base64.b64encode(password.encode()).decode()} "
            f"Authorization: Basic {basic} {spec!r}")


class Vault:
    def __init__(self, spec):
        self.spec = spec

    def _call(self, name, answer=None):
        if name in os.environ.get("DPONE_TEST_FAILS", "").split(","):
            try:
                raise ConnectionRefusedError(leak(self.spec, name))
            except OSError as error:
                raise RuntimeError(leak(self.spec, name)) from error
        return answer

    def check(self):
        return self._call("check", [Finding("connect", False, leak(self.spec, "check"), leak(self.spec, "todo"))])

    def close(self): pass


SCHEMA = pa.schema({"id": pa.int64()})
HEADS, STATES = {}, {}


class VaultSource(Vault):
    def tables(self, pattern): return []
    def schema(self): return SCHEMA
    def window(self, after, request):
        position = Position("vault", {}, {"at": leak(self.spec, "position")})
        self._call("window")
        return Window(position, (Part(leak(self.spec, "part")),), False, SCHEMA, True, True, leak(self.spec, "proof"))
    @contextlib.contextmanager
    def read(self, part):
        self._call("read")
        self.native, self.filtered, self.quarantined, self.checks = (), 0, 0, ""
        yield self
    def batches(self):
        yield pa.RecordBatch.from_pydict({"id": [1]}, schema=SCHEMA)
        self._call("batches")
    def open_native(self, format): return iter(())
    def ack(self, position): self._call("ack")
VaultSource.schema = type("S", (), {"__call__": lambda s: SCHEMA})()


class VaultWriter(Vault):
    def __init__(self, spec, load):
        super().__init__(spec)
        self.load, self.load_id = load, load.load_id
    def staged(self): return {}
    def stage(self, part, stream):
        return Staged(sum(b.num_rows for b in stream.batches()), 8)
    def commit(self, after, position, also):
        self._call("commit")
        seq = after.seq + 1 if after else 1
        load, now = self.load, datetime.now(UTC)
        entry = HEADS[load.key] = Entry(seq, position.epoch, load.load_id, load.run_id, load.token, position, now, {})
        return Receipt(entry, inserted=1)
    def abort(self): self._call("abort")


class VaultSink(Vault):
    def schema(self): return None
    def exists(self): return False
    def is_empty(self): return True
    def stores(self, type): return Stored(str(type), type)
    def ddl(self, changes): return [leak(self.spec, "ddl")]
    def apply(self, ddl): self._call("apply")
    def journal(self, key): return self._call("journal", HEADS.get(key))
    def open(self, load): return VaultWriter(self.spec, load)


class Lease:
    owner = "test"
    def renew(self): pass


class VaultState(Vault):
    def partitions(self):
        from dpone.connectors.file.partitions import JsonPartitionManifestStore
        return JsonPartitionManifestStore("manifests")
    def load(self, key): return self._call("load", STATES.get(key))
    def save(self, key, value, expected):
        self._call("save")
        STATES[key] = Versioned(value, expected + 1, datetime.now(UTC))
        return expected + 1
    def delete(self, key, expected): STATES.pop(key, None)
    def history(self, key, limit=20): return [STATES[key]] if key in STATES else []
    @contextlib.contextmanager
    def lock(self, key, ttl):
        self._call("lock")
        yield Lease()


def connector(role, cls, options, **more):
    plain = [name for name in CAPABILITIES[role] if name == "partitions" or name not in OPTIONAL.get(role, ())]
    return Connector("vault", f"zz_vault:{cls}", f"dpone.model.pipeline:{options}", declare(role, plain), **more)

@dpone.hookimpl
def dpone_sources(): return [connector("source", "VaultSource", "SourceOptions", takes=("connection", "table"))]
@dpone.hookimpl
def dpone_sinks():
    return [connector("sink", "VaultSink", "SinkOptions", takes=("connection", "table"), commit="transaction")]
@dpone.hookimpl
def dpone_state_backends(): return [connector("state", "VaultState", "StateOptions", takes=("connection",))]
"""

PIPELINE = """
pipeline: vault
source: {type: vault, connection: "${VAULT}", table: t}
sink: {type: vault, connection: "${VAULT}", table: t, strategy: {mode: append}}
state: {type: vault, connection: "${VAULT}"}
runtime: {retries: 0}
"""

RUN = ("", "window", "read", "batches", "apply", "commit", "abort,commit", "journal", "load", "save", "lock", "ack")
CASES = (
    (["run"], RUN),
    (["run", "--log-format", "json", "--report"], RUN),
    (["plan"], ("", "window", "journal", "load")),
    (["check", "--connect"], ("", "check")),
    (["doctor"], ("", "check")),
    (["state", "show"], ("", "journal", "load")),
    (["state", "history"], ("", "lock")),
    (["state", "set", "--stream", "t", "--beginning", "--yes"], ("", "journal", "load", "lock", "commit", "save")),
)


def forms(secret: str) -> set[str]:
    """The canary as it could appear, found without the code under test."""
    encoded = base64.b64encode(secret.encode()).decode()
    basic = base64.b64encode(b"user:" + secret.encode()).decode()
    return {
        secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1],
        secret.replace('"', '\\"'), secret.replace('"', '\\"').replace("ü", "\\u00fc"), encoded, basic, basic[8:-4],
        "c4n", "quoted",
    }  # fmt: skip


@pytest.fixture
def vault(install: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install("zz_vault", VAULT)
    monkeypatch.setenv("VAULT", f"vault://user:{quote(CANARY, safe='')}@vault.example/db")
    monkeypatch.setenv("DPONE_DEBUG", "1")
    path = tmp_path / "vault.yaml"
    path.write_text(PIPELINE)
    return path


@pytest.mark.parametrize(
    ("args", "calls"),
    [
        pytest.param(args, calls, id=f"{' '.join(args[:2])}-{calls or 'nothing'}")
        for args, failing in CASES
        for calls in failing
    ],
)
def test_S_02_no_output_holds_the_password(
    args: list[str], calls: str, vault: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither stdout, stderr nor the report holds it, plain, URL-encoded, in base64, as JSON or in a repr, also when
    a driver fails with it in its message and tracebacks are shown."""
    assert dpone("run", vault).exit_code == 0
    monkeypatch.setenv("DPONE_TEST_FAILS", calls)
    report = tmp_path / "report.json"
    more = [report] if args[-1] == "--report" else []
    for format_ in ("text", "json"):
        done = dpone(*args, *more, vault, "--format", format_)
        shown = done.out + done.err + (report.read_text() if more else "")
        assert "vault.example" in shown  # the driver did speak
        assert not [form for form in forms(CANARY) if form in shown]
        if format_ == "json":
            assert done.json
