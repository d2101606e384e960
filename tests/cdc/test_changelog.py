"""The reader of a JSON Lines change log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.cdc.log import delete, events, insert, orders, transaction, update, write

from dpone.connectors.file import changelog
from dpone.connectors.file.changelog import FileChangeLog
from dpone.connectors.file.config import FileSourceOptions
from dpone.contract import ChangeWindow
from dpone.errors import DataError, DponeError, Gap, IdentityChanged, SchemaBreak, SourceError
from dpone.model.pipeline import SourceSpec
from dpone.model.position import Position
from dpone.model.schema import Name

ID = {"id": 1}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def reader(log: Path) -> Iterator[Callable[..., FileChangeLog]]:
    made: list[FileChangeLog] = []

    def make(table: str | None = None, **options: Any) -> FileChangeLog:
        name = Name.parse(table) if table else None
        spec = SourceSpec("file", path=log.name, table=name, options=FileSourceOptions(**options), base=log.parent)
        made.append(FileChangeLog(spec))
        return made[-1]

    yield make
    for one in made:
        one.close()


def read(reader: FileChangeLog, table: str) -> list[dict[str, Any]]:
    with reader.read(table) as stream:
        return [row for batch in stream.batches() for row in batch.to_pylist()]


def taken(reader: FileChangeLog, window: ChangeWindow) -> dict[str, list[tuple[str, str]]]:
    return {t: [(r["__dpone__event_id"], r["__dpone__op"]) for r in read(reader, t)] for t in window.tables}


def test_a_window_holds_whole_transactions_of_every_table(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """All changes of all tables, each once and in order, numbered over the tables of its commit."""
    write(log, orders(1, 40, "01"), orders(41, 60, "02"))
    one = reader(block_bytes=4096)
    window = one.window(None, None)
    assert taken(one, window) == events(log.read_text().splitlines(), "file_changelog:log.jsonl", window.tables)
    assert (sorted(window.tables), window.commits, window.changes) == (["customers", "orders"], ("", "02"), 80)
    assert window.caught_up
    row = read(one, "orders")[4]
    assert (row["id"], row["name"], row["note"]) == (5, 'n5, "é"', None)


@pytest.mark.parametrize("tail", [orders(9, 12, "02").rpartition('{"')[0], '{"op": "insert", "tab', '{"op": "commit"'])
def test_a_tail_without_its_commit_is_not_there_yet(log: Path, reader: Callable[..., FileChangeLog], tail: str) -> None:
    """Changes that no commit line has ended, and a cut line, are left for the next window, which has them once."""
    write(log, orders(1, 8, "01"), tail)
    one = reader()
    window = one.window(None, None)
    assert (window.commits, window.changes, window.caught_up) == (("", "01"), 10, False)
    log.write_text(orders(1, 8, "01") + orders(9, 12, "02"))
    second = one.window(window.position, None)
    assert (second.commits, second.changes, second.caught_up) == (("01", "02"), 6, True)


@pytest.mark.parametrize(("limit", "commits"), [(1, "01"), (4, "01"), (5, "02"), (8, "02"), (9, "03"), (99, "03")])
def test_a_limit_never_splits_a_transaction(
    log: Path, reader: Callable[..., FileChangeLog], limit: int, commits: str
) -> None:
    """The limit is looked at where a transaction ends; a window has at least one."""
    for n, commit in enumerate(("01", "02", "03")):
        write(log, transaction(commit, *(insert("t", {"id": 4 * n + i}) for i in range(4))))
    window = reader(block_bytes=4096).window(None, limit)
    assert window.commits == ("", commits)
    assert window.changes == 4 * int(commits)


def test_windows_one_after_another_are_the_log(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """With any limit, the windows together have each change once; positions survive JSON."""
    write(log, *(orders(10 * i, 10 * i + 9, f"{i:03}") for i in range(1, 8)))
    one, after = reader(block_bytes=4096), None
    found: dict[str, list[tuple[str, str]]] = {"orders": [], "customers": []}
    while True:
        window = one.window(after, 15)
        if after == window.position:
            break
        for table, changes in taken(one, window).items():
            found[table] += changes
        after = Position.loads(window.position.dumps())
    assert found == events(log.read_text().splitlines(), "file_changelog:log.jsonl", found)
    assert window.tables == {}


def test_what_a_line_leaves_out_is_unchanged(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """A column that an update does not name is marked, not nulled; one named as unchanged belongs to the table too."""
    write(log, transaction("1", insert("t", ID, a="x", b=None), update("t", ID, a="y"),
                           {**update("t", ID, a="z"), "unchanged": ["photo"]}))  # fmt: skip
    one = reader()
    window = one.window(None, None)
    assert window.tables["t"].values.names == ["id", "a", "b", "photo"]
    masks = [row["__dpone__unchanged"] for row in read(one, "t")]
    left = [[name for name, left in (mask or {}).items() if left] for mask in masks]
    assert left == [["photo"], ["b", "photo"], ["b", "photo"]]
    assert [row["id"] for row in read(one, "t")] == [1, 1, 1]


def test_operations_keys_and_before_images(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """Insert, update of the key, delete and truncate, each with what the log says of it."""
    gone, empty = delete("t", {"id": 2}, id=2, a=2.5), {"op": "truncate", "table": "t"}
    lines = insert("t", ID, a=1.5), update("t", ID, id=2, a=2.5), gone, empty
    write(log, transaction("1", *lines, at="2026-01-31T12:00:00+01:00"))
    one = reader()
    assert one.window(None, None).tables["t"].key == ("id",)
    made, moved, gone, emptied = read(one, "t")
    assert (made["__dpone__key"], made["id"], made["a"]) == (None, 1, 1.5)
    assert (moved["__dpone__key"], moved["id"]) == ({"id": 1}, 2)
    assert (gone["__dpone__key"], gone["id"], gone["__dpone__before"]) == ({"id": 2}, None, {"id": 2, "a": 2.5})
    assert (emptied["__dpone__op"], emptied["__dpone__key"], emptied["id"]) == ("truncate", None, None)
    assert made["__dpone__committed_at"].isoformat() == "2026-01-31T11:00:00+00:00"


def test_shapes_unite_inside_a_window_and_across(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """Blocks with other columns become one table; a later window still knows what it no longer sees."""
    write(log, *(transaction(f"{i:03}", insert("t", {"id": i}, **{f"c{i // 50}": "x" * 40})) for i in range(200)))
    one = reader(block_bytes=4096)
    first = one.window(None, None)
    assert first.tables["t"].values.names == ["id", "c0", "c1", "c2", "c3"]
    rows = read(one, "t")
    assert [[n for n, left in r["__dpone__unchanged"].items() if not left] for r in rows] == [
        ["id", f"c{i // 50}"] for i in range(200)
    ]
    write(log, transaction("200", insert("t", {"id": 200}, new=1)))
    second = one.window(first.position, None)
    assert second.tables["t"].values.names == ["id", "c0", "c1", "c2", "c3", "new"]


@pytest.mark.parametrize("block", [4096, 1 << 19])
@pytest.mark.parametrize(("limit", "inferred"), [(90, pa.int64()), (91, pa.json_()), (None, pa.json_())])
def test_types_are_inferred_from_the_whole_window_and_from_nothing_else(
    log: Path, reader: Callable[..., FileChangeLog], block: int, limit: int | None, inferred: pa.DataType
) -> None:
    """As in a JSON Lines file, values without a common type are json; what is after the window's end does not count."""
    write(log, *(transaction(f"{i:03}", insert("t", {"id": i}, a=i)) for i in range(90)))
    write(log, transaction("090", insert("t", {"id": 90}, a="text")), line(commit="091", values={"a": [1]}))
    one = reader(block_bytes=block)
    window = one.window(None, limit)
    assert window.commits == ("", "089" if limit == 90 else "090")
    assert window.tables["t"].values.field("a").type == inferred
    assert [row["a"] for row in read(one, "t")][:2] == ([0, 1] if inferred == pa.int64() else ["0", "1"])


def test_a_transaction_of_many_blocks_counts_whole(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """Types are those of all its blocks, also of those before the block with its commit line."""
    write(log, transaction("1", insert("t", {"id": 0}, a="x"), *(insert("t", {"id": i}, a=i) for i in range(1, 200))))
    assert reader(block_bytes=4096).window(None, None).tables["t"].values.field("a").type == pa.json_()


@pytest.mark.parametrize(
    ("values", "expected"), [({"a": 2, "b": 1}, pa.int64()), ({"a": "x"}, pa.string()), ({"b": 1}, pa.int64())]
)
def test_a_later_window_keeps_a_type_that_its_values_fit(
    log: Path, reader: Callable[..., FileChangeLog], values: Mapping[str, Any], expected: pa.DataType
) -> None:
    """A position as it was always written: its types hold until a value does not fit; then schema evolution decides."""
    first = transaction("1", insert("t", ID, a=1, b=0.5))
    value = {
        "offset": len(first), "sha256": hashlib.sha256(first.encode()).hexdigest(), "commit": "1", "lines": 2,
        "tables": {"t": {"columns": {"id": "int64", "a": "int64", "b": "double", "c": "decimal(9,2)"}, "key": ["id"]}},
    }  # fmt: skip
    write(log, first, transaction("2", insert("t", {"id": 2}, **values)))
    [table] = reader().window(Position("file_changelog", {"path": log.name}, value), None).tables.values()
    assert table.values.types == [pa.int64(), expected, pa.float64(), pa.decimal128(9, 2)]


def test_numbers_widen_inside_a_window(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """Whole numbers and fractions are one column of doubles, as in a JSON Lines file."""
    write(log, transaction("1", insert("t", ID, a=1)), transaction("2", insert("t", {"id": 2}, a=2.5)))
    one = reader()
    assert one.window(None, None).tables["t"].values.field("a").type == pa.float64()
    assert [row["a"] for row in read(one, "t")] == [1.0, 2.5]


def test_declared_types_are_used(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """A column is read as declared, for all tables or for one."""
    write(log, transaction("1", insert("t", ID, a=1, b="2026-01-31"), insert("u", ID, a=1)))
    one = reader(columns={"a": "string", "t.a": "decimal(9,2)", "b": "date"})
    window = one.window(None, None)
    assert window.tables["t"].values.types == [pa.int64(), pa.decimal128(9, 2), pa.date32()]
    assert window.tables["u"].values.types == [pa.int64(), pa.string()]
    assert str(read(one, "t")[0]["a"]) == "1.00"


def test_a_declared_length_is_checked(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """Of all tables or of one; a longer text stops with its line, and nothing is cut."""
    write(log, transaction("1", insert("t", ID, a="äöü"), insert("u", ID, a="abcd")))
    assert reader(columns={"a": "varchar(4)"}).window(None, None).tables["u"].values.field("a").metadata
    with pytest.raises(DataError, match=r"line 2, column 'a' has more than 3 characters"):
        reader(columns={"a": "varchar(4)", "u.a": "varchar(3)"}).window(None, None)


def test_another_key_ends_the_window(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """Rows told by other columns are not those before: the window ends there."""
    write(log, transaction("1", insert("t", ID, a=1)), transaction("2", insert("t", {"a": 1}, id=2)))
    one = reader()
    first = one.window(None, None)
    assert (first.commits, first.tables["t"].key) == (("", "1"), ("id",))
    assert one.window(first.position, None).tables["t"].key == ("a",)
    log.write_text(transaction("1", insert("t", ID, a=1), insert("t", {"a": 1}, id=2)))
    with pytest.raises(SchemaBreak, match="commit 1 uses different key columns for one table"):
        one.window(None, None)


def test_transactions_delivered_again_are_left_out(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """A writer that repeats itself after a crash: inside a window and across windows each change counts once."""
    write(log, orders(1, 9, "01"), orders(10, 12, "02"), orders(1, 9, "01"))
    one = reader()
    first = one.window(None, None)
    assert (first.changes, first.commits) == (16, ("", "02"))
    assert "skipped 12 changes delivered before" in first.proof
    write(log, orders(10, 12, "02"), orders(13, 14, "03"))
    second = one.window(first.position, None)
    assert (second.changes, second.commits) == (2, ("02", "03"))
    with one.read("orders") as stream:
        assert stream.filtered == 3


def test_one_event_with_two_contents_stops(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """The same commit with other values is not the same commit."""
    write(log, transaction("1", insert("t", ID, a="x")), transaction("1", insert("t", ID, a="y")))
    with pytest.raises(DataError, match="delivered twice, with different content"):
        reader().window(None, None)


def test_a_log_without_anything_new_keeps_its_position(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """An empty log, and one that did not grow: a window without tables, the position as before."""
    log.touch()
    one = reader()
    empty = one.window(None, None)
    assert (empty.tables, empty.changes, empty.position) == ({}, 0, one.create())
    write(log, orders(1, 4, "01"))
    first = one.window(empty.position, None)
    assert one.window(first.position, None).position == first.position


def rewritten(log: Path) -> None:
    text = log.read_text()
    log.write_text(text.replace("note 2", "nope 2"))


def replaced(log: Path) -> None:
    log.unlink()
    write(log, orders(500, 600, "01"))


def cut(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("harm", "error"),
    [(rewritten, IdentityChanged), (replaced, IdentityChanged), (cut, Gap), (Path.unlink, Gap)],
    ids=["rewritten", "replaced", "cut", "gone"],
)
def test_a_log_that_is_not_what_was_loaded_stops(
    log: Path, reader: Callable[..., FileChangeLog], harm: Callable[[Path], None], error: type[DponeError]
) -> None:
    """A log that was rewritten (also letter for letter), replaced, cut off or removed is never read on."""
    write(log, orders(1, 9, "01"), orders(10, 20, "02"))
    position = reader().window(None, None).position
    harm(log)
    for _ in range(2):
        with pytest.raises(error, match=r"resume log.jsonl: .+; restore the log, or use --full-refresh"):
            reader().window(position, None)


def test_another_path_is_another_log(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """A position of another log, or of something else, is refused."""
    write(log, orders(1, 2, "01"))
    position = reader().window(None, None).position
    other = Position(position.kind, {"path": "other.jsonl"}, position.value)
    for wrong in (other, Position("files", {"path": "log.jsonl"}, {"files": {}})):
        with pytest.raises(IdentityChanged):
            reader().window(wrong, None)


def test_a_log_that_is_not_there_is_a_source_error(reader: Callable[..., FileChangeLog]) -> None:
    """Before the first load, a missing log may be a wrong path: no traceback."""
    with pytest.raises(SourceError, match=r"read log.jsonl: .*[Nn]o such file"):
        reader().window(None, None)
    [finding] = reader().check()
    assert finding.ok is False


def line(**row: Any) -> str:
    given = {"op": "insert", "table": "t", "commit": "1", "key": ID, "values": ID, **row}
    return json.dumps({k: v for k, v in given.items() if v is not ...}) + "\n"


END = '{"op": "commit", "commit": "1"}\n'
WRONG: Mapping[str, tuple[str, str]] = {
    "no JSON": ("{oops}\n", "line 1 is not a JSON object"),
    "a key twice": ('{"op": "insert", "op": "update"}\n', "or has a key twice"),
    "no object": ("[]\n", "line 1 is JSON, but not an object"),
    "no commit": (line(commit=...), "has no commit"),
    "a commit in another": (line() + line(commit="2"), "line 2 belongs to commit 2, but transaction 1 is still open"),
    "an unknown key": (line(vlaues=ID), "unknown key 'vlaues'"),
    "an unknown op": (line(op="upsert"), "has no known 'op'"),
    "no table": (line(table=...), "has no table"),
    "no values": (line(values=...), "is an insert without 'values'"),
    "values that are none": (line(values=[1]), "has a 'values' that is not an object"),
    "a delete with values": (line(op="delete"), "is a delete with 'values'"),
    "both": (line(unchanged=["id"]), "'unchanged' that is not a list, or lists a column with a value"),
    "no name": (line(unchanged=[{}]), "'unchanged' that is not a list, or lists a column with a value"),
    "half a name": (line(values={"id": 1, "\ud800": 1}), "has a table name, key or commit that is not valid Unicode"),
    "half a commit": (line(commit="\ud800"), "has a table name, key or commit that is not valid Unicode"),
    "half a table": (line(table="\ud800"), "has a table name, key or commit that is not valid Unicode"),
    "a strange time": (line(at="yesterday"), "line 1 has an 'at' that is not a timestamp with a time zone"),
    "a time without zone": (
        line(at="2026-01-31T12:00:00"),
        "line 1 has an 'at' that is not a timestamp with a time zone",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_line_is_named(log: Path, reader: Callable[..., FileChangeLog], what: str) -> None:
    """One line of message with the number of the line, and no value of it."""
    text, found = WRONG[what]
    log.write_text(text + END)
    with pytest.raises(DataError) as caught:
        reader().window(None, None)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_line_of_a_later_window_has_its_number(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """Lines are counted from the log's beginning, whatever was read before."""
    write(log, orders(1, 4, "01"))
    position = reader().window(None, None).position
    write(log, "{}\n")
    with pytest.raises(DataError, match="line 7 has no commit"):
        reader().window(position, None)


def test_a_value_that_does_not_fit_is_named(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """A value that is not of its declared type: line and column, never the value."""
    write(log, transaction("1", insert("t", ID, a="5"), insert("t", {"id": 2}, a="secret")))
    with pytest.raises(DataError, match="line 2, column 'a' is not a valid int64") as caught:
        reader(columns={"a": "int64"}).window(None, None)
    assert "secret" not in str(caught.value)


def test_only_the_tables_asked_for_are_read(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """By name or by glob; ordinals count the others too, so that an event has one name whoever reads it."""
    write(log, orders(1, 6, "01"))
    one = reader("orders")
    assert list(one.window(None, None).tables) == ["orders"]
    assert [row["__dpone__ordinal"] for row in read(one, "orders")] == [1, 2, 3, 5, 6, 7]
    assert list(reader("c*").window(None, None).tables) == ["customers"]


def test_what_a_file_cannot_do_is_said(log: Path, reader: Callable[..., FileChangeLog]) -> None:
    """No setup, nothing to drop, and a lag in bytes."""
    write(log, orders(1, 6, "01"))
    one = reader()
    one.ack(one.window(None, None).position)
    one.drop()
    assert one.setup_plan() == []
    assert one.lag() == {"log_bytes": log.stat().st_size}
    assert one.check()[0].found == "8 changes of orders, customers up to commit 01"


TYPES = {"d": "date", "t": "time", "ts": "timestamp", "tz": "timestamptz", "ns": "timestamp_ns", "u": "uuid",
         "raw": "binary", "x": "double"}  # fmt: skip
VALUES: Mapping[str, Any] = {
    "d": "2024-02-29",
    "t": "23:59:59.5",
    "ts": "2024-02-29 01:02:03.000004",
    "tz": "2024-02-29T01:02:03+02:00",
    "ns": "2024-02-29 01:02:03.000000004",
    "u": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "raw": "AAE=",
    "x": 0.5,
    "note": "é 1e733, 12345678901234567890.5,",
}


def test_declared_types_take_the_way_of_whole_columns(
    log: Path, reader: Callable[..., FileChangeLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is split for a type that is declared, nor for digits in a text; for json each line is."""
    split, taken_apart = changelog.members, list[str]()

    def counted(line: str) -> dict[str, str]:
        taken_apart.append(line)
        return split(line)

    monkeypatch.setattr(changelog, "members", counted)
    write(log, transaction("1", insert("t", ID, **VALUES), insert("t", {"id": 2}), delete("t", ID, **VALUES)))
    one = reader(columns=TYPES)
    one.window(None, None)
    assert taken_apart == []
    with one.read("t") as stream:
        [found] = stream.batches()
    nanoseconds = found.column("ns").cast(pa.int64()).to_pylist()
    assert [None if n is None else n % 10**9 for n in nanoseconds] == [4, None, None]
    row, empty, gone = found.drop_columns(["ns", "__dpone__before"]).to_pylist()
    assert row["ts"] == datetime(2024, 2, 29, 1, 2, 3, 4)
    assert row["tz"] == datetime(2024, 2, 28, 23, 2, 3, tzinfo=UTC)
    assert (row["d"], row["t"]) == (date(2024, 2, 29), time(23, 59, 59, 500_000))
    assert (str(row["u"]), row["raw"], row["x"]) == (VALUES["u"], b"\0\1", 0.5)
    assert not any(one[name] for one in (empty, gone) for name in VALUES if name != "ns")
    before = found.column("__dpone__before")
    assert before.is_valid().to_pylist() == [False, False, True]
    assert all(pc.struct_field(before, name)[2] == found.column(name)[0] for name in VALUES)
    reader(columns={**TYPES, "note": "json"}).window(None, None)
    assert taken_apart


@pytest.mark.parametrize("declared", [*TYPES.values(), "decimal(9,2)", "int64", "boolean", "string", "real"])
@pytest.mark.parametrize(
    "text",
    [
        '"2024-02-29"', '"2023-02-29"', '"2024-02-29 01:02:03"', '"2024-02-29T01:02:03.123456Z"',
        '"2024-02-29 01:02:03.123456789"', '"2024-02-29 24:00:00"', '"2024-2-9"', '" 2024-02-29"', '"10000-01-01"',
        '"0001-01-01"', '"1677-01-01 00:00:00"', '"2024\\u002d02-29"', '"12:30"', '"12:30:61"', '""', '"null"', "null",
        "0", "20240229", "2024", "-1.5", "1e3", "123456789012345678901", "0.1234567890123456789", "true", '"true"',
        "1e400", "3.5e38", "-1e400", '"inf"',
        '"6BA7B8109DAD11D180B400C04FD430C8"', '"{6ba7b810-9dad-11d1-80b4-00c04fd430c8}"', '"AAE"', '"AAE="', "[]",
        '{"a": 1}', '"\\ud800"', '"\\ud83d\\ude00"', '"a\\u0000"', '"1.50"', '"1.505"', '"0x1p3"', '"nan"',
    ],
)  # fmt: skip
def test_both_ways_read_the_same(
    log: Path, reader: Callable[..., FileChangeLog], monkeypatch: pytest.MonkeyPatch, declared: str, text: str
) -> None:
    """Whatever a value is: read in whole columns or line by line, it is the same value or the same refusal."""

    def outcome() -> Any:
        one = reader(columns={"a": declared})
        try:
            one.window(None, None)
        except DataError as error:
            return str(error)
        with one.read("t") as stream:
            return [str(batch) if declared in ("double", "real") else batch for batch in stream.batches()]  # NaN

    first, second, end = transaction("1", insert("t", ID), insert("t", ID, a="here")).splitlines(keepends=True)
    log.write_text(first + second.replace('"here"', text) + end)
    found = outcome()
    monkeypatch.setattr(changelog, "batch_of", lambda data, schema: None)
    by_line = outcome()
    assert found == by_line


@pytest.mark.parametrize(
    ("declared", "number"), [("double", "1e400"), ("real", "3.5e38"), ("decimal(9,2)", "12345678")]
)
def test_a_number_beyond_its_type_is_refused(
    log: Path, reader: Callable[..., FileChangeLog], declared: str, number: str
) -> None:
    """It becomes neither infinity nor a decimal with more digits than it may have: its line and column are named."""
    write(log, transaction("1", insert("t", ID, a=1), insert("t", ID, a="here")).replace('"here"', number))
    with pytest.raises(DataError, match=r"line 2, column 'a' is not a valid"):
        reader(columns={"a": declared}).window(None, None)
