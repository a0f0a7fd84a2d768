"""The image networks of the workloads, whole and cut to their first blocks, and what must hold for them.

``python -m tests.models.networks mobilenetv3 --size 64`` checks whole networks, on small images unless told otherwise
(minutes each, most of it TensorFlow's tracing); ``test_networks.py`` checks the cut ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras.src.applications import densenet, mobilenet_v3, resnet

from afterburner.options import PRECISION
from tests.frontend import kit
from tests.frontend.kit import captured, close
from tests.models.zoo import ROUNDING, floats, variable_type

PIPELINE = {"IteratorGetNext", "OptionalFromValue"}
CLASSES = 10

Build = Callable[[int, float], keras.Model]  # (side of an image, dropout rate) -> network


@dataclass(frozen=True)
class Network:
    """A network whole and cut, and the optimizer its workload uses."""

    whole: Build
    cut: Build
    optimizer: Callable[[], keras.optimizers.Optimizer]


def _resnet50v2(size: int, dropout: float) -> keras.Model:
    base = keras.applications.ResNet50V2(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")
    return keras.Model(base.input, keras.layers.Dense(CLASSES, activation="softmax")(base.output))


def _cut_resnet(size: int, dropout: float) -> keras.Model:
    def blocks(x):
        return resnet.stack_residual_blocks_v2(x, 16, 2, name="conv2")

    return resnet.ResNet(blocks, True, True, weights=None, input_shape=(size, size, 3), classes=CLASSES)


def _mobilenetv3(size: int, dropout: float) -> keras.Model:
    return keras.applications.MobileNetV3Large(weights=None, input_shape=(size, size, 3), classes=CLASSES,
                                               dropout_rate=dropout)


def _cut_mobilenet(size: int, dropout: float) -> keras.Model:
    def blocks(x, kernel, activation, ratio):
        x = mobilenet_v3._inverted_res_block(x, 1, 16, 3, 1, None, mobilenet_v3.relu, 0)
        x = mobilenet_v3._inverted_res_block(x, 3, 24, kernel, 2, ratio, mobilenet_v3.relu, 1)
        return mobilenet_v3._inverted_res_block(x, 2.5, 24, kernel, 1, ratio, activation, 2)

    return mobilenet_v3.MobileNetV3(blocks, 40, (size, size, 3), weights=None, classes=CLASSES, dropout_rate=dropout)


def _densenet121(size: int, dropout: float) -> keras.Model:
    return keras.applications.DenseNet121(weights=None, input_shape=(size, size, 3), classes=CLASSES)


def _cut_densenet(size: int, dropout: float) -> keras.Model:
    image = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(16, 7, strides=2, padding="same", use_bias=False)(image)
    x = densenet.transition_block(densenet.dense_block(x, 3, name="conv2"), 0.5, name="pool2")
    x = keras.layers.GlobalAveragePooling2D()(densenet.dense_block(x, 1, name="conv3"))
    return keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax")(x))


NETWORKS = {
    "resnet50v2": Network(_resnet50v2, _cut_resnet, lambda: keras.optimizers.Adam(1e-4)),
    "mobilenetv3": Network(_mobilenetv3, _cut_mobilenet, lambda: keras.optimizers.RMSprop(1e-4)),
    "densenet121": Network(_densenet121, _cut_densenet, lambda: keras.optimizers.SGD(1e-3, momentum=0.9)),
}


def _seeded(build: Build, size: int, dropout: float, policy: str = "float32") -> keras.Model:
    """The network with the same weights under every policy, which may be a type alone."""
    keras.utils.set_random_seed(11)
    model = build(size, dropout)
    if policy == "float32":
        return model
    weights = model.get_weights()
    keras.utils.set_random_seed(11)  # of the dropout
    with floats(policy):
        other = build(size, dropout)
    other.set_weights([w.astype(variable_type(policy)) for w in weights])
    return other


def _data(count: int, size: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.random((count, size, size, 3), np.float32).astype(dtype), rng.integers(0, CLASSES, count)


_TURNS = 3  # of the batch, in which rounding differs and nothing else


def _gradients(build: Build, size: int, batch: int, policy: str = "float32",
               turns: int = 1) -> list[dict[str, np.ndarray]]:
    """The gradient of every variable in a training step without dropout, by position and name: of a batch, and of
    that batch turned round by one image, by two, and so on."""
    model = _seeded(build, size, 0.0, policy)
    data = _data(batch, size, variable_type(policy))

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, model(x, training=True)))
        return tape.gradient(loss, model.trainable_variables)

    names = [f"{i} {v.path}" for i, v in enumerate(model.trainable_variables)]
    found = []
    for turn in range(turns):
        gradients = step(*(tf.constant(np.roll(values, turn, axis=0)) for values in data))
        found.append({name: g.numpy() for name, g in zip(names, gradients, strict=True)})
    return found


@lru_cache(maxsize=len(NETWORKS))
def _exact_gradients(build: Build, size: int, batch: int) -> list[np.ndarray]:
    """Those of the batch in float64."""
    exact = list(_gradients(build, size, batch, "float64")[0].values())
    assert all(gradient.dtype == np.float64 for gradient in exact)
    return exact


@dataclass(frozen=True)
class Error:
    """How far a variable's gradient is from float64's, by norm: ours, stock's (the farthest of its turns), the most
    allowed, and float64's norm."""

    ours: float
    stock: float
    bound: float
    norm: float


def gradient_errors(build: Build, size: int, batch: int, policy: str = "float32",
                    precision: str = "default") -> dict[str, Error]:
    """By variable, stock under the same policy.

    Allowed is twice the larger of stock's error and a part of the usual norm: 1e-6 for float32, one rounding under
    mixed precision.
    """
    reference = _exact_gradients(build, size, batch)
    stock = [list(turn.values()) for turn in _gradients(build, size, batch, policy, min(_TURNS, batch))]
    with captured(precision=precision) as taken:
        ours, = _gradients(build, size, batch, policy)
    assert taken.functions()["step"].left == []
    typical = float(np.median([np.linalg.norm(r) for r in reference]))
    floor = 1e-6 if policy == "float32" else ROUNDING[policy]
    errors = {}
    for (name, value), plain, exact in zip(ours.items(), zip(*stock, strict=True), reference, strict=True):
        theirs, norm = max(float(np.linalg.norm(p - exact)) for p in plain), float(np.linalg.norm(exact))
        bound = 2 * max(theirs, floor * (norm + typical))
        errors[name] = Error(float(np.linalg.norm(value - exact)), theirs, bound, norm)
    return errors


def smooth(build: Build) -> Build:
    """The same network with softplus for every rectifier.

    At a rectifier's kink a value's sign may differ for whoever computes in float32, and one that does shifts all
    gradients before it by far more than rounding. Without kinks every gradient can be judged by its name.
    """
    def without_kinks(layer: keras.Layer) -> keras.Layer:
        rectifier = isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu
        if not rectifier:
            return type(layer).from_config(layer.get_config())
        assert isinstance(layer, (keras.layers.ReLU, keras.layers.Activation)), layer
        return keras.layers.Activation("softplus", name=layer.name, dtype=layer.dtype_policy)

    return lambda size, dropout: keras.models.clone_model(build(size, dropout), clone_function=without_kinks)


def wrong_gradients(build: Build, size: int, batch: int, policy: str = "float32") -> dict[str, Error]:
    """Gradients with a larger error than is allowed."""
    errors = gradient_errors(build, size, batch, policy)
    return {name: error for name, error in errors.items() if not error.ours <= error.bound}


@dataclass
class Trained:
    """What a few steps of ``fit`` lead to: the model, losses step by step, its answers to the data."""

    model: keras.Model
    losses: np.ndarray
    answers: np.ndarray


def train(network: Network, build: Build, size: int, batch: int, steps: int, policy: str = "float32") -> Trained:
    """Train with the network's optimizer on seeded data, then predict."""
    model = _seeded(build, size, 0.2, policy)
    model.compile(network.optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = _data(batch * steps, size)
    losses: list[float] = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(logs["loss"]))
    model.fit(x, y, batch_size=batch, verbose=0, shuffle=False, callbacks=[record])
    # Keras reports the mean so far: the difference of sums is the loss of a step.
    sums = np.array(losses) * np.arange(1, steps + 1)
    return Trained(model, np.diff(sums, prepend=0.0), model.predict(x[:batch], batch_size=batch, verbose=0))


def train_taken(network: Network, build: Build, size: int, batch: int, steps: int, policy: str = "float32",
                precision: str = "default") -> Trained:
    """The same, compiled: all operations but the input pipeline's."""
    with captured(precision=precision) as taken:
        trained = train(network, build, size, batch, steps, policy)
    functions = [f for f in taken.recorder.report().functions if f.status == "compiled"]
    assert len(functions) >= 2  # fit and predict
    for function in functions:
        assert {op.type for op in function.left} <= PIPELINE, function.left
    return trained


def check_bits(first: Trained, second: Trained) -> None:
    """Two runs agree in every bit of losses, weights and answers."""
    np.testing.assert_array_equal(first.losses, second.losses)
    np.testing.assert_array_equal(first.answers, second.answers)
    for a, b in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def check_saved(trained: Trained, build: Build, size: int, folder: Path) -> None:
    """Saved weights, loaded by stock TensorFlow, predict the same."""
    trained.model.save_weights(folder / "w.weights.h5")
    fresh = build(size, 0.2)
    fresh.load_weights(folder / "w.weights.h5")
    batch = len(trained.answers)
    close(fresh.predict(_data(batch, size)[0], batch_size=batch, verbose=0), trained.answers, 1e-4)


def stocks_losses(module: str, arguments: list[str]) -> list[np.ndarray]:
    """What a module prints of stock's losses, with one thread and two, with oneDNN and without.

    Processes of their own, as TensorFlow reads the switch and the number of threads once.
    """
    found = []
    for threads, onednn in itertools.product("12", "01"):
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": threads, "TF_ENABLE_ONEDNN_OPTS": onednn}
        done = subprocess.run([sys.executable, "-m", module, *arguments, "--losses"], env=environment,
                              capture_output=True, text=True, check=True)
        found.append(np.array(json.loads(done.stdout.splitlines()[-1])))
    return found


def spread(runs: Sequence[np.ndarray]) -> float:
    """How far any two runs are apart, at most."""
    return max(apart(a, b) for a, b in itertools.permutations(runs, 2))


def apart(losses: np.ndarray, others: np.ndarray) -> float:
    """The largest distance of two runs, relative to the second."""
    return float(np.max(np.abs(losses - others) / np.abs(others)))


def _whole_gradients_right(build: Build, options: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Whether all gradients together are as near to float64 as stock's."""
    errors = gradient_errors(build, options.size, options.batch, options.policy, options.precision).values()
    beyond = sum(not error.ours <= error.bound for error in errors)
    ours, theirs, allowed = (float(np.hypot.reduce([getattr(error, side) for error in errors]))
                             for side in ("ours", "stock", "bound"))
    say(f"{beyond} of {len(errors)} gradients beyond their bound, rectifiers' kinks included; "
        f"error of all together {ours:.2g}, stock's {theirs:.2g}")
    return ours <= allowed


def _named_gradients_right(build: Build, options: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Whether every gradient by its name is within its bound."""
    errors = gradient_errors(build, options.size, options.batch, options.policy, options.precision)
    wrong = {variable: error for variable, error in errors.items() if not error.ours <= error.bound}
    for variable, error in wrong.items():
        say(f"gradient of {variable}: error {error.ours:.3g}, stock's {error.stock:.3g}, at most {error.bound:.3g}")
    ours, theirs = (float(np.median([getattr(e, side) / e.norm for e in errors.values() if e.norm]))
                    for side in ("ours", "stock"))
    say(f"{len(wrong)} of {len(errors)} gradients beyond their bound, with softplus for rectifiers; "
        f"relative error {ours:.2g} at the median, stock's {theirs:.2g}")
    return not wrong


def check(name: str, options: argparse.Namespace) -> bool:
    """Check a whole network, print what is found as it is found; whether all is right."""
    network, shape = NETWORKS[name], (options.size, options.batch)
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {name}: {text}", flush=True)

    say(f"{options.size}x{options.size}, batch {options.batch}, {options.policy}, {options.precision} precision")
    whole = _whole_gradients_right(network.whole, options, say)
    named = _named_gradients_right(smooth(network.whole), options, say)
    stock = train(network, network.whole, *shape, options.steps, options.policy)
    say("trained on stock")
    arguments = [name, "--size", str(options.size), "--batch", str(options.batch), "--steps", str(options.steps),
                 "--policy", options.policy]
    widest = spread([stock.losses, *stocks_losses("tests.models.networks", arguments)])
    say(f"stock's losses are apart by {widest:.2g} over {options.steps} steps, with 1 or 2 threads, oneDNN or not")
    trained, again = (train_taken(network, network.whole, *shape, options.steps, options.policy, options.precision)
                      for _ in range(2))
    distance = apart(trained.losses, stock.losses)
    say(f"ours are apart from stock's by {distance:.2g}")
    check_bits(trained, again)
    with tempfile.TemporaryDirectory() as folder:
        check_saved(trained, network.whole, options.size, Path(folder))
    say("the same bits twice; saved weights answer alike on stock")
    # Fast precision changes numbers: what it changes is told, not judged.
    return options.precision == "fast" or (whole and named and distance <= widest)


def main() -> None:
    """Check whole networks; exit status 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.models.networks", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--policy", choices=ROUNDING, default="float32", help="Keras's dtype policy")
    parser.add_argument("--precision", choices=PRECISION, default="default", help="ours")
    parser.add_argument("--losses", action="store_true", help="only print stock's losses, as JSON")
    options = parser.parse_args()
    if options.losses:
        name, = options.names
        network, shape = NETWORKS[name], (options.size, options.batch)
        print(json.dumps(train(network, network.whole, *shape, options.steps, options.policy).losses.tolist()))
        return
    kit.TARGET = "cpu"
    raise SystemExit(not all([check(name, options) for name in options.names]))


if __name__ == "__main__":
    main()
