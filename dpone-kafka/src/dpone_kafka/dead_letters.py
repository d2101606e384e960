"""Records that could not be read, put aside: one file for each, named by its place in the log."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from attrs import define

from dpone.errors import ConfigError, DataError, counted
from dpone.host import durable
from dpone.quality.files import writing_into
from dpone_kafka.config import Poison


@define
class DeadLetters:
    """Of one part. A file is durable before the part ends, and so before the sink marks the part; a part that is read
    again writes the same files again. ``place``: cluster, topic, partition; ``todo``: advice of the error."""

    base: Path
    poison: Poison
    place: tuple[str, str, int]
    count: int = 0
    todo: str = "correct the format, or set options.poison: {policy: quarantine} to put such records aside"

    def require_room(self, reason: str, offset: int) -> None:
        """Raises DataError for a record that may not be put aside."""
        _, topic, partition = self.place
        what = f"read {topic}, partition {partition}, offset {offset}"
        if self.poison.policy == "fail":
            raise DataError(what, f"the record cannot be read: {reason}", self.todo)
        if self.count >= self.poison.max_records:
            found = f"more than {counted(self.poison.max_records, 'record')} of the part cannot be read: {reason}"
            raise DataError(what, found, "correct the format, or raise options.poison.max_records")

    def keep(self, offset: int, record: dict[str, Any]) -> None:
        cluster, topic, partition = self.place
        folder = self._root / (cluster or "cluster") / topic / str(partition)
        where = {"cluster": cluster, "topic": topic, "partition": partition, "offset": offset}
        with writing_into(folder):
            durable.private_folder(folder)
            durable.write_whole(folder / f"{offset:020d}.json", json.dumps({**where, **record}).encode() + b"\n")
        self.count += 1

    @property
    def _root(self) -> Path:
        root = self.base / self.poison.path
        if not root.resolve().is_relative_to(self.base.resolve()):
            todo = "use a folder inside the folder of the pipeline file, without links that lead outside"
            raise ConfigError("read options.poison.path", f"{self.poison.path} is outside {self.base}", todo)
        return root


def in_text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
