"""An address that takes telemetry and drops it: ``python collector.py`` prints its URL, and serves until its end."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Taken(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        """Nothing is printed."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Taken) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
