"""The distributions of the repository: their origin, their layout, and who may import whom."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distribution, entry_points
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import dpone
from dpone.errors import PluginError
from dpone.plugins import discover

ROOT = Path(__file__).resolve().parents[1]
CONNECTORS = ("dpone-postgres", "dpone-mssql", "dpone-kafka", "dpone-objectstore")
WITH_CODE = ("dpone-core", *CONNECTORS)
BUILT_IN = {"file", "sqlite", "notify", "otel", "openlineage"}
FOLDERS = {"dpone": ROOT, **{name: ROOT / name for name in WITH_CODE}}

# Top to bottom. A module belongs to the longest name that fits it, and imports from its own line or from lines below;
# types and imports inside functions are imports like any other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("dpone.__main__",),
    ("dpone.cli",),
    ("dpone",),  # the bare package: version, and the names of the Python API, imported when first used
    ("dpone.ops", "dpone.observe"),
    ("dpone.testing",),  # the conformance kit, and the scenario that ops.certification runs; nothing else imports it
    ("dpone.certify",),
    ("dpone.engine",),
    ("dpone.connectors",),  # the built-ins; found through their entry points, imported by nobody
    ("dpone.cdc", "dpone.quality", "dpone.sql"),
    ("dpone.formats",),  # bytes to Arrow and back, for every connector
    ("dpone.config",),
    ("dpone.plugins",),
    ("dpone.hookspecs",),
    ("dpone.contract",),
    ("dpone.capability", "dpone.partition"),
    ("dpone.model",),
    ("dpone.host",),
    ("dpone.errors",),
)
# A public name of ``dpone.ops``, which is imported when it is first used.
PUBLIC = {("dpone.ops", "dpone.connectors.file.partitions")}
# What a user runs of the kit: the scenario, and the Harnesses that plugins name.
RUNS_THE_KIT = {("dpone.ops.certification", f"dpone.testing.{name}") for name in ("harness", "scenario")}
VERSION_ONLY = {("dpone.cli.main", "dpone"), ("dpone.ops.doctor", "dpone")}  # its version, and where it is installed

# What core may import besides the standard library: its dependencies, and each extra where it belongs.
CORE_IMPORTS = {"attr", "attrs", "click", "numpy", "pluggy", "pyarrow", "rich", "yaml"}
EXTRA_IMPORTS = {
    "dpone.observe": {"prometheus_client"},  # a dependency, but imported by the export of metrics alone
    "dpone.observe.telemetry": {"opentelemetry"},
    "dpone.observe.lineage": {"openlineage"},
    "dpone.testing": {"hypothesis", "pytest", "_pytest"},
}


def project(name: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((FOLDERS[name] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def origin(found: Distribution) -> Path:
    """Where the distribution was installed from; an index leaves no such record."""
    record = found.read_text("direct_url.json")
    assert record is not None, f"{found.name} came from an index, not from this repository"
    url = urlsplit(json.loads(record)["url"])
    assert url.scheme == "file"
    return Path(unquote(url.path))


@pytest.mark.parametrize("name", FOLDERS)
def test_every_installed_distribution_is_ours(name: str) -> None:
    """Each distribution has version 1.0.0 and was installed from its folder or a wheel here, never from an index."""
    found = distribution(name)
    assert found.version == "1.0.0"
    assert found.metadata["Summary"] == project(name)["description"]
    where = origin(found)
    wheel = f"{name.replace('-', '_')}-1.0.0-py3-none-any.whl"
    assert where == FOLDERS[name] or (where.name == wheel and ROOT in where.parents)


def test_the_import_package_dpone_belongs_to_core() -> None:
    """``import dpone`` is dpone-core: its own file, or its source folder in an editable installation."""
    assert dpone.__version__ == distribution("dpone-core").version
    assert dpone.__file__ is not None
    module = Path(dpone.__file__).resolve()
    installed = {Path(str(file.locate())).resolve() for file in distribution("dpone-core").files or ()}
    assert module in installed or module == ROOT / "dpone-core/src/dpone/__init__.py"


def test_the_distribution_dpone_holds_no_code() -> None:
    """The distribution ``dpone`` brings metadata alone, so it cannot shadow the code of dpone-core."""
    files = distribution("dpone").files or ()
    assert [str(file) for file in files if ".dist-info" not in str(file)] == []


@pytest.mark.parametrize("name", WITH_CODE)
def test_layout_of_a_distribution(name: str) -> None:
    """Each distribution has its README, changelog, licence, typed package, entry points and extra ``testing``."""
    folder, table = FOLDERS[name], project(name)
    package = folder / "src" / ("dpone" if name == "dpone-core" else name.replace("-", "_"))
    for file in (folder / "README.md", folder / "CHANGELOG.md", package / "__init__.py", package / "py.typed"):
        assert file.is_file(), file
    assert (folder / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "testing" in table["optional-dependencies"]
    assert table["requires-python"] == ">=3.11"
    assert table["version"] == "1.0.0"
    wanted = BUILT_IN if name == "dpone-core" else {name.removeprefix("dpone-")}
    assert set(table["entry-points"]["dpone"]) == wanted


def test_entry_points_of_the_group_are_ours() -> None:
    """The six connectors and the observers of core are discovered, each from the distribution that holds it."""
    owners = {point.name: point.dist.name for point in entry_points(group="dpone") if point.dist}
    connectors = {name.removeprefix("dpone-"): name for name in CONNECTORS}
    assert owners == {**dict.fromkeys(BUILT_IN, "dpone-core"), **connectors}


def test_root_extras_are_the_connectors() -> None:
    """Every connector and observer has its extra, every extra pins this version, and ``all`` brings every connector."""
    extras = project("dpone")["optional-dependencies"]
    pins = {name: f"dpone-{name}==1.0.0" for name in ("postgres", "mssql", "kafka")}
    stores = {name: f"dpone-objectstore[{name}]==1.0.0" for name in ("s3", "gcs", "azure")}
    every_store = "dpone-objectstore[s3,gcs,azure]==1.0.0"
    observers = {name: f"dpone-core[{name}]==1.0.0" for name in ("otel", "openlineage")}
    single = {**pins, **stores, "objectstore": every_store, **observers}
    assert extras == {**{name: [pin] for name, pin in single.items()}, "all": [*pins.values(), every_store]}
    assert project("dpone")["dependencies"] == ["dpone-core==1.0.0"]


@pytest.mark.parametrize("name", CONNECTORS)
def test_plugin_module_imports_no_driver(name: str) -> None:
    """Importing a connector's plugin module loads neither its driver nor Arrow, so discovery is cheap."""
    heavy = {"psycopg", "pymssql", "aiokafka", "boto3", "botocore", "google", "azure", "pyarrow", "numpy"}
    script = f"import sys, {name.replace('-', '_')}.plugin; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert heavy & {module.partition(".")[0] for module in loaded.split()} == set()


CLAIMS = [
    ("source", "mssql"), ("sink", "mssql"), ("state", "mssql"), ("cdc", "mssql_cdc"), ("cdc", "mssql_change_tracking"),
    ("source", "objectstore"), ("sink", "objectstore"),
]  # fmt: skip


@pytest.mark.parametrize(("role", "name"), CLAIMS)
def test_a_connector_without_code_is_refused_in_one_line(role: Any, name: str) -> None:
    """A connector that is declared and not written stops whoever uses it, in one line that says so."""
    with pytest.raises(PluginError, match=rf"^use {role} {name}: the connector does not implement it; .+$"):
        discover().load(role, name)


def modules(name: str) -> Iterator[tuple[str, Path]]:
    source = FOLDERS[name] / "src"
    for path in sorted(source.rglob("*.py")):
        dotted = ".".join(path.relative_to(source).with_suffix("").parts)
        yield dotted.removesuffix(".__init__"), path


KNOWN = {module for name in WITH_CODE for module, _ in modules(name)}


def imports(module: str, path: Path) -> Iterator[str]:
    """Modules that this one imports, also inside functions and under TYPE_CHECKING."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the whole name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in KNOWN else str(node.module)
        else:
            todo += ast.iter_child_nodes(node)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> int:
    """Index of the layer whose name fits best; ``dpone`` itself fits only the bare package."""
    fits = [(len(name), i) for i, names in enumerate(LAYERS) for name in names if within(module, name)]
    best = max(fits)
    assert LAYERS[best[1]] != ("dpone",) or module == "dpone", f"{module} has no layer; add it to LAYERS"
    return best[1]


def test_core_imports_only_downwards() -> None:
    """A module of core imports from its own layer or from those below, for types and inside functions too."""
    upwards = [
        f"{module} imports {target}"
        for module, path in modules("dpone-core")
        for own in [layer(module)]
        for target in imports(module, path)
        if within(target, "dpone") and layer(target) < own and (module, target) not in VERSION_ONLY
    ]
    assert upwards == []


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names along a circle of the graph; empty if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def walk(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        found = next(filter(None, map(walk, sorted(graph[name]))), [])
        path.pop()
        done.add(name)
        return found

    return next(filter(None, map(walk, sorted(graph))), [])


@pytest.mark.parametrize("name", WITH_CODE)
def test_modules_import_each_other_in_no_circle(name: str) -> None:
    """Neither modules nor packages import each other in a circle, for types and inside functions too."""
    graph = {module: {t for t in imports(module, path) if t in KNOWN and t != module} for module, path in modules(name)}
    graph = {module: {t for t in targets if t in graph} for module, targets in graph.items()}
    assert circle(graph) == []
    packages: dict[str, set[str]] = {}
    for module, targets in graph.items():
        own = module.split(".")[1:2] or ["."]
        packages.setdefault(own[0], set()).update((t.split(".")[1:2] or ["."])[0] for t in targets if t != name)
    assert circle({one: targets - {one} for one, targets in packages.items()}) == []


def test_the_top_of_core_fits_on_a_page() -> None:
    """At most 20 names stand at the top of core, and the docstring of each package says what is in it."""
    top = {module.split(".")[1] for module, _ in modules("dpone-core") if "." in module} - {"__main__"}
    assert len(top) <= 20
    for module, path in modules("dpone-core"):
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), module


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_docstring_of_a_package_names_its_modules_as_they_are(name: str) -> None:
    """A line that begins with modules, ``one`` ``two``, names modules of the package."""
    for module, path in modules(name):
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            lines = re.findall(r"^(``\w+``(?: ``\w+``)*)  ", text, re.MULTILINE)
            named = {word for line in lines for word in re.findall(r"\w+", line)}
            assert {word for word in named if f"{module}.{word}" not in KNOWN} == set(), module


def test_imports_for_types_and_in_functions_are_found(tmp_path: Path) -> None:
    """Otherwise the tests above would hold of modules that import each other in a circle."""
    path = tmp_path / "m.py"
    path.write_text(
        "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    from c import d\ndef f():\n    import e\n"
        "if typing.TYPE_CHECKING:\n    from dpone.sql import writer\n"
    )
    assert {*imports("m", path)} == {"a", "b", "c", "e", "dpone.sql.writer"}


def test_nothing_imports_the_conformance_kit_or_another_connector() -> None:
    """The kit and the built-in connectors are found by name; file and sqlite know nothing of each other. Only
    certification runs a part of the kit, which needs nothing of the extra ``testing``."""
    for module, path in modules("dpone-core"):
        for target in imports(module, path):
            for private in ("dpone.testing", "dpone.connectors.file", "dpone.connectors.sqlite"):
                named = (module, target) in PUBLIC | RUNS_THE_KIT
                fits = not within(target, private) or within(module, private) or named
                assert fits, f"{module} imports {target}"


def test_core_imports_no_connector_and_no_driver() -> None:
    """Core imports the standard library, its own dependencies, and an extra only in the module it is for."""
    for module, path in modules("dpone-core"):
        extra = {name for package, names in EXTRA_IMPORTS.items() if within(module, package) for name in names}
        allowed = sys.stdlib_module_names | CORE_IMPORTS | extra | {"dpone"}
        foreign = {target.partition(".")[0] for target in imports(module, path)} - allowed
        assert foreign == set(), f"{module} imports {foreign}"


@pytest.mark.parametrize("name", CONNECTORS)
def test_connectors_never_import_each_other(name: str) -> None:
    """Of dpone, a connector imports itself and core, and of core never the layers that run or print."""
    mine = name.replace("-", "_")
    for module, path in modules(name):
        for target in imports(module, path):
            assert not target.startswith("dpone_") or within(target, mine), f"{module} imports {target}"
            if module != f"{mine}.testing":  # its Harness, which only tests import
                for kit in ("dpone.testing", f"{mine}.testing"):
                    assert not within(target, kit), f"{module} imports {target}"
            for closed in ("dpone.cli", "dpone.ops", "dpone.engine", "dpone.connectors"):
                assert not within(target, closed), f"{module} imports {target}"


def test_every_ignored_lint_rule_has_its_reason() -> None:
    """In the linter's configuration a comment stands beside each ignored rule."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("ignore = [")[2].partition("[tool.mypy]")[0]
    rules = re.findall(r'^ +"[A-Z]+[0-9]+",(.*)$', text, flags=re.MULTILINE)
    assert rules
    assert all(re.fullmatch(r"  # .{10,}", rest) for rest in rules)
