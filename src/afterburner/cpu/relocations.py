"""How addresses enter instructions and data, for each machine: one function a kind of relocation.

The numbers and formulas are those of the processor supplements to the System V ABI (x86-64 psABI,
section 4.4; ELF for the Arm 64-bit architecture, section 5.7). S is the symbol's address (of its slot
in the table of addresses, or of its stub, where the kind asks for that), A the addend, P the place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .elf import AARCH64, X86_64, LoadError

DIRECT, SLOT, STUB = "direct", "slot", "stub"
_PAGE = 4096  # bytes: what ADRP counts in, whatever the system's pages are


@dataclass(frozen=True)
class Rule:
    """A kind of relocation.

    Attributes:
        via: what S is: DIRECT, the address of the SLOT that holds it, or, for what is external, a STUB.
        size: bytes that are changed.
        value: (S + A, P, the bytes so far as a number) to the bytes' new number.
    """

    via: str
    size: int
    value: Callable[[int, int, int], int]


@dataclass(frozen=True)
class Machine:
    """What a linker knows of a processor.

    Attributes:
        name: as ``platform.machine()`` has it on Linux.
        apple_name: and on macOS; "" where we do not link there.
        rules: by number of the relocation.
        stub: (its address, the address of a slot) to code that jumps to where the slot points.
        stub_bytes: size of that code.
        trap: code that fills what nobody should execute.
    """

    name: str
    apple_name: str
    rules: dict[int, Rule]
    stub: Callable[[int, int], bytes]
    stub_bytes: int
    trap: bytes


def _signed(value: int, bits: int) -> int:
    """``value`` as a two's complement number of so many bits.

    Raises:
        LoadError: it does not fit.
    """
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise LoadError(f"a distance of {value} bytes, which {bits} bits cannot hold")
    return value & (1 << bits) - 1


def _absolute64(target: int, place: int, word: int) -> int:
    return target & (1 << 64) - 1


def _relative32(target: int, place: int, word: int) -> int:
    return _signed(target - place, 32)


def _relative64(target: int, place: int, word: int) -> int:
    return _signed(target - place, 64)


def _jump_x86(place: int, slot: int) -> bytes:
    """``jmp *[rip + distance]``, and breakpoints up to eight bytes."""
    return b"\xff\x25" + _relative32(slot, place + 6, 0).to_bytes(4, "little") + b"\xcc\xcc"


def _page(target: int, place: int, word: int) -> int:
    """ADRP: the distance in pages, its two low bits at bit 29, the others at bit 5."""
    pages = _signed((target & -_PAGE) - (place & -_PAGE), 33) // _PAGE
    return word & 0x9F00001F | (pages & 3) << 29 | (pages >> 2) << 5


def _branch(target: int, place: int, word: int) -> int:
    """B and BL: 26 bits, counted in instructions."""
    distance = target - place
    if distance % 4:
        raise LoadError("a branch to something that is no instruction")
    return word & 0xFC000000 | _signed(distance, 28) // 4


def _low12(shift: int) -> Callable[[int, int, int], int]:
    """The offset in a page, counted in units of ``1 << shift`` bytes, at bit 10."""
    def value(target: int, place: int, word: int) -> int:
        offset = target % _PAGE
        if offset % (1 << shift):
            raise LoadError(f"an access of {1 << shift} bytes to offset {offset} of a page")
        return word & ~(0xFFF << 10) | offset >> shift << 10

    return value


def _jump_arm(place: int, slot: int) -> bytes:
    """``adrp x16, page; ldr x16, [x16, offset]; br x16``, and a breakpoint."""
    words = (_page(slot, place, 0x90000010), _low12(3)(slot, place + 4, 0xF9400210), 0xD61F0200, 0xD4200000)
    return b"".join(word.to_bytes(4, "little") for word in words)


_RELATIVE32 = Rule(DIRECT, 4, _relative32)
_RELATIVE32_SLOT = Rule(SLOT, 4, _relative32)

MACHINES = {
    X86_64: Machine("x86_64", "", {
        1: Rule(DIRECT, 8, _absolute64),  # R_X86_64_64
        2: _RELATIVE32,  # R_X86_64_PC32
        4: Rule(STUB, 4, _relative32),  # R_X86_64_PLT32
        9: _RELATIVE32_SLOT,  # R_X86_64_GOTPCREL
        24: Rule(DIRECT, 8, _relative64),  # R_X86_64_PC64
        41: _RELATIVE32_SLOT,  # R_X86_64_GOTPCRELX
        42: _RELATIVE32_SLOT,  # R_X86_64_REX_GOTPCRELX
    }, _jump_x86, 8, b"\xcc"),
    AARCH64: Machine("aarch64", "arm64", {
        257: Rule(DIRECT, 8, _absolute64),  # R_AARCH64_ABS64
        260: Rule(DIRECT, 8, _relative64),  # R_AARCH64_PREL64
        261: _RELATIVE32,  # R_AARCH64_PREL32
        275: Rule(DIRECT, 4, _page),  # R_AARCH64_ADR_PREL_PG_HI21
        277: Rule(DIRECT, 4, _low12(0)),  # R_AARCH64_ADD_ABS_LO12_NC
        278: Rule(DIRECT, 4, _low12(0)),  # R_AARCH64_LDST8_ABS_LO12_NC
        282: Rule(STUB, 4, _branch),  # R_AARCH64_JUMP26
        283: Rule(STUB, 4, _branch),  # R_AARCH64_CALL26
        284: Rule(DIRECT, 4, _low12(1)),  # R_AARCH64_LDST16_ABS_LO12_NC
        285: Rule(DIRECT, 4, _low12(2)),  # R_AARCH64_LDST32_ABS_LO12_NC
        286: Rule(DIRECT, 4, _low12(3)),  # R_AARCH64_LDST64_ABS_LO12_NC
        299: Rule(DIRECT, 4, _low12(4)),  # R_AARCH64_LDST128_ABS_LO12_NC
        311: Rule(SLOT, 4, _page),  # R_AARCH64_ADR_GOT_PAGE
        312: Rule(SLOT, 4, _low12(3)),  # R_AARCH64_LD64_GOT_LO12_NC
    }, _jump_arm, 16, b"\x00\x00\x20\xd4"),
}
