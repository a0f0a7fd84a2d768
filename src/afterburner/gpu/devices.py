"""Where the GPU target can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import AfterburnerError

_SQUARES = 140.0  # the sum of 0² to 7²
_INSTALL = "pip install 'tensorflow-afterburner[gpu]'"


class NoGpu(AfterburnerError):
    """There is no GPU; the message says what was looked for and how to get it."""


@dataclass(frozen=True)
class Device:
    """A device of MLX's.

    Attributes:
        name: of the GPU, as its driver gives it.
        backend: "Metal", "CUDA", or "cpu" where there is no GPU and it is emulated.
        index: among MLX's devices of the kind.
    """

    name: str
    backend: str
    index: int = 0

    @property
    def emulated(self) -> bool:
        return self.backend == "cpu"

    @property
    def mlx(self) -> Any:
        """MLX's own object."""
        from .backend import mx

        return mx.Device(mx.cpu if self.emulated else mx.gpu, self.index)

    def __str__(self) -> str:
        return "gpu emulated by MLX's cpu device" if self.emulated else f"gpu ({self.backend}, {self.name})"


def gpus() -> tuple[Device, ...]:
    """The GPUs that MLX can use here.

    Raises:
        NoGpu: MLX is not installed, or cannot be loaded.
    """
    mx = _mlx()
    if not mx.is_available(mx.gpu):
        return ()
    backend = "Metal" if mx.metal.is_available() else "CUDA"
    count = mx.device_count(mx.gpu)
    return tuple(Device(str(mx.device_info(mx.Device(mx.gpu, i)).get("device_name", "GPU")), backend, i)
                 for i in range(count))


def choose(emulate: bool = False) -> Device:
    """The GPU to run on; with ``emulate`` MLX's CPU device where there is none.

    Raises:
        NoGpu: there is none.
    """
    found = gpus()
    if found:
        return found[0]
    if emulate:
        return Device("", "cpu")
    raise NoGpu("no GPU was found: MLX is installed, but sees neither Metal (macOS on Apple silicon) nor CUDA (Linux "
                f"with an NVIDIA card; {_INSTALL} there). AFTERBURNER_DEVICE=cpu runs without one; "
                "AFTERBURNER_GPU_EMULATE=1 tests the gpu target on MLX's CPU device")


def try_out(device: Device) -> None:
    """Compute a small product on a device.

    Raises:
        NoGpu: it cannot, or the result is wrong.
    """
    mx = _mlx()
    try:
        with mx.stream(device.mlx):
            row = mx.arange(8, dtype=mx.float32)
            found = float(mx.sum(row * row).item())
    except (RuntimeError, ValueError) as error:
        raise NoGpu(f"{device} cannot compute: {error}") from error
    if found != _SQUARES:
        raise NoGpu(f"{device} computes {found} where {_SQUARES} is right")


def mlx_version() -> str:
    """MLX's version.

    Raises:
        NoGpu: MLX is not installed, or cannot be loaded.
    """
    return str(_mlx().__version__)


def _mlx() -> Any:
    try:
        from .backend import mx
    except ImportError as error:
        raise NoGpu(f"no GPU was looked for: MLX cannot be imported ({error}); {_INSTALL} installs it on macOS on "
                    "Apple silicon and on Linux") from error
    return mx
