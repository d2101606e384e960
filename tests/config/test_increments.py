"""``incremental.by`` is what the installed plugins offer: core has no list of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from dpone.capability import Connector, declare
from dpone.certify.certification import certify, to_markdown
from dpone.config.document import PipelineErrors
from dpone.config.json_schema import pipeline_schema
from dpone.config.reader import load_pipeline
from dpone.errors import PluginError
from dpone.model.pipeline import Incremental, SourceSpec
from dpone.plugins import Plugins

OPTIONS = "dpone.model.pipeline:SourceOptions"
Text = Callable[..., str]


@frozen
class NoOptions:
    """Of a plugin whose class has not what every source's has."""


@pytest.fixture
def offering(plugins: Plugins) -> Plugins:
    """With a source that reads by a word of its own, and a reader of its changes by another."""
    added = {
        ("source", "ledger"): Connector(
            "ledger", "nowhere:Nothing", OPTIONS, declare("source", ["read", "incremental_lsn"]),
            ("connection", "table"),
        ),
        ("cdc", "ledger_feed"): Connector(
            "ledger_feed", "nowhere:Nothing", OPTIONS, declare("cdc", ["gap"]), ("connection", "table"),
            serves=("ledger", "feed"),
        ),
    }  # fmt: skip
    return evolve(plugins, connectors={**plugins.connectors, **added})


@pytest.fixture
def read(tmp_path: Path, offering: Plugins, text: Text) -> Callable[[str, str], SourceSpec]:
    def load(type_: str, incremental: str, mode: str = "{mode: merge, key: id}") -> SourceSpec:
        source = f"{{type: {type_}, connection: 'x://h', table: t, options: {{incremental: {incremental}}}}}"
        sink = f"{{type: lite, connection: 'sqlite:///w.db', table: t, strategy: {mode}}}"
        path = tmp_path / "p.yaml"
        path.write_text(text(source=source, sink=sink))
        return load_pipeline(path, env={}, plugins=offering).streams[0].source

    return load


def test_a_word_of_a_plugin_is_taken(read: Any) -> None:
    """What a source declares as ``incremental_<word>`` is read by the source; it is no change stream."""
    source = read("ledger", "{by: lsn}")
    assert source.options.incremental == Incremental("lsn")
    assert source.changes is None


def test_what_a_change_reader_serves_is_a_change_stream(read: Any) -> None:
    """Who reads it is what the plugins say: a limit is then allowed, and a key is not."""
    source = read("ledger", "{by: feed, limit: 5}", "{mode: append}")
    assert (source.changes.by, source.changes.limit) == ("feed", 5)
    with pytest.raises(PipelineErrors, match="incremental: by: feed takes neither key nor nulls; remove them"):
        read("ledger", "{by: feed, key: a}", "{mode: append}")
    with pytest.raises(PipelineErrors, match="incremental: by: lsn does not take limit; remove it"):
        read("ledger", "{by: lsn, limit: 5}")


@pytest.mark.parametrize(
    ("type_", "incremental", "problem"),
    [
        ("ledger", "{by: lns}", "by: ledger cannot read by lns (unsupported); use one of lsn, feed"),
        ("ledger", "{column: a}", "by: missing; write one of lsn, feed"),
        (
            "shop", "{by: lsn}",
            "by: shop cannot read by lsn (unsupported); "
            "use one of cursor, xmin, or use source ledger, which reads by lsn",
        ),
        ("stream", "{by: lsn}", "by: stream cannot read by lsn (unsupported); remove incremental, or use source"),
        ("stream", "{column: a}", "by: missing; remove it"),
    ],
)  # fmt: skip
def test_an_unknown_word_names_what_is_offered_and_by_whom(
    read: Any, type_: str, incremental: str, problem: str
) -> None:
    """One line with exit code 2: what this source reads by, and which source reads by the word that was written."""
    with pytest.raises(PipelineErrors) as caught:
        read(type_, incremental)
    assert caught.value.exit_code == 2
    [line] = [line for line in caught.value.problems if "incremental" in line]
    assert f"source.options.incremental.{problem}" in line


def test_the_schema_for_editors_lists_what_is_offered(offering: Plugins) -> None:
    """One list for each source; a source without increments has none."""
    every = pipeline_schema(offering)["$defs"]["source"]["allOf"]
    branches = {one["if"]["properties"]["type"]["const"]: one for one in every}

    def listed(name: str) -> Any:
        incremental = branches[name]["then"]["properties"]["options"]["properties"]["incremental"]
        found = [one for one in incremental.get("anyOf", ()) if "properties" in one]
        return found[0]["properties"]["by"]["anyOf"][0]["enum"] if found else incremental

    assert listed("ledger") == ["lsn", "feed"]
    assert listed("shop") == ["cursor", "xmin"]
    assert listed("stream") == {"type": "null"}


def test_options_that_are_none_of_the_role_are_refused(plugins: Plugins) -> None:
    """A class that does not extend that of the role lacks what the engine reads: named, not found by a traceback."""
    record = evolve(plugins.get("source", "file"), options=f"{__name__}:NoOptions")
    changed = evolve(plugins, connectors={**plugins.connectors, ("source", "file"): record})
    with pytest.raises(PluginError, match=r"NoOptions does not extend dpone\.model\.pipeline\.SourceOptions; derive"):
        changed.options("source", "file")


def test_the_matrix_has_a_row_for_what_a_plugin_adds(offering: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """A capability that only one connector has is not left out; the others do not implement it."""
    monkeypatch.setattr("dpone.certify.certification.discover", lambda: offering)
    found = certify()
    status = {c.connector: str(c.status) for c in found.cells if c.capability == "incremental_lsn"}
    assert (status["ledger"], status["shop"]) == ("declared", "not implemented")
    assert "| incremental_lsn |" in to_markdown(found)
