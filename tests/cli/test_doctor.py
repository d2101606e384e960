"""``dpone doctor`` and ``dpone check``: what they look at, and what they say of it."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import sqlite3
import ssl
import subprocess
import sys
import time
import venv
import zipfile
from collections import namedtuple
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from tests.cli.schemas import require_valid

from dpone import plugins
from dpone.ops import doctor

Dpone = Callable[..., Any]


def by_name(done: Any) -> dict[str, dict[str, Any]]:
    require_valid("doctor.json", done.json)
    return {finding["name"]: finding for finding in done.json["findings"]}


def test_doctor_examines_the_whole_machine(dpone: Dpone) -> None:
    """Python, dpone, plugins, drivers with their versions, clock, disk and TLS each have a finding."""
    found = by_name(dpone("doctor", "--format", "json"))
    assert {"python", "dpone", "plugin file", "plugin sqlite", "clock", "disk", "tls"} <= set(found)
    assert found["driver pyarrow"]["found"] == pa.__version__
    assert sqlite3.sqlite_version in found["driver sqlite3"]["found"]
    assert ssl.OPENSSL_VERSION in found["tls"]["found"]
    assert found["python"]["ok"] is True
    assert sys.executable in found["python"]["found"]
    assert "dpone-core 1.0.0 from " in found["dpone"]["found"]
    assert found["plugin sqlite"]["found"] == "dpone-core 1.0.0: source, sink, state"
    assert {found[f"plugin {name}"]["found"] for name in ("notify", "openlineage", "otel")} == {
        "dpone-core 1.0.0: observer"
    }
    assert found["plugin mssql"]["found"].endswith("not implemented in this version")
    assert all(set(one) == {"name", "ok", "found", "todo"} for one in found.values())


def test_every_finding_that_is_not_ok_says_what_to_do(dpone: Dpone) -> None:
    """A finding is ok and needs nothing, or it has a next step; the exit code is 1 exactly if one is not ok."""
    done = dpone("doctor", "--format", "json")
    assert all(bool(one["todo"]) != (one["ok"] is True) for one in done.json["findings"])
    assert done.exit_code == (1 if any(one["ok"] is False for one in done.json["findings"]) else 0)
    assert done.json["ok"] == (done.exit_code == 0)


def test_doctor_names_a_broken_plugin(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """A plugin that cannot be imported is not ok, with its cause and how to go on without it."""
    install("zz_broken", "import no_such_driver\n")
    done = dpone("doctor", "--format", "json")
    one = by_name(done)["plugin zz_broken"]
    assert done.exit_code == 1
    assert one["ok"] is False
    assert "No module named 'no_such_driver'" in one["found"]
    assert "DPONE_BLOCK=zz_broken" in one["todo"]


def test_doctor_says_how_to_install_what_this_repository_has(
    dpone: Dpone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plugin of this repository that is not installed does not make doctor fail; its line is a command that installs
    it, and that can be typed in any folder if pip recorded where dpone-core came from."""
    real = plugins.entry_points
    monkeypatch.setattr(plugins, "entry_points", lambda group: [p for p in real(group=group) if p.name != "kafka"])
    plugins.discover.cache_clear()
    done = dpone("doctor", "--format", "json")
    one = by_name(done)["plugin kafka"]
    assert (one["ok"], one["found"]) == (None, "dpone-kafka is not installed")
    assert one["todo"].startswith("to use it: pip install ")
    plugins.discover.cache_clear()
    for name in ("dpone-core", "dpone-kafka"):
        (tmp_path / "a b" / name).mkdir(parents=True)
        (tmp_path / "a b" / name / "pyproject.toml").touch()
    origin = SimpleNamespace(read_text=lambda name: f'{{"url": "file://{tmp_path}/a%20b/dpone-core"}}')
    monkeypatch.setattr(plugins, "distribution", lambda name: origin)
    command = shlex.split(plugins.how_to_install("kafka"))
    assert command == ["pip", "install", f"{tmp_path}/a b/dpone-core", f"{tmp_path}/a b/dpone-kafka"]
    assert plugins.how_to_install("mssql") == "pip install ./dpone-core ./dpone-mssql, in the repository"


def test_doctor_tries_implementations(install: Callable[[str, str], Path], dpone: Dpone) -> None:
    """A plugin that is found but whose implementation cannot be imported is not ok."""
    code = (
        "import dpone\nfrom dpone.capability import Connector, declare\n@dpone.hookimpl\ndef dpone_sources():\n"
        "    able = declare('source', ['read'])\n"
        "    return [Connector('zz_half', 'zz_missing:S', 'dpone.model.pipeline:SourceOptions', able)]\n"
    )
    install("zz_half", code)
    one = by_name(dpone("doctor", "--format", "json"))["plugin zz_half"]
    assert one["ok"] is False
    assert "zz_missing" in one["found"]


def test_doctor_knows_a_driver_that_is_missing(
    tmp_path: Path, install: Callable[[str, str], Path], dpone: Dpone
) -> None:
    """A requirement of a plugin's distribution that is not installed is named, with the command that installs it; those
    of extras are left out."""
    site = install("zz_needy", "import dpone\n@dpone.hookimpl\ndef dpone_run_event(event): pass\n")
    with (site / "zz_needy-1.0.dist-info" / "METADATA").open("a") as metadata:
        metadata.write("Requires-Dist: zz-driver[fast]>=2,<3\nRequires-Dist: zz-extra; extra == 'more'\n")
    found = by_name(dpone("doctor", "--format", "json"))
    assert found["driver zz-driver"]["ok"] is False
    assert found["driver zz-driver"]["todo"] == "pip install 'zz-driver>=2,<3'"
    assert "driver zz-extra" not in found


def test_OUT_16_a_driver_that_cannot_be_imported_is_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the finding mends it; its index is a folder here."""
    pytest.importorskip("pip")
    about = "zz_driver-1.0.dist-info"
    made = {
        "zz_driver.py": "VALUE = 1\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: zz-driver\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    made[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in (*made, f"{about}/RECORD"))
    venv.create(tmp_path / "env", symlinks=True)
    [site] = (tmp_path / "env" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(tmp_path / "zz_driver-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in made.items():
            wheel.writestr(name, content)
    with zipfile.ZipFile(tmp_path / "zz_driver-1.0-py3-none-any.whl") as wheel:
        wheel.extractall(site)
    (site / "zz_driver.py").write_text("import zz_library_that_went\n")
    monkeypatch.syspath_prepend(site)
    broken = doctor._driver("zz-driver", "", ["zz_driver"])
    assert broken.ok is False
    assert "1.0, cannot be imported: ModuleNotFoundError" in broken.found
    here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_PYTHON": str(tmp_path / "env/bin/python")}
    command = [sys.executable, "-m", *shlex.split(broken.todo)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **here})
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "zz_driver", raising=False)
    assert doctor._driver("zz-driver", "", ["zz_driver"]).ok is True
    monkeypatch.delitem(sys.modules, "zz_driver")


def test_doctor_warns_of_the_other_dpone(install: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution dpone that does not require dpone-core is another project's: not ok, to be uninstalled."""
    ours = importlib.metadata.distribution

    class Foreign:
        version, requires = "0.9", ["pandas"]

    monkeypatch.setattr(doctor.metadata, "distribution", lambda name: Foreign() if name == "dpone" else ours(name))
    found = doctor.distribution()
    assert found.ok is False
    assert "another project" in found.found
    Foreign.requires = ["dpone-core==1.0.0"]
    assert doctor.distribution().ok is True


def test_origin_shows_no_credentials() -> None:
    """Where the distribution came from is told without the user and password of its address."""

    class Direct:
        def read_text(self, name: str) -> str:
            return '{"url": "https://user:s3cret@example.org/dpone_core.whl"}'

    assert doctor._origin(Direct()) == "https://example.org/dpone_core.whl"  # type: ignore[arg-type]


def test_clock_that_jumps_is_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wall time that runs away from the monotonic clock is found."""
    times = iter([1_800_000_000.0, 1_800_003_600.0])
    monkeypatch.setattr(time, "time", lambda: next(times))
    assert doctor.clock(tmp_path).ok is False


@pytest.mark.parametrize("nth", range(1, 10))
def test_a_process_that_is_held_up_finds_no_wrong_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nth: int
) -> None:
    """For seconds between any two looks at the clocks and the file: what stood still was the process, not a clock."""
    now, looks = [1_800_000_000.0], count(1)

    def look(*_: Any) -> float:
        now[0] += 3.0 * (next(looks) == nth)
        return now[0]

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", look)
        patch.setattr(time, "monotonic", look)
        patch.setattr(os, "fstat", lambda file: SimpleNamespace(st_mtime=look()))
        found = doctor.clock(tmp_path)
    assert found.ok is True
    assert next(looks) == 10


def test_clock_that_disagrees_with_the_file_system_is_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file server with another idea of now is found: leases and file times would disagree."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 60)
    found = doctor.clock(tmp_path)
    assert found.ok is False
    assert "file system -60" in found.found


def test_clock_where_nothing_can_be_written_cannot_be_told(tmp_path: Path) -> None:
    """Without a folder to write in, the comparison is left open rather than called wrong."""
    assert doctor.clock(tmp_path / "missing").ok is None


def test_full_disk_is_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Less than 1 GB for staging is found before a run finds it."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 10**8))
    found = doctor.disk(tmp_path)
    assert (found.ok, found.found) == (False, f"0.1 GB free in {tmp_path}")
    assert doctor.disk(Path("/")).name == "disk"


def test_tls_without_authorities_is_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty certificate store is found; a folder of hashed certificates is a store."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert doctor.tls().ok is False
    (tmp_path / "0a1b2c3d.0").write_text("")
    assert doctor.tls().ok is True


CHECKED = """
pipeline: checked
source: {type: zz_checked, table: t}
sink: {type: zz_checked, table: t, strategy: {mode: append}}
state: {type: zz_checked}
"""

CHECKED_PLUGIN = """
import dpone
from dpone.capability import CAPABILITIES, Connector, declare
from dpone.contract import OPTIONAL, PROTOCOLS, Finding

class Anything:
    def __init__(self, spec): self.spec = spec
    def __getattr__(self, name): raise AssertionError(f"{name} was called")
    def close(self): pass

class Silent(Anything):
    def check(self): return [Finding("connect", True, "a server")]

class Refused(Anything):
    def check(self): return [Finding("connect", True, "a server"), Finding("write", False, "read-only", "grant INSERT")]

class Raises(Anything):
    def check(self): raise TimeoutError("no answer\\nin 5 s")

def connector(role, cls, options, **more):
    for name in vars(PROTOCOLS[role]):
        if not name.startswith("_") and not hasattr(cls, name):
            setattr(cls, name, lambda self, *args: self.__getattr__("a method"))
    plain = [name for name in CAPABILITIES[role] if name not in OPTIONAL.get(role, ())]
    return Connector("zz_checked", f"zz_checked:{cls.__name__}", f"dpone.model.pipeline:{options}",
                     declare(role, plain), **more)

@dpone.hookimpl
def dpone_sources(): return [connector("source", Silent, "SourceOptions", takes=("table",))]
@dpone.hookimpl
def dpone_sinks(): return [connector("sink", Refused, "SinkOptions", takes=("table",), commit="transaction")]
@dpone.hookimpl
def dpone_state_backends(): return [connector("state", Raises, "StateOptions")]
"""


@pytest.fixture
def checked(install: Callable[[str, str], Path], tmp_path: Path) -> Path:
    install("zz_checked", CHECKED_PLUGIN)
    path = tmp_path / "checked.yaml"
    path.write_text(CHECKED)
    return path


def test_check_connects_to_nothing(checked: Path, dpone: Dpone) -> None:
    """Without --connect only the file and the implementations are looked at."""
    done = dpone("check", checked, "--format", "json")
    assert done.exit_code == 0
    assert list(by_name(done)) == ["pipeline", "source zz_checked", "sink zz_checked", "state zz_checked"]


@pytest.mark.parametrize("command", [["check", "--connect"], ["doctor"]], ids=" ".join)
def test_connections_are_asked_and_all_reported(command: list[str], checked: Path, dpone: Dpone) -> None:
    """Every end is asked; one that refuses or raises makes the exit code 1 and hides none of the others."""
    done = dpone(*command, checked, "--format", "json")
    found = by_name(done)
    assert done.exit_code == 1
    assert found["state"]["ok"] is False
    assert found["state"]["found"] == "TimeoutError: no answer in 5 s"
    assert found["t: source connect"]["ok"] is True
    assert found["t: sink write"] == {
        "name": "t: sink write",
        "ok": False,
        "found": "read-only",
        "todo": "grant INSERT",
    }


def test_check_as_text_is_one_line_per_finding(checked: Path, dpone: Dpone) -> None:
    """A person reads ok or FAIL, the name, the fact and the next step."""
    lines = dpone("check", checked, "--connect").out.splitlines()
    assert "FAIL  t: sink write      read-only; grant INSERT" in lines
    assert "ok    t: source connect  a server" in lines


def test_check_names_all_problems_of_a_file(tmp_path: Path, dpone: Dpone) -> None:
    """Every problem of the file is a line of its own, in one go, with its place."""
    path = tmp_path / "bad.yaml"
    path.write_text("pipelin: x\nsource: {type: nosuch}\n")
    done = dpone("check", path)
    assert done.exit_code == 2
    assert len(done.err.splitlines()) >= 3
    assert all(line.startswith(f"error: {path}:") for line in done.err.splitlines())


def test_check_says_which_connector_is_not_implemented(
    install: Callable[[str, str], Path], tmp_path: Path, dpone: Dpone
) -> None:
    """A connector that is only declared is refused before anything runs."""
    install("zz_checked", CHECKED_PLUGIN.replace("declare(role, plain)", "declare(role)"))
    path = tmp_path / "checked.yaml"
    path.write_text(CHECKED)
    done = dpone("check", path)
    assert done.exit_code != 0
    assert "not implemented" in done.out + done.err
