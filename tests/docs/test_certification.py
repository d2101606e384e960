"""The words of ``dpone certify`` are explained."""

from __future__ import annotations

from tests.docs.generate import DOCS

from dpone.certify import certification
from dpone.certify.evidence import GATES


def test_every_status_level_and_gate_is_documented() -> None:
    """docs/reference/certification.md names every word that the matrix uses."""
    text = (DOCS / "reference" / "certification.md").read_text(encoding="utf-8")
    words = [*certification.Status, *(level for level in certification.Level), *GATES]
    assert [str(word) for word in words if f"`{word}`" not in text] == []
