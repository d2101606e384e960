"""The sessions of the repository. ``nox`` runs what every change must pass; CONTRIBUTING.md lists the others.

A session of ``@shared`` begins with ``install(session)`` and calls ``run(session, ...)``. All of them use one
environment, ``.nox/shared``: what is locked in ``requirements/tests.txt``, with hashes, and the distributions of the
repository, editable. A new session does the same; what more it needs is added to a dependency group of
``pyproject.toml`` and locked by ``nox -s lock``. Only ``lowest`` and ``newest`` ask the index for versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nox
from nox.command import CommandFailed
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "typing", "docs"]
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
CORE = "dpone-core"
CONNECTORS = ("dpone-postgres", "dpone-mssql", "dpone-kafka", "dpone-objectstore")
FOLDERS = (CORE, *CONNECTORS, ".")
EXAMPLE, MARIADB = EXAMPLES = ("./examples/dpone-duckdb", "./examples/dpone-mariadb")
VERSION = "1.0.0"
GIVEN = "DPONE_TEST_POSTGRES_URL"  # a server that several processes cannot share
# Of pytest-xdist: tests that mostly wait for processes of their own and for servers.
AT_ONCE = () if os.environ.get(GIVEN) else ("-n", "auto")
# Of the kit: a file of evidence is of one class, and has all its cases.
BY_CLASS = AT_ONCE and (*AT_ONCE, "--dist", "loadscope")
SHARED = ROOT / ".nox" / "shared"
# Modules are compiled once, whatever the caller's environment says: tests start Python thousands of times.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".nox" / "pycache")
EVIDENCE = str(ROOT / ".nox" / "evidence")  # of certify and soak
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
CHECKS = {
    "tests": ("pytest", *AT_ONCE, "--ignore=tests/docs"),
    "lint": ("ruff", "check"),
    "format": ("ruff", "format", "--check"),
    "typing": ("mypy", *(f"{folder}/src" for folder in (CORE, *CONNECTORS, *EXAMPLES))),
    "docs": ("pytest", "tests/docs"),
}


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(GROUPS, name))


def shared(function: Callable[[nox.Session], None] | None = None, **options: Any) -> Any:
    """A session without an environment of its own."""
    return nox.session(function, venv_backend="none", **options)


def install(session: nox.Session) -> None:
    """The environment that ``shared`` sessions have in common: every distribution of the repository, by path and
    editable, with all that tests, types and pages need. It is made where there is none, and once more after a change of
    the lock, of a pyproject.toml or of the Python that runs nox."""
    lock = "requirements/tests.txt"
    with once(SHARED, lock, *(f"{folder}/pyproject.toml" for folder in FOLDERS)) as wanted:
        if wanted:
            pip = (str(SHARED / "bin" / "python"), "-m", "pip")
            ours = editable(*(f"./{folder}" for folder in (CORE, *CONNECTORS)), ".")
            if not session.run_install(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(SHARED)):
                session.error(f"{SHARED} is missing or out of date: run this once without -R and --no-install")
            session.run_install(*pip, "install", "--quiet", "--require-hashes", "-r", lock)
            session.run_install(*pip, "install", "--quiet", *ours)
            session.run_install(*pip, "check", silent=True)  # the lock has what the distributions ask for


@contextmanager
def once(folder: Path, *files: str) -> Iterator[bool]:
    """Whether the block is to make ``folder`` from scratch: it is not there as a whole, or the files that it is made of
    have changed since."""
    read = [sys.version.encode(), *((ROOT / name).read_bytes() for name in files)]
    made_of, made = hashlib.sha256(b"".join(read)).hexdigest(), folder / "made_of"
    if made.exists() and made.read_text() == made_of:
        yield False
        return
    made.unlink(missing_ok=True)
    yield True
    made.write_text(made_of)


def run(session: nox.Session, program: str, *words: str, env: Mapping[str, str] | None = None) -> None:
    """A program of the shared environment, which comes first on its PATH: tests start ``dpone`` as a user would."""
    path = os.pathsep.join([str(SHARED / "bin"), os.environ["PATH"]])
    session.run(str(SHARED / "bin" / program), *words, env={"VIRTUAL_ENV": str(SHARED), "PATH": path, **(env or {})})


def editable(*folders: str) -> list[str]:
    return ["--no-deps", "--no-build-isolation", *(part for path in folders for part in ("-e", path))]


def install_unlocked(session: nox.Session, *more: str) -> None:
    testing = [f"./{folder}[testing]" for folder in (CORE, *CONNECTORS)]
    session.install(*(part for path in (*testing, ".") for part in ("-e", path)), *more)


@shared
def tests(session: nox.Session) -> None:
    """The whole fast suite; needs pip alone."""
    install(session)
    run(session, *CHECKS["tests"], *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    session.install("--require-hashes", "-r", "requirements/lint.txt")
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix")
        session.run("ruff", "format")
    else:
        session.run(*CHECKS["lint"], *session.posargs)
        session.run(*CHECKS["format"])


@shared
def typing(session: nox.Session) -> None:
    """mypy, strict, over every ``src``; the installed packages are there for their types."""
    install(session)
    run(session, *CHECKS["typing"], *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """What the documentation says is tried: links, commands, examples. Then it is built as a site, in .nox/site, by
    programs in an environment of their own; a warning is an error."""
    install(session)
    run(session, *CHECKS["docs"], *session.posargs)
    session.install("--require-hashes", "-r", "requirements/docs.txt")
    site = ("--site-dir", str(ROOT / ".nox" / "site"))
    session.run("mkdocs", "build", "--quiet", "--strict", *site, env={"NO_MKDOCS_2_WARNING": "1"})


@shared(default=False)
def crash(session: nox.Session) -> None:
    """A third of the long kill matrix, another for each commit; ``-- --all`` for the whole."""
    install(session)
    run(session, "pytest", *AT_ONCE, "-m", "crash", *part(session, 3))


def part(session: nox.Session, of: int, *more: str) -> list[str]:
    """What follows ``--``, where ``--all`` stands for every test; where nothing follows, ``more`` and the part of the
    tests that the commit's hash chooses: a third, if ``of`` is 3."""
    if session.posargs:
        return [one for one in session.posargs if one != "--all"]
    commit = session.run("git", "rev-parse", "HEAD", external=True, silent=True, stderr=None) or ""
    return [*more, "--part", f"{int(commit, 16) % of}/{of}"]


@shared(default=False)
def faults(session: nox.Session) -> None:
    """Every case of the kit against every faulty connector: each fails the cases that it says, and no other. Of four
    dear cases an eighth is tried each day; DPONE_FAULTS_DAY is another day, or all. About half an hour of one core."""
    install(session)
    run(session, "pytest", *AT_ONCE, "-m", "faults", *session.posargs)


@shared(default=False)
def soak(session: nox.Session) -> None:
    """The gate: runs of file, SQLite and PostgreSQL that are killed at any moment, all three at once for half an hour
    (``-- --minutes 5`` for less, which does not count), after ``certify``: they must be production-certified then."""
    install(session)
    run(session, "python", "-m", "benchmarks.gates", "soak", "--evidence", EVIDENCE, *session.posargs)
    required = () if session.posargs else ("--require", "production-certified")
    run(session, "dpone", "certify", "--evidence", EVIDENCE, *selected("file", "sqlite", "postgres"), *required)


@shared(default=False)
def large(session: nox.Session) -> None:
    """20 million rows in partitions, killed ten times; DPONE_SOAK_ROWS says otherwise."""
    install(session)
    rows = {"DPONE_SOAK_ROWS": os.environ.get("DPONE_SOAK_ROWS", "20000000")}
    run(session, "pytest", "-m", "crash", "-s", "tests/crash/test_soak.py", *session.posargs, env=rows)


@shared(default=False)
def attack(session: nox.Session) -> None:
    """Ten minutes of random kills, rivals, restarts, cut and silent networks, wrong clocks and full disks while an
    application writes; ``-- --seconds 120 --seed 7`` for less, or again."""
    install(session)
    run(session, "python", "-m", "tests.attack", *session.posargs)


@shared(default=False)
def certify(session: nox.Session) -> None:
    """The conformance kit over the built-in connectors and PostgreSQL, the gates with a soak of half a minute, and what
    the evidence of both certifies. The first server of PostgreSQL has evidence; on the others runs a ninth of the kit,
    another for each commit, and with ``-- --all`` the whole, with evidence."""
    install(session)
    shutil.rmtree(EVIDENCE, ignore_errors=True)
    recorded = ("--dpone-evidence", EVIDENCE, *(one for one in session.posargs if one != "--all"))
    kit = ("pytest", *BY_CLASS, "-m", "not crash and not faults", "tests/postgres/kit")
    first, *others = postgres_servers()
    # One run of both: a class stays in one process, and that of a sink takes as long as all others of its connector.
    run(session, *kit, "tests/testing/test_kit.py", *recorded, env={"DPONE_TEST_POSTGRES_PROGRAMS": first})
    for programs in others:
        # Evidence has every case of a class: a part writes none.
        words = recorded if session.posargs else part(session, 9)
        run(session, *kit, *words, env={"DPONE_TEST_POSTGRES_PROGRAMS": programs})
    run(session, "python", "-m", "benchmarks.gates", "throughput", "--times", "1", "--evidence", EVIDENCE)
    run(session, "python", "-m", "benchmarks.gates", "soak", "--minutes", "0.5", "--evidence", EVIDENCE)
    names = ("file", "file_changelog", "sqlite", "postgres", "postgres_logical")
    run(session, "dpone", "certify", "--evidence", EVIDENCE, *selected(*names), "--require", "certified")


def selected(*connectors: str) -> list[str]:
    return [word for name in connectors for word in ("--connector", name)]


@nox.session(default=False)
def example(session: nox.Session) -> None:
    """Connectors of third parties: examples/dpone-duckdb, and what ``dpone init --connector`` makes. The tests of each
    are run as its author would, with evidence, and ``dpone certify`` must find it certified."""
    folder = Path(session.create_tmp()).resolve()
    evidence, made = folder / "evidence", {"made": folder / "made", "made_sql": folder / "made_sql"}
    for old in (evidence, *made.values()):
        shutil.rmtree(old, ignore_errors=True)
    session.install("--require-hashes", "-r", "requirements/tests.txt")
    session.install(*editable(f"./{CORE}", EXAMPLE))
    for name, where in made.items():
        session.run("dpone", "init", "--connector", name, *(["--sql"] if name == "made_sql" else []), str(where))
        session.install(*editable(str(where)))
    certified(session, evidence, {"duckdb": ROOT / EXAMPLE, **made})


@nox.session(default=False)
def mariadb(session: nox.Session) -> None:
    """The second worked example, examples/dpone-mariadb, on a server of its own: wants Debian's mariadb-server."""
    evidence = Path(session.create_tmp()).resolve() / "evidence"
    shutil.rmtree(evidence, ignore_errors=True)
    session.install("--require-hashes", "-r", "requirements/tests.txt")
    session.install(*editable(f"./{CORE}", MARIADB))
    certified(session, evidence, {"mariadb": ROOT / MARIADB})


def certified(session: nox.Session, evidence: Path, connectors: Mapping[str, Path]) -> None:
    """The tests of each connector, run in its folder as its author would, must find it certified. They are run at once:
    most of the time of a connector is one class, which stays in one process. What each prints is shown in turn."""
    env = {**os.environ, **memory(), "PATH": os.pathsep.join([session.bin, os.environ["PATH"]])}
    # With "=": pytest would look for its configuration near a folder that stands alone on its command line.
    words = ["pytest", "-q", *BY_CLASS, f"--dpone-evidence={evidence}", *session.posargs]
    with ExitStack() as stack:
        running = {}
        for name, where in connectors.items():
            printed = stack.enter_context((evidence.parent / f"{name}.log").open("w+"))
            one = subprocess.Popen(words, cwd=where, env=env, stdout=printed, stderr=subprocess.STDOUT)  # noqa: S603
            running[name] = (one, printed)
        codes = {name: one.wait() for name, (one, _) in running.items()}
        for name, (_, printed) in running.items():
            printed.seek(0)
            session.log("%s: %s", name, printed.read())
    if broken := [name for name, code in codes.items() if code]:
        session.error(f"tests fail: {', '.join(broken)}")
    for name in connectors:
        session.run("dpone", "certify", "--evidence", str(evidence), "--connector", name, "--require", "certified")


def memory() -> dict[str, str]:
    """Where temporary files are, as tests/conftest.py has it for the tests of the repository."""
    folder = "/dev/shm"  # noqa: S108
    roomy = "TMPDIR" not in os.environ and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 2**30
    return {"TMPDIR": folder} if roomy else {}


@shared(default=False)
def postgres(session: nox.Session) -> None:
    """The PostgreSQL connector on real servers; its conformance kit is run by ``certify``. On the first server every
    test runs, of one with six cases or more a third of them. On the others run what was skipped there, what is marked
    ``releases``, and a ninth of the rest. Each commit has another third and ninth; ``-- --all`` for the whole."""
    install(session)
    skipped = Path(session.create_tmp()).resolve() / "skipped"
    first, *others = postgres_servers()
    ours = ("pytest", *AT_ONCE, "tests/postgres", "tests/docs", "--ignore=tests/postgres/kit", "-m", "postgres")
    where = {"DPONE_TEST_POSTGRES_PROGRAMS": first}
    run(session, *ours, "--skipped", str(skipped), *part(session, 3, "--divide-from", "6"), env=where)
    for programs in others:
        where = {"DPONE_TEST_POSTGRES_PROGRAMS": programs}
        run(session, *ours, *part(session, 9, "--also", str(skipped)), env=where)


@shared(default=False)
def kafka(session: nox.Session) -> None:
    """The Kafka connector and its conformance kit: on a small broker of the lock, and on Apache Kafka, which wants
    java 17, openssl, and mvn to fetch it once into ~/.cache/dpone. DPONE_TEST_KAFKA names another broker for the
    first, and for the kit."""
    install(session)
    run(session, "pytest", "-m", "kafka and not postgres", "tests/kafka", "tests/docs", *session.posargs)


def postgres_servers() -> list[str]:
    """As DPONE_TEST_POSTGRES_PROGRAMS: that of the wheel, and those the system has installed; or the one server that
    DPONE_TEST_POSTGRES_URL names."""
    if os.environ.get(GIVEN):
        return [""]
    return ["", *(f"system {folder.parent.name}" for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")))]


@shared(default=False)
def corpus(session: nox.Session) -> None:
    """Files as people have them: some 500 CSV, JSON and Parquet files out of packages, loaded into SQLite, and compared
    with what other readers find in them. ``-- FOLDER`` takes the files of a folder instead."""
    install(session)
    # Not among what the environment imports: of these packages only the files are read.
    folder, lock = SHARED.with_name("corpus"), "requirements/corpus.txt"
    with once(folder, lock) as wanted:
        if wanted:
            shutil.rmtree(folder, ignore_errors=True)
            pip = ("pip", "install", "--quiet", "--target", str(folder), *FILES_ALONE)
            run(session, "python", "-m", *pip, "--require-hashes", "-r", lock)
    run(session, "python", "-m", "tests.corpus", *(session.posargs or [str(folder)]))


@shared(default=False)
def bench(session: nox.Session) -> None:
    install(session)
    run(session, "python", "-m", "benchmarks", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """The pages of ``dpone report`` and ``dpone certify`` in a real browser: wants Debian's chromium."""
    session.install("--require-hashes", "-r", "requirements/tests.txt")
    session.install("--require-hashes", "-r", "requirements/browser.txt")
    session.install(*editable(f"./{CORE}"))
    session.run("pytest", "-m", "browser", "tests/observe/test_browser.py", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Renew the files of ``requirements/``: the newest release of everything that pyproject files ask for, with the
    hashes of all its files, so that one lock serves every Python and platform. ``-- --upgrade-package NAME`` renews
    one package."""
    session.install(*group("lock"))
    built = [*group("build"), *group("tests"), *group("typing"), *third_party(*FOLDERS, *EXAMPLES)]
    locks = {"nox": group("nox"), "lint": group("lint"), "build": group("build"), "tests": built}
    locks |= {"docs": group("docs"), "corpus": group("corpus"), "browser": group("browser")}
    for name, wanted in locks.items():
        asked = Path(session.create_tmp()) / f"{name}.in"
        asked.write_text("\n".join(sorted(wanted)) + "\n")
        out = ("--output-file", f"requirements/{name}.txt", *LOCKED.get(name, ()))
        session.run(*COMPILE, str(asked), *out, *(session.posargs or ["--upgrade"]), env=HEAD)


COMPILE = (
    *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-annotate", "--no-emit-index-url"),
)
FILES_ALONE = ("--no-deps", "--only-binary", ":all:")  # of the corpus: nothing is built and nothing imported
WITH_TESTS = ("--constraint", "requirements/tests.txt")  # docs and browser share a session with the tests
LOCKED = {"docs": WITH_TESTS, "browser": WITH_TESTS, "corpus": FILES_ALONE}
HEAD = {"UV_CUSTOM_COMPILE_COMMAND": "nox -s lock"}  # what the head of each file says


def third_party(*folders: str) -> list[str]:
    """What the distributions and their extra ``testing`` ask for, ours left out."""
    wanted: list[str] = []
    for folder in folders:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"]
        wanted += project["dependencies"] + extras.get("testing", [])
    return [one for one in wanted if not one.startswith("dpone")]


@nox.session(default=False)
def newest(session: nox.Session) -> None:
    """The newest release of everything, whatever is locked: says what differs from the lock and which checks break.
    ``-- typing docs`` tries these checks alone."""
    names = [Requirement(one).name for name in ("tests", "lint", "typing") for one in group(name)]
    install_unlocked(session, *(part for path in EXAMPLES for part in ("-e", path)), *names)
    listed = session.run("pip", "list", "--format=json", silent=True, stderr=None) or "[]"
    for name, version, locked in unlike_the_lock(json.loads(listed)):
        session.log("%s %s is not the locked %s", name, version, locked)
    broken = []
    for name in session.posargs or CHECKS:
        try:
            session.run(*CHECKS[name])
        except CommandFailed:
            broken.append(name)
    if broken:
        session.error(f"breaks with the newest releases: {', '.join(broken)}")


def unlike_the_lock(installed: list[dict[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Name, version and locked version of what is not as locked."""
    lines = [line for path in ROOT.glob("requirements/*.txt") for line in path.read_text().splitlines()]
    locked: dict[str, set[str]] = {}
    for name, version in (match.groups() for line in lines if (match := re.match(r"([\w.-]+)==([^\s;]+)", line))):
        locked.setdefault(name, set()).add(version)
    for one in installed:
        known = locked.get(re.sub(r"[-_.]+", "-", one["name"]).lower())
        if known and one["version"] not in known:
            yield one["name"], one["version"], ", ".join(sorted(known))


@shared(default=False)
def mutate(session: nox.Session) -> None:
    """Mutation tests of a seeded sample: do the tests notice wrong code? At least 95 % must be killed."""
    install(session)
    run(session, "python", "-m", "tests.mutate", *session.posargs)


@nox.session(default=False, python="3.11")
def lowest(session: nox.Session) -> None:
    """A quarter of the tests, another for each commit, on the lowest Python and the lowest version of each dependency
    that the distributions name; ``-- --all`` for every test."""
    pins = Path(session.create_tmp()) / "lowest.txt"
    pins.write_text("\n".join(floors()) + "\n")
    drivers = "./dpone-objectstore[s3,gcs,azure]"
    install_unlocked(session, *group("tests"), "-e", drivers, "--constraint", str(pins))
    session.run("python", "-c", "import aiokafka, azure.storage.blob, boto3, google.cloud.storage, psycopg, pymssql")
    # The mutants are made with mypy, and no user's dependency takes part in that.
    session.run(*CHECKS["tests"], "--ignore=tests/mutate", *part(session, 4))


def floors() -> list[str]:
    """``name==floor`` for every requirement ``name>=floor`` of core, its extra ``testing`` and the connectors."""
    wanted = group("tests")
    for folder in (CORE, *CONNECTORS):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"]
        wanted += project["dependencies"]
        wanted += [one for extra in extras.values() for one in extra]
    pins = (f"{r.name}=={s.version}" for r in map(Requirement, wanted) for s in r.specifier if s.operator == ">=")
    return sorted(set(pins))


@nox.session(default=False, venv_backend="none")
def wheels(session: nox.Session) -> None:
    """Build every wheel, then try them in empty environments: core with one connector, and ``dpone[kafka]``."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    builder = empty(session, "builder")
    session.run(builder, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", "requirements/build.txt")
    for folder in FOLDERS:
        session.run(builder, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT / folder), silent=True)
    wheel = {path.name.split("-")[0]: path for path in dist.glob("*.whl")}
    session.log("built %s", ", ".join(sorted(path.name for path in wheel.values())))
    core, root = str(wheel["dpone_core"]), wheel["dpone"].as_uri()
    try_wheels(session, "dpone-kafka-extra", "kafka", core, str(wheel["dpone_kafka"]), f"dpone[kafka] @ {root}")
    for connector in CONNECTORS:
        try_wheels(session, connector, connector.removeprefix("dpone-"), core, str(wheel[connector.replace("-", "_")]))


BUILT_IN = ("file", "sqlite", "notify", "otel", "openlineage")


def try_wheels(session: nox.Session, name: str, plugin: str, *wheels: str) -> None:
    """Install the wheels, named one by one so that no index can slip in a namesake; see what is discovered."""
    python = empty(session, name)
    session.run(python, "-m", "pip", "install", "--quiet", *wheels)
    session.run(python, "-m", "pip", "check", silent=True)
    dpone = str(Path(python).with_name("dpone"))
    found = json.loads(session.run(dpone, "plugins", "--format", "json", silent=True, stderr=None) or "")
    seen = {(p["name"], p["distribution"], p["version"], p["state"]) for p in found}
    owners = {**dict.fromkeys(BUILT_IN, CORE), plugin: f"dpone-{plugin}"}
    wanted = {(one, owner, VERSION, "ok") for one, owner in owners.items()}
    if seen != wanted:
        session.error(f"{name}: found {sorted(seen)}, expected {sorted(wanted)}")
    session.log("%s: found %s", name, ", ".join(sorted(owners)))


def empty(session: nox.Session, name: str) -> str:
    """A new environment with pip and nothing else; its Python."""
    where = Path(session.create_tmp()) / name
    session.run("python", "-m", "venv", "--clear", str(where), external=True)
    return str(where / "bin" / "python")


@shared(default=False)
def fuzz(session: nox.Session) -> None:
    """Damaged CSV, JSON Lines, Parquet and change log files through their readers: four minutes, or --seconds N. Prints
    its seed; --seed N repeats a run, --out DIR takes the inputs that fail."""
    install(session)
    run(session, "python", "-m", "tests.fuzz", *session.posargs)
