"""``import afterburner``: quick, light, and in any order with TensorFlow."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from commands import run

MAX_SECONDS = 0.3
HEAVY = ("tensorflow", "keras", "numpy", "llvmlite", "ml_dtypes", "rich", "typer")

STEP = """
@tf.function
def step(x):
    return tf.tanh(x @ x) + tf.exp(x) * 0.1
"""
CALLED = STEP.replace("step", "called") + "called(tf.ones((8, 8)))\n"
CHECK = """
for function in FUNCTIONS:
    for _ in range(4):
        function(tf.zeros((8, 8)))
    (report,) = [f for f in afterburner.report().functions if f.name == function.__name__]
    print(report.status, report.calls)
"""


def cpu_seconds(*command: str) -> float:
    """Processor time of a finished ``python COMMAND…``, the least of three."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*command).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_import_is_quick() -> None:
    assert cpu_seconds("-c", "import afterburner") - cpu_seconds("-c", "pass") <= MAX_SECONDS


def test_import_and_enable_load_nothing_heavy() -> None:
    done = run("-c", "import sys, afterburner; afterburner.enable(); print(*sys.modules)")
    assert set(HEAVY) & set(done.stdout.split()) == set()


@pytest.mark.parametrize("program, functions", [
    ("import afterburner; afterburner.enable()\nimport tensorflow as tf" + STEP, "step"),
    ("import tensorflow as tf" + CALLED + "import afterburner; afterburner.enable()" + STEP, "step, called"),
], ids=["before tensorflow", "after tensorflow and a first call"])
def test_enable_in_any_order(program: str, functions: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program + CHECK.replace("FUNCTIONS", f"({functions},)"))
    done = run(str(tmp_path / "program.py"))
    assert (done.returncode, done.stdout) == (0, "compiled 4\n" * len(functions.split())), done.stderr


def test_disable_puts_everything_back() -> None:
    from tensorflow.python.eager.polymorphic_function import atomic_function, polymorphic_function

    import afterburner

    kinds = (atomic_function.AtomicFunction, polymorphic_function.Function)
    before = [dict(vars(kind)) for kind in kinds]
    with afterburner.enabled():
        assert [dict(vars(kind)) for kind in kinds] != before
    assert [dict(vars(kind)) for kind in kinds] == before
