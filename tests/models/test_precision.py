"""``precision=fast`` on a whole model: how far it is from stock TensorFlow, that it repeats, and that it is off."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import afterburner
from afterburner.options import OptionError, options, overridden
from tests.frontend import kit
from tests.frontend.kit import Taken, captured, close
from tests.models.zoo import L

STEPS, BATCH = 20, 16


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


def network() -> keras.Model:
    keras.utils.set_random_seed(11)
    return keras.Sequential([
        L.Input((22, 22, 1)), L.Conv2D(32, 3, activation="relu"), L.Conv2D(32, 3, activation="relu"),
        L.Conv2D(32, 3, padding="same", activation="relu"), L.MaxPooling2D(), L.Dropout(0.25), L.Flatten(),
        L.Dense(32, activation="relu"), L.Dense(5)])


def train() -> tuple[list[float], list[np.ndarray]]:
    model = network()
    model.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(5)
    x, y = rng.random((BATCH * STEPS, 22, 22, 1), np.float32), rng.integers(0, 5, BATCH * STEPS)
    losses: list[float] = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False, callbacks=[record])
    return losses, model.get_weights()


def labels(taken: Taken) -> list[str]:
    return [k.label for executable in taken.executables for k in executable.kernels]


def test_losses_stay_with_stock_and_repeat():
    expected, _ = train()
    with captured(precision="fast") as taken:
        losses, weights = train()
        again, same = train()
    kinds = [label.split(" 3x3")[0] for label in labels(taken) if "Winograd" in label]
    assert set(kinds) == {"conv2d", "conv2d input grad", "conv2d filter grad"}
    rounded = any("bfloat16 pairs" in label for label in labels(taken))
    close(losses, expected, 5e-3 if rounded else 1e-4)  # as in default precision unless operands are rounded
    assert losses == again
    for first, second in zip(weights, same, strict=True):
        np.testing.assert_array_equal(first, second)


def test_default_precision_is_free_of_it():
    with captured() as taken:
        train()
    assert any("conv2d" in label for label in labels(taken))
    assert not any("(Winograd)" in label or "pairs" in label for label in labels(taken))


def test_a_change_compiles_anew():
    rng = np.random.default_rng(1)
    x, w = (tf.constant(rng.standard_normal(s, np.float32)) for s in ((2, 24, 24, 32), (3, 3, 32, 32)))

    @tf.function
    def step(x, w):
        return tf.nn.relu(tf.nn.conv2d(x, w, 1, "SAME") * 2.0 + 1.0)

    stock = step(x, w).numpy()
    with overridden(), captured() as taken:
        default = step(x, w).numpy()
        afterburner.set_precision("fast")
        fast = step(x, w).numpy()
        assert taken.count == 2
        assert "fast precision" in taken.recorder.report().device
        afterburner.set_precision("default")
        np.testing.assert_array_equal(step(x, w), default)
        assert taken.count == 2
    assert not taken.executables[1].cached
    rounded = ["bfloat16 pairs" in label for label in labels(taken)]
    assert [of_pairs or "(Winograd)" in label for of_pairs, label in zip(rounded, labels(taken), strict=True)] \
        == [False, True]
    close(fast, stock, 1e-2 if rounded[1] else 1e-5)
    assert not np.array_equal(fast, default)


def test_unknown_precision():
    with pytest.raises(OptionError, match="'exact' is none of default, fast"):
        afterburner.set_precision("exact")
    assert options().precision == "default"
