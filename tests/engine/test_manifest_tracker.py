"""The manifest of a load while it runs: what is recorded when, and who may throw the staging away."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.partition.stores import KEY, KINDS, manifest, store

from dpone.engine.manifest_tracker import Halted, ManifestTracker
from dpone.errors import Busy, Conflict, SourceError, StateError
from dpone.model.staged import Staged
from dpone.partition import PartitionManifest, PartitionManifestStore


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> PartitionManifestStore:
    return store(request.param, tmp_path)


def opened(kept: PartitionManifestStore, run: str = "R1") -> ManifestTracker:
    return ManifestTracker.open(kept, manifest(run_id=run), kept.load(KEY), {}, 60.0)


def stage(tracker: ManifestTracker, id: str, rows: int = 5) -> None:
    with tracker.running(id) as finish:
        finish(Staged(rows, 10 * rows))


def found(kept: PartitionManifestStore) -> PartitionManifest:
    there = kept.load(KEY)
    assert there is not None
    return there


def status(kept: PartitionManifestStore) -> list[str]:
    return [one.status for one in found(kept).partitions]


def test_a_part_that_was_recorded_is_not_recorded_again(kept: PartitionManifestStore) -> None:
    """Parts that ended are recorded by save or by the next claim, each once, in any order of the two."""
    tracker = opened(kept)
    stage(tracker, "000")
    tracker.save()
    stage(tracker, "001")
    stage(tracker, "002")
    assert status(kept) == ["success", "success", "running"]
    tracker.save()
    tracker.save()
    assert status(kept) == ["success"] * 3
    assert [(one.rows_loaded, one.bytes) for one in found(kept).partitions] == [(5, 50)] * 3


def test_the_store_is_not_asked_where_nothing_has_ended(
    kept: PartitionManifestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a store which is out of reach by then fails no load whose parts are all recorded."""
    tracker = opened(kept)
    stage(tracker, "000")
    tracker.save()

    def out_of_reach(*given: object) -> None:
        raise StateError("record the parts", "the store is out of reach", "run again")

    monkeypatch.setattr(type(kept), "change_all", out_of_reach)
    tracker.save()
    with pytest.raises(StateError), tracker.running("001"):
        raise AssertionError("it was not claimed")


def test_parts_go_on_after_one_that_failed(kept: PartitionManifestStore) -> None:
    """A part that fails records itself and the parts that ended before it; the next claim goes on from there."""
    tracker = opened(kept)
    stage(tracker, "000")
    with pytest.raises(SourceError), tracker.running("001"):
        raise SourceError("read", "bad luck", "wait")
    assert status(kept) == ["success", "failed", "pending"]
    assert "bad luck" in str(found(kept).partitions[1].error)
    stage(tracker, "002")
    tracker.save()
    assert status(kept) == ["success", "failed", "success"]


def test_a_part_that_ended_while_another_failed_is_recorded(kept: PartitionManifestStore) -> None:
    """With several workers: the failure records what has ended since the last claim, so that it is not read again."""
    tracker = opened(kept)

    def fail_after_the_other() -> None:
        stage(tracker, "000")
        raise SourceError("read", "bad luck", "wait")

    with pytest.raises(SourceError), tracker.running("001"):
        fail_after_the_other()
    assert status(kept) == ["success", "failed", "pending"]


def test_a_part_that_waits_has_nothing_yet(kept: PartitionManifestStore) -> None:
    """No rows, no bytes, no attempt, no file, no owner and no error."""
    opened(kept)
    for one in found(kept).partitions:
        assert (one.rows_extracted, one.rows_loaded, one.bytes, one.attempts) == (0, 0, 0, 0)
        assert {one.artifact, one.checksum, one.owner, one.error, one.reason, one.expires_at} == {None}


def test_an_error_is_kept_in_one_short_line(kept: PartitionManifestStore) -> None:
    """However long and wide it is; its name is part of it unless it is one of ours."""
    tracker = opened(kept)
    with pytest.raises(ValueError, match="bad"), tracker.running("000"):
        raise ValueError("bad\n  luck " + "x" * 5000)
    with pytest.raises(SourceError), tracker.running("001"):
        raise SourceError("read", "bad\nluck", "wait")
    first, second, _ = (one.error for one in found(kept).partitions)
    assert str(first).startswith("ValueError: bad luck xxx")
    assert len(str(first)) == 1000
    assert second == "read: bad luck; wait"


def test_a_part_that_another_runner_took_over_is_not_recorded(kept: PartitionManifestStore) -> None:
    """The lease ended and another has the part: what this one staged is not in the manifest, and it is told so."""
    tracker = opened(kept)
    stage(tracker, "000")
    kept.release(KEY, "000", tracker.owner)
    kept.claim(KEY, "000", "another", 60.0)
    with pytest.raises(Conflict, match="finish partition 000: another took it over"):
        tracker.save()
    assert status(kept) == ["running", "pending", "pending"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Halted("read", "another part failed", "see there")])
def test_a_part_that_is_not_at_fault_waits_again(kept: PartitionManifestStore, error: BaseException) -> None:
    """An interrupted part, or one that was stopped because another failed, is pending: no error, no attempt counted."""
    tracker = opened(kept)
    with pytest.raises(type(error)), tracker.running("000"):
        raise error
    [one, *_] = found(kept).partitions
    assert (one.status, one.attempts, one.error) == ("pending", 0, None)


def test_half_done_is_some_and_not_all(kept: PartitionManifestStore) -> None:
    """Nothing staged and everything staged are not half a load."""
    tracker = opened(kept)
    assert not tracker.half_done
    for id, half in (("000", True), ("001", True), ("002", False)):
        stage(tracker, id)
        assert tracker.half_done is half


def test_a_load_that_another_run_opened_is_taken_over(kept: PartitionManifestStore) -> None:
    """Whose manifest it is says the run that opened it last."""
    first = opened(kept)
    assert not first.taken_over()
    second = opened(kept, "R2")
    assert (first.taken_over(), second.taken_over()) == (True, False)
    kept.forget(KEY)
    assert not second.taken_over()


def test_a_load_nobody_can_ask_about_counts_as_taken_over(
    kept: PartitionManifestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the state is out of reach another run may be going on with the staging, so it is left alone."""
    tracker = opened(kept)

    def lost(key: str) -> None:
        raise StateError("read", "no connection", "wait")

    monkeypatch.setattr(kept, "load", lost)
    assert tracker.taken_over()


def test_parts_being_read_are_renewed(kept: PartitionManifestStore) -> None:
    """A part is held for as long as it is read, by renewals, and by nobody when it has ended."""
    tracker = opened(kept)
    with tracker.running("000") as finish:
        before = found(kept).partitions[0].expires_at
        assert before is not None
        kept.renew(KEY, "000", tracker.owner, 1.0)  # nearly over
        tracker.renew()
        after = found(kept).partitions[0].expires_at
        assert after is not None
        assert after >= before
        with pytest.raises(Busy):
            kept.claim(KEY, "000", "another", 60.0)
        finish(Staged(1, 1))
    tracker.save()
    tracker.renew()
    assert status(kept) == ["success", "pending", "pending"]


def test_dropped_staging_is_not_done(kept: PartitionManifestStore) -> None:
    """When the staging is thrown away no part is a success any more; what failed or was skipped stays so."""
    tracker = opened(kept)
    stage(tracker, "000")
    with pytest.raises(SourceError), tracker.running("001"):
        raise SourceError("read", "bad luck", "wait")
    kept.skip(KEY, "002", "broken")
    tracker.dropped()
    assert status(kept) == ["pending", "failed", "skipped"]


def test_without_a_store_nothing_is_kept() -> None:
    """A load of one part has no manifest: every step does nothing, and nobody can have taken it over."""
    tracker = ManifestTracker()
    stage(tracker, "000")
    tracker.save()
    tracker.renew()
    tracker.dropped()
    assert not tracker.half_done
    assert not tracker.taken_over()
