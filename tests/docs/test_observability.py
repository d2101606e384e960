"""docs/guide/observability.md and the dashboard: commands, metrics, labels and schemas are those of the program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import dpone, project  # noqa: F401  # fixtures
from tests.cli.schemas import FOLDER, require_valid
from tests.docs.transcript import follow
from tests.observe.shapes import SHAPES

from dpone.observe.metrics import CI_RUN_IDS, ENVIRONMENTS, MAX_LABELS, MAX_SERIES, MAX_VALUE, METRICS, RUN, STREAM

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "guide" / "observability.md"
TEXT = PAGE.read_text(encoding="utf-8")
DASHBOARD = json.loads((DOCS / "reference" / "grafana-dashboard.json").read_text(encoding="utf-8"))
NAMES = {metric.prometheus for metric in METRICS}
LABELS = {
    "env", "pipeline", "stream", "source", "sink", "strategy", "status", "category", "step", "version", "python",
    "pyarrow", "ci_run_id",
}  # fmt: skip


def test_the_page_is_followed(
    project: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its commands run as they stand, and print what it shows; the pipe of the page gives the same export."""
    monkeypatch.chdir(project.parent)
    for name in (*CI_RUN_IDS, *ENVIRONMENTS):
        monkeypatch.delenv(name, raising=False)
    assert follow(PAGE, "", capsys) == 5
    require_valid("run-report.json", json.loads(Path("run.json").read_text()))
    [pipe] = [line for line in TEXT.splitlines() if "--run-report -" in line]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path}
    done = subprocess.run(["sh", "-ec", pipe], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 run, 1 stream" in done.stdout
    assert (
        'dpone_run_status{env="dev",pipeline="orders",status="succeeded"} 1.0'
        in Path("metrics/metrics.prom").read_text()
    )


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "hostile"])
def test_every_report_has_the_schema(shape: str) -> None:
    """A report of any status is what run-report.json says."""
    for report in SHAPES[shape]():
        require_valid("run-report.json", json.loads(json.dumps(report.to_json())))


def test_the_output_of_the_commands_has_the_schemas(tmp_path: Path, dpone: Any) -> None:  # noqa: F811
    """--format json of metrics-export; that of metrics-verify is checked with each of its findings."""
    (tmp_path / "run.json").write_text(json.dumps(SHAPES["failed"]()[0].to_json()))
    args = ("observability", "metrics-export", "--run-report", tmp_path / "run.json", "--output-dir", tmp_path / "out")
    require_valid("metrics-export.json", dpone(*args, "--format", "json").json)


def test_the_page_names_every_schema_of_its_files() -> None:
    """And no schema of metrics or reports is left out."""
    linked = set(re.findall(r"schemas/([\w-]+\.json)", TEXT))
    assert linked == {path.name for path in FOLDER.glob("*.json") if path.name.startswith(("metrics-", "run-"))}


def test_the_page_lists_the_metrics_as_they_are() -> None:
    """Each row of its tables is a metric: names, unit, kind and meaning; every metric has a row."""
    rows = re.findall(
        r"^\| `(dpone_\w+)` \| `([\w.]+)`(?: \(([\w{}]+)\))? \| (\w+) \|.*\| (.*) \|$", TEXT, re.MULTILINE
    )
    assert rows == [(m.prometheus, m.name, m.unit, m.kind, m.help) for m in (*RUN, *STREAM)]


def test_the_limits_and_variables_of_the_page_are_those_of_the_program() -> None:
    assert f"at most {MAX_LABELS} labels for a series and {MAX_SERIES:,} series" in TEXT
    assert f"more than {MAX_VALUE} characters" in TEXT
    assert [name for name in (*CI_RUN_IDS, *ENVIRONMENTS) if f"`{name}`" not in TEXT] == []


def expressions() -> Iterator[str]:
    """What the dashboard, and the alerts and hints of the page, ask Prometheus for."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"]["query"])
    for group in alerts()["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def alerts() -> Any:
    [text] = re.findall(r"^```yaml\n(groups:.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(text)


def test_the_dashboard_and_the_alerts_ask_for_what_is_exported() -> None:
    """Every metric and every label in an expression exists; the dashboard shows each kind of number."""
    asked = [*expressions()]
    used = {name for text in asked for name in re.findall(r"\bdpone_\w+", text)}
    assert used - NAMES == set()
    assert len(used) > 10
    matched = {name for text in asked for name in re.findall(r"(\w+)=~?\"", text)}
    grouped = {name for text in asked for by in re.findall(r"\bby \(([^)]*)\)", text) for name in by.split(", ")}
    legends = {
        name
        for p in DASHBOARD["panels"]
        for t in p["targets"]
        for name in re.findall(r"\{\{(\w+)\}\}", t["legendFormat"])
    }
    assert (matched | grouped | legends) - LABELS == set()
    mentioned = set(re.findall(r"\bdpone_(?:run|stream)\w+", TEXT))
    assert mentioned - NAMES == set()


def test_the_dashboard_is_laid_out() -> None:
    """Panels have numbers of their own, do not overlap and stay in 24 columns; variables that they use exist."""
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & mine, panel["title"]
        assert at["x"] + at["w"] <= 24
        assert panel["title"]
        assert panel["description"]
        cells |= mine
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) <= known


def test_every_expression_is_promql(tmp_path: Path) -> None:
    """Balanced and quoted everywhere; where promtool is installed, it parses all of them and the alerts of the page."""
    asked = [re.sub(r"\$\w+", ".*", text) for text in expressions()]
    for text in asked:
        bare = re.sub(r'"[^"]*"', "", text)
        assert all(bare.count(a) == bare.count(b) for a, b in ("()", "{}", "[]")), text
        assert '"' not in bare
    if promtool := shutil.which("promtool"):
        rules = [{"record": f"r{i}", "expr": text} for i, text in enumerate(asked)]
        (tmp_path / "rules.yml").write_text(
            json.dumps({"groups": [{"name": "g", "rules": rules}, *alerts()["groups"]]})
        )
        done = subprocess.run(
            [promtool, "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
