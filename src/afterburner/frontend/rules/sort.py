"""The largest elements in order; sorting, which TensorFlow builds from them; places in what is sorted."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Value
from ...ir.ops import elementwise as ew
from ...ir.ops.sort import TopK
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .search import SEARCH_RULES


def _top_k(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """TensorFlow compares NaN with no order behind it: where one turns up, stock TensorFlow ranks."""
    x, k = inputs[0], ctx.ints(inputs[1], "the number of elements")[0]
    if not ctx.attr("sorted") and k not in (1, x.shape[-1]):
        raise ctx.refuse("the largest elements in no order")
    if x.type.dtype.is_float and x.shape[-1] > 1:
        number = ctx.emit(ew.LogicalNot(), ctx.emit(ew.IsNan(), x))
        ctx.check(number, "ranks a NaN")
    return ctx.add(TopK(k, ctx.dtype("index_type")), x)


RULES: dict[str, Rule] = {**SEARCH_RULES, "TopKV2": _top_k}
