"""Pages whose files, commands and code are followed in their order, without a server."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.generate import DOCS
from tests.docs.transcript import follow, steps

EXAMPLE = """pipeline: orders
source: {type: file, path: orders.csv}
sink: {type: file, path: out, strategy: {mode: append}}
"""


def test_the_secrets_page_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pipeline is accepted with any password in a field, and nothing that is printed has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_DB", "postgres://reader:hunter2secret@db.example/shop")
    monkeypatch.setenv("DWH_PASSWORD", "p@ss/w?rd#;:'\"")
    assert follow(DOCS / "guide" / "secrets.md", "", capsys) == 1


def test_the_python_page_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of code holds, one after the other, in a folder with the files of the page."""
    monkeypatch.chdir(tmp_path)
    ran = 0
    for name, language, text in steps(DOCS / "reference" / "python.md"):
        if name:
            Path(name).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(text, {})  # noqa: S102  (our own page)
            ran += 1
    assert ran == 4


@pytest.mark.parametrize(("rows", "code"), [("id\n1\n", 0), (None, 1)], ids=["a run", "a failure"])
def test_the_script_of_the_scheduling_page_passes_the_exit_code_on(tmp_path: Path, rows: str | None, code: int) -> None:
    """The run of the script writes a report; 30 of them are kept."""
    [script] = [text for name, _, text in steps(DOCS / "guide" / "scheduling.md") if name == "orders.sh"]
    (tmp_path / "orders.sh").write_text(script, encoding="utf-8")
    (tmp_path / "pipeline.yaml").write_text(EXAMPLE, encoding="utf-8")
    (tmp_path / "reports").mkdir()
    for number in range(40):
        (tmp_path / "reports" / f"old-{number}.json").touch()
    if rows:
        (tmp_path / "orders.csv").write_text(rows, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", str(tmp_path / "orders.sh")], env={**os.environ, "PATH": path}, check=False)
    reports = [*(tmp_path / "reports").iterdir()]
    assert done.returncode == code
    assert (len(reports), len([one for one in reports if not one.name.startswith("old")])) == (30, 1)


def test_the_units_of_the_scheduling_page_run_a_command_that_there_is() -> None:
    """The service starts ``dpone run`` with options that it has, and does not repeat what a person must decide."""
    units = {}
    for name, _, text in steps(DOCS / "guide" / "scheduling.md"):
        if name.startswith("/etc/systemd"):
            units[Path(name).suffix] = configparser.ConfigParser(interpolation=None, strict=True)
            units[Path(name).suffix].optionxform = str  # type: ignore[assignment]
            units[Path(name).suffix].read_string(text)
    service = units[".service"]["Service"]
    assert service["RestartPreventExitStatus"].split() == ["2", "3", "4"]
    assert int(service["TimeoutStopSec"]) > 10
    program, *args = service["ExecStart"].split()
    assert Path(program).name == "dpone"
    done = subprocess.run(
        [sys.executable, "-m", "dpone", *args[:1], "--help"], capture_output=True, text=True, check=True
    )
    assert all(arg in done.stdout for arg in args if arg.startswith("--"))
    assert units[".timer"]["Install"]["WantedBy"] == "timers.target"
