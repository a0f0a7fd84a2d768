"""A graph function as we run it: stages in turn, values in slots, TensorFlow where we cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from ..errors import NotTaken, StrictError
from ..ir import Graph, TensorType, print_graph
from ..options import options
from ..report import Entry, LeftOp, Recorder, part_report
from ..runtime.buffers import BufferPool
from ..runtime.collector import paused_collector
from ..runtime.executable import Executable
from . import failures
from .dtypes import ir_dtype
from .flatten import FlatGraph, FlatOp, FlatTensor, branch_graph, flatten
from .import_graph import import_ops, read_inputs, variable_dtypes
from .importer import Refused
from .partition import Kind, Partition, Stage
from .stock import Runner, is_plain_operation, runner
from .undisturbed import Interrupted, raised_by_signal
from .variables import clock, identity
from .variant import CheckFailed, PartlyBound, Variant


@dataclass(frozen=True)
class Engine:
    """What the frontend needs from the targets, put in place by ``compile``.

    Attributes:
        compile: an imported graph to an executable.
        pool: buffers for results and variables.
        recorder: where events are reported.
    """

    compile: Callable[[Graph], Executable]
    pool: BufferPool
    recorder: Recorder


class NotYet(Exception):
    """A variable has no value yet; TensorFlow runs this call and the next one is looked at again."""


class NativeStage:
    """Operations we compile, for each set of shapes they are called with."""

    def __init__(self, stage: Stage, slots: dict[FlatTensor, int], engine: Engine, entry: Entry, name: str) -> None:
        self.stage = stage
        self.engine = engine
        self.entry = entry
        self.name = name
        needed = {t for op in stage.ops for t in read_inputs(op)}
        self.inputs = [t for t in stage.inputs if t in needed]
        self.input_slots = [slots[t] for t in self.inputs]
        self.resource_slots = [slots[t] for t in stage.resources]
        self.output_slots = [slots[t] for t in stage.outputs]
        self._all_slots = [slots[t] for t in (*stage.inputs, *stage.resources)]
        self._variants: dict[Any, Variant] = {}
        self._seen: dict[Any, int] = {}
        self._failed = False
        self.refused: Refused | None = None  # an operation to leave out in another partition
        self._stock: Runner | None = None
        self._lock = threading.Lock()

    def run(self, values: list[Any]) -> None:
        """Fill the output slots from the input slots."""
        arguments = [values[i] for i in self.input_slots]
        key = (options().precision, *[t._shape_tuple() for t in arguments])  # noqa: SLF001
        variant = self._variants.get(key)
        if variant is None and not self._failed:
            variant = self._prepare(key, arguments, values)
        results = None
        if variant is not None and not self._failed:
            results = self._attempt(variant, arguments, values)
        if results is None:  # outside any handler, so that TensorFlow's own error has no context of ours
            self._run_stock(values)
            return
        for slot, result in zip(self.output_slots, results, strict=True):
            values[slot] = result

    def _attempt(self, variant: Variant, arguments: Sequence[Any], values: list[Any]) -> list[Any] | None:
        """The compiled results, or None where TensorFlow is to run the stage."""
        try:
            return variant.run(arguments, [values[i] for i in variant.resources])
        except CheckFailed:
            return None
        except PartlyBound as error:
            self._give_up("run", error)
            raise
        except Interrupted as error:
            raise error.interrupt from None
        except Exception as error:  # noqa: BLE001 - whatever went wrong, training goes on
            if raised_by_signal(error):
                raise
            error.graph_text = print_graph(variant.graph)  # type: ignore[attr-defined]
            self._give_up("run", error)
            return None

    def _run_stock(self, values: list[Any]) -> None:
        if self._stock is None:
            stage = self.stage
            self._stock = runner(self.name, stage.ops, [*stage.inputs, *stage.resources], stage.outputs)
        clock.tick()
        try:
            results = self._stock([values[i] for i in self._all_slots])
        finally:
            clock.tick()
        for slot, result in zip(self.output_slots, results, strict=True):
            values[slot] = result

    def _prepare(self, key: Any, arguments: Sequence[Any], values: list[Any]) -> Variant | None:
        """Compile for new shapes, unless they are too rare or there are too many."""
        with self._lock:
            if key in self._variants:
                return self._variants[key]
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            others = sum(known[0] == key[0] for known in self._variants)  # of this precision
            # The first shapes are compiled at once, others (a short last batch) when they recur.
            if others and seen <= options().compile_after + 1:
                return None
            if others >= options().variants:
                return None
            try:
                with paused_collector():
                    variant = self._compile(arguments, values)
            except NotYet:
                return None
            except Refused as error:
                self.refused, self._failed = error, True  # the function is cut anew without the operation
                return None
            except Exception as error:  # noqa: BLE001 - whatever went wrong, training goes on
                self._give_up("compile", error)
                return None
            self._variants[key] = variant
            return variant

    def _compile(self, arguments: Sequence[Any], values: list[Any]) -> Variant:
        started = time.perf_counter()
        stage = self.stage
        self.engine.recorder.compiling(self.entry, self.op_count)
        types = [TensorType(ir_dtype(t.dtype), tuple(t.shape)) for t in arguments]
        self._refuse_aliases(values)
        variables = self._variable_types(values)
        imported = import_ops(stage.ops, self.inputs, types, stage.outputs, variables, name=self.name)
        executable = self.engine.compile(imported.graph)
        seconds = time.perf_counter() - started
        signature = ", ".join(map(str, types))
        report = part_report(signature, self.op_count, executable, seconds)
        self.engine.recorder.compiled(self.entry, report, executable)
        resources = [self.resource_slots[stage.resources.index(v)] for v in imported.variables]
        return Variant(imported, executable, self.engine.pool, resources)

    @property
    def op_count(self) -> int:
        """Operations taken, constants not counted."""
        return sum(op.type != "Const" for op in self.stage.ops)

    def _refuse_aliases(self, values: list[Any]) -> None:
        handles = [values[i] for i in self.resource_slots]
        if len({identity(h) for h in handles}) != len(handles):
            raise NotTaken("one variable comes in under two handles")

    def _variable_types(self, values: list[Any]) -> dict[FlatTensor, TensorType]:
        types = {}
        dtypes = variable_dtypes(self.stage.ops)
        for tensor, slot in zip(self.stage.resources, self.resource_slots, strict=True):
            dtype = dtypes.get(tensor)
            if dtype is None:
                continue
            if not tf.raw_ops.VarIsInitializedOp(resource=values[slot]):
                raise NotYet
            value = tf.raw_ops.ReadVariableOp(resource=values[slot], dtype=dtype)
            types[tensor] = TensorType(ir_dtype(dtype), tuple(value.shape))
        return types

    def _give_up(self, when: str, error: Exception) -> None:
        self._failed = True
        self._variants.clear()
        what = failures.describe(self.name, when, error)
        if options().strict:
            raise StrictError(what) from error
        self.engine.recorder.failed(self.entry, what)


class StockStage:
    """Operations TensorFlow runs."""

    def __init__(self, stage: Stage, slots: dict[FlatTensor, int], name: str) -> None:
        sources: Sequence[FlatTensor] = [*stage.inputs, *stage.resources]
        outputs: Sequence[FlatTensor] = stage.outputs
        if is_plain_operation(stage.ops):
            sources, outputs = stage.ops[0].inputs, stage.ops[0].outputs
        self._input_slots = [slots[t] for t in sources]
        self._output_slots = [slots[t] for t in outputs]
        self._run = runner(name, stage.ops, sources, outputs)
        self._writes = any(_may_write(op) for op in stage.ops)

    def run(self, values: list[Any]) -> None:
        """Fill the output slots from the input slots."""
        if self._writes:
            clock.tick()
        results = self._run([values[i] for i in self._input_slots])
        if self._writes:
            clock.tick()
        for slot, result in zip(self._output_slots, results, strict=True):
            values[slot] = result


_HARMLESS = ("IteratorGetNext", "Optional", "Placeholder", "Identity", "Print", "ReadVariableOp", "NoOp")


def _may_write(op: FlatOp) -> bool:
    """Whether an operation may write a variable."""
    if op.type.startswith(_HARMLESS):
        return False
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


_LOOPS = ("While", "StatelessWhile")
_BRANCHES = ("If", "StatelessIf")


def is_control(op: FlatOp) -> bool:
    """Whether the host can interpret the operation."""
    return op.type in (*_LOOPS, *_BRANCHES)


def branch_names(op: FlatOp) -> tuple[str, ...]:
    """Attributes that name the functions inside a control operation."""
    return ("cond", "body") if op.type in _LOOPS else ("then_branch", "else_branch")


def _truth(condition: Any) -> bool:
    """TensorFlow's truth of a condition: numbers are true unless zero, other tensors unless empty."""
    array = condition.numpy()
    return bool(array) if condition.shape.rank == 0 else array.size > 0


@dataclass(frozen=True)
class Take:
    """How the functions inside a control operation are cut and taken."""

    cut: Callable[[FlatGraph], Partition]
    engine: Engine
    entry: Entry

    def __call__(self, graph: Any, name: str) -> TakenFunction:
        flat = flatten(graph, name)
        return TakenFunction(flat, self.cut(flat), self)


class TakenFunction:
    """A function whose stages we run."""

    def __init__(self, flat: FlatGraph, cut: Partition, take: Take) -> None:
        slots = _slots(flat, cut)
        shown = [*flat.outputs, *(t for s in cut.stages if s.kind is Kind.HOST for t in s.ops[-1].inputs)]
        self._constants = [(slots[t], tf.constant(tf.make_ndarray(t.op.attr("value")), t.dtype))
                           for t in dict.fromkeys(shown) if t.op is not None and t.op.type == "Const"]
        self.stages = [_stage(stage, slots, take, flat.name, number, len(cut.stages))
                       for number, stage in enumerate(cut.stages)]
        self._padding = [None] * (len(slots) - len(flat.arguments))
        self._output_slots = [slots[t] for t in flat.outputs]

    def run(self, arguments: Sequence[Any]) -> list[Any]:
        """The function's outputs."""
        values = [*arguments, *self._padding]
        for slot, constant in self._constants:
            values[slot] = constant
        for stage in self.stages:
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
        return NativeStage(stage, slots, take.engine, take.entry, label)
    if stage.kind is Kind.STOCK:
        return StockStage(stage, slots, f"{name}_{number}".replace("/", "_"))
    op = stage.ops[-1]
    return LoopStage(op, slots, take) if op.type in _LOOPS else BranchStage(op, slots, take)


def describe_left(left: Sequence[tuple[FlatOp, str]]) -> list[LeftOp]:
    """Left operations as the report keeps them."""
    return [LeftOp(op.type, op.location.node, op.location.source, why) for op, why in left]
