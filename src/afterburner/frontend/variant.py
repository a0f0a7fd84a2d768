"""A compiled stage at work: variables read where they lie, new values bound to them."""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from ..ir import TensorType
from ..ir.types import BOOL
from ..runtime.buffers import Buffer, BufferPool, Rack, Row, Shelf
from ..runtime.collector import paused_collector
from ..runtime.executable import Executable, KeepingExecutable
from ..runtime.heap import give_back
from .bulk import reader, writer
from .import_graph import Imported
from .in_place import AVERAGE_BYTES, Overwriter, is_let_go
from .second_opinion import SecondOpinion
from .stock import keeps_freed_memory
from .tensors import address, hand_over
from .undisturbed import undisturbed
from .variables import Known, Value, clock, known, learn_all, refresh, require_shapes, writers

_CHECK = TensorType(BOOL, ())
_NO_CHECKS = Row([])


class CheckFailed(Exception):
    """A run-time check of a compiled part does not hold; TensorFlow runs it and says why."""


class PartlyBound(Exception):
    """A run failed when some variables had their new values already: TensorFlow cannot run it again."""


class Variant:
    """A native stage compiled for one set of shapes.

    Args:
        imported: the stage as a graph, whose outputs are results, then new values of variables, then checks.
        executable: the graph, compiled.
        pool: where buffers of results and new values come from.
        resources: for each of the graph's variables the slot of its handle.

    Attributes:
        shelves: for results, then for new values.
        result_count: how many results there are.
        updated: for each new value the position of its variable.
        checks: where the checks are written, in rows.
        writers: what binds the new values that a part finishes, where the graph is run in parts.
    """

    def __init__(self, imported: Imported, executable: Executable, pool: BufferPool, resources: list[int]) -> None:
        self.graph = graph = imported.graph
        self.executable = executable
        self.resources = resources
        self.pool = pool
        states = [i.value.type for i in graph.inputs if i.state]
        self._shapes = [t.shape for t in states]
        stored = [tf.dtypes.as_dtype(t.dtype.numpy) for t in states]
        first_state = len(graph.inputs) - len(states)
        self.updated = [o.updates - first_state for o in graph.outputs if o.updates is not None]
        self._messages = [o.check for o in graph.outputs if o.check is not None]
        checks = len(self._messages)
        self.shelves = [pool.shelf(t) for t in graph.output_types[: len(graph.outputs) - checks]]
        self.result_count = len(self.shelves) - len(self.updated)
        self.checks = Rack(pool, [pool.shelf(_CHECK)] * checks)
        self._read = reader(stored) if stored else None
        dtypes = [stored[p] for p in self.updated]
        several = len(executable.parts) > 1
        self._write = writer(dtypes) if dtypes and not several else None
        self.writers = {part.finished: writer([dtypes[i - self.result_count] for i in part.finished])
                        for part in executable.parts if several and part.finished}
        self._rack = Rack(pool, self.shelves[:self.result_count])
        updates = self.shelves[self.result_count:]
        self._update_rack = Rack(pool, updates)
        small = sum(s.type.bytes for s in updates) <= AVERAGE_BYTES * len(updates)
        self._overwriter = Overwriter(pool, [s.type for s in updates]) if small else None
        self._run_keeping = executable.run_keeping if isinstance(executable, KeepingExecutable) else None
        self._bound = _Bound([], [])

    def run(self, arguments: Sequence[Any], handles: list[Any], opinion: SecondOpinion | None = None) -> list[Any]:
        """Results for data inputs and variable handles; variables are bound to their new values last.

        Args:
            arguments: the data inputs.
            handles: of the variables.
            opinion: confirms what is computed before it is used, unless the graph is run in parts.

        Raises:
            CheckFailed: nothing was written.
            Disagreement: the opinion is another one; nothing was written.
            InUse: nothing was written.
            PartlyBound: some variables have their new values, others have not.
        """
        bound = self.bind(handles)
        inputs = [address(t) for t in arguments]
        if not self.updated:
            return self._run(inputs, bound, opinion)
        if bound.seen != (clock.now, clock.written) and context.is_async():
            context.async_wait()  # for whatever the variables wait for: not when it is our turn
        return writers.compiled(bound.changed, lambda: self._run(inputs, bound, opinion))

    def _run(self, inputs: list[int], bound: _Bound, opinion: SecondOpinion | None) -> list[Any]:
        handles, records = bound.handles, bound.records
        moment, written = clock.now, clock.written
        held = [r.value for r in records]  # which other threads may forget; keeps the values alive while they are read
        if self._read is not None and (clock.unsafe or any([value[2] != moment for value in held])):
            held = refresh(records, held, handles, self._shapes, self._read, moment)
        if bound.reshaped != (reshaped := clock.reshaped):
            require_shapes([value[0] for value in held], self._shapes)
            bound.reshaped = reshaped
        bound.seen = moment, written
        if self.writers:
            run = _PartRun(self, records, handles, held, moment)
            del held
            with paused_collector():  # what it destroys may write a variable, and would wait for this thread
                undisturbed(lambda: run.run(inputs))
            return run.results
        inputs = inputs + [value[1] for value in held]
        row, updates = self._rack.take(), self._update_rack.take()
        checks = self.checks.take() if self._messages else _NO_CHECKS
        try:
            outputs = row.addresses + updates.addresses + checks.addresses
            kept = self._compute(inputs, outputs, held)
            self.check(checks)
            if opinion is not None:
                opinion.confirm(inputs, outputs)
            results = hand_over(self.pool, row)
            self._renew(updates, bound, held, kept, moment)
        except BaseException:
            clock.tick()  # another thread may have read a variable before it was written, and be about to remember it
            raise
        finally:
            self._rack.put(row)
            self._update_rack.put(updates)
            if self._messages:
                self.checks.put(checks)
        return results

    def _renew(self, updates: Row, bound: _Bound, held: Sequence[Value], kept: Sequence[Any], moment: int) -> None:
        """Give the variables their new values. An interrupt may come between any two lines: either way what is
        remembered is forgotten first, and TensorFlow's variables change in one call."""
        if self._write is None:
            return
        changed = [bound.records[position] for position in self.updated]
        old = [held[position] for position in self.updated]
        for record in changed:
            record.forget()
        overwriter = self._overwriter
        if overwriter is not None:
            counters, destinations = [value[5] for value in old], [value[1] for value in old]
            if overwriter.write(updates, counters, destinations):
                learn_all(changed, moment, [value[0] for value in old], destinations, kept, counters)
                return
        tensors = hand_over(self.pool, updates)
        counters = overwriter.counters(tensors) if overwriter is not None else [0] * len(tensors)
        self._write([bound.handles[position] for position in self.updated] + tensors)
        if overwriter is not None:  # nothing may fail from here on: the variables have their new values
            counters = overwriter.only_bound(counters)
        learn_all(changed, moment, tensors, updates.addresses, kept, counters)

    def _compute(self, inputs: list[int], outputs: list[int], held: Sequence[Value]) -> Sequence[Any]:
        """Run the executable; for each new value what it keeps of it on its device.

        What it kept of a value stands for that value as long as the record has not changed: TensorFlow never
        writes into the buffer that we bound.
        """
        version = None if self.updated else tuple([value[3] for value in held])
        if self._run_keeping is None:
            self.executable.run(inputs, outputs, version)
            return [None] * len(self.updated)
        kept = self._run_keeping(inputs, outputs, [value[4] for value in held], version)
        return kept[self.result_count: len(self.shelves)]

    def bind(self, handles: list[Any]) -> _Bound:
        """The variables behind the handles; looked up anew when the handles change."""
        bound = self._bound
        if len(handles) != len(bound.handles) or not all(map(operator.is_, handles, bound.handles)):
            bound = self._bound = _Bound(handles, self.updated)
        return bound

    def check(self, checks: Row) -> None:
        """Raise ``CheckFailed`` where a check of a run does not hold."""
        for message, where in zip(self._messages, checks.addresses, strict=True):
            if not ctypes.c_bool.from_address(where).value:
                raise CheckFailed(message)


class _Bound:
    """The variables of a stage. Replaced as a whole since threads share it.

    Args:
        handles: of the variables.
        updated: positions of those that the stage writes.

    Attributes:
        records: what is known of them.
        changed: those of the variables that the stage writes.
        seen: the clock and its count of writes when all of them were known last.
        reshaped: the count of changed shapes when theirs were looked at last.
    """

    __slots__ = ("handles", "records", "changed", "seen", "reshaped")

    def __init__(self, handles: list[Any], updated: Sequence[int]) -> None:
        self.handles = handles
        self.seen, self.reshaped = (-1, -1), -1
        self.records: list[Known] = [known(h) for h in handles]
        self.changed = frozenset([self.records[position] for position in updated])


class _PartRun:
    """One run in parts: after each, the new values that are final are bound, and the old ones may go.

    Until the first of them is bound nothing is written; from then on nothing is expected to fail but for
    want of memory, as in the middle of a step of TensorFlow's.

    Attributes:
        results: of the run.
    """

    def __init__(self, variant: Variant, records: list[Known], handles: list[Any], held: Sequence[Value],
                 moment: int) -> None:
        self.results: list[Any] = []
        self._variant, self._records, self._handles, self._moment = variant, records, handles, moment
        self._held: list[Any] = list(held)  # old values, which the parts to come read
        self._new: list[Any] = []  # the same of new ones
        self._taken: dict[int, Buffer] = {}
        self._checks = variant.checks.take()
        self._writing = False

    def run(self, inputs: list[int]) -> None:
        """Run all parts on the addresses of the data inputs.

        Raises:
            CheckFailed: nothing was written.
            PartlyBound: some variables have their new values, others have not.
        """
        variant = self._variant
        try:
            addresses = [*inputs, *(value[1] for value in self._held)]
            variant.executable.run_in_parts(addresses, self._begin, self._finish)
            self.results = self._hand_over(range(variant.result_count))
        except Exception as error:
            if self._writing:
                clock.tick()
                raise PartlyBound(f"a step failed after some of its variables were written: {error}") from error
            raise
        finally:
            variant.pool.put([variant.shelves[i] for i in self._taken], list(self._taken.values()))
            variant.checks.put(self._checks)

    def _begin(self, positions: Sequence[int]) -> list[int]:
        variant = self._variant
        count = len(variant.shelves)
        taken = [i for i in positions if i < count]
        self._taken.update(zip(taken, variant.pool.take([variant.shelves[i] for i in taken]), strict=True))
        return [self._taken[i].address if i < count else self._checks.addresses[i - count] for i in positions]

    def _finish(self, positions: Sequence[int]) -> None:
        if not positions:
            return
        variant = self._variant
        if not self._writing:
            variant.check(self._checks)
        variables = [variant.updated[i - variant.result_count] for i in positions]
        addresses = [self._taken[i].address for i in positions]
        tensors = self._hand_over(positions)
        self._writing = True
        variant.writers[tuple(positions)]([self._handles[v] for v in variables] + tensors)
        foreign = False
        for variable, position, tensor, where in zip(variables, positions, tensors, addresses, strict=True):
            record, old = self._records[variable], self._held[variable]
            self._held[variable] = None
            record.learn(tensor, where, self._moment)
            if old[1] != record.ours:
                foreign |= not _adopt(old, variant.shelves[position], variant.pool)
            record.ours = where
        self._new += tensors
        if foreign:  # TensorFlow allocated what has just become free
            give_back()

    def _hand_over(self, positions: Sequence[int]) -> list[Any]:
        pool = self._variant.pool
        buffers = [self._taken.pop(i) for i in positions]
        try:
            return hand_over(pool, Row(buffers))
        finally:
            pool.put([self._variant.shelves[i] for i in positions], buffers)


# References to a record's value (the caller's, ours and the question's) and to its tensor (the value's, ours and the
# question's). Any more are other threads', which may be reading.
_ONLY_OURS = 3


def _adopt(old: Value, shelf: Shelf, pool: BufferPool) -> bool:
    """Keep the memory of a variable's former value for values to come, if TensorFlow allocated it and nobody can look
    at it any more; whether it was kept. Where its allocator gives back what is freed, it better does."""
    if not keeps_freed_memory():
        return False
    tensor, where = old[0], old[1]
    if sys.getrefcount(old) > _ONLY_OURS or sys.getrefcount(tensor) > _ONLY_OURS or not is_let_go(pool, tensor):
        return False
    return pool.adopt(shelf, where, tensor)
