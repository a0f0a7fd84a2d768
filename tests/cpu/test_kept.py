"""What a program makes of variables alone and keeps until they change."""

from dataclasses import replace

import numpy as np
import pytest
from program_kit import aligned

from afterburner.cpu import target
from afterburner.ir import DTYPES, Builder, Graph, TensorType, interpret
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad
from afterburner.ir.ops.elementwise import Add, Mul, Neg
from afterburner.ir.ops.shape import Broadcast, Reshape
from afterburner.options import options
from afterburner.passes.pipeline import optimize

F32 = DTYPES["f32"]
SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))

# image, filter, strides, padding, input gradient
CASES = {
    "1x1": ((1, 9, 7, 12), (1, 1, 12, 20), (1, 1), NONE, False),
    "3x3 strided": ((2, 9, 11, 8), (3, 3, 8, 24), (2, 2), SAME, False),
    "groups": ((1, 8, 8, 8), (3, 3, 4, 16), (1, 1), SAME, False),
    "zeros left out": ((1, 12, 14, 8), (3, 3, 8, 64), (1, 1), NONE, False),
    "streamed 1x1": ((1, 8, 8, 160), (1, 1, 160, 648), (1, 1), NONE, False),
    "streamed 3x3": ((1, 7, 7, 96), (3, 3, 96, 200), (1, 1), SAME, False),
    "input gradient": ((1, 14, 10, 24), (3, 3, 24, 16), (2, 2), SAME, True),
    "streamed input gradient": ((1, 8, 8, 264), (4, 4, 264, 128), (2, 2), SAME, True),
}


def graph_of(case: str) -> Graph:
    """A convolution by a variable, scaled by a row that is made of another one, behind a ReLU."""
    x, w, strides, padding, gradient = CASES[case]
    groups = x[3] // w[2]
    forward = Conv2d(strides, padding, (1, 1), groups, sparse=case == "zeros left out")
    y = forward.output_shape(x, w)
    builder = Builder("answer")
    image = builder.input(TensorType(F32, y if gradient else x), "image")
    filter_ = builder.input(TensorType(F32, w), "filter", state=True)
    if gradient:
        made = builder.emit(Conv2dInputGrad(strides, padding, (1, 1), groups, x), filter_, image)
    else:
        made = builder.emit(forward, image, filter_)
    scale = builder.input(TensorType(F32, (1, made.shape[3])), "scale", state=True)
    row = builder.emit(Neg(), builder.emit(Reshape((made.shape[3],)), builder.emit(Mul(), scale, scale)))
    builder.output(builder.emit(Mul(), made, builder.emit(Broadcast(made.shape, (3,)), row)))
    builder.output(row)
    return optimize(builder.build())


def arrays_of(graph: Graph, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.maximum(rng.normal(0, 1, t.shape), 0).astype(np.float32) for t in graph.input_types]


def run(executable, arrays, version):
    outputs = [aligned(t.shape, t.dtype.numpy) for t in executable.output_types]
    given = [aligned(a.shape, a.dtype) for a in arrays]
    for copy, array in zip(given, arrays, strict=True):
        copy[...] = array
    executable.run([a.ctypes.data for a in given], [o.ctypes.data for o in outputs], version)
    return outputs


def equal(ours, theirs) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(params=(("", False), ("", True), ("avx512", False)), ids=("plain", "profiled", "avx512"))
def settings(request):
    isa, profile = request.param
    return replace(options(), cache=False, profile=profile, threads=2, isa=isa)


@pytest.mark.parametrize("case", CASES)
def test_variables_are_prepared_once_a_version(case, settings):
    graph = graph_of(case)
    executable = target.compile_graph(graph, settings)
    first, second = arrays_of(graph, 1), arrays_of(graph, 2)
    whole = [run(executable, a, None) for a in (first, second)]
    for ours, arrays in zip(whole, (first, second), strict=True):
        for a, b in zip(ours, interpret(graph, arrays), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())
    equal(run(executable, first, 1), whole[0])
    equal(run(executable, first, 1), whole[0])
    equal(run(executable, [second[0], *first[1:]], 1), run(executable, [second[0], *first[1:]], None))
    equal(run(executable, second, 2), whole[1])
    equal(run(executable, [second[0], *first[1:]], 2), whole[1])  # the variables of version 2 are not read again
    equal(run(executable, first, None), whole[0])  # unknown: everything is made anew, and nothing of it trusted later
    equal(run(executable, second, 2), whole[1])


def test_a_graph_that_writes_a_variable_keeps_nothing(settings):
    builder = Builder("step")
    value = builder.input(TensorType(F32, (300,)), "value", state=True)
    twice = builder.emit(Add(), value, value)
    builder.output(builder.emit(Neg(), twice))
    builder.output(twice, updates=0)
    executable = target.compile_graph(optimize(builder.build()), settings)
    for seed in (1, 2):
        (array,) = arrays_of(builder.build(), seed)
        equal(run(executable, [array], "same"), [-2 * array, 2 * array])
