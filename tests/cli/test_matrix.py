"""``dpone types`` and ``dpone routes`` say what the connectors say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpone.model.strategy import MODES

Dpone = Callable[..., Any]

PLUGIN = """
import dpone
import pyarrow as pa
from attrs import frozen
from typing import Literal
from dpone.capability import CAPABILITIES, Connector, declare
from dpone.contract import PROTOCOLS
from dpone.errors import SinkError
from dpone.model.evolution import Stored
from dpone.model.pipeline import SinkOptions

@frozen
class Options(SinkOptions):
    format: Literal["thin", "thick"] = "thin"

class Sink:
    def __init__(self, spec): self.spec = spec
    def stores(self, type):
        if type == pa.string():
            return Stored("TEXT", type)
        if type == pa.int8():
            return Stored("BIGINT", pa.int64(), "checked")
        if type == pa.float64() and self.spec.options.format == "thin":
            return Stored("REAL", pa.float32(), "lossy")
        raise SinkError("store a column", f"no type for {type}", "cast it")

for name in vars(PROTOCOLS["sink"]):
    if not name.startswith("_") and not hasattr(Sink, name):
        setattr(Sink, name, lambda self: None)

@dpone.hookimpl
def dpone_sinks():
    row = declare("sink", ["append"], ["merge"])
    return [Connector("zz_toy", "zz_toy:Sink", "zz_toy:Options", row, takes=("table",), commit="transaction")]
@dpone.hookimpl
def dpone_sources():
    row = declare("source", ["read"], ["incremental_cdc"])
    return [Connector("zz_toy", "zz_toy:Source", "dpone.model.pipeline:SourceOptions", row, takes=("table",))]
"""


def test_types_are_what_the_sink_answers(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """Fidelity, native type and the type that comes back are the sink's own words, for each of its formats; a type it
    raises for is refused, with the reason."""
    install("zz_toy", PLUGIN)
    rows = {(r["sink"], r["type"]): r for r in dpone("types", "--sink", "zz_toy", "--format", "json").json}
    thin = {key[1]: (r["fidelity"], r["native"], r["comes_back_as"]) for key, r in rows.items() if "thin" in key[0]}
    assert thin["string"] == ("exact", "TEXT", "string")
    assert thin["int8"] == ("checked", "BIGINT", "int64")
    assert thin["double"] == ("lossy", "REAL", "float")
    assert thin["date32[day]"][0] == "refused"
    assert rows["zz_toy (thick)", "double"]["fidelity"] == "refused"
    assert rows["zz_toy (thick)", "double"]["note"] == "no type for double"


@pytest.mark.parametrize("example", [False, True])
def test_a_sink_that_refuses_an_invented_connection(
    install: Callable[[str, str], Path], dpone: Dpone, example: bool
) -> None:
    """It answers by the connection that its plugin declares; without one it is a row that says why, and the others are
    printed all the same."""
    refuses = "if spec.connection.reveal() != 'toy://a/b': raise SinkError('read', 'no database named', 'name one')"
    text = PLUGIN.replace(
        "def __init__(self, spec): self.spec = spec",
        f"def __init__(self, spec):\n        {refuses}\n        self.spec = spec",
    )
    more = ", example='toy://a/b'" if example else ""
    text = text.replace(
        'takes=("table",), commit="transaction"', f'takes=("connection", "table"), commit="transaction"{more}'
    )
    install("zz_toy", text)
    rows = dpone("types", "--format", "json").json
    toy = {row["fidelity"]: row["note"] for row in rows if row["sink"].startswith("zz_toy")}
    assert "exact" in toy if example else toy == {"unknown": "no database named"}
    assert any(row["sink"] == "sqlite" and row["fidelity"] == "exact" for row in rows)


def test_types_as_text(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """One line per type; a type that comes back as it is says so."""
    install("zz_toy", PLUGIN)
    lines = [line.split() for line in dpone("types", "--sink", "zz_toy").out.splitlines()]
    assert ["zz_toy", "(thin)", "string", "exact", "TEXT", "same"] in lines


def test_types_survive_a_sink_that_cannot_be_imported(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """It is one row that says why, beside the types of the others; asked for alone it is an error."""
    install("zz_toy", PLUGIN.replace("zz_toy:Sink", "zz_toy:Missing"))
    rows = [r for r in dpone("types", "--format", "json").json if r["sink"] == "zz_toy"]
    assert [(r["type"], r["fidelity"]) for r in rows] == [("*", "unknown")]
    assert "Missing" in rows[0]["note"]
    assert dpone("types", "--sink", "zz_toy").exit_code == 2


def test_types_of_all_sinks(dpone: Dpone) -> None:
    """Without --sink every implemented sink is asked, and the built-in ones are."""
    sinks = {row["sink"].split()[0] for row in dpone("types", "--format", "json").json}
    assert {"file", "sqlite"} <= sinks


def test_routes_take_the_weaker_end(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """A route is supported only if both ends are; what a system cannot do outweighs what is not implemented."""
    install("zz_toy", PLUGIN)
    rows = {(r["source"], r["sink"], r["strategy"]): r["support"] for r in dpone("routes", "--format", "json").json}
    toy = {mode: rows["zz_toy", "zz_toy", mode] for mode in MODES}
    assert toy.pop("append") == "supported"
    assert toy.pop("merge") == "unsupported"
    assert toy.pop("cdc_apply") == "unsupported"  # the source has no change stream
    assert set(toy.values()) == {"not implemented"}


def test_routes_as_text(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """One line per source and sink, one column per strategy."""
    install("zz_toy", PLUGIN)
    head, *lines = dpone("routes").out.splitlines()
    assert head.split() == ["source", "sink", *MODES]
    assert any(line.split()[:2] == ["zz_toy", "zz_toy"] for line in lines)
