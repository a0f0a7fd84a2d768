"""The choice of a device, from the command line and in code, with real devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import afterburner, run

import afterburner as api
from afterburner import hardware
from afterburner.cli import doctor
from afterburner.compat import mlcompute
from afterburner.gpu import devices
from afterburner.gpu.devices import NoGpu
from afterburner.options import overridden

PROGRAM = """
import tensorflow as tf

@tf.function
def ranked(x):
    return tf.sort(x * 2.0 + 1.0)

for step in range(14):
    result = ranked(tf.reshape(tf.range(4096.0), (8, 512)) + float(step))
print(float(result[7, 511]))
"""
CHOICE = re.compile(r"ranked: stays on (cpu|TensorFlow): [\d.]+ ms on (cpu|TensorFlow) against [\d.]+ ms on "
                    r"(cpu|TensorFlow) \((.*)\)")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def _run(folder: Path, *arguments: str, **environment: str) -> str:
    done = afterburner("run", *arguments, "program.py", cwd=folder, AFTERBURNER_CACHE_DIR=str(folder / "cache"),
                       AFTERBURNER_VERBOSITY="line", **environment)
    assert (done.returncode, done.stdout) == (0, "8217.0\n"), done.stderr
    return done.stderr


def test_a_decision_is_told_and_the_next_process_follows_it(program: Path) -> None:
    first, second = CHOICE.search(_run(program)), CHOICE.search(_run(program))
    assert first is not None and re.fullmatch(r"measured in \d+ steps", first[4])
    assert second is not None and second[4] == "measured before" and second[1] == first[1] == first[2]


def test_nothing_is_measured_where_a_device_was_named_or_numbers_must_not_depend_on_time(program: Path) -> None:
    for text in (_run(program, "--device", "cpu"), _run(program, AFTERBURNER_DETERMINISTIC="1")):
        assert CHOICE.search(text) is None and "on cpu (" in text


def test_every_report_says_that_a_gpu_is_emulated(program: Path) -> None:
    pytest.importorskip("mlx.core")
    text = _run(program, "--device", "gpu", AFTERBURNER_GPU_EMULATE="1")
    assert "on gpu emulated by MLX's cpu device" in text
    for source in (r"measured in \d+ steps", "measured before"):
        text = _run(program, "--device", "any", AFTERBURNER_GPU_EMULATE="1")
        assert re.search(rf"ranked: stays on .* ms on emulated gpu.*\({source}\)", text), text
        assert "on gpu (" not in text and " on gpu a" not in text


def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_gpu", lambda emulate: ("", "no GPU was found: looked here and there"))


def test_a_device_that_is_not_here_is_an_error_that_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_gpu(monkeypatch)
    with overridden(device="cpu"):
        with pytest.raises(api.OptionError, match="device 'gpu': no GPU was found: looked here and there"):
            api.set_device("gpu")
        with pytest.raises(api.OptionError, match="'tpu' is none of any, cpu, gpu"):
            api.set_device("tpu")
        assert api.options().device == "cpu"
        api.set_device("any")
        assert api.options().device == "any"
        with pytest.raises(ValueError, match="looked here"):
            mlcompute.set_mlc_device("gpu")
    with overridden(device="gpu"), pytest.raises(api.OptionError, match="looked here"):
        api.enable()
    with overridden(disable=True):
        api.set_device("gpu")  # TensorFlow is left untouched, whatever is here


def test_where_mlx_sees_no_gpu_the_error_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ())
    with pytest.raises(NoGpu, match="AFTERBURNER_DEVICE=cpu runs without one; AFTERBURNER_GPU_EMULATE=1 tests"):
        devices.choose()


def test_a_variable_that_asks_for_what_is_not_here(program: Path) -> None:
    if not hardware.why_no_gpu():
        pytest.skip("needs a machine without a gpu: asking for one is no error here")
    done = afterburner("run", "program.py", cwd=program, AFTERBURNER_DEVICE="gpu")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("afterburner: device 'gpu': no GPU was ")
    plain = run("-c", "import afterburner; afterburner.enable()", AFTERBURNER_DEVICE="gpu", AFTERBURNER_DISABLE="1")
    assert plain.returncode == 0, plain.stderr


def test_only_what_computes_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu, *_) = api.devices()
    assert cpu.name == "cpu" and "thread" in cpu.description
    mlx = pytest.importorskip("mlx.core")
    from afterburner.gpu import devices

    with overridden(gpu_emulate=True):
        assert [d.name for d in api.devices()] == ["cpu", "gpu"]
    monkeypatch.setattr(mlx, "sum", lambda x: mlx.array(0.0))
    with pytest.raises(devices.NoGpu, match=r"computes 0.0 where 140.0 is right"):
        devices.try_out(devices.Device("", "cpu"))


def test_doctor_lists_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_gpu(monkeypatch)
    cpu, missing = doctor.check_devices()
    assert cpu.state == doctor.GOOD and cpu.text.startswith("cpu: ")
    assert missing.state == doctor.NOTE and "looked here and there" in missing.text
    with overridden(device="gpu"):
        assert [finding.state for finding in doctor.check_devices()] == [doctor.GOOD, doctor.BAD]
