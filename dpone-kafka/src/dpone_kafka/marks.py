"""What a change of a topic is known by: its place, and its time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def marks(partition: int, offsets: npt.NDArray[np.int64]) -> pa.Array:
    """Marks of commits: texts that sort by partition and offset."""
    texts = pc.utf8_lpad(pa.array(offsets).cast(pa.string()), 19, "0")
    return pc.binary_join_element_wise(f"{partition:010d}", texts, "-")


def times(milliseconds: Sequence[int | None]) -> pa.Array:
    given = [None if one is None or one < 0 else one for one in milliseconds]
    return pa.array(given, pa.int64()).cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC"))
