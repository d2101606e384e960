"""Ids of rows for a sink without a journal (``Connector.commit`` none). Rows that a crash leaves unconfirmed are
delivered again, and the receiver recognises a row by its id."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpone.contract import Load, Part
from dpone.model.changes import EVENT_ID


def event_ids(load: Load, part: Part, batch: pa.RecordBatch, first: int) -> pa.Array:
    """A unique id for each row of a batch. ``first``: the number of rows of the part before the batch.

    A row has the same id in every attempt of its load, even if the source has more rows by then. A change has its own
    id. If nothing identifies the rows of a part (``Part.content``), the ids are new in each attempt: a receiver may
    then see a row twice, but never takes two rows for one.
    """
    if EVENT_ID in batch.schema.names:
        return batch.column(EVENT_ID)
    # Not Part.id: it has the place of the file in its window, and a file that arrives after the crash moves that place.
    named = f"{load.origin}|{part.content}" if part.content else f"{load.load_id}|{part.id}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:32]
    numbers = pa.array(np.arange(first, first + batch.num_rows))
    return pc.binary_join_element_wise(digest, numbers.cast(pa.string()), "-")
