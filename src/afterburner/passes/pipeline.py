"""What happens to a graph between import and code generation, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from ..ir import Graph, verify
from .eliminate_common_subexpressions import eliminate_common_subexpressions
from .eliminate_dead_code import eliminate_dead_code
from .fold_constants import fold_constants
from .fuse import fuse
from .order import order
from .simplify import simplify

Pass = Callable[[Graph], Graph]
Dump = Callable[[str, Graph, float], None]

PASSES: tuple[tuple[str, Pass], ...] = (
    ("eliminate_dead_code", eliminate_dead_code),
    ("fold_constants", fold_constants),
    ("simplify", simplify),
    ("eliminate_common_subexpressions", eliminate_common_subexpressions),
    ("fold_constants", fold_constants),  # what simplify brought together
    ("simplify", simplify),
    ("eliminate_common_subexpressions", eliminate_common_subexpressions),
    ("eliminate_dead_code", eliminate_dead_code),
    ("fuse", fuse),
    ("eliminate_dead_code", eliminate_dead_code),
    ("order", order),
)


def optimize(graph: Graph, skip: Collection[str] = (), dump: Dump | None = None) -> Graph:
    """Run all passes. Every result stays bit for bit what it was.

    Args:
        graph: a verified graph.
        skip: names of passes to leave out, to find the one that breaks something.
        dump: called with a pass's name, its result and its seconds where it changed the graph.

    Raises:
        IRError: a pass made an ill-formed graph.
        ValueError: ``skip`` names no pass.
    """
    unknown = set(skip) - {name for name, _ in PASSES}
    if unknown:
        raise ValueError(f"no pass named {', '.join(sorted(unknown))}")
    for name, run in PASSES:
        if name in skip:
            continue
        start = time.perf_counter()
        changed = run(graph)
        seconds = time.perf_counter() - start
        if changed is graph:
            continue
        graph = verify(changed)
        if dump is not None:
            dump(name, graph, seconds)
    return graph
