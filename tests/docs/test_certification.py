"""The words of ``dpone certify`` are explained."""

from __future__ import annotations

from tests.docs.generate import DOCS

from dpone import certify
from dpone.evidence import GATES


def test_every_status_level_and_gate_is_documented() -> None:
    """docs/reference/certification.md names every word that the matrix uses."""
    text = (DOCS / "reference" / "certification.md").read_text(encoding="utf-8")
    words = [*certify.Status, *(level for level in certify.Level), *GATES]
    assert [str(word) for word in words if f"`{word}`" not in text] == []
