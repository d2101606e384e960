"""Where a stream stands: the journal's head, and the state, which is a copy of it. Values in, values out; no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from dpone.contract import Entry, Versioned
from dpone.errors import StateAhead, StateError
from dpone.model.position import Position

STATE_FORMAT = 1


def state_of(entry: Entry) -> dict[str, Any]:
    return {
        "format": STATE_FORMAT,
        "seq": entry.seq,
        "load_id": entry.load_id,
        "run_id": entry.run_id,
        "position": entry.position.to_json(),
    }


def journal_of(entry: Entry) -> dict[str, Any]:
    """The state if it is the journal too (``Connector.commit`` none): with the fields that only an entry has."""
    rest = {"token": entry.token, "committed_at": entry.committed_at.isoformat(), "rows": dict(entry.rows)}
    return {**state_of(entry), "journal": rest}


def entry_of(saved: Versioned | None) -> Entry | None:
    """The inverse: the journal's head, from what ``state_of`` or ``journal_of`` made. None also for a damaged state,
    which ``compare`` refuses."""
    if saved is None:
        return None
    with suppress(StateError, LookupError, TypeError, ValueError):
        epoch, seq, load_id = _place_in(saved.value)
        rest = saved.value.get("journal") or {}
        at = datetime.fromisoformat(rest["committed_at"]) if rest else saved.saved_at
        position, run_id = Position.from_json(saved.value["position"]), str(saved.value["run_id"])
        return Entry(seq, epoch, load_id, run_id, rest.get("token", ""), position, at, rest.get("rows", {}))
    return None


def _place_in(saved: Mapping[str, Any]) -> tuple[int, int, str]:
    """Epoch, seq and load id of a saved state. Raises StateError."""
    try:
        if saved["format"] != STATE_FORMAT:
            raise ValueError(f"format {saved['format']!r}, this dpone reads {STATE_FORMAT}")
        epoch, seq, load_id = Position.from_json(saved["position"]).epoch, saved["seq"], saved["load_id"]
        if type(seq) is not int or not isinstance(load_id, str):
            raise ValueError("seq must be a number and load_id a string")
        return epoch, seq, load_id
    except (KeyError, TypeError, ValueError, StateError) as error:
        why = f"in its position: {error.found}" if isinstance(error, StateError) else f"{type(error).__name__}: {error}"
        todo = "use the dpone version that wrote it, or start over with --full-refresh or 'dpone state set'"
        raise StateError("read the state", why, todo) from error


def compare(head: Entry | None, saved: Mapping[str, Any] | None, target: str) -> bool:
    """True if the state is behind and must adopt the journal's head. Raises StateAhead if it claims what the journal
    lacks.

    A later epoch is ahead, whatever its seq: a target that was created again counts from 1.
    """
    if saved is None:
        return head is not None
    epoch, seq, load_id = _place_in(saved)
    failed = f"compare the state with the journal of {target}"
    todo = (
        "if the target was restored, dropped or replaced, use --full-refresh or set a position with 'dpone state set'"
    )
    # ST-01: never back to the older of the two. A journal that lags behind the state means that the target was
    # restored, and the rows in between would never be loaded again.
    if head is None or (head.epoch, head.seq) < (epoch, seq):
        ends = f"ends at seq {head.seq} of epoch {head.epoch}" if head else "is empty"
        found = f"the state has load {load_id} (seq {seq}, epoch {epoch}), but the journal {ends}"
        raise StateAhead(failed, found, todo)
    if (head.epoch, head.seq) == (epoch, seq) and head.load_id != load_id:
        raise StateAhead(failed, f"seq {seq} is load {load_id} in the state, but {head.load_id} in the journal", todo)
    return (head.epoch, head.seq) > (epoch, seq)


def rewind_token(key: str, position: Position) -> str:
    return hashlib.sha256(f"rewind {key} {position.dumps()}".encode()).hexdigest()


def next_epoch(head: Entry | None, saved: Versioned | None) -> int:
    """The epoch of a deliberate rewind: above every epoch in journal and state, 0 if there is none."""
    known = [head.epoch] if head else []
    if saved is not None:
        with suppress(StateError, LookupError, TypeError):  # a rewind is the way to repair a damaged state
            known.append(Position.from_json(saved.value["position"]).epoch)
    return max(known) + 1 if known else 0
