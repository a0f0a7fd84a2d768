"""The fork's interface: found in every order of imports, and meaning what it meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import afterburner, run

from afterburner import options
from afterburner.compat import mlcompute
from afterburner.options import overridden

MLCOMPUTE = "from tensorflow.python.compiler.mlcompute import mlcompute\n"
STEP = """
@tf.function
def step(x):
    return tf.tanh(x @ x) + tf.exp(x) * 0.1

for _ in range(3):
    step(tf.ones((8, 8)))
import afterburner
print(*[f.status for f in afterburner.report().functions], afterburner.options().device)
print(mlcompute.is_apple_mlc_enabled(), mlcompute.is_tf_compiled_with_apple_mlc())
"""


def script(folder: Path, text: str) -> str:
    """The path of a program."""
    path = folder / "program.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("imports", [
    MLCOMPUTE + "import tensorflow as tf\nmlcompute.set_mlc_device(device_name='cpu')",
    "import tensorflow as tf\n" + MLCOMPUTE + "mlcompute.set_mlc_device('cpu')",
    "import tensorflow.python.compiler.mlcompute.mlcompute as mlcompute\nimport tensorflow as tf\n"
    "mlcompute.set_mlc_device('cpu')",
], ids=["before tensorflow", "after tensorflow", "by its full name"])
def test_scripts_find_it_and_logging_shows_what_the_fork_showed(imports: str, tmp_path: Path) -> None:
    done = afterburner("run", script(tmp_path, imports + STEP), TF_MLC_LOGGING="1")
    assert (done.returncode, done.stdout) == (0, "compiled cpu\nTrue True\n"), done.stderr
    log = [line.removeprefix("afterburner: ") for line in done.stderr.splitlines() if line.startswith("afterburner: ")]
    assert any(line.startswith("step: 1 compiled sub-graphs of ") and line.endswith("ops in each: 5") for line in log)
    assert log.index("step: graph before:") < log.index("step: graph after:")
    assert "  stage 0 = compiled, 5 ops: (argument 0) -> (add:0)" in log
    assert log.index("  matmul = MatMul(argument 0, argument 0)") > log.index("step: graph before:")
    assert any(line.startswith("step: 5 ops run on device cpu (") for line in log)


def test_import_of_afterburner_is_enough(tmp_path: Path) -> None:
    done = run(script(tmp_path, "import afterburner, sys\nassert 'tensorflow' not in sys.modules\n" + MLCOMPUTE
                      + "print(mlcompute.is_apple_mlc_enabled())\nafterburner.enable()\n"
                      "print(mlcompute.is_apple_mlc_enabled(), mlcompute.is_tf_compiled_with_apple_mlc())"))
    assert (done.returncode, done.stdout) == (0, "False\nTrue True\n"), done.stderr


@pytest.mark.parametrize("variable", ["AFTERBURNER_DISABLE", "TF_DISABLE_MLC"])
def test_switched_off_it_can_still_be_imported(variable: str, tmp_path: Path) -> None:
    text = MLCOMPUTE + "import tensorflow as tf\nmlcompute.set_mlc_device()" + STEP
    done = afterburner("run", script(tmp_path, text), **{variable: "1"})
    assert (done.returncode, done.stdout) == (0, "any\nFalse True\n"), done.stderr


def test_devices_that_do_not_exist() -> None:
    before = options().device
    for name in ("tpu", "CPU", "", None):
        with pytest.raises(ValueError, match="there is no device .*; the names are 'any', 'cpu', 'gpu'"):
            mlcompute.set_mlc_device(device_name=name)  # type: ignore[arg-type]
    assert options().device == before


def test_any_is_the_default() -> None:
    with overridden(device="cpu"):
        mlcompute.set_mlc_device()
        assert options().device == "any"


def test_ops_of_the_list_are_never_taken(tmp_path: Path) -> None:
    text = MLCOMPUTE + "import tensorflow as tf\n" + STEP
    text += "print(*[(op.type, op.reason) for f in afterburner.report().functions for op in f.left])"
    done = afterburner("run", script(tmp_path, text), TF_DISABLE_MLC_EAGER=";Tanh;Exp")
    assert done.returncode == 0, done.stderr
    assert [f"('{kind}', 'left out by AFTERBURNER_SKIP_OPS')" in done.stdout for kind in ("Tanh", "Exp", "MatMul")] == [
        True, True, False]
