"""Reads relocatable ELF64 object files, as LLVM writes them, without trusting any number in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

X86_64, AARCH64 = 62, 183  # e_machine

_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_RELOCATABLE = 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")

_PROGBITS, _SYMTAB, _RELA_TABLE, _NOTE, _NOBITS, _REL_TABLE, _UNWIND = 1, 2, 4, 7, 8, 9, 0x70000001
_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 0x400
_UNDEFINED, _RESERVED, _ABSOLUTE = 0, 0xFF00, 0xFFF1
_LOCAL, _GLOBAL = 0, 1
_SYMBOL_TYPES = range(5)  # none, object, function, section, file; not thread-local, common or indirect
_LARGEST_ALIGNMENT = 4096  # bytes: the smallest page there is

TEXT, CONSTANT, DATA = "text", "constant", "data"


class LoadError(Exception):
    """An object file that cannot be read or linked here; the message says why."""


@dataclass(frozen=True)
class Section:
    """A section that takes part in the program.

    Attributes:
        kind: TEXT (executed), CONSTANT (read only once relocated) or DATA.
        size: in bytes.
        alignment: in bytes, a power of two.
        data: its bytes; empty for a section of zeros.
    """

    kind: str
    size: int
    alignment: int
    data: bytes


@dataclass(frozen=True)
class Symbol:
    """A name or place in an object file.

    Attributes:
        name: "" for a section.
        section: index of the section it lies in; None where it is ``external`` or a plain number.
        value: offset in the section, or the number.
        external: defined elsewhere.
        exported: seen by other object files.
    """

    name: str
    section: int | None
    value: int
    external: bool
    exported: bool


@dataclass(frozen=True)
class Relocation:
    """A place in section ``section`` to be computed from ``symbol`` and ``addend``, as ``kind`` says."""

    section: int
    offset: int
    kind: int
    symbol: Symbol
    addend: int


@dataclass(frozen=True)
class ObjectFile:
    """What linking needs to know of an object file: ``sections`` by index."""

    machine: int
    sections: dict[int, Section]
    symbols: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]


def read_object(raw: bytes) -> ObjectFile:
    """Parse an object file.

    Raises:
        LoadError: it is damaged, or has something that our code generator never emits.
    """
    machine, rows, names = _section_rows(raw)
    sections: dict[int, Section] = {}
    for index, row in enumerate(rows):
        section = _section(raw, row, _text(names, row[0]))
        if section is not None:
            sections[index] = section
    tables = [row for row in rows if row[1] == _SYMTAB]
    if len(tables) != 1:
        raise LoadError(f"an object file with {len(tables)} symbol tables")
    symbols = tuple(_symbols(raw, rows, tables[0], sections))
    return ObjectFile(machine, sections, symbols, tuple(_relocations(raw, rows, sections, symbols)))


def _section_rows(raw: bytes) -> tuple[int, list[tuple[int, ...]], bytes]:
    """The machine, the section headers, and the table of their names."""
    if not raw.startswith(_MAGIC):
        raise LoadError("not a 64-bit little-endian ELF file")
    ident, type_, machine, version, _, _, start, _, _, _, _, row_size, count, names = _unpack(_HEADER, raw, 0)
    if type_ != _RELOCATABLE or version != 1 or row_size != _SECTION.size:
        raise LoadError("not a relocatable ELF file of version 1")
    table = _slice(raw, start, count * row_size, "section headers")
    rows = list(_SECTION.iter_unpack(table))
    if not 0 < names < count:
        raise LoadError("an ELF file without section names")
    return machine, rows, _contents(raw, rows[names])


def _section(raw: bytes, row: tuple[int, ...], name: str) -> Section | None:
    """The section, or None where it is not part of the program."""
    _, type_, flags, _, _, size, _, _, alignment, _ = row
    if type_ == _REL_TABLE:
        raise LoadError("relocations without addends")
    if not flags & _ALLOC or type_ == _UNWIND or name == ".eh_frame":
        return None  # our code throws nothing, and what it calls neither
    if type_ not in (_PROGBITS, _NOBITS, _NOTE) or flags & _TLS:
        raise LoadError(f"a section {name!r} of type {type_:#x} and flags {flags:#x}")
    if alignment > _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise LoadError(f"a section {name!r} aligned to {alignment} bytes")
    if flags & _WRITE and flags & _EXEC:
        raise LoadError(f"a section {name!r} that is written and executed")
    constant = not flags & _WRITE or name.startswith(".data.rel.ro")
    kind = TEXT if flags & _EXEC else CONSTANT if constant else DATA
    return Section(kind, size, max(alignment, 1), b"" if type_ == _NOBITS else _contents(raw, row))


def _symbols(raw: bytes, rows: list[tuple[int, ...]], table: tuple[int, ...],
             sections: dict[int, Section]) -> Iterator[Symbol]:
    names = _contents(raw, _row(rows, table[6]))
    for name_at, info, _, index, value, size in _entries(_SYMBOL, raw, table):
        binding, type_, name = info >> 4, info & 15, _text(names, name_at)
        if type_ not in _SYMBOL_TYPES or binding not in (_LOCAL, _GLOBAL):
            raise LoadError(f"a symbol {name!r} of type {type_} and binding {binding}")
        external = index == _UNDEFINED
        if index >= _RESERVED and index != _ABSOLUTE:
            raise LoadError(f"a symbol {name!r} in the reserved section {index:#x}")
        if index in sections and value + size > sections[index].size:
            raise LoadError(f"a symbol {name!r} that ends outside its section")
        place = None if external or index == _ABSOLUTE else index
        yield Symbol(name, place, value, external, binding == _GLOBAL and not external)


def _relocations(raw: bytes, rows: list[tuple[int, ...]], sections: dict[int, Section],
                 symbols: tuple[Symbol, ...]) -> Iterator[Relocation]:
    for row in rows:
        target = row[7]
        if row[1] != _RELA_TABLE or target not in sections:
            continue
        for offset, info, addend in _entries(_RELA, raw, row):
            number = info >> 32
            if number >= len(symbols):
                raise LoadError(f"a relocation by symbol {number} of {len(symbols)}")
            yield Relocation(target, offset, info & 0xFFFFFFFF, symbols[number], addend)


def _entries(form: struct.Struct, raw: bytes, row: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    table = _contents(raw, row)
    if row[9] != form.size or len(table) % form.size:
        raise LoadError(f"a table of {len(table)} bytes with entries of {row[9]}, not {form.size}")
    return form.iter_unpack(table)


def _row(rows: list[tuple[int, ...]], index: int) -> tuple[int, ...]:
    if index >= len(rows):
        raise LoadError(f"section {index} of {len(rows)}")
    return rows[index]


def _contents(raw: bytes, row: tuple[int, ...]) -> bytes:
    return _slice(raw, row[4], row[5], "a section")


def _slice(raw: bytes, start: int, size: int, what: str) -> bytes:
    if start + size > len(raw):
        raise LoadError(f"{what} of {size} bytes at {start} in a file of {len(raw)}")
    return raw[start: start + size]


def _unpack(form: struct.Struct, raw: bytes, at: int) -> tuple[Any, ...]:
    return form.unpack(_slice(raw, at, form.size, "a header"))


def _text(names: bytes, at: int) -> str:
    end = names.find(b"\0", at)
    if end < 0:
        raise LoadError(f"a name at {at} in a table of {len(names)} bytes")
    return names[at: end].decode("latin-1")
