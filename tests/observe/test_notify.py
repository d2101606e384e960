"""``notify:`` of a pipeline, against real HTTP servers on the loopback."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.engine.project import Project, rows

from dpone.config.document import PipelineErrors
from dpone.config.reader import load_pipeline
from dpone.engine.plan import PlanStep
from dpone.engine.run import Run
from dpone.errors import Interrupted
from dpone.model.report import ErrorReport, RunReport, StreamReport
from dpone.observe import webhooks

PATH = "/services/T00000000/B00000000/kohlrabi7Left"


class Inbox:
    """What arrived, as (path, body); ``answers``: the statuses to give, first come first served, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self.answers: list[int] = []
        self.hang = threading.Event()
        self.url = ""


@contextmanager
def inbox(tls: ssl.SSLContext | None = None) -> Iterator[Inbox]:
    box = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            box.got.append((self.path, json.loads(body)))
            status = box.answers.pop(0) if box.answers else 200
            if status == 0:
                box.hang.wait()
                return
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        box.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield box
        finally:
            box.hang.set()
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def running() -> Iterator[Inbox]:
    with inbox() as box:
        yield box


@pytest.fixture
def box(running: Inbox, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    running.got.clear()
    running.answers.clear()
    monkeypatch.setattr(webhooks.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")
    return running


def notifying(project: Project, *wanted: Mapping[str, Any]) -> Path:
    """The pipeline file of the project, with these notifications."""
    data = yaml.safe_load(project.pipeline.read_text())
    project.pipeline.write_text(yaml.safe_dump({**data, "notify": list(wanted)}))
    return project.pipeline


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "p").save()
    project.csv("a", rows(1, 20))
    return project


def spoilt(project: Project) -> None:
    """The next run fails: a row has too few columns."""
    (project.folder / "data" / "b.csv").write_text("id,day,name,note\n21,1,canary\n")


ALL = ["failed", "stopped", "recovered", "succeeded", "schema_changed"]


def test_a_message_has_what_people_and_programs_need(project: Project, box: Inbox) -> None:
    """Text for Slack, and run, pipeline, status, and rows and error of each stream; no value of a row is in it."""
    pipeline = notifying(project, {"webhook": box.url + PATH, "on": ALL})
    report = Run(load_pipeline(pipeline)).execute()
    spoilt(project)
    failed = Run(load_pipeline(pipeline)).execute()
    (path, first), (_, second) = box.got
    assert path == PATH
    assert first["text"].splitlines()[0] == f"p succeeded: 1 of 1 stream loaded, 20 rows written (run {report.run_id})"
    assert first["event"] == "succeeded"
    assert (first["run_id"], first["pipeline"], first["status"], first["exit_code"]) == (
        report.run_id, "p", "succeeded", 0,
    )  # fmt: skip
    [stream] = first["streams"]
    assert (stream["stream"], stream["status"], stream["rows"]["written"], stream["error"]) == ("t", "loaded", 20, None)
    assert (second["event"], second["run_id"], second["status"]) == ("failed", failed.run_id, "failed")
    assert failed.streams[0].error is not None
    assert second["streams"][0]["error"]["message"] == failed.streams[0].error.message
    assert second["text"].splitlines()[0].startswith("p failed: 0 of 1 stream loaded, 0 rows written")
    assert "canary" not in json.dumps(second)


@pytest.mark.parametrize(
    ("status", "codes", "changed", "said"),
    [
        ("loaded", [], False, ["succeeded"]),
        ("loaded", [], True, ["succeeded", "schema_changed"]),
        ("failed", [1], True, ["failed"]),
        ("stopped", [3], False, ["stopped"]),
        ("stopped", [3, 1], False, ["failed"]),
    ],
)
def test_a_run_gives_these_occasions(status: Any, codes: Sequence[int], changed: bool, said: Sequence[str]) -> None:
    """By the status of the run; a schema change counts if it was committed."""
    report = RunReport("r", "p")
    changes = ["add column c"] if changed else []
    report.streams = [StreamReport("s", "k", status=status, schema_changes=changes)]
    errors = [ErrorReport("E", "unknown", False, "m", code) for code in codes]
    report.streams += [StreamReport(f"e{n}", "k", status="failed", error=error) for n, error in enumerate(errors)]
    report.finish()
    assert list(webhooks.occasions(report)) == list(said)


def test_a_run_after_a_failed_one_has_recovered(project: Project, box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the run log: once, with the first run that succeeds again; a run that was interrupted in between, and a run of
    another pipeline, are not what it is compared with."""
    pipeline = notifying(project, {"webhook": f"{box.url}/x", "on": ["failed", "recovered"]})
    Run(load_pipeline(pipeline)).execute()
    assert box.got == []
    bad = project.folder / "data" / "b.csv"
    spoilt(project)
    assert Run(load_pipeline(pipeline)).execute().status == "failed"
    bad.unlink()
    with monkeypatch.context() as patch:

        def interrupted(*given: Any) -> None:
            raise Interrupted("SIGTERM")

        patch.setattr(PlanStep, "execute", interrupted)
        with pytest.raises(Interrupted):
            Run(load_pipeline(pipeline)).execute()
    for _ in range(2):
        assert Run(load_pipeline(pipeline)).execute().status == "succeeded"
    assert [body["events"] for _, body in box.got] == [["failed"], ["recovered"]]


def test_only_what_is_asked_for_is_sent(project: Project, box: Inbox) -> None:
    """A webhook gets one message for all its occasions, and none if none came; nobody hears of a plan."""
    pipeline = notifying(
        project,
        {"webhook": f"{box.url}/failed", "on": ["failed"]},
        {"webhook": f"{box.url}/default"},
        {"webhook": f"{box.url}/both", "on": ["succeeded", "schema_changed"]},
    )
    assert Run(load_pipeline(pipeline), dry_run=True).execute().exit_code == 0
    assert box.got == []
    Run(load_pipeline(pipeline)).execute()
    assert [path for path, _ in box.got] == ["/both"]


@pytest.mark.parametrize(
    ("answers", "attempts", "fault"),
    [
        ([500, 429], 3, None),
        ([503, 503, 503], 3, "HTTP status 503"),
        ([404], 1, "HTTP status 404"),
        ([302], 1, "HTTP status 302"),
        ([307], 1, "HTTP status 307"),
        ([0, 0, 0], 3, "TimeoutError: timed out"),
    ],
    ids=str,
)
def test_a_webhook_that_fails_changes_nothing(
    project: Project, box: Inbox, answers: list[int], attempts: int, fault: str | None
) -> None:
    """It is tried again where that may help, so often and no more; a redirect is not followed; the run has succeeded,
    and one warning names the host and not the path."""
    box.answers = [*answers]
    wanted = {"webhook": box.url + PATH, "on": "succeeded", "retries": 2, "timeout": 0.3 if 0 in answers else "9s"}
    report = Run(load_pipeline(notifying(project, wanted))).execute()
    assert (report.status, project.rows()) == ("succeeded", rows(1, 20))
    assert [path for path, _ in box.got] == [PATH] * attempts
    wanted_warning = f"observer notify: send the notification: 127.0.0.1 ({fault}); check the webhook and the way to it"
    assert [warning.startswith(wanted_warning) for warning in report.warnings] == ([True] if fault else [])


def test_all_webhooks_together_have_a_limit(project: Project, box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer takes no time from another, and the run waits for none of them longer than TOTAL."""
    monkeypatch.setattr(webhooks, "TOTAL", 0.5)
    box.answers = [0]
    silent = {"webhook": f"{box.url}/silent", "on": "succeeded", "timeout": "60s", "retries": 10}
    nowhere = {"webhook": "http://127.0.0.1:1/nowhere", "on": "succeeded"}
    with inbox() as other:
        wanted = [silent, nowhere, {"webhook": f"{other.url}/other", "on": "succeeded"}]
        report = Run(load_pipeline(notifying(project, *wanted))).execute()
        assert [path for path, _ in other.got] == ["/other"]
    [warning] = report.warnings
    assert report.status == "succeeded"
    assert "127.0.0.1 (" in warning
    assert "127.0.0.1 (ConnectionRefusedError" in warning


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_is_verified(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S-03: a server whose certificate nobody has signed, or is for another host, gets nothing."""
    words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    subprocess.run(["openssl", *words, "-keyout", "key", "-out", "cert"], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with inbox(context) as box:
        wanted = {"webhook": box.url + PATH, "on": "succeeded", "retries": 0}
        report = Run(load_pipeline(notifying(project, wanted))).execute()
        assert box.got == []
        assert "certificate verify failed" in report.warnings[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        report = Run(load_pipeline(project.pipeline), full_refresh=True).execute()
    assert box.got == []
    assert "hostname mismatch" in report.warnings[0].lower() or "IP address mismatch" in report.warnings[0]


def test_a_message_has_a_bound() -> None:
    """A thousand streams that fail with long texts give a text that a chat shows, and a hundred streams, failed ones
    first; control characters of Slack are escaped."""
    report = RunReport("r", "p")
    report.streams = [StreamReport(f"ok{n}", "k", status="loaded") for n in range(500)]
    error = ErrorReport("E", "unknown", False, "<!channel> & " + "x" * 5000)
    report.streams += [StreamReport(f"bad{n}", "k", status="failed", error=error) for n in range(500)]
    report.finish()
    found = webhooks.message(report, ["failed"])
    assert (len(found["streams"]), found["streams_total"]) == (100, 1000)
    assert {one["status"] for one in found["streams"]} == {"failed"}
    assert len(found["text"]) < 4000
    assert found["text"].endswith("... and 490 more")
    assert "&lt;!channel&gt; &amp; x" in found["text"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"webhook": "ftp://h/x"}, "notify[0].webhook: not a URL of http or https"),
        ({"webhook": "https:///x"}, "notify[0].webhook: not a URL of http or https"),
        ({"webhook": "https://h:99999/x"}, "notify[0].webhook: not a URL of http or https"),
        ({"webhook": "https://[h/x"}, "notify[0].webhook: not a URL of http or https"),
        ({"webhook": "https://h/p4ssw0rd x"}, "notify[0].webhook: the URL has a blank, or a letter that is not ASCII"),
        ({"webhook": "https://h/p4ssw0rdÜ"}, "notify[0].webhook: the URL has a blank, or a letter that is not ASCII"),
        ({"webhook": "https://u:p4ssw0rd@h/x"}, "notify[0].webhook: the URL has a user or a password"),
        ({"webhook": "https://h/x", "timeout": "90s"}, "notify[0].timeout: 90s is not between 0s and 60s"),
        ({"webhook": "https://h/x", "timeout": 0}, "notify[0].timeout: 0.0 is not between 0s and 60s"),
        ({"webhook": "https://h/x", "timeout": "soon"}, "notify[0].timeout: not a duration"),
        ({"webhook": "https://h/x", "retries": 11}, "notify[0].retries: 'retries' must be <= 10: 11"),
        ({"webhook": "https://h/x", "on": ["done"]}, "notify[0].on[0]: found the text 'done'"),
        ({"on": ["failed"]}, "notify[0].webhook: missing"),
    ],
)
def test_a_notification_is_checked(project: Project, given: Mapping[str, Any], found: str) -> None:
    """Before anything runs, by line and key; no part of the address is shown."""
    with pytest.raises(PipelineErrors) as caught:
        load_pipeline(notifying(project, given))
    assert found in str(caught.value)
    assert "p4ssw0rd" not in str(caught.value)
