"""PostgreSQL's types and Arrow's. A value that Arrow cannot hold exactly is read as the server's exact text, with the
native type in the field's metadata (``schema.NATIVE``), and becomes that type again in another PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from attrs import frozen

from dpone.model import types as common
from dpone.model.evolution import Stored, canonical_type
from dpone.model.keys import NONE, compared
from dpone.model.schema import DEFAULT, NATIVE
from dpone.sql.values import Unstorable

JSON, UUID = common.JSON, common.UUID
INSTANT, MOMENT, TIME = pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.time64("us")

# Field metadata in addition to NATIVE: the native type is exactly PostgreSQL's.
POSTGRES = b"dpone.postgres"
COLLATION = b"dpone.postgres.collation"  # of a target's column, quoted; where it is not that of the type


def stores(type: pa.DataType) -> Stored:
    """``checked``: PostgreSQL's calendar begins in 4714 BC and counts microseconds, and its texts hold no NUL."""
    type = canonical_type(type)
    t = pa.types
    for arrow, stored in _SIMPLE:
        if type == arrow:
            return stored
    if t.is_decimal(type):
        return _decimal(type)
    if t.is_timestamp(type):
        return (
            Stored("timestamp with time zone", INSTANT, "checked")
            if type.tz
            else Stored("timestamp without time zone", MOMENT, "checked")
        )
    if t.is_time(type):
        return Stored("time without time zone", TIME, "checked" if type.unit == "ns" else "exact")
    if t.is_date(type):
        return Stored("date", pa.date32(), "checked")
    if t.is_duration(type):
        return Stored("interval", pa.string(), "checked" if type.unit == "ns" else "exact")
    if t.is_interval(type):
        return Stored("interval", pa.string(), "checked")
    if type == UUID:
        return Stored("uuid", UUID)
    if type == JSON and isinstance(type, pa.BaseExtensionType):
        return Stored("json", JSON, "checked")
    if t.is_nested(type):
        return Stored("json", JSON, "checked")
    if isinstance(type, pa.BaseExtensionType):
        return stores(type.storage_type)
    if t.is_binary(type) or t.is_large_binary(type) or t.is_binary_view(type) or t.is_fixed_size_binary(type):
        return Stored("bytea", pa.binary())
    return Stored("text", pa.string(), "checked")


_SIMPLE: tuple[tuple[pa.DataType, Stored], ...] = (
    (pa.bool_(), Stored("boolean", pa.bool_())),
    (pa.int8(), Stored("smallint", pa.int16())),
    (pa.uint8(), Stored("smallint", pa.int16())),
    (pa.int16(), Stored("smallint", pa.int16())),
    (pa.uint16(), Stored("integer", pa.int32())),
    (pa.int32(), Stored("integer", pa.int32())),
    (pa.uint32(), Stored("bigint", pa.int64())),
    (pa.int64(), Stored("bigint", pa.int64())),
    (pa.uint64(), Stored("numeric(20,0)", pa.decimal128(20, 0))),
    (pa.float16(), Stored("real", pa.float32())),
    (pa.float32(), Stored("real", pa.float32())),
    (pa.float64(), Stored("double precision", pa.float64())),
    (pa.null(), Stored("text", pa.string())),
)


def _decimal(type: pa.DataType) -> Stored:
    scale = max(type.scale, 0)
    precision = max(type.precision - type.scale + scale, 1)
    if precision > 76:
        return Stored(f"numeric({precision},{scale})", pa.string(), "checked")
    wide = pa.decimal256 if precision > 38 else pa.decimal128
    return Stored(f"numeric({precision},{scale})", wide(precision, scale))


_OWN: dict[str, pa.DataType] = {
    "interval": pa.string(), "name": pa.string(), "citext": pa.string(), "oid": pa.uint32(),
    "int8": pa.int64(), "character": pa.string(), "timetz": pa.string(), "time with time zone": pa.string(),
    "inet": pa.string(), "cidr": pa.string(), "macaddr": pa.string(), "numeric": pa.string(), "money": pa.string(),
    "serial": pa.int32(), "bigserial": pa.int64(), "smallserial": pa.int16(),
    "bit": pa.string(), "bit varying": pa.string(), "varbit": pa.string(),
}  # fmt: skip


def reads(native: str) -> pa.DataType | None:
    """The type as which a column declared like this is read. Some common names mean something else in PostgreSQL: bit
    is not a boolean."""
    word = " ".join(native.lower().split())
    if word.endswith("[]"):
        return pa.string()
    return (
        _OWN.get(re.sub(r"\(.*\)", "", word).strip())
        if word in _OWN or word.startswith("bit")
        else common.standard(native)
    )


_SIZED = re.compile(r"(character varying|varchar|text|bit varying|varbit|numeric|decimal)\s*(?:\(([\d ,]+)\))?")
_FAMILY = {"varchar": "character varying", "text": "character varying", "varbit": "bit varying", "decimal": "numeric"}


def binary_coercible(old: str, new: str) -> bool:
    """True if ALTER COLUMN TYPE leaves the rows as they are: a limit that is raised or lifted. (ALTER TABLE, Notes;
    the support functions of varchar, varbit and numeric; tried on 15 and 18.)"""
    words = [_SIZED.fullmatch(" ".join(word.lower().split())) for word in (old, new)]
    if words[0] is None or words[1] is None:
        return old == new
    [(was, has), (becomes, gets)] = [(_FAMILY.get(w[1], w[1]), _limits(w[2])) for w in words if w]
    if was != becomes or not gets:
        return was == becomes
    return bool(has) and gets[0] >= has[0] and gets[1:] == has[1:]


def _limits(text: str | None) -> tuple[int, ...]:
    """(length,), (precision, scale); empty for no limit."""
    return tuple(int(number) for number in text.split(",")) if text else ()


@frozen
class Column:
    """One column of the catalogue.

    native    the type as ``format_type`` writes it: ``character varying(50)``, ``numeric(12,2)``, ``mood[]``
    receive   the function that reads the type's binary form; for a domain that of its base type
    modifier  the base type's, -1 for none
    builtin   True if the type (of a domain, the base type) is the same in every PostgreSQL
    own       True if the server fills the column: a default, an identity
    generated True if the column cannot be written
    collation by name, where it is not that of the type
    nondeterministic  the collation by name, if different texts can be equal under it
    """

    name: str
    native: str
    receive: str
    modifier: int
    not_null: bool
    builtin: bool
    own: bool = False
    generated: bool = False
    collation: str = ""
    nondeterministic: str = ""

    @property
    def kind(self) -> str | None:
        """How ``binary`` calls it; None if it goes as text only."""
        return _KINDS.get(self.receive)

    @property
    def limit(self) -> int | None:
        """Characters that a varchar can hold. The server silently removes trailing blanks beyond that (SQL
        standard)."""
        return self.modifier - 4 if self.receive == "varcharrecv" and self.modifier >= 4 else None

    @property
    def digits(self) -> int | None:
        """Digits of a second that a time type stores. The server silently rounds a finer value."""
        return self.modifier if self.receive in _ROUNDED and 0 <= self.modifier < 6 else None

    def reject_beyond(self, values: pa.Array) -> None:
        """Raises Refused for the first value that the server would truncate or round."""
        if self.limit is not None and (row := common.first_longer(values, self.limit)) >= 0:
            raise Unstorable(f"a text of more than {self.limit} characters", row)
        if self.digits is not None and pa.types.is_temporal(values.type):
            row = common.first_finer(values, self.digits)
            if row >= 0:
                raise Unstorable(f"a time that {self.native} would round", row)

    @property
    def exact_equality(self) -> bool:
        """True if equal values (=) are identical, apart from the collation: 0 and -0, 1.0 and 1.00 are equal, not
        identical."""
        numeric = self.receive == "numeric_recv" and self.arrow != pa.string()
        return numeric or self.receive in _EXACT

    @property
    def equality(self) -> str:
        """See ``dpone.model.keys``. For other types (interval, jsonb, an array) the type's name: two columns of the
        same type compare alike."""
        if {self.native.removesuffix("[]"), self.receive.removesuffix("recv").removesuffix("_")} & _UNORDERED:
            return NONE
        if self.nondeterministic:
            return f"collation {self.nondeterministic}"
        if self.receive == "numeric_recv":
            return "numeric" if self.modifier < 4 else ""
        if self.receive == "bpcharrecv" and self.modifier >= 4:
            return "padded"
        if self.digits is not None:
            return f"rounded to {self.digits} digits"
        exact = self.receive in _TELLING or self.native in _RANGES
        return "" if exact else "citext" if self.receive == "citextrecv" else self.native

    @property
    def portable(self) -> bool:
        """True if the binary form means the same in another database. That of an array or a composite of user-defined
        types contains their oids; that of xml drops a version 1.0 declaration, which the text form keeps; some types
        have none (aclitem)."""
        return (self.builtin and self.receive not in ("", "xml_recv")) or self.kind is not None

    @property
    def arrow(self) -> pa.DataType:
        """The type that holds every value except the special ones; text if there is none."""
        if self.receive == "numeric_recv":
            return _numeric(self.modifier)
        return _ARROW.get(self.receive, pa.string())

    @property
    def as_text(self) -> bool:
        """The server writes it out, see ``text``."""
        return self.kind is None or (self.kind == "numeric" and self.arrow == pa.string())

    def text(self, shown: str) -> str:
        """SQL for the text of the column ``shown``, as a change stream has it: by the output function of its type. A
        cast may write another one, as of inet (10.0.0.1/32) and where users made one; that of xml keeps what its output
        function drops (a declaration of version 1.0)."""
        if self.receive in _OUTPUT:
            return f"pg_catalog.textin(pg_catalog.{_OUTPUT[self.receive]}({shown}))"
        if self.builtin:
            return f"{shown}::text"
        # Of a composite of NULLs alone, IS NOT NULL would be false.
        return f"CASE WHEN {shown} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {shown}) END"

    def field(self, *, text: bool = False) -> pa.Field:
        """text: exact text is wanted of a type that Arrow has."""
        if text and not self.as_text:
            return pa.field(self.name, pa.string(), not self.not_null)
        metadata = {NATIVE: self.native.encode(), POSTGRES: b"yes"}
        if self.own:
            metadata[DEFAULT] = b"yes"
        return compared(pa.field(self.name, self.arrow, not self.not_null, metadata), self.equality)


_KINDS = {
    "boolrecv": "bool", "int2recv": "int2", "int4recv": "int4", "int8recv": "int8", "oidrecv": "oid",
    "float4recv": "float4", "float8recv": "float8", "numeric_recv": "numeric", "date_recv": "date",
    "time_recv": "time", "timestamp_recv": "timestamp", "timestamptz_recv": "timestamptz", "uuid_recv": "uuid",
    "textrecv": "text", "varcharrecv": "text", "bpcharrecv": "text", "namerecv": "text", "citextrecv": "text",
    "enum_recv": "text", "bytearecv": "bytea", "json_recv": "json", "jsonb_recv": "jsonb",
}  # fmt: skip
_EXACT = frozenset(
    {
        "boolrecv", "int2recv", "int4recv", "int8recv", "oidrecv", "date_recv", "time_recv", "timestamp_recv",
        "timestamptz_recv", "uuid_recv", "textrecv", "varcharrecv", "bpcharrecv", "enum_recv", "bytearecv",
    }
)  # fmt: skip
_ROUNDED = ("time_recv", "timestamp_recv", "timestamptz_recv", "timetz_recv")
_TELLING = _EXACT - {"bpcharrecv"} | {
    "namerecv", "charrecv", "inet_recv", "cidr_recv", "macaddr_recv", "macaddr8_recv", "bit_recv", "varbit_recv",
    "cash_recv", "timetz_recv", "float4recv", "float8recv", "pg_lsn_recv", "ltree_recv", "xid8recv",
}  # fmt: skip
_OUTPUT = {"inet_recv": "inet_out", "cidr_recv": "cidr_out"}
# Types without a default operator class for btree: no index, and so no key, can be of them. poly: of its functions.
_UNORDERED = frozenset(
    {
        "xml", "json", "jsonpath", "point", "line", "lseg", "box", "path", "poly", "polygon", "circle", "xid", "cid",
        "aclitem", "txid_snapshot", "pg_snapshot",
    }
)  # fmt: skip
_RANGES = ("int4range", "int8range", "daterange", "tsrange", "tstzrange")
_ARROW: dict[str, pa.DataType] = {
    "boolrecv": pa.bool_(), "int2recv": pa.int16(), "int4recv": pa.int32(), "int8recv": pa.int64(),
    "oidrecv": pa.uint32(), "float4recv": pa.float32(), "float8recv": pa.float64(), "date_recv": pa.date32(),
    "time_recv": TIME, "timestamp_recv": MOMENT, "timestamptz_recv": INSTANT, "uuid_recv": UUID,
    "bytearecv": pa.binary(), "json_recv": JSON, "jsonb_recv": JSON,
}  # fmt: skip
SPECIAL = ("numeric", "date", "time", "timestamp", "timestamptz")  # kinds with values that Arrow cannot hold


def _numeric(modifier: int) -> pa.DataType:
    """The modifier is (precision << 16 | scale) + 4; the scale has eleven bits and a sign (``make_numeric_typmod``)."""
    if modifier < 4:
        return pa.string()
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, ((modifier - 4) & 0x7FF ^ 0x400) - 0x400
    if precision > 76 or not 0 <= scale <= precision:
        return pa.string()
    return pa.decimal256(precision, scale) if precision > 38 else pa.decimal128(precision, scale)


# Columns of a table, view or query, in order; a domain counts as its base type. $1: oid of the relation.
COLUMNS = """
WITH RECURSIVE base AS (
    SELECT a.attnum, a.atttypid AS type, a.atttypmod AS modifier FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum, t.typbasetype, t.typtypmod FROM base AS b
    JOIN pg_catalog.pg_type AS t ON t.oid = b.type AND t.typtype = 'd'
)
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), p.proname, b.modifier,
       a.attnotnull, t.oid < 16384, a.atthasdef AND a.attgenerated = '' OR a.attidentity <> '', a.attgenerated <> '',
       (SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname)
        FROM pg_catalog.pg_collation AS l JOIN pg_catalog.pg_namespace AS n ON n.oid = l.collnamespace
        JOIN pg_catalog.pg_type AS d ON d.oid = a.atttypid
        WHERE l.oid = a.attcollation AND l.oid <> d.typcollation),
       (SELECT l.collname FROM pg_catalog.pg_collation AS l
        WHERE l.oid = a.attcollation AND NOT l.collisdeterministic)
FROM pg_catalog.pg_attribute AS a
JOIN base AS b ON b.attnum = a.attnum
JOIN pg_catalog.pg_type AS t ON t.oid = b.type AND t.typtype <> 'd'
LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = t.typreceive
WHERE a.attrelid = $1 ORDER BY a.attnum
"""


def columns(rows: Sequence[tuple[Any, ...]]) -> list[Column]:
    """What ``COLUMNS`` answered."""
    return [
        Column(
            name,
            native,
            receive or "",
            modifier,
            bool(not_null),
            bool(builtin),
            bool(own),
            bool(gen),
            collation or "",
            nondeterministic or "",
        )
        for name, native, receive, modifier, not_null, builtin, own, gen, collation, nondeterministic in rows
    ]


def native(field: pa.Field) -> str | None:
    """The exact native type, if the field comes from PostgreSQL."""
    metadata = field.metadata or {}
    return metadata[NATIVE].decode() if POSTGRES in metadata and NATIVE in metadata else None
