"""Functions that a program makes anew again and again, each for a few calls."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from afterburner.frontend import capture

from .kit import captured

X = tf.constant(np.random.default_rng(0).random((4, 4), np.float32))


def made(number: float):
    return tf.function(lambda x: tf.reduce_sum(tf.tanh(x @ x) * number + 1.0))


def test_later_ones_wait():
    with captured(compile_after=1, verbosity="silent") as taken:
        results = [[float(f(X)) for _ in range(3)] for f in map(made, range(20))]
        assert taken.count == capture._MAX_YOUNG
        last = made(3.0)
        for _ in range(capture._FEW_CALLS):
            assert np.isclose(float(last(X)), results[3][0], rtol=1e-6)
        assert taken.count == capture._MAX_YOUNG
        assert np.isclose(float(last(X)), results[3][0], rtol=1e-6)
        assert taken.count == capture._MAX_YOUNG + 1
    stock = [float(made(n)(X)) for n in range(20)]
    np.testing.assert_allclose([r[-1] for r in results], stock, rtol=1e-6)


def test_a_function_that_waits_says_so_once(capsys):
    with captured(compile_after=1, verbosity="detail") as taken:
        for function in map(made, range(capture._MAX_YOUNG + 2)):
            for _ in range(3):
                function(X)
        waiting = [f for f in taken.recorder.report().functions if f.status == "waiting"]
        assert [f.reason for f in waiting] == [capture._TOO_SHORT_LIVED] * 2
        for _ in range(capture._FEW_CALLS):
            function(X)
        assert taken.recorder.report().functions[-1].reason == ""
    assert capsys.readouterr().err.count(f"waits: {capture._TOO_SHORT_LIVED}") == 2


def test_those_called_often_keep_nobody_waiting():
    with captured(compile_after=1, verbosity="silent") as taken:
        for number in range(2 * capture._MAX_YOUNG):
            function = made(number)
            for _ in range(capture._FEW_CALLS + 1):
                function(X)
        assert taken.count == 2 * capture._MAX_YOUNG


def test_later_ones_of_many_names_wait():
    def named(number: int):
        def body(x):
            return tf.reduce_sum(tf.tanh(x @ x) * number + 1.0)
        body.__name__ = f"body_{number}"
        return tf.function(body)

    with captured(compile_after=1, verbosity="silent") as taken:
        for function in map(named, range(capture._MAX_YOUNG_IN_ALL + 2)):
            for _ in range(3):
                function(X)
        assert taken.count == capture._MAX_YOUNG_IN_ALL
        waiting = [f for f in taken.recorder.report().functions if f.status == "waiting"]
        assert [f.reason for f in waiting] == [capture._AMONG_SHORT_LIVED] * 2
        for _ in range(capture._FEW_CALLS):
            function(X)
        assert taken.count == capture._MAX_YOUNG_IN_ALL + 1


def test_what_is_left_to_tensorflow_keeps_nobody_waiting():
    with captured(compile_after=1, verbosity="silent") as taken:
        for number in range(capture._MAX_YOUNG + 2):
            function = made(number)
            function(X), function(X)
            atomic = function.get_concrete_function(X)._inference_function
            atomic.__dict__[capture._ATTRIBUTE]._leave("for a test")
        assert taken.count == capture._MAX_YOUNG + 2


def test_nobody_waits_where_all_are_compiled_at_once():
    with captured(compile_after=0, verbosity="silent") as taken:
        for number in range(2 * capture._MAX_YOUNG):
            made(number)(X)
        assert taken.count == 2 * capture._MAX_YOUNG
