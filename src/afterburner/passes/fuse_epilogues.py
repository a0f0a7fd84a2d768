"""Elementwise work, and sums over all rows, that ride on a contraction: done while its result is in registers."""

from __future__ import annotations

from ..ir import Node, Shape, Value
from ..ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from ..ir.ops.shape import Slice
from .fusion_groups import CONTRACTIONS, Group, Grouping

MAX_EPILOGUE_NODES = 32
MAX_LOOKAHEAD = 96  # nodes considered, so as not to cut where it costs most
MAX_TRANSCENDENTALS = 3
MAX_SUMS = 4  # of a kernel
MIN_SUMMED_BYTES = 1 << 18  # of a result; of less a loop adds up as fast
SUMMING = ("conv2d", "conv2d_input_grad")
TRANSCENDENTALS = frozenset((
    "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow", "atan2"))


def fuse_epilogues(grouping: Grouping) -> None:
    """Give each contraction the elementwise nodes behind it that can be computed on its tile.

    The last contraction is served first: where two results are added, both must be there, and only
    the later one can know that.
    """
    for member in reversed(range(len(grouping.nodes))):
        node = grouping.nodes[member]
        if node.op.name in CONTRACTIONS and node.results[0].type.size > 0:
            chain = _affordable(grouping, member, _candidates(grouping, member))
            chain = _without_burden(grouping, member, chain)
            for follower in (*chain, *_feeders(grouping, member, chain)):
                grouping.absorb(member, follower)
            _absorb_sums(grouping, member)


def _absorb_sums(grouping: Grouping, root: int) -> None:
    """Let a convolution add up over all pixels what it has on its tile: gradients of a bias, and what a batch
    normalization needs of its gradient. Nobody reads the result for them again."""
    if not _adds_up(grouping.nodes[root]):
        return
    result = grouping.nodes[root].results[0]
    inside = set(grouping.group(root).members)
    for member in sorted({u for m in inside for u in grouping.users[m]} - inside):
        taken = sum(grouping.nodes[m].op.reduction for m in grouping.group(root).members)
        if taken == MAX_SUMS:
            return
        if _is_sum(grouping, member, result.shape):
            grouping.absorb(root, member)
        elif _can_follow(grouping, root, inside, member) and grouping.nodes[member].results[0] not in grouping.returned:
            users = grouping.users[member]
            if len(users) == 1 and _is_sum(grouping, users[0], result.shape) and grouping.absorb(root, member):
                grouping.absorb(root, users[0])


def _adds_up(root: Node) -> bool:
    """Whether the kernel of a contraction can make sums, and is better at it than a loop."""
    if root.op.name not in SUMMING or root.op.groups > 1:  # type: ignore[attr-defined]
        return False
    return root.results[0].type.dtype.name == "f32" and root.results[0].type.bytes >= MIN_SUMMED_BYTES


def _is_sum(grouping: Grouping, member: int, shape: Shape) -> bool:
    """Whether a node adds up, and nothing else, all rows of a tensor."""
    node = grouping.nodes[member]
    return node.op.name == "reduce_sum" and node.operands[0].shape == shape \
        and node.op.axes == tuple(range(len(shape) - 1)) and len(grouping.group(member).members) == 1  # type: ignore[attr-defined]


def _candidates(grouping: Grouping, root: int) -> list[int]:
    """Nodes that can follow ``root`` on its tile, in program order."""
    inside, transcendentals = {root}, 0
    found: list[int] = []
    pending = sorted(grouping.users[root])
    seen = set(pending)
    while pending and len(found) < MAX_LOOKAHEAD:
        member = pending.pop(0)
        heavy = grouping.nodes[member].op.name in TRANSCENDENTALS
        if heavy and transcendentals == MAX_TRANSCENDENTALS:
            continue
        if not _can_follow(grouping, root, inside, member):
            continue
        transcendentals += heavy
        inside.add(member)
        found.append(member)
        later = [u for u in grouping.users[member] if u not in seen]
        seen.update(later)
        pending = sorted({*pending, *later})
    return found


def _feeders(grouping: Grouping, root: int, chain: list[int]) -> list[int]:
    """Nodes that only prepare other operands of the chain, element by element, or take them from wider rows."""
    shape = grouping.nodes[root].results[0].shape
    found: list[int] = []
    pending = list(chain)
    while pending and len(chain) + len(found) < MAX_EPILOGUE_NODES:
        for source, aligned, _ in grouping.sources[pending.pop()]:
            if source < 0 or source == root or source in chain or source in found or not aligned:
                continue
            node = grouping.nodes[source]
            alone = all(u in chain or u in found for u in grouping.users[source])
            if alone and node.results[0].shape == shape and node.results[0] not in grouping.returned \
                    and len(grouping.group(source).members) == 1 \
                    and (_prepares(grouping, node) or _reads_columns(grouping, root, node)):
                found.append(source)
                pending.append(source)
    return found


def _prepares(grouping: Grouping, node: Node) -> bool:
    return node.op.elementwise and node.op.name not in TRANSCENDENTALS \
        and all(fits_tile(grouping, v) for v in node.operands)


def _reads_columns(grouping: Grouping, root: int, node: Node) -> bool:
    """Whether the kernel of ``root`` can read what a node takes of wider rows from these, which are in memory."""
    if not isinstance(node.op, Slice) or node.results[0].type == node.operands[0].type:
        return False
    return node.op.columns(node.operands[0].shape) is not None and not grouping.is_free(node.operands[0]) \
        and is_pointwise(grouping.nodes[root])


def is_pointwise(contraction: Node) -> bool:
    """Whether a node is a convolution with 1x1 filters, or a gradient of one: such kernels can work with rows that have
    a distance between them."""
    op, operands = contraction.op, contraction.operands
    if not isinstance(op, Conv2d | Conv2dInputGrad | Conv2dFilterGrad) or op.groups > 1:
        return False
    filter_ = contraction.results[0] if isinstance(op, Conv2dFilterGrad) else operands[isinstance(op, Conv2d)]
    return filter_.shape[:2] == (1, 1)


def _can_follow(grouping: Grouping, root: int, inside: set[int], member: int) -> bool:
    node, group = grouping.nodes[member], grouping.group(member)
    shape = grouping.nodes[root].results[0].shape
    if not node.op.elementwise or node.results[0].shape != shape or len(group.members) > 1:
        return False
    if not all(fits_tile(grouping, v) for v in node.operands):
        return False
    for source, aligned, _ in grouping.sources[member]:
        if source in inside:
            if not aligned:
                return False
        elif source >= 0 and grouping.clusters.leads_to(
                grouping.clusters.find(root), grouping.clusters.find(source)):
            return False
    return True


def fits_tile(grouping: Grouping, value: Value) -> bool:
    """A full tensor, a repeated scalar, or a row repeated over all other axes."""
    if not grouping.is_free(value) or value.node is None or value.node.op.name == "constant":
        return True
    if value.node.op.name != "broadcast":
        return False
    source = value.node.operands[0]
    if grouping.is_free(source) and source.constant is None:
        return False
    row = value.node.op.axes == (value.type.rank - 1,)  # type: ignore[attr-defined]
    return source.type.size == 1 or (row and source.type.rank == 1)


def can_recompute(grouping: Grouping, group: Group, cone: set[int]) -> bool:
    """Whether the kernel of a contraction can compute the nodes of ``cone`` again for its epilogue; the
    last of them is what it would read otherwise."""
    (root,) = (m for m in group.members if grouping.nodes[m].op.name in CONTRACTIONS)
    shape = grouping.nodes[root].results[0].shape
    if len(group.members) + len(cone) > MAX_EPILOGUE_NODES:
        return False
    return all(grouping.nodes[m].results[0].shape == shape and root not in grouping.users[m]
               and all(fits_tile(grouping, v) for v in grouping.nodes[m].operands) for m in cone)


def _affordable(grouping: Grouping, root: int, candidates: list[int]) -> list[int]:
    """The longest beginning of ``candidates`` within bounds that cuts through the least memory: what is
    written and read again only because the rest is another kernel's work."""
    lengths = range(min(len(candidates), MAX_EPILOGUE_NODES) + 1)
    kept = min(lengths, key=lambda k: (_cut_bytes(grouping, root, candidates, k), -k))
    return candidates[:kept]


def _cut_bytes(grouping: Grouping, root: int, candidates: list[int], length: int) -> int:
    inside, rest = {root, *candidates[:length]}, set(candidates[length:])
    total = 0
    for member in inside:
        users = set(grouping.users[member])
        if users & rest:
            result = grouping.nodes[member].results[0]
            kept = result in grouping.returned or users - inside - rest
            total += result.type.bytes * (1 if kept else 2)
    return total


def _without_burden(grouping: Grouping, root: int, chain: list[int]) -> list[int]:
    """``chain`` without nodes that only lead to one more result to be written: the square of a
    convolution's result that a later sum reads is better made there."""
    kept = set(chain)
    for member in reversed(chain):
        users = grouping.users[member]
        needed = grouping.nodes[member].results[0] in grouping.returned or \
            any(u in kept or grouping.group(u).kind != "loop" or _reads_elsewhere(grouping, u, member) for u in users)
        if needed or member not in kept:
            continue
        lesser = kept - _only_for(grouping, member, kept)
        if _written_bytes(grouping, root, lesser) < _written_bytes(grouping, root, kept):
            kept = lesser
    return [m for m in chain if m in kept]


def _reads_elsewhere(grouping: Grouping, user: int, member: int) -> bool:
    """Whether a node reads another one's result at other indices, so that it must be in memory."""
    return any(source == member and not aligned for source, aligned, _ in grouping.sources[user])


def _only_for(grouping: Grouping, last: int, kept: set[int]) -> set[int]:
    """``last`` and the kept nodes that nothing else needs."""
    found, pending = {last}, [last]
    while pending:
        for source, _, _ in grouping.sources[pending.pop()]:
            if source in kept and source not in found and all(u in found for u in grouping.users[source]) \
                    and grouping.nodes[source].results[0] not in grouping.returned:
                found.add(source)
                pending.append(source)
    return found


def _written_bytes(grouping: Grouping, root: int, kept: set[int]) -> int:
    inside = {root, *kept}
    return sum(result.type.bytes for m in inside for result in grouping.nodes[m].results
               if result in grouping.returned or any(u not in inside for u in grouping.users[m]))
