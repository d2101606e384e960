from __future__ import annotations

from tests.cli.conftest import Done, dpone

__all__ = ["Done", "dpone"]
