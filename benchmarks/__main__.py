"""``python -m benchmarks``: ours and the baseline in turn, as a ratio, with peak memory.

Every leg is a process of its own, so that start-up counts and peak memory is honest. Legs alternate (ours, baseline,
ours ...), for a machine is never equally fast for long; the ratio is the median of the ratios of the pairs. Input is
in the page cache, output goes to an empty folder of the same file system, and before the first pair the rows that both
sides wrote are compared. dpone runs as anybody gets it: with lineage columns, journal, state and events.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, frozen

from benchmarks.cases import CASES, Case, Data
from benchmarks.measure import Leg, run

PEAK = 250.0  # MB that no case of ours may exceed
FLAT = 1.10  # ten times the rows may take this much more memory


@frozen
class Result:
    """One case: its pairs in the order in which they ran."""

    case: Case
    rows: int
    same: str
    pairs: tuple[tuple[Leg, Leg], ...]

    @property
    def ratios(self) -> list[float]:
        return [ours.wall / theirs.wall for ours, theirs in self.pairs]

    @property
    def peaks(self) -> tuple[float, float]:
        return max(ours.peak for ours, _ in self.pairs), max(theirs.peak for _, theirs in self.pairs)

    @property
    def ok(self) -> bool:
        fast = self.case.bar is None or median(self.ratios) <= self.case.bar
        return fast and self.peaks[0] <= PEAK

    def cells(self) -> list[str]:
        ours, theirs = zip(*self.pairs, strict=True)
        low, high = min(self.ratios), max(self.ratios)
        return [
            self.case.name, _median(ours, "wall"), _median(theirs, "wall"), f"{median(self.ratios):.2f}",
            f"{low:.2f}-{high:.2f}", f"{self.case.bar:.2f}" if self.case.bar else "-",
            _median(ours, "cpu"), _median(theirs, "cpu"),
            f"{self.peaks[0]:.0f}", f"{self.peaks[1]:.0f}", "ok" if self.ok else "MISSED",
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        pairs = [{"ours": asdict(ours), "baseline": asdict(theirs)} for ours, theirs in self.pairs]
        about = {"case": self.case.name, "what": self.case.what, "baseline": self.case.baseline, "rows": self.rows}
        figures = {"ratio": median(self.ratios), "bar": self.case.bar, "peak": self.peaks[0], "peak_bar": PEAK}
        return {**about, "same": self.same, **figures, "ok": self.ok, "pairs": pairs}


def _median(legs: Sequence[Leg], figure: str) -> str:
    return f"{median(getattr(leg, figure) for leg in legs):.2f}"


HEAD = (
    "case", "ours s", "baseline s", "ratio", "min-max", "bar", "ours cpu s", "baseline cpu s", "ours peak MB",
    "baseline peak MB", "",
)  # fmt: skip


@frozen
class Memory:
    """Peak of one case at two sizes."""

    case: Case
    peaks: tuple[tuple[int, Leg], ...]

    @property
    def growth(self) -> float:
        return self.peaks[-1][1].peak / self.peaks[0][1].peak

    @property
    def ok(self) -> bool:
        return self.growth <= FLAT and max(leg.peak for _, leg in self.peaks) <= PEAK

    def cells(self) -> list[str]:
        (few, small), (many, large) = self.peaks
        return [
            self.case.name, f"{few:,}", f"{small.peak:.0f}", f"{many:,}", f"{large.peak:.0f}", f"{self.growth:.2f}",
            f"{FLAT:.2f}", f"{small.wall:.1f}", f"{large.wall:.1f}", "ok" if self.ok else "MISSED",
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        peaks = [{"rows": rows, **asdict(leg)} for rows, leg in self.peaks]
        bars = {"growth": self.growth, "growth_bar": FLAT, "peak_bar": PEAK, "ok": self.ok}
        return {"case": self.case.name, "what": self.case.what, **bars, "peaks": peaks}


MEMORY_HEAD = ("case", "rows", "peak MB", "rows", "peak MB", "growth", "bar", "seconds", "seconds", "")


def main() -> int:
    options = _options()
    cases = [case for case in CASES if not options.case or case.name in options.case]
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    (work / ".gitignore").write_text("*\n")
    results: list[Any] = []
    if options.memory:
        head: Sequence[str] = MEMORY_HEAD
        results += [memory(case, work, (options.rows, 10 * options.rows)) for case in cases if case.moves_data]
    else:
        head = HEAD
        results += [pairs(case, work, options.rows, options.pairs) for case in cases]
    _print(options, head, results)
    missed = [result.case.name for result in results if not result.ok]
    if missed and options.check:
        print(f"error: missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the CSV; a merge brings a tenth of it")
    parser.add_argument("--pairs", type=int, default=5, help="times each side runs (the help case: eight times that)")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one; repeat")
    parser.add_argument("--memory", action="store_true", help="peak memory of ours alone, at --rows and ten times that")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    parser.add_argument("--format", choices=["text", "markdown", "json"], default="text")
    work = Path(__file__).parent.parent / ".benchmarks"
    parser.add_argument("--work", type=Path, default=work, help="folder for data and output; the data stay in it")
    return parser.parse_args()


def pairs(case: Case, work: Path, rows: int, count: int) -> Result:
    """The first pair is not measured: it warms the machine up, and its rows are compared."""
    with _folder(work) as ours, _folder(work) as theirs:
        _say(f"{case.name}: preparing")
        case.lay(Data(work), rows, ours, theirs)
        with _fresh(work, ours) as mine, _fresh(work, theirs) as other:
            run(case.ours(), mine)
            run(case.theirs(), other)
            same = case.compare(mine, other)
        _say(f"{case.name}: {same}")
        measured = []
        for _ in range(count * case.times):
            with _fresh(work, ours) as mine:
                left = run(case.ours(), mine)
            with _fresh(work, theirs) as other:
                right = run(case.theirs(), other)
            measured.append((left, right))
            if case.times == 1:
                _say(f"{case.name}: {left.wall:.2f} s, baseline {right.wall:.2f} s")
    return Result(case, rows, same, tuple(measured))


def memory(case: Case, work: Path, sizes: Sequence[int]) -> Memory:
    """Where memory is a matter of timing (how far a reader was ahead), the middle one of three runs counts."""
    peaks = []
    for rows in sizes:
        with _folder(work) as start:
            case.lay(Data(work), rows, start, None)
            legs = []
            for _ in range(3):
                with _fresh(work, start) as ours:
                    legs.append(run(case.ours(), ours))
        peaks.append((rows, sorted(legs, key=lambda leg: leg.peak)[1]))
        _say(f"{case.name}: {rows:,} rows, {', '.join(f'{leg.peak:.0f} MB' for leg in legs)}")
    return Memory(case, tuple(peaks))


@contextmanager
def _folder(work: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=work, prefix="leg-") as folder:
        yield Path(folder)


@contextmanager
def _fresh(work: Path, start: Path) -> Iterator[Path]:
    """A copy of the folder in which a leg starts, gone when the leg is over."""
    with _folder(work) as folder:
        shutil.copytree(start, folder, symlinks=True, dirs_exist_ok=True)
        yield folder


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    shell = shutil.which("sqlite3")
    return {
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "dpone": version("dpone-core"),
        "pyarrow": version("pyarrow"),
        "sqlite": sqlite3.sqlite_version,
        "sqlite3 shell": subprocess.check_output([shell, "--version"], text=True).split()[0] if shell else "missing",
        "lineage": "on",
    }


def _print(options: argparse.Namespace, head: Sequence[str], results: Sequence[Any]) -> None:
    if options.format == "json":
        print(json.dumps({"machine": machine(), "results": [r.to_json() for r in results]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print()
    for result in results:
        against = "" if options.memory else f" against {result.case.baseline} ({result.same})"
        print(f"{'- ' if options.format == 'markdown' else ''}{result.case.name}: {result.case.what}{against}")
    print()
    print(_markdown(head, results) if options.format == "markdown" else _text(head, results))


def _markdown(head: Sequence[str], results: Sequence[Any]) -> str:
    lines = [head, ["---"] * len(head), *(result.cells() for result in results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(head: Sequence[str], results: Sequence[Any]) -> str:
    lines = [head, *(result.cells() for result in results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
