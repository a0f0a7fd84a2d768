"""Exact algebra: one file an operation family, each with its RULES by operation name.

A rule may not change a single bit of a result: not the sign of a zero, not an infinity, not where
a NaN appears, not a rounding. Three exceptions: which of several NaNs it is; a sum that is known to be
mostly of zeros may be made without them, whose other terms then meet in another order; and the padding of
a convolution is not multiplied, even by what is not finite. See docs/adding-a-pass.md.
"""

from __future__ import annotations

from ..rewriter import Rule
from . import conv, elementwise, gather, matmul, pool, reduce, shape

RULES: dict[str, tuple[Rule, ...]] = {}
for _family in (elementwise, shape, reduce, matmul, conv, gather, pool):
    for _name, _rules in _family.RULES.items():
        RULES[_name] = (*RULES.get(_name, ()), *_rules)
