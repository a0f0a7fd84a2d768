"""Links object code into this process: our own short linker, so that cached code runs without LLVM.

LLVM's library takes some 60 MB of memory and is needed to generate code, not to run it. What this
linker does not know (another system, format or kind of relocation), it refuses.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

from . import blas
from .elf import CONSTANT, DATA, TEXT, LoadError, ObjectFile, Symbol, read_object
from .relocations import MACHINES, SLOT, STUB, Rule

_KINDS = (TEXT, CONSTANT, DATA)  # in the order of their addresses
_SLOT_BYTES = 8
_LARGEST = 1 << 30  # bytes: everything stays in reach of 32-bit distances
_LIBRARIES = (None, "libm.so.6", "libgcc_s.so.1")  # searched in this order; None is the process
_READ, _WRITE, _EXECUTE = 1, 2, 4  # PROT_* of mprotect

_Key = tuple[int, int]  # an object file's number, and a section's or symbol's


class Layout:
    """Where everything of some object files lies relative to the start of one block of memory.

    Text comes first, with a stub for each external function behind it; then constants, with the slots
    that hold addresses; then data and zeros. Each part begins a page.

    Attributes:
        size: of the block in bytes, whole pages.
        parts: (kind, first byte, end) of each part.
    """

    def __init__(self, objects: Sequence[ObjectFile]) -> None:
        if not objects or len({o.machine for o in objects}) != 1 or objects[0].machine not in MACHINES:
            raise LoadError(f"object files for machines {sorted({o.machine for o in objects})}")
        self._objects = objects
        self._machine = MACHINES[objects[0].machine]
        self._defined = _exported(objects)
        self._sections: dict[_Key, int] = {}
        self._slots: dict[str | tuple[int, Symbol], int] = {}
        self._stubs: dict[str, int] = {}
        self.parts: list[tuple[str, int, int]] = []
        at = 0
        for kind in _KINDS:
            start, at = at, self._place(kind, at)
            at = _round_up(at, mmap.PAGESIZE)
            if at > _LARGEST:
                raise LoadError(f"a program of {at} bytes")
            self.parts.append((kind, start, at))
        self.size = at

    def _place(self, kind: str, at: int) -> int:
        for number, object_ in enumerate(self._objects):
            for index, section in object_.sections.items():
                if section.kind == kind:
                    at = _round_up(at, section.alignment)
                    self._sections[number, index] = at
                    at += section.size
        if kind == TEXT:
            return self._place_stubs(_round_up(at, self._machine.stub_bytes))
        return self._place_slots(_round_up(at, _SLOT_BYTES)) if kind == CONSTANT else at

    def _place_stubs(self, at: int) -> int:
        for symbol, _ in self._uses(STUB):
            if self._is_foreign(symbol) and symbol.name not in self._stubs:
                self._stubs[symbol.name] = at
                at += self._machine.stub_bytes
        return at

    def _place_slots(self, at: int) -> int:
        wanted = [*self._stubs, *(self._slot_key(symbol, number) for symbol, number in self._uses(SLOT))]
        for key in wanted:
            if key not in self._slots:
                self._slots[key] = at
                at += _SLOT_BYTES
        return at

    def _uses(self, via: str) -> Iterable[tuple[Symbol, int]]:
        """Symbols that relocations reach in this way, and the numbers of their object files."""
        for number, object_ in enumerate(self._objects):
            for relocation in object_.relocations:
                if self._rule(relocation.kind).via == via:
                    yield relocation.symbol, number

    def _rule(self, kind: int) -> Rule:
        if kind not in self._machine.rules:
            raise LoadError(f"a relocation of kind {kind} for {self._machine.name}")
        return self._machine.rules[kind]

    def _is_foreign(self, symbol: Symbol) -> bool:
        """Whether no object file defines the symbol."""
        return symbol.external and symbol.name not in self._defined

    def _slot_key(self, symbol: Symbol, number: int) -> str | tuple[int, Symbol]:
        return symbol.name if symbol.external else (number, symbol)

    def write(self, block: memoryview | bytearray, base: int, resolve: Callable[[str], int | None]) -> None:
        """Write the program to a zeroed block.

        Args:
            block: of ``size`` bytes.
            base: its address when the program runs.
            resolve: the address of a symbol that no object file defines, None where there is none.

        Raises:
            LoadError: a symbol is missing, or an address is out of reach.
        """
        addresses = _Addresses(self, base, resolve)
        kind, start, end = self.parts[0]
        block[start: end] = (self._machine.trap * (end // len(self._machine.trap) + 1))[:end]
        for (number, index), at in self._sections.items():
            section = self._objects[number].sections[index]
            if section.data:
                block[at: at + section.size] = section.data
        for name, at in self._stubs.items():
            code = self._machine.stub(base + at, base + self._slots[name])
            block[at: at + len(code)] = code
        for key, at in self._slots.items():
            address = addresses.named(key) if isinstance(key, str) else addresses.of(key[1], key[0])
            block[at: at + _SLOT_BYTES] = address.to_bytes(_SLOT_BYTES, "little")
        for number, object_ in enumerate(self._objects):
            self._relocate(block, base, number, object_, addresses)

    def _relocate(self, block: memoryview | bytearray, base: int, number: int, object_: ObjectFile,
                  addresses: _Addresses) -> None:
        for relocation in object_.relocations:
            rule, symbol = self._rule(relocation.kind), relocation.symbol
            if relocation.offset + rule.size > object_.sections[relocation.section].size:
                raise LoadError(f"a relocation at {relocation.offset}, outside its section")
            if rule.via == SLOT:
                target = base + self._slots[self._slot_key(symbol, number)]
            elif rule.via == STUB and self._is_foreign(symbol):
                target = base + self._stubs[symbol.name]
            else:
                target = addresses.of(symbol, number)
            at = self._sections[number, relocation.section] + relocation.offset
            before = int.from_bytes(block[at: at + rule.size], "little")
            after = rule.value(target + relocation.addend, base + at, before)
            block[at: at + rule.size] = after.to_bytes(rule.size, "little")

    def exports(self) -> dict[str, int]:
        """Where the exported symbols lie.

        Raises:
            LoadError: one of them lies nowhere.
        """
        return {name: self.offset_of(symbol, number) for name, (number, symbol) in self._defined.items()}

    def offset_of(self, symbol: Symbol, number: int) -> int:
        """Where a symbol of object file ``number`` lies."""
        place = self._sections.get((number, -1 if symbol.section is None else symbol.section))
        if place is None:
            raise LoadError(f"a symbol {symbol.name!r} in a section that is not loaded")
        return place + symbol.value

    def defined(self, name: str) -> tuple[int, Symbol] | None:
        """The exported symbol of that name and its object file's number."""
        return self._defined.get(name)


class _Addresses:
    """Addresses of symbols once the block's place is known."""

    def __init__(self, layout: Layout, base: int, resolve: Callable[[str], int | None]) -> None:
        self._layout = layout
        self._base = base
        self._resolve = cache(resolve)

    def of(self, symbol: Symbol, number: int) -> int:
        """The address of a symbol that object file ``number`` uses."""
        if symbol.external:
            return self.named(symbol.name)
        if symbol.section is None:
            return symbol.value
        return self._base + self._layout.offset_of(symbol, number)

    def named(self, name: str) -> int:
        found = self._layout.defined(name)
        if found is not None:
            return self.of(found[1], found[0])
        address = self._resolve(name)
        if address is None:
            raise LoadError(f"no symbol {name!r} in this process")
        return address


def _exported(objects: Sequence[ObjectFile]) -> dict[str, tuple[int, Symbol]]:
    found: dict[str, tuple[int, Symbol]] = {}
    for number, object_ in enumerate(objects):
        for symbol in object_.symbols:
            if symbol.exported and symbol.name in found:
                raise LoadError(f"two definitions of {symbol.name!r}")
            if symbol.exported:
                found[symbol.name] = (number, symbol)
    return found


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


class LoadedCode:
    """Object files linked into this process; their memory goes with this object.

    Text is executable and constants are read-only before anybody can call them; nothing is ever
    writable and executable at once.

    Args:
        parts: object files for this machine.

    Raises:
        LoadError: they cannot be linked here.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        objects = [read_object(part) for part in parts]
        _require_this_machine(objects)
        layout = Layout(objects)
        try:
            self._block = mmap.mmap(-1, max(layout.size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise LoadError(f"no memory for {layout.size} bytes of code: {error}") from error
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._block))
        with memoryview(self._block) as view:
            layout.write(view, self._base, address_in_process)
        self._offsets = layout.exports()
        self._protect(layout.parts)

    def address(self, name: str) -> int:
        """The address of an exported symbol.

        Raises:
            LoadError: there is none of that name.
        """
        if name not in self._offsets:
            raise LoadError(f"no symbol {name!r}")
        return self._base + self._offsets[name]

    def _protect(self, parts: Sequence[tuple[str, int, int]]) -> None:
        protections = {TEXT: _READ | _EXECUTE, CONSTANT: _READ}
        for kind, start, end in parts:
            if kind not in protections or start == end:
                continue
            if _libc().mprotect(self._base + start, end - start, protections[kind]):
                raise LoadError(f"the system refuses executable memory (error {ctypes.get_errno()})")
            if kind == TEXT:
                _forget_instructions(self._base + start, self._base + end)


def _require_this_machine(objects: Sequence[ObjectFile]) -> None:
    """Raises where the object files are not for the machine and system that we are on."""
    here = f"{sys.platform} on {platform.machine()}"
    for object_ in objects:
        machine = MACHINES.get(object_.machine)
        if machine is None or here not in (f"linux on {machine.name}", f"darwin on {machine.apple_name}"):
            raise LoadError(f"an object file for ELF machine {object_.machine}; this is {here}")


def _forget_instructions(start: int, end: int) -> None:
    """Make the processor fetch new code: x86 notices by itself, Arm must be told."""
    if platform.machine() == "x86_64":
        return
    # The one takes the end, the other the size.
    name, until = ("sys_icache_invalidate", end - start) if sys.platform == "darwin" else ("__clear_cache", end)
    clear = address_in_process(name)
    if clear is None:
        raise LoadError(f"no {name} in this process")
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)(clear)(start, until)


@lru_cache(maxsize=1)
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def address_in_process(name: str) -> int | None:
    """The address of a function of this process, the C, matrix or compiler's library; None if there is none."""
    if name in blas.addresses():
        return blas.addresses()[name]
    for library in _LIBRARIES:
        handle = _library(library)
        if handle is None:
            continue
        with contextlib.suppress(AttributeError, ValueError):
            return ctypes.cast(handle[name], ctypes.c_void_p).value
    return None


@cache
def _library(name: str | None) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
