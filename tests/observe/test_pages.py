"""Pages: well-formed, escaped, bounded, and without anything from elsewhere."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
from tests.observe.pages import HOSTILE, certification, hostile, night, report, stream

from dpone.model.report import RunReport, RunStatus, StreamStatus
from dpone.observe.certification_page import certification_page
from dpone.observe.page import Html, join, tag
from dpone.observe.report_page import report_page

VOID = {"meta", "input", "br"}
# The only words of a page that may run, or load something: the attributes that its own elements have.
ATTRIBUTES = {
    "aria-hidden", "aria-label", "aria-live", "autocomplete", "charset", "class", "content", "data-connector",
    "data-status", "hidden", "href", "http-equiv", "id", "lang", "name", "open", "points", "preserveaspectratio",
    "role", "scope", "style", "tabindex", "type", "value", "viewbox",
    "x1", "x2", "y1", "y2",
}  # fmt: skip


class Read(HTMLParser):
    """What a reader of HTML finds: elements with their attributes, the order of headings, the text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], "elements that are not closed"

    def handle_starttag(self, name: str, given: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(given)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(text)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def named(self, *names: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.elements if name in names]


def checked(page: str) -> Read:
    """A page that is one file, and has nothing of a hostile name in its structure."""
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    read = Read(page)
    assert {key for _, given in read.elements for key in given} <= ATTRIBUTES
    assert [given["href"] for given in read.named("a")] == ["#content"]
    assert not read.named("img", "link", "iframe", "object", "base", "video")
    assert len(read.named("script")) <= 1
    assert len(read.named("style")) == len(read.named("title")) == len(read.named("h1")) == 1
    styles = [str(given["style"]) for _, given in read.elements if "style" in given]
    assert all(re.fullmatch(r"--from:[\d.]+%;--for:[\d.]+%", style) for style in styles)
    assert not re.search(r"url\(|@import|https?:", page.split("</style>")[0].split("<style>")[1])
    levels = [int(name[1]) for name, _ in read.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    tables = [given for given in read.named("div") if given.get("role") == "region"]
    assert len(tables) == len(read.named("table")) == len(read.named("caption"))
    assert all(given.get("scope") in ("row", "col") for given in read.named("th"))
    return read


def visible(text: str) -> str:
    """As a page shows it."""
    for character in "\x00\x1b\ud800\uffff\u202e\u202c":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


MAKE: dict[str, Callable[[str], str]] = {
    "report": lambda text: report_page(hostile(text), "failed", text),
    "certification": lambda text: certification_page(certification(text)),
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_name_is_shown_and_never_obeyed(make: Callable[[str], str], text: str) -> None:
    """Tags, quotes, ends of elements, other directions of writing and control characters stay text, wherever they
    come."""
    page = make(text)
    assert visible(text) in checked(page).text
    page.encode("utf-8")


STATUSES = (*get_args(RunStatus), "crashed")


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_a_page(status: str) -> None:
    """Of the run and of its streams, also where nothing is known but that it began."""
    streams = [stream(f"s{n}", one, began=n) for n, one in enumerate(get_args(StreamStatus))]
    kept: Any = "running" if status == "crashed" else status
    for given, seconds in ((streams, 9.0), (streams, None), ([], None)):
        read = checked(report_page(report(kept, given, seconds), status, "the process is gone"))
        assert status in read.text
        assert "the process is gone" in read.text
        assert [one for one in get_args(StreamStatus) if given and one.replace("_", " ") not in read.text] == []


def test_a_page_has_what_the_report_has() -> None:
    """Steps, rows over time, partitions, schema changes, warnings, errors, and what a row contract found."""
    read = checked(report_page(night(), "failed"))
    wanted = [
        "1,567,661", "1,257,661", "1\u00a0min 9\u00a0s", "env prod", "free disk space, then run again",
        "SchemaBreak, unknown",
        "add column discount", "3 transactions were open", "6 partitions", "00005-c9265398", "open the load",
        "unique(id)", "5,132 rows checked", "up to 1,5", "postgres public.orders → sqlite orders",
    ]  # fmt: skip
    assert [one for one in wanted if one not in read.text] == []
    [drawn] = read.named("svg")
    assert (drawn["role"], str(drawn["aria-label"]).startswith("1,567,661 rows staged")) == ("img", True)


def test_the_page_of_a_thousand_streams_is_bounded() -> None:
    """A line for each, details for two hundred, those with errors first; long lists are cut."""
    many = ["add column " + "c" * 100] * 60
    streams = [stream(f"stream_{n:04d}", began=n / 100, schema_changes=many, warnings=many) for n in range(999)]
    streams.append(stream("last", "failed", error=hostile("e").streams[0].error))
    page = report_page(report("failed", streams, 12.0), "failed")
    read = checked(page)
    assert len(page) < 3_000_000
    assert all(f"stream_{n:04d}" in read.text for n in range(999))
    assert len(read.named("details")) <= 202
    assert read.text.index("Details") < read.text.rindex("last")
    more = report_page(report("succeeded", [stream(f"s{n}") for n in range(2500)], 9.0), "succeeded")
    assert "500 more streams are in the JSON report" in checked(more).text


def test_a_certification_shows_the_evidence_behind_each_cell() -> None:
    """Every status, each with the systems and files it is based on; the filter is hidden where no script shows it."""
    read = checked(certification_page(certification()))
    assert len(read.named("details")) == 18 + 6
    assert read.text.count("acme.json") >= 18
    assert "and 2 more" in read.text
    [form] = read.named("form")
    assert "hidden" in form
    statuses = {given.get("data-status") for given in read.named("td")}
    assert {"certified", "failed", "stale", "insufficient", "declared"} <= statuses
    assert len(read.named("label")) == len(read.named("input", "select")) == 3


def test_parts_are_escaped_unless_they_are_html() -> None:
    """Only what ``tag`` made is HTML; whatever joins it is escaped, and attributes too."""
    made = tag("p", "<b>", tag("i", "&"), [None, ["x", Html("<br>")]], title='"<', hidden=True, lang=None)
    assert made == '<p title="&quot;&lt;" hidden>&lt;b&gt;<i>&amp;</i>x<br></p>'
    assert join(["<", made]) == f"&lt;{made}"


def test_reports_come_back_from_json() -> None:
    """What was written is read as it was; a report of another kind is refused with what is wrong."""
    for one in (night(), hostile("x"), report("running", [], None)):
        assert RunReport.from_json(one.to_json()) == one
    data = night().to_json()
    wrong: list[dict[str, Any]] = [
        {"format": 2}, {"streams": {}}, {"status": "done"}, {"started_at": 1}, {"labels": {"a": 1}}, {"streams": [3]},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises((ValueError, TypeError)):
            RunReport.from_json({**data, **change})
