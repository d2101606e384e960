"""The matrix page is made by ``dpone certify``; ``python tests/docs/test_certification.py`` writes docs/matrix.md."""

from __future__ import annotations

from pathlib import Path

from dpone import certify
from dpone.evidence import GATES

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Connectors of this repository; whatever else is installed here is not on the page.
OURS = (
    "file", "file_changelog", "sqlite", "kafka", "mssql", "mssql_cdc", "mssql_change_tracking", "objectstore",
    "postgres", "postgres_logical", "s3", "gcs", "azure",
)  # fmt: skip
HEAD = """# Matrix

This page is what `dpone certify --format markdown` prints in a checkout of this repository, where there is no evidence;
a test keeps it so. What is certified is told by the evidence of the version you install: see
[certification](certification.md). The types that each sink keeps are printed by `dpone types`.

"""


def page() -> str:
    known = {cell.connector for cell in certify.certify().cells}
    return HEAD + certify.to_markdown(certify.certify(only=[name for name in OURS if name in known])) + "\n"


def test_the_matrix_page_is_what_certify_prints() -> None:
    """docs/matrix.md is the matrix, cell for cell."""
    assert (DOCS / "matrix.md").read_text(encoding="utf-8") == page()


def test_every_status_level_and_gate_is_documented() -> None:
    """docs/certification.md names every word that the matrix uses."""
    text = (DOCS / "certification.md").read_text(encoding="utf-8")
    words = [*certify.Status, *(level for level in certify.Level), *GATES]
    assert [str(word) for word in words if f"`{word}`" not in text] == []


if __name__ == "__main__":
    (DOCS / "matrix.md").write_text(page(), encoding="utf-8")
