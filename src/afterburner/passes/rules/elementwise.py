"""Algebra of elementwise operations: identities, inverses, casts, selects, comparisons."""

from __future__ import annotations

from collections.abc import Callable
from math import frexp, isfinite

import numpy as np

from ...ir import DType, Node, Op, Value, op_class, registered_ops
from ...ir.ops.elementwise import (
    Abs,
    Add,
    BitwiseNot,
    Cast,
    Equal,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    LogicalNot,
    Mul,
    Neg,
    NotEqual,
    Select,
    Sub,
)
from ...ir.ops.shape import Broadcast, Reshape
from ..rewriter import Rewriter, Rule, is_number, made_by, uniform
from .reshaping import onto_shape


def _add(r: Rewriter, n: Node) -> Value | None:
    """x + (-0.0) = x; x + 0.0 = x unless x may be -0.0; x + (-y) = x - y; integers: x + 0 = x."""
    zero = -0.0 if n.results[0].type.dtype.is_float else 0
    for x, y in (n.operands, n.operands[::-1]):
        if is_number(y, zero) or (is_number(y, 0.0) and _never_minus_zero(x)):
            return x
        if (negated := made_by(y, Neg)) is not None:
            return r.emit(Sub(), x, negated.operands[0])
    return None


_NEVER_NEGATIVE = ("abs", "exp", "sigmoid")


def _never_minus_zero(x: Value) -> bool:
    """Whether a float can be shown not to be -0.0 (what rounds to nearest cancels to +0.0)."""
    if x.node is None:
        return False
    name, operands = x.node.op.name, x.node.operands
    if name in ("add", "sub"):
        constant = uniform(operands[1])
        return constant is not None and float(constant) != 0.0
    if name == "cast":
        return not operands[0].type.dtype.is_float
    return name in _NEVER_NEGATIVE or (name == "mul" and operands[0] is operands[1])


def _sub(r: Rewriter, n: Node) -> Value | None:
    """x - 0.0 = x; -0.0 - x = -x; x - (-y) = x + y; integers: x - x = 0."""
    x, y = n.operands
    floats = x.type.dtype.is_float
    if is_number(y, 0.0):
        return x
    if is_number(x, -0.0 if floats else 0):
        return r.emit(Neg(), y)
    if x is y and not floats:
        return r.full(x.type, 0)
    if (negated := made_by(y, Neg)) is not None:
        return r.emit(Add(), x, negated.operands[0])
    return None


def _mul(r: Rewriter, n: Node) -> Value | None:
    """x * 1 = x; x * -1 = -x; (-x) * (-y) = x * y; integers: x * 0 = 0."""
    for x, y in (n.operands, n.operands[::-1]):
        if is_number(y, 1):
            return x
        if x.type.dtype.kind != "uint" and is_number(y, -1):
            return r.emit(Neg(), x)
        if not x.type.dtype.is_float and is_number(y, 0):
            return y
    a, b = (made_by(v, Neg) for v in n.operands)
    return r.emit(Mul(), a.operands[0], b.operands[0]) if a is not None and b is not None else None


def _div(r: Rewriter, n: Node) -> Value | None:
    """x / 1 = x; x / -1 = -x; x / 2**k = x * 2**-k (exact: both round the same real number)."""
    x, y = n.operands
    if is_number(y, 1):
        return x
    if is_number(y, -1):
        return r.emit(Neg(), x)
    scalar = uniform(y)
    if scalar is None or not isfinite(float(scalar)) or abs(frexp(float(scalar))[0]) != 0.5:
        return None
    inverse = np.asarray(1.0 / float(scalar)).astype(scalar.dtype)
    normal = abs(float(inverse)) >= _smallest_normal(x.type.dtype) and isfinite(float(inverse))
    return r.emit(Mul(), x, r.full(y.type, inverse)) if normal else None


def _smallest_normal(dtype: DType) -> float:
    return {"f16": 2.0**-14, "bf16": 2.0**-126, "f32": 2.0**-126, "f64": 2.0**-1022}[dtype.name]


def _pow(r: Rewriter, n: Node) -> Value | None:
    """x ** 1 = x; x ** 0 = 1 (NaN ** 0 too); x ** 2 = x * x below f64, where the power is computed
    wide enough to be exact before its one rounding."""
    x, y = n.operands
    if is_number(y, 1):
        return x
    if is_number(y, 0) or is_number(y, -0.0):
        return r.full(x.type, 1)
    if is_number(y, 2) and x.type.dtype.name != "f64":
        return r.emit(Mul(), x, x)
    return None


def _integer_division(identity: bool) -> Rule:
    def rule(r: Rewriter, n: Node) -> Value | None:
        """Integers: x / 1 = x, x mod 1 = 0."""
        x, y = n.operands
        if x.type.dtype.is_float or not is_number(y, 1):
            return None
        return x if identity else r.full(x.type, 0)

    return rule


def _idempotent(r: Rewriter, n: Node) -> Value | None:
    """f(x, x) = x for maximum, minimum, and, or."""
    return n.operands[0] if n.operands[0] is n.operands[1] else None


def _bounds(unit: Callable[[DType], int], absorbing: Callable[[DType], int]) -> Rule:
    def rule(r: Rewriter, n: Node) -> Value | None:
        """f(x, unit) = x and f(x, absorbing) = absorbing, for booleans and integers."""
        dtype = n.operands[0].type.dtype
        if dtype.is_float:
            return None
        for x, y in (n.operands, n.operands[::-1]):
            if is_number(y, unit(dtype)):
                return x
            if is_number(y, absorbing(dtype)):
                return y
        return None

    return rule


def _ones(dtype: DType) -> int:
    return -1 if dtype.kind == "int" else 2**dtype.bits - 1 if dtype.kind == "uint" else 1


def _zero(dtype: DType) -> int:
    return 0


def _lowest(dtype: DType) -> int:
    return int(np.iinfo(dtype.numpy).min)


def _highest(dtype: DType) -> int:
    return int(np.iinfo(dtype.numpy).max)


def _bitwise_xor(r: Rewriter, n: Node) -> Value | None:
    """x ^ 0 = x; x ^ x = 0."""
    x, y = n.operands
    if x is y:
        return r.full(x.type, 0)
    return x if is_number(y, 0) else y if is_number(x, 0) else None


def _shift(r: Rewriter, n: Node) -> Value | None:
    """x << 0 = x."""
    return n.operands[0] if is_number(n.operands[1], 0) else None


def _inverse(op: type[Op]) -> Rule:
    def rule(r: Rewriter, n: Node) -> Value | None:
        """f(f(x)) = x."""
        inner = made_by(n.operands[0], op)
        return inner.operands[0] if inner is not None else None

    return rule


def _neg(r: Rewriter, n: Node) -> Value | None:
    """-(c * x) with a constant c = (-c) * x."""
    product = made_by(n.operands[0], Mul)
    if product is None or not n.results[0].type.dtype.is_float:
        return None
    for x, y in (product.operands, product.operands[::-1]):
        scalar = uniform(y)
        if scalar is not None:
            return r.emit(Mul(), x, r.full(y.type, np.negative(scalar)))
    return None


def _abs(r: Rewriter, n: Node) -> Value | None:
    """| |x| | = |x|; |-x| = |x|; unsigned: |x| = x."""
    x = n.operands[0]
    if x.type.dtype.kind == "uint" or made_by(x, Abs) is not None:
        return x
    negated = made_by(x, Neg)
    return r.emit(Abs(), negated.operands[0]) if negated is not None else None


_COMPLEMENTS: dict[type[Op], type[Op]] = {Equal: NotEqual, NotEqual: Equal}
_ORDER_COMPLEMENTS: dict[type[Op], type[Op]] = {
    Less: GreaterEqual, GreaterEqual: Less, Greater: LessEqual, LessEqual: Greater}


def _logical_not(r: Rewriter, n: Node) -> Value | None:
    """not (a == b) = a != b; not (a < b) = a >= b where there is no NaN."""
    inner = n.operands[0].node
    if inner is None:
        return None
    complement = _COMPLEMENTS.get(type(inner.op))
    if complement is None and inner.operands and not inner.operands[0].type.dtype.is_float:
        complement = _ORDER_COMPLEMENTS.get(type(inner.op))
    return r.emit(complement(), *inner.operands) if complement is not None else None


def _compare_equal(truth: bool, floats: bool) -> Rule:
    def rule(r: Rewriter, n: Node) -> Value | None:
        """Comparisons of x with itself; ``floats`` where NaN gives the same answer."""
        x, y = n.operands
        if x is not y or (x.type.dtype.is_float and not floats):
            return None
        return r.full(n.results[0].type, truth)

    return rule


def _not_equal(r: Rewriter, n: Node) -> Value | None:
    """b != False = b; (cast of bool b) != 0 = b."""
    x, y = n.operands
    if not is_number(y, 0):
        return None
    if x.type.dtype.name == "bool":
        return x
    cast = made_by(x, Cast)
    return cast.operands[0] if cast is not None and cast.operands[0].type.dtype.name == "bool" else None


def _equal(r: Rewriter, n: Node) -> Value | None:
    """b == True = b."""
    x, y = n.operands
    return x if x.type.dtype.name == "bool" and is_number(y, 1) else None


def _select(r: Rewriter, n: Node) -> Value | None:
    """Equal branches; a known condition; a negated condition; True and False as branches."""
    condition, a, b = n.operands
    known = uniform(condition)
    if known is not None:
        return a if known else b
    if a is b or (uniform(a) is not None and uniform(b) is not None
                  and uniform(a).tobytes() == uniform(b).tobytes()):  # type: ignore[union-attr]
        return a
    negated = made_by(condition, LogicalNot)
    if negated is not None:
        return r.emit(Select(), negated.operands[0], b, a)
    if a.type.dtype.name == "bool" and is_number(a, 1) and is_number(b, 0):
        return condition
    if a.type.dtype.name == "bool" and is_number(a, 0) and is_number(b, 1):
        return r.emit(LogicalNot(), condition)
    return None


def _cast(r: Rewriter, n: Node) -> Value | None:
    """Cast to the same type; of a lossless cast: cast the original."""
    x, dtype = n.operands[0], n.results[0].type.dtype
    if x.type.dtype == dtype:
        return x
    inner = made_by(x, Cast)
    if inner is None:
        return None
    origin = inner.operands[0]
    if not _lossless(origin.type.dtype, x.type.dtype):
        return None
    # Out of range, a float becomes an integer as the hardware pleases: keep the step unless it fits.
    if x.type.dtype.is_float and dtype.is_integer and not origin.type.dtype.is_float \
            and not _lossless(origin.type.dtype, dtype):
        return None
    if x.type.dtype.is_float and dtype.is_integer and origin.type.dtype.is_float:
        return None
    return r.emit(Cast(dtype), origin)


_SIGNIFICAND = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
_EXPONENT = {"f16": 5, "bf16": 8, "f32": 8, "f64": 11}


def _lossless(a: DType, b: DType) -> bool:
    """Whether every value of ``a`` is a value of ``b``."""
    if a == b or a.kind == "bool":
        return True
    if b.kind == "bool" or (a.is_float and not b.is_float):
        return False
    if a.is_float:
        return _SIGNIFICAND[a.name] <= _SIGNIFICAND[b.name] and _EXPONENT[a.name] <= _EXPONENT[b.name]
    bits = a.bits - (a.kind == "int")
    if b.is_float:
        return bits <= _SIGNIFICAND[b.name]
    return bits <= b.bits - (b.kind == "int") and (a.kind == "uint" or b.kind == "int")


def _bitcast(r: Rewriter, n: Node) -> Value | None:
    """Bitcast to the same type."""
    return n.operands[0] if n.operands[0].type == n.results[0].type else None


def _on_smaller_shape(r: Rewriter, n: Node) -> Value | None:
    """f(broadcast(x), broadcast(y)) = broadcast(f(x, y)): compute before repeating."""
    sources = [made_by(v, Broadcast) for v in n.operands]
    if not sources or any(s is None for s in sources):
        return None
    known = [s for s in sources if s is not None]
    widest = max(known, key=lambda s: s.operands[0].type.size)
    source = widest.operands[0]
    if source.type.size >= n.results[0].type.size:
        return None
    operands = []
    for node in known:
        x = node.operands[0]
        if x.shape == source.shape and node.op == widest.op:
            operands.append(x)
        elif x.type.size == 1:
            scalar = x if x.shape == () else r.emit(Reshape(()), x)
            operands.append(scalar if source.shape == () else r.emit(Broadcast(source.shape, ()), scalar))
        else:
            return None
    return r.emit(widest.op, r.emit(n.op, *operands))


def _before_reshape(r: Rewriter, n: Node) -> Value | None:
    """f(reshape(x), y) = reshape(f(x, y')): reshapes move towards the end, where they cost nothing
    and keep no operation from joining the one before."""
    shape = n.results[0].shape
    reshaped = next((v.node for v in n.operands if made_by(v, Reshape) is not None), None)
    if reshaped is None:
        return None
    origin = reshaped.operands[0].shape
    if n.results[0].type.size == 1 and len(origin) > len(shape):
        return None  # a scalar is best a scalar
    operands = [onto_shape(r, v, origin) for v in n.operands]
    strangers = [v for v, moved in zip(n.operands, operands, strict=True) if moved is None]
    if strangers and (any(_rides(v) for v in strangers) or not _rides(reshaped.operands[0])):
        return None
    operands = [v or r.emit(Reshape(origin), w) for v, w in zip(operands, n.operands, strict=True)]
    return r.emit(Reshape(shape), r.emit(n.op, *(v for v in operands if v is not None)))


def _rides(x: Value) -> bool:
    """Whether a value is elementwise work on the result of a contraction of its shape, near enough to
    become its epilogue: then what is added to it had better take its shape, at the price of a view."""
    pending, seen = [x], 0
    while pending and seen < _NEAR:
        value = pending.pop()
        seen += 1
        if value.node is None or value.shape != x.shape:
            continue
        if value.node.op.name in _CONTRACTIONS:
            return True
        if value.node.op.elementwise:
            pending.extend(value.node.operands)
    return False


_CONTRACTIONS = ("matmul", "conv2d", "conv2d_input_grad")
_NEAR = 12  # nodes looked at

_LOWEST_UNIT = _bounds(_lowest, _highest)
_HIGHEST_UNIT = _bounds(_highest, _lowest)

_OWN: dict[str, tuple[Rule, ...]] = {
    "add": (_add,),
    "sub": (_sub,),
    "mul": (_mul,),
    "div": (_div,),
    "pow": (_pow,),
    "floor_div": (_integer_division(True),),
    "trunc_div": (_integer_division(True),),
    "floor_mod": (_integer_division(False),),
    "trunc_mod": (_integer_division(False),),
    "maximum": (_idempotent, _LOWEST_UNIT),
    "minimum": (_idempotent, _HIGHEST_UNIT),
    "logical_and": (_idempotent, _bounds(_ones, _zero)),
    "logical_or": (_idempotent, _bounds(_zero, _ones)),
    "bitwise_and": (_idempotent, _bounds(_ones, _zero)),
    "bitwise_or": (_idempotent, _bounds(_zero, _ones)),
    "bitwise_xor": (_bitwise_xor,),
    "shift_left": (_shift,),
    "shift_right": (_shift,),
    "neg": (_inverse(Neg), _neg),
    "bitwise_not": (_inverse(BitwiseNot),),
    "logical_not": (_inverse(LogicalNot), _logical_not),
    "abs": (_abs,),
    "equal": (_compare_equal(True, False), _equal),
    "not_equal": (_compare_equal(False, False), _not_equal),
    "less": (_compare_equal(False, True),),
    "greater": (_compare_equal(False, True),),
    "less_equal": (_compare_equal(True, False),),
    "greater_equal": (_compare_equal(True, False),),
    "select": (_select,),
    "cast": (_cast,),
    "bitcast": (_bitcast,),
}

RULES: dict[str, tuple[Rule, ...]] = {
    name: (*_OWN.get(name, ()), _on_smaller_shape, _before_reshape)
    for name in registered_ops() if op_class(name).elementwise
}
