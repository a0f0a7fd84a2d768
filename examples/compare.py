"""The demonstration: ``digits.py`` on stock TensorFlow, then on Afterburner, each in a fresh process.

Prints accuracy, seconds, milliseconds a step and the ratio, and draws all of it into a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from digits import data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PROGRAM = Path(__file__).parent / "digits.py"
LAUNCHERS = {"TensorFlow": [], "Afterburner": ["-m", "afterburner", "run"]}
SWITCHED_OFF = {"TensorFlow": "1", "Afterburner": "0"}
COLOURS = {"TensorFlow": "#b0b0b5", "Afterburner": "#ff6a00"}
LEAST_ACCURACY = 0.97
MOST_DIFFERENCE = 0.005

Result = dict[str, Any]


def train(name: str, epochs: int) -> Result:
    """What ``digits.py`` measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, *LAUNCHERS[name], str(PROGRAM), "--epochs", str(epochs), "--json", str(file)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        subprocess.run(command, check=True, env=os.environ | quiet | {"AFTERBURNER_DISABLE": SWITCHED_OFF[name]})
        return json.loads(file.read_text())


def print_table(results: dict[str, Result], ratio: float) -> None:
    """The results side by side."""
    print(f"\n{'':14}{'accuracy':>10}{'seconds':>10}{'ms a step':>12}")
    for name, result in results.items():
        print(f"{name:14}{result['accuracy']:>10.2%}{result['seconds']:>10.1f}{result['ms_a_step']:>12.2f}")
    print(f"\nAfterburner took {1 / ratio:.0%} of TensorFlow's time a step: {ratio:.2f}× as fast.")


def draw(results: dict[str, Result], ratio: float, path: Path) -> None:
    """Time a step, losses, and held-out digits with the answers of the accelerated network."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    times, losses, digits = figure.subplots(1, 3)

    bars = times.bar(list(results), [r["ms_a_step"] for r in results.values()], color=list(COLOURS.values()))
    times.bar_label(bars, fmt="%.1f ms", padding=3)
    times.set_title(f"Time a training step: {ratio:.2f}× as fast")
    times.margins(y=0.12)
    for name, result in results.items():
        epochs, style = range(1, len(result["losses"]) + 1), "-" if name == "TensorFlow" else "--"
        losses.plot(epochs, result["losses"], style, color=COLOURS[name], label=name)
    losses.set_title("Loss")
    losses.set_xlabel("epoch")
    losses.set_yscale("log")
    losses.legend(frameon=False)
    _draw_digits(digits, results["Afterburner"])
    for axis in (times, losses):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _draw_digits(axis: Any, result: Result, rows: int = 6, columns: int = 8) -> None:
    _, _, images, labels = data()
    shown = np.pad(images[:rows * columns, :, :, 0], ((0, 0), (4, 4), (4, 4)))
    height, width = shown.shape[1:]
    tiles = shown.reshape(rows, columns, height, width)
    axis.imshow(np.concatenate(np.concatenate(tiles, axis=1), axis=1), cmap="gray_r")
    for at in range(rows * columns):
        right = result["answers"][at] == labels[at]
        axis.text((at % columns) * width + 1, (at // columns) * height + 6, str(result["answers"][at]),
                  color="#208020" if right else "#d00000", fontsize=8, fontweight="bold")
    axis.set_title(f"Held-out digits: {result['accuracy']:.1%} right")
    axis.axis("off")


def main() -> int:
    """Compare; 1 where a network is not accurate enough or the two differ by too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--picture", type=Path, default=Path("digits.png"))
    options = parser.parse_args()

    results = {}
    for name in LAUNCHERS:
        print(f"{name}:", flush=True)
        results[name] = train(name, options.epochs)
    ratio = results["TensorFlow"]["ms_a_step"] / results["Afterburner"]["ms_a_step"]
    print_table(results, ratio)
    draw(results, ratio, options.picture)
    print(f"Picture: {options.picture}")

    accuracies = [result["accuracy"] for result in results.values()]
    if min(accuracies) < LEAST_ACCURACY or max(accuracies) - min(accuracies) > MOST_DIFFERENCE:
        print(f"Expected at least {LEAST_ACCURACY:.0%} from both, within {MOST_DIFFERENCE:.1%}.",
              file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
