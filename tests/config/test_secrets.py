"""S-02: what is secret never leaves, in whatever form."""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import math
import pickle
import pprint
import re
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpone.config.document import PipelineErrors
from dpone.model.pipeline import Pipeline, SourceSpec
from dpone.model.secret import (
    MASK,
    Secret,
    _known,
    redact,
    redacted,
    register,
    sensitive,
    unclear,
)

Load = Callable[..., Pipeline]
Text = Callable[..., str]

# With characters that each encoding writes differently.
CANARY = "c4n/ry @p+ss:w%rd\"é'\\~"
URL = f"postgres://etl:{quote(CANARY, safe='')}@db.example:5432/shop?sslmode=require"


def printed(value: Any) -> list[str]:
    """Every way a value is likely to be printed."""
    stream = io.StringIO()
    logger = logging.Logger("secrets", logging.DEBUG)
    logger.addHandler(logging.StreamHandler(stream))
    logger.debug("%s %r", value, value)
    try:
        raise ValueError(value)
    except ValueError as error:
        raised = "".join(traceback.format_exception(error)) + repr(error)
    return [
        repr(value), str(value), f"{value}", f"{value!r}", f"{value!s:>40}", format(value), f"{value}", f"{value}",
        pprint.pformat(value), pprint.pformat([value]), json.dumps(value, default=str), stream.getvalue(), raised,
    ]  # fmt: skip


def forms(secret: str) -> set[str]:
    """The canary as an output may hold it."""
    encoded = {encode(secret.encode()).decode() for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    percent = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    lower = {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in percent}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    return {secret, *percent, *lower, *escaped, *encoded}


# CANARY as an output may hold it, written by hand: no function made these.
WRITTEN = {
    "as it is": "c4n/ry @p+ss:w%rd\"é'\\~",
    "in a URL": "c4n%2Fry%20%40p%2Bss%3Aw%25rd%22%C3%A9%27%5C~",
    "in a URL, lower case": "c4n%2fry%20%40p%2bss%3aw%25rd%22%c3%a9%27%5c~",
    "in a path": "c4n/ry%20%40p%2Bss%3Aw%25rd%22%C3%A9%27%5C~",
    "in a path, lower case": "c4n/ry%20%40p%2bss%3aw%25rd%22%c3%a9%27%5c~",
    "in a query": "c4n%2Fry+%40p%2Bss%3Aw%25rd%22%C3%A9%27%5C~",
    "in a query, lower case": "c4n%2fry+%40p%2bss%3aw%25rd%22%c3%a9%27%5c~",
    "JSON in ASCII": "c4n/ry @p+ss:w%rd\\\"\\u00e9'\\\\~",
    "JSON": "c4n/ry @p+ss:w%rd\\\"é'\\\\~",
    "repr": "c4n/ry @p+ss:w%rd\"é\\'\\\\~",
    "base64": "YzRuL3J5IEBwK3NzOnclcmQiw6knXH4=",
}


@pytest.mark.parametrize(
    "name",
    ["host", "hostaddr", "server", "address", "port", "service", "database", "dbname", "bootstrap_servers", "bucket"],
)
def test_S_02_a_location_is_what_the_text_says_of_a_place(name: str) -> None:
    """Each word for a place is part of the location, and nothing beside them is."""
    assert Secret(f"{name}=x1 user=u password=p4ss").location() == f"{name}=x1"
    assert Secret(f'{{"{name}": "x1", "user": "u", "password": "p4ss"}}').location() == f"{name}=x1"


@pytest.mark.parametrize("form", WRITTEN)
def test_S_02_every_form_is_masked_whole(form: str) -> None:
    """A secret is masked from its first character to its last, however an output writes it."""
    register(CANARY)
    assert redact(f"<{WRITTEN[form]}>") == f"<{MASK}>"


def test_S_02_base64_of_urls_is_masked() -> None:
    """In URLs base64 is written with - and _ in place of + and /, and without the = at its end."""
    register("ÿ?>~ÿÿ-canary")
    for form in ("w78/Pn7Dv8O/LWNhbmFyeQ==", "w78_Pn7Dv8O_LWNhbmFyeQ==", "w78_Pn7Dv8O_LWNhbmFyeQ"):
        assert redact(f"<{form}>") == f"<{MASK}>"


@pytest.mark.parametrize(
    ("secret", "written", "masked"),
    [
        ("canary", "YWJjY2FuYXJ5LWFuZC1tb3Jl", "YWJj***LWFuZC1tb3Jl"),  # abccanary-and-more
        ("canar3y", "YWNhbmFyM3ktYW5kLW1vcmU=", "YW***ktYW5kLW1vcmU="),  # acanar3y-and-more
        ("canar3y", "YWJjY2FuYXIzeS1hbmQtbW9yZQ==", "YWJj***S1hbmQtbW9yZQ=="),  # abccanar3y-and-more
        ("canary42", "YWJjYW5hcnk0Mi1hbmQtbW9yZQ==", "YWJ***i1hbmQtbW9yZQ=="),  # abcanary42-and-more
        ("canar0", "YWNhbmFyMC1hbmQtbW9yZQ==", "YWNhbmFyMC1hbmQtbW9yZQ=="),  # acanar0-and-more
    ],
)
def test_S_02_base64_inside_of_a_longer_text_is_masked(secret: str, written: str, masked: str) -> None:
    """Wherever the secret begins in it, if eight letters are of it alone; fewer would shred other texts."""
    register(secret)
    assert redact(written) == masked


def test_S_02_a_secret_does_not_print() -> None:
    """Neither repr, str, format, f-string, logging, JSON nor an exception shows it."""
    for text in printed(Secret(CANARY)):
        assert not any(form in text for form in forms(CANARY))
        assert MASK in text


def test_S_02_specs_do_not_print_their_connections() -> None:
    """The repr of everything that holds a Secret is free of it, as are attrs' own conversions."""
    spec = SourceSpec("shop", Secret(URL))
    for text in [*printed(spec), *printed(attrs.asdict(spec)), *printed(attrs.astuple(spec))]:
        assert not any(form in text for form in forms(CANARY) | {"etl"})


def test_S_02_a_secret_is_not_pickled() -> None:
    """Serialising fails without the text, also inside a spec."""
    for value in (Secret(CANARY), SourceSpec("shop", Secret(URL))):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot be serialised") as caught:
                pickle.dumps(value, protocol)
            assert CANARY not in str(caught.value)
    with pytest.raises(TypeError, match="cannot be serialised"):
        Secret(CANARY).__getstate__()


def test_S_02_a_copy_is_the_secret_itself() -> None:
    """Copying gives no second form of the text."""
    secret = Secret(CANARY)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": [secret]})["a"][0] is secret


def test_S_02_secrets_compare_by_text_and_hold_only_text() -> None:
    """Equal texts are equal secrets; bytes, numbers and None are refused."""
    assert Secret("same") == Secret("same")
    assert hash(Secret("same")) == hash(Secret("same"))
    assert Secret("same") != Secret("other")
    assert Secret("same") != "same"
    for wrong in (b"text", 5, None):
        with pytest.raises(TypeError, match="a Secret must be text"):
            Secret(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("postgres://u:p4ss@DB.example:5432/shop?sslmode=require", "postgres://db.example:5432/shop"),
        ("postgres://u:p4ss@h1:5432,h2:5433/shop", "postgres://h1:5432,h2:5433/shop"),
        ("postgres://u:p%40ss@[::1]:5432/shop", "postgres://[::1]:5432/shop"),
        ("postgres://u:p@ss@h/shop", "postgres://***"),
        ("postgres://h:5432/shop?user=a@b&password=p4ss", "postgres://***"),
        ("postgres://h/shop?user=a@b&password=p4ss", "postgres://h/shop"),
        ("postgres://u:p?x=4ss@h/shop", "postgres://***"),
        ("postgres://u/x:p4ss@h/shop", "postgres://***"),
        ("postgres://us/er@h/shop", "postgres://***"),
        ("postgresql:///us/er@h/shop", "postgresql://***"),
        ("POSTGRES://us;er@h/shop", "POSTGRES://***"),
        ("postgres:///u:p4ss@h/shop", "postgres://***"),
        ("postgres://u:p4ss", "postgres://***"),
        ("postgres://u@x:p4ss@h/shop", "postgres://***"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("sqlite:////data/12:30/a@b.db", "sqlite:////data/12:30/a@b.db"),
        ("host=h password='p4;s's' dbname=d", "***"),
        ("host=h password='p4ss host=canary", "***"),
        ("host=h password=p4;ss dbname=d", "host=h,dbname=d"),
        ("host=h password=p\\ host=4ss dbname=d", "host=h,dbname=d"),
        ('password="a host=h', "host=h"),
        ("jdbc:sqlserver://h:1433;databaseName=d;user=u;password=p4ss", "jdbc:sqlserver://h:1433"),
        ("sqlite:///warehouse.db", "sqlite:///warehouse.db"),
        ("sqlite:////data/warehouse.db", "sqlite:////data/warehouse.db"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("s3://bucket/key@2", "s3://bucket/key@2"),
        ("postgres://h/shop?user=a@b", "postgres://h/shop"),
        ("localhost:9092", "localhost:9092"),
        ("k1:9092,k2:9092", "k1:9092,k2:9092"),
        ("host=h port=5432 dbname=d user=u password=p4ss", "host=h,port=5432,dbname=d"),
        ("password='p4 ss' host=h", "host=h"),
        ("Server=h,1433;Database=d;UID=u;PWD={p;4}}ss}", "server=h,1433,database=d"),
        ('{"host": "h", "auth": {"password": "p4ss"}}', "host=h"),
        ("p4ss", "***"),
        ("", "***"),
        ("password=p4ss", "***"),
        ('{"password": ', "***"),
        ("postgres://u:p/4ss@h/shop", "postgres://***"),
        ("postgres://u:12/4ss@h/shop", "postgres://***"),
        ("postgres://u:p?4ss@h/shop", "postgres://***"),
        ("postgres://u:p;4ss@h/shop", "postgres://***"),
        ("postgres://u:p#4ss@h/shop", "postgres://***"),
    ],
)
def test_S_02_a_location_has_no_credentials(text: str, location: str) -> None:
    """Scheme, host, port and path of a URL, the place of pairs; what cannot be told apart safely is masked."""
    assert Secret(text).location() == location


@pytest.mark.parametrize(
    "text",
    [
        f"postgres://u:{quote(CANARY, safe='')}@h/d", f"x://h/d?password={quote_plus(CANARY)}", f"x://h/d?a=b&sig={quote(CANARY)}",
        json.dumps({"host": "h", "password": CANARY}), json.dumps({"a": [{"api_key": CANARY}]}), CANARY,
    ],
)  # fmt: skip
def test_S_02_redact_knows_what_stood_in_a_connection(text: str) -> None:
    """After a Secret was made, its credential is masked in every form, alone or inside a sentence."""
    Secret(text)
    for form in forms(CANARY):
        assert redact(form) == MASK
        assert redact(f"before {form} after") == f"before {MASK} after"


@pytest.mark.parametrize(
    ("connection", "password"),
    [
        ("host=h password='sp1n ach\\'s'", "sp1n ach's"),
        ("host=h password=kohlrabi7", "kohlrabi7"),
        ("Server=h;UID=u;PWD={cele;ri}}ac8};Encrypt=yes", "cele;ri}ac8"),
        ("Server=h;UID=u;PWD=rutabaga 9;Encrypt=yes", "rutabaga 9"),
        ("jdbc:sqlserver://h;user=u;password=turnip-10", "turnip-10"),
        ("org.x.Login required username=\"u\" password=\"pars\\\"nip-11\";", 'pars"nip-11'),
        ("postgres://u:rad/ish-12@h/d", "rad/ish-12"),
        ("postgres://u:chi@cory-13@h/d", "chi@cory-13"),
        ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2FsYWQ+MTQ=", "c2FsYWQ+MTQ="),
        ("Server=h;UID=u;PWD='sal;sify-15';Encrypt=yes", "sal;sify-15"),
        ("host=h; user=u password=cres;s-17", "cres;s-17"),
    ],
)  # fmt: skip
def test_S_02_redact_knows_pairs(connection: str, password: str) -> None:
    """libpq, ODBC, JDBC, JAAS and storage strings give up their credential to the sieve."""
    Secret(connection)
    assert redact(f"login failed for {password}!") == f"login failed for {MASK}!"


def test_S_02_every_text_of_a_json_value_is_masked() -> None:
    """Keys too, however deep, and secrets that JSON would escape; numbers and the rest stay as they are."""
    register('qui"noa-16')
    value = {"a": ['x qui"noa-16', ('qui"noa-16', 1)], 'qui"noa-16': {"b": True, "c": None, "d": 1.5}}
    masked = {"a": [f"x {MASK}", [MASK, 1]], MASK: {"b": True, "c": None, "d": 1.5}}
    assert redacted(value) == masked


@pytest.mark.parametrize("text", ["postgres://u:p@h:5432/d", "postgres://h/d", "sqlite:///a@b", "host=h", "k1:9092"])
def test_OUT_17_what_is_clear_has_nothing_to_say(text: str) -> None:
    """A URL whose password ends where it seems to, and what is not a URL; the user counts from its first character."""
    assert unclear(text) == ""
    assert unclear("x://@p@h/d") == "the URL has an '@' in its user or password"


def test_S_02_a_secret_of_four_characters_is_searched_for() -> None:
    """A shorter one is not: it would shred every message."""
    register("q7z~")
    register("q8~")
    assert redact("q7z~ and q8~") == f"{MASK} and q8~"


@pytest.mark.parametrize("secret", ["b4se-sixty-four-canary", "b4se-7~"])
def test_S_02_redact_masks_base64_inside_a_longer_text(secret: str) -> None:
    """HTTP Basic encodes user and password together; the password is found at each of the three bit offsets, from seven
    characters on, and no letter is left that holds nothing else."""
    register(secret)
    for user in ("u", "us", "use", "user"):
        cleaned = redact(base64.b64encode(f"{user}:{secret}".encode()).decode())
        before, _, after = cleaned.partition(MASK)
        assert len(before) == math.ceil((len(user) + 1) * 8 / 6)
        assert len(after.rstrip("=")) <= 1


def test_S_02_redact_takes_bytes_that_are_no_text() -> None:
    """A variable of the environment may hold any bytes; they are masked too."""
    secret = b"caf\xe9-canary".decode("utf-8", "surrogateescape")
    register(secret)
    assert redact(f"found {secret}") == f"found {MASK}"


def test_S_02_redact_masks_a_secret_that_an_error_wrote_on_one_line() -> None:
    """Messages fold white space, so the folded form is masked too."""
    register("two  spaces\tcanary")
    assert redact("found two spaces canary here") == f"found {MASK} here"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("could not reach x://u:ab@h/d", "could not reach x://***@h/d"),
        ("could not reach x://u:a/b@h/d", "could not reach x://***@h/d"),
        ("could not reach x://u:a@b@h/d", "could not reach x://***@h/d"),
        ("could not reach x://user:password@b@h/d", "could not reach x://***@h/d"),
        ("conninfo host=h password=ab user=u", "conninfo host=h password=*** user=u"),
        ("PWD={ab};x", "PWD={***};x"),
        ("password='a b' x", "password='***' x"),
        ('{"password": "ab", "n": 1}', '{"password": "***", "n": 1}'),
        ('{"client_secret": "a\\"b"}', '{"client_secret": "***"}'),
    ],
)
def test_S_02_short_passwords_are_masked_by_their_place(text: str, cleaned: str) -> None:
    """A password of less than four characters is not searched for; where a password stands, anything is masked."""
    assert redact(text) == cleaned
    assert redact(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "opened sqlite:///warehouse.db", "p.yaml:3: source.options.password: no value; write text", "k1:9092 answered",
        "write postgresql://user:password@host/db", "write postgres://etl:${PW}@h/d", "write password=${PW}, or ***",
        "password: '${PW}'", "at postgres://etl:...@db.example/shop", "opened sqlite:////data/a@b.db",
        "postgres://db.example:5432/shop", '{"token": "0a1b", "keys": 3}', "mailto:a@b", "12 rows read",
    ],
)  # fmt: skip
def test_S_02_redact_leaves_the_rest_readable(text: str) -> None:
    """Locations, key paths, load tokens and plain words stay."""
    Secret("sqlite:///warehouse.db")
    Secret("k1:9092")
    Secret("postgres://etl@db.example:5432/shop?sslmode=require")
    assert redact(text) == text


@settings(max_examples=40)
@given(st.text(st.characters(codec="utf-8"), min_size=8, max_size=30).filter(lambda text: len(set(text)) > 4))
def test_S_02_any_secret_is_masked_in_every_form(secret: str) -> None:
    """For any text of eight characters and more, none of its forms survives redact."""
    _known.clear()
    register(secret)
    for form in forms(secret):
        assert form not in redact(f"<{form}>")


@pytest.mark.parametrize(
    "name",
    [
        "password", "PASSWORD", "sslpassword", "AccountKey", "aws_secret_access_key", "sasl.jaas.config", "token",
        "sig", "api-key", "passphrase", "PWD", "credentials",
    ],
)  # fmt: skip
def test_S_02_names_of_credentials(name: str) -> None:
    """What a key is called tells that its value is a credential."""
    assert sensitive(name)


@pytest.mark.parametrize("name", ["host", "user", "key", "signal", "sslmode", "partition_key", "database"])
def test_S_02_names_of_other_things(name: str) -> None:
    """Ordinary keys stay readable."""
    assert not sensitive(name)


def test_S_02_a_pipeline_shows_no_credential(load: Load, text: Text) -> None:
    """Connections and secret options are hidden in everything the model prints."""
    source = "{type: shop, connection: main, table: t, options: {password: '${PW}'}}"
    sink = "{type: lite, connection: {host: h, password: '${PW}'}, table: t, strategy: {mode: append}}"
    connections = "{main: 'shop://u:${ENCODED}@h/d'}"
    env = {"PW": CANARY, "ENCODED": quote(CANARY, safe="")}
    pipeline = load(text(source=source, sink=sink, connections=connections), env)
    for printed_text in [*printed(pipeline), pipeline.streams[0].key(pipeline.name)]:
        assert not any(form in printed_text for form in forms(CANARY))


@pytest.mark.parametrize(
    ("password", "found"),
    [
        ("p4@ss", "the URL has an '@' in its user or password"), ("p4/ss", "the URL has an '@' after a '/'"),
        ("p4?x=ss", "the URL has an '@' after a '?'"), ("p4#ss", "the URL has an '@' after a '#'"),
        ("p4;ss", "the URL has an '@' after a ';'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["source", "sink", "state", "connections", "variable"])
def test_OUT_17_a_url_that_does_not_say_where_its_password_ends_is_refused(
    load: Load, text: Text, password: str, found: str, role: str
) -> None:
    """Wherever a connection stands, the problem names the character and how to write it, and nothing of the URL."""
    url = f"shop://etl:{password}@h/d"
    parts = {
        "source": {"source": f"{{type: shop, connection: '{url}', table: t}}"},
        "sink": {"sink": f"{{type: lite, connection: '{url}', table: t, strategy: {{mode: append}}}}"},
        "state": {"state": f"{{type: sqlite, connection: '{url}'}}"},
        "connections": {"source": "{type: shop, connection: a, table: t}", "connections": f"{{a: '{url}'}}"},
        "variable": {"source": "{type: shop, connection: '${URL}', table: t}"},
    }[role]
    with pytest.raises(PipelineErrors) as caught:
        load(text(**parts), {"URL": url})
    [line] = caught.value.problems
    assert found in line
    assert "%40" in line
    assert not any(piece in line for piece in ("p4", "ss@", "etl", "@h"))


@pytest.mark.parametrize("url", ["shop://h?user=etl&password=p4@ss", "shop://p4?@ss@h/d", "shop://p4#@ss@h/d"])
def test_OUT_17_an_at_sign_after_a_host_without_a_path_is_refused(load: Load, text: Text, url: str) -> None:
    """libpq looks for the end of the user past '?' and '#', so that what follows the '@' would be a host."""
    with pytest.raises(PipelineErrors) as caught:
        load(text(source=f"{{type: shop, connection: '{url}', table: t}}"), {})
    [line] = caught.value.problems
    assert "the URL has an '@' after a" in line
    assert not any(piece in line for piece in ("p4", "ss@", "@ss"))
    assert Secret(url).location() == "shop://***"


BROKEN = [
    {"source": "{type: shop, connection: 'shop://u:${PW}@h/d', table: t}"},
    {"source": "{type: shop, connection: '${PW}', tabel: t}"},
    {"source": "{type: shop, connection: ['${PW}'], table: t}"},
    {"source": "{type: shop, connection: 'shop://u:${ENCODED}@h/d', table: 't\"'}"},
    {"source": "{type: shop, connection: 'x://h', table: t, options: {fetch: '${PW}'}}"},
    {"source": "{type: shop, connection: 'x://h', table: t, options: {tls: {mode: '${PW}'}}}"},
    {"source": "{type: shop, connection: 'x://h', table: t, options: {password: ['${PW}'], fetch: a}}"},
    {"source": "{type: shop, connection: 'x://h', table: t, options: {password: 1234567}}"},
    {"runtime": "{workers: '${PW}'}", "labels": "{a: ['${PW}']}"},
    {"'shop://u:${ENCODED}@h/d'": "x"},
    {f"'shop://u:{quote(CANARY, safe='')}@h/d'": "x"},
    {"connections": f"{{a: 'shop://u:{quote(CANARY, safe='')}@h/d', a: b}}"},
    {"source": f"{{type: shop, connection 'shop://u:{quote(CANARY, safe='')}@h/d'}}"},
]


@pytest.mark.parametrize("parts", BROKEN)
def test_S_02_problems_show_no_credential(load: Load, text: Text, parts: dict[str, str]) -> None:
    """Whatever is wrong around a secret, the problem lines are free of it, as is the exception with its causes."""
    with pytest.raises(PipelineErrors) as caught:
        load(text(**parts), {"PW": CANARY, "ENCODED": quote(CANARY, safe="")})
    shown = "\n".join([*caught.value.problems, repr(caught.value), "".join(traceback.format_exception(caught.value))])
    assert not any(form in shown for form in (*forms(CANARY), "1234567"))


def test_S_02_a_secret_known_later_is_masked_in_earlier_lines(load: Load, text: Text) -> None:
    """A line written before the connection was read is cleaned as well."""
    with pytest.raises(PipelineErrors) as caught:
        load(
            text(labels="{turnip-99-canary: 3}", state="{type: sqlite, connection: 'x://u:turnip-99-canary@h/d', a: b}")
        )
    assert "turnip" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("postgres://u:p4ss@db.example:5432/shop?sslmode=require", "postgres://db.example:5432/shop"),
        ("postgres://u:p4ss@b:1,a:2/shop", "postgres://*/shop"),
        ("postgres://u:p4ss@a:2,b:1/shop", "postgres://*/shop"),
        ("postgres://u:p@ss@a,b/shop", "postgres://***"),
        ("host=a,b port=1,2 dbname=shop user=u password=p4ss", "host=*,dbname=shop"),
        ("host=a port=1 dbname=shop user=u password=p4ss", "host=a,port=1,dbname=shop"),
        ("Server=db.example,1433;Database=shop;Uid=u;Pwd=p4ss", "server=db.example,1433,database=shop"),
        ('{"bootstrap_servers": "a:9092", "sasl_password": "p4ss"}', "host=*"),
        ("a:9092,b:9092", "*"),
        ("a:9092", "*"),
        ("sqlite:///shop,old.db", "sqlite:///shop,old.db"),
    ],
)
def test_a_place_has_no_list_of_hosts(text: str, place: str) -> None:
    """What stands in a key is where a connection points, but for hosts that come and go, and never a credential."""
    assert Secret(text).place() == place
