"""The scenario of a route: rows come and change, runs are killed at any step, and after each load every row of the
target is compared with a model of the strategy. ``dpone ops certification-run`` runs it over Harnesses of both ends.

Every run of the engine is in a child process, and ends after ``crash.LONGEST`` seconds at the latest.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, evolve, field, frozen

from dpone.errors import ConfigError, counted
from dpone.model.pipeline import Incremental, Runtime, SourceSpec
from dpone.model.schema import VALID_TO
from dpone.model.strategy import MODES, Strategy
from dpone.testing.crash import KILLED, LONGEST, TIMED, Runs, end, pipeline
from dpone.testing.gates import Soaked, Way, calm, disturbed
from dpone.testing.harness import TABLE, Change, Harness
from dpone.testing.models import loaded
from dpone.testing.rows import Row, differences, own, table, values

POINTS = (  # a run is killed once in each of these: before rows are staged, before they are committed, and afterwards
    (("locked", 1), ("recovered", 1), ("window_fixed", 1), ("load_opened", 1), ("part_started", 1)),
    (("batch", 1), ("batch", 2), ("part_staged", 1), ("staged", 1), ("commit_started", 1)),
    (("committed", 1), ("state_saved", 1)),
)
KILLS = len(POINTS)  # of one scenario; a soak adds as many as its time allows
CURRENT = "current"  # scd2: whether a version is the last one of its row
CHANGED, DELETED, ADDED = 0.05, 0.04, 0.05  # shares of the rows, at each change; deletes below max_delete_share
FEWEST = 10  # rows of a scenario: below, one deleted row would be more than a load may delete
CHUNK = 1_000  # changes of one transaction
STREAMED = pa.schema([("id", pa.int64()), ("name", pa.string())])  # the columns of a change stream, as ``Harness`` says
Places = Callable[[str], AbstractContextManager[tuple[Harness, Harness]]]
Tell = Callable[["Step"], None]


@frozen
class Step:
    """name: seed, load, change, kill, recover or soak. rows: that the source had (seed, change), or that the target had
    to hold (the others). wrong: rows that are missing, or are not those of the model. said: the details, in words; of
    a step that failed, what was found. rate: rows a second."""

    name: str
    ok: bool
    rows: int
    seconds: float
    said: str = ""
    rate: int | None = None
    wrong: int = 0


@define
class Outcome:
    """What was seen. ``soaked`` None: no soak."""

    steps: list[Step] = field(factory=list)
    loads: int = 0
    kills: int = 0
    soaked: Soaked | None = None
    soak_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps) and self.kills >= KILLS

    @property
    def wrong(self) -> int:
        """Rows, in all steps."""
        return sum(step.wrong for step in self.steps)

    @property
    def failure(self) -> str:
        return next((f"{step.name}: {step.said}" for step in self.steps if not step.ok), "")

    @property
    def rate(self) -> int | None:
        """Rows a second of the first load, the one load of whose rows none is there yet."""
        return next((step.rate for step in self.steps if step.name == "load" and step.ok), None)


class Feed(Protocol):
    """A source whose rows come and change.

    schema   of its rows
    content  its rows now
    read     what the next load reads
    """

    @property
    def spec(self) -> SourceSpec: ...

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def content(self) -> list[Row]: ...

    @property
    def read(self) -> list[Row]: ...

    def strategy(self) -> Strategy:
        """Of the next load."""

    def seed(self, rows: int) -> None: ...

    def change(self) -> str:
        """Another committed change of the source. Says what it was."""


# ---- rows of a table


@define
class TableFeed:
    """A table that grows (append), or whose rows change, go and come. A Harness without ``rewrite`` is of a log: there
    a changed row is one more record."""

    harness: Harness
    mode: str
    chance: random.Random
    spec: SourceSpec = field(init=False)
    schema: pa.Schema = field(init=False)
    content: list[Row] = field(factory=list)
    read: list[Row] = field(factory=list)
    _known: list[Row] = field(factory=list)
    _last: int = 0
    _switched: bool = False
    _only_grows: bool = field(init=False)
    _by_increment: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        able = {c for c in ("incremental_cursor", "repeatable") if self.harness.declared("source", c) == "supported"}
        is_log, whole = type(self.harness).rewrite is Harness.rewrite, MODES[self.mode].whole
        self._by_increment = bool(able) if self.mode == "append" else is_log and "repeatable" in able and not whole
        self._only_grows = self.mode == "append" or self._by_increment or (is_log and self.mode == "full_refresh")
        if is_log and not self._only_grows:
            raise NotImplementedError(f"{type(self.harness).__name__} has no rewrite: its rows cannot be changed")
        by_cursor = self.mode == "append" and "incremental_cursor" in able
        self.schema = self.harness.sample(1, 0).schema
        self.spec = self.harness.source(incremental=Incremental("cursor", self.harness.key) if by_cursor else None)

    def strategy(self) -> Strategy:
        key, group = self.harness.key, self.harness.group
        if self.mode == "replace":
            return Strategy("replace", where={group: self.content[0][self._at(group)]})
        if self.mode == "partition_replace":
            return Strategy("partition_replace", partition=group)
        return Strategy(cast(Any, self.mode), key=key if MODES[self.mode].needs_key else ())

    def seed(self, rows: int) -> None:
        self._known = self.content = self.read = self._new(rows)
        if self.mode == "replace":  # all of them of one value; those of another one come with the first change
            self._known = self.content = self.read = self._of(self._groups()[0], self.content)
        self.harness.seed(table(self.content, self.schema))

    def change(self) -> str:
        if self._only_grows:
            return self._grow()
        said = self._next_group() if self.mode == "replace" and not self._switched else self._changed()
        self.content = self.read = self._part()
        self.harness.rewrite(table(self.content, self.schema))
        return said

    def _grow(self) -> str:
        updates = self._by_increment and self.mode != "append"
        moved = self._moved(self.chance.sample(self._known, self._share(CHANGED))) if updates else []
        new = self._new(self._share(ADDED))
        self.harness.seed(table([*moved, *new], self.schema))
        self._known = [*self._known, *new]
        self.content = [*self.content, *moved, *new]
        self.read = [*moved, *new] if self._by_increment else self.content
        return f"{f'{len(moved):,} changed, ' if moved else ''}{len(new):,} added"

    def _changed(self) -> str:
        """The same rows but for a few; order and numbers say nothing."""
        rows = list(self._known)
        self.chance.shuffle(rows)
        gone, count = self._share(DELETED), self._share(CHANGED)
        moved, kept = self._moved(rows[gone : gone + count]), rows[gone + count :]
        added = self._new(self._share(ADDED))
        if self.mode == "replace":
            added = self._of(moved[0][self._at(self.harness.group)], added)
        self._known = [*moved, *kept, *added]
        return f"{count:,} changed, {gone:,} deleted, {len(added):,} added"

    def _moved(self, rows: list[Row]) -> list[Row]:
        """The same rows with other values, but for their key and their group."""
        same = (self._at(self.harness.key), self._at(self.harness.group))
        return [
            tuple(old if i in same else value for i, (old, value) in enumerate(zip(row, new, strict=True)))
            for row, new in zip(rows, self._new(len(rows)), strict=True)
        ]

    def _next_group(self) -> str:
        _, new = self._groups()
        self._known, self._switched = self._of(new, self._new(len(self._known))), True
        return f"other rows, of {self.harness.group} {new!r}"

    def _part(self) -> list[Row]:
        """partition_replace: all partitions but one, whose rows must stay in the target as they are."""
        if self.mode != "partition_replace":
            return self._known
        at = self._at(self.harness.group)
        left_out = self.chance.choice(sorted({row[at] for row in self._known}, key=repr))
        return [row for row in self._known if row[at] != left_out] or self._known

    def _groups(self) -> Sequence[Any]:
        """Two values of the group."""
        found = values(self.harness.sample(1, 50), self.schema)
        groups = list(dict.fromkeys(row[self._at(self.harness.group)] for row in found))
        if len(groups) < 2:
            what = f"{type(self.harness).__name__}.sample has one value of {self.harness.group} only"
            raise ConfigError(f"seed a source for {self.mode}", what, "let it give several")
        return groups[:2]

    def _of(self, group: Any, rows: list[Row]) -> list[Row]:
        at = self._at(self.harness.group)
        return [(*row[:at], group, *row[at + 1 :]) for row in rows]

    def _new(self, count: int) -> list[Row]:
        first, self._last = self._last + 1, self._last + count
        return values(self.harness.sample(first, self._last), self.schema)

    def _at(self, column: str) -> int:
        return int(self.schema.get_field_index(column))

    def _share(self, share: float) -> int:
        return max(1, int(len(self._known) * share))


# ---- changes of a log


@define
class ChangeFeed:
    """A table by its change stream: committed transactions of inserts, updates and deletes."""

    harness: Harness
    chance: random.Random
    spec: SourceSpec = field(init=False)
    schema: pa.Schema = STREAMED
    _names: dict[int, str] = field(factory=dict)
    _last: int = 0

    def __attrs_post_init__(self) -> None:
        made = self.harness.change_stream()
        self.spec = evolve(made, options=evolve(made.options, incremental=Incremental("cdc", of_changes=True)))

    @property
    def content(self) -> list[Row]:
        return list(self._names.items())

    read = content  # applied to what is there, they leave the rows of the source

    def strategy(self) -> Strategy:
        return Strategy("cdc_apply")

    def seed(self, rows: int) -> None:
        self._commit(self._inserts(rows))

    def change(self) -> str:
        ids = list(self._names)
        self.chance.shuffle(ids)
        gone, moved, added = (max(1, int(len(ids) * share)) for share in (DELETED, CHANGED, ADDED))
        deletes = [Change("delete", {}, id) for id in ids[:gone]]
        self._last += 1
        named = {id: f"changed {self._last}, {id}" for id in ids[gone : gone + moved]}
        updates = [Change("update", {"name": name}, id) for id, name in named.items()]
        for id in ids[:gone]:
            del self._names[id]
        self._names |= named
        self._commit([*deletes, *updates, *self._inserts(added)])
        return f"{moved:,} changed, {gone:,} deleted, {added:,} added"

    def _inserts(self, count: int) -> list[Change]:
        first, self._last = self._last + 1, self._last + count
        new = {id: f"name {id}" for id in range(first, self._last + 1)}
        self._names |= new
        return [Change("insert", {"id": id, "name": name}) for id, name in new.items()]

    def _commit(self, changes: Sequence[Change]) -> None:
        for at in range(0, len(changes), CHUNK):
            self.harness.change(changes[at : at + CHUNK])


# ---- the scenario


@define
class Target:
    """What the target must hold, by the model, and what it holds, by the independent client."""

    sink: Harness
    feed: Feed
    strategy: Strategy
    rows: list[Row] = field(factory=list)

    def load(self) -> None:
        """The next load is expected to arrive, once."""
        if self.strategy.mode == "cdc_apply":
            self.rows = self.feed.content
        else:
            self.rows = loaded(self.strategy, self.rows, self.feed.read, self.feed.schema.names)

    def expected(self) -> pa.Table:
        made = table(self.rows, self.feed.schema)
        if self.strategy.mode != "scd2":
            return made
        at = [self.feed.schema.get_field_index(column) for column in self.strategy.key]
        last = {tuple(row[i] for i in at): n for n, row in enumerate(self.rows)}
        current = set(last.values())
        return made.append_column(CURRENT, pa.array([n in current for n in range(len(self.rows))]))

    def found(self) -> pa.Table | None:
        found = self.sink.rows()
        if found is None:
            return None
        bare = found.drop_columns(own(found))
        if self.strategy.mode != "scd2":
            return bare
        return bare.append_column(CURRENT, pc.is_null(found.column(VALID_TO)))

    @property
    def equal(self) -> str:
        return "every row equal" if self.once else "every row there at least once"

    @property
    def once(self) -> bool:
        return self.sink.declared("sink", "exactly_once") == "supported"

    def wrong(self) -> tuple[int, str]:
        """Rows that differ, and what they are. The rows are the scenario's own, so that they can be shown."""
        want = self.expected()
        try:
            lost, added = differences(self.found(), values(want, want.schema), want.schema, self.once)
        except (KeyError, AssertionError, pa.ArrowException) as error:
            return max(1, want.num_rows), f"the target does not have the columns of the source: {error}"
        if not lost and not added:
            return 0, ""
        parts = [("missing", lost), ("not expected", added)]
        shown = [f"{counted(n.total(), 'row')} {word}, such as {min(n)}" for word, n in parts if n]
        return lost.total() + added.total(), "; ".join(shown)


@define
class Scenario:
    """One place of a source and a sink, and the route between them."""

    source: Harness
    sink: Harness
    mode: str
    chance: random.Random
    done: Outcome
    tell: Tell
    feed: Feed = field(init=False)
    target: Target = field(init=False)
    runs: Runs = field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.mode == "cdc_apply":
            self.feed = ChangeFeed(self.source, self.chance)
        else:
            self.feed = TableFeed(self.source, self.mode, self.chance)

    def begin(self, rows: int) -> bool:
        """Seed and the first load."""
        start = time.monotonic()
        self.feed.seed(rows)
        self._say(Step("seed", True, len(self.feed.content), time.monotonic() - start))
        self.target = Target(self.sink, self.feed, self.feed.strategy())
        made = pipeline(self.sink.folder, self.feed.spec, self.sink.sink(self.target.strategy), TABLE)
        size = max(1, rows // 8)
        made = evolve(made, name="certification", runtime=Runtime(batch_rows=min(size, 50_000), retries=0))
        self.runs = Runs(self.sink, made, self.source)
        self.runs.ready()
        self.target.load()
        return self._load()

    def change(self) -> None:
        start = time.monotonic()
        said = self.feed.change()
        strategy = self.feed.strategy()
        if strategy != self.target.strategy:  # replace: by the other value
            self.target.strategy = strategy
            [stream] = self.runs.pipeline.streams
            stream = evolve(stream, sink=evolve(stream.sink, strategy=strategy))
            self.runs = evolve(self.runs, pipeline=evolve(self.runs.pipeline, streams=(stream,)))
        self.target.load()
        self._say(Step("change", True, len(self.feed.content), time.monotonic() - start, said))

    def load_change(self) -> bool:
        self.change()
        return self._load()

    def killed(self, step: str, nth: int) -> bool:
        """Change the source, kill a run at this step, and let the next one recover. True if the target is right."""
        self.change()
        start = time.monotonic()
        code, said = self.runs.until(step, nth)
        where = f"at {step}{f', number {nth}' if nth > 1 else ''}"
        seconds = time.monotonic() - start
        if code == KILLED:
            self.done.kills += 1
            self._say(Step("kill", True, len(self.target.rows), seconds, where))
            return self._recovered()
        if code != 0:
            return self._say(Step("kill", False, 0, seconds, _ended(code, said)))
        return self._compared("load", seconds, f"not killed: {where} never came")

    def _recovered(self) -> bool:
        """Undisturbed runs, as a schedule repeats them, until one is done."""
        start, seen = time.monotonic(), Soaked()
        calm(self.way, seen)
        seconds = time.monotonic() - start
        if seen.failed:
            return self._say(Step("recover", False, 0, seconds, seen.said))
        return self._compared("recover", seconds, f"in {counted(seen.runs, 'run')}")

    def _load(self) -> bool:
        start = time.monotonic()
        code, said = self.runs.apart()
        seconds = time.monotonic() - start
        if code != 0:
            return self._say(Step("load", False, 0, seconds, _ended(code, said)))
        rate = round(len(self.feed.read) / seconds)
        return self._compared("load", seconds, f"{counted(len(self.feed.read), 'row')} read, {rate:,} rows/s", rate)

    def _compared(self, name: str, seconds: float, said: str, rate: int | None = None) -> bool:
        """The step is right only if every row of the target is."""
        wrong, found = self.target.wrong()
        self.done.loads += 1
        said = found or f"{said}, {self.target.equal}"
        return self._say(Step(name, not wrong, len(self.target.rows), seconds, said, rate, wrong))

    def _say(self, step: Step) -> bool:
        self.done.steps.append(evolve(step, seconds=round(step.seconds, 3)))
        self.tell(self.done.steps[-1])
        return step.ok

    @property
    def way(self) -> Way:
        return Way(
            self.mode, self.runs, lambda first, last: self.change(), self.target.found,
            lambda last: self.target.expected(), self.target.once,
        )  # fmt: skip


def _nothing(*given: Any) -> None:
    pass


def _ended(code: int, said: str) -> str:
    if code == TIMED:
        return f"the run did not end in {LONGEST:g} s"
    return f"the run ended with exit code {code}: {said}"


def certify_route(
    places: Places, mode: str, rows: int, seed: int, soak: float, tell: Tell, ready: Callable[[Harness, Harness], None]
) -> Outcome:
    """Seed, load, change, load, and kill and recover ``KILLS`` times; then soak for so many seconds. Ends at the first
    step that fails. places: makes a new place in both systems, by a name. ready: called with the first one. Raises
    ConfigError if a Harness cannot do to its source what the strategy needs."""
    chance, done = random.Random(seed), Outcome()  # noqa: S311  # a choice to repeat
    try:
        with places("0") as (source, sink):
            try:
                scenario = Scenario(source, sink, mode, chance, done, tell)
                ready(source, sink)
                _once(scenario, rows)
            except NotImplementedError as error:
                found, todo = str(error).partition(":")[0], "choose another source or strategy"
                raise ConfigError(f"certify {source.connector} -> {sink.connector} by {mode}", found, todo) from error
        if soak and done.ok:
            _soak(places, mode, rows, chance, soak, done, tell)
        return done
    finally:
        end()


def _once(scenario: Scenario, rows: int) -> None:
    if not scenario.begin(rows) or not scenario.load_change():
        return
    for points in POINTS:
        before = scenario.done.kills
        for point in scenario.chance.sample(points, len(points)):
            if not scenario.killed(*point):
                return
            if scenario.done.kills > before:
                break


def _soak(
    places: Places, mode: str, rows: int, chance: random.Random, seconds: float, done: Outcome, tell: Tell
) -> None:
    """Rounds, each in a new place, until the time is up."""
    start, seen, number = time.monotonic(), Soaked(), 0
    undisturbed, equal = Outcome(), ""
    while time.monotonic() < start + seconds and not seen.failed:
        number += 1
        with places(f"{number}") as (source, sink):
            scenario = Scenario(source, sink, mode, chance, undisturbed, _nothing)
            # The second load is the first by the strategy of all that follow: of replace, the other value.
            if scenario.begin(rows) and scenario.load_change():
                disturbed(scenario.way, chance, start + seconds, seen)
                seen.said = scenario.target.wrong()[1] or seen.said
            else:
                seen.wrong, seen.stuck = undisturbed.wrong, int(not undisturbed.wrong)
                seen.said = undisturbed.failure
            equal = scenario.target.equal
    seen.loads += undisturbed.loads
    seen.rows = sum(step.rows for step in undisturbed.steps if step.name == "change")
    done.soaked, done.soak_seconds = seen, round(time.monotonic() - start, 3)
    counts = f"{counted(seen.loads, 'load')}, {counted(seen.kills, 'kill')}, {counted(number, 'place')}"
    said = seen.said or f"{counts}, {equal}"
    step = Step("soak", not seen.failed, seen.rows, done.soak_seconds, said, wrong=seen.wrong)
    done.steps.append(step)
    tell(step)
