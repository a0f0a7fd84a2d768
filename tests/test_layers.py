"""Which folder may import which. See docs/design.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "afterburner"
BASE = {"options", "errors"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    """``passes`` for passes/fuse.py, ``options`` for options.py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


ALL = {room_of(file) for file in FILES}
ALLOWED: dict[str, set[str]] = {  # folder or module: what of ours it may import besides itself, and BASE
    "options": set(),
    "errors": set(),
    "support": set(),
    "ir": set(),
    "passes": {"ir"},
    "runtime": {"ir"},
    "frontend": {"passes", "runtime", "ir", "report"},
    "cpu": {"passes", "runtime", "ir"},
    "gpu": {"passes", "runtime", "ir"},
    "report": {"runtime"},
    "hardware": {"cpu", "gpu", "runtime"},
    "compile": {"frontend", "cpu", "gpu", "hardware", "passes", "runtime", "ir", "report"},
    "activate": {"compile", "frontend", "hardware", "report", "support"},
    "bisect": {"cpu", "passes", "runtime", "ir"},
    "workloads": set(),
    "selftest": {"compile", "hardware", "runtime", "ir"},
    "compat": set(),  # what every program may use; see below
    "__init__": {"activate", "compat", "compile", "hardware", "report"},
    "cli": ALL,
    "__main__": {"cli"},
}
ONLY_IN = {"tensorflow": ("frontend", "workloads", "cli/selftest.py"), "keras": ("frontend", "workloads"),
           "llvmlite": ("cpu",), "mlx": ("gpu",)}


def imports(file: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, wherever in it."""
    package = ["afterburner", *file.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_only_what_lies_below(file: Path) -> None:
    room = room_of(file)
    assert room in ALLOWED, f"say in ALLOWED and in docs/design.md what {room} may import"
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("afterburner.")}
    assert ours <= ALLOWED[room] | BASE | {room}


def test_compat_uses_only_what_every_program_may() -> None:
    import afterburner

    names = {name for file in FILES if room_of(file) == "compat" for name in imports(file)}
    ours = {name for name in names if name.split(".")[0] == "afterburner"} - {"afterburner"}
    assert {name.removeprefix("afterburner.") for name in ours} <= set(afterburner.__all__)


def test_runtime_knows_only_the_types_of_the_language() -> None:
    names = {name for file in FILES if room_of(file) == "runtime" for name in imports(file)}
    assert {n for n in names if n.startswith("afterburner.ir") and not n.startswith("afterburner.ir.types")} == set()


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_is_imported_only_where_it_belongs(library: str) -> None:
    using = [file for file in FILES if any(name.split(".")[0] == library for name in imports(file))]
    users = {str(file.relative_to(PACKAGE)) for file in using}
    assert {user for user in users if not user.startswith(ONLY_IN[library])} == set()


def test_only_options_reads_the_environment() -> None:
    def reads(file: Path) -> bool:
        return any(isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
                   for node in ast.walk(ast.parse(file.read_text())))

    assert {str(f.relative_to(PACKAGE)) for f in FILES if reads(f)} == {"options.py"}


def test_rules_are_of_rooms_that_there_are() -> None:
    assert set(ALLOWED) == ALL
