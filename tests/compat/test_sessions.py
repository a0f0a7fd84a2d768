"""Programs in the manner of TensorFlow 1: what a session repeats is compiled, with the numbers of TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from commands import afterburner, run

# Runs programs one after another, each with a graph and names of its own: a process a program takes longer to start
# than to run. What the statuses of each are goes to stderr.
RUNNER = """
import sys
import numpy as np
import tensorflow.compat.v1 as tf
import afterburner
tf.disable_v2_behavior() if sys.argv[1] == "references" else tf.disable_eager_execution()
for text, names in PROGRAMS:
    before = len(afterburner.report().functions)
    with tf.Graph().as_default():
        exec(text, {"np": np, "sys": sys, "tf": tf})
    print(END, flush=True)
    for name in names:
        print(*sorted({f.status for f in afterburner.report().functions[before:]
                       if f.name.startswith("session.run(" + name)}), end="; ", file=sys.stderr)
    print(END, file=sys.stderr)
"""
END = "end of a program"
LAYERS = """
def variable(name, shape):
    return tf.get_variable(name, shape, initializer=tf.random_normal_initializer(stddev=0.1, seed=1))

random = np.random.default_rng(0)
pictures = random.random((40, 14, 14, 1), np.float32)
labels = random.integers(0, 10, 40)
x = tf.placeholder(tf.float32, [None, 14, 14, 1])
y = tf.placeholder(tf.int64, [None])
h = tf.nn.relu(tf.nn.conv2d(x, variable("w1", [5, 5, 1, 6]), 1, "SAME") + variable("b1", [6]))
h = tf.nn.max_pool2d(h, 2, 2, "SAME")
h = tf.nn.relu(tf.reshape(h, [-1, 7 * 7 * 6]) @ variable("w2", [7 * 7 * 6, 32]) + variable("b2", [32]))
logits = h @ variable("w3", [32, 10])
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.float32))
step = tf.train.get_or_create_global_step()
"""
LOOP = """
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for i in range(8):
        batch = slice(0, 32) if i % 4 < 3 else slice(32, 40)
        feed = {x: pictures[batch], y: labels[batch]}
        _, value = session.run([train, loss], feed)
        print(type(value).__name__, f"{value:.5f}")
        print(session.run(step), f"{session.run(accuracy, feed):.3f}")
    session.run(tf.assign(step, 100))
    print(f"{session.run([train, loss], feed)[1]:.5f}", session.run(step))
    for value in session.run(tf.trainable_variables()):
        print(f"{np.abs(value).sum():.3f}")
    feed[x] = np.full_like(feed[x], np.nan)
    print(session.run([train, loss], feed)[1])
"""
OPTIMIZERS = {
    "Adam": "tf.train.AdamOptimizer(1e-2)",
    "Momentum": "tf.train.MomentumOptimizer(0.05, 0.9, use_nesterov=True)",
    "GradientDescent": "tf.train.GradientDescentOptimizer(0.1)",
    "RMSProp": "tf.train.RMSPropOptimizer(1e-3)",
}
TRAIN = {name: f"{LAYERS}train = {made}.minimize(loss, global_step=step)\n{LOOP}" for name, made in OPTIMIZERS.items()}

FED = """
data = tf.data.Dataset.from_tensor_slices(np.random.default_rng(0).random((24, 6), np.float32)).batch(4)
x = tf.data.make_one_shot_iterator(data).get_next()
w = tf.get_variable("w", [6, 3], initializer=tf.random_normal_initializer(seed=1))
h = tf.tanh(tf.nn.dropout(x @ w, rate=0.5, seed=2))
loss = tf.reduce_mean(tf.square(h - 0.5))
summary = tf.summary.scalar("loss", loss)
train = tf.train.GradientDescentOptimizer(0.1).minimize(loss)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    try:
        while True:
            text, value, _ = session.run([summary, loss, train])
            print(len(text), f"{value:.5f}")
    except tf.errors.OutOfRangeError as error:
        print(type(error).__name__)
    print(f"{np.abs(session.run(w)).sum():.4f}")
"""
DONE = """
x = tf.placeholder(tf.float32, [None, 8])
y = tf.placeholder(tf.int32, [None])
w = tf.get_variable("w", [8, 4], initializer=tf.random_normal_initializer(seed=1))
with tf.control_dependencies([tf.print("seen", tf.shape(x), output_stream=sys.stdout)]):
    h = tf.nn.relu(tf.identity(x) @ w)
loss = tf.reduce_sum(tf.gather(tf.reduce_sum(h, 0), y) * 2.0 + 1.0)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for last in (3, 3, 3, 9):
        try:
            print(f"{session.run(loss, {x: np.ones((5, 8), np.float32), y: np.array([0, 1, last], np.int32)}):.4f}",
                  flush=True)
        except tf.errors.InvalidArgumentError as error:
            print(type(error).__name__, flush=True)
"""
ASSIGNED = """
x = tf.placeholder(tf.float32, [4])
w = tf.get_variable("w", [4], initializer=tf.zeros_initializer())
def fails(value):
    if value[0] > 2:
        raise ValueError("planted")
    return value
written = tf.assign_add(w, tf.tanh(x) * 0.0 + 1.0)
with tf.control_dependencies([written]):
    result = tf.py_func(fails, [tf.sqrt(tf.abs(x)) * 2.0 - 1.0], tf.float32)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for value in (1.0, 1.0, 1.0, 9.0, 1.0, 9.0, 1.0):
        try:
            print(f"{session.run(result, {x: np.full(4, value, np.float32)})[0]:.4f}")
        except tf.errors.OpError as error:
            print("failed")
        print(session.run(w)[0])
"""
ERRORS = LAYERS + """
train = tf.train.AdamOptimizer().minimize(loss)
feed = {x: pictures, y: labels}
with tf.Session() as session:
    for attempt in range(3):
        try:
            session.run(train, feed)
        except tf.errors.FailedPreconditionError as error:
            print(type(error).__name__)
    session.run(tf.global_variables_initializer())
    for attempt in range(3):
        try:
            session.run(loss, {x: pictures, y: labels + 9})
        except tf.errors.InvalidArgumentError as error:
            print(type(error).__name__, "outside the valid range" in str(error))
"""
KERAS = """
network = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(3)])
network.compile("sgd", "mse")
try:
    network.fit(np.zeros((8, 4)), np.zeros((8, 3)), verbose=0)
except Exception as error:
    print(type(error).__name__, error)
"""
PROGRAMS = {  # the beginnings of the names of the runs that are asked for
    "resources": {TRAIN["Adam"]: ["Adam"], TRAIN["GradientDescent"]: ["GradientDescent"], FED: ["GradientDescent"],
                  DONE: ["Sum"], ASSIGNED: ["PyFunc"], ERRORS: ["Adam"], KERAS: [""]},
    "references": {TRAIN[name]: [name] for name in ("Adam", "Momentum", "RMSProp")},
}


@dataclass(frozen=True)
class Told:
    """What a program printed on stock TensorFlow and by us, by line, and what became of the runs asked for."""

    stock: list[str]
    ours: list[str]
    status: str


@lru_cache(maxsize=2)
def _told(kind: str) -> dict[str, Told]:
    programs = PROGRAMS[kind]
    with TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(f"PROGRAMS = {list(programs.items())!r}\nEND = {END!r}\n{RUNNER}")
        stock = run(str(path), kind)
        ours = afterburner("run", "--strict", str(path), kind)
    assert (stock.returncode, ours.returncode) == (0, 0), stock.stderr + ours.stderr
    parts = [text.split(f"{END}\n")[:-1] for text in (stock.stdout, ours.stdout, ours.stderr)]
    return {program: Told(theirs.splitlines(), mine.splitlines(), said.splitlines()[-1].removesuffix("; "))
            for program, theirs, mine, said in zip(programs, *parts, strict=True)}


def both(program: str, kind: str = "resources") -> tuple[list[str], list[str], str]:
    """See ``Told``."""
    told = _told(kind)[program]
    return told.stock, told.ours, told.status


def assert_same(stock: list[str], ours: list[str]) -> None:
    """Words are equal, numbers nearly."""
    assert len(stock) == len(ours)
    for expected, found in zip(" ".join(stock).split(), " ".join(ours).split(), strict=True):
        try:
            assert float(found) == pytest.approx(float(expected), rel=2e-3, abs=2e-3, nan_ok=True)
        except ValueError:
            assert found == expected


@pytest.mark.parametrize(("kind", "name"), [
    ("resources", "Adam"), ("resources", "GradientDescent"), ("references", "Adam"), ("references", "Momentum"),
    ("references", "RMSProp")])
def test_training_loops(kind: str, name: str) -> None:
    stock, ours, status = both(TRAIN[name], kind)
    assert_same(stock, ours)
    assert status == "compiled"


def test_what_stays_on_tensorflow_is_fed() -> None:
    """Batches of an iterator, seeded dropout and summaries: TensorFlow's, once a run, around compiled stages."""
    stock, ours, status = both(FED)
    assert_same(stock, ours)
    assert len(stock) == 8 and status == "compiled"


def test_what_was_done_is_not_done_again() -> None:
    """A compiled part fails its check (an index out of range) after TensorFlow printed: it must not print twice."""
    stock, ours, status = both(DONE)
    assert_same(stock, ours)
    assert len(stock) == 8 and status == "left"


def test_what_was_assigned_before_a_failure_stays() -> None:
    stock, ours, _ = both(ASSIGNED)
    assert_same(stock, ours)
    assert len(stock) == 14


def test_errors_are_tensorflows() -> None:
    stock, ours, _ = both(ERRORS)
    assert stock == ours and len(stock) == 6


def test_keras_refuses_graph_mode_as_on_stock() -> None:
    stock, ours, _ = both(KERAS)
    assert stock == ours and len(stock) >= 1


SWITCHED = """
import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.compiler.mlcompute import mlcompute
tf.disable_eager_execution()

def trained(dtype, devices):
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(dtype, [None, 6])
        w = tf.get_variable("w", initializer=np.linspace(-1, 1, 18).reshape(6, 3).astype(dtype.as_numpy_dtype))
        loss = tf.reduce_mean(tf.square(tf.tanh(x @ w) - 0.5))
        train = tf.train.AdamOptimizer(0.05).minimize(loss)
        session.run(tf.global_variables_initializer())
        for device in devices:
            mlcompute.set_mlc_device(device)
            for step in range(4):
                session.run([train, loss], {x: np.full((4, 6), 0.1 * (step + 1))})
        return session.run(w)

cpu = trained(tf.float32, ["cpu"] * 3)
for devices in (["gpu"] * 3, ["cpu", "gpu", "cpu"], ["gpu", "any", "gpu"]):
    print(np.abs(trained(tf.float32, devices) - cpu).max() < 1e-5)
print(np.abs(trained(tf.float64, ["gpu"] * 3) - cpu).max() < 1e-5)
"""


def test_a_device_chosen_by_name(tmp_path: Path) -> None:
    """Also in the middle of a training, and where it cannot compute what is asked for."""
    pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)
    path = tmp_path / "program.py"
    path.write_text(SWITCHED)
    done = afterburner("run", "--strict", str(path), AFTERBURNER_GPU_EMULATE="1", AFTERBURNER_VERBOSITY="line")
    assert (done.returncode, done.stdout) == (0, "True\n" * 4), done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("afterburner: session.run(Adam")]
    on_gpu = [" on gpu emulated by MLX's cpu device" in line for line in told]
    assert on_gpu == [False, True, False, True, True, False, False, False], told
    assert "on the cpu, since the emulated gpu cannot: float64" in told[-2] and " on cpu (" in told[-1]
