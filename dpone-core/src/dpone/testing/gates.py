"""The gates ``throughput`` and ``soak`` of any connector that has a Harness, with evidence for ``dpone certify``.

    python -m dpone.testing.gates throughput sqlite --rows 1000000 --at-least 100000 --evidence evidence
    python -m dpone.testing.gates soak sqlite --minutes 30 --evidence evidence

The other end are Parquet files. ``--folder`` must be on a disk: a file system in memory keeps nothing, and is said to.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from attrs import define, evolve, field, frozen

from dpone.certify.evidence import (
    CORE,
    ENOUGH,
    Measure,
    Server,
    digest,
    write_gate,
)
from dpone.engine.run import Run
from dpone.errors import ConfigError, DponeError, counted
from dpone.host.environment import SETTINGS
from dpone.model.pipeline import (
    Incremental,
    Lineage,
    Pipeline,
    Runtime,
    SinkSpec,
    SourceSpec,
    StateSpec,
    StreamSpec,
)
from dpone.plugins import discover
from dpone.testing.crash import TIMED, Pickler, Runs, pipeline, quiet, runs
from dpone.testing.harness import Harness, opened, replaced
from dpone.testing.loads import FULL, SINGLE
from dpone.testing.rows import differences, sample, values
from dpone.testing.sql import SqlHarness

FILES = "file"
STRATEGIES = ("append", "merge", "snapshot_diff", "scd2", "full_refresh")  # after which each row is there once
STEPS = 20  # loads of a round, each with its kills; then another place, and another strategy
N = TypeVar("N", int, float)
REST = 60.0  # seconds in which runs that nobody kills must come to rest


@frozen
class Gate:
    """connector: whose gate it is. folder: for files of its own, gone afterwards. evidence None: nothing is written."""

    connector: str
    folder: Path
    evidence: Path | None

    def write(self, gate: Any, servers: Sequence[Server], measures: Sequence[Measure], **about: Any) -> int:
        """``about`` has ``seconds``. Exit code 1 if a bar is missed."""
        missed = [measure.name for measure in measures if measure.missed]
        said = "; ".join([f"MISSED {', '.join(missed)}" if missed else "passed", *map(str, measures)])
        print(f"{gate} of {self.connector}: {said}; {about['seconds']:,.0f} s", flush=True)
        if self.evidence is not None:
            print(f"wrote {write_gate(self.evidence, gate, self.connector, servers, measures, **about)}", flush=True)
        return int(bool(missed))

    @property
    def roles(self) -> list[Any]:
        return [role for role in ("sink", "source") if self.has(role)]

    def has(self, role: Any) -> bool:
        return self.connector in discover().names(role) and discover().get(role, self.connector).implemented

    def begin(self) -> None:
        """The digests are kept: evidence is of the files that are run from now on."""
        for name in (CORE, self.connector):
            digest(name)
        if not self.roles:
            todo = "name another connector: a change reader has no gate"
            raise ConfigError(f"measure {self.connector}", "it is neither a source nor a sink", todo)

    @contextmanager
    def harness(self, role: Any, name: str) -> Iterator[Harness]:
        with opened(role, self.connector, self.folder / name) as harness:
            yield harness
        shutil.rmtree(self.folder / name, ignore_errors=True)


def server(harness: Harness) -> Server:
    return Server(harness.product, harness.version, harness.live, harness.durability())


# ---- soak


@define
class Soaked:
    """What a soak has seen. ``stuck``: undisturbed runs that did not come to rest."""

    kills: int = 0
    runs: int = 0
    loads: int = 0
    rows: int = 0
    wrong: int = 0
    stuck: int = 0
    said: str = ""
    strategies: Counter[str] = field(factory=Counter)

    @property
    def failed(self) -> bool:
        return bool(self.wrong or self.stuck)

    @property
    def measures(self) -> list[Measure]:
        bars = [Measure("wrong_rows", self.wrong, at_most=0), Measure("stuck_runs", self.stuck, at_most=0)]
        counts = {"kills": self.kills, "runs": self.runs, "loads": self.loads, "rows": self.rows}
        return [*bars, *(Measure(name, count) for name, count in counts.items())]


@frozen
class Way:
    """A pipeline, and what belongs to it: ``add`` gives the source the rows of these numbers, ``found`` is the target,
    ``expected`` what it must hold. ``once``: no row may be there twice."""

    strategy: str
    runs: Runs
    add: Callable[[int, int], object]
    found: Callable[[], pa.Table | None]
    expected: Callable[[int], pa.Table]
    once: bool = True

    def wrong(self, last: int) -> int:
        """Rows that are missing, doubled or not the source's."""
        want = self.expected(last)
        lost, added = differences(self.found(), values(want, want.schema), want.schema, self.once)
        return lost.total() + added.total()


def soak(gate: Gate, seconds: float, seed: int) -> int:
    """Rounds until the time is up: rows come, runs of a growing target are killed at any moment, and after each row's
    load the target must hold every row. The connector is the sink of one round and the source of the next, and keeps
    the state if it can."""
    roles = gate.roles
    seen, start, number = Soaked(), time.monotonic(), 0
    servers: list[Server] = []
    while time.monotonic() < start + seconds and not seen.failed:
        role, chance = roles[number % len(roles)], random.Random(f"{seed} {number}")  # noqa: S311  # a choice to repeat
        with gate.harness(role, f"{number}") as harness:
            servers = servers or [server(harness)]
            disturbed(_way(harness, role, number, gate.has("state")), chance, start + seconds, seen)
        number += 1
    if seen.failed:
        print(f"round {number - 1} as {role}: {seen.said}; repeat it with --seed {seed}", file=sys.stderr)
    about = {"seed": seed, "rounds": number, "strategies": dict(seen.strategies), "roles": roles}
    return gate.write("soak", servers, seen.measures, seconds=time.monotonic() - start, **about)


def _way(harness: Harness, role: Any, number: int, keeps_state: bool) -> Way:
    if role == "sink":
        able = [mode for mode in STRATEGIES if harness.declared("sink", mode) == "supported"] or ["append"]
        mode = able[number // 2 % len(able)]
        one = runs(harness, SINGLE[mode], "soak")
        way = Way(
            mode, one, lambda first, last: one.add(sample(first, last)), lambda: harness.rows("soak"),
            lambda last: sample(1, last), harness.declared("sink", "exactly_once") == "supported",
        )  # fmt: skip
    else:
        way = _read(harness)
    if keeps_state:
        way = evolve(way, runs=evolve(way.runs, pipeline=evolve(way.runs.pipeline, state=harness.state())))
    return way


def _read(harness: Harness) -> Way:
    """The incremental mode that the source supports: a cursor, its own position, or none (whole reads)."""
    by_cursor = harness.declared("source", "incremental_cursor") == "supported"
    grows = by_cursor or harness.declared("source", "repeatable") == "supported"
    spec = harness.source("soak", incremental=Incremental("cursor", harness.key) if by_cursor else None)
    with opened("sink", FILES, harness.folder / "target") as files:
        target = files.sink(SINGLE["append"] if grows else FULL, "soak")
    seeded = []

    def add(first: int, last: int) -> None:
        seeded.append(harness.sample(first, last))
        harness.seed(seeded[-1], "soak")

    def expected(last: int) -> pa.Table:
        there = harness.there("soak")
        return pa.concat_tables(seeded) if there is None else there

    one = Runs(harness, pipeline(harness.folder, spec, target, "soak"))
    return Way("append" if grows else "full_refresh", one, add, lambda: files.rows("soak"), expected)


def disturbed(way: Way, chance: random.Random, until: float, seen: Soaked) -> None:
    last, span = 0, 0.5
    for _ in range(STEPS):
        first, last = last + 1, last + chance.randint(1, 60)
        way.add(first, last)
        for _ in range(chance.randint(0, 4)):
            code, _ = way.runs.apart(max(0.001, chance.uniform(0, 1.1 * span)))
            seen.runs, seen.kills = seen.runs + 1, seen.kills + (code == TIMED)
        span = calm(way, seen) or span
        seen.wrong = 0 if seen.stuck else way.wrong(last)
        if seen.wrong:
            seen.said = f"{seen.wrong} of {counted(last, 'row')} loaded by {way.strategy} differ from the source"
        if seen.failed:
            return
        seen.loads, seen.rows = seen.loads + 1, seen.rows + last - first + 1
        seen.strategies[way.strategy] += 1
        if time.monotonic() > until:
            return


def calm(way: Way, seen: Soaked) -> float:
    """Run without a kill, and again as long as it is refused, as a schedule does. Returns the seconds of one run."""
    until = time.monotonic() + REST
    while True:
        started = time.monotonic()
        code, said = way.runs.apart()
        seen.runs += 1
        if code == 0:
            return time.monotonic() - started
        if time.monotonic() > until:
            seen.stuck, seen.said = 1, f"an undisturbed run ends with exit code {code} after {REST:g} s: {said}"
            return 0
        time.sleep(0.5)


# ---- throughput


@frozen
class Leg:
    """One load in a child process. Returns wall seconds, including the start of the process, and peak memory in MB."""

    seconds: float
    peak: float


def throughput(gate: Gate, rows: int, times: int, at_least: float, at_most: float) -> int:
    """Rows from Parquet files into the connector, and out of it into Parquet files: the slower of the two directions
    counts, by the median of ``times`` loads. What has arrived is compared with what was sent, every value."""
    start, source = time.monotonic(), gate.folder / "in"
    _lay(source, rows)
    with gate.harness(gate.roles[0], "it") as harness:
        servers = [server(harness)]
        legs = {role: LEGS[role](gate, harness, source, times) for role in gate.roles}
    speeds = {role: round(rows / median(leg.seconds for leg in ones)) for role, (ones, _) in legs.items()}
    wrong = rows * sum(not right for _, right in legs.values())
    measures = [
        Measure("rows_per_second", min(speeds.values()), at_least=at_least),
        Measure("peak_mb", round(max(leg.peak for ones, _ in legs.values() for leg in ones)), at_most=at_most),
        Measure("wrong_rows", wrong, at_most=0), Measure("rows", rows),
        *(Measure(f"as_{role}_rows_per_second", speed) for role, speed in speeds.items()),
    ]  # fmt: skip
    gate.write("throughput", servers, measures, seconds=time.monotonic() - start, times=times)
    return int(wrong > 0)  # a bar that is missed stands in the evidence: how fast a machine is, breaks no build


def _written(gate: Gate, harness: Harness, source: Path, times: int) -> tuple[list[Leg], bool]:
    """Loads into new targets, and whether the first of them has every row."""
    files = SourceSpec(FILES, path="*.parquet", options=discover().options("source", FILES)(), base=source)
    legs = [_leg(gate, harness, files, harness.sink(FULL, f"t{n}"), f"w{n}") for n in range(times)]
    return legs, _equal(harness.rows("t0"), source)


def _read_back(gate: Gate, harness: Harness, source: Path, times: int) -> tuple[list[Leg], bool]:
    """Of what the independent client has seeded; of SQL what was written, where that is the same place."""
    place = "t0" if isinstance(harness, SqlHarness) and "sink" in gate.roles else "seeded"
    if place == "seeded":
        harness.seed(pq.read_table(source), place)
    spec = harness.source(place)
    with opened("sink", FILES, gate.folder / "out") as out:
        targets = [out.sink(FULL, f"r{n}", lineage=Lineage(False)) for n in range(times)]
        legs = [_leg(gate, harness, spec, target, f"r{n}") for n, target in enumerate(targets)]
        return legs, _equal(out.rows("r0"), source)


LEGS = {"sink": _written, "source": _read_back}


def _lay(folder: Path, rows: int, size: int = 100_000) -> None:
    """Parquet files with the columns of ``sample``, all different."""
    folder.mkdir(parents=True)
    for first in range(1, rows + 1, 10 * size):
        ids = pa.array(range(first, min(first + 10 * size, rows + 1)), pa.int64())
        texts = ids.cast(pa.string())
        days = pc.binary_join_element_wise("d", pc.utf8_slice_codeunits(texts, -1), "")
        names = pc.binary_join_element_wise("name of row ", texts, ", é", "")
        table = pa.table({"id": ids, "day": days, "name": names, "score": pc.divide(ids.cast(pa.float64()), 4.0)})
        pq.write_table(table, folder / f"{first:012}.parquet", row_group_size=size)


def _equal(found: pa.Table | None, source: Path) -> bool:
    if found is None:
        return False
    expected = pq.read_table(source)
    both = (one.select(expected.column_names).cast(expected.schema).sort_by("id") for one in (found, expected))
    return bool(next(both).equals(next(both)))


def _leg(gate: Gate, harness: Harness, source: SourceSpec, sink: SinkSpec, name: str) -> Leg:
    state = StateSpec(FILES, path=f"state_{name}", base=gate.folder, options=discover().options("state", FILES)())
    job = Pipeline("throughput", (StreamSpec(name, source, sink),), state, runtime=Runtime(retries=0))
    os.sync()  # what others have left to write is not ours to wait for
    start = time.perf_counter()
    with subprocess.Popen(  # our own module
        [sys.executable, "-m", "dpone.testing.gates", "load"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**SETTINGS, **os.environ},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        Pickler(process.stdin).dump((job, harness.connector, dict(harness.implementations)))
        process.stdin.close()
        assert process.stdout is not None
        answer = process.stdout.read()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"a load of {harness.connector} ended with exit code {process.returncode}: {answer.decode()}")
    return Leg(seconds, json.loads(answer)["peak"])


def load() -> int:
    """The measured process."""
    job, connector, implementations = pickle.load(sys.stdin.buffer)  # noqa: S301  # of our own parent
    report = Run(job, plugins=quiet(replaced(discover(), connector, implementations))).execute()
    print(json.dumps({"peak": _peak(), "said": str([stream.error for stream in report.streams])}))
    return report.exit_code


def _peak() -> float:
    """MB. On Linux VmHWM, which begins with the program; ru_maxrss would count the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# ---- as a program


def _above_0(kind: type[N]) -> Callable[[str], N]:
    def number(text: str) -> N:
        if (value := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    number.__name__ = kind.__name__  # argparse names it where the text is not a number
    return number


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}; make it")
    return Path(text)


def _writable(text: str) -> Path:
    """A folder that is made when there is something to write, which is long after."""
    there = next(one for one in (Path(text), *Path(text).absolute().parents) if one.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{there} is not a folder that can be written; name another")
    return Path(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m dpone.testing.gates", description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="gate", required=True)
    commands.add_parser("load", help="the measured process; not for the command line")
    fast, long = commands.add_parser("throughput"), commands.add_parser("soak")
    for one in (fast, long):
        one.add_argument("connector")
        one.add_argument("--evidence", type=_writable, help="folder to write evidence into")
        one.add_argument("--folder", type=_folder, help="folder for its own files; on a disk")
    fast.add_argument("--rows", type=_above_0(int), default=int(ENOUGH["throughput"]["rows"]))
    fast.add_argument("--times", type=_above_0(int), default=3, help="loads in each direction; the median counts")
    fast.add_argument("--at-least", type=float, required=True, metavar="ROWS", help="bar: rows a second")
    fast.add_argument("--at-most", type=float, default=250.0, metavar="MB", help="bar: peak memory")
    long.add_argument("--minutes", type=_above_0(float), default=ENOUGH["soak"]["seconds"] / 60)
    long.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args(arguments)
    if given.gate == "load":
        return load()
    try:
        with tempfile.TemporaryDirectory(prefix="dpone-gate-", dir=given.folder) as folder:
            gate = Gate(given.connector, Path(folder), given.evidence)
            gate.begin()
            if given.gate == "soak":
                return soak(gate, given.minutes * 60, given.seed)
            return throughput(gate, given.rows, given.times, given.at_least, given.at_most)
    except DponeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
