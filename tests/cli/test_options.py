"""``set_options`` takes for each option what has a meaning, and refuses what has none before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from afterburner.options import (
    OptionError,
    Options,
    drop_wrong,
    from_environment,
    options,
    overridden,
    set_options,
    variables,
)

FLAGS = ("disable", "strict", "gpu_emulate", "deterministic", "accelerate", "cache", "log_graphs", "profile")
COUNTS = ("threads", "compile_after", "variants", "cache_limit")
NAMES = {"skip_ops": ("MatMul", "Relu"), "skip_passes": ("fuse", "order")}
PATHS = ("cache_dir", "dump")
TEXTS = ("isa",)
TAKEN: list[tuple[str, Any, Any]] = [  # option, what is given, what is then in force
    *((name, given, result) for name in FLAGS
      for given, result in ((True, True), (False, False), ("on", True), ("0", False), (1, True))),
    *((name, given, 3) for name in COUNTS for given in (3, "3", " 3 ")),
    *((name, given, both) for name, both in NAMES.items()
      for given in (";".join(both), ", ".join(both), both, [*both])),
    *((name, both[0], both[:1]) for name, both in NAMES.items()),
    *((name, given, Path("/tmp/x")) for name in PATHS for given in ("/tmp/x", Path("/tmp/x"))),
    *((name, given, None) for name in PATHS for given in ("", None)),
    *((name, "avx2", "avx2") for name in TEXTS),
    ("isa", "", ""), ("fault", "", ""), ("fault", "rule", "rule"),
    ("verbosity", "silent", "silent"), ("device", "cpu", "cpu"), ("precision", "fast", "fast"),
    ("log_graphs", "2", True),
    ("poison", 2, 2.0), ("poison", "-1.5", -1.5), ("poison", None, None), ("poison", "", None),
]
REFUSED: list[tuple[str, Any]] = [
    *((name, given) for name in FLAGS for given in ("maybe", None, [])),
    *((name, 2) for name in FLAGS if name != "log_graphs"), ("log_graphs", -1),
    *((name, given) for name in COUNTS for given in (-3, "-3", "many", "²", 1.5, True, None)),
    *((name, given) for name in NAMES for given in (3, None, ("MatMul", 3), b"MatMul")),
    *((name, given) for name in PATHS for given in (3, True, ["/tmp"], "a\0b", "~no such user/x")),
    *((name, given) for name in TEXTS for given in (3, None, Path("avx2"))), ("isa", "AVX2"), ("isa", "sse9"),
    *((name, given) for name in ("verbosity", "device", "precision") for given in ("loud", "", None, 1, ["cpu"])),
    *(("fault", given) for given in ("avx2", 3, None)), *(("variants", given) for given in (0, "0", -1)),
    ("skip_passes", "fusion"), ("skip_passes", ("fuse", "fusion")),
    *(("poison", given) for given in ("much", True, [1.0])),
]


@pytest.fixture(autouse=True)
def afterwards_as_before() -> Iterator[None]:
    with overridden():
        yield


@pytest.mark.parametrize(("name", "given", "result"), TAKEN, ids=str)
def test_what_has_a_meaning_is_taken(name: str, given: Any, result: Any) -> None:
    set_options(**{name: given})
    found = getattr(options(), name)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(("name", "given"), REFUSED, ids=str)
def test_what_has_none_is_refused(name: str, given: Any) -> None:
    before = options()
    with pytest.raises(OptionError, match=f"^{name}: .* is n"):
        set_options(**{"isa": "avx2", name: given})
    assert options() is before


def test_a_folder_stays_where_it_was_when_the_program_goes_elsewhere(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    set_options(cache_dir="here")
    monkeypatch.chdir("/")
    assert options().cache_path == tmp_path / "here"


def test_a_user_without_a_home_keeps_nothing_in_the_programs_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.cache")  # as it stands where nobody knows what ~ is
    assert from_environment({}).cache_path.is_absolute()


def test_every_option_is_tried() -> None:
    names = {item.name for item in fields(Options)}
    assert {name for name, *_ in TAKEN} == names == {name for name, *_ in REFUSED}


def test_an_option_that_does_not_exist_is_a_wrong_argument() -> None:
    with pytest.raises(TypeError, match="no option 'thread'"):
        set_options(thread=4)


def test_the_environment_gives_the_same_values() -> None:
    assert from_environment({"AFTERBURNER_SKIP_OPS": "MatMul,Relu"}).skip_ops == ("MatMul", "Relu")
    assert math.isnan(from_environment({"AFTERBURNER_POISON": "nan"}).poison or 0.0)
    with pytest.raises(OptionError, match="^AFTERBURNER_THREADS: '²' is not a whole number"):
        from_environment({"AFTERBURNER_THREADS": "²"})


def test_an_empty_variable_is_as_good_as_none() -> None:
    empty = {variable: "  " for item in fields(Options) for variable in variables(item.name)}
    assert from_environment(empty) == Options()
    assert from_environment({"AFTERBURNER_DISABLE": "", "TF_DISABLE_MLC": "1"}).disable


def test_what_has_no_meaning_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, given in (("AFTERBURNER_DEVICE", "tpu"), ("AFTERBURNER_THREADS", "3"), ("AFTERBURNER_STRICT", "2"),
                            ("AFTERBURNER_DISABLE", "0"), ("TF_DISABLE_MLC", "maybe")):  # the last one does not count
        monkeypatch.setenv(variable, given)
    assert drop_wrong() == ["AFTERBURNER_STRICT: '2' is not 0 or 1",
                            "AFTERBURNER_DEVICE: 'tpu' is none of any, cpu, gpu"]
    assert drop_wrong() == [] and from_environment().threads == 3


def test_a_pass_that_does_not_exist_is_told_before_anything_is_compiled() -> None:
    with pytest.raises(OptionError, match="^AFTERBURNER_SKIP_PASSES: 'fusion' is none of .* fuse, "):
        from_environment({"AFTERBURNER_SKIP_PASSES": "fuse;fusion"})


def test_an_operation_stands_for_its_stateless_twin_which_tensorflow_may_choose() -> None:
    skipping = from_environment({"AFTERBURNER_SKIP_OPS": "While; Relu"})
    assert [skipping.skips_op(name) for name in ("While", "StatelessWhile", "Relu", "If", "StatelessIf")] == [
        True, True, True, False, False]
    assert not Options(skip_ops=("StatelessWhile",)).skips_op("While")


def test_a_count_below_zero_says_where_counts_begin() -> None:
    with pytest.raises(OptionError, match="^AFTERBURNER_THREADS: '-1' is not a whole number from 0 up"):
        from_environment({"AFTERBURNER_THREADS": "-1"})
