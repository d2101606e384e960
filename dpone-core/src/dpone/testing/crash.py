"""Whole runs into the sink under test, in this process and in one that is killed; the source are Parquet files.

The process to be killed is forked from one that has everything imported: a kill then costs a fork, not the start of an
interpreter.
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import pluggy
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import evolve, frozen

from dpone import hookspecs
from dpone.capability import Role
from dpone.contract import Entry, Load, Receipt, Writer
from dpone.engine.run import Run
from dpone.hookspecs import hookimpl
from dpone.model.pipeline import (
    Pipeline,
    Runtime,
    SinkSpec,
    SourceSpec,
    StateSpec,
    StreamSpec,
)
from dpone.model.position import Position
from dpone.model.report import RunReport
from dpone.model.secret import Secret
from dpone.model.strategy import Strategy
from dpone.plugins import Plugins, discover
from dpone.testing.harness import TABLE, Harness, replaced

KILLED = -signal.SIGKILL
TIMED = -signal.SIGALRM  # which nobody handles, so that it ends a process as SIGKILL does
NOTHING = "nothing"  # the step of a job that runs nothing
LONGEST = 600.0  # seconds, after which the system kills any run of a child process
Replaced = Sequence[tuple[str, Mapping[str, str]]]  # connectors, and their ``Harness.implementations``
Job = tuple[Pipeline, Replaced, str, float]


@frozen
class Runs:
    """A pipeline with one stream, run as often as wanted. ``harness``: of the sink, or of the source. ``other``: of the
    other end, if that is not a file of ours."""

    harness: Harness
    pipeline: Pipeline
    other: Harness | None = None

    def add(self, rows: pa.Table) -> None:
        """One more file for the source."""
        folder = self.harness.folder / str(self.pipeline.streams[0].source.path).partition("/")[0]
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / f"{len(list(folder.iterdir())):03d}.parquet")

    def here(self, cut: bool = False) -> RunReport:
        """In this process. ``cut``: the answer to the first commit is lost."""
        plugins = quiet(self.harness.plugins)
        if cut:
            plugins = _Cut(plugins.manager, plugins.found, plugins.connectors)
        return Run(self.pipeline, plugins=plugins).execute()

    def head(self) -> Entry:
        spec = self.pipeline.streams[0]
        with closing(self.harness.make("sink", spec.sink)) as sink:
            head = sink.journal(spec.key(self.pipeline.name))
        assert isinstance(head, Entry)
        return head

    def killed(self, step: str, nth: int = 1) -> None:
        """Run in a child process that kills itself at the nth event of a step."""
        code, text = self.until(step, nth)
        assert code == KILLED, f"step {step} never came: exit code {code}, {text}"

    def ready(self) -> None:
        """Start the process that runs are forked from, and let it import what they need."""
        self._child(NOTHING, 0)

    def until(self, step: str, nth: int = 1) -> tuple[int, str]:
        """As ``apart``, in a child process that kills itself at the nth event of a step; the exit code is then KILLED.
        It may not come."""
        return self._child(step, nth)

    def apart(self, seconds: float = 0) -> tuple[int, str]:
        """Run in a child process. Returns its exit code and the status of its streams. The system kills the child after
        ``seconds``, or LONGEST; the exit code is then TIMED."""
        return self._child("", seconds)

    def _child(self, step: str, when: float) -> tuple[int, str]:
        ends = [one for one in (self.harness, self.other) if one is not None]
        return _zygote()((self.pipeline, [(one.connector, dict(one.implementations)) for one in ends], step, when))


def runs(harness: Harness, strategy: Strategy, table: str = TABLE) -> Runs:
    """Parquet files, the sink under test, and a state in the harness's folder."""
    source = SourceSpec(
        "file", path=f"in_{table}/*.parquet", options=discover().options("source", "file")(), base=harness.folder
    )
    return Runs(harness, pipeline(harness.folder, source, harness.sink(strategy, table), table))


def pipeline(folder: Path, source: SourceSpec, sink: SinkSpec, name: str = TABLE) -> Pipeline:
    state = StateSpec("file", path=f".dpone/state_{name}", base=folder)
    runtime = Runtime(batch_rows=2, retries=0)
    return Pipeline("kit", (StreamSpec(name, source, sink),), state, runtime=runtime)


def quiet(plugins: Plugins, *observers: Any) -> Plugins:
    """The plugins with these observers and no other."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for observer in observers:
        manager.register(observer)
    return evolve(plugins, manager=manager)


@frozen
class _Cut(Plugins):
    """Sinks whose first commit succeeds and does not answer."""

    def load(self, role: Any, name: str) -> Any:
        cls = super().load(role, name)
        return (lambda spec: _CutSink(cls(spec))) if role == "sink" else cls


class _CutSink:
    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def open(self, load: Load) -> Any:
        return _CutWriter(self._sink.open(load))


class _CutWriter:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def commit(self, after: Entry | None, position: Position, also: Sequence[Writer]) -> Receipt:
        self._writer.commit(after, position, also)
        raise ConnectionResetError("the kit cut the connection before the answer")


# ---- the killed process


class Pickler(pickle.Pickler):
    """A Secret is never serialised; it goes to our own child through a pipe, and nowhere else."""

    def reducer_override(self, obj: Any) -> Any:
        return (Secret, (obj.reveal(),)) if isinstance(obj, Secret) else NotImplemented


@cache
def _zygote() -> Callable[[Any], tuple[int, str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from dpone.testing.crash import serve; serve()"], process_group=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    _processes.append(process)
    into, out = process.stdin, process.stdout
    assert into is not None
    assert out is not None

    def stop() -> None:
        into.close()
        process.wait(timeout=60)
        out.close()

    def run(job: Any) -> tuple[int, str]:
        buffer = io.BytesIO()
        Pickler(buffer).dump(job)
        _send(into, buffer.getvalue())
        answer: tuple[int, str] = pickle.loads(_receive(out))  # noqa: S301  # of our own child
        return answer

    atexit.register(stop)
    return run


_processes: list[subprocess.Popen[bytes]] = []


def end() -> None:
    """Kill the process that runs are forked from, and a run that is in it. The next run starts another one."""
    while _processes:
        process = _processes.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # of what was not written yet
                stream.close()  # type: ignore[union-attr]  # both are pipes
    _zygote.cache_clear()


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    head = stream.read(4)
    return stream.read(struct.unpack(">I", head)[0]) if head else b""


class _Trap:
    def __init__(self, step: str, nth: int) -> None:
        self._step, self._nth, self._seen = step, nth, Counter[str]()

    @hookimpl
    def dpone_run_event(self, event: Any) -> None:
        self._seen[event.step] += 1
        if event.step == self._step and self._seen[event.step] == self._nth:
            os.kill(os.getpid(), signal.SIGKILL)


def _plugins(job: Job) -> Plugins:
    plugins = discover()
    for connector, implementations in job[1]:
        plugins = replaced(plugins, connector, implementations)
    return plugins


def _execute(job: Job) -> tuple[int, str]:
    pipeline, _, step, when = job
    signal.setitimer(signal.ITIMER_REAL, LONGEST if step or not when else min(when, LONGEST))
    plugins = quiet(_plugins(job), *([_Trap(step, int(when))] if step else ()))
    report = Run(pipeline, plugins=plugins).execute()
    return report.exit_code, str([(stream.status, stream.error) for stream in report.streams])


def _forked(data: bytes) -> tuple[int, str]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            code, text = _execute(pickle.loads(data))  # noqa: S301  # of our own parent
        except BaseException as error:
            code, text = 1, repr(error)
        with os.fdopen(write, "w") as out:
            out.write(text)
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as source:
        text = source.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def serve() -> None:
    """Fork a child for each job that comes on stdin."""
    while data := _receive(sys.stdin.buffer):
        job = pickle.loads(data)  # noqa: S301  # of our own parent
        plugins, (stream, *_) = _plugins(job), job[0].streams
        specs: dict[Role, Any] = {"source": stream.source, "sink": stream.sink, "state": job[0].state}
        for role, spec in specs.items():
            plugins.load(role, spec.type)  # is imported once, before the fork
        _send(sys.stdout.buffer, pickle.dumps((0, "") if job[2] == NOTHING else _forked(data)))
