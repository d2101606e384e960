"""RouteContract: whole runs from one connector to another, strategy by strategy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from attrs import evolve as replace

from dpone.capability import Support
from dpone.certify.matrix import route_matrix
from dpone.engine.run import Run
from dpone.model.pipeline import Incremental, Pipeline
from dpone.model.report import StreamReport
from dpone.model.strategy import Strategy
from dpone.testing.cases import Contract, case
from dpone.testing.cdc import delete, insert, update
from dpone.testing.crash import pipeline, quiet
from dpone.testing.harness import Harness, opened, replaced
from dpone.testing.rows import own, same


class RouteContract(Contract):
    """Subclass it and name the connectors of both ends, whose plugins name their Harnesses, or give the fixtures
    ``source`` and ``sink``. A case is a strategy."""

    role = "route"
    ends: tuple[str, str]

    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[Harness]:
        with opened("source", self.ends[0], tmp_path / "source") as harness:
            yield harness

    @pytest.fixture
    def sink(self, tmp_path: Path) -> Iterator[Harness]:
        with opened("sink", self.ends[1], tmp_path / "sink") as harness:
            yield harness

    @case("full_refresh")
    def test_full_refresh(self, source: Harness, sink: Harness) -> None:
        """Two runs of a growing source leave every row of it once."""
        _two_runs(source, sink, Strategy("full_refresh"), whole=True)

    @case("append")
    def test_append(self, source: Harness, sink: Harness) -> None:
        """Two runs of a growing source leave every row of it once."""
        _two_runs(source, sink, Strategy("append"))

    @case("merge")
    def test_merge(self, source: Harness, sink: Harness) -> None:
        """Two runs of a growing source leave every row of it once."""
        _two_runs(source, sink, Strategy("merge", key=source.key))

    @case("replace")
    def test_replace(self, source: Harness, sink: Harness) -> None:
        """Two runs of a growing source, all of it within the predicate, leave every row of it once."""
        value = source.sample(1, 1).column(source.group)[0].as_py()
        _two_runs(source, sink, Strategy("replace", where={source.group: value}), whole=True, only=value)

    @case("partition_replace")
    def test_partition_replace(self, source: Harness, sink: Harness) -> None:
        """A run leaves every row of the partitions read once."""
        _two_runs(source, sink, Strategy("partition_replace", partition=source.group), whole=True, twice=False)

    @case("snapshot_diff")
    def test_snapshot_diff(self, source: Harness, sink: Harness) -> None:
        """Two runs of a growing source leave every row of it once."""
        _two_runs(source, sink, Strategy("snapshot_diff", key=source.key), whole=True)

    @case("scd2")
    def test_scd2(self, source: Harness, sink: Harness) -> None:
        """Two runs of a growing source leave one version of every row."""
        _two_runs(source, sink, Strategy("scd2", key=source.key))

    @case("cdc_apply")
    def test_cdc_apply(self, source: Harness, sink: Harness) -> None:
        """Two windows of a change stream leave the rows as they are in the source."""
        spec = source.change_stream()
        changing = replace(spec, options=replace(spec.options, incremental=Incremental("cdc", of_changes=True)))
        begin, then = [insert(1, "a"), insert(2, "a")], [update(1, name="b"), delete(2), insert(3, None)]
        for changes in (begin, then):
            source.change(changes)
            report = _run(source, sink, pipeline(sink.folder, changing, sink.sink(Strategy("cdc_apply"))))
            assert report.status == "loaded", report.error
        same(_without_own(sink.rows()), pa.table({"id": [1, 3], "name": ["b", None]}))


def declared(source: str, sink: str, mode: str) -> Support:
    return next(r.support for r in route_matrix() if (r.source, r.sink, r.strategy) == (source, sink, mode))


def _two_runs(
    source: Harness, sink: Harness, strategy: Strategy, *, whole: bool = False, twice: bool = True, only: object = None
) -> None:
    """``only``: seed rows of that group alone. ``twice``: False where a second read would bring the same rows again."""
    supports = {c: source.declared("source", c) is Support.SUPPORTED for c in ("incremental_cursor", "repeatable")}
    cursor = supports["incremental_cursor"] and not whole
    if strategy.mode == "append" and not any(supports.values()):
        twice = False
    spec = source.source(incremental=Incremental("cursor", source.key) if cursor else None)
    seeded = []
    for n in range(2 if twice else 1):
        rows = source.sample(20 * n + 1, 20 * n + 12)
        seeded.append(rows if only is None else rows.filter(pc.equal(rows.column(source.group), pa.scalar(only))))
        source.seed(seeded[-1])
        report = _run(source, sink, pipeline(sink.folder, spec, sink.sink(strategy)))
        assert report.status == "loaded", report.error
        there = source.there()
        same(_without_own(sink.rows()), pa.concat_tables(seeded) if there is None else there)


def _without_own(found: pa.Table | None) -> pa.Table | None:
    return None if found is None else found.drop_columns(own(found))


def _run(source: Harness, sink: Harness, pipeline: Pipeline) -> StreamReport:
    plugins = replaced(source.plugins, sink.connector, sink.implementations)
    [report] = Run(pipeline, plugins=quiet(plugins)).execute().streams
    return report
