"""A device's first step in a trial, compared with what our other device computes from the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..ir import Graph, TensorType
from ..runtime.agreement import NOTHING, Distance, disagreement, distance, grain_of, is_float, shaken
from ..runtime.buffers import BufferPool
from ..runtime.executable import Executable
from ..runtime.views import array_at

_TIMES = 2  # that last bits are changed: one may miss what moves by chance


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
            noise = [NOTHING] * len(outputs)
            for seed in range(_TIMES):
                changed = self._shaken(inputs, seed)
                executable.run([changed[i].ctypes.data if i in changed else a for i, a in enumerate(inputs)], noisy)
                noise = [known.largest(apart) for known, apart in
                         zip(noise, self._distances(noisy, expected), strict=True)]
            self._compare(outputs, expected, noise)
        finally:
            pool.put(shelves, buffers)

    def _shaken(self, inputs: Sequence[int], seed: int) -> dict[int, np.ndarray]:
        """Floats, also those of variables, with their last bits changed, by position."""
        types = self._executable.input_types
        return {i: shaken(array_at(inputs[i], type_), self._grain, seed * len(types) + i)
                for i, type_ in enumerate(types) if is_float(type_)}

    def _distances(self, some: Sequence[int], others: Sequence[int]) -> Iterator[Distance]:
        for type_, *places in zip(self._executable.output_types, some, others, strict=True):
            one, other = (array_at(place, type_) for place in places)
            yield distance(one, other, type_)

    def _compare(self, found: Sequence[int], expected: Sequence[int], noise: Sequence[Distance]) -> None:
        types = self._executable.output_types
        for number, (type_, one, other, moved) in enumerate(zip(types, found, expected, noise, strict=True)):
            what = disagreement(array_at(one, type_), array_at(other, type_), moved, type_, self._grain)
            if what:
                raise Disagreement(f"output {number} ({type_}) is not what the {self._executable.device} computes "
                                   f"from the same inputs: {what}")


def _result_types(graph: Graph) -> Iterator[TensorType]:
    """Types of what is computed, in loops too."""
    for node in graph.nodes:
        yield from (result.type for result in node.results)
        for region in node.op.regions():
            yield from _result_types(region)
