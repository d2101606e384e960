"""What the pipeline file gets wrong by itself: the message says how to write it, and written so it is accepted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.advice.follow import pipeline, table

from dpone.config.reader import load_pipeline
from dpone.errors import ConfigError

Data = dict[str, Any]
Edit = Callable[[Data], object]
ROWS = pipeline(table())


def cdc(sink: Data, **source: Any) -> Data:
    log = {"type": "file", "path": "log.jsonl", "options": {"incremental": {"by": "cdc"}}, **source}
    return pipeline(log, "append" if sink["type"] == "file" else "cdc_apply", sink)


def without(*where: str) -> Data:
    data = place = copy.deepcopy(ROWS)
    for name in where[:-1]:
        place = place[name]
    del place[where[-1]]
    return data


@pytest.mark.parametrize(
    ("data", "advice", "edit"),
    [
        (
            without("sink", "strategy"), "write strategy: {mode: ...} with one of full_refresh, append, merge",
            lambda data: data["sink"].update(strategy={"mode": "append"}),
        ),
        (
            pipeline({**table(), "exclude": ["x"]}), "write a glob in source.table, as in 'sales.*', or remove exclude",
            lambda data: data["source"].pop("exclude"),
        ),
        (
            pipeline(table(), "cdc_apply", key=["id"]), "add source.options.incremental: {by: cdc}, or use merge",
            lambda data: data["sink"]["strategy"].update(mode="merge"),
        ),
        (
            pipeline(table(), "replace"), "where: {column: value} or where: {column: {from: a, to: b}}",
            lambda data: data["sink"]["strategy"].update(where={"n": {"from": 1, "to": 2}}),
        ),
        (
            pipeline(table(), "partition_replace", partition="n", where={"id": 1}),
            "write where: {n: {from: a, to: b}}, or remove where",
            lambda data: data["sink"]["strategy"].pop("where"),
        ),
        (
            pipeline(table(), "scd2", key=["id", "n"], effective_from="n"), "remove it from key",
            lambda data: data["sink"]["strategy"].update(key=["id"]),
        ),
        (
            pipeline(
                table(), sink={"type": "sqlite", "connection": "sqlite:///t.db", "table": "t", "options": {"undo": {}}}
            ),
            "undo: {loads: 3} or undo: {days: 7}", lambda data: data["sink"]["options"].update(undo={"loads": 3}),
        ),
        (
            cdc(table="*", sink={"type": "file", "path": "out"}),
            "use one stream per table, with its name in source.table",
            lambda data: data["source"].update(table="a"),
        ),
        *(
            (
                cdc(table="*", sink={"type": "sqlite", "connection": "sqlite:///t.db", "table": "l_{table}",
                                     "options": {"undo": {"loads": 1}}}),
                "remove undo, or use one stream per table, with its name in source.table", edit,
            )
            for edit in (
                lambda data: data["sink"]["options"].pop("undo"),
                lambda data: (data["source"].update(table="a"), data["sink"].update(table="l_a")),
            )
        ),
        (
            pipeline({**table(), "table": 'a"b.c'}), 'quoting a whole part that has a dot or a quote in it: "a.b".c',
            lambda data: data["source"].update(table='"a""b".c'),
        ),
        (
            pipeline({**table(), "table": "main..t"}), 'quoting a part with a dot in it: "a.b".c',
            lambda data: data["source"].update(table='main.".t"'),
        ),
    ],
)  # fmt: skip
def test_OUT_16_advice_about_the_file_is_accepted(tmp_path: Path, data: Data, advice: str, edit: Edit) -> None:
    """Exit code 2 with the words, and none once they are followed."""
    path, data = tmp_path / "pipeline.yaml", copy.deepcopy(data)
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as refused:
        load_pipeline(path)
    assert refused.value.exit_code == 2
    assert advice in str(refused.value)
    edit(data)
    path.write_text(yaml.safe_dump(data))
    load_pipeline(path)
