"""The run log in a table of a database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from dpone.model.run_record import RunRecord, begun_already, damaged, not_running
from dpone.model.schema import Name
from dpone.sql.dialect import Database, transaction
from dpone.sql.own import Own, as_state_errors

_KEY = ("pipeline", "run_id")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _KEY]
    + [("began", pa.int64()), pa.field("record", pa.string()), pa.field("report", pa.string())]
)
_AT_ONCE = 100  # records in memory
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class SqlRunLog:
    """``contract.RunLog``, in the table ``__dpone__runs`` of any database that has a ``Database``. ``connect`` opens a
    connection for one call. ``began``: microseconds since 1970, because servers differ in how they compare texts and
    times."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Database]], name: Name) -> None:
        self._connect, self._name = connect, name

    def begin(self, record: RunRecord) -> None:
        with self._writing(record) as table:
            if table.rows(["run_id"], _key(record)):
                raise begun_already(record)
            table.insert(*_key(record).values(), _micros(record.started_at), _text(record.to_json()), None)

    def replace(self, record: RunRecord, report: Mapping[str, Any] | None = None) -> None:
        with self._writing(record) as table:
            found = table.rows(["record"], _key(record))
            if not found or _record(found[0][0]).status != "running":
                raise not_running(record)
            line = {"record": _text(record.to_json()), "report": None if report is None else _text(report)}
            table.update(line, _key(record))

    def records(self, pipeline: str | None = None, since: datetime | None = None) -> Iterator[RunRecord]:
        with self._connected() as db:
            table = self._table(db)
            if not table.exists():
                return
            keys = self._newest_first(db, table, pipeline, since)
            for at in range(0, len(keys), _AT_ONCE):
                some = keys[at : at + _AT_ONCE]
                found = {(row[0], row[1]): row[2] for row in self._some(db, table, some)}
                yield from (_record(found[key]) for key in some if key in found)  # else removed by the retention since

    def report(self, record: RunRecord) -> Mapping[str, Any] | None:
        with self._connected() as db:
            table = self._table(db)
            found = table.rows(["report"], _key(record)) if table.exists() else []
        report: Mapping[str, Any] | None = _json(found[0][0]) if found and found[0][0] is not None else None
        return report

    def prune(self, pipeline: str, before: datetime, keep: int) -> None:
        with self._connected() as db:
            table = self._table(db)
            if not table.exists():
                return
            kept = self._newest_first(db, table, pipeline, before)[:keep]
            gone = [key for key in self._newest_first(db, table, pipeline) if key not in set(kept)]
            if gone:
                with transaction(db, f"runs of {pipeline}"):
                    for key in gone:
                        table.delete(dict(zip(_KEY, key, strict=True)))

    def _newest_first(
        self, db: Database, table: Own, pipeline: str | None, since: datetime | None = None
    ) -> list[tuple[str, str]]:
        """The keys of records."""
        equal = {} if pipeline is None else {"pipeline": pipeline}
        d = db.dialect
        more = ("", ()) if since is None else (f" AND a.{d.quote('began')} >= {d.placeholder}", (_micros(since),))
        found = sorted(table.rows(["began", *_KEY], equal, *more), key=lambda row: (int(row[0]), row[2]), reverse=True)
        return [(row[1], row[2]) for row in found]

    def _some(self, db: Database, table: Own, keys: list[tuple[str, str]]) -> list[tuple[Any, ...]]:
        d = db.dialect
        column, holes = d.quote("run_id"), ", ".join([d.placeholder] * len(keys))
        ids = [table.stored("run_id", run_id) for _, run_id in keys]
        return table.rows([*_KEY, "record"], {}, f" AND a.{column} IN ({holes})", ids)

    def _table(self, db: Database) -> Own:
        return Own(db, self._name, _SCHEMA, _KEY)

    @contextmanager
    def _connected(self) -> Iterator[Database]:
        with as_state_errors("use the run log"), self._connect() as db:
            yield db

    @contextmanager
    def _writing(self, record: RunRecord) -> Iterator[Own]:
        """One transaction that locks the record from its start. The table is created by one runner at a time."""
        with self._connected() as db:
            table = self._table(db)
            if not table.exists():
                with transaction(db, f"table of runs {self._name.schema}"):
                    table.create()
            with transaction(db, f"run {record.run_id}"):
                yield table


def _key(record: RunRecord) -> dict[str, str]:
    return {"pipeline": record.pipeline, "run_id": record.run_id}


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _text(data: Mapping[str, Any]) -> str:
    return json.dumps(data, allow_nan=False)


def _record(text: str) -> RunRecord:
    return RunRecord.from_json(_json(text))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise damaged(str(error)) from error
