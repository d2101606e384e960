"""What stops a change log, and that doing what the message says ends in a green run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.advice.follow import Place, pipeline
from tests.advice.test_advice import Case, Do, both, followed, set_, sql, strategy, text
from tests.cdc.log import insert, transaction, update

GREEN = [{"id": 1, "n": 10}]
ONE = transaction("01", insert("s", {"id": 1}, n=10))
KEYLESS = transaction("01", {"op": "insert", "table": "s", "values": {"id": 1, "n": 10}})
TRUNCATE = {"op": "truncate", "table": "s"}
TWO = transaction("01", insert("t", {"id": 1}, n=10), insert("u", {"id": 7}, n=70))
PAIR = transaction("01", insert("s", {"id": 1}, n=10), insert("s", {"id": 2}, n=20))


def stream(mode: str = "cdc_apply", table: str | None = "s", columns: Any = None, **strategy: Any) -> Any:
    source: dict[str, Any] = {"type": "file", "path": "log.jsonl", "options": {"incremental": {"by": "cdc"}}}
    if table is not None:
        source["table"] = table
    if columns is not None:
        source["options"]["columns"] = columns
    return pipeline(source, mode, **strategy)


def log(content: str) -> Callable[[Place], None]:
    return text("log.jsonl", content)


def cases() -> Iterator[Case]:
    yield Case(
        "a log that names no key", stream(), log(KEYLESS), "PipelineMismatch",
        {"set strategy.key": GREEN, "give the table a key in the source and reload it": GREEN},
    )  # fmt: skip
    yield Case(
        "a key that is not the log's", stream(key=["n"]), log(ONE), "PipelineMismatch",
        {"remove strategy.key": GREEN},
    )  # fmt: skip
    yield Case(
        "a log of two tables", stream(table=None), log(TWO),
        "PipelineMismatch",
        {"set source.table to one of them": GREEN, "or use a glob there and {table} in the sink's table": GREEN},
    )  # fmt: skip
    for harm, of in (("cut off", ""), ("rewritten", ONE.replace("10", "11"))):
        yield Case(
            f"a log that was {harm}", stream(), log(ONE), "IdentityChanged" if of else "Gap",
            {"restore the log": GREEN, "--full-refresh": [{"id": 1, "n": 11}]} if of else {
                "restore the log": GREEN}, log(of),
        )  # fmt: skip
    yield Case(
        "a text longer than was declared", stream(columns={"n": "varchar(1)"}),
        log(transaction("01", insert("s", {"id": 1}, n="long"))), "DataError",
        {"columns: {n: string}": [{"id": 1, "n": "long"}]},
    )  # fmt: skip
    yield Case(
        "a text where a number was declared", stream(columns={"n": "int64"}),
        log(transaction("01", insert("s", {"id": 1}, n="x"))), "DataError",
        {"columns: {n: json}": [{"id": 1, "n": '"x"'}], "fix the line": GREEN},
    )  # fmt: skip
    yield Case(
        "an update of a row that the target lost", stream(), log(PAIR), "DataError",
        {"load the table again with --full-refresh": [{"id": 1, "n": 10, "m": 3}, {"id": 2, "n": 20, "m": None}]},
        both(
            sql("target", "DELETE FROM t WHERE id = 1"), log(PAIR + transaction("02", update("s", {"id": 1}, m=3))),
        ),
    )  # fmt: skip
    for mode, left in (("cdc_apply", []), ("scd2", GREEN)):  # of versions the closed ones stay
        yield Case(
            f"a truncate under {mode}", stream(mode), log(ONE), "DeletesRefused",
            {"strategy.truncate: apply": left, "or ignore": GREEN}, log(ONE + transaction("02", TRUNCATE)),
        )  # fmt: skip


def every_table(data: dict[str, Any], place: Place) -> None:
    set_(data, "source", "table", to="*")
    set_(data, "sink", "table", to="{table}")


DO: dict[str, Do] = {
    "set strategy.key": strategy(key=["id"]),
    "give the table a key in the source and reload it": lambda data, place: log(ONE)(place),
    "remove strategy.key": lambda data, place: data["sink"]["strategy"].pop("key"),
    "set source.table to one of them": lambda data, place: set_(data, "source", "table", to="t"),
    "or use a glob there and {table} in the sink's table": every_table,
    "restore the log": lambda data, place: log(ONE)(place),
    "fix the line": lambda data, place: log(ONE)(place),
    "load the table again with --full-refresh": lambda data, place: None,
    "or ignore": strategy(truncate="ignore"),
}
TABLE = [pytest.param(case, way, id=f"{case.name}: {way[:40]}") for case in cases() for way in case.advice]


@pytest.mark.parametrize(("case", "way"), TABLE)
def test_OUT_16_advice_about_a_change_log_ends_in_a_green_run(tmp_path: Path, case: Case, way: str) -> None:
    """What a message about changes says is enough."""
    followed(tmp_path, case, way, DO)
