"""Who may write a variable now: what makes a compiled stage one step for other threads.

A compiled stage reads variables, computes, and writes them. Nothing else may write them in between:

- compiled stages that write run one at a time, as programs on the processor do anyway;
- an eager operation that writes a variable waits for the compiled stage that is writing it;
- a function that TensorFlow runs may call Python, and so wait for any thread: nobody waits for it. Before it begins it
  waits for a stage that is writing one of its variables; while it runs TensorFlow runs stages that write one, too.

A compiled stage waits for nobody while it runs, so that waiting for one always ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import tensorflow as tf

_T = TypeVar("_T")


class InUse(Exception):
    """TensorFlow runs something that may write one of the variables of a stage; it can run the stage, too."""


class Writers:
    """Keeps those that write variables apart.

    Args:
        record: of the variable behind a handle, one at any time.

    Attributes:
        gate: held while it is decided who may write, and during a single eager write.
        changing: records of what the compiled stage that runs now writes. It grows under the gate.
    """

    def __init__(self, record: Callable[[Any], Hashable]) -> None:
        self._record = record
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a forked child: threads that wrote do not exist there."""
        self.gate = threading.RLock()  # as the other one: a collector or a signal may run any code in the middle
        self.changing: frozenset[Hashable] = frozenset()
        self._stage = threading.RLock()
        self._foreign: dict[object, Sequence[Any]] = {}

    def compiled(self, variables: frozenset[Hashable], work: Callable[[], _T]) -> _T:
        """Do the work of a compiled stage that writes the variables of these records, when it is its turn.

        Raises:
            InUse: nothing was done.
        """
        with self._stage:
            outer = self.changing
            try:
                with self.gate:
                    if self._foreign and self._is_in_use(variables):
                        raise InUse
                    self.changing = outer | variables if outer else variables
                return work()
            finally:
                self.changing = outer

    def eager(self, arguments: Sequence[Any], work: Callable[[], _T]) -> _T:
        """Do one operation on these arguments, which waits for nothing and calls no Python."""
        with self.gate:
            if not self._is_changing(arguments):
                return work()
        with self._stage:
            return work()

    def foreign(self, arguments: Sequence[Any], work: Callable[[], _T]) -> _T:
        """Do what may write any variable among these arguments, and may wait for anything."""
        token = object()
        try:
            self._announce(token, arguments)
            return work()
        finally:
            self._foreign.pop(token, None)

    def _announce(self, token: object, arguments: Sequence[Any]) -> None:
        with self.gate:
            if not self._is_changing(arguments):
                self._foreign[token] = arguments
                return
        with self._stage:
            self._foreign[token] = arguments

    def _is_changing(self, arguments: Sequence[Any]) -> bool:
        return bool(self.changing) and any(self._record(handle) in self.changing for handle in handles_among(arguments))

    def _is_in_use(self, variables: frozenset[Hashable]) -> bool:
        runs = list(self._foreign.values())
        return any(self._record(handle) in variables for arguments in runs for handle in handles_among(arguments))


def handles_among(arguments: Sequence[Any], kinds: Sequence[tf.DType] = (tf.resource,)) -> Iterator[Any]:
    """Handles among the arguments of an operation or a function: tensors of these kinds."""
    for argument in arguments:
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            if getattr(item, "dtype", None) in kinds:
                yield item
