"""The order of samples that Keras does not shuffle is computed at once, not by functions of a pipeline.

A pipeline over arrays begins with a function that makes the indices of all samples and a second one that cuts them into
batches. TensorFlow makes each of them ready, in milliseconds, for every iterator. Where neither draws random numbers,
what they give is known when the pipeline is built: both are called then, and the pipeline begins with their result.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops, structured_function

from .fastpath import plain_surroundings
from .traced import is_of_pipelines

_log = logging.getLogger("afterburner")
_DATASETS = frozenset(("TensorDataset", "TensorSliceDataset", "ConcatenateDataset"))  # which hold what they are given

_flat_map = dataset_ops.DatasetV2.flat_map


@functools.wraps(_flat_map)
def _hooked_flat_map(self: Any, map_func: Any, name: str | None = None) -> Any:
    if name is None and is_of_pipelines(map_func) and plain_surroundings():
        try:
            known = _computed(self, map_func)
        except Exception:  # noqa: BLE001 - a pipeline of another make
            _log.debug("afterburner: the order of samples is left to the pipeline", exc_info=True)
            known = None
        if known is not None:
            return known
    return _flat_map(self, map_func, name)


def _computed(dataset: Any, cut: Any) -> Any:
    """What ``dataset.flat_map(cut)`` gives, where ``dataset`` maps one number; None where that is not known."""
    mapped = dataset._input_dataset if _is(dataset, "Prefetch") else dataset  # noqa: SLF001
    if not _is(mapped, "Map") or not _is_one_number(mapped._input_dataset):  # noqa: SLF001
        return None
    making = mapped._map_func  # noqa: SLF001
    cutting = structured_function.StructuredFunctionWrapper(cut, "Dataset.flat_map()", dataset=dataset)
    if not (is_of_pipelines(making._func) and _is_pure(making) and _is_pure(cutting)):  # noqa: SLF001
        return None
    indices = making._func(mapped._input_dataset._start)  # noqa: SLF001
    if not isinstance(indices, tf.Tensor) or not mapped.element_spec.is_compatible_with(indices):
        return None
    batches = cut(indices)
    same = batches.element_spec == cutting.output_structure._element_spec  # noqa: SLF001
    return batches if same else None


def _is(dataset: Any, name: str) -> bool:
    return type(dataset).__name__ == f"_{name}Dataset"


def _is_one_number(dataset: Any) -> bool:
    if not _is(dataset, "Range"):
        return False
    start, stop, step = (int(getattr(dataset, name)) for name in ("_start", "_stop", "_step"))
    return step == 1 and stop - start == 1


def _is_pure(wrapper: Any) -> bool:
    """Whether a function of a pipeline gives the same for the same at any time and does nothing else."""
    graph = wrapper.function.graph
    types = {op.type for op in graph.get_operations()}
    return not graph.captures and not graph._functions and not any(  # noqa: SLF001
        t not in _DATASETS and graph.op_def_for_type(t).is_stateful for t in types)


def install() -> None:
    """From now on, an order that is known is computed at once."""
    dataset_ops.DatasetV2.flat_map = _hooked_flat_map


def uninstall() -> None:
    """Leave TensorFlow as it was."""
    dataset_ops.DatasetV2.flat_map = _flat_map
