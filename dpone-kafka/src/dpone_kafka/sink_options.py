"""Options of the Kafka sink. Does not import the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, le

from dpone.errors import ConfigError
from dpone.model.pipeline import SinkOptions

Delivery = Literal["at_least_once", "idempotent", "transactional"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
JOURNAL = "__dpone.loads"


@frozen
class Key:
    """The key of a record, made of columns.

    columns   whose values identify the row; they stay in the value too
    format    ``json``: one object with these columns. ``text``: the text of one column. ``bytes``: one binary column
    """

    columns: tuple[str, ...] = ()
    format: Literal["json", "text", "bytes"] = "json"

    def __attrs_post_init__(self) -> None:
        if not self.columns:
            raise ConfigError("read options.key", "no columns", "name them, as in key: {columns: [id]}")
        if self.format != "json" and len(self.columns) > 1:
            found = f"format {self.format} with {len(self.columns)} columns, whose values could not be told apart"
            raise ConfigError("read options.key", found, "use format: json, or one column")


@frozen
class Value:
    """The value of a record.

    format   ``json``: one object with all columns. ``text``, ``bytes``: one column as it is; NULL is a tombstone
    column   the column of ``text`` and ``bytes``; not needed if the rows have only one
    """

    format: Literal["json", "text", "bytes"] = "json"
    column: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.format == "json" and self.column is not None:
            raise ConfigError("read options.value", "column with format json, which has all columns", "remove column")


@frozen
class Partition:
    """Which partition a record goes to.

    by      ``key``: as the Java client chooses (murmur2), and in turn without a key. ``turn``: one after the other.
            ``column``: the number in a column
    column  of ``column``
    """

    by: Literal["key", "turn", "column"] = "key"
    column: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.by == "column") != (self.column is not None):
            todo = "write partition: {by: column, column: NAME}"
            raise ConfigError("read options.partition", f"by: {self.by} and column: {self.column or 'none'}", todo)


@frozen
class Create:
    """A topic that does not exist, also the journal's.

    allowed      false: a missing topic is an error
    partitions   of the topic; the journal always has one
    replication  copies; 0: three, or as many as there are brokers
    config       settings of the topic, such as ``retention.ms``
    """

    allowed: bool = True
    partitions: int = field(default=1, validator=ge(1))
    replication: int = field(default=0, validator=ge(0))
    config: Mapping[str, str] = field(factory=dict)


@frozen
class KafkaSinkOptions(SinkOptions):
    """delivery        ``at_least_once``, ``idempotent`` (no duplicates by the producer's own repetitions),
                    ``transactional`` (rows, journal entry and position in one transaction)
    journal         the compacted topic of the journal, which pipelines can share
    key             left out: records have no key
    value           of a record
    partition       of a record
    create          topics that do not exist
    compression     of batches; snappy, lz4 and zstd need the package cramjam
    batch_bytes     the largest batch, before compression; less if the topic allows less
    spool           folder of rows that are not yet sent, inside the folder of the pipeline file
    silence_timeout  seconds that a broker may be silent
    transaction_timeout  seconds after which the brokers end a transaction whose run is gone
    transaction_rate     bytes a second that a transaction is expected to write; a load that would need longer than
                    transaction_timeout is refused before the transaction begins
    """

    delivery: Delivery = "at_least_once"
    journal: str = field(default=JOURNAL)
    key: Key | None = None
    value: Value = field(factory=Value)
    partition: Partition = field(factory=Partition)
    create: Create = field(factory=Create)
    compression: Compression = "none"
    batch_bytes: int = field(default=1 << 18, validator=and_(ge(1024), le(1 << 28)))
    spool: str = ".dpone/kafka"
    silence_timeout: float = field(default=30.0, validator=and_(gt(0), le(86_400)))
    transaction_timeout: float = field(default=60.0, validator=and_(ge(1), le(86_400)))
    transaction_rate: float = field(default=5e6, validator=gt(0))
