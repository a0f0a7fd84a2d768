"""Pooling: what happens to a gradient after it is scattered can often happen before."""

from __future__ import annotations

from ...ir import Node, Value
from ...ir.ops.elementwise import Add, Greater, Less, LogicalAnd, Mul, Select
from ...ir.ops.pool import NAN_TAP, MaxPoolScatter, MaxPoolTaps
from ...ir.ops.reduce import ReduceSum
from ..rewriter import Rewriter, is_number, made_by


def _masked_product(r: Rewriter, n: Node) -> Value | None:
    """scatter(taps, dy) * (x > 0 ? 1 : 0) = scatter(taps, x's winner > 0 ? dy : dy * 0); a product, since
    that tells -0.0 and NaN."""
    for dx, factor in (n.operands, n.operands[::-1]):
        scatter, choice = made_by(dx, MaxPoolScatter), made_by(factor, Select)
        if scatter is None or choice is None:
            continue
        condition, one, zero = choice.operands
        if is_number(one, 1.0) and is_number(zero, 0.0) and _masks_input(r, scatter, condition):
            taps, dy = scatter.operands
            nothing = r.emit(Mul(), dy, r.full(dy.type, 0.0))
            return r.emit(scatter.op, taps, r.emit(Select(), _positive(r, taps), dy, nothing))
    return None


def _masked_choice(r: Rewriter, n: Node) -> Value | None:
    """x > 0 ? scatter(taps, dy) : 0 = scatter(taps, x's winner > 0 ? dy : 0)."""
    condition, dx, zero = n.operands
    scatter = made_by(dx, MaxPoolScatter)
    if scatter is None or not is_number(zero, 0.0) or not _masks_input(r, scatter, condition):
        return None
    taps, dy = scatter.operands
    return r.emit(scatter.op, taps, r.emit(Select(), _positive(r, taps), dy, r.full(dy.type, 0.0)))


def _masks_input(r: Rewriter, scatter: Node, condition: Value) -> bool:
    """Whether ``condition`` is x > 0 for the x of the pooling, and the mask can move before the scatter.
    Where windows overlap it cannot: a product of sums is no sum of products once something is rounded."""
    op, greater, pool = scatter.op, made_by(condition, Greater), made_by(scatter.operands[0], MaxPoolTaps)
    assert isinstance(op, MaxPoolScatter)
    return (op.disjoint and r.read_once(scatter.results[0]) and greater is not None and pool is not None
            and _same_windows(op, pool) and greater.operands[0] is pool.operands[0]
            and (is_number(greater.operands[1], 0.0) or is_number(greater.operands[1], -0.0)))


def _same_windows(op: MaxPoolScatter, pool: Node) -> bool:
    other = pool.op
    assert isinstance(other, MaxPoolTaps)
    return (op.window, op.strides, op.padding, op.input_shape) == (
        other.window, other.strides, other.padding, pool.operands[0].shape)


def _positive(r: Rewriter, taps: Value) -> Value:
    """Whether the element at the tap exceeds 0. It is the maximum, but for two cases: NaN, which the
    tap tells; and -inf, where the maximum is the lowest finite value and the answer is the same."""
    assert taps.node is not None
    y = taps.node.results[0]
    return r.emit(LogicalAnd(), r.emit(Greater(), y, r.full(y.type, 0.0)),
                  r.emit(Less(), taps, r.full(taps.type, NAN_TAP)))


def _sum(r: Rewriter, n: Node) -> Value | None:
    """Sum over both spatial axes of what disjoint windows scatter: the sum of all dy. The same terms
    without the zeros between them; these only kept a sum of -0.0 from being one, as + 0.0 does."""
    scatter = made_by(n.operands[0], MaxPoolScatter)
    if scatter is None or not isinstance(n.op, ReduceSum) or not {1, 2} <= set(n.op.axes):
        return None
    op, dy = scatter.op, scatter.operands[1]
    assert isinstance(op, MaxPoolScatter)
    spatial, windows = op.input_shape[1:3], dy.shape[1:3]
    known = made_by(scatter.operands[0], MaxPoolTaps)
    sparse = spatial[0] * spatial[1] > windows[0] * windows[1] > 0
    if not (op.disjoint and sparse and known is not None and _same_windows(op, known) and _all_reach(op)):
        return None
    total = r.emit(ReduceSum(n.op.axes), dy)
    return r.emit(Add(), total, r.full(total.type, 0.0))


def _all_reach(op: MaxPoolScatter) -> bool:
    """Whether every window holds an element of the input."""
    counts = op.output_shape(op.input_shape)[1:3]
    return all(before < window and (count - 1) * stride - before < size
               for (before, _), window, stride, count, size in zip(
                   op.padding, op.window, op.strides, counts, op.input_shape[1:3], strict=True))


RULES = {
    "mul": (_masked_product,),
    "select": (_masked_choice,),
    "reduce_sum": (_sum,),
}
