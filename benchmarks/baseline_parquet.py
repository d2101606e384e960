"""CSV to Parquet as plain pyarrow does it: ``python baseline_parquet.py IN.csv OUT.parquet``."""

from __future__ import annotations

import os
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

GROUP_ROWS = 1 << 17  # as dpone's file sink has it, and its zstd level

source, target = sys.argv[1:]
with (
    pyarrow.csv.open_csv(source) as reader,
    pyarrow.parquet.ParquetWriter(target, reader.schema, compression="zstd", compression_level=1) as writer,
):
    held: list[pa.RecordBatch] = []
    for batch in reader:
        held.append(batch)
        if sum(b.num_rows for b in held) >= GROUP_ROWS:
            writer.write_batch(pa.concat_batches(held), GROUP_ROWS)
            held.clear()
    if held:
        writer.write_batch(pa.concat_batches(held), GROUP_ROWS)
with open(target, "rb") as written:
    os.fsync(written.fileno())
