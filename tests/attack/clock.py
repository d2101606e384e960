"""``python clock.py SHIFT ARGS``: the ``dpone`` program with its wall clock that many seconds off.

Only what dpone and the libraries it calls take from ``time.time`` and ``datetime.now``; monotonic clocks are right.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta, tzinfo
from typing import Any


def main() -> None:
    shift = float(sys.argv.pop(1))
    now, delta = time.time, timedelta(seconds=shift)

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class Shifted(datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + delta

    time.time = lambda: now() + shift
    from dpone.cli.main import main

    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] in ("dpone", "dpone_postgres") and getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]
    main()


main()
