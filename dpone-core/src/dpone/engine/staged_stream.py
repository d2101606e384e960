"""A part's batches on their way from the source to the sink."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing

import pyarrow as pa

from dpone.cdc.batch import renamed
from dpone.contract import Stream
from dpone.host.prefetch import prefetch
from dpone.model.changes import EVENT_ID, KEY
from dpone.model.keys import canonical


class StagedStream:
    """A source's stream as the sink reads it: read ahead in a thread, columns renamed to the target's, keys in their
    canonical ``forms``, each batch reported to the observers. A native stream is passed on unchanged. After ``close``
    no thread reads from the source, even if the sink stopped half way."""

    _ahead: Generator[pa.RecordBatch, None, None] | None = None

    def __init__(
        self,
        stream: Stream,
        source: pa.Schema,
        target: pa.Schema,
        after_batch: Callable[..., None],
        forms: Mapping[str, str] | None = None,
    ) -> None:
        self._stream, self._after_batch, self._forms = stream, after_batch, forms
        self.schema = target
        self.native = stream.native if source.names == target.names and not forms else ()

    @property
    def filtered(self) -> int:
        return self._stream.filtered

    @property
    def quarantined(self) -> int:
        return self._stream.quarantined

    @property
    def checks(self) -> str:
        return self._stream.checks

    def batches(self) -> Iterator[pa.RecordBatch]:
        self._ahead = self._read_ahead()
        return self._ahead

    def _read_ahead(self) -> Generator[pa.RecordBatch, None, None]:
        with closing(prefetch(self._stream.batches())) as batches:
            for batch in batches:
                if EVENT_ID in batch.schema.names and KEY in batch.schema.names:
                    batch = renamed(batch, self.schema)
                elif batch.schema.names != self.schema.names:
                    batch = batch.rename_columns(self.schema.names)
                if self._forms:
                    batch = canonical(batch, self._forms)
                yield batch
                self._after_batch(rows=batch.num_rows, bytes=batch.nbytes)

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def open_native(self, format: str) -> Iterator[bytes]:
        for block in self._stream.open_native(format):
            yield block
            self._after_batch(rows=0, bytes=len(block))
