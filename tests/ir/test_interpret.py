"""The oracle itself: whole graphs, and the corners of meaning that everything else relies on."""

import numpy as np
import pytest

from afterburner.ir import interpret, parse_graph

INF, NAN = np.inf, np.nan


def run(signature: str, body: str, *arguments: np.ndarray) -> list[np.ndarray]:
    return interpret(parse_graph(f"graph g({signature}) {{\n{body}\n}}"), list(arguments))


def one(op: str, *arguments: np.ndarray, result: str = "", attributes: str = "") -> np.ndarray:
    """The result of one operation on arguments of the types they have."""
    names = {"float32": "f32", "int32": "i32", "int8": "i8", "uint8": "u8", "bool": "bool", "int64": "i64"}
    types = [f"{names[a.dtype.name]}[{','.join(map(str, a.shape))}]" for a in arguments]
    signature = ", ".join(f"%x{i}: {t}" for i, t in enumerate(types))
    operands = ", ".join(f"%x{i}" for i in range(len(types)))
    text = f"%0: {result or types[0]} = {op}({operands}) {attributes}\nreturn %0"
    return run(signature, text.replace(") \n", ")\n"), *arguments)[0]


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def i32(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def test_a_softmax() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    (got,) = run("%x: f32[2,5]", """
        %0: f32[2] = reduce_max(%x) {axes=(1,)}
        %1: f32[2,5] = broadcast(%0) {shape=(2,5), axes=(0,)}
        %2: f32[2,5] = sub(%x, %1)
        %3: f32[2,5] = exp(%2)
        %4: f32[2] = reduce_sum(%3) {axes=(1,)}
        %5: f32[2,5] = broadcast(%4) {shape=(2,5), axes=(0,)}
        %6: f32[2,5] = div(%3, %5)
        return %6""", x)
    wide = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(got, wide / wide.sum(axis=1, keepdims=True), rtol=1e-6)


def test_refuses_arguments_of_other_types() -> None:
    with pytest.raises(TypeError, match=r"x: expected f32\[2\], got float64\[2\]"):
        run("%x: f32[2]", "return %x", np.zeros(2))
    with pytest.raises(TypeError, match=r"got float32\[3\]"):
        run("%x: f32[2]", "return %x", np.zeros(3, np.float32))


def test_largest_and_smallest_let_nan_through() -> None:
    np.testing.assert_array_equal(one("maximum", f32(1, NAN, 2), f32(NAN, 1, 3)), f32(NAN, NAN, 3))
    np.testing.assert_array_equal(one("reduce_max", f32(1, NAN), result="f32[]", attributes="{axes=(0,)}"), NAN)


def test_reductions_of_nothing() -> None:
    for op, value in (("reduce_sum", 0), ("reduce_prod", 1), ("reduce_max", -INF), ("reduce_min", INF)):
        assert one(op, np.zeros((0,), np.float32), result="f32[]", attributes="{axes=(0,)}") == value


def test_sums_over_axes_of_size_one_copy() -> None:
    kept = one("reduce_sum", np.full((2, 1), -0.0, np.float32), result="f32[2]", attributes="{axes=(1,)}")
    assert np.signbit(kept).all()


def test_running_sums_start_at_zero() -> None:
    zeros = np.full(3, -0.0, np.float32)
    for exclusive in (False, True):
        sums = one("cumsum", zeros, attributes=f"{{axis=0, exclusive={exclusive}, reverse=False}}")
        assert not np.signbit(sums).any()


def test_integers_wrap_and_divide_towards_what_they_say() -> None:
    np.testing.assert_array_equal(one("add", np.int8([127]), np.int8([1])), np.int8([-128]))
    np.testing.assert_array_equal(one("floor_div", i32(-7, 7, 1), i32(2, -2, 0)), i32(-4, -4, 0))
    np.testing.assert_array_equal(one("trunc_div", i32(-7, 7, 1), i32(2, -2, 0)), i32(-3, -3, 0))
    np.testing.assert_array_equal(one("floor_mod", i32(-7, 7), i32(2, -2)), i32(1, -1))
    np.testing.assert_array_equal(one("trunc_mod", i32(-7, 7), i32(2, -2)), i32(-1, 1))


def test_halves_round_to_even() -> None:
    np.testing.assert_array_equal(one("round", f32(0.5, 1.5, -0.5, 2.5)), f32(0, 2, -0.0, 2))


def test_casts() -> None:
    cast = one("cast", f32(1.9, -1.9, 0), result="i32[3]", attributes="{dtype=i32}")
    np.testing.assert_array_equal(cast, i32(1, -1, 0))
    truth = one("cast", f32(0.5, 0, NAN), result="bool[3]", attributes="{dtype=bool}")
    np.testing.assert_array_equal(truth, [True, False, True])
    narrow = one("cast", i32(300, -1), result="u8[2]", attributes="{dtype=u8}")
    np.testing.assert_array_equal(narrow, np.uint8([44, 255]))


def test_argmax_keeps_the_first_and_a_leading_nan() -> None:
    x = np.array([[1, 3, 3], [NAN, 9, 1], [1, NAN, 2]], np.float32)
    best = one("argmax", x, result="i64[3]", attributes="{axis=1, dtype=i64}")
    np.testing.assert_array_equal(best, [1, 0, 2])


def test_gather_clamps_and_scatter_drops() -> None:
    x = f32(10, 20, 30)
    np.testing.assert_array_equal(one("gather", x, i32(-5, 1, 9), attributes="{axis=0}"), f32(10, 20, 30))
    np.testing.assert_array_equal(one("scatter_add", x, i32(0, -1, 9, 0), f32(1, 2, 3, 4)), f32(15, 20, 30))


def test_products_in_all_transposes() -> None:
    a, b = (np.random.default_rng(i).normal(size=(2, 3, 4)).astype(np.float32) for i in (0, 1))
    for left, right in ((False, True), (True, False)):
        x, y = (np.swapaxes(a, 1, 2) if left else a), (np.swapaxes(b, 1, 2) if right else b)
        got = one("matmul", a, b, result=f"f32[2,{x.shape[1]},{y.shape[2]}]",
                  attributes=f"{{transpose_a={left}, transpose_b={right}}}")
        np.testing.assert_allclose(got, x @ y, rtol=1e-5, atol=1e-6)


def test_convolution_gradients_are_transposes_of_the_convolution() -> None:
    """<conv(x, w), dy> = <x, input_grad(w, dy)> = <w, filter_grad(x, dy)>, with strides, padding,
    dilation and groups."""
    random = np.random.default_rng(0)
    settings = "strides=(2,1), padding=((1,0),(2,1)), dilation=(1,2), groups=2"
    x, w = random.normal(size=(2, 7, 6, 4)), random.normal(size=(3, 2, 2, 6))
    y, = run("%x: f64[2,7,6,4], %w: f64[3,2,2,6]",
             f"%0: f64[2,3,7,6] = conv2d(%x, %w) {{{settings}}}\nreturn %0", x, w)
    dy = random.normal(size=y.shape)
    dx, dw = run("%x: f64[2,7,6,4], %w: f64[3,2,2,6], %dy: f64[2,3,7,6]",
                 f"%0: f64[2,7,6,4] = conv2d_input_grad(%w, %dy) {{{settings}, input_shape=(2,7,6,4)}}\n"
                 f"%1: f64[3,2,2,6] = conv2d_filter_grad(%x, %dy) {{{settings}, filter_shape=(3,2,2,6)}}\n"
                 "return %0, %1", x, w, dy)
    expected = np.sum(y * dy)
    np.testing.assert_allclose([np.sum(x * dx), np.sum(w * dw)], [expected, expected], rtol=1e-12)


def test_pooling() -> None:
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    settings = "{window=(2,2), strides=(2,2), padding=((0,0),(0,0))}"
    largest = one("max_pool", x, result="f32[1,2,2,1]", attributes=settings)
    np.testing.assert_array_equal(largest.reshape(-1), f32(5, 7, 13, 15))
    mean = one("avg_pool", x, result="f32[1,2,2,1]", attributes=settings)
    np.testing.assert_array_equal(mean.reshape(-1), f32(2.5, 4.5, 10.5, 12.5))
    dx = run("%x: f32[1,4,4,1], %y: f32[1,2,2,1], %dy: f32[1,2,2,1]",
             f"%0: f32[1,4,4,1] = max_pool_grad(%x, %y, %dy) {settings}\nreturn %0",
             x, largest, np.ones_like(largest))[0]
    np.testing.assert_array_equal(np.flatnonzero(dx), [5, 7, 13, 15])


def test_a_fusion_means_its_body() -> None:
    x = f32(1, 2)
    (got,) = run("%x: f32[2]", """
        %0: f32[2] = fusion(%x) {kind='loop'} with
        graph loop(%p0: f32[2]) {
          %0: f32[2] = neg(%p0)
          return %0
        }
        return %0""", x)
    np.testing.assert_array_equal(got, -x)
