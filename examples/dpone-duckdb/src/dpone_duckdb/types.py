"""DuckDB's types and Arrow's. DuckDB itself tells both ways: an empty table of the type is handed to it and back."""

from __future__ import annotations

from functools import lru_cache

import duckdb
import pyarrow as pa

from dpone.errors import ConfigError
from dpone.evolution import Stored, holds, plain
from dpone.sql.dialect import Dialect

# Arrow has no type that holds these; they are read as one that does, and refused if a value does not fit.
_READ_AS = {
    "HUGEINT": "DECIMAL(38, 0)", "UHUGEINT": "DECIMAL(38, 0)",
    **dict.fromkeys(("BIGNUM", "BIT", "TIME WITH TIME ZONE", "GEOMETRY", "VARIANT", "ENUM", "UNION"), "VARCHAR"),
}  # fmt: skip


@lru_cache(maxsize=256)
def stores(type: pa.DataType) -> Stored:
    """How DuckDB keeps an Arrow type. Asked of a database in memory: no file is touched."""
    type = plain(type)
    with duckdb.connect(config={"arrow_lossless_conversion": True}) as db:
        try:
            relation = db.from_arrow(pa.table({"x": pa.array([], type)}))
            back = relation.to_arrow_table().schema.field(0).type
        except (duckdb.Error, pa.ArrowException) as error:
            raise ConfigError(f"keep {type}", "DuckDB has no such type", "cast the column in the source") from error
        if pa.types.is_timestamp(back) and back.tz:
            back = pa.timestamp(back.unit, "UTC")
        return Stored(str(relation.types[0]), back, "exact" if back == type or holds(back, type) else "checked")


def selected(relation: duckdb.DuckDBPyRelation, dialect: Dialect, alias: str) -> dict[str, str]:
    """Column -> the expression that reads it, exactly or not at all."""
    columns = {}
    for name, type_ in zip(relation.columns, relation.types, strict=True):
        expression = f"{alias}.{dialect.quote(name)}"
        read_as = _READ_AS.get(str(type_).partition("(")[0])
        columns[name] = f"CAST({expression} AS {read_as}) AS {dialect.quote(name)}" if read_as else expression
    return columns
