"""Every case provokes an error, does exactly what its message says, and ends in a green run with the right rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from tests.advice.follow import Place, files, option, pipeline, put, table

Rows = list[dict[str, Any]]


@frozen
class Case:
    """setup: before the first run; breaks: after a green run, where the error needs one. error: its kind. advice: words
    of the message, each of which is a way out of its own, with the rows it ends with. of: whose ``options.x``."""

    name: str
    data: dict[str, Any]
    setup: Callable[[Place], None]
    error: str
    advice: dict[str, Rows]
    breaks: Callable[[Place], None] | None = None
    of: str = "source"


def sql(file: str, *statements: str) -> Callable[[Place], None]:
    return lambda place: place.sql(file, *statements)


def both(*steps: Callable[[Place], None]) -> Callable[[Place], None]:
    def all_(place: Place) -> None:
        for step in steps:
            step(place)

    return all_


def text(name: str, content: str | bytes) -> Callable[[Place], None]:
    return lambda place: place.file(name, content)


NUMBERS = sql("source", "CREATE TABLE s (id INTEGER, n INTEGER)", "INSERT INTO s VALUES (1, 10), (2, 20)")
GREEN: Rows = [{"id": 1, "n": 10}, {"id": 2, "n": 20}]
TO_TEXT = sql(
    "source", "DROP TABLE s", "CREATE TABLE s (id INTEGER, n TEXT)", "INSERT INTO s VALUES (1, 'x'), (2, 'y')"
)
CURSOR = {"by": "cursor", "column": "n"}
LATE = "a\n" + "1\n" * 300_000 + "x\n"


def cases() -> Iterator[Case]:
    yield Case(
        "rows that nothing explains", pipeline(table()),
        both(NUMBERS, sql("target", "CREATE TABLE t (id INTEGER, n INTEGER)", "INSERT INTO t VALUES (0, 0)")),
        "StateMissing",
        {"sink.options.adopt_existing: true": [{"id": 0, "n": 0}, *GREEN], "--full-refresh": GREEN},
    )  # fmt: skip
    yield Case(
        "a target that was dropped", pipeline(table(incremental=CURSOR)), NUMBERS, "StateAhead",
        {"--full-refresh": GREEN}, sql("target", "DROP TABLE t"),
    )  # fmt: skip
    yield Case(
        "a target that was emptied", pipeline(table(incremental=CURSOR)), NUMBERS, "StateAhead",
        {"--full-refresh": GREEN, "sink.options.verify_target: off": []}, sql("target", "DELETE FROM t"),
    )  # fmt: skip
    strict = pipeline(table(), "full_refresh")
    strict["sink"]["options"] = {"schema_evolution": {"mode": "strict"}}
    more = sql("source", "ALTER TABLE s ADD COLUMN m INTEGER")
    yield Case(
        "a new column under strict", strict, NUMBERS, "SchemaBreak",
        {"schema_evolution.mode: additive": [{**row, "m": None} for row in GREEN]}, more,
    )  # fmt: skip
    additive = pipeline(table(), "full_refresh")
    additive["sink"]["options"] = {"schema_evolution": {"mode": "additive"}}
    digits = sql("source", "CREATE TABLE s (n DECIMAL(10,2))", "INSERT INTO s VALUES ('1.5')")
    yield Case(
        "a wider type under additive", additive, digits, "SchemaBreak",
        {"schema_evolution.mode: widening": [{"n": "1.5000"}]},
        sql("source", "DROP TABLE s", "CREATE TABLE s (n DECIMAL(12,4))", "INSERT INTO s VALUES ('1.5')"),
    )  # fmt: skip
    yield Case(
        "another type", pipeline(table(), "full_refresh"), NUMBERS, "SchemaBreak",
        {
            "schema_evolution.on_type_change: new_column": [
                {"id": 1, "n": None}, {"id": 2, "n": None},
            ],
            "--full-refresh": [{"id": 1, "n": "x"}, {"id": 2, "n": "y"}],
        },
        TO_TEXT,
    )  # fmt: skip
    fewer = sql("source", "ALTER TABLE s DROP COLUMN n")
    yield Case(
        "a column that is gone", pipeline(table(), "full_refresh"), NUMBERS, "SchemaBreak",
        {
            "schema_evolution.on_missing_column: ignore": [{"id": 1, "n": None}, {"id": 2, "n": None}],
            "--full-refresh": [{"id": 1}, {"id": 2}],
        },
        fewer,
    )  # fmt: skip
    yield Case(
        "case 23: a target in capitals", pipeline(table(), "merge", key=["id"]),
        both(NUMBERS, sql("target", 'CREATE TABLE t ("ID" INTEGER PRIMARY KEY, n INTEGER)')), "SchemaBreak",
        {"rename column ID of the target to id": GREEN, "give id the name ID in the source": [
            {"ID": 1, "n": 10}, {"ID": 2, "n": 20},
        ]},
    )  # fmt: skip
    yield Case(
        "a cursor of numbers as text", pipeline(table(incremental={"by": "cursor", "column": "c"})),
        sql("source", "CREATE TABLE s (c TEXT)", "INSERT INTO s VALUES ('9'), ('11')"), "DataError",
        {"SELECT t.*, CAST(t.c AS bigint) AS n FROM ... AS t, by column: n, beginning with --full-refresh": [
            {"c": "9", "n": 9}, {"c": "11", "n": 11},
        ]},
    )  # fmt: skip
    yield Case(
        "a cursor that is NULL", pipeline(table(incremental=CURSOR)),
        both(NUMBERS, sql("source", "INSERT INTO s VALUES (3, NULL)")), "DataError",
        {"incremental.nulls: skip": GREEN},
    )  # fmt: skip
    yield Case(
        "a source that was set back", pipeline(table(incremental=CURSOR)), NUMBERS, "SetBack",
        {"incremental.set_back: report": GREEN, "--full-refresh": [{"id": 1, "n": 10}]},
        sql("source", "DELETE FROM s WHERE id = 2"),
    )  # fmt: skip
    yield Case(
        "too many deletes", pipeline(table(), "snapshot_diff", key=["id"]), NUMBERS, "DeletesRefused",
        {"strategy.max_delete_share (1.0 allows all)": [{"id": 1, "n": 10}]},
        sql("source", "DELETE FROM s WHERE id = 2"),
    )  # fmt: skip
    yield Case(
        "NaN", pipeline(files("a.csv")), text("a.csv", "id,x\n1,NaN\n2,0.5\n"), "DataError",
        {'sink.options.nan: "null"': [{"id": 1, "x": None}, {"id": 2, "x": 0.5}]},
    )  # fmt: skip
    yield Case(
        "a column without a type", pipeline(table()),
        sql("source", "CREATE TABLE s (x)", "INSERT INTO s VALUES (1), ('a')"), "DataError",
        {"options.columns: {x: string}": [{"x": "1"}, {"x": "a"}]},
    )  # fmt: skip
    yield Case(
        "another delimiter", pipeline(files("a.csv")), text("a.csv", "a;b\n1;2\n"), "DataError",
        {'delimiter: ";"': [{"a": 1, "b": 2}]},
    )  # fmt: skip
    yield Case(
        "escaped quotes", pipeline(files("a.csv")), text("a.csv", 'a\n"say \\"hi\\" now"\n'), "DataError",
        {"escape: '\\'": [{"a": 'say "hi" now'}]},
    )  # fmt: skip
    yield Case(
        "UTF-16 with its mark", pipeline(files("a.csv")), text("a.csv", "a\né\n".encode("utf-16")), "DataError",
        {"options.encoding: utf-16": [{"a": "é"}]},
    )  # fmt: skip
    yield Case(
        "UTF-16 without a mark", pipeline(files("a.csv")), text("a.csv", "a\né\n".encode("utf-16-le")), "DataError",
        {"options.encoding: utf-16-le": [{"a": "é"}]},
    )  # fmt: skip
    yield Case(
        "a JSON array named .csv", pipeline(files("a.csv")), text("a.csv", '[{"a": 1}]'), "DataError",
        {"options.format: json": [{"a": 1}]},
    )  # fmt: skip
    yield Case(
        "no object, no columns", pipeline(files("a.jsonl")), text("a.jsonl", ""), "DataError",
        {"columns: {id: int64}": []},
    )  # fmt: skip
    yield Case(
        "keys that repeat", pipeline(table(), "merge", key=["id"]),
        both(NUMBERS, sql("source", "INSERT INTO s VALUES (2, 30)")), "DataError",
        {"duplicates: first or last with order_by": [{"id": 1, "n": 10}, {"id": 2, "n": 30}]},
    )  # fmt: skip


def apply(data: dict[str, Any], place: Place, case: Case, words: str) -> dict[str, Any]:
    """Words that are more than an option; the options of the run."""
    if words == "--full-refresh":
        return {"full_refresh": True}
    if option(words) and " or " not in words:
        put(data, words, case.of)
    elif words.startswith("duplicates: first or last"):
        data["sink"]["strategy"] |= {"duplicates": "last", "order_by": ["n"]}
    elif words.startswith("rename column"):
        place.sql("target", 'ALTER TABLE t RENAME COLUMN "ID" TO id')
    elif words.startswith("give id the name ID in the source"):
        del data["source"]["table"]
        data["source"]["query"] = 'SELECT id AS "ID", n FROM s'
        data["sink"]["strategy"]["key"] = ["ID"]
    elif words.startswith("SELECT t.*"):
        del data["source"]["table"]
        data["source"]["query"] = words.partition(", by column")[0].replace("...", "s")
        data["source"]["options"]["incremental"]["column"] = "n"
        return {"full_refresh": True}
    elif words.startswith("strategy.max_delete_share"):
        data["sink"]["strategy"]["max_delete_share"] = 1.0
    else:
        raise AssertionError(words)
    return {}


TABLE = [pytest.param(case, way, id=f"{case.name}: {way[:40]}") for case in cases() for way in case.advice]


@pytest.mark.parametrize(("case", "way"), TABLE)
def test_OUT_16_advice_ends_in_a_green_run(tmp_path: Path, case: Case, way: str) -> None:
    """Nothing but the words of the message changes, and they are enough: green, the right rows, and green again."""
    import copy

    place, data = Place(tmp_path), copy.deepcopy(case.data)
    case.setup(place)
    if case.breaks is not None:
        assert place.run(data).error is None
        case.breaks(place)
    error = place.run(data).error
    assert error is not None
    assert error.kind == case.error, error.message
    assert way in error.message
    options = apply(data, place, case, way)
    done = place.run(data, **options)
    assert done.error is None, done.error
    wanted = case.advice[way]
    counted = bool(wanted) and "COUNT(*)" in wanted[0]
    assert place.rows("SELECT COUNT(*) FROM t" if counted else "SELECT * FROM t") == wanted
    assert place.run(data).error is None
