"""Links in the Markdown files of the repository."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def pages() -> Iterator[Path]:
    for page in sorted(ROOT.rglob("*.md")):
        inside = page.relative_to(ROOT).parts
        if not any(part.startswith(".") or part in ("dist", "build", "node_modules") for part in inside):
            yield page


def anchors(page: Path) -> set[str]:
    """Headings as a forge turns them into anchors: lower case, blanks to hyphens, other punctuation dropped."""
    heads = re.findall(r"^#+ +(.*?) *#*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page: Path) -> Iterator[str]:
    text = HIDDEN.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text):
        if re.match(r"[a-z]+:", link):
            continue  # the network is not asked
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            yield f"{page.relative_to(ROOT)}: {link}"


def test_links_lead_somewhere() -> None:
    """Every relative link in a Markdown file names a file that exists, and a heading of it where it has an anchor."""
    found = list(pages())
    assert ROOT / "README.md" in found
    assert [link for page in found for link in broken(page)] == []
