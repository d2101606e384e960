"""The partition manifest of a load: made from its window, and compared with that of an interrupted load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from attrs import evolve, fields

from dpone.contract import Entry, Load, Part, Window
from dpone.errors import ManifestChanged, counted
from dpone.model.bounds import BOUNDS, Bounds
from dpone.model.pipeline import StreamSpec
from dpone.model.staged import Staged
from dpone.partition import Partition, PartitionManifest


def reconciled(
    new: PartitionManifest, old: PartitionManifest | None, staged: Mapping[str, Staged]
) -> PartitionManifest:
    """The manifest that a load starts with. A part is ``success`` if and only if the sink has it staged, whatever
    ``old`` says. A part that is ``running`` in ``old`` has lost its runner, because the caller holds the key's lock. A
    skipped part stays skipped in a load of the same token. Parts with the same id and bounds keep their attempts and
    errors."""
    known = {} if old is None else {(one.id, one.bounds): one for one in old.partitions}
    same = old is not None and old.token == new.token

    def open_(one: Partition) -> Partition:
        before = known.get((one.id, one.bounds))
        if before is not None:
            one = evolve(one, attempts=before.attempts, error=before.error)
            if same and before.status == "skipped":
                one = evolve(one, status="skipped", reason=before.reason)
        # MF-03: not by the status in ``old``. A part that is believed done without its rows is lost, and one that is
        # staged but not believed would be there twice.
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
            "revert that change to continue the load, or delete its partitions with "
            "'dpone partitions retry --from-scratch' (or --full-refresh) and run again"
        )
        raise ManifestChanged(f"resume {new.stream}", f"{done}; since then this changed: {', '.join(changes)}", todo)


def manifest_of(load: Load, window: Window, stream: StreamSpec, start: str | None) -> PartitionManifest:
    """The manifest of a load that is about to be opened. start: the position it begins after. The split of the window
    is not part of the fingerprint: another split makes the load start over, but the rows mean the same. If the window
    is momentary but the load can be resumed (mixed_snapshots), the moment is not part of the fingerprint either."""
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
    """Only the options that differ from their defaults, so that an option added by a later version changes no
    fingerprint, and that are in the repr: with the others a staged part means the same."""
    default = type(options)()
    names = [one.name for one in fields(type(options)) if one.repr]
    return {name: repr(getattr(options, name)) for name in names if getattr(options, name) != getattr(default, name)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _bounds(part: Part) -> Bounds | None:
    return Bounds.from_json(part.detail[BOUNDS]) if BOUNDS in part.detail else None


def parts_again(manifest: PartitionManifest) -> tuple[Part, ...]:
    """The value of ``WindowRequest.parts``."""
    return tuple(
        Part(one.id, {BOUNDS: one.bounds.to_json()} if one.bounds else {}) for one in manifest.partitions
    )  # fmt: skip


def committed(manifest: PartitionManifest, head: Entry | None) -> bool:
    """True if this load is the head of the journal."""
    return head is not None and head.load_id == manifest.load_id
