"""Gradient of a convolution with respect to its filter: which kernel computes it."""

from __future__ import annotations

from math import prod

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.conv import Conv2dFilterGrad
from ...ir.types import F32
from ..emitter import stored_type
from ..halves import is_half
from ..isa import Isa
from ..kernel import Kernel, Phase
from .depthwise import lower_depthwise_filter_grad
from .epilogue import Contraction, store_result
from .filter_grad_masked import MaskedFilterGradient, masked_gradient, masked_plan
from .filter_grad_masked_taps import TapsFilterGradient, taps_plan
from .filter_grad_pairs import PairedFilterGradient
from .filter_grad_plan import plan_of
from .filter_grad_tiles import FilterGradient
from .gemm import Numeric, numeric
from .matmul import combine_phase, zero_kernel
from .pairs import Pairs, pairs
from .prologue import Prologue, prologue_of
from .winograd import F2X2, F4X4
from .winograd_filter_grad import (
    filter_scheme_that_pays,
    lower_checked_filter_grad,
    lower_winograd_filter_grad,
    pairs_pay,
)
from .winograd_streamed import FAST
from .winograd_whole_filter_grad import (
    EXACT,
    few_tiles,
    lower_checked_whole,
    lower_whole_filter_grad,
    pairs_of_tiles_pay,
    whole_filter_grad_pays,
)


def lower_conv2d_filter_grad(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d_filter_grad node, or of a fusion that makes its input."""
    c, prologue = prologue_of(node)
    op, (x, dy, _) = c.root.op, c.shapes
    assert isinstance(op, Conv2dFilterGrad)
    if c.empty:
        return zero_kernel(c, isa)
    label = f"conv2d filter grad {op.filter_shape[0]}x{op.filter_shape[1]} {x[3]}->{dy[3]}"
    num = numeric(c.dtype, isa)
    if prologue is None and op.groups > 1 and op.filter_shape[2] == 1 and op.filter_shape[3] == op.groups:
        return lower_depthwise_filter_grad(c, isa, label.replace("conv2d", "depthwise", 1))
    adjacent = prologue is None or prologue.pitch == x[3]  # patches are made of adjacent pixels only
    if c.dtype == F32 and adjacent:
        kernel = _winograd(c, prologue, num, isa, label)
        if kernel is not None:
            return kernel
    paired = pairs(c.dtype, isa)
    if paired is not None:
        return _of_pairs(c, prologue, paired, isa, label)
    found = _gradient_without_zeros(c, prologue, num, stored_type(c.dtype), isa)
    if found is not None:
        return _kernel(c, found, num, isa, f"{label} (zeros left out)")
    return _dense(c, prologue, num, isa, label)


def _winograd(c: Contraction, prologue: Prologue | None, num: Numeric, isa: Isa, label: str) -> Kernel | None:
    """The gradient by one of Winograd's algorithms; None where they do not pay."""
    op, dy, fast = c.root.op, c.shapes[1], isa.precision == "fast" and prologue is None
    assert isinstance(op, Conv2dFilterGrad)
    num_of_pairs = pairs(c.dtype, isa)
    if num_of_pairs is not None and pairs_pay(op, dy, num, isa):
        direct = _of_pairs(c, prologue, num_of_pairs, isa, label)
        named = f"{label}{c.label} (Winograd 2x2 of bfloat16 pairs)"
        return lower_checked_filter_grad(c, prologue, num, isa, named, direct, num_of_pairs)
    if num_of_pairs is not None and pairs_of_tiles_pay(op, dy, num, isa):
        direct = _of_pairs(c, prologue, num_of_pairs, isa, label)
        named = f"{label}{c.label} (Winograd 3x3 of bfloat16 pairs)"
        return lower_checked_whole(c, prologue, num, isa, named, direct, num_of_pairs)
    scheme = filter_scheme_that_pays(op, (F2X2, F4X4) if fast else (F2X2,), dy, num, isa)
    named = f"{label} (Winograd)"
    if fast and (scheme is None or few_tiles(op, dy, num, isa)) and whole_filter_grad_pays(op, FAST, dy, num, isa):
        return lower_whole_filter_grad(c, num, isa, named)
    if scheme is None and isa.precision == "default" and whole_filter_grad_pays(op, EXACT, dy, num, isa):
        return lower_checked_whole(c, prologue, num, isa, f"{label}{c.label} (Winograd 3x3)",
                                   _dense(c, prologue, num, isa, label))
    if scheme == F4X4:
        return lower_winograd_filter_grad(c, num, isa, named)
    if scheme is None:
        return None
    direct = _dense(c, prologue, num, isa, label)
    return lower_checked_filter_grad(c, prologue, num, isa, f"{label}{c.label} (Winograd 2x2)", direct)


def _dense(c: Contraction, prologue: Prologue | None, num: Numeric, isa: Isa, label: str) -> Kernel:
    """The gradient of all products."""
    return _kernel(c, _whole_gradient(c, prologue, num, stored_type(c.dtype), isa), num, isa, label)


def _kernel(c: Contraction, gradient: FilterGradient, num: Numeric, isa: Isa, label: str) -> Kernel:
    f, partial = gradient.f, gradient.partial
    phases = [Phase(prod(f.parts), gradient.emit)]
    if partial:
        phases.append(combine_phase(num, 1, f.sums, f.parts[0], store_result(num, c.dtype)))
    temps = (f.parts[0] * f.sums * num.bytes,) if partial else ()
    return Kernel(c.node, tuple(phases), c.key(isa), temps, gradient.scratch, label + c.label)


def _whole_gradient(c: Contraction, prologue: Prologue | None, num: Numeric, stored: ll.Type,
                    isa: Isa) -> FilterGradient:
    """What computes all products."""
    assert isinstance(c.root.op, Conv2dFilterGrad)
    x, dy = c.shapes[:2]
    f = plan_of(c.root.op, x, dy, num, isa, by_channel=prologue is not None)
    return FilterGradient(f, num, stored, f.parts[0] > 1 or is_half(c.dtype), c, prologue)


def _of_pairs(c: Contraction, prologue: Prologue | None, num: Pairs, isa: Isa, label: str) -> Kernel:
    """The gradient of all products by bfloat16 pairs."""
    assert isinstance(c.root.op, Conv2dFilterGrad)
    x, dy = c.shapes[:2]
    f = plan_of(c.root.op, x, dy, num, isa, by_channel=prologue is not None, per_step=2)
    gradient = PairedFilterGradient(f, num, stored_type(c.dtype), f.parts[0] > 1 or is_half(c.dtype), c, prologue)
    return _kernel(c, gradient, num, isa, f"{label} (bfloat16 pairs)")


def _gradient_without_zeros(c: Contraction, prologue: Prologue | None, num: Numeric, stored: ll.Type,
                            isa: Isa) -> MaskedFilterGradient | None:
    """What leaves zeros out; None where that is not provided for, or all products are faster."""
    assert isinstance(c.root.op, Conv2dFilterGrad)
    if c.dtype != F32:
        return None
    x, dy = c.shapes[:2]
    f = masked_plan(c.root.op, x, dy, num, isa)
    if f is not None:
        return masked_gradient(num)(f, num, stored, f.parts[0] > 1, c, prologue)
    taps = taps_plan(c.root.op, x, dy, num, isa)
    if taps is None:
        return None
    f, rows = taps
    return TapsFilterGradient(rows, f, num, stored, f.parts[0] > 1, c, prologue)
