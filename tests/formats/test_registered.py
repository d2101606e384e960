"""A format is registered in four places, which agree."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from dpone.formats import options, reader, write
from dpone.formats.options import SinkFormat, SourceFormat

SOURCE, SINK = {*get_args(SourceFormat)}, {*get_args(SinkFormat)}


def test_every_format_has_a_reader_an_extension_and_a_writer() -> None:
    """A name that a pipeline may write leads to a reader or a writer, and messages have a word for it."""
    assert {*reader._READERS} == SOURCE == {*reader._SUFFIXES.values()}
    assert {*write._WRITERS} == SINK <= SOURCE
    assert {*options._SHOWN} >= SOURCE


def test_every_format_has_a_module() -> None:
    """``reader_of`` names the module of its reader."""
    folder = Path(str(reader.__file__)).parent
    assert all((folder / f"{reader.reader_of(name)}.py").is_file() for name in SOURCE)
