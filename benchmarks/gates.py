"""``python -m benchmarks.gates throughput`` and ``soak``: the gates of file, SQLite and PostgreSQL, with evidence.

PostgreSQL is that of DPONE_TEST_POSTGRES_URL, or a new one with its data in ``--work``, which syncs what it confirms.
Throughput is measured one connector after another, a soak runs all of them at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.postgres import cluster
from dpone.testing.harness import IN_MEMORY, file_system

# Rows a second that each must reach in both directions, on a machine of two cores with other work to do.
BARS = {"file": 200_000, "sqlite": 100_000, "postgres": 100_000}
URL = "DPONE_TEST_POSTGRES_URL"


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gates", description=__doc__.split("\n\n")[0])
    parser.add_argument("gate", choices=["throughput", "soak"])
    parser.add_argument("--connector", action="append", choices=[*BARS], help="only this one; repeat")
    parser.add_argument("--evidence", type=Path, required=True, help="folder to write evidence into")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder on a disk")
    given, more = parser.parse_known_args()  # the others are those of dpone.testing.gates
    work, names = given.work.resolve(), given.connector or [*BARS]
    if file_system(work) in IN_MEMORY:
        raise SystemExit(f"error: {work} is in memory, which keeps nothing; give --work a folder on a disk")
    with server(work, "postgres" in names) as env:
        commands = [command(given.gate, name, given.evidence, work, more) for name in names]
        if given.gate == "throughput":
            return max(subprocess.run(one, env=env, check=False).returncode for one in commands)
        running = [subprocess.Popen(one, env=env) for one in commands]
        return max(abs(one.wait()) for one in running)


def command(gate: str, name: str, evidence: Path, work: Path, more: Sequence[str]) -> list[str]:
    bar = ["--at-least", str(BARS[name])] if gate == "throughput" else []
    words = [gate, name, "--evidence", str(evidence), "--folder", str(work), *bar, *more]
    return [sys.executable, "-m", "dpone.testing.gates", *words]


@contextmanager
def server(work: Path, wanted: bool) -> Iterator[dict[str, str]]:
    """The environment that names it."""
    if os.environ.get(URL) or not wanted:
        yield dict(os.environ)
        return
    with cluster(work) as (made, _):
        yield {**os.environ, URL: made.url}


if __name__ == "__main__":
    sys.exit(main())
