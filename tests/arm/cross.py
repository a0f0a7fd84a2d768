"""Runs code for 64-bit Arm on another machine: compiled here, linked by our own linker, executed by qemu's emulator."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
from cpu_harness import compiled

from afterburner.cpu.elf import TEXT, read_object
from afterburner.cpu.isa import Isa
from afterburner.cpu.loader import Layout

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
MISSING = tuple(tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None)
WHY_NOT = f"needs {' and '.join(MISSING)} (Debian: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"

_BASE = 0x20_0000_0000  # far from the runner: calls out of the code go through stubs
_PAGE = 4096
_FILL = 0x5A
_SECONDS = 300.0

Call = tuple[str, int]  # a function's name and a chunk
Span = tuple[int, int]  # address and bytes of memory of this process


LINUX, MAC, MAC_ELF = "aarch64-unknown-linux-gnu", "arm64-apple-macosx14.0", "arm64-apple-macosx14.0-elf"


def arm_isa(triple: str = LINUX) -> Isa:
    """Generic AArch64 on Linux, or Apple's first processor on macOS."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return Isa("neon", 16, 32, True, False, triple, "apple-m1" if "-apple-" in triple else "", "")


@dataclass
class _Memory:
    """The image's data: pages behind its code, each span before a page that no one may touch."""

    at: int
    raw: bytearray = field(default_factory=bytearray)
    guards: list[int] = field(default_factory=list)
    places: dict[int, tuple[int, int]] = field(default_factory=dict)  # address here: address there, bytes

    def add(self, span: Span) -> int:
        """A copy of memory of this process, as near to the page's end as its place in a cache line allows."""
        address, size = span
        if address not in self.places:
            start = self.at + len(self.raw)
            end = start + -(-(size + 64) // _PAGE) * _PAGE
            there = end - size - (end - size - address) % 64
            self.raw += bytes([_FILL]) * (end - start + _PAGE)
            self.raw[there - self.at: there - self.at + size] = ctypes.string_at(address, size)
            self.guards.append(end)
            self.places[address] = there, size
        return self.places[address][0]

    def give_back(self, raw: bytes) -> None:
        """Copy the spans back to where they come from.

        Raises:
            AssertionError: something was written around them.
        """
        around = np.frombuffer(raw, np.uint8).copy()
        for address, (there, size) in self.places.items():
            ctypes.memmove(address, raw[there - self.at: there - self.at + size], size)
            around[there - self.at: there - self.at + size] = _FILL
        assert (around == _FILL).all(), f"bytes {np.flatnonzero(around != _FILL)[:8]} outside all buffers were written"


class Image:
    """Linked code for 64-bit Arm and copies of the memory that it works on.

    Attributes:
        functions: addresses of what the code exports, and of the runner's functions, by name.
    """

    def __init__(self, text: str, isa: Isa) -> None:
        self._layout = Layout([read_object(compiled(text, isa))])
        self._memory = _Memory(_BASE + self._layout.size)
        exports = {name: _BASE + at for name, at in self._layout.exports().items()}
        self.functions = {**_symbols(), **exports}

    def add(self, span: Span) -> int:
        """The address of a copy of memory of this process, which is given back after the run."""
        return self._memory.add(span)

    def run(self, calls: Sequence[tuple[int, int, int, int]]) -> None:
        """Call functions, each with three arguments, one after the other.

        Raises:
            AssertionError: the code crashed, or wrote outside what was added.
        """
        layout, memory = self._layout, self._memory
        code = bytearray(layout.size)
        layout.write(code, _BASE, _symbols().get)
        text_end = next(end for kind, _, end in layout.parts if kind == TEXT)
        words = [word % 2**64 for call in calls for word in call]
        head = (_BASE, layout.size + len(memory.raw), text_end, len(memory.guards), len(calls), *memory.guards, *words)
        image = _execute(struct.pack(f"<{len(head)}Q", *head) + code + memory.raw)
        memory.give_back(image[layout.size:])


def run_calls(text: str, isa: Isa, calls: Sequence[Call], buffers: Sequence[Span], scratch: Span) -> None:
    """Compile and run functions of an LLVM module; see ``cpu_harness.run_calls``.

    Raises:
        AssertionError: the code crashed, or wrote outside its buffers.
    """
    image = Image(text, isa)
    table = struct.pack(f"<{len(buffers)}Q", *(image.add(span) for span in buffers))
    kept = ctypes.create_string_buffer(table, len(table))
    pointers = image.add((ctypes.addressof(kept), len(table)))
    private = image.add(scratch)
    image.run([(image.functions[symbol], pointers, chunk, private) for symbol, chunk in calls])


def _execute(program: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "in"), Path(folder, "out")
        given.write_bytes(program)
        done = subprocess.run([EMULATOR, str(runner()), str(given), str(made)], capture_output=True, timeout=_SECONDS)
        assert done.returncode == 0, f"the emulated program ended with {done.returncode}: {done.stderr.decode()}"
        return made.read_bytes()


@lru_cache(maxsize=1)
def _symbols() -> dict[str, int]:
    lines = subprocess.run([EMULATOR, str(runner())], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: int(address) for name, address in map(str.split, lines)}


@lru_cache(maxsize=1)
def runner() -> Path:
    """The runner's program, built once a process; the folder goes with it."""
    folder = Path(_folder().name)
    source = Path(__file__).with_name("runner.c")
    subprocess.run([COMPILER, "-O1", "-Wall", "-static", "-no-pie", "-o", str(folder / "runner"), str(source), "-lm"],
                   check=True)
    return folder / "runner"


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="afterburner-arm-")
