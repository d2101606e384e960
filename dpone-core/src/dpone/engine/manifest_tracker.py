"""The manifest of a load while the load runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from attrs import define, evolve, field

from dpone.engine.manifest import reconciled
from dpone.errors import Conflict, SourceError, StateError
from dpone.model.secret import redact
from dpone.model.staged import Staged
from dpone.partition import (
    Partition,
    PartitionManifest,
    PartitionManifestStore,
    claimed,
    mine,
    owner_of,
)


class Halted(SourceError):
    """Another part of the window failed. This one was stopped, and its attempt does not count as a failure."""


@define
class ManifestTracker:
    """The manifest of a load while it runs, kept by the run that holds the key's lock. Without a store every method
    does nothing, so that a load of one part needs no other code. ``renew`` makes it a ``contract.Lease``."""

    store: PartitionManifestStore | None = None
    key: str = ""
    owner: str = ""
    ttl: float = 60.0
    skipped: tuple[Partition, ...] = ()
    _left: set[str] = field(factory=set)
    _begun: bool = False
    run_id: str = ""
    _held: set[str] = field(factory=set, init=False)
    _unsaved: dict[str, Staged] = field(factory=dict, init=False)
    _guard: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def open(
        cls,
        store: PartitionManifestStore,
        new: PartitionManifest,
        old: PartitionManifest | None,
        staged: Mapping[str, Staged],
        ttl: float,
    ) -> ManifestTracker:
        """Store the manifest that the load continues with; durable on return."""
        manifest = reconciled(new, old, staged)
        store.create(manifest)
        left = {one.id for one in manifest.of("pending")}
        return cls(store, new.key, owner_of(new.run_id), ttl, manifest.of("skipped"), left, bool(staged), new.run_id)

    @contextmanager
    def running(self, id: str) -> Iterator[Callable[[Staged], None]]:
        """Claim the part while the block runs. The block calls the given function once the part is staged. A failure is
        recorded and raised again."""
        store = self.store
        if store is None:
            yield lambda staged: None
            return
        claim = (id, lambda one: claimed(one, self.owner, self.ttl, time.time()))
        with self._guard:
            store.change_all(self.key, (*self._finished(), claim))
            self._unsaved.clear()
            self._held.add(id)

        def finish(staged: Staged) -> None:
            with self._guard:
                self._unsaved[id] = staged
                self._begun = True
                self._left.discard(id)

        try:
            yield finish
        except BaseException as error:
            with suppress(
                Exception
            ):  # the first error is the one to report; the next run finds that the part is not staged
                self.save()
                if isinstance(error, Exception) and not isinstance(error, Halted):
                    store.fail(self.key, id, self.owner, _error_text(error))
                else:
                    store.release(self.key, id, self.owner)
            raise
        finally:
            with self._guard:
                self._held.discard(id)

    def save(self) -> None:
        """Record the parts that have ended. This normally waits for the next claim, which records them too. A late
        record does no harm, because the staging decides."""
        with self._guard:
            if self.store is not None and self._unsaved:
                self.store.change_all(self.key, self._finished())
                self._unsaved.clear()

    def _finished(self) -> tuple[tuple[str, Callable[[Partition], Partition]], ...]:
        def step(staged: Staged) -> Callable[[Partition], Partition]:
            return lambda one: mine(one, self.owner, "finish").staged(staged)

        return tuple((id, step(staged)) for id, staged in self._unsaved.items())

    @property
    def half_done(self) -> bool:
        """Some parts are staged, and some are not."""
        return self._begun and bool(self._left)

    def renew(self) -> None:
        """Renew the claims of all parts that are being read."""
        with self._guard:
            held = tuple(self._held)
        for id in held if self.store else ():
            with suppress(Conflict):  # the part has just ended, or has lost its claim and reports that at its end
                self.store.renew(self.key, id, self.owner, self.ttl)  # type: ignore[union-attr]

    def taken_over(self) -> bool:
        """True if another run has opened the load since; it may continue with the staged parts."""
        with suppress(StateError):
            manifest = self.store.load(self.key) if self.store else None
            return manifest is not None and manifest.run_id != self.run_id
        return True

    def dropped(self) -> None:
        """The staging was dropped, so no part is done any more."""
        if self.store is not None and (manifest := self.store.load(self.key)):
            self.store.change_all(self.key, [(one.id, _undone) for one in manifest.of("success")])


def _undone(one: Partition) -> Partition:
    return evolve(one, status="pending") if one.status == "success" else one


def _error_text(error: Exception) -> str:
    text = str(error) if hasattr(error, "found") else f"{type(error).__name__}: {error}"
    return redact(" ".join(text.split()))[:1000]
