"""The fork's environment variables."""

from __future__ import annotations

import math

import pytest

from afterburner.options import FORK, OptionError, Options, described, from_environment


@pytest.mark.parametrize(("variable", "text", "option", "value"), [
    ("TF_DISABLE_MLC", "1", "disable", True),
    ("TF_MLC_LOGGING", "1", "log_graphs", True),
    ("TF_MLC_LOGGING", "2", "log_graphs", True),
    ("TF_DISABLE_MLC_EAGER", ";Conv2D;MatMul", "skip_ops", ("Conv2D", "MatMul")),
    ("TF_MLC_ALLOCATOR_INIT_VALUE", "-1.5", "poison", -1.5),
    ("AFTERBURNER_POISON", "", "poison", None),
])
def test_variables_set_options(variable: str, text: str, option: str, value: object) -> None:
    assert getattr(from_environment({variable: text}), option) == value
    assert getattr(Options(), option) != value or text == ""


def test_nan_is_a_number() -> None:
    poison = from_environment({"TF_MLC_ALLOCATOR_INIT_VALUE": "nan"}).poison
    assert poison is not None and math.isnan(poison)


def test_our_own_variable_counts() -> None:
    both = {"AFTERBURNER_DISABLE": "0", "TF_DISABLE_MLC": "1"}
    assert from_environment(both).disable is False


def test_what_has_no_meaning_is_named() -> None:
    with pytest.raises(OptionError, match="^TF_MLC_ALLOCATOR_INIT_VALUE: 'much' is not a number"):
        from_environment({"TF_MLC_ALLOCATOR_INIT_VALUE": "much"})


def test_the_options_page_names_them() -> None:
    meanings = {variable: meaning for variable, _, meaning in described()}
    assert all(f"(also {theirs})" in meanings[f"AFTERBURNER_{ours.upper()}"] for ours, theirs in FORK.items())
