"""``afterburner run`` with compiled graphs inside: errors and interrupts look as they do plainly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from commands import SRC, afterburner

LOOP = """
import tensorflow as tf

@tf.function
def step(x):
    return tf.tanh(x @ x) + tf.exp(x) * 0.1

x = tf.zeros((64, 64))
for number in range(1_000_000_000):
    x = step(x)
    if number == 10:
        print("ready", flush=True)
"""

OUT_OF_RANGE = """
import tensorflow as tf

@tf.function
def pick(table, index):
    return tf.tanh(tf.gather(table, index)) * 2.0 + 1.0

table = tf.ones((4, 8))
for index in ([0, 1], [2, 3], [1, 1], [0, 9]):
    print(pick(table, tf.constant(index)).shape, flush=True)
"""

TWO_CPUS = """
import tensorflow as tf

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

@tf.function
def plain(x):
    return tf.tanh(x @ x) + tf.exp(x) * 0.1

with tf.device("CPU:1"):
    v = tf.Variable(tf.ones((4, 4)))
    for _ in range(4):
        there = plain(v)

@tf.function
def reads(x):
    return tf.tanh(x @ v) + tf.exp(x) * 0.1

for _ in range(4):
    here = plain(tf.ones((4, 4)))
    reads(here)
print(there.device, here.device)
"""

WAITS = """
import selectors

import tensorflow as tf


@tf.function
def step(x):
    return tf.nn.softmax(tf.exp(x) * 2.0 + tf.sin(x))


exec(compile("def interrupted(*_): raise KeyboardInterrupt", selectors.__file__, "exec"))
step(tf.ones((4, 4)))
selectors.PollSelector.select = interrupted
step(tf.ones((4, 4)))
"""


def test_error_of_tensorflow_has_no_frames_of_ours(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(OUT_OF_RANGE)
    done = afterburner("run", "program.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "(2, 8)\n" * 3), done.stderr
    assert "InvalidArgumentError" in done.stderr and "program.py" in done.stderr
    assert f"{SRC}/afterburner" not in done.stderr and "runpy" not in done.stderr


def test_results_are_on_the_device_of_the_call(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TWO_CPUS)
    done = afterburner("explain", "--json", "said.json", "program.py", cwd=tmp_path)
    devices = next((line.split() for line in done.stdout.splitlines() if "device:CPU" in line), [])
    assert [device[-5:] for device in devices] == ["CPU:1", "CPU:0"], done.stderr
    functions = json.loads((tmp_path / "said.json").read_text())["functions"]
    outcomes = {(f["name"], f["status"], f["reason"]) for f in functions}
    assert {("plain", "compiled", ""), ("reads", "left", "what it reads or writes lives on device:CPU:1")} < outcomes


def test_ctrl_c_in_a_compiled_step(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LOOP)
    process = subprocess.Popen(
        [sys.executable, "-m", "afterburner", "run", "program.py"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": SRC}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background job ignores it
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert errors.endswith("KeyboardInterrupt\n") and "program.py" in errors
    assert f"{SRC}/afterburner" not in errors


def test_ctrl_c_while_a_step_is_compiled(tmp_path: Path) -> None:
    """Where Python waits for the processes that generate code, as it mostly does then."""
    (tmp_path / "program.py").write_text(WAITS)
    done = afterburner("run", "program.py", cwd=tmp_path, AFTERBURNER_CACHE="0")
    assert done.returncode in (-signal.SIGINT, 130) and done.stderr.endswith("KeyboardInterrupt\n")
    assert "program.py" in done.stderr and f"{SRC}/afterburner" not in done.stderr
    assert "multiprocessing" not in done.stderr and "selectors" not in done.stderr
