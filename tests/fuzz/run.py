"""One seed from generation to report."""

from __future__ import annotations

from collections.abc import Callable

from .check import problem
from .generate import Case, generate
from .gpu import gpu_problem
from .shrink import shrink
from .target import target_problem

Check = Callable[[Case], "str | None"]


CHECKS: dict[str, tuple[Check, ...]] = {
    "": (problem,), "cpu": (problem, target_problem), "gpu": (gpu_problem,),
}


def run_seed(seed: int, nodes: int = 40, target: str = "") -> str | None:
    """None, or a report of what failed with the smallest graph that shows it.

    Args:
        seed: of the graph.
        nodes: of the graph.
        target: "cpu" or "gpu" to run it there; otherwise the passes alone are checked.
    """
    case = generate(seed, nodes)
    for check in CHECKS[target]:
        wrong = _attempt(check, case)
        if wrong is not None:
            return _report(seed, nodes, check, case, wrong)
    return None


def _attempt(check: Check, case: Case) -> str | None:
    try:
        return check(case)
    except Exception as error:  # noqa: BLE001  whatever is raised is the finding
        return f"{type(error).__name__}: {error}"


def _report(seed: int, nodes: int, check: Check, case: Case, wrong: str) -> str:
    kind = wrong.split(" ")[0]

    def fails(smaller: Case) -> bool:
        found = _attempt(check, smaller)
        return found is not None and found.split(" ")[0] == kind

    small = shrink(case, fails)
    arguments = "\n".join(f"  {i.name} = {a.tolist()}"
                          for i, a in zip(small.graph.inputs, small.arguments, strict=True))
    flag = "".join(f" --target {name}" for name, checks in CHECKS.items() if name and check is checks[-1])
    return (f"seed {seed}, {nodes} nodes ({check.__name__}): {_attempt(check, small)}\n"
            f"{small.graph}\n{arguments}\n"
            f"repeat with: python -m tests.fuzz --seed {seed} --nodes {nodes}{flag} --seconds 0")
