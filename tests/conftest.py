"""Every test runs strictly, with a cache of its own and without TensorFlow's log lines."""

from __future__ import annotations

import gc
import os
import tempfile

_FOLDER = tempfile.TemporaryDirectory(prefix="afterburner-test-")
_PRIVATE = {
    "AFTERBURNER_STRICT": "1",
    "AFTERBURNER_VERBOSITY": "silent",
    "AFTERBURNER_CACHE_DIR": _FOLDER.name,
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
}

for _name in [name for name in os.environ if name.startswith("AFTERBURNER_")]:
    del os.environ[_name]
# Processors differ in whether TensorFlow turns oneDNN on, whose joined ReLU makes 0 of NaN: its own kernels are the
# reference, unless somebody asks for the others.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.update(_PRIVATE)  # before tensorflow is imported; child processes inherit it


def pytest_collection_finish() -> None:
    """What TensorFlow, Keras and all tests have loaded stays: the cycle collector need not look through it again."""
    gc.collect()
    gc.freeze()
