"""Discovery survives what people install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from dpone.capability import Connector, declare
from dpone.errors import PluginError
from dpone.hookspecs import hookimpl
from dpone.plugins import Plugins, _discover, troubles, undeclared


class _Dist:
    def __init__(self, name: str) -> None:
        self.name, self.version = name, "9.9"


def _point(name: str, module: str, dist: str = "acme-dpone") -> EntryPoint:
    point = EntryPoint(name, module, "dpone")
    object.__setattr__(point, "dist", _Dist(dist))
    return point


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., EntryPoint]:
    def make(name: str, dist: str = "acme-dpone", **hooks: Callable[..., Any]) -> EntryPoint:
        module = ModuleType(f"acme_{name}_{dist.replace('-', '_')}")
        for hook, function in hooks.items():
            function.__name__ = hook
            setattr(module, hook, hookimpl(function))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return _point(name, module.__name__, dist)

    return make


def _source(name: str, **more: Any) -> Callable[[], list[Connector]]:
    record = {"options": "dpone.model.pipeline:SourceOptions", "capabilities": declare("source", ("read",)), **more}
    return lambda: [Connector(name, **{"implementation": "acme:Source", **record})]


def _none() -> list[Connector]:
    return []


def _one(found: Plugins, name: str) -> Any:
    return next(f for f in found.found if f.name == name)


@pytest.mark.parametrize(
    ("supported", "commit", "found"),
    [
        (("write",), None, "commit is not set"),
        (("write", "exactly_once"), "none", "commit is none, but it declares exactly_once"),
        (("write", "undo", "many_tables"), "none", "commit is none, but it declares many_tables, undo"),
        (("write",), "none", ""),
    ],
)
def test_a_sink_claims_what_its_commit_can_give(
    plugin: Callable[..., EntryPoint], supported: tuple[str, ...], commit: Any, found: str
) -> None:
    """A sink says how it commits, and without a journal it declares nothing that takes one."""
    record = Connector(
        "acme", "acme:Sink", "dpone.model.pipeline:SinkOptions", declare("sink", supported), commit=commit
    )
    one = _one(_discover([plugin("acme", dpone_sinks=lambda: [record])], ""), "acme")
    assert (one.state, found in one.cause) == ("broken" if found else "ok", True)


def test_a_broken_import_is_named_and_the_others_go_on(plugin: Callable[..., EntryPoint]) -> None:
    """A plugin whose import raises is reported as broken with its cause, and the rest are discovered."""
    found = _discover([_point("bad", "no_such_module_anywhere"), plugin("good", dpone_sources=_source("good"))], "")
    assert _one(found, "bad").state == "broken"
    assert "no_such_module_anywhere" in _one(found, "bad").cause
    assert found.names("source") == ["good"]
    with pytest.raises(PluginError, match=r"plugin is broken .*no_such_module_anywhere"):
        found.get("source", "bad")


def test_one_name_from_two_distributions_is_nobodys(plugin: Callable[..., EntryPoint]) -> None:
    """Two distributions that claim one plugin name are both broken, and each is named."""
    points = [plugin("x", dist, dpone_sources=_source("x")) for dist in ("acme-dpone", "evil-dpone")]
    found = _discover(points, "")
    assert [f.state for f in found.found] == ["broken", "broken"]
    assert "acme-dpone" in found.found[0].cause
    assert "evil-dpone" in found.found[0].cause
    assert found.names("source") == []


def test_one_connector_name_from_two_plugins_belongs_to_the_first(plugin: Callable[..., EntryPoint]) -> None:
    """A connector name that an earlier plugin has makes the later plugin broken, not the earlier one."""
    points = [plugin("a", dpone_sources=_source("same")), plugin("b", dpone_sources=_source("same"))]
    found = _discover(points, "")
    assert (_one(found, "a").state, _one(found, "b").state) == ("ok", "broken")
    assert "another plugin has the same name" in _one(found, "b").cause


def test_a_misspelt_hook_is_an_error(plugin: Callable[..., EntryPoint]) -> None:
    """A function marked as a hook under an unknown name is named as such."""
    found = _discover([plugin("typo", dpone_sorces=_none)], "")
    assert _one(found, "typo").state == "broken"
    assert "unknown hooks: dpone_sorces" in _one(found, "typo").cause


def test_a_plugin_without_hooks_is_an_error(plugin: Callable[..., EntryPoint]) -> None:
    """An entry point that implements no hook is broken rather than silently useless."""
    found = _discover([plugin("empty")], "")
    assert "the plugin has no hooks" in _one(found, "empty").cause


def test_an_unknown_capability_is_an_error(plugin: Callable[..., EntryPoint]) -> None:
    """A capability outside the vocabulary is refused by name."""
    bad = _source("s", capabilities={"teleport": declare("source")["read"]})
    found = _discover([plugin("s", dpone_sources=bad)], "")
    assert "unknown capabilities: teleport" in _one(found, "s").cause


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        ({"capabilities": ("read",)}, "capabilities is of type tuple; build it with dpone.capability.declare"),
        ({"capabilities": {"read": "yes"}}, "capabilities holds 'yes'; build it with dpone.capability.declare"),
        ({"takes": ("connection", "stream")}, "takes holds 'stream'; use connection, table, query, path, topic"),
        ({"takes": "topic"}, "takes is of type str; write a tuple"),
        ({"commit": "logs"}, "commit is 'logs'; use transaction, manifest, log or none"),
    ],
)
def test_a_record_of_other_words_breaks_only_its_plugin(
    plugin: Callable[..., EntryPoint], record: dict[str, Any], cause: str
) -> None:
    """A record with a word that dpone does not know is named in the listing, and the other plugins go on."""
    found = _discover([plugin("s", dpone_sources=_source("s", **record)), plugin("t", dpone_sources=_source("t"))], "")
    assert _one(found, "s").cause == f"PluginError: read source s: {cause}"
    assert found.names("source") == ["t"]


def test_an_error_table_that_is_not_there_is_found_on_loading(plugin: Callable[..., EntryPoint]) -> None:
    """``errors`` is used only once something has failed: 'dpone plugins --load' looks before that."""
    given = {"implementation": "dpone.connectors.sqlite.source:SqliteSource"}
    for errors, cause in (
        (
            "dpone.errors:NO_SUCH_TABLE",
            "module dpone.errors does not define NO_SUCH_TABLE; fix the name in the plugin, or",
        ),
        (
            "dpone.errors:DponeError",
            "dpone.errors:DponeError is not a dpone.errors.ErrorCodes; assign an ErrorCodes to it",
        ),
    ):
        found = _discover([plugin("s", dpone_sources=_source("s", errors=errors, **given))], "")
        [trouble] = troubles(found, _one(found, "s"))
        assert cause in trouble


def test_a_hook_that_raises_breaks_only_its_plugin(plugin: Callable[..., EntryPoint]) -> None:
    """A hook that raises when called is the cause in the listing."""

    def boom() -> list[Connector]:
        raise ZeroDivisionError("boom")

    found = _discover([plugin("s", dpone_sources=boom), plugin("t", dpone_sources=_source("t"))], "")
    assert _one(found, "s").cause == "ZeroDivisionError: boom"
    assert found.names("source") == ["t"]


def test_a_broken_plugin_brings_nothing(plugin: Callable[..., EntryPoint]) -> None:
    """A plugin that breaks halfway lists no role, not even of hooks that had gone well, and nothing of it is used."""

    def boom() -> list[Connector]:
        raise ZeroDivisionError("boom")

    found = _discover([plugin("s", dpone_sources=_source("s"), dpone_sinks=boom)], "")
    assert _one(found, "s").to_json()["roles"] == {}
    assert found.names("source") == []


def test_a_plugin_names_its_distribution(plugin: Callable[..., EntryPoint]) -> None:
    """The listing says which distribution in which version brings a plugin, and ? for an entry point without one."""
    alone = EntryPoint("alone", "no_such_module_anywhere", "dpone")
    found = _discover([alone, plugin("s", dpone_sources=_source("s"))], "")
    said = {one.name: (one.to_json()["distribution"], one.to_json()["version"]) for one in found.found}
    assert said == {"alone": ("?", "?"), "s": ("acme-dpone", "9.9")}


def test_a_blocked_plugin_is_not_loaded(plugin: Callable[..., EntryPoint]) -> None:
    """DPONE_BLOCK names plugins that are not even imported."""
    found = _discover([_point("bad", "no_such_module_anywhere"), plugin("t", dpone_sources=_source("t"))], "bad, t")
    assert [f.state for f in found.found] == ["blocked", "blocked"]
    with pytest.raises(PluginError, match="plugin is blocked"):
        found.get("source", "t")


def test_an_implementation_that_lacks_a_member_is_named(plugin: Callable[..., EntryPoint]) -> None:
    """Loading checks the class against the contract and names every missing member."""

    class Half:
        def check(self) -> list[Any]:
            return []

    module = ModuleType("acme_half")
    module.Half = Half  # type: ignore[attr-defined]  # a module made for this test
    sys.modules["acme_half"] = module
    try:
        found = _discover([plugin("half", dpone_sources=_source("half", implementation="acme_half:Half"))], "")
        with pytest.raises(PluginError, match="lacks tables, schema, window, read, ack, close"):
            found.load("source", "half")
        assert len(troubles(found, _one(found, "half"))) == 1
    finally:
        del sys.modules["acme_half"]


def test_a_driver_that_is_missing_is_named_on_use(plugin: Callable[..., EntryPoint]) -> None:
    """An implementation whose import fails says which import and why."""
    found = _discover([plugin("s", dpone_sources=_source("s", implementation="no_driver_here:Source"))], "")
    with pytest.raises(PluginError, match="import no_driver_here:Source: ModuleNotFoundError"):
        found.load("source", "s")


def test_not_implemented_is_said_before_anything_is_imported(plugin: Callable[..., EntryPoint]) -> None:
    """A connector that declares nothing as supported is refused by its own word."""
    found = _discover([plugin("s", dpone_sources=_source("s", capabilities=declare("source")))], "")
    with pytest.raises(PluginError, match="the connector does not implement it"):
        found.load("source", "s")


def test_an_unknown_connector_lists_the_known(plugin: Callable[..., EntryPoint]) -> None:
    """A type that nobody provides is answered with the types there are."""
    found = _discover([plugin("t", dpone_sources=_source("t"))], "")
    with pytest.raises(PluginError, match="use source u: the connector is not installed; use one of: t"):
        found.get("source", "u")


def test_the_built_ins_keep_the_contract() -> None:
    """Every implemented built-in connector has every member of what it declares, and declares what it has."""
    from dpone.plugins import discover

    found = discover()
    built_in = [one for one in found.found if one.distribution == "dpone-core"]
    assert {one.name for one in built_in if one.roles} == {"file", "sqlite"}
    assert {(one.state, one.cause) for one in built_in} == {("ok", "")}
    for one in (one for one in built_in if one.roles):
        assert set(one.roles) == {"source", "sink", "state"} | ({"cdc"} if one.name == "file" else set())
        assert troubles(found, one) == []
        for role, names in one.roles.items():
            for name in names:
                assert undeclared(role, found.load(role, name), found.get(role, name)) == []  # type: ignore[arg-type]  # plain
