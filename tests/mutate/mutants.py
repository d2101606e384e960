"""Every small wrong change that can be made to a module: one node of its syntax tree at a time."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import field, frozen

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
COMPOUND = ("body", "orelse", "finalbody", "handlers", "cases")
# Not mutated: what does nothing at run time, what errors say, and assertions, which state what is always true (so does
# the ``strict`` of a zip).
SKIPPED = {"annotation", "returns", "decorator_list", "format_spec"}
KEYWORDS = {"init", "repr", "eq", "daemon", "strict"}
# Their arguments may stand in any order.
UNORDERED = {"and_", "or_", "equal", "not_equal", "differs", "multiply", "min", "max", "isinstance"}
WORD = re.compile(r"[\w-]+")
_ERRORS = ast.parse((Path(__file__).parents[2] / "dpone-core/src/dpone/errors.py").read_bytes())
ERRORS = {node.name for node in _ERRORS.body if isinstance(node, ast.ClassDef)}


@frozen
class Mutant:
    """``before`` and ``after``: the statement, or the head of a compound one. ``lines``: where to look for tests that
    run it, from the line itself to the scope around it. ``source``: of the module, as it should be."""

    module: str
    where: str
    line: int
    before: str
    after: str
    lines: tuple[range, ...]
    source: bytes = field(repr=False)
    place: slice
    text: bytes

    @property
    def name(self) -> tuple[str, str, str, str]:
        return self.module, self.where, self.before, self.after

    @property
    def changed(self) -> bytes:
        return self.source[: self.place.start] + self.text + self.source[self.place.stop :]

    def compiles(self) -> bool:
        try:
            compile(self.changed, self.module, "exec")
        except SyntaxError:
            return False
        return True


def mutants(module: str, source: bytes) -> list[Mutant]:
    """All mutants of a module."""
    tree, starts = ast.parse(source), [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, new, statement, scope, where in _changes(tree, tree, tree, ""):
        place = slice(starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset)
        text = ast.unparse(new) if isinstance(new, ast.stmt) else f"({ast.unparse(new)})"
        before, after = _head(statement), _head(_replaced(statement, node, new))
        lines = tuple(range(n.lineno, _last(n) + 1) for n in (node, statement, scope) if hasattr(n, "lineno"))
        found.append(Mutant(module, where or "module", node.lineno, before, after, lines, source, place, text.encode()))
    return found


def _changes(node: Any, statement: Any, scope: Any, where: str) -> Iterator[tuple[Any, ...]]:
    """Nodes and what to put in their place. A text with values in it is replaced as a whole: before Python 3.12 nodes
    in it do not know where they are."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        scope, where = node, f"{where}.{node.name}".lstrip(".")
    if isinstance(node, ast.stmt):
        statement = node
    if isinstance(node, ast.JoinedStr):
        for inner, new, *_ in _inner_changes(node, statement, scope, where):
            yield node, _replaced(node, inner, new), statement, scope, where
        return
    if isinstance(node, ast.expr | ast.stmt) and not _is_error(node, statement):
        for new in _replacements(node):
            yield node, new, statement, scope, where
    yield from _inner_changes(node, statement, scope, where)


def _inner_changes(node: Any, statement: Any, scope: Any, where: str) -> Iterator[tuple[Any, ...]]:
    for name, value in ast.iter_fields(node):
        if name in SKIPPED:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Assert | ast.Import | ast.ImportFrom) or _is_text(child, node):
                continue
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) and child.func.id == "TypeVar":
                continue
            if isinstance(child, ast.keyword) and child.arg in KEYWORDS:
                continue
            if name in ("test", "ifs") and not _is_not(child) and not _has_opposite(child):
                yield child, ast.UnaryOp(ast.Not(), child), statement, scope, where
            if isinstance(child, ast.AST):
                yield from _changes(child, statement, scope, where)


def _is_text(node: Any, parent: Any) -> bool:
    """A docstring, a piece of a longer text, or what an error says."""
    says = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return says and (isinstance(parent, ast.Expr | ast.JoinedStr) or not WORD.fullmatch(node.value))


def _is_error(node: Any, statement: Any) -> bool:
    """An error that is made, as its arguments are what it says, or a word of one that is raised."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
        return True
    word = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return isinstance(statement, ast.Raise) and (word or node is statement.exc)


def _has_opposite(node: Any) -> bool:
    """Its operator is swapped for the opposite already."""
    equal = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
    return isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], equal)


def _is_not(node: Any) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=ops):
            for n, op in enumerate(ops):
                yield _with(node, ops=[*ops[:n], SWAPS[type(op)](), *ops[n + 1 :]])
        case ast.BoolOp(op=op):
            yield _with(node, op=SWAPS[type(op)]())
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield _with(node, op=SWAPS[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant(value + "x")
        case ast.Return(value=ast.Constant(value=None | bool())):
            pass
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete() | ast.AugAssign() | ast.Break():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield ast.Pass()
        case ast.Call(args=[first, second, *rest], func=ast.Name(name) | ast.Attribute(attr=name)):
            starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
            if name not in UNORDERED and not starred and ast.dump(first) != ast.dump(second):
                yield _with(node, args=[second, first, *rest])


def _with(node: Any, **fields: Any) -> Any:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _replaced(tree: Any, old: ast.AST, new: ast.AST) -> Any:
    """A copy of ``tree`` with ``new`` in the place of ``old``."""
    if tree is old:
        return new
    if isinstance(tree, list):
        return [_replaced(one, old, new) for one in tree]
    if not isinstance(tree, ast.AST) or isinstance(tree, ast.expr_context | ast.operator | ast.cmpop | ast.boolop):
        return tree
    return _with(tree, **{name: _replaced(value, old, new) for name, value in ast.iter_fields(tree)})


def _head(statement: Any) -> str:
    """A statement in one line; a compound one without what it holds."""
    if hasattr(statement, "body") and isinstance(statement, ast.stmt):
        empty: dict[str, Any] = {name: [] for name in COMPOUND if hasattr(statement, name)}
        statement = _with(
            statement, **empty, **({"decorator_list": []} if hasattr(statement, "decorator_list") else {})
        )
    return " ".join(ast.unparse(statement).split())


def _last(node: Any) -> int:
    """The last line that belongs to a node alone: a compound statement ends before its body."""
    if isinstance(node, ast.If | ast.While | ast.For | ast.With | ast.Try | ast.Match):
        inner = getattr(node, "body", None) or node.cases
        first: int = getattr(inner[0], "lineno", None) or inner[0].pattern.lineno
        return max(node.lineno, first - 1)
    return int(node.end_lineno)
