"""Which calls are taken, in which pieces, and that they mean what TensorFlow means."""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from afterburner.frontend import capture, fastpath
from afterburner.frontend import function as taken_function
from afterburner.frontend.flatten import flatten
from afterburner.report import BETWEEN
from tests.frontend.kit import captured, close, with_many_stages


def _dense(units: int, inputs: int, seed: int) -> tuple[tf.Variable, tf.Variable]:
    rng = np.random.default_rng(seed)
    return (tf.Variable(rng.normal(size=(inputs, units)).astype("float32")),
            tf.Variable(rng.normal(size=units).astype("float32")))


def _data(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype("float32"))


def _step_and_weights():
    w, b = _dense(3, 5, 1)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.tanh(x @ w + b) - y))
        for v, g in zip((w, b), tape.gradient(loss, (w, b)), strict=True):
            v.assign_sub(0.1 * g)
        return loss

    return step, (w, b)


def test_custom_step_trains_as_stock():
    x, y = _data(8, 5), _data(8, 3, seed=2)
    stock, stock_weights = _step_and_weights()
    expected = [stock(x, y).numpy() for _ in range(5)]
    step, weights = _step_and_weights()
    with captured() as taken:
        losses = [step(x, y).numpy() for _ in range(5)]
    close(losses, expected)
    close([v.numpy() for v in weights], [v.numpy() for v in stock_weights])
    assert taken.count == 1 and taken.functions()["step"].calls == 5


def test_nested_and_array_arguments_are_read_anew_at_every_call():
    traces = []

    @tf.function
    def weighted(pair, scale, extra=None):
        traces.append(1)
        first, (second, flag) = pair
        total = tf.reduce_sum(tf.exp(first) * second) * scale
        return total + 1.0 if flag else total

    array, other = np.ones((4, 3), np.float32), np.full((4, 3), 2.0, np.float32)
    with captured() as taken:
        for _ in range(4):
            base = weighted([array, (tf.constant(other), True)], 2.0).numpy()
        array *= 0.5
        halved = weighted([array, (tf.constant(other), True)], 2.0).numpy()
        before = len(traces)
        unflagged = weighted([array, (tf.constant(other), False)], 2.0).numpy()
        tupled = weighted((array, (tf.constant(other), True)), 2.0).numpy()
        wide = weighted([array[:2], (tf.constant(other[:2]), True)], 2.0).numpy()
        integers = weighted([array, (tf.constant(other), True)], 3.0).numpy()
    assert taken.count >= 1 and len(traces) > before
    np.testing.assert_allclose(base, np.exp(1.0) * 12 * 2 * 2 + 1, rtol=1e-5)
    np.testing.assert_allclose(halved, np.exp(0.5) * 12 * 2 * 2 + 1, rtol=1e-5)
    np.testing.assert_allclose(unflagged, halved - 1, rtol=1e-5)
    np.testing.assert_allclose(tupled, halved, rtol=1e-5)
    np.testing.assert_allclose(wide, (halved - 1) / 2 + 1, rtol=1e-5)
    np.testing.assert_allclose(integers, (halved - 1) * 1.5 + 1, rtol=1e-5)


def test_named_arguments_arrive_under_their_names():
    @tf.function
    def difference(x, y, *, scale=1.0, table=None):
        return tf.exp(x) - tf.exp(y) * scale + table["b"] * 2.0 - table["a"]

    one, two, zero = (np.full((3, 2), v, np.float32) for v in (1.0, 2.0, 0.0))

    def expected(x, y, scale, a, b):
        return np.exp(x) - np.exp(y) * scale + b * 2 - a

    with captured() as taken:
        for _ in range(4):  # equal arrays at first: nothing but their names tells them apart
            difference(y=one, x=one, scale=2.0, table={"b": zero, "a": zero})
        swapped = difference(y=one, x=two, scale=2.0, table={"b": one, "a": two})
        again = difference(two, table={"a": one, "b": two}, y=one, scale=2.0)
        third = [difference(tf.constant(one), tf.constant(two), table={"a": one, "b": zero}) for _ in range(4)][-1]
    assert taken.count >= 1
    np.testing.assert_allclose(swapped, expected(two, one, 2, two, one), rtol=1e-5)
    np.testing.assert_allclose(again, expected(two, one, 2, one, two), rtol=1e-5)
    np.testing.assert_allclose(third, expected(one, two, 1, one, zero), rtol=1e-5)


def test_calls_that_never_match_are_no_longer_recorded(monkeypatch):
    recorded = []
    record = fastpath._record
    monkeypatch.setattr(fastpath, "_record", lambda *call: recorded.append(1) or record(*call))

    @tf.function
    def scaled(x, factor):
        return tf.exp(x) * factor + 1.0

    x = _data(4, 4)
    with captured():
        for i in range(fastpath._PATIENCE + 8):  # every factor is a Python number that needs its own trace
            close([scaled(x, float(i)).numpy()], [np.exp(x.numpy()) * i + 1])
    assert len(recorded) == fastpath._PATIENCE


def test_calls_by_the_short_way_are_counted_where_tensorflow_warns_of_retracing():
    @tf.function
    def scaled(x):
        return tf.exp(x) * 2.0 + 1.0

    manager = polymorphic_function._frequent_tracing_detector_manager
    detector = manager._get_detector(scaled._key_for_call_stats)
    before = detector._call_count
    with captured() as taken:
        for _ in range(9):
            scaled(_data(4, 4))
    assert taken.count == 1
    assert detector._call_count == before + 9


def test_tape_outside_a_function():
    w, b = _dense(3, 5, 1)

    @tf.function
    def model(x):
        return tf.reduce_sum(tf.sigmoid(x @ w + b) ** 2)

    def gradients():
        with tf.GradientTape() as tape:
            loss = model(_data(4, 5))
        return [loss, *tape.gradient(loss, (w, b))]

    expected = gradients()
    with captured() as taken:
        close(gradients(), expected)
    assert len(taken.executables) == 2  # forward and backward


def _fit(**compile_arguments):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        keras.layers.Input((12,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.3),
        keras.layers.Dense(4)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
                  **compile_arguments)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 12)).astype("float32"), rng.integers(0, 4, 80)
    history = model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    scores = model.evaluate(x, y, batch_size=32, verbose=0)
    one = model.train_on_batch(x[:16], y[:16])
    return [history.history["loss"], history.history["accuracy"], scores, model.predict(x, verbose=0), one,
            model.get_weights()]


@pytest.mark.parametrize("steps", [1, 3])
def test_keras_fit_evaluate_predict(steps):
    expected = _fit(steps_per_execution=steps)
    with captured() as taken:
        close(_fit(steps_per_execution=steps), expected)
    names = {f.name for f in taken.recorder.report().functions if f.status == "compiled"}
    assert {"multi_step_on_iterator", "one_step_on_data"} <= names
    for function in taken.recorder.report().functions:
        assert {op.type for op in function.left} <= {
            "IteratorGetNext", "IteratorGetNextAsOptional", "OptionalFromValue", "OptionalHasValue",
            "OptionalGetValue", "OptionalNone", "Identity", "If", "StatelessIf", "While"}, function.name
    if steps == 1:
        step = [f for f in taken.recorder.report().functions if f.name == "multi_step_on_iterator"][0]
        assert {op.type for op in step.left} == {"IteratorGetNext", "OptionalFromValue"}


def test_several_steps_in_a_call_ask_nothing_more_of_tensorflow(monkeypatch):
    """Between its steps Keras's loop runs single operations, none of which may write a variable."""
    runner, run = taken_function.runner, []
    monkeypatch.setattr(taken_function, "runner", lambda name, ops, *rest: run.append(ops) or runner(name, ops, *rest))
    monkeypatch.setattr(taken_function, "run_by_tensorflow", lambda *call: pytest.fail("variables would be read again"))
    with captured() as taken:
        _fit(steps_per_execution=3)
    assert taken.count and not any(taken_function.is_control(op) for ops in run for op in ops)
    assert all(len(ops) == 1 for ops in run if ops[0].type != "OptionalNone")


def test_a_conditional_with_an_assignment_may_write():
    v, ready = tf.Variable(0.0), tf.Variable(True)

    def may_write(value):
        graph = tf.function(lambda: tf.cond(ready, value, lambda: 1.0)).get_concrete_function().graph
        return [taken_function._may_write(op) for op in flatten(graph, "f").ops if taken_function.is_control(op)]

    assert may_write(lambda: v.assign_add(1.0)) == [True]
    assert may_write(lambda: v + 1.0) == [False]


def test_loaded_model(tmp_path):
    class Model(tf.Module):
        def __init__(self):
            self.w, self.b = _dense(3, 5, 4)

        @tf.function(input_signature=[tf.TensorSpec((None, 5))])
        def __call__(self, x):
            return tf.nn.softmax(x @ self.w + self.b)

    tf.saved_model.save(Model(), str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    expected = loaded(_data(7, 5))
    with captured() as taken:
        close(loaded(_data(7, 5)), expected)
    assert taken.executables


def test_an_unknown_operation_splits_the_function():
    eye = np.eye(4, dtype="float32")

    @tf.function
    def f(x):
        y = tf.tanh(x) * 2 + 1
        z = tf.linalg.inv(y @ tf.transpose(y) + eye)
        return tf.reduce_sum(tf.exp(-z) + y[:, :4]), z

    expected = f(_data(4, 4))
    with captured() as taken:
        close(f(_data(4, 4)), expected, 1e-4)
    report = taken.functions()["f"]
    assert [op.type for op in report.left] == ["MatrixInverse"]
    assert report.left[0].source.split(":")[0].endswith("test_capture.py")
    assert len(taken.executables) == 2


def test_string_and_print_operations_stay():
    @tf.function
    def f(x):
        y = tf.nn.relu(x) * 3 - 1
        tf.print("sum", tf.reduce_sum(y))
        return y + tf.cast(tf.strings.length("abc"), tf.float32)

    expected = f(_data(3, 3))
    with captured() as taken:
        close(f(_data(3, 3)), expected)
    assert "PrintV2" in {op.type for op in taken.functions()["f"].left}


def test_jit_compiled_functions_are_taken_where_xla_agrees():
    @tf.function(jit_compile=True)
    def plain(x):
        return tf.reduce_sum(tf.nn.relu(x) * 2 + 1)

    @tf.function(jit_compile=True)
    def random(x):
        return x + tf.random.stateless_uniform((3, 3), (1, 2)) * 2 - 1

    x = _data(3, 3)
    expected = [plain(x), random(x)]
    with captured() as taken:
        close([plain(x), random(x)], expected)
    assert taken.functions()["plain"].status == "compiled"
    assert taken.functions()["random"].status == "left"
    assert "jit_compile" in taken.functions()["random"].reason


def test_calls_marked_jit_compile_inside_a_function():
    @tf.function(jit_compile=True)
    def plain(x):
        return tf.nn.relu(x) * 2 + 1

    @tf.function(jit_compile=True)
    def random(x):
        return x + tf.random.stateless_uniform((3, 3), (1, 2)) * 2 - 1

    @tf.function
    def f(x):
        return tf.reduce_sum(plain(x) - tf.exp(x)), random(x * 3)

    expected = f(_data(3, 3))
    with captured() as taken:
        close(f(_data(3, 3)), expected)
    assert [op.type for op in taken.functions()["f"].left] == ["PartitionedCall"]


def test_vectorized_map():
    @tf.function
    def f(x):
        return tf.vectorized_map(lambda row: tf.reduce_sum(tf.exp(row) * row), x)

    expected = f(_data(6, 5))
    with captured() as taken:
        close(f(_data(6, 5)), expected)
    step = taken.functions()["f"]
    assert taken.count == 1 and step.status == "compiled" and step.left == []


def _chooses(watched: bool):
    """A function that calls one for which TensorFlow puts in another on the CPU."""
    def attributes(**more):
        return {"experimental_attributes": {"api_implements": f"scaled_{watched}", **more}}

    anywhere = tf.function(lambda x: tf.exp(x) * 2.0 + 1.0, **attributes())
    on_cpu = tf.function(lambda x: tf.exp(x) * 3.0 + 1.0, **attributes(api_preferred_device="CPU"))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            if watched:
                tape.watch(x)
            result = anywhere(x) + 0.5
        there = on_cpu.get_concrete_function(x)
        there.add_to_graph()
        there.add_gradient_functions_to_graph()
        return (result, tape.gradient(result, x)) if watched else (result,)

    return step


@pytest.mark.parametrize("watched", [False, True])
def test_of_several_implementations_that_for_the_cpu_is_taken(watched):
    x = _data(4, 3)
    expected = [t.numpy() for t in _chooses(watched)(x)]
    step = _chooses(watched)
    with captured() as taken:
        results = [[t.numpy() for t in step(x)] for _ in range(3)]
    close(expected[:1], [np.exp(x.numpy()) * 3 + 1.5])
    for result in results:
        close(result, expected)
    assert taken.count >= 1


def test_nested_functions_are_inlined_each_time():
    @tf.function
    def square(x):
        return x * x + 1

    @tf.function
    def outer(x):
        return square(x) + square(square(x))

    expected = outer(_data(3))
    with captured() as taken:
        close(outer(_data(3)), expected)
    assert taken.functions()["outer"].left == []


def test_a_function_called_once_is_not_compiled():
    @tf.function
    def f(x):
        return tf.exp(x) * 2 + x

    with captured(compile_after=1) as taken:
        f(_data(3))
        assert not taken.executables
        f(_data(3))
        assert len(taken.executables) == 1


def _many_variables(count):
    variables = [tf.Variable(1.0 + i) for i in range(count)]

    @tf.function
    def step(x):
        for v in variables:
            v.assign_sub(0.5 * (v - x))
        return tf.add_n([v.read_value() for v in variables])

    return step


def test_a_step_that_trains_a_large_network_is_compiled_at_once():
    expected = _many_variables(110)(tf.constant(2.0))
    small, large = _many_variables(20), _many_variables(110)
    with captured(compile_after=1) as taken:
        small(tf.constant(2.0))
        assert not taken.executables
        close(large(tf.constant(2.0)), expected)
        assert len(taken.executables) == 1


def _training_step():
    """A new function, of the same name every time, that moves weights towards its argument."""
    weights, count = tf.Variable([1.0, 2.0]), tf.Variable(0, dtype=tf.int64)

    @tf.function
    def descend(x):
        weights.assign_sub(0.5 * (weights - x))
        count.assign_add(1)
        return tf.reduce_sum(weights) + 1.0

    return descend


def test_a_training_step_is_compiled_at_once():
    expected = _training_step()(tf.constant(3.0))
    with captured(compile_after=1) as taken:
        close(_training_step()(tf.constant(3.0)), expected)
        assert len(taken.executables) == 1


def test_training_steps_traced_anew_for_every_call_wait(monkeypatch):
    monkeypatch.setattr(capture, "_bets", Counter())
    with captured(compile_after=1) as taken:
        steps = [_training_step() for _ in range(4)]
        for step in steps[:3]:
            step(tf.constant(3.0))
        assert len(taken.executables) == 2  # the third waits,
        steps[0](tf.constant(3.0))
        steps[3](tf.constant(3.0))
        assert len(taken.executables) == 3  # and the fourth does not, as one has been called again


def test_what_only_counts_waits():
    total = tf.Variable(0.0)

    @tf.function
    def evaluate(x):
        total.assign_add(tf.reduce_sum(tf.exp(x)))
        return total.read_value() * 2 + 1

    with captured(compile_after=1) as taken:
        evaluate(_data(3))
        assert not taken.executables


def test_many_variables_that_are_only_read_wait():
    variables = [tf.Variable(1.0 + i) for i in range(110)]

    @tf.function
    def answer(x):
        return tf.add_n([v * x for v in variables])

    with captured(compile_after=1) as taken:
        answer(tf.constant(2.0))
        assert not taken.executables


def test_long_compilations_are_announced(capfd):
    @tf.function
    def step(x):
        for _ in range(501):
            x = tf.exp(x) * 0.5
        return x

    with captured(verbosity="line"):
        step(_data(3))
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("afterburner: step: compiling 1002 ops")
    assert "compiled in" in second or "from the cache" in second


def test_rare_shapes_stay_and_variants_are_bounded():
    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def f(x):
        return tf.reduce_sum(tf.exp(x) * 2 + x, axis=1)

    with captured(compile_after=1, variants=2) as taken:
        for rows in (4, 4, 2, 4, 2, 2, 2, 5, 5, 5, 5):
            close(f(_data(rows, 3)), tf.reduce_sum(tf.exp(_data(rows, 3)) * 2 + _data(rows, 3), axis=1))
        assert len(taken.executables) == 2


def test_end_of_data_is_tensorflows_error():
    dataset = tf.data.Dataset.from_tensor_slices(_data(4, 3)).batch(2)

    @tf.function
    def step(iterator):
        x = next(iterator)
        return tf.reduce_sum(tf.exp(x) * 2 - x)

    with captured():
        iterator = iter(dataset)
        step(iterator)
        step(iterator)
        with pytest.raises(tf.errors.OutOfRangeError):
            step(iterator)


def test_a_step_whose_pipeline_raises_changes_nothing():
    """Stock TensorFlow may count the step before it finds out."""
    def batches():
        yield from (np.ones((4, 3), np.float32),) * 2
        raise ValueError("bad file")

    count, weights = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.ones(3))

    @tf.function
    def step(iterator):
        count.assign_add(1)
        weights.assign_sub(0.1 * tf.reduce_mean(tf.exp(next(iterator)) * weights, 0))
        return tf.reduce_sum(weights)

    with captured(compile_after=0):
        iterator = iter(tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((4, 3))))
        last = [step(iterator) for _ in range(2)][-1]
        with pytest.raises(tf.errors.InvalidArgumentError, match="bad file"):
            step(iterator)
        assert count.numpy() == 2
        close(tf.reduce_sum(weights), last)


def test_functions_without_work_are_left_alone():
    @tf.function
    def f(x):
        return x

    with captured() as taken:
        assert f(_data(3)) is not None
    assert taken.functions()["f"].status == "left"


def test_small_stages_are_given_back_where_there_would_be_many():
    steps = with_many_stages()
    x, y = tf.random.uniform([4, 5, 5, 3], seed=1), tf.random.normal([6, 6], seed=2)
    expected = steps(x, y)
    with captured() as taken:
        for _ in range(3):
            close(steps(x, y), expected)
    report = taken.functions()["steps"]
    assert report.status == "compiled" and report.taken_ops > report.seen_ops / 2
    assert {op.type for op in report.left if op.reason == BETWEEN} >= {"Mul"}
    assert {op.type for op in report.left if op.reason != BETWEEN} == {"BesselI0e"}
