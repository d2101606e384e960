"""StateContract: what a state backend that declares a capability must do."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from attrs import evolve

from dpone.contract import Finding, SupportsPartitions, SupportsRunLog
from dpone.errors import Busy, Category, Conflict, DponeError
from dpone.host.process import Process
from dpone.model.run_record import RunError, RunRecord
from dpone.model.staged import Staged
from dpone.testing import crash
from dpone.testing.cases import RoleContract, at_once, case
from dpone.testing.harness import Harness
from dpone.testing.outside import made_offline, nothing_left, waits_end
from dpone.testing.unreachable import offline

KEY = "pipeline|stream|file:a/*.csv|sqlite:orders"
_HOLDER = """
import os, pickle, sys
spec, reference = pickle.load(sys.stdin.buffer)
from dpone.plugins import resolve
held = resolve(reference)(spec).lock(sys.argv[1], 3600)
held.__enter__()
os._exit(9)
"""


class StateContract(RoleContract):
    """Subclass it and name the ``connector``, whose plugin names the Harness. Every case starts with an empty place.

    What the contract says and no case examines: a kill within ``save`` (no call from outside reaches that moment;
    ``test_of_many_savers_one_wins`` shows that it is atomic against other processes).
    """

    role = "state"

    @case("compare_and_set")
    def test_a_value_is_saved_and_counted(self, harness: Harness) -> None:
        """Versions count from 1; another object reads what one has saved; keys are kept apart."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other:
            assert one.load(KEY) is None
            assert one.save(KEY, {"a": 1, "é": None}, 0) == 1
            assert one.save(KEY, {"a": [2, "x"]}, 1) == 2
            found = other.load(KEY)
            assert (found.value, found.version) == ({"a": [2, "x"]}, 2)
            assert found.saved_at.utcoffset().total_seconds() == 0
            for key in ("", "a|b", "a/b", "../a", "A|B", "x" * 400, "'", "é"):
                assert other.load(key) is None
                assert one.save(key, {"key": key}, 0) == 1
            for key in ("", "a|b", "a/b", "../a", "A|B", "x" * 400, "'", "é"):
                assert other.load(key).value == {"key": key}

    @case("compare_and_set")
    def test_a_save_over_another_version_is_refused(self, harness: Harness) -> None:
        """With any other version than the current one nothing is written, and it is a Conflict."""
        with closing(_state(harness)) as state:
            with pytest.raises(Conflict):
                state.save(KEY, {"a": 0}, 1)
            state.save(KEY, {"a": 1}, 0)
            for expected in (0, 2, 7):
                with pytest.raises(Conflict):
                    state.save(KEY, {"a": 2}, expected)
            assert (state.load(KEY).value, state.load(KEY).version) == ({"a": 1}, 1)

    @case("compare_and_set")
    def test_of_many_savers_one_wins(self, harness: Harness) -> None:
        """Eight backends save over one version at the same time: one succeeds, seven get a Conflict."""
        with closing(_state(harness)) as state:
            state.save(KEY, {"by": -1}, 0)
        start = threading.Barrier(8, timeout=20)

        def save(n: int) -> int:
            with closing(_state(harness)) as mine:
                start.wait()
                mine.save(KEY, {"by": n}, 1)
                return n

        answers = at_once([partial(save, n) for n in range(8)])
        won = [answer for answer in answers if isinstance(answer, int)]
        with closing(_state(harness)) as state:
            assert [type(answer) for answer in answers if answer not in won] == [Conflict] * 7, "one save must succeed"
            assert state.load(KEY).value == {"by": won[0]}

    @case("compare_and_set")
    def test_a_deleted_value_counts_on(self, harness: Harness) -> None:
        """After a delete there is no value; the next save has a version that never was."""
        with closing(_state(harness)) as state:
            state.save(KEY, {"a": 1}, 0)
            with pytest.raises(Conflict):
                state.delete(KEY, 5)
            state.delete(KEY, 1)
            assert state.load(KEY) is None
            assert state.save(KEY, {"a": 2}, 0) >= 2
            with pytest.raises(Conflict):
                state.save(KEY, {"a": 3}, 1)

    @case("compare_and_set")
    def test_a_value_that_is_no_json_is_refused(self, harness: Harness) -> None:
        """What JSON cannot hold is refused before anything is written."""
        with closing(_state(harness)) as state:
            with pytest.raises((ValueError, TypeError)):
                state.save(KEY, {"a": float("nan")}, 0)
            assert state.load(KEY) is None

    @case("compare_and_set")
    def test_a_state_out_of_reach_is_an_error(self, harness: Harness) -> None:
        """While the system cannot be reached every call raises a DponeError (None would read everything again), and
        ``check`` returns a finding. Afterwards the value is unchanged, and ``close`` may be called twice."""
        with closing(_state(harness)) as state:
            state.save(KEY, {"a": 1}, 0)
            assert all(finding.ok is not False for finding in state.check()), "check reports a failure"
            with harness.away():
                _refuses(state, "out of reach", before=1)
                wrong = [finding for finding in _checked(state) if finding.ok is False and finding.todo]
                assert wrong, "check reports no failure for a state that cannot be reached"
            assert (state.load(KEY).value, state.load(KEY).version) == ({"a": 1}, 1)
            state.close()

    @case("compare_and_set")
    def test_it_is_made_without_a_connection(self, harness: Harness) -> None:
        """The constructor, ``partitions`` and ``run_log`` do no I/O: they succeed while the process cannot open a file
        or a socket."""
        with closing(_state(harness)) as state:
            state.save(KEY, {"a": 1}, 0)
        with closing(made_offline(harness, "state", harness.state())) as state:
            stores, keeping = harness.offered(SupportsPartitions, state), harness.offered(SupportsRunLog, state)
            with offline():
                made = None if stores is None else _offline("partitions", stores.partitions)
                log = None if keeping is None else _offline("run_log", keeping.run_log)
            assert state.save(KEY, {"a": 2}, 1) == 2
            assert made is None or made.load(KEY) is None
            assert log is None or list(log.records()) == []

    @case("compare_and_set")
    def test_close_leaves_nothing_open(self, harness: Harness) -> None:
        """After ``close`` there is no connection, thread or file left; a lock that was held is free."""
        version = 0

        def work() -> Any:
            nonlocal version
            with closing(_state(harness)) as state:
                with state.lock(KEY, 60):
                    version = state.save(KEY, {"a": version}, version)
                state.history(KEY)
                return state

        nothing_left(work)

    @case("compare_and_set")
    def test_a_wait_has_an_end(self, harness: Harness) -> None:
        """A save that waits for another client or a silent server ends at its limit, with a transient error, and soon
        after a signal. The old value is there."""
        with closing(_state(harness)) as state:
            state.save(KEY, {"a": 1}, 0)

        def work(spec: Any) -> None:
            with closing(harness.make("state", spec)) as state:
                state.save(KEY, {"a": 2}, 1)

        waits_end(harness, "state", work)
        with closing(_state(harness)) as state:
            assert (state.load(KEY).value, state.load(KEY).version) == ({"a": 1}, 1)

    @case("compare_and_set")
    def test_looking_makes_nothing(self, harness: Harness) -> None:
        """Where nothing was saved yet, ``check``, ``load``, ``history`` and the reading of runs create nothing:
        ``check`` finds the same afterwards."""
        before = _looked(harness)
        assert _looked(harness) == before, "check, load, history or the run log created something"

    @case("compare_and_set")
    def test_a_damaged_state_is_an_error(self, harness: Harness) -> None:
        """``load`` of a damaged value raises; it returns neither None nor another value. ``save`` does not overwrite it
        as if it did not exist, and a key without a value has none."""
        for n, text in enumerate(("{", "[]", "null")):
            with closing(_state(harness)) as state:
                key = f"damaged {n}"
                for version in range(2):
                    state.save(key, {"n": version}, version)
                harness.damage("state", text)
                with _refused(f"damaged, {text}, but load succeeds"):
                    state.load(key)
                with _refused(f"damaged, {text}, but save overwrites it"):
                    state.save(key, {"n": 7}, 0)
                with _refused(f"damaged, {text}, and a refused save changed it"):
                    state.load(key)
                assert state.load("another") is None

    @case("history")
    def test_earlier_values_stay_readable(self, harness: Harness) -> None:
        """Newest first, of one key only, as many as asked for, through a delete."""
        with closing(_state(harness)) as state:
            assert state.history(KEY) == []
            for n in range(5):
                state.save(KEY, {"n": n}, n)
            state.save("other", {"n": 99}, 0)
            assert [old.value["n"] for old in state.history(KEY)] == [4, 3, 2, 1, 0]
            assert [old.version for old in state.history(KEY, 2)] == [5, 4]
            state.delete(KEY, 5)
            assert [old.value["n"] for old in state.history(KEY)][:2] == [4, 3]

    @case("lock")
    def test_a_lock_has_one_holder(self, harness: Harness) -> None:
        """A second runner of the key gets Busy, which is transient; other keys are free; afterwards all are."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other:
            with one.lock(KEY, 60) as lease:
                assert lease.owner
                with pytest.raises(Busy) as caught, other.lock(KEY, 60):
                    pass
                assert caught.value.category is Category.TRANSIENT
                with _free(other, "another", 60):
                    pass
            with _free(other, KEY, 60):
                pass

    @case("lock")
    def test_an_expired_lease_is_taken_over(self, harness: Harness) -> None:
        """A lease that was not renewed may be taken; its old holder gets a Conflict and frees nothing."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other, closing(_state(harness)) as third:
            with one.lock(KEY, 0.1) as old:
                time.sleep(0.15)
                with _free(other, KEY, 60):
                    with pytest.raises(Conflict):
                        old.renew()
                    with pytest.raises(Busy), third.lock(KEY, 60):
                        pass
            with _free(third, KEY, 60):
                pass

    @case("lock")
    def test_the_end_of_a_lost_lease_frees_nothing(self, harness: Harness) -> None:
        """A runner that lost its lease ends while the new holder works: the lock stays with the new holder."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other, closing(_state(harness)) as third:
            old = one.lock(KEY, 0.05)
            old.__enter__()
            time.sleep(0.1)
            with _free(other, KEY, 60):
                old.__exit__(None, None, None)
                with pytest.raises(Busy), third.lock(KEY, 60):
                    pass

    @case("lock")
    def test_renewal_keeps_the_lease(self, harness: Harness) -> None:
        """A lease that its own thread renews holds for another ttl."""
        for ttl in (0.4, 8.0, 60.0):  # a longer one where the machine was too slow to look before the other was over
            with closing(_state(harness)) as one, closing(_state(harness)) as other, one.lock(KEY, ttl) as lease:
                time.sleep(ttl * 0.5)
                renewed = time.monotonic()
                at_once([lease.renew])
                time.sleep(ttl * 0.6)
                held = _is_held(other)
                if held or time.monotonic() < renewed + ttl:
                    break
        assert held, "the lease was renewed, but another runner took it"

    @case("lock")
    def test_a_lease_is_renewed_beside_other_calls(self, harness: Harness) -> None:
        """``Lease.renew`` is called by its own thread while the run saves and loads over the same object."""
        with closing(_state(harness)) as state, state.lock(KEY, 60) as lease:
            done = threading.Event()

            def renew() -> None:
                while not done.is_set():
                    lease.renew()

            def save() -> None:
                try:
                    for version in range(10):
                        state.save(KEY, {"n": version}, version)
                        assert state.load(KEY).value == {"n": version}
                finally:
                    done.set()

            failed = [error for error in at_once([_failing(renew), _failing(save)]) if error]
            assert not failed, f"two threads used one object: {failed[0]!r}"

    @case("lock")
    def test_a_dead_holder_is_taken_over(self, harness: Harness) -> None:
        """The lock of a process of this host that no longer exists is free at once."""
        buffer = io.BytesIO()
        reference = harness.plugins.get("state", harness.connector).implementation
        crash.Pickler(buffer).dump((harness.state(), reference))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _HOLDER, KEY]
        done = subprocess.run(  # noqa: S603  # fixed arguments
            command, input=buffer.getvalue(), env=environment, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 9, done.stderr.decode()
        with closing(_state(harness)) as state, _free(state, KEY, 60):
            pass

    @case("lock")
    def test_OUT_12_a_release_that_failed_does_not_lock_the_process_out(self, harness: Harness) -> None:
        """The system cannot be reached when the block ends, so the lease stays. A later lock of this process takes it
        over at once, and holds it alone."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other:
            with ExitStack() as outage, one.lock(KEY, 3600):
                outage.enter_context(harness.away())
                with pytest.raises(DponeError):
                    one.save("another", {}, 0)
            with _free(other, KEY, 3600) as lease:
                lease.renew()
                with pytest.raises(Busy), one.lock(KEY, 60):
                    pass

    @case("partitions")
    def test_a_partition_has_one_runner(self, harness: Harness) -> None:
        """Of two that claim a partition one is Busy; who lost it records nothing; what is done stays done."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other:
            harness.require(SupportsPartitions, one)
            mine, theirs = one.partitions(), other.partitions()
            mine.create(_manifest("a", "b", "c"))
            assert mine.claim(KEY, "a", "me", 60).attempts == 1
            with pytest.raises(Busy):
                theirs.claim(KEY, "a", "you", 60)
            with pytest.raises(Conflict):
                theirs.finish(KEY, "a", "you", Staged(1, 1))
            mine.finish(KEY, "a", "me", Staged(3, 30))
            with pytest.raises(Busy):
                theirs.claim(KEY, "a", "you", 60)
            theirs.claim(KEY, "b", "you", 60)
            theirs.fail(KEY, "b", "you", "it broke")
            found = mine.load(KEY)
            assert [(p.id, p.status, p.rows_loaded, p.error) for p in found.partitions] == [
                ("a", "success", 3, None), ("b", "failed", 0, "it broke"), ("c", "pending", 0, None),
            ]  # fmt: skip

    @case("partitions")
    def test_a_lost_partition_is_taken_over(self, harness: Harness) -> None:
        """A claim that was not renewed is free; its old holder gets a Conflict."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other:
            harness.require(SupportsPartitions, one)
            mine, theirs = one.partitions(), other.partitions()
            mine.create(_manifest("a"))
            mine.claim(KEY, "a", "me", 0.05)
            time.sleep(0.1)
            assert theirs.claim(KEY, "a", "you", 60).attempts == 2
            with pytest.raises(Conflict):
                mine.renew(KEY, "a", "me", 60)

    @case("partitions")
    def test_a_manifest_is_kept_whole(self, harness: Harness) -> None:
        """Another object reads back just what was written; a new manifest replaces the old; forgotten is gone."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other:
            harness.require(SupportsPartitions, one)
            mine, theirs = one.partitions(), other.partitions()
            assert theirs.load(KEY) is None
            for ids in (("a", "b"), ("c",)):
                mine.create(_manifest(*ids))
                assert theirs.load(KEY) == _manifest(*ids)
            assert theirs.load("another") is None
            mine.forget(KEY)
            assert theirs.load(KEY) is None

    @case("run_log")
    def test_a_run_is_recorded_once(self, harness: Harness) -> None:
        """Another object reads back what was begun, and what it was replaced by, with the report. A run is begun once
        and ends once; what was refused has changed nothing."""
        with closing(_state(harness)) as one, closing(_state(harness)) as other:
            mine, theirs = (harness.require(SupportsRunLog, state).run_log() for state in (one, other))
            running = _record("é", 1)
            with pytest.raises(Conflict):
                mine.replace(running)
            mine.begin(running)
            assert ([*theirs.records()], theirs.report(running)) == ([running], None)
            with pytest.raises(Conflict):
                theirs.begin(evolve(running, rows_in=7))
            renewed, ended = evolve(running, rows_in=5), _ended(running)
            mine.replace(renewed)
            assert [*theirs.records()] == [renewed]
            mine.replace(ended, {"é": [1, None]})
            for late in (renewed, evolve(ended, rows_in=8)):
                with pytest.raises(Conflict):
                    theirs.replace(late, {"late": 1})
            assert ([*theirs.records()], theirs.report(ended)) == ([ended], {"é": [1, None]})

    @case("run_log")
    def test_of_many_ends_one_wins(self, harness: Harness) -> None:
        """Eight backends end one run at the same time: one succeeds, seven get a Conflict."""
        running = _record("p", 1)
        with closing(_state(harness)) as state:
            harness.require(SupportsRunLog, state).run_log().begin(running)
        start = threading.Barrier(8, timeout=20)

        def end(n: int) -> int:
            with closing(_state(harness)) as mine:
                start.wait()
                mine.run_log().replace(evolve(_ended(running), rows_in=n))
                return n

        answers = at_once([partial(end, n) for n in range(8)])
        won = [answer for answer in answers if isinstance(answer, int)]
        with closing(_state(harness)) as state:
            assert [type(answer) for answer in answers if answer not in won] == [Conflict] * 7, "one end must succeed"
            assert [record.rows_in for record in state.run_log().records()] == won

    @case("run_log")
    def test_runs_come_newest_first(self, harness: Harness) -> None:
        """By the moment they began: of one pipeline or of all, since a moment, and as many as the caller takes."""
        with closing(_state(harness)) as state:
            log = harness.require(SupportsRunLog, state).run_log()
            of = [("a", 3), ("a|b", 1), ("a", 5), ("A", 4), ("a", 2)]
            records = {second: _record(pipeline, second) for pipeline, second in of}
            for record in records.values():
                log.begin(record)
            newest = [records[second] for second in (5, 4, 3, 2, 1)]
            assert [*log.records()] == newest
            assert [*log.records("a")] == [records[second] for second in (5, 3, 2)]
            assert [*log.records(since=records[3].started_at)] == newest[:3]
            assert [*log.records("a", records[4].started_at)] == newest[:1]
            assert [*log.records("unknown")] == []
            some = log.records()
            assert next(iter(some)) == newest[0]

    @case("run_log")
    def test_old_runs_are_removed(self, harness: Harness) -> None:
        """``prune`` removes those before a moment, and those that are too many, of its pipeline alone."""
        with closing(_state(harness)) as state:
            log = harness.require(SupportsRunLog, state).run_log()
            log.prune("a", _moment(9), 1)
            for n in range(1, 7):
                log.begin(_record("a", n))
                log.begin(_record("b", n))
            log.replace(_ended(_record("a", 1)), {"a": 1})
            log.prune("a", _moment(3), 9)
            assert [*log.records("a")] == [_record("a", n) for n in (6, 5, 4, 3)], "those before a moment go"
            log.prune("a", _moment(0), 2)
            assert [*log.records("a")] == [_record("a", n) for n in (6, 5)], "those that are too many go"
            log.prune("a", _moment(6), 9)
            assert [*log.records("a")] == [_record("a", 6)]
            assert len([*log.records("b")]) == 6, "another pipeline keeps its runs"
            assert log.report(_record("a", 1)) is None


def _looked(harness: Harness) -> list[Finding]:
    with closing(_state(harness)) as state:
        findings: list[Finding] = state.check()
        assert (state.load(KEY), state.history(KEY)) == (None, [])
        if (keeping := harness.offered(SupportsRunLog, state)) is not None:
            log = keeping.run_log()
            log.prune("p", _moment(9), 1)
            assert ([*log.records()], log.report(_record("p", 1))) == ([], None)
        return findings


def _offline(member: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise AssertionError(f"{member} opened a file or a connection: {error!r}") from error


def _refuses(state: Any, why: str, before: int) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "load": lambda: state.load(KEY),
        "history": lambda: state.history(KEY),
        "save": lambda: state.save(KEY, {"a": 2}, before),
        "delete": lambda: state.delete(KEY, before),
    }
    for name, call in calls.items():
        with _refused(f"{why}, but {name} succeeds"):
            call()


@contextmanager
def _refused(lost: str) -> Iterator[None]:
    """The block raises a DponeError, or ``lost`` is so."""
    try:
        yield
    except DponeError:
        return
    raise AssertionError(f"the state is {lost}")


def _failing(call: Callable[[], None]) -> Callable[[], Exception | None]:
    """What a call raises, as its answer."""

    def called() -> Exception | None:
        try:
            call()
        except Exception as error:
            return error
        return None

    return called


def _checked(state: Any) -> list[Finding]:
    try:
        findings: list[Finding] = state.check()
    except Exception as error:
        raise AssertionError(f"a failed connection is a finding, but check raises {error!r}") from error
    return findings


def _is_held(state: Any) -> bool:
    try:
        with state.lock(KEY, 60):
            return False
    except Busy:
        return True


@contextmanager
def _free(state: Any, key: str, ttl: float) -> Iterator[Any]:
    """Take the lock, which must be free."""
    with ExitStack() as held:
        try:
            lease = held.enter_context(state.lock(key, ttl))
        except Busy as error:
            raise AssertionError(f"the lock should be free: {error}") from error
        yield lease


def _manifest(*ids: str) -> Any:
    partition = importlib.import_module("dpone.partition")
    return partition.PartitionManifest(
        key=KEY, load_id="01HX0000000000000000000000", run_id="run", stream="s", source={"type": "kit", "é": 1},
        token="one",  # noqa: S106  # a digest, no password
        target="t", epoch=0, window="w", config={"a": "1"}, schema={"id": "int64"}, resumable=True,
        created_at=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
        partitions=tuple(partition.Partition(one) for one in ids),
    )  # fmt: skip


def _moment(second: int) -> datetime:
    return datetime(2024, 5, 6, 7, 8, second, 123456, UTC)


def _record(pipeline: str, second: int) -> RunRecord:
    process = Process("host", "machine", 1, "started")
    return RunRecord(f"01HX{pipeline}{second}", pipeline, _moment(second), process, 1.5)


def _ended(record: RunRecord) -> RunRecord:
    """With a value in every field."""
    return evolve(
        record, status="failed", finished_at=record.started_at + timedelta(seconds=1), exit_code=1, rows_in=9,
        rows_out=8, streams={"failed": 1}, schema_changes=2, warnings=3,
        errors=(RunError("s", "SinkError", "unknown", "'é\n"),),
    )  # fmt: skip


def _state(harness: Harness) -> Any:
    return harness.make("state", harness.state())
