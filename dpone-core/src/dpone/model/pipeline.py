"""The model of a pipeline: what the YAML says, as values. ``dpone.config`` makes them; nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from attrs import evolve, field, frozen
from attrs.validators import and_, ge, gt, le, optional

from dpone.errors import ConfigError
from dpone.model.row_contract import RowContract, duration
from dpone.model.schema import Name
from dpone.model.secret import Secret, register_path
from dpone.model.strategy import Strategy

# Fields that no file can set.
INTERNAL: Mapping[str, Any] = {"internal": True}


IN_FLIGHT_TIMEOUT = 30.0


@frozen
class Incremental:
    """Read only what is new.

    by        ``cursor`` (a column that grows), or what else the source offers (``dpone plugins`` lists it), such as
              ``cdc``
    column    the cursor column
    key       with ``append``: columns that distinguish rows with the same cursor value (default: the whole row)
    lookback  with ``merge``: read again this much below the last cursor value, in the column's unit or in seconds
    nulls     rows whose cursor is NULL can never be found again: ``fail`` (default) or ``skip`` them
    limit     of a change stream: a run stops at the first commit after this many changes
    in_flight  open transactions may commit rows below the highest value, after it was read: ``wait`` (default) for
              those that are open when the read begins, and then hold back; ``hold_back``: end the read before what
              they may bring; ``report``: read on, with a warning
    in_flight_timeout  seconds to wait for them
    set_back  with a cursor, no row is left at or above the position: ``stop`` (default), or ``report`` for sources
              whose newest rows are deleted in the ordinary course
    """

    by: str
    column: str | None = None
    key: tuple[str, ...] = ()
    lookback: float = field(default=0, validator=ge(0))
    nulls: Literal["fail", "skip"] = "fail"
    limit: int | None = field(default=None, validator=optional(ge(1)))
    # Not in the repr, from which fingerprints of half-done loads are made: the rows mean the same either way.
    in_flight: Literal["wait", "hold_back", "report"] = field(default="wait", repr=False)
    in_flight_timeout: float = field(default=IN_FLIGHT_TIMEOUT, validator=and_(ge(0), le(86_400)), repr=False)
    set_back: Literal["stop", "report"] = field(default="stop", repr=False)
    # A change stream is read by a CDCReader, not by a Source. ``read_by`` sets this from the plugins.
    of_changes: bool = field(default=False, repr=False, metadata=INTERNAL)

    def __attrs_post_init__(self) -> None:
        if self.by == "cursor" and not self.column:
            todo = "set the column that grows, as in column: updated_at"
            raise ConfigError("read incremental", "by: cursor needs a column", todo)
        if self.by != "cursor" and (self.column or self.lookback):
            raise ConfigError("read incremental", f"by: {self.by} takes neither column nor lookback", "remove them")
        late = (self.in_flight, self.in_flight_timeout, self.set_back)
        if self.by != "cursor" and late != ("wait", IN_FLIGHT_TIMEOUT, "stop"):
            found = f"by: {self.by} does not take in_flight, in_flight_timeout or set_back"
            raise ConfigError("read incremental", found, "remove them; it cannot miss late commits")

    def read_by(self, reader: bool) -> Incremental:
        """The options, bound to their reader: a change reader or the source. Raises ConfigError for an option that it
        does not have."""
        if reader and (self.key or self.nulls != "fail"):
            raise ConfigError("read incremental", f"by: {self.by} takes neither key nor nulls", "remove them")
        if self.limit is not None and not reader:
            raise ConfigError("read incremental", f"by: {self.by} does not take limit", "remove it")
        return evolve(self, of_changes=reader)


@frozen
class SourceOptions:
    """Options every source takes; a connector's own options class extends this one."""

    incremental: Incremental | None = None


@frozen
class SchemaEvolution:
    """mode: which changes are safe. on_type_change: ``new_column`` routes values to ``__dpone__nc__<column>``.

    on_missing_column: a target column that the rows do not have: ``fail``, ``ignore`` (new rows get NULL), or ``auto``,
    which is ``fail`` if the source has its own schema (a table, a query), and ``ignore`` if the columns are known only
    from the data (files, topics); then the report names them.
    """

    mode: Literal["strict", "additive", "widening"] = "widening"
    on_type_change: Literal["fail", "new_column"] = "fail"
    on_missing_column: Literal["auto", "fail", "ignore"] = "auto"


@frozen
class Lineage:
    """``__dpone__load_id`` and ``__dpone__loaded_at`` in every row."""

    enabled: bool = True


@frozen
class Undo:
    """Keep the rows that a load replaces, so that it can be taken back, as long as both limits allow; at least one is
    required.

    loads  this many loads of the stream, the newest ones
    days   loads that were committed no longer ago
    """

    loads: int | None = field(default=None, validator=optional(ge(1)))
    days: float | None = field(default=None, validator=optional(and_(gt(0), le(36_500))))

    def __attrs_post_init__(self) -> None:
        if self.loads is None and self.days is None:
            todo = "set a retention, as in undo: {loads: 3} or undo: {days: 7}"
            raise ConfigError("read undo", "neither loads nor days is set", todo)


@frozen
class SinkOptions:
    """Options every sink takes.

    adopt_existing  load into a table that has rows and no journal of ours
    undo            keep what a load replaces; off if left out
    verify_target   before each load, whether the target still has the rows of the last one: ``empty`` stops if it has
                    none at all, ``count`` if it has fewer, ``off`` does not look
    nanoseconds     of timestamps and times, where the target has microseconds: ``fail`` if there are any, or ``cut``
                    them off, also for a target that has them
    """

    schema_evolution: SchemaEvolution = field(factory=SchemaEvolution)
    lineage: Lineage = field(factory=Lineage)
    adopt_existing: bool = False
    undo: Undo | None = None
    verify_target: Literal["empty", "count", "off"] = "empty"
    nanoseconds: Literal["fail", "cut"] = "fail"

    def __attrs_post_init__(self) -> None:
        if self.undo is not None and not self.lineage.enabled:
            todo = "turn lineage on, or remove undo: a load is taken back by its load id"
            raise ConfigError("read options.undo", "lineage is off", todo)


@frozen
class RunLogOptions:
    """The record of each run, for ``dpone runs``. Removed as soon as one limit is passed.

    enabled  false: no run is recorded
    days     runs that began no longer ago
    runs     this many runs of the pipeline, the newest ones
    """

    enabled: bool = True
    days: float = field(default=90.0, validator=and_(gt(0), le(36_500)))
    runs: int = field(default=1000, validator=ge(1))


@frozen
class StateOptions:
    """lease_seconds: a runner that has not renewed its lock for this long may be replaced by another."""

    lease_seconds: float = field(default=60.0, validator=gt(0))
    run_log: RunLogOptions = field(factory=RunLogOptions)


class _Bound:
    """The names of what a source or a sink is bound to."""

    __slots__ = ()
    type: str
    connection: Secret | None
    named: str

    @property
    def location(self) -> str:
        """Where the connection points, for people; free of credentials. A query goes by the stream's name."""
        return self._named(self.connection.location() if self.connection else "")

    @property
    def place(self) -> str:
        """The part of the key: as ``location``, without what changes while the system stays the same."""
        return self._named(self.named or (self.connection.place() if self.connection else ""))

    def _named(self, connection: str) -> str:
        return ":".join(filter(None, (self.type, connection, self.what)))

    @property
    def what(self) -> str:
        """The table, path or topic."""
        raise NotImplementedError


@frozen
class SourceSpec(_Bound):
    """One source bound to what it reads. ``base`` is the folder of the pipeline file. ``exclude``: tables that a glob,
    or a change stream of all tables, leaves out: names or globs, with or without their schema. ``named``: the
    name of the connection under ``connections:``, if it has one."""

    type: str
    connection: Secret | None = None
    table: Name | None = None
    query: str | None = None
    path: str | None = None
    topic: str | None = None
    exclude: tuple[str, ...] = ()
    options: Any = field(factory=SourceOptions)
    base: Path = field(default=Path(), metadata=INTERNAL)
    named: str = field(default="", metadata=INTERNAL)

    @property
    def what(self) -> str:
        return ":".join(map(str, filter(None, (self.path, self.table or self.topic)))) or "query"

    def excludes(self, table: Name) -> bool:
        """A pattern without a schema stands for the table in any."""
        patterns = [Name.parse(pattern).parts for pattern in self.exclude]
        return any(all(map(fnmatchcase, table.parts[-len(pattern) :], pattern)) for pattern in patterns)

    @property
    def changes(self) -> Incremental | None:
        """How the change stream is read; None if this is not a change stream."""
        incremental: Incremental | None = self.options.incremental
        return incremental if incremental is not None and incremental.of_changes else None


@frozen
class SinkSpec(_Bound):
    """One sink bound to what it writes. contract: the rules that rows must keep before a load is committed. ``named``:
    as in SourceSpec."""

    type: str
    strategy: Strategy
    connection: Secret | None = None
    table: Name | None = None
    path: str | None = None
    topic: str | None = None
    options: Any = field(factory=SinkOptions)
    contract: RowContract | None = None
    base: Path = field(default=Path(), metadata=INTERNAL)
    named: str = field(default="", metadata=INTERNAL)

    @property
    def what(self) -> str:
        return str(self.table or self.path or self.topic or "")


@frozen
class StateSpec:
    type: str
    connection: Secret | None = None
    path: str | None = None
    options: Any = field(factory=StateOptions)
    base: Path = field(default=Path(), metadata=INTERNAL)


# Each part has an entry in the manifest, a mark in the staging and, in some sources, a query before the read.
MAX_PARTITIONS = 10_000


@frozen
class Runtime:
    """partitions: parts a source is asked to split into. workers: parts read at once. retries: per stream.

    resume: after a crash has ended a snapshot, parts staged from it are read again, so that all rows are of one moment.
    With ``mixed_snapshots`` they are kept, and the other parts come from a later snapshot.
    """

    partitions: int = field(default=1, validator=and_(ge(1), le(MAX_PARTITIONS)))
    workers: int = field(default=1, validator=ge(1))
    batch_rows: int | None = field(default=None, validator=optional(ge(1)))
    retries: int = field(default=3, validator=ge(0))
    resume: Literal["one_snapshot", "mixed_snapshots"] = "one_snapshot"


Occasion = Literal["failed", "stopped", "recovered", "succeeded", "schema_changed"]


@frozen
class Notification:
    """A message to a webhook at the end of a run.

    webhook  the URL that takes the message as JSON, http or https; no output shows more of it than its host
    on       when: ``failed``; ``stopped`` (a person must decide); ``succeeded``; ``recovered`` (succeeded, and the run
             before did not); ``schema_changed`` (a load has changed the schema of its target)
    timeout  for one attempt: seconds, or text as in ``10s``
    retries  attempts after the first one, if the address does not answer, or answers 429 or 5xx
    """

    webhook: Secret
    on: tuple[Occasion, ...] = ("failed", "stopped", "recovered")
    timeout: float | str = "10s"
    retries: int = field(default=3, validator=and_(ge(0), le(10)))

    def __attrs_post_init__(self) -> None:
        try:
            url = urlsplit(self.webhook.reveal())
            known = url.scheme in ("http", "https") and url.hostname and url.port != 0
        except ValueError:  # brackets, or a port above 65535
            known = False
        if not known or not self.webhook.reveal().isprintable():
            raise ConfigError("read webhook", "not a URL of http or https", "write it as in ${NAME}") from None
        if " " in self.webhook.reveal() or not f"{url.path}{url.query}".isascii():
            found = "the URL has a blank, or a letter that is not ASCII"
            raise ConfigError("read webhook", found, "write it URL-encoded, as in %20")
        if "@" in url.netloc:
            todo = "leave them out; a token belongs in the path or the query"
            raise ConfigError("read webhook", "the URL has a user or a password", todo)
        register_path(self.webhook)
        if not 0 < self.seconds <= 60:
            raise ConfigError("read timeout", f"{self.timeout} is not between 0s and 60s", "write a time as in 10s")

    @property
    def host(self) -> str:
        """Where the message goes, for people."""
        return urlsplit(self.webhook.reveal()).hostname or ""

    @property
    def seconds(self) -> float:
        if not isinstance(self.timeout, str):
            return self.timeout
        try:
            return duration(self.timeout).total_seconds()
        except ValueError:
            raise ConfigError("read timeout", "not a duration", "write a time as in 10s") from None


@frozen
class StreamSpec:
    """One table that is loaded from a source into a sink.

    tables    a glob: the stream stands for every table of the source that matches. ``dpone.config.reader.expand`` makes
              one stream of each once the source can be asked; until then ``source.table`` is the glob itself and
              ``{schema}`` and ``{table}`` remain in the sink's table, path or topic. A change stream stays one stream,
              whose one commit takes the rows of all its tables
    """

    name: str
    source: SourceSpec
    sink: SinkSpec
    tables: str | None = None

    def key(self, pipeline: str) -> str:
        """Of state and journal: pipeline, stream, source and target; never the table name alone, no list of hosts."""
        return _key(pipeline, self.name, self.source.place, self.sink.place)

    def former_key(self, pipeline: str) -> str:
        """The key that earlier versions used: with the hosts of named connections and of lists."""
        return _key(pipeline, self.name, self.source.location, self.sink.location)


def _key(*parts: str) -> str:
    return "|".join(part.replace("|", "%7C") for part in parts)


@frozen
class Pipeline:
    """A pipeline file, checked."""

    name: str
    streams: tuple[StreamSpec, ...]
    state: StateSpec
    labels: Mapping[str, str] = field(factory=dict)
    runtime: Runtime = field(factory=Runtime)
    notify: tuple[Notification, ...] = ()
    path: Path | None = None
