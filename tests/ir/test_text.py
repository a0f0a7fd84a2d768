"""The text form: what is printed reads back as the same graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from afterburner.ir import (
    DTYPES,
    Builder,
    Graph,
    IRError,
    Location,
    TensorType,
    interpret,
    parse_graph,
    print_graph,
    registered_ops,
    verify,
)
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.elementwise import Add, Exp
from afterburner.ir.ops.shape import Constant, Reshape

F32 = DTYPES["f32"]


def round_trip(graph: Graph) -> Graph:
    text = print_graph(graph)
    again = verify(parse_graph(text))
    assert print_graph(again) == text
    return again


def test_reads_like_this() -> None:
    builder = Builder("step")
    x = builder.input(TensorType(F32, (32, 784)), "x")
    total = builder.input(TensorType(F32, (32, 784)), "total", state=True)
    builder.loc = Location("dense/add", "model.py:14")
    result = builder.emit(Add(), x, total)
    builder.output(result, updates=1)
    assert print_graph(builder.build()) == (
        "graph step(%x: f32[32,784], %total: f32[32,784] state) {\n"
        "  %0: f32[32,784] = add(%x, %total)  # dense/add, model.py:14\n"
        "  return %0 -> %total\n"
        "}")
    round_trip(builder.build())


def test_locations_survive_and_can_be_left_out() -> None:
    builder = Builder()
    x = builder.input(TensorType(F32, ()), "x")
    for location in (Location("a/b"), Location("", "m.py:3"), Location("a", "m.py:3"), Location()):
        builder.output(builder.emit(Exp(), x, loc=location))
    graph = builder.build()
    assert [n.loc for n in round_trip(graph).nodes][2] == Location("a", "m.py:3")
    assert "#" not in print_graph(graph, locations=False)


def test_names_that_are_no_identifiers_or_meet_twice() -> None:
    builder = Builder("a b/c:0")
    values = [builder.input(TensorType(F32, ()), name) for name in ("a/b:0", "a_b_0", "a b 0", "", "3", "x")]
    for value in values:
        builder.output(value)
    again = round_trip(builder.build())
    order = [i.value for i in again.inputs]
    assert [order.index(o.value) for o in again.outputs] == list(range(6))


def test_roles_of_outputs() -> None:
    builder = Builder()
    flag = builder.input(TensorType(DTYPES["bool"], ()), "flag", state=True)
    builder.output(flag)
    builder.output(flag, updates=0)
    builder.output(flag, check="index 3, of (2) -> out of range \\ \n line")
    again = round_trip(builder.build())
    assert [(o.updates, o.check is None) for o in again.outputs] == [(None, True), (0, True), (None, False)]
    assert again.outputs[2].check == "index 3, of (2) -> out of range \\ \n line"


def test_regions() -> None:
    inner = Builder("loop")
    p = inner.input(TensorType(F32, (4,)), "p0")
    inner.output(inner.emit(Exp(), p, loc=Location("inner")))
    builder = Builder()
    x = builder.input(TensorType(F32, (4,)), "x")
    y = builder.emit(Fusion("loop", inner.build()), x)
    builder.output(builder.emit(Reshape((2, 2)), y))
    again = round_trip(builder.build())
    (body,) = again.nodes[0].op.regions()
    assert body.nodes[0].loc == Location("inner")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_constants_keep_every_bit(dtype, data) -> None:  # type: ignore[no-untyped-def]
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    if dtype.name == "bf16":
        raw = data.draw(arrays.arrays(np.uint16, shape))
        array = np.asarray(raw).view(dtype.numpy)
    else:
        array = np.asarray(data.draw(arrays.arrays(dtype.numpy, shape)))
    builder = Builder()
    builder.output(builder.emit(Constant(array)))
    (again,) = interpret(round_trip(builder.build()), [])
    assert again.dtype == array.dtype and again.shape == array.shape
    same = np.ascontiguousarray(again).tobytes() == np.ascontiguousarray(array).tobytes()
    assert same or np.isnan(array.astype(np.float64)).any()


@pytest.mark.parametrize("text,message", [
    ("graf g() {\n}", "expected 'graph name"),
    ("graph g() {\n  return", "the text ends"),
    ("graph g(%x: f33[2]) {\n  return %x\n}", "unknown element type 'f33'"),
    ("graph g(%x: f32[2]) {\n  %0: f32[2] = exponential(%x)\n  return %0\n}", "unknown operation 'exponential'"),
    ("graph g(%x: f32[2]) {\n  %0: f32[2] = exp(%y)\n  return %0\n}", "%y is not defined"),
    ("graph g(%x: f32[2]) {\n  return %0\n}", "%0 is not defined"),
    ("graph g(%x: f32[2]) {\n  %0: f32[3] = exp(%x)\n  return %0\n}", r"gives f32\[2\]"),
    ("graph g(%x: f32[2]) {\n  %0: i32[2] = bitwise_not(%x)\n  return %0\n}", "does not take f32"),
    ("graph g(%x: f32[2]) {\n  what is this\n  return %x\n}", "cannot read 'what is this'"),
    ("graph g(%x: f32[2]) {\n  return %x\n", "the text ends"),
])
def test_says_what_it_cannot_read(text: str, message: str) -> None:
    with pytest.raises(IRError, match=message):
        parse_graph(text)


def test_every_operation_has_a_name_of_its_own() -> None:
    names = registered_ops()
    assert all(op.name == name and name == name.lower() for name, op in names.items())
    assert len(set(names.values())) == len(names)
