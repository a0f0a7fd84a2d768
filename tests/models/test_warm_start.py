"""No process of the user's loads LLVM, and a second one takes all its code from the cache: the same bits."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import afterburner
afterburner.enable()
import keras
import numpy as np
keras.utils.set_random_seed(3)
model = keras.Sequential([
    keras.layers.Input((12, 12, 3)), keras.layers.Conv2D(8, 3, activation="gelu"), keras.layers.MaxPooling2D(),
    keras.layers.Flatten(), keras.layers.Dense(16, activation="tanh"), keras.layers.Dropout(0.25, seed=1),
    keras.layers.Dense(4)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
rng = np.random.default_rng(0)
x, y = rng.random((8, 12, 12, 3), np.float32), rng.integers(0, 4, 8)
losses = [model.train_on_batch(x, y) for _ in range(4)]
digest = hashlib.sha256()
for array in (*model.get_weights(), model.predict(x, verbose=0), np.array(losses)):
    digest.update(np.ascontiguousarray(array).tobytes())
print(json.dumps({
    "llvm": "libllvmlite" in Path("/proc/self/maps").read_text(), "text": "llvmlite.ir" in sys.modules,
    "bits": digest.hexdigest(), "cached": [part.cached for f in afterburner.report().functions for part in f.parts]}))
"""


def train(folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "AFTERBURNER_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
                    reason="elsewhere LLVM links")
def test_a_process_needs_no_llvm_and_a_warm_one_computes_the_same_bits(tmp_path: Path) -> None:
    cold, warm = train(tmp_path / "c"), train(tmp_path / "c")
    assert not any((cold["llvm"], cold["text"], warm["llvm"], warm["text"]))
    assert warm["cached"] and all(warm["cached"]) and not all(cold["cached"])
    assert warm["bits"] == cold["bits"]
