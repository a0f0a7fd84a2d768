"""Operations that hold other graphs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..graph import Graph
from ..interpret import interpret
from ..op import Op, require
from ..types import TensorType


@dataclass(frozen=True, eq=False)
class Fusion(Op):
    """A graph computed by one kernel. ``kind`` says which: "loop" for elementwise work and
    reductions over one index space, or the name of the contraction its epilogue rides on."""

    kind: str
    body: Graph = field(repr=False)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(types == self.body.input_types, f"the body takes {self.body.input_types}")
        return self.body.output_types

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(interpret(self.body, arrays))

    def regions(self) -> tuple[Graph, ...]:
        return (self.body,)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return sum(n.op.flops(tuple(v.type for v in n.operands), tuple(r.type for r in n.results))
                   for n in self.body.nodes)
