"""Tables read by columns: gathered ranges of pages bring what single rows bring."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from attrs import evolve as replace
from tests.postgres.target import Target, read
from tests.postgres.test_types import SPECIMENS, own, typed

from dpone.contract import Part, WindowRequest
from dpone.errors import DataError
from dpone_postgres import binary, columns
from dpone_postgres.config import PartitionBy
from dpone_postgres.source import PostgresSource

__all__ = ["typed"]


def gathered(target: Target, url: str = "", parts: int = 1, **options: Any) -> bool:
    """True if the table is read by columns, all parts of it."""
    with closing(target.source(url, **options)) as source:
        window = source.window(None, WindowRequest(partitions=parts))
        assert len(window.parts) == parts
        found = []
        for part in window.parts:
            with source.read(part) as stream:
                found.append(source.gathered(stream._reading.spans[0], part, stream._session))  # type: ignore[attr-defined]
    return None not in found


def read_at(target: Target, url: str) -> pa.Table:
    with closing(target.source(url)) as source:
        return read(source, source.window(None, WindowRequest()))


def texts(table: pa.Table) -> list[str]:
    """NaN is like NaN, -0.0 is not 0.0; times are numbers, for Python's calendar is short."""
    whole = {True: lambda c: c.cast(pa.int32() if c.type == pa.date32() else pa.int64()), False: lambda c: c}
    plain = (whole[pa.types.is_temporal(c.type)](c).to_pylist() for c in table.columns)
    return [repr(row) for row in zip(*plain, strict=True)]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of two pages, three of them in a statement."""
    monkeypatch.setattr(columns, "FEW", 2)
    monkeypatch.setattr(columns, "_MANY", 2)
    monkeypatch.setattr(columns, "_RANGES", 3)


def test_columns_bring_what_rows_bring(typed: Target, narrow: None) -> None:
    """Every type, with NULLs in some ranges, all ranges and none: the table's values are those of a query of it."""
    kinds = {f"c{i}": t for i, t in enumerate(SPECIMENS) if t not in ("numeric(12,2)", "text")}
    made = ", ".join(f"{name} {own(t, typed.schema)}" for name, t in kinds.items())
    typed.run(f"CREATE TABLE orders (id int NOT NULL, n numeric(12,2), t text, empty bigint, {made})")
    for i in range(8):
        shown = ", ".join(f"({SPECIMENS[t][i % len(SPECIMENS[t])]})::{own(t, typed.schema)}" for t in kinds.values())
        some = f"CASE WHEN g % 3 = 0 THEN NULL ELSE {i} * 0.01 END, CASE g % 4 WHEN 0 THEN '' WHEN 1 THEN 'é' || g END"
        typed.run(f"INSERT INTO orders SELECT g, {some}, NULL, {shown} FROM generate_series(1, 9) AS g")
        typed.run("INSERT INTO orders (id) SELECT generate_series(1, 300)")
    assert gathered(typed)
    by_columns = typed.read()
    by_rows = typed.read(query=f"SELECT * FROM {typed.name}")
    assert by_columns.schema.types == by_rows.schema.types
    assert by_columns.num_rows == 8 * 309
    assert texts(by_columns) == texts(by_rows)


def test_ranges_without_rows_and_many_rows(target: Target, narrow: None) -> None:
    """Pages whose rows were deleted bring nothing; a batch has no more rows than asked for; parts have their own."""
    target.run(
        "CREATE TABLE orders (id int)",
        "INSERT INTO orders SELECT generate_series(1, 9000)",
        "DELETE FROM orders WHERE id BETWEEN 1000 AND 5000",
    )
    assert gathered(target)
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest(batch_rows=100, partitions=3))
        found: list[int] = []
        for part in window.parts:
            with source.read(part) as stream:
                for batch in stream.batches():
                    assert batch.num_rows <= 100
                    found += batch.column(0).to_pylist()
    assert len(window.parts) == 3
    assert found == [*range(1, 1000), *range(5001, 9001)]


def test_columns_may_have_the_names_of_our_own(target: Target, narrow: None) -> None:
    """What the statement calls its parts is no word that a column could take over."""
    names = ("p", "s", "a", "g", "t", "count")
    target.run(
        f"CREATE TABLE orders AS SELECT {', '.join(f'i AS {n}' for n in names)} FROM generate_series(1, 3000) AS i"
    )
    assert gathered(target)
    assert target.read().to_pydict() == {n: list(range(1, 3001)) for n in names}


def test_an_empty_table(target: Target) -> None:
    """No pages, no rows."""
    target.run("CREATE TABLE orders (id int, t text)")
    assert target.read().num_rows == 0


def test_a_row_that_cannot_be_held_is_named_beyond_the_first_range(target: Target, narrow: None) -> None:
    """The row of the message counts from the beginning of the read."""
    target.run(
        "CREATE TABLE orders (id int, v numeric(9,2))",
        "INSERT INTO orders SELECT g, CASE g WHEN 1234 THEN 'NaN'::numeric ELSE g END FROM generate_series(1, 2000) g",
    )
    assert gathered(target)
    with pytest.raises(DataError, match=r"column v, row 1,234 of the read: NaN"):
        target.read()


def test_ranges_of_pages_are_read_by_columns_too(target: Target, narrow: None) -> None:
    """Parts of a table that are its pages: each row is in one of them. Other parts are read row by row."""
    target.run("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders SELECT generate_series(1, 5000)")
    assert gathered(target, parts=3)
    assert not gathered(target, parts=3, partition=PartitionBy("range", "id"))
    with closing(target.source()) as source:
        parts = [read_part(source, part) for part in source.window(None, WindowRequest(partitions=3)).parts]
    assert sorted(id_ for ids in parts for id_ in ids) == list(range(1, 5001))
    assert all(parts)


def read_part(source: PostgresSource, part: Part) -> list[int]:
    with source.read(part) as stream:
        return [id_ for batch in stream.batches() for id_ in batch.column("id").to_pylist()]


def test_children_are_read_with_their_parent(target: Target) -> None:
    """A child's rows lie in pages of its own: such a table is read row by row, and whole."""
    target.run(
        "CREATE TABLE orders (id int)", "CREATE TABLE more () INHERITS (orders)",
        "INSERT INTO orders VALUES (1)", "INSERT INTO more SELECT generate_series(2, 50000)",
    )  # fmt: skip
    assert not gathered(target)
    assert target.read().num_rows == 50_000


def test_values_out_of_line_are_read_row_by_row(target: Target) -> None:
    """A range of pages can point to any amount of them, and would be held whole."""
    target.run(
        "CREATE TABLE orders (id int, v text)", "ALTER TABLE orders ALTER COLUMN v SET STORAGE EXTERNAL",
        "INSERT INTO orders SELECT g, repeat('x', 100000) FROM generate_series(1, 10) AS g",
    )  # fmt: skip
    assert not gathered(target)
    assert target.read().column("v").to_pylist() == ["x" * 100_000] * 10


def test_long_values_make_ranges_short(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks compress a hundred times, in line: from the second statement on a message has few of them."""
    monkeypatch.setattr(columns, "_RANGES", 2)
    target.run(
        "CREATE TABLE orders (id int, v text)",
        "INSERT INTO orders SELECT g, repeat(' ', 20000) FROM generate_series(1, 3000) AS g",
    )
    assert gathered(target)
    with closing(target.source()) as source:
        window = source.window(None, WindowRequest())
        with source.read(window.parts[0]) as stream:
            sizes = [(batch.num_rows, batch.nbytes) for batch in stream.batches()]
    assert sum(rows for rows, _ in sizes) == 3000
    assert max(size for _, size in sizes[len(sizes) // 2 :]) <= 4 << 20


def test_where_ranges_cannot_be_found_rows_are_read(target: Target) -> None:
    """Without TID range scans each range would be a scan of the whole table; a role that sees some columns has no
    ctid. Both read the same rows as they may."""
    target.run(
        "CREATE TABLE orders (id int, secret text)", "INSERT INTO orders SELECT generate_series(1, 3000)",
        f"CREATE ROLE {target.schema}_r LOGIN", f"GRANT USAGE ON SCHEMA {target.schema} TO {target.schema}_r",
        f"GRANT SELECT (id) ON orders TO {target.schema}_r",
    )  # fmt: skip
    try:
        without = target.server.url + "?options=-cenable_tidscan%3Doff"
        assert gathered(target)
        assert not gathered(target, without)
        assert read_at(target, without).column("id").to_pylist() == [*range(1, 3001)]
        other = replace(target.server, user=f"{target.schema}_r").url
        with closing(target.source(other, query=f"SELECT id FROM {target.name}")) as source:
            assert read(source, source.window(None, WindowRequest())).num_rows == 3000
    finally:
        target.run(f"DROP OWNED BY {target.schema}_r", f"DROP ROLE {target.schema}_r")


@pytest.mark.parametrize(
    ("kind", "type_", "form"),
    [
        ("bool", pa.bool_(), ">?"),
        ("int2", pa.int16(), ">h"),
        ("int4", pa.int32(), ">i"),
        ("float8", pa.float64(), ">d"),
    ],
)
@pytest.mark.parametrize("holes", ["", "0", "6", "036", "0123456", "123"])
def test_an_array_with_nulls_at_every_place(kind: str, type_: pa.DataType, form: str, holes: str) -> None:
    """Values of one, two, four and eight bytes, some of them with the bytes of a NULL's length."""
    some: dict[str, list[Any]] = {
        "bool": [True, False],
        "float8": [0.5, -0.0, struct.unpack(">d", b"\xff" * 7 + b"\0")[0]],
    }
    values = [None if str(i) in holes else some.get(kind, [-1, 7])[i % len(some.get(kind, [-1, 7]))] for i in range(7)]
    body = b"".join(
        b"\xff\xff\xff\xff" if v is None else struct.pack(">i", struct.calcsize(form)) + struct.pack(form, v)
        for v in values
    )
    image = struct.pack(">iiIii", 1, bool(holes), 23, 7, 1) + body
    array = binary.array(memoryview(image), 7, type_, kind)
    assert [repr(v) for v in array.to_pylist()] == [repr(v) for v in values]
