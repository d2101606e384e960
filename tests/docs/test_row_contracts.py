"""The examples of docs/guide/row-contracts.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import fields

from dpone.cli.main import main
from dpone.model.row_contract import OF_A_ROW, OF_THE_LOAD, Quarantine

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "guide" / "row-contracts.md").read_text(encoding="utf-8")


def fence(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file and the pipeline shown give the report and the quarantine shown; ids and times are their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.csv").write_text(fence("csv")[0], encoding="utf-8")
    (tmp_path / "pipeline.yaml").write_text(fence("yaml")[0], encoding="utf-8")
    command, _, shown = fence("console")[0].partition("\n")
    with pytest.raises(SystemExit) as ended:
        main(command.split()[2:])
    assert ended.value.code == 0
    [file] = (tmp_path / ".dpone" / "quarantine" / "orders").glob("*/*.jsonl")
    text = capsys.readouterr().out.replace(str(file.parent), "FOLDER").replace(file.parent.name, "LOAD")
    text = re.sub(r"(in|,) [\d.]+ s", r"\1 0.05 s", re.sub(r"run \w{26}", "run RUN", text))
    assert text == shown
    assert file.read_text(encoding="utf-8").replace(file.stem, "PART") == fence("json")[0]


def test_the_python_of_the_page_runs() -> None:
    """What the page shows of the Python API holds."""
    [code] = fence("python")
    exec(code, {})  # noqa: S102  (our own page)


def test_every_rule_and_every_option_is_on_the_page() -> None:
    """No rule and no option of the quarantine is left for the reader to guess."""
    names = [*OF_A_ROW, *OF_THE_LOAD]
    assert [name for name in names if f"| `{name}:" not in PAGE] == []
    assert [one.name for one in fields(Quarantine) if f"| `{one.name}` |" not in PAGE] == []
