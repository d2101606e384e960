"""A run as events of OpenLineage: a job for the pipeline, and below it one for each stream, with its datasets.

The id of the run is the run's own, as a UUID. Datasets are named as OpenLineage's naming specification says; a query is
not a dataset. Transports are those of the client, by its own configuration.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
)

from dpone.errors import DponeError
from dpone.model import events
from dpone.model.pipeline import Pipeline, SinkSpec, SourceSpec, StreamSpec
from dpone.model.report import RunReport, StreamReport
from dpone.model.schema import Name
from dpone.model.secret import redact, register, sensitive
from dpone.observe.trace import own_trace_id

VERSION = version("dpone-core")
PRODUCER = f"urn:dpone:{VERSION}"
URLLIB3 = "urllib3.connectionpool"
CLOSING = 3.0  # seconds for what a transport still holds
ENDS = {"loaded": RunState.COMPLETE, "caught_up": RunState.COMPLETE, "interrupted": RunState.ABORT}
RUN_ENDS = {"succeeded": RunState.COMPLETE, "incomplete": RunState.COMPLETE, "interrupted": RunState.ABORT}
PARENT = ("OPENLINEAGE_PARENT_ID", "OPENLINEAGE_ROOT_PARENT_ID")  # namespace/job/run, as other integrations have it

# Ports and default schemas of databases, and their schemes in the naming specification.
DATABASES = {
    "postgres": ("postgres", 5432, "public"),
    "mssql": ("mssql", 1433, "dbo"),
    "mariadb": ("mysql", 3306, None),
}
LOGGER = logging.getLogger("openlineage")
# At DEBUG the client logs its configuration, and urllib3 each address.
TRANSPORTS = ("http", "http_common", "async_http", "kafka", "file", "composite", "factory")
LOGGERS = ("openlineage.client.client", *(f"openlineage.client.transport.{name}" for name in TRANSPORTS), URLLIB3)


class Lineage:
    """The observer of one run. A dry run has no lineage."""

    def __init__(self, pipeline: Pipeline, report: RunReport) -> None:
        self._report = report
        self._specs = {stream.name: stream for stream in pipeline.streams}
        self._tables: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "default"
        self._run_id = uuid.UUID(int=own_trace_id(report.run_id))
        # Without a handler Python would print what the client logs; a program that has handlers still gets it.
        LOGGER.addHandler(logging.NullHandler())
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_redact)
        heard = _Heard()
        LOGGER.addHandler(heard)
        try:
            self._client = OpenLineageClient()
        finally:
            LOGGER.removeHandler(heard)
        self._fault = heard.said
        _register(self._client.config.transport)

    def __call__(self, event: events.RunEvent) -> None:
        if self._report.dry_run:
            return
        if event.step == "schema_applied" and event.stream:
            self._tables[event.stream] = event.data["tables"]
        elif event.step == "run_started":
            self._emit(self._of_run(RunState.START, event))
        elif event.step == "run_finished":
            self._emit(self._of_run(RUN_ENDS.get(event.data["status"], RunState.FAIL), event))
            self._client.close(CLOSING)
            if self._fault:
                todo = "check the transport of OpenLineage; the run itself is not affected"
                raise DponeError("report lineage", self._fault, todo)
        elif event.step in ("stream_started", "stream_finished") and event.stream in self._specs:
            self._of_stream(event, self._specs[event.stream])

    def _emit(self, event: RunEvent) -> None:
        """After a failure nothing more is sent: each try may take as long as the transport wants."""
        if not self._fault:
            try:
                self._client.emit(event)
            except Exception as error:  # a transport may raise anything
                self._fault = redact(" ".join(f"{type(error).__name__}: {error}".split()))

    # events

    def _of_run(self, state: RunState, event: events.RunEvent) -> RunEvent:
        facets: dict[str, Any] = {"processing_engine": _engine()}
        if parent := _parent(*(os.environ.get(name, "") for name in PARENT)):
            facets["parent"] = parent
        failed = [stream for stream in self._report.streams if stream.error is not None]
        if failed and state is RunState.FAIL:
            facets["errorMessage"] = _error("; ".join(f"{one.stream}: {_message(one)}" for one in failed[:10]))
        job = Job(self._namespace, self._report.pipeline, facets={"jobType": _kind("PIPELINE")})
        return _event(event.at, state, Run(str(self._run_id), facets), job)

    def _of_stream(self, event: events.RunEvent, spec: StreamSpec) -> None:
        report = next(one for one in self._report.streams if one.stream == spec.name)
        ended = event.step == "stream_finished"
        state = ENDS.get(event.data["status"], RunState.FAIL) if ended else RunState.START
        above = parent_run.Job(self._namespace, self._report.pipeline)
        parent = parent_run.ParentRunFacet(parent_run.Run(str(self._run_id)), above, producer=PRODUCER)
        facets: dict[str, Any] = {"processing_engine": _engine(), "parent": parent}
        if state is RunState.FAIL and report.error is not None:
            facets["errorMessage"] = _error(_message(report))
        run = Run(str(uuid.uuid5(self._run_id, spec.name)), facets)
        job = Job(self._namespace, f"{self._report.pipeline}.{spec.name}", facets={"jobType": _kind("STREAM")})
        inputs, outputs = _datasets(spec, self._tables.get(spec.name, ()), report if ended else None)
        self._emit(_event(event.at, state, run, job, inputs, outputs))


class _Heard(logging.Handler):
    """A file that the client cannot read is only logged, and its default transport is used."""

    said = ""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        self.said = self.said or redact(record.getMessage().strip(": "))


def _redact(record: logging.LogRecord) -> bool:
    """A filter that hides secrets and keeps the record."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def _register(transport: Any, name: str = "") -> None:
    """Credentials of the client's configuration, wherever they are in it."""
    if isinstance(transport, Mapping):
        for key, value in transport.items():
            _register(value, key)
    elif isinstance(transport, str) and (sensitive(name) or "://" in transport):
        register(transport)


def _event(at: datetime, state: RunState, run: Run, job: Job, inputs: Any = (), outputs: Any = ()) -> RunEvent:
    time = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return RunEvent(
        eventTime=time,
        producer=PRODUCER,
        run=run,
        job=job,
        eventType=state,
        inputs=[*inputs],
        outputs=[*outputs],
    )


def _engine() -> Any:
    return processing_engine_run.ProcessingEngineRunFacet(VERSION, "dpone", producer=PRODUCER)


def _kind(job: str) -> Any:
    return job_type_job.JobTypeJobFacet("BATCH", "DPONE", job, producer=PRODUCER)


def _error(message: str) -> Any:
    return error_message_run.ErrorMessageRunFacet(message, "PYTHON", producer=PRODUCER)


def _message(stream: StreamReport) -> str:
    return redact(stream.error.message) if stream.error else ""


def _parent(above: str, root: str) -> Any:
    """The run of a scheduler; None for a text that is not namespace/job/run."""
    ids = [re.fullmatch(r"([^/]+)/(.+)/([0-9a-fA-F-]{36})", text.strip()) for text in (above, root or above)]
    if not all(ids):
        return None
    (namespace, name, run), top = (one.groups() for one in ids if one)
    try:
        return parent_run.ParentRunFacet(
            parent_run.Run(run),
            parent_run.Job(namespace, name),
            parent_run.Root(parent_run.RootRun(top[2]), parent_run.RootJob(top[0], top[1])),
            producer=PRODUCER,
        )
    except ValueError:  # not a UUID
        return None


# --- datasets ---


def _datasets(
    spec: StreamSpec, tables: Sequence[Mapping[str, Any]], report: StreamReport | None
) -> tuple[list[InputDataset], list[OutputDataset]]:
    """``tables``: of ``schema_applied``; empty if nothing was to be loaded. report: of a stream that has ended."""
    pairs = tables or [{"target": "", "source": "", "columns": []}]
    inputs, outputs = [], []
    for one in pairs:
        origin = dataset(spec.source, one["source"] if len(pairs) > 1 else "")
        target = dataset(spec.sink, one["target"])
        if origin is not None:
            inputs.append(_input(origin, one["columns"], report, len(pairs)))
        if target is not None:
            outputs.append(_output(target, origin, one["columns"], report, len(pairs)))
    return inputs, outputs


def _input(
    name: tuple[str, str], columns: Sequence[Mapping[str, str]], report: StreamReport | None, of: int
) -> InputDataset:
    facets: dict[str, Any] = {"schema": _schema(columns, "from")} if columns else {}
    read: dict[str, Any] = {}
    if report is not None and of == 1:
        counted = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(report.rows.read, producer=PRODUCER)
        read = {"inputStatistics": counted}
    return InputDataset(*name, facets=facets, inputFacets=read)


def _output(
    name: tuple[str, str],
    origin: tuple[str, str] | None,
    columns: Sequence[Mapping[str, str]],
    report: StreamReport | None,
    of: int,
) -> OutputDataset:
    facets: dict[str, Any] = {"schema": _schema(columns, "name")} if columns else {}
    if columns and origin is not None:
        facets["columnLineage"] = _column_lineage(origin, columns)
    written: dict[str, Any] = {}
    if report is not None and of == 1 and report.status == "loaded":
        facet = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=report.rows.written, producer=PRODUCER
        )
        written = {"outputStatistics": facet}
    return OutputDataset(*name, facets=facets, outputFacets=written)


def _schema(columns: Sequence[Mapping[str, str]], key: str) -> Any:
    fields = [schema_dataset.SchemaDatasetFacetFields(one[key], one["type"]) for one in columns]
    return schema_dataset.SchemaDatasetFacet(fields, producer=PRODUCER)


def _column_lineage(origin: tuple[str, str], columns: Sequence[Mapping[str, str]]) -> Any:
    """dpone copies: each column comes from one column, which may have another name."""
    same = column_lineage_dataset.Transformation("DIRECT", "IDENTITY")
    fields = {
        one["name"]: column_lineage_dataset.Fields(
            [column_lineage_dataset.InputField(*origin, one["from"], transformations=[same])]
        )
        for one in columns
    }
    return column_lineage_dataset.ColumnLineageDatasetFacet(fields, producer=PRODUCER)


def dataset(spec: SourceSpec | SinkSpec, table: str = "") -> tuple[str, str] | None:
    """Namespace and name (OpenLineage, naming). None for a query, and for a connection that does not say safely where
    it points. table: of a change stream of many tables, instead of the one of the spec."""
    what = table or spec.what
    if getattr(spec, "query", None) is not None or not what or "***" in what:
        return None
    place = spec.connection.location() if spec.connection else ""
    if "***" in place:
        return None
    if spec.type == "file":
        return "file", _fixed(Path(os.path.abspath(spec.base / (spec.path or what))))
    if spec.type == "sqlite":
        path = os.path.abspath(spec.base / place.removeprefix("sqlite:///"))
        return f"sqlite://{path}", what
    if spec.type in DATABASES:
        return _in_database(place, what, *DATABASES[spec.type])
    if spec.type == "kafka":
        return f"kafka://{place.split(',')[0].rpartition('=')[2]}", what
    url = urlsplit(place)
    folder = "/".join(filter(None, (url.path.strip("/"), what)))
    return f"{url.scheme or spec.type}://{url.netloc}", _fixed(Path(folder))


def _in_database(place: str, what: str, scheme: str, port: int, schema: str | None) -> tuple[str, str] | None:
    if "://" in place:
        server, _, database = place.partition("://")[2].partition("/")
    else:
        pairs = dict(pair.partition("=")[::2] for pair in place.split(","))
        server = pairs.get("host", pairs.get("server", ""))
        server += f":{pairs['port']}" if "port" in pairs else ""
        database = pairs.get("dbname", pairs.get("database", ""))
    if not server or not database:
        return None
    server = server.split(",")[0]
    server += "" if re.search(r":\d+$", server) else f":{port}"
    parts = [*Name.parse(what).parts]
    parts = [schema, *parts] if schema and len(parts) == 1 else parts
    return f"{scheme}://{server}", ".".join([database.partition("?")[0], *parts])


def _fixed(path: Path) -> str:
    """The folder above the first wildcard: what a glob reads belongs to one dataset."""
    parts = path.parts
    wild = next((n for n, part in enumerate(parts) if re.search(r"[*?\[{]", part)), len(parts))
    return str(Path(*parts[:wild]))
