"""``dpone ops contract-check``: rows of a file or table checked against a row contract, by the code of a run."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from attrs import asdict, define, evolve, field, frozen

from dpone.config.command_line import file_source
from dpone.config.odcs import Mapped
from dpone.contract import Part, Source, WindowRequest
from dpone.errors import ConfigError, connected, counted
from dpone.host.prefetch import prefetch
from dpone.model.pipeline import SourceSpec
from dpone.model.row_contract import Policy
from dpone.model.types import UUID
from dpone.plugins import discover
from dpone.quality.check import CheckCounts, Checked, Rules, bind
from dpone.quality.quarantine import row_values
from dpone.quality.unique import Mask, SeenKeys, SeenOnDisk

FORMAT = 1


@frozen
class Example:
    """A row that violates a rule. part: the file, or the part of the table. row: its number in it, from 1. values: its
    values as JSON has them, if they were asked for."""

    part: str
    row: int
    values: Mapping[str, Any] | None = None


@frozen
class RuleResult:
    """One rule. violations: rows, or 1 for a rule about the rows as a whole; 0 if it holds. found: counts and columns,
    never a value; empty if it holds. examples: the first of the rows."""

    rule: str
    policy: Policy
    violations: int
    found: str
    examples: tuple[Example, ...] = ()


@frozen
class ContractCheck:
    """What ``check_source`` found. source and contract: their names. rows: that were checked. rules: all there are, in
    the contract's order. not_checked: parts of the contract that are not rules about rows, or skipped as unsupported.
    strict: a rule whose policy is ``warn`` must hold too."""

    source: str
    contract: str
    rows: int
    rules: tuple[RuleResult, ...]
    not_checked: tuple[str, ...] = ()
    strict: bool = False

    @property
    def ok(self) -> bool:
        return not any(one.violations and (self.strict or one.policy != "warn") for one in self.rules)

    def to_json(self) -> dict[str, Any]:
        """The JSON output, a stable format; docs/reference/contract-check.schema.json is its JSON Schema."""
        return {
            "format": FORMAT,
            "ok": self.ok,
            "source": self.source,
            "contract": self.contract,
            "rows": self.rows,
            "rules": [_rule(one) for one in self.rules],
            "not_checked": list(self.not_checked),
        }

    def to_text(self) -> str:
        broken = [one for one in self.rules if one.violations]
        checked = f"{counted(self.rows, 'row')} checked, {counted(len(self.rules), 'rule')}"
        lines = [f"{self.source}: {checked}, {f'{len(broken)} violated' if broken else 'all hold'}"]
        width = max((len(one.rule) for one in self.rules), default=0)
        for one in self.rules:
            word = ("warn" if one.policy == "warn" and not self.strict else "FAIL") if one.violations else "ok"
            lines.append(f"  {word:4}  {one.rule:{width}}  {one.found}{_places(one)}".rstrip())
            lines += [f"          {_valued(example)}" for example in one.examples if example.values is not None]
        return "\n".join([*lines, *(f"  not checked: {text}" for text in self.not_checked)])


def _rule(one: RuleResult) -> dict[str, Any]:
    examples = [asdict(example, filter=lambda _, value: value is not None) for example in one.examples]
    return {
        "rule": one.rule,
        "policy": one.policy,
        "ok": not one.violations,
        "violations": one.violations,
        "found": one.found,
        "examples": examples,
    }


def _places(one: RuleResult) -> str:
    """Where the first rows are, unless their values are in lines of their own."""
    if not one.examples or one.examples[0].values is not None:
        return ""
    many = len({example.part for example in one.examples}) > 1
    places = ", ".join(f"{f'{e.part}:' if many else ''}{e.row}" for e in one.examples)
    more = ", ..." if one.violations > len(one.examples) else ""
    return f" ({'row' if one.violations == 1 else 'rows'} {places}{more})"


def _valued(example: Example) -> str:
    import json

    return f"{example.part}, row {example.row}: {json.dumps(example.values, ensure_ascii=False)}"


def check_source(
    spec: SourceSpec, contract: Mapped, examples: int = 5, values: bool = False, strict: bool = False
) -> ContractCheck:
    """Read all rows of a source once, and hold them against a contract. Nothing is changed anywhere: a rule of the
    policy ``quarantine`` leaves rows out of what other rules see, as in a run, and writes no file.

    Memory is bounded by the batch; keys of ``unique`` rules go to a temporary folder, 8 or 16 bytes a row. examples:
    of each rule, at most so many rows are named; ``values``: with their values. Raises PipelineMismatch for a rule that
    does not fit the columns, and what the source raises.
    """
    if spec.options.incremental is not None:
        raise ConfigError("read the rows", "incremental reads only some of them", "remove incremental")
    source: Source = discover().load("source", spec.type)(spec)
    with closing(source), tempfile.TemporaryDirectory(prefix="dpone-") as folder:
        with connected():
            window = source.window(None, WindowRequest(whole=True, mode="full_refresh"))
            rules = bind(_fitted(contract, window.schema).contract, window.schema)
        checking = _Checking(rules, Path(folder), examples, values)
        for part in window.parts:
            checking.read(source, part)
    return ContractCheck(
        spec.path or spec.location, contract.name, checking.counts.rows, checking.results(),
        (*contract.unsupported, *contract.notes), strict,
    )  # fmt: skip


def _fitted(contract: Mapped, schema: pa.Schema) -> Mapped:
    """A column of UUIDs has no text that a pattern of a UUID could be matched with."""
    typed = [name for name in contract.uuids if name in schema.names and schema.field(name).type == UUID]
    patterns = {name: text for name, text in contract.contract.patterns.items() if name not in typed}
    return evolve(contract, contract=evolve(contract.contract, patterns=patterns)) if typed else contract


@define
class _Checking:
    rules: Rules
    folder: Path
    most: int
    values: bool
    counts: CheckCounts = field(factory=CheckCounts)
    seen: dict[str, SeenKeys] = field(init=False)
    found: dict[str, list[Example]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.seen = {rule.label: SeenOnDisk(self.folder) for rule in self.rules.keys}

    def read(self, source: Source, part: Part) -> None:
        name, before = str(part.detail.get("path", part.id)), 0
        with source.read(part) as stream, closing(prefetch(iter(stream.batches()))) as batches:
            for batch in batches:
                self._check(batch, name, before)
                before += batch.num_rows

    def _check(self, batch: pa.RecordBatch, part: str, before: int) -> None:
        checked = self.rules.check(batch, self.seen)
        self.counts.add(checked.counts)
        for label, mask in (*checked.violating.items(), *self._repeated(batch, checked)):
            have = self.found.setdefault(label, [])
            if len(have) < self.most:
                rows = np.flatnonzero(mask)[: self.most - len(have)]
                have += self._examples(batch, rows, part, before)

    def _repeated(self, batch: pa.RecordBatch, checked: Checked) -> Iterator[tuple[str, Mask]]:
        """Rows that repeat a key, for the rules that do not leave them out."""
        for rule in self.rules.keys:
            if rule.policy == "quarantine":
                continue
            repeated = self.seen[rule.label].add(checked.keys[rule.label])
            if number := int(np.count_nonzero(repeated)):
                self.counts.add(CheckCounts(violations={rule.label: number}))
                mask = np.zeros(batch.num_rows, np.bool_)
                mask[checked.key_rows[rule.label][repeated]] = True
                yield rule.label, mask

    def _examples(
        self, batch: pa.RecordBatch, rows: npt.NDArray[np.int64], part: str, before: int
    ) -> Iterator[Example]:
        shown: list[Any] = row_values(batch.take(pa.array(rows))) if self.values else [None] * len(rows)
        for row, values in zip(rows.tolist(), shown, strict=True):
            yield Example(part, before + row + 1, values)

    def results(self) -> tuple[RuleResult, ...]:
        broken = {one.rule: one for one in self.rules.verdict(self.counts)}
        results = []
        for label in dict.fromkeys([*self.rules.contract.labels(), *broken]):
            one = broken.get(label)
            found = one.text.removeprefix(f"{label}: ") if one else ""
            policy = one.policy if one else self.rules.contract.policy(label)
            examples = tuple(self.found.get(label, ()))
            results.append(RuleResult(label, policy, one.violations if one else 0, found, examples))
        return tuple(results)


# -- rows that are in no file yet -----------------------------------------------------------------------------------

_PACKED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


@contextmanager
def spooled(rows: IO[bytes], name: str, options: str | None = None, format: str | None = None) -> Iterator[SourceSpec]:
    """Bytes that can be read only once, in a temporary file while the block lasts: a format may need two passes, or the
    end first. format: where ``options`` name none; left out, what the first bytes look like."""
    with tempfile.TemporaryDirectory(prefix="dpone-") as folder:
        start = rows.read(4096)
        name += next((suffix for mark, suffix in _PACKED.items() if start.startswith(mark)), "")
        with open(Path(folder, name), "wb") as file:
            file.write(start)
            shutil.copyfileobj(rows, file, 1 << 20)
        yield file_source(name, options, Path(folder), format or _looks_like(Path(folder, name)))


def _looks_like(path: Path) -> str:
    from dpone.formats.input import Input

    file = Input.at(path, path.name)
    with file.failing(), file.open() as content:
        start = bytes(content.read(4096))
    if start.startswith(b"PAR1"):
        return "parquet"
    return "json" if re.match(rb"(\xef\xbb\xbf)?\s*[\[{]", start) else "csv"
