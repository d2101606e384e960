from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.webhook.harness import Receiver, WebhookHarness, receiver

from dpone import plugins
from dpone.testing import crash


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The webhook as an installed distribution."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "webhook-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: webhook\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dpone]\nwebhook = tests.webhook.plugin\n")
    return folder


@pytest.fixture(autouse=True, scope="module")
def installed(site: Path) -> Iterator[None]:
    """Here and in the processes that are killed, and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        for forget in (plugins.discover.cache_clear, crash._zygote.cache_clear):
            forget()
        yield
    for forget in (plugins.discover.cache_clear, crash._zygote.cache_clear):
        forget()


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def harness(tmp_path: Path, server: Receiver) -> WebhookHarness:
    return WebhookHarness(tmp_path, server)
