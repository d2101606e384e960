"""What the built-in file connector offers. Imports no pyarrow."""

from __future__ import annotations

from dpone.capability import Connector, declare
from dpone.hookspecs import hookimpl

_HERE = "dpone.connectors.file."
_HARNESS = "dpone.testing.builtin:FileHarness"


@hookimpl
def dpone_sources() -> list[Connector]:
    return [
        Connector(
            name="file",
            implementation=_HERE + "source:FileSource",
            options=_HERE + "config:FileSourceOptions",
            harness=_HARNESS,
            takes=("path",),
            capabilities=declare(
                "source",
                supported=("read", "snapshot", "repeatable", "partitions", "incremental_cdc"),
                unsupported=("query", "incremental_xmin", "incremental_change_tracking", "native_stream"),
            ),
        )
    ]


@hookimpl
def dpone_cdc_readers() -> list[Connector]:
    supported = ("insert_update_delete", "key_change", "truncate", "unchanged", "schema_change", "gap", "status")
    return [
        Connector(
            name="file_changelog",
            implementation=_HERE + "changelog:FileChangeLog",
            options=_HERE + "config:FileSourceOptions",
            harness="dpone.testing.builtin:ChangeLogHarness",
            takes=("path", "table"),
            capabilities=declare("cdc", supported, unsupported=("snapshot_handover",)),
            serves=("file", "cdc"),
        )
    ]


@hookimpl
def dpone_sinks() -> list[Connector]:
    return [
        Connector(
            name="file",
            implementation=_HERE + "sink:FileSink",
            options=_HERE + "config:FileSinkOptions",
            harness=_HARNESS,
            takes=("path",),
            commit="manifest",
            capabilities=declare(
                "sink",
                supported=(
                    "write", "full_refresh", "append", "exactly_once", "schema_evolution", "lineage", "resume",
                    "parallel_stage", "undo", "move", "take_back", "replace_columns", "verify",
                ),
                # Parts are immutable: there is no row to update or delete in place.
                unsupported=("merge", "scd2", "cdc_apply", "native_stream"),
            ),
        )
    ]  # fmt: skip


@hookimpl
def dpone_state_backends() -> list[Connector]:
    return [
        Connector(
            name="file",
            implementation=_HERE + "state:FileState",
            options=_HERE + "config:FileStateOptions",
            harness=_HARNESS,
            takes=("path",),
            capabilities=declare("state", supported=("compare_and_set", "history", "lock", "partitions", "run_log")),
        )
    ]
