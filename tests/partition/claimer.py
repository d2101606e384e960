"""Claims every partition it can get, finishes it and prints its id: ``claimer.py KIND PATH KEY``. A line of its input
lets it begin, and another one go on after its first claim."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

from tests.partition.stores import store

from dpone.errors import Busy
from dpone.model.staged import Staged
from dpone.partition import owner_of

if __name__ == "__main__":
    kind, path, key = sys.argv[1:]
    manifests, me = store(kind, Path(path)), owner_of("R")
    print("ready", flush=True)
    sys.stdin.readline()
    go_on = lru_cache(sys.stdin.readline)
    manifest = manifests.load(key)
    assert manifest is not None
    for one in manifest.partitions:
        try:
            manifests.claim(key, one.id, me, 30)
        except Busy:
            continue
        print(one.id, flush=True)
        go_on()
        manifests.finish(key, one.id, me, Staged(1, 1))
