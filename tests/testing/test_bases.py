"""The bases of harnesses: what they make of a client's few calls is what a connector reads and writes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve

from dpone.errors import ConfigError
from dpone.formats.manifest import Manifest
from dpone.model.pipeline import SinkSpec, SourceSpec
from dpone.model.strategy import Strategy
from dpone.testing import CannotHold, LogHarness, SinkContract, SourceContract, SqlHarness, StoreHarness
from dpone.testing.builtin import FileHarness, SqliteHarness
from dpone.testing.harness import TABLE, server, unused
from dpone.testing.loads import APPEND, load
from dpone.testing.rows import same, sample, tabled

INFINITY = CannotHold(pa.float64(), math.inf, "JSON has no word for it", every=math.isinf)


class CsvHarness(FileHarness):
    """Objects of CSV."""

    format = "csv"


class JsonHarness(FileHarness):
    """Objects of JSON Lines."""

    format = "jsonl"
    cannot_hold = (INFINITY,)


class FileLog(LogHarness):
    """Topics as folders of JSON Lines, which the file connector reads and writes: a record is a line."""

    connector = "file"
    product = "file system"
    version = "1"
    live = True
    cannot_hold = (INFINITY,)

    def append(self, topic: str, records: Sequence[bytes]) -> None:
        folder = self.folder / topic
        folder.mkdir(exist_ok=True)
        lines = b"".join(record + b"\n" for record in records)
        (folder / f"{len(list(folder.iterdir())):03d}.jsonl").write_bytes(lines)

    def records(self, topic: str) -> Iterable[bytes] | None:
        if not (self.folder / topic).exists():
            return None
        kept = self._kept(topic)
        files = sorted((self.folder / topic).glob("*.jsonl")) if kept is None else [
            self.folder / topic / file.name for file in kept.files
        ]  # fmt: skip
        return [line for file in files for line in file.read_bytes().splitlines()]

    def delete(self, topic: str) -> None:
        shutil.rmtree(self.folder / topic)

    def columns(self, topic: str) -> Mapping[str, pa.DataType]:
        kept = self._kept(topic)
        return {} if kept is None or kept.schema is None else {field.name: field.type for field in kept.schema}

    def source(self, table: str = TABLE, **given: Any) -> SourceSpec:
        spec = super().source(table, **given)
        return evolve(spec, topic=None, path=f"{spec.topic}/*.jsonl")

    def sink(self, strategy: Strategy, table: str = TABLE, **options: Any) -> SinkSpec:
        spec = super().sink(strategy, table, format="jsonl", **options)
        return evolve(spec, topic=None, path=spec.topic)

    def _kept(self, topic: str) -> Manifest | None:
        path = self.folder / topic / ".dpone" / "manifest.json"
        return Manifest.loads(path.read_bytes()) if path.exists() else None


SOURCE = (
    "every_row_comes_once", "values_come_as_they_are", "names_are_quoted", "parts_hold_every_row_once",
    "other_content_is_an_error", "what_was_read_and_then_changed_stops", "only_what_is_new_is_read",
)  # fmt: skip
SINK = (
    "append_adds_the_rows_read", "values_arrive_as_they_are_or_not_at_all", "a_type_is_kept_as_it_says",
    "names_are_kept_or_refused", "a_first_load_without_rows_makes_the_target",
)  # fmt: skip


@pytest.mark.parametrize("case", SOURCE)
@pytest.mark.parametrize("kind", [CsvHarness, JsonHarness, FileLog])
def test_a_source_reads_what_a_base_seeds(tmp_path: Path, kind: Any, case: str) -> None:
    """Values, names and changes of what ``seed`` and ``disturb`` make of ``put`` or ``append`` come out of a connector
    that is sound, in each format."""
    getattr(SourceContract(), f"test_{case}")(kind(tmp_path))


@pytest.mark.parametrize("kind", [CsvHarness, JsonHarness, FileLog])
def test_a_source_is_given_the_types_that_were_seeded(tmp_path: Path, kind: Any) -> None:
    """Where objects or records do not have them; before the first row those of the sample."""
    harness = kind(tmp_path)
    harness.seed(pa.table({"x": pa.array([1], pa.int64())}), "numbers")
    given = {table: dict(harness.source(table).options.columns) for table in ("numbers", "none")}
    sampled = {"id": "int64", "day": "string", "name": "string", "score": "double"}
    assert given == {"numbers": {"x": "int64"}, "none": sampled}


def test_values_that_have_no_type_in_common_come_as_texts() -> None:
    """As a log may hold them, whose writers agree on nothing; a column that no row has is there."""
    found = tabled([{"n": 2**53 + 1, "m": 1}, {"n": 0.5, "m": "a"}, {"m": None}], ["k"])
    assert found.to_pylist() == [
        {"k": None, "n": str(2**53 + 1), "m": "1"},
        {"k": None, "n": "0.5", "m": "a"},
        {"k": None, "n": None, "m": None},
    ]


@pytest.mark.parametrize("case", SINK)
def test_a_log_shows_what_a_sink_wrote(tmp_path: Path, case: str) -> None:
    """``rows`` gives values of every type as they were loaded, from records of JSON; columns of which no record has a
    value are there."""
    getattr(SinkContract(), f"test_{case}")(FileLog(tmp_path))


def test_what_a_store_overwrites_and_deletes(tmp_path: Path) -> None:
    """``seed`` writes one object for each call, ``disturb`` changes the first alone, ``empty`` deletes the parts of the
    target and nothing else."""
    harness = FileHarness(tmp_path)
    for first in (1, 4):
        harness.seed(sample(first, first + 2))
    assert harness.keys(f"{TABLE}/") == [f"{TABLE}/000.parquet", f"{TABLE}/001.parquet"]
    first, second = map(harness.get, harness.keys(f"{TABLE}/"))
    harness.disturb()
    assert (harness.get(f"{TABLE}/000.parquet") != first, harness.get(f"{TABLE}/001.parquet") == second) == (True, True)
    assert harness.rows() is None
    load(harness, sample(1, 5), APPEND)
    same(harness.rows(), sample(1, 5))
    kept = [key for key in harness.keys(f"out_{TABLE}/") if "/part-" not in key]
    assert harness.empty()
    assert harness.keys(f"out_{TABLE}/") == kept
    assert kept


def test_a_disturbed_log_is_another_topic(tmp_path: Path) -> None:
    """The first row has another name, the others are as they were; one topic is not taken for another."""
    harness = FileLog(tmp_path)
    harness.prefix = "kit-"
    for table in (TABLE, "lines"):
        harness.seed(sample(1, 3), table)
    harness.disturb()
    before, after = (harness.rows(table).to_pylist() for table in ("lines", TABLE))  # type: ignore[union-attr]
    assert [row["name"] for row in after] == ["disturbed", *(row["name"] for row in before[1:])]
    assert [{**row, "name": ""} for row in after] == [{**row, "name": ""} for row in before]
    assert (harness.source().path, harness.rows("none")) == (f"kit-{TABLE}/*.jsonl", None)
    assert harness.empty() is False


@pytest.mark.parametrize(("kind", "members"), [
    (LogHarness, {"append": ("t", []), "records": ("t",), "delete": ("t",)}),
    (SqlHarness, {"connect": ()}),
    (SqliteHarness, {"shut": ()}),
    (StoreHarness, {"put": ("k", b""), "get": ("k",), "keys": ("k",), "delete": ("k",)}),
])  # fmt: skip
def test_a_call_that_was_left_out_is_named(tmp_path: Path, kind: Any, members: Mapping[str, Any]) -> None:
    """What a base needs of a connector and does not find is said by its name."""
    for member, given in members.items():
        with pytest.raises(NotImplementedError, match=f"^{kind.__name__} has no {member}: write it, or "):
            getattr(kind(tmp_path), member)(*given)


def test_the_server_of_a_harness_is_named_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says which, and what it looks like; an empty one is none."""
    monkeypatch.setenv("DPONE_TEST_ACME_URL", "")
    with pytest.raises(ConfigError, match=r"DPONE_TEST_ACME_URL is not set; set DPONE_TEST_ACME_URL to acme://host$"):
        server("DPONE_TEST_ACME_URL", "acme://host")
    monkeypatch.setenv("DPONE_TEST_ACME_URL", "acme://there")
    assert server("DPONE_TEST_ACME_URL", "acme://host") == "acme://there"


def test_no_two_places_have_one_name() -> None:
    """And each can be the name of a schema, a bucket's prefix, a topic or a replication slot."""
    names = [unused() for _ in range(100)]
    assert len(set(names)) == 100
    assert all(name.isidentifier() and name == name.lower() and len(name) < 32 for name in names)
