"""What a process does to a folder, and what a power cut could leave of it.

A ``Recorder`` looks at the whole tree before and after every call of ``os`` that changes names or syncs, so that
nothing happens unseen: what C code writes or creates shows as a difference too. More than one change of names between
two looks would leave their order open, and fails.

The rules of the cut are harder than those of most file systems, and not harder than POSIX:

* what a file holds is durable once the file was synced; until then it holds what it held at its last sync, or what it
  holds now, or a piece of that, or as many zeros;
* a name in a folder (made, changed, removed) is durable once that folder was synced; until then each change may be lost
  for itself, whatever came after it, also if the file itself was synced;
* a rename happens or not. Of a file between two folders, the new name is durable with the new folder, and the old one
  may still be there until the old folder is synced; a file without any name is not the outcome.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

Name = tuple[int, str]  # of a folder's number and an entry in it
Image = Mapping[str, bytes | None]  # relative path -> content; None: a folder
ROOT = 0
CALLS = ("open", "rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "truncate", "ftruncate")


@frozen
class Named:
    """One change of names: what each stands for afterwards, None for nothing."""

    names: Mapping[Name, int | None]


@frozen
class Written:
    file: int
    data: bytes


@frozen
class Synced:
    number: int


@frozen
class Said:
    """What the code under test has promised from here on."""

    word: Hashable


Event = Named | Written | Synced | Said


class Recorder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self._lock = threading.RLock()
        self._numbers: dict[tuple[int, int], int] = {}
        self._count = ROOT
        self._names: dict[Name, int] = {}
        self._data: dict[int, bytes] = {}
        self._first = True
        self._look()
        self._first = False
        self.before = Disk()  # what was there is durable
        for event in self.events:
            self.before.take(event)
        for number in [ROOT, *self._names.values()]:
            self.before.take(Synced(number))
        self.events = []

    def say(self, word: Hashable) -> None:
        with self._lock:
            self._look()
            self.events.append(Said(word))

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._syncing(getattr(os, name)))

    def _watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **options: Any) -> Any:
            with self._lock:
                self._look()
                try:
                    return real(*args, **options)
                finally:
                    self._look()

        return call

    def _syncing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(handle: int) -> None:
            with self._lock:
                self._look()
                real(handle)
                status = os.fstat(handle)
                number = self._numbers.get((status.st_dev, status.st_ino))
                if number is not None:
                    self.events.append(Synced(number))

        return call

    def _look(self) -> None:
        names: dict[Name, int] = {}
        data: dict[int, bytes] = {}
        alive: dict[tuple[int, int], int] = {}
        self._scan(self.root, names, data, alive)
        self._numbers = alive
        changed = {name: names.get(name) for name in {*names, *self._names} if names.get(name) != self._names.get(name)}
        written = {number: content for number, content in data.items() if self._data.get(number) != content}
        self.events += [Written(number, content) for number, content in written.items()]
        if changed and not self._first:
            self._require_one(changed)
        if changed:
            self.events.append(Named(changed))
        self._names, self._data = names, data

    def _scan(self, folder: Path, names: dict[Name, int], data: dict[int, bytes], alive: dict[Any, int]) -> None:
        status = folder.stat()
        here = alive[status.st_dev, status.st_ino] = self._number(status)
        for entry in os.scandir(folder):
            status = entry.stat(follow_symlinks=False)
            number = names[here, entry.name] = alive[status.st_dev, status.st_ino] = self._number(status)
            if entry.is_dir(follow_symlinks=False):
                self._scan(Path(entry.path), names, data, alive)
            else:
                with open(entry.path, "rb") as file:
                    data[number] = file.read()

    def _number(self, status: os.stat_result) -> int:
        found = self._numbers.get((status.st_dev, status.st_ino))
        if found is None:
            found, self._count = self._count, self._count + 1
            self._numbers[status.st_dev, status.st_ino] = found
        return found

    def _require_one(self, changed: Mapping[Name, int | None]) -> None:
        made = {number for number in changed.values() if number is not None}
        moved = len(changed) == 2 and len(made) == 1 and made <= {*self._names.values()}
        assert len(changed) == 1 or moved, f"several changes between two looks: {changed}"


@define
class Disk:
    """The state of names and contents after some events, and what of it is durable."""

    names: dict[Name, int] = field(factory=dict)
    pending: list[dict[Name, int | None]] = field(factory=list)
    synced: dict[int, bytes] = field(factory=dict)
    now: dict[int, bytes] = field(factory=dict)

    def copy(self) -> Disk:
        return Disk(dict(self.names), [dict(one) for one in self.pending], dict(self.synced), dict(self.now))

    def take(self, event: Event) -> None:
        if isinstance(event, Named):
            self.pending.append(dict(event.names))
        elif isinstance(event, Written):
            self.now[event.file] = event.data
            self.synced.setdefault(event.file, b"")
        elif isinstance(event, Synced) and event.number in self.now:
            self.synced[event.number] = self.now[event.number]
        elif isinstance(event, Synced):
            self._sync_folder(event.number)

    def _sync_folder(self, folder: int) -> None:
        for one in self.pending:
            touched = any(at == folder for at, _ in one)
            gone = any(number is None and at == folder for (at, _), number in one.items())
            whole = gone or (touched and not self._of_a_file(one))
            for name in [name for name in one if whole or name[0] == folder]:
                self._set(self.names, name, one.pop(name))
        self.pending = [one for one in self.pending if one]

    @staticmethod
    def _set(names: dict[Name, int], name: Name, number: int | None) -> None:
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number

    def image(self, kept: Sequence[int], data: Mapping[int, bytes]) -> Image:
        """``kept``: for each pending change 0 lost, 1 happened, 2 happened, but the old name is still there."""
        names = dict(self.names)
        for how, one in zip(kept, self.pending, strict=True):
            for name, number in one.items() if how else ():
                if how == 1 or number is not None:
                    self._set(names, name, number)
        children: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), number in names.items():
            children.setdefault(folder, []).append((name, number))
        return dict(self._walk(ROOT, "", children, {**self.now, **data}))

    def _walk(
        self, folder: int, path: str, children: Mapping[int, list[tuple[str, int]]], data: Mapping[int, bytes]
    ) -> Iterator[tuple[str, bytes | None]]:
        for name, number in sorted(children.get(folder, ())):
            if number in data:
                yield path + name, data[number]
            else:
                yield path + name, None
                yield from self._walk(number, f"{path}{name}/", children, data)

    def _of_a_file(self, change: Mapping[Name, int | None]) -> bool:
        return any(number in self.now for number in change.values())

    def images(self, chance: random.Random, more: int) -> Iterator[Image]:
        """Everything lost, everything there, each change alone lost and alone there, each unsynced file torn; and
        ``more`` mixtures."""
        n, unsynced = len(self.pending), {f for f in self.now if self.now[f] != self.synced[f]}
        old = {file: self.synced[file] for file in unsynced}
        ways = [2 if len({folder for folder, _ in one}) == 2 and self._of_a_file(one) else 1 for one in self.pending]
        yield self.image([0] * n, old)
        yield self.image([1] * n, {})
        yield self.image([1] * n, old)
        for i in range(n):
            for how in range(ways[i] + 1):
                yield self.image([how if j == i else 1 for j in range(n)], {})
                yield self.image([how if j == i else 0 for j in range(n)], old)
        for file in unsynced:
            for torn in _torn(self.now[file], self.synced[file]):
                yield self.image([1] * n, {file: torn})
        for _ in range(more if n + len(unsynced) > 1 else 0):
            data = {
                file: chance.choice([self.now[file], *_torn(self.now[file], self.synced[file])]) for file in unsynced
            }
            yield self.image([chance.randrange(ways[j] + 1) for j in range(n)], data)


def _torn(now: bytes, old: bytes) -> list[bytes]:
    return [old, b"", now[: len(now) // 2], b"\0" * len(now), now[: len(now) // 2] + b"\0" * (len(now) - len(now) // 2)]


def cuts(recorder: Recorder, chance: random.Random, more: int = 3) -> list[tuple[Image, tuple[Hashable, ...]]]:
    """Every image a cut at any moment may leave, once, with what had been said by then."""
    disk, said = recorder.before.copy(), tuple[Hashable, ...]()
    found: dict[Any, tuple[Image, tuple[Hashable, ...]]] = {}
    for event in [None, *recorder.events]:
        if isinstance(event, Said):
            said = (*said, event.word)
        elif event is not None:
            disk.take(event)
        for image in disk.images(chance, more):
            found.setdefault((frozenset(image.items()), said), (image, said))
    return list(found.values())


def whole(recorder: Recorder) -> Image:
    """All that was recorded, replayed without a cut."""
    disk = recorder.before.copy()
    for event in recorder.events:
        disk.take(event)
    return disk.image([1] * len(disk.pending), {})


def tree(root: Path) -> Image:
    """What is in a folder."""
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() and not path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
    }


def restore(root: Path, image: Image) -> None:
    """Make a folder what an image says."""
    for entry in list(root.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name, content in sorted(image.items()):
        path = root / name
        if content is None:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
