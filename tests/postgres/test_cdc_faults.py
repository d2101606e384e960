"""Change streams over a network that fails: the connection is cut, or an answer lost, at each step of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml
from tests.postgres.proxy import COMMIT, Proxy, proxy
from tests.postgres.stream import ChangeSource
from tests.postgres.test_cdc_runs import begin, change, lay, require_equal, saved
from tests.postgres.test_kill_matrix import Run, run  # noqa: F401  # a fixture

pytestmark = pytest.mark.postgres

Fault = Literal["answer", "request"]
CUTS: Mapping[str, Sequence[tuple[bytes, int, dict[str, Any]]]] = {
    "source": (
        (b"pg_logical_slot_peek_binary_changes", 5_000, {}),
        (b"START_REPLICATION", 5_000, {"transport": "stream"}),
        (b"pg_replication_slot_advance", 0, {}),
    ),
    "sink": ((b"FROM STDIN", 0, {}), (b'."landing_orders"', 0, {}), (b'."__dpone__loads" (', 0, {}), (COMMIT, 0, {})),
}
AUDIT = (
    "DROP TABLE IF EXISTS audit",
    "CREATE TABLE audit (id int)",
    "CREATE OR REPLACE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN EXECUTE format('INSERT INTO %I.audit VALUES (1)', TG_TABLE_SCHEMA); RETURN NULL; END$$",
    "CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION counted()",
)


def through(pipeline: Path, source: ChangeSource, end: str, way: Proxy, mode: str, **options: Any) -> None:
    """One end of the pipeline goes through the proxy."""
    data = yaml.safe_load(pipeline.read_text())
    data[end]["connection"] = source.server.at(way.port)
    data["sink"]["strategy"] = {"mode": mode} if mode == "append" else {"mode": mode, "key": ["id"]}
    data["source"]["options"] = {**data["source"]["options"], "transport": "peek", **options}
    pipeline.write_text(yaml.safe_dump(data))


def arm(way: Proxy, word: bytes, nth: int, fault: Fault, after: int) -> None:
    way.word, way.fault, way.after, way.commits, way.nth = word, fault, after, 0, nth


def require(source: ChangeSource, folder: Path, mode: str, why: object) -> None:
    """Every row of the source, or every change of it, once; slot and position agree."""
    if mode == "append":
        told = "count(*), count(DISTINCT __dpone__event_id)"
        [(rows, events)] = source.query(f"SELECT {told} FROM landing_orders")
        assert rows == events == 30 + source.query("SELECT count(*) FROM audit")[0][0], why
    else:
        require_equal(source, folder, "postgres", why)
    assert source.confirmed() == saved(folder)["value"]["lsn"], why


@pytest.mark.parametrize("mode", ["cdc_apply", "append"])
@pytest.mark.parametrize("end", CUTS)
def test_PG_01_a_connection_cut_at_any_step_is_mended(
    run: Run,  # noqa: F811
    tmp_path: Path,
    source: ChangeSource,
    end: str,
    mode: str,
) -> None:
    """While the window is read, staged or applied, at the commit, whose answer may be lost when it has happened, and
    when the slot is moved: the next run ends with every change once, and the slot never passes what is saved."""
    cuts = CUTS[end][-1:] if mode == "append" else CUTS[end]  # where something may come twice
    with proxy((source.server.host, source.server.port)) as way:
        pipeline = lay(tmp_path, source, "postgres")
        through(pipeline, source, end, way, mode)
        begin(source)
        source.run(*AUDIT)
        assert run(pipeline)["code"] == 0
        change(source)
        assert run(pipeline)["code"] == 0
        for n, ((word, after, options), fault) in enumerate(product(cuts, get_args(Fault)), 1):
            why = word, fault
            through(pipeline, source, end, way, mode, **options)
            change(source, n)
            source.run(f"INSERT INTO orders SELECT i, i, md5(i::text) FROM generate_series({n}000, {n}500) AS i")
            before, nth = source.confirmed(), 1
            if word == COMMIT:  # the last one is that of the sweep, the one before it that of the rows
                arm(way, COMMIT, 0, fault, 0)
                assert run(pipeline)["code"] == 0
                change(source, n + 10)
                before, nth = source.confirmed(), way.commits - 1
            arm(way, word, nth, fault, after)
            done = run(pipeline)
            assert way.commits >= nth, f"{why}: the fault befell nothing"
            assert done["code"] == 1 or why == (COMMIT, "answer"), (why, done)
            if done["code"] and word != b"pg_replication_slot_advance":
                assert source.confirmed() == before, why
            done = run(pipeline)
            assert done["code"] == 0, (why, done)
            require(source, tmp_path, mode, why)
