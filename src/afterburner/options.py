"""Every knob, its environment variable and its meaning. The only reader of ``os.environ``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import platformdirs

PREFIX = "AFTERBURNER_"
VERBOSITY = ("silent", "line", "detail")
PRECISION = ("default", "fast")
DEVICES = ("any", "cpu", "gpu")
FORK = {  # option: the variable by which Apple's fork of 2020 knew it; ours counts where both are set
    "disable": "TF_DISABLE_MLC", "log_graphs": "TF_MLC_LOGGING", "skip_ops": "TF_DISABLE_MLC_EAGER",
    "poison": "TF_MLC_ALLOCATOR_INIT_VALUE",
}


class OptionError(ValueError):
    """A variable or argument with a value that has no meaning; the message lists what has."""


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("", "0", "false", "no", "off"):
        return False
    raise OptionError(f"{text!r} is not 0 or 1")


def _count(text: str) -> int:
    if not text.strip().isdigit():
        raise OptionError(f"{text!r} is not a whole number")
    return int(text)


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise OptionError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.replace(",", ";").split(";") if name)


def _number(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{text!r} is not a number") from None


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _knob(default: Any, parse: Callable[[str], Any], help_: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": help_})


@dataclass(frozen=True)
class Options:
    """The settings of a process. Each field is read from ``AFTERBURNER_<FIELD>``, some also from ``FORK``'s name."""

    disable: bool = _knob(False, _flag, "1: total kill switch; TensorFlow is left untouched")
    strict: bool = _knob(False, _flag, "1: raise where a graph would fall back to TensorFlow (for tests)")
    verbosity: str = _knob("line", _one_of(VERBOSITY), "silent, line (one per compiled graph) or detail")
    threads: int = _knob(0, _count, "worker threads; 0: TensorFlow's intra-op setting, else all cores")
    device: str = _knob("any", _one_of(DEVICES), "any (measured where it cannot be known), cpu or gpu (through MLX)")
    gpu_emulate: bool = _knob(False, _flag, "1: the gpu target runs on MLX's CPU device where there is no GPU; slow, "
                              "for tests")
    isa: str = _knob("", str, "instruction set override: avx512, avx2, neon or generic")
    precision: str = _knob("default", _one_of(PRECISION), "fast: float32 convolutions by Winograd's algorithms of any "
                           "size, products of bfloat16 where the processor has an instruction for them, which loses "
                           "digits; default: only what is by norm about as exact as direct sums")
    deterministic: bool = _knob(False, _flag, "1: never measure which device is fastest; what any could choose runs "
                                "on the cpu (so does TensorFlow's own op determinism)")
    accelerate: bool = _knob(True, _flag, "0: on Macs, large matrix products never call Apple's Accelerate, as with "
                             "AFTERBURNER_DETERMINISTIC=1")
    compile_after: int = _knob(1, _count, "calls of a function that run on TensorFlow before it is compiled; "
                               "training steps do not wait")
    variants: int = _knob(4, _count, "signatures of one function that may be compiled")
    skip_ops: tuple[str, ...] = _knob((), _names, "TensorFlow op types never taken, separated by ;")
    skip_passes: tuple[str, ...] = _knob((), _names, "optional passes left out, separated by ;")
    cache: bool = _knob(True, _flag, "0: neither read nor write compiled objects on disk")
    cache_dir: Path | None = _knob(None, _path, "folder of compiled objects; default: the user's cache folder")
    cache_limit: int = _knob(512, _count, "megabytes of compiled objects kept; the least recently used go first")
    dump: Path | None = _knob(None, _path, "folder for the IR after every pass, LLVM code and failure reports")
    log_graphs: bool = _knob(False, _flag, "1: log each graph before and after it is cut, its parts and the operations "
                             "in them, and the device of each")
    poison: float | None = _knob(None, _number, "a number or nan: fill the memory of intermediate values and results "
                                 "with it before each run (finds reads of memory that nothing has written)")
    profile: bool = _knob(False, _flag, "1: time every kernel (afterburner explain sets it)")
    fault: str = _knob("", str, "plant a failure, for tests: rule, codegen or run")

    @cached_property
    def setting(self) -> tuple[str, str, bool, bool]:
        """What decides how, and where, a graph is compiled."""
        return self.precision, self.device, self.deterministic, self.accelerate

    @property
    def cache_path(self) -> Path:
        """Where compiled objects are kept."""
        return self.cache_dir or Path(platformdirs.user_cache_dir("afterburner", appauthor=False))


def from_environment(environment: Mapping[str, str] | None = None) -> Options:
    """Options as the environment sets them.

    Raises:
        OptionError: a variable's value has no meaning; the message names the variable.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for item in fields(Options):
        variable = next((name for name in variables(item.name) if name in source), None)
        if variable is None:
            continue
        try:
            values[item.name] = item.metadata["parse"](source[variable])
        except OptionError as error:
            raise OptionError(f"{variable}: {error}") from None
    return Options(**values)


def stock_environment() -> dict[str, str]:
    """The environment for a process that TensorFlow alone is to run, also behind ``afterburner install``."""
    return {**os.environ, PREFIX + "DISABLE": "1"}


def variables(name: str) -> tuple[str, ...]:
    """Environment variables that set an option; the first that is there counts."""
    return (PREFIX + name.upper(), *([FORK[name]] if name in FORK else []))


def described() -> Iterator[tuple[str, str, str]]:
    """(variable, default, help) of every knob."""
    for item in fields(Options):
        default = item.default
        text = "" if default in (None, (), "") else str(int(default) if isinstance(default, bool) else default)
        ours, *theirs = variables(item.name)
        yield ours, text, item.metadata["help"] + "".join(f" (also {name})" for name in theirs)


def _knobs() -> dict[str, Any]:
    return {item.name: item for item in fields(Options)}


_current: Options | None = None


def options() -> Options:
    """The options in force."""
    global _current
    if _current is None:
        _current = from_environment()
    return _current


def set_options(**changes: Any) -> Options:
    """Change options for this process and return the previous ones.

    Raises:
        TypeError: no option of that name.
        OptionError: a precision or a device that does not exist.
    """
    global _current
    for name in ("precision", "device"):
        if name in changes:
            _knobs()[name].metadata["parse"](changes[name])
    previous = options()
    _current = replace(previous, **changes)
    return previous


@contextmanager
def overridden(**changes: Any) -> Iterator[Options]:
    """Options changed inside a ``with`` block."""
    global _current
    previous = set_options(**changes)
    try:
        yield options()
    finally:
        _current = previous
