"""``python -m afterburner.selftest DEVICE FAMILY [SKIP]``: cases of a family, as lines of JSON.

A line before each case and one after it, so that whoever reads them knows in which one a process died. The first
SKIP cases are left out.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice

from ..hardware import CPU
from ..options import overridden
from ..runtime.executable import Unsupported
from .cases import cases
from .check import problem


def main(device: str, family: str, skip: int) -> None:
    """Run the cases."""
    with overridden(device=device, cache=False, disable=False, verbosity="silent"):
        for case in islice(cases(family), skip, None):
            print(json.dumps({"begin": case.name}), flush=True)
            start = time.perf_counter()
            refused = ""
            try:
                ran_on, wrong = problem(case, device)
            except Unsupported as error:  # what another device does not take, the cpu must
                ran_on, wrong, refused = ("", str(error), "") if device == CPU else ("", "", str(error))
            except Exception as error:  # noqa: BLE001  whatever is raised is the finding
                ran_on, wrong = "", f"{type(error).__name__}: {error}"
            print(json.dumps({"end": case.name, "device": ran_on, "wrong": wrong, "refused": refused,
                              "seconds": round(time.perf_counter() - start, 4)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
