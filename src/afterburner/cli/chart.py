"""Timings as a bar chart: seconds per batch, stock and Afterburner side by side."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .errors import CommandError

if TYPE_CHECKING:
    from .bench import Timing

_GREY, _ORANGE = "#b0b0b5", "#ff6a00"
_BAR = 0.36  # inches of height


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
    """Draw horizontal bars, a panel a workload: units of time differ by orders of magnitude."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.1 + len(timings) * (2 * _BAR + 0.45)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(timings), 1, squeeze=False)[:, 0]
    for axis, timing in zip(axes, timings, strict=True):
        _draw_panel(axis, timing)
    figure.suptitle("Seconds per batch, lower is better", x=0.02, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel(caption, x=0.02, ha="left", fontsize=8, color="#606060")
    figure.savefig(path, dpi=160)


def _draw_panel(axis: Any, timing: Timing) -> None:
    seconds = [median(timing.seconds["afterburner"]), median(timing.seconds["stock"])]
    bars = axis.barh(["Afterburner", "TensorFlow"], seconds, color=[_ORANGE, _GREY], height=0.8)
    texts = [f"{seconds[0]:.3g} s   {median(timing.ratios):.1f}× as fast", f"{seconds[1]:.3g} s"]
    axis.bar_label(bars, texts, padding=4, fontsize=9)
    axis.set_title(timing.label, loc="left", fontsize=10)
    axis.set_xlim(0, max(seconds) * 1.35)
    axis.xaxis.set_visible(False)
    axis.tick_params(axis="y", length=0, labelsize=9)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
