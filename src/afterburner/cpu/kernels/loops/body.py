"""What a loop kernel computes: its body, its iteration space, its outputs."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import Builder, Graph, Node, Value, print_graph
from ...index import refine
from ...isa import Isa
from ...kernel import Unsupported

REDUCTIONS = frozenset({"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or",
                        "argmax", "argmin"})


def body_of(node: Node) -> Graph:
    """The graph a node computes: a fusion's body, or the node alone."""
    if node.op.name == "fusion":
        return node.op.regions()[0]
    builder = Builder(node.op.name)
    inputs = [builder.input(v.type, f"x{i}") for i, v in enumerate(node.operands)]
    for result in builder.add(node.op, *inputs):
        builder.output(result)
    return builder.build()


def key_of(body: Graph, isa: Isa) -> str:
    """Text that determines the code of a loop kernel."""
    return f"loop {isa.name} {isa.vector_bytes} {isa.features}\n{print_graph(body, locations=False)}"


def reduction_axes(node: Node) -> tuple[int, ...]:
    """The operand axes that a reduction node combines."""
    op = node.op
    return op.axes if hasattr(op, "axes") else (op.axis,)  # type: ignore[attr-defined,no-any-return]


@dataclass(frozen=True)
class Space:
    """The iteration space of a body.

    Attributes:
        sizes: extent of each axis, row-major.
        reduced: the axes that reductions combine.
        reductions: the reduction nodes, all over those axes.
        maps: numbers of the outputs with one element a point.
        results: numbers of the outputs computed from reductions.
    """

    sizes: tuple[int, ...]
    reduced: frozenset[int]
    reductions: tuple[Node, ...]
    maps: tuple[int, ...]
    results: tuple[int, ...]


def space_of(body: Graph) -> Space:
    """The space that a body's outputs and reductions share.

    Raises:
        Unsupported: they do not share one.
    """
    reductions = tuple(n for n in body.nodes if n.op.name in REDUCTIONS)
    if not reductions:
        return _map_space(body)
    shape = reductions[0].operands[0].shape
    after = _after(body, reductions)
    points = reductions[0].operands[0].type.size
    # Beside what follows from a reduction, its epilogue computes what only has the reduced size.
    results = tuple(i for i, o in enumerate(body.outputs) if o.value in after or o.value.type.size != points)
    maps = tuple(i for i in range(len(body.outputs)) if i not in results)
    if any(body.outputs[i].value.type.size != reductions[0].results[0].type.size for i in results):
        raise Unsupported("a fusion's output has the size of neither its reductions' operand nor results")
    if points == 0:
        return Space(shape, frozenset(reduction_axes(reductions[0])), reductions, maps, results)
    sizes = refine([shape, *(n.operands[0].shape for n in reductions[1:]), *_views(body, points)])
    reduced = {_refined_axes(n.operands[0].shape, reduction_axes(n), sizes) for n in reductions}
    if len(reduced) > 1:
        raise Unsupported("a fusion's reductions combine different axes")
    return Space(sizes, reduced.pop(), reductions, maps, results)


def _map_space(body: Graph) -> Space:
    shapes = [o.value.shape for o in body.outputs]
    points = {o.value.type.size for o in body.outputs}
    if len(points) > 1:
        raise Unsupported("a fusion's outputs differ in size")
    sizes = refine([*shapes, *_views(body, min(points))]) if min(points) else (0,)
    return Space(sizes, frozenset(), (), tuple(range(len(shapes))), ())


def _views(body: Graph, points: int) -> list[tuple[int, ...]]:
    """Shapes of all values with as many elements as the space: where its axes may be cut."""
    values = (v for n in body.nodes for v in (*n.results, *n.operands))
    return list(dict.fromkeys(v.shape for v in values if v.type.size == points))


def _after(body: Graph, reductions: tuple[Node, ...]) -> set[Value]:
    """Values computed from reductions."""
    found = {r for n in reductions for r in n.results}
    for node in body.nodes:
        if any(v in found for v in node.operands):
            found.update(node.results)
    return found


def _refined_axes(shape: tuple[int, ...], axes: tuple[int, ...], sizes: tuple[int, ...]) -> frozenset[int]:
    """The axes of the refined space that lie within ``axes`` of ``shape``."""
    found, step = set(), 1
    spans = []
    for axis in reversed(range(len(shape))):
        spans.append((step, step * shape[axis], axis))
        step *= shape[axis]
    step = 1
    for fine in reversed(range(len(sizes))):
        inside = [a for low, high, a in spans if low <= step and step * sizes[fine] <= high and high > low]
        if len(inside) != 1:
            raise Unsupported("a fusion's reshapes cut across a reduced axis")
        if inside[0] in axes:
            found.add(fine)
        step *= sizes[fine]
    return frozenset(found)
