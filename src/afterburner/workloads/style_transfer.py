"""Style transfer (Gatys et al., 2016): the image is what is trained, 256×256×3, on the features of a VGG19.

The weights are random, so that nothing has to be downloaded; the time does not depend on them. The photographs are
the two that come with scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from . import Units
from ._alone import report

SIZE = 256
STEPS = 5
STYLE = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1")
CONTENT = ("block5_conv2",)
STYLE_WEIGHT, CONTENT_WEIGHT, VARIATION_WEIGHT = 1e-2, 1e4, 30.0

Features = tuple[list[tf.Tensor], list[tf.Tensor]]


def photographs(size: int = SIZE) -> tuple[tf.Tensor, tf.Tensor]:
    """Content and style: f32[1,size,size,3] in [0, 1]."""
    from sklearn.datasets import load_sample_image

    def resized(name: str) -> tf.Tensor:
        image = np.asarray(load_sample_image(name), np.float32) / 255
        return tf.image.resize(image[None], (size, size))

    return resized("china.jpg"), resized("flower.jpg")


def extractor() -> keras.Model:
    """VGG19's features, by layer: f[n,h,w,3] in 0 to 255, centred, to the tensors of STYLE and CONTENT."""
    network = keras.applications.VGG19(include_top=False, weights=None)
    network.trainable = False
    return keras.Model(network.inputs, [network.get_layer(name).output for name in STYLE + CONTENT])


def gram(features: tf.Tensor) -> tf.Tensor:
    """Inner products of channels, averaged over pixels: f[n,h,w,c] to f[n,c,c]."""
    shape = tf.shape(features)
    return tf.einsum("bijc,bijd->bcd", features, features) / tf.cast(shape[1] * shape[2], features.dtype)


def features_of(network: keras.Model, image: tf.Tensor) -> Features:
    """Gram matrices of the style layers and features of the content layers, of an image in [0, 1]; in its type."""
    outputs = network(keras.applications.vgg19.preprocess_input(image * 255.0))
    full = [tf.cast(x, image.dtype) for x in outputs]  # under mixed precision, features are of 16 bits
    return [gram(x) for x in full[:len(STYLE)]], full[len(STYLE):]


def loss_of(network: keras.Model, image: tf.Tensor, style: list[tf.Tensor], content: list[tf.Tensor]) -> tf.Tensor:
    """How far the image's features are from the wanted ones, plus its total variation."""

    def distance(found: list[tf.Tensor], wanted: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.reduce_mean((a - b) ** 2) for a, b in zip(found, wanted, strict=True)]) / len(found)

    found_style, found_content = features_of(network, image)
    return (STYLE_WEIGHT * distance(found_style, style) + CONTENT_WEIGHT * distance(found_content, content)
            + VARIATION_WEIGHT * tf.reduce_sum(tf.image.total_variation(image)))


def step_of(network: keras.Model, image: tf.Variable, style: list[tf.Tensor],
            content: list[tf.Tensor]) -> Callable[[], tf.Tensor]:
    """A step of Adam on the image, which is then clipped to [0, 1]; returns the loss."""
    optimizer = keras.optimizers.Adam(0.02, beta_1=0.99, epsilon=0.1)
    optimizer.build([image])

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(network, image, style, content)
        optimizer.apply_gradients([(tape.gradient(loss, image), image)])
        image.assign(tf.clip_by_value(image, 0.0, 1.0))
        return loss

    return step


def build() -> Units:
    """Steps from the content photograph towards the style of the other."""
    keras.utils.set_random_seed(1)
    content_image, style_image = photographs()
    network = extractor()
    style, content = features_of(network, style_image)[0], features_of(network, content_image)[1]
    step = step_of(network, tf.Variable(content_image), style, content)

    def loop() -> float:
        for _ in range(STEPS):
            loss = step()
        return float(loss)

    return {"step": (STEPS, loop)}


if __name__ == "__main__":
    report(build())
