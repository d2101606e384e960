"""S-02: keys of webhooks, collectors and lineage, and passwords of connections, are in no output and in no message."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.cli.test_canaries import LEFT, NOBODY, ODD, RIGHT, leaks
from tests.observe.collector import Collector, collector
from tests.observe.test_notify import Inbox, inbox

from dpone.cli.main import main
from dpone.model.pipeline import Notification
from dpone.model.secret import Secret, redact
from dpone.observe import openlineage, otel

CANARY = LEFT + ODD + RIGHT
HIDDEN = quote(CANARY, safe="")
PIPELINE = """
pipeline: canary
source: {{type: {type}, connection: {source}, table: t}}
sink: {{type: sqlite, connection: "sqlite:///out.db", table: t, strategy: {{mode: full_refresh}}}}
runtime: {{retries: 1}}
notify:
  - {{webhook: "{webhook}/hook/{hidden}?token={hidden}", on: [succeeded, failed], retries: 1, timeout: 1}}
"""
COMMANDS = (
    ("run", "--report", "report.json"), ("run", "--log-format", "json"), ("plan",), ("check",), ("doctor",),
)  # fmt: skip


@pytest.fixture(scope="module")
def systems() -> Iterator[tuple[Inbox, Collector]]:
    with inbox() as box, collector() as collecting:
        yield box, collecting


def test_S_02_keys_in_the_environment_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a library repeats one: headers of the collector as they are and decoded, keys of lineage, the path of a
    webhook as a whole and in parts."""
    monkeypatch.setattr("dpone.model.secret._known", set())
    monkeypatch.setattr("dpone.model.secret._pattern", None)
    otel.register_headers({"OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"a=b,authorization=Bearer%20{HIDDEN}"})
    assert redact(f"'authorization': 'Bearer {CANARY}' {HIDDEN}").count("***") == 2
    openlineage.register_keys({"OPENLINEAGE_API_KEY": "beetroot3Key", "OPENLINEAGE_NAMESPACE": "shop"})
    assert redact("shop beetroot3Key") == "shop ***"
    Notification(Secret("https://hooks.example/services/T0/parsnip4Parsnip?key=turnip5Turnip"))
    assert redact("/services/T0/parsnip4Parsnip?key=turnip5Turnip parsnip4Parsnip turnip5Turnip services") == (
        "/*** *** *** services"
    )


@pytest.mark.parametrize("ends", ["succeeds", "fails"])
@pytest.mark.parametrize("answers", ["taken", "refused"])
def test_S_02_no_key_of_an_observer_is_shown(
    tmp_path: Path,
    systems: tuple[Inbox, Collector],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    answers: str,
    ends: str,
) -> None:
    """Whether runs and messages succeed or fail, with tracebacks and every logger at DEBUG: no piece of a key, plain,
    URL-encoded or base64, in output, logs, reports, files, messages, spans, metrics and events of lineage."""
    box, collecting = systems
    for variable in ("dpone.model.secret._known", "dpone.model.secret._pattern"):
        monkeypatch.setattr(variable, set() if variable.endswith("known") else None)
    monkeypatch.setattr("dpone.engine.run.time.sleep", lambda seconds: None)
    monkeypatch.setattr("dpone.observe.webhooks.time.sleep", lambda seconds: None)
    monkeypatch.setattr("dpone.observe.telemetry.PATIENCE", 1.0)
    box.got.clear()
    box.answers = [500] * 50 if answers == "refused" else []
    collecting.clear()
    collecting.refuses = answers == "refused"
    events = tmp_path / "events.jsonl"
    for name, value in {
        "DPONE_DEBUG": "1",
        "no_proxy": "*",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.http,
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={HIDDEN},authorization=Bearer%20{HIDDEN}",
        "OPENLINEAGE__TRANSPORT__TYPE": "http" if answers == "refused" else "file",
        "OPENLINEAGE__TRANSPORT__URL": f"http://127.0.0.1:1/{HIDDEN}",
        "OPENLINEAGE__TRANSPORT__AUTH__TYPE": "api_key",
        "OPENLINEAGE__TRANSPORT__AUTH__APIKEY": HIDDEN,
        "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": str(events),
        "OPENLINEAGE__TRANSPORT__APPEND": "true",
    }.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    source = (
        ("sqlite", "'sqlite:///in.db'") if ends == "succeeds" else ("postgres", f"'postgres://u:{HIDDEN}@{NOBODY}/d'")
    )
    if ends == "succeeds":
        import sqlite3

        with sqlite3.connect("in.db") as db:
            db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        db.close()
    Path("p.yaml").write_text(PIPELINE.format(type=source[0], source=source[1], webhook=box.url, hidden=HIDDEN))
    codes = []
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([*command, "p.yaml"])
        codes.append(ended.value.code or 0)
    assert codes[:3] == ([0, 0, 0] if ends == "succeeds" else [1, 1, 1])
    printed = capfd.readouterr()
    files = [
        path.read_bytes().decode(errors="replace")
        for path in tmp_path.rglob("*")
        if path.name != "p.yaml" and path.is_file()
    ]
    sent = [json.dumps([body for _, body in box.got]), collecting.text()]
    everything = "\n".join([printed.out, printed.err, caplog.text, *files, *sent])
    assert [line for line in everything.splitlines() if leaks(line)] == []
    assert len(box.got) == (4 if answers == "refused" else 2)
    warned = [name for name in ("notify", "otel", "openlineage") if re.search(f"warning: observer {name}", printed.err)]
    assert warned == (["notify", "otel", "openlineage"] if answers == "refused" else [])
    if answers == "taken":
        assert {"api-key": CANARY, "authorization": f"Bearer {CANARY}"}.items() <= collecting.headers[0].items()
        assert len(collecting.spans) > 10
        assert len(events.read_text().splitlines()) == 8
