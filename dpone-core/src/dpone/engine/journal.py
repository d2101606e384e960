"""The key of a stream: who keeps its journal, where it stands, and its lock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

from dpone.contract import Entry, Lease, Receipt, Sink, StateBackend, SupportsMove, SupportsPartitions
from dpone.engine.job import Job
from dpone.engine.key_move import move, moved_to, require_here
from dpone.engine.lease import renewing
from dpone.engine.pause import require_running
from dpone.engine.recovery import compare, entry_of
from dpone.model.pipeline import StreamSpec
from dpone.model.position import Position
from dpone.partition import PartitionManifestStore

# The position of a key that was deliberately set back to its beginning.
START = Position("start", {}, {})


def keeps_journal(run: Job, spec: StreamSpec) -> bool:
    """True if the engine keeps the journal, as its state, because the sink cannot (``Connector.commit``)."""
    return run.plugins.get("sink", spec.sink.type).commit == "none"


def head_of(run: Job, spec: StreamSpec, sink: Sink, state: StateBackend, key: str) -> Entry | None:
    """The head of a key's journal, from the sink or from the state."""
    return entry_of(state.load(key)) if keeps_journal(run, spec) else sink.journal(key)


def manifests_of(run: Job, state: StateBackend) -> PartitionManifestStore | None:
    keeping = run.offered(SupportsPartitions, state, run.pipeline.state)
    return keeping.partitions() if keeping else None


def key_of(run: Job, spec: StreamSpec, sink: Sink, state: StateBackend) -> str:
    """The key of a stream: the former one, until a run has moved its entries. Changes nothing."""
    key, former = spec.key(run.pipeline.name), spec.former_key(run.pipeline.name)
    if former == key or state.load(key) is not None or head_of(run, spec, sink, state, key) is not None:
        return key
    head = head_of(run, spec, sink, state, former)
    there = state.load(former) is not None if head is None else not moved_to(head)
    return former if there else key


@contextmanager
def locked(
    run: Job, spec: StreamSpec, sink: Sink, state: StateBackend, new_epoch: bool = False, to_load: bool = False
) -> Iterator[tuple[str, Lease]]:
    """A stream's key and its lease, while its lock is held. Entries under the former key are moved first; a sink that
    cannot move them keeps the former key. ``new_epoch``: the next load has a new epoch, whatever the state says.
    ``to_load``: a load follows, which a paused stream refuses before anything is changed.

    The first time, the lock of the former key is held as well, because a runner of an earlier version takes that
    one."""
    key, former = spec.key(run.pipeline.name), spec.former_key(run.pipeline.name)
    ttl = run.pipeline.state.options.lease_seconds
    with ExitStack() as stack:
        lease = stack.enter_context(state.lock(key, ttl))
        stack.enter_context(renewing(lease, ttl))
        if to_load:
            require_running(run.pipeline, spec, state)
        if former != key and state.load(key) is None:
            theirs = stack.enter_context(state.lock(former, ttl))
            stack.enter_context(renewing(theirs, ttl))
            if _take_over(run, spec, sink, state, new_epoch):
                key, lease = former, theirs
        yield key, lease


def _take_over(run: Job, spec: StreamSpec, sink: Sink, state: StateBackend, new_epoch: bool) -> bool:
    """Move the entries of the former key, or finish a move that a killed run began. True: they must stay there."""
    key, former = spec.key(run.pipeline.name), spec.former_key(run.pipeline.name)
    head, there = (head_of(run, spec, sink, state, one) for one in (former, key))
    saved = state.load(former)
    if there is not None and moved_to(head) != key:
        return False
    if there is None and not new_epoch:
        require_here(former, head, spec.sink.location)
        compare(head, saved.value if saved else None, spec.sink.location)
    if head is None or moved_to(there) or moved_to(head) not in ("", key):
        return False
    moving = run.offered(SupportsMove, sink, spec.sink)
    if moving is None:
        return True
    move(spec, sink, moving, state, manifests_of(run, state), former, key, run.run_id)
    run.tell("warning", spec.name, text=f"journal and state moved from key {former} to {key}")
    return False


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def ask_journal(run: Job, spec: StreamSpec, key: str, load_id: str, error: Exception) -> Receipt:
    """If the answer to a commit is lost, the journal knows whether it happened."""
    head = None
    if keeps_journal(run, spec):
        raise error
    # If it is still out of reach, the next attempt or the next run asks again.
    with suppress(Exception), closing(run.make("sink", spec.sink)) as sink:
        head = sink.journal(key)
    if head is None or head.load_id != load_id:
        raise error
    return Receipt.of(head)
