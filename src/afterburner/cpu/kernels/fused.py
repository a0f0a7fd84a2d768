"""Loop fusions, and every elementwise, shape and reduction operation left on its own."""

from __future__ import annotations

from math import prod

from ...ir import Node, registered_ops
from ..index import Index, Range, strides
from ..isa import Isa
from ..kernel import Kernel, Phase
from .loops.body import REDUCTIONS, Space, body_of, key_of, space_of
from .loops.expr import Elements
from .loops.maps import MapNest, Stored, emit_maps, plan_map

_MOST_BOXES = 16


def lower_loop(node: Node, isa: Isa) -> Kernel:
    """The kernel of a loop fusion, or of one elementwise, shape or reduction operation.

    Raises:
        Unsupported: the body is no loop over one iteration space.
    """
    body = body_of(node)
    space = space_of(body)
    phases = (_map_phase(body, space, isa),)
    return Kernel(node, phases, key_of(body, isa), label=_label(node))


def _label(node: Node) -> str:
    if node.op.name != "fusion":
        return node.op.name
    names = [n.op.name for n in node.op.regions()[0].nodes if n.op.name != "constant"]
    return "loop: " + " ".join(names[:6]) + (" …" if len(names) > 6 else "")


def _map_phase(body, space: Space, isa: Isa) -> Phase:
    nests = map_nests(body, space, isa)
    return Phase(sum(n.chunks for n in nests), lambda e: emit_maps(e, nests))


def map_nests(body, space: Space, isa: Isa) -> list[MapNest]:
    """One nest for every box in which piecewise values (pad, concat) keep to one branch."""
    if prod(space.sizes) == 0:
        return []
    order = range(len(space.sizes))
    whole: tuple[Range, ...] = tuple((0, size) for size in space.sizes)
    return [plan_map(_stored(Elements(body, box), body, space), order, box, space.sizes, isa)
            for box in _boxes(body, space, whole)]


def _stored(elements: Elements, body, space: Space) -> list[Stored]:
    position = Index(0, strides(space.sizes))
    return [Stored(i, elements.at_linear(body.outputs[i].value, position), position) for i in space.maps]


def _boxes(body, space: Space, whole: tuple[Range, ...]) -> list[tuple[Range, ...]]:
    probe = Elements(body, whole)
    _stored(probe, body, space)
    boxes = [whole]
    for axis in sorted(probe.cuts, reverse=True):
        edges = [0, *sorted(probe.cuts[axis]), space.sizes[axis]]
        parts = list(zip(edges, edges[1:], strict=False))
        if len(boxes) * len(parts) > _MOST_BOXES:
            continue
        boxes = [(*b[:axis], part, *b[axis + 1:]) for b in boxes for part in parts]
    return boxes


_SHAPE = ("constant", "iota", "broadcast", "reshape", "transpose", "slice", "pad", "concat", "reverse")
_ELEMENTWISE = tuple(name for name, op in registered_ops().items() if op.elementwise)

LOWERINGS = {name: lower_loop for name in ("fusion", *_ELEMENTWISE, *_SHAPE, *sorted(REDUCTIONS))}
