"""The example programs in the fork's manner: they learn, all of their steps compiled, and as on stock TensorFlow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import afterburner, run

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = {
    "mlcompute_lenet.py": ["--epochs", "2", "--pictures", "4000", "--device", "cpu"],
    "mlcompute_cnn.py": ["--epochs", "1", "--pictures", "3000"],
    "mlcompute_dense.py": ["--epochs", "2", "--pictures", "2000", "--units", "500"],
}
LEAST_ACCURACY = 0.6
MOST_DIFFERENCE = 0.05  # after few steps, and two trainings drift apart


def accuracy(output: str) -> float:
    """The last line's."""
    found = re.search(r"accuracy ([0-9.]+)\s*$", output)
    assert found is not None, output
    return float(found[1])


@pytest.mark.parametrize("name", SHORT)
def test_example(name: str) -> None:
    command = [str(EXAMPLES / name), *SHORT[name]]
    ours = afterburner("run", "--strict", *command, AFTERBURNER_VERBOSITY="line")
    assert ours.returncode == 0, ours.stderr
    taken = r"afterburner: multi_step_on_iterator: .* \(100% of the arithmetic\) on cpu"
    assert re.search(taken, ours.stderr), ours.stderr
    stock = run("-c", f"import runpy, sys, afterburner; sys.argv = {command}; sys.path.insert(0, {str(EXAMPLES)!r}); "
                f"runpy.run_path({command[0]!r}, run_name='__main__')")
    assert stock.returncode == 0, stock.stderr
    assert accuracy(ours.stdout) > LEAST_ACCURACY
    assert abs(accuracy(ours.stdout) - accuracy(stock.stdout)) < MOST_DIFFERENCE
