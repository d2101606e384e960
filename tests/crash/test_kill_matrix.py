"""SIGKILL at every step of a run, and inside its commit; the next run must leave what an undisturbed one leaves.

The expected rows come from plain Python over the rows of the CSV files; target, journal and state are read with
sqlite3, json and pyarrow alone. The short part runs always, the whole matrix with ``-m crash``.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from tests.cdc.log import delete, events, orders, transaction, update, write
from tests.engine.project import (
    KILLED,
    TABLES,
    ApplyProject,
    ChangeProject,
    Project,
    Row,
    applied,
    mark,
    memory_folder,
    rows,
    zygote,
)  # fmt: skip

from dpone.model.events import STEPS
from dpone.model.strategy import MODES

STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "full_refresh": {"mode": "full_refresh"},
    "append": {"mode": "append"},
    "merge": {"mode": "merge", "key": ["id"]},
    "replace": {"mode": "replace", "where": {"day": 2}},
    "partition_replace": {"mode": "partition_replace", "partition": "day"},
    "snapshot_diff": {"mode": "snapshot_diff", "key": ["id"], "max_delete_share": 1.0},
    "scd2": {"mode": "scd2", "key": ["id"]},
    "cdc_apply": {"mode": "cdc_apply"},  # a change stream of two tables
    "changes": {"mode": "append"},  # the same, whose changes are appended
}
# Two parts of two and more batches each. These are in the second batch, and in the second part.
WITHIN = (("batch", 2), ("part_started", 2), ("batch", 4), ("part_staged", 2))
POINTS = [*((step, 1) for step in STEPS), *WITHIN]
KINDS = [("sqlite", mode) for mode in STRATEGIES] + [("file", mode) for mode in ("full_refresh", "append")]
# With an earlier load and without. Changes that are appended take the way of those that are applied: not twice.
EVERY = [(*kind, earlier) for kind in KINDS for earlier in (True, False) if earlier or "changes" not in kind]
# Where the parts are staged already, the next run must not read them again: (parts resumed, for these points).
RESUMED = {("part_staged", 1): 1, ("part_started", 2): 1, ("batch", 4): 1, ("part_staged", 2): 2, ("staged", 1): 2}


@frozen
class Scenario:
    """A project about to load two parts. ``before`` and ``after``: rows of the target; ``loads``: how many after."""

    project: Project
    before: list[Row]
    after: list[Row]
    loads: int

    def copy(self, folder: Path) -> Project:
        shutil.copytree(self.project.folder, folder)
        return self.project.but(folder=folder)


def scenario(folder: Path, target: str, mode: str, earlier: bool) -> Scenario:
    if mode == "changes":
        return _changing(ChangeProject(folder, STRATEGIES[mode]).save(), earlier, _changes)
    if mode == "cdc_apply":
        return _changing(ApplyProject(folder, STRATEGIES[mode]).save(), earlier, _applied)
    project = Project(folder, STRATEGIES[mode], target, "sqlite" if target == "sqlite" else "file").save()
    day = 2 if mode in ("replace", "partition_replace") else 1
    a, b = rows(1, 250, day), rows(251, 400, day)
    if not earlier:
        project.csv("a", a)
        project.csv("b", b)
        return Scenario(project, [], a + b, 1)
    if mode in ("replace", "partition_replace"):
        return _replacing(project)
    project.csv("a", a)
    project.csv("b", b)
    project.load()
    if mode in ("full_refresh", "snapshot_diff"):
        a2, b2 = rows(1, 220, tag="new"), rows(300, 450, tag="new")
        project.csv("a", a2)
        project.csv("b", b2)
        return Scenario(project, a + b, a2 + b2, 2)
    c = rows(401, 600)
    project.csv("c", c)
    if mode == "append":
        d = rows(601, 750)
        project.csv("d", d)
        return Scenario(project, a + b, a + b + c + d, 2)
    changed = rows(1, 100) + rows(101, 230, tag="new") + rows(1000, 1020)
    project.csv("a", changed)
    if mode == "scd2":  # a version of each row that changed, and of each that is new
        versions = [*a, *b, *c, *changed[100:]]
        return Scenario(project, a + b, sorted(versions, key=lambda r: r[0]), 2)
    merged = {row[0]: row for row in [*a, *b, *changed, *c]}
    return Scenario(project, a + b, sorted(merged.values(), key=lambda r: r[0]), 2)


def _changing(project: ChangeProject, earlier: bool, rows: Callable[[ChangeProject], list[Row]]) -> Scenario:
    before: list[Row] = []
    write(project.log, orders(1, 120, "01"), orders(121, 250, "02"))
    if earlier:
        project.load()
        before = rows(project)
        gone = [delete("customers", {"cid": i}) for i in range(3, 100, 3)]
        write(project.log, transaction("03", *gone, *(update("orders", {"id": i}, note="new") for i in range(1, 60))))
        moved = (update("orders", {"id": i}, id=i + 1000, name=f"moved {i}") for i in range(100, 110))
        write(project.log, orders(251, 400, "04"), transaction("05", *moved))
    write(project.log, orders(401, 402, "06").rpartition('{"op": "commit"')[0])  # not there yet
    return Scenario(project, before, rows(project), 2 if earlier else 1)


def _changes(project: ChangeProject) -> list[Row]:
    """Those of whole transactions, sorted by event."""
    found = events(project.log.read_text().splitlines(), "file_changelog:log.jsonl", TABLES)
    return sorted((event, op, table) for table, changes in found.items() for event, op in changes)


def _applied(project: ChangeProject) -> list[Row]:
    """The rows that whole transactions make, as ``ApplyProject`` answers them."""
    columns = {"orders": ("id", "name", "note"), "customers": ("cid", "city")}
    return sorted(
        (json.dumps([table, key]), json.dumps({name: row.get(name) for name in columns[table]}))
        for table, found in applied(project.log.read_text().splitlines()).items()
        for key, row in found.items()
    )


def _replacing(project: Project) -> Scenario:
    """Every load reads all files there are, of one day, and leaves the rows of the other day alone."""
    a, b = rows(1, 250, day=1), rows(251, 400, day=2)
    file = project.csv("a", a)
    if "where" in project.strategy:
        project.but(strategy={"mode": "replace", "where": {"day": 1}}).load()
    else:
        project.load()
    file.unlink()
    file = project.csv("b", b)
    project.save().load()
    file.unlink()
    c, d = rows(251, 380, day=2, tag="new"), rows(381, 520, day=2, tag="new")
    project.csv("c", c)
    project.csv("d", d)
    kept = [row for row in [*a, *b] if row[1] != 2]
    return Scenario(project, a + b, kept + c + d, 3)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Mapping[str, Any]]]:
    with zygote() as forked:
        yield forked


@pytest.fixture(scope="module")
def scenarios() -> Iterator[Callable[..., Scenario]]:
    made: dict[tuple[str, str, bool], Scenario] = {}

    def get(target: str, mode: str, earlier: bool) -> Scenario:
        key = (target, mode, earlier)
        if key not in made:
            made[key] = scenario(folder / _named(key), *key)
        return made[key]

    with memory_folder() as folder:
        yield get


def require_consistent(project: Project) -> None:
    """The state is never ahead of the journal, and agrees with the entry it names."""
    state, journal = project.state(), project.journal()
    head = journal[-1] if journal else None
    assert mark(state) <= mark(head)
    if state is not None and project.target == "sqlite":
        assert state in journal
    assert [e.seq for e in journal] == sorted({e.seq for e in journal})


def require_done(project: Project, wanted: Scenario, run: Callable[..., Mapping[str, Any]]) -> Mapping[str, Any]:
    """Run again without harm; everything must be as if nothing had happened. Answers the stream's report."""
    again = run(project)
    [stream] = again["report"]["streams"]
    assert again["code"] == 0, stream["error"]
    require_loaded(project, wanted)
    head = project.head()
    third = run(project)
    assert third["report"]["streams"][0]["status"] == "caught_up"
    assert project.head() == head
    require_loaded(project, wanted)
    if project.target == "file" and project.staging():  # killed after the commit: the next load sweeps the folder
        assert stream["status"] == "caught_up"
        project.csv("z", rows(9000, 9001))
        assert run(project)["code"] == 0
    assert project.staging() == []
    return dict(stream)


def require_loaded(project: Project, wanted: Scenario) -> None:
    assert project.rows() == wanted.after
    journal, head = project.journal(), project.head()
    assert head is not None
    assert head.seq == wanted.loads
    if project.target == "sqlite":
        assert [e.seq for e in journal] == list(range(1, wanted.loads + 1))
        assert len({e.load_id for e in journal}) == wanted.loads
        assert {row[-1] for row in project.lineage()} <= {e.load_id for e in journal}
    else:
        assert len({row[-1] for row in project.lineage()}) <= wanted.loads
    assert head.load_id in {row[-1] for row in project.lineage()}
    assert project.state() == head


def kill_at_step(
    scenarios: Callable[..., Scenario], run: Callable[..., Mapping[str, Any]], folder: Path, kind: Any, point: Any
) -> None:
    (target, mode, earlier), (step, nth) = kind, point
    wanted = scenarios(target, mode, earlier)
    project = wanted.copy(folder / "p")
    require_consistent(project)
    killed = run(project, step=step, nth=nth)
    assert killed["code"] == KILLED, f"{step} {nth} never came"
    committed = STEPS.index(step) >= STEPS.index("committed")
    assert project.rows() == (wanted.after if committed else wanted.before)
    assert mark(project.head())[1] == wanted.loads - (not committed)
    require_consistent(project)
    stream = require_done(project, wanted, run)
    assert stream["status"] == ("caught_up" if committed else "loaded")
    if not committed:
        assert stream["partitions_resumed"] == RESUMED.get((step, nth), 2 if step == "commit_started" else 0)


def kill_inside(
    scenarios: Callable[..., Scenario], run: Callable[..., Mapping[str, Any]], folder: Path, kind: Any, **steps: str
) -> int:
    """Before every call or statement between two steps; of more than fifty every so manieth is taken. Answers how
    many there were."""
    wanted = scenarios(*kind)
    what = "statement" if kind[0] == "sqlite" else "call"
    free = run(wanted.copy(folder / "free"), **{what: 10**9}, **steps)
    for n in range(1, free["count"] + 1, max(1, math.ceil(free["count"] / 50))):
        project = wanted.copy(folder / str(n))
        assert run(project, **{what: n}, **steps)["code"] == KILLED
        assert project.rows() in (wanted.before, wanted.after)
        require_consistent(project)
        require_done(project, wanted, run)
        shutil.rmtree(project.folder)
    return int(free["count"])


_GATE = ("load_opened", "part_staged", "commit_started", "committed", "state_saved", "acknowledged")
SMOKE = [
    *itertools.product([("sqlite", "merge", True)], [("batch", 4), ("part_staged", 1), ("committed", 1)]),
    *itertools.product([("sqlite", "append", True)], [("commit_started", 1), ("committed", 1), ("state_saved", 1)]),
    *itertools.product([("sqlite", "full_refresh", True)], [("staged", 1), ("committed", 1)]),
    *itertools.product([("sqlite", "replace", True)], [("schema_applied", 1), ("committed", 1)]),
    *itertools.product([("sqlite", "partition_replace", True)], [("commit_started", 1), ("committed", 1)]),
    *itertools.product([("sqlite", "snapshot_diff", True)], [("part_staged", 1), ("committed", 1)]),
    *itertools.product([("sqlite", "scd2", True)], [("part_staged", 2), ("committed", 1)]),
    *itertools.product([("sqlite", "changes", True)], [(step, 1) for step in STEPS if step in _GATE]),
    *itertools.product([("sqlite", "cdc_apply", True)], [("part_staged", 1), ("commit_started", 1), ("committed", 1)]),
    *itertools.product([("file", "append", True)], [("part_staged", 1), ("committed", 1)]),
    *itertools.product([("file", "full_refresh", False)], [("load_opened", 1), ("state_saved", 1)]),
]


def _named(value: Any) -> str:
    return "-".join(str({True: "earlier", False: "first"}.get(v, v) if isinstance(v, bool) else v) for v in value)


@pytest.mark.parametrize(("kind", "point"), SMOKE, ids=_named)
def test_LS_05_a_killed_run_is_finished_by_the_next(
    scenarios: Callable[..., Scenario], run: Callable[..., Any], tmp_path: Path, kind: Any, point: Any
) -> None:
    """SIGKILL at a step: the next run leaves every row once, one journal entry per load, and no staging."""
    kill_at_step(scenarios, run, tmp_path, kind, point)


def test_the_matrix_has_every_strategy() -> None:
    """A strategy that is added is killed too."""
    assert {strategy["mode"] for strategy in STRATEGIES.values()} == {*MODES}


@pytest.mark.crash
@pytest.mark.parametrize("point", POINTS, ids=_named)
@pytest.mark.parametrize("kind", EVERY, ids=_named)
def test_LS_03_LS_05_kill_matrix(
    scenarios: Callable[..., Scenario], run: Callable[..., Any], tmp_path: Path, kind: Any, point: Any
) -> None:
    """Every sink, strategy and step, with and without an earlier load: the next run mends what SIGKILL left."""
    kill_at_step(scenarios, run, tmp_path, kind, point)


@pytest.mark.crash
@pytest.mark.parametrize("kind", EVERY, ids=_named)
def test_kill_inside_the_commit(
    scenarios: Callable[..., Scenario], run: Callable[..., Any], tmp_path: Path, kind: Any
) -> None:
    """SIGKILL before every statement, or every rename and fsync, of a commit: the target is as before or as after."""
    assert kill_inside(scenarios, run, tmp_path, kind) > 5


@pytest.mark.crash
@pytest.mark.parametrize(
    "kind", [("sqlite", "append", True), ("sqlite", "cdc_apply", True), ("file", "append", True)], ids=_named
)
@pytest.mark.parametrize("steps", [("window_fixed", "load_opened"), ("load_opened", "staged")], ids=_named)
def test_kill_before_the_commit(
    scenarios: Callable[..., Scenario], run: Callable[..., Any], tmp_path: Path, kind: Any, steps: Any
) -> None:
    """SIGKILL before every statement, or rename and fsync, while the load is opened and while its parts are staged."""
    assert kill_inside(scenarios, run, tmp_path, kind, since=steps[0], until=steps[1]) > 2


AT_ONCE = (("part_started", 2), ("batch", 1), ("batch", 3), ("part_staged", 1), ("part_staged", 2), ("part_staged", 4),
           ("staged", 1), ("commit_started", 1), ("committed", 1))  # fmt: skip


def at_once(wanted: Scenario, folder: Path) -> Project:
    """The same load in four parts, pieces of its two files, two at a time."""
    runtime = {"batch_rows": 20, "retries": 0, "partitions": 4, "workers": 2}
    source = {"type": "file", "path": "data/*.csv", "options": {"newlines_in_values": False}}
    return wanted.copy(folder / "p").but(runtime=runtime, source=source)


def kill_at_once(
    scenarios: Callable[..., Scenario], run: Callable[..., Mapping[str, Any]], folder: Path, kind: Any, point: Any
) -> None:
    step, nth = point
    wanted = scenarios(*kind)
    project = at_once(wanted, folder)
    assert run(project, step=step, nth=nth)["code"] == KILLED
    committed = STEPS.index(step) >= STEPS.index("committed")
    assert project.rows() == (wanted.after if committed else wanted.before)
    require_consistent(project)
    stream = require_done(project, wanted, run)
    if step in ("part_staged", "staged", "commit_started"):
        assert stream["partitions_resumed"] >= (nth if step == "part_staged" else 4)


@pytest.mark.parametrize("point", [("part_staged", 2), ("batch", 3)], ids=_named)
def test_MF_02_a_run_killed_while_parts_are_staged_at_once(
    scenarios: Callable[..., Scenario], run: Callable[..., Any], tmp_path: Path, point: Any
) -> None:
    """Two workers are at it when the process dies: every row is there once, and staged parts are not read again."""
    kill_at_once(scenarios, run, tmp_path, ("file", "full_refresh", False), point)


@pytest.mark.crash
@pytest.mark.parametrize("point", AT_ONCE, ids=_named)
@pytest.mark.parametrize(
    "kind", [(*kind, False) for kind in KINDS if kind[1] in ("full_refresh", "append", "merge")], ids=_named
)
def test_MF_02_kill_matrix_over_partitions(
    scenarios: Callable[..., Scenario], run: Callable[..., Any], tmp_path: Path, kind: Any, point: Any
) -> None:
    """Pieces of files, two at a time, killed at every step: the next run mends what SIGKILL left."""
    kill_at_once(scenarios, run, tmp_path, kind, point)


@pytest.mark.crash
@pytest.mark.parametrize("ops", [20, 100, 500, 2000, 5000])
@pytest.mark.parametrize("mode", STRATEGIES)
def test_kill_inside_a_statement_of_the_commit(
    scenarios: Callable[..., Scenario], run: Callable[..., Any], tmp_path: Path, mode: str, ops: int
) -> None:
    """SIGKILL while SQLite is at work inside a statement of the commit: the target is as before."""
    wanted = scenarios("sqlite", mode, True)
    project = wanted.copy(tmp_path / "p")
    ended = run(project, ops=ops)
    if ended["code"] == KILLED:  # a commit may be shorter than that
        assert project.rows() == wanted.before
        require_consistent(project)
        require_done(project, wanted, run)
    else:
        require_loaded(project, wanted)
