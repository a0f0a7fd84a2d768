"""Waits for the import of TensorFlow. Stands outside the package so that it costs next to nothing: the ``.pth`` file
that ``afterburner install`` writes imports it whenever Python starts, also for programs without TensorFlow."""

import sys

TYPE_CHECKING = False  # as type checkers read it; importing typing would take longer than all else here
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class Waiter:
    """A finder for ``sys.meta_path`` that calls ``then`` when the body of tensorflow's module has run."""

    def __init__(self, then: "Callable[[], None]") -> None:
        self.then = then

    def find_spec(self, fullname: str, path: "Sequence[str] | None" = None,
                  target: "ModuleType | None" = None) -> "ModuleSpec | None":
        """The real spec of tensorflow, its loader wrapped. Programs also ask for it without importing anything."""
        if fullname != "tensorflow":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
        return spec


class _Loader:
    def __init__(self, real: "Any", waiter: Waiter) -> None:
        self._real = real
        self._waiter = waiter

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._real, name)

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return self._real.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: "ModuleType") -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        self._real.exec_module(module)
        if self._waiter in sys.meta_path:
            sys.meta_path.remove(self._waiter)  # type: ignore[arg-type]
            self._waiter.then()


def begin() -> None:
    """Accelerate this process if and when it imports TensorFlow."""
    sys.meta_path.insert(0, Waiter(_accelerate))  # type: ignore[arg-type]


def _accelerate() -> None:
    """Whatever is wrong with Afterburner, the program runs."""
    try:
        import afterburner

        afterburner.enable()
    except Exception as error:
        print(f"afterburner: the program runs without Afterburner: {type(error).__name__}: {error}; "
              "`afterburner doctor` looks for the cause", file=sys.stderr)
