"""DuckDB's types and Arrow's. DuckDB itself tells most of it, asked in memory: no file is touched."""

from __future__ import annotations

from functools import lru_cache

import duckdb
import pyarrow as pa

from dpone.errors import ConfigError
from dpone.model.evolution import Stored, canonical_type, holds
from dpone.model.types import JSON, UUID
from dpone_duckdb.connect import prepared

# What DuckDB would give to Arrow as something else, or as what Arrow cannot hold: read by an expression that keeps the
# value or refuses it. (The setting arrow_lossless_conversion would do for some, but turns booleans into bytes.)
_EXPRESSIONS = {
    "UUID": "unhex(replace(CAST({} AS VARCHAR), '-', ''))",
    "HUGEINT": "CAST({} AS DECIMAL(38, 0))", "UHUGEINT": "CAST({} AS DECIMAL(38, 0))",
    **dict.fromkeys(
        ("BIGNUM", "BIT", "TIME WITH TIME ZONE", "GEOMETRY", "VARIANT", "ENUM", "UNION"), "CAST({} AS VARCHAR)"
    ),
}  # fmt: skip
_ARROW = {"UUID": UUID, "JSON": JSON}


@lru_cache(maxsize=256)
def stores(type: pa.DataType) -> Stored:
    """How DuckDB keeps an Arrow type. Raises ConfigError if it does not."""
    type = canonical_type(type)
    with duckdb.connect() as db:
        try:
            native = str(db.from_arrow(pa.table({"x": pa.array([], type)})).types[0])
        except (duckdb.Error, pa.ArrowException) as error:
            raise ConfigError(f"keep {type}", "DuckDB has no such type", "cast the column in the source") from error
    back = reads(native)
    assert back is not None, native
    return Stored(native, back, "exact" if back == type or holds(back, type) else "checked")


@lru_cache(maxsize=256)
def reads(native: str) -> pa.DataType | None:
    """The Arrow type that a column of a DuckDB type is read as; None: no such type."""
    with prepared(duckdb.connect()) as db:
        try:
            type_ = duckdb.sqltype(native)
        except duckdb.Error:
            return None
        null = db.sql("SELECT 1").select(duckdb.ConstantExpression(None).cast(type_).alias("x"))
        found = null.project(expression(str(type_), "x")).to_arrow_table().schema.field(0).type
        return _ARROW.get(str(type_), found)


def expression(native: str, column: str) -> str:
    """What to select, so that ``fitted`` can make of it what ``reads`` says."""
    return _EXPRESSIONS.get(native.partition("(")[0], "{}").format(column)


def fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of ``schema``, found by name, in its types. Arrow's cast refuses a value that does not fit."""
    return pa.RecordBatch.from_arrays([_cast(batch.column(f.name), f.type) for f in schema], names=schema.names)


def _cast(column: pa.Array, type: pa.DataType) -> pa.Array:
    if column.type == type:
        return column
    if type == UUID and not isinstance(column, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(UUID, column.cast(UUID.storage_type))
    try:
        return column.cast(type)
    except pa.ArrowNotImplementedError:
        return column  # a duration, say: DuckDB makes an interval of it
