"""Matrix products against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .steps import import_concrete
from .table import FLOATS, RUNNERS, Record, check, floats, ints, raw, record


def _transposed(m: int, k: int, n: int, ta: bool, tb: bool, dtype: Any = np.float32) -> tuple[Any, Any]:
    a, b = (k, m) if ta else (m, k), (n, k) if tb else (k, n)
    return floats(*a, dtype=dtype), floats(*b, dtype=dtype, seed=1)


def _products() -> list[Record]:
    records = []
    for ta in (False, True):
        for tb in (False, True):
            function = raw("MatMul", "a", "b", transpose_a=ta, transpose_b=tb)
            for m, k, n in ((5, 7, 3), (1, 16, 9), (33, 1, 2), (4, 40, 1)):
                records.append(record("MatMul", function, *_transposed(m, k, n, ta, tb), note=f"{ta}{tb}"))
            batch = raw("BatchMatMulV2", "x", "y", adj_x=ta, adj_y=tb)
            a, b = _transposed(3, 5, 4, ta, tb)
            lead = np.stack([a, a + 1]), np.stack([b, b - 1])
            records.append(record("BatchMatMulV2", batch, *lead, note=f"{ta}{tb}"))
    plain = raw("MatMul", "a", "b")
    records += [record("MatMul", plain, *_transposed(6, 9, 5, False, False, d)) for d in FLOATS]
    records += [
        record("MatMul", plain, ints(3, 4), ints(4, 5, seed=1)),
        record("MatMul", plain, floats(0, 4), floats(4, 5)),
        record("MatMul", plain, floats(3, 0), floats(0, 5)),
        record("BatchMatMulV2", raw("BatchMatMulV2", "x", "y"), floats(3, 1, 2, 4), floats(5, 4, 3)),
        record(
            "BatchMatMulV3", raw("BatchMatMulV3", "x", "y", Tout=tf.float32), floats(2, 3, 4), floats(2, 4, 2)
        ),
        record("BatchMatMul", raw("BatchMatMul", "x", "y"), floats(2, 2, 3, 4), floats(2, 2, 4, 2)),
    ]
    return records


_EINSUMS = (
    ("ij,jk->ik", (3, 4), (4, 5)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("abc,cd->abd", (2, 3, 4), (4, 5)),
    ("abcd,cde->abe", (2, 3, 4, 5), (4, 5, 6)),
    ("aecd,abcd->acbe", (2, 3, 4, 5), (2, 6, 4, 5)),
    ("acbe,aecd->abcd", (2, 4, 6, 3), (2, 3, 4, 5)),
    ("i,j->ij", (3,), (4,)),
    ("i,i->", (5,), (5,)),
    ("...ij,jk->...ik", (2, 2, 3, 4), (4, 5)),
    ("...i,...i->...", (2, 3, 4), (3, 4)),
    ("ijk,jk->i", (2, 3, 4), (3, 4)),
    ("ij,kj->k", (2, 3), (4, 3)),
    ("bijc,bijd->bcd", (2, 3, 4, 5), (2, 3, 4, 6)),  # Gram matrices and their gradients
    ("bcd,bijc->bijd", (2, 5, 6), (2, 3, 4, 5)),
    ("bcd,bijd->bijc", (2, 5, 6), (2, 3, 4, 6)),
    ("ij,kj->ki", (2, 3), (4, 3)),
    ("ji,j->i", (2, 3), (2,)),
    ("i,j->ji", (3,), (4,)),
)


def _einsums() -> list[Record]:
    records = [
        record(
            "Einsum",
            lambda a, b, e=e: tf.raw_ops.Einsum(inputs=(a, b), equation=e),
            floats(*a),
            floats(*b, seed=1),
            note=e,
        )
        for e, a, b in _EINSUMS
    ]
    for equation, shape in (("ij->ji", (2, 3)), ("ijk->k", (2, 3, 4)), ("i...->...", (2, 3))):
        records.append(
            record(
                "Einsum",
                lambda a, e=equation: tf.raw_ops.Einsum(inputs=(a,), equation=e),
                floats(*shape),
                note=equation,
            )
        )
    return records


RECORDS = _products() + _einsums()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_matmul(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])


@pytest.mark.parametrize(("equation", "a", "b"), _EINSUMS[12:16], ids=str)
def test_einsum_of_matrices_needs_no_transpose(equation: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    function = tf.function(lambda x, y: tf.raw_ops.Einsum(inputs=(x, y), equation=equation))
    arguments = floats(*a), floats(*b)
    concrete = function.get_concrete_function(*map(tf.constant, arguments))
    graph = import_concrete(concrete, arguments).imported.graph
    assert {node.op.name for node in graph.nodes} <= {"matmul", "reshape"}
