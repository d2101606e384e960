"""The status of the parts of each stream's load, and operations on parts that are not done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from attrs import frozen

from dpone.contract import Load, StateBackend
from dpone.engine.journal import key_of, manifests_of
from dpone.engine.manifest import committed
from dpone.engine.run import Run
from dpone.errors import ConfigError, counted
from dpone.model.ids import ulid
from dpone.model.pipeline import Pipeline, StreamSpec
from dpone.model.strategy import Strategy
from dpone.partition import PartitionManifest, PartitionManifestStore, no_manifest


@frozen
class LoadParts:
    """The manifest of one stream's latest load in parts; None if there is none. load: ``open`` until it is the head of
    the journal, ``over`` if the journal has later loads."""

    stream: str
    key: str
    load: Literal["none", "open", "committed", "over"]
    manifest: PartitionManifest | None

    def to_json(self) -> dict[str, Any]:
        manifest = self.manifest.to_json() if self.manifest else None
        return {"stream": self.stream, "key": self.key, "load": self.load, "manifest": manifest}


def shown(pipeline: Pipeline, stream: str | None = None) -> list[LoadParts]:
    """One for each stream, or for the named one."""
    run = _run(pipeline, stream)
    with closing(run.make("state", pipeline.state)) as state:
        store = _store(run, state)
        return [_parts(run, store, spec, _key(run, spec, state)) for spec in run.streams()]


def retry(pipeline: Pipeline, stream: str | None, ids: Sequence[str]) -> LoadParts:
    """Reset partitions that failed or were skipped to pending; all of them if no ids are given. Raises ConfigError."""
    with _open_load(pipeline, stream) as (run, store, spec, manifest):
        for id in ids or [one.id for one in (*manifest.of("failed"), *manifest.of("skipped"))]:
            store.retry(manifest.key, _named(manifest, id))
        return _parts(run, store, spec, manifest.key)


def start_over(pipeline: Pipeline, stream: str | None) -> LoadParts:
    """Drop the staged parts and delete the manifest, damaged or not; rows of the target stay as they are."""
    with _locked(pipeline, stream) as (run, store, spec, key):
        nothing = Load(key, ulid(), run.run_id, "anew", False, None, spec.sink.strategy, False, datetime.now(UTC))
        # Opening a load sweeps the staging of every other load of the key.
        with closing(run.make("sink", spec.sink)) as sink, closing(sink.open(nothing)) as writer:
            writer.abort()
        store.forget(key)
        return LoadParts(spec.name, key, "none", None)


def skip(pipeline: Pipeline, stream: str | None, id: str, reason: str) -> LoadParts:
    """Make the load commit without this partition; later runs do not read its rows. Raises ConfigError if the commit
    would then delete rows of the target, or if the next run plans its partitions again."""
    with _open_load(pipeline, stream) as (run, store, spec, manifest):
        _require_skippable(spec.sink.strategy, manifest)
        store.skip(manifest.key, _named(manifest, id), reason)
        return _parts(run, store, spec, manifest.key)


def _named(manifest: PartitionManifest, id: str) -> str:
    """The partition's whole id; ``00003`` is enough for ``00003-c9265398``."""
    found = [one.id for one in manifest.partitions if one.id.startswith(f"{id}-")]
    return found[0] if len(found) == 1 else id


def _require_skippable(strategy: Strategy, manifest: PartitionManifest) -> None:
    found = ""
    if strategy.mode not in ("append", "merge", "scd2", "cdc_apply") or strategy.whole:
        found = f"strategy {strategy.mode} would delete the partition's rows from the target"
    elif not manifest.resumable:
        found = "the window cannot be read again, so the next run plans other partitions"
    if found:
        raise ConfigError("skip a partition", found, "fix the partition, or exclude it from the source")


@contextmanager
def _locked(pipeline: Pipeline, stream: str | None) -> Iterator[tuple[Run, PartitionManifestStore, StreamSpec, str]]:
    """Hold the lock of the stream inside the block. Raises Busy if a run holds it."""
    run = _run(pipeline, stream)
    found = run.streams()
    if len(found) != 1:
        names = ", ".join(spec.name for spec in found)
        raise ConfigError(
            "change partitions",
            f"the pipeline has {counted(len(found), 'stream')}",
            f"choose one with --stream: {names}",
        )
    [spec] = found
    with closing(run.make("state", pipeline.state)) as state:
        store = _store(run, state)
        key = _key(run, spec, state)
        with state.lock(key, pipeline.state.options.lease_seconds):
            yield run, store, spec, key


@contextmanager
def _open_load(
    pipeline: Pipeline, stream: str | None
) -> Iterator[tuple[Run, PartitionManifestStore, StreamSpec, PartitionManifest]]:
    with _locked(pipeline, stream) as (run, store, spec, key):
        parts = _parts(run, store, spec, key)
        if parts.manifest is None:
            raise no_manifest(parts.key)
        if parts.load != "open":
            found = f"load {parts.manifest.load_id} is {parts.load}"
            raise ConfigError("change partitions", found, "only partitions of an open load can be changed")
        yield run, store, spec, parts.manifest


def _key(run: Run, spec: StreamSpec, state: StateBackend) -> str:
    with closing(run.make("sink", spec.sink)) as sink:
        return key_of(run, spec, sink, state)


def _parts(run: Run, store: PartitionManifestStore, spec: StreamSpec, key: str) -> LoadParts:
    manifest = store.load(key)
    if manifest is None:
        return LoadParts(spec.name, key, "none", None)
    with closing(run.make("sink", spec.sink)) as sink:
        head = sink.journal(key)
    if committed(manifest, head):
        return LoadParts(spec.name, key, "committed", manifest)
    over = head is not None and head.committed_at > manifest.created_at
    return LoadParts(spec.name, key, "over" if over else "open", manifest)


def _store(run: Run, state: StateBackend) -> PartitionManifestStore:
    if (found := manifests_of(run, state)) is None:
        keeps_none = f"state {run.pipeline.state.type} does not store partition manifests"
        raise ConfigError("read partitions", keeps_none, "use another state backend, such as sqlite")
    return found


def _run(pipeline: Pipeline, stream: str | None) -> Run:
    return Run(pipeline, () if stream is None else (stream,))
