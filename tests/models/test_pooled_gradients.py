"""Gradients of convolutions behind max pooling against stock TensorFlow: values, and where NaN and infinities are."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.frontend import kit
from tests.frontend.kit import captured

# image, filter, padding of the convolution, window and strides of the pooling, what is between
CASES = {
    "lenet": ((4, 26, 26, 32), (3, 3, 32, 64), "VALID", 2, "relu"),
    "vgg": ((1, 32, 30, 64), (3, 3, 64, 64), "SAME", 2, "relu"),
    "odd": ((3, 15, 17, 24), (3, 3, 24, 40), "SAME", 2, "bias"),
    "wide filter": ((2, 14, 13, 16), (5, 5, 16, 48), "VALID", 2, "relu"),
    "nothing between": ((2, 11, 12, 32), (3, 3, 32, 36), "SAME", 2, "none"),
    "thirds": ((2, 17, 16, 32), (3, 3, 32, 32), "SAME", 3, "relu"),
}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


def arrays(name: str) -> list[np.ndarray]:
    x, w, padding, window, _ = CASES[name]
    rng = np.random.default_rng(11)
    rows, columns = ((x[i] - (w[i - 1] - 1 if padding == "VALID" else 0)) // window for i in (1, 2))
    shapes = (x, w, w[-1:], (x[0], rows, columns, w[-1]))
    return [rng.standard_normal(s) * 0.1 ** (s == w) for s in shapes]


def gradients(name: str, values: list[np.ndarray], dtype: str = "float32") -> list[np.ndarray]:
    """Gradients of the image, the filter and the bias."""
    _, _, padding, window, between = CASES[name]

    @tf.function
    def step(x, w, b, weights):
        with tf.GradientTape() as tape:
            tape.watch([x, w, b])
            y = tf.nn.conv2d(x * 1.0, w, 1, padding)
            if between != "none":
                y = tf.nn.bias_add(y, b)
            if between == "relu":
                y = tf.nn.relu(y)
            loss = tf.reduce_sum(tf.nn.max_pool2d(y, window, window, "VALID") * weights)
        return tape.gradient(loss, [x, w, b], unconnected_gradients="zero")

    return [g.numpy() for g in step(*(tf.constant(v.astype(dtype)) for v in values))]


@pytest.mark.parametrize("isa", ["", "avx512"])
@pytest.mark.parametrize("name", CASES)
def test_gradients(name, isa):
    values = arrays(name)
    reference, stock = gradients(name, values, "float64"), gradients(name, values)
    with captured(isa=isa) as taken:
        ours, again = gradients(name, values), gradients(name, values)
    labels = [k.label for f in taken.recorder.report().functions for p in f.parts for k in p.kernels]
    assert sum("of maxima" in label for label in labels) == 4, labels  # two of each step
    typical = float(np.median([np.linalg.norm(r) for r in reference]))
    for got, more, other, exact in zip(ours, again, stock, reference, strict=True):
        assert got.tobytes() == more.tobytes()
        bound = 2 * max(np.linalg.norm(other - exact), 1e-6 * (np.linalg.norm(exact) + typical))
        assert np.linalg.norm(got - exact) <= bound


@pytest.mark.parametrize("where", [0, 1, 3])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite(where, value):
    values = arrays("vgg")
    place = ((0, 12, 9, 5), (1, 1, 5, 7), None, (0, 6, 4, 3))[where]
    values[where][place] = value
    stock = gradients("vgg", values)
    with captured():
        ours = gradients("vgg", values)
    for got, other in zip(ours, stock, strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(other))
        np.testing.assert_allclose(got, other, rtol=1e-4, atol=1e-3)
    assert not all(np.isfinite(g).all() for g in stock)
