"""Options of the Kafka connector. Does not import the driver."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, le, optional

from dpone.errors import ConfigError
from dpone.model.pipeline import SourceOptions
from dpone.model.schema import COLUMN_TYPES

SILENCE = 60.0

ValueFormat = Literal["json", "csv", "bytes", "text", "debezium"]
Metadata = Literal["topic", "partition", "offset", "timestamp", "timestamp_type", "headers", "event_id"]
METADATA: tuple[Metadata, ...] = ("topic", "partition", "offset", "timestamp")


@frozen
class Layout:
    """How the bytes of a key or of a value become columns.

    format    ``json`` (one object), ``csv`` (one line), ``bytes`` or ``text``; of a value also ``debezium``: the JSON
              of a Debezium connector, for ``incremental: {by: cdc}``
    columns   JSON, CSV: column -> type, by its SQL or Arrow name; of CSV in the order of the line. Debezium: of
              envelopes without their schema
    infer     JSON: the columns and types are those of all records of the window
    column    name of the one column that has the whole value if neither columns nor infer is given
    encoding  of text and CSV, by its Python name
    delimiter CSV
    """

    format: ValueFormat = "json"
    columns: Mapping[str, str] = field(factory=dict, metadata=COLUMN_TYPES)
    infer: bool = False
    column: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","

    def __attrs_post_init__(self) -> None:
        if self.infer and self.format != "json":
            raise ConfigError("read options.infer", f"infer with format {self.format}", "declare columns instead")
        if self.columns and self.format in ("bytes", "text"):
            found = f"columns with format {self.format}, which gives one column"
            raise ConfigError("read options.columns", found, "use column: NAME, or format json or csv")
        if self.format == "csv" and not self.columns:
            todo = "name them in their order, as in columns: {id: bigint, name: text}"
            raise ConfigError("read options.columns", "a CSV line has no names of columns", todo)
        if self.columns and self.infer:
            raise ConfigError("read options.infer", "columns are declared too", "remove columns or infer")
        if self.column is not None and self.format == "debezium":
            raise ConfigError("read options.column", "column with format debezium", "remove it")
        if self.column is not None and (self.columns or self.infer):
            found = "column names the column of a whole value, but the value becomes several columns"
            raise ConfigError("read options.column", found, "remove column, or both columns and infer")
        if len(self.delimiter) != 1 or self.delimiter in '\r\n"':
            raise ConfigError("read options.delimiter", repr(self.delimiter), "use one character, such as ';'")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            todo = "use a Python encoding name, such as utf-8 or latin-1"
            raise ConfigError("read options.encoding", repr(self.encoding), todo) from error


@frozen
class Poison:
    """What happens to a record whose key or value cannot be read as its format says.

    policy       ``fail``: the run fails and names topic, partition and offset. ``quarantine``: the record is written to
                 a file, with its bytes, headers, place and the reason; the report counts it
    path         of the quarantine: a folder inside the folder of the pipeline file
    max_records  more of them in one part fail the run
    """

    policy: Literal["fail", "quarantine"] = "fail"
    path: str = ".dpone/quarantine/kafka"
    max_records: int = field(default=1000, validator=ge(0))


def _moment(value: datetime | str | None) -> datetime | None:
    if value is None or isinstance(value, datetime):
        moment = value
    else:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            found = "since or until is not a timestamp"
            raise ConfigError("read options", found, "write it as in 2026-01-31T00:00:00+00:00") from None
    if moment is not None and moment.tzinfo is None:
        found = "since or until has no time zone"
        raise ConfigError("read options", found, "add it, as in 2026-01-31T00:00:00+00:00")
    return moment


@frozen
class KafkaSourceOptions(SourceOptions):
    """value           the columns of a record's value
    key             those of its key; left out: the key is not read
    metadata        further columns, named ``kafka_topic`` and so on: topic, partition, offset, timestamp,
                    timestamp_type, headers, event_id. Default: the first four; of a change stream none
    tombstones      records without a value: ``keep`` them as rows whose columns of the value are NULL, ``skip`` them,
                    or ``delete``: in a change stream they delete the row of their key
    poison          records that cannot be read
    isolation       ``read_committed``: without records of aborted transactions, up to the first open one
    since           a partition that the position does not have begins at its first record at or after this time
    until           each partition ends before its first record at or after this time
    max_records     a run reads at most so many offsets
    silence_timeout  seconds without an answer or a record after which a read fails
    fetch_bytes     bytes asked for at once; a larger record is fetched alone
    """

    value: Layout = field(factory=Layout)
    key: Layout | None = None
    metadata: tuple[Metadata, ...] | None = None
    tombstones: Literal["keep", "skip", "delete"] = "keep"
    # Not in the repr, from which fingerprints of half-done loads are made: a staged part means the same either way.
    poison: Poison = field(factory=Poison, repr=False)
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    since: str | None = None
    until: str | None = None
    max_records: int | None = field(default=None, validator=optional(ge(1)))
    silence_timeout: float = field(default=SILENCE, validator=and_(gt(0), le(86_400)), repr=False)
    fetch_bytes: int = field(default=1 << 20, validator=and_(ge(1024), le(1 << 28)), repr=False)

    def __attrs_post_init__(self) -> None:
        if self.incremental is not None and self.incremental.by != "cdc":
            todo = "remove it (a topic is read from the last offset on without it), or use by: cdc"
            raise ConfigError("read options.incremental", f"by: {self.incremental.by}", todo)
        if self.key is not None and self.key.infer:
            todo = "declare the columns of the key, or take it as one column"
            raise ConfigError("read options.key", "infer is for values", todo)
        if len({*self.extra}) < len(self.extra):
            raise ConfigError("read options.metadata", "a column occurs twice", "name each once")
        if self.key is not None and self.key.format == "debezium":
            todo = "remove key: the columns of the key are those of the record's key"
            raise ConfigError("read options.key", "debezium is a format of values", todo)
        if self.incremental is None:
            self._require_rows()
        else:
            self._require_changes()
        begin, end = self.since_ms, self.until_ms
        if begin is not None and end is not None and begin >= end:
            raise ConfigError("read options.until", "it is not after since", "set a later until")

    def _require_rows(self) -> None:
        todo = "add incremental: {by: cdc}, which reads changes"
        if self.tombstones == "delete":
            raise ConfigError("read options.tombstones", "delete without a change stream", todo)
        if self.value.format == "debezium":
            raise ConfigError("read options.value", "format debezium without a change stream", todo)

    def _require_changes(self) -> None:
        if self.poison.policy != "fail":
            found = "a change that is left out leaves a wrong row in the target"
            raise ConfigError("read options.poison", found, "remove poison: a change stream stops at such a record")
        if self.max_records is not None:
            raise ConfigError("read options.max_records", "by: cdc", "use incremental: {by: cdc, limit: N}")
        if self.value.infer:
            todo = "declare the columns, as in value: {columns: {name: text}}"
            raise ConfigError("read options.value", "infer is not supported with by: cdc", todo)
        if self.value.format == "debezium":
            for name in ("key", "metadata"):
                if getattr(self, name) is not None:
                    found = "format debezium has the columns of the table"
                    raise ConfigError(f"read options.{name}", found, f"remove {name}")
            if self.tombstones == "delete":
                todo = "remove tombstones: an envelope says what was deleted, and the tombstone after it is skipped"
                raise ConfigError("read options.tombstones", "delete with format debezium", todo)
            return
        if self.key is None:
            todo = "name the columns of the record's key, as in key: {columns: {id: bigint}}"
            raise ConfigError("read options.key", "by: cdc needs the key of each row", todo)
        if self.tombstones == "keep":
            todo = "set tombstones: delete, which deletes the row, or tombstones: skip"
            raise ConfigError("read options.tombstones", "by: cdc cannot keep them as rows", todo)

    @property
    def extra(self) -> tuple[Metadata, ...]:
        """The columns of ``metadata``."""
        if self.metadata is None:
            return METADATA if self.incremental is None else ()
        return self.metadata

    @property
    def since_ms(self) -> int | None:
        return _milliseconds(self.since)

    @property
    def until_ms(self) -> int | None:
        return _milliseconds(self.until)


def _milliseconds(text: str | None) -> int | None:
    moment = _moment(text)
    return None if moment is None else round(moment.timestamp() * 1000)
