"""Our frames are left out of the tracebacks that TensorFlow and Keras filter, as their own are: else what stays of the
way to an error while a model is traced ends with a frame of ours, and not with the line that raised it. So they are of
the stacks that TensorFlow keeps of where each operation was made, and tells when one fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow.python.util import tf_stack, traceback_utils

_KERASS = "keras.src.utils.traceback_utils"
_PACKAGE = Path(__file__).parents[1]
_OURS = str(_PACKAGE)
_COMMANDS = str(_PACKAGE / "cli")
_TENSORFLOWS = tf_stack.SentinelFilter


class _Filter(tf_stack.SentinelFilter):  # type: ignore[misc]
    """Leaves frames of these files out of the stacks of a thread."""

    files: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.update()

    def get_filtered_filenames(self) -> frozenset[str]:
        """What filters inside this one leave out, too."""
        return self.files


def install() -> None:
    """Leave them out; again where Keras may have been imported since."""
    for module in _modules():
        if _OURS not in module._EXCLUDED_PATHS:  # noqa: SLF001
            module._EXCLUDED_PATHS = (*module._EXCLUDED_PATHS, _OURS)  # noqa: SLF001
    if tf_stack.SentinelFilter is not _Filter:
        _Filter.files = frozenset([*map(str, (_PACKAGE / "frontend").glob("*.py")), *_launchers()])
        _filter_stacks(_Filter)


def uninstall() -> None:
    """Leave TensorFlow and Keras as they were."""
    for module in _modules():
        module._EXCLUDED_PATHS = tuple(p for p in module._EXCLUDED_PATHS if p != _OURS)  # noqa: SLF001
    _filter_stacks(_TENSORFLOWS)


def _filter_stacks(kind: type[Any]) -> None:
    """Have the outermost filter of every thread, also of those to come, be of a kind."""
    tf_stack.SentinelFilter = kind
    for filters in list(tf_stack._source_filter_stacks.values()):  # noqa: SLF001
        filters[0] = kind()


def _launchers() -> list[str]:
    """Files of the frames around the program where a command of ours runs it."""
    files = list(_files_around())
    return next((files[i:] for i, file in enumerate(files) if file.startswith(_COMMANDS)), [])


def _files_around() -> Iterator[str]:
    """Files of the frames of this thread, the innermost first."""
    frame = sys._getframe()  # noqa: SLF001
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back  # type: ignore[assignment]


def _modules() -> list[Any]:
    return [traceback_utils, *([sys.modules[_KERASS]] if _KERASS in sys.modules else [])]
