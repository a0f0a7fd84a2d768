"""Small models of the kinds that must be taken whole, with their data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np

L = keras.layers


# Half the distance from 1 to the next number, of what a policy computes in.
ROUNDING = {"float32": 2.0**-24, "mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}


def variable_type(policy: str) -> str:
    """The type of variables and data: float32 under mixed precision, else what is computed in."""
    return "float32" if policy.startswith("mixed_") else policy


@contextmanager
def floats(dtype: str) -> Iterator[None]:
    """What is built inside computes in this element type, or under this policy of mixed precision."""
    keras.config.set_floatx(variable_type(dtype))
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def mlp(dropout: float) -> keras.Model:
    return keras.Sequential([
        L.Input((20,)), L.Dense(32, activation="relu"), L.Dropout(dropout),
        L.Dense(24, activation="gelu", kernel_regularizer=keras.regularizers.L1L2(1e-4, 1e-3)), L.Dense(5)])


def lenet(dropout: float) -> keras.Model:
    return keras.Sequential([
        L.Input((14, 14, 1)), L.Conv2D(8, 3, activation="relu"), L.Conv2D(16, 3, activation="relu"),
        L.MaxPooling2D(), L.Dropout(dropout), L.Flatten(), L.Dense(32, activation="relu"), L.Dropout(dropout),
        L.Dense(5)])


def residual(dropout: float) -> keras.Model:
    inputs = L.Input((12, 12, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(inputs)))
    y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(x))
    x = L.ReLU()(L.Add()([x, y]))
    left = L.Conv2D(12, 3, strides=2, padding="same")(x)
    right = L.AveragePooling2D(2)(x)
    x = L.Dropout(dropout)(L.Concatenate()([left, right]))
    x = L.Activation("swish")(L.SeparableConv2D(10, 3, padding="same", dilation_rate=1)(x))
    return keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(x)))


def autoencoder(dropout: float) -> keras.Model:
    return keras.Sequential([
        L.Input((8, 8, 2)), L.Conv2D(6, 3, strides=2, padding="same", activation="elu"), L.LayerNormalization(),
        L.Dropout(dropout), L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="tanh"),
        L.UpSampling2D(2), L.MaxPooling2D(2), L.Conv2D(2, 3, padding="same", activation="sigmoid")])


def volumes(dropout: float) -> keras.Model:
    inputs = L.Input((7, 6, 8, 2))
    x = L.ZeroPadding3D(((1, 0), (1, 1), (0, 0)))(inputs)
    fine = L.ReLU()(L.BatchNormalization()(L.Conv3D(4, 3, padding="same", use_bias=False)(x)))
    x = L.SpatialDropout3D(dropout)(L.MaxPooling3D(2)(fine))
    middle = L.Conv3D(6, 3, padding="same", activation="elu")(x)
    x = L.Conv3D(8, (3, 2, 3), padding="same", activation="elu")(L.AveragePooling3D(2)(middle))
    x = L.Concatenate()([L.Conv3DTranspose(6, 3, strides=2, padding="same")(x), middle])
    x = L.Concatenate()([L.UpSampling3D(2)(L.Conv3D(6, 3, padding="same", activation="tanh")(x)), fine])
    return keras.Model(inputs, L.Conv3D(2, 1)(L.Cropping3D(((1, 0), (1, 1), (0, 0)))(x)))


def volume_classes(dropout: float) -> keras.Model:
    inputs = L.Input((5, 9, 10, 1))
    x = L.Conv3D(6, (3, 5, 5), strides=(1, 2, 2), padding="same", activation="tanh")(inputs)
    x = L.MaxPooling3D(3, strides=2, padding="same")(x)
    x = L.AveragePooling3D((1, 2, 2), padding="same")(L.Conv3D(8, 3, strides=(2, 1, 1), padding="same")(x))
    x = L.Concatenate()([L.GlobalAveragePooling3D()(x), L.GlobalMaxPooling3D()(x)])
    return keras.Model(inputs, L.Dense(5)(L.Dropout(dropout)(x)))


@dataclass(frozen=True)
class Case:
    """A model, the shape of a sample, its loss and its metrics."""

    build: Callable[[float], keras.Model]
    sample: tuple[int, ...]
    classes: int  # 0: the model reproduces its input

    @property
    def loss(self) -> keras.losses.Loss:
        if self.classes:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.MeanSquaredError()

    def data(self, count: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        """Seeded samples and targets."""
        rng = np.random.default_rng(5)
        x = rng.random((count, *self.sample)).astype(dtype)
        return x, rng.integers(0, self.classes, count) if self.classes else x

    def model(self, dropout: float = 0.0, seed: int = 11, dtype: str = "float32") -> keras.Model:
        """The model with seeded weights, the same for every dtype."""
        keras.utils.set_random_seed(seed)
        model = self.build(dropout)
        if dtype == "float32":
            return model
        weights = model.get_weights()
        with floats(dtype):
            wide = self.build(dropout)
        wide.set_weights([w.astype(dtype) if w.dtype.kind == "f" else w for w in weights])
        return wide


CASES = {
    "mlp": Case(mlp, (20,), 5), "lenet": Case(lenet, (14, 14, 1), 5), "residual": Case(residual, (12, 12, 3), 5),
    "autoencoder": Case(autoencoder, (8, 8, 2), 0),
}
VOLUMES = {"volumes": Case(volumes, (7, 6, 8, 2), 0), "volume_classes": Case(volume_classes, (5, 9, 10, 1), 5)}
"""TensorFlow has no pooling of float64 for them."""
