"""The classifier and the shape of messages."""

from __future__ import annotations

import copy
import sqlite3

import pytest

from dpone import errors
from dpone.errors import Category, ErrorClassifier, ErrorCodes


class _ServerError(Exception):
    def __init__(self, text: str = "", sqlstate: str | None = None, number: int | None = None) -> None:
        super().__init__(text)
        self.sqlstate, self.number = sqlstate, number


CODES = ErrorCodes(
    sqlstates={
        "40": Category.TRANSIENT,
        "40P01": Category.TRANSIENT,
        "28": Category.AUTHORIZATION,
        "2800X": Category.UNKNOWN,
    },
    numbers={1205: Category.TRANSIENT, 2627: Category.DATA_QUALITY},
    classes={"sqlite3.IntegrityError": Category.DATA_QUALITY},
)


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (_ServerError("permission denied", sqlstate="40001"), Category.TRANSIENT),
        (_ServerError(sqlstate="28P01"), Category.AUTHORIZATION),
        (_ServerError(sqlstate="2800X"), Category.UNKNOWN),
        (_ServerError(number=1205), Category.TRANSIENT),
        (_ServerError(number=2627), Category.DATA_QUALITY),
        (sqlite3.IntegrityError("database is locked"), Category.DATA_QUALITY),
        (ConnectionRefusedError(111, "Connection refused"), Category.TRANSIENT),
        (PermissionError(13, "nope"), Category.AUTHORIZATION),
        (RuntimeError("connection refused by peer"), Category.TRANSIENT),
        (RuntimeError("could not serialize access due to concurrent update"), Category.TRANSIENT),
        (RuntimeError("HTTP 429 Too Many Requests"), Category.TRANSIENT),
        (RuntimeError("what is this"), Category.UNKNOWN),
        (errors.DataError("a", "permission denied", "c"), Category.DATA_QUALITY),
        (errors.SourceError("read", "row 1,429 timed out", "c"), Category.UNKNOWN),
    ],
)
def test_code_and_class_come_before_text(error: BaseException, category: Category) -> None:
    """An error is sorted by its own word, then code, then class, and by its text only when nothing else told."""
    assert ErrorClassifier(CODES).classify(error).category is category


def test_the_cause_is_asked_when_the_error_itself_is_silent() -> None:
    """A wrapped driver error is classified by the driver's exception inside it."""
    try:
        try:
            raise _ServerError(sqlstate="40P01")
        except _ServerError as cause:
            raise errors.SinkError("commit", "failed", "run again") from cause
    except errors.SinkError as error:
        found = ErrorClassifier(CODES).classify(error)
    assert found.category is Category.TRANSIENT
    assert found.retryable


def test_only_transient_errors_are_retried() -> None:
    """retryable is true for transient and for nothing else."""
    assert {c for c in Category if errors.Classification(c, "").retryable} == {Category.TRANSIENT}


def test_a_message_is_one_line_of_three_parts() -> None:
    """What failed, what was found, what to do: one line, whatever the parts held."""
    error = errors.SinkError("write t", "line one\nline two", "do this")
    assert str(error) == "write t: line one line two; do this"
    assert str(copy.copy(error)) == str(error)


def test_exit_codes_are_those_of_the_documentation() -> None:
    """1 failed, 2 usage or configuration, 3 stopped for a decision, 130 interrupted."""
    codes = {
        cls.__name__: cls.exit_code
        for cls in vars(errors).values()
        if isinstance(cls, type) and hasattr(cls, "exit_code")
    }
    assert {name for name, code in codes.items() if code == 2} == {"ConfigError", "PluginError"}
    stopped = {
        "Stopped",
        "Conflict",
        "Gap",
        "IdentityChanged",
        "ManifestChanged",
        "Paused",
        "PipelineMismatch",
        "SetBack",
        "ContentChanged",
        "SchemaBreak",
        "StateAhead",
        "StateMissing",
        "DeletesRefused",
        "UndoRefused",
    }
    assert {name for name, code in codes.items() if code == 3} == stopped
    assert codes["Interrupted"] == 130
    assert codes["DataError"] == codes["SourceError"] == codes["Busy"] == 1
