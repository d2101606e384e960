"""Facts of tables as a position keeps them, without a server."""

from __future__ import annotations

import json

from attrs import evolve
from hypothesis import given as for_all
from hypothesis import strategies as st

from dpone_postgres import outside
from dpone_postgres.offsets import PostgresLogicalOffset
from dpone_postgres.outside import ChildPartition, Facts, KnownFacts, Type

OID = st.integers(16_384, 2**32 - 1)


def facts(oid: int, partitions: int) -> Facts:
    columns = tuple(f"column_{i}" for i in range(20))
    nodes = {n: ChildPartition(n, oid, n + 7, 1_000_000) for n in range(oid + 10, oid + 10 + 3 * partitions, 3)}
    return Facts((16_500, 900_000, True), ("insert",), (oid + 5,), "", columns, (1_000_000,) * 20, 0, nodes)


@for_all(st.dictionaries(OID, OID, max_size=60), OID)
def test_what_a_position_keeps_comes_back_from_json(files: dict[int, int], oid: int) -> None:
    """Partitions of any oid and file node, and the facts beside them."""
    nodes = {one: ChildPartition(one, oid, file, 3) for one, file in files.items()}
    types = {oid: Type("s.mood", ((oid, "low"), (oid + 1, "high")), grows=True)}
    given = Facts(
        (oid, 2, False), (), (1, 2), "ab", ("id", "", "v"), (5, 6, -7), 8, nodes, since=9, ties=(0, oid), types=types
    )  # fmt: skip
    kept = evolve(given.known(), seen={oid: 3}, truncated=7, known=2)
    assert KnownFacts.from_json(json.loads(json.dumps(kept.to_json()))) == kept


def test_a_position_of_an_earlier_version_is_read() -> None:
    """What it does not have is not compared: it says nothing of the facts that later versions keep."""
    old = {"publication": [1, 2, True], "members": [3], "columns": ["id"], "versions": [4], "partitions": "a.0"}
    kept = KnownFacts.from_json(old)
    assert (kept.ties, kept.toast, kept.types, kept.known) == ((), 0, {}, 1)
    now = Facts((1, 2, True), ("insert",), (3,), "", ("id",), (4,), 0, ties=(5,), toast=6, own=False, dropped=(False,))
    assert not [*outside._membership(kept, now), *outside._types(kept, now)]


def test_a_position_of_many_tables_and_partitions_stays_small() -> None:
    """A hundred roots of fifty partitions and twenty columns each: every load writes the position once more."""
    outside = {f"shop.table_{i}": facts(20_000 + 1000 * i, 50).known().to_json() for i in range(100)}
    offset = PostgresLogicalOffset("1", 1, "shop", "slot", "pgoutput", "shop", "16/B374D848", outside=outside)
    assert len(offset.to_position().dumps()) < 80_000
