"""The page of ``dpone ops`` does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.docs.generate import DOCS
from tests.docs.transcript import _commands, steps, typed

from dpone.cli.ops import ops as group
from dpone.config import odcs

PAGE = DOCS / "guide" / "ops.md"


def test_the_page_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files are written, its commands print what stands there and end with 1 where a rule is violated, and its
    Python holds."""
    monkeypatch.chdir(tmp_path)
    ran = 0
    for name, language, text in steps(PAGE):
        if name:
            Path(name).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(text, {})  # noqa: S102  (our own page)
        for command, expected in _commands(text, language) if language == "console" else ():
            code, output = typed(command, "", capsys)
            assert output == expected
            assert code == (1 if "FAIL" in expected else 0)
            ran += 1
    assert ran == 3


def test_the_json_of_the_page_has_the_documented_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is valid, and what the command prints for the files of the page, but for the other rules."""
    monkeypatch.chdir(tmp_path)
    files = {name: text for name, _, text in steps(PAGE) if name}
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    [shown] = [json.loads(text) for _, language, text in steps(PAGE) if language == "json"]
    schema = json.loads((DOCS / "reference" / "contract-check.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(shown)
    command = "dpone ops contract-check --rows orders.csv --contract contract.yaml --format json"
    printed = json.loads(typed(command, "", capsys)[1])
    printed["rules"] = [rule for rule in printed["rules"] if rule["rule"] == "not_null.customer"]
    assert printed == shown


def test_every_command_is_on_the_page_and_every_option_of_the_check() -> None:
    """No command of the group, and no option of contract-check, is left for the reader to guess."""
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in group.commands if f"`ops {name}`" not in text] == []
    options = [one.opts[0] for one in group.commands["contract-check"].params]
    assert [option for option in options if not re.search(rf"{option}\b", text)] == []


def test_every_word_of_the_standard_that_is_mapped_is_on_the_page() -> None:
    """What a document may say, and what is not supported, is not left for the reader to guess."""
    text = PAGE.read_text(encoding="utf-8")
    words = {*odcs._METRICS, *odcs._FORMATS, *odcs._BOUNDS, "minLength", "maxLength", "multipleOf", "mustBeBetween"}
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", text)] == []
