"""``dpone ops contract-check``: every way to give rows and contract, its exit codes, and its JSON."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml
from jsonschema import Draft202012Validator

from dpone.engine.run import run as run_pipeline

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "reference" / "contract-check.schema.json").read_text(encoding="utf-8"))
Dpone = Callable[..., Any]

# Rows 4 and 7 have no name, 2 and 6 a negative amount, 6 and 8 an id that came before; 3, 5 and 8 another status.
ROWS: dict[str, list[Any]] = {
    "id": [1, 2, 3, 4, 5, 1, 7, 5],
    "name": ["ann", "bob", "cid", None, "eve", "fay", None, "hal"],
    "amount": [1.5, -1, 2, 3, 4, -0.5, 5, 6],
    "status": ["new", "paid", "SENT-canary", "new", "lost", "paid", "new", "lost"],
}
CONTRACT: dict[str, Any] = {
    "required_columns": ["id", "name"],
    "logical_types": {"id": "integer"},
    "not_null": ["name"],
    "unique": ["id"],
    "ranges": {"amount": {"min": 0}},
    "allowed_values": {"status": ["new", "paid"]},
    "row_count": {"max": 7},
    "max_null_ratio": {"name": 0.25},
}
FOUND = {
    "not_null.name": (2, "2 rows", [4, 7]),
    "ranges.amount": (2, "2 rows", [2, 6]),
    "allowed_values.status": (3, "3 rows", [3, 5, 8]),
    "unique.id": (2, "2 rows", [6, 8]),
    "row_count": (1, "8 rows, at most 7 allowed", []),
}
HOLDS = ["required_columns.id", "required_columns.name", "logical_types.id", "max_null_ratio.name"]
LINES = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The rows in every form, and the working directory."""
    table = pa.table(ROWS)
    pa_csv.write_csv(table, tmp_path / "rows.csv")
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(LINES))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE orders (id bigint, name text, amount double, status text)")
        db.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", zip(*ROWS.values(), strict=True))
        db.commit()
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(CONTRACT))
    (tmp_path / "connections.yaml").write_text("shop: sqlite:///shop.db\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_URL", "sqlite:///shop.db")
    return tmp_path


@pytest.fixture
def check(folder: Path, dpone: Dpone) -> Callable[..., Any]:
    """The exit code and the JSON, which has the documented shape whatever happened."""

    def run(*args: object, code: int | None = None) -> Any:
        done = dpone("ops", "contract-check", *args, "--format", "json")
        data = done.json
        Draft202012Validator(SCHEMA).validate(data)
        assert done.exit_code == (data["error"]["exit_code"] if "error" in data else 0 if data["ok"] else 1)
        assert code in (None, done.exit_code), data
        return data

    return run


def found(data: Any) -> dict[str, tuple[int, str, list[int]]]:
    """The rules that are violated."""
    return {
        rule["rule"]: (rule["violations"], rule["found"], [example["row"] for example in rule["examples"]])
        for rule in data["rules"]
        if not rule["ok"]
    }


def test_the_json_schema_is_one() -> None:
    """It is itself valid, and refuses what is not in it."""
    Draft202012Validator.check_schema(SCHEMA)
    assert not Draft202012Validator(SCHEMA).is_valid({"ok": True})


def test_the_line_of_the_page(dpone: Dpone) -> None:
    """As it stands in the production readiness guide, and with a contract that it does not keep."""
    rows, contract = '[{"id":1}]', '{"required_columns":["id"]}'
    done = dpone("ops", "contract-check", "--rows-json", rows, "--contract-json", contract)
    assert (done.exit_code, done.err) == (0, "")
    assert done.out == "--rows-json: 1 row checked, 1 rule, all hold\n  ok    required_columns.id\n"
    done = dpone("ops", "contract-check", "--rows-json", rows, "--contract-json", '{"required_columns":["name"]}')
    assert done.exit_code == 1
    assert "FAIL  required_columns.name  the column does not exist" in done.out


WAYS: list[tuple[object, ...]] = [
    ("--rows", "rows.csv"),
    ("--rows", "rows.parquet"),
    ("--rows", "rows.json"),
    ("--rows", "rows.jsonl"),
    ("--rows", "*.jsonl"),
    ("--rows-json", json.dumps(LINES)),
    ("--connection", "sqlite:///shop.db", "--table", "orders"),
    ("--connection", "${SHOP_URL}", "--table", "orders"),
    ("--connection", "shop", "--connections", "connections.yaml", "--table", "orders"),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(map(str, way))[:40])
@pytest.mark.parametrize("contract", ["--contract", "--contract-json"])
def test_every_way_to_give_rows_and_contract_finds_the_same(
    check: Callable[..., Any], way: tuple[object, ...], contract: str
) -> None:
    """Counts, and the first rows of each rule by their numbers, are those written down here."""
    data = check(*way, contract, "contract.yaml" if contract == "--contract" else json.dumps(CONTRACT), code=1)
    assert found(data) == FOUND
    assert data["rows"] == 8
    assert [rule["rule"] for rule in data["rules"] if rule["ok"]] == HOLDS
    assert "canary" not in json.dumps(data)


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.parquet", "rows.json", "rows.jsonl", "rows.csv.gz", "rows.jsonl.gz"]
)
def test_rows_from_stdin(folder: Path, name: str) -> None:
    """A pipe, whose format is seen from its first bytes; nothing of it stays in the temporary folder."""
    data = (folder / name.removesuffix(".gz")).read_bytes()
    if name.endswith(".gz"):
        data = pa.compress(data, "gzip", asbytes=True)
    spool = folder / "tmp"
    spool.mkdir()
    command = [sys.executable, "-m", "dpone", "ops", "contract-check", "--rows", "-", "--contract", "contract.yaml"]
    env = {**os.environ, "TMPDIR": str(spool)}
    done = subprocess.run(
        [*command, "--format", "json"], input=data, cwd=folder, env=env, capture_output=True, check=False
    )
    assert found(json.loads(done.stdout)) == FOUND
    assert done.returncode == 1
    assert [*spool.iterdir()] == []


@pytest.mark.parametrize("policy", ["warn", "quarantine"])
def test_the_counts_are_those_of_a_run(check: Callable[..., Any], folder: Path, policy: str) -> None:
    """The same contract in a pipeline gives the same violations of every rule, also where rows are left out."""
    contract = {**CONTRACT, "on_violation": policy, "overrides": {"row_count": "warn", "max_null_ratio": "warn"}}
    contract["quarantine"] = {"max_share": 1}
    sink = {"type": "file", "path": "out", "strategy": {"mode": "append"}, "contract": contract}
    pipeline = {"pipeline": "p", "source": {"type": "file", "path": "rows.csv"}, "sink": sink}
    (folder / "p.yaml").write_text(yaml.safe_dump(pipeline))
    [stream] = run_pipeline(folder / "p.yaml").streams
    assert stream.contract is not None
    data = check("--rows", "rows.csv", "--contract-json", json.dumps(contract))
    assert {rule["rule"]: rule["violations"] for rule in data["rules"]} == stream.contract.violations
    assert data["ok"] is (policy == "warn")


def test_values_are_shown_only_if_they_are_asked_for(check: Callable[..., Any], dpone: Dpone) -> None:
    """With them each example is the whole row; the text has them in lines of their own."""
    data = check("--rows", "rows.csv", "--contract", "contract.yaml", "--values", "--examples", 1)
    examples = {rule["rule"]: rule["examples"] for rule in data["rules"] if rule["examples"]}
    assert examples["allowed_values.status"] == [{"part": "rows.csv", "row": 3, "values": LINES[2]}]
    assert {len(rows) for rows in examples.values()} == {1}
    given = ("ops", "contract-check", "--rows", "rows.csv", "--contract", "contract.yaml", "--examples", 2)
    plain, valued = dpone(*given).out, dpone(*given, "--values").out
    assert "  FAIL  allowed_values.status  3 rows (rows 3, 5, ...)" in plain.splitlines()
    assert "canary" not in plain
    assert 'rows.csv, row 3: {"id": 3, "name": "cid", "amount": 2.0, "status": "SENT-canary"}' in valued
    assert check(*given[2:6], "--examples", 0)["rules"][-1]["examples"] == []


def test_a_warning_is_no_failure_unless_it_is_strict(check: Callable[..., Any], dpone: Dpone) -> None:
    """A rule of the policy warn is violated and shown, and the exit code is 0 as in a run; --strict makes it 1."""
    given = ("--rows", "rows.csv", "--contract-json", "{not_null: [name], on_violation: warn}")
    data = check(*given, code=0)
    assert found(data) == {"not_null.name": FOUND["not_null.name"]}
    assert "  warn  not_null.name  2 rows (rows 4, 7)" in dpone("ops", "contract-check", *given).out
    assert found(check(*given, "--strict", code=1)) == found(data)
    assert "  FAIL  not_null.name" in dpone("ops", "contract-check", *given, "--strict").out


def test_every_part_and_the_last_row_are_checked(check: Callable[..., Any], folder: Path) -> None:
    """A fault in the last row of the last of several files and row groups is found, and where it is."""
    for name, last in (("a", 0), ("b", None)):
        table = pa.table({"id": pa.array([*range(40_000), last], pa.int64())})
        pq.write_table(table, folder / f"part-{name}.parquet", row_group_size=7_000)
    data = check("--rows", "part-*.parquet", "--contract-json", "{not_null: id, unique: id}", code=1)
    assert data["rows"] == 80_002
    [nulls, repeated] = [rule for rule in data["rules"] if not rule["ok"]]
    assert nulls["examples"] == [{"part": "part-b.parquet", "row": 40_001}]
    assert repeated["violations"] == 40_001
    assert repeated["examples"][:2] == [{"part": "part-a.parquet", "row": 40_001}, {"part": "part-b.parquet", "row": 1}]


def test_a_repeated_key_is_found_behind_rows_without_one(check: Callable[..., Any]) -> None:
    """Rows that have no key, or that another rule has left out, do not move the number of the row that is shown."""
    rows = json.dumps([{"id": None, "n": 1}, {"id": 1, "n": -1}, {"id": 1, "n": 1}, {"id": 1, "n": 1}])
    contract = "{unique: id, ranges: {n: {min: 0}}, overrides: {ranges: quarantine}, quarantine: {max_share: 1}}"
    assert found(check("--rows-json", rows, "--contract-json", contract, code=1)) == {
        "ranges.n": (1, "1 row", [2]), "unique.id": (1, "1 row", [4]),
    }  # fmt: skip


def test_how_old_the_newest_row_is(check: Callable[..., Any], folder: Path) -> None:
    """Freshness counts from now."""
    at = [(datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ") for hours in (50, 5)]
    (folder / "at.csv").write_text("at\n" + "\n".join(at) + "\n")
    assert check("--rows", "at.csv", "--contract-json", "{freshness: {at: 6h}}", code=0)["rows"] == 2
    data = check("--rows", "at.csv", "--contract-json", "{freshness: {at: 4h}}", code=1)
    assert found(data) == {"freshness.at": (1, "the newest value is 5 hours old, at most 4 hours allowed", [])}


ODCS = """\
apiVersion: v3.1.0
kind: DataContract
name: shop
id: x
version: 1.0.0
status: active
schema:
  - name: orders
    properties:
      - {name: id, primaryKey: true, logicalType: integer, physicalType: bigint}
      - {name: amount, logicalType: number, logicalTypeOptions: {minimum: 0}}
      - {name: name, physicalType: varchar(2)}
    quality: [{type: sql, query: 'SELECT 1', mustBe: 1}]
"""


def test_an_open_data_contract_document(check: Callable[..., Any], folder: Path) -> None:
    """Its rules are checked; one that is not supported fails, or is listed if it is to be skipped. Physical types are
    those of a database."""
    (folder / "odcs.yaml").write_text(ODCS)
    wanted = {name: FOUND[name] for name in ("ranges.amount", "unique.id")}
    message = "schema[0].quality[0]: quality of type 'sql' is not supported"
    error = check("--rows", "rows.csv", "--contract", "odcs.yaml", code=2)["error"]
    assert [message in line for line in error["messages"]] == [True]
    assert "--skip-unsupported" in error["messages"][0]
    data = check("--rows", "rows.csv", "--contract", "odcs.yaml", "--skip-unsupported", "--object", "orders", code=1)
    assert (found(data), data["contract"]) == (wanted, "shop")
    note = "physicalType of 2 properties: rows of a file have no types of a database"
    assert data["not_checked"] == [message, note]
    given = ("--connection", "sqlite:///shop.db", "--table", "orders", "--contract", "odcs.yaml", "--skip-unsupported")
    data = check(*given, code=1)
    assert found(data) == {**wanted, "lengths.name": (6, "6 rows", [1, 2, 3, 5, 6])}
    assert data["not_checked"] == [message]


def test_a_uuid_of_a_document_may_be_a_column_of_uuids(check: Callable[..., Any], folder: Path) -> None:
    """The format is a pattern of texts; a column of the type itself can hold nothing else."""
    (folder / "odcs.yaml").write_text(
        ODCS.partition("schema:")[0]
        + "schema: [{name: t, properties: [{name: a, logicalType: string, logicalTypeOptions: {format: uuid}}]}]\n"
    )
    values = ["12345678-1234-1234-1234-123456789abc", "12345678-1234-1234-1234-123456789ab"]
    (folder / "u.csv").write_text("a\n" + "\n".join(values) + "\n")
    given = ("--rows", "u.csv", "--contract", "odcs.yaml")
    assert found(check(*given, code=1)) == {"patterns.a": (1, "1 row", [2])}
    (folder / "u.csv").write_text(f"a\n{values[0]}\n")
    assert check(*given, "--source-options", "{columns: {a: uuid}}", code=0)["rows"] == 1


def test_options_of_the_source(check: Callable[..., Any], folder: Path) -> None:
    """They are those of source.options, for each way to give rows."""
    (folder / "rows.txt").write_text("id;at\n1;2026-01-01T00:00:00Z\n")
    options = '{"format": "csv", "delimiter": ";"}'
    assert check("--rows", "rows.txt", "--source-options", options, "--contract-json", "{not_null: at}", code=0)
    rows, contract = '[{"at": "2026-01-01T00:00:00Z"}]', "{logical_types: {at: timestamp}}"
    assert check("--rows-json", rows, "--contract-json", contract, code=1)
    assert check("--rows-json", rows, "--contract-json", contract, "--source-options", "{columns: {at: timestamptz}}")[
        "ok"
    ]


ROWS_JSON = ("--rows-json", '[{"id": 1}]')
WRONG: list[tuple[tuple[object, ...], int, str]] = [
    ((*ROWS_JSON,), 2, "use exactly one of --contract-json, --contract; see 'dpone ops contract-check --help'"),
    (("--contract-json", "{}"), 2, "use exactly one of --rows-json, --rows, --connection; see"),
    ((*ROWS_JSON, "--rows", "a.csv", "--contract-json", "{}"), 2, "use exactly one of --rows-json, --rows"),
    (("--rows", "a.csv", "--rows", "b.csv", "--contract-json", "{}"), 2, "the rows are given 2 times; use one glob"),
    ((*ROWS_JSON, "--table", "t", "--contract-json", "{}"), 2, "use --connection together with --table"),
    ((*ROWS_JSON, "--type", "sqlite", "--contract-json", "{}"), 2, "--type and --connections need --connection"),
    ((*ROWS_JSON, "--contract-json", "{}"), 2, "--contract-json:1: it has no rules"),
    ((*ROWS_JSON, "--contract-json", "{not_nul: [id]}"), 2, "unknown key 'not_nul'; did you mean not_null?"),
    ((*ROWS_JSON, "--contract-json", "{not_null: [id], not_null: [id]}"), 2, "the key 'not_null' appears twice"),
    ((*ROWS_JSON, "--contract-json", "{"), 2, "--contract-json:2: not YAML"),
    ((*ROWS_JSON, "--contract", "none.yaml"), 2, "none.yaml: no such file; give the path of an existing file"),
    ((*ROWS_JSON, "--contract-json", "{not_null: [x]}"), 3, "bind contract.not_null.x: the source has no column x"),
    ((*ROWS_JSON, "--contract-json", "{patterns: {id: x}}"), 3, "bind contract.patterns.id: the column is int64"),
    (("--rows-json", "[1]", "--contract-json", "{not_null: id}"), 1, "read --rows-json: "),
    (("--rows", "none.csv", "--contract-json", "{not_null: id}"), 1, "read none.csv: no such file"),
    (("--rows", "a.csv", "--source-options", "{delimitr: ;}", "--contract-json", "{not_null: id}"), 2,
     "--source-options:1: source.options: unknown key 'delimitr'; did you mean delimiter?"),
    (("--rows", "a.csv", "--source-options", "[1]", "--contract-json", "{not_null: id}"), 2,
     "--source-options:1: source.options: found no mapping; write a mapping"),
    (("--connection", "shop", "--table", "t", "--contract-json", "{not_null: id}"), 2,
     "the connection does not begin with the type of a source; add --type with one of"),
    (("--connection", "oracle://h/x", "--table", "t", "--contract-json", "{not_null: id}"), 2,
     "; add --type with one of postgres, sqlite"),
    (("--connection", "mssql://h/x", "--table", "t", "--contract-json", "{not_null: id}"), 2,
     "this version has no source for mssql; use a connection of postgres, sqlite"),
    (("--connection", "h", "--type", "mssql", "--table", "t", "--contract-json", "{not_null: id}"), 2,
     "this version has no source for mssql; use a connection of postgres, sqlite"),
    (("--connection", "${NOWHERE_SET}", "--table", "t", "--contract-json", "{not_null: id}"), 2,
     "the environment variable NOWHERE_SET is not set"),
    (("--connection", "sqlite:///none.db", "--table", "t", "--contract-json", "{not_null: id}"), 1, "none.db"),
    (("--connection", "sqlite:///shop.db", "--table", "t", "--source-options",
      "{incremental: {by: cursor, column: id}}", "--contract-json", "{not_null: id}"), 2,
     "read the rows: incremental reads only some of them; remove incremental"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "code", "line"), WRONG, ids=[one[2][:50] for one in WRONG])
def test_what_cannot_be_checked_is_an_error(check: Callable[..., Any], args: Any, code: int, line: str) -> None:
    """One line each, with the exit code of its kind; never a result that looks like one."""
    error = check(*args, code=code)["error"]
    assert any(line in message for message in error["messages"]), error


@pytest.mark.parametrize(
    ("name", "content", "advice", "options"),
    [
        ("a.csv", '[{"id": 1}]', "set format: json", "{format: json}"),
        ("a.txt", "id\n1\n", "set format to csv, json, jsonl or parquet", "{format: csv}"),
        ("a.csv", "id;n\n1;2\n", "set delimiter to the character between columns", "{delimiter: ;}"),
    ],
)
def test_OUT_16_advice_about_options_is_typed_on_the_command_line(
    check: Callable[..., Any], folder: Path, name: str, content: str, advice: str, options: str
) -> None:
    """What a pipeline file has as options.x is an option of this command, and following it ends in a check that
    holds."""
    (folder / name).write_text(content)
    error = check("--rows", name, *IDS)["error"]
    assert advice in error["messages"][0]
    assert "options are given by --source-options" in error["messages"][0]
    assert "options.format" not in error["messages"][0]
    assert check("--rows", name, *IDS, "--source-options", options, code=0)["rows"] == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none-*.csv", "no file matches in its folder, which has"),
        ("gone/a.csv", "folder gone does not exist; check the path; it is relative to the current folder"),
    ],
)
def test_a_path_without_files_is_that_of_the_current_folder(check: Callable[..., Any], path: str, said: str) -> None:
    """There is no pipeline file here."""
    [message] = check("--rows", path, *IDS, code=1)["error"]["messages"]
    assert said in message
    assert "pipeline" not in message


TABLE = ("--connection", "sqlite:///shop.db", "--table", "orders")
IDS = ("--contract-json", "{not_null: id}")


@pytest.mark.parametrize(
    ("refused", "advice", "followed"),
    [
        (("--table", "orders", *ROWS_JSON, *IDS), "use --connection together with --table", (*TABLE, *IDS)),
        ((*ROWS_JSON, "--type", "sqlite", *IDS), "--type and --connections need --connection",
         (*TABLE, "--type", "sqlite", *IDS)),
        (("--connection", "shop", "--table", "orders", *IDS), "add --type with one of",
         ("--connection", "shop", "--connections", "connections.yaml", "--table", "orders", "--type", "sqlite", *IDS)),
        (("--rows", "rows.csv", "--contract", "two.yaml"), "choose one with --object",
         ("--rows", "rows.csv", "--contract", "two.yaml", "--object", "a")),
        (("--rows", "rows.csv", "--contract", "sql.yaml"), "skip what is not supported with --skip-unsupported",
         ("--rows", "rows.csv", "--contract", "sql.yaml", "--skip-unsupported")),
        (("--rows", "rows.csv", *IDS, "--object", "a"), "remove --object", ("--rows", "rows.csv", *IDS)),
    ],
    ids=lambda one: one[:40] if isinstance(one, str) else "",
)  # fmt: skip
def test_OUT_16_the_advice_of_a_message_is_followed(
    check: Callable[..., Any], folder: Path, refused: Any, advice: str, followed: Any
) -> None:
    """What a message says to do ends in a check that holds."""
    head = ODCS.partition("schema:")[0]
    (folder / "two.yaml").write_text(f"{head}schema: [{{name: a, properties: [{{name: id}}]}}, {{name: b}}]\n")
    sql = "quality: [{type: sql, query: SELECT 1, mustBe: 1}]"
    (folder / "sql.yaml").write_text(f"{head}schema: [{{name: a, properties: [{{name: id}}], {sql}}}]\n")
    assert advice in check(*refused, code=2)["error"]["messages"][0]
    assert check(*followed, code=0)["rows"] == 8


def test_a_password_is_never_shown(check: Callable[..., Any]) -> None:
    """Neither of a connection that works out nor of one that does not."""
    url = "postgres://ann:pass-canary@127.0.0.1:1/shop?connect_timeout=1"
    data = check("--connection", url, "--table", "t", "--contract-json", "{not_null: id}")
    assert "canary" not in json.dumps(data)
