"""``dpone run pipeline.yaml`` with the sink of ``benchmarks.null_sink``, installed for this process alone."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[0] = str(
    Path(__file__).parents[1]
)  # in place of the folder of this file, whose modules are not top-level ones
with tempfile.TemporaryDirectory() as site:
    info = Path(site, "null-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: null\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dpone]\nnull = benchmarks.null_sink\n")
    sys.path.append(site)

    from dpone.cli.main import main

    main(["run", "pipeline.yaml"])
