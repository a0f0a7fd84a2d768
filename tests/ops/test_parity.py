"""Every operation with a rule is in an op table, or among those tested with variables."""

from __future__ import annotations

from afterburner.frontend.rules import supported_ops

from .test_cpu import FAMILIES, records

_ELSEWHERE = {
    "Identity",  # seen through before the import
    "NoOp",
    "StatelessRandomNormal",  # compared in units of the last place, not bit by bit
    "StatelessRandomNormalV2",
}


def test_every_operation_has_a_record() -> None:
    tested = {case.op for family in FAMILIES for case in records(family)} | _ELSEWHERE
    for family, names in supported_ops().items():
        missing = [n for n in names if n not in tested and not _works_on_variables(n)]
        assert not missing, f"{family}: no record for {', '.join(missing)}"


def _works_on_variables(name: str) -> bool:
    """Those are in test_state.py."""
    return name.startswith(("Resource", "Assign", "ReadVariable", "VarIsInitialized", "VariableShape"))
