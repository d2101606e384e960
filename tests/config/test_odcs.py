"""Open Data Contract Standard documents as row contracts: what each rule becomes; none is left out silently."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import yaml

from dpone.config.command_line import contract_file, contract_text
from dpone.config.document import PipelineErrors
from dpone.config.odcs import Mapped
from dpone.model.row_contract import Length, Range, RowContract, RowCount

HEAD = """\
version: 1.0.0
apiVersion: v3.1.0
kind: DataContract
id: 53581432-6c55-4ba2-a65f-72344a91553a
name: shop
status: active
"""
WHOLE = """\
team: {members: [{username: ann}]}
price: {priceAmount: 9.95}
schema:
  - name: orders
    physicalName: orders_v2
    physicalType: table
    description: One row for each order.
    tags: [finance]
    properties:
      - name: tenant
        primaryKey: true
        primaryKeyPosition: 2
        logicalType: integer
        logicalTypeOptions: {format: u8, minimum: 1}
      - name: id
        primaryKey: true
        primaryKeyPosition: 1
        logicalType: string
        logicalTypeOptions: {format: uuid}
      - name: amount
        physicalName: amount_eur
        logicalType: number
        physicalType: decimal(10,2)
        logicalTypeOptions: {exclusiveMinimum: 0, maximum: 1000.5}
        classification: restricted
        examples: [1.5]
      - name: code
        unique: true
        logicalType: string
        physicalType: varchar(20)
        logicalTypeOptions: {minLength: 2, maxLength: 20, pattern: '^[A-Z]'}
        quality:
          - {metric: nullValues, mustBeLessOrEqualTo: 5, unit: percent, severity: warning}
          - {type: text, description: checked by hand}
      - name: status
        required: true
        quality:
          - {metric: invalidValues, mustBe: 0, arguments: {validValues: [new, paid, null]}, dimension: conformity}
          - {metric: missingValues, mustBe: 0, arguments: {missingValues: [null]}, severity: info}
      - name: at
        logicalType: timestamp
        logicalTypeOptions: {timezone: true, minimum: '2026-01-01T00:00:00Z', format: yyyy-MM-dd}
    quality:
      - {metric: rowCount, mustBeBetween: [0, 1000]}
      - {metric: duplicateValues, mustBe: 0, arguments: {properties: [code, amount]}, severity: warning}
slaProperties:
  - {property: latency, value: 4, unit: d, element: orders.at}
  - {property: freshness, value: 1, unit: h, element: other.at}
  - {property: availability, value: 99.9}
"""
RULES: dict[str, Any] = {
    "overrides": {"max_null_ratio.code": "warn", "unique.code+amount_eur": "warn"},
    "required_columns": ("tenant", "id", "amount_eur", "code", "status", "at"),
    "not_null": ("tenant", "id", "status"),
    "unique": ("code", ("id", "tenant"), ("code", "amount_eur")),
    "ranges": {
        "tenant": Range(1, "255"), "amount_eur": Range(above=0, max=1000.5), "at": Range("2026-01-01T00:00:00Z"),
    },
    "lengths": {"code": Length(2, 20)},
    "patterns": {
        "id": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
        "code": "(?s:.*)(?:^[A-Z])(?s:.*)",
    },
    "allowed_values": {"status": ("new", "paid")},
    "logical_types": {
        "tenant": "integer", "id": "string", "amount_eur": "number", "code": "string", "at": "timestamp",
    },
    "types": {"at": "timestamptz"},
    "row_count": RowCount(1, 999),
    "max_null_ratio": {"code": 0.05},
    "freshness": {"at": "4d"},
}  # fmt: skip
NOTES = (
    "schema[0].properties[3].quality[1]: a text for people",
    "schema[0].properties[5].logicalTypeOptions.format: "
    "how a value was written cannot be seen in a column of timestamps",
    "slaProperties[2]: availability is not about rows",
)


def read(text: str, which: str | None = None, physical: bool = False, skip: bool = False) -> Mapped:
    return contract_text(HEAD + text, which, physical, skip)


def properties(text: str, logical: str = "") -> str:
    """A document with one property a, of which ``text`` says the rest."""
    own = f"logicalType: {logical}\n" if logical else ""
    return (
        "schema:\n  - name: t\n    properties:\n      - name: a\n"
        + indent(own + dedent(text).strip(), "        ")
        + "\n"
    )


def test_every_rule_that_has_one_like_it_is_mapped() -> None:
    """The rules of a whole document, columns by their physical names; what is not about rows is noted."""
    found = read(WHOLE)
    assert found.contract == RowContract(**RULES)
    assert (found.name, found.unsupported, found.uuids) == ("shop", (), ("id",))
    assert found.notes == (*NOTES, "physicalType of 2 properties: rows of a file have no types of a database")


def test_physical_types_are_rules_about_the_rows_of_a_database() -> None:
    """They are exact types there, and the n of varchar(n) is a length."""
    found = read(WHOLE, physical=True)
    types = {"at": "timestamptz", "amount_eur": "decimal(10,2)", "code": "varchar"}
    assert found.contract == RowContract(**{**RULES, "types": types})
    assert found.notes == NOTES


def test_a_file_is_read_as_the_text_is(tmp_path: Path) -> None:
    """Also as JSON; a contract of our own form is known by its keys."""
    for name, text in (("a.yaml", HEAD + WHOLE), ("a.json", json.dumps(yaml.safe_load(HEAD + WHOLE), default=str))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert contract_file(tmp_path / name, None, False, False).contract == RowContract(**RULES)
    (tmp_path / "own.yaml").write_text("not_null: [a]\n", encoding="utf-8")
    assert contract_file(tmp_path / "own.yaml", None, False, False).contract == RowContract(not_null="a")


COUNTS: list[tuple[str, Any]] = [
    ("mustBe: 5", RowCount(5, 5)),
    ("mustNotBe: 0", RowCount(1)),
    ("mustBeGreaterThan: 5", RowCount(6)),
    ("mustBeGreaterThan: 5.5", RowCount(6)),
    ("mustBeGreaterOrEqualTo: 5", RowCount(5)),
    ("mustBeGreaterOrEqualTo: 4.5", RowCount(5)),
    ("mustBeLessThan: 5", RowCount(max=4)),
    ("mustBeLessThan: 5.5", RowCount(max=5)),
    ("mustBeLessOrEqualTo: 5.5", RowCount(max=5)),
    ("mustBeBetween: [5, 8]", RowCount(6, 7)),
    ("mustNotBe: 5", None),
    ("mustNotBeBetween: [5, 8]", None),
]


@pytest.mark.parametrize(("operator", "wanted"), COUNTS, ids=[one[0] for one in COUNTS])
def test_operators_are_numbers_of_rows(operator: str, wanted: Any) -> None:
    """Each operator is a least and a greatest number; one that is neither is not supported."""
    text = f"schema: [{{name: t, properties: [{{name: a}}], quality: [{{metric: rowCount, {operator}}}]}}]\n"
    found = read(text, skip=True)
    assert found.contract.row_count == wanted
    assert bool(found.unsupported) == (wanted is None)


BOUNDS: list[tuple[str, str, dict[str, Any]]] = [
    ("integer", "{exclusiveMinimum: 5, exclusiveMaximum: 9}", {"above": 5, "below": 9}),
    ("number", "{minimum: 5, exclusiveMinimum: true, maximum: 9, exclusiveMaximum: false}", {"above": 5, "max": 9}),
    ("integer", "{format: i8}", {"min": "-128", "max": "127"}),
    ("integer", "{format: u16, exclusiveMinimum: -3, maximum: 9}", {"min": "0", "max": 9}),
    ("date", "{minimum: 2026-01-01, exclusiveMaximum: '2026-02-01'}", {"min": "2026-01-01", "below": "2026-02-01"}),
    ("time", "{maximum: '17:30:00'}", {"max": "17:30:00"}),
]


@pytest.mark.parametrize(("logical", "options", "wanted"), BOUNDS, ids=[f"{b[0]}-{b[1]}" for b in BOUNDS])
def test_bounds_are_ranges(logical: str, options: str, wanted: dict[str, Any]) -> None:
    """Exclusive ones too, as version 3.0 says it (true) and as 3.1 does (a number); the bits of a format are bounds."""
    found = read(properties(f"logicalTypeOptions: {options}", logical))
    assert found.contract.ranges == {"a": Range(**wanted)}


# What a row contract does not have, and where the message says it is.
UNSUPPORTED = [
    ("relationships: [{to: customers.id}]", "relationships[0]: a relationship"),
    ("items: {logicalType: string}", "items: a rule of nested values"),
    ("properties: [{name: b}]", "properties: a rule of nested values"),
    ("logicalTypeOptions: {multipleOf: 5}", "logicalTypeOptions.multipleOf: multipleOf"),
    ("logicalTypeOptions: {minItems: 5}", "logicalTypeOptions.minItems: minItems"),
    ("logicalTypeOptions: {format: ipv6}", "logicalTypeOptions.format: the format 'ipv6'"),
    ("logicalType: number\nlogicalTypeOptions: {format: f32}", "logicalTypeOptions.format: the format 'f32'"),
    ("logicalTypeOptions: {format: email, pattern: x}", "logicalTypeOptions.format: a second rule patterns for a"),
    ("quality: [{type: sql, query: SELECT 1, mustBe: 1}]", "quality[0]: quality of type 'sql'"),
    ("quality: [{type: custom, engine: soda, implementation: x}]", "quality[0]: quality of type 'custom'"),
    ("quality: [{metric: freshness, mustBe: 1}]", "quality[0]: the metric 'freshness'"),
    ("quality: [{metric: nullValues, mustBeLessThan: 1, unit: percent}]",
     "quality[0].mustBeLessThan: mustBeLessThan with unit percent"),
    ("quality: [{metric: nullValues, mustBeLessThan: 10}]", "quality[0]: a number of nullValues other than 0"),
    ("quality: [{metric: duplicateValues, mustBe: 1, unit: percent}]",
     "quality[0]: a number of duplicateValues other than 0"),
    ("quality: [{metric: missingValues, mustBe: 0, arguments: {missingValues: ['']}}]",
     "quality[0].arguments.missingValues: missingValues other than null"),
    ("quality: [{metric: rowCount, mustBe: 1}]", "quality[0]: rowCount of a property"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place"), UNSUPPORTED, ids=[one[1] for one in UNSUPPORTED])
def test_a_rule_that_is_not_supported_is_an_error_that_names_it(text: str, place: str) -> None:
    """With its place in the document. Where it is to be skipped, it is in the list, and the others are checked."""
    text = properties(f"required: true\n{text}")
    with pytest.raises(PipelineErrors) as caught:
        read(text)
    [line] = caught.value.problems
    assert line.partition(": ")[2].startswith(f"schema[0].properties[0].{place} is not supported; ")
    assert "skip what is not supported with --skip-unsupported" in line
    found = read(text, skip=True)
    assert found.unsupported == (f"schema[0].properties[0].{place} is not supported",)
    assert found.contract.not_null == ("a",)


def test_retention_and_physical_types_that_nobody_knows_are_not_supported() -> None:
    """Both are rules about rows, the latter where the rows come from a database."""
    sla = "slaProperties: [{property: retention, value: 3, unit: y, element: t.a}]\n"
    found = read(properties("physicalType: NUMBER\n") + sla, physical=True, skip=True)
    assert found.unsupported == (
        "schema[0].properties[0].physicalType: the physical type 'NUMBER' is not supported",
        "slaProperties[0]: retention is not supported",
    )


@pytest.mark.parametrize(("physical", "second"), [("timestamp(3) with time zone", False), ("timestamp", True)])
def test_a_physical_type_says_the_same_as_the_time_zone(physical: str, second: bool) -> None:
    """Both are about the type of the column; where they contradict each other it is an error."""
    text = f"physicalType: {physical}\nlogicalTypeOptions: {{timezone: true}}"
    found = read(properties(text, "timestamp"), physical=True, skip=True)
    assert found.contract.types == {"a": "timestamptz"}
    assert bool(found.unsupported) is second


WRONG = [
    ("schma: []\n", ":7: unknown key 'schma'; did you mean schema?"),
    (properties("requird: true"), ":11: schema[0].properties[0]: unknown key 'requird'; did you mean required?"),
    (properties("logicalType: int"), ":11: schema[0].properties[0].logicalType: found the text 'int'"),
    (properties("logicalTypeOptions: {maxLenght: 3}", "string"), "unknown key 'maxLenght'; did you mean maxLength?"),
    (properties("logicalTypeOptions: {maxLength: 3}", "integer"), "unknown key 'maxLength'"),
    (properties("logicalTypeOptions: {minLength: 4, maxLength: 3}", "string"), "min is greater than max"),
    (properties("logicalTypeOptions: {minLength: -1}", "string"), "a length is negative"),
    (properties("logicalTypeOptions: {pattern: '(?=x)'}", "string"), "the pattern is not a valid RE2 expression"),
    (properties("logicalTypeOptions: {pattern: 'a)|(b'}", "string"), "the pattern is not a valid RE2 expression"),
    (properties("logicalTypeOptions: {minimum: [1]}", "integer"), ".minimum: found a list; write a single value"),
    (properties("logicalTypeOptions: {minimum: 3, maximum: 2}", "integer"), "min is greater than max"),
    (properties("quality: [{metric: nullValues}]"), "quality[0]: no operator; write one of mustBe, "),
    (properties("quality: [{metric: nullValues, mustBe: 0, mustBeLessThan: 1}]"), "quality[0]: 2 operators"),
    (properties("quality: [{metric: nullValues, mustBe: many}]"), ".mustBe: found the text 'many'"),
    (properties("quality: [{}]"), "quality[0].metric: missing; write one of nullValues"),
    (properties("quality: [{metric: invalidValues, mustBe: 0}]"), "quality[0].arguments: missing; write validValues"),
    (properties("quality: [{metric: nullValues, mustbe: 0}]"), "unknown key 'mustbe'; did you mean mustBe?"),
    ("schema:\n  - {name: t, quality: [{metric: duplicateValues, mustBe: 0, arguments: {properties: [b]}}]}\n",
     "there is no property b"),
    ("schema: []\n", ": schema: missing; write a list with one object"),
    ("schema: [{name: a}, {name: b}]\n", "the document has several objects: a, b; choose one with --object"),
    ("schema: [{name: a}]\n", "it has no rules"),
    (properties("required: true") + "slaProperties: [{property: latency, value: 1, unit: d}]\n",
     "slaProperties[0].element: missing; name the column"),
    (properties("required: true") + "slaProperties: [{property: latency, value: 1, unit: m, element: a}]\n",
     "the value '1' with unit 'm'; write a number and s, min, h, d, w or y"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), WRONG, ids=[one[1] for one in WRONG])
@pytest.mark.parametrize("skip", [False, True])
def test_what_the_standard_does_not_have_is_an_error(text: str, line: str, skip: bool) -> None:
    """With its line, also where unsupported rules are skipped: a misspelt rule is no unsupported one."""
    with pytest.raises(PipelineErrors) as caught:
        read(text, skip=skip)
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (HEAD.replace("v3.1.0", "v2.2.2"), ":2: apiVersion: found 'v2.2.2'; write v3.1.0, or another 3.x"),
        (HEAD.replace("kind: DataContract", "kind: Contract"), ":3: kind: found 'Contract'; write kind: DataContract"),
    ],
)
def test_another_version_or_kind_is_refused(head: str, line: str) -> None:
    """Version 2 has other keys for the same things."""
    with pytest.raises(PipelineErrors) as caught:
        contract_text(head + properties("required: true"), None, False, False)
    assert [problem.removeprefix("--contract-json") for problem in caught.value.problems] == [line]


def test_the_object_is_chosen_by_either_of_its_names() -> None:
    """Rules of the others are not read into it; ours has no objects."""
    text = "schema: [{name: a, physicalName: a_1, properties: [{name: x}]}, {name: b, properties: [{name: y}]}]\n"
    assert read(text, "a_1").contract.required_columns == ("x",)
    assert read(text, "b").contract.required_columns == ("y",)
    with pytest.raises(PipelineErrors, match="there is no object 'c'; use one of a, b"):
        read(text, "c")
    with pytest.raises(PipelineErrors, match="a contract of our own form has no objects; remove --object"):
        contract_text("not_null: [a]", "a", False, False)


def test_the_most_severe_saying_of_a_rule_counts() -> None:
    """A rule that is a warning in one place and required in another must hold."""
    quality = "quality: [{metric: nullValues, mustBe: 0, severity: warning}]\n"
    assert read(properties(quality)).contract.policy("not_null.a") == "warn"
    assert read(properties(f"required: true\n{quality}")).contract.policy("not_null.a") == "fail"
