"""What is certified as a page: connectors, capabilities, routes and gates, each cell with the evidence behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dpone.certify.certification import (
    ROLES,
    Cell,
    Certification,
    RouteCell,
    Status,
    claimed,
    gate_rows,
    left_out_rows,
    said,
    server_rows,
    unusable_rows,
)
from dpone.certify.evidence import GATES
from dpone.observe.page import Html, Part, badge, cell, details, name, page, resource, table, tag

_FILES = 10  # of evidence named in a cell


def certification_page(found: Certification) -> str:
    connectors: list[list[Part]] = [
        [name(c.connector), badge(str(c.level)), *(badge(str(c.gates[gate])) for gate in GATES)]
        for c in found.connectors
    ]
    head = ["connector", "level", *(gate.replace("_", " ") for gate in GATES)]
    return page(
        "dpone: what is certified",
        tag("h1", "What is certified"),
        tag("p", said(found)),
        tag("h2", "Connectors"),
        table("Level and gates of each connector", head, connectors),
        tag("h2", "Capabilities and routes"),
        _filter(found),
        [_role(role, found) for role in ROLES if any(c.role == role for c in found.cells)],
        _routes(found.routes),
        _plain("Cannot be used", "Connectors that are not there, or do not work here", unusable_rows(found)),
        _plain("Gates", "What each gate measured", gate_rows(found), 2),
        _plain("Systems", "What the evidence was made against", server_rows(found)),
        _plain("Left out", "What cases left out, because the system cannot hold it", left_out_rows(found)),
        script=resource("filter.js"),
    )


def _filter(found: Certification) -> Html:
    """Hidden until the script has begun."""
    names = sorted({c.connector for c in found.cells} | {n for r in found.routes for n in (r.source, r.sink)})
    seen = {str(c.status) for c in found.cells} | {str(r.status) for r in found.routes}
    return tag(
        "form",
        tag("label", "Search", tag("input", id="text", type="search", autocomplete="off")),
        tag("label", "Connector", _select("connector", names)),
        tag("label", "Status", _select("status", [str(status) for status in Status if str(status) in seen])),
        tag("button", "Show all", type="reset"),
        tag("output", id="found", role="status", aria_live="polite"),
        id="filter", class_="filter", role="search", hidden=True,
    )  # fmt: skip


def _select(id: str, values: Sequence[str]) -> Html:
    return tag("select", tag("option", "all", value=""), [tag("option", one, value=one) for one in values], id=id)


def _role(role: str, found: Certification) -> Html:
    cells = {(c.capability, c.connector): c for c in found.cells if c.role == role}
    names = list(dict.fromkeys(connector for _, connector in cells))
    rows: list[list[Part]] = [
        [capability.replace("_", " "), *(_cell(cells[capability, one]) for one in names)]
        for capability in dict.fromkeys(capability for capability, _ in cells)
    ]
    if role == "sink":
        kept = [found.delivery.get(one, str(Status.NOT_IMPLEMENTED)) for one in names]
        by_name = zip(names, kept, strict=True)
        rows = [
            ["delivery (commit)", *(cell(text, data_connector=one, data_status="") for one, text in by_name)],
            *rows,
        ]
    title = {"cdc": "Change readers", "state": "State backends"}.get(role, f"{role.capitalize()}s")
    head: list[Part] = [role, *(tag("bdi", one, data_connector=one) for one in names)]
    made = table(f"{title} and their capabilities", head, rows, class_="matrix wideways")
    return tag("section", tag("h3", title), made)


def _cell(one: Cell) -> Part:
    known = {
        "run against": one.servers,
        "evidence": one.evidence[:_FILES],
        "left out": [*(f"{case}: {why}" for case, why in one.quirks.items()),
                     *(f"{case}: {what}: {why}" for case, left in one.left_out.items() for what, why in left.items())],
    }  # fmt: skip
    more = len(one.evidence) - _FILES
    return _evidence(one.status, one.connector, known, more)


def _evidence(status: Status, connector: str, known: Mapping[str, Sequence[str]], more: int = 0) -> Part:
    rest = {"evidence": f" and {more:,} more"} if more > 0 else {}
    behind = [
        tag("p", tag("strong", word), ": ", tag("span", ", ".join(texts), class_="names"), rest.get(word))
        for word, texts in known.items()
        if texts
    ]
    shown = details(badge(str(status)), behind) if behind else badge(str(status))
    return cell(shown, data_status=str(status), data_connector=connector)


def _routes(routes: Sequence[RouteCell]) -> Html | None:
    rows: list[list[Part]] = [
        [name(f"{r.source} → {r.sink}"), r.strategy.replace("_", " "),
         _evidence(r.status, f"{r.source} {r.sink}", {"run against": r.servers, "evidence": r.evidence[:_FILES]},
                   len(r.evidence) - _FILES)]
        for r in claimed(routes)
    ]  # fmt: skip
    if not rows:
        return None
    made = table("Source, sink and strategy", ["route", "strategy", "status"], rows, class_="matrix")
    return tag("section", tag("h3", "Routes"), made)


def _plain(title: str, caption: str, rows: Sequence[Sequence[str]], status: int | None = None) -> list[Html]:
    head, *lines = rows
    shown = [[badge(text) if n == status else text for n, text in enumerate(line)] for line in lines]
    return [tag("h2", title), table(caption, head, shown)] if lines else []
