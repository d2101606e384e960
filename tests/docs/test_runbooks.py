"""docs/guide/runbooks.md: each stop is caused, and each way out of it is followed until the run succeeds."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import field, frozen
from tests.advice.inventory import ROOT, SOURCES
from tests.docs.generate import DOCS
from tests.docs.transcript import typed
from tests.engine.project import CHILD
from tests.postgres.server import Server

import dpone
from dpone import errors
from dpone.hookspecs import hookimpl
from dpone.plugins import discover

PAGE = (DOCS / "guide" / "runbooks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
_FENCE = re.compile(r"^```(sh|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r" +# exit code (\d)$")
Rows = list[tuple[Any, ...]]
Do = Callable[[], Any]


def ways(kind: str) -> dict[str, str]:
    return dict(re.findall(r"^### ([^\n]*)\n(.*?)(?=^### |\Z)", SECTIONS[kind], re.MULTILINE | re.DOTALL))


# ---- what the page says is done


@frozen
class Reader:
    """Works in the current folder."""

    capsys: pytest.CaptureFixture[str]

    def follow(self, text: str, fill: Mapping[str, str]) -> list[int]:
        """Exit codes of the commands, each as the page says."""
        codes = []
        for language, block in _FENCE.findall(text):
            if language == "yaml":
                edit(yaml.safe_load(block))
                continue
            for line in block.splitlines():
                expected = _EXIT.search(line)
                command = _EXIT.sub("", line)
                for name, value in fill.items():
                    command = command.replace(name, value)
                code, output = typed(command, "", self.capsys)
                assert code == (int(expected[1]) if expected else 0), (command, output)
                codes.append(code)
        return codes

    def run(self, *options: str) -> dict[str, Any]:
        """The report of the stream."""
        _, output = typed(" ".join(["dpone run pipeline.yaml --quiet --format json", *options]), "", self.capsys)
        [stream] = json.JSONDecoder().raw_decode(output)[0]["streams"]
        return dict(stream)


def edit(part: Mapping[str, Any]) -> None:
    path = Path("pipeline.yaml")
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), part), sort_keys=False))


def merged(whole: Any, part: Any) -> Any:
    if not isinstance(whole, dict) or not isinstance(part, dict):
        return part
    return {**whole, **{name: merged(whole.get(name), value) for name, value in part.items()}}


# ---- how each stop is caused

TABLES = """\
pipeline: shop
source: {type: sqlite, connection: "sqlite:///shop.db", table: orders,
         options: {incremental: {by: cursor, column: id}}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: orders, strategy: {mode: merge, key: [id]}}
"""
FILES = """\
pipeline: shop
source: {type: file, path: "orders-*.csv", options: {columns: {id: bigint, item: text}, null_values: [""]}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: orders, strategy: {mode: append}}
"""
CHANGES = """\
pipeline: shop
source: {type: file, path: changes.jsonl, table: orders, options: {incremental: {by: cdc}}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: orders, strategy: {mode: cdc_apply}}
"""
ONE, TWO, THREE = (1, "lamp"), (2, "desk"), (3, "sofa")


def sql(file: str, *statements: str) -> Do:
    def do() -> None:
        with closing(sqlite3.connect(file)) as db, db:
            for statement in statements:
                db.execute(statement)

    return do


def rows() -> Rows:
    with closing(sqlite3.connect("warehouse.db")) as db:
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(orders)")]
        wanted = ", ".join(f'"{one}"' for one in names if not one.startswith("__dpone__") or "__nc__" in one)
        return sorted(db.execute(f"SELECT {wanted} FROM orders"), key=str)


def text(name: str, content: str) -> Do:
    return lambda: Path(name).write_text(content, encoding="utf-8")


def loaded() -> None:
    assert dpone.run("pipeline.yaml").exit_code == 0


def all_(*steps: Do) -> Do:
    def do() -> None:
        for step in steps:
            step()

    return do


SHOP = sql("shop.db", "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)",
           "INSERT INTO orders VALUES (1, 'lamp'), (2, 'desk')")  # fmt: skip
SOFA = sql("shop.db", "INSERT INTO orders VALUES (3, 'sofa')")
BASE = all_(text("pipeline.yaml", TABLES), SHOP, loaded)
BASE_FILES = all_(text("pipeline.yaml", FILES), text("orders-1.csv", "id,item\n1,lamp\n"), loaded)
OLD_ROW = sql("warehouse.db", "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)",
              "INSERT INTO orders VALUES (0, 'old')")  # fmt: skip
UNEXPLAINED = all_(text("pipeline.yaml", TABLES), SHOP, OLD_ROW)
BACKUP = all_(BASE, lambda: shutil.copy("warehouse.db", "backup.db"), SOFA, loaded,
              lambda: shutil.copy("backup.db", "warehouse.db"))  # fmt: skip


def log(*rows_: tuple[int, str]) -> str:
    lines = []
    for n, (key, item) in enumerate(rows_, 1):
        change = {"op": "insert", "table": "orders", "commit": str(n), "key": {"id": key},
                  "values": {"id": key, "item": item}}  # fmt: skip
        lines += [json.dumps(change), json.dumps({"op": "commit", "commit": str(n)})]
    return "".join(f"{line}\n" for line in lines)


BASE_CHANGES = all_(text("pipeline.yaml", CHANGES), text("changes.jsonl", log(ONE, TWO)), loaded)
TRUNCATED = all_(BASE_CHANGES, text("changes.jsonl", log(ONE)))
BACKUP_OF_CHANGES = all_(
    BASE_CHANGES, lambda: shutil.copy("warehouse.db", "backup.db"), text("changes.jsonl", log(ONE, TWO, THREE)), loaded,
    lambda: shutil.copy("backup.db", "warehouse.db"),
)  # fmt: skip
OTHER_CURSOR = all_(BASE, SOFA, lambda: edit({"source": {"options": {"incremental": {"column": "item"}}}}))
DELETED = all_(BASE, sql("shop.db", "DELETE FROM orders WHERE id = 2"))
REWRITTEN = all_(BASE_FILES, text("orders-1.csv", "id,item\n1,lamp\n2,desk\n"))
RETYPED = all_(
    text("pipeline.yaml", TABLES.replace("mode: merge, key: [id]", "mode: full_refresh")),
    lambda: edit({"source": {"options": {"incremental": None}}}),
    SHOP, loaded, sql("shop.db", "DROP TABLE orders", "CREATE TABLE orders (id INTEGER PRIMARY KEY, item INTEGER)",
                      "INSERT INTO orders VALUES (1, 10)"),
)  # fmt: skip
FEWER = all_(
    text("pipeline.yaml", TABLES.replace("mode: merge, key: [id]", "mode: snapshot_diff, key: [id]")),
    lambda: edit({"source": {"options": {"incremental": None}}, "sink": {"strategy": {"max_delete_share": 0.2}}}),
    SHOP, loaded, sql("shop.db", "DELETE FROM orders WHERE id = 2"),
)  # fmt: skip
KEPT = {"sink": {"options": {"undo": {"loads": 5}}}}
UNDOABLE = all_(text("pipeline.yaml", TABLES), lambda: edit(KEPT), SHOP, loaded, SOFA, loaded)
MISNAMED = all_(text("pipeline.yaml", TABLES.replace("column: id", "column: nr")), SHOP)


def paused() -> None:
    from dpone.config.reader import load_pipeline
    from dpone.ops import cdc

    BASE_CHANGES()
    text("changes.jsonl", log(ONE, TWO, THREE))()
    cdc.pause(load_pipeline("pipeline.yaml"), None, "the warehouse is restored")


def half_staged() -> None:
    """Killed before its second part; then an option of the source is another one."""
    text("pipeline.yaml", FILES)()
    for n, row in ((1, "1,lamp"), (2, "2,desk")):
        text(f"orders-{n}.csv", f"id,item\n{row}\n")()
    job = json.dumps({"pipeline": "pipeline.yaml", "step": "part_started", "nth": 2})
    subprocess.run([sys.executable, str(CHILD), job], check=False, capture_output=True)
    edit({"source": {"options": {"null_values": ["", "n/a"]}}})


@contextmanager
def overtaken() -> Iterator[None]:
    """While the block runs: the lease of a run is gone, and another run loads, as after a long sleep of the machine."""

    class Other:
        seen = False

        @hookimpl
        def dpone_run_event(self, event: Any) -> None:
            if event.step == "window_fixed" and not Other.seen:
                Other.seen = True
                sql(".dpone/state.db", "DELETE FROM __dpone__locks")()
                loaded()

    hooks, other = discover().manager, Other()
    hooks.register(other)
    try:
        yield
    finally:
        hooks.unregister(other)


def ids() -> dict[str, str]:
    """Of the two loads of a stream."""
    with closing(sqlite3.connect("warehouse.db")) as db:
        loads = [one for (one,) in db.execute("SELECT load_id FROM __dpone__loads ORDER BY seq")]
    return {"LOAD": loads[0], "LATER": loads[1]}


def old_key() -> dict[str, str]:
    with closing(sqlite3.connect("warehouse.db")) as db:
        [(key,)] = db.execute("SELECT DISTINCT key FROM __dpone__loads")
    return {"OLD KEY": key}


def copied_position(reader: Reader) -> None:
    """As the page says: ``journal.position`` of the output, into a file."""
    _, shown = typed("dpone state show pipeline.yaml --format json", "", reader.capsys)
    Path("position.json").write_text(json.dumps(json.loads(shown)[0]["journal"]["position"]))


@frozen
class Scene:
    """``cause`` leads to the stop, in an empty folder. ``by_hand``: what the page leaves to the reader. ``ends``: rows
    of the target. ``fill``: what the texts in capitals stand for."""

    cause: Do
    ends: Rows
    by_hand: Callable[[Reader], Any] = lambda reader: None
    fill: Callable[[], Mapping[str, str]] = field(default=dict)


SCENES: dict[tuple[str, str], Scene] = {
    ("Conflict", "Run again"): Scene(all_(BASE, SOFA), [ONE, TWO, THREE]),
    ("Gap", "Restore the log"): Scene(
        TRUNCATED, [ONE, TWO, THREE], lambda reader: text("changes.jsonl", log(ONE, TWO, THREE))()
    ),
    ("Gap", "Load the rows again"): Scene(TRUNCATED, [ONE]),
    ("IdentityChanged", "Go back to the source of the position"): Scene(OTHER_CURSOR, [ONE, TWO, THREE]),
    ("IdentityChanged", "Read the new source from its beginning"): Scene(OTHER_CURSOR, [ONE, TWO, THREE]),
    ("SetBack", "The source was restored"): Scene(DELETED, [ONE]),
    ("SetBack", "The newest rows are deleted all the time"): Scene(DELETED, [ONE, TWO]),
    ("ContentChanged", "Restore the file"): Scene(
        REWRITTEN, [ONE, TWO],
        lambda reader: (text("orders-1.csv", "id,item\n1,lamp\n")(), text("orders-2.csv", "id,item\n2,desk\n")()),
    ),
    ("ContentChanged", "Load all files again"): Scene(REWRITTEN, [ONE, TWO]),
    ("SchemaBreak", "Replace the columns"): Scene(RETYPED, [(1, 10)]),
    ("SchemaBreak", "Keep the old column, and write the new values into another one"): Scene(RETYPED, [(1, None, 10)]),
    ("StateAhead", "Load everything again"): Scene(BACKUP, [ONE, TWO, THREE]),
    ("StateAhead", "Continue from the restored target"): Scene(BACKUP, [ONE, TWO, THREE], copied_position),
    ("StateAhead", "A change stream: read the changes again"): Scene(BACKUP_OF_CHANGES, [ONE, TWO, THREE]),
    ("StateMissing", "Keep the rows"): Scene(UNEXPLAINED, [(0, "old"), ONE, TWO]),
    ("StateMissing", "Replace the rows"): Scene(UNEXPLAINED, [ONE, TWO]),
    ("StateMissing", "A name was changed"): Scene(
        all_(BASE, SOFA, lambda: edit({"pipeline": "store"})), [ONE, TWO, THREE], fill=old_key
    ),
    ("DeletesRefused", "The source was incomplete"): Scene(
        FEWER, [ONE, TWO], lambda reader: sql("shop.db", "INSERT INTO orders VALUES (2, 'desk')")()
    ),
    ("DeletesRefused", "The rows were deleted on purpose"): Scene(FEWER, [ONE]),
    ("UndoRefused", "A later load has changed the target"): Scene(UNDOABLE, [ONE, TWO, THREE], fill=ids),
    ("Paused", "The reason is gone"): Scene(paused, [ONE, TWO, THREE]),
    ("ManifestChanged", "Revert the change"): Scene(half_staged, [ONE, TWO]),
    ("ManifestChanged", "Keep the change"): Scene(half_staged, [ONE, TWO]),
    ("PipelineMismatch", "Correct the name"): Scene(MISNAMED, [ONE, TWO]),
}  # fmt: skip


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reader:
    monkeypatch.chdir(tmp_path)
    return Reader(capsys)


def require_stop(reader: Reader, kind: str) -> None:
    before = rows() if kind not in ("PipelineMismatch", "ManifestChanged") else []
    stream = reader.run()
    assert stream["error"]["kind"] == kind, stream
    if before:
        assert rows() == before


@pytest.mark.parametrize(("kind", "way"), SCENES, ids=[f"{kind}-{way}" for kind, way in SCENES])
def test_a_runbook_ends_in_a_run_that_succeeds(kind: str, way: str, reader: Reader) -> None:
    """The stop is of this kind; looking has the exit codes of the page and changes nothing; after the commands of the
    way, the run succeeds and the target has the right rows."""
    scene = SCENES[kind, way]
    scene.cause()
    fill = scene.fill()
    if kind == "Conflict":
        with overtaken():
            assert reader.run()["error"]["kind"] == kind
    elif kind != "UndoRefused":
        require_stop(reader, kind)
    look = SECTIONS[kind].partition("\n### ")[0]
    assert reader.follow(look, fill) or kind == "UndoRefused"
    if kind not in ("Conflict", "UndoRefused"):
        require_stop(reader, kind)
    scene.by_hand(reader)
    assert reader.follow(ways(kind)[way], fill)[-1] == 0
    assert rows() == scene.ends
    assert dpone.run("pipeline.yaml").exit_code == 0


# ---- over PostgreSQL

STREAM = """\
pipeline: shop
source: {type: postgres, connection: "%s", table: public.orders,
         options: {incremental: {by: cdc}, slot: dpone_docs, publication: dpone_docs}}
sink: {type: sqlite, connection: "sqlite:///warehouse.db", table: orders, strategy: {mode: cdc_apply}}
"""
SERVER: dict[tuple[str, str], tuple[str, ...]] = {
    ("Gap", "PostgreSQL: the slot is gone or lost"): ("SELECT pg_drop_replication_slot('dpone_docs')",),
    ("Gap", "PostgreSQL: changes may be missing"): (
        "ALTER PUBLICATION dpone_docs DROP TABLE orders", "UPDATE orders SET item = 'chair' WHERE id = 1",
        "ALTER PUBLICATION dpone_docs ADD TABLE orders",
    ),
    ("IdentityChanged", "PostgreSQL: another server, or a restored one"): (),
}  # fmt: skip


@pytest.mark.postgres
@pytest.mark.parametrize(("kind", "way"), SERVER, ids=[f"{kind}-{way}" for kind, way in SERVER])
def test_a_runbook_over_a_slot_ends_in_equal_rows(kind: str, way: str, reader: Reader, database: Server) -> None:
    """The same, over a stream of PostgreSQL. A slot of another name stands for another server: the
    position does not know it."""
    database.run("CREATE TABLE orders (id int PRIMARY KEY, item text)", "INSERT INTO orders VALUES (1, 'lamp')")
    Path("pipeline.yaml").write_text(STREAM % database.url)
    try:
        reader.follow("```sh\ndpone cdc create pipeline.yaml\ndpone run pipeline.yaml\n```\n", {})
        database.run("INSERT INTO orders VALUES (2, 'desk')", *SERVER[kind, way])
        if kind == "IdentityChanged":
            database.run("SELECT pg_drop_replication_slot('dpone_docs')")
            edit({"source": {"options": {"slot": "dpone_docs_other"}}})
            reader.follow("```sh\ndpone cdc create pipeline.yaml\n```\n", {})
        require_stop(reader, kind)
        assert reader.follow(ways(kind)[way], {"TABLE": "public.orders"})[-1] == 0
        assert rows() == database.query("SELECT id, item FROM orders ORDER BY id")
        database.run("INSERT INTO orders VALUES (3, 'sofa')")
        assert reader.run()["status"] == "loaded"
        assert rows() == database.query("SELECT id, item FROM orders ORDER BY id")
    finally:
        reader.follow("```sh\ndpone cdc drop pipeline.yaml --yes\n```\n", {})


# ---- the page is whole


def kinds() -> dict[str, str]:
    """Every class of an error with exit code 3, of core and connectors, with its base: read from the source, because a
    connector may not be installed."""
    found, bases = {"Stopped"}, {}
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    while more := {name for name, of in bases.items() if found & {*of}} - found:
        found |= more
    return {name: bases[name][0] for name in found - {"Stopped"}}


def test_every_stop_has_a_runbook() -> None:
    """Every kind of error with exit code 3 is in the table and has a section with ways; each way is followed above."""
    assert {*SECTIONS} == {*kinds()} == {one.__name__ for one in errors.Stopped.__subclasses__()
                                         if one.__module__ == "dpone.errors"}  # fmt: skip
    table = re.findall(r"^\| `(\w+)` \| .* \| \[[^]]*\]\(#(\w+)\) \|$", PAGE, re.MULTILINE)
    assert table == [(name, name.lower()) for name in SECTIONS]
    assert {(kind, way) for kind in SECTIONS for way in ways(kind)} == {*SCENES, *SERVER}
