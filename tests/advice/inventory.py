"""All advice in the source that names an option, a command or a statement, as the texts that make it up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEDGER = Path(__file__).with_name("ledger.txt")
SOURCES = ("dpone-core/src/dpone", "dpone-postgres/src/dpone_postgres")
_NAMES = re.compile(
    r"--[a-z]|\b(options|source|sink|strategy|incremental|runtime|schema_evolution)\.[a-z]"
    r"|dpone (run|cdc|state|partitions)|\b(ALTER|CREATE|GRANT|DROP|PRAGMA|CAST)\b"
    r"|\b[a-z_]+: (\{|true|off|first|auto|json|parquet|skip|one_snapshot|\")"
)


def advice() -> Iterator[tuple[str, str]]:
    """Module and text. What is filled in is ``{}``."""
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            if "testing" not in path.parts:
                for text in sorted(_texts(ast.parse(path.read_text()))):
                    if _NAMES.search(text):
                        yield str(path.relative_to(ROOT / source).with_suffix("")), text


def _texts(module: ast.Module) -> set[str]:
    """Of names called todo, and of last arguments of what is raised."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inner = [part for t in targets for part in ast.walk(t)]
            names = [part.id for part in inner if isinstance(part, ast.Name)]
            names += [part.attr for part in inner if isinstance(part, ast.Attribute)]
            if any(name.lower().strip("_").endswith(("todo", "allow", "anew", "standby", "ways")) for name in names):
                found |= {*_pieces(node.value)} if node.value is not None else set()
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _advises(node.exc):
            found |= {*_pieces(node.exc.args[-1])}
        elif isinstance(node, ast.keyword) and node.arg in ("todo", "allow"):
            found |= {*_pieces(node.value)}
    return found


def _advises(made: ast.Call) -> bool:
    """One argument alone is what was found, but for click's own error."""
    return len(made.args) > 1 or (bool(made.args) and ast.unparse(made.func) == "click.UsageError")


def _pieces(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
    else:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr) and not isinstance(child, ast.Compare):
                yield from _pieces(child)


def ledger() -> list[list[str]]:
    """Module, test and text of each line."""
    return [line.split(" | ", 2) for line in LEDGER.read_text().splitlines() if not line.startswith("#")]


def renewed(lines: Sequence[str], there: Sequence[tuple[str, str]]) -> list[str]:
    """The ledger with a line for each advice that is new, without a test, after the last line that sorts before it, and
    without those of advice that is gone. All other lines stay where they are."""
    kept = [line for line in lines if line.startswith("#") or _advice(line) in there]
    for new in sorted({*there} - {_advice(line) for line in kept if not line.startswith("#")}):
        after = [n for n, line in enumerate(kept, 1) if line.startswith("#") or _advice(line) < new]
        kept.insert(max(after, default=0), " | - | ".join(new))
    return kept


def _advice(line: str) -> tuple[str, str]:
    """Module and text of a line."""
    first, *_, text = line.split(" | ", 2)
    return first, text


if __name__ == "__main__":
    LEDGER.write_text("\n".join(renewed(LEDGER.read_text().splitlines(), [*advice()])) + "\n")
