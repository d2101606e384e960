"""The guide of each flow: its pipeline and its runbook are run as they stand, over values that are easily damaged."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from attrs import frozen
from tests.docs.generate import DOCS, flows
from tests.docs.transcript import follow
from tests.postgres.server import Server

from dpone.cli.main import main
from dpone_kafka.testing import KafkaHarness

FLOWS = DOCS / "connectors" / "flows"
HEADS = ["The pipeline", "What is exact", "What to watch", "Runbook"]
Row = tuple[int, str | None, Decimal | None, date | None, datetime | None]


def at(hour: int) -> datetime:
    return datetime(2026, 1, 3, hour, 0, 0, 123456, UTC)


FIRST: list[Row] = [
    (1, "Ada", Decimal("10.50"), date(2026, 1, 3), at(8)),
    (2, 'O\'Neill, "Zoë" & Катя', Decimal("-0.10"), date(1969, 12, 31), at(9)),
    (3, None, None, None, at(10)),
    (5, "007", Decimal("9999999999.99"), date(2024, 2, 29), at(11)),
]
CHANGED: list[Row] = [(2, "Zoë", Decimal("4.00"), date(1969, 12, 31), at(12)), (4, "Dee", None, None, at(13))]
GONE = 1


def merged(rows: list[Row]) -> list[Row]:
    """``FIRST`` with what changed, by id."""
    return sorted({row[0]: row for row in [*rows, *CHANGED]}.values())


EVERY = sorted([*FIRST, *CHANGED], key=lambda row: (row[0], row[4] or at(0)))
NOW = [row for row in merged(FIRST) if row[0] != GONE]
# After the change, and after the last command of the runbook: load everything again.
EXPECTED: dict[tuple[str, str], tuple[list[Row], list[Row]]] = {
    ("file", "file"): (EVERY, EVERY),
    ("file", "sqlite"): (merged(FIRST), merged(FIRST)),
    ("file", "postgres"): (merged(FIRST), merged(FIRST)),
    ("kafka", "file"): (EVERY, EVERY),
    ("kafka", "sqlite"): (merged(FIRST), merged(FIRST)),
    ("kafka", "postgres"): (merged(FIRST), merged(FIRST)),
    ("file", "kafka"): (EVERY, sorted([*EVERY, *EVERY], key=lambda row: (row[0], row[4] or at(0)))),
    ("kafka", "kafka"): (EVERY, sorted([*EVERY, *EVERY], key=lambda row: (row[0], row[4] or at(0)))),
    ("sqlite", "kafka"): (EVERY, sorted([*EVERY, *NOW], key=lambda row: (row[0], row[4] or at(0)))),
    ("postgres", "kafka"): (EVERY, sorted([*EVERY, *NOW], key=lambda row: (row[0], row[4] or at(0)))),
    ("sqlite", "file"): (NOW, NOW),
    ("sqlite", "sqlite"): (merged(FIRST), NOW),
    ("sqlite", "postgres"): (NOW, NOW),
    ("postgres", "file"): (EVERY, NOW),
    ("postgres", "sqlite"): (merged(FIRST), NOW),
    ("postgres", "postgres"): (merged(FIRST), NOW),
}


@frozen
class Place:
    """The current folder and, where a flow needs it, a database."""

    server: Server | None = None
    kafka: KafkaHarness | None = None

    def sqlite(self, sql: str, rows: list[tuple[Any, ...]] | None = None) -> list[tuple[Any, ...]]:
        name = "warehouse.db" if sql.startswith("SELECT") else "shop.db"
        with closing(sqlite3.connect(name)) as db:
            done = db.executemany(sql, rows) if rows is not None else db.execute(sql)
            found = done.fetchall()
            db.commit()
            return found

    def begin(self, source: str) -> None:
        """The source with its first rows."""
        if source == "file":
            self._csv("data/orders-2026-01.csv", FIRST)
        elif source == "kafka":
            self._records(FIRST)
        elif source == "sqlite":
            self.sqlite("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, amount TEXT, placed TEXT, "
                        "updated_at TEXT)")  # fmt: skip
            self._put(FIRST)
        else:
            assert self.server is not None
            self.server.run("CREATE SCHEMA shop", "CREATE TABLE shop.orders (id int PRIMARY KEY, customer text, "
                            "amount numeric(12,2), placed date, updated_at timestamptz)")  # fmt: skip
            self._insert(FIRST)

    def change(self, source: str) -> None:
        """One row is changed and one is new; of a table one is deleted."""
        if source == "file":
            self._csv("data/orders-2026-02.csv", CHANGED)
        elif source == "kafka":
            self._records(CHANGED)
        elif source == "sqlite":
            self._put(CHANGED)
            self.sqlite(f"DELETE FROM orders WHERE id = {GONE}")
        else:
            self._insert(CHANGED)
            assert self.server is not None
            self.server.run(f"DELETE FROM shop.orders WHERE id = {GONE}")

    def _csv(self, name: str, rows: list[Row]) -> None:
        Path(name).parent.mkdir(exist_ok=True)
        cells = [["" if v is None else _text(v) for v in row] for row in rows]
        lines = [
            ",".join('"' + c.replace('"', '""') + '"' if set(c) & set('",') else c for c in line) for line in cells
        ]
        Path(name).write_text("\n".join(["id,customer,amount,placed,updated_at", *lines, ""]), encoding="utf-8")

    def _records(self, rows: list[Row]) -> None:
        """By key, so that all records of a row are in one partition."""
        assert self.kafka is not None
        self.kafka.make_topic("orders")
        for row in rows:
            value = {name: _text(v) if isinstance(v, date | Decimal) else v for name, v in zip(NAMES, row, strict=True)}
            self.kafka.send("orders", [(str(row[0]).encode(), json.dumps(value).encode(), row[0] % 2)])

    def _put(self, rows: list[Row]) -> None:
        texts = [tuple(v if v is None or isinstance(v, int) else _text(v) for v in row) for row in rows]
        self.sqlite("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?)", texts)

    def _insert(self, rows: list[Row]) -> None:
        assert self.server is not None
        with self.server.connect() as db:
            for row in rows:
                db.execute(
                    "INSERT INTO shop.orders VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET "
                    "customer = excluded.customer, amount = excluded.amount, updated_at = excluded.updated_at", row
                )  # fmt: skip

    def rows(self, sink: str, source: str = "") -> list[Row]:
        """The target, by id and time."""
        found: list[Any]
        if sink == "file":
            tables = [pq.read_table(path) for path in Path("lake/orders").glob("*.parquet")]
            found = [tuple(row[name] for name in NAMES) for table in tables for row in table.to_pylist()]
        elif sink == "sqlite":
            texts = self.sqlite(f"SELECT {', '.join(NAMES)} FROM orders")
            found = [(i, c, a and Decimal(a), p and date.fromisoformat(p), datetime.fromisoformat(u).astimezone(UTC))
                     for i, c, a, p, u in texts]  # fmt: skip
        elif sink == "kafka":
            assert self.kafka is not None
            records = self.kafka.records("orders_copy" if source == "kafka" else "orders")
            rows = [json.loads(record) for record in records]
            found = [(row["id"], row["customer"], row["amount"] and Decimal(row["amount"]),
                      row["placed"] and date.fromisoformat(row["placed"]), datetime.fromisoformat(row["updated_at"]))
                     for row in rows]  # fmt: skip
        else:
            assert self.server is not None
            found = self.server.query(f"SELECT {', '.join(NAMES)} FROM sales.orders")
        return sorted(found, key=lambda row: (row[0], row[4]))


NAMES = ["id", "customer", "amount", "placed", "updated_at"]


def _text(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, date) else str(value)


PARAMS = [
    pytest.param(
        *flow,
        id="-to-".join(flow),
        marks=[getattr(pytest.mark, name) for name in ("kafka", "postgres") if name in flow],
    )
    for flow in EXPECTED
]


@pytest.mark.parametrize(("source", "sink"), PARAMS)
def test_the_guide_of_a_flow_is_followed(
    source: str, sink: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Every value arrives, nothing new changes nothing, a change arrives as the strategy says, and each command of the
    runbook works; the last one loads everything again."""
    page = FLOWS / f"{source}-to-{sink}.md"
    monkeypatch.chdir(tmp_path)
    server = request.getfixturevalue("database") if "postgres" in (source, sink) else None
    kafka = request.getfixturevalue("topics") if "kafka" in (source, sink) else None
    if kafka is not None:
        monkeypatch.setenv("KAFKA", kafka.url)
    place = Place(server, kafka)
    if server is not None:
        server.run("CREATE SCHEMA sales")
        monkeypatch.setenv("SHOP_DB", server.url)
        monkeypatch.setenv("WAREHOUSE", server.url)
    place.begin(source)
    assert follow(page, "", capsys) == 3
    assert place.rows(sink, source) == FIRST
    run("run pipeline.yaml --quiet")
    assert place.rows(sink, source) == FIRST
    place.change(source)
    run("run pipeline.yaml --quiet")
    changed, again = EXPECTED[source, sink]
    assert place.rows(sink, source) == changed
    commands = re.findall(r"`dpone ([^`]+)`", page.read_text(encoding="utf-8").partition("## Runbook")[2])
    assert len(commands) >= 4
    again_by = "run pipeline.yaml" if sink == "kafka" else "run pipeline.yaml --full-refresh"
    assert commands[-1] == again_by
    for command in commands:
        run(command)
    assert place.rows(sink, source) == again


def run(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 0, command


def test_every_flow_has_its_guide() -> None:
    """Each supported pair, no other, and each guide has the same sections."""
    assert {*EXPECTED} == {*flows()}
    assert {page.stem for page in FLOWS.glob("*.md")} == {f"{source}-to-{sink}" for source, sink in flows()}
    for page in FLOWS.glob("*.md"):
        assert re.findall(r"^## (.*)", page.read_text(encoding="utf-8"), re.MULTILINE) == HEADS
