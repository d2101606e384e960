"""What this distribution brings, as data. Importing this module loads no driver."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl

_ERRORS = "dpone_kafka.errors:CODES"


@hookimpl
def dpone_sources() -> list[Connector]:
    cannot = (
        "query", "incremental_cursor", "late_commits", "incremental_xmin", "incremental_change_tracking",
        "mixed_snapshots", "native_stream",
    )  # fmt: skip
    return [
        Connector(
            "kafka",
            "dpone_kafka.source:KafkaSource",
            "dpone_kafka.config:KafkaSourceOptions",
            declare("source", ("read", "snapshot", "repeatable", "partitions", "incremental_cdc"), cannot),
            takes=("connection", "topic"),
            errors=_ERRORS,
            harness="dpone_kafka.testing:KafkaHarness",
        ),
    ]


@hookimpl
def dpone_cdc_readers() -> list[Connector]:
    return [
        Connector(
            "kafka_changes",
            "dpone_kafka.changes:KafkaChanges",
            "dpone_kafka.config:KafkaSourceOptions",
            # A topic has the changes of one table, and no transactions of the system they came from. Its end and its
            # beginning are not created, so there is nothing to hand over.
            declare(
                "cdc",
                ("insert_update_delete", "key_change", "truncate", "unchanged", "schema_change", "gap"),
                ("snapshot_handover",),
            ),
            takes=("connection", "topic"),
            errors=_ERRORS,
            serves=("kafka", "cdc"),
        ),
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    return [
        Connector(
            "kafka",
            "dpone_kafka.sink:KafkaSink",
            "dpone_kafka.sink_options:KafkaSinkOptions",
            declare(
                "sink",
                supported=(
                    "write",
                    "append",
                    "exactly_once",
                    "lineage",
                    "resume",
                    "parallel_stage",
                    "many_tables",
                    "verify",
                ),
            ),
            takes=("connection", "topic"),
            commit="log",
            errors=_ERRORS,
            harness="dpone_kafka.testing:KafkaSinkHarness",
            example="localhost:9092",
            exactly_once_with="delivery: transactional",
        ),
    ]
