"""Certification: what installed plugins declare, joined with what recorded runs showed. The matrix is never written by
hand.

A cell (connector, role, capability), or a route (source, sink, strategy), is

    certified        every case the kit has for it passed, against a live system, with the files that are installed
    simulated        the same, but against a substitute for the system
    insufficient     of a gate: it met its limits, but was too short, too small or not safe enough to count
    failed           a case failed with the files that are installed
    stale            there is evidence, but for other files than the installed ones
    declared         the plugin declares it, and no run has shown it (or only some of its cases were run)
    unsupported      the system cannot
    not implemented  this version does not

A connector of this repository that cannot be used here has no cell and no level: see ``Unusable``.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

from dpone.capability import CAPABILITIES, Role, Support
from dpone.certify.evidence import (
    CORE,
    GATES,
    Evidence,
    Gate,
    Server,
    digest,
    lacking,
    measures_of,
    read_all,
)
from dpone.certify.matrix import route_matrix
from dpone.errors import ConfigError
from dpone.plugins import Plugins, discover, how_to_install

ROLES: tuple[Role, ...] = ("source", "sink", "state", "cdc")


class Status(enum.StrEnum):
    CERTIFIED = "certified"
    SIMULATED = "simulated"
    INSUFFICIENT = "insufficient"
    FAILED = "failed"
    STALE = "stale"
    DECLARED = "declared"
    UNSUPPORTED = "unsupported"
    NOT_IMPLEMENTED = "not implemented"


class Level(enum.StrEnum):
    """Of a connector. tested: every declared capability is certified or simulated. certified: every one is certified.
    production-certified: certified, and every one of the four gates passed live."""

    NONE = "none"
    TESTED = "tested"
    CERTIFIED = "certified"
    PRODUCTION = "production-certified"


@frozen
class Cell:
    """``evidence``: names of the files that it is based on. ``quirks``: cases left out, with the reason. ``left_out``:
    case ->
    values and names that it left out, with the reason."""

    connector: str
    role: str
    capability: str
    status: Status
    servers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    quirks: Mapping[str, str] = {}
    left_out: Mapping[str, Mapping[str, str]] = {}


@frozen
class RouteCell:
    source: str
    sink: str
    strategy: str
    status: Status
    servers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


@frozen
class ConnectorLevel:
    """gates: throughput, state, schema_evolution and soak, each with the status of its evidence."""

    connector: str
    level: Level
    gates: Mapping[str, Status]


@frozen
class Unusable:
    """A connector that has no level, because nothing of it can be run. ``status``: not implemented (a version with its
    name only), not installed (a plugin of this repository), broken or blocked; ``todo``: how to get it, if that is
    known."""

    connector: str
    distribution: str
    status: str
    todo: str


@frozen
class GateCell:
    """One file of a gate. ``measures``: its figures, each with its bar. ``lacking``: why it does not count."""

    connector: str
    gate: str
    status: Status
    measures: tuple[str, ...]
    lacking: tuple[str, ...]
    servers: tuple[str, ...]
    machine: Mapping[str, Any]
    about: Mapping[str, Any]
    at: str
    evidence: str

    @property
    def ran_on(self) -> str:
        return ", ".join(f"{name} {self.machine[name]}" for name in ("cpus", "load", "python") if name in self.machine)


@frozen
class Certification:
    """``seen``: how many files of evidence were read. ``delivery``: of each sink, and how it commits. ``servers``: what
    was run against, each with its settings once. ``named``: the connectors that the caller asked for."""

    cells: tuple[Cell, ...]
    routes: tuple[RouteCell, ...]
    connectors: tuple[ConnectorLevel, ...]
    seen: int
    delivery: Mapping[str, str] = {}
    gates: tuple[GateCell, ...] = ()
    servers: tuple[Server, ...] = ()
    unusable: tuple[Unusable, ...] = ()
    named: tuple[str, ...] = ()

    def below(self, level: Level) -> list[str]:
        """Connectors that do not reach the level: those that are implemented, and those that were asked for by name."""
        order = list(Level)
        low = [c.connector for c in self.connectors if order.index(c.level) < order.index(level)]
        known = {c.connector for c in self.connectors}
        return [*low, *(name for name in self.named if name not in known)]


def certify(folder: Path | None = None, only: Collection[str] = ()) -> Certification:
    """Join the discovered plugins with the evidence in a folder; None: there is no evidence. ``only``: names of
    connectors. Raises ConfigError for a damaged file, by its name, and for a connector that nobody has."""
    plugins = discover()
    unusable = tuple(_unusable(plugins))
    if unknown := sorted(set(only) - {name for _, name in plugins.connectors} - {one.connector for one in unusable}):
        found = f"unknown connector{'s' if unknown[1:] else ''}: {', '.join(unknown)}"
        raise ConfigError("select connectors", found, "choose from 'dpone plugins'")
    known = _Known(() if folder is None else tuple(read_all(folder)))
    cells = tuple(cell for cell in _cells(plugins, known) if not only or cell.connector in only)
    routes = tuple(r for r in _routes(known) if not only or r.source in only or r.sink in only)
    connectors = tuple(_levels(cells, known))
    gates = tuple(gate for connector in connectors for gate in known.gates(connector.connector))
    about = [e for e in known.evidence if not only or set(e.names) & set(only)]
    servers = {repr(server): server for e in about for server in e.servers}
    return Certification(
        cells, routes, connectors, len(known.evidence), _deliveries(plugins, only), gates,
        tuple(servers[said] for said in sorted(servers)),
        tuple(one for one in unusable if not only or one.connector in only), tuple(dict.fromkeys(only)),
    )  # fmt: skip


def _unusable(plugins: Plugins) -> Iterable[Unusable]:
    able = {name for (_, name), connector in plugins.connectors.items() if connector.implemented}
    owners = {name: one.distribution for one in plugins.found for names in one.roles.values() for name in names}
    for name in sorted({*owners} - able):
        yield Unusable(name, owners[name], str(Status.NOT_IMPLEMENTED), "wait for a version that has it")
    for one in plugins.found:
        if one.state != "ok":
            yield Unusable(one.name, one.distribution, one.state, "see 'dpone plugins'")
    for name in plugins.absent():
        yield Unusable(name, f"dpone-{name}", "not installed", how_to_install(name))


def _deliveries(plugins: Plugins, only: Collection[str]) -> Mapping[str, str]:
    """Only for implemented sinks; the others promise nothing yet."""
    sinks = (plugins.get("sink", name) for name in plugins.names("sink") if not only or name in only)
    return {sink.name: f"{sink.delivery} ({sink.commit})" for sink in sinks if sink.implemented}


@frozen
class _Known:
    evidence: tuple[Evidence, ...]

    def of(self, role: str, names: Sequence[str]) -> list[Evidence]:
        return [e for e in self.evidence if (e.role, e.names) == (role, tuple(names))]

    def fresh(self, evidence: Evidence) -> bool:
        """True if it was written with exactly the files that are installed."""
        return all(evidence.digests.get(name) == digest(name) for name in (CORE, *evidence.names))

    def status_of(self, found: Iterable[Evidence], capability: str) -> tuple[Status, list[Evidence]]:
        """The status of a capability by all files about one subject, and the files that show it."""
        about = [e for e in found if any(r["capability"] == capability for r in e.results)]
        fresh = [e for e in about if self.fresh(e)]
        if failed := [e for e in fresh if _failed(e, capability)]:
            return Status.FAILED, failed
        whole = [e for e in fresh if _whole(e, capability)]
        if live := [e for e in whole if e.live]:
            return Status.CERTIFIED, live
        if whole:
            return Status.SIMULATED, whole
        if about and not fresh:
            return Status.STALE, about
        return Status.DECLARED, fresh

    def gates(self, name: str) -> Iterable[GateCell]:
        """Every file of a connector's gates."""
        for evidence in self.of("gate", (name,)):
            for result in evidence.results:
                gate = result["capability"]
                said = tuple(map(str, measures_of(result)))
                lacks = tuple(lacking(gate, evidence, result))
                yield GateCell(
                    name, gate, self._gate(evidence, result, bool(lacks)), said, lacks, _servers([evidence]),
                    evidence.machine, result.get("about", {}), result["at"], evidence.path.name,
                )  # fmt: skip

    def _gate(self, evidence: Evidence, result: Mapping[str, Any], lacks: bool) -> Status:
        """The status of a gate by its figures, whatever result the file states."""
        if not self.fresh(evidence):
            return Status.STALE
        if result["result"] == "failed" or any(measure.missed for measure in measures_of(result)):
            return Status.FAILED
        if lacks:
            return Status.INSUFFICIENT
        return Status.CERTIFIED if evidence.live else Status.SIMULATED


def _failed(evidence: Evidence, capability: str) -> bool:
    return any(r["capability"] == capability and r["result"] == "failed" for r in evidence.results)


def _whole(evidence: Evidence, capability: str) -> bool:
    """Every case of the capability passed, save those that the system cannot have; at least one did."""
    passed = {r["case"] for r in evidence.results if r["capability"] == capability and r["result"] == "passed"}
    required = set(evidence.required.get(capability, ())) - set(evidence.quirks)
    return bool(required) and required <= passed


def _left_out(found: Iterable[Evidence], capability: str) -> Mapping[str, Mapping[str, str]]:
    """Of each case, what it left out in any of the files."""
    left: dict[str, dict[str, str]] = {}
    for result in (r for e in found for r in e.results if r["capability"] == capability and r.get("left_out")):
        left.setdefault(result["case"], {}).update(result["left_out"])
    return left


def _not_supported(support: Support) -> Status:
    return Status.UNSUPPORTED if support is Support.UNSUPPORTED else Status.NOT_IMPLEMENTED


def _servers(found: Iterable[Evidence]) -> tuple[str, ...]:
    return tuple(sorted({f"{server.product} {server.version}" for e in found for server in e.servers}))


def _files(found: Iterable[Evidence]) -> tuple[str, ...]:
    return tuple(e.path.name for e in found)


def _cells(plugins: Plugins, known: _Known) -> Iterable[Cell]:
    for role in ROLES:
        declared = [plugins.get(role, name).capabilities for name in plugins.names(role)]
        wanted = list(dict.fromkeys([*CAPABILITIES[role], *(one for row in declared for one in row)]))
        for name, capabilities in zip(plugins.names(role), declared, strict=True):
            for capability in wanted:
                support = capabilities.get(capability, Support.NOT_IMPLEMENTED)
                if support is not Support.SUPPORTED:
                    yield Cell(name, role, capability, _not_supported(support))
                    continue
                status, found = known.status_of(known.of(role, (name,)), capability)
                quirks = {case: why for e in found for case, why in e.quirks.items()}
                named = {case for e in found for case in e.required.get(capability, ())}
                mine = {case: why for case, why in quirks.items() if case in named}
                left_out = _left_out(found, capability)
                yield Cell(name, role, capability, status, _servers(found), _files(found), mine, left_out)


def _routes(known: _Known) -> Iterable[RouteCell]:
    for route in route_matrix():
        if route.support is not Support.SUPPORTED:
            yield RouteCell(route.source, route.sink, route.strategy, _not_supported(route.support))
            continue
        status, found = known.status_of(known.of("route", (route.source, route.sink)), route.strategy)
        yield RouteCell(route.source, route.sink, route.strategy, status, _servers(found), _files(found))


_C = TypeVar("_C", Cell, RouteCell)


def claimed(cells: Iterable[_C]) -> list[_C]:
    """The capabilities that a plugin declares as supported."""
    return [cell for cell in cells if cell.status not in (Status.UNSUPPORTED, Status.NOT_IMPLEMENTED)]


def _levels(cells: Sequence[Cell], known: _Known) -> Iterable[ConnectorLevel]:
    for name in dict.fromkeys(cell.connector for cell in claimed(cells)):
        mine = [cell for cell in claimed(cells) if cell.connector == name]
        gates: dict[str, Status] = {gate: _gate(gate, name, mine, known) for gate in GATES}
        yield ConnectorLevel(name, _level({c.status for c in mine}, set(gates.values())), gates)


def _gate(gate: Gate, name: str, cells: Sequence[Cell], known: _Known) -> Status:
    """The status from a gate's own evidence; for ``state`` and ``schema_evolution`` otherwise from the cases of the
    kit. A failure outweighs every pass, and a pass outweighs evidence that does not count."""
    found = {one.status for one in known.gates(name) if one.gate == gate}
    order = (Status.FAILED, Status.CERTIFIED, Status.SIMULATED, Status.INSUFFICIENT, Status.STALE)
    if found:
        return next(status for status in order if status in found)
    by_kit = {
        "state": [c.status for c in cells if c.role == "state"],
        "schema_evolution": [c.status for c in cells if c.capability == "schema_evolution"],
    }
    return weakest(by_kit.get(gate, []))


def weakest(statuses: Sequence[Status]) -> Status:
    """The status that holds for all of them; without any, nothing is shown."""
    order = (Status.FAILED, Status.STALE, Status.DECLARED, Status.SIMULATED, Status.CERTIFIED)
    return next((status for status in order if status in statuses), Status.DECLARED)


def _level(statuses: set[Status], gates: set[Status]) -> Level:
    if not statuses <= {Status.CERTIFIED, Status.SIMULATED}:
        return Level.NONE
    if statuses != {Status.CERTIFIED}:
        return Level.TESTED
    return Level.PRODUCTION if gates == {Status.CERTIFIED} else Level.CERTIFIED


# ---- as documents


def to_json(found: Certification) -> dict[str, Any]:
    from attrs import asdict

    return {
        "evidence_files": found.seen,
        "connectors": [asdict(c) for c in found.connectors],
        "capabilities": [asdict(c) for c in found.cells],
        "routes": [asdict(r) for r in found.routes],
        "delivery": dict(found.delivery),
        "gates": [asdict(gate) for gate in found.gates],
        "servers": [asdict(server) for server in found.servers],
        "unusable": [asdict(one) for one in found.unusable],
    }


def to_markdown(found: Certification) -> str:
    """The matrix as a page: connectors, capabilities by role, routes."""
    parts = [said(found), _connectors(found)]
    shown = {
        "Cannot be used": unusable_rows(found), "Gates": gate_rows(found), "Run against": server_rows(found),
        "Left out": left_out_rows(found),
    }  # fmt: skip
    parts += [f"## {title}\n\n{_table(head, lines)}" for title, (head, *lines) in shown.items() if lines]
    for role in ROLES:
        rows = [cell for cell in found.cells if cell.role == role]
        names = list(dict.fromkeys(cell.connector for cell in rows))
        if names:
            wanted = dict.fromkeys(cell.capability for cell in rows)
            status = {(c.connector, c.capability): str(c.status) for c in rows}
            lines = [[capability, *(status[name, capability] for name in names)] for capability in wanted]
            if role == "sink":
                said_ = [found.delivery.get(name, str(Status.NOT_IMPLEMENTED)) for name in names]
                lines.insert(0, ["delivery (commit)", *said_])
            parts.append(f"## {role.replace('_', ' ').capitalize()}\n\n{_table([role, *names], lines)}")
    lines = [[r.source, r.sink, r.strategy, str(r.status), ", ".join(r.servers)] for r in claimed(found.routes)]
    parts.append(f"## Routes\n\n{_table(['source', 'sink', 'strategy', 'status', 'run against'], lines)}")
    return "\n\n".join(parts)


def said(found: Certification) -> str:
    """One sentence about the evidence that was read."""
    if not found.seen:
        return "No evidence was given, so nothing is certified. The tables show what the plugins declare."
    all_ = [cell.status for cell in claimed(found.cells)] + [route.status for route in claimed(found.routes)]
    count = f"{all_.count(Status.CERTIFIED)} of {len(all_)}"
    return f"Evidence files read: {found.seen}. Certified: {count} of the declared capabilities and routes."


def unusable_rows(found: Certification) -> list[list[str]]:
    """Connectors that nothing could be run with, as rows with a header."""
    head = ["cannot be used", "distribution", "why", "to use it"]
    return [head, *([u.connector, u.distribution, u.status, u.todo] for u in found.unusable)]


def gate_rows(found: Certification) -> list[list[str]]:
    """What each gate measured, as rows with a header; ``but`` says why it does not count."""
    head = ["connector", "gate", "status", "measured", "run against", "machine", "but"]
    return [head, *([g.connector, g.gate, str(g.status), "; ".join(g.measures), ", ".join(g.servers), g.ran_on,
                     "; ".join(g.lacking)] for g in found.gates)]  # fmt: skip


def server_rows(found: Certification) -> list[list[str]]:
    """The durability settings of each system, as rows with a header."""
    return [["run against", "survives a loss of power", "settings"], *map(_server, found.servers)]


def _server(server: Server) -> list[str]:
    kept, name = server.durability, f"{server.product} {server.version}" + ("" if server.live else " (stand-in)")
    if kept is None:
        return [name, "unknown", ""]
    return [name, "yes" if kept.safe else "no", ", ".join(f"{k} {v}" for k, v in sorted(kept.settings.items()))]


def left_out_rows(found: Certification) -> list[list[str]]:
    """What the cases left out because the system cannot hold it, as rows with a header; without ``what`` it is the
    whole case."""
    rows = []
    for cell in claimed(found.cells):
        rows += [[cell.connector, cell.role, case, "", why] for case, why in cell.quirks.items()]
        for case, left in cell.left_out.items():
            rows += [[cell.connector, cell.role, case, what, why] for what, why in left.items()]
    return [["connector", "role", "case", "what", "why"], *rows]


def _connectors(found: Certification) -> str:
    lines = [[c.connector, str(c.level), *(str(c.gates[gate]) for gate in GATES)] for c in found.connectors]
    return _table(["connector", "level", *(gate.replace("_", " ") for gate in GATES)], lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
