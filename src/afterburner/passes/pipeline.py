"""What happens to a graph between import and code generation, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from ..ir import Graph, verify
from .concatenate_in_place import concatenate_in_place
from .defer_affine import defer_affine
from .eliminate_common_subexpressions import eliminate_common_subexpressions
from .eliminate_dead_code import eliminate_dead_code
from .everywhere import everywhere
from .fold_constants import fold_constants
from .fuse import fuse
from .fuse_prologues import MakesImage, fuse_prologues
from .hoist_from_scans import hoist_from_scans
from .mark_kept import mark_kept
from .mark_sparse import mark_sparse
from .nest_concatenations import nest_concatenations
from .order import order
from .record_maxima import record_maxima
from .rematerialize import rematerialize
from .simplify import simplify
from .simplify_scans import simplify_scans
from .skip_pooled_zeros import skip_pooled_zeros
from .split_scans import split_scans

Pass = Callable[[Graph], Graph]
Dump = Callable[[str, Graph, float], None]

CLEANUP: tuple[tuple[str, Pass], ...] = (
    ("eliminate_dead_code", eliminate_dead_code),
    ("fold_constants", fold_constants),
    ("simplify", simplify),
    ("simplify_scans", simplify_scans),
    ("eliminate_common_subexpressions", eliminate_common_subexpressions),
    ("record_maxima", record_maxima),
    ("hoist_from_scans", hoist_from_scans),
)
MAX_ROUNDS = 6  # of cleanup: each pass makes work for the others, soon less and less


def _run(passes: Sequence[tuple[str, Pass]], graph: Graph, skip: Collection[str], dump: Dump | None) -> Graph:
    for name, run in passes:
        if name in skip:
            continue
        changed, seconds = _one(name, run, graph)
        if changed is graph:
            continue
        graph = changed
        if dump is not None:
            dump(name, graph, seconds)
    return graph


def _one(name: str, run: Pass, graph: Graph) -> tuple[Graph, float]:
    """A pass's verified result, ``graph`` itself where it changed nothing, and its seconds."""
    start = time.perf_counter()
    try:
        changed = everywhere(run, graph)
        seconds = time.perf_counter() - start
        return (graph if changed is graph else verify(changed)), seconds
    except Exception as error:
        error.pass_name = name  # type: ignore[attr-defined]
        raise


def optimize(graph: Graph, skip: Collection[str] = (), dump: Dump | None = None,
             epilogues: bool = True, fast: bool = False, lower: bool = True,
             makes_image: MakesImage = lambda node: False) -> Graph:
    """Run all passes, on the bodies of scans too. Every result stays bit for bit what it was, but for the exceptions
    that passes/rules names, sums that are made without their zeros, and a dense block's gradients and sums over the
    turns of a loop, whose terms meet in another order.

    Args:
        graph: a verified graph.
        skip: names of passes to leave out, to find the one that breaks something.
        dump: called with a pass's name, its result and its seconds where it changed the graph.
        epilogues: whether the target's contractions take elementwise work on their results.
        fast: whether the target may compute convolutions by Winograd's largest algorithms, which take no elementwise
            work on an operand and are faster than leaving out zeros.
        lower: whether the target generates code for a graph as it stands, which then is fused and ordered for that; a
            target that fuses by itself wants it cleaned up only.
        makes_image: whether the target's kernel for a convolution can make its image as it reads it.

    Raises:
        IRError: a pass made an ill-formed graph. ``pass_name`` names it, as in all that a pass raises.
        ValueError: ``skip`` names no pass.
    """
    lowering: tuple[tuple[str, Pass], ...] = (
        ("split_scans", split_scans),
        ("skip_pooled_zeros", partial(skip_pooled_zeros, fast=fast)),
        ("defer_affine", defer_affine),
        ("eliminate_dead_code", eliminate_dead_code),
        ("mark_sparse", mark_sparse),
        ("mark_kept", mark_kept),
        ("nest_concatenations", nest_concatenations),
        ("fuse", partial(fuse, epilogues=epilogues)),
        ("eliminate_dead_code", eliminate_dead_code),  # views that only a fusion read, now inside it
        ("fuse_prologues", partial(fuse_prologues, makes_image=makes_image, fast=fast)),
        ("concatenate_in_place", concatenate_in_place),
        ("order", order),
        ("rematerialize", partial(rematerialize, fast=fast)),
        ("eliminate_dead_code", eliminate_dead_code),  # views of values that are not kept
    )
    names = {name for name, _ in (*CLEANUP, *lowering)}
    if set(skip) - names:
        raise ValueError(f"no pass named {', '.join(sorted(set(skip) - names))}; there are "
                         f"{', '.join(sorted(names))}")
    for _ in range(MAX_ROUNDS):
        cleaned = _run(CLEANUP, graph, skip, dump)
        if cleaned is graph:
            break
        graph = cleaned
    return _run(lowering, graph, skip, dump) if lower else graph
