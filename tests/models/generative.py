"""CycleGAN and style transfer, small and whole, and what must hold for them.

``python -m tests.models.generative cyclegan`` checks a whole network on the workload's images (some minutes);
``test_generative.py`` checks small ones.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from afterburner.options import PRECISION, overridden
from afterburner.workloads import cyclegan, style_transfer
from tests.frontend import kit
from tests.frontend.kit import Taken, captured
from tests.models.networks import apart, spread, stocks_losses
from tests.models.zoo import floats, variable_type

Values = dict[str, np.ndarray]
FLOOR = 1e-6  # error of a float32 gradient that is always allowed, relative


@dataclass(frozen=True)
class Size:
    """How large the networks are.

    Attributes:
        down: filters of the U-Nets' way down.
        patch: filters of the discriminators.
        image: side of CycleGAN's images in pixels.
        photograph: side of the photographs.
        steps: of training.
    """

    down: Sequence[int]
    patch: Sequence[int]
    image: int
    photograph: int
    steps: int


SMALL = Size((4, 8), (4, 8), 16, 32, 4)
WHOLE = Size(cyclegan.DOWN, cyclegan.PATCH, cyclegan.SIZE, style_transfer.SIZE, 10)


def _networks(dtype: str, size: Size) -> list[keras.Model]:
    """All four networks, with the same weights for every dtype and offsets that are not zero."""
    with floats(dtype):
        models = cyclegan.networks(down=size.down, patch=size.patch, dropout=0.0)
    rng = np.random.default_rng(3)
    for model in models:
        for variable in model.trainable_variables:
            mean = 1.0 if variable.name == "scale" else 0.0
            variable.assign(rng.normal(mean, 0.05, variable.shape))
    return models


def _images(dtype: str, size: Size) -> list[tf.Tensor]:
    rng = np.random.default_rng(4)
    shape = (1, size.image, size.image, 3)
    return [tf.constant(rng.uniform(-1, 1, shape), variable_type(dtype)) for _ in range(2)]


def cyclegan_gradients(dtype: str, size: Size) -> Values:
    """All losses and gradients at the first step."""
    models, images = _networks(dtype, size), _images(dtype, size)
    step = tf.function(lambda x, y: cyclegan.gradients_of(models, x, y))
    with floats(dtype):  # while tracing
        losses, gradients = step(*images)
    found = {f"loss {i}": loss.numpy() for i, loss in enumerate(losses)}
    for i, (model, values) in enumerate(zip(models, gradients, strict=True)):
        for j, (variable, value) in enumerate(zip(model.trainable_variables, values, strict=True)):
            found[f"{i} {j} {variable.name}"] = value.numpy()
    return found


def cyclegan_training(dtype: str, size: Size) -> Values:
    """The losses of some steps, and the weights after them."""
    models, images = _networks(dtype, size), _images(dtype, size)
    with floats(dtype):
        step = cyclegan.step_of(models)
        losses = np.stack([step(*images).numpy() for _ in range(size.steps)])
    return {"losses": losses, **{f"{i} {j}": w for i, m in enumerate(models) for j, w in enumerate(m.get_weights())}}


def _style(dtype: str, size: Size) -> tuple[keras.Model, tf.Variable, list[tf.Tensor], list[tf.Tensor]]:
    """The extractor with the same weights for every dtype, the image and what is wanted."""
    keras.utils.set_random_seed(7)
    network = style_transfer.extractor()
    if dtype != "float32":
        weights = network.get_weights()
        with floats(dtype):
            network = style_transfer.extractor()
        network.set_weights(weights)
    content, style = (tf.cast(image, variable_type(dtype)) for image in style_transfer.photographs(size.photograph))
    wanted = style_transfer.features_of(network, style)[0], style_transfer.features_of(network, content)[1]
    return network, tf.Variable(content), *wanted


def style_gradients(dtype: str, size: Size) -> Values:
    """The loss and the image's gradient at the first step."""
    network, image, style, content = _style(dtype, size)

    @tf.function
    def step() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = style_transfer.loss_of(network, image, style, content)
        return loss, tape.gradient(loss, image)

    loss, gradient = step()
    return {"loss": loss.numpy(), "image": gradient.numpy()}


def style_training(dtype: str, size: Size) -> Values:
    """The losses of some steps, and the image after them."""
    network, image, style, content = _style(dtype, size)
    with floats(dtype):
        step = style_transfer.step_of(network, image, style, content)
        losses = np.stack([step().numpy() for _ in range(size.steps)])
    return {"losses": losses, "image": image.numpy()}


Run = Callable[[str, Size], Values]
GENERATIVE: dict[str, tuple[Run, Run]] = {
    "cyclegan": (cyclegan_gradients, cyclegan_training), "style_transfer": (style_gradients, style_training)}


def error(values: Values, reference: Values, name: str) -> float:
    """The length of the difference of two values."""
    return float(np.linalg.norm(values[name].astype(np.float64) - reference[name]))


def bounds(stock: Values, reference: Values, floor: float) -> dict[str, float]:
    """How far each value may be from its reference: twice as far as stock TensorFlow's, but for a rounding."""
    norms = {name: float(np.linalg.norm(value)) for name, value in reference.items()}
    typical = float(np.median(list(norms.values())))
    return {name: 2 * max(error(stock, reference, name), floor * (norms[name] + typical)) for name in reference}


def check_taken(taken: Taken) -> None:
    """Every function compiled, with nothing left to TensorFlow."""
    reports = taken.recorder.report().functions
    assert reports
    for report in reports:
        assert report.status == "compiled"
        assert report.left == []


def _say(name: str, text: str) -> None:
    print(f"{time.strftime('%X')}  {name}: {text}", flush=True)


def _check_gradients(name: str, reference: Values, stock: Values, ours: Values) -> bool:
    """Whether all gradients together are as near to float64 as stock's.

    At this size a few of millions of values come out on the other side of a rectifier's kink, for whoever computes in
    float32, and shift the gradients before it: one by one they are told, not judged.
    """
    allowed = bounds(stock, reference, FLOOR)
    beyond = [value for value in reference if error(ours, reference, value) > allowed[value]]
    theirs, mine = (float(np.hypot.reduce([error(side, reference, value) for value in reference]))
                    for side in (stock, ours))
    floor = FLOOR * float(np.hypot.reduce([np.linalg.norm(value) for value in reference.values()]))
    _say(name, f"{len(beyond)} of {len(reference)} losses and gradients beyond their bound; "
               f"error of all together {mine:.3g}, stock's {theirs:.3g}")
    return mine <= 2 * max(theirs, floor)


def check(name: str, precision: str) -> bool:
    """Check a whole network, print what is found; whether all is right."""
    gradients, training = GENERATIVE[name]
    reference, stock = gradients("float64", WHOLE), gradients("float32", WHOLE)
    with overridden(precision=precision), captured() as taken:
        ours = gradients("float32", WHOLE)
    check_taken(taken)
    right = _check_gradients(name, reference, stock, ours)
    del reference, stock, ours
    losses = training("float32", WHOLE)["losses"]
    widest = spread([losses, *stocks_losses("tests.models.generative", [name])])
    _say(name, f"stock's losses are apart by {widest:.2g} over {WHOLE.steps} steps, with 1 or 2 threads, oneDNN or not")
    with overridden(precision=precision), captured() as taken:
        first, second = training("float32", WHOLE), training("float32", WHOLE)
    check_taken(taken)
    distance = apart(first["losses"], losses)
    _say(name, f"ours are apart from stock's by {distance:.2g}")
    same = all(np.array_equal(first[value], second[value]) for value in first)
    _say(name, "the same bits twice" if same else "other bits in the second run")
    # Fast precision changes numbers: what it changes is told, not judged.
    return same and (precision == "fast" or (right and distance <= widest))


def main() -> None:
    """Check whole networks; exit status 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.models.generative", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(GENERATIVE), metavar="NETWORK")
    parser.add_argument("--precision", choices=PRECISION, default="default", help="ours")
    parser.add_argument("--losses", action="store_true", help="only print stock's losses, as JSON")
    options = parser.parse_args()
    if options.losses:
        name, = options.names
        print(json.dumps(GENERATIVE[name][1]("float32", WHOLE)["losses"].tolist()))
        return
    kit.TARGET = "cpu"
    raise SystemExit(not all([check(name, options.precision) for name in options.names]))


if __name__ == "__main__":
    main()
