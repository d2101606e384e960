"""Files to begin with, and what is done to them. All of it follows from one random number generator."""

from __future__ import annotations

import datetime as dt
import io
import json
import random
from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

TOKENS: dict[str, list[bytes]] = {
    "csv": [
        b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"-", b"1e999", b"\t", b"#", b"\n#",
        b" ", b"\\", b"sep=;\n", b"1.234,5", b'"1.234,5"', b"31.02.2024", b"31.12.2024 12:00:00.1 am", b"J",
    ],
    "jsonl": [
        b"null", b"null\n", b"\nnull\n", b"[]", b"{}", b"[", b"]", b"{", b"}", b'"', b"\\", b"\\u0000", b"\\ud800",
        b",", b"\n", b"\r", b"\n\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"1e999", b"-", b"NaN", b"true", b":", b"[" * 99,
        b'"id":', b'{"a":' * 99, b"[" * 30000, b'{"id":' * 30000, b"9" * 50, b"0.1", b"\xc2\xa0", b'{"a":1}',
    ],
    "parquet": [b"PAR1", b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x15", b"\x18", b"\x28\xb5\x2f\xfd"],
}  # fmt: skip
TOKENS["changelog"] = [
    *TOKENS["jsonl"],
    b'"op":"truncate"',
    b'"commit":"000001"',
    b'"unchanged":["name"]',
    b'"key":null',
]
ENDINGS = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "changelog": ".jsonl"}
TABLE = pa.table(
    {
        "id": pa.array(range(300), pa.int64()),
        "name": pa.array([None if i % 7 == 0 else f"name {i % 5}, é" for i in range(300)]),
        "at": pa.array(
            [dt.datetime(2026, 1, 1) + dt.timedelta(hours=i) for i in range(300)], pa.timestamp("us", "UTC")
        ),
        "price": pa.array([Decimal(i) / 100 for i in range(300)], pa.decimal128(12, 2)),
        "ratio": pa.array([i / 3 for i in range(300)], pa.float64()),
        "tags": pa.array([["a"] * (i % 4) for i in range(300)], pa.list_(pa.string())),
        "sub": pa.array([{"x": i, "y": None} for i in range(300)], pa.struct([("x", pa.int32()), ("y", pa.string())])),
        "raw": pa.array([bytes([i % 256]) * (i % 9) for i in range(300)], pa.binary()),
        "kind": pa.array(["one", "two", None] * 100).dictionary_encode(),
    }
)


def valid(kind: str, chance: random.Random) -> bytes:
    """A file of the kind that reads without an error."""
    rows = chance.choice([1, 3, 40])
    if kind == "csv":
        lines = [f'{i},"name ""{i}"", é",{i / 4},{i % 2 == 0},2026-01-{i % 28 + 1:02d}' for i in range(rows)]
        end = chance.choice(["\n", "\r\n"])
        return ("id,name,price,flag,day" + end + end.join(lines) + chance.choice(["", end])).encode()
    if kind == "parquet":
        return _parquet(chance)
    if kind == "changelog":
        return _changes(rows)
    nested = chance.random() < 0.5
    made = [{"id": i, "name": f"n {i} é", "price": i / 4, "none": None, "flag": i % 2 == 0} for i in range(rows)]
    if nested:
        made = [{**row, "tags": ["a", 1, None], "sub": {"x": [{"y": i}]}} for i, row in enumerate(made)]
    end = chance.choice(["\n", "\r\n", "\n\n"])
    return (end.join(json.dumps(row, ensure_ascii=chance.random() < 0.5) for row in made) + end).encode()


def _parquet(chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        TABLE.slice(0, chance.choice([0, 5, 300])),
        buffer,
        row_group_size=chance.choice([50, 1000]),
        compression=chance.choice(["none", "snappy", "zstd", "gzip", "lz4", "brotli"]),
        use_dictionary=chance.random() < 0.5,
        data_page_version=chance.choice(["1.0", "2.0"]),
        write_page_checksum=False,
        write_page_index=chance.random() < 0.3,
        store_schema=chance.random() < 0.5,
        use_byte_stream_split=False,
    )
    return buffer.getvalue()


def _changes(rows: int) -> bytes:
    lines = []
    for i in range(rows):
        change = {"table": f"t{i % 2}", "op": "insert", "commit": f"{i:06d}", "key": {"id": i}}
        lines += [json.dumps({**change, "values": {"id": i, "name": f"n {i}", "price": i / 4}})]
        lines += [json.dumps({"op": "commit", "commit": f"{i:06d}", "at": "2026-01-31T12:00:00Z"})]
    return ("\n".join(lines) + "\n").encode()


def mutated(kind: str, data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        data = chance.choice(_MUTATIONS)(kind, data, chance)
    return data


def _flip(kind: str, data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 4])):
        at = _somewhere(kind, data, chance)
        changed[at] = changed[at] ^ 1 << chance.randrange(8) if chance.random() < 0.5 else chance.randrange(256)
    return bytes(changed)


def _cut(kind: str, data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] if chance.random() < 0.5 else data[at:]


def _splice(kind: str, data: bytes, chance: random.Random) -> bytes:
    """A piece of it, or of another file, in another place."""
    other = data if chance.random() < 0.5 else valid(kind, chance)
    start = chance.randrange(len(other) + 1)
    piece = other[start : start + chance.choice([1, 8, 64, 1024])]
    at = chance.randrange(len(data) + 1)
    return data[:at] + piece + data[at + chance.choice([0, len(piece)]) :]


def _insert(kind: str, data: bytes, chance: random.Random) -> bytes:
    at = _somewhere(kind, data, chance)
    if chance.random() < 0.3:  # where a line begins
        at = data.rfind(b"\n", 0, at) + 1
    token = chance.choice(TOKENS[kind])
    return data[:at] + token + data[at + chance.choice([0, 0, len(token)]) :]


def _somewhere(kind: str, data: bytes, chance: random.Random) -> int:
    """In half of all Parquet files in the footer, which says how all else is to be read."""
    if kind == "parquet" and len(data) > 8 and chance.random() < 0.5:
        size = int.from_bytes(data[-8:-4], "little")
        return chance.randrange(max(0, len(data) - size - 8), len(data))
    return chance.randrange(max(1, len(data)))


_MUTATIONS: list[Callable[[str, bytes, random.Random], bytes]] = [_flip, _flip, _cut, _splice, _insert, _insert]
