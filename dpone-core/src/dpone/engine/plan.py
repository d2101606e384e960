"""The second stage: the window is fixed, and its targets are made to fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from attrs import define, evolve

from dpone.cdc.stream import ChangeStream
from dpone.config.reader import substituted
from dpone.contract import (
    Load,
    Sink,
    SupportsCompareKeys,
    SupportsManyTables,
    SupportsSql,
    SupportsTakeBack,
    Window,
    WindowRequest,
)
from dpone.engine.attempt import Added, Attempt, Planned, Recovered, Target, effective, resumes, without_own
from dpone.engine.job import StreamContext
from dpone.engine.journal import digest, keeps_journal
from dpone.engine.manifest import manifest_of, parts_again, require_same
from dpone.engine.recover import RecoverStep
from dpone.errors import ConfigError, SchemaBreak
from dpone.formats.nanoseconds import cut
from dpone.model import evolution, keys
from dpone.model.ids import ulid
from dpone.model.pipeline import SinkSpec, StreamSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.model.strategy import CHANGES, ORDER_OF_FILES, Strategy, bounds
from dpone.partition import PartitionManifest


@define
class PlanStep(Attempt):
    """The second stage."""

    def execute(self, known: Recovered, recover: RecoverStep, added: Added) -> Planned | None:
        """Fix the window and make its targets fit; None if there is nothing to load. Every addition is noted in
        ``added`` at once, so that it is known even if this step fails half way."""
        run, report = self.stream.run, self.report
        if not self.spec.source.changes:
            self._refuse(self.sink, effective(self.spec.sink.strategy, run))
        with self.stream.timed("window") as start:
            window = self._window(known)
        report.caught_up, report.proof, report.partitions = window.caught_up, window.proof, len(window.parts)
        for text in window.warnings:
            self.warn(text)
        self.stream.tell(
            "window_fixed", start, parts=len(window.parts), repeatable=window.repeatable, proof=window.proof,
            position=window.position.to_json(),
        )  # fmt: skip
        # A window without rows may still move the position: over WAL of other tables, so that an idle slot does not
        # keep it for ever (PG-13). Then the load has a journal entry and no rows.
        if not window.parts and known.after is not None and window.position.dumps() == known.after.dumps():
            self._nothing(window, "nothing new in the source" if window.caught_up else "nothing was read")
            self.contract_check.warn_of_no_rows()
            return None
        window = self._cut(window)
        self.contract_check.bind(window.schema)
        planned = [
            self._planned(known, spec, sink, self._cut(share), strategy, key)
            for spec, sink, share, strategy, key in self._targets(known, recover, window)
        ]
        targets = [target for target, _ in planned]
        whole = self._with_manifest(known, window, targets)
        window, load = whole.window, whole.load
        head = known.head
        # LS-12: the same content is not loaded twice. If the target is gone, it is loaded all the same.
        if head is not None and window.repeatable and head.token == load.token and self.sink.exists():
            self._nothing(window, f"load {head.load_id} had the same content")
            return None
        with self.stream.timed("schema") as start:
            report.ddl, report.schema_changes, report.rewrites = [], [], []
            for target, plan in planned:
                self._fit(target, plan, added)
        if run.dry_run:
            report.status, report.position_after = "planned", window.position.to_json()
            return None
        self.stream.tell("schema_applied", start, changes=report.schema_changes, tables=[*map(self._table, targets)])
        return whole

    def _table(self, target: Target) -> dict[str, Any]:
        """What a target takes from which table and columns, for observers; lineage columns are left out."""
        pairs = zip(target.window.schema, target.load.schema or (), strict=False)
        columns = [{"name": to.name, "from": of.name, "type": str(of.type)} for of, to in pairs]
        source = target.window.parts[0].id if self.spec.tables and target.window.parts else self.spec.source.what
        return {"target": target.spec.what, "source": source, "columns": columns}

    def _window(self, known: Recovered) -> Window:
        run, strategy = self.stream.run, effective(self.spec.sink.strategy, self.stream.run)
        again = self._interrupted(known) if self._mixed() else None
        request = WindowRequest(
            whole=strategy.whole or run.full_refresh,
            # Where a file is cut depends on the size of all files: with more files its rows would get other ids.
            partitions=1 if keeps_journal(run, self.spec) else run.pipeline.runtime.partitions,
            batch_rows=run.pipeline.runtime.batch_rows,
            expected=None if self.spec.source.changes else without_own(self.sink.schema(), strategy),
            mode=strategy.mode,
            parts=parts_again(again) if again else (),
            to_end=run.replay is not None,
        )
        if known.latest is not None:  # a source that was set back has another history, and may end before it
            self.source.window(known.latest, evolve(request, to_end=False))
        window = self.source.window(known.after, request)
        return evolve(window, position=window.position.at_epoch(known.epoch))

    def _targets(
        self, known: Recovered, recover: RecoverStep, window: Window
    ) -> Iterator[tuple[SinkSpec, Sink, Window, Strategy, str]]:
        """Each target with its share of the window, the strategy with its key, and the key of its load."""
        sink, strategy = self.spec.sink, effective(self.spec.sink.strategy, self.stream.run)
        if not isinstance(self.source, ChangeStream):
            yield sink, self.sink, window, strategy, self.report.key
            return
        if not self.spec.tables:
            self.source.require_one()
        taken: dict[str, str] = {}
        for part in window.parts:
            spec, key = sink, self.report.key
            if self.spec.tables:
                spec = substituted(sink, Name.parse(part.id))
                key += f"|{part.id.replace('|', '%7C')}"
                # some servers take Orders and orders for one table
                if (other := taken.setdefault(spec.location.lower(), part.id)) != part.id:
                    found = f"{other} and {part.id} have the same target table"
                    todo = "use {schema}_{table}, or set source.table to one of them"
                    raise ConfigError(f"load into {spec.location}", found, todo)
            if self.source.bare(part.id) and self._sink_for(spec).is_empty():
                continue
            if strategy.mode in CHANGES:
                strategy = evolve(strategy, key=self.source.key(part.id, sink.strategy.key))
            target = self._sink_for(evolve(spec, strategy=strategy))
            if not self.stream.run.dry_run:
                recover.take_back(target, key)
            loaded, share = self._journal(target, key), self.source.share(window, part.id)
            if not self.stream.run.full_refresh:
                recover.require_target(spec, target, loaded, known.head, share.whole)
            adopted = loaded is None or spec.options.adopt_existing or target.is_empty()
            self.source.require_kind(target.schema(), spec.location, loaded=not adopted)
            self._refuse(target, strategy, share.whole)
            yield spec, target, share, strategy, key

    def _cut(self, window: Window) -> Window:
        return evolve(window, schema=cut(window.schema)) if self._cuts else window

    def _sink_for(self, spec: SinkSpec) -> Sink:
        many = self._offered(SupportsManyTables, self.sink)
        return self.sink if many is None else many.for_table(spec)

    def _planned(
        self, known: Recovered, spec: SinkSpec, sink: Sink, window: Window, strategy: Strategy, key: str
    ) -> tuple[Target, evolution.Plan]:
        have = sink.schema()
        plan = self._plan(spec, sink, have, window, strategy)
        if plan.replaced:
            self._refuse(sink, strategy, every_row=True)
        forms = self._forms(spec, sink, None if plan.replaced else have, window, strategy, key, plan.columns)
        load = evolve(
            _load(self.stream, known, window, strategy, key, plan.columns), replace_columns=bool(plan.replaced)
        )
        return Target(spec, sink, window, strategy, key, load, forms), plan

    def _forms(
        self,
        spec: SinkSpec,
        sink: Sink,
        target: pa.Schema | None,
        window: Window,
        strategy: Strategy,
        key: str,
        columns: Mapping[str, str],
    ) -> Mapping[str, str]:
        """The forms of the key columns, by their names in the target. An earlier version without forms loaded keys as
        the source wrote them, and the journal does not record that."""
        have = {f.name: f for f in target or ()}
        comparing = self._offered(SupportsCompareKeys, sink)
        made = comparing.made if comparing else pa.Field.remove_metadata
        to = {name: have.get(columns[name]) or made(window.schema.field(name)) for name in strategy.key}
        changes, many = bool(self.spec.source.changes), self.spec.tables
        table = window.parts[0].id if changes and many else ""
        forms = keys.forms(strategy, changes, window.schema, to, spec.location, table)
        for name, form in forms.items():
            other = keys.FORMS[form].other
            there = columns[name] in have and not keys.equality(have[columns[name]])
            if not (other and comparing and there) or strategy.mode == "full_refresh":
                continue
            loaded = self._journal(sink, key)
            if (loaded is None or loaded.held is None) and comparing.holds_like(columns[name], other):
                found = (
                    f"column {columns[name]} of the target has keys like 1.00, which the source treats as equal to 1"
                )
                todo = "reload everything with --full-refresh; nothing was changed"
                raise SchemaBreak(f"load {spec.location} by key {columns[name]}", found, todo)
        return {columns[name]: form for name, form in forms.items()}

    def _whole_load(self, known: Recovered, window: Window, targets: Sequence[Target]) -> Load:
        if len(targets) == 1 and targets[0].key == self.report.key:
            return targets[0].load
        loads = {target.key: target.load.token for target in targets}
        strategy, run = self.spec.sink.strategy, self.stream.run
        strategy = strategy if run.replay is None else effective(strategy, run)
        return _load(self.stream, known, window, strategy, self.report.key, None, loads)

    def _fit(self, target: Target, plan: evolution.Plan, added: Added) -> None:
        """Make the safe changes, or only list them. If the load replaces the target, its changes are part of the
        commit."""
        ddl = [] if plan.replaced else target.sink.ddl(plan.changes)
        if not self.stream.run.dry_run:
            added.append((target, plan))
            if (taking := self._offered(SupportsTakeBack, target.sink)) is not None:
                taking.provide(target.load, ddl)
            else:
                target.sink.apply(ddl)
        name = f"{target.spec.table}: " if self.spec.tables else ""
        self.report.ddl += ddl
        self.report.schema_changes += [f"{name}{change}" for change in (*plan.changes, *plan.replaced)]
        if (sql := self._offered(SupportsSql, target.sink)) is not None:
            said = ((change, sql.dialect.rewrites(change)) for change in plan.changes)
            self.report.rewrites += [f"{name}{change}: {what}" for change, what in said if what]

    def _nothing(self, window: Window, why: str) -> None:
        self.report.status, self.report.proof = "caught_up", f"{why}; {window.proof}"

    def _plan(
        self, spec: SinkSpec, sink: Sink, have: pa.Schema | None, window: Window, strategy: Strategy
    ) -> evolution.Plan:
        run = self.stream.run
        known = {*window.schema.names}
        if strategy.by_file(known) and all("order" in part.detail for part in window.parts):
            known.add(ORDER_OF_FILES)
        for what, columns in strategy.columns.items():
            if absent := [f"column {c} is missing in {window.absent[c]}" for c in columns if c in window.absent]:
                found = ", ".join(absent)
                raise SchemaBreak(
                    f"find {what} columns", found, "restore the column, or move that data out of the source"
                )
            if missing := [c for c in columns if c not in known]:
                found = f"{self.spec.source.location} has no column {', '.join(missing)}"
                raise ConfigError(f"find {what} columns", found, f"use columns of {', '.join(window.schema.names)}")
        sql = self._offered(SupportsSql, sink)
        for column, value in ((c, v) for c, wanted in strategy.where.items() for v in bounds(wanted)):
            if sql is not None and value is not None:  # refused here, before anything is created, and not at the commit
                sql.dialect.bind(value, window.schema.field(column).type)
        target, policy = without_own(have, strategy), spec.options.schema_evolution
        too_long = sql.dialect.too_long if sql else evolution.any_length
        given = (too_long, window.own_schema, window.absent)
        plan = evolution.plan(target, window.schema, policy, sink.stores, strategy.key, *given)
        if have is None and sink.exists():  # it has no schema: there is nothing to create or compare
            plan = evolve(plan, changes=())
        able = run.plugins.supports("sink", spec.type, "replace_columns")
        keeps = not effective(strategy, run, True).replaces_all
        if (plan.breaking or any(c.looks for c in plan.changes)) and run.full_refresh and able and not keeps:
            plan = plan.replacing(window.schema)
        plan.require_safe(spec.location, _instead(able, keeps, strategy))
        self._tell_missing(spec, plan, window)
        return plan

    def _tell_missing(self, spec: SinkSpec, plan: evolution.Plan, window: Window) -> None:
        """Report columns that rows lack if only the data shows the columns, unless the pipeline says that it does not
        matter."""
        if spec.options.schema_evolution.on_missing_column == "auto":
            for name, where in window.absent.items():
                self.warn(f"column {name} is missing in {where}: its rows get NULL")
            if plan.missing:
                names = f"column{'s' if len(plan.missing) > 1 else ''} {', '.join(plan.missing)}"
                self.warn(f"{names} of {spec.location} missing in the data: new rows get NULL")
        if rename := plan.rename(window.absent):
            self.warn(f"{rename}; if the column was renamed, rename it in {spec.location} too, which keeps its values")

    def _mixed(self) -> bool:
        """True if the pipeline asks for ``mixed_snapshots``. Raises ConfigError if the source does not support it. An
        incremental load starts over: its end is that of the first snapshot, and rows beyond it would be read twice."""
        incremental = self.spec.source.options.incremental
        if self.stream.run.pipeline.runtime.resume != "mixed_snapshots" or incremental is not None:
            return False
        plugins, source = self.stream.run.plugins, self.spec.source.type
        if plugins.supports("source", source, "mixed_snapshots"):
            if resumes(self.stream):
                return True
            found = f"sink {self.spec.sink.type} does not keep staged parts for a later run"
        elif plugins.supports("source", source, "repeatable"):
            return False  # nothing is lost there
        else:
            found = f"source {source} cannot continue with the parts of a lost snapshot"
        raise ConfigError("read runtime.resume", found, "use resume: one_snapshot")

    def _interrupted(self, known: Recovered) -> PartitionManifest | None:
        """The manifest of a load that began after ``known`` and was not committed."""
        store = self._manifests()
        found = store.load(self.report.key) if store else None
        ended = found is None or found.epoch != known.epoch or (known.head and known.head.load_id == found.load_id)
        return None if ended else found

    def _with_manifest(self, known: Recovered, window: Window, targets: Sequence[Target]) -> Planned:
        """Add a manifest to a window of several parts, except that of a change stream, whose parts are tables. Raises
        ManifestChanged. With ``mixed_snapshots`` the load continues with the token and the position of the interrupted
        one, so its position does not cover anything after that moment."""
        runtime = self.stream.run.pipeline.runtime
        if self.spec.source.changes or self._manifests() is None or max(len(window.parts), runtime.partitions) < 2:
            return Planned(window, targets, self._whole_load(known, window, targets))
        [target] = targets
        mixed, load = self._mixed(), target.load
        load = evolve(load, repeatable=load.repeatable or mixed)
        start = None if load.strategy.whole or known.after is None else known.after.dumps()
        new = manifest_of(load, window, self.spec, start)
        again = self._interrupted(known)
        if again is not None:
            have = without_own(target.sink.schema(), target.strategy)
            require_same(again, new, {f.name: str(f.type) for f in have or ()})
        if mixed and again is not None and again.position is not None and again.window == new.window:
            window = evolve(window, position=Position.from_json(again.position))
            load = evolve(load, token=again.token)
            new = evolve(new, token=again.token, position=again.position)
        target.load, target.window = load, window
        return Planned(window, targets, self._whole_load(known, window, targets), new, again)


def _instead(able: bool, keeps: bool, strategy: Strategy) -> str:
    """What else loads rows with other columns into the target, apart from a policy that allows them."""
    if keeps:
        words = strategy.mode + (f" with deletes: {strategy.deletes}" if strategy.mode == "cdc_apply" else "")
        return f"or load into another table, because {words} keeps existing rows"
    return "or replace the table with --full-refresh" if able else "or drop the table and use --full-refresh"


def _load(
    stream: StreamContext,
    known: Recovered,
    window: Window,
    strategy: Strategy,
    key: str,
    columns: Mapping[str, str] | None,
    loads: Mapping[str, str] | None = None,
) -> Load:
    """``columns``: names in the target; None: journal only. ``loads``: keys and tokens of the loads that its commit
    includes."""
    whole, changes = strategy.whole or stream.run.full_refresh, bool(stream.spec.source.changes)
    schema = None if columns is None else pa.schema([f.with_name(columns[f.name]) for f in window.schema])
    start = None if whole or known.after is None else known.after.dumps()
    parts = [part.id for part in window.parts]
    shape = "" if schema is None else schema.to_string()
    work = [key, known.epoch, start, window.position.dumps(), parts, shape, repr(strategy)]
    if stream.spec.sink.contract is not None:  # rows checked against another contract are other rows
        work.append(repr(stream.spec.sink.contract))
    return Load(
        key=key,
        load_id=ulid(),
        run_id=stream.run.run_id,
        token=hashlib.sha256(json.dumps([*work, loads] if loads else work).encode()).hexdigest(),
        repeatable=window.repeatable and resumes(stream),
        schema=schema,
        strategy=strategy,
        whole=window.whole,
        started_at=datetime.now(UTC),
        changes=changes and strategy.mode in CHANGES,
        parts=len(window.parts),
        count=stream.spec.sink.options.verify_target == "count",
        origin=digest(json.dumps(_origin(stream.spec, known, key, strategy))),
        replayed=known.again,
    )


def _origin(spec: StreamSpec, known: Recovered, key: str, strategy: Strategy) -> list[Any]:
    """See ``Load.origin``. Source options and contract rules are part of it, because they leave rows out."""
    before = known.head.load_id if known.head else None
    return [key, known.epoch, before, repr(strategy), repr(spec.source.options), repr(spec.sink.contract)]
