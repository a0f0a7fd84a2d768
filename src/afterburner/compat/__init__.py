"""What scripts for Apple's TensorFlow fork of 2020 import: ``tensorflow.python.compiler.mlcompute``.

This folder stands in TensorFlow's tree under that name; TensorFlow itself is neither imported nor changed for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "tensorflow.python.compiler.mlcompute"


class _Finder:
    """Finds the package where TensorFlow has none of that name; Python imports its parents by itself."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = list(__path__)
        return spec


def provide() -> None:
    """Let programs import the fork's modules from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())  # type: ignore[arg-type]
