"""A target that runs the IR through the interpreter: the frontend is tested without code generation."""

import ctypes

import numpy as np

from afterburner.ir import Graph, TensorType, interpret, verify
from afterburner.runtime.executable import KernelInfo, Part


def view(address: int, type_: TensorType) -> np.ndarray:
    """An array over native memory."""
    raw = (ctypes.c_uint8 * max(type_.bytes, 1)).from_address(address)
    return np.frombuffer(raw, np.uint8)[: type_.bytes].view(type_.dtype.numpy).reshape(type_.shape)


class InterpretedExecutable:
    """An Executable over ``interpret``."""

    cached = False
    device = "interpreter"
    threads = 1
    arena_bytes = 0
    parts: tuple[Part, ...] = ()

    def __init__(self, graph: Graph) -> None:
        self.graph = verify(graph)
        self.input_types, self.output_types = graph.input_types, graph.output_types
        self.kernels: tuple[KernelInfo, ...] = ()
        self.runs = 0

    def run(self, inputs: list[int], outputs: list[int], version: object = None) -> None:
        arrays = [view(a, t).copy() for a, t in zip(inputs, self.input_types, strict=True)]
        results = interpret(self.graph, arrays)
        self.runs += 1
        for address, type_, result in zip(outputs, self.output_types, results, strict=True):
            view(address, type_)[...] = result

    def kernel_seconds(self) -> tuple[float, ...]:
        return ()

    def peak_fractions(self) -> tuple[float, ...]:
        return ()
