"""Small faults, one at a time, in the source of a module.

A mutant replaces one expression or statement. Docstrings, annotations, imports and the
texts of errors are left alone: no test should depend on them.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from functools import singledispatch
from typing import NamedTuple

_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        file: Name of the module's file.
        line: First changed line, from 1.
        number: Which mutant of that line, from 1.
        before: The changed lines as they are, without indentation.
        after: The same lines with the fault.
        source: The whole module with the fault.
    """

    file: str
    line: int
    number: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        """What the command line calls this mutant."""
        return f"{self.file}:{self.line}:{self.number}"


def mutants(file: str, source: str) -> list[Mutant]:
    """Returns every mutant of a module, in the order of its lines."""
    found: list[Mutant] = []
    numbers: dict[int, int] = {}
    tree = ast.parse(source)
    for node, text in sorted(_faults(tree), key=lambda fault: fault[0].lineno):
        mutated = _spliced(source, node, text)
        if mutated is None:
            continue
        line = node.lineno
        numbers[line] = numbers.get(line, 0) + 1
        before, after = _changed(source, mutated)
        found.append(Mutant(file, line, numbers[line], before, after, mutated))
    return found


def _faults(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yields each node that can be replaced, with the text that replaces it."""
    for child in _children(tree):
        if isinstance(child, ast.expr | ast.stmt):
            for fault in _replacements(child):
                yield child, fault if isinstance(fault, str) else _text(fault)
        if isinstance(child, ast.If) and not _for_type_checkers(child):
            yield from ((child.test, text) for text in ("True", "False"))
        yield from _faults(child)
    if isinstance(tree, ast.FunctionDef):
        # Removing the first binding of a name is a NameError, and tests nothing.
        yield from ((statement, "pass") for statement in _rebindings(tree))
    if isinstance(tree, ast.FunctionDef | ast.ClassDef):
        yield from ((decorator, "(lambda f: f)") for decorator in tree.decorator_list)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the children of a node that may be changed."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and _for_type_checkers(node):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            children = value if isinstance(value, list) else [value]
            yield from (child for child in children if isinstance(child, ast.AST))


def _for_type_checkers(node: ast.If) -> bool:
    return ast.unparse(node.test) == "TYPE_CHECKING"


def _rebindings(function: ast.FunctionDef) -> Iterator[ast.Assign]:
    stores = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    arguments = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    for statement in ast.walk(function):
        if isinstance(statement, ast.Assign):
            targets = {t.id for t in stores if t.lineno == statement.lineno}
            earlier = {t.id for t in stores if t.lineno < statement.lineno}
            if targets and targets <= earlier | arguments:
                yield statement


def _text(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if isinstance(node, ast.Constant | ast.Name) else f"({text})"


def _spliced(source: str, node: ast.expr | ast.stmt, text: str) -> str | None:
    """Returns the source with a node replaced, or None if that is no program."""
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:at])) for at in range(len(lines))]
    assert node.end_lineno is not None and node.end_col_offset is not None
    start = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    encoded = source.encode()
    mutated = (encoded[:start] + text.encode() + encoded[end:]).decode()
    try:
        changed = ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return None
    return mutated if changed else None


def _changed(source: str, mutated: str) -> tuple[str, str]:
    """Returns the lines that differ, of both, each without indentation."""
    old, new = ([line.strip() for line in s.splitlines()] for s in (source, mutated))
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return "\n".join(old), "\n".join(new)


@singledispatch
def _replacements(node: ast.AST) -> Iterator[str | ast.expr]:
    """Yields what may stand in the place of a node."""
    yield from ()


@_replacements.register
def _(node: ast.BinOp):
    if type(node.op) in _OPERATORS:
        yield _with(node, op=_OPERATORS[type(node.op)]())


@_replacements.register
def _(node: ast.Compare):
    for other in _COMPARISONS[type(node.ops[0])]:
        yield _with(node, ops=[other(), *node.ops[1:]])


@_replacements.register
def _(node: ast.BoolOp):
    yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    yield from node.values


@_replacements.register
def _(node: ast.UnaryOp):
    yield node.operand


@_replacements.register
def _(node: ast.Constant):
    if isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node.value, int):
        yield from (str(node.value + 1), f"({node.value - 1})")
    elif isinstance(node.value, float):
        yield repr(2 * node.value or 1.0)
    elif isinstance(node.value, str):
        yield repr(node.value + "_")


@_replacements.register
def _(node: ast.Call):
    for at in range(len(node.keywords)):
        yield _with(node, keywords=node.keywords[:at] + node.keywords[at + 1 :])
    args = node.args
    if any(isinstance(arg, ast.Starred) for arg in args):
        return
    for at in range(len(args) - 1):
        swapped = [*args[:at], args[at + 1], args[at], *args[at + 2 :]]
        yield _with(node, args=swapped)
    yield from args[:1]


@_replacements.register
def _(node: ast.IfExp):
    yield from (node.body, node.orelse)


@_replacements.register
def _(node: ast.Raise):
    yield "pass"


@_replacements.register
def _(node: ast.AugAssign):
    yield "pass"


@_replacements.register
def _(node: ast.Expr):
    if not isinstance(node.value, ast.Constant):
        yield "pass"


def _with(node, **fields):
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
