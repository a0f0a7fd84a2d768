"""What is said and done where TensorFlow is missing, of a release we do not know, or switched off."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from commands import afterburner

from afterburner.cli import bench, doctor, machine
from afterburner.cli.errors import CommandError
from afterburner.options import overridden


@pytest.fixture
def fake_tensorflow(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a TensorFlow that is only a version."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("__version__ = '2.15.1'\nfunction = None\n")
    folder = tmp_path / "tensorflow-2.15.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow\nVersion: 2.15.1\n")
    (tmp_path / "program.py").write_text(
        "import afterburner\nfrom afterburner.compat import mlcompute\nprint('wanted:', afterburner.is_enabled())\n"
        "import tensorflow as tf\nprint('ran on', tf.__version__)\n"
        "print('enabled:', afterburner.is_enabled(), mlcompute.is_apple_mlc_enabled())\n")
    return tmp_path


def ran_on(version: str) -> str:
    """What the program of ``fake_tensorflow`` prints where TensorFlow could not be hooked."""
    return f"wanted: True\nran on {version}\nenabled: False False\n"


def test_program_runs_on_a_release_we_do_not_know(fake_tensorflow: Path) -> None:
    done = afterburner("run", "program.py", cwd=fake_tensorflow, AFTERBURNER_VERBOSITY="line",
                       path=str(fake_tensorflow))
    assert (done.returncode, done.stdout) == (0, ran_on("2.15.1"))
    assert done.stderr == ("afterburner: TensorFlow 2.15.1 is not supported, 2.18–2.21 are; "
                           "the program runs without Afterburner\n")


def test_program_runs_where_tensorflow_cannot_be_hooked(fake_tensorflow: Path) -> None:
    (fake_tensorflow / "tensorflow" / "__init__.py").write_text("__version__ = '2.21.0'\nfunction = None\n")
    done = afterburner("run", "program.py", cwd=fake_tensorflow, AFTERBURNER_VERBOSITY="line",
                       AFTERBURNER_STRICT="0", path=str(fake_tensorflow))
    assert (done.returncode, done.stdout) == (0, ran_on("2.21.0"))
    assert done.stderr.startswith("afterburner: the program runs without Afterburner: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("strict", [False, True])
def test_hooks_that_were_set_are_taken_out_where_one_cannot_be(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    from tensorflow.python.eager.polymorphic_function import atomic_function

    import afterburner
    from afterburner.frontend import session

    def fail(engine: object) -> None:
        raise AttributeError("no such place")

    monkeypatch.setattr(session, "install", fail)
    stock = atomic_function.AtomicFunction.call_flat
    with overridden(strict=strict), pytest.raises(AttributeError) if strict else nullcontext():
        afterburner.enable()
    assert not afterburner.is_enabled() and atomic_function.AtomicFunction.call_flat is stock
    monkeypatch.undo()
    with afterburner.enabled():
        assert afterburner.is_enabled()


def test_doctor_finds_a_release_we_do_not_know(fake_tensorflow: Path) -> None:
    done = afterburner("doctor", cwd=fake_tensorflow, path=str(fake_tensorflow))
    assert (done.returncode, done.stderr) == (1, "")
    assert "2.15.1 is not supported, 2.18–2.21 are: pip install" in done.stdout


def test_missing_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "tensorflow_version", lambda: None)
    monkeypatch.setattr(bench, "tensorflow_version", lambda: None)
    with pytest.raises(CommandError, match="TensorFlow is not installed; `pip install"):
        bench.action(bench.Plan(), "", None)
    findings = [*doctor.check_tensorflow(), *doctor.check_step()]
    assert [finding.state for finding in findings] == [doctor.BAD, doctor.BAD]
    assert "pip install" in findings[0].text


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from afterburner.cli import chart

    monkeypatch.setattr(chart, "find_spec", lambda name: None)
    with pytest.raises(CommandError, match="pip install matplotlib"):
        bench.action(bench.Plan(), "", tmp_path / "chart.png")


def test_graphs_stay_where_tensorflow_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf
    from tensorflow.python.eager import context

    import afterburner

    devices = [tf.config.LogicalDevice(f"/device:{kind}:0", kind) for kind in ("CPU", "GPU")]
    monkeypatch.setattr(context.Context, "list_logical_devices", lambda self: devices)
    function = tf.function(lambda x: tf.exp(x) * x + tf.sin(x))
    with afterburner.enabled():
        for _ in range(3):
            function(tf.ones(4))
    report = afterburner.report().functions[-1]
    assert (report.status, report.parts) == ("left", [])
    assert "set_visible_devices" in report.reason


def test_kill_switch_leaves_tensorflow_untouched(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("""if True:
        import inspect, os, sys
        import afterburner
        afterburner.enable()
        import tensorflow as tf
        package = os.path.dirname(afterburner.__file__)
        from tensorflow.python.eager import polymorphic_function as functions
        for kind in (functions.atomic_function.AtomicFunction, functions.polymorphic_function.Function):
            for name, member in vars(kind).items():
                if inspect.isfunction(member):
                    assert package not in member.__code__.co_filename, (kind, name)
        ours = [name for name in sys.modules if name.startswith("afterburner.frontend")]
        print(tf.function(lambda x: x + 1)(1).numpy(), ours)
    """)
    quiet = {"AFTERBURNER_DISABLE": "1", "AFTERBURNER_VERBOSITY": "detail"}
    done = afterburner("run", "program.py", cwd=tmp_path, **quiet)
    assert (done.returncode, done.stdout) == (0, "2 []\n"), done.stderr
    assert "afterburner: " not in done.stderr
