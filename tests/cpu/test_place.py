"""Placement: results that overwrite operands, views, constants, outputs that are no results."""

import numpy as np
import program_kit as kit
import pytest

from afterburner.cpu import place as place_module
from afterburner.cpu import target
from afterburner.cpu.place import overwritable
from afterburner.ir import DTYPES, Builder, Graph, TensorType, interpret
from afterburner.ir.ops.elementwise import Add, Bitcast, Cast, Exp, Mul, Tanh
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Broadcast, Constant, Reshape, Reverse, Transpose
from afterburner.options import Options
from afterburner.passes.pipeline import optimize

F32 = DTYPES["f32"]
OPTIONS = Options(cache=False, threads=2)


def tensor(*shape: int, dtype: str = "f32") -> TensorType:
    return TensorType(DTYPES[dtype], shape)


def mixed(side: int) -> Graph:
    """Long and short lives, reuse after reductions, transposes between elementwise work."""
    builder = Builder("mixed")
    x = builder.input(tensor(side, side), "x")
    row = builder.input(tensor(side), "row")
    value = x
    for turn in range(4):
        value = builder.emit(Tanh(), builder.emit(Add(), value, builder.emit(Broadcast((side, side), (1,)), row)))
        kept = value
        value = builder.emit(Transpose((1, 0)), value)
        value = builder.emit(Mul(), value, builder.emit(Exp(), value))
        row = builder.emit(ReduceSum((turn % 2,)), value)
        value = builder.emit(Add(), value, builder.emit(Reverse((0,)), kept))
    builder.output(value)
    builder.output(row)
    return builder.build()


def inputs_of(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [np.array(rng.standard_normal(t.shape) * 0.1, t.dtype.numpy) for t in graph.input_types]


@pytest.mark.parametrize("side", [3, 17, 130, 257])
@pytest.mark.parametrize("fused", [False, True])
def test_overwriting_operands_changes_no_bit(monkeypatch, side, fused):
    graph = mixed(side)
    graph = optimize(graph) if fused else graph
    arrays = inputs_of(graph)
    overwriting = target.compile_graph(graph, OPTIONS)
    got = [a.tobytes() for a in kit.run(overwriting, arrays)]
    monkeypatch.setattr(place_module, "overwritable", lambda node: [])
    separate = target.compile_graph(graph, OPTIONS)
    assert [a.tobytes() for a in kit.run(separate, arrays)] == got
    assert overwriting.arena_bytes <= separate.arena_bytes


def test_results_agree_with_the_interpreter():
    graph = mixed(40)
    arrays = inputs_of(graph)
    for got, want in zip(kit.run(target.compile_graph(optimize(graph), OPTIONS), arrays),
                         interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_outputs_that_are_inputs_constants_views_or_each_other():
    builder = Builder()
    x = builder.input(tensor(3, 5), "x")
    empty = builder.input(tensor(0, 4), "empty")
    constant = builder.emit(Constant(np.arange(7, dtype=np.int64)))
    total = builder.emit(Add(), x, x)
    view = builder.emit(Reshape((15,)), total)
    for value in (x, constant, total, view, builder.emit(Reshape((5, 3)), x), total, empty,
                  builder.emit(Bitcast(DTYPES["i32"]), x)):
        builder.output(value)
    graph = builder.build()
    arrays = [np.arange(15, dtype=np.float32).reshape(3, 5), np.zeros((0, 4), np.float32)]
    for got, want in zip(kit.run(target.compile_graph(graph, OPTIONS), arrays), interpret(graph, arrays),
                         strict=True):
        assert got.shape == want.shape and got.tobytes() == want.tobytes()


def test_constants_of_every_type_keep_their_bits():
    builder = Builder()
    arrays = [np.arange(5).astype(d.numpy) for d in DTYPES.values()]
    for array in arrays:
        builder.output(builder.emit(Constant(array)))
    outputs = kit.run(target.compile_graph(builder.build(), OPTIONS), [])
    assert [o.tobytes() for o in outputs] == [a.tobytes() for a in arrays]


def test_only_equal_elements_of_equal_width_are_overwritten():
    builder = Builder()
    x, y = builder.input(tensor(4, 4), "x"), builder.input(tensor(4, 4), "y")
    cases = [(Add(), (x, y), [(0, 0)]), (Cast(DTYPES["f64"]), (x,), []), (Cast(DTYPES["i32"]), (x,), [(0, 0)]),
             (Transpose((1, 0)), (x,), []), (ReduceSum((0,)), (x,), [])]
    for op, operands, expected in cases:
        assert overwritable(builder.emit(op, *operands).node) == expected


def test_a_fusions_operand_read_at_another_element_is_not_overwritten():
    builder = Builder()
    x, y = builder.input(tensor(4, 4), "x"), builder.input(tensor(4, 4), "y")
    builder.output(builder.emit(Add(), builder.emit(Transpose((1, 0)), x), builder.emit(Exp(), y)))
    (node,) = optimize(builder.build()).nodes
    assert node.op.name == "fusion"
    assert [node.operands[i].type for i, _ in overwritable(node)] == [tensor(4, 4)]
    (pair,) = overwritable(node)
    body = node.op.regions()[0]
    users = [n.op.name for n in body.nodes if body.inputs[pair[0]].value in n.operands]
    assert users == ["exp"]
