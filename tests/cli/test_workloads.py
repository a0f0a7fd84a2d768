"""Which workloads the words of ``afterburner bench`` stand for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from afterburner import workloads
from tests.cli.commands import afterburner


def test_every_workload_is_in_one_group_beside_all():
    groups = workloads.groups()
    every = sorted(groups["small"] + groups["sequences"] + groups["networks"])
    assert every == list(groups["all"]) == list(workloads.names())


def test_no_words_stand_for_the_small_ones():
    assert workloads.chosen(()) == workloads.groups()["small"]
    assert "resnet50v2" not in workloads.chosen(())


def test_words_are_names_and_groups_and_count_once():
    assert workloads.chosen(("mlp", "small"))[0] == "mlp"
    assert sorted(workloads.chosen(("mlp", "all", "networks"))) == list(workloads.names())
    with pytest.raises(KeyError, match="large"):
        workloads.chosen(("mlp", "large"))


def test_every_name_has_a_module():
    assert all(importlib.util.find_spec(workloads.module(name)) for name in workloads.names())


def test_list(tmp_path):
    done = afterburner("bench", "--list", cwd=tmp_path)
    assert done.returncode == 0
    lines = dict(line.split(": ") for line in done.stdout.splitlines())
    assert {group: tuple(members.split(", ")) for group, members in lines.items()} == workloads.groups()


def test_names_are_known_without_tensorflow(tmp_path):
    program = "import sys; from afterburner import workloads; workloads.chosen([]); print('tensorflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, text=True) == "False\n"


def test_a_call_may_say_what_it_took():
    from afterburner.workloads import Seconds
    from afterburner.workloads.__main__ import _timed

    assert _timed(2, lambda: Seconds(8), 1) == {"units": 2, "first_seconds": 8.0, "seconds_per_unit": [4.0]}
    assert _timed(1, lambda: 1e9, 1)["first_seconds"] < 1e3
