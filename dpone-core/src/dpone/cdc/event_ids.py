"""Deliveries to a sink that keeps no journal (``Connector.commit`` none): what a crash leaves unconfirmed is delivered
again, and a receiver knows a row by its id."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpone.contract import Load, Part
from dpone.model.changes import EVENT_ID


def event_ids(load: Load, part: Part, batch: pa.RecordBatch, first: int) -> pa.Array:
    """An id for each row of a batch, unlike that of any other row. ``first``: how many rows of the part came before.

    The same row has the same id in every attempt of its load, also where other rows came along only later. A change
    has its own. Where nothing names the rows of a part (``Part.content``), the ids are those of this attempt alone: a
    receiver may then see a row twice, and takes no two for one.
    """
    if EVENT_ID in batch.schema.names:
        return batch.column(EVENT_ID)
    named = f"{load.origin}|{part.content}" if part.content else f"{load.load_id}|{part.id}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:32]
    numbers = pa.array(np.arange(first, first + batch.num_rows))
    return pc.binary_join_element_wise(digest, numbers.cast(pa.string()), "-")
