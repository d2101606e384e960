"""``python -m benchmarks.postgres_cdc``: change streams against ``pg_recvlogical``, in alternating pairs.

Half of the changes are inserts, half updates, in transactions of 1,000, or all in one (``--transaction``). ``decode``
reads the window into Arrow batches and throws them away; ``apply`` loads it into a table with a primary key of another
cluster by ``cdc_apply``. The baseline streams the same slot's changes to ``/dev/null``. Ratios are of events a second.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.postgres.server import Server

from benchmarks.measure import Leg
from benchmarks.postgres import COLUMNS, DPONE, ROWS, cluster, leg

_DECODE = """
import sys
from contextlib import closing
from dpone.model.pipeline import Incremental, SourceSpec
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone_postgres.cdc import PostgresLogicalReader
from dpone_postgres.config import PostgresSourceOptions
options = PostgresSourceOptions(Incremental(by="cdc"), slot="copied", publication="p", initial="none",
                                transport=sys.argv[3])
spec = SourceSpec("postgres", Secret(sys.argv[1]), Name(("public", "source")), options=options)
with closing(PostgresLogicalReader(spec)) as reader:
    window, rows = reader.window(None, None), 0
    for table in window.tables:
        with reader.read(table) as stream:
            rows += sum(batch.num_rows for batch in stream.batches())
assert rows == int(sys.argv[2]), rows
"""
_PIPELINE = """\
pipeline: b
source:
  {{type: postgres, connection: '{source}', table: source,
   options: {{incremental: {{by: cdc}}, slot: copied, publication: p, initial: none, transport: {transport}}}}}
sink: {{type: postgres, connection: '{target}', table: target, strategy: {{mode: cdc_apply}}}}
"""
BARS = {"decode": 1.2, "apply": 0.4}


def lay(server: Server, changes: int, transaction: int) -> None:
    server.run(
        f"CREATE TABLE source ({COLUMNS})", "CREATE PUBLICATION p FOR TABLE source",
        "SELECT pg_create_logical_replication_slot('kept', 'pgoutput')",
    )  # fmt: skip
    with server.connect() as db:
        for first, last in _spans(changes // 2, transaction):
            db.execute(f"INSERT INTO source {ROWS.format(first, last)}".encode())
        for first, last in _spans(changes // 2, transaction):
            db.execute(f"UPDATE source SET note = 'changed' WHERE id BETWEEN {first} AND {last}".encode())


def _spans(rows: int, step: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + step - 1, rows)) for first in range(1, rows + 1, step))


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.postgres_cdc", description=__doc__.split("\n\n")[0])
    parser.add_argument("--changes", type=int, default=800_000)
    parser.add_argument("--transaction", type=int, default=1_000, help="changes in each")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--case", action="append", choices=[*BARS], help="only this one; repeat")
    parser.add_argument("--transport", default="peek", choices=["peek", "stream"])
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()), help="where the servers have their data"
    )
    options = parser.parse_args()
    missed = []
    with cluster(options.work) as (source, folder), cluster(options.work) as (target, _):
        lay(source, options.changes, options.transaction)
        print(f"| case | ours s | baseline s | events/s ratio | min-max | bar | ours peak MB |\n{'|---' * 7}|")
        for case in options.case or BARS:
            missed += measure(case, source, target, folder, options.changes, options.pairs, options.transport)
    print(f"missed: {', '.join(missed)}" if missed else "every bar is met", file=sys.stderr)
    return 1 if missed and options.check else 0


def measure(
    case: str, source: Server, target: Server, folder: Path, changes: int, count: int, transport: str
) -> list[str]:
    """The first pair warms up."""
    ours: list[Leg] = []
    theirs: list[Leg] = []
    for _ in range(count + 1):
        ours.append(_ours(case, source, target, folder, changes, transport))
        theirs.append(_theirs(source, folder))
    ratios = [other.wall / mine.wall for mine, other in zip(ours[1:], theirs[1:], strict=True)]
    cells = [
        case, f"{median(one.wall for one in ours[1:]):.2f}", f"{median(one.wall for one in theirs[1:]):.2f}",
        f"{median(ratios):.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}", f"{BARS[case]:.2f}",
        f"{max(one.peak for one in ours):.0f}",
    ]  # fmt: skip
    print(f"| {' | '.join(cells)} |", flush=True)
    return [] if median(ratios) >= BARS[case] else [case]


def _copied(source: Server) -> None:
    """A slot with all the changes ahead of it; the last one was moved on."""
    source.run(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'copied'",
        "SELECT pg_copy_logical_replication_slot('kept', 'copied')",
    )


def _ours(case: str, source: Server, target: Server, folder: Path, changes: int, transport: str) -> Leg:
    _copied(source)
    if case == "decode":
        return leg(folder, lambda at: 0, [sys.executable, "-c", _DECODE, source.url, str(changes), transport])
    target.run("DROP TABLE IF EXISTS target, __dpone__loads, __dpone__staging, __dpone__parts", "CHECKPOINT")
    text = _PIPELINE.format(source=source.url, target=target.url, transport=transport)
    done = leg(folder, lambda at: (at / "pipeline.yaml").write_text(text), [DPONE, "run", "pipeline.yaml"])
    if target.query("SELECT count(*), min(note) FROM target") != [(changes // 2, "changed")]:
        raise SystemExit("apply: the target does not have the rows")
    return done


def _theirs(source: Server, folder: Path) -> Leg:
    _copied(source)
    [(end,)] = source.query("SELECT pg_current_wal_flush_lsn()::text")
    command = (
        f"{source.programs}/pg_recvlogical -d {shlex.quote(source.url)} -S copied --start -f /dev/null --no-loop "
        f"-o proto_version=1 -o publication_names=p -E {end}"
    )
    return leg(folder, lambda at: 0, ["sh", "-c", command])


if __name__ == "__main__":
    sys.exit(main())
