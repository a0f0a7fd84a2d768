"""Timings as a bar chart: seconds per batch, stock and Afterburner side by side."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .errors import CommandError

if TYPE_CHECKING:
    from .bench import Timing

_NAMES = {"stock": "TensorFlow", "afterburner": "Afterburner", "fast": "Afterburner, fast precision"}
_COLOURS = {"stock": "#b0b0b5", "afterburner": "#ff6a00", "fast": "#c22f00"}
_BAR = 0.36  # inches of height, or of a group's width
_ONE_SCALE = 30  # times the shortest bar: longer ones would hide it on one scale


def check_chart(path: Path) -> None:
    """Fail before hours of timing if the chart could not be drawn in the end.

    Raises:
        CommandError: no matplotlib, no such folder, or a kind of file it cannot draw.
    """
    if find_spec("matplotlib") is None:
        raise CommandError("--chart needs matplotlib; `pip install matplotlib`")
    if not path.resolve().parent.is_dir():
        raise CommandError(f"no folder {str(path.resolve().parent)!r} for the chart; make it first")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise CommandError(f"can't draw {path.name!r}; the name of a chart ends in .png, .svg or .pdf")


def draw(timings: list[Timing], caption: str, path: Path) -> None:
    """Draw groups of bars on one scale, or a panel a workload where times differ by orders of magnitude."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    seconds = [median(times) for timing in timings for times in timing.seconds.values()]
    if len(timings) > 1 and max(seconds) <= _ONE_SCALE * min(seconds):
        _draw_groups(figure, timings)
    else:
        _draw_panels(figure, timings)
    figure.suptitle(f"{_title(timings)}, lower is better", x=0.02, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel(caption, x=0.02, ha="left", fontsize=8, color="#606060")
    figure.savefig(path, dpi=160)


def _title(timings: list[Timing]) -> str:
    units = {timing.unit for timing in timings}
    return "Seconds per batch" if units <= {"step", "batch"} else "Seconds per unit"


def _draw_groups(figure: Any, timings: list[Timing]) -> None:
    """A group of upright bars for each workload."""
    sides = timings[0].sides
    figure.set_size_inches(max(6.0, 1.2 + len(timings) * (len(sides) + 1) * _BAR * 1.25), 4.5)
    axis = figure.subplots()
    for i, side in enumerate(sides):
        places = [n * (len(sides) + 1) + i for n in range(len(timings))]
        heights = [median(timing.seconds[side]) for timing in timings]
        texts = [_text(timing, side).replace("   ", "\n") for timing in timings]
        bars = axis.bar(places, heights, width=0.9, color=_COLOURS[side], label=_NAMES[side])
        axis.bar_label(bars, texts, padding=2, fontsize=7)
    middle = (len(sides) - 1) / 2
    axis.set_xticks([n * (len(sides) + 1) + middle for n in range(len(timings))],
                    [f"{timing.workload}\n{timing.unit}" for timing in timings], fontsize=8)
    axis.margins(y=0.15)
    axis.yaxis.set_visible(False)
    axis.tick_params(axis="x", length=0)
    axis.legend(frameon=False, fontsize=8)
    _hide(axis, ("top", "right", "left"))


def _draw_panels(figure: Any, timings: list[Timing]) -> None:
    """Lying bars, each workload on a scale of its own."""
    figure.set_size_inches(8, 1.1 + sum(len(timing.sides) * _BAR + 0.45 for timing in timings))
    axes = figure.subplots(len(timings), 1, squeeze=False)[:, 0]
    for axis, timing in zip(axes, timings, strict=True):
        sides = timing.sides[::-1]
        seconds = [median(timing.seconds[side]) for side in sides]
        bars = axis.barh([_NAMES[side] for side in sides], seconds, color=[_COLOURS[s] for s in sides], height=0.8)
        axis.bar_label(bars, [_text(timing, side) for side in sides], padding=4, fontsize=9)
        axis.set_title(timing.label, loc="left", fontsize=10)
        axis.set_xlim(0, max(seconds) * 1.35)
        axis.xaxis.set_visible(False)
        axis.tick_params(axis="y", length=0, labelsize=9)
        _hide(axis, ("top", "right", "bottom"))


def _text(timing: Timing, side: str) -> str:
    """A bar's label: seconds, and how many times as fast as stock."""
    seconds = f"{median(timing.seconds[side]):.3g} s"
    return seconds if side == "stock" else f"{seconds}   {median(timing.ratios(side)):.1f}×"


def _hide(axis: Any, sides: tuple[str, ...]) -> None:
    for side in sides:
        axis.spines[side].set_visible(False)
