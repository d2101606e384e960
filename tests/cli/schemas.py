"""The JSON Schemas of docs/reference/schemas, which say what a command prints with ``--format json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference" / "schemas"
_SCHEMAS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
_REGISTRY: Any = Registry().with_resources([(name, Resource.from_contents(s)) for name, s in _SCHEMAS.items()])


def require_valid(name: str, data: Any) -> None:
    schema = _SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema, registry=_REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert [error.message for error in validator.iter_errors(data)] == []
