"""snapshot_diff against a plain Python model, and the guards of its deletes."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sql.test_finalize import PLAIN, Row, keyed, ordered, row, table
from tests.sqlite.target import KEY, MEMORY, Target, at, load, rows

from dpone.contract import Part
from dpone.errors import ConfigError, DataError, DeletesRefused
from dpone.model.strategy import Strategy

ALL = Strategy("snapshot_diff", key="id", max_delete_share=1.0)
GUARDED = Strategy("snapshot_diff", key="id")


def many(*ids: int, name: str = "a") -> Any:
    return table(*((i, name, 1.0, 1) for i in ids))


@settings(max_examples=60)
@given(st.lists(keyed, min_size=1, max_size=5), st.booleans(), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_the_target_equals_the_rows_read(batches: list[list[Row]], existing: bool, share: float) -> None:
    """After each load the target is what was read, equal rows as they were; or as before, where too many would go."""
    strategy = Strategy("snapshot_diff", key="id", max_delete_share=share)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        if existing:
            target.run(
                "CREATE TABLE orders (id INT, region VARCHAR(9) COLLATE NOCASE, amount DOUBLE, seen BIGINT,"
                " __dpone__load_id TEXT, __dpone__loaded_at TIMESTAMPTZ)"
            )
        kept: dict[int, tuple[Any, ...]] = {}
        for n, batch in enumerate(batches):
            new = {r[0]: (*r, f"L{n}") for r in batch}
            gone = [key for key in kept if batch and key not in new]
            if kept and len(gone) > share * len(kept):
                with pytest.raises(DeletesRefused, match=f"{len(gone)} of {len(kept)} rows? of the target"):
                    target.load(table(*batch), strategy, load_id=f"L{n}")
            else:
                receipt = target.load(table(*batch), strategy, load_id=f"L{n}")
                equal = {k for k in new if k in kept and kept[k][:4] == new[k][:4]}
                changed = len([k for k in new if k in kept]) - len(equal)
                counts = (receipt.inserted, receipt.updated, receipt.deleted, receipt.unchanged)
                assert counts == (len(new) - changed - len(equal), changed, len(gone), len(equal))
                if batch:
                    kept = {k: kept[k] if k in equal else v for k, v in new.items()}
            assert ordered(target.rows("id, region, amount, seen, __dpone__load_id")) == ordered([*kept.values()])


@settings(max_examples=40)
@given(keyed, st.lists(row, max_size=12), st.sampled_from(["first", "last"]))
def test_duplicates_go_by_the_stated_order(before: list[Row], new: list[Row], policy: Any) -> None:
    """Of two rows of one key the stated one counts, and a key that is read twice is not deleted."""
    pick = min if policy == "first" else max
    best = {k: pick((r for r in new if r[0] == k), key=lambda r: (r[3] is not None, r[3] or 0)) for k, *_ in new}
    ranks = [(r[0], r[3]) for r in new]
    if len(set(ranks)) != len(ranks):
        return
    strategy = Strategy("snapshot_diff", key="id", duplicates=policy, order_by="seen", max_delete_share=1)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        target = Target(Path(folder) / "t.db")
        target.load(table(*before), ALL, lineage=PLAIN)
        target.load(table(*new), strategy, lineage=PLAIN)
        assert ordered(target.rows()) == ordered([*best.values()] if new else before)


def test_LS_09_half_a_source_deletes_nothing(target: Target) -> None:
    """A read that ends at half of the rows stops the load by name; rows and journal are as before."""
    target.load(many(*range(100)), GUARDED)
    before = target.dump()
    with pytest.raises(DeletesRefused) as caught:
        target.load(many(*range(50), name="b"), GUARDED)
    assert caught.value.exit_code == 3
    assert "50 of 100 rows of the target are not in the rows read (50.0%), max_delete_share allows 20.0%" in str(
        caught.value
    )
    assert "raise strategy.max_delete_share" in str(caught.value)
    assert target.dump() == before
    assert target.load(many(*range(50), name="b"), ALL).deleted == 50


def test_LS_09_the_share_is_a_limit_that_is_allowed(target: Target) -> None:
    """Twenty of a hundred may go, twenty-one may not."""
    target.load(many(*range(100)), GUARDED)
    with pytest.raises(DeletesRefused):
        target.load(many(*range(79)), GUARDED)
    assert target.load(many(*range(80)), GUARDED).deleted == 20


@pytest.mark.parametrize(
    ("what", "found"),
    [
        (
            {"whole": False},
            "1 of 10 rows of the target are not in the rows read, but the read was not the whole",
        ),
        ({"filtered": 1}, "but only 9 of 10 rows reached the staging"),
    ],
    ids=["an increment", "rows left out"],
)
def test_LS_09_an_incomplete_read_deletes_nothing(target: Target, what: dict[str, Any], found: str) -> None:
    """Rows that were not read, or did not reach the staging, are not gone; without deletes such a read may pass."""
    target.load(many(*range(10)), ALL)
    before = target.dump()
    with pytest.raises(DeletesRefused) as caught:
        target.load(many(*range(9)), ALL, **what)
    assert found in str(caught.value)
    assert target.dump() == before
    assert target.load(many(*range(11)), ALL, **what).inserted == 1


def test_LS_09_an_empty_read_deletes_nothing_unless_allowed(target: Target) -> None:
    """Nothing read leaves the target; allow_empty empties it, but not after a read that left rows out."""
    target.load(many(1, 2), GUARDED)
    target.load(many(), ALL)
    empty = Strategy("snapshot_diff", key="id", allow_empty=True)
    with pytest.raises(DeletesRefused):
        target.load(many(), empty, filtered=2)
    assert target.rows("id") == [(1,), (2,)]
    assert target.load(many(), empty).deleted == 2
    assert target.rows() == []


def test_LS_09_a_lost_staged_row_is_noticed(target: Target) -> None:
    """A stage that holds fewer rows than were written to it deletes nothing."""
    target.load(many(*range(10)), ALL)
    with closing(target.sink(ALL)) as sink:
        writer = sink.open(load(many().schema, ALL))
        writer.stage(Part("all"), rows(many(*range(10))))
        (stage,) = target.stages()
        target.run(f'DELETE FROM "{stage}" WHERE id = 3')
        with pytest.raises(DeletesRefused, match="only 9 of 10 rows reached the staging"):
            writer.commit(sink.journal(KEY), at(1))
    assert len(target.rows()) == 10


def test_LS_09_null_differs_from_every_value(target: Target) -> None:
    """A value that becomes NULL, and a NULL that becomes '', are changes; NULL and NULL are equal."""
    target.load(table((1, "", 1.0, 1), (2, None, 1.0, 1), (3, None, None, None)), ALL, lineage=PLAIN)
    receipt = target.load(table((1, None, 1.0, 1), (2, "", 1.0, 1), (3, None, None, None)), ALL, lineage=PLAIN)
    assert (receipt.updated, receipt.unchanged, receipt.deleted) == (2, 1, 0)
    assert target.rows("region") == [(None,), ("",), (None,)]


def test_LS_09_unchanged_rows_are_not_rewritten(target: Target) -> None:
    """A trigger on the target sees the changed row alone, and its indexes stay."""
    target.load(many(*range(10)), ALL)
    target.run(
        "CREATE TABLE touched (id INTEGER)",
        "CREATE TRIGGER look AFTER UPDATE ON orders BEGIN INSERT INTO touched VALUES (new.id); END",
    )
    target.load(table(*((i, "B" if i == 4 else "a", 1.0, 1) for i in range(10))), ALL)
    assert target.query("SELECT id FROM touched") == [(4,)]


def test_a_target_with_a_key_twice_is_refused(target: Target) -> None:
    """Two target rows of one key cannot equal the one that was read."""
    target.load(many(1, 1, 2), Strategy("append"))
    before = target.dump()
    with pytest.raises(DataError, match="1 key with several rows in the target"):
        target.load(many(1, 2), ALL)
    assert target.dump() == before


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(share: float) -> None:
    """max_delete_share is a share, not a percentage."""
    with pytest.raises(ValueError, match="max_delete_share"):
        Strategy("snapshot_diff", key="id", max_delete_share=share)


def test_a_share_belongs_to_strategies_that_delete() -> None:
    """An option that the strategy would not look at is refused."""
    with pytest.raises(ConfigError, match="option max_delete_share"):
        Strategy("merge", key="id", max_delete_share=0.5)
