"""A condition on the columns of a table, written as Python writes conditions: ``sqi > 0.8 and fold in (1, 2)``.

Read by Python's own parser, but never run by it: each part of the condition is looked at, and only comparisons,
``and``, ``or``, ``not``, ``in``, arithmetic, numbers, texts and names of columns are understood.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgstore.errors import ConfigError, nearest
from ecgstore.storage import tables

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
#: A condition may be as long as this, and have so many parts besides values: each part costs some of the stack.
MOST_CHARACTERS, MOST_PARTS = 100_000, 1000

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def rows_where(table: pa.Table, condition: str) -> npt.NDArray[np.bool_]:
    """Which rows of ``table`` meet the ``condition``, bool (rows,); a null meets nothing.

    Raises ConfigError naming the part that is not understood, and the nearest column for one that is not there.
    """
    shown = repr(condition if len(condition) <= 200 else f"{condition[:200]}…")
    try:
        _refuse_long(len(condition), MOST_CHARACTERS, "characters", shown)
        tree = ast.parse(condition.strip(), mode="eval").body
        n_parts = sum(not isinstance(node, ast.Constant | ast.expr_context) for node in ast.walk(tree))
        _refuse_long(n_parts + _n_joined(tree), MOST_PARTS, "parts", shown)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ConfigError("the condition can't be read", where=shown, got=str(error) or "too many parts") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError("the condition can't be read", where=shown, got=str(error)) from None
    try:
        matched = table.append_column("_where", _column(table, _expression(table, tree, condition)))["_where"]
    except (pa.ArrowException, TypeError, RecursionError, OverflowError) as error:
        detail = str(error).splitlines()[0]
        raise ConfigError("the condition can't be worked out", where=repr(condition), got=detail) from None
    if not pa.types.is_boolean(matched.type):
        raise ConfigError("the condition is not one", where=repr(condition), expected="true or false", got=matched.type)
    return tables.numbers(matched, False)


def columns_in(condition: str, names: Sequence[str]) -> list[str]:
    """Those of the columns ``names`` that a condition compares; all where it says something else too, to be refused."""
    try:
        tree = ast.parse(condition[:MOST_CHARACTERS].strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return list(names)
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return [name for name in names if name in named] if named and named.issubset(names) else list(names)


def texts_in(condition: str) -> set[str]:
    """The texts that a condition compares with; of one that can't be read, the whole of it."""
    try:
        tree = ast.parse(condition.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {condition}
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _n_joined(tree: ast.expr) -> int:
    """Joins of more than two parts, which stand as one in the tree."""
    return sum(len(node.values) - 2 for node in ast.walk(tree) if isinstance(node, ast.BoolOp))


def _refuse_long(n: int, most: int, noun: str, shown: str) -> None:
    if n > most:
        raise ConfigError("the condition is too long", where=shown, expected=f"{most} {noun} at most", got=n)


def _column(table: pa.Table, expression: Any) -> Any:
    """The values of an expression, one per row."""
    from pyarrow.acero import Declaration, ProjectNodeOptions, TableSourceNodeOptions

    source = Declaration("table_source", TableSourceNodeOptions(table))
    project = Declaration("project", ProjectNodeOptions([expression], ["_where"]), inputs=[source])
    return project.to_table(use_threads=False)["_where"]


def _expression(table: pa.Table, node: ast.expr, condition: str) -> Any:
    match node:
        case ast.BoolOp(op, values):
            first, *others = (_expression(table, value, condition) for value in values)
            for other in others:
                first = (first & other) if isinstance(op, ast.And) else (first | other)
            return first
        case ast.UnaryOp(ast.Not(), operand):
            return ~_expression(table, operand, condition)
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return pc.scalar(-value)
        case ast.Compare(left, ops, comparators):
            return _comparison(table, [left, *comparators], ops, condition)
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_expression(table, left, condition), _expression(table, right, condition))
        case ast.Constant(bool() | int() | float() | str() as value):
            return pc.scalar(value)
        case ast.Name(name):
            return _field(table, name, condition)
    raise ConfigError(
        "a part of the condition is not understood",
        where=repr(condition),
        got=ast.unparse(node),
        expected="comparisons of columns with numbers or texts, and, or, not, in, + - * /",
    )


def _comparison(table: pa.Table, terms: list[ast.expr], ops: list[ast.cmpop], condition: str) -> Any:
    whole = None
    for left, op, right in zip(terms[:-1], ops, terms[1:], strict=True):
        if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.Tuple | ast.List | ast.Set):
            values = [_constant(item, condition) for item in right.elts]
            value = _expression(table, left, condition)
            part = ~value.isin(values) if isinstance(op, ast.NotIn) else value.isin(values)
            part = part & pc.if_else(value.is_valid(), pc.scalar(True), pc.scalar(None))
        elif type(op) in _COMPARE:
            part = _COMPARE[type(op)](_expression(table, left, condition), _expression(table, right, condition))
        else:
            raise ConfigError("a part of the condition is not understood", where=repr(condition), got=type(op).__name__)
        whole = part if whole is None else whole & part
    return whole


def _constant(node: ast.expr, condition: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise ConfigError(
            "only plain values can stand in a list", where=repr(condition), got=ast.unparse(node)
        ) from None


def _field(table: pa.Table, name: str, condition: str) -> Any:
    if name not in table.column_names:
        near = nearest(name, table.column_names)
        fix = f"did you mean {near}?" if near else f"there are {', '.join(table.column_names)}"
        raise ConfigError(f"no column {name!r} in the table of records", where=repr(condition), fix=fix)
    return pc.field(name)
