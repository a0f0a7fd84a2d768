"""Whether the taps of filters are of about one size, without which Winograd's algorithms are less exact than direct
sums: a large product of another tap is added and taken away again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

from llvmlite import ir as ll

from ..emitter import Emitter, const
from .doubts import any_lane
from .gemm import Numeric

_UNEQUAL = 16.0  # times as large as a filter's smallest tap its largest may be


def with_sizes(e: Emitter, num: Numeric, sizes: Sequence[ll.Value], taps: Sequence[ll.Value]) -> list[ll.Value]:
    """Sizes of taps, sums of weights without their signs, with those of a further channel."""
    return [e.b.fadd(total, e.intrinsic("llvm.fabs", num.vector, tap)) for total, tap in zip(sizes, taps, strict=True)]


def larger_excess(e: Emitter, num: Numeric, excess: ll.Value, sizes: Sequence[ll.Value]) -> ll.Value:
    """What the largest of the sizes has beyond the limit, or ``excess`` where that is more."""
    low, high = (reduce(partial(_chosen, e, sign), sizes) for sign in "<>")
    return _chosen(e, ">", excess, num.multiply_add(e, const(num.vector, -_UNEQUAL), low, high))


def is_excess(e: Emitter, num: Numeric, excess: ll.Value) -> ll.Value:
    """Whether there is an excess in a lane, an i1."""
    return any_lane(e, e.b.fcmp_ordered(">", excess, num.zero))


def _chosen(e: Emitter, sign: str, a: ll.Value, b: ll.Value) -> ll.Value:
    """The smaller (<) or larger (>) of two registers' lanes; the second where they have no order."""
    return e.b.select(e.b.fcmp_ordered(sign, a, b), a, b)
