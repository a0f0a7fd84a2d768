"""Shapes and moving elements, against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import BF16, FLOATS, RUNNERS, Record, bools, check, floats, ints, raw, record

_ops = tf.raw_ops


def _slices() -> list[Record]:
    functions: dict[str, Any] = {
        "[1:3]": lambda x: x[1:3],
        "[:,::2]": lambda x: x[:, ::2],
        "[::-1]": lambda x: x[::-1],
        "[-2]": lambda x: x[-2],
        "[:,None,1]": lambda x: x[:, None, 1],
        "[...,-1]": lambda x: x[..., -1],
        "[5:1:-2,...,None]": lambda x: x[5:1:-2, ..., None],
        "[3:1]": lambda x: x[3:1],
        "[:,-3:-1]": lambda x: x[:, -3:-1],
        "[0,1,2]": lambda x: x[0, 1, 2],
        "[...]": lambda x: x[...],
        "[None,...,::-2]": lambda x: x[None, ..., ::-2],
        "[100:,1:]": lambda x: x[100:, 1:],
        "[:,:,::-1]": lambda x: x[:, :, ::-1],
        "[-100:2]": lambda x: x[-100:2],
    }
    records = [record("StridedSlice", f, floats(6, 5, 4), exact=True, note=n) for n, f in functions.items()]
    for name, function in functions.items():
        records.append(record("StridedSliceGrad", _slice_grad(function), floats(6, 5, 4), note=name))
    begin, end, strides = [1, 3], [4, 0], [2, -1]
    update = raw("TensorStridedSliceUpdate", "input", "value", begin=begin, end=end, strides=strides)
    records.append(record("TensorStridedSliceUpdate", update, floats(5, 4), floats(2, 3, seed=1), exact=True))
    records += [
        record("StridedSlice", lambda x: x[1:], v, exact=True)
        for v in (bools(4), ints(4, dtype=np.int64), floats(4, dtype=BF16))
    ]
    records.append(record("Slice", lambda x: tf.slice(x, [1, 0, 2], [2, -1, 1]), floats(4, 3, 5), exact=True))
    records.append(record("Slice", lambda x: tf.slice(x, [0, 0], [-1, 0]), floats(4, 3), exact=True))
    return records


def _slice_grad(function: Any) -> Any:
    def gradient(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x) * 3
        return tape.gradient(y, x)

    return gradient


def _pads() -> list[Record]:
    widths = np.array([[1, 2], [0, 0], [3, 0]])
    x = floats(3, 4, 5)
    records = [
        record("Pad", raw("Pad", "input", paddings=widths), x, exact=True),
        record("Pad", raw("Pad", "input", paddings=np.zeros((3, 2), np.int64)), x, exact=True, note="none"),
        record("PadV2", raw("PadV2", "input", "constant_values", paddings=widths), x, np.float32(-7), exact=True),
        record("Pad", raw("Pad", "input", paddings=widths), ints(3, 4, 5), exact=True),
    ]
    mirror = np.array([[1, 2], [0, 0], [3, 1]])
    for mode in ("REFLECT", "SYMMETRIC"):
        records.append(
            record("MirrorPad", raw("MirrorPad", "input", paddings=mirror, mode=mode), x, exact=True, note=mode)
        )
        records.append(
            record(
                "MirrorPadGrad",
                raw("MirrorPadGrad", "input", paddings=mirror, mode=mode),
                floats(6, 4, 9),
                note=mode,
            )
        )
    return records


def _joins() -> list[Record]:
    three = floats(2, 3), floats(2, 3, seed=1), floats(2, 3, seed=2)
    records = [
        record("Pack", lambda *v, a=a: _ops.Pack(values=v, axis=a), *three, exact=True, note=str(a))
        for a in (0, 1, 2, -1)
    ]
    records += [
        record("ConcatV2", lambda *v, a=a: tf.concat(v, a), *three, exact=True, note=str(a)) for a in (0, 1, -1)
    ]
    return [
        *records,
        record("ConcatV2", lambda *v: tf.concat(v, 0), floats(0, 3), floats(2, 3), exact=True),
        record("Concat", lambda *v: _ops.Concat(concat_dim=1, values=v), *three, exact=True),
        record("Unpack", lambda x: _ops.Unpack(value=x, num=3, axis=1), floats(2, 3, 4), exact=True),
        record("Split", lambda x: tf.split(x, 3, axis=-1), floats(4, 6), exact=True),
        record("SplitV", lambda x: tf.split(x, [1, -1, 2], axis=0), floats(7, 2), exact=True),
        record(
            "ConcatOffset",
            lambda x: tuple(
                _ops.ConcatOffset(concat_dim=1, shape=[np.array([2, 3], np.int32), np.array([2, 4], np.int32)])
            ),
            floats(1),
        ),
    ]


def _moves() -> list[Record]:
    x = floats(2, 3, 4)
    records = [
        record("Transpose", lambda x, p=p: tf.transpose(x, p), x, exact=True, note=str(p))
        for p in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1])
    ]
    records += [record("Transpose", lambda x: tf.transpose(x), floats(3, 5, dtype=d), exact=True) for d in FLOATS]
    return [
        *records,
        record("ConjugateTranspose", raw("ConjugateTranspose", "x", perm=[1, 0]), floats(2, 3), exact=True),
        record("ReverseV2", raw("ReverseV2", "tensor", axis=[0, -1]), x, exact=True),
        record("Reverse", raw("Reverse", "tensor", dims=[True, False, True]), x, exact=True),
        record("Roll", raw("Roll", "input", shift=[1, -2], axis=[0, 2]), x, exact=True),
        record("Tile", raw("Tile", "input", multiples=[2, 1, 3]), x, exact=True),
        record("Tile", raw("Tile", "input", multiples=[2, 0, 3]), x, exact=True),
        record("BroadcastTo", lambda x: tf.broadcast_to(x, [5, 2, 3, 4]), x, exact=True),
        record("BroadcastTo", lambda x: tf.broadcast_to(x, [4, 3]), floats(4, 1), exact=True),
        record("Reshape", lambda x: tf.reshape(x, [4, -1]), x, exact=True),
        record("Reshape", lambda x: tf.reshape(x, []), floats(1, 1), exact=True),
        record("Reshape", lambda x: tf.reshape(x, [0, 7]), floats(0, 3), exact=True),
        record("Reshape", lambda x: tf.reshape(x, [tf.shape(x)[0], -1]), floats(0, 3, 2), exact=True),
        record("ExpandDims", lambda x: tf.expand_dims(x, -2), x, exact=True),
        record("Squeeze", lambda x: tf.squeeze(x), floats(1, 3, 1), exact=True),
        record("Squeeze", lambda x: tf.squeeze(x, [-1]), floats(1, 3, 1), exact=True),
        record("SpaceToDepth", lambda x: tf.nn.space_to_depth(x, 2), floats(2, 4, 6, 3), exact=True),
        record("DepthToSpace", lambda x: tf.nn.depth_to_space(x, 2), floats(2, 3, 2, 8), exact=True),
        record(
            "SpaceToBatchND",
            lambda x: tf.space_to_batch(x, [2, 3], [[1, 1], [0, 1]]),
            floats(2, 4, 5, 3),
            exact=True,
        ),
        record(
            "BatchToSpaceND",
            lambda x: tf.batch_to_space(x, [2, 3], [[1, 0], [0, 2]]),
            floats(12, 3, 2, 3),
            exact=True,
        ),
        record("MatrixBandPart", lambda x: tf.linalg.band_part(x, 1, 0), floats(2, 4, 5), exact=True),
        record("MatrixBandPart", lambda x: tf.linalg.band_part(x, -1, 0), floats(4, 4), exact=True),
        record("MatrixDiagPartV3", lambda x: tf.linalg.diag_part(x), floats(2, 4, 3), exact=True),
        record("MatrixDiagV3", lambda x: tf.linalg.diag(x), floats(2, 4), exact=True),
        record(
            "MatrixSetDiagV3",
            lambda x, d: tf.linalg.set_diag(x, d),
            floats(2, 3, 4),
            floats(2, 3),
            exact=True,
        ),
    ]


def _diagonals() -> list[Record]:
    x, square, row = floats(2, 3, 4), floats(2, 3, 3), floats(2, 3, seed=1)
    part, diagonal, put = (
        raw("MatrixDiagPart", "input"),
        raw("MatrixDiag", "diagonal"),
        raw("MatrixSetDiag", "input", "diagonal"),
    )
    options = {"k": 0, "padding_value": 0.0}
    return [
        record("MatrixDiagPart", part, square, exact=True),
        record("MatrixDiagPartV2", raw("MatrixDiagPartV2", "input", **options), x, exact=True),
        record("MatrixDiag", diagonal, row, exact=True),
        record("MatrixDiagV2", raw("MatrixDiagV2", "diagonal", num_rows=-1, num_cols=-1, **options), row, exact=True),
        record("MatrixSetDiag", put, x, row, exact=True),
        record("MatrixSetDiagV2", raw("MatrixSetDiagV2", "input", "diagonal", k=0), x, row, exact=True),
    ]


def _makers() -> list[Record]:
    x = floats(2, 3)
    return [
        record("Fill", lambda x: tf.raw_ops.Fill(dims=[2, 3], value=x), np.float32(3), exact=True),
        record("ZerosLike", lambda x: tf.raw_ops.ZerosLike(x=x), x, exact=True),
        record("OnesLike", lambda x: tf.raw_ops.OnesLike(x=x), ints(3), exact=True),
        record("Shape", lambda x: tf.raw_ops.Shape(input=x), x),
        record("Shape", lambda x: tf.raw_ops.Shape(input=x, out_type=tf.int64), floats(0, 4)),
        record("ShapeN", lambda x, y: tuple(tf.raw_ops.ShapeN(input=[x, y])), x, floats(3)),
        record("Size", lambda x: tf.raw_ops.Size(input=x), x),
        record("Rank", lambda x: tf.raw_ops.Rank(input=x), x),
        record("Range", lambda x: tf.range(tf.raw_ops.Size(input=x)), x),
        record("Range", lambda x: tf.raw_ops.Range(start=10, limit=-3, delta=-4), x),
        record("Range", lambda x: tf.raw_ops.Range(start=0.5, limit=3.0, delta=0.3), x),
        record("Range", lambda x: tf.raw_ops.Range(start=0.0, limit=0.3, delta=0.1), x, note="3, not 4"),
        record(
            "LinSpace",
            lambda a, b: tf.raw_ops.LinSpace(start=a, stop=b, num=7),
            np.float32(-1),
            np.float32(3),
        ),
        record(
            "LinSpace",
            lambda a, b: tf.raw_ops.LinSpace(start=a, stop=b, num=1),
            np.float32(-1),
            np.float32(3),
        ),
        record("BroadcastArgs", lambda x: tf.raw_ops.BroadcastArgs(s0=[2, 1], s1=[3]), x),
        record("InvertPermutation", lambda x: tf.raw_ops.InvertPermutation(x=[2, 0, 1]), x),
        record("DynamicStitch", lambda x: _ops.DynamicStitch(indices=[[0, 2], 1, [[2], [3]]],
                                                             data=[[5, 6], 7, [[8], [9]]]), x),
        record("DynamicStitch", lambda x: _ops.DynamicStitch(indices=[[1], [0]], data=[[[5.0, 6.0]], [[7.0, 8.0]]]), x,
               note="rows"),
    ]


RECORDS = _slices() + _pads() + _joins() + _moves() + _diagonals() + _makers()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_shape(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
