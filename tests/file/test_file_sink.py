"""The file sink: parts, the manifest, fencing, and what is left after a crash at any point."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from attrs import evolve

from dpone.connectors.file.config import FileSinkOptions
from dpone.connectors.file.sink import FileSink, FileWriter
from dpone.contract import BatchStream, Entry, Load, Part, Receipt
from dpone.errors import ConfigError, Conflict, DataError, SinkError
from dpone.host import durable
from dpone.model.evolution import SchemaChange
from dpone.model.ids import ulid
from dpone.model.pipeline import Lineage, SinkSpec, Undo
from dpone.model.position import Position
from dpone.model.schema import LOAD_ID, LOADED_AT
from dpone.model.strategy import Strategy

KEY = "pipeline|stream|source|target"
AT = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC)


class Rows(BatchStream):
    """A stream of given batches."""

    def __init__(self, *batches: pa.RecordBatch, schema: pa.Schema | None = None) -> None:
        self.schema = schema or batches[0].schema
        self._batches = batches

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._batches


def batch(*ids: int, type_: pa.DataType | None = None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"id": pa.array(ids, type_ or pa.int64())})


def sink(base: Path, mode: Any = "append", **options: Any) -> FileSink:
    return FileSink(SinkSpec("file", Strategy(mode), path="out", options=FileSinkOptions(**options), base=base))


def load(what: str = "t", mode: Any = "append", repeatable: bool = True, **other: Any) -> Load:
    made = Load(KEY, ulid(), ulid(), what, repeatable, pa.schema({"id": pa.int64()}), Strategy(mode), True, AT)
    return evolve(made, **other)


def position(mark: int) -> Position:
    return Position("test", {}, {"mark": mark})


def run(one: FileSink, what: Load, *parts: tuple[int, ...]) -> Receipt:
    """Stage and commit one load after the journal's head."""
    writer = one.open(what)
    for i, ids in enumerate(parts):
        writer.stage(Part(str(i)), Rows(batch(*ids)))
    head = one.journal(what.key)
    return writer.commit(head, position(head.seq + 1 if head else 1))


def listed(base: Path) -> list[str]:
    manifest = base / "out" / ".dpone" / "manifest.json"
    return [file["name"] for file in json.loads(manifest.read_text())["files"]] if manifest.exists() else []


def ids(base: Path) -> list[int]:
    """Read back without the code under test: the files the manifest lists."""
    tables = [pq.ParquetFile(base / "out" / name).read() for name in listed(base)]
    return sorted(value for table in tables for value in table.column("id").to_pylist())


def on_disk(base: Path) -> list[str]:
    return sorted(path.name for path in (base / "out").iterdir() if path.name != ".dpone")


def staging(base: Path) -> list[Path]:
    return list((base / "out" / ".dpone" / "staging").iterdir())


# commits


def test_a_load_becomes_parts_a_journal_entry_and_a_position(tmp_path: Path) -> None:
    """After a commit the listed files hold the rows, and the journal's head the position and the counts."""
    one = sink(tmp_path)
    receipt = run(one, load(), (1, 2), (3,))
    assert ids(tmp_path) == [1, 2, 3]
    assert on_disk(tmp_path) == sorted(listed(tmp_path))
    entry = one.journal(KEY)
    assert entry == receipt.entry
    assert entry is not None
    assert (entry.seq, entry.position.value, entry.rows["inserted"]) == (1, {"mark": 1}, 3)
    assert receipt.inserted == 3
    assert staging(tmp_path) == []


def test_append_adds_and_full_refresh_replaces(tmp_path: Path) -> None:
    """Append keeps the parts before, a full refresh takes their place and removes their files."""
    run(sink(tmp_path), load("a"), (1,))
    run(sink(tmp_path), load("b"), (2,))
    assert ids(tmp_path) == [1, 2]
    receipt = run(sink(tmp_path, "full_refresh"), load("c", "full_refresh"), (3,))
    assert (ids(tmp_path), receipt.deleted, len(on_disk(tmp_path))) == ([3], 2, 1)


@pytest.mark.parametrize("mode", ["append", "full_refresh"])
def test_LS_02_an_empty_load_leaves_the_target(tmp_path: Path, mode: str) -> None:
    """Without a row the files stay as they are, and the position moves on."""
    run(sink(tmp_path), load("a"), (1,))
    run(sink(tmp_path, mode), load("b", mode), ())
    assert ids(tmp_path) == [1]
    head = sink(tmp_path).journal(KEY)
    assert head is not None
    assert head.position == position(2)


def test_allow_empty_empties(tmp_path: Path) -> None:
    """A full refresh that may be empty empties the target."""
    run(sink(tmp_path), load("a"), (1,))
    run(sink(tmp_path), load("b", strategy=Strategy("full_refresh", allow_empty=True)), ())
    assert ids(tmp_path) == on_disk(tmp_path) == []


def test_a_moved_head_is_a_conflict(tmp_path: Path) -> None:
    """A writer whose head was passed by another writes nothing and changes nothing."""
    late = sink(tmp_path).open(load("a", key="other"))
    late.stage(Part("0"), Rows(batch(1)))
    run(sink(tmp_path), load("b", key="other2"), (2,))
    run(sink(tmp_path), load("c", key="x"), (9,))
    before = (tmp_path / "out" / ".dpone" / "manifest.json").read_bytes()
    head = sink(tmp_path).journal("x")
    with pytest.raises(Conflict):
        late.commit(head, position(5))
    assert (tmp_path / "out" / ".dpone" / "manifest.json").read_bytes() == before
    assert ids(tmp_path) == [2, 9]


def test_a_suspended_runner_loses(tmp_path: Path) -> None:
    """Of two writers that began after the same entry, the second to commit gets Conflict."""
    old = sink(tmp_path).open(load("old", repeatable=False))
    old.stage(Part("0"), Rows(batch(1)))
    run(sink(tmp_path), load("new"), (2,))
    with pytest.raises(Conflict):
        old.commit(None, position(1))
    assert ids(tmp_path) == [2]


def test_a_rewind_writes_the_journal_alone(tmp_path: Path) -> None:
    """A load without a schema leaves files and columns as they are and adds an entry."""
    run(sink(tmp_path, "full_refresh"), load("a", "full_refresh"), (1,))
    run(sink(tmp_path, "full_refresh"), load("b", "full_refresh", schema=None))
    assert ids(tmp_path) == [1]
    head = sink(tmp_path).journal(KEY)
    assert head is not None
    assert head.seq == 2


def test_a_file_that_is_gone_is_missed_until_a_position_is_set_by_hand(tmp_path: Path) -> None:
    """A commit after it vanished lists it all the same, so that the next load stops; a load without a schema takes the
    target as it is."""
    run(sink(tmp_path), load("a"), (1,))
    writer = sink(tmp_path).open(load("b"))
    writer.stage(Part("0"), Rows(batch(2)))
    (tmp_path / "out" / listed(tmp_path)[0]).unlink()
    writer.commit(sink(tmp_path).journal(KEY), position(2))
    with pytest.raises(SinkError, match="is listed in the manifest, but is missing"):
        sink(tmp_path).open(load("c"))
    run(sink(tmp_path), load("d", schema=None))
    assert ids(tmp_path) == [2]
    run(sink(tmp_path), load("e"), (3,))
    assert ids(tmp_path) == [2, 3]


def test_a_commit_for_several_targets_is_refused(tmp_path: Path) -> None:
    """A manifest is of one folder: rows of another writer would not be part of the commit. Nothing is written."""
    first, other = sink(tmp_path).open(load("a")), sink(tmp_path).open(load("b", key="other"))
    with pytest.raises(
        SinkError, match="the load has several tables, but a manifest covers one folder; use one stream per table"
    ):
        first.commit(None, position(1), [other])
    assert sink(tmp_path).journal(KEY) is None


def test_two_keys_share_a_folder(tmp_path: Path) -> None:
    """Each key has its own journal and staging; the files are of both."""
    waiting = sink(tmp_path).open(load("a", key="one"))
    waiting.stage(Part("0"), Rows(batch(1)))
    run(sink(tmp_path), load("a", key="two"), (2,))
    waiting.commit(None, position(1))
    assert ids(tmp_path) == [1, 2]


def test_OUT_15_a_commit_leaves_what_another_key_has_added(tmp_path: Path) -> None:
    """Its columns are still taken back when its load fails; those that the committed load uses stay."""
    one = sink(tmp_path)
    run(one, load(key="one"), (1,))
    new = [SchemaChange("add", name, after=pa.field(name, pa.string())) for name in ("mine", "ours")]
    with_both = load(key="two", schema=pa.schema({"id": pa.int64(), "mine": pa.string(), "ours": pa.string()}))
    one.provide(with_both, one.ddl(new))
    run(one, load(key="one", schema=pa.schema({"id": pa.int64(), "ours": pa.string()})), (2,))
    assert [taken.what for taken in one.take_back("two")] == ["column mine of out"]
    assert [field.name for field in one.schema() or ()] == ["id", LOAD_ID, LOADED_AT, "ours"]


@pytest.mark.parametrize("mode", ["replace", "merge"])
def test_other_strategies_are_refused(tmp_path: Path, mode: str) -> None:
    """Strategies that change rows in place are refused before anything is made."""
    strategy = Strategy("merge", key="id") if mode == "merge" else Strategy("replace", where={"id": 1})
    with pytest.raises(ConfigError, match=mode):
        sink(tmp_path).open(load(strategy=strategy))
    assert list(tmp_path.iterdir()) == []


# rows and columns


def test_lineage_columns_are_in_every_row(tmp_path: Path) -> None:
    """Every row carries the load's id and its time in UTC, over several batches."""
    what = load()
    writer = sink(tmp_path).open(what)
    writer.stage(Part("0"), Rows(batch(1), batch(2, 3)))
    writer.commit(None, position(1))
    table = pq.ParquetFile(tmp_path / "out" / listed(tmp_path)[0]).read()
    assert table.column(LOAD_ID).to_pylist() == [what.load_id] * 3
    assert table.column(LOADED_AT).to_pylist() == [AT] * 3
    assert sink(tmp_path).schema() == table.schema.remove_metadata()


def test_lineage_can_be_off(tmp_path: Path) -> None:
    """Without lineage the files hold the rows' own columns."""
    run(sink(tmp_path, lineage=Lineage(False)), load(), (1,))
    assert pq.ParquetFile(tmp_path / "out" / listed(tmp_path)[0]).schema_arrow.names == ["id"]


def test_rows_are_written_in_the_types_of_the_target(tmp_path: Path) -> None:
    """A narrower batch is widened, an absent column is NULL, and a value that does not fit is refused unseen."""
    wide = pa.schema({"id": pa.int64(), "x": pa.string()})
    writer = sink(tmp_path).open(load(schema=wide))
    writer.stage(Part("0"), Rows(batch(1, type_=pa.int8())))
    writer.commit(None, position(1))
    table = pq.ParquetFile(tmp_path / "out" / listed(tmp_path)[0]).read().select(["id", "x"])
    assert table.to_pylist() == [{"id": 1, "x": None}]
    writer = sink(tmp_path).open(load("b", schema=pa.schema({"id": pa.int8()})))
    with pytest.raises(DataError, match="column id") as raised:
        writer.stage(Part("0"), Rows(batch(777)))
    assert "777" not in str(raised.value)


def test_ddl_changes_the_columns_of_the_manifest(tmp_path: Path) -> None:
    """Create, add and widen are statements that change the manifest only when applied; what is widened keeps its
    place."""
    one = sink(tmp_path)
    create = one.ddl([SchemaChange("create", schema=pa.schema({"id": pa.int32()}))])
    assert one.schema() is None
    one.apply(create)
    one.apply(
        one.ddl(
            [
                SchemaChange("add", "x", after=pa.field("x", pa.json_())),
                SchemaChange("widen", "id", pa.field("id", pa.int32()), pa.field("id", pa.int64())),
            ]
        )
    )
    schema = one.schema()
    assert schema is not None
    assert [(f.name, f.type) for f in schema] == [
        ("id", pa.int64()), (LOAD_ID, pa.string()), (LOADED_AT, pa.timestamp("us", "UTC")), ("x", pa.json_()),
    ]  # fmt: skip
    assert one.is_empty()


@pytest.mark.parametrize(
    ("name", "type_", "found"),
    [(LOAD_ID, pa.string(), "is reserved"), ("x", pa.list_(pa.int8()), "declare it in the source")],
)
def test_columns_that_a_folder_cannot_keep_are_refused_before_any_change(
    tmp_path: Path, name: str, type_: pa.DataType, found: str
) -> None:
    """By name, when the change is planned: a column of a new target, and one that is added."""
    one, field = sink(tmp_path, format="csv"), pa.field(name, type_)
    for change in (SchemaChange("create", schema=pa.schema([field])), SchemaChange("add", name, after=field)):
        with pytest.raises(DataError, match=f"{name}.*{found}"):
            one.ddl([change])


def test_csv_keeps_null_and_the_empty_text_apart(tmp_path: Path) -> None:
    """In CSV an empty field is NULL, and the empty text is quoted."""
    rows = pa.RecordBatch.from_pydict({"a": pa.array([None, "", 'q"x']), "b": pa.array([1, None, 3])})
    writer = sink(tmp_path, format="csv", lineage=Lineage(False)).open(load(schema=rows.schema))
    writer.stage(Part("0"), Rows(rows))
    writer.commit(None, position(1))
    text = (tmp_path / "out" / listed(tmp_path)[0]).read_text()
    assert text == '"a","b"\n,1\n"",\n"q""x",3\n'


def test_jsonl_keeps_digits_and_nesting(tmp_path: Path) -> None:
    """JSON Lines holds numbers with all digits, nested values and json as they are, compressed if asked."""
    rows = pa.RecordBatch.from_pydict(
        {
            "d": pa.array(["1.10", None]).cast(pa.decimal128(30, 2)),
            "n": pa.array([{"x": [1, None]}, None]),
            "j": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"k":\n1}', None])),
            "t": pa.array(['a"\n', "é"]),
        }
    )
    writer = sink(tmp_path, format="jsonl", compression="zstd", lineage=Lineage(False)).open(load(schema=rows.schema))
    writer.stage(Part("0"), Rows(rows))
    writer.commit(None, position(1))
    packed = (tmp_path / "out" / listed(tmp_path)[0]).read_bytes()
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as content:
        lines = content.read().decode().splitlines()
    assert lines[0] == '{"d":1.10,"n":{"x": [1, null]},"j":{"k": 1},"t":"a\\"\\n"}'
    assert json.loads(lines[1]) == {"d": None, "n": None, "j": None, "t": "é"}


def test_what_a_format_cannot_hold_is_refused_at_the_start(tmp_path: Path) -> None:
    """A nested column in CSV is one line that names it; JSON has no NaN."""
    nested = pa.schema({"a": pa.list_(pa.int64())})
    with pytest.raises(DataError, match="column a"):
        sink(tmp_path, format="csv").open(load(schema=nested))
    nan = pa.RecordBatch.from_pydict({"a": pa.array([float("nan")])})
    writer = sink(tmp_path, format="jsonl").open(load(schema=nan.schema))
    with pytest.raises(DataError, match="column a has NaN"):
        writer.stage(Part("0"), Rows(nan))


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    """Many small batches become few row groups, one large batch several."""
    small = [batch(*range(i, i + 1000)) for i in range(0, 200_000, 1000)]
    writer = sink(tmp_path).open(load())
    writer.stage(Part("small"), Rows(*small))
    writer.stage(Part("large"), Rows(batch(*range(300_000))))
    writer.commit(None, position(1))
    groups = {}
    for name in listed(tmp_path):
        metadata = pq.ParquetFile(tmp_path / "out" / name).metadata
        groups[name[32:37]] = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == {"small": [132_000, 68_000], "large": [131_072, 131_072, 37_856]}


def test_part_ids_of_any_text_are_names_of_their_own(tmp_path: Path) -> None:
    """Part ids that no file name can hold give distinct names inside the folder."""
    writer = sink(tmp_path).open(load())
    odd = ["../../x", "a/b", "a_b", "a:b", "", "." * 300, "é"]
    for i, name in enumerate(odd):
        writer.stage(Part(name), Rows(batch(i)))
    assert set(writer.staged()) == set(odd)
    writer.commit(None, position(1))
    assert ids(tmp_path) == list(range(7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# resuming and crashes


def test_a_repeatable_load_goes_on_with_its_parts(tmp_path: Path) -> None:
    """The next run of the same token finds the staged parts, keeps the load's id and does not write them again. Half a
    part, which a crash left, takes no room from then on."""
    first = load("t")
    writer = sink(tmp_path).open(first)
    writer.stage(Part("0"), Rows(batch(1)))
    writer.close()
    [staging] = (tmp_path / "out" / ".dpone" / "staging").iterdir()
    (staging / "part-1.parquet.tmp").write_bytes(b"half a part")
    again = sink(tmp_path).open(load("t"))
    assert list((tmp_path / "out" / ".dpone" / "staging").glob("*/*.tmp")) == []
    assert again.load_id == first.load_id
    assert list(again.staged()) == ["0"]
    assert again.stage(Part("0"), Rows(batch(99))).rows == 1
    again.stage(Part("1"), Rows(batch(2)))
    again.commit(None, position(1))
    assert ids(tmp_path) == [1, 2]


def test_staging_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    """A staging is found by the first 16 hex digits of the SHA-256 of its key, whatever follows them: earlier versions
    put the token's there. Of several, one is gone on with, and none of the others stays."""
    first = load("t")
    sink(tmp_path).open(first).stage(Part("0"), Rows(batch(1)))
    [old] = (tmp_path / "out" / ".dpone" / "staging").iterdir()
    key = hashlib.sha256(first.key.encode()).hexdigest()[:16]
    assert old.name.startswith(f"{key}-")
    shutil.copytree(old, old.with_name(f"{key}-later"))
    old.rename(old.with_name(f"{key}-{hashlib.sha256(b't').hexdigest()[:16]}-01J00000000000000000000000"))
    again = sink(tmp_path).open(load("t"))
    assert len(staging(tmp_path)) == 1
    assert (again.load_id, list(again.staged())) == (first.load_id, ["0"])


@pytest.mark.parametrize(("token", "repeatable"), [("other", True), ("t", False)])
def test_other_staging_of_the_key_is_swept(tmp_path: Path, token: str, repeatable: bool) -> None:
    """Another token, or a momentary load, starts with nothing staged."""
    sink(tmp_path).open(load("t")).stage(Part("0"), Rows(batch(1)))
    writer = sink(tmp_path).open(load(token, repeatable=repeatable))
    assert writer.staged() == {}
    assert len(staging(tmp_path)) == 1


def test_abort_leaves_no_staging(tmp_path: Path) -> None:
    """After an abort, also a second one, target and staging are as before the load."""
    run(sink(tmp_path), load("a"), (1,))
    writer = sink(tmp_path).open(load("b"))
    writer.stage(Part("0"), Rows(batch(2)))
    writer.abort()
    writer.abort()
    assert (ids(tmp_path), staging(tmp_path)) == ([1], [])


def test_a_staged_part_that_was_altered_is_refused(tmp_path: Path) -> None:
    """A part of an earlier process whose bytes changed on disk is not committed; one that was cut is staged again."""
    sink(tmp_path).open(load("t")).stage(Part("0"), Rows(batch(1)))
    part = next(path for path in staging(tmp_path)[0].iterdir() if path.suffix == ".parquet")
    data = bytearray(part.read_bytes())
    data[10] ^= 1
    part.write_bytes(data)
    writer = sink(tmp_path).open(load("t"))
    with pytest.raises(SinkError, match="was changed"):
        writer.commit(None, position(1))
    assert listed(tmp_path) == []
    (staging(tmp_path)[0] / part.name).write_bytes(data[:-1])  # the folder has another name with every writer
    assert sink(tmp_path).open(load("t")).staged() == {}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test runs after it changes a file."""


def _dies_at(count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let the count-th change of the disk be the last; answers how many there were."""
    done = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal done
            if done >= count:
                raise Killed
            done += 1
            return original(*args, **options)

        return call

    for name in ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return lambda: done


def _two_loads(base: Path, mode: str) -> None:
    """Run what is left to run of two loads, as an engine would after a crash: it asks the journal first."""
    for seq, rows in ((1, (1, 2)), (2, (3,))):
        one = sink(base, mode)
        head = one.journal(KEY)
        if head is None or head.seq < seq:
            writer: FileWriter = one.open(load(f"t{seq}", mode))
            for i, value in enumerate(rows):
                writer.stage(Part(str(i)), Rows(batch(value)))
            writer.commit(head, position(seq))


@pytest.mark.parametrize("mode", ["append", "full_refresh"])
def test_a_crash_at_any_change_of_the_disk_loses_and_doubles_nothing(tmp_path: Path, mode: str) -> None:
    """Killed at each of its changes to the disk, a load run again ends with every row once and no file too many."""
    expected = [1, 2, 3] if mode == "append" else [3]
    at = 0
    while True:
        base = tmp_path / str(at)
        base.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            done = _dies_at(at, patch)
            try:
                _two_loads(base, mode)
                finished = True
            except Killed:
                finished = False
        if finished:
            assert done() <= at
            break
        rows = ids(base)
        assert rows in ([], [1, 2], expected)
        head = sink(base).journal(KEY)
        assert (head.seq if head else 0) == [[], [1, 2], expected].index(rows)
        assert sink(base).is_empty() == (not rows)
        _two_loads(base, mode)
        assert ids(base) == expected
        sink(base).open(load("sweep")).abort()
        assert on_disk(base) == sorted(listed(base))
        at += 1
    assert at > 20


def test_orphans_are_swept_and_nothing_else_is(tmp_path: Path) -> None:
    """Only regular files of our own part names, in the folder itself, are removed at the next open."""
    run(sink(tmp_path), load("a"), (1,))
    out = tmp_path / "out"
    orphan = f"part-{'0' * 26}-0.parquet"
    (out / orphan).write_bytes(b"x")
    (out / "part-00000-of-another-writer.parquet").write_bytes(b"x")
    (out / "notes.txt").write_text("x")
    (tmp_path / "elsewhere").write_text("x")
    (out / f"part-{'1' * 26}-0.parquet").symlink_to(tmp_path / "elsewhere")
    sink(tmp_path).open(load("b"))
    left = set(on_disk(tmp_path)) - set(listed(tmp_path))
    assert left == {"part-00000-of-another-writer.parquet", "notes.txt", f"part-{'1' * 26}-0.parquet"}
    assert (tmp_path / "elsewhere").read_text() == "x"


# the manifest


def _manifest(base: Path) -> Path:
    return base / "out" / ".dpone" / "manifest.json"


def test_MF_01_a_damaged_manifest_is_refused_by_name(tmp_path: Path) -> None:
    """A truncated or lost manifest is never taken for none: every call names it and its backup, and changes nothing."""
    run(sink(tmp_path), load("a"), (1,))
    run(sink(tmp_path), load("b"), (2,))
    whole = _manifest(tmp_path).read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"[]", b"{}", whole.replace(b'"format": 1', b'"format": 2')):
        _manifest(tmp_path).write_bytes(damage)
        for call in (sink(tmp_path).schema, sink(tmp_path).is_empty, lambda: sink(tmp_path).open(load("c"))):
            with pytest.raises(SinkError, match=r"manifest\.json: the file is damaged .*manifest\.json\.bak"):
                call()
        assert _manifest(tmp_path).read_bytes() == damage
    _manifest(tmp_path).unlink()
    with pytest.raises(SinkError, match="its backup exists"):
        sink(tmp_path).journal(KEY)
    assert len(on_disk(tmp_path)) == 2


@pytest.mark.parametrize("count", ["rows", "bytes"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", None, [1]])
def test_MF_01_damaged_counts_are_refused(tmp_path: Path, count: str, value: Any) -> None:
    """Rows and bytes of a file are whole numbers from 0 on; anything else is damage, not a count to add up."""
    run(sink(tmp_path), load("a"), (1,))
    data = json.loads(_manifest(tmp_path).read_text())
    data["files"][0][count] = value
    _manifest(tmp_path).write_text(json.dumps(data))
    for call in (sink(tmp_path).is_empty, lambda: sink(tmp_path).open(load("b"))):
        with pytest.raises(SinkError, match=f"damaged .*rows or bytes of {data['files'][0]['name']}"):
            call()


def test_MF_01_a_manifest_that_cannot_be_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file listed twice (its rows would count twice), a link or a folder in its place, and one too large to read."""
    run(sink(tmp_path), load("a"), (1,))
    path, whole = _manifest(tmp_path), _manifest(tmp_path).read_bytes()
    data = json.loads(whole)
    path.write_text(json.dumps({**data, "files": data["files"] * 2}))
    with pytest.raises(SinkError, match=r"damaged .*a file is listed twice"):
        sink(tmp_path).is_empty()
    path.write_bytes(whole)
    monkeypatch.setattr("dpone.connectors.file.folder.LARGEST", len(whole))
    assert not sink(tmp_path).is_empty()
    monkeypatch.setattr("dpone.connectors.file.folder.LARGEST", len(whole) - 1)
    with pytest.raises(SinkError, match=f"damaged .it has more than {len(whole) - 1:,} bytes"):
        sink(tmp_path).is_empty()
    monkeypatch.undo()
    path.rename(path.with_name("elsewhere.json"))
    path.symlink_to("elsewhere.json")
    with pytest.raises(SinkError, match=r"damaged .it is not a regular file"):
        sink(tmp_path).is_empty()


@pytest.mark.parametrize("beyond", [0, 1])
def test_MF_01_a_manifest_has_at_most_256_MiB(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: int) -> None:
    """A larger one is refused before it is read; of that very size it is read."""
    run(sink(tmp_path), load("a"), (1,))
    path, whole, reads = _manifest(tmp_path), _manifest(tmp_path).read_bytes(), []
    os.truncate(path, 268_435_456 + beyond)  # sparse
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or whole)
    if not beyond:
        assert not sink(tmp_path).is_empty()
    else:
        with pytest.raises(SinkError, match=r"damaged .it has more than 268,435,456 bytes"):
            sink(tmp_path).is_empty()
    assert reads == [path] * (1 - beyond)


@pytest.mark.parametrize(
    ("format", "types"),
    [
        ("parquet", {pa.float64(): "exact", pa.list_(pa.int8()): "exact", pa.month_day_nano_interval(): "lossy"}),
        ("csv", {pa.float64(): "exact", pa.list_(pa.int8()): "lossy", pa.binary(): "lossy", pa.uuid(): "exact"}),
        ("jsonl", {pa.float64(): "checked", pa.list_(pa.int8()): "exact", pa.int64(): "exact"}),
    ],
)
def test_what_a_format_keeps_of_a_type(tmp_path: Path, format: Any, types: dict[pa.DataType, str]) -> None:
    """Exact is what reads back as it was; JSON checks numbers, as it has no NaN; under its own name in any case."""
    one = sink(tmp_path, format=format)
    found = {type_: one.stores(type_) for type_ in types}
    assert {type_: stored.fidelity for type_, stored in found.items()} == types
    assert all((stored.native, stored.arrow) == (str(type_), type_) for type_, stored in found.items())


def test_rows_with_a_lineage_column_are_refused(tmp_path: Path) -> None:
    """A column that dpone writes itself is not overwritten by one of the source, and nothing is staged."""
    schema = pa.schema({"id": pa.int64(), LOAD_ID: pa.string()})
    with pytest.raises(DataError, match=f"the column name {LOAD_ID} is reserved; rename it in the source"):
        sink(tmp_path).open(load(schema=schema))
    assert not (tmp_path / "out").exists()


def test_a_part_name_is_ours_whatever_the_load_id(tmp_path: Path) -> None:
    """A load id of another form is written as its digest, so that the sweep still knows the file for its own."""
    run(sink(tmp_path), load("a", load_id="run 7/../x"), (1,))
    [name] = on_disk(tmp_path)
    assert re.fullmatch(r"part-[0-9A-HJKMNP-TV-Z]{26}-0\.parquet", name)
    run(sink(tmp_path, "full_refresh"), load("b", "full_refresh"), (2,))
    assert (ids(tmp_path), len(on_disk(tmp_path))) == ([2], 1)


@pytest.mark.parametrize(("days", "kept"), [(3.0, 3), (2.0, 2), (1.9, 1)])
def test_what_is_kept_for_undo_ends_with_its_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float, kept: int
) -> None:
    """A load older than undo.days, counted back from the newest one, can no longer be taken back; one of just that age
    can."""
    for age in (3, 2, 0):
        monkeypatch.setattr(
            "dpone.connectors.file.sink.datetime",
            SimpleNamespace(now=lambda zone, age=age: AT - dt.timedelta(days=age)),
        )  # type: ignore[misc]
        run(sink(tmp_path, undo=Undo(days=days)), load(str(age)), (age,))
    assert len(json.loads(_manifest(tmp_path).read_text())["undo"]) == kept


def test_the_backup_is_the_manifest_before(tmp_path: Path) -> None:
    """Each commit keeps the manifest it replaces."""
    run(sink(tmp_path), load("a"), (1,))
    before = _manifest(tmp_path).read_bytes()
    run(sink(tmp_path), load("b"), (2,))
    assert _manifest(tmp_path).with_name("manifest.json.bak").read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../x.parquet", "a/../../x", "C:\\x.parquet", "\\\\host\\x", "s3://bucket/x", "x\0.parquet",
        f"sub/part-{'0' * 26}-0.parquet", f"part-{'0' * 26}-0.parquet/..", "", ".", "notes.txt",
        f"part-{'0' * 26}-0.parquet\n",
    ],
)  # fmt: skip
def test_S_04_names_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    """A manifest that lists an absolute, climbing, foreign or malformed name is refused before any file is touched."""
    run(sink(tmp_path), load("a"), (1,))
    data = json.loads(_manifest(tmp_path).read_text())
    data["files"][0]["name"] = name
    _manifest(tmp_path).write_text(json.dumps(data))
    with pytest.raises(SinkError, match="damaged"):
        sink(tmp_path).open(load("b"))
    assert len(on_disk(tmp_path)) == 1


def test_S_04_links_and_other_sizes_are_refused(tmp_path: Path) -> None:
    """A listed file that became a link, or has another size than recorded, stops the load."""
    run(sink(tmp_path), load("a"), (1,))
    part = tmp_path / "out" / listed(tmp_path)[0]
    part.rename(tmp_path / "moved")
    part.symlink_to(tmp_path / "moved")
    with pytest.raises(SinkError, match="a link"):
        sink(tmp_path).open(load("b"))
    part.unlink()
    part.write_bytes(b"short")
    with pytest.raises(SinkError, match="another size"):
        sink(tmp_path).open(load("b"))


def test_S_04_a_link_among_the_staging_is_removed_and_not_followed(tmp_path: Path) -> None:
    """A link in the place of a staging folder: what it leads to stays, also when it looks like a load to go on with."""
    writer = sink(tmp_path).open(load("a"))
    writer.stage(Part("0"), Rows(batch(1)))
    writer.close()
    [folder] = staging(tmp_path)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    before = sorted(path.name for path in (tmp_path / "elsewhere").iterdir())
    again = sink(tmp_path).open(load("a"))
    assert again.staged() == {}
    again.stage(Part("0"), Rows(batch(2)))
    again.commit(None, position(1))
    assert ids(tmp_path) == [2]
    assert staging(tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == before


def test_S_04_a_linked_private_folder_is_refused(tmp_path: Path) -> None:
    """A link in place of the private folder is not followed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / ".dpone").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SinkError, match="symbolic link"):
        sink(tmp_path).open(load())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_S_07_private_files_are_private(tmp_path: Path) -> None:
    """Manifest, marks and lock are 0600 and their folders 0700, whatever the umask."""
    old = os.umask(0)
    try:
        run(sink(tmp_path), load("a"), (1,))
        sink(tmp_path).open(load("b")).stage(Part("0"), Rows(batch(1)))
    finally:
        os.umask(old)
    own = tmp_path / "out" / ".dpone"
    for path in (own, own / "staging", staging(tmp_path)[0]):
        assert path.stat().st_mode & 0o777 == 0o700
    for path in (own / "manifest.json", own / "lock", *staging(tmp_path)[0].glob("*.mark")):
        assert path.stat().st_mode & 0o777 == 0o600


def test_foreign_files_without_a_manifest_are_rows(tmp_path: Path) -> None:
    """A folder with files and no manifest is not empty, whatever their names; journal and schema make nothing."""
    assert sink(tmp_path).is_empty()
    assert sink(tmp_path).journal(KEY) is None
    assert sink(tmp_path).schema() is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"part-{'0' * 26}-0.parquet").write_bytes(b"x")
    assert not sink(tmp_path).is_empty()


# looking and failing


def test_a_target_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file where the folder should be is named with what to do."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SinkError, match="open out"):
        sink(tmp_path).open(load())


def test_a_full_disk_leaves_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that finds no space is one line, leaves no half part, and the target as it was."""
    run(sink(tmp_path), load("a"), (1,))
    writer = sink(tmp_path).open(load("b"))

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync_file", full)
    with pytest.raises(SinkError, match=r"^write out: No space left on device; free disk space"):
        writer.stage(Part("0"), Rows(batch(2)))
    assert writer.staged() == {}
    assert ids(tmp_path) == [1]
    assert [path.name for path in staging(tmp_path)[0].iterdir()] == ["load.json"]
    monkeypatch.setattr(durable, "write_whole", lambda path, data: full(path))
    with pytest.raises(SinkError, match=r"^commit to out: No space left on device; free disk space"):
        writer.commit(sink(tmp_path).journal(KEY), position(2))
    with pytest.raises(SinkError, match=r"^open out: No space left on device; free disk space"):
        sink(tmp_path).open(load("c"))
    assert ids(tmp_path) == [1]


def test_an_entry_survives_the_manifest(tmp_path: Path) -> None:
    """What the journal answers in a new process is the entry that was committed."""
    entry: Entry = run(sink(tmp_path), load("a"), (1,)).entry
    assert sink(tmp_path).journal(KEY) == entry
