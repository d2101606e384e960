"""What is measured. A case lays out one folder per side; every leg runs in a fresh copy of its side's folder."""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from attrs import frozen

from benchmarks.baseline_merge import COLUMNS
from benchmarks.measure import run

HERE = Path(__file__).parent
DPONE = str(Path(sysconfig.get_path("scripts")) / "dpone")

PIPELINE = """\
pipeline: bench
source: {{type: file, path: "in/*.csv"}}
sink: {sink}
"""


def python(*arguments: object) -> str:
    """Run a module or script of ours beside the measurement; what it printed."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode} of: {' '.join(command)}")
    return done.stdout.strip()


@frozen
class Data:
    """Generated files, kept from one call to the next."""

    folder: Path

    def file(self, kind: str, rows: int, ending: str = "csv") -> Path:
        """``orders``, ``delta``, ``changed`` or ``log`` (see ``benchmarks.data``), also brought into the page cache."""
        path = self.folder / f"{kind}-{rows}.{ending}"
        if not path.exists():
            python("-m", "benchmarks.data", kind, rows, path)
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        return path


class Case:
    """Our command and the baseline's, which do the same work.

    bar    the median ratio may be this much; None: it is only told
    times  pairs for each pair that is asked for: short legs need more of them
    """

    name: str
    what: str
    baseline: str
    bar: float | None
    times = 1
    moves_data = True

    def ours(self) -> Sequence[str]:
        return [DPONE, "run", "pipeline.yaml"]

    def theirs(self) -> Sequence[str]:
        raise NotImplementedError

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        """Fill the folders in which the legs begin. Nothing here is measured."""

    def compare(self, ours: Path, theirs: Path) -> str:
        """What both sides have in common; ends the benchmark if they do not."""
        raise NotImplementedError


class Help(Case):
    name, what, baseline, bar, times, moves_data = "help", "dpone --help", 'python -c "import click"', 3.0, 8, False

    def ours(self) -> Sequence[str]:
        return [DPONE, "--help"]

    def theirs(self) -> Sequence[str]:
        return [sys.executable, "-c", "import click"]

    def compare(self, ours: Path, theirs: Path) -> str:
        if "Usage: dpone" not in (ours / "out.log").read_text():
            raise SystemExit("dpone --help printed no usage")
        return "help printed"


def lay_run(folder: Path, sink: str, *inputs: Path) -> None:
    """A pipeline that reads ``in/*.csv``."""
    (folder / "in").mkdir()
    for path in inputs:
        (folder / "in" / path.name).symlink_to(path)
    (folder / "pipeline.yaml").write_text(PIPELINE.format(sink=sink))


class Parquet(Case):
    name, what, bar = "parquet", "CSV -> Parquet (file sink, full_refresh)", 1.25
    baseline = "pyarrow: open_csv -> ParquetWriter.write_batch, same codec and row groups, fsync"

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        orders = data.file("orders", rows)
        lay_run(ours, "{type: file, path: out, strategy: {mode: full_refresh}}", orders)
        if theirs:
            (theirs / "in.csv").symlink_to(orders)

    def theirs(self) -> Sequence[str]:
        return [sys.executable, str(HERE / "baseline_parquet.py"), "in.csv", "out.parquet"]

    def compare(self, ours: Path, theirs: Path) -> str:
        return _rows(python("-m", "benchmarks.compare", "parquet", ours / "out", theirs / "out.parquet"))


class Partitions(Case):
    """The same work by the same program, in two parts at once."""

    name, what, bar = "partitions", "CSV -> Parquet in 2 partitions with 2 workers", 1 / 1.6
    baseline = "the same with 1 partition and 1 worker"

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        orders = data.file("orders", rows)
        for folder in (ours, theirs):
            if folder:
                lay_run(folder, "{type: file, path: out, strategy: {mode: full_refresh}}", orders)
                text = (folder / "pipeline.yaml").read_text()
                text = text.replace('"in/*.csv"', '"in/*.csv", options: {newlines_in_values: false}')
                (folder / "pipeline.yaml").write_text(text)
        with (ours / "pipeline.yaml").open("a") as pipeline:
            pipeline.write("runtime: {partitions: 2, workers: 2}\n")

    def theirs(self) -> Sequence[str]:
        return self.ours()

    def compare(self, ours: Path, theirs: Path) -> str:
        return _rows(python("-m", "benchmarks.compare", "parquet", ours / "out", theirs / "out"))


_SQLITE = '{{type: sqlite, connection: "sqlite:///out.db", table: orders, strategy: {{mode: {}, key: [id]}}}}'


class Sqlite(Case):
    name, what, bar = "sqlite", "CSV -> SQLite (full_refresh)", 1.5
    baseline = "sqlite3 shell: .import into the same typed table"

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        orders = data.file("orders", rows)
        lay_run(ours, _SQLITE.format("full_refresh"), orders)
        if theirs:
            (theirs / "in.csv").symlink_to(orders)

    def theirs(self) -> Sequence[str]:
        shell = shutil.which("sqlite3")
        if shell is None:
            raise SystemExit("the sqlite3 shell is missing: apt-get install sqlite3 (or brew, dnf: sqlite)")
        return [shell, "out.db", f"CREATE TABLE orders ({COLUMNS})", ".mode csv", ".import --skip 1 in.csv orders"]

    def compare(self, ours: Path, theirs: Path) -> str:
        return _rows(python("-m", "benchmarks.compare", "sqlite", ours / "out.db", theirs / "out.db"))


class Merge(Case):
    name, what, bar = "merge", "merge of a tenth (half changed, half new) into a SQLite table", 1.3
    baseline = "Python by hand: csv, executemany into a temporary table, ordered upsert, one transaction"

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        orders, delta = data.file("orders", rows), data.file("delta", rows)
        lay_run(ours, _SQLITE.format("merge"), orders)
        run(self.ours(), ours)
        (ours / "in" / delta.name).symlink_to(delta)
        if theirs:
            (theirs / "in.csv").symlink_to(orders)
            run(self.theirs(), theirs)
            (theirs / "in.csv").unlink()
            (theirs / "in.csv").symlink_to(delta)

    def theirs(self) -> Sequence[str]:
        return [sys.executable, str(HERE / "baseline_merge.py"), "in.csv", "out.db"]

    def compare(self, ours: Path, theirs: Path) -> str:
        return _rows(python("-m", "benchmarks.compare", "sqlite", ours / "out.db", theirs / "out.db"))


class Diff(Case):
    """The whole table again, a tenth of it changed."""

    name, what, bar = "snapshot_diff", "snapshot_diff of all rows, a tenth changed, into a SQLite table", 1.4
    baseline = "Python by hand: csv, executemany into a temporary table, delete, update and insert, one transaction"
    script, reader = "diff", "sqlite"

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        orders, changed = data.file("orders", rows), data.file("changed", rows)
        lay_run(ours, _SQLITE.format(self.name), orders)
        if self.name == "scd2":
            text = (ours / "pipeline.yaml").read_text()
            (ours / "pipeline.yaml").write_text(text.replace("mode: scd2", "mode: scd2, deletes: close"))
        run(self.ours(), ours)
        (ours / "in" / orders.name).unlink()
        (ours / "in" / changed.name).symlink_to(changed)
        if theirs:
            (theirs / "in.csv").symlink_to(orders)
            run(self.theirs(), theirs)
            (theirs / "in.csv").unlink()
            (theirs / "in.csv").symlink_to(changed)

    def theirs(self) -> Sequence[str]:
        return [sys.executable, str(HERE / "baseline_diff.py"), self.script, "in.csv", "out.db"]

    def compare(self, ours: Path, theirs: Path) -> str:
        return _rows(python("-m", "benchmarks.compare", self.reader, ours / "out.db", theirs / "out.db"))


class Scd2(Diff):
    name, what = "scd2", "scd2 of all rows, a tenth changed, into a SQLite table of versions"
    baseline = "Python by hand: csv, executemany into a temporary table, close and open versions, one transaction"
    script, reader = "scd2", "versions"


_CHANGES = """\
pipeline: changes
source:
  type: file
  path: in/log.jsonl
  options:
    incremental: {by: cdc}
    columns: {price: double, discount: double, ordered_on: date, updated_at: timestamp}
sink:
  type: sqlite
  connection: sqlite:///out.db
  table: orders
  strategy: {mode: cdc_apply}
  options: {adopt_existing: true}
"""


class Changes(Case):
    name, what, bar = (
        "cdc_apply",
        "cdc_apply of a tenth as many changes (half updates, rest new or gone) to SQLite",
        None,
    )
    baseline = "Python by hand: json, last change of each key into a temporary table, delete, upsert, one transaction"

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        orders, log = data.file("orders", rows), data.file("log", rows)
        lay_run(ours, _SQLITE.format("full_refresh"), orders)
        run(self.ours(), ours)
        (ours / "in" / "log.jsonl").symlink_to(log)
        (ours / "pipeline.yaml").write_text(_CHANGES)
        if theirs:
            (theirs / "in.csv").symlink_to(orders)
            run([sys.executable, str(HERE / "baseline_merge.py"), "in.csv", "out.db"], theirs)
            (theirs / "in.jsonl").symlink_to(log)

    def theirs(self) -> Sequence[str]:
        return [sys.executable, str(HERE / "baseline_cdc.py"), "in.jsonl", "out.db"]

    def compare(self, ours: Path, theirs: Path) -> str:
        return _rows(python("-m", "benchmarks.compare", "sqlite", ours / "out.db", theirs / "out.db"))


_CONTRACT = """\
required_columns: [id, price, status]
logical_types: {id: integer, price: number, updated_at: timestamp}
not_null: [id, customer_id]
unique: [id]
ranges: {price: {min: 0, max: 1000}, quantity: {min: 1}}
lengths: {note: {max: 100}}
allowed_values: {status: [new, paid, shipped, returned]}
patterns: {note: 'order note [0-9a-f]+ .*'}
row_count: {min: 1}
max_null_ratio: {discount: 0.1}
freshness: {updated_at: 99999d}
"""


class ContractCheck(Case):
    """Reads the rows and checks every kind of rule, against reading the rows alone."""

    name, what, bar = "contract_check", "ops contract-check of Parquet, every kind of rule", 2.0
    baseline = "dpone run of the same file without a contract, into a sink that keeps nothing"

    def ours(self) -> Sequence[str]:
        return [DPONE, "ops", "contract-check", "--rows", "in.parquet", "--contract", "contract.yaml"]

    def theirs(self) -> Sequence[str]:
        return [sys.executable, str(HERE / "baseline_null.py")]

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        orders = data.file("orders", rows, "parquet")
        for folder in filter(None, (ours, theirs)):
            (folder / "in.parquet").symlink_to(orders)
        (ours / "contract.yaml").write_text(_CONTRACT)
        if theirs:
            sink = "{type: 'null', path: nowhere, strategy: {mode: append}}"
            source = "{type: file, path: in.parquet}"
            (theirs / "pipeline.yaml").write_text(f"pipeline: bench\nsource: {source}\nsink: {sink}\n")

    def compare(self, ours: Path, theirs: Path) -> str:
        """Both read all rows; every rule holds."""
        pattern = {ours: r"([\d,]+) rows checked, 17 rules, all hold", theirs: r"loaded, ([\d,]+) rows read"}
        counts = []
        for folder, text in pattern.items():
            match = re.search(text, (folder / "out.log").read_text())
            if match is None:
                raise SystemExit(f"no number of rows in the output of {folder}")
            counts.append(match[1])
        if counts[0] != counts[1]:
            raise SystemExit(f"{counts[0]} rows were checked and {counts[1]} read")
        return f"{counts[0]} rows read"


class Telemetry(Sqlite):
    """The same run by the same program, observed: traces and metrics to a collector on this machine."""

    name, what, bar, times = "telemetry", "CSV -> SQLite with OpenTelemetry, over HTTP", 1.03, 2
    baseline = "the same without OTEL_* variables"

    def ours(self) -> Sequence[str]:
        return ["env", f"OTEL_EXPORTER_OTLP_ENDPOINT={_collector()}", "no_proxy=*", *super().ours()]

    def theirs(self) -> Sequence[str]:
        return super().ours()

    def lay(self, data: Data, rows: int, ours: Path, theirs: Path | None) -> None:
        for folder in filter(None, (ours, theirs)):
            super().lay(data, rows, folder, None)

    def compare(self, ours: Path, theirs: Path) -> str:
        if "observer" in (ours / "out.log").read_text():
            raise SystemExit("the collector has not taken the telemetry")
        return super().compare(ours, theirs)


@cache
def _collector() -> str:
    process = subprocess.Popen([sys.executable, str(HERE / "collector.py")], stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _rows(count: str) -> str:
    return f"{int(count):,} rows equal"


CASES: tuple[Case, ...] = (
    Help(),
    Parquet(),
    Partitions(),
    Sqlite(),
    Merge(),
    Diff(),
    Scd2(),
    Changes(),
    ContractCheck(),
    Telemetry(),
)
