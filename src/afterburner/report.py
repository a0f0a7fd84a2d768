"""What was compiled, where it runs, what was left out and why: kept as it happens, told on request."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .options import options

if TYPE_CHECKING:
    from .runtime.executable import Executable

BETWEEN = "stands between operations that TensorFlow keeps"  # the reason of one that is given back
_CALL = re.compile(r"(Stateful)?PartitionedCall(_\d+)?|gradient_tape|while\[\d+\]")  # wrap a layer's path
_KINDS_SHOWN = 4  # of the operations that are left, in one line
_WATCHED = "on TensorFlow while tf.debugging watches operations (check_numerics, dump_debug_info)"
_SLOW_OPS = 1000  # from here on compilation takes seconds
_QUIET_SECONDS = 2.0  # of a compilation, before its progress is shown
_LINE_SECONDS = 10.0  # between two lines of progress in a log
_FRAME_SECONDS = 0.1  # between two states of the line on a terminal


@dataclass
class KernelReport:
    """One kernel.

    Attributes:
        seconds: least measured time of a run; 0 where it was not profiled.
        peak_fraction: of this machine's measured arithmetic or memory peak, whichever binds; 0 where
            it was not measured.
        layer: of the model, by the names of most of its TensorFlow nodes; empty where they have no path.
    """

    label: str
    fused: tuple[str, ...]
    nodes: tuple[str, ...]
    seconds: float
    flops: int
    bytes: int
    peak_fraction: float = 0.0
    layer: str = ""


@dataclass
class PartReport:
    """A compiled part for one set of shapes."""

    signature: str
    ops: int
    kernels: list[KernelReport]
    compile_seconds: float
    cached: bool
    arena_bytes: int
    device: str


@dataclass
class ChoiceReport:
    """Who was found fastest for a set of shapes.

    Attributes:
        chosen: a device of ours ("emulated gpu" where there is no other), or "TensorFlow".
        seconds: the least time of a step of each candidate that could run.
        steps: of the program, how many were measured.
        origin: "measured" in this process, or "cache".
        dropped: candidates that could not run, and why.
    """

    signature: str
    chosen: str
    seconds: dict[str, float]
    steps: int
    origin: str
    dropped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        ranked = sorted(self.seconds.items(), key=lambda item: item[0] != self.chosen)
        times = " against ".join(f"{seconds * 1e3:.3g} ms on {name}" for name, seconds in ranked)
        source = f"measured in {self.steps} steps" if self.origin == "measured" else "measured before"
        failed = "".join(f"; not on {name}: {why}" for name, why in self.dropped.items())
        return f"stays on {self.chosen}: {times or 'no other can run it'} ({source}){failed}"


@dataclass
class LeftOp:
    """An operation left to TensorFlow, and why."""

    type: str
    node: str
    source: str
    reason: str


@dataclass
class FunctionReport:
    """A graph function that was seen.

    Attributes:
        calls: how often it was called.
        seen_ops: operations that do anything, constants not counted.
        taken_ops: those of them we compile.
        arithmetic_share: of the estimated arithmetic that we compile, 0 to 1.
        status: "compiled", "waiting" (too few calls yet; with a reason where others need fewer), "left" with a
            reason, or "given back" (TensorFlow is faster, see ``choices``).
        choices: who was found fastest, where that was measured.
        moved: what runs elsewhere than was asked for, and why.
    """

    name: str
    calls: int = 0
    seen_ops: int = 0
    taken_ops: int = 0
    arithmetic_share: float = 0.0
    status: str = "waiting"
    reason: str = ""
    parts: list[PartReport] = field(default_factory=list)
    left: list[LeftOp] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    choices: list[ChoiceReport] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Everything known at one moment."""

    device: str
    threads: int
    functions: list[FunctionReport]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers."""
        return asdict(self)

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=2)


class Entry:
    """The record of one function while the program runs."""

    def __init__(self, name: str) -> None:
        self.report = FunctionReport(name)
        self.executables: list[tuple[PartReport, weakref.ref[Executable]]] = []
        self.untold: list[PartReport] = []  # parts compiled in a call that goes on


class Recorder:
    """Collects entries and speaks on stderr as the options ask."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def entry(self, name: str) -> Entry:
        """A new record for a function."""
        item = Entry(name)
        with self._lock:
            self._entries.append(item)
        return item

    def compiling(self, entry: Entry, ops: int) -> None:
        """Say that a part is being compiled, where that takes its time."""
        if ops >= _SLOW_OPS:
            say(f"{entry.report.name}: compiling {ops} ops; this takes a while, unless the cache has them")

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Shows how far a compilation is, where it takes long: a function of (kernels done, of how many)."""
        shown = _Progress(name)
        try:
            yield shown.at
        finally:
            shown.end()

    def compiled(self, entry: Entry, part: PartReport, executable: Executable) -> None:
        """Note a compiled part; ``tell`` says so."""
        entry.report.status, entry.report.reason = "compiled", ""
        entry.report.parts.append(part)
        entry.executables.append((part, weakref.ref(executable)))
        entry.untold.append(part)
        if options().log_graphs:
            self.log([f"{entry.report.name}: {part.ops} ops run on device {part.device}"])

    def tell(self, entry: Entry) -> None:
        """Say in one line what a call that has ended compiled, if it did."""
        parts, entry.untold = entry.untold, []
        if parts:
            say(_line(entry.report, parts))

    def log(self, lines: Iterable[str]) -> None:
        """Lines that were asked for by ``log_graphs``, on stderr."""
        with self._lock:
            for line in lines:
                print(f"afterburner: {line}", file=sys.stderr)

    def left(self, entry: Entry, reason: str) -> None:
        """Note that a function stays on TensorFlow."""
        entry.report.status, entry.report.reason = "left", reason
        say(f"{entry.report.name}: left to TensorFlow: {reason}", detail=True)

    def waits(self, entry: Entry, reason: str) -> None:
        """Note that a function is compiled later than others, and say so once."""
        if entry.report.reason != reason:
            entry.report.reason = reason
            say(f"{entry.report.name}: waits: {reason}", detail=True)

    def chosen(self, entry: Entry, choice: ChoiceReport) -> None:
        """Note who runs a part from here on, and say so."""
        entry.report.choices.append(choice)
        say(f"{entry.report.name}: {choice}")

    def given_back(self, entry: Entry) -> None:
        """Note that TensorFlow runs a function, being faster."""
        entry.report.status = "given back"
        entry.report.reason = "TensorFlow was measured to be faster"

    def moved(self, entry: Entry, what: str) -> None:
        """Note that a part runs elsewhere than was asked for, and say so."""
        entry.report.moved.append(what)
        say(f"{entry.report.name}: {what}")

    def watched(self, entry: Entry) -> None:
        """Note that a program watches its operations by ``tf.debugging``, and say so once for each function."""
        if _WATCHED not in entry.report.moved:
            self.moved(entry, _WATCHED)

    def failed(self, entry: Entry, what: str) -> None:
        """Note a fallback and say so: it should not happen."""
        entry.report.failures.append(what)
        say(f"{entry.report.name}: runs on TensorFlow from here on: {what}")

    def report(self) -> Report:
        """What is known now, with the measured times of profiled kernels."""
        with self._lock:
            entries = list(self._entries)
        devices: dict[str, None] = {}
        threads = 0
        for entry in entries:
            for part, reference in entry.executables:
                executable = reference()
                if executable is None:
                    continue
                devices[executable.device] = None
                threads = max(threads, executable.threads)
                measured = zip(executable.kernel_seconds(), executable.peak_fractions(), strict=True)
                for kernel, (seconds, fraction) in zip(part.kernels, measured, strict=False):
                    kernel.seconds, kernel.peak_fraction = seconds, fraction
        return Report(" and ".join(devices) or "TensorFlow", threads, [e.report for e in entries])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


class _Progress:
    """One line, rewritten in place on a terminal; elsewhere a new one now and then."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + (_QUIET_SECONDS if self._terminal else _LINE_SECONDS)
        self._standing = False

    def at(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now < self._next or options().verbosity == "silent":
            return
        self._next = now + (_FRAME_SECONDS if self._terminal else _LINE_SECONDS)
        self._standing = self._terminal
        start, end = ("\r", "") if self._terminal else ("", "\n")
        text = f"afterburner: {self._name}: {done} of {of} kernels compiled"
        print(start + text, end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._standing:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def part_report(signature: str, ops: int, executable: Executable, seconds: float) -> PartReport:
    """The report of a freshly compiled part."""
    kernels = [KernelReport(k.label, k.fused, k.nodes, 0.0, k.flops, k.bytes, layer=layer_of(k.nodes))
               for k in executable.kernels]
    return PartReport(signature, ops, kernels, seconds, executable.cached, executable.arena_bytes, executable.device)


def layer_of(nodes: Iterable[str]) -> str:
    """``model/layer``, by the names of most of a kernel's TensorFlow nodes; forward and backward alike."""
    paths = [[step for step in node.split("/") if not _CALL.fullmatch(step)] for node in nodes]
    layers = ["/".join(path[:-1][:2]) for path in paths]
    return Counter(layers).most_common(1)[0][0] if layers else ""


def say(text: str, detail: bool = False) -> None:
    """One line on stderr, if the verbosity allows it."""
    verbosity = options().verbosity
    if verbosity == "silent" or (detail and verbosity != "detail"):
        return
    print(f"afterburner: {text}", file=sys.stderr, flush=True)


def _line(report: FunctionReport, parts: Sequence[PartReport]) -> str:
    origin = "from the cache" if all(p.cached for p in parts) else "compiled"
    kernels, seconds = sum(len(p.kernels) for p in parts), sum(p.compile_seconds for p in parts)
    pieces = f" in {len(parts)} pieces" if len(parts) > 1 else ""
    text = (f"{report.name}: {report.taken_ops} of {report.seen_ops} ops "
            f"({report.arithmetic_share:.0%} of the arithmetic) on {max(parts, key=lambda p: len(p.kernels)).device}, "
            f"{kernels} kernels{pieces} {origin} in {seconds:.2f} s")
    if report.left:
        text += f"; left to TensorFlow: {_why_left(report.left)}"
    return text


def _why_left(left: Sequence[LeftOp]) -> str:
    """The most common reason behind the kinds of operations it holds for, then the other kinds."""
    causes = [op for op in left if op.reason != BETWEEN]
    reason, _ = Counter(op.reason for op in causes).most_common(1)[0]
    others = [op for op in causes if op.reason != reason]
    text = f"{_kinds(op for op in causes if op.reason == reason)} ({reason})"
    if others:
        text += f", and for other reasons {_kinds(others)}"
    between = len(left) - len(causes)
    return text + (f"; {between} more ops stand between" if between else "")


def _kinds(left: Iterable[LeftOp]) -> str:
    kinds = list(dict.fromkeys(op.type for op in left))
    return ", ".join(kinds[:_KINDS_SHOWN] + ["…"] * (len(kinds) > _KINDS_SHOWN))
