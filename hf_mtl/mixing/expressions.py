"""Weights written as expressions of the step: arithmetic on a few names, and nothing else."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..nearest import nearest

__all__ = ["NAMES", "evaluate", "parse"]

NAMES = ("progress", "step", "epoch", "size")
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "exp": math.exp,
    "log": math.log,
    "max": max,
    "min": min,
    "sqrt": math.sqrt,
}
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_KNOWN = f"numbers, + - * / **, {', '.join(_FUNCTIONS)}, and the names {', '.join(NAMES)}"
_LONGEST = 300  # characters; also keeps the nesting far from Python's limit on recursion

_Compiled = Callable[[Mapping[str, float]], float]


@lru_cache(maxsize=1024)
def parse(text: str, name: str) -> _Compiled:
    """An expression -> a function of the values of `NAMES`; `name` is that of its place, for messages.

    Only what is listed here is ever carried out, so an expression may come from a file that is not trusted.

    Raises:
        ValueError: it is too long, no expression, or holds something else than numbers, operators and known names.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"{name}={text[:60]!r}... has {len(text)} characters: at most {_LONGEST} are read.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{name}={text!r} is not an expression ({error}). It may have {_KNOWN}.") from error
    return _compiled(tree.body, f"{name}={text!r}")


def evaluate(text: str, values: Mapping[str, float], name: str) -> float:
    """The value of an expression; `name` is that of its place, for messages.

    Raises:
        ValueError: as `parse` does, and where the arithmetic has no real and finite result.
    """
    compiled = parse(text, name)
    try:
        result = compiled(values)
    except (ArithmeticError, ValueError, TypeError) as error:  # a complex root can be neither compared nor rooted
        raise ValueError(f"{name}={text!r} has no value at {_shown(values)}: {error}.") from error
    if isinstance(result, complex) or not math.isfinite(result):
        raise ValueError(f"{name}={text!r} is {result} at {_shown(values)}: it must be a finite number.")
    return float(result)


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in values.items())


def _compiled(node: ast.expr, place: str) -> _Compiled:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        if abs(node.value) > 1e300:
            raise ValueError(f"{place} has a number that is too large.")
        number = float(node.value)  # whole numbers of any length would make `**` endless
        return lambda values: number
    if isinstance(node, ast.Name):
        if node.id not in NAMES:
            raise ValueError(f"{place} has the name {node.id!r}. {nearest(node.id, [*NAMES, *_FUNCTIONS])}")
        name = node.id
        return lambda values: values[name]
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        combine, left, right = _BINARY[type(node.op)], _compiled(node.left, place), _compiled(node.right, place)
        return lambda values: combine(left(values), right(values))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        change, operand = _UNARY[type(node.op)], _compiled(node.operand, place)
        return lambda values: change(operand(values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _call(node.func.id, node.args, place)
    raise ValueError(f"{place} has {ast.unparse(node)!r}, which is not understood. It may have {_KNOWN}.")


def _call(name: str, arguments: list[ast.expr], place: str) -> _Compiled:
    if name not in _FUNCTIONS:
        raise ValueError(f"{place} calls {name!r}. {nearest(name, _FUNCTIONS)}")
    several = name in ("max", "min")
    if len(arguments) < 2 if several else len(arguments) != 1:
        raise ValueError(
            f"{place} gives {name} {len(arguments)} values: it takes {'two or more' if several else 'one'}."
        )
    function, given = _FUNCTIONS[name], [_compiled(argument, place) for argument in arguments]
    return lambda values: function(*[argument(values) for argument in given])
