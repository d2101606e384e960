"""Evidence: files in which a run records its results. ``dpone certify`` joins them with what plugins declare.

The checksum in a file proves that it was not changed (integrity), not who wrote it (origin): anyone can write one. Keep
evidence where only your CI can write, or sign it there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, frozen

from dpone.errors import ConfigError, DponeError, PluginError
from dpone.host import durable
from dpone.model.ids import ulid
from dpone.plugins import Plugins, discover

FORMAT = 2  # 1 had neither durability, machine, left_out nor the bars of a gate
CORE = "dpone"
Gate = Literal["throughput", "state", "schema_evolution", "soak"]
GATES: tuple[Gate, ...] = ("throughput", "state", "schema_evolution", "soak")

# How much a gate must have done to count, and the figures that need a limit: the greatest limit that counts, or None if
# the writer of the gate may choose it.
ENOUGH: Mapping[Gate, Mapping[str, float]] = {
    "throughput": {"rows": 1_000_000},
    "soak": {"seconds": 1_800, "kills": 100},
}
BARS: Mapping[Gate, Mapping[str, float | None]] = {
    "throughput": {"rows_per_second": None, "peak_mb": None},
    "soak": {"wrong_rows": 0},
}


@frozen
class Durability:
    """``settings``: those that decide whether confirmed rows survive a power cut, as reported by the system. ``safe``:
    with these settings they do."""

    safe: bool
    settings: Mapping[str, str] = {}


@frozen
class Server:
    """The system that the cases ran against. ``live`` False: a substitute. ``durability`` None: not known."""

    product: str
    version: str
    live: bool
    durability: Durability | None = None


@frozen
class Measure:
    """A figure of a gate, and its limit. Without a limit the figure is only shown."""

    name: str
    figure: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def missed(self) -> bool:
        low = self.at_least is not None and not self.figure >= self.at_least
        return low or (self.at_most is not None and not self.figure <= self.at_most)

    def __str__(self) -> str:
        least = "" if self.at_least is None else f" (at least {self.at_least:,.10g})"
        most = "" if self.at_most is None else f" (at most {self.at_most:,.10g})"
        return f"{self.name} {self.figure:,.10g}{least}{most}"


@frozen
class Evidence:
    """One file. ``role``: of the contract, ``route``, or ``gate``. ``names``: of the connectors, source first.

    digests   of the installed files of core (``dpone``) and of each connector, by name
    required  capability -> the cases that the kit has for it; quirks: those left out, and why
    results   case, capability, declared, result (passed, failed), seconds, at; of the kit also ``left_out``: values and
              names that the system cannot hold, and why; of gates also ``measures`` and ``about``
    machine   what it was run on
    """

    path: Path
    role: str
    names: tuple[str, ...]
    servers: tuple[Server, ...]
    digests: Mapping[str, str]
    commit: str | None
    written_at: str
    required: Mapping[str, Sequence[str]]
    quirks: Mapping[str, str]
    results: Sequence[Mapping[str, Any]]
    machine: Mapping[str, Any] = {}

    @property
    def live(self) -> bool:
        return all(server.live for server in self.servers)


def write(
    folder: Path,
    role: str,
    names: Sequence[str],
    servers: Sequence[Server],
    results: Iterable[Mapping[str, Any]],
    *,
    required: Mapping[str, Sequence[str]],
    quirks: Mapping[str, str] | None = None,
    suite: str = "",
) -> Path:
    """Write a file of evidence, as a whole or not at all; it replaces the earlier one of the same role, connectors,
    ``suite`` (whatever ran the cases) and servers. Raises OSError."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "role": role,
        "connectors": list(names),
        "suite": suite,
        "servers": [asdict(server) for server in servers],
        "digests": {name: digest(name) for name in (CORE, *names)},
        "commit": commit(),
        "machine": machine(),
        "written_at": _now(),
        "required": {capability: list(cases) for capability, cases in required.items()},
        "quirks": dict(quirks or {}),
        "results": list(results),
    }
    document["checksum"] = checksum(document)
    words = [role, *names, suite, *(f"{s.product} {s.version}" for s in servers)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-").lower() + ".json")
    temporary = path.with_name(f".{ulid()}.tmp")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    durable.sync_file(temporary)
    os.replace(temporary, path)
    durable.sync_folder(folder)
    return path


def write_gate(
    folder: Path,
    gate: Gate,
    connector: str,
    servers: Sequence[Server],
    measures: Sequence[Measure],
    *,
    seconds: float,
    suite: str = "",
    **about: Any,
) -> Path:
    """Evidence of a benchmark or a live gate; ``ENOUGH`` and ``BARS`` say what counts. It passed if every limit is met.
    ``seconds`` is its duration, and also a measure. ``suite``: what ran it, so that evidence of others is not
    replaced; ``about``: JSON with any other details."""
    if all(measure.at_least is None and measure.at_most is None for measure in measures):
        raise ConfigError(
            f"write gate {gate}", "none of the measures has a limit", "add a Measure with at_least or at_most"
        )
    if broken := [measure.name for measure in measures if not math.isfinite(measure.figure)]:
        raise ConfigError(f"write gate {gate}", f"not a number: {', '.join(broken)}", "measure it again")
    all_ = [Measure("seconds", round(seconds, 3)), *measures]
    result: dict[str, Any] = {
        "case": gate,
        "capability": gate,
        "declared": "supported",
        "result": "failed" if any(measure.missed for measure in all_) else "passed",
        "seconds": round(seconds, 3),
        "at": _now(),
        "measures": [asdict(measure) for measure in all_],
        "about": about,
    }
    return write(
        folder, "gate", (connector,), servers, [result], required={gate: (gate,)}, suite=f"{gate} {suite}".strip()
    )


def measures_of(result: Mapping[str, Any]) -> list[Measure]:
    """The measures of a gate's result; an earlier version wrote none."""
    return [Measure(**one) for one in result.get("measures", ())]


def lacking(gate: Gate, evidence: Evidence, result: Mapping[str, Any]) -> list[str]:
    """Why a result that met its limits still does not count, each reason in a few words."""
    found = {measure.name: measure for measure in measures_of(result)}
    if not found:
        return ["nothing was measured"]
    short = [
        f"{name} {found[name].figure:,.10g} of {least:,}" if name in found else f"{name} not measured"
        for name, least in ENOUGH.get(gate, {}).items()
        if name not in found or not found[name].figure >= least
    ]
    unbarred = [name for name, most in BARS.get(gate, {}).items() if not _barred(found.get(name), most)]
    return [*short, *(f"no limit for {name}" for name in unbarred), *(_unsafe(evidence) if gate in ENOUGH else ())]


def _barred(measure: Measure | None, most: float | None) -> bool:
    if measure is None:
        return False
    if most is None:
        return measure.at_least is not None or measure.at_most is not None
    return measure.at_most is not None and measure.at_most <= most


def _unsafe(evidence: Evidence) -> Iterable[str]:
    """A system that does not sync is faster than it would be in production, and did not show that it keeps its rows."""
    for server in evidence.servers:
        if server.durability is None:
            yield f"durability of {server.product} unknown"
        elif not server.durability.safe:
            yield f"{server.product} does not sync writes to disk"


def read_all(folder: Path) -> list[Evidence]:
    """Every ``*.json`` of a folder. Raises ConfigError, naming the file, for one that is damaged."""
    if not folder.is_dir():
        todo = "use the folder that 'pytest --dpone-evidence DIR' wrote"
        found = "it is not a folder" if folder.exists() else "the folder does not exist"
        raise ConfigError(f"read evidence {folder}", found, todo)
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Evidence:
    todo = "delete the file and run its tests again"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["checksum"] != checksum(document):
            raise ConfigError(f"read evidence {path}", "the checksum does not match the content", todo)
        if document["format"] not in (1, FORMAT):
            found = f"format {document['format']!r}, this dpone reads 1 and {FORMAT}"
            raise ConfigError(f"read evidence {path}", found, todo)
        return _of(path, document)
    except DponeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"read evidence {path}", f"the file is damaged: {_damage(error)}", todo) from error


def _damage(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "it is not JSON"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _of(path: Path, document: Mapping[str, Any]) -> Evidence:
    results = document["results"]
    for result in results:
        if result["result"] not in ("passed", "failed") or not isinstance(result["at"], str):
            raise ValueError(f"result {result['result']!r}")
        result["case"], result["capability"], measures_of(result)
    return Evidence(
        path=path,
        role=document["role"],
        names=tuple(document["connectors"]),
        servers=tuple(map(_server, document["servers"])),
        digests=document["digests"],
        commit=document["commit"],
        written_at=document["written_at"],
        required=document["required"],
        quirks=document["quirks"],
        results=results,
        machine=document.get("machine", {}),
    )


def _server(data: Mapping[str, Any]) -> Server:
    durability = data.get("durability")
    return Server(**{**data, "durability": Durability(**durability) if durability else None})


def checksum(document: Mapping[str, Any]) -> str:
    """SHA-256 over everything else in the document, as canonical JSON."""
    rest = {name: value for name, value in document.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


# ---- what is installed


def machine() -> dict[str, Any]:
    """The properties of the machine that measurements depend on; nothing that identifies it."""
    return {
        "cpus": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6,
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "dpone": version("dpone-core"),
        "pyarrow": version("pyarrow"),
    }


@cache
def digest(connector: str) -> str:
    """SHA-256 over the names and contents of every installed file of a connector's packages; ``dpone``: of core."""
    packages = {CORE} if connector == CORE else _packages(discover(), connector)
    total = hashlib.sha256()
    for package in sorted(packages):
        for name, path in _files(package):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def _packages(plugins: Plugins, connector: str) -> set[str]:
    """Top packages of a connector: of its plugin, and of whatever its records name."""
    records = [c for (_, name), c in plugins.connectors.items() if name == connector]
    modules = {r.partition(":")[0] for c in records for r in (c.implementation, c.options, c.errors or "") if r}
    modules |= {f.module for f in plugins.found for names in f.roles.values() if connector in names}
    if not modules:
        raise PluginError(f"find connector {connector}", "the connector is not installed", "see 'dpone plugins'")
    return {module.partition(":")[0].partition(".")[0] for module in modules}


def _files(package: str) -> Iterable[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise PluginError(f"find package {package}", "it is not installed", "see 'dpone plugins'")
    if not spec.submodule_search_locations:
        origin = Path(str(spec.origin))
        yield origin.name, origin
    for root in spec.submodule_search_locations or ():
        folder = Path(root)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(folder).as_posix()}", path


@cache
def commit() -> str | None:
    """The commit of core's work tree, with ``+`` if files were changed since; None outside a work tree."""
    here = Path(__file__)

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603  # fixed arguments
                ["git", "-C", str(here.parent), *args],  # noqa: S607  # whichever git the developer uses
                capture_output=True, text=True, timeout=10, check=False,
            )  # fmt: skip
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    head, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    return None if head is None else head + ("+" if changed else "")
