"""S-02 and OUT_17: no command prints a piece of a credential, whatever the credential holds and wherever it stands."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dpone.model import secret
from dpone_postgres.connect import known_parameters

Dpone = Callable[..., Any]

ODD = "@:/#%'\"\\ ?;&=+"
LEFT, RIGHT = "kohlrabi7Left", "rutabaga9Right"
NOBODY = "127.0.0.1:1"  # a port that refuses at once

PIPELINE = """
pipeline: canary
source: {{type: postgres, connection: {source}, table: t{changes}}}
sink: {{type: {type}, connection: {sink}, table: t, strategy: {{mode: append}}}}
state: {{type: {type}, connection: {state}, options: {{lease_seconds: 5}}}}
runtime: {{retries: 1}}
"""
CHANGES = ", options: {incremental: {by: logical}}"

COMMANDS = (
    ("run", "--report", "report.json"), ("run", "--log-format", "json"), ("plan",), ("check",), ("check", "--connect"),
    ("doctor",), ("state", "show"), ("state", "history"),
)  # fmt: skip
OF_STREAMS = (("cdc-plan",), ("cdc", "lag"), ("run",))


def forms(piece: str) -> Iterator[str]:
    """A piece of the canary as an output may hold it; base64 at each of the three offsets, without its loose ends."""
    yield piece
    yield quote(piece)
    for before in ("", "x", "xx"):
        whole = base64.b64encode((before + piece).encode()).decode()
        yield whole[4 if before else 0 : -4]


@pytest.fixture(autouse=True)
def every_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracebacks are shown and every logger speaks; what other tests made secret is forgotten."""
    monkeypatch.setenv("DPONE_DEBUG", "1")
    monkeypatch.setattr("dpone.model.secret._known", set())
    monkeypatch.setattr("dpone.model.secret._pattern", None)
    monkeypatch.setattr("dpone.engine.run.time.sleep", lambda seconds: None)
    caplog.set_level(logging.DEBUG)


def shown(dpone: Dpone, pipeline: Path, command: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> tuple[int, str]:
    """The exit code, and all that a command says: streams, logs, report, and files beside the pipeline."""
    report = pipeline.parent / "report.json"
    args = [str(report) if one == report.name else one for one in command]
    done = dpone(*args, pipeline)
    made = [path for path in pipeline.parent.rglob("*") if path.suffix != ".yaml"]
    files = [path.read_bytes().decode(errors="replace") for path in made if path.is_file()]
    return done.exit_code, "\n".join([done.out, done.err, caplog.text, *map(str, made), *files])


def leaks(text: str) -> list[str]:
    return [form for piece in (LEFT, RIGHT) for form in forms(piece) if form in text]


def write(folder: Path, connection: str, changes: str = "", role: str = "source", type_: str = "sqlite") -> Path:
    """A pipeline whose ``role`` has the connection; ``connection`` is YAML."""
    lite = {"sink": "'sqlite:///out.db'", "state": "'sqlite:///state.db'"}
    given = {"source": f"'postgres://u@{NOBODY}/d'", **lite, role: connection}
    path = folder / "pipeline.yaml"
    path.write_text(PIPELINE.format(type=type_ if role != "source" else "sqlite", changes=changes, **given))
    return path


def as_yaml(text: str) -> str:
    return json.dumps(text)


def fields() -> dict[str, str]:
    """Each way to write a connection of PostgreSQL with one canary that has every odd character, as YAML."""
    canary = LEFT + ODD + RIGHT
    encoded = quote(canary, safe="")
    libpq = "'" + canary.replace("\\", "\\\\").replace("'", "\\'") + "'"
    bare = "".join("\\" + one if one in " '\\" else one for one in canary)
    host, port = NOBODY.split(":")
    found = {
        "url": as_yaml(f"postgres://u:{encoded}@{NOBODY}/d"),
        "url of variable": as_yaml(f"postgres://u:${{ENCODED}}@{NOBODY}/d"),
        "url that is spoilt": as_yaml(f"postgres://u:{encoded}@{NOBODY}/d?nonsense={encoded}"),
        "keywords": as_yaml(f"host={host} port={port} user=u password={libpq}"),
        "keywords without quotes": as_yaml(f"host={host} port={port} user=u password = {bare}"),
        "keywords that are spoilt": as_yaml(f"host={host} port={port} password={libpq}x nonsense={canary}"),
        "keywords with raw text": as_yaml(f"host={host} port={port} user=u password={canary}"),
        "raw variable": as_yaml(f"postgres://u:${{RAW}}@{NOBODY}/d"),
        "raw variable in keywords": as_yaml(f"host={host} port={port} user=u password=${{RAW}}"),
        "parameter without a path": as_yaml(f"postgres://{host}?port={port}&user=u&password={LEFT}@{RIGHT}"),
        "another scheme": as_yaml(f"mysql://u:{encoded}@{NOBODY}/d"),
        "another scheme, raw": as_yaml(f"mysql://u:{canary}@{NOBODY}/d?x=y"),
    }
    for name in sorted(one for one in known_parameters() if credential(one)):
        found[f"field {name}"] = json.dumps({"host": host, "port": port, "user": "u", name: canary})
        found[f"parameter {name}"] = as_yaml(f"postgres://u@{NOBODY}/d?{name}={encoded}")
        found[f"keyword {name}"] = as_yaml(f"host={host} port={port} user=u {name}={libpq}")
    return found


def credential(name: str) -> bool:
    """Those of libpq, by its own mark (``dispchar`` of PQconninfoOption: ``*`` is not to be shown) and by sight."""
    return any(word in name for word in ("pass", "secret", "scram")) and name != "passfile"


FIELDS = fields()
ROLES: Mapping[str, tuple[str, str]] = {
    "source": ("source", "sqlite"), "sink": ("sink", "postgres"), "state": ("state", "postgres"),
    "sqlite sink": ("sink", "sqlite"), "sqlite state": ("state", "sqlite"),
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODED", quote(LEFT + ODD + RIGHT, safe=""))
    monkeypatch.setenv("RAW", LEFT + ODD + RIGHT)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("role", ROLES)
def test_S_02_no_credential_is_in_exported_metrics(role: str, dpone: Dpone, tmp_path: Path) -> None:
    """A run that fails at a connection is exported without a piece of it, in a process that knows no secret."""
    where, type_ = ROLES[role]
    for number, field in enumerate(FIELDS.values()):
        dpone("run", write(tmp_path, field, role=where, type_=type_), "-q", "--report", tmp_path / "report.json")
        if not (tmp_path / "report.json").exists() or not (tmp_path / "report.json").read_bytes():
            continue  # the pipeline was refused
        secret._known.clear()
        secret._pattern = None
        out = tmp_path / f"out-{number}"
        args = ("--run-report", tmp_path / "report.json", "--output-dir", out)
        assert dpone("observability", "metrics-export", *args).exit_code == 0
        files = [path.read_bytes().decode() for path in out.iterdir()]
        assert len(files) == 5
        assert leaks("\n".join(files)) == []
        (tmp_path / "report.json").unlink()
    assert [*tmp_path.glob("out-*")]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("field", FIELDS)
def test_S_02_a_credential_with_every_odd_character_is_never_printed(
    field: str, dpone: Dpone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In whichever field and form of a connection it stands, no command, report or log has a piece of it."""
    pipeline = write(tmp_path, FIELDS[field])
    said = [shown(dpone, pipeline, command, caplog) for command in COMMANDS]
    pipeline = write(tmp_path, FIELDS[field], CHANGES)
    said += [shown(dpone, pipeline, command, caplog) for command in OF_STREAMS]
    assert [(command, leaks(text)) for command, (_, text) in zip((*COMMANDS, *OF_STREAMS), said, strict=True)] == [
        (command, []) for command in (*COMMANDS, *OF_STREAMS)
    ]
    assert said[0][0] in (1, 2), "nothing was tried"


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("role", [role for role in ROLES if role != "source"])
@pytest.mark.parametrize("field", ["url", "keywords", "raw variable", "another scheme, raw", "field password"])
def test_S_02_each_role_keeps_its_credential(
    field: str, role: str, dpone: Dpone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sink and state keep a connection to themselves as a source does, also where its connector is another one."""
    where, type_ = ROLES[role]
    pipeline = write(tmp_path, FIELDS[field], role=where, type_=type_)
    for command in COMMANDS:
        assert leaks(shown(dpone, pipeline, command, caplog)[1]) == [], command


@pytest.mark.parametrize(
    ("odd", "where"), [*((odd, "here") for odd in ODD), ("@", "named"), ("@", "state"), ("@", "file")]
)
def test_OUT_17_a_raw_character_in_a_url_password_prints_nothing(
    odd: str, where: str, dpone: Dpone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing between the scheme and the last @ is printed; where the URL leaves open which @ that is, exit 2."""
    url = f"postgresql://u:{LEFT}{odd}{RIGHT}@{NOBODY}/d"
    pipeline = write(tmp_path, as_yaml(url), role="state" if where == "state" else "source", type_="postgres")
    if where in ("named", "file"):
        pipeline, named = write(tmp_path, "shop"), json.dumps({"shop": url})
        (tmp_path / "connections.yaml").write_text(named)
        place = "connections.yaml" if where == "file" else named
        pipeline.write_text(f"{pipeline.read_text()}connections: {place}\n")
    for command in COMMANDS:
        code, text = shown(dpone, pipeline, command, caplog)
        assert leaks(text) == [], command
        if odd in "@/?#;":
            assert code == 2, command
            assert "'@'" in text
            assert "%40" in text
            assert "retry" not in text


@pytest.mark.parametrize("odd", "/;@?#")
def test_OUT_17_a_raw_character_in_a_url_user_prints_nothing(
    odd: str, dpone: Dpone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same of a user without a password, where only PostgreSQL's URLs cannot have an @ in their path."""
    pipeline = write(tmp_path, as_yaml(f"postgres://{LEFT}{odd}{RIGHT}@{NOBODY}/d"))
    for command in COMMANDS:
        code, text = shown(dpone, pipeline, command, caplog)
        assert (code, leaks(text)) == (2, []), command
        assert "%40" in text


def test_OUT_17_the_advice_leads_to_a_connection(
    dpone: Dpone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Percent-encoded, or as fields, the same password reaches the server: what fails then is the server's doing."""
    host, port = NOBODY.split(":")
    for connection in (
        as_yaml(f"postgresql://u:{LEFT}%40{RIGHT}@{NOBODY}/d"),
        json.dumps({"host": host, "port": port, "dbname": "d", "user": "u", "password": f"{LEFT}@{RIGHT}"}),
    ):
        code, text = shown(dpone, write(tmp_path, connection), ("run",), caplog)
        assert code == 1
        assert f"{NOBODY}/d" in text
        assert "refused" in text
        assert leaks(text) == []
