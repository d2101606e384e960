"""``dpone doctor PIPELINE`` prints the statements that a role lacks: they are run as printed, and then the pipeline
runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.cli.conftest import dpone as dpone
from tests.postgres.server import Server

Dpone = Callable[..., Any]
ROLES = ['dpone "reader"', "Other"]
PIPELINE = """\
pipeline: shop
source: {{type: postgres, connection: "{url}", table: '{schema}."Orders"', options: {options}}}
sink: {{type: postgres, connection: "{url}", table: '{schema}_to."Copy"', strategy: {strategy}}}
state: {{type: postgres, connection: "{url}", options: {{schema: '{schema} state'}}}}
"""
WAYS = {
    "rows": ("{{}}", "{mode: merge, key: [id]}"),
    "changes": ("{{incremental: {{by: cdc}}, slot: {0}, publication: {0}}}", "{mode: cdc_apply}"),
}


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def urls(postgres: Server, schema: str) -> Iterator[list[str]]:
    """Of two roles without a right, and the schemas of target and state."""
    postgres.run(f"CREATE SCHEMA {schema}_to", f"CREATE SCHEMA {quoted(schema + ' state')}")
    postgres.run(*(f"CREATE ROLE {quoted(role)} LOGIN PASSWORD 'x'" for role in ROLES))
    at = f"{postgres.host}:{postgres.port}/{postgres.database}?sslmode=disable"
    yield [f"postgres://{quote(role, '')}:x@{at}" for role in ROLES]
    postgres.run(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{schema}'")
    postgres.run(f"DROP PUBLICATION IF EXISTS {schema}")
    postgres.run(f"DROP SCHEMA {schema}_to CASCADE", f"DROP SCHEMA {quoted(schema + ' state')} CASCADE")
    for role in ROLES:
        postgres.run(f"DROP OWNED BY {quoted(role)} CASCADE", f"DROP ROLE {quoted(role)}")


def statements(done: Any) -> list[str]:
    """Of the findings that are not ok."""
    todo = [one["todo"] for one in done.json["findings"] if one["ok"] is False]
    return [sql for one in todo for sql in re.findall(r"(?:GRANT|ALTER ROLE) .*?;", one)]


@pytest.mark.parametrize("way", WAYS)
def test_a_role_without_a_right_is_given_what_doctor_prints(
    way: str, postgres: Server, schema: str, urls: list[str], tmp_path: Path, dpone: Dpone
) -> None:
    """One look shows all that is missing at source, target and state, quoted. A second role gets the rights on the
    tables that the first one made for dpone."""
    options, strategy = WAYS[way]
    postgres.run(
        f'CREATE TABLE {schema}."Orders" (id int PRIMARY KEY, item text)',
        f"INSERT INTO {schema}.\"Orders\" VALUES (0, 'lamp')",
    )
    path = tmp_path / "pipeline.yaml"
    for number, url in enumerate(urls):
        text = {"url": url, "schema": schema, "options": options.format(schema), "strategy": strategy}
        path.write_text(PIPELINE.format(**text))
        poor = dpone("doctor", path, "--format", "json")
        assert poor.exit_code == 1
        assert dpone("run", path).exit_code in (1, 3)
        postgres.run(*statements(poor))
        if way == "changes" and number == 0:
            prepare(postgres, path, dpone)
        done = dpone("doctor", path, "--format", "json")
        assert (done.exit_code, statements(done)) == (0, []), done.json
        assert dpone("run", path).exit_code == 0
        loaded = postgres.query(f'SELECT id FROM {schema}_to."Copy" ORDER BY id')
        assert loaded == [(one,) for one in range(number + 1)]
        postgres.run(f"INSERT INTO {schema}.\"Orders\" VALUES ({number + 1}, 'desk')")


def prepare(postgres: Server, path: Path, dpone: Dpone) -> None:
    """What the owner of the tables is asked to run makes slot and publication."""
    assert "run what 'dpone cdc-plan --pipeline' prints" in dpone("doctor", path).out
    plan = dpone("cdc-plan", "--pipeline", path, "--format", "json").json["statements"]
    postgres.run(*plan)
