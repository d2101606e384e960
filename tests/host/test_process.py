"""Which processes are certainly gone."""

import subprocess
import sys

import pytest
from attrs import evolve
from tests.patience import until

from dpone.host.process import Process, _started


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells when a process started")
def test_a_process_that_nobody_has_waited_for_is_gone_once_it_has_ended() -> None:
    """It keeps its number until then, and its lease must not be waited for."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        holder = evolve(Process.this(), pid=child.pid, started=_started(child.pid))
        assert not holder.gone()
        child.kill()
        assert child.stdout is not None
        assert child.stdout.read() == b""  # the end of the process closes it
        until(holder.gone, "a process that has ended counts as one that lives")
    assert holder.gone()
