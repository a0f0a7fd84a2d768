"""Instruction sets as data: what the generated code may use and how tiles are cut."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from ..options import Options
from . import blas
from .host import this_host


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    Attributes:
        name: "avx512", "avx2", "neon" or "generic".
        vector_bytes: width of one vector register.
        registers: number of vector registers.
        fma: has fused multiply-add.
        bf16_dot: has the bfloat16 pair dot product; written out where ``features`` are without it (for tests).
        triple: LLVM target triple.
        cpu: LLVM CPU name, "" for none in particular.
        features: LLVM feature string.
        precision: "default", or "fast": float32 convolutions may take Winograd's algorithms of any size, and
            contractions round to bfloat16 where ``bf16_dot``.
        library: large matrix products call a library (see ``blas``).
    """

    name: str
    vector_bytes: int
    registers: int
    fma: bool
    bf16_dot: bool
    triple: str
    cpu: str
    features: str
    precision: str = "default"
    library: bool = False

    def lanes(self, element_bytes: int) -> int:
        """Elements of this size in one register."""
        return self.vector_bytes // element_bytes

    @property
    def first_level_bytes(self) -> int:
        """Size of a core's first-level cache of data, as far as it is known to be more than 32 KiB."""
        return 48 << 10 if self.cpu in _LARGE_FIRST_LEVEL else 32 << 10

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of whole registers that start in a cycle, of floats as of bfloat16 pairs."""
        return 1 if self.name == "avx512" and self.cpu in _ONE_A_CYCLE else 2

    @property
    def finds_zeros(self) -> bool:
        """Whether convolutions gain by leaving out zeros that are found as they run. Of four instructions a cycle two
        may be multiply-adds of 512 bits; then what finds zeros takes longer than the half of the products it saves."""
        return self.cpu not in _FOUR_A_CYCLE


# LLVM's names of processors whose first-level caches hold 48 KiB: Intel's since Ice Lake, AMD's since Zen 5
_LARGE_FIRST_LEVEL = frozenset((
    "icelake-client", "icelake-server", "tigerlake", "rocketlake", "sapphirerapids", "emeraldrapids", "graniterapids",
    "graniterapids-d", "diamondrapids", "znver5"))
# processors with AVX-512 that start four instructions a cycle: Intel's Skylake and what was made of it
_FOUR_A_CYCLE = frozenset(("skylake-avx512", "cascadelake", "cooperlake", "cannonlake"))
# processors that compute 512 bits in two halves, or in one unit
_ONE_A_CYCLE = frozenset(("znver4", "icelake-client", "tigerlake", "rocketlake", "cannonlake"))


_FORMS = {
    "avx512": dict(vector_bytes=64, registers=32, fma=True),
    "avx2": dict(vector_bytes=32, registers=16, fma=True),
    "neon": dict(vector_bytes=16, registers=32, fma=True),
    "generic": dict(vector_bytes=16, registers=16, fma=False),
}
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
_AVX2 = ("avx2", "fma", "f16c")


def host_features() -> dict[str, bool]:
    """What LLVM finds on this machine: feature name to presence."""
    return this_host().features


def available() -> tuple[str, ...]:
    """Names of the instruction sets this machine can execute, widest first."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ("neon",)
    found = host_features()
    names = [n for n, needs in (("avx512", _AVX512), ("avx2", _AVX2)) if all(found.get(f) for f in needs)]
    return (*names, "generic") if platform.machine().lower() in ("x86_64", "amd64") else ("generic",)


def host(name: str | None = None, precision: str = "default") -> Isa:
    """The description of this machine's instruction set, or of the one named, for arithmetic of a precision.

    A set that the machine lacks keeps its shape (vector width, tiles) and is compiled with the
    features that are there, LLVM splitting the vectors: right, but slow; for tests.

    Raises:
        KeyError: no instruction set of that name.
    """
    chosen = name or available()[0]
    form = _FORMS[chosen]
    features = _features(chosen)
    return Isa(
        name=chosen, bf16_dot=chosen == "avx512" and host_features().get("avx512bf16", False),
        triple=this_host().triple, cpu=this_host().cpu if name is None else "",
        features=features, precision=precision, **form,  # type: ignore[arg-type]
    )


def chosen(options: Options) -> Isa:
    """The instruction set, arithmetic and library of some settings."""
    return replace(host(options.isa or None, options.precision), library=blas.wanted(options))


def _features(name: str) -> str:
    """Only the features of the named set, so that an override is not quietly given wider ones."""
    found = host_features()
    if name == "avx512" or platform.machine().lower() not in ("x86_64", "amd64"):
        return ",".join(f"+{f}" if on else f"-{f}" for f, on in sorted(found.items()))
    wider = [f for f in found if f.startswith(("avx512", "avx10", "amx"))]
    dropped = set(wider) if name == "avx2" else {*wider, "avx", "avx2", "fma", "f16c", "fma4", "xop"}
    dropped |= {f for f in found if f.startswith("avx")} if name == "generic" else set()
    return ",".join(f"+{f}" if on and f not in dropped else f"-{f}" for f, on in sorted(found.items()))
