"""Kernels of a part as tables: one by one where they are few, by kind and by layer where they are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FEW = 20  # kernels are listed one by one
_LAYERS = 25  # shown, the slowest first
_WIDE = 100  # columns from which a table tells what was fused and what layers are made of

Record = dict[str, Any]


@dataclass
class Group:
    """Kernels told in one row; ``gap`` is seconds above each kernel's floor, ``known`` where a floor was measured."""

    name: str
    kernels: int = 0
    seconds: float = 0.0
    gap: float = 0.0
    flops: int = 0
    bytes: int = 0
    known: bool = False

    def add(self, kernel: Record) -> None:
        self.kernels += 1
        self.seconds += kernel["seconds"]
        self.flops += kernel["flops"]
        self.bytes += kernel["bytes"]
        if kernel["peak_fraction"]:
            self.known = True
            self.gap += max(0.0, kernel["seconds"] * (1 - kernel["peak_fraction"]))


def print_part(name: str, part: Record, console: Console, every: bool = False) -> None:
    """Print a part's kernels; ``every``: one by one however many there are."""
    kernels = part["kernels"]
    seconds = sum(kernel["seconds"] for kernel in kernels)
    console.print(f"{escape(name)} {escape(part.get('signature', ''))}: {len(kernels)} kernels on "
                  f"{escape(part['device'])}, {seconds * 1e6:.0f} µs a run", style="italic")
    if len(kernels) > FEW and not every:
        _print_groups(kernels, console)
        return
    console.print(_kernel_table(kernels, console.width))


def _print_groups(kernels: list[Record], console: Console) -> None:
    kinds = _groups(kernels, lambda kernel: kind_of(kernel["label"]))
    console.print(_group_table("kind", kinds, len(kinds), console.width))
    model = _common_model(kernels)
    layers = _groups(kernels, lambda kernel: kernel["layer"].removeprefix(f"{model}/") or "(no layer)")
    console.print(_group_table(f"layer of {model}" if model else "layer", layers, _LAYERS, console.width))
    console.print("--kernels lists every kernel; --json has all there is", style="dim")


def kind_of(label: str) -> str:
    """``conv2d input grad 1x1`` of ``conv2d input grad 1x1 64->16 add``; a loop is reducing or not."""
    if label.startswith("loop:"):
        return "loop with sums" if "reduce" in label else "loop"
    words = label.split()
    channels = next((i for i, word in enumerate(words) if "->" in word), 1)
    return " ".join(words[:channels] + ["(Winograd)"] * ("(Winograd" in label))


def _common_model(kernels: list[Record]) -> str:
    """The first part of most layers' paths: naming it in each row would tell nothing."""
    found = Counter(kernel["layer"].partition("/")[0] for kernel in kernels if "/" in kernel["layer"])
    model, count = found.most_common(1)[0] if found else ("", 0)
    return model if count > sum(found.values()) / 2 else ""


def _groups(kernels: Iterable[Record], name_of: Callable[[Record], str]) -> list[Group]:
    """By name, the slowest first."""
    groups: dict[str, Group] = {}
    for kernel in kernels:
        name = name_of(kernel)
        groups.setdefault(name, Group(name)).add(kernel)
    return sorted(groups.values(), key=lambda group: -group.seconds)


def _sum(name: str, groups: Iterable[Group]) -> Group:
    total = Group(name)
    for group in groups:
        total.kernels += group.kernels
        total.seconds += group.seconds
        total.gap += group.gap
        total.flops += group.flops
        total.bytes += group.bytes
        total.known |= group.known
    return total


def _group_table(title: str, groups: list[Group], shown: int, width: int) -> Table:
    total = _sum("total", groups)
    rows, rest = groups[:shown], groups[shown:]
    table = Table(box=SIMPLE)
    table.add_column(escape(title), no_wrap=True, overflow="ellipsis")
    for column in ("kernels", "ms", "share", "gap ms", *(("GFLOP", "MiB") if width >= _WIDE else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for group in [*rows, *([_sum(f"{len(rest)} more", rest)] if rest else [])]:
        _add_group(table, group, total, width)
    table.add_section()
    _add_group(table, total, total, width)
    return table


def _add_group(table: Table, group: Group, total: Group, width: int) -> None:
    cells = [escape(group.name), str(group.kernels), or_dash(group.seconds * 1e3, "{:.2f}"),
             or_dash(group.seconds / total.seconds if total.seconds else 0.0, "{:.1%}"),
             f"{group.gap * 1e3:.2f}" if group.known else "–"]
    if width >= _WIDE:
        cells += [f"{group.flops / 1e9:.2f}", f"{group.bytes / 2**20:.1f}"]
    table.add_row(*cells)


def _kernel_table(kernels: list[Record], width: int) -> Table:
    total = sum(kernel["seconds"] for kernel in kernels)
    wide = width >= _WIDE
    table = Table("kernel", *(("fused",) if wide else ()), box=SIMPLE)
    for column in ("µs", "share", "gap µs", "MFLOP", "MiB", "of peak"):
        table.add_column(column, justify="right", no_wrap=True)
    for kernel in sorted(kernels, key=lambda k: -k["seconds"]):
        gap = max(0.0, kernel["seconds"] * (1 - kernel["peak_fraction"]))
        table.add_row(
            escape(kernel["label"]), *((escape(counted(kernel["fused"])),) if wide else ()),
            or_dash(kernel["seconds"] * 1e6, "{:.1f}"),
            or_dash(kernel["seconds"] / total if total else 0.0, "{:.0%}"),
            f"{gap * 1e6:.1f}" if kernel["peak_fraction"] else "–", f"{kernel['flops'] / 1e6:.2f}",
            f"{kernel['bytes'] / 2**20:.2f}", or_dash(kernel["peak_fraction"], "{:.0%}"))
    return table


def counted(names: Iterable[str]) -> str:
    """``mul ×3, add`` from (mul, mul, add, mul)."""
    counts = Counter(names).most_common()
    return ", ".join(name if count == 1 else f"{name} ×{count}" for name, count in counts)


def or_dash(value: float, form: str) -> str:
    """A measured number, or a dash where nothing was measured."""
    return form.format(value) if value else "–"
