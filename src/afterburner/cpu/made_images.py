"""Which convolutions make their image from another tensor as they read it; asked before any code is generated."""

from __future__ import annotations

from ..ir import Node
from ..ir.ops.control import Fusion
from ..ir.ops.conv import Conv2d
from ..ir.types import F32
from .isa import Isa

_SMALLEST_IMAGE = 1 << 18  # bytes; less stays in a second-level cache
_FEWEST_PIXELS = 512  # with fewer the filter is read once for all of them, panel by panel
_LARGEST_FILTER = 768 << 10  # bytes; of larger ones more than four chunks would each make all pixels


def makes_image(node: Node, isa: Isa) -> bool:
    """Whether a conv2d, or a fusion around one, gains by making its image: each element is read by one block of
    products, which is computed without asking for zeros or rounding."""
    root = next((n for n in node.op.body.nodes if isinstance(n.op, Conv2d)), node) \
        if isinstance(node.op, Fusion) else node
    op = root.op
    if not isinstance(op, Conv2d) or isa.library or (op.sparse and isa.finds_zeros):
        return False
    if isa.precision == "fast" and isa.bf16_dot:
        return False
    image, filter_ = (v.type for v in root.operands)
    pointwise = filter_.shape[:2] == (1, 1) and op.strides == (1, 1) and op.groups == 1 \
        and op.padding == ((0, 0), (0, 0))
    pixels = image.shape[0] * image.shape[1] * image.shape[2]
    return pointwise and image.dtype == F32 and image.bytes >= _SMALLEST_IMAGE and pixels >= _FEWEST_PIXELS \
        and filter_.bytes <= _LARGEST_FILTER
