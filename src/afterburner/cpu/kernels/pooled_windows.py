"""What the kernels of convolution gradients behind a max pooling share: windows, their taps, lists of products.

Of the elements that a window's gradient goes to only one is not zero, so the kernels make lists of those: entries of
eight bytes, a gradient and the distance of what it multiplies. A gradient that is zero itself is left out. A zero
times an infinity is NaN, though: where the other factor is not finite, lists have all elements, also the zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir as ll

from ...ir.ops.pool import TAP_BITS
from ..emitter import I8, I32, I64, Emitter, const, i64
from .gemm import Numeric, shuffle, smaller

BLOCK = 8  # channels whose entries are made at once
ENTRY = 8  # bytes of an entry: the gradient below, the distance in bytes above
_SIGN = 0x7FFF_FFFF


@dataclass(frozen=True)
class Windows:
    """Windows without padding that do not overlap.

    Attributes:
        images: batch size.
        size: rows and columns of what is pooled.
        counts: rows and columns of windows.
        window: rows and columns of a window.
        strides: from one window to the next.
        channels: of what is pooled.
    """

    images: int
    size: tuple[int, int]
    counts: tuple[int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    channels: int

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    def pixels(self, windows: int, axis: int) -> int:
        """At most so many pixels belong to ``windows`` neighbours along an axis, with what lies behind the last."""
        return windows * self.strides[axis] + self.window[axis] - 1

    def end(self, e: Emitter, axis: int, window: ll.Value) -> ll.Value:
        """The first pixel that does not belong to the windows before ``window``; the last has all that follow."""
        end = smaller(e, e.b.mul(window, i64(self.strides[axis])), i64(self.size[axis]))
        return e.b.select(e.b.icmp_signed("==", window, i64(self.counts[axis])), i64(self.size[axis]), end)

    def offset(self, e: Emitter, image: ll.Value, row: ll.Value, column: ll.Value) -> ll.Value:
        """Elements before the first channel of a window in taps and dy."""
        line = e.b.add(e.b.mul(image, i64(self.counts[0])), row)
        return e.b.mul(e.b.add(e.b.mul(line, i64(self.counts[1])), column), i64(self.channels))

    def distances(self, e: Emitter, taps: ll.Value, start: ll.Value, row: int, column: int) -> ll.Value:
        """Bytes to the elements at ``taps``, with so many between rows and columns and ``start`` before a window's
        first; as taps, an i32 a lane."""
        lanes = _lanes(taps)
        found = e.b.add(e.b.mul(taps, const(taps.type, column)), e.splat(e.b.trunc(start, I32), lanes))
        for i in range(1, self.window[0]):
            below = e.b.icmp_signed(">=", taps, const(taps.type, i * self.window[1]))
            step = const(taps.type, row - self.window[1] * column)
            found = e.b.add(found, e.b.select(below, step, const(taps.type, 0)))
        return found


def _lanes(vector: ll.Value) -> int:
    return vector.type.count if isinstance(vector.type, ll.VectorType) else 1


def lane_of(e: Emitter, vector: ll.Value, lane: int) -> ll.Value:
    """One lane of a vector; of a scalar, itself."""
    return e.b.extract_element(vector, const(I32, lane)) if isinstance(vector.type, ll.VectorType) else vector


def taps_at(e: Emitter, taps: ll.Value, offset: ll.Value, lanes: int) -> ll.Value:
    """The taps of a window for some channels, an i32 each."""
    raw = e.load(e.at(taps, offset, I8), e.vector(I8, lanes), 1)
    wide = e.vector(I32, lanes)
    return e.b.and_(e.b.zext(raw, wide), const(wide, TAP_BITS))


def gradients_at(e: Emitter, dy: ll.Value, offset: ll.Value, lanes: int) -> ll.Value:
    """The bits of a window's gradients for some channels, an i32 each."""
    return e.load(e.at(dy, offset, I32), e.vector(I32, lanes), 4)


def counted(e: Emitter, windows: Windows, taps: ll.Value, gradients: ll.Value) -> list[ll.Value]:
    """For each lane 1 where the gradient goes somewhere and is not zero, else 0, as an i64."""
    inside = e.b.icmp_signed("<", taps, const(taps.type, windows.taps))
    some = e.b.icmp_signed("!=", e.b.and_(gradients, const(gradients.type, _SIGN)), const(gradients.type, 0))
    kept, lanes = e.b.and_(inside, some), _lanes(taps)
    if lanes == 1:
        return [e.b.zext(kept, I64)]
    bits = e.b.zext(e.b.bitcast(kept, ll.IntType(lanes)), I64)
    return [e.b.and_(e.b.lshr(bits, i64(i)), i64(1)) for i in range(lanes)]


def entries_of(e: Emitter, gradients: ll.Value, distances: ll.Value) -> list[ll.Value]:
    """An entry for each lane, as an i64."""
    lanes = _lanes(gradients)
    if lanes == 1:
        return [e.b.or_(e.b.shl(e.b.zext(distances, I64), i64(32)), e.b.zext(gradients, I64))]
    pairs = shuffle(e, gradients, distances, [i // 2 + i % 2 * lanes for i in range(2 * lanes)])
    both = e.b.bitcast(pairs, e.vector(I64, lanes))
    return [lane_of(e, both, i) for i in range(lanes)]


def load_entry(e: Emitter, address: ll.Value, num: Numeric) -> tuple[ll.Value, ll.Value]:
    """An entry's gradient in every lane, and its distance."""
    gradient = e.splat(e.load(address, num.element, 4), num.lanes)
    distance = e.load(e.at(address, 1, I32), I32, 4)
    return gradient, e.b.zext(distance, I64)
