"""Capabilities as data, and the light records in which a plugin declares what it is.

A record names its implementation as ``module:Class`` and imports nothing, so that discovery loads no driver.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import field, frozen

from dpone.model.strategy import MODES

Role = Literal["source", "sink", "state", "cdc"]


class Support(enum.StrEnum):
    """UNSUPPORTED: the system cannot do it. NOT_IMPLEMENTED: the system could, but this version does not."""

    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    NOT_IMPLEMENTED = "not implemented"


CAPABILITIES: Mapping[Role, Mapping[str, str]] = {
    "source": {
        "read": "read a table, file or topic to a bound fixed before the read",
        "query": "read the result of a query",
        "snapshot": "one consistent snapshot for the whole read",
        "repeatable": "a window read again gives the same rows",
        "incremental_cursor": "resume by a cursor column without losing equal values",
        "late_commits": "by cursor: wait for open transactions, or read up to them, so that no commit is missed",
        "incremental_xmin": "resume by transaction id",
        "incremental_cdc": "resume by a change stream",
        "incremental_change_tracking": "resume by change tracking versions",
        "partitions": "split a window into parts that are read separately",
        "mixed_snapshots": "read the remaining parts of a lost snapshot in a new one",
        "native_stream": "provide the server's own byte stream",
    },
    "sink": {
        "write": "store rows exactly or refuse them; lose none when a run is killed",
        **{name: mode.summary for name, mode in MODES.items()},
        "exactly_once": "make rows, journal entry and position durable together",
        "schema_evolution": "add and widen columns before staging",
        "lineage": "write load id and load time in every row",
        "resume": "keep staged parts after a crash, so that they are not read again",
        "parallel_stage": "stage several parts at once, from several threads",
        "native_stream": "accept the server's own byte stream",
        "many_tables": "load several tables in one commit",
        "undo": "keep what a load replaced, so that the load can be taken back",
        "sweep": "delete old journal entries, and tables that no load needs",
        "move": "rename a key in one fenced step",
        "take_back": "remove tables and columns added by a load that did not commit",
        "replace_columns": "replace the target's columns too, in the commit of a full refresh",
        "refuse": "refuse a load that cannot succeed before reading a row",
        "verify": "detect before a load that the target lost rows",
        "compare_keys": "report different keys that the target treats as equal",
        "sql": "write names, types and changes as SQL without a connection",
    },
    "state": {
        "compare_and_set": "save only if the version is the one that was read",
        "history": "keep earlier values readable",
        "lock": "allow one run per key; take over the lock of a dead one",
        "partitions": "store partition manifests",
    },
    "cdc": {
        "insert_update_delete": "deliver row changes in commit order",
        "key_change": "deliver a changed key as a delete and an insert",
        "truncate": "handle truncates by a policy",
        "unchanged": "keep values that the log left out instead of writing NULL",
        "schema_change": "handle columns added and dropped inside the stream",
        "gap": "stop the run at a gap and name it",
        "snapshot_handover": "join initial snapshot and stream without a gap",
        "resync": "read all rows of one table again while the others continue",
        "status": "report from a position how far the stream is behind, and whether it can go on",
    },
}


# A source may declare any ``incremental_<word>``: ``<word>`` is then what ``incremental.by`` says in a pipeline.
INCREMENTAL = "incremental_"


def known(role: Role, capability: str) -> bool:
    return capability in CAPABILITIES[role] or (role == "source" and capability.startswith(INCREMENTAL))


def declare(role: Role, supported: Iterable[str] = (), unsupported: Iterable[str] = ()) -> Mapping[str, Support]:
    """All capabilities of a role with their support; those in neither list are NOT_IMPLEMENTED. A source may also
    declare ``incremental_<word>``."""
    row = dict.fromkeys(CAPABILITIES[role], Support.NOT_IMPLEMENTED)
    row.update(dict.fromkeys(supported, Support.SUPPORTED))
    row.update(dict.fromkeys(unsupported, Support.UNSUPPORTED))
    return row


WHAT = ("table", "query", "path", "topic")  # what a source reads or a sink writes; exactly one of them
Commit = Literal["transaction", "manifest", "log", "none"]
NEED_A_JOURNAL = ("exactly_once", "many_tables", "undo")


@frozen
class Connector:
    """Describes one role of one connector, as a plugin's hook returns it.

    name            what ``type:`` says in a pipeline
    implementation  ``module:Class``; imported when first used
    options         ``module:Class`` of the attrs class of ``options:`` (see SourceOptions, SinkOptions, StateOptions)
    capabilities    made with ``declare``
    takes           keys the pipeline must or may give: of table, query, path, topic exactly one; ``connection`` if
                    present is required
    errors          ``module:NAME`` of the driver's ErrorCodes
    serves          change readers: the type of source and the ``incremental.by`` that choose it, as in
                    ("postgres", "cdc"); the options are then those of the source
    harness         ``module:Class`` of the ``dpone.testing.Harness`` by which the conformance kit reaches the system;
                    only tests import it, so it may need what the extra ``testing`` brings
    example         sinks: a connection that the class accepts, if it would refuse ``NAME:///types``. ``dpone types``
                    and ``dpone schema-plan`` create a sink from it and never connect
    commit          sinks: how a load becomes durable, and who keeps the journal. The sink does, with the rows:
                    ``transaction`` (SQL), ``manifest`` (immutable parts, then one atomic manifest), ``log`` (a
                    transactional log). ``none``: it cannot (an HTTP API, a search index), so the engine keeps the
                    journal, as the state, and writes it after ``Writer.commit`` has returned. Rows that a crash leaves
                    unconfirmed are delivered again: at least once. Such a sink declares none of ``NEED_A_JOURNAL``
    exactly_once_with  sinks: the option (``name: value``) without which a sink that declares ``exactly_once`` delivers
                    at least once; its Harness sets the option, so that the evidence is for it
    """

    name: str
    implementation: str
    options: str
    capabilities: Mapping[str, Support] = field(factory=dict)
    takes: tuple[str, ...] = ()
    errors: str | None = None
    harness: str | None = None
    example: str | None = None
    commit: Commit | None = None
    serves: tuple[str, str] | None = None
    exactly_once_with: str = ""

    @property
    def implemented(self) -> bool:
        return Support.SUPPORTED in self.capabilities.values()

    @property
    def delivery(self) -> str:
        """Of a sink's rows: ``exactly once`` or ``at least once``, or which of them by an option."""
        if self.capabilities.get("exactly_once") is not Support.SUPPORTED:
            return "at least once"
        return f"exactly once with {self.exactly_once_with}" if self.exactly_once_with else "exactly once"

    def delivers(self, options: object) -> str:
        """``delivery`` of a sink with these options."""
        name, _, value = self.exactly_once_with.partition(": ")
        if not name or self.capabilities.get("exactly_once") is not Support.SUPPORTED:
            return self.delivery
        return "exactly once" if str(getattr(options, name, "")) == value else "at least once"
