"""What the code generator makes for Macs: object files of both formats, register x18, and the symbols they need."""

from __future__ import annotations

import re
import struct
from functools import partial

import llvmlite.binding as llvm
import pytest
from test_zoo import ZOO

from afterburner.cpu import generate, handover
from afterburner.cpu import llvm as ours
from afterburner.cpu.batches import text_of
from afterburner.cpu.compiled import computed
from afterburner.cpu.elf import read_object
from afterburner.cpu.loader import Layout
from afterburner.cpu.program import runtime_text
from afterburner.passes.pipeline import optimize

from . import cross

_MAGIC, _ARM64, _OBJECT = 0xFEEDFACF, 0x0100000C, 1
_SYMTAB, _EXTERNAL, _TYPE = 2, 1, 0x0E
# What the system has: LLVM calls for memory and remainders, the team, Python.
KNOWN = {
    "_memcpy", "_memmove", "_memset", "_bzero", "_fmod", "_fmodf",
    "_clock_gettime", "_nanosleep", "_sched_yield", "_pthread_mutex_init", "_pthread_mutex_lock",
    "_pthread_mutex_unlock", "_pthread_cond_init", "_pthread_cond_wait", "_pthread_cond_broadcast",
    "_PyList_New", "_PyList_GetItem", "_PyList_SetItem", "_PyCapsule_New", "_PyInterpreterState_Get",
    "_PyObject_GetBuffer", "_PyBuffer_IsContiguous", "_PyBuffer_Release",
    "_PyInterpreterState_ThreadHead", "_PyThreadState_Next"}


def texts(triple: str) -> dict[str, str]:
    """LLVM's text of the runtime and of graphs that have every family of kernels."""
    isa = cross.arm_isa(triple)
    found = {"runtime": runtime_text(triple), "handover": handover.text(triple)}
    for build in ZOO:
        nodes = computed(optimize(build()))
        kernels = [partial(generate.kernel_of, text_of(node), isa) for node in nodes]
        found[build.__name__] = generate.text_of_batch(kernels, isa, 0).text
    return found


def mach_symbols(raw: bytes) -> tuple[set[str], set[str]]:
    """Names that a Mach-O object file exports, and those that it needs."""
    magic, processor, _, kind, commands, *_ = struct.unpack_from("<IIIIIIII", raw)
    assert (magic, processor, kind) == (_MAGIC, _ARM64, _OBJECT)
    at, defined, needed = 32, set(), set()
    for _ in range(commands):
        command, size = struct.unpack_from("<II", raw, at)
        if command == _SYMTAB:
            symbols, count, names, _ = struct.unpack_from("<IIII", raw, at + 8)
            for entry in struct.iter_unpack("<IBBHQ", raw[symbols: symbols + 16 * count]):
                start = names + entry[0]
                name = raw[start: raw.index(b"\0", start)].decode()
                if entry[1] & _EXTERNAL:
                    (defined if entry[1] & _TYPE else needed).add(name)
        at += size
    return defined, needed


@pytest.fixture(scope="module", params=[cross.MAC, cross.MAC_ELF])
def code(request: pytest.FixtureRequest) -> tuple[str, dict[str, tuple[bytes, str]]]:
    """A triple, and by name an object file and its assembly."""
    machine = ours.new_machine(cross.arm_isa(request.param))
    made = {}
    for name, text in texts(request.param).items():
        module = ours.parse(text, machine)
        assembly = machine.emit_assembly(module)
        made[name] = ours.emit(machine, ours.parse(text, machine)), assembly
    return request.param, made


def test_register_x18_is_left_alone(code: tuple[str, dict[str, tuple[bytes, str]]]) -> None:
    for name, (_, assembly) in code[1].items():
        assert re.search(r"\bx17\b|\bx16\b|\bx9\b|\bx8\b", assembly), f"{name} has no code"
        assert not re.search(r"\b[xw]18\b", assembly), f"{name} uses register 18"


def test_linux_does_use_it() -> None:
    """So the test above can fail."""
    machine = ours.new_machine(cross.arm_isa(cross.LINUX))
    assemblies = [machine.emit_assembly(ours.parse(text, machine)) for text in texts(cross.LINUX).values()]
    assert any(re.search(r"\b[xw]18\b", assembly) for assembly in assemblies)


def test_objects_have_the_symbols_that_macos_has(code: tuple[str, dict[str, tuple[bytes, str]]]) -> None:
    triple, made = code
    for name, (raw, _) in made.items():
        if triple == cross.MAC:
            defined, needed = mach_symbols(raw)
        else:
            object_ = read_object(raw)
            defined = {f"_{symbol.name}" for symbol in object_.symbols if symbol.exported}
            needed = {f"_{symbol.name}" for symbol in object_.symbols if symbol.external and symbol.name}
        assert needed <= KNOWN, f"{name} needs {needed - KNOWN}"
        wanted = {"runtime": "_program_run", "handover": "_afterburner_release"}.get(name, "_functions_0")
        assert wanted in defined


def test_our_linker_lays_out_what_is_for_apples_abi() -> None:
    machine = ours.new_machine(cross.arm_isa(cross.MAC_ELF))
    for text in texts(cross.MAC_ELF).values():
        layout = Layout([read_object(ours.emit(machine, ours.parse(text, machine)))])
        layout.write(bytearray(layout.size), 0x1_0000_0000, lambda name: 0x1_8000_0000 if f"_{name}" in KNOWN else None)


def test_llvm_has_the_target() -> None:
    cross.arm_isa()
    assert llvm.Target.from_triple(cross.MAC).name == "aarch64"
