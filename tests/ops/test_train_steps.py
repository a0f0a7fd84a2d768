"""Training steps of Keras models: losses, metrics and updated variables against TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from .steps import assert_close, import_concrete, run_both, train_step

_RNG = np.random.default_rng(0)
_VECTORS = _RNG.standard_normal((8, 6)).astype(np.float32)
_IMAGES = _RNG.random((4, 10, 10, 3)).astype(np.float32)
_IDS = _RNG.integers(0, 20, (8, 6)).astype(np.int32)
_LABELS = _RNG.integers(0, 5, 8)
_ONE_HOT = np.eye(5, dtype=np.float32)[_LABELS]
_SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    keras.utils.set_random_seed(1)
    yield
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()


def _mlp(*inner: Any, activation: str | None = None) -> keras.Model:
    return keras.Sequential([keras.Input((6,)), *inner, layers.Dense(5, activation=activation)])


def _images(*inner: Any) -> keras.Model:
    return keras.Sequential([keras.Input((10, 10, 3)), *inner, layers.GlobalAveragePooling2D(), layers.Dense(5)])


def _embedding(*inner: Any) -> keras.Model:
    return keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(20, 4), *inner, layers.Dense(5)])


def _compare(
    model: keras.Model,
    data: tuple[np.ndarray, ...],
    optimizer: Any = "sgd",
    loss: Any = _SPARSE,
    metrics: Any = (),
    tolerance: float = 1e-5,
) -> None:
    """Two steps, so that the second starts from slots that are not zero."""
    model.compile(optimizer, loss, metrics=list(metrics))
    step = train_step(model, data)
    run_both(step)
    assert_close(run_both(step), tolerance)


def test_mlp_with_dropout() -> None:
    model = _mlp(layers.Dense(8, activation="relu"), layers.Dropout(0.3))
    _compare(model, (_VECTORS, _LABELS), "adam", metrics=["accuracy"])


_MODELS: dict[str, Callable[[], keras.Model]] = {
    "convolutions": lambda: _images(
        layers.Conv2D(6, 3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.SeparableConv2D(6, 3, strides=2, padding="same"),
        layers.SpatialDropout2D(0.2),
    ),
    "shapes": lambda: _images(
        layers.ZeroPadding2D(1),
        layers.Conv2D(4, 3, dilation_rate=2),
        layers.UpSampling2D(2),
        layers.Cropping2D(2),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        layers.AveragePooling2D(2, padding="same"),
        layers.GaussianNoise(0.1),
    ),
}


@pytest.mark.parametrize("name", _MODELS)
def test_images(name: str) -> None:
    _compare(_MODELS[name](), (_IMAGES, _LABELS[:4]), metrics=["accuracy"])


def test_normalization_and_gelu() -> None:
    model = _mlp(layers.Dense(8, activation="gelu"), layers.LayerNormalization(), layers.GroupNormalization(4))
    _compare(model, (_VECTORS, _LABELS))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_embedding(optimizer: str) -> None:
    _compare(_embedding(layers.GlobalAveragePooling1D()), (_IDS, _LABELS), optimizer)


def test_attention() -> None:
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 4)(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 2, dropout=0.1)(x, x, use_causal_mask=True)])
    model = keras.Model(inputs, layers.Dense(5)(layers.GlobalMaxPooling1D()(x)))
    _compare(model, (_IDS, _LABELS))


def test_sample_weights_regularizers_and_constraints() -> None:
    dense = layers.Dense(8, "tanh", kernel_regularizer="l2", bias_regularizer="l1", kernel_constraint="max_norm")
    _compare(_mlp(dense), (_VECTORS, _LABELS, _RNG.random(8).astype(np.float32)), metrics=["accuracy"])


def test_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = _mlp(layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Activation("linear", dtype="float32"))
    _compare(model, (_VECTORS, _LABELS), tolerance=2e-2)


_OPTIMIZERS: dict[str, Callable[[], Any]] = {
    **{
        name: getattr(keras.optimizers, name)
        for name in ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Nadam", "Adamax", "Lion", "Ftrl")
    },
    "nesterov": lambda: keras.optimizers.SGD(0.1, 0.9, nesterov=True, weight_decay=1e-3, clipnorm=0.5),
    "centered": lambda: keras.optimizers.RMSprop(0.1, centered=True, momentum=0.5, clipvalue=0.1),
    "average": lambda: keras.optimizers.Adam(
        amsgrad=True, global_clipnorm=0.1, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, 100, warmup_steps=3, warmup_target=0.2)
    ),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
}


@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_optimizers(name: str) -> None:
    _compare(_mlp(layers.Dense(8, "tanh")), (_VECTORS, _LABELS), _OPTIMIZERS[name]())


_LOSSES = (
    "mse",
    "mae",
    "huber",
    "log_cosh",
    "kl_divergence",
    "poisson",
    "hinge",
    "squared_hinge",
    "categorical_hinge",
    "cosine_similarity",
    "binary_crossentropy",
    "categorical_crossentropy",
    "binary_focal_crossentropy",
)


def test_losses() -> None:
    """One head for every loss."""
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [layers.Dense(5, activation="sigmoid")(inputs) for _ in _LOSSES])
    model.compile("sgd", list(_LOSSES))
    function = tf.function(lambda x, y: model.train_step((x, [y] * len(_LOSSES))))
    model._symbolic_build(data_batch=(tf.constant(_VECTORS), [tf.constant(_ONE_HOT)] * len(_LOSSES)))
    specs = tf.TensorSpec(_VECTORS.shape), tf.TensorSpec(_ONE_HOT.shape)
    step = import_concrete(function.get_concrete_function(*specs), (_VECTORS, _ONE_HOT))
    assert_close(run_both(step))


_METRICS = (
    "AUC",
    "Precision",
    "Recall",
    "TopKCategoricalAccuracy",
    "CategoricalAccuracy",
    "BinaryAccuracy",
    "RootMeanSquaredError",
    "CosineSimilarity",
    "F1Score",
    "R2Score",
    "BinaryIoU",
)


def test_metrics() -> None:
    metrics = [getattr(keras.metrics, name)() for name in _METRICS]
    _compare(_mlp(activation="sigmoid"), (_VECTORS, _ONE_HOT), loss="mse", metrics=metrics)


_ACTIVATIONS = (
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "softmax",
    "log_softmax",
    "silu",
    "hard_sigmoid",
    "hard_silu",
    "mish",
    "exponential",
    "celu",
)


def test_activations() -> None:
    """One branch for every activation."""
    inputs = keras.Input((6,))
    branches = [layers.Dense(3, activation=a)(inputs) for a in _ACTIVATIONS]
    _compare(keras.Model(inputs, layers.Dense(5)(layers.Concatenate()(branches))), (_VECTORS, _LABELS))
