"""Checks of texts and columns that all formats share, and their messages."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from dpone.errors import DataError
from dpone.formats.input import Input
from dpone.formats.types import SeenValues
from dpone.model.schema import ambiguous


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def reject_utf16(file: Input, encoding: str) -> None:
    with file.open() as content:
        start = bytes(content.read(2))
    if is_utf8(encoding) and start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise file.bad("the file starts with the byte order mark of UTF-16", "set options.encoding: utf-16")


def wrong_encoding(file: Input, encoding: str) -> DataError:
    """The error for a file that does not decode, with the offset of the first wrong byte of its content."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done, where = 0, "the file"
    with file.open() as content:
        while True:
            block = bytes(content.read(1 << 20))
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = f"byte {done - pending + error.start} (counted from 0)"
                break
            if not block:
                break
            done += len(block)
    todo = "set options.encoding to the file's encoding, such as latin-1, cp1252 or utf-16"
    return file.bad(f"{where} is not {encoding}", todo)


def check_names(file: Input, names: list[str], what: Literal["header", "column", "key"] = "header") -> None:
    """Check that every column has a name, and that names are distinct regardless of case, because most servers would
    fold them. what: where the format has the names; only those of a header can be set by an option."""
    # Without header: false, names would replace the first row of a file that has no header.
    option = ", or set options.names, with header: false if the first row is data" if what == "header" else ""
    one = "column" if what == "header" else what
    if "" in names:
        at = names.index("") + 1
        found = {"header": f"column {at} of the header has no name", "column": f"column {at} has no name"}
        every = "every column in the header" if what == "header" else f"every {one} in the file"
        raise file.bad(found.get(what, "an object has an empty key"), f"name {every}{option}")
    doubled = next((name for name, times in Counter(names).items() if times > 1), None)
    if doubled is not None:
        raise file.bad(f"two {one}s are named {doubled!r}", f"rename one in the file{option}")
    if folded := ambiguous(names):
        first = next(name for name in names if name.casefold() == folded[0].casefold())
        raise file.bad(f"{one}s {first!r} and {folded[0]!r} differ only by case", f"rename one in the file{option}")


def require_kin(files: Sequence[Input], columns: Sequence[Collection[str]]) -> None:
    """Check that each file shares a column with another file. One that does not has another delimiter, or does not
    belong here."""
    times = Counter(name for names in columns for name in set(names))
    alone = [i for i, names in enumerate(columns) if names and all(times[name] == 1 for name in names)]
    if alone and sum(map(bool, columns)) > 1:  # a file without any column has no row either
        file, others = files[alone[-1]], files[0 if alone[-1] else 1]
        found = f"none of its columns ({_some(columns[alone[-1]])}) is in {others.label} or another file"
        raise file.bad(found, "move the file out of the path, or read it with another pipeline")


def lacking(files: Sequence[str], columns: Sequence[Collection[str]]) -> dict[str, str]:
    """Columns that some files lack, mapped to these files. A file without any column has no row either."""
    some = [(file, {*names}) for file, names in zip(files, columns, strict=True) if names]
    every = dict.fromkeys(name for _, names in some for name in sorted(names))
    found = {name: [file for file, names in some if name not in names] for name in every}
    return {name: several(without) for name, without in found.items() if without}


def several(labels: Sequence[str]) -> str:
    """``b.csv`` or ``b.csv and 3 other files``."""
    others = len(labels) - 1
    return labels[0] + (f" and {others} other file{'s' if others > 1 else ''}" if others else "")


def _some(names: Collection[str]) -> str:
    first = [name if len(name) <= 40 else f"{name[:40]}..." for name in list(names)[:3]]
    return ", ".join(first + ["..."] * (len(names) > 3))


def united(many: Iterable[Mapping[str, SeenValues]]) -> dict[str, SeenValues]:
    """The columns of all of them by name, in the order in which they first occur."""
    seen: dict[str, SeenValues] = {}
    for one in many:
        for name, what in one.items():
            seen[name] = seen[name] | what if name in seen else what
    return seen
