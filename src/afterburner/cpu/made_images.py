"""Which convolutions make their image from another tensor as they read it; asked before any code is generated."""

from __future__ import annotations

from ..ir import Node
from ..ir.ops.control import Fusion
from ..ir.ops.conv import Conv2d
from ..ir.types import F32
from .isa import Isa

_SMALLEST_IMAGE = 1 << 18  # bytes; less stays in a second-level cache
_FEWEST_PIXELS = 512  # with fewer the filter is read once for all of them, panel by panel
_LARGEST_ROW = 256 << 10  # bytes of pixels, at least one of which is made at a time
_LARGEST_FILTER = 768 << 10  # bytes; of larger ones more than four chunks would each make all pixels
_FEWEST_CHANNELS = 32  # in and out, with which 3x3 filters are taken by Winograd's F(2x2, 3x3)
_MOST_WRITTEN = 8  # registers of channels out of 3x3 filters: with more the products take nearly all of the time


def makes_image(node: Node, isa: Isa) -> bool:
    """Whether a conv2d, or a fusion around one, gains by making its image: the kernel copies or transforms blocks of
    it, or can at little cost, and what it would read otherwise comes from beyond the second-level cache."""
    root = next((n for n in node.op.body.nodes if isinstance(n.op, Conv2d)), node) \
        if isinstance(node.op, Fusion) else node
    op = root.op
    if not isinstance(op, Conv2d) or (op.strides, op.dilation, op.groups) != ((1, 1), (1, 1), 1):
        return False
    image, filter_ = (v.type for v in root.operands)
    pixels = image.shape[0] * image.shape[1] * image.shape[2]
    row = image.shape[2] * image.shape[3] * image.dtype.bytes
    if image.dtype != F32 or image.bytes < _SMALLEST_IMAGE or pixels < _FEWEST_PIXELS or row > _LARGEST_ROW:
        return False
    taps, (depth, width) = filter_.shape[:2], filter_.shape[2:]
    if taps == (3, 3):
        few = width <= _MOST_WRITTEN * isa.lanes(4)
        return isa.precision != "fast" and min(depth, width) >= _FEWEST_CHANNELS and few
    listed = op.sparse and isa.finds_zeros and isa.name != "avx512"  # lists need the cache: some lose a quarter
    return taps == (1, 1) and op.padding == ((0, 0), (0, 0)) and filter_.bytes <= _LARGEST_FILTER \
        and not (isa.library or listed)
