"""Max and average pooling, NHWC, and the gradient of the average. Vectors run along the channels."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.pool import AvgPool, AvgPoolGrad, MaxPool, lowest
from .. import halves
from ..emitter import Emitter, const
from ..isa import Isa
from ..kernel import Kernel, Phase, key_of
from . import pool_maxima
from .pool_gather import gather_phase
from .windows import (
    Bounds,
    Geometry,
    channel_blocks,
    chunks_of,
    lines,
    load_at,
    origin,
    over_taps,
    over_windows,
    pooling_of,
    scaled,
    store_at,
    vector,
)

Fold = Callable[[Emitter, ll.Value, ll.Value], ll.Value]
Finish = Callable[[Emitter, ll.Value, Bounds, Bounds], ll.Value]


def lower_max_pool(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``max_pool``: a chunk is a range of result lines."""
    op, g = pooling_of(node, node.operands[0].shape)
    assert isinstance(op, MaxPool)

    def fold(e: Emitter, best: ll.Value, x: ll.Value) -> ll.Value:
        return e.b.select(e.b.fcmp_ordered(">", x, best), x, best)

    return _forward(node, isa, g, lowest(g.dtype), fold, lambda e, value, rows, columns: value)


def lower_avg_pool(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``avg_pool``: a chunk is a range of result lines."""
    op, g = pooling_of(node, node.operands[0].shape)
    assert isinstance(op, AvgPool)
    return _forward(node, isa, g, 0.0, lambda e, total, x: e.b.fadd(total, x), _mean)


def lower_avg_pool_grad(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``avg_pool_grad``: dy gathered, then divided; where padding makes the windows' counts
    differ, a phase before divides each dy by its own."""
    op, g = pooling_of(node, node.results[0].shape)
    assert isinstance(op, AvgPoolGrad)
    dy = node.operands[0].type
    if not (g.rows.padded or g.columns.padded):
        phase = gather_phase(g, lambda e, total, offset, *_: e.b.fadd(total, load_at(e, e.operand(0), offset, g)),
                             lambda e, total: _divided(e, total, g.taps))
        return Kernel(node, (phase,), key_of(node, isa), label="average pool gradient")
    chunks = chunks_of(g.images * g.rows.count, dy.size)
    share = Phase(chunks, lambda e: _emit_shares(e, g, chunks))
    gather = gather_phase(g, lambda e, total, offset, *_: e.b.fadd(total, _share(e, g, offset)),
                          lambda e, total: total)
    return Kernel(node, (share, gather), key_of(node, isa), temps=(dy.size * max(4, dy.dtype.bytes),),
                  label="average pool gradient")


LOWERINGS = {
    **pool_maxima.LOWERINGS, "max_pool": lower_max_pool,
    "avg_pool": lower_avg_pool, "avg_pool_grad": lower_avg_pool_grad,
}

# Forward


def _forward(node: Node, isa: Isa, g: Geometry, start: float, fold: Fold, finish: Finish) -> Kernel:
    windows = g.images * g.rows.count
    chunks = chunks_of(windows, node.results[0].type.size * g.taps)

    def emit(e: Emitter) -> None:
        with lines(e, g.images, g.rows.count, chunks) as (image, row):
            row_taps = g.row_taps(e, row)
            over_windows(e, g, lambda column, taps: _emit_window(
                e, g, (image, row, column), row_taps, taps, start, fold, finish))

    return Kernel(node, (Phase(chunks, emit),), key_of(node, isa), label=node.op.name.replace("_", " "))


def _emit_window(e: Emitter, g: Geometry, window: tuple[ll.Value, ll.Value, ll.Value], rows: Bounds,
                 columns: Bounds, start: float, fold: Fold, finish: Finish) -> None:
    first, target = origin(e, g, *window), g.y_offset(e, *window)
    with channel_blocks(e, g) as channel:
        base = e.b.add(first, channel)

        def tap(row: ll.Value | int, column: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
            offset = e.b.add(base, g.tap_offset(e, row, column))
            return [fold(e, now[0], load_at(e, e.operand(0), offset, g))]

        (value,) = over_taps(e, rows, columns, [const(vector(e, g), start)], tap)
        store_at(e, finish(e, value, rows, columns), e.result(0), e.b.add(target, channel), g)


def _mean(e: Emitter, total: ll.Value, rows: Bounds, columns: Bounds) -> ll.Value:
    count = 1
    sizes = [_length(e, bounds) for bounds in (rows, columns)]
    for size in sizes:
        count = count * size if isinstance(count, int) and isinstance(size, int) else e.b.mul(
            scaled(e, count, 1), scaled(e, size, 1))
    return _divided(e, total, count)


def _length(e: Emitter, bounds: Bounds) -> ll.Value | int:
    first, end = bounds
    if isinstance(first, int) and isinstance(end, int):
        return end - first
    return e.b.sub(end, first)


def _divided(e: Emitter, total: ll.Value, count: ll.Value | int) -> ll.Value:
    """The total over a count; by multiplication where that is exact."""
    if isinstance(count, int):
        if count & (count - 1) == 0:
            return e.b.fmul(total, const(total.type, 1.0 / count))
        return e.b.fdiv(total, const(total.type, float(count)))
    vector = isinstance(total.type, ll.VectorType)
    divisor = e.b.sitofp(count, total.type.element if vector else total.type)
    return e.b.fdiv(total, e.splat(divisor, total.type.count) if vector else divisor)


def _emit_shares(e: Emitter, g: Geometry, chunks: int) -> None:
    """Every dy over the count of its window, in the compute type."""
    with lines(e, g.images, g.rows.count, chunks) as (image, row):
        rows = g.row_taps(e, row)

        def position(column: ll.Value, columns: Bounds) -> None:
            source = g.y_offset(e, image, row, column)
            with channel_blocks(e, g) as channel:
                offset = e.b.add(source, channel)
                share = _mean(e, load_at(e, e.operand(0), offset, g), rows, columns)
                e.store(share, _share_address(e, g, offset), _element_bytes(g))

        over_windows(e, g, position)


def _share(e: Emitter, g: Geometry, offset: ll.Value) -> ll.Value:
    return e.load(_share_address(e, g, offset), vector(e, g), _element_bytes(g))


def _share_address(e: Emitter, g: Geometry, offset: ll.Value) -> ll.Value:
    return e.at(e.temp(0), offset, halves.compute_type(g.dtype))


def _element_bytes(g: Geometry) -> int:
    """Bytes of an element in the compute type."""
    return max(4, g.dtype.bytes)
