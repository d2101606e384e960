"""What messages, pages and scaffolds say to install is held against what can be installed."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from dpone.errors import PluginError
from dpone.plugins import CORE, OTHERS, OURS, discover

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = sorted(path.parent for path in ROOT.glob("dpone-*/pyproject.toml"))
TEXTS = sorted(
    path
    for pattern in ("*.md", "changelog.d/*.md", "docs/**/*.md", "dpone-*/**/*.md", "dpone-*/src/**/*.py",
                    "dpone-*/src/**/*.txt", "examples/**/*.md", "examples/**/*.py", "benchmarks/*.py")
    for path in ROOT.glob(pattern)
    if not any(part.startswith(".") or part == "build" for part in path.relative_to(ROOT).parts)
)  # fmt: skip
_COMMAND = re.compile(r"pip install ([^`\n\"]*)")
_WHAT = re.compile(r"(?P<name>[^\[\]<>=~!; @]+)(?:\[(?P<extras>[\w, -]*)\])?(?P<url>\s*@\s*\S+)?")


def commands(text: str) -> Iterator[list[str]]:
    """What each ``pip install`` of a text names, without options; up to what ends the command or the sentence."""
    for command in _COMMAND.findall(text):
        command = re.split(r"&&|  #|, in the|[.:;,)](?:\s|$)|\)$", command)[0]
        words = shlex.split(command.replace("{spec}", ""), posix=True) if command.count("'") % 2 == 0 else []
        yield [word for word in words if not word.startswith("-")]


def extras_of(folder: Path) -> set[str]:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {*project.get("optional-dependencies", {})}


def wrong(what: str, beside: set[str]) -> str:
    """Why ``what`` cannot be installed by who follows the hint; ``beside`` is what the same command installs."""
    match = _WHAT.match(what)
    assert match is not None, what
    name, extras = match["name"], {one.strip() for one in (match["extras"] or "").split(",") if one.strip()}
    if re.fullmatch(r"dpone(-[\w-]+)?", name) and not match["url"]:
        return "ours, by its bare name"
    if name == "." and extras != {"testing"}:
        if extras - extras_of(ROOT):
            return f"the root has no extra {extras - extras_of(ROOT)}"
        needed = {f"./{CORE}", *(f"./dpone-{'objectstore' if one in STORES else one}" for one in extras - {"all"})}
        return f"needs {needed - beside} beside it" if needed - beside else ""
    if name.startswith("./dpone-"):
        folder = ROOT / name
        return "no such folder" if not folder.is_dir() else f"{extras - extras_of(folder) or ''}"
    return ""


STORES = ("s3", "gcs", "azure", "objectstore")


def test_what_the_texts_say_to_install_can_be_installed() -> None:
    """No message, page or scaffold installs one of our distributions by its bare name, or an extra that is not there;
    an extra of the root stands beside the paths of what it needs."""
    found = {path: [*commands(path.read_text(encoding="utf-8"))] for path in TEXTS}
    assert len([path for path in found if found[path]]) >= 10, "the texts were not read"
    assert [
        (str(path.relative_to(ROOT)), what, why)
        for path, lines in found.items()
        for line in lines
        for what in line
        if (why := wrong(what, {re.sub(r"\[.*", "", one) for one in line}))
    ] == []


def test_core_knows_the_distributions_of_the_repository() -> None:
    """What doctor and certify list as not installed is what a folder here has."""
    assert {f"dpone-{name}" for name in OURS} | {CORE} == {path.name for path in DISTRIBUTIONS}


def test_every_extra_that_is_named_exists() -> None:
    """Wherever ``dpone[...]`` stands in a text, the root has the extra; ``dpone-...[...]`` likewise."""
    said = [
        (path.name, name, extra.strip())
        for path in TEXTS
        for name, extras in re.findall(r"\b(dpone(?:-\w+)?)\[([\w, {}-]+)\]", path.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    ]
    assert said
    assert [one for one in said if one[2] not in extras_of(ROOT if one[1] == "dpone" else ROOT / one[1])] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pip install 'dpone[duckdb]'", "bare name"), ("pip install dpone-core", "bare"),
        ("pip install dpone", "bare"),
        ("run `pip install '.[postgres]'`.", "beside"), ("pip install ./dpone-core '.[duckdb]'", "no extra"),
        ("pip install -e ./dpone-nothing", "no such folder"), ("pip install './dpone-core[nothing]'", "nothing"),
        ("pip install ./dpone-core ./dpone-postgres '.[postgres]'", ""), ("pip install nox && nox", ""),
        ("pip install 'dpone[kafka] @ file:///x.whl'", ""),
    ],
)  # fmt: skip
def test_a_wrong_install_is_seen(text: str, why: str) -> None:
    """The two tests above would see such a line."""
    [line] = commands(text)
    assert line
    found = [reason for what in line if (reason := wrong(what, {re.sub(r"\[.*", "", one) for one in line}))]
    assert bool(found) == bool(why)
    assert why in "".join(found)


@pytest.mark.parametrize("name", ["duckdb", "mssql_cdc", "postgres_logical", "kafka", "objectstore", "nonsense", "d'o"])
def test_a_type_that_is_not_installed_names_no_bare_package(name: str) -> None:
    """The message names a folder of this repository where one has the connector, and no package of an index ever."""
    with pytest.raises(PluginError) as caught:
        evolve(discover(), found=(), connectors={}).get("source", name)
    lines = [*commands(caught.value.todo)]
    assert lines or OTHERS in caught.value.todo
    assert bool(lines) == any(path.name == f"dpone-{name.partition('_')[0]}" for path in DISTRIBUTIONS)
    assert all(wrong(what, set(line)) == "" for line in lines for what in line)
