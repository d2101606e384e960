"""Claims every partition it can get, finishes it and prints its id: ``claimer.py KIND PATH KEY``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.partition.stores import store

from dpone.contract import Staged
from dpone.errors import Busy
from dpone.partition import owner_of

if __name__ == "__main__":
    kind, path, key = sys.argv[1:]
    manifests, me = store(kind, Path(path)), owner_of("R")
    print("ready", flush=True)
    sys.stdin.readline()
    manifest = manifests.load(key)
    assert manifest is not None
    for one in manifest.partitions:
        try:
            manifests.claim(key, one.id, me, 30)
        except Busy:
            continue
        print(one.id, flush=True)
        time.sleep(0.01)
        manifests.finish(key, one.id, me, Staged(1, 1))
