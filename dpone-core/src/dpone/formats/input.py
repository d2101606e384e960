"""The input of a format: a file or a piece of one, wherever its bytes are."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import cast

import pyarrow as pa
from attrs import evolve, frozen

from dpone.errors import DataError, SourceError

CODECS = {".gz": "gzip", ".zst": "zstd"}


@frozen
class Input:
    """One file, or a piece of one.

    name    its last name: the extensions say the format, and how the content is packed
    label   its path as the pipeline spells it, for messages
    stored  opens the bytes as they are stored, for reading at any offset; the caller closes the result. Called
            several times for one file, which stays the same between them. Raises OSError, or a SourceError where the
            bytes are not on a disk of this machine; an OSError without a number is taken for damaged content
    span    from the first to before the second byte (of Parquet: row group); both ends of text are beginnings of lines
    """

    name: str
    label: str
    stored: Callable[[], pa.NativeFile]
    span: tuple[int, int] | None = None

    @classmethod
    def at(cls, path: Path, label: str, span: tuple[int, int] | None = None) -> Input:
        """A file of this machine."""
        return cls(path.name, label, partial(pa.OSFile, str(path), "rb"), span)

    @property
    def begins(self) -> bool:
        """True if the piece includes the beginning of the file."""
        return self.span is None or self.span[0] == 0

    @property
    def whole(self) -> Input:
        return evolve(self, span=None)

    @property
    def suffixes(self) -> Sequence[str]:
        return PurePath(self.name).suffixes

    @property
    def codec(self) -> str | None:
        return CODECS.get(PurePath(self.name).suffix.lower())

    @property
    def size(self) -> int:
        """Bytes of the whole file, as they are stored."""
        with self.stored() as file:
            return int(file.size())

    @contextlib.contextmanager
    def open(self) -> Iterator[pa.NativeFile]:
        """The content, decompressed."""
        with self.stored() as file:
            if self.span is not None:
                file = file.get_stream(self.span[0], self.span[1] - self.span[0])  # closing it does not close the file
            elif self.codec:
                file = pa.CompressedInputStream(file, self.codec)
            with file:
                yield file

    def line_starts(self, wanted: Sequence[int]) -> list[int]:
        """The beginnings of lines at or after these offsets, each once, without the end of the file."""
        found: list[int] = []
        with self.stored() as stored, io.BufferedReader(cast(io.RawIOBase, stored)) as file:
            for offset in wanted:
                if offset < 1 or (found and offset <= found[-1]):
                    continue
                file.seek(offset - 1)
                file.readline()
                if file.read(1):
                    found.append(file.tell() - 1)
        return found

    def holds(self, byte: bytes) -> bool:
        with self.stored() as file:
            return any(byte in block for block in iter(lambda: file.read(1 << 20), b""))

    def bad(self, found: str, todo: str) -> DataError:
        return DataError(f"read {self.label}", found, todo)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Turns errors of the operating system and of the decompressor into ours."""
        try:
            yield
        except PermissionError as error:
            todo = "give the user that runs dpone read permission"
            raise SourceError(f"read {self.label}", "permission denied", todo) from error
        except OSError as error:
            if error.errno is None and self.codec:
                todo = "write or fetch the file again; nothing of it was loaded"
                raise self.bad(f"the {self.codec} data is truncated or damaged", todo) from error
            todo = "check that the file still exists and its disk works, then run again"
            raise SourceError(f"read {self.label}", error.strerror or "the file cannot be read", todo) from error
