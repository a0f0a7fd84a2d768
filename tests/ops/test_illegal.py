"""Arguments that TensorFlow raises for when a function runs, since their shapes were not known when it was traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.errors import NotTaken

from .steps import import_concrete
from .table import bools, floats

_ROWS = np.array([[0], [1], [4]], np.int32)
_VARIABLE = tf.Variable(np.zeros((6, 3), np.float32))


def _scatter_to_variable(rows: tf.Tensor, updates: tf.Tensor) -> tf.Tensor:
    tf.raw_ops.ResourceScatterAdd(resource=_VARIABLE.handle, indices=rows[:, 0], updates=updates)
    return updates


def _descent(gradient: tf.Tensor) -> tf.Tensor:
    tf.raw_ops.ResourceApplyGradientDescent(var=_VARIABLE.handle, alpha=0.1, delta=gradient)
    return gradient


CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "a bias of one channel": (tf.nn.bias_add, (floats(2, 3), floats(1))),
    "a condition of one row": (tf.compat.v1.where, (bools(1), floats(3, 2), floats(3, 2))),
    "pack of other shapes": (lambda a, b: tf.stack([a, b]), (floats(2, 3), floats(3, 2))),
    "unpack of too few": (lambda x: tf.unstack(x, num=3), (floats(5, 2),)),
    "join with an empty one": (lambda a, b: tf.concat([a, b], 0), (floats(0, 5), floats(2, 3))),
    "squeeze of a long axis": (lambda x: tf.squeeze(x, 1), (floats(0, 3),)),
    "negative padding": (lambda x: tf.pad(x, [[0, 4 - tf.shape(x)[0]]]), (floats(6),)),
    "a range away from its limit": (lambda x: tf.range(5, tf.shape(x)[0]), (floats(3),)),
    "a range down, away from its limit": (lambda x: tf.range(tf.shape(x)[0], 5, -1), (floats(3),)),
    "an endless range": (lambda x: tf.range(0.0, np.inf * tf.cast(tf.shape(x)[0], tf.float32)), (floats(3),)),
    "a wide band": (lambda x: tf.linalg.band_part(x, 7, 0), (floats(3, 4),)),
    "another diagonal": (tf.linalg.set_diag, (floats(3, 3), floats(1))),
    "a sum over axes of two sizes": (lambda a, b: tf.einsum("ij,jk->ik", a, b), (floats(2, 1), floats(3, 4))),
    "batch axes of two sizes": (lambda x, i: tf.gather(x, i, batch_dims=1), (floats(1, 5), _ROWS)),
    "a label of three rows": (lambda a, b: tf.nn.sparse_softmax_cross_entropy_with_logits(b, a),
                              (floats(3, 4), np.array([2]))),
    "a scale of one channel": (lambda x, s: tf.raw_ops.FusedBatchNormV3(x=x, scale=s, offset=s, mean=s, variance=s,
                                                                        is_training=False)[0],
                               (floats(2, 2, 2, 3), floats(1))),
    "negative padding of blocks": (lambda x: tf.space_to_batch(x, [2, 2], [[0, 4 - tf.shape(x)[1]], [0, 0]]),
                                   (floats(1, 6, 4, 1),)),
    "an axis reversed twice": (lambda x: tf.reverse(x, [0, tf.shape(x)[0] - 2]), (floats(2, 3),)),
    "an axis summed twice": (lambda x: tf.reduce_sum(x, [0, 0]), (floats(2, 3),)),
    "a gradient of one row": (_descent, (floats(1, 3),)),
    "one row scattered to three": (lambda i, u: tf.scatter_nd(i, u, [6, 3]), (_ROWS, floats(1, 3))),
    "a row of indices scattered as one": (lambda i, u: tf.scatter_nd(i, u, [6, 3]),
                                          (np.array([0], np.int32), floats(3))),
    "a gradient's scale of one channel": (
        lambda x, s: tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=x, x=x, scale=s, reserve_space_1=s, reserve_space_2=s, reserve_space_3=s, is_training=False)[0],
        (floats(2, 2, 2, 3), floats(1))),
    "planes of another volume": (lambda x, dy: tf.raw_ops.Conv3DBackpropFilterV2(
        input=x, filter_sizes=[1, 1, 1, 3, 2], out_backprop=dy, strides=[1] * 5, padding="SAME"),
        (floats(2, 4, 3, 3, 3), floats(4, 2, 3, 3, 2))),
    "a mean over another volume": (lambda dy: tf.raw_ops.AvgPool3DGrad(
        orig_input_shape=[2, 4, 4, 4, 3], grad=dy, ksize=[1, 2, 2, 2, 1], strides=[1, 2, 2, 2, 1], padding="SAME"),
        (floats(4, 1, 2, 2, 3),)),
    "one row added to three": (tf.tensor_scatter_nd_add, (floats(6, 3), _ROWS, floats(1, 3))),
    "one row added to three of a variable": (_scatter_to_variable, (_ROWS, floats(1, 3))),
}


@pytest.mark.parametrize("name", CASES)
def test_what_tensorflow_raises_for_is_not_imported(name: str) -> None:
    function, arrays = CASES[name]
    specs = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in arrays]
    concrete = tf.function(function).get_concrete_function(*specs)
    if function is not _scatter_to_variable:  # which the raw operation does not look at
        with pytest.raises(tf.errors.OpError):
            concrete(*map(tf.constant, arrays))
    with pytest.raises(NotTaken):
        import_concrete(concrete, arrays)
