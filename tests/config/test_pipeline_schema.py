"""The JSON Schema agrees with what config accepts, and knows the options of every connector."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dpone.config.json_schema import pipeline_schema
from dpone.model.schema import TYPE_NAMES
from dpone.plugins import Plugins, discover

SHOP = {"type": "shop", "connection": "${SHOP}", "table": "public.orders"}
LITE = {"type": "lite", "connection": "sqlite:///w.db", "table": "t", "strategy": {"mode": "append"}}
FILE = {"type": "file", "path": "a.csv"}


@pytest.fixture
def schema(plugins: Plugins) -> dict[str, Any]:
    return pipeline_schema(plugins)


def valid(schema: dict[str, Any], **keys: Any) -> bool:
    return Draft202012Validator(schema).is_valid({"pipeline": "p", **keys})


def test_it_is_a_schema_of_its_dialect_and_json(schema: dict[str, Any]) -> None:
    """Draft 2020-12 accepts it, and it survives JSON."""
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    "keys",
    [
        {"source": FILE, "sink": LITE},
        {"source": SHOP, "sink": {k: v for k, v in LITE.items() if k != "table"}},
        {"source": {**SHOP, "options": {"fetch": "${N}", "tls": {"mode": "off"}, "size": "auto"}}, "sink": LITE},
        {"source": {**SHOP, "options": {"flags": "a"}}, "sink": LITE},
        {"source": {**SHOP, "options": {"incremental": {"by": "cursor", "column": "c", "key": ["id"]}}}, "sink": LITE},
        {"source": {**SHOP, "connection": {"host": "h"}}, "sink": LITE},
        {"source": FILE, "sink": {**LITE, "strategy": {"mode": "incremental_merge", "key": "id"}}},
        {"source": FILE, "sink": LITE, "state": {"type": "file", "path": "s"}, "runtime": {"workers": 2}},
        {"source": FILE, "sink": LITE, "labels": {"a": "b"}},
        {"source": FILE, "sink": LITE, "connections": "c.yaml"},
        {"streams": ["a.*", {"name": "b", "source": {"table": "b"}}], "defaults": {"source": SHOP, "sink": LITE}},
        {"streams": {"a": None, "b": {"sink": {"strategy": {"key": ["id"]}}}}, "connections": {"c": "x://h"}},
    ],
)  # fmt: skip
def test_it_accepts(schema: dict[str, Any], keys: dict[str, Any]) -> None:
    """Files as config reads them, before references are filled in."""
    assert list(Draft202012Validator(schema).iter_errors({"pipeline": "p", **keys})) == []


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"source": FILE},
        {"source": FILE, "sink": LITE, "streams": ["a"]},
        {"source": FILE, "sink": LITE, "pipelin": "x"},
        {"source": FILE, "sink": LITE, "staging": {"a": 1}},
        {"source": {"type": "fil", "path": "a"}, "sink": LITE},
        {"source": {"type": "file"}, "sink": LITE},
        {"source": {**FILE, "table": "t"}, "sink": LITE},
        {"source": {**FILE, "base": "/"}, "sink": LITE},
        {"source": {**SHOP, "query": "q"}, "sink": LITE},
        {"source": {"type": "shop", "table": "t"}, "sink": LITE},
        {"source": {**SHOP, "options": {"fetsch": 1}}, "sink": LITE},
        {"source": {**SHOP, "options": {"fetch": "3"}}, "sink": LITE},
        {"source": {**SHOP, "options": {"fetch": True}}, "sink": LITE},
        {"source": {**SHOP, "options": {"tls": {"mode": "maybe"}}}, "sink": LITE},
        {"source": FILE, "sink": {k: v for k, v in LITE.items() if k != "strategy"}},
        {"source": FILE, "sink": {**LITE, "strategy": {"key": "id"}}},
        {"source": FILE, "sink": {**LITE, "strategy": {"mode": "scd2", "key": "id"}}},
        {"source": FILE, "sink": {"type": "bucket", "path": "o", "strategy": {"mode": "append"}, "options": {}}},
        {"source": FILE, "sink": LITE, "labels": {"a": 1}},
        {"source": FILE, "sink": LITE, "runtime": {"workers": "two"}},
        {"source": FILE, "sink": LITE, "state": {"type": "sqlite", "path": "x"}},
        {"streams": []},
        {"streams": [3]},
        {"streams": [{"source": {"tabel": "t"}}]},
    ],
)
def test_it_refuses(schema: dict[str, Any], keys: dict[str, Any]) -> None:
    """What config refuses for its shape, an editor underlines."""
    assert not valid(schema, **keys)


def branch_of(schema: dict[str, Any], source: str) -> dict[str, Any]:
    cases = schema["$defs"]["source"]["allOf"]
    (branch,) = [case["then"] for case in cases if case["if"]["properties"]["type"]["const"] == source]
    return dict(branch)


def test_fields_are_described_by_docstrings(schema: dict[str, Any]) -> None:
    """Class docstrings become descriptions, defaults come along."""
    branch = branch_of(schema, "shop")
    options = branch["properties"]["options"]
    assert options["description"] == "How to talk to a shop."
    assert options["properties"]["fetch"]["description"] == "rows per round trip"
    assert options["properties"]["fetch"]["default"] == 1000
    runtime = schema["properties"]["runtime"]["properties"]
    assert runtime["workers"]["description"] == "parts read at once."
    assert runtime["retries"]["default"] == 3


def test_every_option_of_incremental_is_described(schema: dict[str, Any]) -> None:
    """A name of the docstring is followed by its text, and by that of no other option."""
    incremental = branch_of(schema, "shop")["properties"]["options"]["properties"]["incremental"]["anyOf"][0]
    said = {name: one.get("description", "") for name, one in incremental["properties"].items()}
    assert [name for name, text in said.items() if not text] == []
    assert [
        (name, other) for name, text in said.items() for other in said if f" {other} " in text if "_" in other
    ] == []


def test_types_of_columns_are_offered(schema: dict[str, Any]) -> None:
    """Wherever a type is written an editor offers the names that are accepted."""
    types = schema["$defs"]["sink"]["properties"]["contract"]["anyOf"][0]["properties"]["types"]
    assert types["additionalProperties"]["examples"] == list(TYPE_NAMES)
    assert {"integer", "varchar(20)", "timestamptz"} <= {*TYPE_NAMES}
    with_files = pipeline_schema(discover())["$defs"]["source"]["allOf"]
    offered = {
        case["if"]["properties"]["type"]["const"]: case["then"]["properties"]["options"]["properties"]["columns"]
        for case in with_files
        if case["if"]["properties"]["type"]["const"] in ("file", "sqlite")
    }
    assert {one["additionalProperties"]["examples"][2] for one in offered.values()} == {"integer"}
    assert len(offered) == 2


def test_a_connector_whose_options_cannot_be_imported_is_kept(schema: dict[str, Any]) -> None:
    """One broken connector does not take the schema away from the others."""
    branch = branch_of(schema, "broken")
    assert branch["properties"]["options"]["type"] == "object"
    assert "no_such_module" in branch["properties"]["options"]["description"]
