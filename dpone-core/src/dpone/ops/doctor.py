"""Checks of this machine. Every finding that is not ok says what to do."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import json
import os
import platform
import re
import shutil
import sqlite3
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import dpone
from dpone.contract import Finding
from dpone.model.pipeline import Pipeline
from dpone.model.secret import Secret
from dpone.ops.check import connections, failure, implementations
from dpone.plugins import CORE, FoundPlugin, discover, how_to_install, troubles

FREE = 1 << 30  # bytes; staging of a load of any size wants more than this
MORE = {
    "dpone_commands": "commands",
    "dpone_observer": "observer",
    "dpone_run_event": "observer",
}  # hooks of plugins without connectors


def examine(pipeline: Pipeline | None) -> list[Finding]:
    """All findings; those of connections only if a pipeline is given."""
    folder = pipeline.path.parent if pipeline is not None and pipeline.path is not None else Path.cwd()
    findings = [python(), distribution(), *plugins(), *drivers(), clock(folder), disk(folder), tls()]
    if pipeline is not None:
        findings += [*implementations(pipeline), *connections(pipeline)]
    return findings


def python() -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}, {sys.executable}"
    return _finding("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def distribution() -> Finding:
    """Another project has the name dpone on the public index; check that our package is the one that runs."""
    where = Path(dpone.__file__).parent
    try:
        core = metadata.distribution(CORE)
    except metadata.PackageNotFoundError:
        todo = "install it from its path: pip install ./dpone-core"
        return Finding("dpone", False, f"{where} is running, but {CORE} is not installed", todo)
    found = f"{CORE} {core.version} from {_origin(core)}, running in {where}"
    if core.version != dpone.__version__:
        todo = "uninstall dpone-core and install it again from its path"
        return Finding("dpone", False, f"{found}, but the code is version {dpone.__version__}", todo)
    try:
        extras = metadata.distribution("dpone")
    except metadata.PackageNotFoundError:
        return Finding("dpone", True, found)
    ours = any(re.match(rf"{CORE}\b", one) for one in extras.requires or ())
    foreign = f"{found}; dpone {extras.version} from another project is also installed"
    return _finding(
        "dpone", ours, found if ours else foreign, "run pip uninstall dpone, then install this one from its path"
    )


def _origin(one: metadata.Distribution) -> str:
    """Where pip installed it from, without credentials."""
    try:
        direct = json.loads(one.read_text("direct_url.json") or "null")
        url = str(direct["url"])
    except (ValueError, TypeError, KeyError):
        return "a package index"
    place = unquote(url.removeprefix("file://")) if url.startswith("file://") else Secret(url).location()
    return f"{place} (editable)" if direct.get("dir_info", {}).get("editable") else place


def plugins() -> list[Finding]:
    """Those that are installed, and those of this repository that are not."""
    found = discover()
    installed = [_plugin(one, troubles(found, one) if one.state == "ok" else []) for one in found.found]
    return [*installed, *map(_absent, found.absent())]


def _absent(name: str) -> Finding:
    return Finding(f"plugin {name}", None, f"dpone-{name} is not installed", f"to use it: {how_to_install(name)}")


def _plugin(one: FoundPlugin, causes: list[str]) -> Finding:
    name, where = f"plugin {one.name}", f"{one.distribution} {one.version}"
    if one.state == "blocked":
        return Finding(name, None, f"{where}, blocked by {one.cause}", f"remove {one.name} from DPONE_BLOCK to use it")
    if one.state == "broken" or causes:
        todo = f"reinstall {one.distribution}, or disable it with DPONE_BLOCK={one.name}"
        return Finding(name, False, f"{where}: {one.cause or '; '.join(causes)}", todo)
    known = discover()
    able = [role for role, names in one.roles.items() if any(known.get(role, n).implemented for n in names)]  # type: ignore[arg-type]
    able += [word for hook, word in MORE.items() if hasattr(known.manager.get_plugin(one.name), hook)]
    return Finding(name, True, f"{where}: {', '.join(able) or 'not implemented in this version'}")


def drivers() -> list[Finding]:
    """What the distributions of the plugins require, and SQLite, which comes with Python."""
    wanted: dict[str, str] = {}
    for one in sorted({CORE, *(f.distribution for f in discover().found)}):
        try:
            wanted |= _required(metadata.distribution(one))
        except metadata.PackageNotFoundError:
            continue  # the finding of the plugin or of dpone reports it
    modules = _modules()
    found = [_driver(name, spec, modules.get(name, [])) for name, spec in sorted(wanted.items())]
    lite = Finding("driver sqlite3", True, f"SQLite {sqlite3.sqlite_version}, built into Python")
    return [*found, lite]


def _required(one: metadata.Distribution) -> dict[str, str]:
    """Normal names of requirements, other than ours, with the versions asked for; of extras, what is installed."""
    found = {}
    for text in one.requires or ():
        requirement, _, marker = text.partition(";")
        match = re.match(r"\s*([\w.-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)", requirement)
        optional = "extra" in marker and ("testing" in marker or not _installed(match[1] if match else ""))
        if match and not optional and not match[1].startswith("dpone"):
            found[_normal(match[1])] = match[2].strip()
    return found


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _modules() -> dict[str, list[str]]:
    """Normal names of the installed distributions -> the public modules of each."""
    brought: dict[str, list[str]] = {}
    for module, owners in metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for owner in set(owners):
                brought.setdefault(_normal(owner), []).append(module)
    return brought


def _driver(name: str, spec: str, modules: list[str]) -> Finding:
    label = f"driver {name}"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(label, False, "not installed", f"pip install '{name}{spec}'")
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception as error:  # a broken binary may raise anything
        text = " ".join(f"{type(error).__name__}: {error}".split())
        todo = f"pip install --force-reinstall '{name}'"
        return Finding(label, False, f"{version}, cannot be imported: {text}", todo)
    return Finding(label, True, version)


def clock(folder: Path) -> Finding:
    """Leases and load times need a clock that runs, and that agrees with the file system's."""
    least, most = _ahead()
    time.sleep(0.05)
    least_now, most_now = _ahead()
    drift = max(least_now - most, least - most_now)
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if drift > 0.02:
        return Finding(
            "clock", False, f"{found}; it jumped {drift:.2f} s in 0.05 s", "set up NTP so that it slews the clock"
        )
    if time.gmtime().tm_year < 2025:
        return Finding(
            "clock", False, f"{found}, which is before the release of this version", "set the clock with NTP"
        )
    try:
        first = time.time()
        with tempfile.TemporaryFile(dir=folder) as probe:
            made = os.fstat(probe.fileno()).st_mtime
        skew = made - min(max(made, first), time.time())
    except OSError as error:
        return Finding("clock", None, f"{found}; {folder}: {error.strerror}", "make the folder writable")
    todo = "set the clocks of this machine and its file server with NTP"
    return _finding("clock", abs(skew) < 2, f"{found}, file system {skew:+.2f} s", todo)


def _ahead() -> tuple[float, float]:
    """The least and greatest difference of the wall clock and the monotonic clock. On a busy machine the process may
    pause between the two readings; that is not a jump of the clock."""
    first, wall, last = time.monotonic(), time.time(), time.monotonic()
    return wall - last, wall - first


def disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", None, f"{folder}: {error.strerror}", "use a pipeline in an existing folder")
    return _finding("disk", free >= FREE, f"{free / 1e9:.1f} GB free in {folder}", "free at least 1 GB for staging")


def tls() -> Finding:
    """OpenSSL reads a folder of certificates only when it verifies a server, so its files are counted here."""
    paths = ssl.get_default_verify_paths()
    try:
        known = ssl.create_default_context().cert_store_stats()["x509_ca"]
    except (ssl.SSLError, OSError) as error:
        return failure("tls", error)
    known = known or sum(1 for _ in _certificates(paths.capath))
    found = f"{ssl.OPENSSL_VERSION}, {known} CA certificates in {paths.cafile or paths.capath or 'no store'}"
    return _finding("tls", known > 0, found, "install ca-certificates, or set SSL_CERT_FILE to a CA bundle")


def _certificates(folder: str | None) -> Iterator[Path]:
    return Path(folder).glob("*.[0-9]") if folder else iter(())


def _finding(name: str, ok: bool, found: str, todo: str) -> Finding:
    return Finding(name, ok, found, "" if ok else todo)
