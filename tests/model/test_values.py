"""Positions, names, strategies, reports, identifiers, reading ahead."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sql.clock import Clock

from dpone.errors import ConfigError, SourceError, StateError
from dpone.host import stopping
from dpone.host.prefetch import prefetch
from dpone.model.ids import ulid
from dpone.model.position import Position
from dpone.model.report import (
    ContractReport,
    Endpoint,
    ErrorReport,
    Rows,
    RunReport,
    StreamReport,
)
from dpone.model.schema import Name, ambiguous
from dpone.model.strategy import Strategy

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_objects = st.dictionaries(st.text(), _json, max_size=4)


@given(st.text(min_size=1), _objects, _objects, st.integers(0, 2**31))
def test_positions_survive_json(kind: str, identity: dict[str, Any], value: dict[str, Any], epoch: int) -> None:
    """A position read back from its text is equal, and so is its text."""
    position = Position(kind, identity, value, epoch)
    assert Position.loads(position.dumps()) == position
    assert Position.loads(json.dumps(position.to_json())).dumps() == position.dumps()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"format": 1}', '{"format": 2, "kind": "a", "epoch": 0, "identity": {}, "value": {}}',
     '{"format": 1, "kind": "a", "epoch": -1, "identity": {}, "value": {}}',
     '{"format": 1, "kind": "a", "epoch": true, "identity": {}, "value": {}}',
     '{"format": 1, "kind": "a", "epoch": 0, "identity": 5, "value": {}}'],
)  # fmt: skip
def test_ST_03_a_damaged_or_foreign_position_is_refused(text: str) -> None:
    """A state of another format or shape is an error that says so, never a missing state."""
    with pytest.raises(StateError, match="read a position: "):
        Position.loads(text)


def test_a_position_does_not_change_with_the_dictionary_it_came_from() -> None:
    """A position holds a copy: later changes of the caller's dictionary do not reach it."""
    value = {"a": [1]}
    position = Position("k", {}, value)
    value["a"].append(2)
    assert position.value == {"a": [1]}


@given(
    st.lists(
        st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1),
        min_size=1,
        max_size=3,
    )
)
def test_names_survive_their_text(parts: list[str]) -> None:
    """A name with dots and quotes in its parts is parsed back from its text part by part."""
    name = Name(tuple(parts))
    assert Name.parse(str(name)) == name


def test_a_name_has_a_schema_of_all_parts_but_the_last() -> None:
    """Empty if the connection decides; two tables of one schema have it in common."""
    assert [Name(parts).schema for parts in (("t",), ("s", "t"), ("d", "s", "t"))] == ["", "s", "d.s"]
    assert Name(("d", "s", "t")).sibling("u").schema == "d.s"


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", '"a', 'a"b', '"a"b', '""', "a\0b"])
def test_malformed_names_are_refused(text: str) -> None:
    """Empty parts, NUL and unbalanced quotes are errors of the pipeline file."""
    with pytest.raises(ConfigError, match="read a table name"):
        Name.parse(text)


def test_names_that_differ_by_case_are_found() -> None:
    """The second of two names that fold together is the ambiguous one."""
    assert ambiguous(["id", "Name", "name", "ID", "x"]) == ["name", "ID"]


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ({"mode": "merge"}, "no key"),
        ({"mode": "append", "duplicates": "last"}, "needs an order"),
        ({"mode": "replace"}, "where"),
        ({"mode": "append", "where": {"a": 1}}, "where"),
        ({"mode": "replace", "where": {"a": {"from": 1, "til": 2}}}, "where.a has"),
        ({"mode": "replace", "where": {"a": {}}}, "where.a has"),
    ],
)
def test_strategies_that_cannot_work_are_refused(given_: dict[str, Any], found: str) -> None:
    """A strategy says at once what it lacks."""
    with pytest.raises(ConfigError, match=found):
        Strategy(**given_)


def test_ulids_are_unique_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """26 characters of Crockford's alphabet; a later one sorts after an earlier one."""
    many = {ulid() for _ in range(1000)}
    assert len(many) == 1000
    assert all(len(u) == 26 and set(u) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for u in many)
    monkeypatch.setattr("time.time_ns", lambda: 1_469_918_176_385_000_000)
    assert ulid()[:10] == "01ARYZ6S41"  # the example of the ULID specification


@given(
    st.lists(
        st.builds(
            StreamReport,
            stream=st.text(), key=st.text(),
            status=st.sampled_from(["pending", "planned", "loaded", "caught_up", "failed", "stopped", "interrupted"]),
            load_id=st.none() | st.text(), attempts=st.integers(0, 9),
            rows=st.builds(Rows, read=st.integers(0, 2**63 - 1), inserted=st.integers(0, 9)),
            bytes=st.integers(0, 9), position_before=st.none() | _objects, position_after=st.none() | _objects,
            caught_up=st.none() | st.booleans(), durations=st.dictionaries(st.text(), st.floats(0, 1e6)),
            error=st.none() | st.builds(ErrorReport, kind=st.text(), category=st.text(), retryable=st.booleans(),
                                        message=st.text(), exit_code=st.sampled_from([1, 2, 3])),
        ),
        max_size=2,
    )
)  # fmt: skip
def test_reports_survive_json(streams: list[StreamReport]) -> None:
    """A report read back from its JSON text is equal to the one that was written."""
    report = RunReport("run", "p", {"env": "dev"}, streams=streams)
    report.finish()
    assert json.loads(json.dumps(report.to_json())) == report.to_json()
    assert RunReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def _places(value: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value inside of one, with its place and what it is in."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield f"{at}{key}", value, key
        yield from _places(inner, f"{at}{key}.")


def _refusal(report: dict[str, Any]) -> str:
    try:
        RunReport.from_json(report)
    except ValueError as error:
        return re.sub(r"\[(\d+)\]", r".\1", str(error))
    return ""


def test_a_report_with_a_wrong_value_anywhere_is_refused() -> None:
    """Each value of a report in turn is replaced by an object of another kind: ValueError, which names its place. Only
    what is computed from others is not read, and what a position is made of is the connector's."""
    stream = StreamReport(
        "s", "k", Endpoint("file", "", "x.csv"), None, "append", position_before={"kind": "k"}, warnings=["w"],
        durations={"stage": 1.0}, error=ErrorReport("E", "unknown", False, "m"), contract=ContractReport(1, {"r": 1}),
    )  # fmt: skip
    report = RunReport("r", "p", labels={"env": "dev"}, streams=[stream])
    report.finish()
    refused, free = {}, set()
    for place, _, _ in list(_places(report.to_json())):
        data = report.to_json()
        [(inside, key)] = [(inside, key) for at, inside, key in _places(data) if at == place]
        inside[key] = 7 if isinstance(inside[key], dict) else {"wrong": [object()]}
        if found := _refusal(data):
            refused[place] = found
        else:
            free.add(place)
    assert free == {"exit_code", "streams.0.retries", "streams.0.position_after", "streams.0.position_before.kind"}
    assert "it has format" in refused.pop("format")
    assert [place for place, found in refused.items() if not found.startswith(place)] == []
    assert len(refused) > 50


@pytest.mark.parametrize(
    ("codes", "exit_code", "status"),
    [([], 0, "succeeded"), ([3], 3, "stopped"), ([3, 1], 1, "failed"), ([2, 3], 2, "failed")],
)
def test_the_gravest_stream_gives_the_exit_code(codes: list[int], exit_code: int, status: str) -> None:
    """A failure outweighs a stop for a decision, and both outweigh success."""
    streams = [StreamReport("s", "k", error=ErrorReport("E", "unknown", False, "m", code)) for code in codes]
    report = RunReport("run", "p", started_at=datetime.now(UTC), streams=streams)
    report.finish()
    assert (report.exit_code, report.status) == (exit_code, status)


def test_reading_ahead_keeps_order_and_ends() -> None:
    """Items come out as they went in, and only as many wait as the depth allows."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    ahead = prefetch(items(), depth=2)
    assert next(ahead) == 0
    assert list(ahead) == list(range(1, 100))
    assert threading.active_count() == len([t for t in threading.enumerate() if t.name != "dpone-read"])


def test_reading_ahead_raises_where_the_items_are_used() -> None:
    """An exception of the source reaches the sink's thread after the items before it."""

    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)


def test_reading_ahead_stops_when_the_sink_stops() -> None:
    """Closing early ends the thread and closes the items, so that files and cursors are let go."""
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    ahead = prefetch(items())
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]  # a generator
    assert closed.wait(60)
    assert not [t for t in threading.enumerate() if t.name == "dpone-read"]


def test_a_signal_while_the_thread_starts_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that outlives its run would use what the run has closed, or crash the interpreter as it ends."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(prefetch(iter(range(10_000))))
    assert not [t for t in threading.enumerate() if t.name == "dpone-read"]


def stuck() -> tuple[threading.Event, Iterator[int]]:
    free = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        free.wait()

    return free, items()


def test_OUT_11_a_reader_that_does_not_come_back_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink gave up, and the source's thread does not end: there is a limit to waiting for it."""
    monkeypatch.setattr("dpone.host.prefetch.LONGEST", 0.2)
    free, items = stuck()
    ahead = prefetch(items)
    next(ahead)
    ahead.close()
    [thread] = [t for t in threading.enumerate() if t.name == "dpone-read"]
    assert thread.daemon  # it keeps no process alive
    free.set()
    thread.join()


def test_OUT_11_a_signal_ends_the_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever thread the items are used: after the seconds that a signal leaves it, the wait is over."""
    monkeypatch.setattr(stopping, "MAIN", 0.2)
    free, items = stuck()
    ahead = prefetch(items)
    next(ahead)
    [thread] = [t for t in threading.enumerate() if t.name == "dpone-read"]
    try:
        stopping.begin()
        with pytest.raises(SourceError, match="interrupted while it waited for the source"):
            next(ahead)
    finally:
        stopping.reset()
        free.set()
        thread.join()


def test_OUT_11_threads_that_move_rows_end_before_the_one_that_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a signal a wait is cut to what is left of the seconds of its thread; before it, it is what it is."""
    assert stopping.left(600) == 600
    monkeypatch.setattr(stopping, "THREADS", 0.0)
    monkeypatch.setattr(stopping, "time", Clock())
    try:
        stopping.begin()
        found: list[float] = []
        thread = threading.Thread(target=lambda: found.append(stopping.left(600)))
        thread.start()
        thread.join()
        assert found == [0.0]
        assert 0 < stopping.left(600) <= stopping.MAIN < stopping.LAST < 10
    finally:
        stopping.reset()
