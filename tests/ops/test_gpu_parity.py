"""Every operation of the IR has a lowering on the GPU target, in the file of its family."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)

from afterburner.gpu.kernels import families  # noqa: E402
from afterburner.ir import registered_ops  # noqa: E402


def test_every_operation_has_a_lowering() -> None:
    assert {op.name for op in registered_ops().values()} == {op.name for op in families()}


def test_lowerings_stand_under_their_family() -> None:
    for op in families():
        family = op.__module__.rpartition(".")[2]
        assert op in importlib.import_module(f"afterburner.gpu.kernels.{family}").LOWERINGS
