"""``afterburner doctor --full``: every operation on every device here, and a file that tells how it went.

The cases run in processes of their own, one a family: one that dies is a finding, and the next case starts anew.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from afterburner.gpu.devices import NoGpu, choose
from afterburner.options import options
from afterburner.selftest.cases import families

from . import machine
from .doctor import BAD, GOOD, NOTE, Finding, conclude, show, shown_findings
from .errors import require_writable
from .progress import show_progress

FILE = "afterburner-doctor.json"
_COMMAND = (sys.executable, "-m", "afterburner.selftest")
_SHOWN = 5  # failures of a family that are printed; the file has them all


@dataclass
class Family:
    """How the cases of a family went on a device.

    Attributes:
        device: "cpu" or "gpu", as asked for.
        family: its name.
        ran_on: what the executables say they ran on, and how many of them.
        cases: how many were run.
        wrong: names of cases, and what is wrong with each.
        refused: names of cases that the device does not take, with its reasons; they run on the cpu.
        seconds: of all.
    """

    device: str
    family: str
    ran_on: dict[str, int] = field(default_factory=dict)
    cases: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def finding(self) -> Finding:
        """In one line."""
        where = ", ".join(f"{count} on {name}" for name, count in sorted(self.ran_on.items()))
        taken = self.cases - len(self.refused)
        refused = f"; {len(self.refused)} others are not taken" if self.refused else ""
        text = f"{taken - len(self.wrong)} of {taken} cases are right, in {self.seconds:.0f} s ({where}){refused}"
        return Finding(f"{self.device} {self.family}", BAD if self.wrong or not self.cases else GOOD, text)


def examine(file: str) -> int:
    """All that ``doctor`` checks, then every operation; writes the result to a file, "-" being standard output.

    Returns:
        The exit status: 1 where something is wrong, 130 where Ctrl-C ended it (the file then has what was found).

    Raises:
        CommandError: the file cannot be written; nothing was checked.
    """
    if file != "-":
        require_writable(file)
    out = contextlib.redirect_stdout(sys.stderr) if file == "-" else contextlib.nullcontext()
    result: dict[str, Any] = {"machine": machine.describe().to_dict(), "findings": [], "families": [],
                              "interrupted": False}
    wrong = 0
    with out:
        try:
            for finding in shown_findings():
                result["findings"].append(asdict(finding))
                wrong += finding.state == BAD
            for family in _families():
                result["families"].append(asdict(family))
                wrong += bool(family.wrong) or not family.cases
        except KeyboardInterrupt:
            result["interrupted"] = True
            print("\ninterrupted: the rest was not looked at")
        status = 130 if result["interrupted"] else conclude(wrong)
        result["wrong"] = wrong
        _write(file, result)
    if file == "-":
        print(json.dumps(result, indent=1))
    return status


def _write(file: str, result: dict[str, Any]) -> None:
    if file != "-":
        Path(file).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"all results are in {file}")


def _families() -> Iterator[Family]:
    for device in _devices():
        for name in families():
            family = Family(device, name)
            yield run(family)
            show(family.finding())
            for case, what in list(family.wrong.items())[:_SHOWN]:
                print(f"    {case}: {what}")


def _devices() -> Iterator[str]:
    yield "cpu"
    try:
        device = choose(options().gpu_emulate)
    except NoGpu as error:
        show(Finding("GPU", NOTE, str(error)))
        return
    show(Finding("GPU", GOOD, str(device)))
    yield "gpu"


def run(family: Family) -> Family:
    """Run the cases of a family, in as many processes as it takes."""
    start = time.monotonic()
    while _process(family):
        pass
    family.seconds = round(time.monotonic() - start, 1)
    return family


def _process(family: Family) -> bool:
    """Go on in a new process; whether it died in the middle of a case, so that there may be more."""
    command = [*_COMMAND, family.device, family.family, str(family.cases)]
    current = ""
    with (tempfile.TemporaryFile("w+", errors="replace") as errors,
          subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process):
        try:
            for line in process.stdout or ():
                said = json.loads(line)
                current = said.get("begin", "")
                if "end" in said:
                    _note(family, said)
        except BaseException:
            process.kill()
            raise
        process.wait()
        errors.seek(0)
        message = errors.read().strip().splitlines()
    show_progress("")
    if process.returncode == 0:
        return False
    said_last = message[0] if message else "no message"
    family.cases += 1
    family.wrong[current or "before any case"] = f"the process ended with status {process.returncode}: {said_last}"
    return bool(current)


def _note(family: Family, said: dict[str, Any]) -> None:
    family.cases += 1
    if said["refused"]:
        family.refused[said["end"]] = said["refused"]
    else:
        where = said["device"] or "nothing"
        family.ran_on[where] = family.ran_on.get(where, 0) + 1
    if said["wrong"]:
        family.wrong[said["end"]] = said["wrong"]
    show_progress(f"{family.device} {family.family}: {family.cases} cases")
