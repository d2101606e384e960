"""Keys that are equal in one system and different in another: compared before anything is written (OUT-10).

A field's metadata ``schema.EQUALITY`` says how a column compares its values if different forms can be equal. A key
column is loaded from a source into a target

* unchanged, if both compare in the same way, or if equal values of the source always have one form;
* in a canonical form, if there is one (``FORMS``);
* otherwise not, if the strategy would keep two rows for one key, or one row for two keys.

Pure; no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from dpone.errors import ConfigError
from dpone.model.changes import KEY
from dpone.model.schema import EQUALITY, NATIVE
from dpone.model.strategy import Strategy
from dpone.model.types import JSON

FLOAT, NONE = "float", "none"  # NONE: values of the type are never compared
_KEYED = ("merge", "snapshot_diff", "scd2", "cdc_apply")


@frozen
class Form:
    """A canonical form. ``other``: a LIKE pattern that matches values in another form; empty: the target compares them
    as equal too."""

    make: Callable[[pa.Array], pa.Array]
    other: str = ""


def _digits(column: pa.Array) -> pa.Array:
    """``1.50`` -> ``1.5``, ``1.00`` -> ``1``; texts that are not plain numbers (NaN) stay."""
    return pc.replace_substring_regex(column, r"^(-?[0-9]+)(?:\.0*|(\.[0-9]*[1-9])0+)$", r"\1\2")


FORMS: Mapping[str, Form] = {
    "numeric": Form(_digits, "%.%0"),
    FLOAT: Form(lambda column: pc.add(column, pa.scalar(0.0, column.type))),  # -0.0 + 0.0 is 0.0
}


def equality(field: pa.Field) -> str:
    """``numeric``, ``citext``, ``collation x`` ...; empty: only identical values are equal; NONE: values cannot be
    compared."""
    return str((field.metadata or {}).get(EQUALITY, b"").decode())


def compared(field: pa.Field, how: str) -> pa.Field:
    """The field with this equality in its metadata."""
    return field.with_metadata({**(field.metadata or {}), EQUALITY: how.encode()}) if how else field


def forms(
    strategy: Strategy, changes: bool, source: pa.Schema, target: Mapping[str, pa.Field], place: str, table: str = ""
) -> dict[str, str]:
    """Key column of the source -> name of the form that its values are to take. ``target``: by the source's names.
    ``table``: of a source of many, which can go on without it. Raises ConfigError where rows of one key would be two
    in the target, or the other way round."""
    found: dict[str, str] = {}
    for name in strategy.key:
        try:
            form = _form(strategy, changes, source.field(name), target[name], place)
        except ConfigError as error:
            raise _of_many(error, table) if table else error from None
        if form:
            found[name] = form
    return found


def _of_many(error: ConfigError, table: str) -> ConfigError:
    todo = f"{error.todo}; or exclude the table with source.exclude: [{table}]"
    return ConfigError(error.failed, f"table {table}: {error.found}", todo)


def _form(strategy: Strategy, changes: bool, source: pa.Field, target: pa.Field, place: str) -> str:
    here, there = equality(source), equality(target)
    keyed = strategy.mode in _KEYED
    if keyed and (here == NONE or (_has_no_equality(source.type) and (not here or here != there))):
        todo = "change the key of the table" if changes else "choose another key"
        raise _refused(place, source, f"its type is {_kind(source)}, whose values have no order", todo)
    if keyed and there == NONE:
        found = f"the target column has type {_kind(target)}, whose values have no order"
        raise _refused(place, source, found, "change the type of the column, or choose another key")
    if keyed and there not in ("", here):
        found = f"keys that differ in the source can be equal in the target, which compares with {there}"
        raise _refused(place, source, found, "change the target column to a type and collation that compare exactly")
    if changes and pa.types.is_floating(source.type):
        return FLOAT
    doubles = _doubles(strategy, changes, exact=not there)
    if here in FORMS and (doubles or not there):
        return here
    if keyed and here and not _as_it_is(here) and doubles:
        found = f"the source treats different spellings of a key as equal ({here}), the target does not"
        if there:
            found = f"the source can change the spelling of a key ({here}) that the target treats as equal"
        raise _refused(place, source, found, _way_out(changes))
    return ""


def _doubles(strategy: Strategy, changes: bool, *, exact: bool) -> bool:
    """True if a row whose key is now spelled differently would become two rows, or none. A change stream identifies
    each row by the exact old key, so a target that compares exactly finds it. For any other target the old and the new
    row have the same key."""
    if not changes:
        return exact and not strategy.whole
    return strategy.deletes == "ignore" or (not exact and (strategy.mode == "scd2" or strategy.deletes == "soft"))


def _has_no_equality(type: pa.DataType) -> bool:
    return bool(pa.types.is_nested(type)) or (type == JSON and isinstance(type, pa.BaseExtensionType))


def _kind(field: pa.Field) -> str:
    native = (field.metadata or {}).get(NATIVE, b"").decode()
    return "json" if field.type == JSON else native or str(field.type)


def _as_it_is(how: str) -> bool:
    """True if equal values of the column have one form: padded to one length, or rounded to a fixed number of
    digits."""
    return how == "padded" or how.startswith("rounded ")


def _way_out(changes: bool) -> str:
    if changes:
        return "use cdc_apply with deletes: hard, or change the key in the source to a type that compares exactly"
    return "make source.query return one spelling, as in lower(k::text) AS k, or use strategy snapshot_diff"


def _refused(place: str, field: pa.Field, found: str, todo: str) -> ConfigError:
    return ConfigError(f"load {place} by key {field.name}", found, todo)


def canonical(batch: pa.RecordBatch, wanted: Mapping[str, str]) -> pa.RecordBatch:
    """A batch of rows or of changes with its keys in these forms."""
    columns = [_made(f.name, column, wanted) for f, column in zip(batch.schema, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _made(name: str, column: pa.Array, wanted: Mapping[str, str]) -> pa.Array:
    if name in wanted:
        return FORMS[wanted[name]].make(column)
    if name != KEY or not pa.types.is_struct(column.type):
        return column
    fields: Sequence[pa.Field] = list(column.type)
    children = [_made(f.name, child, wanted) for f, child in zip(fields, column.flatten(), strict=True)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=column.is_null())
