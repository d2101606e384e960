"""What staging one part did."""

from __future__ import annotations

from attrs import frozen


@frozen
class Staged:
    """What staging one part did: ``rows`` and ``bytes`` (Arrow size, or of the native stream) written to staging.

    ``filtered``, ``quarantined`` and ``checks`` are the stream's after its last batch; they are kept with the part's
    mark.
    ``artifact`` and ``checksum`` (SHA-256): those of the file, if the part was staged as a file.
    """

    rows: int
    bytes: int
    filtered: int = 0
    quarantined: int = 0
    checks: str = ""
    artifact: str | None = None
    checksum: str | None = None
