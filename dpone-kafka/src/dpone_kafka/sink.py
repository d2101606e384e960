"""The sink: records of a topic, and a journal in another one."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from dpone.contract import Entry, Finding, Load
from dpone.errors import ConfigError, DponeError, SinkError, counted
from dpone.model.evolution import SchemaChange, Stored
from dpone.model.pipeline import SinkSpec
from dpone_kafka.cluster import Topic
from dpone_kafka.encode import Encoder, refused
from dpone_kafka.journal import SETTINGS, Journal
from dpone_kafka.session import Session
from dpone_kafka.settings import settings
from dpone_kafka.sink_options import KafkaSinkOptions
from dpone_kafka.staging import Staging
from dpone_kafka.writer import KafkaWriter

# Of the brokers: how often they look for transactions whose time is over (transaction.abort.timed.out.transaction.
# cleanup.interval.ms, ten seconds).
_SWEEP = 15.0


class KafkaSink:
    """``contract.Sink``, for one topic. A topic has no columns: ``schema`` is None, and rows of any columns fit."""

    def __init__(self, spec: SinkSpec, session: Session | None = None) -> None:
        options = spec.options
        self.options = options if isinstance(options, KafkaSinkOptions) else KafkaSinkOptions()
        if spec.topic is None:
            raise ConfigError("read sink", "topic is missing", "set topic: NAME")
        self.topic, self._base, self._mode = spec.topic, spec.base, spec.strategy.mode
        self._session = session or Session(settings(spec.connection), self.options.silence_timeout)
        self._journal = Journal(self._session, self.options.journal, self.options.transaction_timeout + _SWEEP)

    def for_table(self, spec: SinkSpec) -> KafkaSink:
        """``contract.SupportsManyTables``."""
        return KafkaSink(spec, self._session)

    def check(self) -> list[Finding]:
        findings = []
        for name, what in ((self.topic, "topic"), (self.options.journal, "journal")):
            try:
                findings.append(self._finding(what, self._topic(name), name))
            except DponeError as error:
                return [*findings, Finding("connection", False, error.found, error.todo)]
        return findings

    def _finding(self, what: str, topic: Topic | None, name: str) -> Finding:
        if topic is None and not self.options.create.allowed:
            return Finding(what, False, f"topic {name} does not exist", "create it, or set create.allowed: true")
        if topic is None:
            return Finding(what, True, f"topic {name} will be created by the first load")
        if what == "journal" and (wrong := self._forgets()):
            return Finding(what, False, wrong, _compacted(name))
        return Finding(what, True, f"topic {name} has {counted(len(topic.leaders), 'partition')}")

    def _forgets(self) -> str:
        """Why the journal's topic would lose heads; empty if it does not, or if the user may not see its settings."""
        config = self._session.call(self._session.config(self.options.journal), "look at the journal")
        policy = config.get("cleanup.policy", "compact")
        return "" if policy == "compact" else f"topic {self.options.journal} has cleanup.policy={policy}"

    def _topic(self, name: str) -> Topic | None:
        return self._session.call(self._session.topic(name), f"look at topic {name}")

    def schema(self) -> pa.Schema | None:
        return None

    def exists(self) -> bool:
        return self._topic(self.topic) is not None

    def is_empty(self) -> bool:
        """True if no load of any stream is in the topic. Records of others are none of ours: a log is added to."""
        if not self.exists():
            return True
        mine = [kept for kept in self._journal.heads().values() if kept.topic == self.topic]
        return not any(kept.ends or kept.entry.seq > 1 for kept in mine)

    def lost(self, entry: Entry, count: bool) -> str:
        """``contract.SupportsVerify``, OUT-07: a topic that was made again, or cut off, ends before what was written.
        What its retention removes is not lost."""
        written = [kept for kept in self._journal.heads().values() if kept.entry.load_id == entry.load_id]
        mine, topic = [kept for kept in written if kept.topic == self.topic], self._topic(self.topic)
        if not mine or topic is None:
            return ""
        bounds = self._session.call(self._session.bounds(topic), f"look at topic {self.topic}")
        for partition, end in mine[0].ends.items():
            if (now := bounds.get(partition, (0, 0))[1]) < end:
                return f"partition {partition} ends at offset {now:,}, but rows up to {end:,} were written"
        return ""

    def stores(self, type: pa.DataType) -> Stored:
        if self.options.value.format == "json":
            checked = pa.types.is_floating(type) or pa.types.is_nested(type) or pa.types.is_temporal(type)
            return Stored("json", type, "lossy" if refused(type) else "checked" if checked else "exact")
        return Stored(self.options.value.format, type, "checked")

    def ddl(self, changes: Sequence[SchemaChange]) -> list[str]:
        """A JSON object for the topic that is created; columns are none of a topic's."""
        if not any(change.kind == "create" for change in changes):
            return []
        create = self.options.create
        if not create.allowed:
            todo = f"kafka-topics --create --topic {self.topic}, or set options.create.allowed: true"
            raise ConfigError(f"load into topic {self.topic}", "it does not exist", todo)
        topic = {"partitions": create.partitions, "replication": create.replication, "config": dict(create.config)}
        return [json.dumps({"create": self.topic, **topic}, ensure_ascii=False)]

    def apply(self, ddl: Sequence[str]) -> None:
        for text in ddl:
            given = json.loads(text)
            made = self._session.create(given["create"], given["partitions"], given["replication"], given["config"])
            self._session.call(made, f"create topic {given['create']}")

    def journal(self, key: str) -> Entry | None:
        kept = self._journal.head(key)
        return kept.entry if kept else None

    def open(self, load: Load) -> KafkaWriter:
        if load.schema is not None and load.strategy.mode != "append":
            found = f"strategy {load.strategy.mode}, but records of a topic cannot be replaced"
            todo = "use append; 'dpone state set --beginning' makes the next run send all rows again"
            raise ConfigError(f"write topic {self.topic}", found, todo)
        if load.schema is not None:
            Encoder(self.options, load.schema, f"topic {self.topic}").check()
        self._provide_journal()
        try:
            staging = Staging.opened(self._base / self.options.spool, load, f"topic {self.topic}")
        except OSError as error:
            todo = "give the user that runs dpone write access, or set options.spool to another folder"
            raise SinkError(f"open {self.options.spool}", error.strerror or type(error).__name__, todo) from error
        return KafkaWriter(self._session, self._journal, self.topic, self.options, load, staging, staging.load_id)

    def _provide_journal(self) -> None:
        name = self.options.journal
        if self._topic(name) is not None:
            if wrong := self._forgets():
                raise SinkError(f"use the journal {name}", wrong, _compacted(name))
            return
        if not self.options.create.allowed:
            found, todo = f"topic {name} does not exist", "create it with one partition and cleanup.policy=compact"
            raise ConfigError("open the journal", found, todo)
        made = self._session.create(name, 1, self.options.create.replication, SETTINGS)
        self._session.call(made, f"create the journal {name}")

    def close(self) -> None:
        self._session.close()


def _compacted(name: str) -> str:
    return f"kafka-configs --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact"
