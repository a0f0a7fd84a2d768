"""What ``afterburner bench --json`` wrote, as Markdown: for documents, whose numbers nobody types."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bench import Timing

Record = dict[str, Any]


def summary(result: Record) -> str:
    """One line: what was compared, where, how and when."""
    machine, policy = result["machine"], result["policy"]
    counts = [len(timing["seconds"]["stock"]) for timing in result["timings"]]
    several = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
    rounds = "one round" if several == "1" else f"median of {several} rounds"
    numbers = "float32" if policy == "float32" else f"Keras's policy `{policy}`"
    return (f"TensorFlow {machine['tensorflow']} beside Afterburner on {machine['processor']}, {result['threads']} "
            f"threads, {machine['memory_gib']:.0f} GiB, {machine['system']}; {numbers}; {rounds} in turns, "
            f"{result['date']}:")


def table(result: Record, costs: bool = False) -> str:
    """The timings, one a row; with ``costs``, first calls and peak memory as well.

    Where all are of one unit, the last row is the geometric mean of the ratios.
    """
    from .bench import Timing

    timings = [Timing.from_dict(record) for record in result["timings"]]
    sides = timings[0].sides[1:]
    titles = {"afterburner": "Afterburner ms", "fast": "`fast` ms"}
    head = ["workload (unit)", "stock ms", *(cell for side in sides for cell in (titles[side], "ratio", "spread"))]
    if costs:
        order = "stock / ours / fast" if "fast" in sides else "stock / ours"
        head += [f"first call s, {order}", f"peak MiB, {order}"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *(_cells(timing, costs) for timing in timings)]
    if len(timings) > 1 and len({timing.unit for timing in timings}) == 1:
        lines.append(_means(timings, len(head)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cells(timing: Timing, costs: bool) -> list[str]:
    cells = [f"`{timing.workload}` ({timing.unit})", _three_digits(timing.milliseconds("stock"))]
    for side in timing.sides[1:]:
        ratios = timing.ratios(side)
        cells += [_three_digits(timing.milliseconds(side)), f"**{median(ratios):.2f}×**",
                  f"{min(ratios):.2f}–{max(ratios):.2f}"]
    if costs:
        cells.append(" / ".join(f"{median(timing.first_seconds[side]):.1f}" for side in timing.sides))
        cells.append(" / ".join(f"{median(timing.peak_bytes[side]) / 2**20:.0f}" for side in timing.sides))
    return cells


def _means(timings: list[Timing], columns: int) -> list[str]:
    cells = ["geometric mean", ""]
    for side in timings[0].sides[1:]:
        cells += ["", f"**{geometric_mean(median(timing.ratios(side)) for timing in timings):.2f}×**", ""]
    return cells + [""] * (columns - len(cells))


def filled(page: str, blocks: dict[str, str]) -> str:
    """A page with what stands between ``<!-- measured: NAME -->`` and ``<!-- end -->`` replaced by NAME's block.

    A name without a block keeps what it has.

    Raises:
        ValueError: a mark without its end.
    """
    return "".join(_pieces(page, blocks))


def _pieces(page: str, blocks: dict[str, str]) -> Iterator[str]:
    start, end = "<!-- measured: ", "<!-- end -->"
    head, *rest = page.split(start)
    yield head
    for piece in rest:
        name = piece[:piece.index(" -->")]
        if end not in piece:
            raise ValueError(f"{start}{name} --> without {end}")
        body, after = piece.split(end, 1)
        yield f"{start}{name} -->\n{blocks[name]}{end}{after}" if name in blocks else f"{start}{body}{end}{after}"


def _three_digits(number: float) -> str:
    """At least three digits, without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
