"""Pages: one HTML file each, which needs nothing else. No request leaves it: its own policy forbids all of them.

``tag`` escapes every text and every attribute, so that a name from a report is never read as HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import TypeAlias


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


class Cell(Html):
    """A cell of a table, with its own attributes."""

    __slots__ = ()


def cell(*parts: Part, **attributes: str | None) -> Cell:
    return Cell(tag("td", *parts, **attributes))


Part: TypeAlias = "str | Html | Iterable[Part] | None"
_VOID = ("meta", "input", "br")


def tag(name: str, /, *parts: Part, **attributes: str | int | bool | None) -> Html:
    """An element. A trailing underscore of an attribute is left out (``class_``), others become hyphens; False and None
    leave the attribute out."""
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(parts)}</{name}>")


def _attribute(key: str, value: str | int | bool | None) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {key}" if value is True else f' {key}="{escape(_visible(str(value)))}"'


def join(parts: Iterable[Part]) -> Html:
    """The parts one after another; what is not Html is escaped."""
    found = []
    for part in parts:
        if isinstance(part, Html):
            found.append(str(part))
        elif isinstance(part, str):
            found.append(escape(_visible(part)))
        elif part is not None:
            found.append(str(join(part)))
    return Html("".join(found))


def _visible(text: str) -> str:
    """Characters that HTML does not allow, and those that turn the direction of what follows, are shown as escapes: a
    name cannot change how the rest of the page reads."""
    return text.translate(_SHOWN)


_UNSEEN = (
    *range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A),
    *range(0xD800, 0xE000), 0xFFFE, 0xFFFF,
)  # fmt: skip
_SHOWN = {code: f"\\u{code:04x}" for code in _UNSEEN}


def name(text: str) -> Html:
    """A name from outside: its direction of writing is its own."""
    return tag("bdi", text)


def badge(status: str) -> Html:
    """A status as a word with a mark; its colour says nothing more."""
    kind = _KINDS.get(status, "quiet")
    return tag("span", tag("span", _MARKS[kind], aria_hidden="true"), f" {status}", class_=f"badge {kind}")


_KINDS = {
    **dict.fromkeys(("succeeded", "loaded", "certified", "production-certified", "caught up"), "good"),
    **dict.fromkeys(("incomplete", "stopped", "stale", "insufficient", "interrupted", "simulated"), "warn"),
    **dict.fromkeys(("failed", "crashed"), "bad"),
    **dict.fromkeys(("running", "planned", "declared", "tested"), "info"),
}
_MARKS = {"good": "✓", "warn": "!", "bad": "✕", "info": "○", "quiet": "–"}


def table(
    caption: str,
    head: Sequence[Part],
    rows: Iterable[Sequence[Part]],
    right: Sequence[int] = (),
    wide: int = -1,
    **attributes: str,
) -> Html:
    """A table that scrolls by itself if it is wide. The first cell of each row is its header; ``right``: columns of
    numbers; ``wide``: one that gets the room that is left."""
    kind = ["number" if n in right else "wide" if n == wide else None for n in range(len(head))]
    top = tag("thead", tag("tr", [tag("th", one, scope="col", class_=kind[n]) for n, one in enumerate(head)]))
    body = tag("tbody", [_row(row, kind) for row in rows])
    return tag("div", tag("table", tag("caption", caption), top, body, **attributes),
               class_="scroll", tabindex="0", role="region", aria_label=caption)  # fmt: skip


def _row(row: Sequence[Part], kind: Sequence[str | None]) -> Html:
    first, *more = row
    cells = [one if isinstance(one, Cell) else tag("td", one, class_=kind[n]) for n, one in enumerate(more, 1)]
    return tag("tr", tag("th", first, scope="row", class_=kind[0]), cells)


def figures(pairs: Iterable[tuple[str, Part]]) -> Html:
    """Names and values, as the top of a page has them."""
    return tag("dl", [tag("div", tag("dt", key), tag("dd", value)) for key, value in pairs], class_="figures")


def items(texts: Sequence[str], most: int = 20) -> Html:
    """A list, cut after ``most``."""
    rest = [tag("li", f"and {len(texts) - most:,} more")] if len(texts) > most else []
    return tag("ul", [tag("li", text) for text in texts[:most]], rest)


def details(summary: Part, *parts: Part, open_: bool = False, **attributes: str) -> Html:
    return tag("details", tag("summary", summary), *parts, open=open_, **attributes)


def page(title: str, *parts: Part, script: str = "") -> str:
    """The whole file. ``script``: of dpone's own; the page works without it."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(resource("page.css"))),
    )
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    main = tag("main", *parts, id="content", tabindex="-1")
    body = tag("body", skip, main, tag("script", Html(script)) if script else None)
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


_POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)


def resource(name: str) -> str:
    """A file of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
