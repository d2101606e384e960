"""``python -m tests.attack``: random faults against running pipelines, until the time is up. ``nox -s attack``.

A round is one pipeline of a random source, sink and strategy, an application that goes on writing, and some runs that
are killed, stopped, cut off, starved or misled about the time. Then calm: the runs that follow must leave exactly the
rows of the source. The seed decides what is done, not when: a failure names the round to repeat.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from random import SystemRandom

from tests.attack.faults import Hung, Line
from tests.attack.rounds import SETTINGS, Round, Stand, Wrong
from tests.postgres import server as servers


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.attack")
    parser.add_argument("--seconds", type=float, default=600, help="no round begins after that")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    parser.add_argument("--round", type=int, help="only this round of the seed")
    given = parser.parse_args()
    programs = next(iter(servers.binaries().values()))
    folder = Path(tempfile.mkdtemp(prefix="dpone-attack-"))
    folder.chmod(0o755)
    print(f"attack: seed {given.seed}, {given.seconds:g} s, {programs}", flush=True)
    try:
        with servers.running(programs, folder / "server", **SETTINGS) as server:
            stand = Stand(server, Line((server.host, server.port)).open())
            try:
                return attack(given.seed, given.seconds, given.round, folder, stand)
            finally:
                stand.line.close()
                if stand.server is not server:
                    servers.stop(stand.server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attack(seed: int, seconds: float, only: int | None, folder: Path, stand: Stand) -> int:
    codes, failed, number, until = Counter[str](), 0, only or 1, time.monotonic() + seconds
    done = 0
    while time.monotonic() < until and (only is None or not done):
        one = Round(seed, number, folder / str(number), stand)
        try:
            one.execute()
            said = "as the source"
        except (Wrong, Hung) as error:
            failed += 1
            said = f"FAILED: {error}; repeat it with --seed {seed} --round {number}"
        one.clear()
        codes += one.codes
        print(f"round {number}: {one}: {dict(one.codes)}: {said}", flush=True)
        done, number = done + 1, number + 1
    runs = codes.total()
    print(f"attack: {done} rounds, {runs} disturbed runs (fault and exit code: {dict(sorted(codes.items()))})")
    print(f"{done - failed} passed, {failed} failed")
    return 1 if failed or not done else 0


sys.exit(main())
