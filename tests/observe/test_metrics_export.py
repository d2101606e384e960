"""``dpone observability metrics-export``: every shape of report, as each receiver reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from tests.cli.schemas import require_valid
from tests.observe.lint import lint
from tests.observe.shapes import HOSTILE, SHAPES, earlier, error, loaded, run, stream, written

from dpone.config.document import MAX_JSON_BYTES
from dpone.host import durable
from dpone.model.report import RunReport
from dpone.model.secret import Secret
from dpone.observe.export import FILES, INDEX
from dpone.observe.metrics import CI_RUN_IDS, ENVIRONMENTS, MAX_VALUE, METRICS

Dpone = Callable[..., Any]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run in a CI system themselves."""
    for name in (*CI_RUN_IDS, *ENVIRONMENTS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exported(tmp_path: Path, dpone: Dpone) -> Callable[..., Path]:
    def export(reports: Sequence[RunReport], *options: str, to: str = "out") -> Path:
        files = [part for file in written(tmp_path, reports) for part in ("--run-report", str(file))]
        done = dpone("observability", "metrics-export", *files, "--output-dir", tmp_path / to, *options)
        assert (done.exit_code, done.err) == (0, "")
        return tmp_path / to

    return export


def samples(folder: Path) -> Samples:
    text = (folder / "metrics.prom").read_bytes().decode()  # read_text would take a \r in a label for a line end
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {(s.name, frozenset(s.labels.items())): s.value for s in found}


def of(name: str, found: Samples, *labels: str) -> Any:
    """The values of a metric: by the given labels, or the only one."""
    values = {tuple(dict(has).get(one, "") for one in labels): v for (n, has), v in found.items() if n == name}
    return values if labels else values.get(())


def points(folder: Path) -> Samples:
    """The OTLP file as a receiver reads it, under the names that Prometheus gives to its metrics."""
    request = ParseDict(json.loads((folder / "metrics.otlp.json").read_text()), ExportMetricsServiceRequest())
    found: Samples = {}
    names = {metric.name: metric.prometheus for metric in METRICS}
    [scope] = request.resource_metrics[0].scope_metrics
    for metric in scope.metrics:
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            labels = frozenset((one.key, one.value.string_value) for one in point.attributes)
            assert found.setdefault((names[metric.name], labels), point.as_double) == point.as_double
            assert point.time_unix_nano >= point.start_time_unix_nano > 0 if kind == "sum" else point.time_unix_nano > 0
        if kind == "sum":
            assert (metric.sum.is_monotonic, metric.sum.aggregation_temporality) == (True, 2)
    return found


@pytest.mark.parametrize("options", [(), ("--run-id", "--label", "env=prod")], ids=["plain", "with run ids"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_clean(
    shape: str, options: tuple[str, ...], exported: Callable[..., Path], dpone: Dpone
) -> None:
    """The text is well formed for Prometheus, the JSON for OTLP, both hold the same series, and the rest its schema."""
    folder = exported(SHAPES[shape](), *options)
    text = (folder / "metrics.prom").read_bytes()
    assert lint(text.decode()) == []
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    assert samples(folder) == points(folder)
    require_valid("metrics-summary.json", json.loads((folder / "summary.json").read_text()))
    require_valid("metrics-index.json", json.loads((folder / INDEX).read_text()))
    assert dpone("observability", "metrics-verify", folder).exit_code == 0


@pytest.mark.parametrize(
    "text",
    [
        "# HELP a_total x\n# TYPE a_total counter\na_total -1\n", "# HELP a x\n# TYPE a counter\na 1\n",
        "# TYPE a gauge\na 1\n", "# HELP a x\n# TYPE a gauge\na 1\na 2\n",
        '# HELP a x\n# TYPE a gauge\na{b="x\ny"} 1\n',
        "# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\n", "# HELP a_total x\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a_info x\n# TYPE a_info gauge\na_info 2\n", "a 1 2 3\n",
    ],
)  # fmt: skip
def test_the_lint_finds_faults(text: str) -> None:
    """What stands in for promtool is not blind."""
    assert lint(text) != []


def test_the_values_of_a_failed_run(exported: Callable[..., Path]) -> None:
    """Every value of a report stands under its name, with the labels that the report knows."""
    bad = stream("b", status="failed", error=error("authorization"), durations={"window": 0.5, "later": 1.5})
    folder = exported([run(loaded("a"), bad, warnings=["observer x failed"])])
    found = samples(folder)
    assert "* warning: observer x failed" in (folder / "report.md").read_text()
    assert json.loads((folder / "summary.json").read_text())["totals"]["warnings"] == 3
    of_run, of_a = [("pipeline", "shop")], [("pipeline", "shop"), ("stream", "a"), ("source", "postgres")]
    of_a += [("sink", "mssql"), ("strategy", "merge")]
    steps = {"recover": 0.25, "window": 0.5, "schema": 0.125, "stage": 2.0, "commit": 1.0, "state": 0.0625}
    start = 1772604367.25  # 2026-03-04T06:06:07.25Z, by date(1)
    expected: dict[str, dict[tuple[tuple[str, str], ...], float]] = {
        "dpone_run_info": {(("version", "1.0.0"), ("python", "3.11.7"), ("pyarrow", "24.0.0")): 1},
        "dpone_run_status": {(("status", "failed"),): 1}, "dpone_runs_total": {(("status", "failed"),): 1},
        "dpone_run_exit_code": {(): 1}, "dpone_run_start_timestamp_seconds": {(): start},
        "dpone_run_end_timestamp_seconds": {(): start + 10.5}, "dpone_run_last_duration_seconds": {(): 10.5},
        "dpone_run_streams": {(("status", "loaded"),): 1, (("status", "failed"),): 1},
        "dpone_run_errors_total": {(("category", one),): int(one == "authorization")
                                   for one in ("transient", "authorization", "data_quality", "unknown")},
        "dpone_run_warnings_total": {(): 1},
    }  # fmt: skip
    assert {k: v for k, v in found.items() if k[0].startswith("dpone_run")} == {
        (name, frozenset([*of_run, *more])): value
        for name, values in expected.items()
        for more, value in values.items()
    }
    rows = {"read": 12, "written": 9, "filtered": 2, "quarantined": 1, "inserted": 4, "updated": 3, "deleted": 2,
            "unchanged": 1}  # fmt: skip
    single = {f"dpone_stream_rows_{name}_total": number for name, number in rows.items()} | {
        "dpone_stream_success": 1, "dpone_stream_retries_total": 2, "dpone_stream_staged_bytes_total": 4096,
        "dpone_stream_partitions": 3, "dpone_stream_partitions_resumed": 1, "dpone_stream_partitions_skipped": 0,
        "dpone_stream_schema_changes_total": 1, "dpone_stream_warnings_total": 2, "dpone_stream_caught_up": 1,
        "dpone_stream_contract_rows_total": 12, "dpone_stream_contract_violations_total": 3,
    }  # fmt: skip
    wanted = {(name, frozenset(of_a)): value for name, value in single.items()}
    wanted |= {("dpone_stream_step_duration_seconds", frozenset([*of_a, ("step", s)])): v for s, v in steps.items()}
    wanted[("dpone_stream_status", frozenset([*of_a, ("status", "loaded")]))] = 1
    assert {k: v for k, v in found.items() if ("stream", "a") in k[1]} == wanted
    of_b = {k: v for k, v in found.items() if ("stream", "b") in k[1]}
    assert of("dpone_stream_errors_total", of_b, "category") == {("authorization",): 1}
    assert of("dpone_stream_step_duration_seconds", of_b, "step") == {("window",): 0.5, ("other",): 1.5}
    assert (of("dpone_stream_success", of_b), of("dpone_stream_caught_up", of_b)) == (0, None)


def test_a_run_that_has_not_ended_has_no_end(exported: Callable[..., Path]) -> None:
    """Neither end, nor duration, nor exit code is made up for a run that was killed."""
    found = {name for name, _ in samples(exported(SHAPES["running"]()))}
    assert "dpone_run_start_timestamp_seconds" in found
    ends = {"dpone_run_end_timestamp_seconds", "dpone_run_last_duration_seconds", "dpone_run_exit_code"}
    assert not found & ends
    both = {name for name, _ in samples(exported([run(loaded()), run(loaded(), seconds=None, number=2)]))}
    assert not both & ends, "those of the run before are not those of the last one"


def test_counters_sum_up_and_gauges_are_of_the_last_run(exported: Callable[..., Path]) -> None:
    """In whatever order the files are given; the last success stays known after a failure."""
    failed = stream("a", status="failed", error=error())
    third = run(failed, number=3)
    runs = [third, run(loaded("a"), number=1), run(loaded("a"), loaded("b"), number=2)]
    found = samples(exported(runs))
    assert of("dpone_stream_rows_read_total", found, "stream") == {("a",): 24, ("b",): 12}
    assert of("dpone_stream_success", found, "stream") == {("a",): 0, ("b",): 1}
    assert of("dpone_stream_status", found, "stream", "status") == {("a", "failed"): 1, ("b", "loaded"): 1}
    assert of("dpone_runs_total", found, "status") == {("succeeded",): 2, ("failed",): 1}
    assert of("dpone_run_status", found, "status") == {("failed",): 1}
    assert of("dpone_run_start_timestamp_seconds", found) == third.started_at.timestamp()
    [second] = [one for one in runs if one.run_id == "RUN2"]
    assert second.finished_at is not None
    assert of("dpone_run_last_success_timestamp_seconds", found) == second.finished_at.timestamp()


def test_otlp_counts_since_the_first_run_until_the_end_of_the_last(exported: Callable[..., Path]) -> None:
    """Start and time of a sum span the runs that it sums up; those of an other stream are its own."""
    folder = exported([run(loaded("a"), number=1), run(loaded("a"), loaded("b"), number=2)])
    request = ParseDict(json.loads((folder / "metrics.otlp.json").read_text()), ExportMetricsServiceRequest())
    metrics = {one.name: one for one in request.resource_metrics[0].scope_metrics[0].metrics}
    spans = {
        next(a.value.string_value for a in p.attributes if a.key == "stream"): (
            p.start_time_unix_nano,
            p.time_unix_nano,
        )
        for p in metrics["dpone.stream.rows.read"].sum.data_points
    }
    first, second = 1772604367250000000, 1772607967250000000
    assert spans == {"a": (first, second + 10_500_000_000), "b": (second, second + 10_500_000_000)}
    assert [metrics[f"dpone.{one}"].unit for one in ("run.last_duration", "stream.staged", "runs")] == [
        "s",
        "By",
        "{run}",
    ]
    about = {one.key: one.value.string_value for one in request.resource_metrics[0].resource.attributes}
    assert about == {"service.name": "dpone", "service.version": "1.0.0"}


def test_labels_come_from_the_report_the_command_line_and_the_ci_system(
    exported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--label before the pipeline before the environment. The run of the CI system, which is another one each time, is
    only on the info, and the run id nowhere, unless asked for."""
    report = [run(loaded("a"), labels={"env": "dev", "team": "dwh"})]
    monkeypatch.setenv("GITHUB_RUN_ID", "4711")
    monkeypatch.setenv("CI_ENVIRONMENT_NAME", "staging")

    def labels(*options: str, reports: Any = report) -> tuple[set[str], set[str], set[str], set[str]]:
        found = [dict(has) | {"": name} for name, has in samples(exported(reports, *options))]
        info = {one.get("ci_run_id", "") for one in found if one[""] == "dpone_run_info"}
        rest = {one.get("ci_run_id", "") for one in found if one[""] != "dpone_run_info"}
        return {one.get("env", "") for one in found}, info, rest, {one.get("run_id", "") for one in found}

    assert labels() == ({"dev"}, {"4711"}, {""}, {""})
    assert labels("--label", "env=prod") == ({"prod"}, {"4711"}, {""}, {""})
    assert labels(reports=[run(loaded())]) == ({"staging"}, {"4711"}, {""}, {""})
    assert labels("--label", "ci_run_id=9", "--run-id") == ({"dev"}, {"9"}, {"9"}, {"RUN1"})
    found = samples(exported(report, "--label", "region=eu"))
    assert {(dict(has)["team"], dict(has)["region"]) for _, has in found} == {("dwh", "eu")}


def test_hostile_names_stay_one_value_of_one_label(exported: Callable[..., Path]) -> None:
    """Whatever a name holds, it is read back as that name; a long one is cut and stays different from the others."""
    folder = exported(SHAPES["hostile"]())
    found = samples(folder)
    assert not [name for name, _ in found if not name.startswith("dpone_")]
    assert {dict(has)["pipeline"] for _, has in found} == {HOSTILE.replace("\ud800", "?")}
    names = set(of("dpone_stream_success", found, "stream"))
    assert len(names) == 3
    assert max(len(name) for (name,) in names) <= MAX_VALUE
    labels = {name for _, has in found for name, _ in has}
    assert {"a_b_c", "label_stream", "label___x", "label_", "label_9"} <= labels
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in report
    assert r"\| \<script\>\`\*\[a\](b)" in report
    assert len([line for line in report.splitlines() if line.startswith("| ")]) == 4


def test_a_report_that_names_many_files_is_exported(tmp_path: Path, dpone: Dpone) -> None:
    """A position lists every file that was read, so a report may be larger than any file of configuration."""
    file = tmp_path / "large.json"
    file.write_text(_stream(position_after={"value": "f" * (MAX_JSON_BYTES + 1)}))
    args = ("observability", "metrics-export", "--run-report", file, "--output-dir", tmp_path / "out")
    assert dpone(*args).exit_code == 0
    assert of("dpone_stream_success", samples(tmp_path / "out"), "stream") == {("a",): 1}


def test_a_report_of_an_earlier_version_is_exported(tmp_path: Path, dpone: Dpone) -> None:
    """Without the ends of its streams it has no such labels; retries are counted from the attempts."""
    file = tmp_path / "old.json"
    file.write_text(json.dumps(earlier(run(loaded("a")))))
    args = ("observability", "metrics-export", "--run-report", file, "--output-dir", tmp_path / "out")
    assert dpone(*args).exit_code == 0
    found = samples(tmp_path / "out")
    assert of("dpone_stream_retries_total", found, "stream", "source", "strategy") == {("a", "", ""): 2}


def _but(**changed: Any) -> str:
    return json.dumps({**run(loaded("a")).to_json(), **changed})


def _stream(**changed: Any) -> str:
    data = run(loaded("a")).to_json()
    data["streams"][0] |= changed
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "it is empty: the run did not begin; leave it out"),
        ("{", "not JSON"),
        ("[]", "not a report of dpone run"),
        ('{"error": {"kind": "ConfigError"}}', "not a report of dpone run"),
        (_but(format=2), "it has format 2, and this dpone reads 1"),
        (_but(format="1"), "it has format '1'"),
        (_but(run_id=7), "run_id must be a text"),
        (_but(status="excellent"), "status must be one of"),
        (_but(started_at="yesterday"), "started_at must be a time with its zone"),
        (_but(started_at="2026-03-04T05:06:07"), "started_at must be a time with its zone"),
        (_but(streams=[{"stream": "a"}]), "streams[0].key is missing"),
        (_but(streams=[7]), "streams[0] must be an object"),
        (_but(streams=run(loaded("a")).to_json()["streams"] * 2), "two streams are named a"),
        (_but(dry_run=True), "dry run"),
        (_stream(status="planned"), "dry run"),
        (_stream(rows={"read": -1}), "streams[0].rows.read must be a whole number of 0 or more"),
        (_stream(rows={"read": 10**30}), "streams[0].rows.read must be"),
        (_stream(rows={"read": True}), "streams[0].rows.read must be"),
        (_stream(durations={"stage": -0.5}), "streams[0].durations.stage must be a number of 0 or more"),
        (_stream(durations={"stage": 1}).replace('"stage": 1', '"stage": NaN'), "NaN"),
        (_stream(durations={"stage": 1}).replace('"stage": 1', '"stage": 1e999'), "streams[0].durations.stage must be"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_report_is_refused_and_nothing_is_written(
    text: str, found: str, tmp_path: Path, dpone: Dpone
) -> None:
    """One line that names the file and the fault, exit code 2, no folder, though a good report is given as well."""
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text(text)
    good.write_text(_but(run_id="another"))
    files = ("--run-report", good, "--run-report", bad)
    done = dpone("observability", "metrics-export", *files, "--output-dir", tmp_path / "out")
    assert done.exit_code == 2
    assert found in done.error
    assert str(bad) in done.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--label", "env"), "'env' has no value; write name=value"),
        (("--label", "env= "), "env has no value; give one"),
        (("--label", "a-b=1"), "'a-b' is not a name of a label; use letters"),
        (("--label", "é=1"), "is not a name of a label"),
        (("--label", "__name__=x"), "'__name__' is not a name of a label"),
        (("--label", "a\nb=1"), "is not a name of a label"),
        (("--label", "stream=x"), "stream comes from the report; use another name"),
        (("--label", "run_id=x"), "run_id comes from the report; use --run-id"),
        (("--label", "a=1", "--label", "a=2"), "a is given twice; give it once"),
        (tuple(one for i in range(30) for one in ("--label", f"l{i}={i}")), "labels for pipeline shop, and at most 20"),
    ],
)
def test_a_label_that_cannot_be_one_is_refused(
    options: tuple[str, ...], found: str, tmp_path: Path, dpone: Dpone
) -> None:
    """One line, exit code 2, nothing written."""
    [file] = written(tmp_path, [run(loaded())])
    done = dpone("observability", "metrics-export", "--run-report", file, "--output-dir", tmp_path / "out", *options)
    assert (done.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert found in done.error


MANY = tuple(one for i in range(30) for one in ("--label", f"l{i}={i}"))


@pytest.mark.parametrize(
    ("bad", "advice", "good"),
    [
        (("--label", "run_id=x"), "use --run-id", ("--run-id",)),
        (("--label", "1a=x"), "begin with a letter, as in --label env=prod", ("--label", "env=prod")),
        (("--label", "env="), "give one, as in --label env=prod", ("--label", "env=prod")),
        (MANY, "leave out some labels of the pipeline or of --label", MANY[:38]),
        (("--run-report", "foreign.json"), "give a file of 'dpone run --report', written by this version", ()),
        (("--output-dir", "run.json/out"), "give a writable folder as --output-dir", ()),
        (("--output-dir", "taken"), "taken/summary.json: is a directory; give a writable folder as --output-dir", ()),
    ],
)
def test_OUT_16_the_advice_of_the_export_ends_in_an_export(
    bad: tuple[str, ...],
    advice: str,
    good: tuple[str, ...],
    tmp_path: Path,
    dpone: Dpone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a message says to give instead is taken, and the folder then passes metrics-verify."""
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(json.dumps(run(loaded()).to_json()))
    Path("foreign.json").write_text("{}")
    Path("taken/summary.json").mkdir(parents=True)
    command = ("observability", "metrics-export", "--run-report", "run.json", "--output-dir", "out")
    done = dpone(*command, *bad)
    assert (done.exit_code, advice in done.error) == (2, True), done.error
    assert "give the --output-dir of an export" in dpone("observability", "metrics-verify", "run.json").error
    assert dpone(*command, *good).exit_code == 0
    assert dpone("observability", "metrics-verify", "out").exit_code == 0


def test_the_number_of_series_has_a_limit(tmp_path: Path, dpone: Dpone, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that a server could not take is refused with the number it would have."""
    monkeypatch.setattr("dpone.observe.metrics.MAX_SERIES", 40)
    [file] = written(tmp_path, [run(loaded("a"), loaded("b"))])
    done = dpone("observability", "metrics-export", "--run-report", file, "--output-dir", tmp_path / "out")
    assert (done.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "series, and at most 40 are allowed; export fewer reports at once" in done.error


def test_a_run_given_twice_is_refused(tmp_path: Path, dpone: Dpone) -> None:
    """Its rows would be counted twice."""
    one, two = written(tmp_path, [run(loaded())] * 2)
    args = ("--run-report", one, "--run-report", two, "--output-dir", tmp_path / "out")
    done = dpone("observability", "metrics-export", *args)
    assert (done.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert f"run RUN1 is in {one} and in {two}; give the report of each run once" in done.error


def test_the_same_reports_give_the_same_bytes(exported: Callable[..., Path]) -> None:
    """Nothing in an export depends on when or where it was made, or on the order of the files."""
    first, second = exported(SHAPES["several"]()), exported(SHAPES["several"]()[::-1], to="again")
    assert [(first / name).read_bytes() for name in FILES] == [(second / name).read_bytes() for name in FILES]


def test_the_folder_can_be_read_by_others(exported: Callable[..., Path]) -> None:
    """A collector runs as another user: the files have the mode that the umask allows."""
    mask = os.umask(0o022)
    try:
        folder = exported([run(loaded())])
    finally:
        os.umask(mask)
    assert {(folder / name).stat().st_mode & 0o777 for name in (*FILES, INDEX)} == {0o644}


@pytest.mark.parametrize("format_", ["text", "json"])
def test_S_02_no_secret_in_any_file(format_: str, tmp_path: Path, dpone: Dpone, exported: Callable[..., Path]) -> None:
    """A password in every text of the report, plain, URL-encoded and in base64, is in none of the five files."""
    canary = "c@nary/pass word+é"
    url = f"postgres://me:{quote(canary, safe='')}@h/db"
    Secret(url)
    shown = [canary, quote(canary), quote(canary, safe=""), b64encode(canary.encode()).decode()]
    stay = {"status", "started_at", "finished_at", "category"}

    def filled(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: filled(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        return f"{value} {' '.join(shown)} {url}" if isinstance(value, str) and key not in stay else value

    bad = stream("b", status="failed", error=error())
    data = filled(run(loaded("a"), bad).to_json())
    data["labels"] = {canary: canary, "env": canary}
    file = tmp_path / "canary.json"
    file.write_text(json.dumps(data))
    options = ("--label", f"x={canary}", "--run-id", "--format", format_)
    done = dpone("observability", "metrics-export", "--run-report", file, "--output-dir", tmp_path / "out", *options)
    assert done.exit_code == 0
    for text in (done.out, done.err, *((tmp_path / "out" / n).read_text(encoding="utf-8") for n in (*FILES, INDEX))):
        assert [form for form in (*shown, "nary", "word+") if form in text] == []


# -- metrics-verify ---------------------------------------------------------------------------------------------------


def _same_size(folder: Path) -> None:
    path = folder / "summary.json"
    path.write_text(path.read_text().replace("succeeded", "succeedee"))


def _link(folder: Path) -> None:
    (folder / "report.md").rename(folder.parent / "elsewhere.md")
    (folder / "report.md").symlink_to(folder.parent / "elsewhere.md")


def _index(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps({**index, **changed}))

    return change


OUTSIDE = [{"name": name, "size": 1, "sha256": "0" * 64} for name in ("../../etc/passwd", *FILES[1:])]


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (lambda folder: (folder / "metrics.prom").unlink(), {"metrics.prom": "missing"}),
        (lambda folder: (folder / "metrics.otlp.json").write_text("{}"), {"metrics.otlp.json": "changed: 2 bytes"}),
        (_same_size, {"summary.json": "changed: another SHA-256"}),
        (_link, {"report.md": "changed: it is not a regular file"}),
        (lambda folder: (folder / "extra.txt").touch(), {"extra.txt": "added"}),
        (lambda folder: (folder / "sub").mkdir(), {"sub": "added"}),
        (lambda folder: (folder / INDEX).unlink(), {INDEX: "missing"}),
        (lambda folder: (folder / INDEX).write_text("{"), {INDEX: "changed: not JSON"}),
        (_index(kind="other"), {INDEX: "changed: it is not the index of an export"}),
        (_index(files=OUTSIDE), {INDEX: "changed: it is not the index of an export"}),
        (_index(files=[]), {INDEX: "changed: it is not the index of an export"}),
        (_index(others=[7]), {INDEX: "changed: it is not the index of an export"}),
    ],
)
def test_verify_names_the_file(
    change: Callable[[Path], Any], bad: dict[str, str], exported: Callable[..., Path], dpone: Dpone
) -> None:
    """A file that is missing, changed or added: exit code 1 and the file; the others are still fine."""
    folder = exported([run(loaded())])
    assert dpone("observability", "metrics-verify", folder).exit_code == 0
    change(folder)
    done = dpone("observability", "metrics-verify", folder, "--format", "json")
    assert (done.exit_code, done.json["ok"]) == (1, False)
    assert done.err == ""
    require_valid("metrics-verify.json", done.json)
    found = {one["name"]: one["found"] for one in done.json["findings"] if not one["ok"]}
    assert set(found) == set(bad)
    assert all(found[name].startswith(start) for name, start in bad.items())


def test_verify_refuses_what_it_cannot_know(exported: Callable[..., Path], dpone: Dpone, tmp_path: Path) -> None:
    """The index of a later version, and a folder that does not exist: exit code 2."""
    folder = exported([run(loaded())])
    done = dpone("observability", "metrics-verify", tmp_path / "nowhere")
    assert (done.exit_code, "is not a folder" in done.error) == (2, True)
    _index(format=2)(folder)
    done = dpone("observability", "metrics-verify", folder)
    assert (done.exit_code, "has format 2, and this dpone reads 1" in done.error) == (2, True)


def test_files_that_were_there_before_are_left_alone(
    tmp_path: Path, exported: Callable[..., Path], dpone: Dpone
) -> None:
    """The report may be in the folder of its own export: it stays, the index names it, and verify passes."""
    folder = exported([run(loaded())], to=".")
    assert folder == tmp_path / "."
    assert json.loads((tmp_path / INDEX).read_text())["others"] == ["report-0.json"]
    assert dpone("observability", "metrics-verify", tmp_path).exit_code == 0
    exported([run(loaded("b"))], to=".")
    assert dpone("observability", "metrics-verify", tmp_path).exit_code == 0


@pytest.mark.parametrize("last", [*FILES, INDEX])
def test_an_export_that_was_killed_is_no_export(
    last: str, exported: Callable[..., Path], dpone: Dpone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index goes first and comes last: killed before any file, verify finds no index, and the next export is
    whole."""
    folder = exported([run(loaded())])
    real = durable.write_whole

    def killed(path: Path, data: bytes, mode: int) -> None:
        if path.name == last:
            raise KeyboardInterrupt
        real(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr("dpone.observe.export.write_whole", killed)
        [file] = written(folder.parent, [run(loaded("b"))])
        args = ("observability", "metrics-export", "--run-report", file, "--output-dir", folder)
        assert dpone(*args).exit_code == 130
    assert f"FAIL  {INDEX}  missing" in dpone("observability", "metrics-verify", folder).out
    exported([run(loaded("b"))])
    assert dpone("observability", "metrics-verify", folder).exit_code == 0
