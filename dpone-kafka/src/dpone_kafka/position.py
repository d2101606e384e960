"""The position of a stream of topics: what was read of each partition, and what tells that the log below it is still
the one that was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from dpone.errors import ContentChanged, Gap, IdentityChanged, SetBack, counted
from dpone.model.position import Position

KIND = "kafka"


@frozen
class TopicPosition:
    """id      of the topic; empty if the broker has none
    policy  its ``cleanup.policy`` as it was; empty if the user may not see it
    next    partition -> the offset to read on from
    marks   partition -> ``records.fingerprint`` of the batch before ``next``
    """

    id: str = ""
    policy: str = ""
    next: Mapping[int, int] = field(factory=dict)
    marks: Mapping[int, str] = field(factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "policy": self.policy,
            "next": {str(p): offset for p, offset in sorted(self.next.items())},
            "marks": {str(p): mark for p, mark in sorted(self.marks.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TopicPosition:
        marks = {int(p): str(mark) for p, mark in data.get("marks", {}).items()}
        return cls(data.get("id", ""), data.get("policy", ""), {int(p): int(o) for p, o in data["next"].items()}, marks)


def known(after: Position | None, identity: Mapping[str, Any], what: str) -> dict[str, TopicPosition]:
    """What was read of each topic. Raises IdentityChanged for a position of another cluster or stream."""
    if after is None:
        return {}
    if after.kind != KIND:
        found = f"the position belongs to {after.kind}"
        raise IdentityChanged(f"resume {what}", found, "restore the source, or start over with --full-refresh")
    if after.identity != identity:
        cluster, now = after.identity.get("cluster", "another system"), identity["cluster"]
        found = f"the position is of cluster {cluster} and this is {now}"
        if cluster == now:
            found = f"the position is of topic {after.identity.get('topic')}"
        todo = "restore the connection or the topic, or start over with --full-refresh"
        raise IdentityChanged(f"resume {what}", found, todo)
    return {name: TopicPosition.from_json(one) for name, one in after.value["topics"].items()}


@frozen
class Log:
    """A partition as it is now. ``first``: its first offset; ``end``: the one after the last that may be read;
    ``high``: the one after the last that is replicated, which is larger while a transaction is open."""

    topic: str
    partition: int
    first: int
    end: int
    high: int

    @property
    def what(self) -> str:
        return f"resume {self.topic}, partition {self.partition}"


_OVER = "start over with --full-refresh, or set a position with 'dpone state set'"


def require_same_topic(name: str, before: TopicPosition, id: str, policy: str, partitions: int) -> None:
    if before.id and id and before.id != id:
        found = f"it was deleted and created again (topic id {id}, not {before.id})"
        raise IdentityChanged(f"resume {name}", found, _OVER)
    if before.next and max(before.next) >= partitions:
        found = f"it has {counted(partitions, 'partition')}, but {max(before.next) + 1} were read"
        raise IdentityChanged(f"resume {name}", f"{found}: it was created again", _OVER)
    if before.policy and policy and "compact" in policy and "compact" not in before.policy:
        found = f"its cleanup.policy was {before.policy} and is {policy}: records may have been removed unread"
        raise Gap(f"resume {name}", found, _OVER)


def start_of(log: Log, before: int) -> int:
    """Where to read on. Raises Gap or SetBack."""
    if before < log.first:
        found = f"offsets {before:,} to {log.first - 1:,} were removed by retention before they were read"
        todo = "raise the topic's retention, and start over with --full-refresh or 'dpone state set'"
        raise Gap(log.what, found, todo)
    if before > log.high:
        found = f"the log ends at offset {log.high:,}, before the position {before:,}: it was truncated"
        raise SetBack(log.what, found, _OVER)
    return before


def require_same_mark(log: Log, before: int, mark: str, now: str) -> None:
    """The batch before the position is the one that was read, if it is still there."""
    if mark and now and mark != now:
        found = f"the records before offset {before:,} are not those that were read: the log was truncated or replaced"
        raise ContentChanged(log.what, found, _OVER)
