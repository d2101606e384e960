"""A key is renamed: journal, state and partition manifest of the old key become those of the new one.

    the quarantine is settled -> one fenced commit of the sink: the journal, and a mark under the old key
    -> the manifest -> a pause -> the old state goes -> the new state: a copy of the journal's head

If it is killed between any two steps, the next call does the rest. The mark is an entry whose position has the kind
``moved``. A runner of the old key that is still alive finds another head than its own and gets a Conflict. A runner
that starts later, of any version, finds a position that every source refuses.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from attrs import evolve, frozen

from dpone.contract import Entry, Sink, StateBackend, SupportsMove, Versioned
from dpone.engine.contract_check import quarantine_folder
from dpone.engine.pause import move_pause
from dpone.engine.recovery import compare, state_of
from dpone.errors import StateMissing
from dpone.model.ids import ulid
from dpone.model.pipeline import StreamSpec
from dpone.model.position import Position
from dpone.partition import PartitionManifest, PartitionManifestStore

MOVED = "moved"


def moved_to(head: Entry | None) -> str:
    """The key that the entries were moved to; empty for any other entry."""
    return str(head.position.value["to"]) if head is not None and head.position.kind == MOVED else ""


def require_here(key: str, head: Entry | None, target: str) -> None:
    """Raises StateMissing if the entries of the key were moved to another key."""
    if to := moved_to(head):
        todo = "use the pipeline file with the new names, or move the key back with 'dpone state move'"
        raise StateMissing(f"load into {target}", f"key {key} was moved to {to}", todo)


@frozen
class KeyContents:
    """What exists under a key."""

    head: Entry | None
    state: Versioned | None
    manifest: PartitionManifest | None


def contents_of(sink: Sink, state: StateBackend, manifests: PartitionManifestStore | None, key: str) -> KeyContents:
    return KeyContents(sink.journal(key), state.load(key), manifests.load(key) if manifests else None)


def move(
    spec: StreamSpec,
    sink: Sink,
    moving: SupportsMove,
    state: StateBackend,
    manifests: PartitionManifestStore | None,
    old: str,
    new: str,
    run_id: str,
) -> None:
    """The caller holds the locks of both keys and has checked that ``old`` has a journal and ``new`` has none except a
    mark, or that an earlier move was interrupted."""
    head, there = sink.journal(old), sink.journal(new)
    if head is not None and moved_to(head) != new:
        if spec.sink.contract is not None:
            quarantine_folder(spec, old).settle(head.load_id)
            quarantine_folder(spec, old).sweep()
        _forget(state, new)  # a copy of the mark, at most
        moving.move(old, head, new, there, _mark(head, new, run_id))
        there = head
    if manifests is not None and (manifest := manifests.load(old)) is not None:
        if manifests.load(new) is None:
            manifests.create(evolve(manifest, key=new, stream=spec.name, target=spec.sink.location))
        manifests.forget(old)
    move_pause(state, old, new)
    _forget(state, old)
    saved = state.load(new)
    if there is not None and compare(there, saved.value if saved else None, spec.sink.location):
        state.save(new, state_of(there), saved.version if saved else 0)


def _mark(head: Entry, new: str, run_id: str) -> Entry:
    position = Position(MOVED, {}, {"to": new}, head.epoch + 1)
    token = hashlib.sha256(f"move {new} {head.load_id}".encode()).hexdigest()
    return Entry(head.seq + 1, position.epoch, ulid(), run_id, token, position, datetime.now(UTC))


def _forget(state: StateBackend, key: str) -> None:
    if (saved := state.load(key)) is not None:
        state.delete(key, saved.version)
