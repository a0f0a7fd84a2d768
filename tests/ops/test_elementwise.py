"""Elementwise operations against TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from .table import (
    BF16,
    FLOATS,
    INTS,
    RUNNERS,
    UINTS,
    Record,
    bools,
    check,
    floats,
    ints,
    moderate,
    pairs,
    raw,
    record,
    special,
)

_EXACT_UNARY = ("Abs", "Neg", "Sign", "Floor", "Ceil", "Rint", "Round", "Relu", "Relu6", "Square")
_ROUNDED_UNARY = (
    "Exp",
    "Expm1",
    "Log",
    "Log1p",
    "Sqrt",
    "Rsqrt",
    "Tanh",
    "Sigmoid",
    "Erf",
    "Erfc",
    "Sin",
    "Cos",
    "Reciprocal",
    "Inv",
    "Elu",
    "Selu",
    "Softplus",
    "Softsign",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Acosh",
    "Atanh",
)
_MAXIMA = ("Relu", "Relu6", "Maximum", "Minimum")
_FEATURES = ("Relu", "Relu6", "Elu", "Selu", "Softplus", "Softsign")
_NO_KERNEL = {("Rint", "float16"), ("Rint", "bfloat16")}


def _input_name(op: str) -> str:
    return "features" if op in _FEATURES else "x"


def _unary() -> list[Record]:
    records = []
    for op in _EXACT_UNARY + _ROUNDED_UNARY:
        exact = op in _EXACT_UNARY
        for dtype in FLOATS:
            if (op, dtype.name) in _NO_KERNEL:
                continue
            values = np.concatenate([special(dtype), floats(41, dtype=dtype)])
            if (op, dtype.name) == ("Erf", "float64"):
                values = values[np.abs(values) < 1e3]  # TensorFlow's erf of large f64 is NaN
            records.append(record(op, raw(op, _input_name(op)), values, exact=exact, zero_sign=op not in _MAXIMA))
        records.append(record(op, raw(op, _input_name(op)), floats(3, 0, 2), exact=exact))
        records.append(record(op, raw(op, _input_name(op)), np.float32(0.3), exact=exact))
    for op in ("Abs", "Neg", "Sign", "Square"):
        records += [
            record(op, raw(op, "x"), np.append(ints(9, dtype=d), np.iinfo(d).min).astype(d))
            for d in INTS
            if d.itemsize > 2
        ]
    # Up to where the result overflows, which is behind where exp does.
    records += [
        record(op, raw(op, "x"), np.linspace(-89.4, 89.4, 50, dtype=np.float32), note="large")
        for op in ("Sinh", "Cosh")
    ]
    for op in ("IsNan", "IsInf", "IsFinite"):
        records += [record(op, raw(op, "x"), special(d)) for d in FLOATS]
    records += [record("Invert", raw("Invert", "x"), ints(9, dtype=d)) for d in INTS + UINTS]
    records.append(record("LogicalNot", raw("LogicalNot", "x"), bools(7)))
    return records


_EXACT_BINARY = (
    "AddV2",
    "Add",
    "Sub",
    "Mul",
    "RealDiv",
    "Maximum",
    "Minimum",
    "DivNoNan",
    "SquaredDifference",
    "FloorMod",
    "FloorDiv",
)
_COMPARE = ("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual")


def _binary() -> list[Record]:
    records = []
    for op in _EXACT_BINARY:
        for dtype in FLOATS:
            values = moderate(dtype) if op == "FloorDiv" else special(dtype)
            records.append(record(op, raw(op, "x", "y"), *pairs(values), exact=True, zero_sign=op not in _MAXIMA))
        records.append(record(op, raw(op, "x", "y"), floats(3, 1, 5), floats(4, 1, seed=1), exact=True))
        records.append(record(op, raw(op, "x", "y"), floats(0, 3), floats(3, seed=1), exact=True))
        records.append(record(op, raw(op, "x", "y"), floats(), floats(7, seed=1), exact=True))
    for dtype in FLOATS:
        for divisor in (0, np.inf, np.nan, 8):
            by = raw("RealDiv", "x", y=np.full((), divisor, dtype))
            records.append(record("RealDiv", by, special(dtype), exact=True, note=f"by {divisor}"))
        records.append(record("RealDiv", raw("RealDiv", "x", y=floats(7, dtype=dtype)), floats(5, 7, dtype=dtype),
                              note="constants"))
    for op in _COMPARE:
        for dtype in FLOATS + INTS + UINTS:
            values = special(dtype) if dtype in FLOATS else ints(9, dtype=dtype, high=4)
            records.append(record(op, raw(op, "x", "y"), *pairs(values)))
    records += [
        record(op, raw(op, "x", "y"), bools(2, 3), bools(3, seed=1))
        for op in ("LogicalAnd", "LogicalOr", "Equal", "NotEqual")
    ]
    for op in ("Xlogy", "Xlog1py", "Xdivy", "Atan2", "MulNoNan", "Pow"):
        records.append(record(op, raw(op, *("yx" if op == "Atan2" else "xy")), *pairs(special())))
        records.append(
            record(
                op,
                raw(op, *("yx" if op == "Atan2" else "xy")),
                np.abs(floats(2, 5)),
                floats(5, seed=3),
                note="random",
            )
        )
    return records


def _integers() -> list[Record]:
    records = []
    for dtype in INTS + UINTS:
        limits = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 1, 2, 3, 7], dtype)
        a, b = pairs(np.concatenate([ints(8, dtype=dtype, seed=2), limits]))
        for op in ("AddV2", "Sub", "Mul", "Maximum", "Minimum"):
            records.append(record(op, raw(op, "x", "y"), a, b))
        for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
            records.append(record(op, raw(op, "x", "y"), a, b))
        divisor = np.where((b == 0) | (b == -1 if dtype.kind == "i" else False), 5, b).astype(dtype)
        for op in ("FloorDiv", "FloorMod", "TruncateDiv", "TruncateMod", "Div", "Mod"):
            if op in ("Mod", "TruncateMod", "FloorMod") and (dtype.itemsize < 4 or dtype.kind == "u"):
                continue
            records.append(record(op, raw(op, "x", "y"), a, divisor, checks=True))
        shift = np.clip(np.abs(b.astype(np.int64)), 0, 8 * dtype.itemsize - 1).astype(dtype)
        for op in ("LeftShift", "RightShift"):
            records.append(record(op, raw(op, "x", "y"), a, shift))
    zero = np.array([1, 0, 2], np.int32)
    for op in ("FloorDiv", "FloorMod", "TruncateDiv"):
        records.append(record(op, raw(op, "x", "y"), ints(3), zero, checks=False))
        records.append(record(op, raw(op, "x", y=3), ints(9), note="constant"))
    for dtype in (np.int32, np.int64):
        base, exponent = ints(9, dtype=dtype, high=4), ints(9, dtype=dtype, low=0, high=9, seed=1)
        records.append(record("Pow", raw("Pow", "x", "y"), base, exponent, checks=True))
    return records


_GRADS = {
    "ReluGrad": ("gradients", "features"),
    "Relu6Grad": ("gradients", "features"),
    "EluGrad": ("gradients", "outputs"),
    "SeluGrad": ("gradients", "outputs"),
    "SoftplusGrad": ("gradients", "features"),
    "SoftsignGrad": ("gradients", "features"),
    "LeakyReluGrad": ("gradients", "features"),
    "TanhGrad": ("dy", "y"),
    "SigmoidGrad": ("dy", "y"),
    "SqrtGrad": ("dy", "y"),
    "RsqrtGrad": ("dy", "y"),
    "ReciprocalGrad": ("dy", "y"),
    "InvGrad": ("dy", "y"),
}


def _gradients() -> list[Record]:
    records = []
    for op, names in _GRADS.items():
        exact = op in ("ReluGrad", "Relu6Grad")
        for dtype in FLOATS:
            operands = floats(5, 7, dtype=dtype), floats(5, 7, dtype=dtype, seed=1)
            records.append(record(op, raw(op, *names), *operands, exact=exact))
        records.append(record(op, raw(op, *names), *pairs(moderate()), exact=exact, note="special"))
    return records


def _casts() -> list[Record]:
    records = []
    for target in (
        tf.bool,
        tf.int8,
        tf.uint8,
        tf.int16,
        tf.int32,
        tf.int64,
        tf.uint32,
        tf.uint64,
        tf.float16,
        tf.bfloat16,
        tf.float32,
        tf.float64,
    ):
        cast = raw("Cast", "x", DstT=target)
        for dtype in FLOATS:
            values = np.abs(floats(9, dtype=dtype, scale=20.0)) if target.is_integer else special(dtype)
            if target.is_integer and not target.is_unsigned:
                values = floats(9, dtype=dtype, scale=20.0)
            if dtype.name != target.name:
                records.append(record("Cast", cast, values, exact=True, note=target.name))
        for dtype in INTS + UINTS:
            values = np.append(ints(7, dtype=dtype), [np.iinfo(dtype).min, np.iinfo(dtype).max]).astype(dtype)
            if dtype.name != target.name:
                records.append(record("Cast", cast, values, exact=True, note=target.name))
        if target != tf.bool:
            records.append(record("Cast", cast, bools(5), exact=True, note=target.name))
    out_of_range = np.array([np.nan, np.inf, -np.inf, 3e30, -3e30, 2.5, -2.5, 2147483648.0], np.float32)
    for target in (tf.int32, tf.int64):
        records.append(record("Cast", raw("Cast", "x", DstT=target), out_of_range, note=target.name))
    records.append(record("Bitcast", raw("Bitcast", "input", type=tf.int32), special()))
    records.append(record("Bitcast", raw("Bitcast", "input", type=tf.float32), ints(9), exact=True))
    return records


def _others() -> list[Record]:
    x, y, condition = floats(4, 5), floats(4, 5, seed=1), bools(4, 5)
    select = raw("SelectV2", "condition", "t", "e")
    old = raw("Select", "condition", "x", "y")
    return [
        record("SelectV2", select, condition, x, y, exact=True),
        record("SelectV2", select, bools(5), x, np.float32(2), exact=True),
        record("SelectV2", select, np.True_, floats(4, 1), floats(1, 5), exact=True),
        record("Select", old, condition, x, y, exact=True),
        record("Select", old, bools(4), x, y, exact=True),
        record("Select", old, np.False_, x, y, exact=True),
        record(
            "ClipByValue",
            raw("ClipByValue", "t", "clip_value_min", "clip_value_max"),
            special(),
            np.float32(-1),
            np.float32(1),
            exact=True,
        ),
        record("AddN", lambda *v: tf.raw_ops.AddN(inputs=v), *(floats(3, 4, seed=i) for i in range(11))),
        record("AccumulateNV2", lambda *v: tf.raw_ops.AccumulateNV2(inputs=v, shape=[3]), floats(3), floats(3)),
        record("BiasAdd", raw("BiasAdd", "value", "bias"), floats(2, 3, 4, 5), floats(5), exact=True),
        record(
            "BiasAdd",
            raw("BiasAdd", "value", "bias", data_format="NCHW"),
            floats(2, 5, 3, 4),
            floats(5),
            exact=True,
            note="NCHW",
        ),
        record(
            "BiasAdd",
            raw("BiasAdd", "value", "bias"),
            floats(3, 5, dtype=BF16),
            floats(5, dtype=BF16),
            exact=True,
        ),
        record("BiasAddV1", raw("BiasAddV1", "value", "bias"), floats(3, 5), floats(5), exact=True),
        record("LeakyRelu", raw("LeakyRelu", "features", alpha=0.3), special(), exact=True),
        record("LeakyRelu", raw("LeakyRelu", "features", alpha=1.5), floats(9), exact=True),
        record(
            "ApproximateEqual",
            raw("ApproximateEqual", "x", "y", tolerance=0.1),
            floats(9),
            floats(9) + np.float32(0.05),
        ),
    ]


RECORDS = _unary() + _binary() + _integers() + _gradients() + _casts() + _others()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_elementwise(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("runner", RUNNERS)
def test_constants_divide_as_in_tensorflows_functions(runner: str, dtype: type) -> None:
    x = np.linspace(-9, 9, 1001, dtype=dtype)
    hard = tf.function(lambda t: tf.minimum(t, 8) / 6)

    def run(graph, arrays):
        results = list(RUNNERS[runner](graph, arrays))
        np.testing.assert_array_equal(results[0], hard(x))
        return results

    check(record("RealDiv", hard, x), run)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("op", ["Erfc", "Asinh", "Acosh"])
def test_float64_has_its_digits(op: str, runner: str) -> None:
    values = np.concatenate([np.linspace(-6, 26, 65), np.geomspace(1e-5, 1e12, 60)])
    function = raw(op, "x")

    def run(graph, arrays):
        results = list(RUNNERS[runner](graph, arrays))
        np.testing.assert_allclose(results[0], function(values), rtol=1e-13, atol=1e-300)
        return results

    check(record(op, function, values), run)
