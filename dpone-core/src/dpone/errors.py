"""What can go wrong, and what the caller should do about it.

DponeError                     anything dpone raises on purpose; exit code 1
├── ConfigError                the pipeline file or the command line is wrong; exit 2
├── PluginError                a connector is missing, broken or breaks the contract; exit 2
├── SourceError  SinkError     a system answered in a way we cannot use
├── StateError                 the state backend failed
│   └── Busy                   another runner holds the lock; transient
├── DataError                  the rows break a rule of the pipeline
└── Stopped                    a person must decide; nothing was changed; exit 3
    ├── Conflict               another runner moved the journal or the state
    ├── Gap                    the source no longer has what follows our position
    ├── IdentityChanged        the source is not the one the position came from
    ├── SetBack                the source ends before our position: new rows there would never be read
    ├── ContentChanged         a batch that was loaded now holds other rows
    ├── SchemaBreak            a schema change that the policy does not allow
    ├── StateAhead             the state claims more than the sink's journal holds
    ├── StateMissing           rows in the target, but neither journal nor state
    ├── DeletesRefused         a load would delete more than the pipeline allows
    ├── UndoRefused            a load cannot be taken back
    ├── Paused                 a person paused the stream
    ├── ManifestChanged        a load is half staged, and the pipeline or the schema has changed since
    └── PipelineMismatch       the pipeline file names something that the system does not have
Interrupted                    SIGINT or SIGTERM; exit 130

Every message has three parts in one line: what failed, what was found, what to do.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from attrs import field, frozen


class Category(enum.StrEnum):
    """How alerts and retries are routed; the taxonomy of the production readiness page."""

    TRANSIENT = "transient"
    AUTHORIZATION = "authorization"
    DATA_QUALITY = "data_quality"
    UNKNOWN = "unknown"


class DponeError(Exception):
    """An expected failure: ``failed`` (the step), ``found`` (the fact), ``todo`` (the next step)."""

    exit_code = 1
    category: Category | None = None

    def __init__(self, failed: str, found: str, todo: str) -> None:
        self.failed, self.found, self.todo = failed, found, todo
        super().__init__(" ".join(f"{failed}: {found}; {todo}".split()))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.failed, self.found, self.todo)


class ConfigError(DponeError):
    exit_code = 2


class PluginError(DponeError):
    exit_code = 2


class SourceError(DponeError):
    pass


class SinkError(DponeError):
    pass


class StateError(DponeError):
    pass


class Busy(StateError):
    category = Category.TRANSIENT


class DataError(DponeError):
    category = Category.DATA_QUALITY


class Stopped(DponeError):
    exit_code = 3


class Conflict(Stopped):
    pass


class Gap(Stopped):
    pass


class IdentityChanged(Stopped):
    pass


class SetBack(Stopped):
    pass


class ContentChanged(Stopped):
    pass


class SchemaBreak(Stopped):
    pass


class StateAhead(Stopped):
    pass


class StateMissing(Stopped):
    pass


class DeletesRefused(Stopped):
    pass


class UndoRefused(Stopped):
    pass


class Paused(Stopped):
    pass


class ManifestChanged(Stopped):
    pass


class PipelineMismatch(Stopped):
    pass


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun, as messages write it: ``1 key``, ``2 keys``, ``1,234 rows``, ``2 entries``. ``many`` is
    the plural if it is not ``one`` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@contextmanager
def connected() -> Iterator[None]:
    """Turns a ConfigError raised inside the block into a PipelineMismatch. Exit code 2 is for errors that the pipeline
    file and the command line show by themselves; what is raised in the block was found by asking a system."""
    try:
        yield
    except ConfigError as error:
        raise PipelineMismatch(error.failed, error.found, error.todo) from error


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. A BaseException, so that no ``except Exception`` swallows it."""

    exit_code = 130


@frozen
class ErrorCodes:
    """How a connector classifies the errors of its driver.

    ``sqlstates`` maps a SQLSTATE or its two-character class to a category, ``numbers`` a server's error number,
    ``classes`` a dotted exception class (``sqlite3.IntegrityError``). The longest SQLSTATE match wins.
    """

    sqlstates: Mapping[str, Category] = field(factory=dict)
    numbers: Mapping[int, Category] = field(factory=dict)
    classes: Mapping[str, Category] = field(factory=dict)


@frozen
class Classification:
    category: Category
    reason: str

    @property
    def retryable(self) -> bool:
        return self.category is Category.TRANSIENT


# Last resort, only if neither class nor code decided. Each phrase is the text of a common server or of errno.
_TEXT: tuple[tuple[Category, tuple[str, ...]], ...] = (
    (
        Category.AUTHORIZATION,
        ("permission denied", "access denied", "authentication failed", "login failed", "unauthorized", "forbidden"),
    ),
    (
        Category.TRANSIENT,
        (
            "connection refused", "connection reset", "broken pipe", "timed out", "timeout", "deadlock",
            "could not serialize access", "server closed the connection", "too many requests", "429", "503",
            "temporarily unavailable", "database is locked",
        ),
    ),
    (
        Category.DATA_QUALITY,
        ("duplicate key", "violates", "constraint failed", "out of range", "invalid input syntax", "conversion error"),
    ),
)  # fmt: skip

_CLASSES: Mapping[str, Category] = {
    "builtins.ConnectionError": Category.TRANSIENT,
    "builtins.TimeoutError": Category.TRANSIENT,
    "builtins.PermissionError": Category.AUTHORIZATION,
    "builtins.UnicodeError": Category.DATA_QUALITY,
    "pyarrow.lib.ArrowInvalid": Category.DATA_QUALITY,
}


class ErrorClassifier:
    """Sorts an exception into a Category: by its own ``category``, by code, by class, by text, in this order.

    ``transient``      the same work may succeed later without a change: a lost connection, a deadlock, a lock timeout
    ``authorization``  the system refused the user: a wrong password, a missing grant
    ``data_quality``   the rows are at fault: a violated constraint, a row contract, a value out of range
    ``unknown``        nothing known fits; not retried

    ``classify`` answers a Classification: its ``category``, its ``reason`` (a class, a code or a phrase; never a value
    of a row), and ``retryable``, true if transient. It never raises. Each step looks at the whole chain of causes,
    outermost first; the first match decides. ``codes``: tables of drivers' codes; a run uses those of every
    installed connector, ``dpone.plugins.discover().classifier()``.
    """

    def __init__(self, *codes: ErrorCodes) -> None:
        self._codes = (*codes, ErrorCodes(classes=_CLASSES))

    def classify(self, error: BaseException) -> Classification:
        chain = list(_chain(error))
        for ask in (self._by_word, self._by_code, self._by_class, self._by_text):
            for link in chain:
                if found := ask(link):
                    return found
        return Classification(Category.UNKNOWN, "unknown error")

    def _by_word(self, error: BaseException) -> Classification | None:
        category = getattr(error, "category", None)
        if isinstance(category, Category):
            return Classification(category, type(error).__name__)
        return None

    def _by_code(self, error: BaseException) -> Classification | None:
        state, number = getattr(error, "sqlstate", None), getattr(error, "number", None)
        for codes in self._codes:
            for code in (state, state[:2]) if isinstance(state, str) else ():
                if code in codes.sqlstates:
                    return Classification(codes.sqlstates[code], f"sqlstate {state}")
            if isinstance(number, int) and number in codes.numbers:
                return Classification(codes.numbers[number], f"error number {number}")
        return None

    def _by_class(self, error: BaseException) -> Classification | None:
        for cls in type(error).__mro__:
            name = f"{cls.__module__}.{cls.__qualname__}"
            for codes in self._codes:
                if name in codes.classes:
                    return Classification(codes.classes[name], name)
        return None

    def _by_text(self, error: BaseException) -> Classification | None:
        if isinstance(error, DponeError):
            return (
                None  # our own message: "row 1,429" is not a status code; the cause is in the chain and is checked too
            )
        text = str(error).lower()
        for category, phrases in _TEXT:
            for phrase in phrases:
                if phrase in text:
                    return Classification(category, f"text {phrase!r}")
        return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first; a cycle ends the walk."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
