"""Finding out by trying whether our linker works on a Mac; no Mac is needed for this."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from afterburner.cpu import crew, host, loader, trial
from afterburner.cpu.crew import NoWorkers, WorkerDied
from afterburner.cpu.elf import AARCH64, LoadError, ObjectFile
from afterburner.cpu.llvm import host_facts

MAC = "arm64-apple-darwin24.1.0"


def test_its_code_runs_here() -> None:
    assert trial.works(host_facts()[0])


@pytest.mark.parametrize(("outcome", "expected"), [
    (True, f"{MAC}-elf"), (False, MAC), (LoadError("refused"), MAC), (RuntimeError("no target"), MAC)])
def test_a_mac_takes_our_format_only_where_it_works(outcome: Any, expected: str,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def works(triple: str) -> bool:
        tried.append(triple)
        if isinstance(outcome, Exception):
            raise outcome
        return bool(outcome)

    monkeypatch.setattr(trial, "works", works)
    assert trial.linkable(MAC) == expected and tried == [f"{MAC}-elf"]
    assert trial.linkable("aarch64-unknown-linux-gnu") == "aarch64-unknown-linux-gnu" and len(tried) == 1


class Crew:
    """Answers for a Mac whose process dies of the trial."""

    def __init__(self, workers: bool) -> None:
        self.asked: list[bool] = []
        self.workers = workers

    def ask(self, head: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        if not self.workers:
            raise NoWorkers("none")
        self.asked.append(head["trial"])
        if head["trial"]:
            raise WorkerDied("killed")
        return {"facts": (MAC, "apple-m1", {"neon": True})}, b""


def test_a_process_that_dies_of_the_trial_is_not_asked_for_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Crew(workers=True)
    monkeypatch.setattr(crew, "CREW", fake)
    assert host._ask() == host.Host(MAC, "apple-m1", {"neon": True})
    assert fake.asked == [True, False]


def test_without_processes_there_is_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "CREW", Crew(workers=False))
    assert host._ask().triple == host_facts()[0]


@pytest.mark.parametrize(("system", "machine", "accepted"), [
    ("linux", "aarch64", True), ("darwin", "arm64", True), ("darwin", "x86_64", False), ("win32", "arm64", False)])
def test_arm_code_is_loaded_on_linux_and_macos(system: str, machine: str, accepted: bool,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(loader.platform, "machine", lambda: machine)
    objects = [ObjectFile(AARCH64, {}, (), ())]
    if accepted:
        loader._require_this_machine(objects)
    else:
        with pytest.raises(LoadError, match=f"{system} on {machine}"):
            loader._require_this_machine(objects)


@pytest.mark.parametrize(("system", "name", "until"), [
    ("linux", "__clear_cache", 0x1400), ("darwin", "sys_icache_invalidate", 0x400)])
def test_arm_is_told_of_new_code(system: str, name: str, until: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the function of the system, which takes the end or the size."""
    told = []
    fake = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)(lambda start, end: told.append((start, end)))
    asked = []

    def resolve(wanted: str) -> int | None:
        asked.append(wanted)
        return ctypes.cast(fake, ctypes.c_void_p).value

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(loader.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(loader, "address_in_process", resolve)
    loader._forget_instructions(0x1000, 0x1400)
    assert asked == [name] and told == [(0x1000, until)]
    monkeypatch.setattr(loader, "address_in_process", lambda wanted: None)
    with pytest.raises(LoadError, match=name):
        loader._forget_instructions(0x1000, 0x1400)
