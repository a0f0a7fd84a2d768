"""Max and average pooling, NHWC, and their gradients.

Vectors run along the channels. A gradient with windows that overlap is gathered, every input element
from the windows that hold it, in row-major order of the windows: nothing is zeroed first, 16-bit
floats are rounded once, and lines of the input are independent. A max gradient without overlap
writes each window's elements as it finds the winner.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.pool import AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad, lowest
from .. import halves
from ..emitter import I8, I32, I64, Emitter, const, i64
from ..isa import Isa
from ..kernel import Kernel, Phase, key_of
from .windows import (
    Axis,
    Bounds,
    Geometry,
    border,
    channel_blocks,
    chunks_of,
    geometry,
    lines,
    load_at,
    over,
    over_taps,
    over_windows,
    scaled,
    store_at,
)

_MAX_PERIOD = 4  # strides up to which the columns of a stride get code of their own

Fold = Callable[[Emitter, ll.Value, ll.Value], ll.Value]
Finish = Callable[[Emitter, ll.Value, Bounds, Bounds], ll.Value]


def lower_max_pool(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``max_pool``: a chunk is a range of result lines."""
    op, g = _pool(node, 0)
    assert isinstance(op, MaxPool)

    def fold(e: Emitter, best: ll.Value, x: ll.Value) -> ll.Value:
        return e.b.select(e.b.fcmp_ordered(">", x, best), x, best)

    return _forward(node, isa, g, lowest(g.dtype), fold, lambda e, value, rows, columns: value)


def lower_avg_pool(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``avg_pool``: a chunk is a range of result lines."""
    op, g = _pool(node, 0)
    assert isinstance(op, AvgPool)
    return _forward(node, isa, g, 0.0, lambda e, total, x: e.b.fadd(total, x), _mean)


def lower_max_pool_grad(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``max_pool_grad``: one phase where windows do not overlap, else one that notes
    each window's winner and one that gathers."""
    op, g = _pool(node, 0)
    assert isinstance(op, MaxPoolGrad)
    tiles = all(a.tiles and a.before < a.stride and a.count > 0 for a in (g.rows, g.columns))
    windows = g.images * g.rows.count
    chunks = chunks_of(windows, node.operands[1].type.size * g.taps)
    if tiles:
        return Kernel(node, (Phase(chunks, lambda e: _emit_tiles(e, g, chunks)),), key_of(node, isa),
                      label="max pool gradient")
    stored = I8 if g.taps <= 127 else I32
    gather = _gather_phase(g, lambda e, *place: _won(e, g, stored, *place), lambda e, total: total)
    winners = node.operands[1].type.size * stored.width // 8
    return Kernel(node, (Phase(chunks, lambda e: _emit_winners(e, g, stored, chunks)), gather),
                  key_of(node, isa), temps=(winners,), label="max pool gradient")


def lower_avg_pool_grad(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``avg_pool_grad``: dy gathered, then divided; where padding makes the windows' counts
    differ, a phase before divides each dy by its own."""
    op, g = _pool(node, None)
    assert isinstance(op, AvgPoolGrad)
    dy = node.operands[0].type
    if not (g.rows.padded or g.columns.padded):
        phase = _gather_phase(g, lambda e, total, offset, *_: e.b.fadd(total, load_at(e, e.operand(0), offset, g)),
                              lambda e, total: _divided(e, total, g.taps))
        return Kernel(node, (phase,), key_of(node, isa), label="average pool gradient")
    chunks = chunks_of(g.images * g.rows.count, dy.size)
    share = Phase(chunks, lambda e: _emit_shares(e, g, chunks))
    gather = _gather_phase(g, lambda e, total, offset, *_: e.b.fadd(total, _share(e, g, offset)),
                           lambda e, total: total)
    return Kernel(node, (share, gather), key_of(node, isa), temps=(dy.size * max(4, dy.dtype.bytes),),
                  label="average pool gradient")


LOWERINGS = {
    "max_pool": lower_max_pool, "max_pool_grad": lower_max_pool_grad,
    "avg_pool": lower_avg_pool, "avg_pool_grad": lower_avg_pool_grad,
}

_PoolOp = MaxPool | AvgPool | MaxPoolGrad | AvgPoolGrad


def _pool(node: Node, x: int | None) -> tuple[_PoolOp, Geometry]:
    """The operation and its geometry; ``x`` says which operand is the input, None that none is."""
    op = node.op
    assert isinstance(op, _PoolOp)
    shape = node.operands[x].shape if x is not None else node.results[0].shape
    counts = op.output_shape(shape)[1:3]
    dtype = node.results[0].type.dtype
    return op, geometry(shape, dtype, op.window, op.strides, op.padding, (counts[0], counts[1]))


def _vector(e: Emitter, g: Geometry) -> ll.Type:
    return e.vector(halves.compute_type(g.dtype), g.width(e.isa))


def _index_type(e: Emitter, g: Geometry) -> ll.Type:
    """Integers as wide as the elements computed, so that masks fit both."""
    return e.vector(I64 if g.dtype.bytes == 8 else I32, g.width(e.isa))


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
    origin, target = _origin(e, g, *window), g.y_offset(e, *window)
    with channel_blocks(e, g) as channel:
        base = e.b.add(origin, channel)

        def tap(row: ll.Value | int, column: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
            offset = e.b.add(base, g.tap_offset(e, row, column))
            return [fold(e, now[0], load_at(e, e.operand(0), offset, g))]

        (value,) = over_taps(e, rows, columns, [const(_vector(e, g), start)], tap)
        store_at(e, finish(e, value, rows, columns), e.result(0), e.b.add(target, channel), g)


def _origin(e: Emitter, g: Geometry, image: ll.Value, row: ll.Value, column: ll.Value) -> ll.Value:
    """Offset of a window's first tap, which may lie in the padding."""
    first = [e.b.sub(e.b.mul(at, i64(axis.stride)), i64(axis.before))
             for at, axis in ((row, g.rows), (column, g.columns))]
    return g.x_offset(e, image, first[0], first[1])


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


# Maximum: gradient


def _winner(e: Emitter, g: Geometry, base: ll.Value, rows: Bounds, columns: Bounds) -> ll.Value:
    """The tap, counted in row-major order, that a window's gradient goes to; -1 for none."""
    index_type = _index_type(e, g)

    def tap(row: ll.Value | int, column: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
        best, index = now
        x = load_at(e, e.operand(0), e.b.add(base, g.tap_offset(e, row, column)), g)
        first = e.b.icmp_signed("<", index, const(index_type, 0))
        wins = e.b.or_(first, e.b.fcmp_ordered(">", x, best))
        return [e.b.select(wins, x, best), e.b.select(wins, _tap_index(e, g, row, column), index)]

    start = [const(_vector(e, g), 0.0), const(index_type, -1)]
    return over_taps(e, rows, columns, start, tap)[1]


def _tap_index(e: Emitter, g: Geometry, row: ll.Value | int, column: ll.Value | int) -> ll.Value:
    type_ = _index_type(e, g)
    if isinstance(row, int) and isinstance(column, int):
        return const(type_, row * g.columns.window + column)
    wide = e.b.add(scaled(e, row, g.columns.window), scaled(e, column, 1))
    return e.splat(wide if g.dtype.bytes == 8 else e.b.trunc(wide, I32), g.width(e.isa))


def _emit_winners(e: Emitter, g: Geometry, stored: ll.Type, chunks: int) -> None:
    width = g.width(e.isa)
    with lines(e, g.images, g.rows.count, chunks) as (image, row):
        rows = g.row_taps(e, row)

        def position(column: ll.Value, columns: Bounds) -> None:
            origin, target = _origin(e, g, image, row, column), g.y_offset(e, image, row, column)
            with channel_blocks(e, g) as channel:
                index = _winner(e, g, e.b.add(origin, channel), rows, columns)
                narrow = index if _index_type(e, g) == e.vector(stored, width) else e.b.trunc(
                    index, e.vector(stored, width))
                e.store(narrow, e.at(e.temp(0), e.b.add(target, channel), stored), stored.width // 8)

        over_windows(e, g, position)


def _won(e: Emitter, g: Geometry, stored: ll.Type, total: ll.Value, offset: ll.Value, row: ll.Value | int,
         column: ll.Value | int) -> ll.Value:
    """``total`` with dy where the window's winner is this tap."""
    width = g.width(e.isa)
    index = e.load(e.at(e.temp(0), offset, stored), e.vector(stored, width), stored.width // 8)
    if index.type != _index_type(e, g):
        index = e.b.sext(index, _index_type(e, g))
    hit = e.b.icmp_signed("==", index, _tap_index(e, g, row, column))
    dy = load_at(e, e.operand(2), offset, g)
    return e.b.fadd(total, e.b.select(hit, dy, const(dy.type, 0.0)))


def _emit_tiles(e: Emitter, g: Geometry, chunks: int) -> None:
    """Windows that do not overlap: every element is written by its window, what no window holds
    is zeroed with the line of windows before it."""
    with lines(e, g.images, g.rows.count, chunks) as (image, row):
        if not (g.rows.covers and g.columns.covers):
            _zero_lines(e, g, image, row)
        rows = g.row_taps(e, row)

        def position(column: ll.Value, columns: Bounds) -> None:
            origin, source = _origin(e, g, image, row, column), g.y_offset(e, image, row, column)
            with channel_blocks(e, g) as channel:
                base = e.b.add(origin, channel)
                winner = _winner(e, g, base, rows, columns)
                # A sum that starts at +0 never gives -0, however dy is signed.
                dy = load_at(e, e.operand(2), e.b.add(source, channel), g)
                dy = e.b.fadd(dy, const(dy.type, 0.0))

                def tap(row: ll.Value | int, column: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
                    hit = e.b.icmp_signed("==", winner, _tap_index(e, g, row, column))
                    value = e.b.select(hit, dy, const(dy.type, 0.0))
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
        store_at(e, const(_vector(e, g), 0.0), e.result(0), at, g)


# Gradients gathered from the windows that hold an element

Term = Callable[..., ll.Value]


def _gather_phase(g: Geometry, term: Term, finish: Callable[[Emitter, ll.Value], ll.Value]) -> Phase:
    """A phase over lines of the input. ``term(e, total, offset in y, row tap, column tap)`` adds what
    one window gives; ``finish(e, total)`` comes last."""
    held = -(-g.rows.window // g.rows.stride) * -(-g.columns.window // g.columns.stride)
    elements = g.images * g.rows.size * g.columns.size * g.channels
    chunks = chunks_of(g.images * g.rows.size, elements * (held + 1))

    def emit(e: Emitter) -> None:
        with lines(e, g.images, g.rows.size, chunks) as (image, row):
            _emit_gathered_line(e, g, image, row, term, finish)

    return Phase(chunks, emit)


def _emit_gathered_line(e: Emitter, g: Geometry, image: ll.Value, row: ll.Value, term: Term,
                        finish: Callable[[Emitter, ll.Value], ll.Value]) -> None:
    rows, axis, b = g.rows.positions(e, row), g.columns, e.b

    def element(column: ll.Value, windows: Callable[[Callable, list[ll.Value]], list[ll.Value]]) -> None:
        target = g.x_offset(e, image, row, column)
        with channel_blocks(e, g) as channel:
            def line(window_row: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
                row_tap = _tap_of(e, g.rows, row, window_row)
                source = b.add(g.y_offset(e, image, window_row, i64(0)), channel)

                def add(window: ll.Value, tap: ll.Value | int, now: list[ll.Value]) -> list[ll.Value]:
                    offset = b.add(source, b.mul(window, i64(g.channels)))
                    return [term(e, now[0], offset, row_tap, tap)]

                return windows(add, now)

            (total,) = over(e, rows, [const(_vector(e, g), 0.0)], line)
            store_at(e, finish(e, total), e.result(0), b.add(target, channel), g)

    first, end = axis.regular() if axis.stride <= _MAX_PERIOD else (0, 0)
    if first < end:
        with e.loop(first, end, name="period") as period:
            for r in range(axis.stride):
                column = b.add(b.mul(period, i64(axis.stride)), i64(r - axis.before))
                element(column, _static_windows(e, axis, period, r))
    regular = (first * axis.stride - axis.before, end * axis.stride - axis.before) if first < end else (0, 0)
    if regular != (0, axis.size):
        with border(e, axis.size, regular) as column:
            bounds = axis.positions(e, column)
            element(column, lambda add, now: over(
                e, bounds, now, lambda window, values: add(window, _tap_of(e, axis, column, window), values)))


def _static_windows(e: Emitter, axis: Axis, period: ll.Value, r: int) -> Callable:
    """The windows that hold the element ``period * stride + r - before``, first to last."""
    def windows(add: Callable, now: list[ll.Value]) -> list[ll.Value]:
        for j in range((axis.window - 1 - r) // axis.stride, -1, -1):
            now = add(e.b.sub(period, i64(j)), r + j * axis.stride, now)
        return now

    return windows


def _tap_of(e: Emitter, axis: Axis, element: ll.Value, window: ll.Value) -> ll.Value:
    """Which tap of a window an element is."""
    return e.b.sub(e.b.add(element, i64(axis.before)), e.b.mul(window, i64(axis.stride)))


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
    return e.load(_share_address(e, g, offset), _vector(e, g), _element_bytes(g))


def _share_address(e: Emitter, g: Geometry, offset: ll.Value) -> ll.Value:
    return e.at(e.temp(0), offset, halves.compute_type(g.dtype))


def _element_bytes(g: Geometry) -> int:
    """Bytes of an element in the compute type."""
    return max(4, g.dtype.bytes)
