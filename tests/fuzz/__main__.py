"""Files that were damaged on purpose, through the readers of CSV, JSON Lines, Parquet and change logs.

The readers work in a process of their own. Each input may be read, or refused by a DponeError. Failures are: the
process ends by a signal, takes more than ``--limit`` seconds or ``--memory`` MiB for an input, or raises anything else.
The input of a failure is written to ``--out``; ``--seed`` repeats a run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import ENDINGS, mutated, valid


def _answers(process: subprocess.Popen[bytes], seconds: float) -> bool:
    return bool(select.select([process.stdout], [], [], seconds)[0])


class Reader:
    """A process that reads; started anew after it died or was given up."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path, kind: str) -> Mapping[str, Any]:
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"path": str(path), "kind": kind}).encode() + b"\n")
        process.stdin.flush()
        if not _answers(process, self._limit):
            self.close()
            return {"result": "hang", "text": f"no answer for {self._limit} seconds"}
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.close()
            return {"result": "crash", "text": f"the process ended with {code}"}
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.fuzz.reader"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ, bufsize=0)
        assert process.stdout is not None
        if not _answers(process, 120) or process.stdout.readline() != b"ready\n":
            raise RuntimeError("the reader does not start")
        return process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def fuzz(
    seed: int, seconds: float, kinds: list[str], out: Path, limit: float = 30, memory: int = 1024, most: int = 10
) -> list[str]:
    """Answers a line for each failure; ends after ``most`` of them."""
    reader, seen, failures, peak = Reader(limit), Counter[str](), list[str](), 0
    end = time.monotonic() + seconds
    try:
        with tempfile.TemporaryDirectory(prefix="dpone-fuzz-") as folder:
            number = 0
            while time.monotonic() < end and len(failures) < most:
                kind = kinds[number % len(kinds)]
                chance = random.Random(f"{seed} {number}")
                data = valid(kind, chance)
                data = mutated(kind, data, chance) if number >= 3 * len(kinds) else data
                path = Path(folder) / f"{number}{ENDINGS[kind]}"
                path.write_bytes(data)
                found = dict(reader.read(path, kind))
                grown, peak = found.get("peak", peak) - peak, max(peak, found.get("peak", 0))
                if grown > memory << 20 and number:
                    found = {"result": "memory", "text": f"{grown >> 20} MiB more than before"}
                if number < 3 * len(kinds) and found["result"] != "read":
                    found = {"result": "fault", "text": f"a valid file was refused: {found.get('text')}"}
                seen[f"{kind} {found['result']}"] += 1
                if found["result"] not in ("read", "refused"):
                    out.mkdir(parents=True, exist_ok=True)
                    kept = out / f"{found['result']}-{hashlib.sha256(data).hexdigest()[:12]}{ENDINGS[kind]}"
                    kept.write_bytes(data)
                    failures.append(f"input {number} of seed {seed}: {found['result']}, {found['text']} ({kept})")
                    print(failures[-1], flush=True)
                path.unlink()
                number += 1
    finally:
        reader.close()
    print(f"seed {seed}: {number} inputs; " + ", ".join(f"{n} {what}" for what, n in sorted(seen.items())))
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="nox -s fuzz --", description=__doc__)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "dpone-fuzz-failures")
    parser.add_argument("--limit", type=float, default=30, help="seconds for one input")
    parser.add_argument("--memory", type=int, default=1024, help="MiB for one input")
    parser.add_argument("--kind", action="append", choices=sorted(ENDINGS), help="only this kind; may be repeated")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    return bool(fuzz(seed, given.seconds, given.kind or sorted(ENDINGS), given.out, given.limit, given.memory))


if __name__ == "__main__":
    sys.exit(main())
