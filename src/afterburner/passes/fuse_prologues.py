"""Readers that can make a value themselves from what it is made of, at no cost in memory traffic.

A filter's gradient copies its input into the order in which it is multiplied: elementwise work on the way is
nearly free. An epilogue computes one thing more on its tile. A convolution of single pixels may copy a block of its
image to where it stays in a cache. Where all readers of a value can, nobody writes it to memory: a normalized and
rectified image, for one, is made twice from what is kept anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from ..ir import Builder, Graph, Node, Op, Value
from ..ir.ops.control import Fusion
from ..ir.ops.conv import Conv2d, Conv2dFilterGrad
from .fuse_epilogues import MAX_EPILOGUE_NODES, TRANSCENDENTALS
from .fusion_groups import CONTRACTIONS
from .loop_parts import part_of_loop, without_results

MakesImage = Callable[[Node], bool]
"""Whether the target's kernel for a convolution can make its image as it reads it."""

MIN_CHANNELS = 8  # of a filter's gradient: with fewer the input is not copied channel by channel
TAPS = (2, 3, 4)  # of a filter to a stride: where Winograd's largest algorithms may take its gradient


def fuse_prologues(graph: Graph, makes_image: MakesImage = lambda node: False, fast: bool = False) -> Graph:
    """Have readers make what they all can, where one of them is a convolution that reads it as its image.

        %0: f32[1,9,9,8] = fusion(%x) {kind='loop'} …    %0: f32[1,9,9,4] = fusion(%w, %x) {kind='conv2d'} …
        %1: f32[1,9,9,4] = conv2d(%0, %w)           ->   …
        …                                                %7: f32[1,1,8,4] = fusion(%dy, %x) …
        %7: f32[1,1,8,4] = conv2d_filter_grad(%0, %dy)

    Args:
        graph: fused.
        makes_image: what the target can do.
        fast: whether the target may compute convolutions by Winograd's largest algorithms, which make no operand.
    """
    made = dict(_made_by_readers(graph, makes_image, fast))
    if not made:
        return graph
    nodes: list[Node] = []
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        current = _without(node, made) if not made.keys().isdisjoint(node.results) else _making(node, made)
        if current is None:
            continue
        current = _reading(current, new)
        nodes.append(current)
        new.update(zip((r for r in node.results if r not in made), current.results, strict=True))
    outputs = tuple(replace(o, value=new.get(o.value, o.value)) for o in graph.outputs)
    return Graph(graph.name, graph.inputs, tuple(nodes), outputs)


def _made_by_readers(graph: Graph, makes_image: MakesImage,
                     fast: bool) -> Iterator[tuple[Value, tuple[Fusion, tuple[Value, ...]]]]:
    """Values that their readers make, and by what."""
    users, returned = graph.users(), {o.value for o in graph.outputs}
    for node in graph.nodes:
        if not isinstance(node.op, Fusion) or node.op.kind != "loop":
            continue
        for value in node.results:
            readers = users.get(value, [])
            images = [r for r in readers if _reads_as_image(r, value)]
            if len(images) != 1 or value in returned:
                continue
            part = part_of_loop(node, value)
            if part is None or not is_simple(part[0].body):
                continue
            if all(makes_image(r) if r is images[0] else can_make(r, value, part[0].body, fast) for r in readers):
                yield value, part


def _reads_as_image(node: Node, value: Value) -> bool:
    """Whether a node is a convolution of ``value`` that reads it for nothing else."""
    if isinstance(node.op, Conv2d):
        return node.operands[0] is value and node.operands[1] is not value
    if not isinstance(node.op, Fusion) or node.op.kind != "conv2d" or node.operands.count(value) != 1:
        return False
    body = node.op.body
    inside = body.inputs[node.operands.index(value)].value
    return all(isinstance(n.op, Conv2d) and n.operands[0] is inside and n.operands[1] is not inside
               for n in body.users().get(inside, ())) and all(o.value is not inside for o in body.outputs)


def _without(node: Node, made: Collection[Value]) -> Node | None:
    """A loop without the results that its readers make."""
    return without_results(node, [r for r in node.results if r in made])


def _making(node: Node, made: dict[Value, tuple[Fusion, tuple[Value, ...]]]) -> Node:
    """A node that makes what it reads of ``made``."""
    op, read = node.op, node.operands
    for value in dict.fromkeys(v for v in node.operands if v in made):
        part, operands = made[value]
        op, read = make_inside(op, read, value, part.body, operands)
    return node if op is node.op else Node(op, read, node.loc)


def _reading(node: Node, new: dict[Value, Value]) -> Node:
    """A node that reads what has taken the place of its operands."""
    operands = tuple(new.get(v, v) for v in node.operands)
    return node if operands == node.operands else Node(node.op, operands, node.loc)


def is_simple(body: Graph) -> bool:
    """Whether a loop is elementwise work on one tensor of its result's type, rows and scalars."""
    result = body.outputs[0].value.type
    full = [i for i in body.inputs if i.value.shape == result.shape]
    if len(full) != 1 or full[0].value.type != result:
        return False
    for node in body.nodes:
        name = node.op.name
        if name == "constant" and node.results[0].type.size == 1:
            continue
        if node.results[0].shape != result.shape or name in TRANSCENDENTALS:
            return False
        if name == "broadcast":
            (source,) = node.operands
            row = node.op.axes == (result.rank - 1,)  # type: ignore[attr-defined]
            if source.type.size != 1 and not (row and source.type.rank == 1):
                return False
        elif not node.op.elementwise:
            return False
    return all(i is full[0] or i.value.type.rank <= 1 for i in body.inputs)


def can_make(node: Node, value: Value, body: Graph, fast: bool = False) -> bool:
    """Whether ``node`` can compute its operand ``value`` by the simple loop ``body`` where it reads it; with ``fast``
    not where Winograd's largest algorithms may take it, which make nothing as they read patches."""
    if isinstance(node.op, Conv2dFilterGrad):
        if fast and _may_be_transformed(node.op):
            return False
        return node.operands[0] is value and node.operands[1] is not value and node.op.groups == 1 \
            and node.op.filter_shape[2] >= MIN_CHANNELS and value.type.dtype == node.results[0].type.dtype
    if not isinstance(node.op, Fusion) or node.op.kind not in CONTRACTIONS:
        return False
    inner = node.op.body
    (root,) = (n for n in inner.nodes if n.op.name in CONTRACTIONS)
    inputs = [i.value for i, v in zip(inner.inputs, node.operands, strict=True) if v is value]
    return bool(inputs) and root.results[0].shape == value.shape and not any(v in root.operands for v in inputs) \
        and len(inner.nodes) + len(body.nodes) <= MAX_EPILOGUE_NODES


def _may_be_transformed(op: Conv2dFilterGrad) -> bool:
    (height, width), stride = op.filter_shape[:2], op.strides[0]
    return height == width and height / stride in TAPS and op.strides == (stride, stride) and op.dilation == (1, 1) \
        and op.groups == 1


def make_inside(op: Op, read: Sequence[Value], value: Value, body: Graph,
                operands: Sequence[Value]) -> tuple[Fusion, tuple[Value, ...]]:
    """``op`` on ``read`` with ``value`` computed by ``body`` from ``operands``: the fusion and what it reads."""
    builder = Builder(op.kind if isinstance(op, Fusion) else op.name)
    given: dict[Value, Value] = {}
    for v in dict.fromkeys((*(v for v in read if v is not value), *operands)):
        given[v] = builder.input(v.type, f"p{len(given)}")
    made = inline(builder, body, [given[v] for v in operands])
    arguments = [made[0] if v is value else given[v] for v in read]
    if isinstance(op, Fusion):
        results = inline(builder, op.body, arguments)
    else:
        results = list(builder.add(op, *arguments))
    for result in results:
        builder.output(result)
    return Fusion(builder.name, builder.build()), tuple(given)


def inline(builder: Builder, body: Graph, arguments: Sequence[Value]) -> list[Value]:
    """The results of a body's nodes, added to a graph."""
    new = dict(zip((i.value for i in body.inputs), arguments, strict=True))
    for node in body.nodes:
        new.update(zip(node.results, builder.add(node.op, *(new[v] for v in node.operands), loc=node.loc), strict=True))
    return [new[o.value] for o in body.outputs]
