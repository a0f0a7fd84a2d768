"""A graph function as we run it: stages in turn, values in slots, TensorFlow where we cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

from ..options import options
from ..report import Entry, LeftOp
from .endings import first_fetch, idle_updates
from .flatten import LOOPS, FlatGraph, FlatOp, FlatTensor, branch_graph, flatten
from .native import Engine, NativeStage
from .optionals import Unsealed
from .partition import Kind, Partition, Stage
from .stock import Runner, is_plain_operation, runner
from .variables import run_by_tensorflow

_log = logging.getLogger("afterburner")


class StockStage:
    """Operations TensorFlow runs."""

    def __init__(self, stage: Stage, slots: dict[FlatTensor, int], name: str) -> None:
        sources: Sequence[FlatTensor] = [*stage.inputs, *stage.resources]
        outputs: Sequence[FlatTensor] = stage.outputs
        ops = _without_joints(stage.ops)
        if is_plain_operation(ops):
            sources, outputs = ops[0].inputs, ops[0].outputs
        self._input_slots = [slots[t] for t in sources]
        self._output_slots = [slots[t] for t in outputs]
        self._run = runner(name, ops, sources, outputs)
        self._writes = any(_may_write(op) for op in ops)

    def unsealed(self, values: list[Any]) -> Unsealed:
        """What the optional is made of that this stage would make."""
        return Unsealed([values[i] for i in self._input_slots], self._run)

    def run(self, values: list[Any]) -> None:
        """Fill the output slots from the input slots."""
        arguments = [values[i] for i in self._input_slots]
        if self._writes:
            results = run_by_tensorflow(arguments, lambda: self._run(arguments))
        else:
            results = self._run(arguments)
        for slot, result in zip(self._output_slots, results, strict=True):
            values[slot] = result


class FetchStage(StockStage):
    """An element of a dataset, before all else. Where there is none, TensorFlow has run what does not wait for it
    by the time that this is known. Where its pipeline raises, nothing changes."""

    def __init__(self, stage: Stage, slots: dict[FlatTensor, int], name: str, idle: Sequence[FlatOp]) -> None:
        super().__init__(stage, slots, name)
        self._idle = idle
        self._name = f"{name}_idle"
        self._idle_inputs = list(dict.fromkeys(t for op in idle for t in op.inputs if t.op is None))
        self._idle_slots = [slots[t] for t in self._idle_inputs]

    def run(self, values: list[Any]) -> None:
        """Fill the output slots from the input slots."""
        try:
            super().run(values)
        except tf.errors.OutOfRangeError:
            self._make_idle_updates([values[i] for i in self._idle_slots])
            raise

    def _make_idle_updates(self, arguments: list[Any]) -> None:
        try:
            run_by_tensorflow(arguments, lambda: self._update(arguments))
        except Exception:  # the end of the data is what the program waits for
            if options().strict:
                raise
            _log.exception("the updates that need no data were not made at the end of %s", self._name)

    @cached_property
    def _update(self) -> Runner:
        return runner(self._name, self._idle, self._idle_inputs, [])


def _without_joints(ops: Sequence[FlatOp]) -> Sequence[FlatOp]:
    """A single operation without those beside it that only join control edges, which then order nothing."""
    working = [op for op in ops if op.type != "NoOp"]
    return working if len(working) == 1 else ops


_HARMLESS = ("IteratorGetNext", "Optional", "Placeholder", "Identity", "Print", "ReadVariableOp", "NoOp")


def _may_write(op: FlatOp) -> bool:
    """Whether an operation may write a variable."""
    if op.type.startswith(_HARMLESS):
        return False
    if is_control(op):
        branches = (flatten(branch_graph(op, name), op.name) for name in branch_names(op))
        return any(_may_write(inner) for branch in branches for inner in branch.ops)
    takes_variable = any(t.dtype == tf.resource for t in op.inputs)
    return takes_variable or any(v.HasField("func") or v.list.func for v in op.source.node_def.attr.values())


class LoopStage:
    """A while loop whose condition and body we run; the values live on the host between turns."""

    def __init__(self, op: FlatOp, slots: dict[FlatTensor, int], take: Take) -> None:
        self._input_slots = [slots[t] for t in op.inputs]
        self._output_slots = [slots[t] for t in op.outputs]
        self._condition = take(branch_graph(op, "cond"), f"{op.name}/cond")
        self._body = take(branch_graph(op, "body"), f"{op.name}/body")

    @property
    def branches(self) -> tuple[TakenFunction, ...]:
        """The functions inside."""
        return (self._condition, self._body)

    def run(self, values: list[Any]) -> None:
        """Fill the output slots from the input slots."""
        state = [values[i] for i in self._input_slots]
        while bool(self._condition.run(state)[0]):
            state = self._body.run(state)
        for slot, value in zip(self._output_slots, state, strict=True):
            values[slot] = value


class BranchStage:
    """A conditional whose branches we run."""

    def __init__(self, op: FlatOp, slots: dict[FlatTensor, int], take: Take) -> None:
        self._condition_slot = slots[op.inputs[0]]
        self._input_slots = [slots[t] for t in op.inputs[1:]]
        self._output_slots = [slots[t] for t in op.outputs]
        self._then = take(branch_graph(op, "then_branch"), f"{op.name}/then")
        self._else = take(branch_graph(op, "else_branch"), f"{op.name}/else")

    @property
    def branches(self) -> tuple[TakenFunction, ...]:
        """The functions inside."""
        return (self._then, self._else)

    def run(self, values: list[Any]) -> None:
        """Fill the output slots from the input slots."""
        branch = self._then if _truth(values[self._condition_slot]) else self._else
        results = branch.run([values[i] for i in self._input_slots])
        for slot, value in zip(self._output_slots, results, strict=True):
            values[slot] = value


_BRANCHES = ("If", "StatelessIf")


def is_control(op: FlatOp) -> bool:
    """Whether the host can interpret the operation."""
    return op.type in (*LOOPS, *_BRANCHES)


def branch_names(op: FlatOp) -> tuple[str, ...]:
    """Attributes that name the functions inside a control operation."""
    return ("cond", "body") if op.type in LOOPS else ("then_branch", "else_branch")


def is_quick(op: FlatOp) -> bool:
    """Whether a conditional has no more than one operation in each branch: calling TensorFlow for the whole of it takes
    longer than running that one."""
    branches = (flatten(branch_graph(op, name), op.name) for name in branch_names(op))
    return op.type in _BRANCHES and all(
        not branch.ops or is_plain_operation(_without_joints(branch.ops)) for branch in branches)


def _truth(condition: Any) -> bool:
    """TensorFlow's truth of a condition: numbers are true unless zero, other tensors unless empty."""
    array = condition.numpy()
    return bool(array) if condition.shape.rank == 0 else array.size > 0


@dataclass
class Take:
    """How a function and those inside its control operations are cut and taken.

    Attributes:
        stock_may_run: whether there is memory for TensorFlow to run it: not known of a large training step.
        lost: whether TensorFlow was found faster for one of its stages.
        strayed: whether TensorFlow ran a stage since its shapes or sizes were not compiled.
        resized: whether an operation was refused since the sizes it needs differ from call to call.
    """

    cut: Callable[[FlatGraph], Partition]
    engine: Engine
    entry: Entry
    stock_may_run: bool = False
    lost: bool = False
    strayed: bool = False
    resized: bool = False

    def __call__(self, graph: Any, name: str) -> TakenFunction:
        flat = flatten(graph, name)
        return TakenFunction(flat, self.cut(flat), self)


class TakenFunction:
    """A function whose stages we run."""

    def __init__(self, flat: FlatGraph, cut: Partition, take: Take) -> None:
        self.take = take
        slots = _slots(flat, cut)
        shown = [*flat.outputs, *(t for s in cut.stages if s.kind is Kind.HOST for t in s.ops[-1].inputs)]
        self._constants = [(slots[t], tf.constant(tf.make_ndarray(t.op.attr("value")), t.dtype))
                           for t in dict.fromkeys(shown) if t.op is not None and t.op.type == "Const"]
        self.stages = [_stage(stage, slots, take, flat.name, number, len(cut.stages))
                       for number, stage in enumerate(cut.stages)]
        fetch = first_fetch(cut.stages)
        if fetch is not None and (idle := idle_updates(flat, fetch)):
            self.stages[0] = FetchStage(cut.stages[0], slots, f"{flat.name}_0".replace("/", "_"), idle)
        self._padding = [None] * (len(slots) - len(flat.arguments))
        self._output_slots = [slots[t] for t in flat.outputs]
        self._dtypes = [(i, t.dtype.as_datatype_enum) for i, t in enumerate(flat.arguments) if t.dtype != tf.resource]
        self._optional = _last_optional(flat, cut, self.stages)
        passed = [*range(len(flat.arguments)), *(slot for slot, _ in self._constants)]
        self._may_repeat = (len({*passed, *self._output_slots}) < len(passed) + len(self._output_slots)
                            or any(stage.kind is Kind.HOST for stage in cut.stages))

    def fits(self, arguments: Sequence[Any]) -> bool:
        """Whether flat arguments have the element types that were traced: a concrete function takes any, also symbols,
        and TensorFlow raises only as it runs."""
        try:
            return all([arguments[i]._datatype_enum() == dtype for i, dtype in self._dtypes])  # noqa: SLF001
        except AttributeError:  # a symbol that has leaked from another function
            return False

    def call(self, arguments: Sequence[Any], unsealed: bool = False) -> list[Any]:
        """As ``run``, but what is given on, or given twice, comes as tensors of its own, as from TensorFlow: a tape
        knows tensors by their identity."""
        outputs = self.run(arguments, unsealed)
        return self._distinct(outputs, arguments) if self._may_repeat else outputs

    def _distinct(self, outputs: list[Any], arguments: Sequence[Any]) -> list[Any]:
        seen = {*map(id, arguments), *(id(constant) for _, constant in self._constants)}
        for i, tensor in enumerate(outputs):
            if id(tensor) in seen:
                outputs[i] = tensor._copy_nograd()  # noqa: SLF001 - another handle of the same memory, unseen by tapes
            seen.add(id(outputs[i]))
        return outputs

    def run(self, arguments: Sequence[Any], unsealed: bool = False) -> list[Any]:
        """The function's outputs.

        Args:
            arguments: flat.
            unsealed: where the only output is an optional, made last, what it is made of stands for it.
        """
        values = [*arguments, *self._padding]
        for slot, constant in self._constants:
            values[slot] = constant
        optional = self._optional if unsealed else None
        for stage in self.stages:
            if stage is optional:
                return [optional.unsealed(values)]
            stage.run(values)
        return [values[i] for i in self._output_slots]

    def native_stages(self) -> Iterator[NativeStage]:
        """All compiled stages, those inside loops and branches too."""
        for stage in self.stages:
            if isinstance(stage, NativeStage):
                yield stage
            elif isinstance(stage, (LoopStage, BranchStage)):
                for branch in stage.branches:
                    yield from branch.native_stages()


def _last_optional(flat: FlatGraph, cut: Partition, stages: Sequence[Any]) -> StockStage | None:
    """The last stage, where all it does is to make the function's only output, an optional, of a value."""
    ops = cut.stages[-1].ops if cut.stages else []
    if len(ops) != 1 or ops[0].type != "OptionalFromValue" or flat.outputs != list(ops[0].outputs):
        return None
    return stages[-1] if isinstance(stages[-1], StockStage) else None


def _slots(flat: FlatGraph, cut: Partition) -> dict[FlatTensor, int]:
    slots = {t: i for i, t in enumerate(flat.arguments)}
    for stage in cut.stages:
        for op in stage.ops:
            for tensor in op.outputs:
                slots.setdefault(tensor, len(slots))
    for tensor in flat.outputs:
        slots.setdefault(tensor, len(slots))
    return slots


def _stage(
    stage: Stage, slots: dict[FlatTensor, int], take: Take, name: str, number: int, count: int,
) -> NativeStage | StockStage | LoopStage | BranchStage:
    if stage.kind is Kind.NATIVE:
        # One compiled stage among TensorFlow's bears the function's name.
        label = name if count <= 3 else f"{name}_{number}"
        return NativeStage(stage, slots, take, label)
    if stage.kind is Kind.STOCK:
        return StockStage(stage, slots, f"{name}_{number}".replace("/", "_"))
    op = stage.ops[-1]
    return LoopStage(op, slots, take) if op.type in LOOPS else BranchStage(op, slots, take)


def describe_left(left: Sequence[tuple[FlatOp, str]]) -> list[LeftOp]:
    """Left operations as the report keeps them."""
    return [LeftOp(op.type, op.location.node, op.location.source, why) for op, why in left]
