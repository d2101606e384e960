"""A target without columns of its own (a topic, a bucket of JSON): that it exists and that its schema is known are two
questions."""

from __future__ import annotations

import pyarrow as pa
import pytest
from tests.engine.project import Project, rows, with_plugins

from dpone.connectors.sqlite.sink import SqliteSink
from dpone.engine.run import run
from dpone.model.report import StreamReport


class Schemaless(SqliteSink):
    """Keeps the rows, and knows nothing of its columns."""

    def schema(self) -> pa.Schema | None:
        return None

    def exists(self) -> bool:
        return super().schema() is not None

    def is_empty(self) -> bool:
        return not self.exists()


def load(project: Project, *, dry_run: bool = False) -> StreamReport:
    plugins = with_plugins(sink_sqlite=f"{__name__}:Schemaless")
    [stream] = run(project.pipeline, plugins=plugins, dry_run=dry_run).streams
    return stream


def test_a_target_without_a_schema_is_loaded_again(project: Project) -> None:
    """The second load has nothing to compare with and changes no column; a plan says the same."""
    project.csv("a", rows(1, 10))
    first = load(project)
    assert (first.status, first.schema_changes != []) == ("loaded", True)
    project.csv("b", rows(11, 15))
    for dry_run, status in ((True, "planned"), (False, "loaded")):
        again = load(project, dry_run=dry_run)
        assert (again.status, again.schema_changes, again.ddl) == (status, [], []), again.error
    assert project.rows() == rows(1, 15)
    assert load(project).status == "caught_up"


def test_the_same_content_is_not_loaded_again(project: Project) -> None:
    """A full refresh of unchanged files is recognised without a schema, too."""
    project = project.but(strategy={"mode": "full_refresh"})
    project.csv("a", rows(1, 10))
    assert [load(project).status for _ in range(2)] == ["loaded", "caught_up"]


@pytest.mark.parametrize("known", [True, False])
def test_a_target_that_is_gone_stops_the_run(project: Project, known: bool) -> None:
    """What the journal says was loaded is gone with the target, whether its schema was known or not."""
    project.csv("a", rows(1, 10))
    load(project)
    project.query("DROP TABLE t")
    project.csv("b", rows(11, 15))
    stream = project.run().streams[0] if known else load(project)
    assert (stream.status, "the target does not exist" in str(stream.error)) == ("stopped", True)
