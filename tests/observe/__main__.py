"""``python -m tests.observe``: an export is sent to a real receiver of OTLP, which shows what it has understood.

Needs Rotel, a collector (``pip install rotel``), which is not locked: an early version, for Linux alone.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.observe.shapes import SHAPES

from dpone.observe.formats import otlp
from dpone.observe.metrics import METRICS, Scope, scopes

EXPECTED = {"gauge": "Gauge", "counter": "Sum"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def send(port: int, data: bytes) -> int:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/metrics", data, headers)  # http
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def understood(log: str) -> list[tuple[str, str, float]]:
    """Name, kind and value of each point that the receiver printed."""
    found = []
    for text in log.split("-> Name: ")[1:]:
        name, kind = text.split("\n", 1)[0], re.findall(r"-> DataType: (\w+)", text)[0]
        found += [(name, kind, float(value)) for value in re.findall(r"^Value: (\S+)$", text, re.MULTILINE)]
    return sorted(found)


def sent(exported: Sequence[Scope]) -> list[tuple[str, str, float]]:
    kinds: Mapping[str, str] = {metric.name: EXPECTED[metric.kind] for metric in METRICS}
    values = [(name, value) for scope in exported for name, found in scope.values.items() for value in found.values()]
    return sorted((name, kinds[name], float(value)) for name, value in values)


def main() -> int:
    import rotel

    agent, port = Path(rotel.__file__).with_name("rotel-agent"), free_port()
    agent.chmod(0o755)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for shape, reports in SHAPES.items():
            exported, log = scopes(reports(), {"env": "prod"}, {}), Path(folder) / "log"
            ends = ("--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}", "--otlp-http-endpoint", f"127.0.0.1:{port}")
            shown = ("--exporter", "blackhole", "--debug-log", "metrics", "--debug-log-verbosity", "detailed")
            with (
                log.open("wb") as out,
                subprocess.Popen([agent, "start", *ends, *shown], stdout=out, stderr=out) as server,
            ):
                try:
                    for _ in range(100):
                        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                            break
                        time.sleep(0.1)
                    code, spoilt = send(port, otlp(exported, "1.0.0")), send(port, b'{"resourceMetrics": 7}')
                    time.sleep(1)
                finally:
                    server.terminate()
            same = understood(log.read_text(errors="replace")) == sent(exported)
            failed |= (code, spoilt, same) != (200, 400, True)
            print(f"{shape}: {code}, {len(sent(exported))} values, {'as' if same else 'NOT as'} sent; spoilt: {spoilt}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
