"""The ``dpone`` program: settings of its process, then the command line."""

import atexit
import gc
import os
import signal
from types import FrameType

from dpone.host.environment import SETTINGS


def leave(number: int, frame: FrameType | None) -> None:
    """Before a command has begun to work, and when it only prints what it has done, there is nothing to clean up."""
    os.write(2, b"error: interrupted\n")
    os._exit(130)


def main() -> None:
    """Imports leave no garbage; to look for some meanwhile, and again at the end, takes a seventh of a small run."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a script
            signal.signal(number, leave)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)

    from dpone.cli.main import main

    main()


if __name__ == "__main__":
    main()
