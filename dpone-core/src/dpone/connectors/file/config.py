"""Options of the file connector: those of the formats, and those that every source, sink and state backend takes."""

from __future__ import annotations

from attrs import frozen

from dpone.errors import ConfigError
from dpone.formats.options import ReadOptions, WriteOptions
from dpone.model.pipeline import SinkOptions, SourceOptions, StateOptions


@frozen
class FileSourceOptions(ReadOptions, SourceOptions):
    """Of files, and of a change log, which is JSON Lines."""

    def __attrs_post_init__(self) -> None:
        if self.incremental is not None and self.incremental.by != "cdc":
            todo = "remove it; a file source reads each new file once without it"
            raise ConfigError("read options.incremental", f"by: {self.incremental.by}", todo)
        super().__attrs_post_init__()

    def _kind(self) -> str | None:
        return self.format if self.incremental is None else "changelog"


@frozen
class FileSinkOptions(WriteOptions, SinkOptions):
    """Of a folder of parts."""

    def __attrs_post_init__(self) -> None:
        SinkOptions.__attrs_post_init__(self)
        WriteOptions.__attrs_post_init__(self)


@frozen
class FileStateOptions(StateOptions):
    """Nothing beyond what every state backend takes."""
