"""Long sums in blocks: how many products of a correlation are added up before their sum joins those before it.

One float32 chain of n products loses about as much as the square root of n roundings; blocks of b lose that of
b + n / b. A block lies within one row of filter taps: some taps of it, or some channels of one tap. The cut depends
on the correlation alone, so that all ways to compute it round alike. Each block has a fresh register tile, which is
added to totals in memory at its end: registers are too few for both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .gemm import cut

if TYPE_CHECKING:
    from .correlation import Correlation

_ONE_CHAIN = 640  # products that one chain may have
_MOST = 512  # of a block
_FEWEST = 128  # in a row of taps: shorter blocks would cost more than 2 % of the time
_CHANNELS = 16  # blocks of channels are multiples of it


@dataclass(frozen=True)
class Piece:
    """Steps of a row of taps that are taken together, ``count`` times one after another.

    Attributes:
        start, size: first step, and steps each time.
        count: times.
        active: pixels of the tile that the taps are valid for.
        number: pieces before it, each time counted.
        done: pixels of the tile whose block may end with it; empty where none does.
    """

    start: int
    size: int
    count: int
    active: tuple[int, ...]
    number: int
    done: tuple[int, ...]


def ends_of(c: Correlation) -> tuple[int, ...]:
    """Steps of a row of taps at which blocks end; none where each sum is one chain. For float32."""
    taps, depth = c.columns.taps.count, c.depth
    run = taps * depth
    if c.steps <= _ONE_CHAIN or run < _FEWEST:
        return ()
    if depth <= _MOST:
        size = cut(taps, _MOST // depth).widest * depth
        return (*range(size, run, size), run)
    size = block_of_channels(depth)
    return tuple(tap * depth + end for tap in range(taps) for end in (*range(size, depth, size), depth))


def block_of_channels(depth: int) -> int:
    """Channels in a block of one tap."""
    if depth <= _MOST:
        return depth
    return -(-cut(depth, _MOST).widest // _CHANNELS) * _CHANNELS


def pieces_of(c: Correlation, masks: tuple[tuple[int, ...], ...], ends: tuple[int, ...]) -> list[Piece]:
    """A row of taps for a tile, cut where blocks end, and where taps are valid for other pixels."""
    cuts = []
    for low, high, active in segments_of(masks):
        inside = {low * c.depth, high * c.depth, *(end for end in ends if low * c.depth < end < high * c.depth)}
        if ends and not c.merged:
            inside |= {tap * c.depth for tap in range(low, high)}
        edges = sorted(inside)
        cuts += [(first, end, active) for first, end in zip(edges, edges[1:], strict=False)]
    return _in_turns(c, [Piece(first, end - first, 1, active, number, _done(cuts, number, ends, c))
                         for number, (first, end, active) in enumerate(cuts)])


def _done(cuts: list[tuple[int, int, tuple[int, ...]]], number: int, ends: tuple[int, ...],
          c: Correlation) -> tuple[int, ...]:
    """Pixels of the block that ends with a cut."""
    def ends_with(n: int) -> bool:
        following = cuts[n + 1][0] if n + 1 < len(cuts) else c.columns.taps.count * c.depth
        return any(cuts[n][1] <= end <= following for end in ends)

    if not ends_with(number):
        return ()
    first = next((n + 1 for n in range(number - 1, -1, -1) if ends_with(n)), 0)
    return tuple(sorted({pixel for _, _, active in cuts[first: number + 1] for pixel in active}))


def _in_turns(c: Correlation, pieces: list[Piece]) -> list[Piece]:
    """Neighbouring pieces that are each a block, of one size and the same pixels, as one."""
    found: list[Piece] = []
    begins = False  # the last piece found begins a block
    for piece in pieces:
        last = found[-1] if found else None
        in_line = c.merged or piece.start % c.depth > 0
        if (last is not None and begins and in_line and piece.active == piece.done == last.active == last.done
                and piece.size == last.size and last.start + last.count * last.size == piece.start):
            found[-1] = replace(last, count=last.count + 1)
            continue
        begins = last is None or bool(last.done)
        found.append(piece)
    return found


def segments_of(masks: tuple[tuple[int, ...], ...]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Neighbouring tap columns that are valid for the same pixels: (first, end, pixels)."""
    segments: list[tuple[int, int, tuple[int, ...]]] = []
    for j, active in enumerate(masks):
        if not active:
            continue
        if segments and segments[-1][1:] == (j, active):
            segments[-1] = (segments[-1][0], j + 1, active)
        else:
            segments.append((j, j + 1, active))
    return segments
