"""Groups nodes into kernels.

A step of a Keras model is a thousand small tensor operations between a few dozen large ones. Each
kernel reads and writes memory and meets a barrier, so what can be computed in one sweep over one
index space goes into one kernel. LLVM could fuse loops only with proof that buffers do not
overlap, and never across the threads' barriers; here it is a question about a graph.
"""

from __future__ import annotations

from ..ir import Graph, Node, Value
from .fuse_epilogues import TRANSCENDENTALS, can_recompute, fuse_epilogues
from .fusion_bodies import build_fused
from .fusion_groups import CONTRACTIONS, Group, Grouping

MIN_SHARED = 0.25  # siblings join if at least this share of the smaller one's traffic is read by both
MAX_RECOMPUTED = 10  # cost of what a kernel computes again rather than read: 1 a node, 3 a division
MAX_REREAD = 0.75  # of the bytes that writing and reading a value moves, for computing it again instead
MANY = 1 << 16  # elements of a kernel that takes longer than starting one
MAX_PARTS, MAX_WORK_ON_PARTS = 32, 8  # of a concatenation, and nodes of the kernel that reads them
NEARLY_ALL = 0.75  # of a concatenation, that one part must be for it to be written by a kernel that reads it
_EXPENSIVE = TRANSCENDENTALS | {"floor_div", "floor_mod", "trunc_div", "trunc_mod"}
_DIVISIONS = ("div", "sqrt", "rsqrt")


def _fuse_producers(grouping: Grouping) -> None:
    """Join each node with the groups that read it element by element, last node first: what only
    a late kernel needs is then already part of that kernel when its operands are considered."""
    for member in reversed(range(len(grouping.nodes))):
        if grouping.group(member).kind != "loop" or _stands_alone(grouping, member):
            continue
        for user in sorted(grouping.users[member]):
            if grouping.group(user).kind == "loop":
                grouping.join(member, user)


def _stands_alone(grouping: Grouping, member: int) -> bool:
    """A concatenation is a few block copies; read through by index it would be a choice per element. Only when all
    else is settled can it be seen who reads it (``_fuse_concatenations``)."""
    return grouping.nodes[member].op.name == "concat"


def _fuse_concatenations(grouping: Grouping) -> None:
    """Let a kernel that reads a concatenation element by element read its parts instead: the code is written once for
    each part, so the kernel must be short. Reductions, which would not be cut so, are left alone. Where others read it
    too it is written on the way, if one part is nearly all of it: each part is a sweep of its own, and two tensors
    written in short runs take longer than one, which then is read again."""
    for member, node in enumerate(grouping.nodes):
        if node.op.name != "concat" or len(node.operands) > MAX_PARTS or node.results[0] in grouping.returned:
            continue
        readers = {grouping.clusters.find(u): u for u in reversed(grouping.users[member])}
        able = [u for u in readers.values() if _can_read_parts(grouping, grouping.group(u))]
        if able and (len(readers) == 1 or _is_nearly_one_part(node)):
            grouping.join(member, min(able))


def _is_nearly_one_part(concat: Node) -> bool:
    return max(v.type.bytes for v in concat.operands) >= NEARLY_ALL * concat.results[0].type.bytes


def _can_read_parts(grouping: Grouping, reader: Group) -> bool:
    names = [grouping.nodes[m].op.name for m in reader.members]
    return reader.kind == "loop" and reader.reduction is None and len(names) <= MAX_WORK_ON_PARTS \
        and not _EXPENSIVE & set(names) and all(grouping.nodes[m].op.elementwise for m in reader.members)


def _fuse_scalars(grouping: Grouping) -> None:
    """Merge single-element groups into as few as dependencies allow.

    A group's stage counts the scalar-to-tensor-to-scalar round trips before it. Scalar groups of
    one stage cannot depend on each other through a tensor kernel, so they may all be one.
    """
    stage: dict[int, int] = {}
    clusters = grouping.clusters
    stages: dict[int, list[int]] = {}
    for name in clusters.order():
        scalar = _is_scalar(grouping.groups[name])
        stage[name] = max((stage[p] + (_is_scalar(grouping.groups[p]) and not scalar)
                           for p in clusters.before[name]), default=0)
        if scalar:
            stages.setdefault(stage[name], []).append(min(grouping.groups[name].members))
    for members in stages.values():
        kept = members[0]
        for member in members[1:]:
            if not grouping.join(kept, member):
                kept = member


def _is_scalar(group: Group) -> bool:
    return group.kind == "loop" and group.size == 1


def _fuse_siblings(grouping: Grouping) -> None:
    """Join kernels that sweep over the same tensor: it is then read once."""
    readers: dict[Value, list[int]] = {}
    for name in grouping.clusters.order():
        group = grouping.groups[name]
        if group.kind != "loop" or group.size == 1:
            continue
        for value in group.inputs:
            if value.type.size == group.size:
                readers.setdefault(value, []).append(min(group.members))
    for members in readers.values():
        for first, second in zip(members, members[1:], strict=False):
            a, b = grouping.group(first), grouping.group(second)
            if a is not b and _share_enough(grouping, a, b):
                grouping.join(first, second)


def _share_enough(grouping: Grouping, a: Group, b: Group) -> bool:
    shared = sum(v.type.bytes for v in a.inputs & b.inputs)
    return shared >= MIN_SHARED * min(_traffic(grouping, a), _traffic(grouping, b))


def _traffic(grouping: Grouping, group: Group) -> int:
    return sum(v.type.bytes for v in group.inputs) + sum(v.type.bytes for v in grouping.outputs(group))


def _recompute_cheap(grouping: Grouping) -> dict[int, set[int]]:
    """Which groups compute values of others again: those that then need not be written at all."""
    recomputed: dict[int, set[int]] = {}
    clusters = grouping.clusters
    for name in clusters.order():
        group = grouping.groups[name]
        if group.kind != "loop" or group.size == 1:
            continue
        for value in sorted(grouping.outputs(group), key=grouping.index.__getitem__):
            cone = _cheap_cone(grouping, group, recomputed.get(name, set()), value)
            if not cone:
                continue
            readers = {clusters.find(u) for u in grouping.users[grouping.index[value]]} - {name}
            if value in grouping.returned or not all(
                    _can_recompute(grouping, grouping.groups[r], cone, value) for r in readers):
                continue
            if _worth(grouping, [grouping.groups[r] for r in readers], cone, value):
                for reader in readers:
                    recomputed.setdefault(reader, set()).update(cone)
    return recomputed


def _cheap_cone(grouping: Grouping, group: Group, copied: set[int], value: Value) -> set[int]:
    """The nodes of ``group``, and those it computes again, that make ``value`` of what is in memory;
    empty if not cheap."""
    cone: set[int] = set()
    cost = 0
    stack = [grouping.index[value]]
    while stack:
        member = stack.pop()
        node = grouping.nodes[member]
        if member in cone:
            continue
        cost += 3 if node.op.name in _DIVISIONS else 1
        if not node.op.elementwise or node.op.name in _EXPENSIVE or member in group.post \
                or cost > MAX_RECOMPUTED:
            return set()
        cone.add(member)
        stack.extend(s for s, _, _ in grouping.sources[member]
                     if (s in group.members and not _is_joined_for_others(grouping, group, s)) or s in copied)
    return cone


def _is_joined_for_others(grouping: Grouping, group: Group, member: int) -> bool:
    """Whether a member is a concatenation that is in memory for others to read."""
    node = grouping.nodes[member]
    return node.op.name == "concat" and grouping.is_read_outside(group, member, node.results[0])


def _can_recompute(grouping: Grouping, reader: Group, cone: set[int], value: Value) -> bool:
    if reader.kind in CONTRACTIONS:
        return can_recompute(grouping, reader, cone)
    repeats = 1 < value.type.size < reader.size and reader.size >= MANY  # once for each row of the reader
    return reader.kind == "loop" and not reader.choice and not repeats


def _worth(grouping: Grouping, readers: list[Group], cone: set[int], value: Value) -> bool:
    """Whether clearly fewer bytes move when the readers compute ``value`` from the inputs of ``cone``
    than when it is written once and read by each."""
    inputs = {v for m in cone for s, _, v in grouping.sources[m] if s not in cone}
    added = sum(v.type.bytes for reader in readers for v in inputs - reader.inputs)
    return added <= MAX_REREAD * (1 + len(readers)) * value.type.bytes


def fuse(graph: Graph, epilogues: bool = True) -> Graph:
    """Replace groups of nodes by ``fusion`` nodes, each one kernel.

        %0: f32[8,4] = matmul(%x, %w)              %0: f32[8,4] = fusion(%x, %w, %b) {kind='matmul'} with
        %1: f32[8,4] = broadcast(%b) …               graph matmul(%p0: …, %p1: …, %p2: …) {
        %2: f32[8,4] = add(%0, %1)           ->        … matmul, broadcast, add, tanh
        %3: f32[8,4] = tanh(%2)                        return %3
        return %3                                    }

    Kind "loop": one domain; outputs are tensors with the domain's number of elements, or reductions
    over the same axes of it with elementwise work on what they leave. Kind "matmul", "conv2d",
    "conv2d_input_grad", "conv2d_input_grad_pooled": the contraction and elementwise work on its result; outputs have
    its shape, or are sums of such tensors over all axes but the last.
    Reshapes, constants and what fuses with nothing stay as they are.

    Args:
        graph: simplified; fusions already in it are left alone.
        epilogues: whether contractions take elementwise work.
    """
    grouping = Grouping(graph)
    if not any(grouping.is_work(i) for i in range(len(graph.nodes))):
        return graph
    if epilogues:
        fuse_epilogues(grouping)
    _fuse_producers(grouping)
    _fuse_scalars(grouping)
    _fuse_siblings(grouping)
    _fuse_concatenations(grouping)
    return build_fused(grouping, _recompute_cheap(grouping))
