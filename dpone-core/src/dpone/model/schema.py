"""Names of things in a database, and the columns dpone itself adds. Types are Arrow's."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen

from dpone.errors import ConfigError

LOAD_ID = "__dpone__load_id"
LOADED_AT = "__dpone__loaded_at"
LINEAGE = (LOAD_ID, LOADED_AT)
VALID_FROM = "__dpone__valid_from"
VALID_TO = "__dpone__valid_to"
VALIDITY = (VALID_FROM, VALID_TO)
DELETED_AT = "__dpone__deleted_at"  # when a row was deleted that is kept; NULL while it lives
FILE = "__dpone__file"  # only in a staging: which of the source's files a row is from, by their order
PREFIX = "__dpone__"

# Field metadata: the type in the source's own words, where Arrow's type does not say it all.
NATIVE = b"dpone.native"

# Field metadata of a target's column that is filled if a row has no value for it (a default, an identity).
DEFAULT = b"dpone.default"

# Field metadata: how the column compares its values, if different forms can be equal: ``numeric`` (1.0 is 1.00),
# ``citext``, ``padded`` ... Without it only identical values are equal. See ``dpone.model.keys``.
EQUALITY = b"dpone.equality"


# Names to suggest for the type of a column; dpone.model.types has all names and their types.
TYPE_NAMES = (
    "boolean", "smallint", "integer", "bigint", "numeric(18,2)", "real", "double", "text", "varchar(20)", "date",
    "time", "timestamp", "timestamptz", "timestamp_ns", "json", "uuid", "bytea",
)  # fmt: skip
# Metadata of an option that has types of columns, for the JSON Schema of the pipeline.
COLUMN_TYPES = {"values": {"type": "string", "examples": [*TYPE_NAMES]}}


def _parts(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(parts)


@frozen
class Name:
    """The name of a table, part by part: ``Name(("public", "orders"))``. Case is kept, dots inside a part are data."""

    parts: tuple[str, ...] = field(converter=_parts)

    @parts.validator
    def _check(self, _attribute: object, parts: tuple[str, ...]) -> None:
        for part in parts or ("",):
            if not isinstance(part, str) or not part or "\0" in part:
                todo = 'write table: schema.table, quoting a part with a dot in it: "a.b".c'
                raise ConfigError(
                    "read a table name", f"{'.'.join(map(str, parts))!r} has an empty part or a NUL", todo
                )

    @classmethod
    def parse(cls, text: str) -> Name:
        """``public.orders`` -> two parts; a part in double quotes may hold dots and doubled quotes."""
        parts: list[str] = []
        rest = text
        while True:
            part, rest = _next_part(rest, text)
            parts.append(part)
            if not rest:
                return cls(tuple(parts))
            if not rest.startswith("."):
                raise _bad(text)
            rest = rest[1:]

    @property
    def last(self) -> str:
        return self.parts[-1]

    @property
    def schema(self) -> str:
        """The parts before the last; empty if the connection decides."""
        return ".".join(self.parts[:-1])

    def sibling(self, last: str) -> Name:
        """Another name in the same schema."""
        return Name((*self.parts[:-1], last))

    def __str__(self) -> str:
        written = (p if '"' not in p and "." not in p else '"' + p.replace('"', '""') + '"' for p in self.parts)
        return ".".join(written)


def _next_part(rest: str, text: str) -> tuple[str, str]:
    if not rest.startswith('"'):
        part, dot, tail = rest.partition(".")
        if '"' in part:
            raise _bad(text)
        return part, dot + tail
    part, i = "", 1
    while i < len(rest):
        if rest[i] != '"':
            part, i = part + rest[i], i + 1
        elif rest[i + 1 : i + 2] == '"':
            part, i = part + '"', i + 2
        else:
            return part, rest[i + 1 :]
    raise _bad(text)


def _bad(text: str) -> ConfigError:
    todo = 'write schema.table, quoting a whole part that has a dot or a quote in it: "a.b".c'
    return ConfigError("read a table name", f"unbalanced quotes in {text!r}", todo)


def ambiguous(names: Iterable[str]) -> list[str]:
    """Names that differ only by case; most servers would fold them into one column."""
    seen: dict[str, str] = {}
    return [name for name in names if seen.setdefault(name.casefold(), name) != name]
