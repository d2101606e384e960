"""``dpone ops certification-run``: a route is run, killed and compared over the real systems of both ends, and what was
seen becomes evidence."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from dpone.capability import Role, Support
from dpone.certify.evidence import CORE, Measure, Server, digest, write, write_gate
from dpone.certify.matrix import route_matrix
from dpone.config.command_line import named_connection
from dpone.errors import ConfigError, DponeError, PluginError, counted
from dpone.model.secret import Secret
from dpone.model.strategy import ALIASES, MODES
from dpone.plugins import discover, resolve
from dpone.testing.harness import Harness
from dpone.testing.scenario import FEWEST, Outcome, Step, certify_route

FORMAT = 1
ROWS = 10_000
MOST = 1_000_000  # the model and the rows that are compared are in memory
SUITE = "certification-run"
KIT = "conformance kit"  # named among the cases of a capability: a run alone certifies a route, and no capability
Reached = Literal["live", "embedded", "simulated"]


@frozen
class End:
    """One end of the route. live: a system of the user's. embedded: a server of the real product that runs only
    meanwhile. simulated: a substitute."""

    connector: str
    reached: Reached
    server: Server

    def __str__(self) -> str:
        return f"{self.connector} ({self.server.product} {self.server.version})"


@frozen
class CertificationRun:
    """JSON: docs/reference/certification-run.schema.json. evidence: the files that were written."""

    source: End
    sink: End
    strategy: str
    rows: int
    seed: int
    outcome: Outcome
    evidence: tuple[Path, ...] = ()

    @property
    def ok(self) -> bool:
        return self.outcome.ok

    @property
    def reached(self) -> Reached:
        """The weaker of the two ends."""
        return next(one for one in ("simulated", "embedded", "live") if one in (self.source.reached, self.sink.reached))

    def to_json(self) -> dict[str, Any]:
        soaked = self.outcome.soaked
        return {
            "format": FORMAT,
            "ok": self.ok,
            "reached": self.reached,
            "source": _end(self.source),
            "sink": _end(self.sink),
            "strategy": self.strategy,
            "rows": self.rows,
            "seed": self.seed,
            "steps": [
                {
                    "step": one.name,
                    "ok": one.ok,
                    "rows": one.rows,
                    "seconds": one.seconds,
                    "wrong_rows": one.wrong,
                    "said": one.said,
                }
                for one in self.outcome.steps
            ],
            "loads": self.outcome.loads,
            "kills": self.outcome.kills,
            "wrong_rows": self.outcome.wrong,
            "rows_per_second": self.outcome.rate,
            "soak": soaked
            and {
                "seconds": self.outcome.soak_seconds,
                "loads": soaked.loads,
                "kills": soaked.kills,
                "rows": soaked.rows,
                "wrong_rows": soaked.wrong,
                "stuck_runs": soaked.stuck,
            },
            "evidence": [str(path) for path in self.evidence],
        }

    def head(self) -> str:
        route = f"{self.source} -> {self.sink}, {self.strategy}, {counted(self.rows, 'row')}"
        return f"{self.reached}: {route}, --seed {self.seed}"

    def end(self) -> str:
        """What it comes to, and where the evidence is."""
        done = self.outcome
        kills = done.kills + (done.soaked.kills if done.soaked else 0)
        loads = done.loads + (done.soaked.loads if done.soaked else 0)
        if self.ok:
            said = f"passed: {counted(loads, 'load')}, {counted(kills, 'kill')}, the target was right after each load"
        else:
            said = f"FAILED: {done.failure or 'too few runs could be killed'}"
        return "\n".join([said, *(f"wrote {path}" for path in self.evidence)])


def line(step: Step) -> str:
    """One line of the table of steps."""
    return (
        f"  {'ok' if step.ok else 'FAIL':4}  {step.name:8}{step.rows:>11,}{step.seconds:>9.2f} s  {step.said}".rstrip()
    )


def _end(end: End) -> dict[str, str]:
    said = {"connector": end.connector, "reached": end.reached}
    return {**said, "product": end.server.product, "version": end.server.version}


def certification_run(
    source: str, sink: str, strategy: str, rows: int = ROWS, soak: timedelta = timedelta(0), seed: int | None = None,
    evidence: Path | None = None, pipeline: Path | None = None, tell: Callable[[str], None] = lambda line: None,
) -> CertificationRun:  # fmt: skip
    """Run the scenario of a route, and write evidence into a folder.

    source, sink: a connection of the pipeline file (or file of connections) ``pipeline``, or a type. Everything happens
    in places of its own (a folder, a schema), which are removed afterwards; tables of the user are not touched. tell:
    gets each line of the output as it becomes known. Raises ConfigError and PluginError if the route cannot be run, and
    DponeError with the outcome if its evidence cannot be written.
    """
    mode = ALIASES.get(strategy, strategy)
    ends = (_named("source", source, pipeline), _named("sink", sink, pipeline))
    _require_route(ends[0].connector, ends[1].connector, mode)
    if not FEWEST <= rows <= MOST:
        raise ConfigError(f"certify {source} -> {sink}", f"rows: {rows:,}", f"choose from {FEWEST:,} to {MOST:,}")
    if evidence is not None:
        _require_folder(evidence)
    for name in (CORE, *(end.connector for end in ends)):
        digest(name)  # is kept: evidence is of the files that the run began with
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="dpone-certification-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # a server of our own may run as another user
        standing: dict[str, By] = {}
        reached = [_reach(stack, end, Path(folder), standing) for end in ends]
        found: list[CertificationRun] = []

        def ready(one: Harness, other: Harness) -> None:
            from_, into = (
                End(h.connector, by.reached(h), _server(h)) for h, by in zip((one, other), reached, strict=True)
            )
            found.append(CertificationRun(from_, into, mode, rows, seed, Outcome()))
            tell(found[0].head())

        @contextmanager
        def places(name: str) -> Iterator[tuple[Harness, Harness]]:
            with ExitStack() as inside:
                one, other = (
                    inside.enter_context(by.opened(Path(folder, name, role)))
                    for role, by in zip(("source", "sink"), reached, strict=True)
                )
                yield one, other

        done = certify_route(places, mode, rows, seed, soak.total_seconds(), lambda step: tell(line(step)), ready)
    run = evolve(found[0], outcome=done)
    try:
        return _written(run, evidence)
    except OSError as error:
        tell(run.end())  # an hour of soak is not lost with a full disk
        found_ = f"{error.strerror or error}; the run itself {'passed' if run.ok else 'FAILED'}"
        todo = f"free the disk or name another folder, and run again with --seed {run.seed}"
        raise DponeError(f"write evidence into {evidence}", found_, todo) from error


# ---- which route


@frozen
class Named:
    """An end as it was asked for. address: of its connection, if it was named by one."""

    role: Role
    connector: str
    address: Secret | None = None


def _named(role: Role, name: str, pipeline: Path | None) -> Named:
    found, plugins = None if pipeline is None else named_connection(role, name, pipeline), discover()
    if pipeline is not None and found is None and name not in plugins.names(role):
        known = ", ".join(plugins.names(role))
        todo = f"use the name of a connection, or one of {known}"
        raise ConfigError(f"certify {role} {name}", f"{pipeline} has no connection of this name", todo)
    end = Named(role, *(found or (name,)))
    record = plugins.get(role, end.connector)
    if not record.implemented:
        known = ", ".join(n for n in plugins.names(role) if plugins.get(role, n).implemented)
        raise ConfigError(
            f"certify {role} {end.connector}", "this version does not implement it", f"choose from {known}"
        )
    if record.harness is None:
        todo = "use another one, or a version of it whose plugin names one"
        raise ConfigError(f"certify {role} {name}", "the connector ships no Harness to test it with", todo)
    return end


def _require_route(source: str, sink: str, mode: str) -> None:
    failed = f"certify {source} -> {sink} by {mode}"
    if mode not in MODES:
        raise ConfigError(failed, "the strategy is unknown", f"choose from {', '.join(MODES)}")
    routes = {r.strategy: r.support for r in route_matrix() if (r.source, r.sink) == (source, sink)}
    if routes[mode] is Support.SUPPORTED:
        return
    able = ", ".join(name for name, support in routes.items() if support is Support.SUPPORTED) or "none"
    lacks = discover().get("sink", sink).capabilities[mode] is not Support.SUPPORTED
    found = f"sink {sink} does not declare {mode}" if lacks else f"source {source} has no change stream"
    raise ConfigError(failed, found, f"choose from {able}" if able != "none" else "choose another source or sink")


def _require_folder(folder: Path) -> None:
    todo = "name another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"write evidence into {folder}", (error.strerror or str(error)).lower(), todo) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"write evidence into {folder}", "the folder cannot be written", todo)


# ---- the systems


@frozen
class By:
    """How the Harnesses of an end reach its system. address: of a server; None: there is none to name. own: it is one
    that only this run has."""

    harness: type[Harness]
    address: str | None = None
    own: bool = False

    def reached(self, harness: Harness) -> Reached:
        if not harness.live:
            return "simulated"
        return "embedded" if self.own else "live"

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Harness]:
        with _set(self.harness.variable, self.address):
            made = self.harness(folder)
        with closing(made) as harness:
            yield harness


def _harness(end: Named) -> type[Harness]:
    try:
        found: type[Harness] = resolve(str(discover().get(end.role, end.connector).harness))
    except PluginError as error:
        todo = "install the extra testing of the connector"
        raise PluginError(f"load the Harness of {end.connector}", error.found, todo) from error
    return found


@contextmanager
def _set(variable: str | None, value: str | None) -> Iterator[None]:
    """An environment variable, while the block runs; nothing if there is no value."""
    if variable is None or value is None:
        yield
        return
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        os.environ.pop(variable)
        os.environ.update({} if before is None else {variable: before})


def _reach(stack: ExitStack, end: Named, folder: Path, standing: dict[str, By]) -> By:
    """By its connection, by the environment, or by a stand-in, which runs until the stack ends. standing: those that
    run, by the variable that would name them; both ends use the same one."""
    harness = _harness(end)
    if harness.variable is None:
        return By(harness)
    if end.address is not None:
        return By(harness, end.address.reveal())
    if address := os.environ.get(harness.variable):
        return By(harness, address)
    if harness.variable in standing:
        return evolve(standing[harness.variable], harness=harness)
    server = harness.stand_in(folder / f"server_{end.role}")
    if server is None:
        found, todo = f"{harness.variable} is not set", f"set {harness.variable} to the address of a server"
        if any("stand_in" in vars(one) for one in harness.__mro__[: harness.__mro__.index(Harness)]):
            todo += ", or install the extra testing of the connector"
        raise ConfigError(f"find a server for {end.role} {end.connector}", found, todo)
    standing[harness.variable] = By(harness, stack.enter_context(server), own=True)
    return standing[harness.variable]


def _server(harness: Harness) -> Server:
    return Server(harness.product, harness.version, harness.live, harness.durability())


# ---- evidence


def _written(run: CertificationRun, folder: Path | None) -> CertificationRun:
    if folder is None:
        return run
    return evolve(run, evidence=tuple(dict.fromkeys(_write(run, folder))))


def _write(run: CertificationRun, folder: Path) -> Iterator[Path]:
    """The route, capabilities of both ends that it needs, and gates of the sink."""
    source, sink, done = run.source, run.sink, run.outcome
    servers = [source.server] if source.server == sink.server else [source.server, sink.server]
    suite = f"{SUITE} {source.connector} {sink.connector} {run.strategy}"
    route = [_result(SUITE, run.strategy, run)]
    yield write(
        folder, "route", (source.connector, sink.connector), servers, route,
        required={run.strategy: (SUITE,)}, suite=f"{SUITE} {run.strategy}",
    )  # fmt: skip
    for role, end in (("source", source), ("sink", sink)):
        needed = [*_needed(role, end.connector, run.strategy)]
        results = [_result(SUITE, capability, run) for capability in needed]
        required = dict.fromkeys(needed, (SUITE, KIT))
        yield write(folder, role, (end.connector,), [end.server], results, required=required, suite=suite)
    about = {"source": source.connector, "strategy": run.strategy, "seed": run.seed, "run": SUITE}
    first = next((one for one in done.steps if one.name == "load"), None)
    if first is not None and first.rate is not None:
        figures = [
            Measure("wrong_rows", first.wrong, at_most=0), Measure("rows", first.rows),
            Measure("rows_per_second", first.rate),
        ]  # fmt: skip
        took = first.seconds
        yield write_gate(folder, "throughput", sink.connector, servers, figures, seconds=took, suite=suite, **about)
    if done.soaked is not None:
        measures = done.soaked.measures
        seconds = done.soak_seconds
        yield write_gate(folder, "soak", sink.connector, servers, measures, seconds=seconds, suite=suite, **about)


def _needed(role: str, connector: str, mode: str) -> Iterator[str]:
    wanted = ("read", "incremental_cdc" if mode == "cdc_apply" else "") if role == "source" else ("write", mode)
    record = discover().get("source" if role == "source" else "sink", connector)
    every = (*wanted, "exactly_once") if role == "sink" else wanted
    return (one for one in every if record.capabilities.get(one) is Support.SUPPORTED)


def _result(case: str, capability: str, run: CertificationRun) -> dict[str, Any]:
    seconds = round(sum(step.seconds for step in run.outcome.steps), 3)
    return {
        "case": case,
        "capability": capability,
        "declared": "supported",
        "result": "passed" if run.ok else "failed",
        "seconds": seconds,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "about": {"route": f"{run.source.connector} -> {run.sink.connector} by {run.strategy}", "rows": run.rows,
                  "seed": run.seed, "kills": run.outcome.kills, "wrong_rows": run.outcome.wrong,
                  "failed_step": next((step.name for step in run.outcome.steps if not step.ok), None)},
    }  # fmt: skip
