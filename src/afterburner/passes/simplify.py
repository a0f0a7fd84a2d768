"""Rewrites by exact algebra.

Frontends emit TensorFlow's own shapes: keep-dims means, tiles, double transposes, casts back and
forth. LLVM sees loops over memory, where none of this is visible any more; here it is one rule
each, in rules/<family>.py.
"""

from __future__ import annotations

from ..ir import Graph
from .eliminate_dead_code import eliminate_dead_code
from .rewriter import Rewriter
from .rules import RULES

_MAX_SWEEPS = 8


def simplify(graph: Graph) -> Graph:
    """Apply the rules until none applies. No result changes by a bit.

        %0: f32[4,3] = transpose(%x) {perm=(1,0)}
        %1: f32[3,4] = transpose(%0) {perm=(1,0)}       ->      return %x
        return %1
    """
    for _ in range(_MAX_SWEEPS):
        simpler = Rewriter(graph, RULES).run()
        if simpler is graph:
            break
        graph = eliminate_dead_code(simpler)
    return graph
