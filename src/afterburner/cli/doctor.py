"""``afterburner doctor``: is everything here that is needed, and does a step compile?"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from afterburner import hardware, support
from afterburner.options import Options, described, drop_wrong, options

from . import machine
from .cache import MIB, open_cache, why_unusable

GOOD, NOTE, BAD = "ok", "note", "wrong"
_MARKS = {GOOD: "✓", NOTE: "•", BAD: "✗"}
_SELFTEST_SECONDS = 300


@dataclass(frozen=True)
class Finding:
    """One line of the examination: what was looked at, how it is, what was found and what to do."""

    subject: str
    state: str
    text: str


def examine() -> int:
    """Print every finding; 1 where something is wrong."""
    return conclude(sum(finding.state == BAD for finding in shown_findings()))


def shown_findings() -> list[Finding]:
    """Every finding, each printed as it is made."""
    found = []
    for check in CHECKS:
        for finding in check():
            show(finding)
            found.append(finding)
    return found


def show(finding: Finding) -> None:
    """Print a finding."""
    print(f"{_mark(finding.state)} {finding.subject:<16} {finding.text}", flush=True)


def conclude(wrong: int) -> int:
    """Print how it ended; the exit status."""
    print("everything is in order" if not wrong else f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong")
    return 1 if wrong else 0


def _mark(state: str) -> str:
    """A sign where the terminal can show it, else a word."""
    sign = _MARKS[state]
    try:
        sign.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return f"{state:<5}"
    return sign


def check_variables() -> Iterator[Finding]:
    """Stands first: the other checks ask for options."""
    for wrong in drop_wrong():
        yield Finding("Option", BAD, f"{wrong}; set it to such a value, or leave it out (below it is left out)")


def check_python() -> Iterator[Finding]:
    state, text = GOOD, f"{platform.python_version()} ({sys.executable})"
    if not support.is_supported(platform.python_version(), support.PYTHON):
        state, text = BAD, f"{text}: use {support.text(support.PYTHON)}"
    yield Finding("Python", state, text)


def check_tensorflow() -> Iterator[Finding]:
    supported = support.text(support.TENSORFLOW)
    version = machine.tensorflow_version()
    if version is None:
        yield Finding("TensorFlow", BAD, "not installed: pip install 'tensorflow-afterburner[tensorflow]'")
        return
    if not support.is_supported(version, support.TENSORFLOW):
        yield Finding("TensorFlow", BAD, f"{version} is not supported, {supported} are: "
                      "pip install 'tensorflow-afterburner[tensorflow]'")
    else:
        yield Finding("TensorFlow", GOOD, f"{version} (supported: {supported})")


def check_keras() -> Iterator[Finding]:
    version = machine.version_of("keras")
    if version is None:
        yield Finding("Keras", NOTE, "not installed; tf.function programs are compiled all the same")
    elif int(version.split(".")[0]) < 3:
        yield Finding("Keras", NOTE, f"{version}: this release is tested with Keras 3")
    else:
        yield Finding("Keras", GOOD, version)


def check_processor() -> Iterator[Finding]:
    from afterburner.cpu import isa

    yield Finding("Processor", GOOD, machine.processor_name())
    wanted, available = options().isa, isa.available()
    if wanted and wanted not in available:
        names = ", ".join(available)
        yield Finding("Instructions", BAD, f"AFTERBURNER_ISA={wanted} is none of {names}: unset it")
    else:
        yield Finding("Instructions", GOOD, f"{wanted or available[0]} (available: {', '.join(available)})")


def check_devices() -> Iterator[Finding]:
    """What was found, and what was not."""
    wanted = options().device
    for device in hardware.devices():
        yield Finding("Device", GOOD, str(device))
    why = hardware.why_no_gpu()
    if why:
        yield Finding("Device", BAD if wanted == hardware.GPU else NOTE, f"no gpu: {why}")


def check_precision() -> Iterator[Finding]:
    from afterburner.cpu import isa

    if options().precision == "default":
        yield Finding("Precision", GOOD,
                      "default: about as exact as direct sums; float32 is never rounded to bfloat16")
        return
    rounded = "products may round float32 to bfloat16 (this processor has the instruction)" if isa.host().bf16_dot \
        else "no product rounds float32 to bfloat16 (this processor lacks the instruction)"
    yield Finding("Precision", NOTE, f"fast: convolutions may take Winograd's algorithms of any size; {rounded}")


def check_threads() -> Iterator[Finding]:
    wanted, cores = options().threads, machine.usable_cores()
    if wanted > cores:
        yield Finding("Threads", NOTE, f"AFTERBURNER_THREADS={wanted}, but only {cores} cores may be used")
    else:
        yield Finding("Threads", GOOD, f"{wanted or cores} of {cores} cores")


def check_cache() -> Iterator[Finding]:
    cache = open_cache()
    entries = cache.entries()
    size = sum(entry.size for entry in entries)
    text = f"{cache.path}: {len(entries)} objects, {size / MIB:.1f} of {cache.limit_bytes // MIB} MiB"
    trouble = why_unusable(cache.path)
    if not options().cache:
        yield Finding("Cache", NOTE, "switched off by AFTERBURNER_CACHE=0")
    elif trouble:
        yield Finding("Cache", BAD, trouble)
    else:
        yield Finding("Cache", GOOD, text)


def check_startup() -> Iterator[Finding]:
    from . import install

    file = install.pth_file()
    if not file.exists():
        yield Finding("Start-up", GOOD, "programs are accelerated by `afterburner run`, or when they enable it; "
                      "`afterburner install` does it for all of this environment")
    elif install.works():
        yield Finding("Start-up", GOOD, f"all programs of this environment are accelerated: {file}")
    else:
        yield Finding("Start-up", BAD, f"{file} is there, but Afterburner is not installed in this environment: "
                      "pip install it, or `afterburner uninstall`")


def check_options() -> Iterator[Finding]:
    current, default = options(), Options()
    for variable, _, meaning in described():
        name = variable.removeprefix("AFTERBURNER_").lower()
        if getattr(current, name) != getattr(default, name):
            yield Finding("Option", NOTE, f"{variable}={getattr(current, name)} ({meaning})")


def check_step() -> Iterator[Finding]:
    """Compile and check one training step in a process of its own, so that no crash can end this one."""
    version = machine.tensorflow_version()
    if version is None or not support.is_supported(version, support.TENSORFLOW):
        yield Finding("Self-test", BAD, "needs a supported TensorFlow")
        return
    command = [sys.executable, "-m", "afterburner.cli.selftest"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SELFTEST_SECONDS)
    except subprocess.TimeoutExpired:
        yield Finding("Self-test", BAD, f"did not end in {_SELFTEST_SECONDS} s; report it with the output of "
                      f"{' '.join(command)}")
        return
    lines = (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip().splitlines()
    last = lines[-1] if lines else "no message"
    if done.returncode == 0:
        yield Finding("Self-test", GOOD, last)
    else:
        yield Finding("Self-test", BAD, f"{last} (status {done.returncode}); to see all: {' '.join(command)}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_variables, check_python, check_tensorflow, check_keras, check_processor, check_devices, check_precision,
    check_threads, check_cache, check_startup, check_options, check_step)
