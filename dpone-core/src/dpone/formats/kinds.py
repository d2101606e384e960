"""Recognises a file by its first bytes, if it is not what its name or the options say."""

from __future__ import annotations

import re

from dpone.formats.input import Input
from dpone.formats.text import is_utf8

# How many bytes are looked at; the names of a workbook's parts are among the first of its zip archive.
_LOOK = 4096
_PACKED = {b"\x1f\x8b": ("gzip", ".gz"), b"\x28\xb5\x2f\xfd": ("zstd", ".zst")}
_BINARY = {
    b"PK\x03\x04": "a zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3\0": "a SQLite database",
    b"%PDF": "a PDF",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
}
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f]")  # not in text
_TODO = {
    "a zip archive": "unpack it first",
    "an Excel workbook (xlsx)": "save the sheet as CSV",
    "an old Excel or Word file": "save the sheet as CSV",
    "a Parquet file": "set options.format: parquet",
    "a SQLite database": "read it with source type sqlite",
    "a bzip2 file": "decompress it, or compress it with gzip (.gz) or zstd (.zst)",
    "an xz file": "decompress it, or compress it with gzip (.gz) or zstd (.zst)",
    "an HTML page": "fetch the file again: the server may have sent a login or error page instead",
    "JSON": "set options.format: json",
    "a JSON array": "set options.format: json",
}


def require_kind(file: Input, format: str, encoding: str, header: bool) -> None:
    """Check that a file begins as its format requires. Raises DataError that says what the file is instead."""
    with file.failing(), file.stored() as stored:
        start = bytes(stored.read(_LOOK))
    packed = next((known for mark, known in _PACKED.items() if start.startswith(mark)), None)
    if packed and packed[0] != file.codec:
        name = file.name.removesuffix(file.suffixes[-1]) if file.codec else file.name
        raise file.bad(f"the file is compressed with {packed[0]}", f"rename it to {name}{packed[1]}")
    if file.codec and not packed and not _CONTROL.search(start):
        raise file.bad(f"the file is plain text, not {file.codec}", f"rename it without {file.suffixes[-1]}")
    if packed:
        with file.failing(), file.open() as content:
            start = bytes(content.read(_LOOK))
    kind = _kind(start, format, header)
    if kind:
        raise file.bad(f"the file is {kind}", _TODO.get(kind, "convert it to CSV, JSON Lines or Parquet"))
    if format != "parquet" and is_utf8(encoding) and (utf16 := _utf16(start)):
        raise file.bad("the file is UTF-16 without a byte order mark, not utf-8", f"set options.encoding: {utf16}")


def _kind(start: bytes, format: str, header: bool) -> str | None:
    binary = next((known for mark, known in _BINARY.items() if start.startswith(mark)), None)
    if binary == "a zip archive" and b"[Content_Types].xml" in start:
        return "an Excel workbook (xlsx)"
    if binary:
        # Some of the marks are letters that a header may begin with.
        is_text = format != "parquet" and not _CONTROL.search(start) and binary != "a PDF"
        return None if is_text or (binary == "a Parquet file" and format == "parquet") else binary
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if format == "parquet":
        return None
    if _HTML.match(text):
        return "an HTML page"
    if format != "json" and re.match(rb"\[\s*\{", text):
        return "a JSON array"
    return "JSON" if format == "csv" and header and re.match(rb'\{\s*"', text) else None


def _utf16(start: bytes) -> str | None:
    """ASCII in two bytes each."""
    if re.match(rb"(?:[^\0]\0){2}", start, re.DOTALL):
        return "utf-16-le"
    return "utf-16-be" if re.match(rb"(?:\0[^\0]){2}", start, re.DOTALL) else None
