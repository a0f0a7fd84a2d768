"""Whole training steps: trace, import, run, and compare with TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from afterburner.frontend.flatten import FlatTensor, flatten
from afterburner.frontend.import_graph import Imported, import_ops, supported
from afterburner.ir import Graph, TensorType, dtype_of, interpret

Run = Callable[[Graph, Sequence[np.ndarray]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Step:
    """A traced function, its import, and the arrays it is called with."""

    concrete: Any
    imported: Imported
    data: tuple[np.ndarray, ...]
    handles: dict[FlatTensor, Any]

    def state(self) -> list[np.ndarray]:
        """Current values of the variables, in the order of the graph's state inputs."""
        return [self._read(v) for v in self.imported.variables]

    def _read(self, variable: FlatTensor) -> np.ndarray:
        handle = self.handles[variable]
        dtype = handle._handle_data.shape_and_type[0].dtype
        return np.array(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.as_dtype(dtype)))


def tensor_type(array: np.ndarray) -> TensorType:
    """The IR type of an array."""
    return TensorType(dtype_of(array.dtype), array.shape)


def import_concrete(concrete: Any, data: Sequence[np.ndarray]) -> Step:
    """Import a concrete function for arguments of the shapes and types of ``data``."""
    flat = flatten(concrete.graph, "step")
    arrays = iter(data)
    inputs, types, captured = [], [], {}
    handles: dict[FlatTensor, Any] = {}
    variables: dict[FlatTensor, TensorType] = {}
    eager = (
        dict(
            zip(
                (t.ref() for t in concrete.graph.inputs[-len(concrete.captured_inputs) :]),
                concrete.captured_inputs,
                strict=True,
            )
        )
        if concrete.captured_inputs
        else {}
    )
    for argument, symbol in zip(flat.arguments, concrete.graph.inputs, strict=True):
        outer: Any = eager.get(symbol.ref())
        if argument.dtype == tf.resource:
            info = outer._handle_data.shape_and_type[0]
            shape = tuple(d.size for d in info.shape.dim)
            handles[argument] = outer
            variables[argument] = TensorType(dtype_of(tf.as_dtype(info.dtype).as_numpy_dtype), shape)
            continue
        array = np.array(outer) if outer is not None else next(arrays)
        captured[argument] = array
        inputs.append(argument)
        types.append(tensor_type(array))
    reasons = {supported(op) for op in flat.ops} - {None}
    assert not reasons, reasons
    outputs = [t for t in flat.outputs if t.dtype not in (tf.resource, tf.variant)]
    imported = import_ops(flat.ops, inputs, types, outputs, variables)
    return Step(concrete, imported, tuple(captured[i] for i in inputs), handles)


def train_step(model: keras.Model, data: Sequence[np.ndarray]) -> Step:
    """The model's own training step, imported."""
    model._symbolic_build(data_batch=tuple(map(tf.constant, data)))
    specs = tuple(tf.TensorSpec(a.shape, a.dtype) for a in data)
    function = tf.function(lambda *batch: model.train_step(batch))
    return import_concrete(function.get_concrete_function(*specs), data)


def run_both(step: Step, run: Run = interpret) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Ours and TensorFlow's value of every result and every updated variable, named."""
    before = step.state()
    graph = step.imported.graph
    ours = run(graph, [*step.data, *before])
    names = len([o for o in graph.outputs if o.updates is None and o.check is None])
    results = tf.nest.flatten(step.concrete(*map(tf.constant, _arguments(step))))
    results = [r for r in results if r is not None]
    after = step.state()
    first_state = len(graph.inputs) - len(before)
    rows = [
        (f"result {i}", np.asarray(o), np.asarray(r))
        for i, (o, r) in enumerate(zip(ours[:names], results, strict=True))
    ]
    updated = set()
    for out, value in zip(graph.outputs[names:], ours[names:], strict=True):
        if out.check is not None:
            assert value, out.check
            continue
        assert out.updates is not None
        index = out.updates - first_state
        updated.add(index)
        rows.append((f"variable {index} {before[index].shape}", np.asarray(value), after[index]))
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        assert index in updated or np.array_equal(old, new), f"TensorFlow alone changed variable {index}"
    return rows


def _arguments(step: Step) -> Sequence[np.ndarray]:
    return step.data[: len(step.concrete.structured_input_signature[0])]


def assert_close(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], tolerance: float = 1e-5) -> None:
    """Norm of the difference within ``tolerance`` of the value's norm plus the median norm (a gradient
    that is 0 in theory is rounding error in practice); integers and bools exactly."""
    norms = [np.linalg.norm(t.astype(np.float64)) for _, _, t in rows if t.dtype.kind == "f"]
    floor = float(np.median(norms)) if norms else 0.0
    for name, ours, theirs in rows:
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
        if theirs.dtype.kind in "biu":
            assert np.array_equal(ours, theirs), name
            continue
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        error = np.linalg.norm(a - b)
        size = np.linalg.norm(b)
        assert error <= tolerance * (size + floor), f"{name}: error {error} of {size}"
