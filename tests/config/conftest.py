"""Connectors for these tests: light records and options classes; no implementation is ever imported."""

import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pluggy
import pytest
from attrs import field, frozen
from attrs.validators import ge, le

from dpone.capability import Connector, Role, declare
from dpone.config.document import PipelineErrors
from dpone.config.reader import load_pipeline
from dpone.errors import ConfigError
from dpone.model.pipeline import (
    Pipeline,
    SinkOptions,
    SourceOptions,
    StateOptions,
)
from dpone.model.secret import Secret
from dpone.plugins import Plugins

OPTIONS = "options_of_the_config_tests"


@frozen
class Tls:
    mode: Literal["verify", "off"] = "verify"
    ca: str | None = None


@frozen
class ShopOptions(SourceOptions):
    """How to talk to a shop.

    fetch   rows per round trip
    flags   free words
    """

    fetch: int = field(default=1000, validator=[ge(1), le(50_000)])
    ratio: float = 0.5
    flags: tuple[str, ...] = ()
    tls: Tls = field(factory=Tls)
    password: Secret | None = None
    size: int | Literal["auto"] = "auto"

    def __attrs_post_init__(self) -> None:
        if len(self.flags) > 2:
            raise ConfigError("read options.flags", f"{len(self.flags)} flags", "give at most 2")


@frozen
class BucketOptions(SinkOptions):
    format: Literal["csv", "parquet"] = field(kw_only=True)


@pytest.fixture(autouse=True)
def _no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test makes secret must not be masked in another's messages."""
    monkeypatch.setattr("dpone.model.secret._known", set())
    monkeypatch.setattr("dpone.model.secret._pattern", None)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    module = types.ModuleType(OPTIONS)
    vars(module).update(ShopOptions=ShopOptions, BucketOptions=BucketOptions)
    monkeypatch.setitem(sys.modules, OPTIONS, module)
    records: dict[tuple[Role, str], Connector] = {}

    def add(role: Role, name: str, takes: tuple[str, ...], able: list[str], options: str) -> None:
        records[role, name] = Connector(name, "nowhere:Nothing", options, declare(role, able), takes)

    source, sink, state = (f"dpone.model.pipeline:{cls.__name__}" for cls in (SourceOptions, SinkOptions, StateOptions))
    add("source", "file", ("path",), ["read", "repeatable"], source)
    add("source", "shop", ("connection", "table", "query"), ["read", "incremental_cursor", "incremental_xmin"],
        f"{OPTIONS}:ShopOptions")  # fmt: skip
    add("source", "stream", ("connection", "topic"), ["read"], source)
    add("source", "later", ("connection", "table"), [], source)
    add("source", "broken", ("path",), ["read"], "dpone.no_such_module:Options")
    add("sink", "lite", ("connection", "table"), ["append", "merge", "full_refresh", "replace"], sink)
    add("sink", "bucket", ("path",), ["append", "full_refresh"], f"{OPTIONS}:BucketOptions")
    add("state", "sqlite", ("connection",), ["lock"], state)
    add("state", "file", ("path",), ["lock"], state)
    return Plugins(pluggy.PluginManager("dpone"), (), records)


Load = Callable[..., Pipeline]
Problems = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path, plugins: Plugins) -> Load:
    """Write the text as p.yaml and load it."""

    def run(text: str | bytes, env: Mapping[str, str] | None = None) -> Pipeline:
        path = tmp_path / "p.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_pipeline(path, env=env or {}, plugins=plugins)

    return run


@pytest.fixture
def problems(load: Load, tmp_path: Path) -> Problems:
    """Load a text that must fail; its problem lines without the folder."""

    def run(text: str | bytes, env: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(PipelineErrors) as caught:
            load(text, env)
        lines = caught.value.problems
        assert all("\n" not in line and line.count(": ") >= 1 and "; " in line for line in lines)
        return [line.removeprefix(f"{tmp_path}/") for line in lines]

    return run


def pipeline_text(**parts: Any) -> str:
    """A valid pipeline, one key per line, with parts replaced; None leaves one out."""
    keys = {
        "pipeline": "orders",
        "source": "{type: file, path: data/orders-*.csv}",
        "sink": "{type: lite, connection: 'sqlite:///w.db', table: orders, strategy: {mode: append}}",
    } | parts
    return "".join(f"{key}: {value}\n" for key, value in keys.items() if value is not None)


@pytest.fixture
def text() -> Callable[..., str]:
    return pipeline_text
