"""Expressions over events, such as ``sum(Jet_pt) > 200 and abs(Lepton_eta[0]) < 2.4``.

The language is described in docs/explanation/expressions.md. A text becomes a syntax tree, of which
only known nodes are accepted, and that becomes functions of numpy: nothing of the text is ever run
as Python. A number is float64; what isn't finite, stored or computed, is missing (NaN).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.core.errors import EventError, UsageError, did_you_mean, nearest
from mlaas4hep.core.units import many
from mlaas4hep.data.events import Branch, Jagged

MOST_CHARACTERS = 2000
MOST_NODES = 500
"""Branches, numbers and operations of one expression."""
MOST_DEPTH = 50
MOST_INDEX = 2**31

Value = Any
"""A number or bool, an array of one for each event, or Jagged."""
Function = Callable[..., Value]
_SHOWN = 100  # characters of an expression that an error shows
_NAME = re.compile(r"`([^`]*)`")


class ExpressionError(UsageError):
    """An expression that can't be used; the message shows it and points at the character."""

    def __init__(self, where: str, text: str, at: int, about: str, remedy: str = "") -> None:
        start = max(0, min(at - _SHOWN // 2, len(text) - _SHOWN))
        shown = "".join(c if c.isprintable() else " " for c in text[start : start + _SHOWN])
        message = f"{where}, character {at + 1}: {about}\n  {shown}\n  {' ' * (at - start)}^"
        super().__init__(message, remedy)


class Kind(NamedTuple):
    """What a branch or expression is: a list per event or one value, of conditions or numbers."""

    is_list: bool
    is_condition: bool

    def __str__(self) -> str:
        what = "condition" if self.is_condition else "number"
        return f"a list of {what}s" if self.is_list else f"one {what} per event"


class Expression:
    """A parsed expression; ``names`` are the branches that it reads, in order of appearance.

    ``where`` names it in errors. Raises ExpressionError unless it is of the language.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self.nodes = 0
        self._bytes = text.encode("utf-8", "replace")
        self._quoted: dict[int, str] = {}
        self._root = self._parse()
        self._names: dict[str, ast.expr] = {}
        self._check(self._root, 1)
        if not self._names:
            raise self.error(self._root, "it reads no branch")

    @property
    def names(self) -> list[str]:
        """The branches that it reads."""
        return list(self._names)

    def error(self, node: ast.expr | None, about: str, remedy: str = "") -> ExpressionError:
        """An error about a part of the expression; None is all of it."""
        at = 0 if node is None else len(self._bytes[: node.col_offset].decode(errors="replace"))
        return ExpressionError(self.where, self.text, at, about, remedy)

    def error_about(self, name: str, about: str, remedy: str = "") -> ExpressionError:
        """An error about a branch that it reads, where it does so first."""
        return self.error(self._names[name], about, remedy)

    def bind(self, kinds: Mapping[str, Kind]) -> Bound:
        """The expression for branches of these kinds.

        Raises ExpressionError naming a branch that is none of them, or what an operation can't
        take.
        """
        return Bound(self, _Compiler(self, kinds), self._root)

    def name_of(self, node: ast.expr) -> str:
        """The branch that a node names, as it is written: Python would normalise letters."""
        if node.col_offset in self._quoted:
            return self._quoted[node.col_offset]
        return "".join(self.source(node).split())

    def source(self, node: ast.expr) -> str:
        """What was written for the node."""
        return self._bytes[node.col_offset : node.end_col_offset].decode(errors="replace")

    def _parse(self) -> ast.expr:
        text = self.text

        def fail(at: int, about: str, remedy: str = "") -> ExpressionError:
            return ExpressionError(self.where, text, at, about, remedy)

        if len(text) > MOST_CHARACTERS:
            raise fail(
                MOST_CHARACTERS,
                f"longer than {MOST_CHARACTERS} characters",
                "Give parts of it names, in new_variables.",
            )
        if not text.strip():
            raise fail(0, "it is empty")
        # A quoted name is replaced by one that Python knows, of as many bytes.
        plain = text.translate(dict.fromkeys(map(ord, "\n\r\t\f\v"), " "))
        for found in _NAME.finditer(plain):
            if not found[1]:
                raise fail(found.start(), "a name without letters")
            self._quoted[len(plain[: found.start()].encode("utf-8", "replace"))] = found[1]
        plain = _NAME.sub(lambda found: "_" * len(found[0].encode("utf-8", "replace")), plain)
        for token, remedy in _NOT_PYTHON:
            if odd := re.search(token, plain):
                before = plain[: odd.start()].encode("utf-8", "replace")
                at = len(self._bytes[: len(before)].decode(errors="replace"))
                raise fail(at, f"{odd[0]!r} is not known", remedy)
        indent = len(plain) - len(plain.lstrip())
        try:
            root = ast.parse(plain.strip(), mode="eval").body
        except SyntaxError as error:
            offset = error.offset or len(text) + 1  # 0 is its end
            before = plain.strip()[: offset - 1].encode("utf-8", "replace")
            at = len(self._bytes[: indent + len(before)].decode(errors="replace"))
            what = (error.msg or "not understood").partition(". ")[0]
            remedy = "Close it." if what.endswith("was never closed") else _HELP
            raise fail(min(at, len(text)), what, remedy) from None
        except (ValueError, RecursionError, MemoryError):
            raise fail(0, "not understood: nested too deeply, or no text", _HELP) from None
        if indent:
            for node in ast.walk(root):
                if isinstance(node, ast.expr):
                    node.col_offset += indent
                    node.end_col_offset = (node.end_col_offset or 0) + indent
        return root

    def _check(self, node: ast.expr, depth: int) -> None:
        """Count nodes and depth, note names, and refuse whatever is not of the language."""
        self.nodes += 1
        if self.nodes > MOST_NODES or depth > MOST_DEPTH:
            limit = f"{MOST_NODES} parts" if self.nodes > MOST_NODES else f"{MOST_DEPTH} levels"
            raise self.error(node, f"more than {limit}", "Give parts of it names, in new_variables")
        children: Sequence[ast.expr] = ()
        match node:
            case ast.Name() | ast.Attribute():
                self._check_name(node)
            case ast.Constant():
                self._check_constant(node)
            case ast.BoolOp(values=values):
                children = values
            case ast.UnaryOp(operand=operand):
                children = [operand]
            case ast.BinOp(left=left, op=op, right=right):
                if type(op) not in _ARITHMETIC and not isinstance(op, ast.BitAnd | ast.BitOr):
                    remedy = "Write a**b for a power." if isinstance(op, ast.BitXor) else _HELP
                    raise self.error(node, "an operator that is not known", remedy)
                children = [left, right]
            case ast.Compare(left=left, ops=ops, comparators=others):
                if any(type(op) not in _COMPARISONS for op in ops):
                    raise self.error(node, "a comparison that is not known", _HELP)
                children = [left, *others]
            case ast.Call():
                children = self._arguments(node)
            case ast.Subscript(value=value, slice=index):
                children = [value] if _as_index(index) is not None else [value, index]
            case ast.IfExp():
                raise self.error(node, "if is not known", "Write where(condition, a, b).")
            case _:
                raise self.error(node, "this is not known", _HELP)
        for child in children:
            self._check(child, depth + 1)

    def _check_name(self, node: ast.Name | ast.Attribute) -> None:
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self.error(node, "this is not known", _HELP)
        self._names.setdefault(self.name_of(node), node)

    def _check_constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, bool | int | float):
            raise self.error(node, f"{self.source(node)[:40]} is not a number")
        try:
            finite = np.isfinite(float(node.value))
        except OverflowError:
            finite = False
        if not finite:
            raise self.error(node, "this number is beyond those of float64")

    def _arguments(self, node: ast.Call) -> Sequence[ast.expr]:
        name = self.name_of(node.func)
        if name not in FUNCTIONS:
            last = re.split(r"[.:]", name)[-1]
            known = _ALSO.get(last) or (last if last in FUNCTIONS else "")
            near = nearest(name[:100], FUNCTIONS)
            remedy = f"The functions are: {', '.join(FUNCTIONS)}."
            if known or near:
                remedy = f"Did you mean {known or ' or '.join(near)}? {remedy}"
            raise self.error(node, f"no function {name[:100]!r}", remedy)
        wanted = FUNCTIONS[name].takes
        if node.keywords or any(isinstance(each, ast.Starred) for each in node.args):
            raise self.error(node, f"{name} takes values only, not names of arguments")
        if len(node.args) != len(wanted):
            remedy = (
                "minimum(a, b) and maximum(a, b) compare two." if name in ("min", "max") else ""
            )
            said = f"{name}({', '.join(wanted)})"
            raise self.error(node, f"{many(len(node.args), 'argument')} for {said}", remedy)
        return node.args


class Bound:
    """An expression for branches of known kinds; call it with the values of these branches.

    ``kind`` is its own. ``terms`` are the conditions that ``and`` joins at the outermost level,
    each as its text and its function; one for all else.
    """

    def __init__(self, source: Expression, compiler: _Compiler, root: ast.expr) -> None:
        self.source = source
        self.kind, self._value = compiler.compile(root)
        joined = _joined(root) if self.kind.is_condition else [root]
        self.terms = [(source.source(each), compiler.compile(each)[1]) for each in joined]

    def __call__(self, values: Mapping[str, Branch]) -> Branch:
        """The result: float64 or bool, of one value per event or Jagged.

        ``values`` are as ``numbers`` gives them. Raises EventError naming two lists whose lengths
        differ, or a value that is not whole where it has to be.
        """
        with np.errstate(all="ignore"):
            result: Branch = self._value(values)
        return result


def numbers(values: Branch, dtype: str = "") -> Branch:
    """A branch as expressions take it: float64, NaN where it is missing, or bool.

    ``dtype`` is the type that the branch has in the files, "" if ``values`` have it: what a client
    sent as decimal text is rounded to it, so that both give the same numbers.
    """
    if isinstance(values, Jagged):
        offsets = values.offsets
        content = values.content[offsets[0] : offsets[-1]]
        return Jagged(offsets - offsets[0] if offsets[0] else offsets, _number(content, dtype))
    return _number(values, dtype)


def _number(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    if (dtype or values.dtype.name) == "bool":
        return values if values.dtype.kind == "b" else (values != 0) & ~np.isnan(values)
    if dtype.startswith("float") and values.dtype.name != dtype:
        with np.errstate(over="ignore"):
            values = values.astype(dtype)
    is_real = values.dtype.kind == "f"
    result = np.ascontiguousarray(values, np.float64)
    if is_real and not (finite := np.isfinite(result)).all():
        result = np.where(finite, result, np.nan)
    return result


def kept(lists: Jagged, mask: NDArray[np.bool_], offsets: NDArray[np.int64]) -> Jagged:
    """The entries of the lists where ``mask`` is true; ``offsets`` are those of the result."""
    first, last = lists.offsets[0], lists.offsets[-1]
    return Jagged(offsets, lists.content[first:last][mask])


def kept_offsets(lists: Jagged, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The offsets, from 0, of lists of which only the entries where ``mask`` is true are kept."""
    sums = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(mask, out=sums[1:])
    offsets: NDArray[np.int64] = sums[lists.offsets - lists.offsets[0]]
    return offsets


def refuse_lengths(first: str, lists: Jagged, second: str, others: Jagged) -> None:
    """EventError if the lists of two texts don't have the same length in every event."""
    if lists.offsets is others.offsets or np.array_equal(lists.counts, others.counts):
        return
    event = int(np.flatnonzero(lists.counts != others.counts)[0])
    length = int(lists.counts[event])
    raise EventError(
        event,
        f"{first} has {many(length, 'value')}, {second} has {others.counts[event]}",
        "Lists that are combined have one length in every event.",
    )


_HELP = (
    "An expression has branches, numbers, + - * / // % **, comparisons, and or not, functions and"
    " Jet_pt[0]; a branch name with other characters goes in backquotes."
)
_NOT_PYTHON = (
    (r"&&", "Write and."),
    (r"\|\|", "Write or."),
    (r"!(?!=)", "Write not."),
    (r"#", "A branch name with other characters than those of variables goes in backquotes."),
    (r"`", "A name is quoted by two of them."),
    (r"(?<![<>=!])=(?!=)", "Write == to compare."),
)
_ALSO = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "atan2": "arctan2",
    "fabs": "abs",
    "Abs": "abs",
    "ln": "log",
    "pow": "a**b",
    "len": "count",
    "size": "count",
    "num": "count",
    "Sum": "sum",
    "Min": "min",
    "Max": "max",
    "Any": "any",
    "All": "all",
    "if": "where",
    "DeltaR": "delta_r",
    "deltaR": "delta_r",
    "DeltaPhi": "delta_phi",
    "deltaPhi": "delta_phi",
    "InvariantMass": "invariant_mass",
}
"""What others call our functions."""


class _Compiler:
    """Makes a function of the values of branches from each node of an expression."""

    def __init__(self, source: Expression, kinds: Mapping[str, Kind]) -> None:
        self._source, self._kinds = source, kinds
        self._known: dict[ast.expr, tuple[Kind, Function]] = {}

    def compile(self, node: ast.expr) -> tuple[Kind, Function]:
        """The node's kind, and the function that computes it."""
        if node not in self._known:
            self._known[node] = self._compile(node)
        return self._known[node]

    def _compile(self, node: ast.expr) -> tuple[Kind, Function]:
        match node:
            case ast.Name() | ast.Attribute():
                return self._branch(self._source.name_of(node), node)
            case ast.Constant(value=value):
                is_condition = isinstance(value, bool)
                constant = np.bool_(value) if is_condition else np.float64(value)  # type: ignore[arg-type]
                return Kind(False, is_condition), lambda values: constant
            case ast.BoolOp(op=op, values=parts):
                logic = np.logical_and if isinstance(op, ast.And) else np.logical_or
                self._conditions(parts, "and" if isinstance(op, ast.And) else "or")
                return self._each(lambda *all_: reduce(logic, all_), parts, True)
            case ast.UnaryOp(op=op, operand=operand):
                return self._unary(op, operand, node)
            case ast.BinOp(left=left, op=op, right=right):
                if isinstance(op, ast.BitAnd | ast.BitOr):
                    return self._bits(op, left, right)
                return self._each(_ARITHMETIC[type(op)], [left, right], False)
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=func, args=args):
                return self._call(FUNCTIONS[self._source.name_of(func)], args, node)
            case ast.Subscript(value=inner, slice=index):
                return self._subscript(inner, index)
        raise AssertionError(node)

    def _branch(self, name: str, node: ast.expr) -> tuple[Kind, Function]:
        if name not in self._kinds:
            raise self._source.error(
                node, f"no branch {name[:100]!r}", did_you_mean(name[:100], self._kinds)
            )
        return self._kinds[name], lambda values: values[name]

    def _each(
        self, function: Function, parts: Sequence[ast.expr], is_condition: bool
    ) -> tuple[Kind, Function]:
        """A function of single numbers, applied to those of an event, or of each of its lists."""
        compiled = [self.compile(part) for part in parts]
        texts = [self._source.source(part)[:_SHOWN] for part in parts]

        def value(values: Mapping[str, Branch]) -> Value:
            offsets, contents = _aligned([each(values) for _, each in compiled], texts)
            result = function(*contents)
            return result if offsets is None else Jagged(offsets, result)

        return Kind(any(kind.is_list for kind, _ in compiled), is_condition), value

    def _conditions(self, parts: Sequence[ast.expr], what: str) -> None:
        for part in parts:
            kind, _ = self.compile(part)
            if not kind.is_condition:
                raise self._source.error(
                    part,
                    f"{what} takes conditions, this is {kind}",
                    "Compare it, for instance != 0.",
                )

    def _unary(self, op: ast.unaryop, operand: ast.expr, node: ast.expr) -> tuple[Kind, Function]:
        if isinstance(op, ast.Not | ast.Invert):
            self._conditions([operand], "not" if isinstance(op, ast.Not) else "~")
            return self._each(np.logical_not, [operand], True)
        sign = -1.0 if isinstance(op, ast.USub) else 1.0
        return self._each(lambda x: x * sign, [operand], False)

    def _bits(
        self, op: ast.BitAnd | ast.BitOr, left: ast.expr, right: ast.expr
    ) -> tuple[Kind, Function]:
        """``&`` and ``|``: of conditions like and, or; of numbers bit by bit."""
        sides = [self.compile(side) for side in (left, right)]
        is_and = isinstance(op, ast.BitAnd)
        if all(kind.is_condition for kind, _ in sides):
            return self._each(np.logical_and if is_and else np.logical_or, [left, right], True)
        sign = "&" if is_and else "|"
        if any(kind.is_condition for kind, _ in sides):
            raise self._source.error(left, f"{sign} of a condition and a number", _PARENTHESES)
        texts = [self._source.source(side)[:_SHOWN] for side in (left, right)]
        function = np.bitwise_and if is_and else np.bitwise_or

        def value(values: Mapping[str, Branch]) -> Value:
            offsets, contents = _aligned([each(values) for _, each in sides], texts)
            for text, content in zip(texts, contents, strict=True):
                _refuse_fractions(content, offsets, text, sign)
            missing = np.isnan(contents[0]) | np.isnan(contents[1])
            whole = (np.where(missing, 0.0, x).astype(np.int64) for x in contents)
            result = np.where(missing, np.nan, function(*whole))
            return result if offsets is None else Jagged(offsets, result)

        return Kind(any(kind.is_list for kind, _ in sides), False), value

    def _compare(self, node: ast.Compare) -> tuple[Kind, Function]:
        parts = [node.left, *node.comparators]
        if len(parts) > 2:
            for part in parts:
                if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitAnd | ast.BitOr):
                    raise self._source.error(part, "& or | between comparisons", _PARENTHESES)
        functions = [_COMPARISONS[type(op)] for op in node.ops]

        def chain(*values: Value) -> Value:
            pairs = zip(functions, values, values[1:], strict=False)
            return reduce(np.logical_and, (compare(a, b) for compare, a, b in pairs))

        return self._each(chain, parts, True)

    def _call(
        self, function: _Known, args: Sequence[ast.expr], node: ast.Call
    ) -> tuple[Kind, Function]:
        name = self._source.name_of(node.func)
        kinds = [self.compile(arg)[0] for arg in args]
        if function.of_lists:
            return self._reduce(name, function.compute, args[0])
        if name == "where":
            self._conditions(args[:1], "where")
            is_condition = kinds[1].is_condition and kinds[2].is_condition
            return self._each(np.where, args, is_condition)
        return self._each(function.compute, args, name == "isnan")

    def _reduce(self, name: str, compute: Function, arg: ast.expr) -> tuple[Kind, Function]:
        """A function of each event's list."""
        kind, value = self.compile(arg)
        if not kind.is_list:
            raise self._source.error(arg, f"{name} takes a list, this is {kind}")
        if name in ("any", "all"):
            self._conditions([arg], name)
        result = Kind(False, name in ("any", "all"))
        return result, lambda values: compute(value(values))

    def _subscript(self, inner: ast.expr, index: ast.expr) -> tuple[Kind, Function]:
        kind, lists = self.compile(inner)
        if not kind.is_list:
            raise self._source.error(inner, f"[ ] takes from a list, this is {kind}")
        place = _as_index(index)
        if place is not None:
            if abs(place) >= MOST_INDEX:
                raise self._source.error(index, f"no list has {place} values")
            gap: Any = False if kind.is_condition else np.nan
            return Kind(False, kind.is_condition), lambda values: _at(lists(values), place, gap)
        condition, mask = self.compile(index)
        if condition != Kind(True, True):
            raise self._source.error(
                index,
                f"[ ] takes a whole number or a condition on each entry, this is {condition}",
            )
        texts = [self._source.source(each)[:_SHOWN] for each in (inner, index)]

        def value(values: Mapping[str, Branch]) -> Value:
            of, where = lists(values), mask(values)
            refuse_lengths(texts[0], of, texts[1], where)
            return kept(of, where.content, kept_offsets(where, where.content))

        return kind, value


_PARENTHESES = "& and | bind closer than comparisons: write (a > 1) & (b < 2), or and, or."


def _as_index(node: ast.expr) -> int | None:
    """The whole number that is written there, with its sign."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return sign * node.value
    return None


def _joined(node: ast.expr) -> list[ast.expr]:
    """The conditions that ``and`` or ``&`` joins, from left to right."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [each for value in node.values for each in _joined(value)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return [*_joined(node.left), *_joined(node.right)]
    return [node]


def _aligned(
    values: Sequence[Value], texts: Sequence[str]
) -> tuple[NDArray[np.int64] | None, list[Value]]:
    """Values entry by entry: offsets (None without a list), and arrays of one length, or scalars.

    What is one per event is repeated for each entry of the event's list.
    """
    lists = [(each, text) for each, text in zip(values, texts, strict=True)
             if isinstance(each, Jagged)]  # fmt: skip
    if not lists:
        return None, list(values)
    (first, name), *others = lists
    for other, text in others:
        refuse_lengths(name, first, text, other)
    contents = [
        each.content
        if isinstance(each, Jagged)
        else np.repeat(each, first.counts)
        if np.ndim(each)
        else each
        for each in values
    ]
    return first.offsets, contents


def _refuse_fractions(
    content: Value, offsets: NDArray[np.int64] | None, text: str, sign: str
) -> None:
    wrong = np.atleast_1d((content != np.rint(content)) & ~np.isnan(content))
    wrong |= np.atleast_1d(np.abs(content) > 2.0**53)
    if not wrong.any():
        return
    at = int(np.flatnonzero(wrong)[0])
    event = at if offsets is None else int(np.searchsorted(offsets, at, "right")) - 1
    shown = np.atleast_1d(content)[at]
    raise EventError(
        event, f"{text} is {shown:g}: {sign} takes conditions or whole numbers", _PARENTHESES
    )


def _at(lists: Jagged, place: int, gap: Any) -> NDArray[Any]:
    """The entry at that place of each list, from its end if negative; ``gap`` where it has none."""
    counts = lists.counts
    there = counts > place if place >= 0 else counts >= -place
    result = np.full(len(counts), gap, lists.content.dtype)
    begins = lists.offsets[:-1] if place >= 0 else lists.offsets[1:]
    result[there] = lists.content[begins[there] + place]
    return result


def _finite(function: Function) -> Function:
    """The same function, with NaN where it gives infinity."""

    def value(*arguments: Value) -> Value:
        result = function(*arguments)
        infinite = np.isinf(result)
        return np.where(infinite, np.nan, result) if infinite.any() else result

    return value


def _as_float(function: Function) -> Function:
    """A function of numbers that takes conditions too, as 0 and 1."""
    return _finite(lambda *arguments: function(*(np.asarray(x, np.float64) for x in arguments)))


def _differ(a: Value, b: Value) -> Value:
    return (a < b) | (a > b)  # not !=, which holds for NaN


def _delta_phi(a: Value, b: Value) -> Value:
    difference = a - b
    return difference - 2 * np.pi * np.rint(difference / (2 * np.pi))


def _delta_r(eta: Value, phi: Value, other_eta: Value, other_phi: Value) -> Value:
    return np.sqrt((eta - other_eta) ** 2 + _delta_phi(phi, other_phi) ** 2)


def _mass(pt: Value, eta: Value, phi: Value, pt2: Value, eta2: Value, phi2: Value) -> Value:
    """Of two particles without mass."""
    return np.sqrt(2 * pt * pt2 * (np.cosh(eta - eta2) - np.cos(phi - phi2)))


def _over_lists(function: Any, of_none: float) -> Function:
    """A ufunc over each list; ``of_none`` where it is empty."""

    def value(lists: Jagged) -> NDArray[np.float64]:
        counts = lists.counts
        result = np.full(len(counts), of_none)
        some = counts > 0
        if some.any():
            content = np.asarray(lists.content, np.float64)
            result[some] = function.reduceat(content, lists.offsets[:-1][some])
        finite = np.isfinite(result)
        return result if finite.all() else np.where(finite, result, np.nan)

    return value


def _hits(lists: Jagged) -> NDArray[np.int64]:
    """How many conditions of each list are true."""
    return np.diff(kept_offsets(lists, lists.content.astype(bool)))


def _count(lists: Jagged) -> NDArray[np.float64]:
    """True conditions of each list; all entries of a list of numbers."""
    counts = _hits(lists) if lists.content.dtype.kind == "b" else lists.counts
    return counts.astype(np.float64)


_ARITHMETIC: dict[type[ast.operator], Function] = {
    ast.Add: _as_float(np.add),
    ast.Sub: _as_float(np.subtract),
    ast.Mult: _as_float(np.multiply),
    ast.Div: _as_float(np.divide),
    ast.FloorDiv: _as_float(np.floor_divide),
    ast.Mod: _as_float(np.remainder),
    ast.Pow: _as_float(np.power),
}
_COMPARISONS: dict[type[ast.cmpop], Function] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: _differ,
}


class _Known(NamedTuple):
    """A function: its arguments, how it is computed, and whether it is of an event's list."""

    takes: tuple[str, ...]
    compute: Function
    of_lists: bool = False


_LIST = ("list",)
FUNCTIONS: dict[str, _Known] = {
    **{
        name: _Known(("x",), _as_float(getattr(np, name)))
        for name in (
            *("abs", "sqrt", "exp", "log", "log10", "sin", "cos", "tan", "arcsin", "arccos"),
            *("arctan", "sinh", "cosh", "tanh"),
        )
    },
    "arctan2": _Known(("y", "x"), _as_float(np.arctan2)),
    "minimum": _Known(("a", "b"), _as_float(np.minimum)),
    "maximum": _Known(("a", "b"), _as_float(np.maximum)),
    "where": _Known(("condition", "a", "b"), np.where),
    "isnan": _Known(("x",), np.isnan),
    "delta_phi": _Known(("phi1", "phi2"), _as_float(_delta_phi)),
    "delta_r": _Known(("eta1", "phi1", "eta2", "phi2"), _as_float(_delta_r)),
    "invariant_mass": _Known(("pt1", "eta1", "phi1", "pt2", "eta2", "phi2"), _as_float(_mass)),
    "min": _Known(_LIST, _over_lists(np.minimum, np.nan), True),
    "max": _Known(_LIST, _over_lists(np.maximum, np.nan), True),
    "sum": _Known(_LIST, _over_lists(np.add, 0.0), True),
    "count": _Known(_LIST, _count, True),
    "any": _Known(_LIST, lambda lists: _hits(lists) > 0, True),
    "all": _Known(_LIST, lambda lists: _hits(lists) == lists.counts, True),
}
"""What an expression may call."""
