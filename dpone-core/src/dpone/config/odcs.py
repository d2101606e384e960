"""A document of the Open Data Contract Standard, version 3 (https://bitol-io.github.io/open-data-contract-standard), as
a row contract.

The rules of one object of its ``schema`` and of ``slaProperties`` are mapped. A rule that a row contract does not have
is a problem, or noted with its place where the caller says so; none is left out silently. Keys that describe and demand
nothing (owners, prices, tags, examples) are read over, unknown ones are problems.

As the standard says: ``logicalType`` has any width; a ``pattern`` may match anywhere in the text; ``mustBeBetween``
leaves out both numbers ("the equivalent to mustBeGreaterThan and mustBeLessThan"). A severity of ``info`` or
``warning`` is a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define, evolve, field, frozen

from dpone.config.document import Node, Problems, quoted, resolved
from dpone.config.values import BAD, read_mapping, read_value, shown_value
from dpone.errors import ConfigError, counted
from dpone.model.row_contract import Length, LogicalType, Policy, Range, RowContract, RowCount, type_of
from dpone.model.types import limit


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ELEMENT = _words("id name physicalType description businessName authoritativeDefinitions tags customProperties")
_DOCUMENT = _words(
    "version kind apiVersion id name tenant tags status servers dataProduct description domain schema support price "
    "team roles slaDefaultElement slaProperties authoritativeDefinitions customProperties contractCreatedTs"
)
_OBJECT = (
    *_ELEMENT,
    *_words("logicalType physicalName dataGranularityDescription properties relationships quality"),
)
_PROPERTY = (
    *_ELEMENT,
    *_words("primaryKey primaryKeyPosition logicalType logicalTypeOptions physicalName required unique partitioned"),
    *_words("partitionKeyPosition classification encryptedName transformSourceObjects transformLogic"),
    *_words("transformDescription examples criticalDataElement relationships quality properties items"),
)
_OPERATORS = _words(
    "mustBe mustNotBe mustBeGreaterThan mustBeGreaterOrEqualTo mustBeLessThan mustBeLessOrEqualTo mustBeBetween "
    "mustNotBeBetween"
)
_QUALITY = (
    *_words("id authoritativeDefinitions businessImpact customProperties description dimension method name schedule"),
    *_words("scheduler severity tags type unit metric rule arguments query engine implementation"),
    *_OPERATORS,
)
_METRICS = _words("nullValues missingValues invalidValues duplicateValues rowCount")
_SLA = _words("id property value valueExt unit element driver description scheduler schedule")
_BOUNDS = _words("minimum maximum exclusiveMinimum exclusiveMaximum")
_OF_CLOCKS, _OF_NUMBERS = (*_BOUNDS, *_words("format timezone defaultTimezone")), (*_BOUNDS, "format", "multipleOf")
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "string": _words("minLength maxLength pattern format"),
    **dict.fromkeys(("date", "time", "timestamp"), _OF_CLOCKS),
    **dict.fromkeys(("integer", "number"), _OF_NUMBERS),
    "object": _words("minProperties maxProperties required"),
    "array": _words("minItems maxItems uniqueItems"),
    "boolean": (),
}
# As the standard's "latency (preferred to freshness)": how old the newest row may be.
_LATENCY = ("latency", "ly", "freshness")
_OF_ROWS = (*_LATENCY, "retention", "re")
_AGES = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), (1, "s")),
    **dict.fromkeys(("min", "minute", "minutes"), (1, "m")),
    **dict.fromkeys(("h", "hr", "hour", "hours"), (1, "h")),
    **dict.fromkeys(("d", "day", "days"), (1, "d")),
    **dict.fromkeys(("w", "week", "weeks"), (7, "d")),
    **dict.fromkeys(("y", "yr", "year", "years"), (365, "d")),
}
# RFC 9562, RFC 791, an address as HTML's input takes it (WHATWG), RFC 1123, a scheme and a rest (RFC 3986).
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_FORMATS = {
    "uuid": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "email": rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*",
    "hostname": rf"{_LABEL}(?:\.{_LABEL})*",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]*",
}
_SKIP = "remove it, or skip what is not supported with --skip-unsupported"


@frozen
class Mapped:
    """unsupported: places of rules that a row contract does not have, each in one line. notes: parts that say nothing
    about rows, or cannot be checked here. uuids: columns whose only pattern is that of a UUID."""

    contract: RowContract
    name: str
    unsupported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()


def is_odcs(node: Node) -> bool:
    return "apiVersion" in node.items or node.items.get("kind", node).value == "DataContract"


def mapped(node: Node, problems: Problems, which: str | None = None, physical: bool = False, skip: bool = False) -> Any:
    """A ``Mapped``; BAD if there are problems. which: the object, by its name; it may be left out if there is one.
    physical: the rows come from a database, which has the physical types. skip: unsupported rules are left out."""
    return _Document(problems, physical, skip).read(node, which)


@define
class _Document:
    problems: Problems
    physical: bool
    skip: bool
    rules: dict[str, Any] = field(factory=dict)
    policies: dict[str, list[Policy]] = field(factory=dict)
    unsupported: list[str] = field(factory=list)
    notes: list[str] = field(factory=list)
    columns: dict[str, str] = field(factory=dict)
    uuids: list[str] = field(factory=list)
    physical_types: int = 0

    def read(self, root: Node, which: str | None) -> Any:
        items = read_mapping(root, _DOCUMENT, self.problems)
        self._require(root, "kind", lambda value: value == "DataContract", "write kind: DataContract")
        self._require(
            root, "apiVersion", lambda value: re.fullmatch(r"v3\.\d+\.\d+", value), "write v3.1.0, or another 3.x"
        )
        chosen = self._object(root, items.get("schema"), which)
        if chosen is None:
            return BAD
        self._read_object(chosen)
        for sla in self._list(items.get("slaProperties")):
            self._sla(sla, chosen)
        if self.physical_types and not self.physical:
            properties = counted(self.physical_types, "property", "properties")
            self.notes.append(f"physicalType of {properties}: rows of a file have no types of a database")
        if self.problems:
            return BAD
        try:
            contract = RowContract(**self.rules, overrides=self._overrides())
        except ConfigError as error:
            self.problems.add(root, error.found, error.todo)
            return BAD
        name = self._text(root, "name") or self._text(root, "id") or root.file
        return Mapped(contract, name, tuple(self.unsupported), tuple(self.notes), tuple(self.uuids))

    # -- what every part needs

    def _require(self, root: Node, key: str, good: Callable[[str], Any], todo: str) -> None:
        value = read_value(root.items[key], str, self.problems) if key in root.items else ""
        if value is not BAD and not good(value):
            self.problems.add(
                root.at(key), f"found {quoted(value)}" if value else "missing", todo, "" if value else key
            )

    def _text(self, node: Node, key: str) -> str:
        value = node.items[key].value if key in node.items and not node.items[key].is_null else None
        return value if isinstance(value, str) else ""

    def _list(self, node: Node | None) -> tuple[Node, ...]:
        if node is None or node.is_null:
            return ()
        if isinstance(node.value, tuple):
            return node.value
        self.problems.add(node, f"found {shown_value(node)}", "write a list")
        return ()

    def _refuse(self, node: Node, what: str, todo: str = "") -> None:
        """A rule that is not supported."""
        text = f"{node.path}: {what} is not supported"
        if self.skip:
            self.unsupported.append(text)
        else:
            self.problems.add(node, f"{what} is not supported", f"{todo}, or {_SKIP}" if todo else _SKIP)

    def _true(self, node: Node, key: str) -> bool:
        return key in node.items and read_value(node.items[key], bool, self.problems) is True

    def _rule(self, node: Node, kind: str, value: Any, column: str = "", severity: str = "") -> None:
        """Adds a rule, ``value`` for a column; one that is there already must say the same."""
        label = f"{kind}.{column}" if column else kind
        if kind in ("required_columns", "not_null", "unique"):
            have = self.rules.setdefault(kind, [])
            label = f"{kind}.{value if isinstance(value, str) else '+'.join(value)}"
            if value not in have:
                have.append(value)
        else:
            target = self.rules.setdefault(kind, {}) if column else self.rules
            key = column or kind
            if key in target and target[key] != value:
                self._refuse(node, f"a second rule {kind} for {column or 'the rows'}")
                return
            rule: dict[str, Any] = {kind: {column: value} if column else value}
            try:
                RowContract(**rule)
            except ConfigError as error:
                self.problems.add(node, error.found, error.todo)
                return
            target[key] = value
        warns = severity.lower() in ("info", "warn", "warning")
        self.policies.setdefault(label, []).append("warn" if warns else "fail")

    def _overrides(self) -> dict[str, Policy]:
        return {label: "warn" for label, said in self.policies.items() if all(one == "warn" for one in said)}

    # -- objects and properties

    def _object(self, root: Node, schema: Node | None, which: str | None) -> Node | None:
        objects = self._list(schema)
        named = {self._text(one, "name"): one for one in objects}
        if not objects:
            self.problems.add(root, "missing", "write a list with one object", "schema")
        elif which is None and len(objects) == 1:
            return objects[0]
        elif which is None:
            found = f"the document has several objects: {', '.join(named)}"
            self.problems.add(schema or root, found, "choose one with --object")
        else:
            for one in objects:
                if which in (self._text(one, "name"), self._text(one, "physicalName")):
                    return one
            self.problems.add(schema or root, f"there is no object {quoted(which)}", f"use one of {', '.join(named)}")
        return None

    def _read_object(self, node: Node) -> None:
        items = read_mapping(node, _OBJECT, self.problems)
        properties = self._list(items.get("properties"))
        for one in properties:
            name = self._text(one, "name")
            self.columns[name] = self._text(one, "physicalName") or name
        keys: list[tuple[int, str]] = []
        for one in properties:
            keys += self._property(one)
        if keys:
            ordered = [column for _, column in sorted(keys)]
            self._rule(node, "unique", ordered[0] if len(ordered) == 1 else tuple(ordered))
        for one in self._list(items.get("relationships")):
            self._refuse(one, "a relationship")
        for one in self._list(items.get("quality")):
            self._quality(one, None)

    def _property(self, node: Node) -> Iterator[tuple[int, str]]:
        """Adds the rules of a property; its place in the primary key, if it is there."""
        items = read_mapping(node, _PROPERTY, self.problems)
        column = self.columns.get(self._text(node, "name"), "")
        if not column:
            self.problems.add(node, "missing", "give the property a name", "name")
            return
        self._rule(node, "required_columns", column)
        if self._true(node, "required") or self._true(node, "primaryKey"):
            self._rule(node, "not_null", column)
        if self._true(node, "unique"):
            self._rule(node, "unique", column)
        self._types(node, column)
        for key in ("properties", "items"):
            if key in items:
                self._refuse(items[key], "a rule of nested values")
        for one in self._list(items.get("relationships")):
            self._refuse(one, "a relationship")
        for one in self._list(items.get("quality")):
            self._quality(one, column)
        if self._true(node, "primaryKey"):
            place = items.get("primaryKeyPosition")
            position = read_value(place, int, self.problems) if place else 0
            yield (0 if position is BAD else position), column

    def _types(self, node: Node, column: str) -> None:
        items = node.items
        logical = None
        if "logicalType" in items:
            logical = read_value(items["logicalType"], LogicalType, self.problems)
            logical = None if logical is BAD else logical
        if logical:
            self._rule(items["logicalType"], "logical_types", logical, column)
        if "logicalTypeOptions" in items:
            known = _OPTIONS[logical] if logical else [*dict.fromkeys(o for some in _OPTIONS.values() for o in some)]
            options = items["logicalTypeOptions"]
            if read_mapping(options, known, self.problems):
                self._options(options, column, logical or "string")
        if "physicalType" in items:
            self._physical(items["physicalType"], column)

    def _physical(self, node: Node, column: str) -> None:
        name = read_value(node, str, self.problems)
        if name is BAD:
            return
        self.physical_types += 1
        if not self.physical:
            return
        most = limit(name)
        bare = re.sub(r"\s*\(.*", "", name) if most is not None else name
        type_ = type_of(bare)
        if type_ is None:
            self._refuse(node, f"the physical type {quoted(name)}", "write a type as sink.contract names it")
            return
        of_clock = type_of(self.rules.get("types", {}).get(column, ""))
        if of_clock is None or getattr(type_, "tz", "") != of_clock.tz:  # else it says what timezone has said
            self._rule(node, "types", bare, column)
        if most is not None:
            have = self.rules.setdefault("lengths", {}).get(column, Length(max=most))
            self.rules["lengths"][column] = evolve(have, max=min(most, have.max or most))

    def _options(self, options: Node, column: str, logical: str) -> None:
        items = options.items
        for key in ("multipleOf", "minProperties", "maxProperties", "required", "minItems", "maxItems", "uniqueItems"):
            if key in items:
                self._refuse(items[key], key)
        if "minLength" in items or "maxLength" in items:
            self._length(options, column)
        if "pattern" in items:
            self._pattern(items["pattern"], column)
        if "format" in items and self._bits(options, logical) is None:
            self._format(items["format"], column, logical)
        if "timezone" in items and logical == "timestamp":
            zoned = self._true(options, "timezone")
            self._rule(items["timezone"], "types", "timestamptz" if zoned else "timestamp", column)
        if "defaultTimezone" in items:
            self.notes.append(f"{items['defaultTimezone'].path}: a timestamp without a time zone is taken as UTC")
        self._range(options, column, logical)

    def _length(self, options: Node, column: str) -> None:
        keys = ("minLength", "maxLength")
        ends = [read_value(options.items[k], int, self.problems) if k in options.items else None for k in keys]
        if BAD in ends:
            return
        try:
            self._rule(options, "lengths", Length(*ends), column)
        except ConfigError as error:
            self.problems.add(options, error.found, error.todo)
        except ValueError:
            self.problems.add(options, "a length is negative", "write numbers of 0 or more")

    def _pattern(self, node: Node, column: str, severity: str = "") -> None:
        """It may match anywhere, as in JSON Schema; that of a row contract matches the whole text."""
        pattern = read_value(node, str, self.problems)
        if pattern is BAD:
            return
        try:
            RowContract(patterns={column: pattern})
        except ConfigError as error:
            self.problems.add(node, error.found, error.todo)
            return
        self._rule(node, "patterns", f"(?s:.*)(?:{pattern})(?s:.*)", column, severity)

    def _bits(self, options: Node, logical: str) -> tuple[int, int] | None:
        """The least and the greatest number of the format ``i32``, ``u8`` ..."""
        bits = re.fullmatch(r"([iu])(8|16|32|64)", self._text(options, "format"))
        if bits is None or logical not in ("integer", "number"):
            return None
        width = int(bits[2])
        return (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if bits[1] == "i" else (0, 2**width - 1)

    def _format(self, node: Node, column: str, logical: str) -> None:
        name = read_value(node, str, self.problems)
        if name is BAD:
            return
        if logical == "string" and name in _FORMATS:
            self._rule(node, "patterns", _FORMATS[name], column)
            self.uuids += [column] if name == "uuid" else []
        elif logical in ("date", "time", "timestamp"):
            self.notes.append(f"{node.path}: how a value was written cannot be seen in a column of {logical}s")
        else:
            self._refuse(node, f"the format {quoted(name)}")

    def _range(self, options: Node, column: str, logical: str) -> None:
        items = {key: options.items[key] for key in _BOUNDS if key in options.items}
        values: dict[str, Any] = {}
        for key, node in items.items():
            if not isinstance(node.value, str):
                self.problems.add(node, f"found {shown_value(node)}", "write a single value")
                return
            values[key] = resolved(node)
        given: dict[str, Any] = {}
        for end, exclusive, bound, strict in (
            ("minimum", "exclusiveMinimum", "min", "above"), ("maximum", "exclusiveMaximum", "max", "below"),
        ):  # fmt: skip
            if isinstance(values.get(exclusive), bool):  # version 3.0: says how the other is meant
                given |= {strict if values[exclusive] else bound: values[end]} if end in values else {}
            else:
                given |= {strict: values[exclusive]} if exclusive in values else {}
                given |= {bound: values[end]} if end in values else {}
        if (bits := self._bits(options, logical)) is not None:
            _narrow(given, "min", "above", bits[0])
            _narrow(given, "max", "below", bits[1])
        if given:
            try:
                self._rule(options, "ranges", Range(**given), column)
            except ConfigError as error:
                self.problems.add(options, error.found, error.todo)

    # -- quality

    def _quality(self, node: Node, column: str | None) -> None:
        items = read_mapping(node, _QUALITY, self.problems)
        kind = self._text(node, "type") or "library"
        if kind == "text":
            self.notes.append(f"{node.path}: a text for people")
        elif kind != "library":
            self._refuse(node, f"quality of type {quoted(kind)}")
        elif not (metric := self._text(node, "metric") or self._text(node, "rule")):
            self.problems.add(node, "missing", f"write one of {', '.join(_METRICS)}", "metric")
        elif metric not in _METRICS:
            self._refuse(node, f"the metric {quoted(metric)}")
        elif (interval := self._interval(node)) is not None:
            arguments = items["arguments"].items if "arguments" in items else {}
            self._metric(node, metric, column, interval, arguments)

    def _interval(self, node: Node) -> tuple[float, float] | None:
        """Numbers of rows, or a percentage, that are allowed; both ends inclusive. None: noted as unsupported."""
        operators = [name for name in _OPERATORS if name in node.items]
        if len(operators) != 1:
            found = f"{len(operators)} operators" if operators else "no operator"
            self.problems.add(node, found, f"write one of {', '.join(_OPERATORS)}")
            return None
        place = node.items[operators[0]]
        between = operators[0] in ("mustBeBetween", "mustNotBeBetween")
        limits = read_value(place, list[float] if between else float, self.problems)
        if limits is BAD or (between and len(limits) != 2):
            self.problems.add(
                place, f"found {shown_value(place)}", "write two numbers" if between else "write a number"
            )
            return None
        percent = self._text(node, "unit") == "percent"
        low, high = limits if between else (limits, limits)
        after, before = (low, high) if percent else (math.floor(low) + 1, math.ceil(high) - 1)
        spans = {
            "mustBe": (low, high), "mustBeGreaterOrEqualTo": (low, math.inf), "mustBeLessOrEqualTo": (-math.inf, high),
        }  # fmt: skip
        if not percent:
            spans |= {
                "mustBeGreaterThan": (after, math.inf), "mustBeLessThan": (-math.inf, before),
                "mustBeBetween": (after, before),
            }  # fmt: skip
            spans |= {"mustNotBe": (1, math.inf)} if low == 0 else {}
        if operators[0] not in spans:
            self._refuse(place, f"{operators[0]}{' with unit percent' if percent else ''}")
        return spans.get(operators[0])

    def _metric(
        self, node: Node, metric: str, column: str | None, interval: tuple[float, float], arguments: Mapping[str, Node]
    ) -> None:
        low, high = interval
        severity = self._text(node, "severity")
        percent = self._text(node, "unit") == "percent"
        none = low <= 0 and high == 0
        if metric == "rowCount":
            if percent or column is not None:
                self._refuse(node, "rowCount of a property" if column else "rowCount with unit percent")
                return
            ends = (max(0, math.ceil(low)) if low > -math.inf else None, int(high) if high < math.inf else None)
            try:
                self._rule(node, "row_count", RowCount(*ends), severity=severity)
            except (ConfigError, ValueError) as error:
                self.problems.add(node, getattr(error, "found", "the number is negative"), "write numbers of 0 or more")
        elif metric == "nullValues" and column and percent and low <= 0 and not none:
            self._rule(node, "max_null_ratio", high / 100, column, severity)
        elif not none:
            self._refuse(node, f"a number of {metric} other than 0", "write mustBe: 0")
        elif metric == "duplicateValues":
            self._duplicates(node, column, arguments, severity)
        elif column is None:
            self._refuse(node, f"{metric} without a property")
        elif metric == "nullValues":
            self._rule(node, "not_null", column, severity=severity)
        elif metric == "missingValues":
            self._missing(node, column, arguments, severity)
        else:
            self._invalid(node, column, arguments, severity)

    def _duplicates(self, node: Node, column: str | None, arguments: Mapping[str, Node], severity: str) -> None:
        if column is not None:
            self._rule(node, "unique", column, severity=severity)
            return
        place = arguments.get("properties")
        names = read_value(place, list[str], self.problems) if place else BAD
        if names is BAD or place is None:
            self.problems.add(node, "missing", "list the properties that are unique together", "arguments.properties")
            return
        if unknown := [name for name in names if name not in self.columns]:
            self.problems.add(place, f"there is no property {', '.join(unknown)}", "use names of properties")
            return
        columns = [self.columns[name] for name in names]
        self._rule(node, "unique", columns[0] if len(columns) == 1 else tuple(columns), severity=severity)

    def _missing(self, node: Node, column: str, arguments: Mapping[str, Node], severity: str) -> None:
        place = arguments.get("missingValues")
        values = self._list(place) if place else ()
        if not values or not all(one.is_null for one in values):
            self._refuse(place or node, "missingValues other than null")
            return
        self._rule(node, "not_null", column, severity=severity)

    def _invalid(self, node: Node, column: str, arguments: Mapping[str, Node], severity: str) -> None:
        """NULL is not invalid: it is missing."""
        if not {"validValues", "pattern"} & {*arguments}:
            self.problems.add(node, "missing", "write validValues or pattern in arguments", "arguments")
        if "validValues" in arguments:
            place = arguments["validValues"]
            values = tuple(resolved(one) for one in self._list(place) if isinstance(one.value, str) and not one.is_null)
            self._rule(place, "allowed_values", values, column, severity)
        if "pattern" in arguments:
            self._pattern(arguments["pattern"], column, severity)

    # -- service levels

    def _sla(self, node: Node, chosen: Node) -> None:
        items = read_mapping(node, _SLA, self.problems)
        name = self._text(node, "property").lower()
        if name not in _OF_ROWS:
            self.notes.append(f"{node.path}: {name or 'a service level'} is not about rows")
            return
        columns = []
        for element in self._text(node, "element").split(","):
            of, _, last = element.strip().rpartition(".")
            if of in ("", self._text(chosen, "name"), self._text(chosen, "physicalName")) and last:
                columns.append(last)
        if not columns:
            if not self._text(node, "element"):
                self.problems.add(node, "missing", "name the column, as in element: orders.updated_at", "element")
            return  # of another object
        if name not in _LATENCY:
            self._refuse(node, name)
            return
        unit = self._text(node, "unit").lower()
        number = re.fullmatch(r"\d{1,4}(\.\d{1,3})?", self._text(node, "value"))
        if unit not in _AGES or number is None:
            found = f"the value {quoted(self._text(node, 'value'))} with unit {quoted(unit)}"
            self.problems.add(node, found, "write a number and s, min, h, d, w or y")
            return
        times, word = _AGES[unit]
        for column in columns:
            age = f"{float(number[0]) * times:.12g}{word}"
            self._rule(items["value"], "freshness", age, self.columns.get(column, column))


def _narrow(given: dict[str, Any], bound: str, strict: str, limit: int) -> None:
    """The bound that a format sets, unless a narrower one is given."""
    have = given.get(bound, given.get(strict))
    if have is None or (isinstance(have, int | float) and (have < limit if bound == "min" else have > limit)):
        given.pop(strict, None)
        given[bound] = str(limit)
