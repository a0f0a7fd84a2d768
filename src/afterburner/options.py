"""Every knob, its environment variable and its meaning. The only reader of ``os.environ``."""

from __future__ import annotations

import os
import tempfile
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
ISAS = ("avx512", "avx2", "neon", "generic")
FAULTS = ("rule", "codegen", "run")
PASSES = (  # those that can be left out; told here, so that a wrong name is found without loading them
    "concatenate_in_place", "defer_affine", "eliminate_common_subexpressions", "eliminate_dead_code", "fold_constants",
    "fuse", "fuse_prologues", "hoist_from_scans", "mark_kept", "mark_sparse", "nest_concatenations", "order",
    "record_maxima", "rematerialize", "simplify", "simplify_scans", "skip_pooled_zeros", "split_scans",
)
_STATELESS = {"StatelessWhile": "While", "StatelessIf": "If", "StatelessCase": "Case"}  # TensorFlow chooses which
FORK = {  # option: the variable by which Apple's fork of 2020 knew it; ours counts where both are set
    "disable": "TF_DISABLE_MLC", "log_graphs": "TF_MLC_LOGGING", "skip_ops": "TF_DISABLE_MLC_EAGER",
    "poison": "TF_MLC_ALLOCATOR_INIT_VALUE",
}


class OptionError(ValueError):
    """A variable or argument with a value that has no meaning; the message lists what has."""


def _flag(given: object) -> bool:
    lowered = str(given).strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("", "0", "false", "no", "off"):
        return False
    raise OptionError(f"{given!r} is not 0 or 1")


def _level(given: object) -> bool:
    """A flag; numbers above 1 set it too, as levels of logging do elsewhere."""
    text = str(given).strip()
    return int(text) > 0 if text.isdecimal() else _flag(given)


def _count(given: object) -> int:
    text = str(given).strip()
    if not text.isdecimal():
        raise OptionError(f"{given!r} is not a whole number from 0 up")
    return int(text)


def _positive(given: object) -> int:
    count = _count(given)
    if count == 0:
        raise OptionError(f"{given!r} is not a whole number from 1 up")
    return count


def _one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    def parse(given: object) -> str:
        if not isinstance(given, str) or given not in choices:
            raise OptionError(f"{given!r} is none of {', '.join(choices)}")
        return given

    return parse


def _nothing_or_one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    return lambda given: "" if given == "" else _one_of(choices)(given)


def _names(given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        return tuple(name.strip() for name in given.replace(",", ";").split(";") if name.strip())
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"{given!r} is not a list of names")
    return tuple(given)


def _passes(given: object) -> tuple[str, ...]:
    names = _names(given)
    for name in names:
        if name not in PASSES:
            raise OptionError(f"{name!r} is none of {', '.join(PASSES)}")
    return names


def _number(given: object) -> float | None:
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    try:
        return float("" if isinstance(given, bool) else given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise OptionError(f"{given!r} is not a number") from None


def _path(given: object) -> Path | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str | os.PathLike) or "\0" in str(given):
        raise OptionError(f"{given!r} is not a path")
    try:
        return Path(given).expanduser().absolute()  # the program may go to another folder
    except (RuntimeError, OSError) as error:
        raise OptionError(f"{given!r} is nowhere: {error}") from None


def _knob(default: Any, parse: Callable[[object], Any], help_: str) -> Any:
    """A field. ``parse`` takes a variable's text or a value of Python, and raises an OptionError for any other."""
    return field(default=default, metadata={"parse": parse, "help": help_})


@dataclass(frozen=True)
class Options:
    """The settings of a process. Each field is read from ``AFTERBURNER_<FIELD>``, some also from ``FORK``'s name."""

    disable: bool = _knob(False, _flag, "1: total kill switch; TensorFlow is left untouched")
    strict: bool = _knob(False, _flag, "1: raise where a graph would fall back to TensorFlow (for tests)")
    verbosity: str = _knob("line", _one_of(VERBOSITY), "silent, line (one a call that compiled something) or detail")
    threads: int = _knob(0, _count, "worker threads; 0: TensorFlow's intra-op setting, else all cores")
    device: str = _knob("any", _one_of(DEVICES), "any (measured where it cannot be known), cpu or gpu (through MLX)")
    gpu_emulate: bool = _knob(False, _flag, "1: the gpu target runs on MLX's CPU device where there is no GPU; slow, "
                              "for tests")
    isa: str = _knob("", _nothing_or_one_of(ISAS), "instruction set override: avx512, avx2, neon or generic")
    precision: str = _knob("default", _one_of(PRECISION), "fast: float32 convolutions by Winograd's algorithms of any "
                           "size, products of bfloat16 where the processor has an instruction for them and of TF32 on "
                           "GPUs that have it, which loses digits; default: only what is by norm about as exact as "
                           "direct sums")
    deterministic: bool = _knob(False, _flag, "1: never measure which device is fastest; what any could choose runs "
                                "on the cpu (so does TensorFlow's own op determinism)")
    accelerate: bool = _knob(True, _flag, "0: on Macs, large matrix products never call Apple's Accelerate, as with "
                             "AFTERBURNER_DETERMINISTIC=1")
    compile_after: int = _knob(1, _count, "calls of a function that run on TensorFlow before it is compiled; "
                               "training steps do not wait")
    variants: int = _knob(4, _positive, "signatures of one function that may be compiled")
    skip_ops: tuple[str, ...] = _knob((), _names, "TensorFlow op types never taken, separated by semicolons; "
                                         "While, If and Case mean StatelessWhile, StatelessIf, StatelessCase as well")
    skip_passes: tuple[str, ...] = _knob((), _passes, "optional passes left out, separated by ;")
    cache: bool = _knob(True, _flag, "0: neither read nor write compiled objects on disk")
    cache_dir: Path | None = _knob(None, _path, "folder of compiled objects; default: the user's cache folder, or "
                                   "one among the temporary files where there is none")
    cache_limit: int = _knob(512, _count, "megabytes of compiled objects kept; the least recently used go first")
    dump: Path | None = _knob(None, _path, "folder for the IR after every pass, LLVM code and failure reports")
    log_graphs: bool = _knob(False, _level, "1: log each graph before and after it is cut, its parts and the "
                             "operations in them, and the device of each")
    poison: float | None = _knob(None, _number, "a number or nan: fill the memory of intermediate values and results "
                                 "with it before each run (finds reads of memory that nothing has written)")
    profile: bool = _knob(False, _flag, "1: time every kernel (afterburner explain sets it)")
    fault: str = _knob("", _nothing_or_one_of(FAULTS), "plant a failure, for tests: rule, codegen or run")

    @cached_property
    def setting(self) -> tuple[str, str, bool, bool]:
        """What decides how, and where, a graph is compiled."""
        return self.precision, self.device, self.deterministic, self.accelerate

    @property
    def fast(self) -> bool:
        """Whether products may lose digits."""
        return self.precision == "fast"

    def skips_op(self, type_: str) -> bool:
        """Whether operations of a type are left to TensorFlow."""
        return type_ in self.skip_ops or _STATELESS.get(type_) in self.skip_ops

    @property
    def cache_path(self) -> Path:
        """Where compiled objects are kept; in the folder of temporary files where a user without a home, as in some
        containers, has no cache folder."""
        if self.cache_dir is not None:
            return self.cache_dir
        usual = Path(platformdirs.user_cache_dir("afterburner", appauthor=False))
        return usual if usual.is_absolute() else _temporary_folder() / f"afterburner-{os.geteuid()}"


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # nothing can be written anywhere, which the cache will say
        return Path("/tmp")


def from_environment(environment: Mapping[str, str] | None = None) -> Options:
    """Options as the environment sets them. A variable that is there but empty counts as not there.

    Raises:
        OptionError: a variable's value has no meaning; the message names the variable.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for name, variable, parse in _given(source):
        try:
            values[name] = parse(source[variable])
        except OptionError as error:
            raise OptionError(f"{variable}: {error}") from None
    return Options(**values)


def drop_wrong() -> list[str]:
    """Take the variables whose values have no meaning out of the environment, also that of processes started later.

    Returns:
        What is wrong with each.
    """
    wrong = []
    for _, variable, parse in [*_given(os.environ)]:
        try:
            parse(os.environ[variable])
        except OptionError as error:
            wrong.append(f"{variable}: {error}")
            del os.environ[variable]
    return wrong


def _given(source: Mapping[str, str]) -> Iterator[tuple[str, str, Callable[[object], Any]]]:
    """(option, the variable that sets it, what reads its text) of every option that the environment sets."""
    for item in fields(Options):
        variable = next((name for name in variables(item.name) if source.get(name, "").strip()), None)
        if variable is not None:
            yield item.name, variable, item.metadata["parse"]


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

    Args:
        changes: values, or texts as their environment variables take them.

    Raises:
        TypeError: no option of that name.
        OptionError: a value that has no meaning for its option; nothing is changed then.
    """
    global _current
    valid = {name: _valid(name, given) for name, given in changes.items()}
    previous = options()
    _current = replace(previous, **valid)
    return previous


def _valid(name: str, given: object) -> Any:
    knob = _knobs().get(name)
    if knob is None:
        raise TypeError(f"no option {name!r}; there are {', '.join(_knobs())}")
    try:
        return knob.metadata["parse"](given)
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from None


@contextmanager
def overridden(**changes: Any) -> Iterator[Options]:
    """Options changed inside a ``with`` block."""
    global _current
    previous = set_options(**changes)
    try:
        yield options()
    finally:
        _current = previous
