"""Reading pipeline files: what is accepted becomes the model, what is not becomes one line per problem."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpone.capability import declare
from dpone.config.document import PipelineErrors, strict_json
from dpone.config.reader import expand, load_pipeline
from dpone.errors import ConfigError
from dpone.model.pipeline import (
    Incremental,
    Lineage,
    Pipeline,
    Runtime,
    SchemaEvolution,
)
from dpone.model.schema import Name
from dpone.model.secret import Secret
from dpone.plugins import Plugins

Load = Callable[..., Pipeline]
Problems = Callable[..., list[str]]
Text = Callable[..., str]

SAMPLE = """\
pipeline: orders
labels: {env: dev}
source: {type: file, path: data/orders-*.csv}
sink:
  type: lite
  connection: sqlite:///warehouse.db
  table: orders
  strategy: {mode: merge, key: [id]}
  options:
    schema_evolution: {mode: widening, on_type_change: new_column}
    lineage: {enabled: true}
state: {type: sqlite, connection: sqlite:///.dpone/state.db}
"""

MANY = """\
pipeline: shop
connections: {shop: "shop://u:${PW}@db.example/shop"}
defaults:
  source: {type: shop, connection: shop, options: {fetch: 10, tls: {mode: verify, ca: a.pem}}}
  sink: {type: lite, connection: "sqlite:///copy.db", strategy: {mode: append}}
"""


# --- what is accepted -----------------------------------------------------------------------------------------------


def test_the_sample_becomes_one_stream(load: Load, tmp_path: Path) -> None:
    """A source and a sink at the top are one stream, named by the sink's table; base is the folder of the file."""
    pipeline = load(SAMPLE)
    (stream,) = pipeline.streams
    assert (pipeline.name, pipeline.labels, stream.name) == ("orders", {"env": "dev"}, "orders")
    assert (stream.source.path, stream.source.base, stream.sink.base) == ("data/orders-*.csv", tmp_path, tmp_path)
    assert stream.sink.table == Name(("orders",))
    assert (stream.sink.strategy.mode, stream.sink.strategy.key) == ("merge", ("id",))
    assert stream.sink.options.schema_evolution == SchemaEvolution("widening", "new_column")
    assert stream.sink.options.lineage == Lineage(True)
    assert pipeline.path == tmp_path / "p.yaml"


def test_a_server_source_as_in_the_readme(load: Load, text: Text) -> None:
    """A reference stands unquoted in a flow mapping, and incremental reading is structured."""
    options = "options: {incremental: {by: cursor, column: updated_at, key: id}}"
    source = f"{{type: shop, connection: ${{ORDERS_DB}}, table: public.orders, {options}}}"
    (stream,) = load(text(source=source), {"ORDERS_DB": "shop://u:p4ss@h/db"}).streams
    assert stream.source.connection == Secret("shop://u:p4ss@h/db")
    assert stream.source.table == Name(("public", "orders"))
    assert stream.source.options.incremental == Incremental("cursor", "updated_at", ("id",))


def test_state_defaults_to_sqlite_beside_the_pipeline(load: Load, text: Text, tmp_path: Path) -> None:
    """Without state, .dpone/state.db beside the pipeline file keeps it."""
    state = load(text()).state
    assert (state.type, state.connection, state.base) == ("sqlite", Secret("sqlite:///.dpone/state.db"), tmp_path)


def test_runtime_has_defaults_and_is_read(load: Load, text: Text) -> None:
    """What runtime leaves out keeps its default."""
    assert load(text()).runtime == Runtime(1, 1, None, 3)
    assert load(text(runtime="{workers: 2, batch_rows: 500}")).runtime == Runtime(1, 2, 500, 3)


def test_a_relative_pipeline_path_gives_an_absolute_base(
    load: Load, text: Text, tmp_path: Path, plugins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """base does not depend on where the process goes later."""
    load(text())
    monkeypatch.chdir(tmp_path)
    assert load_pipeline(Path("p.yaml"), env={}, plugins=plugins).streams[0].source.base == tmp_path


@pytest.mark.parametrize(("alias", "mode"), [("incremental_append", "append"), ("incremental_merge", "merge")])
def test_aliases_of_strategies(load: Load, text: Text, alias: str, mode: str) -> None:
    """incremental_append and incremental_merge are other words for append and merge."""
    sink = f"{{type: lite, connection: 'sqlite:///w.db', table: t, strategy: {{mode: {alias}, key: [id]}}}}"
    assert load(text(sink=sink)).streams[0].sink.strategy.mode == mode


def test_json_is_accepted(load: Load) -> None:
    """A pipeline may be written in JSON, tabs and all."""
    sink = {"type": "lite", "connection": "sqlite:///w.db", "table": "t", "strategy": {"mode": "append"}}
    data = {"pipeline": "o", "source": {"type": "file", "path": "a.csv"}, "sink": sink}
    assert load(json.dumps(data, indent="\t")) == load(json.dumps(data))


def test_one_value_may_stand_for_a_list(load: Load, text: Text) -> None:
    """key: id is key: [id]."""
    sink = "{type: lite, connection: 'sqlite:///w.db', table: t, strategy: {mode: merge, key: id}}"
    assert load(text(sink=sink)).streams[0].sink.strategy.key == ("id",)


def test_yaml_1_1_traps_are_text(load: Load, text: Text) -> None:
    """no, 12:30, 2026-11-23 and 1_000 are what they look like: text."""
    strategy = "strategy: {mode: replace, where: {country: no, at: 12:30, day: 2026-11-23, code: 1_000, n: 3, on: yes}}"
    sink = f"{{type: lite, connection: 'sqlite:///w.db', table: t, {strategy}}}"
    where = load(text(sink=sink)).streams[0].sink.strategy.where
    assert where == {"country": "no", "at": "12:30", "day": "2026-11-23", "code": "1_000", "n": 3, "on": "yes"}


def test_options_of_a_connector_are_structured(load: Load, text: Text) -> None:
    """Nested classes, lists, unions, numbers and secrets of an options class come out as annotated."""
    options = "{fetch: 5, ratio: 1, flags: [a, b], tls: {mode: 'off'}, password: hunter22, size: auto}"
    source = f"{{type: shop, connection: 'shop://h/d', table: t, options: {options}}}"
    made = load(text(source=source)).streams[0].source.options
    assert (made.fetch, made.ratio, made.flags, made.tls.mode, made.size) == (5, 1.0, ("a", "b"), "off", "auto")
    assert isinstance(made.ratio, float)
    assert made.password == Secret("hunter22")


def test_undo_needs_a_sink_that_can(problems: Problems, text: Text, plugins: Plugins) -> None:
    """A sink that keeps nothing refuses the option at its line; one that does wants a retention, and lineage."""
    sink = "{{type: lite, connection: 'sqlite:///w.db', table: t, strategy: {{mode: append}}, options: {{{}}}}}"
    (line,) = problems(text(sink=sink.format("undo: {loads: 3}")))
    assert "sink.options.undo: lite cannot take back a load (not implemented); remove undo" in line
    record = plugins.connectors["sink", "lite"]
    able = attrs.evolve(record, capabilities=declare("sink", ["append", "undo"]))
    plugins.connectors["sink", "lite"] = able  # type: ignore[index]
    (line,) = problems(text(sink=sink.format("undo: {}")))
    assert "undo: neither loads nor days is set; set a retention" in line
    (line,) = problems(text(sink=sink.format("undo: {loads: 0}")))
    assert "undo.loads" in line
    (line,) = problems(text(sink=sink.format("undo: {days: 1}, lineage: {enabled: false}")))
    assert "options.undo: lineage is off; turn lineage on" in line


# --- ${NAME} --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "env", "read"),
    [
        ("${X}", {"X": "v"}, "v"),
        ("a-${X}-${Y}", {"X": "1", "Y": "2"}, "a-1-2"),
        ("${X:-d}", {}, "d"),
        ("${X:-d}", {"X": ""}, "d"),
        ("${X:-d}", {"X": "v"}, "v"),
        ("${X:-}x", {}, "x"),
        ("$${X}", {"X": "v"}, "${X}"),
        ("$X and $", {"X": "v"}, "$X and $"),
        ('"${X}"', {"X": "v"}, "v"),
        ("'${X:-it is}'", {}, "it is"),
        ("${X:-a, b: c # d}", {}, "a, b: c # d"),
        ('"${X:-say \\"hi\\"}"', {}, 'say "hi"'),
        ("${X}", {"X": "4"}, "4"),
        ("${X}", {"X": "true"}, "true"),
        ("${X}", {"X": "null"}, "null"),
    ],
)
def test_references_are_filled_in(load: Load, text: Text, written: str, env: dict[str, str], read: str) -> None:
    """References work in every quoting; where text is wanted the variable's text is taken as it is."""
    assert load(text(labels=f"{{a: {written}}}"), env).labels == {"a": read}


def test_a_plain_reference_gets_its_yaml_type(load: Load, text: Text) -> None:
    """An unquoted reference to 4 is the integer 4, as if 4 stood there."""
    assert load(text(runtime="{workers: ${N}}"), {"N": "4"}).runtime.workers == 4


def test_a_quoted_reference_stays_text(problems: Problems, text: Text) -> None:
    """Quotes make text of it, as everywhere; the message shows the reference, not the value."""
    (line,) = problems(text(runtime='{workers: "${N}"}'), {"N": "4"})
    assert line == "p.yaml:4: runtime.workers: found a text from ${N}; write an integer"


@pytest.mark.parametrize(
    "value", ["{a: b}", "a: b\nc: d", "[1, 2]", "# no comment", "&a *a", "!!python/object:os.system"]
)
def test_a_value_never_changes_the_structure(load: Load, text: Text, value: str) -> None:
    """Whatever a variable holds, it is one scalar."""
    assert load(text(labels="{a: ${X}, b: c}"), {"X": value}).labels == {"a": value, "b": "c"}


def test_unset_variables_are_named_with_their_lines(problems: Problems, text: Text) -> None:
    """Every unset variable without a default is a problem of its own line."""
    sink = "{type: lite, connection: 'sqlite:///w.db', table: t, strategy: {mode: merge, key: ['${TWO}']}}"
    lines = problems(text(sink=sink, labels="{a: ${ONE}, b: ${ONE}${TWO}}"))
    assert [line.split(";")[0] for line in lines] == [
        "p.yaml:3: sink.strategy.key[0]: the environment variable TWO is not set",
        "p.yaml:4: labels.a: the environment variable ONE is not set",
        "p.yaml:4: labels.b: the environment variable ONE is not set",
        "p.yaml:4: labels.b: the environment variable TWO is not set",
    ]


@pytest.mark.parametrize("written", ["'${X'", "'${1}'", "'${}'", "'${X:?no}'", "'${X-d}'"])
def test_a_malformed_reference_is_a_problem(problems: Problems, text: Text, written: str) -> None:
    """What begins like a reference and is none is not passed on as text."""
    (line,) = problems(text(labels=f"{{a: {written}}}"), {"X": "v"})
    assert line.startswith("p.yaml:4: labels.a: ${ does not begin a valid reference; write ${NAME}")


def test_the_environment_of_the_process_is_the_default(
    load: Load, text: Text, tmp_path: Path, plugins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without env, os.environ is asked."""
    load(text(labels="{a: ${DPONE_TEST_LABEL:-x}}"))
    monkeypatch.setenv("DPONE_TEST_LABEL", "from outside")
    assert load_pipeline(tmp_path / "p.yaml", plugins=plugins).labels == {"a": "from outside"}


# --- connections ----------------------------------------------------------------------------------------------------


def test_a_connection_by_name(load: Load, text: Text) -> None:
    """A bare word is looked up in connections; unused connections may refer to unset variables."""
    source = "{type: shop, connection: main, table: t}"
    connections = "{main: 'shop://u:${PW}@h/d', other: '${UNSET}'}"
    pipeline = load(text(source=source, connections=connections), {"PW": "pass-word"})
    assert pipeline.streams[0].source.connection == Secret("shop://u:pass-word@h/d")


def test_the_key_has_the_name_of_a_connection(load: Load, text: Text) -> None:
    """A name under connections: is the place of source and target; without one it is where the text points. What a
    version without names had is the former key."""
    source = "{type: shop, connection: %s, table: t}"
    for written, place in (
        ("main", "main"),
        ("'shop://u:pass-word@h,i/d'", "shop://*/d"),
        ("'shop://h/d'", "shop://h/d"),
    ):
        stream = load(text(source=source % written, connections="{main: 'shop://h/d'}")).streams[0]
        where = "shop://h,i/d" if place == "shop://*/d" else "shop://h/d"
        assert stream.source.location == f"shop:{where}:t"
        assert stream.key("p").split("|")[2] == f"shop:{place}:t"
        assert stream.former_key("p").split("|")[2] == f"shop:{where}:t"


def test_connections_from_a_file(load: Load, text: Text, tmp_path: Path) -> None:
    """connections: NAME reads the same mapping from a file relative to the pipeline's."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/c.yaml").write_text("main: shop://u:${PW}@h/d\n")
    source = "{type: shop, connection: main, table: t}"
    pipeline = load(text(source=source, connections="secrets/${DIR:-c}.yaml"), {"PW": "pass-word"})
    assert pipeline.streams[0].source.connection == Secret("shop://u:pass-word@h/d")


def test_a_connection_as_a_mapping_is_json(load: Load, text: Text) -> None:
    """The connector gets JSON text, numbers kept; the location shows the place and no credential."""
    source = "{type: shop, connection: {host: h, port: 5432, user: u, password: '${PW}'}, table: t}"
    connection = load(text(source=source), {"PW": 'a"b\\c'}).streams[0].source.connection
    assert connection is not None
    assert json.loads(connection.reveal()) == {"host": "h", "port": 5432, "user": "u", "password": 'a"b\\c'}
    assert connection.location() == "host=h,port=5432"


def test_an_unknown_connection_name(problems: Problems, text: Text) -> None:
    """A bare word that names no connection is a problem that lists them; the word is not shown."""
    source = "{type: shop, connection: mian, table: t}"
    (line,) = problems(text(source=source, connections="{main: 'shop://h/d'}"))
    assert line.startswith("p.yaml:2: source.connection: neither a URL nor the name of a connection; did you mean main")
    assert "mian" not in line


def test_problems_of_a_connections_file_name_that_file(problems: Problems, text: Text, tmp_path: Path) -> None:
    """Problems of both files are told at once, those of the pipeline first."""
    (tmp_path / "c.yaml").write_text("a: x://h\na: y://h\nmain: '${NOPE}'\n")
    source = "{type: shop, connection: main, table: t, opptions: {}}"
    lines = problems(text(source=source, connections="c.yaml"))
    assert lines == [
        "p.yaml:2: source: unknown key 'opptions'; did you mean options?",
        "c.yaml:2: the key 'a' appears twice, first in line 1; remove one of them",
        "c.yaml:3: main: the environment variable NOPE is not set; set it, or write ${NOPE:-default}",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "c.yaml: no such file; give the path of an existing file"),
        ("- a\n", "c.yaml:1: found a list; write name: URL for each connection, or the name of a file with them"),
        ("", "c.yaml:1: the file is empty; write at least one key and its value"),
        ("main: [a]\n", "c.yaml:1: main: found a list; write a URL, as in ${NAME}, or a name from connections:"),
    ],
)
def test_bad_connections_files(
    problems: Problems, text: Text, tmp_path: Path, content: str | None, expected: str
) -> None:
    """A file of connections is read as strictly as the pipeline."""
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
    source = "{type: shop, connection: main, table: t}"
    assert expected in [line.split("/")[-1] for line in problems(text(source=source, connections="c.yaml"))]


@pytest.mark.parametrize("password", ["a/b", "a@b", "a?b", "a#b", "a;b"])
def test_a_password_that_would_end_the_url_early(problems: Problems, text: Text, password: str) -> None:
    """A variable inside a URL's credentials must be percent-encoded; its value is not shown."""
    source = "{type: shop, connection: 'shop://u:${PW}@h/d', table: t}"
    (line,) = problems(text(source=source), {"PW": password})
    assert line.startswith(
        "p.yaml:2: source.connection: the value of PW, used in the user or password of a URL, contains / ? # ; or @"
    )
    assert password not in line.replace("/ ? # ; @", "")


# --- streams --------------------------------------------------------------------------------------------------------


def test_streams_are_merged_over_the_defaults(load: Load) -> None:
    """Mappings are merged key by key; what a stream says wins; lists are not joined."""
    streams = """\
streams:
  - public.customers
  - name: orders
    source: {table: public.orders, options: {tls: {ca: b.pem}, flags: [x]}}
    sink: {table: landing.orders, strategy: {mode: merge, key: [id]}}
"""
    customers, orders = load(MANY + streams, {"PW": "pass-word"}).streams
    assert (customers.name, str(customers.source.table), str(customers.sink.table)) == (
        "public.customers", "public.customers", "customers",
    )  # fmt: skip
    assert customers.sink.strategy.mode == "append"
    assert (orders.name, str(orders.source.table), str(orders.sink.table)) == (
        "orders",
        "public.orders",
        "landing.orders",
    )
    assert (orders.sink.strategy.mode, orders.sink.strategy.key) == ("merge", ("id",))
    assert (orders.source.options.fetch, orders.source.options.tls.mode, orders.source.options.tls.ca) == (
        10,
        "verify",
        "b.pem",
    )


def test_streams_as_a_mapping_are_named_by_their_keys(load: Load) -> None:
    """Each key names a stream; its value is an entry, or the name of its source table."""
    streams = "streams:\n  a: {source: {table: x}}\n  b: y\n"
    assert [(s.name, str(s.source.table)) for s in load(MANY + streams, {"PW": "pass-word"}).streams] == [
        ("a", "x"), ("b", "y"),
    ]  # fmt: skip


def test_a_stream_that_names_a_query_drops_the_defaults_table(load: Load) -> None:
    """table, query, path and topic exclude each other, so the stream's choice replaces that of the defaults."""
    text = MANY.replace("connection: shop,", "connection: shop, table: t,", 1)
    (stream,) = load(text + "streams: {q: {source: {query: s}, sink: {table: q}}}\n", {"PW": "pass-word"}).streams
    assert (stream.source.query, stream.source.table) == ("s", None)


def test_placeholders_name_the_target(load: Load) -> None:
    """{schema} and {table} in the sink's table are the parts of the source's; a dot in a part stays there."""
    text = MANY.replace('"sqlite:///copy.db",', '"sqlite:///copy.db", table: "raw.{schema}_{table}",')
    streams = "streams:\n  - public.orders\n  - 'sales.\"a.b\"'\n"
    first, second = load(text + streams, {"PW": "pass-word"}).streams
    assert first.sink.table == Name(("raw", "public_orders"))
    assert second.sink.table == Name(("raw", "sales_a.b"))


def test_placeholders_in_a_path(load: Load) -> None:
    """A sink of files takes the table into its path."""
    sink = '{type: bucket, path: "out/{table}", options: {format: csv}, strategy: {mode: append}}'
    defaults = f"{{source: {{type: shop, connection: 'shop://h/d'}}, sink: {sink}}}"
    assert load(f"pipeline: p\ndefaults: {defaults}\nstreams: [a.orders]\n").streams[0].sink.path == "out/orders"


def test_a_schema_placeholder_needs_a_schema(problems: Problems) -> None:
    """{schema} of a table without one is a problem of the stream."""
    text = MANY.replace('"sqlite:///copy.db",', '"sqlite:///copy.db", table: "{schema}_{table}",')
    (line,) = problems(text + "streams: [orders]\n", {"PW": "pass-word"})
    assert line.startswith("p.yaml:6: streams[0].sink: {schema} is used, but table orders has no schema")


def test_a_glob_is_kept_until_the_source_is_asked(load: Load) -> None:
    """A table with a wildcard makes one stream with the glob in tables; quotes make it a plain name."""
    glob, plain = load(MANY + "streams: ['public.*', 'public.\"a*\"']\n", {"PW": "pass-word"}).streams
    assert (glob.name, glob.tables) == ("public.*", "public.*")
    assert (plain.tables, plain.source.table) == (None, Name(("public", "a*")))


def test_globs_into_one_template_are_no_clash(load: Load) -> None:
    """Targets of a glob are compared when its tables are known, also where each is replaced."""
    text = MANY.replace("mode: append", "mode: full_refresh").replace("copy.db", 'copy.db", table: "{schema}_{table}')
    pipeline = load(text + "streams: ['a.*', 'b.*']\n", {"PW": "pass-word"})
    streams = expand(pipeline, lambda _, glob: [glob.replace("*", "t")]).streams
    assert [str(stream.sink.table) for stream in streams] == ["a_t", "b_t"]


def test_expand_makes_a_stream_of_each_table(load: Load) -> None:
    """expand asks with the source and the glob, names streams by their tables and keeps everything else."""
    pipeline = load(MANY + "streams:\n  - {source: {table: 'public.*', options: {fetch: 7}}}\n", {"PW": "pass-word"})
    asked = []

    def tables_of(source: Any, glob: str) -> list[str]:
        asked.append((source.type, glob))
        return ["public.a", 'public."b.c"']

    first, second = expand(pipeline, tables_of).streams
    assert asked == [("shop", "public.*")]
    assert (first.name, first.tables, first.source.options.fetch) == ("public.a", None, 7)
    assert (first.source.table, first.sink.table) == (Name(("public", "a")), Name(("a",)))
    assert (second.source.table, second.sink.table) == (Name(("public", "b.c")), Name(("b.c",)))


def test_expand_leaves_a_table_to_its_own_stream(load: Load) -> None:
    """A table that has a stream of its own is not read twice."""
    streams = "streams:\n  - 'public.*'\n  - {name: big, source: {table: public.big}, sink: {table: big}}\n"
    pipeline = expand(load(MANY + streams, {"PW": "pass-word"}), lambda *_: ["public.big", "public.small"])
    assert [stream.name for stream in pipeline.streams] == ["public.small", "big"]


def test_expand_leaves_out_what_is_excluded(load: Load) -> None:
    """By name or by a glob, with or without the schema; a glob of nothing else is refused with the names."""
    given = ["a.log", "a.tmp_1", "a.orders", "b.log"]
    for exclude, left in (("[a.log, 'tmp_*']", ["a.orders", "b.log"]), ("[log, '*.tmp_?']", ["a.orders"])):
        streams = f"streams:\n  - {{source: {{table: '*.*', exclude: {exclude}}}}}\n"
        pipeline = expand(load(MANY + streams, {"PW": "pass-word"}), lambda *_: given)
        assert [stream.name for stream in pipeline.streams] == left
    pipeline = load(MANY + "streams: [{source: {table: '*.*', exclude: ['*']}}]\n", {"PW": "pass-word"})
    with pytest.raises(ConfigError, match=r"except a\.log, .*source\.exclude excludes"):
        expand(pipeline, lambda *_: given)


def test_exclude_without_a_glob_is_refused(problems: Problems) -> None:
    """There is nothing to leave out of one table; a pattern that is no name is named too."""
    lines = problems(MANY + "streams: [{source: {table: a, exclude: ['b\"']}}]\n", {"PW": "pass-word"})
    assert ["exclude applies only to several tables" in lines[0], "unbalanced quotes" in lines[1]] == [True, True]


def test_expand_without_globs_asks_nobody(load: Load, text: Text) -> None:
    """A pipeline without globs comes back equal."""
    pipeline = load(text())
    assert expand(pipeline, lambda *_: pytest.fail("asked")) == pipeline


@pytest.mark.parametrize(
    ("streams", "tables", "found"),
    [
        ("['public.*']", [], "no table matches public.*"),
        ("['public.*', '*.a']", ["public.a"], "two streams are named public.a"),
        (
            "['*.a', {name: x, source: {table: z.z}, sink: {table: a}}]",
            ["public.a"],
            "two source tables have the same target",
        ),
        ("['*.a']", ["public.a", "sales.a"], "two source tables have the same target lite:sqlite:///copy.db:a"),
    ],
)
def test_expand_refuses(load: Load, streams: str, tables: list[str], found: str) -> None:
    """A glob that matches nothing, one table twice, or two tables in one target stop before anything is read."""
    pipeline = load(MANY + f"streams: {streams}\n", {"PW": "pass-word"})
    with pytest.raises(ConfigError, match=re.escape(found)):
        expand(pipeline, lambda *_: tables)


def test_stream_names_are_unique(problems: Problems) -> None:
    """Two streams of one name would share a key of state and journal."""
    lines = problems(MANY + "streams:\n  - a\n  - {name: a, source: {table: b}}\n", {"PW": "pass-word"})
    assert lines == ["p.yaml:8: streams[1]: the stream in line 7 is also named a; rename one of them with name:"]


@pytest.mark.parametrize("name", ["a|b", "' a'", "''", '"a\\nb"', '"a\\u0000"'])
def test_names_are_printable_without_a_bar(problems: Problems, text: Text, name: str) -> None:
    """Names go into keys and messages, so they are one line without the key's separator."""
    (line,) = problems(text(pipeline=name))
    assert line.startswith("p.yaml:1: pipeline: ")


def test_two_streams_into_one_replaced_target(problems: Problems, load: Load) -> None:
    """Two streams may append to one table, but not where one of them replaces it."""
    streams = """\
streams:
  - {name: a, source: {table: a}, sink: {table: t}}
  - {name: b, source: {table: b}, sink: {table: t%s}}
"""
    assert len(load(MANY + streams % "", {"PW": "pass-word"}).streams) == 2
    (line,) = problems(MANY + streams % ", strategy: {mode: full_refresh}", {"PW": "pass-word"})
    assert line.startswith(
        "p.yaml:8: streams[1]: it and the stream in line 7 load t, and one of them replaces all rows"
    )


def test_a_problem_in_the_defaults_is_told_once(problems: Problems) -> None:
    """However many streams inherit it, a problem is one line: that of the defaults."""
    text = MANY.replace("fetch: 10", "fetsch: 10")
    assert problems(text + "streams: [a, b, c]\n", {"PW": "pass-word"}) == [
        "p.yaml:4: defaults.source.options: unknown key 'fetsch'; did you mean fetch?"
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"streams": "[a]"},
            ["2: source: cannot be combined with streams", "3: sink: cannot be combined with streams"],
        ),
        ({"defaults": "{}"}, ["4: defaults: there are no streams to apply it to"]),
        ({"source": None, "sink": None}, ["1: source: missing", "1: sink: missing"]),
        ({"source": None, "sink": None, "streams": "[]"}, ["2: streams: found no stream"]),
        ({"source": None, "sink": None, "streams": ""}, ["2: streams: found no value"]),
        (
            {"source": None, "sink": None, "streams": "[[a]]"},
            ["2: streams[0]: found a list", "2: streams[0].source: missing"],
        ),
        ({"source": None, "sink": None, "streams": "[{nam: a}]"}, ["2: streams[0]: unknown key 'nam'"]),
        (
            {"source": None, "sink": None, "streams": "[a]", "defaults": "{sorce: {}}"},
            ["3: defaults: unknown key 'sorce'"],
        ),
    ],
)
def test_source_and_sink_or_streams(problems: Problems, text: Text, keys: dict[str, Any], expected: list[str]) -> None:
    """Either source and sink, or streams with their defaults; anything between is said."""
    lines = problems(text(**keys))
    for start in expected:
        assert any(line.startswith(f"p.yaml:{start}") for line in lines), lines


# --- problems -------------------------------------------------------------------------------------------------------


def test_an_unknown_section_is_answered_with_those_there_are(problems: Problems, text: Text) -> None:
    """A section that nothing reads is not passed over, and where no known one has a name like it, all are named."""
    known = "pipeline, labels, source, sink, state, runtime, notify, connections, defaults, streams"
    assert problems(text(staging="{url: 's3://b'}")) == [f"p.yaml:4: unknown key 'staging'; use one of {known}"]


def test_all_problems_are_told_at_once_by_line(problems: Problems) -> None:
    """One line each, with file, line and key path, in the order of the file."""
    text = """\
pipelin: orders
labels: {env: 3}
source: {type: shop, connection: "${NOPE}", table: t}
sink:
  type: lite
  connection: sqlite:///w.db
  table: orders
  strategy: {mode: scd2, key: [id]}
  options:
    schema_evolution: {mode: widenning}
    lineage: {enabled: yes}
runtime: {workers: 0, retries: true, batch_rows: "3"}
"""
    assert problems(text) == [
        "p.yaml:1: unknown key 'pipelin'; did you mean pipeline?",
        "p.yaml:1: pipeline: missing; write pipeline: NAME",
        "p.yaml:2: labels.env: found the integer 3; put it in quotes",
        "p.yaml:3: source.connection: the environment variable NOPE is not set; set it, or write ${NOPE:-default}",
        "p.yaml:8: sink.strategy.mode: lite cannot load by scd2 (not implemented); "
        "use one of full_refresh, append, merge, replace",
        "p.yaml:10: sink.options.schema_evolution.mode: found the text 'widenning'; "
        "did you mean widening? write one of strict, additive, widening",
        "p.yaml:11: sink.options.lineage.enabled: found the text 'yes'; write true or false",
        "p.yaml:12: runtime.retries: found true; write an integer",
        "p.yaml:12: runtime.batch_rows: found the text '3'; write an integer, without quotes",
        "p.yaml:12: runtime.workers: 'workers' must be >= 1: 0; fix the value",
    ]


def test_a_number_of_partitions_that_no_load_could_keep_is_refused(problems: Problems, text: Text) -> None:
    """Each partition costs a line of the manifest and a look at the data: some zeros too many must not hang the run."""
    (line,) = problems(text(runtime="{partitions: 10001}"))
    assert line == "p.yaml:4: runtime.partitions: 'partitions' must be <= 10000: 10001; fix the value"


def test_the_error_is_a_config_error_that_lists_problems(load: Load) -> None:
    """str joins the problems by newline, the exit code is 2, and the error survives pickling."""
    with pytest.raises(ConfigError) as caught:
        load("pipeline: a\npipelin: b\n")
    error = caught.value
    assert isinstance(error, PipelineErrors)
    assert error.exit_code == 2
    assert str(error).splitlines() == list(error.problems)
    assert len(error.problems) == 3
    assert pickle.loads(pickle.dumps(error)).problems == error.problems  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{fetch: '3'}", "fetch: found the text '3'; write an integer, without quotes"),
        ("{fetch: 3.0}", "fetch: found the number 3.0; write an integer"),
        ("{fetch: true}", "fetch: found true; write an integer"),
        ("{fetch: }", "fetch: no value; write an integer, or remove the key"),
        ("{fetch: 0}", "fetch: 'fetch' must be >= 1: 0; fix the value"),
        ("{fetch: [1]}", "fetch: found a list; write an integer"),
        ("{ratio: no}", "ratio: found the text 'no'; write a number"),
        ("{ratio: .inf}", "ratio: found the text '.inf'; write a number"),
        ("{ratio: 1e999}", "ratio: found the text '1e999'; write a number"),
        ("{ratio: true}", "ratio: found true; write a number"),
        ("{flags: {a: b}}", "flags: found a mapping; write a list of text"),
        ("{flags: [a, 3]}", "flags[1]: found the integer 3; put it in quotes"),
        ("{tls: verify}", "tls: found the text 'verify'; write a mapping with mode, ca"),
        ("{tls: {mode: maybe}}", "tls.mode: found the text 'maybe'; write one of verify, off"),
        ("{tls: {mode: false}}", "tls.mode: found false; write one of verify, off"),
        ("{tls: {modes: off}}", "tls: unknown key 'modes'; did you mean mode?"),
        ("{ratio: 1, \n    flags: [a, b, c]}", "flags: 3 flags; give at most 2"),
        ("{password: 12345}", "password: found a value that is not text; put it in quotes"),
        ("{password: [hunter22]}", "password: found a value that is not text; write text"),
        ("{size: large}", "size: found the text 'large'; write an integer or one of auto"),
        ("{incremental: {by: cursor}}", "incremental: by: cursor needs a column; set the column that grows"),
        ("{incremental: {column: a}}", "incremental.by: missing; write one of cursor, xmin"),
        (
            "{incremental: {by: xmin, column: a}}",
            "incremental: by: xmin takes neither column nor lookback; remove them",
        ),
        (
            "{incremental: {by: cdc}}",
            "incremental.by: shop cannot read by cdc (not implemented); use one of cursor, xmin",
        ),
        ("{incremental: {by: cursor, column: a, lookback: -1}}", "incremental.lookback: 'lookback' must be >= 0: -1.0"),
        ("3", ": found the integer 3; write a mapping with incremental, fetch"),
        ("", ": no value; write a mapping with"),
    ],
)
def test_options_are_checked_strictly(problems: Problems, text: Text, options: str, expected: str) -> None:
    """Wrong types, unknown keys, missing and forbidden values of options, each with its path and what is right."""
    (line,) = problems(text(source=f"{{type: shop, connection: 'shop://h/d', table: t, options: {options}}}"))
    dot = "" if expected.startswith(":") else "."
    assert line.startswith(f"p.yaml:{2 + options.count(chr(10))}: source.options{dot}{expected}")


def test_a_required_option(problems: Problems, text: Text) -> None:
    """An option without a default is named when options are missing altogether."""
    (line,) = problems(text(sink="{type: bucket, path: out, strategy: {mode: append}}"))
    assert line == "p.yaml:3: sink.options.format: missing; write one of csv, parquet"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{path: a}", "source.type: missing; write one of broken, file, later, shop, stream"),
        (
            "{type: fil, path: a}",
            "source.type: use source fil: the connector is not installed; did you mean file? use one of",
        ),
        ("{type: later, connection: 'x://h', table: t}", "source.type: later is not implemented as a source"),
        ("{type: broken, path: a}", "source.type: import dpone.no_such_module:Options: ModuleNotFoundError"),
        ("{type: file}", "source.path: missing; add path:, which file requires"),
        ("{type: file, path: a, table: t}", "source.table: file does not accept table; remove it (file accepts path)"),
        ("{type: file, path: a, connection: 'x://h'}", "source.connection: file does not accept connection; remove it"),
        ("{type: file, path: }", "source.path: missing; add path:, which file requires"),
        ("{type: file, path: 3}", "source.path: found the integer 3; put it in quotes"),
        ("{type: file, paht: a}", "source: unknown key 'paht'; did you mean path?"),
        ("{type: file, path: a, base: /x}", "source: unknown key 'base'"),
        ("{type: shop, connection: 'x://h'}", "source: missing; write exactly one of table, query"),
        (
            "{type: shop, connection: 'x://h', table: t, query: q}",
            "source: found table and query; keep exactly one of them",
        ),
        ("{type: shop, table: t}", "source.connection: missing; write a URL, as in ${NAME}"),
        ("{type: shop, connection: '', table: t}", "source.connection: no value; write a URL"),
        ("{type: shop, connection: [a], table: t}", "source.connection: found a list; write a URL"),
        ("{type: shop, connection: 'x://h', table: a..b}", "source.table: 'a..b' has an empty part or a NUL"),
        ("{type: shop, connection: 'x://h', table: 'a\"b'}", "source.table: unbalanced quotes"),
        ("file", "source: found the text 'file'; write a mapping with type, connection"),
        ("", "source: found no value; write a mapping with type, connection"),
    ],
)
def test_a_source_is_checked(problems: Problems, text: Text, source: str, expected: str) -> None:
    """The type must be known, and its connector says what it takes."""
    lines = problems(text(source=source))
    assert any(line.startswith(f"p.yaml:2: {expected}") for line in lines), lines


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            None,
            "sink.strategy: missing; there is no default; write strategy: {mode: ...} with one of full_refresh, append",
        ),
        ("append", "sink.strategy: found the text 'append'; write a mapping with mode, key"),
        ("{key: [id]}", "sink.strategy.mode: missing; write one of full_refresh, append"),
        ("{mode: upsert}", "sink.strategy.mode: found the text 'upsert'; write one of full_refresh, append"),
        ("{mode: merge}", "sink.strategy: no key; name the key columns, as in key: [id]"),
        ("{mode: merge, key: [id, id]}", "sink.strategy: key lists id twice; list each key column once"),
        ("{mode: replace}", "sink.strategy: where: {}; set where"),
        ("{mode: replace, where: {day: [1, 2]}}", "sink.strategy: where.day must be a single value; write one value"),
        (
            "{mode: replace, where: {day: {from: [1]}}}",
            "sink.strategy: where.day must be a single value; write one value",
        ),
        ("{mode: replace, where: {n: {from: 5, to: 1}}}", "sink.strategy: where.n is an empty range; write"),
        ("{mode: replace, where: {n: {from: a, to: a}}}", "sink.strategy: where.n is an empty range; write"),
        ("{mode: append, allow_empty: 1}", "sink.strategy.allow_empty: found the integer 1; write true or false"),
        (
            "{mode: partition_replace}",
            "sink.strategy: partition: None; set partition: column for partition_replace, and for no other mode",
        ),
        (
            "{mode: partition_replace, partition: day, where: {id: 1}}",
            "sink.strategy: where: {'id': 1}; write where: {day: {from: a, to: b}}, or remove where",
        ),
        ("{mode: snapshot_diff}", "sink.strategy: no key; name the key columns"),
        (
            "{mode: snapshot_diff, key: id, max_delete_share: 20}",
            "sink.strategy.max_delete_share: 'max_del",
        ),
        (
            "{mode: scd2, key: id, deletes: hard}",
            "sink.strategy: deletes: hard; write one of ignore, close",
        ),
        (
            "{mode: scd2, key: id, deletes: hide}",
            "sink.strategy.deletes: found the text 'hide'; write one of",
        ),
        (
            "{mode: cdc_apply, key: id, deletes: close}",
            "sink.strategy: deletes: close; write one of hard, soft, ignore",
        ),
        (
            "{mode: merge, key: id, truncate: apply}",
            "sink.strategy: option truncate does not belong to this mode; remove it",
        ),
        (
            "{mode: cdc_apply, key: id, deletes: ignore, truncate: apply}",
            "sink.strategy: deletes: ignore keeps every row, but truncate: apply deletes all rows; write",
        ),
        (
            "{mode: merge, key: id, deletes: close}",
            "sink.strategy: option deletes does not belong to this mode; remove it",
        ),
        ("{mode: snapshot_diff, key: id}", "sink.strategy.mode: lite cannot load by snapshot_diff (not implemented)"),
    ],
)
def test_a_strategy_is_required_and_checked(
    problems: Problems, text: Text, strategy: str | None, expected: str
) -> None:
    """The strategy has no default, its own rules are problems of its line, and the sink must support it."""
    said = f", strategy: {strategy}" if strategy else ""
    (line,) = problems(text(sink=f"{{type: lite, connection: 'sqlite:///w.db', table: t{said}}}"))
    assert line.startswith(f"p.yaml:3: {expected}")


@pytest.mark.parametrize(
    ("incremental", "mode", "expected"),
    [
        ("{by: cursor, column: c}", "full_refresh", "incremental: full_refresh needs every row"),
        (
            "{by: cursor, column: c, lookback: 60}",
            "append",
            "incremental.lookback: append would load the rows of the lookback",
        ),
    ],
)
def test_strategies_that_do_not_go_with_increments(
    problems: Problems, text: Text, incremental: str, mode: str, expected: str
) -> None:
    """A strategy that needs every row refuses an increment; append refuses to look back."""
    source = f"{{type: shop, connection: 'x://h', table: t, options: {{incremental: {incremental}}}}}"
    sink = f"{{type: lite, connection: 'sqlite:///w.db', table: t, strategy: {{mode: {mode}}}}}"
    (line,) = problems(text(source=source, sink=sink))
    assert line.startswith(f"p.yaml:2: source.options.{expected}")


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            "{mode: snapshot_diff, key: id}",
            "snapshot_diff needs every row, but an incremental read returns only some of the rows",
        ),
        (
            "{mode: scd2, key: id, deletes: close}",
            "scd2 needs every row, but an incremental read returns only some of the rows",
        ),
        ("{mode: scd2, key: id}", None),
        ("{mode: partition_replace, partition: day}", "an incremental read may return only part of a partition"),
    ],
)
def test_strategies_that_delete_do_not_go_with_increments(
    problems: Problems, text: Text, strategy: str, expected: str | None
) -> None:
    """What takes absent rows for deleted ones needs a read that is whole, or whole partitions."""
    source = "{type: shop, connection: 'x://h', table: t, options: {incremental: {by: cursor, column: c}}}"
    sink = f"{{type: lite, connection: 'sqlite:///w.db', table: t, strategy: {strategy}}}"
    lines = [line for line in problems(text(source=source, sink=sink)) if "not implemented" not in line]
    assert len(lines) == (expected is not None)
    assert all(line.startswith(f"p.yaml:2: source.options.incremental: {expected}") for line in lines)


def test_a_state_backend_is_checked(problems: Problems, text: Text) -> None:
    """A state takes a connection or a path, as its backend says."""
    assert problems(text(state="{type: file, connection: 'x://h'}")) == [
        "p.yaml:4: state.connection: file does not accept connection; remove it (file accepts path)",
        "p.yaml:4: state.path: missing; add path:, which file requires",
    ]


# --- S-05: YAML is data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system x", "!!binary aGk=", "!custom x",
        "!!str 5", "!!set {a}",
    ],
)  # fmt: skip
def test_S_05_tags_are_refused(
    problems: Problems, text: Text, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tag makes an object, not even a harmless one."""
    monkeypatch.chdir(tmp_path)
    (line,) = problems(text(labels=f"\n  a: {value}"))
    assert line.startswith("p.yaml:5: labels.a: the tag ")
    assert not Path("canary").exists()


def test_S_05_alias_bombs_are_refused(problems: Problems) -> None:
    """Nine lines that would expand to a billion values are refused by counting, not by expanding."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (line,) = problems("\n".join(lines))
    assert re.match(
        r"p\.yaml:[45]: a\d\[\d\]: more than 100,000 values, including those of aliases; split the file", line
    )


def test_S_05_aliases_are_read(load: Load, text: Text) -> None:
    """A plain alias repeats a value."""
    assert load(text(labels="{a: &v x, b: *v}")).labels == {"a": "x", "b": "x"}


@pytest.mark.parametrize(
    "bad",
    [
        "labels: &a {b: *a}", "labels: *nowhere", "labels: &a [&b [*a]]",
    ],
)  # fmt: skip
def test_S_05_aliases_into_themselves_or_nowhere(problems: Problems, bad: str) -> None:
    """An alias refers to a value that is complete."""
    (line,) = problems(bad)
    assert "is not defined before this line" in line


@pytest.mark.parametrize(
    "bad",
    [
        "[" * 100_000, "{a: " * 50_000, "- " * 100_000, "a: " + "[" * 60 + "]" * 60,
        "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 30 + "*a" + "]" * 30,
    ],
)  # fmt: skip
def test_S_05_depth_is_limited(problems: Problems, bad: str) -> None:
    """Deep nesting, also by way of aliases, ends in one line and never in a full stack."""
    (line,) = problems(bad)
    assert "nested deeper than 50" in line


def test_S_05_size_is_limited(problems: Problems) -> None:
    """A file over one MiB is refused before it is parsed."""
    assert problems(b"# " + b"x" * (1 << 20)) == [
        "p.yaml: more than 1048576 bytes; split it, or remove what is not configuration"
    ]


def test_S_05_an_endless_file_is_refused(plugins: Any) -> None:
    """Reading stops at the limit, whatever the file's size claims to be."""
    with pytest.raises(PipelineErrors, match="/dev/zero: more than 1048576 bytes"):
        load_pipeline(Path("/dev/zero"), plugins=plugins)


def test_S_05_duplicate_keys_are_refused(problems: Problems) -> None:
    """A key given twice is a problem at its second line, at any depth, and hides no other problem."""
    lines = problems("pipeline: a\nlabels: {x: a, 'x': b}\npipeline: b\nsorce: {}\n")
    assert "p.yaml:2: labels: the key 'x' appears twice, first in line 2; remove one of them" in lines
    assert "p.yaml:3: the key 'pipeline' appears twice, first in line 1; remove one of them" in lines
    assert "p.yaml:4: unknown key 'sorce'; did you mean source?" in lines


@pytest.mark.parametrize("key", ["1", "true", "null", "~", "1.5"])
def test_S_05_keys_are_text(problems: Problems, text: Text, key: str) -> None:
    """A key that YAML reads as a number, truth or null is refused rather than turned into text."""
    assert problems(text(labels=f"{{{key}: x}}")) == [
        f"p.yaml:4: labels: the key '{key}' is not text; write it in quotes"
    ]


@pytest.mark.parametrize("key", ["on", "yes", "off"])
def test_S_05_keys_that_yaml_1_1_reads_as_truth(problems: Problems, text: Text, key: str) -> None:
    """on: and yes: are text, and at the top an unknown key by that very name."""
    (line,) = problems(text(**{key: "x"}))
    assert line.startswith(f"p.yaml:4: unknown key '{key}'; ")


@pytest.mark.parametrize("bad", ["? [a]\n: b", "? {a: b}\n: c", "a: &k x\n*k : y"])
def test_S_05_keys_are_no_collections(problems: Problems, bad: str) -> None:
    """A mapping, list or alias as a key is refused."""
    (line,) = problems(bad)
    assert "; write keys as text" in line


def test_S_05_merge_keys_are_refused_by_name(problems: Problems, text: Text) -> None:
    """<< is no silent label; the message says what to use instead."""
    (line,) = problems(text(labels="{<<: {a: b}}"))
    assert line == "p.yaml:4: labels: merge keys (<<) are not supported; use defaults: and streams:, or repeat the keys"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "p.yaml:1: the file is empty; write at least one key and its value"),
        ("# nothing\n", "p.yaml:1: the file is empty; write at least one key and its value"),
        ("- a\n- b\n", "p.yaml:1: found a list; write a mapping with pipeline, labels"),
        ("pipeline\n", "p.yaml:1: found the text 'pipeline'; write a mapping with"),
        ("null\n", "p.yaml:1: found no value; write a mapping with"),
        ("a: [1\nb: 2\n", "p.yaml:2: not YAML: "),
        ("a:\n\tc: d\n", "p.yaml:2: not YAML: a tab in the indentation; indent with spaces"),
        ("a: b\n\tc: d\n", "p.yaml:2: not YAML: "),
        ("a: @b\n", "p.yaml:1: not YAML: found character that cannot start any token; correct the syntax"),
        ("a: b: c\n", "p.yaml:1: not YAML: mapping values are not allowed in this context; correct the syntax"),
        ("a: 'b\n", "p.yaml:2: not YAML: found unexpected end of stream; correct the syntax"),
        ("a: b\n---\nc: d\n", "p.yaml:2: a second YAML document; write one document per file"),
        ("a: b\nc: \x00\n", "p.yaml:2: not YAML: "),
        ("a: b\nc: \x07\n", "p.yaml:2: not YAML: "),
        ("a: \ue000\n", "p.yaml:1: contains the private use character U+E000; remove it"),
        (b"a: b\nc: caf\xe9\n", "p.yaml:2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
        ("pipeline: a\n".encode("utf-16"), "p.yaml:1: not UTF-8 (byte 0xff); save the file as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "p.yaml:1: not UTF-8 (byte 0x89); save the file as UTF-8"),
    ],
)  # fmt: skip
def test_S_05_what_is_no_pipeline_file(problems: Problems, content: str | bytes, expected: str) -> None:
    """Whatever the file is, the answer is one line with its line number."""
    (line,) = problems(content)
    assert line.startswith(expected)


def test_S_05_a_byte_order_mark_is_read_over(load: Load, text: Text) -> None:
    """Editors of one system write it; it is no part of the first key."""
    assert load(b"\xef\xbb\xbf" + text().encode()).name == "orders"


def test_S_05_a_path_that_is_no_file(tmp_path: Path, plugins: Any) -> None:
    """A missing file and a directory are one line each."""
    with pytest.raises(PipelineErrors) as missing:
        load_pipeline(tmp_path / "none.yaml", plugins=plugins)
    with pytest.raises(PipelineErrors) as directory:
        load_pipeline(tmp_path, plugins=plugins)
    assert missing.value.problems == (f"{tmp_path}/none.yaml: no such file; give the path of an existing file",)
    assert directory.value.problems == (f"{tmp_path}: a directory, not a file; give the path of a file in it",)


def test_S_05_an_unreadable_file(tmp_path: Path, plugins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is passed on in one line."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PipelineErrors, match=r"cannot be read \(Permission denied\); check the path"):
        load_pipeline(tmp_path / "p.yaml", plugins=plugins)


YAML_ALPHABET = st.sampled_from(
    [*"abx: -[]{},\n\t'\"#&*!|>%@`?$.~1<\\\0é", "${A}", "source", "type: ", "\n  ", "- ", "<<: "]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(YAML_ALPHABET, max_size=40).map("".join) | st.binary(max_size=60))
def test_S_05_no_input_shows_a_traceback(load: Load, content: str | bytes) -> None:
    """Any bytes at all are a pipeline or PipelineErrors; never another exception."""
    with pytest.raises(PipelineErrors):
        load(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


# --- strict JSON ----------------------------------------------------------------------------------------------------


def test_S_05_strict_json_reads_text_and_files(tmp_path: Path) -> None:
    """Text is read as it is, a Path is opened."""
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null]}')
    assert strict_json('{"a": [1, 2.5, null]}') == strict_json(tmp_path / "a.json") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice in one object"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": 1,}', "not JSON: "),
        ("", "not JSON: Expecting value in line 1, column 1"),
        ("[" * 200_000, "nested too deeply"),
        ("1" * 5000, "Exceeds the limit"),
    ],
)
def test_S_05_strict_json_refuses(text: str, found: str) -> None:
    """Keys given twice, NaN, bad syntax, deep nesting and huge numbers are one line."""
    with pytest.raises(ConfigError, match=re.escape(found)) as caught:
        strict_json(text, "--rows-json")
    assert str(caught.value).startswith("read --rows-json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff", b" " * ((16 << 20) + 1)])
def test_S_05_strict_json_refuses_files(tmp_path: Path, content: bytes | None) -> None:
    """A missing, undecodable or oversized file is one line that names it."""
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.json: "):
        strict_json(tmp_path / "a.json")


def test_S_06_configuration_imports_nothing(
    problems: Problems, text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A type that looks like a module is a name that no plugin declares; it is never imported."""
    (tmp_path / "evil.py").write_text("open('canary', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = problems(text(source="{type: 'evil:Source', path: a}"))
    assert line.startswith("p.yaml:2: source.type: use source evil:Source: the connector is not installed")
    assert not Path("canary").exists()
