"""Gradients of pooling with windows that overlap: every input element is gathered from the windows that
hold it, in row-major order of the windows. So nothing is zeroed first, 16-bit floats are rounded once,
and lines of the input are independent."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir as ll

from ..emitter import Emitter, const, i64
from ..kernel import Phase
from .windows import Axis, Geometry, border, channel_blocks, chunks_of, lines, over, store_at, vector

_MAX_PERIOD = 4  # strides up to which the columns of a stride get code of their own

Term = Callable[..., ll.Value]


def gather_phase(g: Geometry, term: Term, finish: Callable[[Emitter, ll.Value], ll.Value]) -> Phase:
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

            (total,) = over(e, rows, [const(vector(e, g), 0.0)], line)
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
