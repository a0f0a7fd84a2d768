"""CycleGAN in a hand-written step: two U-Nets, two patch discriminators, four Adams, 256×256×3, batch 1.

The networks are those of pix2pix (Isola et al., 2017) with instance normalization; the losses are those of CycleGAN
(Zhu et al., 2017), with cross-entropy in place of squares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from . import Units
from ._alone import report

SIZE = 256
STEPS = 3
DOWN = (64, 128, 256, 512, 512, 512, 512)  # filters of the U-Net's way down; up the same, mirrored
PATCH = (64, 128, 256, 512)  # filters of the discriminator
CYCLE, IDENTITY = 10.0, 5.0  # weights of the losses

L = keras.layers
Layer = Callable[[tf.Tensor], tf.Tensor]


class InstanceNormalization(keras.layers.Layer):
    """Normalizes f32[n,h,w,c] over h and w, then scales and shifts each channel."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        around_one = keras.initializers.RandomNormal(1.0, 0.02)
        self.scale = self.add_weight(name="scale", shape=shape[-1:], initializer=around_one)
        self.offset = self.add_weight(name="offset", shape=shape[-1:], initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, axes=[1, 2], keepdims=True)
        return self.scale * (x - mean) * tf.math.rsqrt(variance + 1e-5) + self.offset


def _weights() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(0.0, 0.02)


def _outputs() -> str:
    """The type of what a network answers: full precision even under a policy of mixed precision."""
    return keras.config.floatx()


def _down(filters: int, normalize: bool = True) -> Layer:
    convolve = L.Conv2D(filters, 4, 2, padding="same", use_bias=False, kernel_initializer=_weights())
    return keras.Sequential([convolve, *([InstanceNormalization()] if normalize else []), L.LeakyReLU(0.2)])


def _up(filters: int, dropout: float) -> Layer:
    convolve = L.Conv2DTranspose(filters, 4, 2, padding="same", use_bias=False, kernel_initializer=_weights())
    return keras.Sequential([convolve, InstanceNormalization(), *([L.Dropout(dropout)] if dropout else []), L.ReLU()])


def generator(filters: Sequence[int] = DOWN, dropout: float = 0.5) -> keras.Model:
    """A U-Net from images to images: one halving of the size for each number of filters, then back with skips."""
    x = inputs = L.Input((None, None, 3))
    skips = []
    for i, count in enumerate(filters):
        x = _down(count, normalize=i > 0)(x)
        skips.append(x)
    for i, skip in enumerate(reversed(skips[:-1])):
        x = L.Concatenate()([_up(skip.shape[-1], dropout if i < 3 else 0.0)(x), skip])
    x = L.Conv2DTranspose(3, 4, 2, padding="same", kernel_initializer=_weights())(x)
    return keras.Model(inputs, L.Activation("tanh", dtype=_outputs())(x))


def discriminator(filters: Sequence[int] = PATCH) -> keras.Model:
    """A patch discriminator: from images to a map of logits, real or not."""
    x = inputs = L.Input((None, None, 3))
    for i, count in enumerate(filters[:-1]):
        x = _down(count, normalize=i > 0)(x)
    x = L.Conv2D(filters[-1], 4, use_bias=False, kernel_initializer=_weights())(L.ZeroPadding2D()(x))
    x = L.LeakyReLU()(InstanceNormalization()(x))
    x = L.Conv2D(1, 4, kernel_initializer=_weights())(L.ZeroPadding2D()(x))
    return keras.Model(inputs, L.Activation("linear", dtype=_outputs())(x))


def networks(down: Sequence[int] = DOWN, patch: Sequence[int] = PATCH, dropout: float = 0.5) -> list[keras.Model]:
    """The generators x → y and y → x, the discriminators of x and y."""
    return [generator(down, dropout), generator(down, dropout), discriminator(patch), discriminator(patch)]


def gradients_of(models: Sequence[keras.Model], x: tf.Tensor,
                 y: tf.Tensor) -> tuple[list[tf.Tensor], list[list[tf.Tensor]]]:
    """Each network's loss and its gradients by the network's variables; x and y are f[n,h,w,3]."""
    to_y, to_x, judge_x, judge_y = models
    entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def real(judged: tf.Tensor) -> tf.Tensor:
        return entropy(tf.ones_like(judged), judged)

    def false(judged: tf.Tensor) -> tf.Tensor:
        return entropy(tf.zeros_like(judged), judged)

    def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.abs(a - b))

    with tf.GradientTape(persistent=True) as tape:
        fake_y, fake_x = to_y(x, training=True), to_x(y, training=True)
        cycled_x, cycled_y = to_x(fake_y, training=True), to_y(fake_x, training=True)
        same_x, same_y = to_x(x, training=True), to_y(y, training=True)
        judged_x, judged_y = judge_x(x, training=True), judge_y(y, training=True)
        judged_fake_x, judged_fake_y = judge_x(fake_x, training=True), judge_y(fake_y, training=True)
        cycle = CYCLE * (distance(x, cycled_x) + distance(y, cycled_y))
        losses = [
            real(judged_fake_y) + cycle + IDENTITY * distance(y, same_y),
            real(judged_fake_x) + cycle + IDENTITY * distance(x, same_x),
            (real(judged_x) + false(judged_fake_x)) / 2,
            (real(judged_y) + false(judged_fake_y)) / 2,
        ]
    return losses, [tape.gradient(loss, m.trainable_variables) for loss, m in zip(losses, models, strict=True)]


def step_of(models: Sequence[keras.Model]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A training step of all four networks: images of either kind to the four losses."""
    optimizers = [keras.optimizers.Adam(2e-4, beta_1=0.5) for _ in models]
    for optimizer, network in zip(optimizers, models, strict=True):
        optimizer.build(network.trainable_variables)

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        losses, gradients = gradients_of(models, x, y)
        for optimizer, values, network in zip(optimizers, gradients, models, strict=True):
            optimizer.apply_gradients(zip(values, network.trainable_variables, strict=True))
        return tf.stack(losses)

    return step


def images(count: int, size: int = SIZE) -> tuple[tf.Tensor, ...]:
    """f32[1,size,size,3] each, uniform in [-1, 1)."""
    return tuple(tf.random.uniform((1, size, size, 3), -1, 1, seed=i) for i in range(count))


def build() -> Units:
    """Calls of the step from a Python loop, each on another pair of random images."""
    keras.utils.set_random_seed(1)
    data = images(2 * STEPS)
    step = step_of(networks())

    def loop() -> list[float]:
        for x, y in zip(data[::2], data[1::2], strict=True):
            losses = step(x, y)
        return list(map(float, losses))

    return {"step": (STEPS, loop)}


if __name__ == "__main__":
    report(build())
