"""``dpone ops rollback-plan`` and ``dpone ops rollback``: what taking a load back would do, and what it did.

A plan changes nothing and takes no lock. What was executed is read back over new connections afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from dpone.certify.matrix import unconnected
from dpone.config.command_line import has_pipeline, table_sink
from dpone.config.reader import load_pipeline
from dpone.contract import Entry, Finding, Receipt, Rehearsal, SupportsSql, SupportsUndo
from dpone.engine.job import Job
from dpone.engine.undo import FoundLoad, find, names, rehearse, require_own, undo
from dpone.errors import ConfigError, PluginError, Stopped, counted
from dpone.model.pipeline import Pipeline, SourceSpec, StateSpec, StreamSpec
from dpone.model.position import Position
from dpone.model.schema import Name
from dpone.plugins import Plugins, discover

Status = Literal["template", "plan", "refused", "rolled_back", "already_rolled_back"]

# What no rollback of a load takes back, whatever the target.
STAYS = (
    "columns that the load added or widened stay: other loads may fill them",
    "what the source forgot after the load stays forgotten: the next run stops if it cannot read those rows again",
    "copies that others have made of the rows stay",
)


@frozen
class Rollback:
    """What was planned or done. ``JSON``: docs/reference/rollback.schema.json.

    status      ``template``: no journal was read. ``plan``: nothing was executed. ``refused``: it cannot be done,
                ``reason`` says why. ``rolled_back``, ``already_rolled_back``: ``verified`` says what was read back
    sink        type of the sink; ``target`` its table or folder
    found       the load in the journal; None in a template
    rehearsal   statements and numbers of rows, of a plan; a template has no numbers
    position    what the undo leaves, of a plan
    receipt     of what was executed now
    """

    status: Status
    sink: str
    target: str
    load_id: str
    found: FoundLoad | None = None
    rehearsal: Rehearsal | None = None
    position: Position | None = None
    reason: str = ""
    todo: str = ""
    receipt: Receipt | None = None
    verified: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status != "refused" and all(one.ok for one in self.verified)

    def to_json(self) -> dict[str, Any]:
        found, rehearsal = self.found, self.rehearsal
        numbers = self.receipt or (rehearsal if self.status == "plan" else None)
        undone_by = self.receipt.entry if self.receipt else found and found.undone
        return {
            "format": 1,
            "status": self.status,
            "executed": self.receipt is not None,
            "journal_read": found is not None,
            "sink": self.sink,
            "target": self.target,
            "load_id": self.load_id,
            "stream": found and found.spec.name,
            "key": found and found.key,
            "state_read": bool(found and found.own),
            "load": found and found.entry and _entry(found.entry),
            "loads_on_top": [{"key": key, **_entry(entry)} for key, entry in found.later] if found else [],
            "rows": numbers and {"taken_out": numbers.deleted, "put_back": numbers.inserted},
            "position": self.position and self.position.to_json(),
            "statements": list(rehearsal.statements) if rehearsal else [],
            "refused": {"reason": self.reason, "todo": self.todo} if self.status == "refused" else None,
            "rolled_back_by": undone_by and {**_entry(undone_by), "epoch": undone_by.epoch},
            "verified": [{"check": one.name, "ok": bool(one.ok), "found": one.found} for one in self.verified],
            "stays": list(STAYS),
        }

    def to_text(self) -> str:
        title = _TITLES[self.status].format(load=self.load_id, target=self.target)
        return "\n".join([f"{title}, but a check failed" if self.verified and not self.ok else title, *self._lines()])

    def _lines(self) -> list[str]:
        found, lines = self.found, [f"sink          {self.found.spec.sink.location if self.found else self.sink}"]
        if found:
            lines += [
                f"stream        {found.spec.name}{'' if found.own else ', of another pipeline: its state was not read'}"
            ]
            lines += [f"load          {_loaded(found.entry)}"] if found.entry else []
            tops = [f"{entry.load_id}, {_loaded(entry)}, key {key}" for key, entry in found.later]
            lines += [f"load on top   {top}" for top in tops] or ["loads on top  none"]
        if self.status == "template":
            lines += ["journal       not read; add --config with the pipeline file to read it"]
        if self.status == "refused":
            return [*lines, f"reason        {self.reason}", f"to do         {self.todo}"]
        if self.status == "plan" and self.rehearsal and self.position:
            lines += [f"rows          {_numbers('would take out', 'put back', self.rehearsal)}"]
            lines += [f"position      {self.position.dumps()}"]
        if self.receipt:
            lines += [f"rows          {_numbers('took out', 'put back', self.receipt)}"]
        if self.verified:
            lines += ["verified"] + [
                f"  {'ok  ' if one.ok else 'FAIL'}  {one.name}: {one.found}" for one in self.verified
            ]
        lines += ["not undone", *(f"  {line}" for line in STAYS)]
        if self.rehearsal:
            lines += ["statements", *(f"  {_ended(one)}" for one in self.rehearsal.statements)]
        return lines


_TITLES = {
    "template": "template, not executed, journal not read: roll back load {load} of {target}",
    "plan": "plan, not executed: roll back load {load} of {target}",
    "refused": "plan, not executed: load {load} of {target} cannot be rolled back",
    "rolled_back": "load {load} of {target} was rolled back",
    "already_rolled_back": "load {load} of {target} was rolled back earlier; nothing was changed now",
}


def _ended(statement: str) -> str:
    return statement if statement.startswith("--") else f"{statement};"


def _numbers(out: str, back: str, of: Rehearsal | Receipt) -> str:
    return f"{out} {counted(of.deleted, 'row')}, {back} {counted(of.inserted, 'row')}"


def _loaded(entry: Entry) -> str:
    rows = ", ".join(f"{entry.rows.get(name, 0):,} {name}" for name in ("inserted", "updated", "deleted"))
    return f"committed {entry.committed_at.isoformat(sep=' ', timespec='seconds')}, {rows}"


def _entry(entry: Entry) -> dict[str, Any]:
    counts = {name: entry.rows.get(name, 0) for name in ("inserted", "updated", "deleted", "unchanged")}
    at = entry.committed_at.isoformat()
    return {"load_id": entry.load_id, "run_id": entry.run_id, "seq": entry.seq, "committed_at": at, "rows": counts}


def rollback_plan(
    sink: str, target: str, load_id: str, config: str | Path | None = None, plugins: Plugins | None = None
) -> Rollback:
    """What ``rollback`` would do; changes nothing. ``sink``: the name of a connection in the pipeline file ``config``,
    or a type. Without ``config`` the template of that type's dialect. Raises ConfigError, PluginError."""
    plugins = plugins or discover()
    if config is None:
        return _template(plugins, sink, target, load_id)
    run = _looking(Path(config), sink, target, plugins)
    return _planned(run, target, find(run, sink, target, load_id))


def rollback(
    sink: str, target: str, load_id: str, config: str | Path | None = None, plugins: Plugins | None = None
) -> Rollback:
    """Take the load back, and read back what became of it. A load that was rolled back before is verified, and nothing
    is changed: so a call that was killed can be repeated. Raises UndoRefused, Busy, ConfigError, PluginError."""
    plugins = plugins or discover()
    if config is None:
        todo = "add --config with the pipeline file whose run loaded it"
        raise ConfigError(f"roll back load {load_id}", "the pipeline that has its lock and state is not given", todo)
    pipeline = load_pipeline(config, plugins=plugins)
    run = Job(pipeline, plugins=plugins)
    found = require_own(find(run, sink, target, load_id))
    receipt = None if found.undone else undo(pipeline, found.spec.name, load_id, plugins)
    verified = _verified(run, found, receipt)
    status: Status = "rolled_back" if receipt else "already_rolled_back"
    return Rollback(status, found.spec.sink.type, target, load_id, found, receipt=receipt, verified=verified)


def _looking(config: Path, sink: str, target: str, plugins: Plugins) -> Job:
    """The pipeline; or one made of a connection, of a file of connections, or one that no stream of the pipeline uses
    for this target."""
    pipeline = load_pipeline(config, plugins=plugins) if has_pipeline(config) else None
    known = () if pipeline is None else pipeline.streams
    if pipeline is None or not any(sink == one.sink.named and names(one.sink, target) for one in known):
        spec = table_sink(sink, target, config)
        if spec is not None:
            pipeline = Pipeline("", (StreamSpec("", SourceSpec(""), spec),), StateSpec(""))
    assert pipeline is not None, "a file of connections has this one, or is refused"
    return Job(pipeline, plugins=plugins)


def _planned(run: Job, target: str, found: FoundLoad) -> Rollback:
    type_, load_id = found.spec.sink.type, found.load_id
    try:
        rehearsal, position = rehearse(run, found)
    except Stopped as error:
        return Rollback("refused", type_, target, load_id, found, reason=error.found, todo=error.todo)
    return Rollback("plan", type_, target, load_id, found, rehearsal, position)


def _verified(run: Job, found: FoundLoad, receipt: Receipt | None) -> tuple[Finding, ...]:
    """Over new connections, from what is durable."""
    spec, load_id = found.spec, found.load_id
    with closing(run.make("sink", spec.sink)) as sink:
        undo_sink: Any = run.offered(SupportsUndo, sink, spec.sink)
        left = undo_sink.remaining(load_id)
        entries: Sequence[tuple[str, Entry]] = undo_sink.loads(load_id)
    by = next((entry for _, entry in entries if entry.undoes == load_id), None)
    findings = [Finding("rows of the load", left == 0, f"{counted(left, 'row')} of it in the target")]
    if receipt and found.entry:
        kept, back = sum(record.rows for record in found.entry.kept), by.rows.get("inserted", 0) if by else 0
        shown = f"{back:,} of {counted(kept, 'row')} put back, compared before the commit"
        findings.append(Finding("rows before the load", back == kept, shown))
    shown = f"load {by.load_id} took it back, in epoch {by.epoch}" if by else "no entry says that it was taken back"
    findings.append(Finding("journal", by is not None, shown))
    with closing(run.make("state", run.pipeline.state)) as state:
        saved = state.load(found.key) or state.load(spec.key(run.pipeline.name))
    epoch = Position.from_json(saved.value["position"]).epoch if saved else 0
    if receipt or (by and epoch >= by.epoch):
        findings.append(Finding("state", bool(by) and epoch >= by.epoch, f"it is in epoch {epoch}"))  # type: ignore[union-attr]
    else:
        findings.append(Finding("state", True, f"it is in epoch {epoch}; the next run adopts the journal"))
    return tuple(findings)


def _template(plugins: Plugins, sink: str, target: str, load_id: str) -> Rollback:
    from dpone.sql.restore import template

    failed = f"plan a rollback in {sink}"
    connector = plugins.get("sink", sink)
    if not connector.implemented:
        able = [name for name in plugins.names("sink") if plugins.connectors["sink", name].implemented]
        raise PluginError(failed, f"this version has no sink for {sink}", f"use one of {', '.join(able)}")
    if not plugins.supports("sink", sink, "undo"):
        raise ConfigError(failed, f"{sink} cannot take back a load", "load the rows again after 'dpone state set'")
    made = next(unconnected(plugins, sink))[1]
    sql: Any = plugins.offered(SupportsSql, made, sink)
    if sql is None:
        todo = "add --config with the pipeline file: the plan then lists the files"
        raise ConfigError(failed, f"{sink} is not a SQL database, so there is no template", todo)
    statements = template(sql.dialect, sql.dialect.table_name(Name.parse(target)), load_id)
    return Rollback("template", sink, target, load_id, rehearsal=Rehearsal(statements))
