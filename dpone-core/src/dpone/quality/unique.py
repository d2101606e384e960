"""The values of a ``unique`` rule that occurred so far, in memory or on the disk."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dpone.quality.files import writing_into

RUN = 1 << 20  # keys held in memory before they go to the disk


class SeenOnDisk:
    """``rowcheck.SeenKeys`` in bounded memory: sorted runs, the larger ones in unnamed files that no other process can
    open.

    A batch is sorted and looked up in every run at once. For 2 million random keys of 16 bytes that took 1.8 s, where a
    SQLite table with the key as its primary key took 20 s.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recent: list[Keys] = []
        self._runs: list[Keys] = []

    def add(self, keys: Keys) -> Mask:
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        repeated = np.zeros(len(keys), np.bool_)
        repeated[1:] = ordered[1:] == ordered[:-1]
        for run in self._recent:
            repeated |= _among(ordered, run)
        for mapped in self._runs:
            repeated |= _among(ordered, mapped)
            _let_go(mapped)
        self._remember(ordered[~repeated])
        found = np.empty(len(keys), np.bool_)
        found[order] = repeated
        return found

    def _remember(self, new: Keys) -> None:
        """Runs of similar length are merged, so that there are few; a long one goes to the disk."""
        while self._recent and len(self._recent[-1]) <= 2 * len(new):
            new = _merged(self._recent.pop(), new)
        if len(new) >= RUN:
            self._runs.append(self._written(new))
        elif len(new):
            self._recent.append(new)

    def _written(self, run: Keys) -> Keys:
        with writing_into(self._folder), tempfile.TemporaryFile(dir=self._folder) as file:
            file.write(run.tobytes())
            file.flush()
            # The mapping keeps the bytes after the file is closed (mmap(2)), and the file has no name: a crash leaves
            # nothing.
            return np.memmap(file, run.dtype, "r")


def _let_go(run: Keys) -> None:
    """Its pages count as memory of this process once they were looked at; the system keeps them as long as it likes."""
    mapping = getattr(run, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _merged(old: Keys, new: Keys) -> Keys:
    """Numbers that a sequence gave are in order already."""
    both = np.concatenate([old, new])
    return both if not len(new) or old[-1] < new[0] else np.sort(both, kind="stable")


def _among(ordered: Keys, run: npt.NDArray[Any]) -> Mask:
    if not len(ordered) or ordered[-1] < run[0] or ordered[0] > run[-1]:
        return np.zeros(len(ordered), np.bool_)
    at = np.searchsorted(run, ordered)
    at[at == len(run)] = len(run) - 1
    found: Mask = np.asarray(run[at] == ordered)
    return found


Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[Any]  # uint64, or 16 bytes each


class SeenKeys(Protocol):
    """The values of one ``unique`` rule so far."""

    def add(self, keys: Keys) -> Mask:
        """True for those that came before, in an earlier call or earlier in this one."""
        ...


class SeenInMemory:
    """``SeenKeys`` for rows that are in memory anyway."""

    def __init__(self) -> None:
        self._known: set[Any] = set()

    def add(self, keys: Keys) -> Mask:
        found = np.zeros(len(keys), np.bool_)
        for i, key in enumerate(keys.tolist()):
            found[i] = key in self._known
            self._known.add(key)
        return found
