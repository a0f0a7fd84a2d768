"""A device's first step in a trial, compared with what our other device computes from the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..ir import Graph, TensorType
from ..runtime.agreement import disagreement, grain_of, is_float, shaken
from ..runtime.buffers import BufferPool
from ..runtime.executable import Executable
from ..runtime.views import array_at


class Disagreement(Exception):
    """Two devices compute different results from the same inputs."""


class SecondOpinion:
    """Computes what another executable has computed; its results go nowhere.

    Args:
        executable: of the same graph, on a device that is trusted.
        graph: as imported.
        pool: where memory for the results comes from.
        fast: whether both were compiled with fast precision.
    """

    def __init__(self, executable: Executable, graph: Graph, pool: BufferPool, fast: bool = False) -> None:
        self._executable = executable
        self._grain = grain_of((*graph.input_types, *_result_types(graph)), fast)
        self._pool = pool

    def confirm(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Compare results, at the addresses ``outputs``, that were computed from ``inputs``.

        Raises:
            Disagreement: the message says which result differs first, and by how much.
        """
        executable, pool = self._executable, self._pool
        shelves = [pool.shelf(t) for t in executable.output_types] * 2
        buffers = pool.take(shelves)
        try:
            addresses = [b.address for b in buffers]
            expected, noisy = addresses[: len(outputs)], addresses[len(outputs):]
            executable.run(inputs, expected)
            changed = self._shaken(inputs)
            executable.run([changed[i].ctypes.data if i in changed else a for i, a in enumerate(inputs)], noisy)
            self._compare(outputs, expected, noisy)
        finally:
            pool.put(shelves, buffers)

    def _shaken(self, inputs: Sequence[int]) -> dict[int, np.ndarray]:
        """Floats with their last bits changed, by position. Those of variables too: rounding is met in every layer, and
        what decides whether one element of a few is rectified may move a gradient by a hundredth."""
        types = enumerate(self._executable.input_types)
        return {i: shaken(array_at(inputs[i], t), self._grain, i) for i, t in types if is_float(t)}

    def _compare(self, found: Sequence[int], expected: Sequence[int], noisy: Sequence[int]) -> None:
        types = self._executable.output_types
        for number, (type_, *places) in enumerate(zip(types, found, expected, noisy, strict=True)):
            one, other, moved = (array_at(place, type_) for place in places)
            what = disagreement(one, other, moved, type_, self._grain)
            if what:
                raise Disagreement(f"output {number} ({type_}) is not what the {self._executable.device} computes "
                                   f"from the same inputs: {what}")


def _result_types(graph: Graph) -> Iterator[TensorType]:
    """Types of what is computed, in loops too."""
    for node in graph.nodes:
        yield from (result.type for result in node.results)
        for region in node.op.regions():
            yield from _result_types(region)
