"""Do the tests see a wrong change? ``nox -s mutate``; CONTRIBUTING.md says how to read what it prints.

A sample of mutants, drawn by a seed, is made of the modules below, one at a time in a copy of the tree. For each, the
tests that run the changed line are run, the fastest first, until one fails (the mutant is killed) or none has. Then
mypy looks, as every change must pass it too; what neither sees survives. equivalent.toml lists mutants that change
nothing, each with the reason.

mutmut and cosmic-ray were looked at first. mutmut changes no decorated function (our properties, context managers and
class methods), and neither draws a sample by a seed; cosmic-ray runs one command for all mutants, here the whole suite.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis  # noqa: F401  # here, once, and not in every process that runs tests
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet  # noqa: F401
import pytest
from attrs import define, field
from tests.mutate.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
SRC = "dpone-core/src/dpone"
MODULES = (
    "cdc/*.py", "connectors/file/folder.py", "connectors/file/sink.py", "engine/*.py", "formats/manifest.py",
    "host/durable.py", "model/evolution.py", "model/secret.py", "partition.py", "quality/*.py", "sql/*.py",
    "sql/strategies/*.py",
)  # fmt: skip
LEAST = 0.95
WHOLE = ("tests", "--ignore=tests/docs", "--ignore=tests/mutate")
PYTEST = ("-q", "--no-header", "--tb=no", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "tests.mutate.pick")
PYTEST += ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # hypothesis is there before pytest


@define
class Tree:
    """A copy of the repository, whose sources the tests import in place of the installed ones. ``tests``: those that
    pass, with their seconds; ``lines``: file -> line -> places in ``tests`` of those that run it. ``kills``: how many
    mutants a test has killed."""

    path: Path
    tests: list[tuple[str, float]] = field(factory=list)
    lines: dict[str, dict[str, list[int]]] = field(factory=dict)
    kills: Counter[str] = field(factory=Counter)

    @classmethod
    def copied(cls, path: Path) -> Tree:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name)
        return cls(path)

    def learn(self, suite: list[str], modules: list[str], kept: Path | None) -> None:
        """Which test runs which line. ``kept``: where that is written, and read again: while nothing but tests change,
        only the files of those that did are run."""
        sources, files = self.digests(modules)
        data = json.loads(kept.read_text()) if kept and kept.exists() else {}
        if data.get("sources") != sources:
            data = {"files": {}, "tests": [], "lines": {}}
        else:  # compiled once, so that no mutant has to wait for that
            self.pytest([*WHOLE, "--collect-only"], None)
        same = {file for file, digest in files.items() if data["files"].get(file) == digest}
        stale = {n for n, (test, _) in enumerate(data["tests"]) if _file(test) not in same}
        self.tests = data["tests"]
        for file, lines in data["lines"].items():
            self.lines[file] = {line: [n for n in who if n not in stale] for line, who in lines.items()}
        if changed := suite or (sorted({*files} - same) if same else [*WHOLE]):
            self._record(changed, modules)
        if kept:
            kept.write_text(json.dumps({"sources": sources, "files": files, "tests": self.tests, "lines": self.lines}))

    def _record(self, args: list[str], modules: list[str]) -> None:
        print(f"which test runs which line ({' '.join(args)}) ...", flush=True)
        found, wanted = self.path / "lines.json", os.pathsep.join(f"{self.path}/{SRC}/{one}" for one in modules)
        code = self.pytest(args, None, DPONE_MUTATE_RECORD=str(found), DPONE_MUTATE_LINES=wanted)
        if not found.exists():
            sys.exit(f"the suite did not run (exit {code})")
        data, first = json.loads(found.read_text()), len(self.tests)
        for one in data["failed"]:
            print(f"fails without a mutant, is left out: {one}")
        self.tests += data["tests"]
        for file, lines in data["lines"].items():
            known = self.lines.setdefault(Path(file).relative_to(self.path).as_posix(), {})
            for line, who in lines.items():
                known.setdefault(line, []).extend(first + n for n in who)

    def digests(self, modules: list[str]) -> tuple[str, dict[str, str]]:
        """Of all that tests may depend on, and of each file of tests."""
        total, files = hashlib.sha256(repr(modules).encode()), {}
        for path in sorted(self.path.rglob("*.py")):
            name, digest = path.relative_to(self.path).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()
            if path.name.startswith("test_") and not name.startswith(("tests/docs/", "tests/mutate/")):
                files[name] = digest
            elif not name.startswith("tests/mutate/"):
                total.update(f"{name} {digest}".encode())
        return total.hexdigest(), files

    def pytest(self, args: list[str], limit: float | None, **env: str) -> int | None:
        """The exit code; None if the time was over."""
        running = multiprocessing.get_context("fork").Process(target=self._pytest, args=(args, env))
        running.start()
        running.join(limit)
        if (code := running.exitcode) is None:
            os.killpg(running.pid or 0, signal.SIGKILL)
            running.join()
        return code

    def _pytest(self, args: list[str], env: dict[str, str]) -> None:
        """In a process and a group of its own, as the tests have children."""
        assert "dpone" not in sys.modules, "no mutant would be imported"
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        sources = [str(one) for one in (*sorted(self.path.glob("dpone-*/src")), self.path)]
        os.chdir(self.path)
        os.environ.update(env, PYTHONPATH=os.pathsep.join(sources))
        sys.path[:0], sys.dont_write_bytecode = sources, "PYTHONDONTWRITEBYTECODE" in env
        os._exit(pytest.main([*PYTEST, *args]))

    def tests_of(self, mutant: Mutant, budget: float) -> tuple[list[str], float, int]:
        """Those that run its line; where none is known to, its scope, then its module. A line that runs on import is
        known to the first test of a process alone: its module, then. The first are those that have killed before, then
        those that run lines of the scope which few others run, and do so quickly. Also their seconds, and how many
        there would be without the budget."""
        lines = self.lines.get(f"{SRC}/{mutant.module}", {})
        module = [int(line) for line in lines]
        for near in (module,) if mutant.where == "module" else (*mutant.lines, module):
            found = {one for line in near for one in lines.get(str(line), ())}
            if found:
                break
        worth: dict[int, float] = defaultdict(float)
        for who in (lines.get(str(line), ()) for line in (module if near is module else mutant.lines[-1])):
            for n in who:
                worth[n] += 1 / len(who)
        chosen, spent = [], 0.0
        for n in sorted(found, key=lambda n: (-self.kills[self.tests[n][0]], -worth[n] / max(self.tests[n][1], 0.05))):
            name, seconds = self.tests[n]
            spent += seconds
            if chosen and spent > budget:
                break
            chosen.append(name)
        return chosen, spent, len(found)

    def run(self, tests: list[str], limit: float) -> tuple[int | None, str]:
        """The exit code, and the test that failed."""
        pick = self.path / "pick.json"
        failed = Path(f"{pick}.failed")
        failed.unlink(missing_ok=True)
        pick.write_text(json.dumps(tests))
        files = list(dict.fromkeys(map(_file, tests)))
        code = self.pytest(["-x", *files], limit, DPONE_MUTATE_PICK=str(pick), PYTHONDONTWRITEBYTECODE="1")
        return code, failed.read_text() if failed.exists() else ""

    def mistyped(self) -> bool:
        """Whether mypy finds an error in core. What it knows of unchanged modules is kept in the tree."""
        command = [sys.executable, "-m", "mypy", f"{Path(SRC).parent}"]
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode and "error:" not in done.stdout:  # Python's own code is 1 too where mypy is not installed
            sys.exit(f"mypy did not run: {done.stdout}{done.stderr}")
        return done.returncode == 1

    def verdict(self, mutant: Mutant, budget: float) -> tuple[str, str]:
        """``killed``, ``time``, ``mistyped`` or ``survived``; and by which test."""
        tests, seconds, of = self.tests_of(mutant, budget)
        if not tests:
            return "survived", "no test runs it"
        path = self.path / SRC / mutant.module
        original, stamp = path.read_bytes(), path.stat()
        path.write_bytes(mutant.changed)
        try:
            for some in _stages(tests):
                code, failed = self.run(some, 60 + 8 * seconds)
                if code != 0:
                    break
            if code == 0 and self.mistyped():
                return "mistyped", ""
        finally:
            path.write_bytes(original)
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        if code is None:
            return "time", ""
        if code == 5:
            sys.exit(f"pytest finds none of {len(tests)} tests again, as {tests[0]}")
        self.kills.update([failed] if failed else [])
        return ("killed", failed) if code else ("survived", f"{len(tests)} of {of} tests ran")


def _stages(tests: list[str]) -> list[list[str]]:
    """A few first, from three files: most mutants are killed by any test that runs them, and to collect every file
    takes longer than to run those."""
    files = list(dict.fromkeys(map(_file, tests)))[:3]
    few = [one for one in tests if _file(one) in files][:40]
    return [some for some in (few, [one for one in tests if one not in set(few)]) if some]


def _file(test: str) -> str:
    return test.partition("::")[0]


def options(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description="Mutation tests of a seeded sample.")
    parser.add_argument("modules", nargs="*", help="paths below src/dpone, as sql/*.py or engine/plan.py:60")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--mutants", type=int, default=150, help="size of the sample (150)")
    parser.add_argument("--minutes", type=float, default=60, help="begin no mutant after this time (60)")
    parser.add_argument("--seconds", type=float, default=20, help="of the processor, for the tests of a mutant (20)")
    parser.add_argument("--suite", nargs="*", default=[], help="what pytest collects (the fast suite)")
    parser.add_argument("--map", type=Path, help="keeps which test runs which line, for the next run")
    parser.add_argument("--verdicts", type=Path, help="keeps each verdict: a run that was stopped goes on from there")
    return parser.parse_args(args)


def every(wanted: list[str]) -> list[Mutant]:
    found: dict[tuple[str, int], list[Mutant]] = {}
    for pattern in wanted or MODULES:
        name, _, line = pattern.partition(":")
        if not (paths := sorted((ROOT / SRC).glob(name))):
            sys.exit(f"no module {name} in {SRC}")
        for path in paths:
            module = path.relative_to(ROOT / SRC).as_posix()
            made = mutants(module, path.read_bytes())
            found[module, int(line or 0)] = [one for one in made if not line or one.line == int(line)]
    return [one for made in found.values() for one in made]


def known_equivalent() -> dict[tuple[str, ...], str]:
    listed: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text())["mutant"]
    return {(one["module"], one["where"], one["before"], one["after"]): one["reason"] for one in listed}


def begun(path: Path | None, head: list[Any]) -> dict[tuple[Any, ...], list[str]]:
    """The verdicts that a run of the same sample and the same code has left in ``path`` before it was stopped."""
    if not path:
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if lines[:1] not in ([], [head]):
        sys.exit(f"{path} has the verdicts of another seed, --seconds or code; name another file")
    if not lines:
        path.write_text(json.dumps(head) + "\n")
    return {tuple(mutant): verdict for mutant, verdict in lines[1:]}


def main(args: list[str] | None = None) -> int:
    chosen, started = options(args), time.monotonic()
    made, equivalent = every(chosen.modules), known_equivalent()
    shuffled = random.Random(chosen.seed).sample(made, len(made))
    sample = list(islice((one for one in shuffled if one.compiles()), chosen.mutants))
    print(f"seed {chosen.seed}: {len(sample)} of {len(made)} mutants", flush=True)
    names = {one.name for one in made}
    for old in sorted(set(equivalent) - names) if not chosen.modules else ():
        print(f"equivalent.toml lists a mutant that no longer exists: {' | '.join(old)}")
    modules = sorted({*MODULES, *(one.partition(":")[0] for one in chosen.modules)})
    verdicts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="dpone-mutate-") as folder:
        tree = Tree.copied(Path(folder).resolve())
        kept = begun(chosen.verdicts, [chosen.seed, chosen.seconds, *tree.digests(modules)])
        tree.kills.update(by for verdict, by in kept.values() if verdict == "killed" and by)
        tree.learn(chosen.suite, modules, None if chosen.suite else chosen.map)
        if tree.mistyped():
            sys.exit("mypy finds errors without a mutant; run nox -s typing")
        for n, one in enumerate(sample, 1):
            known = ["equivalent", ""] if one.name in equivalent else kept.get((n, *one.name))
            if not known and time.monotonic() - started > chosen.minutes * 60:
                print(f"the time is over; {len(sample) - n + 1} mutants were not tried")
                break
            verdict, by = known or tree.verdict(one, chosen.seconds)
            verdicts[verdict] += 1
            if chosen.verdicts and not known:
                with chosen.verdicts.open("a") as file:
                    file.write(json.dumps([[n, *one.name], [verdict, by]]) + "\n")
            print(f"{n:4} {verdict:10} {SRC}/{one.module}:{one.line} {by}", flush=True)
            if verdict == "survived":
                print(f"       in {one.where}\n     - {one.before}\n     + {one.after}", flush=True)
        code, fails = tree.run(sorted(tree.kills), 3600) if tree.kills else (0, "")
        if code != 0:
            print(f"a test that killed a mutant also fails without one: {fails}")
    dead, alive = sum(verdicts[how] for how in ("killed", "time", "mistyped")), verdicts["survived"]
    share = dead / (dead + alive) if dead + alive else 0.0
    print(
        f"seed {chosen.seed}: {dead} killed ({verdicts['time']} by the time limit, {verdicts['mistyped']} by mypy),",
        end=" ",
    )
    print(f"{alive} survived,", end=" ")
    print(f"{verdicts['equivalent']} equivalent; {share:.1%} killed, at least {LEAST:.0%} must be")
    return 0 if share >= LEAST and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
