"""Compares a saved position with the current catalogue: which tables a window continues, which it reads whole, and
whether it may go on at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from attrs import define, evolve, field, frozen

from dpone.errors import ConfigError, Gap, IdentityChanged, StateError, Stopped
from dpone.model.schema import Name
from dpone_postgres import outside
from dpone_postgres.database import PostgresDialect
from dpone_postgres.offsets import PostgresLogicalOffset
from dpone_postgres.outside import Facts, KnownFacts, Unlogged
from dpone_postgres.pgoutput import Decoder, resync_todo
from dpone_postgres.publication import Published, matches

_quote = PostgresDialect().quote
_IGNORE = "sink.options.schema_evolution.on_missing_column: ignore"
_SHOWN = 5  # tables that one message describes

# Why changes of a table are missing. Last argument: xids of the stream's TRUNCATEs; None if not all of it was read.
Compare = Callable[[Name, KnownFacts, Facts, Sequence[int] | None], list[str]]


@frozen
class Review:
    """tables  all published tables that the pipeline selects, by oid
    inside  those whose changes the window takes, with their oids; unless ``strict``, also any other selected table
    due     those to be read whole; their changes are left out until then
    """

    tables: Mapping[int, Published]
    inside: Mapping[str, int]
    strict: bool
    due: tuple[Published, ...]
    warnings: tuple[str, ...] = ()

    @property
    def reads(self) -> bool:
        """False if every table is read whole: the stream before that point is then not needed. It may not even be
        readable: up to PostgreSQL 17, decoding fails for commits made while the publication did not exist."""
        return bool(self.inside) or not self.strict

    def name(self, oid: int, described: str) -> str:
        """The current name of a table that the stream describes: the oid identifies it, also if it was renamed for a
        while."""
        return str(self.tables[oid].name) if oid in self.tables else described

    def takes(self, table: str) -> bool:
        if any(str(one.name) == table for one in self.due):
            return False
        return not self.strict or table in self.inside


@define
class Reviewer:
    """``selects``: whether the pipeline selects a table. ``policy``: ``on_outside_change``. ``saved``: None before the
    first window."""

    publication: str
    selects: Callable[[Name], bool]
    policy: Literal["stop", "resync", "report"]
    initial: Literal["snapshot", "none"]
    failed: str
    saved: PostgresLogicalOffset | None
    published: Mapping[str, Published]
    facts: Mapping[str, Facts]
    compare: Compare
    look: Callable[[Sequence[Published]], Mapping[str, Facts]]  # the current facts
    known: Mapping[str, KnownFacts] = field(init=False)
    _again: set[str] = field(factory=set, init=False)  # found changed; they are read again
    _gone: set[int] = field(factory=set, init=False)  # partitions already reported as created and dropped

    def __attrs_post_init__(self) -> None:
        self.known = known_facts(self.saved)

    def begin(self) -> Review:
        """The review at the start of a window. Raises IdentityChanged, Gap."""
        warnings: list[str] = []
        inside, due = self._inside(), [] if self.saved is None else [*self.saved.due]
        for name in self._decided(self._replaced(inside), IdentityChanged, warnings):
            due.append(name)
        lost = {name: found for name in inside if (found := self._lost(name, None))}
        for name in self._decided(lost, Gap, warnings):
            due.append(name)
        inside = {name: oid for name, oid in inside.items() if name in self.published}
        if self.saved is not None:
            for name in sorted(self.published.keys() - inside.keys() - {*due}):
                if self.initial == "snapshot":
                    due.append(name)
                else:
                    inside[name] = self.published[name].oid
                    todo = f"to load them, {resync_todo([name])}"
                    warnings.append(f"table {name} is new to the stream: its existing rows are not loaded; {todo}")
        waiting = [name for name in due if name not in self.published]
        warnings += [f"table {name} waits for its snapshot: it is not in {self.publication}" for name in waiting]
        warnings += self._came_with_values(inside)
        taken = {name: oid for name, oid in inside.items() if name not in due}
        whole = tuple(self.published[name] for name in sorted({*due}) if name in self.published)
        tables = {table.oid: table for table in self.published.values()}
        return Review(tables, taken, self.saved is not None and self.saved.outside is not None, whole, tuple(warnings))

    def end(self, review: Review, read: Decoder) -> Review:
        """The review at the end of a window. If it has more tables due, the window must be read again."""
        warnings = [*review.warnings]
        lost: dict[str, list[str]] = {}
        if not read.short:
            for name in review.inside:
                # findings at the start of the window were reported then
                before = self._lost(name, None) if self.policy == "report" else []
                found = self._lost(name, [read.truncated[name]] if name in read.truncated else [])
                lost[name] = [one for one in found if one not in before]
            leaves = {name: seen for name, seen in read.leaves.items() if name in review.inside}
            for name, gone in self._came_and_went(leaves).items():
                lost[name] += gone
        for name, why in self._named_otherwise(read.described).items():
            lost.setdefault(name, []).append(why)
        again = self._decided({name: found for name, found in lost.items() if found}, Gap, warnings)
        due = {*again} | {str(table.name) for table in review.due}
        inside = {name: oid for name, oid in review.inside.items() if name not in due}
        whole = tuple(self.published[name] for name in sorted(due))
        return evolve(review, inside=inside, due=whole, warnings=tuple(dict.fromkeys(warnings)))

    def _named_otherwise(self, described: Mapping[str, Mapping[tuple[str, ...], int]]) -> dict[str, str]:
        """OUT-04: a column may have had a different name when the rows were written. The facts from the start of the
        window lack later ALTERs, and the current facts may contain ALTERs that the stream does not have yet. So only a
        difference from both counts."""
        found = {name: column for name in described if (column := self._column_of(name, self.facts, described))}
        now = self.look([self.published[name] for name in found]) if found else {}
        return {
            name: f"its column {column} had a different name for a while"
            for name, column in found.items() if self._column_of(name, now, described)
        }  # fmt: skip

    def _column_of(
        self, name: str, facts: Mapping[str, Facts], described: Mapping[str, Mapping[tuple[str, ...], int]]
    ) -> str:
        if name not in facts:
            return ""
        fitting = (
            outside.named_otherwise(self.known.get(name), facts[name], names, xid)
            for names, xid in described[name].items()
        )
        return next(filter(None, fitting), "")

    def _came_and_went(self, leaves: Mapping[str, Mapping[int, int]]) -> dict[str, list[str]]:
        """OUT-04: partitions of the stream that the facts from the start of the window lack were either created since,
        or already dropped: the current catalogue decides. A table without facts in the position is checked by the next
        window."""
        new = {
            name: {oid: xid for oid, xid in seen.items() if oid not in self.facts[name].nodes and oid not in self._gone}
            for name, seen in leaves.items() if name in self.known and name in self.facts
        }  # fmt: skip
        asked = [self.published[name] for name, seen in new.items() if seen]
        lost = {name: now.lost(new[name]) for name, now in (self.look(asked) if asked else {}).items()}
        self._gone.update(*lost.values())
        return {name: [*outside.came_and_went(gone)] for name, gone in lost.items()}

    def result(
        self,
        review: Review,
        tables: Mapping[str, int],
        truncated: Mapping[str, int],
        leaves: Mapping[str, Mapping[int, int]],
        *,
        short: bool,
    ) -> dict[str, Any]:
        """The fields of the next position."""
        begun = {} if short else {str(table.name): table.oid for table in review.due}
        taken, kept = {**tables, **begun}, {}
        for name in taken:
            was = None if name in begun else self.known.get(name)
            now, seen = self.facts.get(name), {**(was.seen if was else {}), **leaves.get(name, {})}
            said = self._gone.union(now.lost(was.seen) if was and now else ())
            seen = {oid: xid for oid, xid in seen.items() if oid not in said}
            one = outside.kept_after(was, now, truncated.get(name), short, seen)
            if one is not None:
                kept[name] = one.to_json()
        waiting = [str(table.name) for table in review.due] if short else []
        if self.saved is not None:
            waiting += [name for name in self.saved.due if name not in self.published]
        return {"tables": taken, "outside": kept, "due": tuple(sorted({*waiting}))}

    def _inside(self) -> dict[str, int]:
        if self.saved is None:
            return {name: table.oid for name, table in self.published.items()}
        due = {*self.saved.due}
        inside = {
            name: oid for name, oid in self.saved.tables.items()
            if name not in due and self.selects(Name.parse(name))
        }  # fmt: skip
        if self.saved.outside is None:
            inside = {**{n: table.oid for n, table in self.published.items() if n not in due}, **inside}
        return inside

    def _replaced(self, inside: Mapping[str, int]) -> dict[str, list[str]]:
        """PG-19, OUT-02: the name now belongs to another table, or the table was renamed."""
        names = {table.oid: name for name, table in self.published.items()}
        found = {}
        for name, oid in inside.items():
            now = self.published.get(name)
            if now is not None and now.oid != oid:
                found[name] = [f"it was dropped and recreated (its oid was {oid}, and is {now.oid})"]
            elif now is None and oid in names:
                found[name] = [f"it was renamed to {names[oid]}"]
        return found

    def _lost(self, name: str, truncates: Sequence[int] | None) -> list[str]:
        if name not in self.published:
            return [f"it is no longer in publication {self.publication}"]
        was, now = self.known.get(name), self.facts.get(name)
        return [] if was is None or now is None else self.compare(Name.parse(name), was, now, truncates)

    def _decided(self, found: Mapping[str, Sequence[str]], error: type[Stopped], warnings: list[str]) -> Iterator[str]:
        """Names of the tables to read again. Raises ``error`` if the policy leaves the decision to a person, or if the
        table can neither be read again nor continued."""
        new = {name: why for name, why in found.items() if name not in self._again}
        if not new:
            return iter([*found])
        absent = [name for name in new if name not in self.published]
        if self.policy == "stop" or (self.policy == "resync" and absent) or (error is IdentityChanged and absent):
            raise self._stop(new, error)
        if self.policy == "report" and error is Gap:
            warnings += [f"table {name}: {'; '.join(why)}; the target may lack changes" for name, why in new.items()]
            return iter(())
        self._again |= {*new}
        warnings += [f"table {name}: {'; '.join(why)}; it is read again" for name, why in new.items()]
        return iter([*found])

    def _stop(self, found: Mapping[str, Sequence[str]], error: type[Stopped]) -> Stopped:
        said = [f"table {name}: {' and '.join(why)}" for name, why in list(found.items())[:_SHOWN]]
        if len(found) > _SHOWN:
            said.append(f"and {len(found) - _SHOWN} more")
        every = len(found) > _SHOWN and self.saved is not None and found.keys() >= self.saved.tables.keys()
        todo = resync_todo(["*.*"] if every else [*found])
        if any(name not in self.published for name in found):
            todo = f"first publish the missing tables again; then {todo}"
        keys = sorted(name for name in found if self._key_has_another_name(name))
        if keys:
            todo = f"drop the target of {', '.join(keys)}, whose key was renamed (keep the target of strategy append); "
            todo += f"then {resync_todo([*found])}"
        if gone := sorted({column for name in found if name not in keys for column in self._left(name)}):
            one = f"column {gone[0]}" if len(gone) == 1 else f"columns {', '.join(gone[:_SHOWN])}"
            todo += f"; the target then needs {_IGNORE} for {one}, or use --full-refresh instead"
        return error(self.failed, f"changes may be missing: {'; '.join(said)}", todo)

    def _key_has_another_name(self, name: str) -> bool:
        """Then rows in the target have no value in the new key column and cannot be matched."""
        was, now = self.known.get(name), self.published.get(name)
        return was is not None and now is not None and not {*now.key} <= {*was.columns} and bool(self._left(name))

    def _left(self, name: str) -> set[str]:
        """Columns that the target has and the stream no longer has."""
        was, now = self.known.get(name), self.facts.get(name)
        return set() if was is None or now is None else {*was.columns} - {*now.columns} - {""}

    def _came_with_values(self, inside: Mapping[str, int]) -> Iterator[str]:
        for name in inside:
            was, now = self.known.get(name), self.facts.get(name)
            if was is None or now is None or not (columns := outside.came_with_values(was, now)):
                continue
            one = f"column {columns[0]} was" if len(columns) == 1 else f"columns {', '.join(columns)} were"
            lack = "added with a default or other values: rows not changed since then lack them"
            yield f"table {name}: {one} {lack}; {resync_todo([name])}"


def known_facts(saved: PostgresLogicalOffset | None) -> dict[str, KnownFacts]:
    """Raises StateError."""
    try:
        return {name: KnownFacts.from_json(data) for name, data in ((saved and saved.outside) or {}).items()}
    except (LookupError, TypeError, ValueError) as error:
        found = f"outside: {type(error).__name__}: {error}"
        raise StateError(
            "read a change stream's offset", found, "copy a position from 'dpone state history'"
        ) from error


def require_operations(
    facts: Mapping[str, Facts], expected: Sequence[str], publication: str, saved: Any, failed: str
) -> None:
    """OUT-01: changes of an operation that is not published are lost, without a word. Raises ConfigError; Gap where
    the stream has begun, as it may have lost some since."""
    if not (lacking := lacking_operations(facts, expected)):
        return
    found = f"publication {publication} does not publish {', '.join(lacking)}"
    if saved is None:
        raise ConfigError(failed, found, "; ".join(operations_todo(publication, expected, lacking)))
    alter, meant = operations_todo(publication, expected, lacking)
    raise Gap(failed, f"{found}: such changes are lost", f"{alter}, then {resync_todo(['*.*'])}; {meant}")


def require_logged(unlogged: Sequence[Unlogged], policy: str, saved: Any, failed: str) -> None:
    """OUT-04: changes of unlogged and foreign tables are not in the WAL, so no stream contains them. Raises
    ConfigError; Gap if the stream has started, as the target may already lack changes."""
    if not unlogged or policy == "report":
        return
    found = "; ".join(one.found for one in unlogged[:_SHOWN])
    ways = "; ".join(one.todo for one in unlogged[:_SHOWN])
    tables = [str(one.table) for one in unlogged]
    leave = f"leave it out with source.exclude: [{', '.join(tables)}]"
    if saved is None:
        raise ConfigError(failed, found, f"run {ways}; or {leave}")
    raise Gap(failed, found, f"run {ways}; then {resync_todo(tables)}; or {leave}")


def lacking_operations(facts: Mapping[str, Facts], expected: Sequence[str]) -> list[str]:
    return [name for name in expected if any(name not in one.operations for one in facts.values())]


def operations_todo(publication: str, expected: Sequence[str], lacking: Sequence[str]) -> tuple[str, str]:
    """The two ways out: the statement that publishes them, and the option that says they are not needed."""
    alter = f"ALTER PUBLICATION {_quote(publication)} SET (publish = '{', '.join(expected)}')"
    left = ", ".join(name for name in expected if name not in lacking)
    return alter, f"or, if they are not needed, set source.options.operations: [{left}]"


def without(saved: PostgresLogicalOffset, wanted: Sequence[str], published: Sequence[str]) -> PostgresLogicalOffset:
    """The position without the tables that ``wanted`` names or matches; those that are published become due. Raises
    ConfigError for a name that matches no table."""
    known, chosen = dict.fromkeys([*saved.tables, *saved.due, *published]), set[str]()
    for name in wanted:
        fitting = [table for table in known if matches(Name.parse(table), Name.parse(name))]
        if (exact := str(Name.parse(name))) in known:  # an exact name counts even if it looks like a glob
            fitting = [exact]
        if not fitting:
            todo = f"the stream has {', '.join(sorted(known)) or 'none'}"
            raise ConfigError(f"resync table {name}", "no table of the stream matches", todo)
        chosen |= {*fitting}
    tables = {name: oid for name, oid in saved.tables.items() if name not in chosen}
    facts = None if saved.outside is None else {n: one for n, one in saved.outside.items() if n not in chosen}
    due = {*saved.due} - chosen | chosen & {*published}
    return evolve(saved, tables=tables, outside=facts, due=tuple(sorted(due)))
