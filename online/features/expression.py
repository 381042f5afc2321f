"""Arithmetic a task file may write: ``amount / (user.amount_ewmean + 1)`` over columns, evaluated a batch at a time.

Expressions are parsed once and checked against a small grammar, so a task file cannot run code. They know columns by
name; a dotted name such as ``user.amount_mean_1d`` is a feature of an entity.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from zlib import crc32

import numpy as np

from weir.online.batch import FloatVector
from weir.online.codec.wire import FEATURE_MAX
from weir.online.errors import TaskError
from weir.online.mistakes import did_you_mean, shown

Text = Sequence[str | None]
Column = FloatVector | Text
_Eval = Callable[[Mapping[str, Column]], FloatVector]


def _where(condition: FloatVector, a: FloatVector, b: FloatVector) -> FloatVector:
    out: FloatVector = np.where(np.asarray(condition) > 0, a, b)
    return out


def _all(*parts: FloatVector) -> FloatVector:
    return np.asarray(reduce(np.logical_and, [part > 0 for part in parts]), dtype=np.float64)


def _any(*parts: FloatVector) -> FloatVector:
    return np.asarray(reduce(np.logical_or, [part > 0 for part in parts]), dtype=np.float64)


def _or_else(a: FloatVector, b: FloatVector) -> FloatVector:
    out: FloatVector = np.where(np.isnan(a), b, a)
    return out


_BINARY: dict[type[ast.operator], Callable[[FloatVector, FloatVector], FloatVector]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
# The arity of a function of two arguments that takes more, from left to right.
_MANY = -1
_COMPARE: dict[type[ast.cmpop], Callable[[FloatVector, FloatVector], FloatVector]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
FUNCTIONS: dict[str, tuple[int, Callable[..., FloatVector]]] = {
    "abs": (1, np.abs), "ceil": (1, np.ceil), "clip": (3, np.clip), "cos": (1, np.cos), "exp": (1, np.exp),
    "floor": (1, np.floor), "isnan": (1, lambda a: np.isnan(a).astype(float)), "log": (1, np.log),
    "log10": (1, np.log10), "log1p": (1, np.log1p), "max": (_MANY, np.fmax), "min": (_MANY, np.fmin),
    "nan": (0, lambda: np.array(np.nan)), "or_else": (2, _or_else), "round": (1, np.round), "sign": (1, np.sign),
    "sin": (1, np.sin), "sqrt": (1, np.sqrt), "where": (3, _where),
}  # fmt: skip


# What a source that is no expression may hold, and how to write that.
_REMEDIES = (
    (r"(?<![=!<>])=(?!=)", "compare by =="),
    (r"&&|\|\||!(?!=)", "write and, or, not"),
    (r"(?i)\b(if|case)\b", "write where(amount > 2, 1, 0)"),
    (r"^\w+( \w+)+$", "map a column whose name has blanks in [source.columns], as amount = 'Amount EUR'"),
    ("", 'write it as "log1p(amount) > 2"'),
)


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    >>> e = Expression.parse("where(amount > 2 * user.amount_mean_1d and type == 'purchase', 1, 0)")
    >>> sorted(e.names)
    ['amount', 'type', 'user.amount_mean_1d']
    >>> bought = ["purchase"] * 2
    >>> e.evaluate({"amount": np.array([9.0, 1.0]), "user.amount_mean_1d": np.array([2.0, 2.0]), "type": bought})
    array([1., 0.])
    >>> Expression.parse(e.source) is e
    True
    """

    source: str
    names: frozenset[str]
    texts: frozenset[str]
    """The names that are compared with text."""
    _evaluate: _Eval

    @staticmethod
    def parse(source: str) -> Expression:
        """Check and compile ``source``; raises ``TaskError`` naming the part that is not allowed."""
        try:
            return _parsed(source)
        except (RecursionError, MemoryError) as exc:  # Python's parser gives up by either
            told = "it has too many parts inside each other; split it into several values"
            raise TaskError(f"expression {shown(source)}: {told}") from exc

    def evaluate(self, columns: Mapping[str, Column]) -> FloatVector:
        """Evaluate on columns of n rows, ``(n,) float64``; what is undefined (0 / 0, log of -1) is NaN.

        The caller sets ``np.errstate``, once for many expressions.
        """
        out = np.asarray(self._evaluate(columns), dtype=np.float64)
        # One sum in place of two looks at each; it is no number where one is NaN or infinite.
        if out.dot(out) < np.inf:
            return out
        return np.where(np.isinf(out), np.nan, out) if np.count_nonzero(np.isinf(out)) else out


# A task's expressions are asked for hundreds of times while its stages are made; one has nothing that could change.
@lru_cache(maxsize=4096)
def _parsed(source: str) -> Expression:
    try:
        tree = ast.parse(source, mode="eval")
    except SyntaxError as exc:
        where = f"column {exc.offset}" if exc.offset else "its end"
        remedy = next(words for pattern, words in _REMEDIES if re.search(pattern, source))
        raise TaskError(f"expression {source!r}: {exc.msg} at {where}; {remedy}") from exc
    compiler = _Compiler(source)
    evaluate = compiler.compile(tree.body)
    return Expression(source, frozenset(compiler.names), frozenset(compiler.texts), evaluate)


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


class _Compiler:
    """Turns a syntax tree into nested functions over columns."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.names: set[str] = set()
        self.texts: set[str] = set()

    def compile(self, node: ast.expr) -> _Eval:
        name = _name(node)
        if name is not None:
            self.names.add(name)
            return lambda columns: _numeric(columns[name], name, self.source)
        match node:
            case ast.Constant(value=bool() | int() | float() as value) if abs(value) <= FEATURE_MAX:
                # NumPy's: of Python's own numbers 2 ** 100_000 would be worked out in full, and 1 / 0 would raise.
                constant = np.float64(value)
                return lambda _columns: constant  # type: ignore[return-value]  # a 0-d value broadcasts
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._of(_BINARY[type(op)], left, right)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._of(operator.neg, operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._of(lambda a: (~(a > 0)).astype(float), operand)
            case ast.BoolOp(op=op, values=values):
                return self._of(_all if isinstance(op, ast.And) else _any, *values)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._compare(left, op, right)
            case ast.Compare(left=left, ops=ops, comparators=rest):  # 0 < a < 5
                sides = zip([left, *rest], ops, rest, strict=False)
                return self._of(_all, *(ast.Compare(a, [op], [b]) for a, op, b in sides))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._call("where", [test, body, orelse])
            case ast.Call(func=ast.Name(id=function), args=args, keywords=[]):
                return self._call(function, args)
        raise TaskError(
            f"expression {shown(self.source)}: {shown(ast.unparse(node))} is not allowed; use numbers, names, "
            f"+ - * / // % **, comparisons, and/or/not, hash and {', '.join(sorted(FUNCTIONS))}"
        )

    def _of(self, apply: Callable[..., FloatVector], *nodes: ast.expr) -> _Eval:
        """A function of what ``nodes`` are."""
        parts = [self.compile(node) for node in nodes]
        return lambda columns: apply(*(part(columns) for part in parts))

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Eval:
        match right:
            case ast.Constant(value=str() as word):
                return self._text(left, {word}, op)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                words = {e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)}
                if len(words) == len(elements):
                    return self._text(left, words, op)
        if type(op) not in _COMPARE:
            raise TaskError(f"expression {self.source!r}: {type(op).__name__} works on a list of texts only")
        compare = _COMPARE[type(op)]
        return self._of(lambda a, b: np.asarray(compare(a, b), dtype=np.float64), left, right)

    def _text(self, left: ast.expr, words: set[str], op: ast.cmpop) -> _Eval:
        name = _name(left)
        if name is None or not isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
            raise TaskError(f"expression {self.source!r}: a text compares as name == 'text' or name in ('a', 'b')")
        self.names.add(name)
        self.texts.add(name)
        wanted = isinstance(op, ast.Eq | ast.In)
        return lambda columns: np.array([(value in words) == wanted for value in columns[name]], dtype=np.float64)

    def _call(self, function: str, args: list[ast.expr]) -> _Eval:
        if function == "hash":
            return self._hash(args)
        if function not in FUNCTIONS:
            raise TaskError(
                f"expression {self.source!r}: unknown function {function!r}; "
                f"{did_you_mean(function, sorted([*FUNCTIONS, 'hash']))}"
            )
        arity, apply = FUNCTIONS[function]
        if len(args) != arity and not (arity == _MANY and len(args) >= 2):
            takes = "two or more arguments" if arity == _MANY else f"{arity} argument{'s' * (arity != 1)}"
            raise TaskError(f"expression {self.source!r}: {function} takes {takes}, got {len(args)}")
        return self._of((lambda *parts: reduce(apply, parts)) if arity == _MANY else apply, *args)

    def _hash(self, args: list[ast.expr]) -> _Eval:
        name = _name(args[0]) if len(args) == 1 else None
        if name is None:
            raise TaskError(f"expression {self.source!r}: hash takes one text column, such as hash(merchant_id)")
        self.names.add(name)
        self.texts.add(name)
        return lambda columns: np.array(
            [np.nan if value is None else float(crc32(str(value).encode())) for value in columns[name]]
        )


def _numeric(column: Column, name: str, source: str) -> FloatVector:
    if isinstance(column, np.ndarray):
        return column
    raise TaskError(f"expression {source!r}: {name} is text; compare it as {name} == '...', or write hash({name})")
