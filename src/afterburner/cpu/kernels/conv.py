"""Convolutions and their gradients."""

from __future__ import annotations

from .conv_direct import lower_conv2d, lower_conv2d_input_grad
from .conv_filter_grad import lower_conv2d_filter_grad
from .conv_filter_grad_pooled import lower_conv2d_filter_grad_pooled
from .conv_input_grad_pooled import lower_conv2d_input_grad_pooled

LOWERINGS = {
    "conv2d": lower_conv2d,
    "conv2d_input_grad": lower_conv2d_input_grad,
    "conv2d_filter_grad": lower_conv2d_filter_grad,
    "conv2d_input_grad_pooled": lower_conv2d_input_grad_pooled,
    "conv2d_filter_grad_pooled": lower_conv2d_filter_grad_pooled,
}
