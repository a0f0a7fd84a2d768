"""Loop fusions, and every elementwise, shape and reduction operation left on its own."""

from __future__ import annotations

from functools import partial
from math import prod

from ...ir import DTYPES, Graph, Node, Value, registered_ops
from ..emitter import Emitter
from ..index import Index, Range, refine, strides
from ..isa import Isa
from ..kernel import Kernel, Phase, Unsupported
from .loops.body import REDUCTIONS, Space, body_of, key_of, reduction_axes, space_of
from .loops.expr import Apply, Elements, Expr, Literal, Position, Reduced, topological
from .loops.maps import MapNest, Maps, Stored, chunks_together, emit_maps, plan_map
from .loops.nest import code_size
from .loops.reducers import Reducer, reducer_of
from .loops.reductions import (
    ReduceEmitter,
    ReduceNest,
    Reduction,
    partial_value,
    plan_reduction,
    scratch_bytes,
    temp_bytes,
)
from .loops.scan import lower_cumulative
from .loops.values import LoopValues

_MOST_BOXES = 64
_MOST_CODE = 500  # operations in the boxes of a kernel together; what is not cut into boxes is chosen


def lower_loop(node: Node, isa: Isa) -> Kernel:
    """The kernel of a loop fusion, or of one elementwise, shape or reduction operation.

    Raises:
        Unsupported: the body is no loop over one iteration space.
    """
    body = body_of(node)
    space = space_of(body)
    phases, temps, scratch = _phases(body, space, isa)
    return Kernel(node, phases, key_of(body, isa), temps=temps, scratch=scratch, label=_label(node))


def _label(node: Node) -> str:
    if node.op.name != "fusion":
        return node.op.name
    names = [n.op.name for n in node.op.regions()[0].nodes if n.op.name != "constant"]
    return "loop: " + " ".join(names[:6]) + (" …" if len(names) > 6 else "")


def _phases(body: Graph, space: Space, isa: Isa) -> tuple[tuple[Phase, ...], tuple[int, ...], int]:
    """Phases, sizes of temporaries, bytes of private memory."""
    empty = prod(space.sizes) == 0
    if not space.reductions or empty:
        maps = Maps(_empty_nests(body, space, isa)) if space.reductions else maps_of(body, space, isa)
        return (_map_phase(maps),), (), maps.scratch
    work = reduction_of(body, space)
    nest = plan_reduction(work, isa)
    first = Phase(nest.chunks, lambda e: ReduceEmitter(e, work, nest).emit())
    if not nest.split:
        return (first,), (), 0
    second, scratch = _second_phase(work, nest, isa)
    return (first, second), temp_bytes(work, nest), max(scratch, scratch_bytes(work, nest))


def _second_phase(work: Reduction, nest: ReduceNest, isa: Isa) -> tuple[Phase, int]:
    """Combines the chunks' states and computes the results."""
    order = [a for a in range(len(work.sizes)) if a not in work.reduced]
    box = _whole(work.sizes)
    combine = plan_map(work.results, order, box, work.sizes, isa, 4 * nest.chunks * len(work.reducers))

    def emit(e: Emitter) -> None:
        def prepare(values: LoopValues) -> None:
            values.reduced = partial(partial_value, e, values, work, nest.chunks)

        emit_maps(e, Maps((combine,)), prepare)

    return Phase(combine.chunks, emit), combine.scratch


def _map_phase(maps: Maps) -> Phase:
    return Phase(maps.chunks, lambda e: emit_maps(e, maps))


def maps_of(body: Graph, space: Space, isa: Isa) -> Maps:
    """One nest for every box in which piecewise values (pad, concat) keep to one branch."""
    if prod(space.sizes) == 0:
        return Maps(())
    boxes = [(box, _stored(Elements(body, box), body, space)) for box in _boxes(body, space)]

    def plan(chunks: int) -> tuple[MapNest, ...]:
        order = range(len(space.sizes))
        return tuple(plan_map(stored, order, box, space.sizes, isa, chunks=chunks) for box, stored in boxes)

    nests = plan(0)
    together = chunks_together(nests)
    return Maps(plan(together), together) if together else Maps(nests)


def _stored(elements: Elements, body: Graph, space: Space) -> list[Stored]:
    position = Index(0, strides(space.sizes))
    return [_output(elements, body, i, position) for i in space.maps]


def _output(elements: Elements, body: Graph, number: int, position: Index) -> Stored:
    value = body.outputs[number].value
    return Stored(number, elements.at_linear(value, position), position, value.type.size)


def _whole(sizes: tuple[int, ...]) -> tuple[Range, ...]:
    return tuple((0, size) for size in sizes)


def _boxes(body: Graph, space: Space) -> list[tuple[Range, ...]]:
    probe = Elements(body, _whole(space.sizes))
    exprs = topological(s.expr for s in _stored(probe, body, space))
    most = min(_MOST_BOXES, max(2, _MOST_CODE // max(1, code_size(x for x in exprs if isinstance(x, Apply)))))
    boxes = [_whole(space.sizes)]
    for axis in sorted(probe.cuts, reverse=True):
        edges = [0, *sorted(probe.cuts[axis]), space.sizes[axis]]
        parts = list(zip(edges, edges[1:], strict=False))
        if len(boxes) * len(parts) > most:
            continue
        boxes = [(*b[:axis], part, *b[axis + 1:]) for b in boxes for part in parts]
    return boxes


def reduction_of(body: Graph, space: Space) -> Reduction:
    """The expressions of a body with reductions.

    Raises:
        Unsupported: a value is computed from a reduction's result in a way no epilogue can.
    """
    elements = Elements(body, _whole(space.sizes))
    point = Index(0, strides(space.sizes))
    reducers = tuple(_reducer(elements, node, point) for node in space.reductions)
    kept = [a for a in range(len(space.sizes)) if a not in space.reduced]
    coefs = [0] * len(space.sizes)
    for axis, step in zip(kept, strides(tuple(space.sizes[a] for a in kept)), strict=True):
        coefs[axis] = step
    position = Index(0, tuple(coefs))
    reduced = {node.results[0]: (Reduced(node.results[0].type.dtype, n, frozenset(kept)), position)
               for n, node in enumerate(space.reductions)}
    after = Elements(body, _whole(space.sizes), reduced)
    maps = tuple(_stored(elements, body, space))
    work = Reduction(space.sizes, space.reduced, reducers, maps, (), position)
    results = []
    for i in space.results:
        value = body.outputs[i].value
        if value.type.size != work.kept_points:
            raise Unsupported("a fusion's result differs in size from its reductions")
        results.append(_output(after, body, i, position))
    return Reduction(work.sizes, work.reduced, reducers, work.maps, tuple(results), position)


def _reducer(elements: Elements, node: Node, point: Index) -> Reducer:
    operand = node.operands[0]
    index = elements.unravel(point, operand.shape)
    inputs = [elements.at(operand, index)]
    if node.op.name in ("argmax", "argmin"):
        inputs.append(Position(DTYPES["i32"], index[reduction_axes(node)[0]]))
    return reducer_of(node, tuple(inputs))


def _empty_nests(body: Graph, space: Space, isa: Isa) -> tuple[MapNest, ...]:
    """Reductions of nothing: their neutral elements, over the kept axes."""
    value = body.outputs[space.results[0]].value if space.results else None
    if value is None or value.type.size == 0:
        return ()
    sizes = refine([value.shape])
    position = Index(0, strides(sizes))
    reduced = {r: (_neutral(node), position) for node in space.reductions for r in node.results}
    elements = Elements(body, _whole(sizes), reduced)
    stored = [_output(elements, body, i, position) for i in space.results]
    return (plan_map(stored, range(len(sizes)), _whole(sizes), sizes, isa),)


def _neutral(node: Node) -> Expr:
    result: Value = node.results[0]
    return Literal(result.type.dtype, reducer_of(node, ()).neutral)


_SHAPE = ("constant", "iota", "broadcast", "reshape", "transpose", "slice", "pad", "concat", "reverse")
_ELEMENTWISE = tuple(name for name, op in registered_ops().items() if op.elementwise)

LOWERINGS = {
    **{name: lower_loop for name in ("fusion", *_ELEMENTWISE, *_SHAPE, *sorted(REDUCTIONS))},
    "cumprod": lower_cumulative,
    "cumsum": lower_cumulative,
}
