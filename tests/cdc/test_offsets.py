"""Settings and offsets of change streams as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpone.cdc.offsets import CDCConfig, CDCOffset
from dpone.errors import ConfigError, StateError
from dpone.model.position import Position
from dpone_mssql.offsets import (
    MssqlCDCConfig,
    MssqlCDCOffset,
    MssqlChangeTrackingConfig,
    MssqlChangeTrackingOffset,
)
from dpone_postgres.offsets import PostgresLogicalConfig, PostgresLogicalOffset

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
NUMBER = st.integers(0, 2**63)
LSN = st.builds("{:X}/{:X}".format, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
BINARY = st.integers(0, 2**80 - 1).map("0x{:020X}".format)
OFFSETS = st.one_of(
    st.builds(PostgresLogicalOffset, TEXT, NUMBER, TEXT, TEXT, TEXT, TEXT, LSN),
    st.builds(MssqlCDCOffset, TEXT, TEXT, BINARY, st.dictionaries(TEXT, BINARY)),
    st.builds(MssqlChangeTrackingOffset, TEXT, TEXT, st.dictionaries(TEXT, NUMBER)),
)
NAMES = st.lists(TEXT).map(tuple)
CONFIGS = st.one_of(
    st.builds(PostgresLogicalConfig, TEXT, TEXT, NAMES, TEXT, st.sampled_from(["apply", "fail", "ignore"])),
    st.builds(MssqlCDCConfig, NAMES, NAMES),
    st.builds(MssqlChangeTrackingConfig, NAMES),
)
POSTGRES: dict[str, Any] = {
    "version": 1,
    "backend": "postgres_logical",
    "system_identifier": "7300000000000000001",
    "timeline": 1,
    "database": "shop",
    "slot": "dpone",
    "plugin": "pgoutput",
    "publication": "dpone",
    "lsn": "16/B374D848",
    "tables": {"shop.orders": 16384},
    "commit": "00000016B374D810-0000030A-790000000000000",
    "exact": True,
    "outside": {"shop.orders": {"file": 16384, "columns": ["id", "v"]}},
    "due": ["shop.customers"],
}
LATER = {"tables": {}, "commit": "", "exact": False, "outside": None, "due": []}  # what earlier versions did not write


@given(OFFSETS, st.integers(0, 1000))
def test_an_offset_survives_json_and_position(offset: CDCOffset, epoch: int) -> None:
    """Through JSON text and through a position's text, an offset comes back as it was, under its own class."""
    assert CDCOffset.from_json(json.loads(json.dumps(offset.to_json()))) == offset
    position = Position.loads(offset.to_position(epoch).dumps())
    assert position.epoch == epoch
    assert CDCOffset.from_position(position) == offset


def test_a_position_that_says_a_thing_twice_is_refused() -> None:
    """What stands in identity and value at once is no offset that any version wrote: damage, not a choice."""
    position = CDCOffset.from_json(POSTGRES).to_position().to_json()
    position["value"]["slot"] = "another"
    with pytest.raises(StateError, match="slot in identity and value"):
        CDCOffset.from_position(Position.from_json(position))


@given(CONFIGS)
def test_settings_survive_json(config: CDCConfig) -> None:
    """Through JSON text, settings come back as they were."""
    assert CDCConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_the_json_of_an_offset_is_stable() -> None:
    """What was written by this version must be readable for ever: the very keys and words."""
    offset = CDCOffset.from_json(POSTGRES)
    assert offset.to_json() == POSTGRES
    position = offset.to_position(3).to_json()
    assert (position["kind"], position["epoch"], position["value"]) == (
        "postgres_logical", 3, {"version": 1, **{name: POSTGRES[name] for name in ("lsn", *LATER)}},
    )  # fmt: skip
    assert set(position["identity"]) == set(POSTGRES) - {"version", "backend", "lsn", *LATER}


def test_an_offset_of_an_earlier_version_is_read() -> None:
    """One without table oids has seen no table; one without a commit, or not exact, is not compared with the log; one
    without facts of its tables adopts them."""
    offset = CDCOffset.from_json({k: v for k, v in POSTGRES.items() if k not in LATER})
    assert offset.to_json() == {**POSTGRES, **LATER}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"version": 2}, "version 2, this dpone reads 1"),
        ({"version": True}, "version True"),
        ({"backend": "mysql_binlog"}, "backend 'mysql_binlog', known here: "),
        ({"backend": None}, "backend None"),
        ({"server": "a"}, "unknown keys: server"),
        ({"lsn": "now"}, "lsn"),
        ({"timeline": "1"}, "timeline"),
        ({"timeline": -1}, "timeline"),
        ({"slot": ""}, "slot"),
    ],
)
def test_a_strange_offset_is_refused_by_name(changed: dict[str, Any], found: str) -> None:
    """Another version, backend, key or value: one line that says which, and never an offset made of it."""
    with pytest.raises(StateError, match="read a change stream's offset: ") as caught:
        CDCOffset.from_json({**POSTGRES, **changed})
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_refused() -> None:
    """An offset without one of its fields is none."""
    with pytest.raises(StateError, match="missing keys: lsn, slot"):
        CDCOffset.from_json({key: value for key, value in POSTGRES.items() if key not in ("lsn", "slot")})


def test_a_class_reads_only_its_own_backend() -> None:
    """Who asks for SQL Server's offset does not get PostgreSQL's."""
    with pytest.raises(StateError, match="backend 'postgres_logical', known here: mssql_cdc"):
        MssqlCDCOffset.from_json(POSTGRES)
    with pytest.raises(StateError):
        CDCOffset.from_position(Position("files", {"path": "a"}, {"files": {}}))


@pytest.mark.parametrize("data", [None, [], "text", {}])
def test_what_is_no_settings_is_refused(data: Any) -> None:
    """Settings that are no JSON object, or an empty one, are a ConfigError."""
    with pytest.raises(ConfigError, match="read the settings of a change stream"):
        CDCConfig.from_json(data)


def test_truncate_has_three_words() -> None:
    """A policy that does not exist is refused."""
    given = {"version": 1, "backend": "postgres_logical", "slot": "s", "publication": "p", "tables": ["a"]}
    assert CDCConfig.from_json(given) == PostgresLogicalConfig("s", "p", ("a",), "pgoutput", "fail")
    with pytest.raises(ConfigError, match="truncate"):
        CDCConfig.from_json({**given, "truncate": "maybe"})
    with pytest.raises(ConfigError, match="tables"):
        CDCConfig.from_json({**given, "tables": "a"})
