"""Runs a Python program inside this process as the interpreter itself would have run it.

The program sees its own ``sys.argv``, ``sys.path[0]``, ``__main__`` and standard input; its exit status,
its tracebacks and what Ctrl-C does are those of ``python SCRIPT``. Nothing here imports more than the
standard library, so a program that never touches TensorFlow starts as quickly as it does plainly.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import os
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from itertools import takewhile
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

import afterburner_startup

from .errors import CommandError

STDIN = "-"
_PACKAGE = Path(__file__).resolve().parent.parent
_OURS = (afterburner_startup.__file__, *(str(path) + os.sep if path.is_dir() else str(path)
                                         for path in _PACKAGE.iterdir() if path.name != "workloads"))
_LIBRARY = os.path.dirname(os.__file__) + os.sep


@dataclass(frozen=True)
class Program:
    """What to run: a script's path, a folder or zip file with a ``__main__``, ``-``, or a module's name."""

    target: str
    arguments: tuple[str, ...] = ()
    module: bool = False


@dataclass(frozen=True)
class _Main:
    """A program ready to start: its code and what ``__main__`` says of itself."""

    code: CodeType
    attributes: dict[str, Any]
    argv0: str


def check(program: Program) -> None:
    """Fail before anything is set up if there is no such script.

    Raises:
        CommandError: the script cannot be opened.
    """
    if program.module or program.target == STDIN:
        return
    try:
        if not os.path.isdir(program.target):
            open(program.target, "rb").close()
    except OSError as error:
        raise CommandError(
            f"can't open script {program.target!r}: {error.strerror}; give the path of a Python program, "
            "or -m and the name of a module") from None


def launch(program: Program) -> None:
    """Run the program to its end.

    Raises:
        CommandError: no such script or module; nothing has run.
        BaseException: whatever ends the program, SystemExit and KeyboardInterrupt included. Left to reach
            the interpreter, it is reported as if the program had been run plainly.
    """
    check(program)
    sys.argv = ["-m" if program.module else program.target, *program.arguments]
    _set_first_path(program)
    main = ModuleType("__main__")
    try:
        ready = _prepare(program)
        sys.argv[0] = ready.argv0
        vars(main).update(ready.attributes)
        sys.modules["__main__"] = main
        exec(ready.code, vars(main))
    except CommandError:
        raise
    except BaseException as error:
        _report_without_our_frames(error)
        raise


def _set_first_path(program: Program) -> None:
    """``sys.path[0]`` as the interpreter sets it; ours was the folder of the ``afterburner`` command."""
    if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
        return
    if program.module:
        first = os.getcwd()
    elif program.target == STDIN:
        first = ""
    elif _is_container(program.target):
        first = os.path.join(os.getcwd(), program.target)
    else:
        first = os.path.dirname(os.path.realpath(program.target))
    sys.path[:1] = [first]


def _is_container(path: str) -> bool:
    """Whether a path is a folder or zip file to be searched for a ``__main__`` module."""
    return pkgutil.get_importer(path) is not None


def _prepare(program: Program) -> _Main:
    if program.module:
        return _prepare_module(program.target)
    if program.target == STDIN:
        return _prepare_stdin()
    if _is_container(program.target):
        return _prepare_container(program.target)
    return _prepare_script(program.target)


def _prepare_stdin() -> _Main:
    code = compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True)
    return _Main(code, _attributes(loader=importlib.machinery.BuiltinImporter, file="<stdin>"), STDIN)


def _prepare_script(target: str) -> _Main:
    path = os.path.join(os.getcwd(), target)  # not normalised: the interpreter does not either
    loader: Any
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader("__main__", path)
        code = loader.get_code("__main__")
    else:
        loader = importlib.machinery.SourceFileLoader("__main__", path)
        with io.open_code(path) as stream:
            code = compile(stream.read(), path, "exec", dont_inherit=True)
    return _Main(code, _attributes(loader=loader, file=path), target)


def _prepare_container(target: str) -> _Main:
    importer: Any = pkgutil.get_importer(os.path.join(os.getcwd(), target))
    spec = importer.find_spec("__main__")
    if spec is None:
        raise CommandError(f"can't find '__main__' module in {target!r}", status=1)
    return _Main(_code(spec), _attributes(spec=spec, loader=spec.loader, file=spec.origin), target)


def _prepare_module(name: str) -> _Main:
    spec = _find_module(name)
    if spec.submodule_search_locations is not None:
        try:
            spec = _find_module(f"{name}.__main__")
        except CommandError:
            raise CommandError(f"No module named {name}.__main__; {name!r} is a package and cannot be "
                               "directly executed", status=1) from None
    attributes = _attributes(spec=spec, loader=spec.loader, file=spec.origin)
    return _Main(_code(spec), attributes, spec.origin or name)


def _find_module(name: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        spec = None
    except ValueError:  # a module that is already loaded without a spec: __main__ itself
        spec = None
    if spec is None:
        raise CommandError(f"No module named {name}", status=1)
    return spec


def _code(spec: ModuleSpec) -> CodeType:
    get_code = getattr(spec.loader, "get_code", None)
    code = get_code(spec.name) if get_code else None
    if code is None:
        raise CommandError(f"No code object available for {spec.name}", status=1)
    return code


def _attributes(
        spec: ModuleSpec | None = None, loader: Any = None, file: str | None = None) -> dict[str, Any]:
    """What the interpreter writes into ``__main__`` before it runs the code."""
    values: dict[str, Any] = {"__builtins__": sys.modules["builtins"], "__loader__": loader, "__spec__": spec}
    values["__package__"] = spec.parent if spec else None
    if sys.version_info < (3, 14):
        values["__annotations__"] = {}
    if file is not None:
        values |= {"__file__": file, "__cached__": spec.cached if spec else None}
    return values


def _report_without_our_frames(error: BaseException) -> None:
    """Have the interpreter's report of ``error`` start at the program's own first frame.

    The hook is set only now, so that the program saw, and may have replaced, the original one.
    """
    original = sys.excepthook
    shown = _without_ours(error.__traceback__, innermost=isinstance(error, KeyboardInterrupt))

    def report(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if value is error:
            value, trace = value.with_traceback(shown), shown
        original(kind, value, trace)

    sys.excepthook = report


def _without_ours(trace: TracebackType | None, innermost: bool) -> TracebackType | None:
    """A traceback without frames of this package.

    An innermost frame of ours is dropped only if asked, with those of the standard library that it has called: there
    the fault is ours, unless it is an interrupt, or the frame is this file's, for what fails here is the program's own
    text, in which no frame has run.
    """
    frames = list(_frames(trace))
    if innermost:
        inside = list(takewhile(lambda item: _is_librarys(item.tb_frame.f_code.co_filename), reversed(frames)))
        around = frames[:len(frames) - len(inside)]
        if around and around[-1].tb_frame.f_code.co_filename.startswith(_OURS) and not _is_this_file(around[-1]):
            frames = around
    kept: TracebackType | None = None
    importing = False  # the importer's frames around one of ours, which the interpreter would have dropped otherwise
    for item in reversed(frames):
        file = item.tb_frame.f_code.co_filename
        importing = file == afterburner_startup.__file__ or (importing and file.startswith("<frozen importlib"))
        ours = _is_this_file(item) or (file.startswith(_OURS) and (innermost or item is not frames[-1]))
        if not (ours or importing):
            kept = TracebackType(kept, item.tb_frame, item.tb_lasti, item.tb_lineno)
    return kept


def _is_this_file(item: TracebackType) -> bool:
    return item.tb_frame.f_code.co_filename == __file__


def _is_librarys(file: str) -> bool:
    return file.startswith(("<frozen ", _LIBRARY)) and "-packages" + os.sep not in file


def _frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next
