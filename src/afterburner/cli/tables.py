"""Reports and timings as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .kernel_tables import print_part

if TYPE_CHECKING:
    from .bench import Timing

_WIDE = 100  # columns from which functions are told with compile time and memory
_FILE_COLUMNS = 160  # where no terminal sets the width

Record = dict[str, Any]


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_FILE_COLUMNS)


def print_report(report: Record, console: Console | None = None, every: bool = False) -> None:
    """Print what ``Report.to_dict()`` says, to stderr unless another console is given; ``every`` kernel or groups."""
    console = console or _console(stderr=True)
    if not report["functions"]:
        console.print("No graph function was called: nothing could be compiled. "
                      "What runs eagerly, op by op, stays on TensorFlow.")
        return
    threads = report["threads"]
    console.print(f"Ran on {escape(report['device'])}, {threads} thread{'' if threads == 1 else 's'}.")
    console.print(_function_table(report["functions"], console.width))
    for function in report["functions"]:
        _print_function(function, console, every)


def _function_table(functions: Iterable[Record], width: int) -> Table:
    costs = width >= _WIDE
    table = Table("function", "calls", "ops taken", "arithmetic", *(("compile s", "arena MiB") if costs else ()),
                  "outcome", title="Graph functions", title_justify="left", box=SIMPLE)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for item in functions:
        parts = item["parts"]
        cells = [escape(item["name"]), str(item["calls"]), f"{item['taken_ops']} of {item['seen_ops']}",
                 f"{item['arithmetic_share']:.0%}"]
        if costs:
            cells += [f"{sum(p['compile_seconds'] for p in parts):.2f}",
                      f"{max((p['arena_bytes'] for p in parts), default=0) / 2**20:.1f}"]
        table.add_row(*cells, escape(_outcome(item)))
    return table


def _outcome(function: Record) -> str:
    parts = function["parts"]
    if function["status"] == "given back":
        return f"given back: {function['reason']}"
    if not parts:
        if function["status"] == "waiting":
            waits = f": it waits {function['reason']}" if function["reason"] else ""
            return f"ran on TensorFlow: too few calls to compile it{waits}"
        return f"{function['status']}: {function['reason']}" if function["reason"] else function["status"]
    cached = sum(bool(part["cached"]) for part in parts)
    text = f"{len(parts)} compiled" if len(parts) > 1 else "compiled"
    return f"{text}, {cached} from the cache" if cached else text


def _print_function(function: Record, console: Console, every: bool) -> None:
    for part in function["parts"]:
        print_part(function["name"], part, console, every)
    if function["parts"]:
        console.print("The floor is arithmetic at the measured peak or bytes at the measured rate of memory, whichever "
                      "takes longer; gap is what kernels take above theirs. They go below it where data is still in a "
                      "cache, Winograd's algorithm saves products, or an instruction makes two at once.", style="dim")
    if function["choices"]:
        console.print(_choice_table(function))
    for moved in function["moved"]:
        console.print(f"{escape(function['name'])}: {escape(moved)}")
    if function["left"]:
        console.print(_left_table(function))
    for failure in function["failures"]:
        console.print(f"{escape(function['name'])} fell back to TensorFlow: {escape(failure)}", style="red")


def _choice_table(function: Record) -> Table:
    table = Table("shapes", "runs on", "ms a step", "found", "cannot run it", box=SIMPLE, title_justify="left",
                  title=f"{escape(function['name'])}: who is fastest")
    for choice in function["choices"]:
        times = ", ".join(f"{name} {seconds * 1e3:.3f}" for name, seconds in choice["seconds"].items())
        found = f"in {choice['steps']} steps" if choice["origin"] == "measured" else "earlier, kept in the cache"
        dropped = "; ".join(f"{name}: {why}" for name, why in choice["dropped"].items())
        table.add_row(*map(escape, (choice["signature"], choice["chosen"], times, found, dropped)))
    return table


def _left_table(function: Record) -> Table:
    table = Table("op", "node", "reason", "source", title=f"{escape(function['name'])}: left to TensorFlow",
                  title_justify="left", box=SIMPLE)
    for op in function["left"]:
        table.add_row(*(escape(op[key]) for key in ("type", "node", "reason", "source")))
    return table


def print_bench(timings: Iterable[Timing], machine: str) -> None:
    """Print a table of timings, and under it the machine they hold for."""
    console, items = _console(stderr=False), list(timings)
    fast = any("fast" in item.sides for item in items)
    compared = [name for side in ("ours", *(("fast",) if fast else ())) for name in (f"{side} ms", "ratio", "spread")]
    table = Table("workload (unit)", "stock ms", *compared, "first s", "peak MiB", box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for item in items:
        cells = [cell for side in item.sides[1:] for cell in _compared(item, side)]
        table.add_row(
            item.label, f"{item.milliseconds('stock'):.3f}", *cells,
            "/".join(f"{median(item.first_seconds[side]):.1f}" for side in item.sides),
            "/".join(f"{median(item.peak_bytes[side]) / 2**20:.0f}" for side in item.sides))
    console.print(table)
    order = "stock/Afterburner/fast" if fast else "stock/Afterburner"
    console.print(f"{machine}. Milliseconds a unit, the median over rounds; first s is the first call with "
                  f"tracing and compilation; first s and peak MiB are {order}.", highlight=False)


def _compared(item: Timing, side: str) -> tuple[str, str, str]:
    ratios = item.ratios(side)
    return f"{item.milliseconds(side):.3f}", f"{median(ratios):.2f}×", f"{min(ratios):.2f}–{max(ratios):.2f}"
