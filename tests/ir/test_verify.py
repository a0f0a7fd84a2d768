"""The verifier: one failing graph for each rule."""

import pytest

from afterburner.ir import DTYPES, Graph, Input, IRError, Node, Output, TensorType, Value, parse_graph, verify
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.elementwise import Exp, IsNan

F32 = TensorType(DTYPES["f32"], (2,))
BOOL = TensorType(DTYPES["bool"], ())


def graph(inputs: tuple[Input, ...], nodes: tuple[Node, ...], *outputs: Output) -> Graph:
    return Graph("g", inputs, nodes, outputs)


def test_accepts_what_is_well_formed() -> None:
    x = Value(F32)
    node = Node(Exp(), [x])
    good = graph((Input(x, "x", state=True),), (node,), Output(node.results[0], updates=0))
    assert verify(good) is good


def test_an_operand_is_defined_before_it_is_read() -> None:
    x = Value(F32)
    first = Node(Exp(), [x])
    second = Node(Exp(), first.results)
    with pytest.raises(IRError, match="before it is defined"):
        verify(graph((Input(x, "x"),), (second, first), Output(second.results[0])))


def test_what_a_node_reads_is_looked_at_every_time() -> None:
    x = Value(F32)
    first = Node(Exp(), [x])
    second = Node(Exp(), first.results)
    verify(graph((Input(x, "x"),), (first, second), Output(second.results[0])))
    with pytest.raises(IRError, match="before it is defined"):
        verify(graph((Input(x, "x"),), (second,), Output(second.results[0])))


def test_an_operand_comes_from_this_graph() -> None:
    x, stranger = Value(F32), Value(F32)
    node = Node(Exp(), [stranger])
    with pytest.raises(IRError, match="before it is defined"):
        verify(graph((Input(x, "x"),), (node,), Output(node.results[0])))


def test_result_types_follow_the_shape_rule() -> None:
    x = Value(F32)
    node = Node(IsNan(), [x])
    node.results = (Value(F32, node),)
    with pytest.raises(IRError, match="should have types"):
        verify(graph((Input(x, "x"),), (node,), Output(node.results[0])))


def test_an_input_is_listed_once() -> None:
    x = Value(F32)
    with pytest.raises(IRError, match="listed twice"):
        verify(graph((Input(x, "x"), Input(x, "y")), (), Output(x)))


def test_an_output_is_defined() -> None:
    x = Value(F32)
    node = Node(Exp(), [x])
    with pytest.raises(IRError, match="output 0 .* is not defined"):
        verify(graph((Input(x, "x"),), (), Output(node.results[0])))


def test_a_check_is_a_scalar_bool() -> None:
    x = Value(F32)
    with pytest.raises(IRError, match="check 'fine' is"):
        verify(graph((Input(x, "x"),), (), Output(x, check="fine")))
    flag = Value(BOOL)
    verify(graph((Input(flag, "flag"),), (), Output(flag, check="fine")))


@pytest.mark.parametrize("updates", [0, 1, 2, -1])
def test_an_update_names_a_state_input_of_its_type(updates: int) -> None:
    plain, other = Value(F32), Value(TensorType(DTYPES["f32"], (3,)))
    with pytest.raises(IRError, match="updates input|its state"):
        verify(graph((Input(plain, "x"), Input(other, "v", state=True)), (), Output(plain, updates=updates)))


def test_regions_keep_the_same_rules() -> None:
    x, p = Value(F32), Value(F32)
    first = Node(Exp(), [p])
    second = Node(Exp(), first.results)
    body = graph((Input(p, "p0"),), (second, first), Output(second.results[0]))
    node = Node(Fusion("loop", body), [x])
    with pytest.raises(IRError, match="before it is defined"):
        verify(graph((Input(x, "x"),), (node,), Output(node.results[0])))


def test_a_fusion_takes_what_its_body_takes() -> None:
    body = parse_graph("graph loop(%p0: f32[2]) {\n  %0: f32[2] = exp(%p0)\n  return %0\n}")
    with pytest.raises(IRError, match="the body takes"):
        Node(Fusion("loop", body), [Value(TensorType(DTYPES["f32"], (3,)))])
