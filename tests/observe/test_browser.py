"""The pages in a real browser: Debian's chromium, driven by playwright. Run by ``nox -s browser``.

DPONE_TEST_CHROMIUM names another program. With DPONE_SCREENSHOTS=FOLDER the pictures of the documentation are written
there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.observe.pages import HOSTILE, certification, hostile, night, report, stream

from dpone.observe.certification_page import certification_page
from dpone.observe.report_page import report_page

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("DPONE_TEST_CHROMIUM", "/usr/bin/chromium")
PAGES: dict[str, Callable[[], str]] = {
    "report": lambda: report_page(night(), "failed"),
    "crashed": lambda: report_page(report("running", [], None), "crashed", "the run has no end"),
    "hostile": lambda: report_page(hostile("".join(HOSTILE)), "failed", "".join(HOSTILE)),
    "thousand": lambda: report_page(report("succeeded", [stream(f"s{n}") for n in range(1000)]), "succeeded"),
    "certification": lambda: certification_page(certification()),
    "hostile certification": lambda: certification_page(certification("".join(HOSTILE))),
}
WIDTHS = {"wide": 1100, "narrow": 400}
# Every text that is shown, with its contrast to what is behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const weak = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim().slice(0, 40), e = walk.currentNode.parentElement;
    if (!text || !e.checkVisibility() || e.closest("script, option")) continue;
    const style = getComputedStyle(e), [a, b] = [light(rgb(style.color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5 || Number(style.opacity) < 1) weak.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return weak;
}"""
# What a screen reader needs: names of controls, captions and headers of tables, the order of headings, a language.
STRUCTURE = """() => {
  const wrong = [];
  for (const e of document.querySelectorAll("input, select, button"))
    if (!(e.labels?.[0]?.textContent || e.textContent).trim()) wrong.push(`no label: ${e.id}`);
  for (const e of document.querySelectorAll("[id]"))
    if (document.querySelectorAll(`#${CSS.escape(e.id)}`).length > 1) wrong.push(`two of id ${e.id}`);
  for (const e of document.querySelectorAll("table")) {
    if (!e.caption?.textContent.trim()) wrong.push("a table has no caption");
    if (![...e.querySelectorAll("th")].every((h) => h.scope)) wrong.push("a header has no scope");
    const widths = new Set([...e.rows].map((row) => row.cells.length));
    if (widths.size > 1) wrong.push(`rows of ${[...widths]} cells`);
  }
  let before = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
    if (Number(e.tagName[1]) > before + 1) wrong.push(`${e.tagName} after h${before}`);
    before = Number(e.tagName[1]);
  }
  for (const e of document.querySelectorAll("svg:not([aria-hidden])"))
    if (e.getAttribute("role") !== "img" || !e.getAttribute("aria-label")) wrong.push("a picture has no text");
  if (document.documentElement.lang !== "en" || !document.title || document.querySelectorAll("main").length !== 1)
    wrong.push("language, title or main");
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) wrong.push(`${wide} pixels wide`);
  return wrong;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page from a file, and what the browser said about it."""

    def __init__(self, browser: Any, folder: Path, name: str, **options: Any) -> None:
        self.file = folder / f"{name}.html"
        self.file.write_text(PAGES[name](), encoding="utf-8")
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.said.append(f"asks for {request.url}"))
        self.page.goto(self.file.as_uri())
        assert self.said.pop(0) == f"asks for {self.file.as_uri()}"


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    made: list[Opened] = []

    def call(name: str, **options: Any) -> Opened:
        made.append(Opened(browser, tmp_path, name, **options))
        return made[-1]

    yield call
    for one in made:
        one.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable_and_asks_for_nothing(
    opened: Callable[..., Opened], name: str, scheme: Any, width: str
) -> None:
    """No request, no error, no script of a name; texts have contrast, controls have labels, tables have headers; also
    with everything opened."""
    one = opened(name, color_scheme=scheme, viewport={"width": WIDTHS[width], "height": 700})
    picture(one.page, f"{name}-{scheme}-{width}")
    for _ in range(2):
        assert one.page.evaluate(STRUCTURE) == []
        assert one.page.evaluate(CONTRAST) == []
        one.page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert one.said == []


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("DPONE_SCREENSHOTS"):
        part = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": 1180}
        page.screenshot(path=Path(folder) / f"{name.replace(' ', '-')}.png", full_page=True, clip=part)


def rows(page: Any) -> list[str]:
    """The rows of matrices that are shown, by their headers."""
    found: list[str] = page.eval_on_selector_all(
        ".matrix tbody tr", "all => all.filter(e => e.checkVisibility()).map(e => e.cells[0].textContent)"
    )
    return found


def test_the_matrix_is_filtered_by_keyboard(opened: Callable[..., Opened]) -> None:
    """Tab to the search, type; tab to the lists, choose; tab to the button, and everything is back. The number of rows
    is said, and stays in a live region."""
    one = opened("certification", viewport={"width": 1100, "height": 800})
    page, press = one.page, one.page.keyboard.press
    everything = rows(page)
    for _ in range(20):
        press("Tab")
        if page.evaluate("document.activeElement.id") == "text":
            break
    page.keyboard.type("undo")
    assert rows(page) == ["undo"]
    assert page.inner_text("#found") == f"1 of {len(everything)} rows"
    page.keyboard.type(" acme")
    assert rows(page) == ["undo"]
    press("Control+A")
    press("Delete")
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "connector"
    page.keyboard.type("postgres")
    heads = page.eval_on_selector_all(
        "thead th[data-connector], thead bdi[data-connector]",
        "all => [...new Set(all.filter(e => e.checkVisibility()).map(e => e.textContent))]",
    )
    assert heads == ["postgres"]
    press("Tab")
    page.keyboard.type("failed")
    shown = page.eval_on_selector_all(
        ".matrix td[data-status]:not(.other)",
        "all => [...new Set(all.filter(e => e.checkVisibility()).map(e => e.dataset.status))]",
    )
    assert shown == ["failed"]
    assert 0 < len(rows(page)) < len(everything)
    assert page.evaluate(CONTRAST) == []
    press("Tab")
    press("Enter")
    said = f"{len(everything)} of {len(everything)} rows"
    page.wait_for_function("said => document.getElementById('found').textContent === said", arg=said)
    assert rows(page) == everything
    assert one.said == []


def test_evidence_is_opened_by_keyboard(opened: Callable[..., Opened]) -> None:
    """The summary takes the focus, which is seen, and Enter opens it."""
    page = opened("certification").page
    summary = page.locator(".matrix summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".matrix details[open] p").first.is_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_without_scripts_everything_is_there(opened: Callable[..., Opened]) -> None:
    """The filter is not shown, every row is."""
    page = opened("certification", java_script_enabled=False).page
    assert not page.locator("#filter").is_visible()
    assert page.locator(".matrix tbody tr:visible").count() == 6 + 1 + 6
    assert page.locator(".matrix summary:visible").count() == 18 + 6


def test_what_is_hidden_is_out_of_reach(opened: Callable[..., Opened]) -> None:
    """The first Tab leads to the link that skips to the content; it is seen while it has the focus."""
    page = opened("report").page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
