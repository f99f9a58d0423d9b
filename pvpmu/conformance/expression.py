"""Small integer expressions of vectors: ``NG - 1``, ``sext32(v) & MG``, ``after == before + 5``.

Parsed with :mod:`ast`, made into functions by hand: names, integers, arithmetic, bit operations,
comparisons (1 or 0), ``and``/``or``/``not`` and the functions in :data:`FUNCTIONS`; nothing else.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from pvpmu.shared.errors import UsageError
from pvpmu.shared.units import U64_MASK

_MAX_TEXT = 300
_MAX_BITS = 256
_Code = Callable[[Mapping[str, int]], int]

_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[int], int]] = {
    ast.Invert: operator.invert,
    ast.USub: operator.neg,
    ast.Not: lambda value: int(not value),
}
_COMPARE: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class ExpressionError(UsageError):
    """An expression that cannot be parsed or evaluated."""


def _sext32(value: int) -> int:
    low = value & 0xFFFF_FFFF
    return low | U64_MASK & ~0xFFFF_FFFF if low >> 31 else low


FUNCTIONS: dict[str, tuple[int, Callable[..., int]]] = {
    "sext32": (1, _sext32),
    "min": (2, min),
    "max": (2, max),
}
"""Name to (number of arguments, function). ``sext32``: bits 31:0, sign-extended to 64."""


@lru_cache(maxsize=4096)
def names_in(text: str) -> frozenset[str]:
    """The names that an expression uses; raises :class:`ExpressionError` if it is none."""
    tree = _parsed(text)
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in calls
    )


def evaluate(expression: int | str, names: Mapping[str, int]) -> int:
    """The value; raises :class:`ExpressionError` for an unknown name or a value out of hand."""
    if isinstance(expression, int):
        return expression
    return _compiled(expression)(names)


@lru_cache(maxsize=4096)
def _compiled(text: str) -> _Code:
    return _code(_parsed(text), text)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    if len(text) > _MAX_TEXT:
        raise ExpressionError(f"expression of {len(text)} characters, at most {_MAX_TEXT}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise ExpressionError(f"{text!r} is no expression") from None
    _refuse_others(tree, text)
    return tree


def _refuse_others(node: ast.expr, text: str) -> None:
    """Check shape once, at load, so that a mistake shows before anything runs."""
    match node:
        case ast.Constant(value=value) if type(value) is int:
            children: list[ast.expr] = []
        case ast.Name():
            children = []
        case ast.BinOp(op=op) if type(op) in _BINARY:
            children = [node.left, node.right]
        case ast.UnaryOp(op=unary) if type(unary) in _UNARY:
            children = [node.operand]
        case ast.BoolOp():
            children = node.values
        case ast.Compare(ops=ops) if all(type(op) in _COMPARE for op in ops):
            children = [node.left, *node.comparators]
        case ast.Call(func=ast.Name(id=name), keywords=[]) if (
            name in FUNCTIONS and len(node.args) == FUNCTIONS[name][0]
        ):
            children = node.args
        case _:
            raise ExpressionError(f"{text!r}: {ast.unparse(node)!r} is not allowed here")
    for child in children:
        _refuse_others(child, text)


def _code(node: ast.expr, text: str) -> _Code:
    """What computes a node's value from names: an expression is evaluated many thousand times."""
    match node:
        case ast.Constant(value=int(value)):
            return lambda _: value
        case ast.Name(id=name):
            return lambda names: _named(name, names, text)
        case ast.BinOp(op=op):
            left, right = _code(node.left, text), _code(node.right, text)
            return lambda names: _binary(op, left(names), right(names), text)
        case ast.UnaryOp(op=unary):
            change, operand = _UNARY[type(unary)], _code(node.operand, text)
            return lambda names: change(operand(names))
        case ast.BoolOp(op=join, values=values):
            parts = [_code(each, text) for each in values]
            of = all if isinstance(join, ast.And) else any
            return lambda names: int(of(part(names) for part in parts))
        case ast.Compare(left=first, comparators=others):
            sides = [_code(each, text) for each in (first, *others)]
            tests = [_COMPARE[type(op)] for op in node.ops]
            return lambda names: _compared(tests, [side(names) for side in sides])
        case ast.Call(func=ast.Name(id=name), args=args):
            function, given = FUNCTIONS[name][1], [_code(each, text) for each in args]
            return lambda names: function(*(each(names) for each in given))
    raise AssertionError(ast.dump(node))  # _refuse_others has let nothing else through


def _named(name: str, names: Mapping[str, int], text: str) -> int:
    if name not in names:
        raise ExpressionError(f"{text!r}: unknown name {name!r}")
    return names[name]


def _compared(tests: Sequence[Callable[[int, int], bool]], values: Sequence[int]) -> int:
    return int(all(map(lambda test, a, b: test(a, b), tests, values, values[1:])))


def _binary(op: ast.operator, left: int, right: int, text: str) -> int:
    shift = isinstance(op, (ast.LShift, ast.RShift))
    if shift and not 0 <= right < _MAX_BITS:
        raise ExpressionError(f"{text!r}: shift by {right}")
    if isinstance(op, (ast.FloorDiv, ast.Mod)) and right == 0:
        raise ExpressionError(f"{text!r}: division by 0")
    value = _BINARY[type(op)](left, right)
    if value.bit_length() > _MAX_BITS:
        raise ExpressionError(f"{text!r}: more than {_MAX_BITS} bits")
    return value
