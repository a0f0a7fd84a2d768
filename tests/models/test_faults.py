"""Whatever breaks, training goes on with TensorFlow's numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import afterburner
from afterburner.options import overridden
from tests.frontend.kit import close
from tests.models.zoo import CASES


def _train() -> list[np.ndarray]:
    case = CASES["mlp"]
    model = case.model(0.25)
    model.compile("adam", case.loss, metrics=["accuracy"])
    x, y = case.data(96)
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    return [history.history["loss"], *model.get_weights()]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return _train()


@pytest.mark.parametrize("fault", ["rule", "codegen", "run"])
def test_planted_faults(expected, fault, capfd, tmp_path):
    with overridden(strict=False, fault=fault, verbosity="line", cache_dir=tmp_path), afterburner.enabled():
        close(_train(), expected, 1e-6)
    (line,) = [text for text in capfd.readouterr().err.splitlines() if "planted" in text]
    assert line.startswith("afterburner: multi_step_on_iterator")


def _trained(expected: list[np.ndarray]) -> list[bool]:
    """Train as expected; of each compiled part, whether it came from the cache."""
    before = len(afterburner.report().functions)
    close(_train(), expected, 1e-5)
    return [part.cached for function in afterburner.report().functions[before:] for part in function.parts]


def _damage(how: str, folder: Path) -> int:
    """Damage all files; how many objects were among them."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    for path in files:
        raw = path.read_bytes()
        if how == "truncated":
            path.write_bytes(raw[: len(raw) // 2])
        elif how == "corrupted":
            path.write_bytes(raw[:-40] + bytes(b ^ 0xFF for b in raw[-40:]))
        elif how == "emptied":
            path.write_bytes(b"")
    return sum(path.parent.name == "objects" for path in files)


@pytest.fixture(scope="module")
def filled(expected, tmp_path_factory) -> tuple[Path, int]:
    """A cache with the objects of a training, and how many."""
    folder = tmp_path_factory.mktemp("filled")
    with overridden(cache_dir=folder), afterburner.enabled():
        cold, warm = _trained(expected), _trained(expected)
    assert cold and not any(cold) and all(warm)
    return folder, len(cold)


@pytest.mark.parametrize("how", ["truncated", "corrupted", "emptied"])
def test_a_damaged_cache_is_compiled_anew(expected, filled, how, tmp_path):
    folder, objects = filled
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with overridden(cache_dir=tmp_path), afterburner.enabled():
        assert _damage(how, tmp_path) >= objects
        assert not any(_trained(expected)) and all(_trained(expected))


def test_a_cache_that_cannot_be_written(expected, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with overridden(cache_dir=blocked), afterburner.enabled():
        parts = _trained(expected)
    assert parts and not any(parts)
    assert caplog.text.count("compiled objects are not kept") == 1


def test_a_full_disk(expected, tmp_path, monkeypatch, caplog):
    def full(*arguments: object, **keywords: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "fsync", full)
    with overridden(cache_dir=tmp_path), afterburner.enabled():
        parts = _trained(expected)
    assert parts and not any(parts)
    assert caplog.text.count("compiled objects are not kept: cannot write") == 1
    assert "No space left on device" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


_CHILD = """
import afterburner
afterburner.enable()
from tests.models.test_faults import _train
import numpy as np
print(repr(float(np.sum([np.abs(w).sum() for w in _train()[1:]]))))
"""


def test_two_processes_fill_one_cache_and_a_third_reads_it(expected, tmp_path):
    environment = {**os.environ, "AFTERBURNER_CACHE_DIR": str(tmp_path), "AFTERBURNER_VERBOSITY": "line"}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", _CHILD], env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    together = [start(), start()]
    results = [p.communicate(timeout=300) for p in together]
    results.append(start().communicate(timeout=300))
    sums = [float(out) for out, _ in results]
    assert len(set(sums)) == 1
    np.testing.assert_allclose(sums[0], np.sum([np.abs(w).sum() for w in expected[1:]]), rtol=1e-5)
    assert "from the cache" in results[2][1]
