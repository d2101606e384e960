"""The row contract in the pipeline file: what is refused, where, and that nothing misspelt passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dpone.config.json_schema import pipeline_schema
from dpone.config.reader import load_pipeline, row_contract
from dpone.errors import ConfigError
from dpone.model.row_contract import (
    Length,
    Quarantine,
    Range,
    RowContract,
    RowCount,
)
from dpone.plugins import discover

PIPELINE = """\
pipeline: p
source: {type: file, path: a.csv}
sink:
  type: file
  path: out
  strategy: {mode: append}
  contract:
"""
WHOLE = """\
    on_violation: quarantine
    overrides: {ranges.amount: warn, unique: fail}
    required_columns: id
    types: {id: bigint, amount: "decimal(10,2)"}
    not_null: [id, amount]
    unique: [id, [customer, day]]
    ranges: {amount: {min: 0, max: 99.5}, day: {min: 2026-01-01}}
    allowed_values: {status: [new, paid], flag: [true]}
    patterns: {email: '[^@]+@[^@]+'}
    row_count: {min: 1, max: 1000}
    max_null_ratio: {note: 0.5}
    quarantine: {path: left/out, values: true, max_share: 1, max_rows: 5}
"""
LATER = """\
    logical_types: {id: integer}
    lengths: {email: {max: 50}}
    freshness: {at: 24h}
"""
# Of WHOLE, as dpone wrote it before there were more rules.
BEFORE = (
    "RowContract(on_violation='quarantine', overrides={'ranges.amount': 'warn', 'unique': 'fail'}, "
    "required_columns=('id',), types={'id': 'bigint', 'amount': 'decimal(10,2)'}, not_null=('id', 'amount'), "
    "unique=(('id',), ('customer', 'day')), ranges={'amount': Range(min=0, max=99.5), 'day': "
    "Range(min='2026-01-01', max=None)}, allowed_values={'status': ('new', 'paid'), 'flag': (True,)}, "
    "patterns={'email': '[^@]+@[^@]+'}, row_count=RowCount(min=1, max=1000), max_null_ratio={'note': 0.5}, "
    "quarantine=Quarantine(path='left/out', values=True, max_share=1.0, max_rows=5))"
)


def read(tmp_path: Path, contract: str) -> Any:
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINE + contract, encoding="utf-8")
    return load_pipeline(file).streams[0].sink.contract


def test_every_key_is_read(tmp_path: Path) -> None:
    """A contract with all there is becomes these values."""
    assert read(tmp_path, WHOLE + LATER) == RowContract(
        on_violation="quarantine",
        overrides={"ranges.amount": "warn", "unique": "fail"},
        required_columns=("id",),
        types={"id": "bigint", "amount": "decimal(10,2)"},
        not_null=("id", "amount"),
        unique=("id", ("customer", "day")),
        ranges={"amount": Range(0, 99.5), "day": Range("2026-01-01")},
        allowed_values={"status": ("new", "paid"), "flag": (True,)},
        patterns={"email": "[^@]+@[^@]+"},
        row_count=RowCount(1, 1000),
        max_null_ratio={"note": 0.5},
        quarantine=Quarantine("left/out", True, 1.0, 5),
        logical_types={"id": "integer"},
        lengths={"email": Length(max=50)},
        freshness={"at": "24h"},
    )


def test_a_contract_without_later_rules_names_a_half_done_load_as_before(tmp_path: Path) -> None:
    """Tokens are made of this text: parts that an earlier version staged are not staged again after an upgrade. What a
    later rule says is in it."""
    assert repr(read(tmp_path, WHOLE)) == BEFORE
    longer = repr(read(tmp_path, WHOLE.replace("min: 0, max", "above: 0, max") + LATER))
    assert "Range(min=None, max=99.5, above=0)" in longer
    assert longer.endswith(
        "logical_types={'id': 'integer'}, lengths={'email': Length(min=None, max=50)}, freshness={'at': '24h'})"
    )


def test_the_most_specific_policy_counts() -> None:
    """An override of a column is before one of its rule, and that before the contract's; the load cannot be put
    aside."""
    contract = RowContract(
        on_violation="quarantine", overrides={"ranges": "warn", "ranges.a": "fail"},
        ranges={"a": Range(1), "b": Range(1)}, not_null="a", row_count=RowCount(1),
    )  # fmt: skip
    policies = {label: contract.policy(label) for label in contract.labels()}
    assert policies == {"not_null.a": "quarantine", "ranges.a": "fail", "ranges.b": "warn", "row_count": "fail"}


WRONG = [
    ("    not_nul: [id]\n", ":8: sink.contract: unknown key 'not_nul'; did you mean not_null?"),
    ("    ranges: {a: {mn: 1}}\n", ":8: sink.contract.ranges.a: unknown key 'mn'"),
    (
        "    not_null: [a]\n    ranges:\n      a: {min: 2, max: 1}\n",
        ":10: sink.contract.ranges.a: min is greater than max",
    ),
    (
        "    ranges: {a: {min: 1, max: 2026-01-01}}\n",
        ":8: sink.contract.ranges.a: min is greater than max, or has another type",
    ),
    ("    ranges: {a: {min: 1, above: 1}}\n", ":8: sink.contract.ranges.a: both min and above are set"),
    ("    lengths: {a: {}}\n", ":8: sink.contract.lengths.a: neither min nor max"),
    ("    lengths: {a: {min: 2, max: 1}}\n", ":8: sink.contract.lengths.a: min is greater than max"),
    ("    logical_types: {a: int}\n", ":8: sink.contract.logical_types.a: found the text 'int'; did you mean integer?"),
    ("    freshness: {a: 1w}\n", ":8: sink.contract.freshness.a: '1w' is not a duration; write a number and its unit"),
    ("    ranges: {a: {}}\n", ":8: sink.contract.ranges.a: neither min nor max"),
    ("    ranges: {a: {min: abc}}\n", ":8: sink.contract.ranges.a.min: the bound is neither"),
    ("    ranges: {a: {max: true}}\n", ":8: sink.contract.ranges.a.max: the bound is neither"),
    (
        "    ranges: {a: {max: 12345678901234567.25}}\n",
        ":8: sink.contract.ranges.a.max: the bound is a number of more than 15",
    ),
    ("    ranges: {a: {max: '1e9999999'}}\n", ":8: sink.contract.ranges.a.max: the bound is infinite, or beyond"),
    ("    ranges: {a: {max: 2026-02-30}}\n", ":8: sink.contract.ranges.a.max: the bound is"),
    ("    patterns: {a: x}\n    row_count: {min: -1}\n", ":9: sink.contract.row_count.min:"),
    ("    row_count: {min: 3, max: 2}\n", ":8: sink.contract.row_count: min is greater than max"),
    ("    row_count: {}\n", ":8: sink.contract.row_count: neither min nor max"),
    (
        "    patterns:\n      b: x\n      a: '('\n",
        ":10: sink.contract.patterns.a: the pattern is not a valid RE2 expression",
    ),
    ("    patterns: {a: 'a)|(b'}\n", ":8: sink.contract.patterns.a: the pattern is not a valid RE2 expression"),
    ("    patterns: {a: '(?=a)'}\n", ":8: sink.contract.patterns.a: the pattern is not a valid RE2 expression"),
    ("    types: {a: bigintt}\n", ":8: sink.contract.types.a: unknown type 'bigintt'"),
    ("    types: {a: varchar(50)}\n", ":8: sink.contract.types.a: unknown type 'varchar(50)'"),
    ("    max_null_ratio: {a: 2}\n", ":8: sink.contract.max_null_ratio.a: 2.0 is not a fraction between 0 and 1"),
    ("    unique: [[a, a]]\n", ":8: sink.contract.unique: the list is empty, or names a column twice"),
    ("    unique: [a, a]\n", ":8: sink.contract.unique: it lists the same columns twice"),
    ("    allowed_values: {a: []}\n", ":8: sink.contract.allowed_values.a: the value is not a list of single values"),
    (
        "    allowed_values: {a: [{b: 1}]}\n",
        ":8: sink.contract.allowed_values.a: the value is not a list of single values",
    ),
    (
        "    not_null: a\n    overrides: {notnull: warn}\n",
        ":9: sink.contract.overrides.notnull: the contract has no rule 'notnull'",
    ),
    ("    not_null: a\n    overrides: {not_null.b: warn}\n", ":9: sink.contract.overrides"),
    ("    not_null: a\n    overrides: {not_null: ignore}\n", ":9: sink.contract.overrides.not_null: found the text"),
    ("    row_count: {min: 1}\n    overrides: {row_count: quarantine}\n", ":9: sink.contract.overrides.row_count:"),
    ("    on_violation: warn\n", ":8: sink.contract: it has no rules"),
    ("    not_null: a\n    on_violation: drop\n", ":9: sink.contract.on_violation: found the text 'drop'"),
    (
        "    not_null: a\n    quarantine: {path: ../x}\n",
        ":9: sink.contract.quarantine.path: the folder is not inside the folder of",
    ),
    (
        "    not_null: a\n    quarantine: {path: /x}\n",
        ":9: sink.contract.quarantine.path: the folder is not inside the folder of",
    ),
    ("    not_null: a\n    quarantine: {max_share: 1.5}\n", ":9: sink.contract.quarantine.max_share:"),
    ("    [id]\n", ":8: sink.contract: found a list"),
]


@pytest.mark.parametrize(("contract", "problem"), WRONG, ids=[w[0].strip() for w in WRONG])
def test_1_11_nonsense_is_refused_with_its_line(tmp_path: Path, contract: str, problem: str) -> None:
    """A misspelt key, a rule that nothing can meet or that means nothing: one line that names its place."""
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, contract)
    lines = str(refused.value).splitlines()
    assert problem in lines[0]
    assert all("sink.contract" in line and "; " in line for line in lines)


def test_a_contract_on_its_own_is_json_too() -> None:
    """The contract of a command line, in JSON, goes through the same checks."""
    assert row_contract('{"required_columns":["id"]}') == RowContract(required_columns=("id",))
    for text in ('{"required_column":["id"]}', '{"required_columns":', "[]", "", "3"):
        with pytest.raises(ConfigError, match=r"^contract:\d: .+; .+"):
            row_contract(text)


def test_an_editor_knows_the_contract() -> None:
    """The JSON Schema of the pipeline file accepts the contract above and refuses a misspelt key."""
    import yaml

    schema = pipeline_schema(discover())
    good = yaml.safe_load((PIPELINE + WHOLE).replace("2026-01-01", "'2026-01-01'"))
    jsonschema.validate(good, schema)
    good["sink"]["contract"]["not_nul"] = ["id"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good, schema)
    assert "RE2" in str(schema["$defs"]["sink"]["properties"]["contract"])
