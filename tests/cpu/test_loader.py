"""Our linker against LLVM's, on objects of the code generator; and what it refuses."""

from __future__ import annotations

import ctypes
import gc
import platform
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import program_kit as kit
import pytest

from afterburner.cpu import jit, loader
from afterburner.cpu.elf import AARCH64, X86_64, LoadError, read_object
from afterburner.cpu.generate import compile_kernels
from afterburner.cpu.isa import Isa, host
from afterburner.cpu.llvm import LinkedCode
from afterburner.cpu.loader import Layout, LoadedCode
from afterburner.cpu.relocations import MACHINES
from afterburner.ir import Builder, TensorType
from afterburner.ir.ops.elementwise import Add
from afterburner.ir.types import F32

HERE = pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
                          reason="our linker links here for Linux on x86-64 and AArch64 only")
ARM = Isa("neon", 16, 32, True, False, "aarch64-unknown-linux-gnu", "", "+neon")
BASE = 0x7F12_3456_0000

TEXT = """
declare double @cos(double)
declare i64 @strlen(ptr)
@environ = external global ptr
@words = private constant [6 x i8] c"words\\00"
@table = constant [3 x ptr] [ptr @twice, ptr @square, ptr @length]
@weights = private constant [4 x double] [double 1.5, double -2.25, double 1.0e300, double 0.1]
@zeros = internal global [1000 x i64] zeroinitializer
@count = internal global i64 41

define i64 @twice(i64 %x) {
  %y = add i64 %x, %x
  ret i64 %y
}
define i64 @square(i64 %x) {
  %y = mul i64 %x, %x
  ret i64 %y
}
define i64 @length(i64 %x) {
  %n = call i64 @strlen(ptr @words)
  %y = add i64 %x, %n
  ret i64 %y
}
define i64 @through_table(i64 %which, i64 %x) {
  %p = getelementptr ptr, ptr @table, i64 %which
  %f = load ptr, ptr %p
  %y = call i64 %f(i64 %x)
  ret i64 %y
}
define double @cosine(double %x) {
  %c = call double @cos(double %x)
  %y = fadd double %c, 0.125
  ret double %y
}
define double @weight(i64 %which) {
  %p = getelementptr double, ptr @weights, i64 %which
  %y = load double, ptr %p
  ret double %y
}
define i64 @counted(i64 %at) {
  %old = load i64, ptr @count
  %new = add i64 %old, 1
  store i64 %new, ptr @count
  %p = getelementptr i64, ptr @zeros, i64 %at
  %z = load i64, ptr %p
  store i64 %new, ptr %p
  %y = add i64 %z, %new
  ret i64 %y
}
define ptr @environment() {
  %p = load ptr, ptr @environ
  ret ptr %p
}
"""
OTHER = """
declare i64 @square(i64)
define i64 @fourth(i64 %x) {
  %y = call i64 @square(i64 %x)
  %z = call i64 @square(i64 %y)
  ret i64 %z
}
"""
ARM_TEXT = """
declare double @cos(double)
@environ = external global ptr
@table = internal global [4 x i64] zeroinitializer
@pointers = constant [2 x ptr] [ptr @address, ptr @call]
define ptr @address() {
  %p = getelementptr i64, ptr @table, i64 3
  ret ptr %p
}
define i64 @element() {
  %p = getelementptr i64, ptr @table, i64 2
  %x = load i64, ptr %p
  ret i64 %x
}
define double @call(double %x) {
  %y = call double @cos(double %x)
  %z = fadd double %y, 1.0
  ret double %z
}
define ptr @foreign() {
  ret ptr @environ
}
"""
NAMES = ("through_table", "cosine", "weight", "counted", "environment", "fourth")


def compiled(text: str, isa: Isa) -> bytes:
    return jit.compile_object(f'target triple = "{isa.triple}"\n{text}', isa)


def objects() -> list[bytes]:
    return [compiled(text, host()) for text in (TEXT, OTHER)]


@pytest.fixture(scope="module")
def arm() -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return compiled(ARM_TEXT, ARM)


def answers(address: Callable[[str], int]) -> list[object]:
    i64, f64, pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    through_table = ctypes.CFUNCTYPE(i64, i64, i64)(address("through_table"))
    cosine = ctypes.CFUNCTYPE(f64, f64)(address("cosine"))
    weight = ctypes.CFUNCTYPE(f64, i64)(address("weight"))
    counted = ctypes.CFUNCTYPE(i64, i64)(address("counted"))
    environment = ctypes.CFUNCTYPE(pointer)(address("environment"))
    fourth = ctypes.CFUNCTYPE(i64, i64)(address("fourth"))
    return [*(through_table(k, 7) for k in range(3)), cosine(0.3), *(weight(k) for k in range(4)),
            *(counted(k) for k in (0, 999, 0)), environment(), fourth(3)]


@HERE
def test_links_as_llvm_does() -> None:
    parts = objects()
    ours, llvms = LoadedCode(parts), LinkedCode(parts, host())
    expected = llvms.addresses(NAMES)
    got = answers(ours.address)
    assert got == answers(expected.__getitem__)
    assert got[:3] == [14, 49, 12] and got[8:11] == [42, 43, 86] and got[-1] == 81


@HERE
def test_kernels_give_the_same_bits() -> None:
    builder, type_ = Builder("g"), TensorType(F32, (33, 5))
    node = builder.emit(Add(), builder.input(type_, "x"), builder.input(type_, "y")).node
    raw = compile_kernels([kit.lower(node, host())], host())
    part = raw[8 + int.from_bytes(raw[:8], "little"):]
    x, y = (np.random.default_rng(seed).standard_normal((33, 5)).astype(np.float32) for seed in (0, 1))
    tables = (LoadedCode([part]), LinkedCode([part], host()))
    results = []
    for code, table in ((tables[0], tables[0].address("functions_0")),
                        (tables[1], tables[1].addresses(["functions_0"])["functions_0"])):
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(
            ctypes.c_uint64.from_address(table).value)
        out = np.zeros_like(x)
        buffers = (ctypes.c_void_p * 3)(x.ctypes.data, y.ctypes.data, out.ctypes.data)
        for chunk in range(8):
            function(buffers, chunk, None)
        results.append(out)
        del code
    assert results[0].tobytes() == results[1].tobytes() == (x + y).tobytes()


def protection(address: int) -> str | None:
    """The protection of the page at an address; None where there is none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[1]
    return None


@HERE
def test_nothing_is_writable_and_executable_and_all_goes_with_its_owner() -> None:
    code = LoadedCode(objects())
    text, constants = code.address("cosine"), code.address("table")
    assert protection(text) == "r-xp"
    assert protection(constants) == "r--p"
    block = range(code._base, code._base + len(code._block))
    assert {protection(at) for at in block[::4096]} == {"r-xp", "r--p", "rw-p"}
    del code
    gc.collect()
    assert protection(text) is None or protection(text) != "r-xp"


@HERE
def test_missing_symbols_are_named() -> None:
    code = compiled("declare i64 @no_such_function(i64)\ndefine i64 @f(i64 %x) {\n"
                    "  %y = call i64 @no_such_function(i64 %x)\n  ret i64 %y\n}\n", host())
    with pytest.raises(LoadError, match="no symbol 'no_such_function'"):
        LoadedCode([code])
    with pytest.raises(LoadError, match="no symbol 'g'"):
        LoadedCode(objects()).address("g")
    with pytest.raises(LoadError, match="two definitions of 'twice'"):
        LoadedCode([objects()[0], compiled(TEXT, host())])


@HERE
def test_llvm_links_what_we_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MACHINES", {})
    with pytest.raises(LoadError, match="ELF machine"):
        LoadedCode(objects())
    library = jit.Library(objects(), host())
    assert answers(library.load(NAMES).__getitem__)[-1] == 81


def link(*parts: bytes) -> tuple[Layout, bytearray]:
    """Link without running anything, with every foreign symbol at some address."""
    layout = Layout([read_object(part) for part in parts])
    if layout.size > 1 << 24:
        raise LoadError("more than a test should take")
    block = bytearray(layout.size)
    layout.write(block, BASE, lambda name: 0x7F99_0000_0000 + 16 * len(name))
    assert len(block) == layout.size
    return layout, block


def refused(part: bytes, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        link(part)


def test_other_formats_are_refused(arm: bytes) -> None:
    refused(b"", "not a 64-bit")
    refused(b"\xcf\xfa\xed\xfe" + bytes(200), "not a 64-bit")
    refused(arm[:16] + b"\x03\0" + arm[18:], "not a relocatable")
    refused(arm[:18] + b"\x28\0" + arm[20:], "machines")


def sections(part: bytes) -> list[tuple[int, list[int]]]:
    """(position of the header, its fields) of each section."""
    start, = struct.unpack_from("<Q", part, 40)
    count, = struct.unpack_from("<H", part, 60)
    return [(start + 64 * i, list(struct.unpack_from("<IIQQQQIIQQ", part, start + 64 * i))) for i in range(count)]


def changed(part: bytes, at: int, form: str, value: int) -> bytes:
    copy = bytearray(part)
    struct.pack_into(form, copy, at, value)
    return bytes(copy)


def test_damaged_tables_are_refused(arm: bytes) -> None:
    rela = next(row for _, row in sections(arm) if row[1] == 4)
    symbols = next(row for _, row in sections(arm) if row[1] == 2)
    text_at, text = next((at, row) for at, row in sections(arm) if row[2] & 4)
    refused(changed(arm, rela[4], "<Q", 1 << 40), "outside its section")
    refused(changed(arm, rela[4] + 8, "<I", 9999), "relocation of kind 9999")
    refused(changed(arm, rela[4] + 12, "<I", 9999), "relocation by symbol 9999")
    refused(changed(arm, text_at + 32, "<Q", 1 << 50), "a section of")
    refused(changed(arm, text_at + 48, "<Q", 3), "aligned to 3 bytes")
    refused(changed(arm, text_at + 8, "<Q", text[2] | 1), "written and executed")
    last = symbols[4] + symbols[5] - 24
    refused(changed(arm, last + 8, "<Q", 1 << 50), "ends outside its section")
    refused(changed(arm, last + 4, "<B", 0x1A), "type 10")
    refused(changed(arm, last, "<I", 1 << 30), "a name at")


@pytest.mark.parametrize("which", ["here", "arm"])
def test_damage_never_gives_anything_but_a_refusal_or_a_program(which: str, arm: bytes) -> None:
    part = arm if which == "arm" else compiled(TEXT, host())
    outcomes = [0, 0]
    for size in range(0, len(part), 5):
        outcomes[attempt(part[:size])] += 1
    assert outcomes[0] > len(part) // 6  # all but those that lose nothing of use
    rng = random.Random(20261123)
    for _ in range(3000):
        copy = bytearray(part)
        for _ in range(rng.choice((1, 1, 2, 8))):
            copy[rng.randrange(len(copy))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        outcomes[attempt(bytes(copy))] += 1
    assert min(outcomes) > 100


def attempt(part: bytes) -> bool:
    try:
        link(part)
    except LoadError:
        return False
    return True


def words(block: bytearray, at: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}I", block, at)


def page_of(word: int, place: int) -> int:
    """Where an ADRP at ``place`` points."""
    pages = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
    return (place & -4096) + ((pages ^ 1 << 20) - (1 << 20)) * 4096


def test_arm_code_is_relocated_as_its_instructions_ask(arm: bytes) -> None:
    assert read_object(arm).machine == AARCH64
    layout, block = link(arm)
    exports = layout.exports()
    pointers = struct.unpack_from("<2Q", block, exports["pointers"])
    assert pointers == (BASE + exports["address"], BASE + exports["call"])

    def pair(name: str, scale: int) -> int:
        """What an ADRP and the instruction behind it address."""
        at = exports[name]
        adrp, second = words(block, at, 2)
        assert adrp & 0x9F000000 == 0x90000000
        return page_of(adrp, BASE + at) + (second >> 10 & 0xFFF) * scale

    data = next(start for kind, start, _ in layout.parts if kind == "data")
    assert pair("address", 1) == BASE + data + 24
    assert pair("element", 8) == BASE + data + 16
    slot = pair("foreign", 8) - BASE
    assert struct.unpack_from("<Q", block, slot) == (0x7F99_0000_0000 + 16 * len("environ"),)
    calls = [(at, word) for at in range(exports["call"], exports["call"] + 40, 4)
             for word in words(block, at, 1) if word >> 26 == 0b100101]
    at, word = calls[0]
    stub = at + 4 * (word & 0x3FFFFFF)
    adrp, load, jump, _ = words(block, stub, 4)
    slot = page_of(adrp, BASE + stub) + 8 * (load >> 10 & 0xFFF) - BASE
    assert struct.unpack_from("<Q", block, slot) == (0x7F99_0000_0000 + 16 * len("cos"),)
    assert (load & 0xFFC003FF, jump) == (0xF9400210, 0xD61F0200)  # ldr x16, [x16, ..]; br x16


def test_distances_out_of_reach_are_refused() -> None:
    intel, arm_rules = MACHINES[X86_64].rules, MACHINES[AARCH64].rules
    assert intel[2].value(4096, 8192, 0) == (1 << 32) - 4096
    assert arm_rules[283].value(4096, 8192, 0x94000000) == 0x97FFFC00
    with pytest.raises(LoadError, match="32 bits"):
        intel[2].value(1 << 31, 0, 0)
    with pytest.raises(LoadError, match="28 bits"):
        arm_rules[283].value(1 << 27, 0, 0x94000000)
    with pytest.raises(LoadError, match="33 bits"):
        arm_rules[275].value(1 << 33, 0, 0x90000000)
    with pytest.raises(LoadError, match="no instruction"):
        arm_rules[283].value(2, 0, 0x94000000)
    with pytest.raises(LoadError, match="8 bytes to offset 4"):
        arm_rules[286].value(4, 0, 0)
