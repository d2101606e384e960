"""Rows of the failure catalogue that are not told elsewhere in this folder: tests of the shared SQL sink once more on
PostgreSQL, names of every kind, secrets, and what the pages must say."""

from __future__ import annotations

import json
import re
import stat
import string
from base64 import b64encode
from contextlib import closing
from importlib.metadata import requires
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
import yaml
from attrs import evolve as replace
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.postgres.server import Server, free_port
from tests.postgres.stream import ChangeSource
from tests.postgres.test_strategies import Here
from tests.sqlite import test_sqlite_sink as shared

from dpone.cli.main import assemble
from dpone.model.schema import Name
from dpone.model.strategy import Strategy
from dpone_postgres import setup
from dpone_postgres.database import PostgresDialect

pytestmark = pytest.mark.postgres
DOCS = Path(__file__).parents[2] / "docs"
NUMBERS = ("LS_02", "LS_03", "LS_04", "LS_05", "LS_06", "LS_12")
_own = {name: test for name, test in vars(shared).items() if name.startswith(tuple(f"test_{n}_" for n in NUMBERS))}
assert {n for n in NUMBERS if any(name.startswith(f"test_{n}_") for name in _own)} == {*NUMBERS}
globals().update(_own)


@pytest.fixture
def target(postgres: Server, schema: str) -> Here:
    return Here(postgres, schema)


# ---- names

ODD = st.text(st.sampled_from("a\"].;-'\\%$ 😀é\n") | st.sampled_from(string.ascii_letters), min_size=1, max_size=12)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=ODD, columns=st.lists(ODD, min_size=2, max_size=3, unique_by=str.casefold))
def test_S_01_whatever_its_name_only_the_named_table_changes(target: Here, table: str, columns: list[str]) -> None:
    """Create, load twice and read back under any name: the rows arrive, and a bystander is as before."""
    for old in target.tables():
        target.run(f"DROP TABLE {PostgresDialect().quote(old)}")
    target.run("CREATE TABLE bystander (a int)", "INSERT INTO bystander VALUES (42)")
    if table == "bystander":
        return
    named, data = replace(target, table=table), pa.table({c: pa.array([1], pa.int64()) for c in columns})
    for _ in range(2):
        named.load(data, Strategy("merge", key=columns[0]))
    quoted = ['"' + name.replace('"', '""') + '"' for name in (table, *columns)]
    assert named.query(f"SELECT {', '.join(quoted[1:])} FROM {quoted[0]}") == [(1,) * len(columns)]
    with closing(named.source()) as source:
        assert source.schema().names == columns
    assert target.query("SELECT a FROM bystander") == [(42,)]
    ours = {"__dpone__loads", "__dpone__staging", "__dpone__parts", "__dpone__added"}
    assert target.tables() == {table, "bystander", *ours}


def test_S_08_what_a_DBA_is_given_is_quoted() -> None:
    """Names with quotes and semicolons stay names in the statements of ``dpone cdc-plan``."""
    evil = 'x"; DROP TABLE t; --'
    text = "\n".join(setup.plan("slot", evil, [str(Name(("s", "t")))], evil, failover=True))
    doubled = '"' + evil.replace('"', '""') + '"'
    assert f"CREATE PUBLICATION {doubled} FOR TABLE" in text
    assert f'GRANT SELECT ON "s"."t" TO {doubled};' in text
    outside = re.sub(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'', "", text)
    assert "DROP TABLE" not in outside


# ---- secrets and files

CANARY = "canary-7f3 x'q\\9"


@pytest.mark.parametrize("fault", ["password", "port", "database", "table", "none"])
def test_S_02_no_output_of_a_run_holds_the_password(tmp_path: Path, postgres: Server, target: Here, fault: str) -> None:
    """Whether it works or fails at the connection or the table: neither stdout, stderr, report nor any file that the
    run leaves has the password, as it is, percent-encoded or in base64."""
    role = f"canary_{target.schema}"
    with postgres.connect() as db:
        secret = "'" + CANARY.replace("'", "''") + "'"
        db.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD {secret}")  # type: ignore[call-overload]
    target.run("CREATE TABLE source AS SELECT 1 AS id")
    url = f"postgres://{role}:{quote(CANARY, safe='')}@{postgres.host}:{postgres.port}/{postgres.database}"
    broken = {
        "password": url.replace(role, "nobody_at_all"), "port": url.replace(str(postgres.port), str(free_port())),
        "database": f"{url}_no",
    }.get(fault, url)  # fmt: skip
    table = f"{target.schema}.{'absent' if fault == 'table' else 'source'}"
    data = {
        "pipeline": "p",
        "source": {"type": "postgres", "connection": broken, "table": table},
        "sink": {
            "type": "postgres", "connection": url, "table": f"{target.schema}.orders", "strategy": {"mode": "append"}
        },
        "state": {"type": "file", "path": "state"},
        "runtime": {"retries": 0},
    }  # fmt: skip
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(data))
    try:
        texts = []
        for words in (["run", "--report", str(tmp_path / "report.json"), "--log-format", "json"], ["plan"], ["check"]):
            done = CliRunner().invoke(assemble(), [words[0], str(file), *words[1:]], standalone_mode=False)
            texts += [done.stdout, done.stderr, str(done.exception)]
        texts += [p.read_bytes().decode(errors="replace") for p in tmp_path.rglob("*") if p.is_file() and p != file]
        found = "\n".join(texts)
        for form in (CANARY, quote(CANARY, safe=""), b64encode(CANARY.encode()).decode(), json.dumps(CANARY)[1:-1]):
            assert form not in found
        assert (json.loads((tmp_path / "report.json").read_text())["status"] == "succeeded") is (fault == "none")
    finally:
        postgres.run(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def test_S_07_the_spool_of_a_change_stream_is_private(
    source: ChangeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows on their way lie in a file without a name, which its owner alone could open and no crash leaves behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    source.publish("t")
    source.run("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 2000) AS i")
    with source.reader() as reader:
        reader.window(None, None)
        assert list(tmp_path.rglob("*")) == []
        open_files = {fd: fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
        modes = [fd.stat().st_mode for fd, at in open_files.items() if at.is_relative_to(tmp_path)]
        assert modes
        assert all(stat.S_IMODE(mode) == 0o600 for mode in modes)


# ---- what is declared and said


def test_S_06_S_10_the_distribution_asks_for_psycopg_and_no_other_driver() -> None:
    """One driver, by its floor; nothing that a pipeline names is imported."""
    runtime = [r for r in requires("dpone-postgres") or () if "extra ==" not in r]
    assert sorted(re.match(r"[\w-]+", r)[0] for r in runtime) == ["dpone-core", "psycopg"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            "postgres-cdc.md",
            "A role with `REPLICATION` reads every table's rows through a slot, whatever it was granted",
        ),
        ("postgres-cdc.md", "changes may be read before a standby has confirmed them"),
    ],
    ids=["S-11", "PG-25"],
)
def test_S_11_PG_25_the_page_says_it(page: str, words: str) -> None:
    """What the server does not restrict, and what it does not wait for, is said where streams are set up."""
    assert words in " ".join((DOCS / "connectors" / page).read_text(encoding="utf-8").split())


def test_S_11_a_role_with_replication_reads_what_it_was_not_granted(source: ChangeSource) -> None:
    """That this is so, on this server: the page does not say too much."""
    role = f"reads_{source.schema}"
    source.run("CREATE TABLE t (id int PRIMARY KEY)", f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'")
    try:
        source.publish("t")
        source.run("INSERT INTO t VALUES (7)")
        [(table,)] = source.query("SELECT 't'::regclass::oid")
        with source.server.connect() as db:
            db.execute(f"SET ROLE {role}")  # type: ignore[call-overload]
            sql = f"SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{source.slot}', NULL, NULL, "
            sql += f"'proto_version', '1', 'publication_names', '{source.schema}')"
            assert db.execute(sql).fetchone() != (0,)  # type: ignore[call-overload]
            granted = "SELECT has_table_privilege(%s::oid, 'SELECT')"
            assert db.execute(granted, [table]).fetchone() == (False,)
    finally:
        source.drop_slot()
        source.run(f"DROP ROLE {role}")


def test_PG_24_a_window_is_read_over_an_ordinary_connection(source: ChangeSource) -> None:
    """psycopg has no API for replication: by default a window needs none, and leaves no walsender."""
    source.run("CREATE TABLE t (id int PRIMARY KEY)")
    source.publish("t")
    source.run("INSERT INTO t VALUES (1)")
    _, found = source.read()
    assert [row["id"] for row in found["t"]] == [1]
    assert source.query(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{source.slot}'") == [(False,)]
