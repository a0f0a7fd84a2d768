"""``afterburner explain`` and ``doctor`` on the real engine."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from commands import afterburner

from afterburner.cli import doctor
from afterburner.cpu import isa
from afterburner.options import overridden

PROGRAM = """
import sys
import tensorflow as tf

weights = tf.Variable(tf.ones((16, 4)))

@tf.function
def step(x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(tf.tanh(x @ weights)))
    weights.assign_sub(0.1 * tape.gradient(loss, weights))
    return loss

@tf.function
def words(text):
    return tf.strings.length(tf.strings.join([text, text]))

for _ in range(4):
    step(tf.ones((8, 16)))
    words("ab")
print("program's own output", sys.argv[1:])
sys.exit(5)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def test_json_has_stdout_to_itself(program: Path) -> None:
    done = afterburner("explain", "--json", "-", "program.py", "--json", "x", cwd=program)
    assert done.returncode == 5, done.stderr
    assert "program's own output ['--json', 'x']" in done.stderr
    report = json.loads(done.stdout)
    step, words = (next(f for f in report["functions"] if f["name"] == name) for name in ("step", "words"))
    assert step["status"] == "compiled" and step["taken_ops"] == step["seen_ops"] > 5
    assert step["failures"] == [] and step["calls"] == 4
    (part,) = step["parts"]
    assert part["kernels"] and sum(kernel["flops"] for kernel in part["kernels"]) > 2 * 8 * 16 * 4
    assert all(kernel["seconds"] > 0 for kernel in part["kernels"])
    assert words["status"] == "left" and "StringJoin" in words["reason"] + str(words["left"])


def test_table_comes_after_the_program(program: Path) -> None:
    done = afterburner("explain", "program.py", cwd=program)
    assert (done.returncode, done.stdout) == (5, "program's own output []\n"), done.stderr
    for expected in ("Graph functions", "step", "compiled", "of peak", "words", "left"):
        assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_finds_all_in_order(tmp_path: Path) -> None:
    done = afterburner("doctor", cwd=tmp_path, AFTERBURNER_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for subject in ("Python", "TensorFlow", "Keras", "Processor", "Instructions", "Threads", "Cache", "Self-test"):
        assert subject in done.stdout
    assert "everything is in order" in done.stdout


def test_doctor_names_each_variable_that_has_no_meaning_and_goes_on(tmp_path: Path) -> None:
    done = afterburner("doctor", cwd=tmp_path, AFTERBURNER_CACHE_DIR=str(tmp_path), AFTERBURNER_DEVICE="tpu",
                       AFTERBURNER_THREADS="many", TF_DISABLE_MLC="maybe")
    assert (done.returncode, done.stderr) == (1, "")
    assert "AFTERBURNER_DEVICE: 'tpu' is none of any, cpu, gpu; set it to" in done.stdout
    assert "AFTERBURNER_THREADS: 'many' is not a whole number from 0 up; set it to" in done.stdout
    assert "TF_DISABLE_MLC: 'maybe' is not 0 or 1; set it to" in done.stdout
    assert done.stdout.splitlines()[-2].startswith("✓ Self-test") and done.stdout.endswith("3 things are wrong\n")


@pytest.mark.parametrize("dot, said", [(True, "may round float32 to bfloat16 (this processor has the instruction)"),
                                       (False, "lacks the instruction")])
def test_doctor_tells_what_fast_precision_does_here(dot: bool, said: str, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_precision,))
    here = replace(isa.host(), bf16_dot=dot)
    monkeypatch.setattr(isa, "host", lambda: here)
    with overridden(precision="fast"):
        assert doctor.examine() == 0
    assert said in capsys.readouterr().out
    assert doctor.examine() == 0
    assert "default: about as exact as direct sums; float32 is never rounded to bfloat16" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write anywhere")
def test_doctor_finds_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = afterburner("doctor", AFTERBURNER_CACHE_DIR=str(tmp_path / "cache"))
    tmp_path.chmod(0o700)
    assert done.returncode == 1
    assert "set AFTERBURNER_CACHE_DIR to a folder that can be written" in done.stdout


def test_doctor_finds_a_planted_fault(tmp_path: Path) -> None:
    done = afterburner("doctor", cwd=tmp_path, AFTERBURNER_CACHE_DIR=str(tmp_path), AFTERBURNER_FAULT="codegen")
    assert done.returncode == 1
    assert "planted failure" in done.stdout
