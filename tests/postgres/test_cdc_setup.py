"""What a change stream makes at its source and drops again, and that following its messages ends in a green run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tests.cli.conftest import Done, dpone  # noqa: F401  # a fixture
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_runs import begin, change, lay, require_equal

from dpone.errors import ConfigError

pytestmark = [pytest.mark.postgres, pytest.mark.releases]  # of what a publication may name and has

BROKEN = {
    "without_key": ("CREATE TABLE without_key (v int)",),
    "nothing": ("CREATE TABLE nothing (id int PRIMARY KEY)", "ALTER TABLE nothing REPLICA IDENTITY NOTHING"),
    "late": ("CREATE TABLE late (id int PRIMARY KEY DEFERRABLE)",),
    "none": ("CREATE TABLE none (v int)", "ALTER TABLE none REPLICA IDENTITY NOTHING"),
    "other_key": ("CREATE TABLE other_key (code text NOT NULL)", "CREATE UNIQUE INDEX by_code ON other_key (code)"),
    "root_1": (
        "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE root_1 PARTITION OF root FOR VALUES FROM (0) TO (9)",
        "ALTER TABLE root_1 REPLICA IDENTITY NOTHING",
    ),
    "child": ("CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child () INHERITS (parent)"),
}
TODO = {
    "without_key": "ADD PRIMARY KEY (its columns)",
    "nothing": "REPLICA IDENTITY DEFAULT",
    "late": 'DROP CONSTRAINT "late_pkey", ADD PRIMARY KEY (its columns)',
    "none": "ADD PRIMARY KEY (its columns), REPLICA IDENTITY DEFAULT",
    "other_key": 'REPLICA IDENTITY USING INDEX "by_code"',
    "root_1": "REPLICA IDENTITY DEFAULT",
    "child": "ADD PRIMARY KEY (its columns)",
}

EXCLUDED = {"root_1": ["root"], "child": ["child", "parent"]}  # else the table itself


def follow(source: ChangeSource, path: Path, **of_source: Any) -> None:
    """The pipeline with other words under source."""
    data = yaml.safe_load(path.read_text())
    data["source"] |= of_source
    path.write_text(yaml.safe_dump(data))


@pytest.fixture
def pipeline(source: ChangeSource, tmp_path: Path) -> Path:
    """Two good tables with rows, no slot and no publication."""
    begin(source)
    source.drop_slot()
    source.run(f"DROP PUBLICATION {source.schema}")
    return lay(tmp_path, source, "sqlite")


def publications(source: ChangeSource) -> int:
    [(n,)] = source.query(f"SELECT count(*) FROM pg_publication WHERE pubname = '{source.schema}'")
    return int(n)


def slots(source: ChangeSource) -> int:
    [(n,)] = source.query(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{source.slot}'")
    return int(n)


@pytest.mark.parametrize("way", ["key", "full"])
@pytest.mark.parametrize("table", BROKEN)
def test_PG_10_create_refuses_what_would_break_the_application(source: ChangeSource, table: str, way: str) -> None:
    """A table whose updates the server would refuse, a partition or a child of one included, is named with the way out
    before anything is made; both ways are followed until updates work in every table."""
    source.run("CREATE TABLE orders (id int PRIMARY KEY)", *BROKEN[table])
    name = f"{source.schema}.{table}"
    with source.reader() as reader, pytest.raises(ConfigError) as refused:
        reader.create()
    assert name in refused.value.found
    without = [f"{source.schema}.{one}" for one in EXCLUDED.get(table, [table])]
    assert f"source.exclude: [{', '.join(without)}]" in refused.value.todo
    assert f'ALTER TABLE "{source.schema}"."{table}" {TODO[table]}' in refused.value.todo
    assert (publications(source), slots(source)) == (0, 0)
    keyed, _, full = refused.value.todo.partition("run: ")[2].partition(", or for strategy append ")
    if full and way == "full":
        source.run(full)
    else:
        [column] = source.query(f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum = 1")
        source.run(keyed.replace("(its columns)", f"({column[0]})"))
    with source.reader() as reader:
        reader.create()
    for one in ("orders", table):
        column = source.query(f"SELECT attname FROM pg_attribute WHERE attrelid = '{one}'::regclass AND attnum = 1")[0][
            0
        ]
        source.run(f"UPDATE {one} SET {column} = {column}", f"DELETE FROM {one}")


def test_PG_10_a_table_that_is_excluded_is_left_alone(source: ChangeSource, pipeline: Path, dpone: Any) -> None:  # noqa: F811
    """create names it, exclude is the way that the message offers, and then everything is green: the application's
    updates, the run, and the check."""
    source.run(*BROKEN["without_key"], "INSERT INTO without_key VALUES (1)")
    refused: Done = dpone("cdc", "create", pipeline)
    assert (refused.exit_code, refused.err.count("\n")) == (3, 1)
    assert f"source.exclude: [{source.schema}.without_key]" in refused.err
    [name] = yaml.safe_load(refused.err.partition("source.exclude: ")[2].partition(", or run")[0])
    follow(source, pipeline, exclude=[name])
    assert dpone("cdc", "create", pipeline).exit_code == 0
    source.run("UPDATE without_key SET v = 2")
    assert dpone("run", pipeline).exit_code == 0
    change(source)
    assert dpone("run", pipeline).exit_code == 0
    require_equal(source, pipeline.parent, "sqlite", "excluded")
    assert dpone("check", "--connect", pipeline).exit_code == 0


def test_OUT_16_what_brings_a_partition_or_a_child_in_is_excluded(
    source: ChangeSource,
    pipeline: Path,
    dpone: Any,  # noqa: F811
) -> None:
    """A partition is published by its root, and a child by its parent: to exclude itself alone would change nothing."""
    source.run(
        "CREATE TABLE root (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child () INHERITS (parent)",
    )  # fmt: skip
    refused: Done = dpone("cdc", "create", pipeline)
    names = yaml.safe_load(refused.err.partition("source.exclude: ")[2].partition(", or run")[0])
    assert names == [f"{source.schema}.{name}" for name in ("child", "parent", "root")]
    follow(source, pipeline, exclude=names)
    assert dpone("cdc", "create", pipeline).exit_code == 0
    source.run("INSERT INTO leaf VALUES (1)", "UPDATE leaf SET id = 2", "UPDATE child SET id = 2")


def test_PG_10_check_fails_for_a_published_table_that_the_server_refuses_to_update(
    source: ChangeSource,
    pipeline: Path,
    dpone: Any,  # noqa: F811
) -> None:
    """Exit code 1 by name, also for one that the stream leaves out; the statement of the finding makes it green. A
    publication of inserts alone breaks nothing."""
    source.run(*BROKEN["other_key"], "INSERT INTO other_key VALUES ('a')")
    source.publish("orders", "bills", "other_key")
    with pytest.raises(psycopg.Error, match="replica identity"):
        source.run("UPDATE other_key SET code = 'b'")
    for exclude in ([], ["other_key"]):
        follow(source, pipeline, exclude=exclude)
        done: Done = dpone("check", "--connect", pipeline)
        assert done.exit_code == 1
        assert f"{source.schema}.other_key: the server rejects its updates and deletes" in done.out
    source.run(f"ALTER PUBLICATION {source.schema} SET (publish = 'insert')")
    with source.reader() as reader:
        assert all(f.ok is not False for f in reader.check() if f.name == "replica identity")
    source.run(f"ALTER PUBLICATION {source.schema} SET (publish = 'insert, update, delete, truncate')")
    with source.reader() as reader:
        [todo] = [f.todo for f in reader.check() if f.name == "replica identity" and f.ok is False]
    source.run(todo.partition(", or ")[0])
    source.run("UPDATE other_key SET code = 'b'")
    follow(source, pipeline, exclude=[])
    assert dpone("check", "--connect", pipeline).exit_code == 0


def test_drop_removes_what_create_made_and_nothing_else(source: ChangeSource, pipeline: Path, dpone: Any) -> None:  # noqa: F811
    """Slot and publication go; one that a DBA made stays, and one of another slot; the command says so."""
    for _ in range(2):
        assert dpone("cdc", "create", pipeline).exit_code == 0
        done: Done = dpone("cdc", "drop", pipeline, "--yes")
        assert (publications(source), slots(source)) == (0, 0)
        assert done.out.splitlines() == [
            f"p: slot {source.slot} dropped", f"p: publication {source.schema} dropped",
        ]  # fmt: skip
    again: Done = dpone("cdc", "drop", pipeline, "--yes")
    assert again.exit_code == 0
    assert again.out.count("did not exist") == 2
    source.publish("orders")
    for comment in (None, "made by dpone cdc create for slot other"):
        source.run(f"COMMENT ON PUBLICATION {source.schema} IS {'NULL' if comment is None else repr(comment)}")
        done = dpone("cdc", "drop", pipeline, "--yes", "--format", "json")
        assert (publications(source), slots(source)) == (1, 0)
        [stream] = done.json
        assert "kept" in stream["done"][-1]
    source.run(stream["done"][-1].partition("to drop it: ")[2])
    assert publications(source) == 0


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("asked", ["lag", "check", "run"])
def test_OUT_16_a_slot_that_is_gone_is_advised_to_a_green_run(
    source: ChangeSource,
    pipeline: Path,
    dpone: Any,  # noqa: F811
    asked: str,
    loaded: bool,
) -> None:
    """Whichever command says so first, and whether or not the stream was loaded: the commands that its message names,
    in their order, end in a green run and equal tables."""
    dpone("cdc", "create", pipeline)
    if loaded:
        assert dpone("run", pipeline).exit_code == 0
        change(source)
    source.drop_slot()
    commands = {"lag": ("cdc", "lag", pipeline), "check": ("check", "--connect", pipeline), "run": ("run", pipeline)}
    done: Done = dpone(*commands[asked])
    assert done.exit_code == (1 if asked == "check" else 3)
    told = done.out + done.err
    assert ("was dropped" if loaded and asked == "run" else "does not exist") in told
    for words in ("cdc drop", "cdc create", "run --full-refresh"):
        if f"'dpone {words}'" in told:
            command, *flags = words.replace("--full-refresh", "").split(), "--yes" if "drop" in words else ""
            flags = [*filter(None, flags), *(["--full-refresh"] if "--full-refresh" in words else [])]
            assert dpone(*command, pipeline, *flags).exit_code == 0, words
    assert dpone("run", pipeline).exit_code == 0
    require_equal(source, pipeline.parent, "sqlite", asked)
    assert dpone("cdc", "lag", pipeline).exit_code == 0


def test_OUT_16_a_slot_of_another_plugin_is_advised_to_a_green_run(
    source: ChangeSource,
    pipeline: Path,
    dpone: Any,  # noqa: F811
) -> None:
    """The three commands of the message, in their order."""
    dpone("cdc", "create", pipeline)
    assert dpone("run", pipeline).exit_code == 0
    source.drop_slot()
    source.make_slot("test_decoding")
    stopped: Done = dpone("run", pipeline)
    assert stopped.exit_code == 3
    assert "'dpone cdc drop', 'dpone cdc create' and 'dpone run --full-refresh'" in stopped.err
    assert dpone("cdc", "drop", pipeline, "--yes").exit_code == 0
    assert dpone("cdc", "create", pipeline).exit_code == 0
    assert dpone("run", pipeline, "--full-refresh").exit_code == 0
    require_equal(source, pipeline.parent, "sqlite", "anew")


def test_the_setup_plan_refuses_partitions_and_children_too(source: ChangeSource) -> None:
    """As create does, by a statement of its own that stands before all others."""
    source.run(*BROKEN["root_1"], *BROKEN["child"], *BROKEN["late"])
    for table in ("root", "parent", "late"):
        with source.reader(table) as reader, pytest.raises(psycopg.errors.RaiseException, match="no replica identity"):
            source.run(*reader.setup_plan())
    assert publications(source) == 0


def test_a_failover_slot_is_made_on_request(source: ChangeSource, pipeline: Path, dpone: Any) -> None:  # noqa: F811
    """By the flag or the option; a slot that is there becomes one by the statement that the message names, over a
    replication connection. A server without them is asked for nothing, and nothing is made."""
    follow(source, pipeline, options={**yaml.safe_load(pipeline.read_text())["source"]["options"], "failover": True})
    asked = f"SELECT to_jsonb(s) -> 'failover' FROM pg_replication_slots AS s WHERE slot_name = '{source.slot}'"
    [(version,)] = source.query("SELECT current_setting('server_version_num')::int")
    if version < 170000:
        done = dpone("cdc", "create", pipeline)
        assert (done.exit_code, "does not have failover slots" in done.err) == (1, True)
        assert source.query(f"SELECT 1 FROM pg_publication WHERE pubname = '{source.schema}'") == []
        lay(pipeline.parent, source, "sqlite")
        assert dpone("cdc", "create", pipeline).exit_code == 0
        return
    assert dpone("cdc", "create", pipeline).exit_code == 0
    assert source.query(asked) == [(True,)]
    plan = dpone("cdc-plan", "--pipeline", pipeline, "--table", f"{source.schema}.orders").out
    assert "'pgoutput', failover => true)" in plan
    source.drop_slot()
    lay(pipeline.parent, source, "sqlite")
    assert dpone("cdc", "create", pipeline).exit_code == 0
    assert source.query(asked) == [(False,)]
    done = dpone("cdc", "create", pipeline, "--failover")
    assert "the slot exists, but is not a failover slot" in done.err
    assert source.query(asked) == [(False,)]
    with source.server.connect(replication="database") as db:
        db.pgconn.exec_(done.err.partition("database'): ")[2].strip().encode())
    assert source.query(asked) == [(True,)]
    assert dpone("cdc", "create", pipeline, "--failover").exit_code == 0
    assert dpone("run", pipeline).exit_code == 0
    assert dpone("cdc", "status", pipeline, "--format", "json").json[0]["slot"]["failover"] is True
