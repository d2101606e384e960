"""Partition manifests: the status of each part of a load, kept in the state backend while the load runs.

A partition is ``success`` when it is staged; the load is done when it is committed. The sink's own staging is the
truth. The manifest records what the staging cannot: which process is working, how often a part was tried, its last
error, and what was left out on purpose. So a load first compares its manifest with the staging (``reconciled``).

Values and rules come first and are pure. A store has one atomic step, ``PartitionManifestStore.change_all``, and every
rule runs inside it.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

from attrs import evolve, fields, frozen

from dpone.errors import Busy, ConfigError, Conflict, StateError
from dpone.host.process import Process
from dpone.model.bounds import Bounds
from dpone.model.staged import Staged

FORMAT = 1
Status = Literal["pending", "running", "success", "failed", "skipped"]
STATUSES: tuple[Status, ...] = ("pending", "running", "success", "failed", "skipped")


@frozen
class Partition:
    """One part of a load. rows_extracted: rows read, including those that a policy left out; rows_loaded: rows staged.
    artifact and checksum (SHA-256): of the file, if staging made one. owner: ``owner_of`` the runner that holds it,
    until ``expires_at`` (seconds since 1970) unless renewed. error: the last one, kept through later attempts. reason:
    why it was skipped."""

    id: str
    bounds: Bounds | None = None
    status: Status = "pending"
    rows_extracted: int = 0
    rows_loaded: int = 0
    bytes: int = 0
    artifact: str | None = None
    checksum: str | None = None
    attempts: int = 0
    error: str | None = None
    reason: str | None = None
    owner: str | None = None
    expires_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in FIELDS}
        return {**data, "bounds": self.bounds.to_json() if self.bounds else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Partition:
        bounds = None if data["bounds"] is None else Bounds.from_json(data["bounds"])
        if data["status"] not in STATUSES:
            raise ValueError(f"status {data['status']!r}")
        return cls(**{**{name: data[name] for name in FIELDS}, "bounds": bounds})

    def staged(self, what: Staged) -> Partition:
        return evolve(
            self, status="success", rows_extracted=what.rows + what.filtered + what.quarantined,
            rows_loaded=what.rows, bytes=what.bytes, artifact=what.artifact, checksum=what.checksum,
            owner=None, expires_at=None, reason=None,
        )  # fmt: skip


FIELDS = tuple(one.name for one in fields(Partition))


@frozen
class PartitionManifest:
    """The parts of one load.

    key        the key of state and journal; it has one manifest, that of its latest load in parts
    token      as in ``contract.Load``: only a load with the same token continues with it
    window     digest of where the window begins and ends
    config     the options of the load, as digests by name, so that a message can name what changed
    schema     column -> type of the rows
    resumable  a later run may continue with it: the window is repeatable, or the pipeline says mixed_snapshots
    position   where the window ends, for a window that cannot be fixed again (mixed_snapshots); else None
    """

    key: str
    load_id: str
    run_id: str
    stream: str
    source: Mapping[str, Any]
    target: str
    epoch: int
    token: str
    window: str
    config: Mapping[str, str]
    schema: Mapping[str, str]
    resumable: bool
    created_at: datetime
    partitions: tuple[Partition, ...]
    position: Mapping[str, Any] | None = None

    def head_to_json(self) -> dict[str, Any]:
        """Everything except the partitions."""
        data = {one.name: getattr(self, one.name) for one in fields(PartitionManifest) if one.name != "partitions"}
        copied = {name: dict(value) if isinstance(value, Mapping) else value for name, value in data.items()}
        return {"format": FORMAT, **copied, "created_at": self.created_at.isoformat()}

    def to_json(self) -> dict[str, Any]:
        return {**self.head_to_json(), "partitions": [one.to_json() for one in self.partitions]}

    @classmethod
    def from_json(cls, data: Any) -> PartitionManifest:
        """Raises StateError if the manifest is damaged; it is never treated as missing."""
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this dpone reads {FORMAT}")
            names = [one.name for one in fields(cls) if one.name not in ("partitions", "created_at")]
            partitions = tuple(map(Partition.from_json, data["partitions"]))
            if len({one.id for one in partitions}) != len(partitions):
                raise ValueError("a partition is listed twice")
            created = datetime.fromisoformat(data["created_at"])
            return cls(**{name: data[name] for name in names}, partitions=partitions, created_at=created)
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise damaged(f"{type(error).__name__}: {error}") from error

    def of(self, status: Status) -> tuple[Partition, ...]:
        return tuple(one for one in self.partitions if one.status == status)

    def partition(self, id: str) -> Partition | None:
        return next((one for one in self.partitions if one.id == id), None)


def damaged(why: str, where: str = "the partition manifest") -> StateError:
    todo = "start the load over with 'dpone partitions retry --from-scratch'; the target keeps its rows"
    return StateError(f"read {where}", f"the manifest is damaged ({why})", todo)


# -- the rules ------------------------------------------------------------------------------------------------------


def owner_of(run_id: str) -> str:
    """This process in this run, as text."""
    me = Process.this()
    who = {"run": run_id, "host": me.host, "machine": me.machine, "pid": me.pid, "started": me.started}
    return json.dumps(who, sort_keys=True)


def shown(owner: str | None) -> str:
    """The owner as people read it."""
    who = _process(owner)
    return f"process {who.pid} on {who.host}" if who else str(owner)


def _process(owner: str | None) -> Process | None:
    try:
        who = json.loads(owner or "")
        return Process(who["host"], who["machine"], int(who["pid"]), who["started"])
    except (KeyError, TypeError, ValueError):
        return None


def held(one: Partition, now: float) -> bool:
    """A process holds it: its lease has not ended, and the process is not known to be gone."""
    if one.status != "running" or one.expires_at is None or one.expires_at <= now:
        return False
    who = _process(one.owner)
    return who is None or not who.gone()


def claimed(one: Partition, owner: str, ttl: float, now: float) -> Partition:
    """The partition, claimed by ``owner`` for ``ttl`` seconds. Raises Busy unless it is waiting to be processed."""
    # MF-07: the check and the claim are one atomic step of the store. MF-02: a claim ends with its lease or its
    # process, so a killed run blocks nobody.
    if one.status in ("success", "skipped") or held(one, now):
        what = f"{shown(one.owner)} is processing it" if one.status == "running" else f"it is {one.status}"
        raise Busy(f"claim partition {one.id}", what, "process another partition, or wait until the lease ends")
    error = one.error
    if one.status == "running":
        # MF-06: a run that was killed has recorded no error of its own.
        error = f"{shown(one.owner)} stopped, or its lease ended"
    return evolve(
        one, status="running", owner=owner, expires_at=now + ttl, attempts=one.attempts + 1, error=error
    )  # fmt: skip


def mine(one: Partition, owner: str, step: str) -> Partition:
    if one.status == "running" and one.owner == owner:
        return one
    # MF-07: a process that was suspended beyond its lease must not overwrite what its successor records.
    found = f"{shown(one.owner)} took it over" if one.status == "running" else f"it is now {one.status}"
    raise Conflict(f"{step} partition {one.id}", found, "let the other run finish; nothing was recorded")


def _let_go(one: Partition, status: Status) -> Partition:
    return evolve(one, status=status, owner=None, expires_at=None)


def skipped(one: Partition, reason: str, now: float) -> Partition:
    if one.status == "success" or held(one, now):
        found = "it is already staged" if one.status == "success" else f"{shown(one.owner)} is processing it"
        raise ConfigError(f"skip partition {one.id}", found, "skip only pending or failed partitions")
    return evolve(_let_go(one, "skipped"), reason=reason)


def waiting(one: Partition, now: float) -> Partition:
    """The partition, pending again; ``attempts`` and ``error`` stay. Raises ConfigError if it is staged or running."""
    if one.status == "success" or held(one, now):
        found = "it is already staged" if one.status == "success" else f"{shown(one.owner)} is processing it"
        raise ConfigError(f"retry partition {one.id}", found, "retry only failed or skipped partitions")
    return evolve(_let_go(one, "pending"), reason=None)


# -- stores ---------------------------------------------------------------------------------------------------------


Steps: TypeAlias = "Sequence[tuple[str, Callable[[Partition], Partition]]]"


class PartitionManifestStore(ABC):
    """Keeps the manifest of each key. A store implements the first four methods; ``change_all`` is atomic for all
    processes. All of them are durable on return, and may be called from several threads."""

    @abstractmethod
    def load(self, key: str) -> PartitionManifest | None:
        """Raises StateError if the manifest is damaged."""

    @abstractmethod
    def create(self, manifest: PartitionManifest) -> None:
        """Store a manifest in place of the key's earlier one. The caller holds the key's lock."""

    @abstractmethod
    def forget(self, key: str) -> None:
        """Remove the manifest of the key, damaged or not."""

    @abstractmethod
    def change_all(self, key: str, steps: Steps) -> list[Partition]:
        """Replace each named partition by the result of its step, all at once; returns them in order. If a step raises,
        nothing is changed."""

    def change(self, key: str, id: str, step: Callable[[Partition], Partition]) -> Partition:
        return self.change_all(key, ((id, step),))[0]

    def claim(self, key: str, id: str, owner: str, ttl: float) -> Partition:
        """Claim the partition for ``owner`` for ``ttl`` seconds from now; durable on return. Of two callers one wins
        and the other gets Busy; so does a claim of a staged or skipped partition. A lease that has ended, or whose
        process on this machine has ended, is taken over."""
        return self.change(key, id, lambda one: claimed(one, owner, ttl, time.time()))

    def renew(self, key: str, id: str, owner: str, ttl: float) -> None:
        """Raises Conflict when it was taken over."""
        self.change(key, id, lambda one: evolve(mine(one, owner, "renew"), expires_at=time.time() + ttl))

    def finish(self, key: str, id: str, owner: str, staged: Staged) -> None:
        """Staged. Raises Conflict when it was taken over."""
        self.change(key, id, lambda one: mine(one, owner, "finish").staged(staged))

    def fail(self, key: str, id: str, owner: str, error: str) -> None:
        """Raises Conflict when it was taken over."""
        self.change(key, id, lambda one: evolve(_let_go(mine(one, owner, "fail"), "failed"), error=error))

    def release(self, key: str, id: str, owner: str) -> None:
        """Reset the partition to pending; the attempt does not count."""

        def step(one: Partition) -> Partition:
            return evolve(_let_go(mine(one, owner, "release"), "pending"), attempts=one.attempts - 1)

        self.change(key, id, step)

    def skip(self, key: str, id: str, reason: str) -> Partition:
        """Mark the partition as skipped; durable on return. Raises ConfigError if it is staged or running."""
        return self.change(key, id, lambda one: skipped(one, reason, time.time()))

    def retry(self, key: str, id: str) -> Partition:
        """Make a failed, skipped or abandoned partition pending again; durable on return. Raises ConfigError if it is
        staged or running."""
        return self.change(key, id, lambda one: waiting(one, time.time()))


def no_manifest(key: str) -> StateError:
    todo = "see 'dpone partitions show'; only a load with several parts has a manifest"
    return StateError("change a partition", f"{key} has no manifest", todo)


def no_partition(id: str) -> ConfigError:
    return ConfigError(
        "change a partition", f"partition {id!r} does not exist", "see 'dpone partitions show' for the IDs"
    )
