"""Files of configuration as data: every value with its file, line and key path, and every problem in one line.

YAML is read from parser events, so no object but text, mappings and lists can come of it. Refused: tags, merge keys,
keys given twice, keys that are not text, a second document, files over MAX_BYTES, nesting over MAX_DEPTH, aliases that
expand to more than MAX_VALUES values. Plain scalars follow YAML 1.2: only ``true`` and ``false`` are booleans; ``yes``,
``on``, ``12:30`` and ``2026-11-23`` are text.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
from attrs import evolve, field, frozen

from dpone.errors import ConfigError, counted
from dpone.model.secret import redact

MAX_BYTES = 1 << 20  # of a file
MAX_DEPTH = 50
# Aliases of aliases multiply: a few lines can stand for billions of values ("billion laughs").
MAX_VALUES = 100_000  # aliases expanded; a file of MAX_BYTES without aliases seldom has as many
MAX_JSON_BYTES = 16 << 20


class PipelineErrors(ConfigError):
    """Everything that is wrong with a pipeline file: ``problems``, each one line
    ``FILE:LINE: key.path: what; what to do``, in the order of the file."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("read the pipeline", counted(len(self.problems), "problem"), "fix every line reported")

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def __reduce__(self) -> Any:
        return type(self), (self.problems,)


@frozen(eq=False)
class Node:
    """A value of a file and its place.

    value    text of a scalar, a mapping of Nodes or a tuple of them; None when it could not be read (already reported)
    plain    a scalar without quotes: 3, true and null are not text
    written  the scalar as in the file; differs from ``value`` when ``${NAME}`` was filled in
    """

    value: str | Mapping[str, Node] | tuple[Node, ...] | None
    path: str
    line: int
    file: str
    plain: bool = False
    written: str = ""
    size: int = 1
    depth: int = 1

    @property
    def filled(self) -> bool:
        return isinstance(self.value, str) and self.value != self.written

    @property
    def is_scalar(self) -> bool:
        return isinstance(self.value, str)

    @property
    def is_null(self) -> bool:
        """No value. An environment variable that holds the word null is text."""
        return self.plain and self.value in (("",) if self.filled else _NULL)

    @property
    def items(self) -> Mapping[str, Node]:
        return self.value if isinstance(self.value, Mapping) else {}

    def at(self, *keys: str) -> Node:
        """The node at this path, or the deepest existing one above it."""
        node = self
        for key in keys:
            if key not in node.items:
                break
            node = node.items[key]
        return node


class Problems:
    """The problems found so far; equal lines are reported once. ``first`` is the file whose lines come first."""

    def __init__(self, first: str = "") -> None:
        self._found: dict[str, tuple[int, int]] = {}
        self._files = {first: 0}

    def add(self, node: Node, what: str, todo: str, key: str = "") -> None:
        path = f"{node.path}.{key}" if key and node.path else key or node.path
        where = f"{node.file}:{node.line}: " + (f"{path}: " if path else "")
        self.add_line(" ".join(f"{where}{what}; {todo}".split()), node.file, node.line)

    def add_line(self, line: str, file: str = "", number: int = 0) -> None:
        order = self._files.setdefault(file, len(self._files))
        self._found.setdefault(redact(line), (order, number))

    def fatal(self, node: Node, what: str, todo: str) -> typing.NoReturn:
        self.add(node, what, todo)
        self.raise_if_any()
        raise AssertionError("unreachable")

    def raise_if_any(self) -> None:
        if self._found:
            # once more: a secret may have become known after its line was written
            raise PipelineErrors([redact(line) for line in sorted(self._found, key=self._found.__getitem__)])

    def __bool__(self) -> bool:
        return bool(self._found)


def quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


class _Unreadable(Exception):
    def __init__(self, found: str, todo: str) -> None:
        super().__init__(found)
        self.found, self.todo = found, todo


def _bytes_of(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes, from a file or a pipe."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise _Unreadable("no such file", "give the path of an existing file") from error
    except IsADirectoryError as error:
        raise _Unreadable("a directory, not a file", "give the path of a file in it") from error
    except (OSError, ValueError) as error:
        found = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise _Unreadable(found, "check the path and its permissions") from error
    if len(data) > limit:
        raise _Unreadable(f"more than {limit} bytes", "split it, or remove what is not configuration")
    return data


def read_yaml(path: Path, shown: str, problems: Problems) -> Node:
    """The root node of a YAML file. Raises PipelineErrors if the file has no usable root."""
    try:
        data = _bytes_of(path, MAX_BYTES)
    except _Unreadable as error:
        problems.add_line(f"{shown}: {error.found}; {error.todo}")
        problems.raise_if_any()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = Node(None, "", data.count(b"\n", 0, error.start) + 1, shown)
        problems.fatal(place, f"not UTF-8 (byte 0x{data[error.start]:02x})", "save the file as UTF-8")
    return parsed(text, shown, problems)


# ``${NAME}`` is not valid in a flow mapping, because { and } belong to YAML there. So before the file is parsed, each
# reference is replaced by a number between two characters that no configuration contains. References with quotes or
# backslashes in their default are not replaced, because YAML's own quoting applies to them first.
_ASIDE = re.compile(r"\$+\{[A-Za-z_][A-Za-z0-9_]*(?::-[^{}\"'\\\n]*)?\}")
_MARK = re.compile("\ue000(\\d+)\ue001")


def parsed(text: str, file: str, problems: Problems) -> Node:
    """The root node of a YAML text; JSON is YAML."""
    import yaml

    start = Node(None, "", 1, file)
    if private := re.search("[\ue000\ue001]", text):
        place = evolve(start, line=text.count("\n", 0, private.start()) + 1)
        problems.fatal(place, f"contains the private use character U+{ord(private[0]):04X}", "remove it")
    references: list[str] = []

    def set_aside(match: re.Match[str]) -> str:
        references.append(match[0])
        return f"\ue000{len(references) - 1}\ue001"

    tree = _Tree(start, references, problems)
    try:
        loader = cast(Any, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for event in yaml.parse(_ASIDE.sub(set_aside, text), Loader=loader):
            tree.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = evolve(start, line=mark.line + 1 if mark else 1)
        lines = text.splitlines()[mark.line :] if mark else []
        if mark and lines and lines[0][mark.column : mark.column + 1] == "\t":
            problems.fatal(place, "not YAML: a tab in the indentation", "indent with spaces")
        if "nesting depth" in (error.problem or ""):  # PyYAML 6.0.4 and newer have a limit too, and look ahead of us
            problems.fatal(place, f"nested deeper than {MAX_DEPTH}", "flatten it")
        problems.fatal(place, f"not YAML: {error.problem or error.context}", "correct the syntax")
    except yaml.reader.ReaderError as error:
        place = evolve(start, line=text.count("\n", 0, error.position) + 1)
        problems.fatal(place, f"not YAML: {error.reason}", "remove the character, or escape it in double quotes")
    if tree.root is None:
        problems.fatal(start, "the file is empty", "write at least one key and its value")
    return tree.root


@attrs.define
class _Open:
    """A mapping or list whose end has not been seen."""

    path: str
    line: int
    anchor: str | None
    mapping: dict[str, Node] | None
    items: list[Node] = field(factory=list)
    key: str | None = None
    skip: bool = False
    size: int = 1
    depth: int = 0


class _Tree:
    """Makes Nodes of parser events, with a stack of its own: the depth of a file never becomes the depth of calls."""

    def __init__(self, start: Node, references: Sequence[str], problems: Problems) -> None:
        self.root: Node | None = None
        self._start, self._references, self._problems = start, references, problems
        self._open: list[_Open] = []
        self._anchors: dict[str, Node] = {}

    def feed(self, event: Any) -> None:
        import yaml

        line = event.start_mark.line + 1
        if getattr(event, "tag", None):
            self._refuse(line, f"the tag {event.tag} is not supported", "remove it; write text in quotes")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                self._refuse(
                    line,
                    f"the alias *{event.anchor} is not defined before this line",
                    f"define it first with &{event.anchor}",
                )
            self._place(self._anchors[event.anchor], line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin(event, line, {} if isinstance(event, yaml.MappingStartEvent) else None)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._end()
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self._refuse(line, "a second YAML document", "write one document per file")

    def _scalar(self, event: Any, line: int) -> None:
        text = _MARK.sub(lambda match: self._references[int(match[1])], event.value)
        top = self._open[-1] if self._open else None
        if top is not None and top.mapping is not None and top.key is None:
            self._key(top, Node(text, top.path, line, self._start.file, not event.style, text))
            return
        node = Node(text, self._path(), line, self._start.file, not event.style, text)
        self._remember(event.anchor, node)
        self._place(node, line)

    def _key(self, top: _Open, key: Node) -> None:
        text = cast(str, key.value)
        assert top.mapping is not None
        top.key, top.skip = text, False
        if key.plain and text == "<<":
            self._problems.add(
                key, "merge keys (<<) are not supported", "use defaults: and streams:, or repeat the keys"
            )
            top.skip = True
        elif text in top.mapping:
            found = f"the key {quoted(text)} appears twice, first in line {top.mapping[text].line}"
            self._problems.add(key, found, "remove one of them")
            top.skip = True
        elif not isinstance(resolved(key), str):
            self._problems.add(key, f"the key {quoted(text)} is not text", "write it in quotes")

    def _begin(self, event: Any, line: int, mapping: dict[str, Node] | None) -> None:
        if self._open and self._open[-1].mapping is not None and self._open[-1].key is None:
            self._refuse(line, "a key that is a mapping or a list", "write keys as text")
        if len(self._open) >= MAX_DEPTH:
            self._refuse(line, f"nested deeper than {MAX_DEPTH}", "flatten it")
        self._open.append(_Open(self._path(), line, event.anchor, mapping))

    def _end(self) -> None:
        done = self._open.pop()
        value = tuple(done.items) if done.mapping is None else done.mapping
        file, size, depth = self._start.file, done.size, done.depth + 1
        node = Node(value, done.path, done.line, file, size=size, depth=depth)
        self._remember(done.anchor, node)
        self._place(node, done.line)

    def _place(self, node: Node, line: int) -> None:
        if not self._open:
            self.root = node
            return
        top = self._open[-1]
        top.size += node.size
        top.depth = max(top.depth, node.depth)
        if top.size > MAX_VALUES:
            self._refuse(line, f"more than {MAX_VALUES:,} values, including those of aliases", "split the file")
        if len(self._open) + node.depth > MAX_DEPTH:
            self._refuse(line, f"nested deeper than {MAX_DEPTH}", "flatten it")
        if top.mapping is None:
            top.items.append(node)
        elif top.key is None:
            self._refuse(line, "a key that is an alias", "write keys as text")
        else:
            if not top.skip:
                top.mapping[top.key] = node
            top.key = None

    def _path(self) -> str:
        if not self._open:
            return ""
        top = self._open[-1]
        if top.mapping is None:
            return f"{top.path}[{len(top.items)}]"
        return f"{top.path}.{top.key}" if top.path else top.key or ""

    def _remember(self, anchor: str | None, node: Node) -> None:
        if anchor:
            self._anchors[anchor] = node

    def _refuse(self, line: int, what: str, todo: str) -> typing.NoReturn:
        self._problems.fatal(Node(None, self._path(), line, self._start.file), what, todo)


_NULL = ("", "~", "null", "Null", "NULL")
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?", re.ASCII)


def resolved(node: Node) -> Any:
    """The value of a scalar by YAML 1.2's core schema, without its hex and octal numbers and without infinity."""
    text = cast(str, node.value)
    if not node.plain:
        return text
    if text in _NULL:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and abs(float(text)) != float("inf"):
        return float(text)
    return text


REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


def filled_in(node: Node, env: Mapping[str, str], problems: Problems) -> Node:
    """The node with ``${NAME}`` and ``${NAME:-default}`` replaced in every scalar. As in a shell, the default also
    stands for an empty variable; ``$${`` is the text ``${``."""
    if isinstance(node.value, Mapping):
        return evolve(node, value={key: filled_in(child, env, problems) for key, child in node.value.items()})
    if isinstance(node.value, tuple):
        return evolve(node, value=tuple(filled_in(child, env, problems) for child in node.value))
    if node.value is None or "${" not in node.value:
        return node
    bad: dict[str | None, None] = {}  # each name once; None for an invalid name

    def replaced(match: re.Match[str]) -> str:
        value = "${" if match[0] == "$${" else value_of(match, env)
        if value is None:
            bad[match[1]] = None
        return value or ""

    text = REFERENCE.sub(replaced, node.value)
    for name in bad:
        if name is None:
            todo = "write ${NAME} or ${NAME:-default}; write $${ for a literal ${"
            problems.add(node, "${ does not begin a valid reference", todo)
        else:
            todo = f"set it, or write ${{{name}:-default}}"
            problems.add(node, f"the environment variable {name} is not set", todo)
    return evolve(node, value=None if bad else text)


def value_of(match: re.Match[str], env: Mapping[str, str]) -> str | None:
    """The value of a reference; None if its variable is not set, or if its name is not valid."""
    value = env.get(match[1]) if match[1] else None
    return match[2] if match[2] is not None and not value else value


def strict_json(source: str | Path, name: str = "", most: int = MAX_JSON_BYTES) -> Any:
    """JSON as data: ``source`` is the text, or the Path of a file. Refuses a key given twice, NaN and infinity, and
    more than ``most`` bytes of a file. ``name`` says in messages what is read. Raises ConfigError."""
    failed = f"read {name or (source if isinstance(source, Path) else 'JSON')}"
    text = _text_of(source, failed, most) if isinstance(source, Path) else source
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        found = f"not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise ConfigError(failed, found, "write valid JSON") from None
    except (ValueError, RecursionError) as error:
        found = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(failed, found, "write valid JSON (RFC 8259) with each key once") from None


def _text_of(path: Path, failed: str, most: int) -> str:
    try:
        data = _bytes_of(path, most)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(failed, "not UTF-8", "save the file as UTF-8") from None
    except _Unreadable as error:
        raise ConfigError(failed, error.found, error.todo) from error.__cause__


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key in repeated([key for key, _ in pairs]):
        raise ValueError(f"the key {key!r} appears twice in one object")
    return dict(pairs)


def _no_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def repeated(values: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]
