"""Position: where a stream resumes. JSON all the way, so that any state backend and any journal can hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen

from dpone.errors import StateError

FORMAT = 1


def _frozen_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A private copy that holds JSON and nothing else; raises TypeError or ValueError otherwise."""
    # JSON has no NaN and no infinity (RFC 8259, section 6); Python would write them all the same.
    copy: Mapping[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    return copy


@frozen
class Position:
    """ "Resume strictly after this."

    kind      what the value means: ``files``, ``cursor``, ``snapshot``, ``postgres_logical``...
    identity  the physical source it was read from (path, system identifier, database GUID). A reader that finds
              another identity raises IdentityChanged; it never resumes.
    value     reader-specific JSON, stored verbatim, never interpreted by the core.
    epoch     generation of the stream. A deliberate rewind starts a new one; older epochs are never adopted.
    """

    kind: str
    identity: Mapping[str, Any] = field(converter=_frozen_json)
    value: Mapping[str, Any] = field(converter=_frozen_json)
    epoch: int = 0

    def at_epoch(self, epoch: int) -> Position:
        return evolve(self, epoch=epoch)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": self.kind,
            "epoch": self.epoch,
            "identity": dict(self.identity),
            "value": dict(self.value),
        }

    def dumps(self) -> str:
        """Canonical text: equal positions give equal text."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, data: Any) -> Position:
        try:
            if data["format"] != FORMAT:
                found = f"format {data['format']!r}, this dpone reads {FORMAT}"
                raise StateError("read a position", found, "use the dpone version that wrote it, or migrate the state")
            kind, epoch = data["kind"], data["epoch"]
            if not isinstance(kind, str) or not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
                raise TypeError("kind must be a string and epoch an integer from 0")
            return cls(kind, dict(data["identity"]), dict(data["value"]), epoch)
        except (KeyError, TypeError, ValueError) as error:
            found = (
                f"key {error.args[0]} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            )
            todo = "use a JSON object with format, kind, epoch, identity and value"
            raise StateError("read a position", found, todo) from error

    @classmethod
    def loads(cls, text: str) -> Position:
        try:
            data = json.loads(text)
        except ValueError as error:
            todo = "restore the position that 'dpone state history --format json' shows for its load"
            raise StateError("read a position", f"not JSON ({error})", todo) from error
        return cls.from_json(data)
