"""Where the maxima of windows are: max_pool that notes it, and gradients that scatter to it.

The tap that a window's gradient goes to is found by going through it in row-major order, see
ir/ops/pool.py. Where windows do not overlap, every element of the gradient is written with its window;
else it is gathered from the windows that hold it.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.pool import NAN_TAP, TAP_BITS, lowest
from ..emitter import I8, I32, I64, Emitter, const, i64
from ..isa import Isa
from ..kernel import Kernel, Phase, key_of
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

Place = tuple[ll.Value, ll.Value, ll.Value]  # image, row and column of a window
Tap = Callable[[ll.Value, ll.Value, Bounds, Bounds], ll.Value]
"""Called with (offset of the window's first tap, its offset in y, rows, columns): the tap of its maximum."""


def lower_max_pool_taps(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``max_pool_taps``: a chunk is a range of result lines."""
    _, g = pooling_of(node, node.operands[0].shape)
    chunks = chunks_of(g.images * g.rows.count, node.results[0].type.size * g.taps)

    def position(e: Emitter, window: Place, rows: Bounds, columns: Bounds) -> None:
        first, target = origin(e, g, *window), g.y_offset(e, *window)
        with channel_blocks(e, g) as channel:
            offset = e.b.add(target, channel)
            y, taps = _maximum_and_tap(e, g, e.b.add(first, channel), rows, columns)
            store_at(e, y, e.result(0), offset, g)
            _store_taps(e, g, taps, e.at(e.result(1), offset, I8), I8)

    return Kernel(node, (Phase(chunks, lambda e: _each_window(e, g, chunks, position)),), key_of(node, isa),
                  label="max pool and taps")


def lower_max_pool_scatter(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``max_pool_scatter``: one phase, over lines of windows where they do not overlap, else
    over lines of the input."""
    op, g = pooling_of(node, node.results[0].shape)
    chunks = chunks_of(g.images * g.rows.count, node.results[0].type.size)

    def tap_at(e: Emitter, offset: ll.Value) -> ll.Value:
        taps = e.load(e.at(e.operand(0), offset, I8), e.vector(I8, g.width(e.isa)), 1)
        return e.b.and_(e.b.zext(taps, _index_type(e, g)), const(_index_type(e, g), TAP_BITS))

    if _written_by_windows(g):
        phase = Phase(chunks, lambda e: _emit_scattered(
            e, g, chunks, lambda base, offset, rows, columns: tap_at(e, offset),
            lambda offset: load_at(e, e.operand(1), offset, g)))
    else:
        take = _chosen if op.disjoint else _added
        phase = gather_phase(g, lambda e, total, offset, row, column: take(
            e, _hit(e, g, tap_at(e, offset), row, column), load_at(e, e.operand(1), offset, g), total),
            lambda e, total: total)
    return Kernel(node, (phase,), key_of(node, isa), label="max pool gradient")


def lower_max_pool_grad(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``max_pool_grad``: one phase where windows do not overlap, else one that notes
    each window's winner and one that gathers."""
    _, g = pooling_of(node, node.operands[0].shape)
    chunks = chunks_of(g.images * g.rows.count, node.operands[1].type.size * g.taps)
    if _written_by_windows(g):
        return Kernel(node, (Phase(chunks, lambda e: _emit_scattered(
            e, g, chunks, lambda base, offset, rows, columns: _winner(e, g, base, rows, columns)[1],
            lambda offset: _without_minus_zero(e, load_at(e, e.operand(2), offset, g)))),),
            key_of(node, isa), label="max pool gradient")
    stored = I8 if g.taps <= 127 else I32

    def position(e: Emitter, window: Place, rows: Bounds, columns: Bounds) -> None:
        first, target = origin(e, g, *window), g.y_offset(e, *window)
        with channel_blocks(e, g) as channel:
            _, index = _winner(e, g, e.b.add(first, channel), rows, columns)
            _store_taps(e, g, index, e.at(e.temp(0), e.b.add(target, channel), stored), stored)

    def term(e: Emitter, total: ll.Value, offset: ll.Value, row: ll.Value | int, column: ll.Value | int) -> ll.Value:
        index = e.load(e.at(e.temp(0), offset, stored), e.vector(stored, g.width(e.isa)), stored.width // 8)
        if index.type != _index_type(e, g):
            index = e.b.sext(index, _index_type(e, g))
        return _added(e, _hit(e, g, index, row, column), load_at(e, e.operand(2), offset, g), total)

    winners = node.operands[1].type.size * stored.width // 8
    return Kernel(node, (Phase(chunks, lambda e: _each_window(e, g, chunks, position)),
                         gather_phase(g, term, lambda e, total: total)),
                  key_of(node, isa), temps=(winners,), label="max pool gradient")


LOWERINGS = {"max_pool_taps": lower_max_pool_taps, "max_pool_scatter": lower_max_pool_scatter,
             "max_pool_grad": lower_max_pool_grad}


def _written_by_windows(g: Geometry) -> bool:
    return all(a.tiles and a.before < a.stride and a.count > 0 for a in (g.rows, g.columns))


def _index_type(e: Emitter, g: Geometry) -> ll.Type:
    """Integers as wide as the elements computed, so that masks fit both."""
    return e.vector(I64 if g.dtype.bytes == 8 else I32, g.width(e.isa))


def _each_window(e: Emitter, g: Geometry, chunks: int,
                 position: Callable[[Emitter, Place, Bounds, Bounds], None]) -> None:
    with lines(e, g.images, g.rows.count, chunks) as (image, row):
        rows = g.row_taps(e, row)
        over_windows(e, g, lambda column, taps: position(e, (image, row, column), rows, taps))


# Finding the tap


def _winner(e: Emitter, g: Geometry, base: ll.Value, rows: Bounds, columns: Bounds) -> tuple[ll.Value, ll.Value]:
    """The element that a window's gradient goes to and its tap, counted in row-major order; -1 for none."""
    best, index = over_taps(e, rows, columns, _start(e, g), lambda row, column, now: _step(
        e, g, _loaded(e, g, base, row, column), row, column, now))
    return best, index


def _start(e: Emitter, g: Geometry) -> list[ll.Value]:
    return [const(vector(e, g), 0.0), const(_index_type(e, g), -1)]


def _loaded(e: Emitter, g: Geometry, base: ll.Value, row: ll.Value | int, column: ll.Value | int) -> ll.Value:
    return load_at(e, e.operand(0), e.b.add(base, g.tap_offset(e, row, column)), g)


def _step(e: Emitter, g: Geometry, x: ll.Value, row: ll.Value | int, column: ll.Value | int,
          now: list[ll.Value]) -> list[ll.Value]:
    best, index = now
    first = e.b.icmp_signed("<", index, const(index.type, 0))
    wins = e.b.or_(first, e.b.fcmp_ordered(">", x, best))
    return [e.b.select(wins, x, best), e.b.select(wins, _tap_index(e, g, row, column), index)]


def _maximum_and_tap(e: Emitter, g: Geometry, base: ll.Value, rows: Bounds, columns: Bounds,
                     ) -> tuple[ll.Value, ll.Value]:
    """What max_pool_taps stores for a window. A window without elements keeps -1, whose bits are all set."""
    def tap(row: ll.Value | int, column: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
        x = _loaded(e, g, base, row, column)
        y = e.b.select(e.b.fcmp_ordered(">", x, now[2]), x, now[2])
        return [*_step(e, g, x, row, column, now[:2]), y]

    best, index, y = over_taps(e, rows, columns, [*_start(e, g), const(vector(e, g), lowest(g.dtype))], tap)
    flagged = e.b.or_(index, const(index.type, NAN_TAP))
    return y, e.b.select(e.b.fcmp_unordered("uno", best, best), flagged, index)


def _tap_index(e: Emitter, g: Geometry, row: ll.Value | int, column: ll.Value | int) -> ll.Value:
    type_ = _index_type(e, g)
    if isinstance(row, int) and isinstance(column, int):
        return const(type_, row * g.columns.window + column)
    wide = e.b.add(scaled(e, row, g.columns.window), scaled(e, column, 1))
    return e.splat(wide if g.dtype.bytes == 8 else e.b.trunc(wide, I32), g.width(e.isa))


def _store_taps(e: Emitter, g: Geometry, taps: ll.Value, address: ll.Value, stored: ll.Type) -> None:
    narrow = e.vector(stored, g.width(e.isa))
    e.store(taps if taps.type == narrow else e.b.trunc(taps, narrow), address, stored.width // 8)


# Using it


def _hit(e: Emitter, g: Geometry, index: ll.Value, row: ll.Value | int, column: ll.Value | int) -> ll.Value:
    """Whether the window's maximum is at this tap."""
    return e.b.icmp_signed("==", index, _tap_index(e, g, row, column))


def _added(e: Emitter, hit: ll.Value, dy: ll.Value, total: ll.Value) -> ll.Value:
    return e.b.fadd(total, _chosen(e, hit, dy, const(dy.type, 0.0)))


def _chosen(e: Emitter, hit: ll.Value, dy: ll.Value, other: ll.Value) -> ll.Value:
    return e.b.select(hit, dy, other)


def _without_minus_zero(e: Emitter, dy: ll.Value) -> ll.Value:
    """A sum that starts at +0 never gives -0, however dy is signed."""
    return e.b.fadd(dy, const(dy.type, 0.0))


def _emit_scattered(e: Emitter, g: Geometry, chunks: int, tap_of: Tap, dy_at: Callable[[ll.Value], ll.Value]) -> None:
    """Windows that do not overlap: every element is written by its window, what no window holds
    is zeroed with the line of windows before it."""
    with lines(e, g.images, g.rows.count, chunks) as (image, row):
        if not (g.rows.covers and g.columns.covers):
            _zero_lines(e, g, image, row)
        rows = g.row_taps(e, row)

        def position(column: ll.Value, columns: Bounds) -> None:
            first, source = origin(e, g, image, row, column), g.y_offset(e, image, row, column)
            with channel_blocks(e, g) as channel:
                base, offset = e.b.add(first, channel), e.b.add(source, channel)
                winner, dy = tap_of(base, offset, rows, columns), dy_at(offset)

                def tap(row: ll.Value | int, column: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
                    value = _chosen(e, _hit(e, g, winner, row, column), dy, const(dy.type, 0.0))
                    store_at(e, value, e.result(0), e.b.add(base, g.tap_offset(e, row, column)), g)
                    return now

                over_taps(e, rows, columns, [], tap)

        over_windows(e, g, position)


def _zero_lines(e: Emitter, g: Geometry, image: ll.Value, row: ll.Value) -> None:
    """Zero the input lines from this line of windows to the next."""
    axis, b = g.rows, e.b
    begin = b.sub(b.mul(row, i64(axis.stride)), i64(axis.before))
    next_ = e.smaller(b.add(begin, i64(axis.stride)), i64(axis.size))
    first = b.select(b.icmp_signed("==", row, i64(0)), i64(0), begin)
    end = b.select(b.icmp_signed("==", row, i64(axis.count - 1)), i64(axis.size), next_)
    start, stop = (g.x_offset(e, image, at, i64(0)) for at in (first, end))
    width = g.width(e.isa)
    with e.loop(start, stop, width, name="zero") as offset:
        at = e.smaller(offset, b.sub(stop, i64(width)))
        store_at(e, const(vector(e, g), 0.0), e.result(0), at, g)
