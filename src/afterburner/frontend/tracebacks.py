"""Our frames are left out of the tracebacks that TensorFlow and Keras filter, as their own are: else what stays of the
way to an error while a model is traced ends with a frame of ours, and not with the line that raised it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tensorflow.python.util import traceback_utils

_KERASS = "keras.src.utils.traceback_utils"
_OURS = str(Path(__file__).parents[1])


def install() -> None:
    """Leave them out; again where Keras may have been imported since."""
    for module in _modules():
        if _OURS not in module._EXCLUDED_PATHS:  # noqa: SLF001
            module._EXCLUDED_PATHS = (*module._EXCLUDED_PATHS, _OURS)  # noqa: SLF001


def uninstall() -> None:
    """Leave TensorFlow and Keras as they were."""
    for module in _modules():
        module._EXCLUDED_PATHS = tuple(p for p in module._EXCLUDED_PATHS if p != _OURS)  # noqa: SLF001


def _modules() -> list[Any]:
    return [traceback_utils, *([sys.modules[_KERASS]] if _KERASS in sys.modules else [])]
