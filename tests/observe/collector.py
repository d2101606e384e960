"""A collector in this process: OTLP over gRPC and over HTTP, with the messages of OpenTelemetry's own definitions."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector:
    """What arrived. ``refuses``: every export is answered with an error."""

    def __init__(self) -> None:
        self.grpc = self.http = ""
        self.refuses = False
        self.clear()

    def clear(self) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []

    def take(self, request: Any, headers: Any) -> bool:
        self.headers.append({str(name).lower(): str(value) for name, value in headers})
        if not self.refuses:
            self.requests.append(request)
        return not self.refuses

    @property
    def spans(self) -> list[Any]:
        traces = [one for one in self.requests if isinstance(one, trace_service_pb2.ExportTraceServiceRequest)]
        return [s for one in traces for r in one.resource_spans for scope in r.scope_spans for s in scope.spans]

    @property
    def metrics(self) -> dict[str, Any]:
        """The last export of each metric, by name."""
        found = [one for one in self.requests if isinstance(one, metrics_service_pb2.ExportMetricsServiceRequest)]
        every = [m for one in found for r in one.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
        return {metric.name: metric for metric in every}

    @property
    def resource(self) -> dict[str, Any]:
        return attributes(next(r for one in self.requests for r in one.resource_spans).resource)

    def text(self) -> str:
        return "\n".join(map(str, self.requests))


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    made = Collector()

    def served(answer: Any) -> Any:
        def export(self: Any, request: Any, context: Any) -> Any:
            if not made.take(request, context.invocation_metadata()):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "refused")
            return answer()

        return type("Service", (), {"Export": export})()

    server = grpc.server(ThreadPoolExecutor(2))
    traces = served(trace_service_pb2.ExportTraceServiceResponse)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces, server)
    metrics = served(metrics_service_pb2.ExportMetricsServiceResponse)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(metrics, server)
    made.grpc = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kinds = {
                "/v1/traces": trace_service_pb2.ExportTraceServiceRequest,
                "/v1/metrics": metrics_service_pb2.ExportMetricsServiceRequest,
            }
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
            taken = made.take(kinds[self.path].FromString(body), self.headers.items())
            self.send_response(200 if taken else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *given: Any) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.daemon_threads = True
        made.http = f"http://127.0.0.1:{web.server_port}"
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            web.shutdown()
            thread.join()
            server.stop(None).wait()
