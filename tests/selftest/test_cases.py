"""The cases of ``doctor --full``: they have every operation, are the same each time, and a wrong result is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from afterburner.ir import DTYPES, TensorType
from afterburner.ir.op import registered_ops
from afterburner.options import overridden
from afterburner.selftest import cases as module
from afterburner.selftest.cases import cases, families
from afterburner.selftest.check import difference, problem


def test_every_operation_has_cases() -> None:
    seen = {type(node.op) for family in families() for case in cases(family) for node in case.graph.nodes}
    ours = {cls for cls in registered_ops().values() if cls.__module__.startswith("afterburner.")}
    assert ours - seen == set(module.MADE_BY_PASSES)


def test_names_and_arguments_are_the_same_every_time() -> None:
    for family in ("gather", "layers", "random", "sort"):
        first, second = list(cases(family)), list(cases(family))
        names = [case.name for case in first]
        assert names == [case.name for case in second] and len(set(names)) == len(names)
        for a, b in zip(first, second, strict=True):
            assert [x.tobytes() for x in a.arguments] == [x.tobytes() for x in b.arguments]


@pytest.mark.parametrize("family", ["layers", "conv_pooled", "random"])
def test_cases_are_right_here(family: str) -> None:
    with overridden(device="cpu", cache=False):
        for case in cases(family):
            ran_on, wrong = problem(case, "cpu")
            assert (ran_on.split()[0], wrong) == ("cpu", ""), case.name


@pytest.mark.parametrize(("dtype", "right", "found", "message"), [
    ("i32", [1, 2], [1, 3], "1 of 2 elements differ"), ("f32", [1.0, np.nan], [1.0, 0.0], "infinities or NaN"),
    ("f32", [1.0, 2.0], [1.0, np.inf], "infinities or NaN"), ("f32", [1.0, 2.0], [1.0, 2.001], "an error of 1.0e-03"),
    ("f32", [1.0, np.inf], [1.0, np.inf], ""), ("f16", [1.0, 2.0], [1.0, 2.002], "")])
def test_what_differs_is_told(dtype: str, right: list[float], found: list[float], message: str) -> None:
    type_ = TensorType(DTYPES[dtype], (2,))
    got = difference([type_], [np.array(found, type_.dtype.numpy)], [np.array(right, type_.dtype.numpy)])
    assert message in got and bool(got) == bool(message)
