"""Partition manifests: what became of each part of a load, kept in the state backend while the load is under way.

A partition is ``success`` when it is staged; the load is done when it is committed. The sink's own staging is the
truth, the manifest says what it cannot: who is at work, how often a part was tried, what its last error was, what was
left out on purpose. So a load opens by holding its manifest against the staging (``reconciled``), and goes on.

Values and rules come first and are pure; a store gives one atomic step, ``PartitionManifestStore.change``, and every
rule runs inside it.
"""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Literal, TypeAlias

import pyarrow as pa
from attrs import evolve, fields, frozen

from dpone.bounds import BOUNDS, Bounds
from dpone.contract import Entry, Load, Part, Staged, Window
from dpone.errors import Busy, ConfigError, Conflict, ManifestChanged, SinkError, StateError, counted
from dpone.pipeline import StreamSpec
from dpone.process import Process
from dpone.schema import Name
from dpone.sql.dialect import Database, transaction
from dpone.sql.own import Own

FORMAT = 1
Status = Literal["pending", "running", "success", "failed", "skipped"]
STATUSES: tuple[Status, ...] = ("pending", "running", "success", "failed", "skipped")


@frozen
class Partition:
    """One part of a load. rows_extracted: read, those left out by a policy among them; rows_loaded: staged. artifact
    and checksum (SHA-256): of the file, where staging it made one. owner: ``owner_of`` the runner that holds it, until
    ``expires_at`` (seconds since 1970) unless renewed. error: the last one, kept through later attempts. reason: why
    it was skipped."""

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
        data = {name: getattr(self, name) for name in _NAMES}
        return {**data, "bounds": self.bounds.to_json() if self.bounds else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Partition:
        bounds = None if data["bounds"] is None else Bounds.from_json(data["bounds"])
        if data["status"] not in STATUSES:
            raise ValueError(f"status {data['status']!r}")
        return cls(**{**{name: data[name] for name in _NAMES}, "bounds": bounds})

    def staged(self, what: Staged) -> Partition:
        return evolve(
            self, status="success", rows_extracted=what.rows + what.filtered + what.quarantined,
            rows_loaded=what.rows, bytes=what.bytes, artifact=what.artifact, checksum=what.checksum,
            owner=None, expires_at=None, reason=None,
        )  # fmt: skip


_NAMES = tuple(one.name for one in fields(Partition))


@frozen
class PartitionManifest:
    """The parts of one load.

    key        of state and journal; a key has one manifest, that of its latest load in parts
    token      as in ``contract.Load``: only a load of the same token goes on with it
    window     digest of where the window begins and ends
    config     what the pipeline says of the load, by name: digests, so that a change can be named
    schema     column -> type of the rows
    resumable  a later run may go on with it: the window is repeatable, or the pipeline says mixed_snapshots
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
        """All but the partitions."""
        data = {one.name: getattr(self, one.name) for one in fields(PartitionManifest) if one.name != "partitions"}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in data.items()}
        return {"format": FORMAT, **plain, "created_at": self.created_at.isoformat()}

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
    todo = "start the load over with 'dpone partitions retry --anew'; the target keeps its rows"
    return StateError(f"read {where}", f"the manifest is damaged ({why})", todo)


# -- the rules ------------------------------------------------------------------------------------------------------


def owner_of(run_id: str) -> str:
    """This process in this run, as text."""
    me = Process.this()
    who = {"run": run_id, "host": me.host, "machine": me.machine, "pid": me.pid, "started": me.started}
    return json.dumps(who, sort_keys=True)


def shown(owner: str | None) -> str:
    """For people."""
    who = _process(owner)
    return f"process {who.pid} on {who.host}" if who else str(owner)


def _process(owner: str | None) -> Process | None:
    try:
        who = json.loads(owner or "")
        return Process(who["host"], who["machine"], int(who["pid"]), who["started"])
    except (KeyError, TypeError, ValueError):
        return None


def held(one: Partition, now: float) -> bool:
    """Someone is at work on it: its lease has not ended, and its process is not known to be gone."""
    if one.status != "running" or one.expires_at is None or one.expires_at <= now:
        return False
    who = _process(one.owner)
    return who is None or not who.gone()


def claimed(one: Partition, owner: str, ttl: float, now: float) -> Partition:
    """The partition, claimed by ``owner`` for ``ttl`` seconds. Raises Busy unless it is waiting to be processed."""
    if one.status in ("success", "skipped") or held(one, now):
        what = f"{shown(one.owner)} is processing it" if one.status == "running" else f"it is {one.status}"
        raise Busy(f"claim partition {one.id}", what, "process another partition, or wait until the lease ends")
    error = one.error
    if one.status == "running":
        error = f"{shown(one.owner)} stopped, or its lease ended"
    return evolve(
        one, status="running", owner=owner, expires_at=now + ttl, attempts=one.attempts + 1, error=error
    )  # fmt: skip


def mine(one: Partition, owner: str, step: str) -> Partition:
    if one.status == "running" and one.owner == owner:
        return one
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


def reconciled(
    new: PartitionManifest, old: PartitionManifest | None, staged: Mapping[str, Staged]
) -> PartitionManifest:
    """The manifest a load opens with. What the sink has staged is success and nothing else is, whatever ``old`` says;
    what ``old`` left running has lost its runner, as the caller holds the key's lock. Skipped stays skipped in a load
    of the same token; attempts and errors stay with parts of the same id and bounds."""
    known = {} if old is None else {(one.id, one.bounds): one for one in old.partitions}
    same = old is not None and old.token == new.token

    def open_(one: Partition) -> Partition:
        before = known.get((one.id, one.bounds))
        if before is not None:
            one = evolve(one, attempts=before.attempts, error=before.error)
            if same and before.status == "skipped":
                one = evolve(one, status="skipped", reason=before.reason)
        return one.staged(staged[one.id]) if one.id in staged else one

    return evolve(new, partitions=tuple(map(open_, new.partitions)))


def require_same(old: PartitionManifest, new: PartitionManifest, target: Mapping[str, str]) -> None:
    """Raises ManifestChanged if ``new`` continues the interrupted load ``old``, but the pipeline or the schema changed:
    the staged parts would have to be deleted. ``target``: columns and types of the target; a column whose type now
    equals the target's does not count as changed."""
    same = (old.epoch, old.window) == (new.epoch, new.window)
    if not (same and old.resumable and (old.of("success") or old.of("skipped"))):
        return
    changes = [name for name in sorted({*old.config, *new.config}) if old.config.get(name) != new.config.get(name)]
    for column in [*old.schema, *(name for name in new.schema if name not in old.schema)]:
        before, after = old.schema.get(column), new.schema.get(column)
        if before != after and after != target.get(column, ""):
            changes.append(f"column {column} (was {before or 'missing'}, is {after or 'missing'})")
    if changes:
        done = f"load {old.load_id} has staged {len(old.of('success'))} of {counted(len(old.partitions), 'partition')}"
        todo = (
            "undo that change to continue the load, or delete its partitions with 'dpone partitions retry --anew' "
            "(or --full-refresh) and run again"
        )
        raise ManifestChanged(f"resume {new.stream}", f"{done}; since then this changed: {', '.join(changes)}", todo)


def manifest_of(load: Load, window: Window, stream: StreamSpec, start: str | None) -> PartitionManifest:
    """The manifest of a load about to be opened. start: position it begins after. How the window is split is no part of
    the fingerprint: another split is a tuning that starts over, not another meaning. Where the window is momentary but
    the load can be resumed (mixed_snapshots), the moment is no part of what the window is."""
    position, schema = window.position, load.schema or pa.schema([])
    end = position.dumps() if window.repeatable else json.dumps(dict(position.identity), sort_keys=True)
    said = {
        "source.options": _said(stream.source.options),
        "source.query": stream.source.query,
        "sink.options": _said(stream.sink.options),
        "sink.strategy": repr(load.strategy),
    }
    if stream.sink.contract is not None:
        said["sink.contract"] = repr(stream.sink.contract)
    return PartitionManifest(
        key=load.key,
        load_id=load.load_id,
        run_id=load.run_id,
        stream=stream.name,
        source=position.identity,
        target=stream.sink.location,
        epoch=position.epoch,
        token=load.token,
        window=_digest([start, end]),
        config={name: _digest(value) for name, value in said.items()},
        schema={column.name: str(column.type) for column in schema},
        resumable=load.repeatable,
        created_at=load.started_at,
        partitions=tuple(Partition(part.id, _bounds(part)) for part in window.parts),
        position=position.to_json() if load.repeatable and not window.repeatable else None,
    )


def _said(options: Any) -> dict[str, str]:
    """What is not as it would be without a word: an option that comes with a later version changes nothing."""
    default = type(options)()
    names = [one.name for one in fields(type(options))]
    return {name: repr(getattr(options, name)) for name in names if getattr(options, name) != getattr(default, name)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _bounds(part: Part) -> Bounds | None:
    return Bounds.from_json(part.detail[BOUNDS]) if BOUNDS in part.detail else None


def parts_again(manifest: PartitionManifest) -> tuple[Part, ...]:
    """For ``WindowRequest.parts``."""
    return tuple(
        Part(one.id, {BOUNDS: one.bounds.to_json()} if one.bounds else {}) for one in manifest.partitions
    )  # fmt: skip


# -- stores ---------------------------------------------------------------------------------------------------------


Steps: TypeAlias = "Sequence[tuple[str, Callable[[Partition], Partition]]]"


class PartitionManifestStore(ABC):
    """Keeps the manifest of each key. A store gives the first four methods; ``change_all`` is atomic against every
    other process. All of them are durable on return, and may be called from several threads."""

    @abstractmethod
    def load(self, key: str) -> PartitionManifest | None:
        """Raises StateError on a damaged one."""

    @abstractmethod
    def create(self, manifest: PartitionManifest) -> None:
        """In place of the key's earlier one. The caller holds the key's lock."""

    @abstractmethod
    def forget(self, key: str) -> None:
        """The key has no manifest any more, damaged or not."""

    @abstractmethod
    def change_all(self, key: str, steps: Steps) -> list[Partition]:
        """Replace each partition named by what its step makes of it, all in one; answer them in order. What a step
        raises changes nothing."""

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
        """Not done, and not at fault: back to pending, as if the attempt had not been."""

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


_HEADS = Name(("__dpone__manifests",))
_HEAD = pa.schema([("key", pa.string()), ("manifest", pa.string())])
_COUNTS = ("rows_extracted", "rows_loaded", "bytes", "attempts")
_ROW = pa.schema(
    [("key", pa.string()), ("ordinal", pa.int64())]
    + [(name, pa.int64() if name in _COUNTS else pa.string()) for name in _NAMES]
)


class SqlPartitionManifestStore(PartitionManifestStore):
    """In the tables ``__dpone__manifests`` and ``__dpone__partitions`` of any database that has a ``Database``; one row
    per partition, so that a claim touches one. ``connect`` gives a connection for one call, ``heads`` is the first of
    the tables, next to which the second stands."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Database]], heads: Name = _HEADS) -> None:
        self._connect, self._names = connect, heads

    def load(self, key: str) -> PartitionManifest | None:
        with self._connected() as db:
            heads, partitions = self._tables(db)
            if not heads.exists():
                return None
            found: list[tuple[Any, ...]] | None = None
            rows: list[tuple[Any, ...]] = []
            while found != (again := heads.rows(["manifest"], {"key": key})):  # else it was replaced
                found, rows = again, partitions.rows(_ROW.names, {"key": key})
        if not found:
            return None
        try:
            head = json.loads(found[0][0])
            data = [_row_to_json(row) for row in sorted(rows, key=lambda row: int(row[1]))]
            return PartitionManifest.from_json({**head, "partitions": data})
        except (TypeError, ValueError) as error:
            raise damaged(f"{type(error).__name__}: {error}") from error

    def create(self, manifest: PartitionManifest) -> None:
        with self._writing(manifest.key, create=True) as (heads, partitions):
            heads.delete({"key": manifest.key})
            partitions.delete({"key": manifest.key})
            heads.insert(manifest.key, json.dumps(manifest.head_to_json(), sort_keys=True))
            for i, one in enumerate(manifest.partitions):
                partitions.insert(manifest.key, i, *_values(one))

    def forget(self, key: str) -> None:
        with self._writing(key) as tables:
            for table in tables:
                if table.exists():
                    table.delete({"key": key})

    def change_all(self, key: str, steps: Steps) -> list[Partition]:
        with self._writing(key) as (heads, partitions):
            if not partitions.exists() or not heads.rows(["key"], {"key": key}):
                raise no_manifest(key)
            return [self._change(partitions, key, id, step) for id, step in steps]

    def _change(self, partitions: Own, key: str, id: str, step: Callable[[Partition], Partition]) -> Partition:
        found = partitions.rows(_ROW.names, {"key": key, "id": id})
        if not found:
            raise no_partition(id)
        one = step(_partition(found[0]))
        partitions.update(dict(zip(_NAMES, _values(one), strict=True)), {"key": key, "id": id})
        return one

    def _tables(self, db: Database) -> tuple[Own, Own]:
        rows = self._names.sibling("__dpone__partitions")
        return Own(db, self._names, _HEAD, ("key",)), Own(db, rows, _ROW, ("key", "id"))

    @contextmanager
    def _connected(self) -> Iterator[Database]:
        """A Database speaks of a sink; here it is the state."""
        try:
            with self._connect() as db:
                yield db
        except SinkError as error:
            told = StateError("write the partition manifest", error.found, error.todo)
            told.category = error.category
            raise told from error

    @contextmanager
    def _writing(self, key: str, create: bool = False) -> Iterator[tuple[Own, Own]]:
        """Under a lock of its own: a sink in the same database holds that of the key while it stages. One runner makes
        the tables."""
        with self._connected() as db:
            tables = self._tables(db)
            if create and not tables[0].exists():
                with transaction(db, f"tables of partitions {'.'.join(self._names.parts[:-1])}"):
                    for table in tables:
                        table.create()
            with transaction(db, f"partitions {key}"):
                yield tables


def _values(one: Partition) -> tuple[Any, ...]:
    data = one.to_json()
    bounds = None if data["bounds"] is None else json.dumps(data["bounds"], sort_keys=True)
    expires = None if one.expires_at is None else repr(one.expires_at)
    return tuple({**data, "bounds": bounds, "expires_at": expires}.values())


def _row_to_json(row: Sequence[Any]) -> dict[str, Any]:
    data = dict(zip(_NAMES, row[2:], strict=True))
    data["bounds"] = None if data["bounds"] is None else json.loads(data["bounds"])
    data["expires_at"] = None if data["expires_at"] is None else float(data["expires_at"])
    return data


def _partition(row: Sequence[Any]) -> Partition:
    try:
        return Partition.from_json(_row_to_json(row))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise damaged(f"{type(error).__name__}: {error}") from error


def committed(manifest: PartitionManifest, head: Entry | None) -> bool:
    """The journal ends with this load."""
    return head is not None and head.load_id == manifest.load_id
