"""Cases: test methods that each belong to one capability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dpone.capability import CAPABILITIES

_MARK = "__dpone_capability__"
_F = TypeVar("_F", bound=Callable[..., Any])


def case(capability: str) -> Callable[[_F], _F]:
    """Mark a test method as a case of a capability of its contract's role. One that is not marked is a plain test: it
    must pass, and is no evidence."""

    def mark(function: _F) -> _F:
        setattr(function, _MARK, capability)
        return function

    return mark


def capability_of(function: Any) -> str | None:
    found: str | None = getattr(function, _MARK, None)
    return found


class Contract:
    """What the contracts share. ``role`` is that of ``dpone.capability``; ``route`` for whole runs."""

    role = ""

    @classmethod
    def cases(cls) -> Mapping[str, tuple[str, ...]]:
        """The cases of each capability, by name, in the order of ``CAPABILITIES``."""
        named = {name: capability_of(getattr(cls, name)) for name in dir(cls) if name.startswith("test_")}
        wanted = CAPABILITIES["sink"] if cls.role == "route" else CAPABILITIES[cls.role]  # type: ignore[index]
        cases = {capability: tuple(n for n, of in named.items() if of == capability) for capability in wanted}
        return {capability: names for capability, names in cases.items() if names}
