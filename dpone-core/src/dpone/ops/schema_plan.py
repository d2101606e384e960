"""``dpone schema-plan``: what schema evolution would do, from two files of columns and without a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import frozen

from dpone.certify.matrix import unconnected
from dpone.config.document import repeated, strict_json
from dpone.contract import SqlText, SupportsSql
from dpone.errors import ConfigError, PluginError, counted
from dpone.model.evolution import Plan, SchemaChange, SchemaComparator
from dpone.model.pipeline import SchemaEvolution
from dpone.model.schema import DEFAULT, NATIVE, Name
from dpone.model.types import arrow, instead
from dpone.plugins import Plugins, discover

_SHAPE = 'write [{"name": "id", "type": "bigint", "nullable": false}, ...], or the same list as {"columns": [...]}'


@frozen
class SchemaPlan:
    """table: the target. dialect: the sink whose dialect the statements are in. ddl: statements of each safe change.
    rewrites:
    what each of them rewrites, empty for nothing."""

    table: Name
    dialect: str
    policy: SchemaEvolution
    plan: Plan
    ddl: tuple[tuple[str, ...], ...]
    rewrites: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON output, a stable format; docs/guide/schema-evolution.md says what each key means."""
        plan = self.plan
        return {
            "table": str(self.table),
            "dialect": self.dialect,
            "mode": self.policy.mode,
            "on_type_change": self.policy.on_type_change,
            "on_missing_column": self.policy.on_missing_column,
            "compatible": not plan.breaking,
            "changes": [
                {**_change(c), "ddl": list(ddl), "rewrites": rewrites or None}
                for c, ddl, rewrites in zip(plan.changes, self.ddl, self.rewrites, strict=True)
            ],
            "breaking": [{**_change(c), "allow": c.allow} for c in plan.breaking],
            "ddl": [] if plan.breaking else [s for ddl in self.ddl for s in ddl],
            "columns": dict(plan.columns),
        }  # fmt: skip

    def to_text(self) -> str:
        policy = f"mode {self.policy.mode}, on_type_change {self.policy.on_type_change}"
        policy += f", on_missing_column {self.policy.on_missing_column}"
        lines = [f"table {self.table}: {policy}, dialect {self.dialect}"]
        for change, ddl, rewrites in zip(self.plan.changes, self.ddl, self.rewrites, strict=True):
            lines.append(f"safe      {_line(change)}")
            lines += [f"          {s};" for s in ddl] or [
                f"          {self.dialect} stores both types alike: no statement"
            ]
            lines += [f"          rewrites the table: {rewrites}"] if rewrites else []
        for change in self.plan.breaking:
            lines += [f"BREAKING  {_line(change)}", f"          to allow: {change.allow}"]
        return "\n".join([*lines, self._result()])

    def _result(self) -> str:
        if self.plan.breaking:
            breaking = counted(len(self.plan.breaking), "breaking change")
            return f"{breaking}: a run would stop with exit code 3 and change nothing"
        return counted(len(self.plan.changes), "safe change") if self.plan.changes else "no changes"


def schema_plan(
    source: Path, target: Path, table: str, policy: SchemaEvolution, dialect: str = "sqlite", key: Sequence[str] = ()
) -> SchemaPlan:
    """Compare two files of columns. A target without columns does not exist yet. Raises ConfigError for a file that
    cannot be read, PluginError for a dialect that no installed sink has."""
    name = Name.parse(table)
    words = _dialect(discover(), dialect)
    have, given = columns(target, words), columns(source, words)
    if not len(given):
        raise ConfigError(f"read {source}", "the list of columns is empty", _SHAPE)
    if unknown := [k for k in key if k not in given.names]:
        raise ConfigError("read --key", f"{source} has no column {', '.join(unknown)}", "use columns of the source")
    comparator = SchemaComparator(policy, key=tuple(key), too_long=words.too_long)
    plan = comparator.compare(have if len(have) else None, given)
    ddl = tuple(tuple(words.statements(name, change, key)) for change in plan.changes)
    return SchemaPlan(name, dialect, policy, plan, ddl, tuple(map(words.rewrites, plan.changes)))


def _dialect(plugins: Plugins, name: str) -> SqlText:
    known = [n for n in plugins.names("sink") if plugins.supports("sink", n, "sql")]
    use = f"use one of {', '.join(known)}"
    if not plugins.get("sink", name).implemented:
        raise PluginError("read --dialect", f"this version has no sink for {name}", use)
    sql = plugins.offered(SupportsSql, next(unconnected(plugins, name))[1], name) if name in known else None
    if sql is None:
        raise ConfigError("read --dialect", f"sink {name} is not a SQL database", use)
    return sql.dialect


def columns(path: Path, dialect: SqlText) -> pa.Schema:
    """The columns a JSON file lists. Raises ConfigError that names the file and the column."""
    failed = f"read {path}"
    data = strict_json(path)
    listed = data.get("columns") if isinstance(data, Mapping) and set(data) == {"columns"} else data
    if not isinstance(listed, list):
        raise ConfigError(failed, "the file does not contain a list of columns", _SHAPE)
    fields = [_field(failed, number, given, dialect) for number, given in enumerate(listed, 1)]
    if twice := repeated([f.name for f in fields]):
        raise ConfigError(failed, f"the file lists column {', '.join(map(repr, twice))} twice", "list each column once")
    return pa.schema(fields)


def _field(failed: str, number: int, given: Any, dialect: SqlText) -> pa.Field:
    if not isinstance(given, Mapping) or not {"name", "type"} <= set(given):
        raise ConfigError(failed, f"column {number} is not an object with name and type", _SHAPE)
    if unknown := sorted(set(given) - {"name", "type", "nullable", "default"}):
        todo = "use only name, type, nullable and default"
        raise ConfigError(failed, f"column {number} has unknown keys: {', '.join(map(repr, unknown))}", todo)
    name, type_, nullable = given["name"], given["type"], given.get("nullable", True)
    if not isinstance(name, str) or not name or not isinstance(type_, str) or not isinstance(nullable, bool):
        raise ConfigError(
            failed, f"in column {number}, name and type must be strings, and nullable true or false", _SHAPE
        )
    found = dialect.reads(type_) or arrow(type_)
    if found is None:
        raise ConfigError(failed, f"column {name!r} has the unknown type {type_!r}", instead(type_))
    has_default = {DEFAULT: b"yes"} if given.get("default") is not None else {}
    return pa.field(name, found, nullable, {NATIVE: type_.encode(errors="replace"), **has_default})


def _change(change: SchemaChange) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "column": change.column,
        "before": _side(change.before),
        "after": _side(change.after),
    }


def _side(field: pa.Field | None) -> dict[str, Any] | None:
    if field is None:
        return None
    native = (field.metadata or {}).get(NATIVE)
    return {"type": str(field.type), "native": native and native.decode(), "nullable": field.nullable}


def _line(change: SchemaChange) -> str:
    """One line of the plan, with types as the files name them."""
    if change.kind in ("create", "null", "case"):
        return str(change)
    sides = (_side(f) for f in (change.before, change.after))
    words = " -> ".join(s["native"] or s["type"] for s in sides if s)
    return f"{change.kind} {change.column} {words}{change.condition}"
