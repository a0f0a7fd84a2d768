"""A compiled stage of a session's run: NumPy arrays in and out, variables as arrays."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir import Graph, TensorType
from ..options import options
from ..report import Entry, part_report
from ..runtime.collector import paused_collector
from ..runtime.executable import Executable, Unsupported
from .contest import ANY, CPU
from .dtypes import ir_dtype
from .flatten import FlatTensor
from .function import Engine
from .import_graph import Imported, import_ops, read_inputs, variable_dtypes
from .partition import Stage
from .variant import CheckFailed

_ALIGNMENT = 64  # bytes; TensorFlow copies what is less aligned
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")  # what an earlier stage gives of these is a constant of this one
_HELD_ONCE = 3  # references to an array that only its list holds: the list's, a variable's and the question's

Arrays = dict[FlatTensor, np.ndarray]


def aligned(type_: TensorType) -> np.ndarray:
    """Memory that TensorFlow takes over without a copy."""
    raw = np.empty(type_.bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start: start + type_.bytes].view(type_.dtype.numpy).reshape(type_.shape)


def dense(array: Any) -> np.ndarray:
    """The array, or a copy in row-major order."""
    return np.require(array, requirements=("C", "A"))


class Spare:
    """Arrays for new values of variables; one is used again when nobody else holds it, TensorFlow neither."""

    def __init__(self) -> None:
        self._arrays: dict[TensorType, list[np.ndarray]] = defaultdict(list)

    def take(self, type_: TensorType) -> np.ndarray:
        """Memory to write to."""
        for array in self._arrays[type_]:
            if sys.getrefcount(array) == _HELD_ONCE:
                return array
        self._arrays[type_].append(aligned(type_))
        return self._arrays[type_][-1]


class CompiledStage:
    """A stage for one set of shapes."""

    def __init__(self, imported: Imported, executable: Executable) -> None:
        self.executable = executable
        self._variables = imported.variables
        graph = imported.graph
        first = len(graph.inputs) - len(self._variables)
        self._updated = [None if o.updates is None else self._variables[o.updates - first] for o in graph.outputs]
        self._checks = [o.check for o in graph.outputs]
        self._types = graph.output_types
        self._spare = Spare()

    def run(self, inputs: Sequence[np.ndarray], variables: Mapping[FlatTensor, np.ndarray],
            ) -> tuple[list[np.ndarray], Arrays]:
        """Results, and new values of variables.

        Raises:
            CheckFailed: TensorFlow is to say why.
        """
        arrays = [*inputs, *(variables[v] for v in self._variables)]
        outputs = [aligned(t) if v is None else self._spare.take(t)
                   for t, v in zip(self._types, self._updated, strict=True)]
        self.executable.run([a.ctypes.data for a in arrays], [o.ctypes.data for o in outputs])
        results: list[np.ndarray] = []
        written: Arrays = {}
        for output, variable, check in zip(outputs, self._updated, self._checks, strict=True):
            if check is not None and not output:
                raise CheckFailed(check)
            if variable is not None:
                written[variable] = output
            elif check is None:
                results.append(output)
        return results, written


class SessionStage:
    """Operations we compile, for each set of shapes they are run with.

    Attributes:
        inputs: tensors it reads.
        outputs: tensors it makes.
    """

    def __init__(self, stage: Stage, engine: Engine, entry: Entry, name: str) -> None:
        self._stage = stage
        self._engine = engine
        self._entry = entry
        self._name = name
        needed = {t for op in stage.ops for t in read_inputs(op)}
        self._shapes = [t for t in stage.inputs if t in needed and t.op is not None and t.op.type in _SHAPES]
        self.inputs = [t for t in stage.inputs if t in needed and t not in self._shapes]
        self.outputs = stage.outputs
        self._compiled: dict[Any, CompiledStage] = {}

    def run(self, values: Arrays, variables: Arrays) -> None:
        """Compute the outputs from the inputs among ``values``, and replace what is written in ``variables``.

        Raises:
            CheckFailed: nothing was replaced.
            NotTaken: it cannot be compiled; a ``Refused`` names the operation.
        """
        inputs = [dense(values[t]) for t in self.inputs]
        shapes = tuple(a.shape for a in inputs), tuple(variables[v].shape for v in self._stage.resources)
        constants = {t: np.asarray(values[t]) for t in self._shapes}
        known = tuple(array.tobytes() for array in constants.values())
        key = (options().setting, shapes, known)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._compile(inputs, variables, constants)
        results, written = compiled.run(inputs, variables)
        values.update(zip(self.outputs, results, strict=True))
        variables.update(written)

    def _compile(self, inputs: Sequence[np.ndarray], variables: Arrays, constants: Arrays) -> CompiledStage:
        started = time.perf_counter()
        stage = self._stage
        ops = sum(op.type != "Const" for op in stage.ops)
        self._engine.recorder.compiling(self._entry, ops)
        types = [TensorType(ir_dtype(t.dtype), a.shape) for t, a in zip(self.inputs, inputs, strict=True)]
        states = {v: TensorType(ir_dtype(dtype), variables[v].shape)
                  for v, dtype in variable_dtypes(stage.ops).items()}
        with paused_collector():
            imported = import_ops(stage.ops, self.inputs, types, stage.outputs, states, constants, self._name)
            executable = self._executable(imported.graph)
        report = part_report(", ".join(map(str, types)), ops, executable, time.perf_counter() - started)
        self._engine.recorder.compiled(self._entry, report, executable)
        return CompiledStage(imported, executable)

    def _executable(self, graph: Graph) -> Executable:
        """On the device that was asked for by name, else, and where that one cannot, on the cpu."""
        device = options().device
        if device in (ANY, CPU):
            return self._engine.compile(graph, CPU)
        try:
            return self._engine.compile(graph, device)
        except Unsupported as error:
            self._engine.tell_moved(self._entry, device, error)
            return self._engine.compile(graph, CPU)
