"""``dpone ops rollback-plan`` and ``rollback``: the plan changes nothing and its statements are those of the undo; what
was executed is verified; and a call that was killed can be repeated."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.cdc.log import delete, insert, transaction, update, write
from tests.docs.generate import DOCS
from tests.engine.project import KILLED, ApplyProject, Project, Row, declaring, memory_folder, with_plugins, zygote
from tests.engine.test_undo import KINDS, MODES, ON, named, twice

from dpone.config.reader import load_pipeline
from dpone.connectors.file.sink import FileSink
from dpone.connectors.sqlite.sink import SqliteSink
from dpone.engine.undo import undo
from dpone.errors import ConfigError, StateAhead, UndoRefused
from dpone.ops.rollback import Rollback, rollback, rollback_plan
from dpone.ops.state import past

SCHEMA = Draft202012Validator(json.loads((DOCS / "reference" / "rollback.schema.json").read_text()))
EVERY = [*KINDS, ("sqlite", "cdc_apply")]


def target_of(project: Project) -> str:
    return "out" if project.target == "file" else project.table


def last(project: Project) -> str:
    head = project.head()
    assert head is not None
    return head.load_id


def loaded(folder: Path, target: str, mode: str) -> tuple[Project, list[Row], list[Row]]:
    """Two loads; the rows with their load ids after each."""
    if mode != "cdc_apply":
        return twice(folder, target, mode)
    source = {"type": "file", "path": "log.jsonl", "table": "orders", "options": {"incremental": {"by": "cdc"}}}
    project = ApplyProject(folder, {"mode": mode}, source=source, table="landing_orders", sink_options=ON).save()
    write(project.log, transaction("01", *(insert("orders", {"id": n}, note=f"n{n}") for n in range(9))))
    project.load()
    first = project.lineage()
    write(project.log, transaction("02", update("orders", {"id": 3}, note="new"), delete("orders", {"id": 4}),
                                   insert("orders", {"id": 20}, note="x")))  # fmt: skip
    project.load()
    return project, first, project.lineage()


def plan(project: Project, load_id: str) -> Rollback:
    return valid(rollback_plan(project.target, target_of(project), load_id, project.pipeline))


def execute(project: Project, load_id: str) -> Rollback:
    return valid(rollback(project.target, target_of(project), load_id, project.pipeline))


def valid(done: Rollback) -> Rollback:
    SCHEMA.validate(json.loads(json.dumps(done.to_json())))
    return done


def disk(project: Project) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(project.folder.rglob("*")) if path.is_file()}


# ---- plan and execution


@pytest.mark.parametrize("kind", EVERY, ids=named)
def test_a_plan_touches_nothing_and_the_rollback_does_what_it_says(tmp_path: Path, kind: tuple[str, str]) -> None:
    """For every strategy: no byte changes by the plan; executed, rows and lineage are as before the load, the numbers
    are those of the plan, and each check that is reported was found."""
    project, first, second = loaded(tmp_path / "p", *kind)
    load_id, before = last(project), disk(project)
    planned = plan(project, load_id)
    assert disk(project) == before
    assert (planned.status, planned.found and planned.found.later) == ("plan", ())
    assert planned.to_text().startswith(f"plan, not executed: roll back load {load_id} of {target_of(project)}\n")
    done = execute(project, load_id)
    assert project.lineage() == first
    assert project.state() == project.head()
    assert planned.rehearsal is not None
    assert done.receipt is not None
    out = sum(row[-1] == load_id for row in second)
    assert done.receipt.deleted >= out  # versions of scd2 that it closed are taken out too
    assert (done.receipt.deleted, done.receipt.inserted) == (planned.rehearsal.deleted, planned.rehearsal.inserted)
    assert [(one.name, one.ok) for one in done.verified] == [
        ("rows of the load", True), ("rows before the load", True), ("journal", True), ("state", True)
    ]  # fmt: skip
    assert planned.position == done.receipt.entry.position


SQLITE = [kind for kind in EVERY if kind[0] == "sqlite"]


@pytest.mark.parametrize("kind", SQLITE, ids=named)
def test_the_statements_of_a_plan_are_those_of_the_undo(tmp_path: Path, kind: tuple[str, str]) -> None:
    """Run by hand, one by one, they leave what the undo leaves: rows, lineage, journal and tables; of the second load,
    and then of the first, whose undo leaves an empty table."""
    project, first, _ = loaded(tmp_path / "p", *kind)
    by_hand = project.but(folder=tmp_path / "copy")
    shutil.copytree(project.folder, by_hand.folder, dirs_exist_ok=True)
    for entry, rows in zip(reversed(project.journal()), (first, []), strict=True):
        planned = plan(project, entry.load_id)
        assert planned.rehearsal is not None
        with closing(sqlite3.connect(by_hand.database, isolation_level=None)) as db:
            for statement in planned.rehearsal.statements:
                db.execute(statement)
        execute(project, entry.load_id)
        assert by_hand.lineage() == project.lineage() == rows
        for own in ("seq, epoch, undoes, kept, rows FROM __dpone__loads", "target, load_id FROM __dpone__targets",
                    "* FROM __dpone__staging"):  # fmt: skip
            sql = f"SELECT {own} ORDER BY 1"
            assert by_hand.query(sql) == project.query(sql)
        assert by_hand.tables() == project.tables()


@pytest.mark.parametrize("target", ["sqlite", "file"])
def test_a_load_with_others_on_top_is_refused_and_they_are_named(tmp_path: Path, target: str) -> None:
    """The plan names every later load that changed the target, and why it cannot go; nothing is changed."""
    project, _, _ = twice(tmp_path / "p", target, "append")
    first = project.manifest()["undo"][0]["entry"]["load_id"] if target == "file" else project.journal()[0].load_id
    second = last(project)
    before = disk(project)
    planned = plan(project, first)
    assert disk(project) == before
    stands = project.lineage(), project.state_bytes(), project.journal()
    assert planned.found is not None
    assert (planned.status, planned.ok) == ("refused", False)
    assert [entry.load_id for _, entry in planned.found.later] == [second]
    assert f"load {second} has changed" in planned.reason
    assert second in planned.to_text()
    with pytest.raises(UndoRefused, match=f"load {second} has changed"):
        execute(project, first)
    assert (project.lineage(), project.state_bytes(), project.journal()) == stands
    execute(project, second)
    planned = plan(project, first)
    assert (planned.status, planned.found and planned.found.later) == ("plan", ())


def test_a_plan_of_files_looks_at_those_that_are_kept(tmp_path: Path) -> None:
    """A kept part that was altered refuses the plan, as it refuses the undo."""
    project, _, _ = twice(tmp_path / "p", "file", "full_refresh")
    [part] = (project.out / ".dpone" / "undo").iterdir()
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert "is missing or was changed" in plan(project, last(project)).reason


def test_what_cannot_be_undone_says_why(tmp_path: Path) -> None:
    """A load without undo: the plan says that nothing was kept; rows that another program took out: so does the plan
    already, by counting."""
    project = Project(tmp_path / "p", MODES["merge"]).save()
    project.csv("a", [(1, 1, "a"), (2, 1, "b")], ("id", "day", "name"))
    project.load()
    assert "nothing was kept" in plan(project, last(project)).reason
    kept, _, _ = twice(tmp_path / "q", "sqlite", "merge")
    with closing(sqlite3.connect(kept.database)) as db, db:
        db.execute("DELETE FROM t WHERE id = 100")
    refused = plan(kept, last(kept))
    assert "another program has changed them" in refused.reason
    assert refused.to_json()["refused"]["todo"].startswith("correct the rows by hand")


def test_a_rollback_that_was_done_is_verified_and_changes_nothing(tmp_path: Path) -> None:
    """Repeated, it reports the earlier one, with exit code 0; the plan says that it was undone."""
    project, first, _ = twice(tmp_path / "p", "sqlite", "merge")
    load_id = last(project)
    execute(project, load_id)
    before = disk(project)
    again = execute(project, load_id)
    assert (again.status, again.ok, again.receipt) == ("already_rolled_back", True, None)
    assert (disk(project), project.lineage()) == (before, first)
    assert "it was already undone" in plan(project, load_id).reason


@pytest.mark.parametrize(("sink", "kind"), [(SqliteSink, ("sqlite", "merge")), (FileSink, ("file", "append"))])
def test_no_success_is_printed_that_was_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: type, kind: tuple[str, str]
) -> None:
    """Rows of the load that are still there after the commit: the check fails, and so does the command."""
    project, _, _ = twice(tmp_path / "p", *kind)
    monkeypatch.setattr(sink, "remaining", lambda *_: 7)
    done = execute(project, last(project))
    assert (done.ok, done.verified[0].ok, done.verified[0].found) == (False, False, "7 rows of it in the target")
    assert "  FAIL  rows of the load: 7 rows" in done.to_text()
    assert done.to_text().splitlines()[0].endswith(" was rolled back, but a check failed")


def test_rows_that_a_trigger_changes_are_not_taken_for_those_kept(tmp_path: Path) -> None:
    """What is put back is compared with what was kept, before the commit: a difference refuses the undo."""
    project, _, second = twice(tmp_path / "p", "sqlite", "merge")
    with closing(sqlite3.connect(project.database)) as db, db:
        name = db.execute("SELECT name FROM pragma_table_info('t') WHERE name NOT IN ('id') LIMIT 1").fetchone()[0]
        db.execute(
            f"CREATE TRIGGER tamper AFTER INSERT ON t BEGIN UPDATE t SET \"{name}\" = '9' WHERE id = NEW.id; END"
        )
    with pytest.raises(UndoRefused, match=": 71 rows put back into t differ from those kept; disable the triggers"):
        execute(project, last(project))
    assert project.lineage() == second
    with closing(sqlite3.connect(project.database)) as db, db:
        db.execute("DROP TRIGGER tamper")
    assert execute(project, last(project)).ok


# ---- finding the load


def test_the_load_is_found_by_connection_or_type_and_target(tmp_path: Path) -> None:
    """``--sink`` is the name of a connection or a type; what fits nothing is refused with what there is. ``undo`` of
    Python takes the same names."""
    project, first, _ = twice(tmp_path / "p", "sqlite", "merge")
    data = yaml.safe_load(project.pipeline.read_text())
    data["connections"] = {"warehouse": data["sink"]["connection"]}
    data["sink"]["connection"] = "warehouse"
    named = tmp_path / "p" / "named.yaml"
    named.write_text(yaml.safe_dump(data))
    load_id, target = last(project), "t"
    for sink in ("warehouse", "sqlite"):
        assert rollback_plan(sink, target, load_id, named).status == "plan"
    for sink, table, id_, todo in (
        ("sqlite", "u", load_id, "--target of one of: warehouse t"),
        ("warehouse", "u", load_id, "use a load ID of 'dpone state history'"),
        ("postgres", "t", load_id, "--target of one of: warehouse t"),
        ("warehouse", "t", "01JLOAD", "use a load ID of 'dpone state history'"),
    ):
        with pytest.raises(ConfigError, match=todo):
            rollback_plan(sink, table, id_, named)
    _, newest = past(load_pipeline(project.pipeline), "t", 1)[0]
    undo(named, sink="warehouse", target="t", load_id=newest.value["load_id"])
    assert project.lineage() == first


def test_a_load_is_planned_by_a_connection_alone(tmp_path: Path) -> None:
    """Of a file of connections, or in the file of another pipeline: the plan is that of the load's own pipeline but for
    the state, which is not read; only the own pipeline takes the load back."""
    project, first, second = twice(tmp_path / "p", "sqlite", "merge")
    load_id, data = last(project), yaml.safe_load(project.pipeline.read_text())
    own = plan(project, load_id).to_json()
    url = data["sink"]["connection"]
    (tmp_path / "p" / "connections.yaml").write_text(yaml.safe_dump({"warehouse": url, "nowhere": "oracle://x/y"}))
    other = {**data, "pipeline": "q", "connections": {"warehouse": url}}
    (tmp_path / "p" / "other.yaml").write_text(yaml.safe_dump(other))
    for file in ("connections.yaml", "other.yaml"):
        path = tmp_path / "p" / file
        shown = valid(rollback_plan("warehouse", "t", load_id, path)).to_json()
        assert (shown["status"], shown["state_read"], shown["stream"]) == ("plan", False, "t")
        assert shown["statements"][:5] == own["statements"][:5]
        assert [one[:40] for one in shown["statements"]] == [one[:40] for one in own["statements"]]
        assert (shown["rows"], shown["position"]) == (own["rows"], own["position"])
    with pytest.raises(ConfigError, match=r"under the key p\|.*; use the pipeline file that loaded it"):
        rollback("sqlite", "t", load_id, tmp_path / "p" / "other.yaml")
    unknown = "the file has no connection elsewhere; use one of nowhere, warehouse, or"
    for sink, found in (("elsewhere", unknown), ("nowhere", "the type of a SQL sink")):
        with pytest.raises(ConfigError, match=found):
            rollback_plan(sink, "t", load_id, tmp_path / "p" / "connections.yaml")
    assert project.lineage() == second
    undo(project.pipeline, sink="sqlite", target="t", load_id=load_id)
    assert project.lineage() == first


@pytest.mark.parametrize("gone", ["table", "database"])
def test_OUT_16_a_target_that_is_gone_is_loaded_whole(tmp_path: Path, gone: str) -> None:
    """Its rows cannot come back. The history of the state still has a load whose journal is gone too, and a plain run
    would stop: only a full refresh is green."""
    project, _, _ = twice(tmp_path / "p", "sqlite", "merge")
    load_id, database = last(project), project.folder / "warehouse.db"
    if gone == "table":
        with closing(sqlite3.connect(database)) as db:
            db.execute("DROP TABLE t")
        assert plan(project, load_id).todo.startswith("load the table with 'dpone run --full-refresh'")
    else:
        database.unlink()
        with pytest.raises(ConfigError, match="use a load ID of 'dpone state history'; if that lists it, the"):
            plan(project, load_id)
        listed = past(load_pipeline(project.pipeline), None, 9)
        assert load_id in [saved.value["load_id"] for _, saved in listed]
    assert project.run().exit_code == 3
    assert project.run(full_refresh=True).exit_code == 0
    assert len(project.lineage()) == 111  # the rows that the source has now


def test_OUT_16_without_its_pipeline_a_load_is_only_explained(tmp_path: Path) -> None:
    """A template of the dialect, marked as such, which runs no statement; an execution and a plan of files ask for the
    pipeline file, and a sink that cannot take back a load says what to do instead. With the file each goes through."""
    project, first, second = twice(tmp_path / "p", "file", "full_refresh")
    load_id = last(project)
    for attempt, sink in ((rollback, "file"), (rollback_plan, "file"), (rollback, "postgres")):
        with pytest.raises(ConfigError, match="add --config with the pipeline file"):
            attempt(sink, "out", load_id)
    assert project.lineage() == second
    steps = plan(project, load_id).to_json()["statements"]
    assert [step.split()[0] for step in steps] == ["move", "replace", "delete"]
    execute(project, load_id)
    assert project.lineage() == first
    for sink, schema in (("sqlite", ""), ("postgres", "landing.")):
        shown = valid(rollback_plan(sink, f"{schema}orders", load_id)).to_json()
        assert (shown["status"], shown["executed"], shown["journal_read"]) == ("template", False, False)
        quoted = '"landing"."orders"' if schema else '"orders"'
        assert f"DELETE FROM {quoted} AS t WHERE t.\"__dpone__load_id\" = '{load_id}'" in shown["statements"]
    bare = declaring(with_plugins(), "sink", "sqlite", without="undo")
    with pytest.raises(ConfigError, match="load the rows again after 'dpone state set'"):
        rollback_plan("sqlite", "t", load_id, plugins=bare)
    assert project.dpone("state", "set", "pipeline.yaml", "--stream", "out", "--beginning", "--yes").code == 0
    assert project.load().rows.read


def test_the_lines_of_the_readiness_page(tmp_path: Path) -> None:
    """``--sink mssql`` says in one line that this version has no such sink, exit code 2; as JSON too."""
    project = Project(tmp_path / "p").save()
    line = ["ops", "rollback-plan", "--sink", "mssql", "--target", "landing.orders"]
    line += ["--load-id", "01JLOAD0000000000000000000"]
    done = project.dpone(*line)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: plan a rollback in mssql: this version has no sink for mssql; use one of ")
    assert done.err.count("\n") == 1
    assert project.dpone(*line, "--format", "json").json["error"]["exit_code"] == 2


def test_the_commands(tmp_path: Path) -> None:
    """Without ``--execute`` rollback is the plan; exit code 3 for a load that cannot be rolled back, 0 for a plan and
    for what was verified."""
    project, first, second = twice(tmp_path / "p", "sqlite", "merge")
    load_id, old = last(project), project.journal()[0].load_id
    given = ["--sink", "sqlite", "--target", "t", "--config", "pipeline.yaml", "--format", "json", "--load-id"]
    plans = [project.dpone("ops", command, *given, load_id) for command in ("rollback-plan", "rollback")]
    assert [(done.code, done.json["status"]) for done in plans] == [(0, "plan"), (0, "plan")]
    refused = project.dpone("ops", "rollback-plan", *given, old)
    assert (refused.code, refused.json["status"]) == (3, "refused")
    assert project.dpone("ops", "rollback", "--execute", *given, old).code == 3
    assert project.lineage() == second
    done = project.dpone("ops", "rollback", "--execute", *given, load_id)
    assert (done.code, done.json["status"], done.json["executed"]) == (0, "rolled_back", True)
    assert project.lineage() == first
    for one in (*plans, refused, done):
        SCHEMA.validate(one.json)


def test_ST_01_no_plan_while_the_state_is_ahead(tmp_path: Path) -> None:
    """The target was restored from a copy: a person decides first, and the plan says so."""
    project, _, _ = twice(tmp_path / "p", "sqlite", "append")
    copy = project.folder / "copy.db"
    shutil.copy(project.database, copy)
    load_id = last(project)
    project.csv("c", [(900, 1, "z")], ("id", "day", "name"))
    project.load()
    shutil.copy(copy, project.database)
    refused = plan(project, load_id)
    assert (refused.status, "but the journal ends at" in refused.reason) == ("refused", True)
    with pytest.raises(StateAhead):
        execute(project, load_id)


# ---- SIGKILL


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Mapping[str, Any]]]:
    with zygote() as forked:
        yield forked


def killed_anywhere(folder: Path, run: Callable[..., Any], kind: tuple[str, str], most: int) -> None:
    """SIGKILL before every step of a rollback, or ``most`` of them; then the same command again."""
    start, first, second = loaded(folder / "start", *kind)
    what, job = ("statement" if kind[0] == "sqlite" else "call"), [kind[0], target_of(start), last(start)]

    def fresh(name: str) -> Project:
        shutil.copytree(start.folder, folder / name)
        return start.but(folder=folder / name)

    count = int(run(fresh("free"), rollback=job, **{what: 10**9})["count"])
    assert count > 10
    ends = set()
    for n in sorted({*range(1, count + 1, max(1, count // most)), count}):
        project = fresh(str(n))
        assert run(project, rollback=job, **{what: n})["code"] == KILLED
        ends.add(project.lineage() == first)
        assert project.lineage() in (first, second)
        again = execute(project, job[-1])
        assert again.ok, again.to_text()
        assert project.lineage() == first
        shutil.rmtree(project.folder)
    assert ends == {False, True}


@pytest.mark.parametrize("kind", EVERY, ids=named)
def test_LS_05_a_rollback_that_was_killed_is_repeated(run: Callable[..., Any], kind: tuple[str, str]) -> None:
    """SIGKILL on the way, for every strategy: the same command again, and the target is as before the load."""
    with memory_folder() as folder:
        killed_anywhere(folder, run, kind, 3)


@pytest.mark.crash
@pytest.mark.parametrize("kind", EVERY, ids=named)
def test_LS_05_a_rollback_that_was_killed_anywhere_is_repeated(run: Callable[..., Any], kind: tuple[str, str]) -> None:
    """As above, before every single statement, or rename and fsync."""
    with memory_folder() as folder:
        killed_anywhere(folder, run, kind, 10**6)
