"""The model of a pipeline: what the YAML says, as values. ``dpone.config`` makes them; nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

from dpone.schema import Name
from dpone.secret import Secret
from dpone.strategy import Strategy

if TYPE_CHECKING:
    from dpone.report import RunReport


@frozen
class Incremental:
    """Read only what is new.

    by        ``cursor`` (a column that grows), or what the source offers: ``xmin``, ``cdc``, ``change_tracking``
    column    the cursor column
    key       with ``append``: columns that tell apart rows of one cursor value (default: the whole row)
    lookback  with ``merge``: read again this much below the last cursor value, in the column's unit or in seconds
    nulls     rows whose cursor is NULL can never be found again: ``fail`` (default) or ``skip`` them
    """

    by: Literal["cursor", "xmin", "cdc", "change_tracking"]
    column: str | None = None
    key: tuple[str, ...] = ()
    lookback: float = 0
    nulls: Literal["fail", "skip"] = "fail"


@frozen
class SourceOptions:
    """Options every source takes; a connector's own options class extends this one."""

    incremental: Incremental | None = None


@frozen
class SchemaEvolution:
    """mode: which changes are safe. on_type_change: ``new_column`` routes values to ``__dpone__nc__<column>``.

    on_missing_column: a target column the source no longer has: ``fail``, or ``ignore`` (new rows get NULL).
    """

    mode: Literal["strict", "additive", "widening"] = "widening"
    on_type_change: Literal["fail", "new_column"] = "fail"
    on_missing_column: Literal["fail", "ignore"] = "fail"


@frozen
class Lineage:
    """``__dpone__load_id`` and ``__dpone__loaded_at`` in every row."""

    enabled: bool = True


@frozen
class SinkOptions:
    """Options every sink takes. adopt_existing: load into a table that has rows and no journal of ours."""

    schema_evolution: SchemaEvolution = field(factory=SchemaEvolution)
    lineage: Lineage = field(factory=Lineage)
    adopt_existing: bool = False


@frozen
class StateOptions:
    """lease_seconds: a runner that has not renewed its lock for this long may be replaced by another."""

    lease_seconds: float = 60.0


@frozen
class SourceSpec:
    """One source bound to what it reads. ``base`` is the folder of the pipeline file."""

    type: str
    connection: Secret | None = None
    table: Name | None = None
    query: str | None = None
    path: str | None = None
    topic: str | None = None
    options: Any = field(factory=SourceOptions)
    base: Path = Path()

    @property
    def location(self) -> str:
        """Stable and free of credentials; part of the key. A query goes by the stream's name."""
        what = self.table or self.path or self.topic or "query"
        return ":".join(filter(None, (self.type, self.connection and self.connection.location(), str(what))))


@frozen
class SinkSpec:
    type: str
    strategy: Strategy
    connection: Secret | None = None
    table: Name | None = None
    path: str | None = None
    topic: str | None = None
    options: Any = field(factory=SinkOptions)
    base: Path = Path()

    @property
    def location(self) -> str:
        what = self.table or self.path or self.topic or ""
        return ":".join(filter(None, (self.type, self.connection and self.connection.location(), str(what))))


@frozen
class StateSpec:
    type: str
    connection: Secret | None = None
    path: str | None = None
    options: Any = field(factory=StateOptions)
    base: Path = Path()


@frozen
class Runtime:
    """partitions: parts a source is asked to split into. workers: parts read at once. retries: per stream."""

    partitions: int = 1
    workers: int = 1
    batch_rows: int | None = None
    retries: int = 3


@frozen
class StreamSpec:
    """One table's way from a source to a sink."""

    name: str
    source: SourceSpec
    sink: SinkSpec

    def key(self, pipeline: str) -> str:
        """Key of state and journal: pipeline, stream, source and target; never the table name alone."""
        return "|".join((pipeline, self.name, self.source.location, self.sink.location))


@frozen
class Pipeline:
    """A pipeline file, checked. ``staging`` is for connectors that stage through object storage."""

    name: str
    streams: tuple[StreamSpec, ...]
    state: StateSpec
    labels: Mapping[str, str] = field(factory=dict)
    staging: Mapping[str, Any] = field(factory=dict)
    runtime: Runtime = field(factory=Runtime)
    path: Path | None = None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Pipeline:
        """Read and check a pipeline file; raises ConfigError that lists every problem at once."""
        from dpone.config import load_pipeline

        return load_pipeline(Path(path))

    def run(self, **options: Any) -> RunReport:
        """``dpone.run`` on this pipeline."""
        from dpone.engine import run

        return run(self, **options)
