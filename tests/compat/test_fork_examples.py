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
_END = "end of an example"


def accuracy(output: str) -> float:
    """The last line's."""
    found = re.search(r"accuracy ([0-9.]+)\s*$", output)
    assert found is not None, output
    return float(found[1])


def command(name: str) -> list[str]:
    return [str(EXAMPLES / name), *SHORT[name]]


@pytest.fixture(scope="module")
def on_tensorflow(request: pytest.FixtureRequest) -> dict[str, float]:
    """The accuracy of the examples that are tested on stock TensorFlow, one after another in one process."""
    tested = {item.name for item in request.session.items}
    names = [name for name in SHORT if f"test_example[{name}]" in tested]
    finished = run("-c", f"""
import runpy, sys
import afterburner
sys.path.insert(0, {str(EXAMPLES)!r})
for sys.argv in {[command(name) for name in names]}:
    runpy.run_path(sys.argv[0], run_name="__main__")
    print("{_END}")
""")
    assert finished.returncode == 0, finished.stderr
    return {name: accuracy(output) for name, output in zip(names, finished.stdout.split(_END), strict=False)}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.sweep) if name == "mlcompute_cnn.py" else name for name in SHORT])
def test_example(name: str, on_tensorflow: dict[str, float]) -> None:
    ours = afterburner("run", "--strict", *command(name), AFTERBURNER_VERBOSITY="line")
    assert ours.returncode == 0, ours.stderr
    taken = r"afterburner: multi_step_on_iterator: .* \(100% of the arithmetic\) on cpu"
    assert re.search(taken, ours.stderr), ours.stderr
    assert accuracy(ours.stdout) > LEAST_ACCURACY
    assert abs(accuracy(ours.stdout) - on_tensorflow[name]) < MOST_DIFFERENCE
