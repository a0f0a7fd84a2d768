"""A stage that we compile, for each set of shapes it is called with; TensorFlow runs it where we cannot or lose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from ..errors import NotTaken, StrictError
from ..ir import Graph, TensorType, print_graph
from ..options import options
from ..report import Entry, Recorder, part_report
from ..runtime.buffers import BufferPool
from ..runtime.collector import paused_collector
from ..runtime.executable import Executable, Unsupported, UnsupportedNow
from . import failures
from .contest import CPU, STOCK, Choices, Contest, Plan
from .dtypes import ir_dtype
from .exclusion import InUse
from .flatten import FlatTensor
from .import_graph import Imported, import_ops, read_inputs, variable_dtypes
from .importer import Refused
from .partition import Stage
from .second_opinion import SecondOpinion
from .stock import Runner, runner
from .undisturbed import Interrupted, raised_by_signal
from .variables import Known, clock, identity, known, remember, run_by_tensorflow
from .variant import CheckFailed, PartlyBound, Variant

if TYPE_CHECKING:
    from .function import Take


@dataclass(frozen=True)
class Engine:
    """What the frontend needs from the targets, put in place by ``compile``.

    Attributes:
        compile: an imported graph to an executable, on one of our devices.
        pool: buffers for results and variables.
        recorder: where events are reported.
        choices: the devices, and what helps to choose between them and TensorFlow.
    """

    compile: Callable[[Graph, str], Executable]
    pool: BufferPool
    recorder: Recorder
    choices: Choices = field(default_factory=Choices)

    def tell_moved(self, entry: Entry, device: str, why: Unsupported) -> None:
        """Note that the cpu runs a part, since the device that was asked for cannot."""
        self.recorder.moved(entry, f"on the {CPU}, since the {self.choices.label(device)} cannot: {why}")


_MOST_SEEN = 256  # shapes and values whose calls are counted
_STATIC_ELEMENTS = 16  # of an input whose values may decide: sizes, axes, places


class NotYet(Exception):
    """A variable has no value yet; TensorFlow runs this call and the next one is looked at again."""


class NativeStage:
    """Operations we compile, for each set of shapes they are called with."""

    def __init__(self, stage: Stage, slots: dict[FlatTensor, int], take: Take, name: str) -> None:
        self.stage = stage
        self.take = take
        self.engine = take.engine
        self.entry = take.entry
        self.name = name
        needed = {t for op in stage.ops for t in read_inputs(op)}
        self.inputs = [t for t in stage.inputs if t in needed]
        self.input_slots = [slots[t] for t in self.inputs]
        self.resource_slots = [slots[t] for t in stage.resources]
        self.output_slots = [slots[t] for t in stage.outputs]
        self._all_slots = [slots[t] for t in (*stage.inputs, *stage.resources)]
        self._plans: dict[Any, Plan] = {}  # by setting and shapes
        self._seen: dict[Any, int] = {}
        self._static: tuple[int, ...] = ()  # inputs that are constants of what is compiled
        self._needs_static: Refused | None = None  # what could not be compiled without
        self._failed: set[Any] = set()  # settings
        self.refused: Refused | None = None  # an operation to leave out in another partition
        self._stock: Runner | None = None
        self._lock = threading.Lock()

    def run(self, values: list[Any]) -> None:
        """Fill the output slots from the input slots."""
        arguments = [values[i] for i in self.input_slots]
        key = (options().setting, *[t._shape_tuple() for t in arguments])  # noqa: SLF001
        if self._static:
            key = self._with_values(key, arguments)
        plan = self._plans.get(key)
        if plan is None and not self._is_failed(key):
            plan = self._prepare(key, arguments, values)
            self.take.strayed |= plan is None
        results = None
        if plan is not None:
            if plan.contest is not None:
                self._compete(key, plan, plan.contest, arguments, values)
                return
            if plan.variant is not None:
                results = self._attempt(key, plan.variant, arguments, values)
        if results is None:  # outside any handler, so that TensorFlow's own error has no context of ours
            self._run_stock(values)
            return
        self._put(results, values)

    def _with_values(self, key: tuple[Any, ...], arguments: Sequence[Any]) -> tuple[Any, ...]:
        """A key of setting and shapes, with the values of the inputs that are constants of what is compiled."""
        return (*key[:len(arguments) + 1], *[arguments[i].numpy().tobytes() for i in self._static])

    def _put(self, results: Sequence[Any], values: list[Any]) -> None:
        for slot, result in zip(self.output_slots, results, strict=True):
            values[slot] = result

    def _is_failed(self, key: Any) -> bool:
        return self.refused is not None or key[0] in self._failed

    def _attempt(self, key: Any, variant: Variant, arguments: Sequence[Any], values: list[Any],
                 rivals: Contest | None = None, opinion: SecondOpinion | None = None) -> list[Any] | None:
        """The compiled results, or None where TensorFlow is to run the stage; ``rivals`` may go on where it fails, or
        where the results are not confirmed."""
        try:
            return variant.run(arguments, [values[i] for i in variant.resources], opinion)
        except (CheckFailed, InUse):
            return None
        except PartlyBound as error:
            self._give_up(key, "run", error)
            raise
        except Interrupted as error:
            raise error.interrupt from None
        except Exception as error:  # noqa: BLE001 - whatever went wrong, training goes on
            if raised_by_signal(error):
                raise
            error.graph_text = print_graph(variant.graph)  # type: ignore[attr-defined]
            if rivals is None:
                self._give_up(key, "run", error)
            else:
                self._drop(key, rivals, rivals.name_of(variant), "run", error)
            return None

    def _compete(self, key: Any, plan: Plan, contest: Contest, arguments: Sequence[Any], values: list[Any]) -> None:
        """One step by the candidate whose turn it is, timed."""
        contest.heed()
        name = self._ready(key, contest)
        now, results = self.engine.choices.clock, None
        began = now()
        if name is not None and name != STOCK:
            opinion = contest.opinion_on(name, self.engine.pool)
            results = self._attempt(key, contest.variants[name], arguments, values, contest, opinion)
            if results is not None:
                contest.unconfirmed.discard(name)
        if results is None:
            self._run_stock(values)
        else:
            self._put(results, values)
        if name is not None and (name == STOCK or results is not None):  # else TensorFlow stood in for it
            contest.trial.record(name, now() - began)
        if contest.trial.chosen == STOCK or contest.trial.chosen in contest.variants:
            self._settle(plan, contest)

    def _run_stock(self, values: list[Any]) -> None:
        if self._stock is None:
            stage = self.stage
            self._stock = runner(self.name, stage.ops, [*stage.inputs, *stage.resources], stage.outputs)
        stock, arguments = self._stock, [values[i] for i in self._all_slots]
        results = run_by_tensorflow(arguments, lambda: stock(arguments))
        for slot, result in zip(self.output_slots, results, strict=True):
            values[slot] = result

    def _prepare(self, key: Any, arguments: Sequence[Any], values: list[Any]) -> Plan | None:
        """Compile for new shapes, unless they are too rare or there are too many."""
        with self._lock:
            if key in self._plans:
                return self._plans[key]
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            if self._static and self._values_seen(key, len(arguments)) > options().variants:
                self.refused = self._needs_static  # they differ from call to call: TensorFlow computes what needs them
                self.take.resized = True
                return None
            others = sum(known[0] == key[0] for known in self._plans)  # of this setting
            # The first shapes are compiled at once, others (a short last batch) when they recur.
            if others and seen <= options().compile_after + 1:
                return None
            if others >= options().variants:
                return None
            try:
                with paused_collector():
                    plan = self._plan(arguments, values)
            except NotYet:
                return None
            except Refused as error:
                self.refused = error  # the function is cut anew without the operation
                return None
            except Exception as error:  # noqa: BLE001 - whatever went wrong, training goes on
                self._give_up(key, "compile", error)
                return None
            self._plans[self._with_values(key, arguments)] = plan
            return plan

    def _values_seen(self, key: tuple[Any, ...], inputs: int) -> int:
        """How many values static inputs had in calls with the shapes of this one."""
        return sum(other[:inputs + 1] == key[:inputs + 1] for other in self._seen)

    def _plan(self, arguments: Sequence[Any], values: list[Any]) -> Plan:
        """Who is to run the stage for these shapes, compiled."""
        self._refuse_aliases(values)
        variables, records = self._read_variables(values)
        plan = self._choose(arguments, variables)
        if plan.variant is not None:
            plan.variant.bind([values[i] for i in plan.variant.resources])  # to values that only ``records`` holds
        del records
        return plan

    def _choose(self, arguments: Sequence[Any], variables: dict[FlatTensor, TensorType]) -> Plan:
        started, choices = time.perf_counter(), self.engine.choices
        self.engine.recorder.compiling(self.entry, self.op_count)
        types = [TensorType(ir_dtype(t.dtype), tuple(t.shape)) for t in arguments]
        imported = self._import(types, arguments, variables)
        signature = ", ".join(map(str, types))
        candidates = choices.candidates(imported.graph, self.take.stock_may_run)
        if len(candidates) == 1:
            return Plan(self._make_somewhere(imported, candidates[0], signature, started))
        kept = choices.kept(imported.graph, candidates)
        if kept is None and options().profile:  # kernels are slower while each is timed
            return Plan(self._make(imported, candidates[0], signature, started))
        if kept is None:
            contest = Contest(imported, signature, candidates)
            contest.variants[candidates[0]] = self._make(imported, candidates[0], signature, started)
            return Plan(None, contest)
        choice = choices.report(signature, kept, False)
        self.engine.recorder.chosen(self.entry, choice)
        self.take.lost |= kept.chosen == STOCK
        return Plan(None if kept.chosen == STOCK else self._make(imported, kept.chosen, signature, started))

    def _import(self, types: Sequence[TensorType], arguments: Sequence[Any],
                variables: dict[FlatTensor, TensorType]) -> Imported:
        """The stage as a graph. Small integers made outside that decide what is computed become constants of it: sizes
        and axes that another stage gives.

        Raises:
            Refused: an operation cannot be imported.
        """
        while True:
            constants = {self.inputs[i]: arguments[i].numpy() for i in self._static}
            try:
                return import_ops(self.stage.ops, self.inputs, types, self.stage.outputs, variables, constants,
                                  self.name)
            except Refused as error:
                more = [self.inputs.index(t) for t in error.unknown]
                if not more or not all(_may_decide(arguments[i]) for i in more) or set(more) <= set(self._static):
                    raise
                self._static = tuple(sorted({*self._static, *more}))
                self._needs_static = error
                self._plans.clear()  # their keys lack the values

    def _make(self, imported: Imported, device: str, signature: str, started: float) -> Variant:
        """The stage compiled for one of our devices."""
        executable = self.engine.compile(imported.graph, device)
        report = part_report(signature, self.op_count, executable, time.perf_counter() - started)
        self.engine.recorder.compiled(self.entry, report, executable)
        resources = [self.resource_slots[self.stage.resources.index(v)] for v in imported.variables]
        return Variant(imported, executable, self.engine.pool, resources)

    def _make_somewhere(self, imported: Imported, device: str, signature: str, started: float) -> Variant:
        """``_make``; on the cpu what the device asked for cannot compute."""
        try:
            return self._make(imported, device, signature, started)
        except Unsupported as error:
            if device == CPU:
                raise
            self.engine.tell_moved(self.entry, device, error)
            return self._make(imported, CPU, signature, started)

    def _ready(self, key: Any, contest: Contest) -> str | None:
        """The candidate that runs the next step, compiled; None where none of them can."""
        with self._lock:
            while (name := contest.trial.next()) != STOCK and name not in contest.variants:
                if self._is_failed(key):
                    return None
                try:
                    with paused_collector():
                        contest.variants[name] = self._make(contest.imported, name, contest.signature,
                                                            time.perf_counter())
                except Exception as error:  # noqa: BLE001 - the others go on
                    self._drop(key, contest, name, "compile", error)
            return name

    def _drop(self, key: Any, contest: Contest, name: str, when: str, error: Exception) -> None:
        """A candidate cannot compute the stage: that is no failure of the others."""
        if len(contest.trial.candidates) == len(contest.trial.dropped) + 1:
            self._give_up(key, when, error)
            return
        what = failures.describe(f"{self.name} on {name}", when, error)
        if when == "run" and options().strict:
            raise StrictError(what) from error
        contest.broken |= when == "run" or not isinstance(error, Unsupported) or isinstance(error, UnsupportedNow)
        contest.trial.drop(name, what)

    def _settle(self, plan: Plan, contest: Contest) -> None:
        """The trial is over: the winner keeps the stage."""
        with self._lock:
            if plan.contest is None:
                return
            decision = contest.decision()
            plan.variant, plan.contest = contest.variants.get(decision.chosen), None
        self.take.lost |= plan.lost
        if contest.stopped:
            return
        if not contest.broken:
            self.engine.choices.keep(contest.imported.graph, contest.candidates, decision)
        choice = self.engine.choices.report(contest.signature, decision, True, contest.trial.dropped)
        self.engine.recorder.chosen(self.entry, choice)

    def is_contested(self) -> bool:
        """Whether candidates take turns in some shapes."""
        return any(plan.contest is not None for plan in list(self._plans.values()))

    def is_lost(self) -> bool:
        """Whether TensorFlow was found faster for all shapes seen under the options in force."""
        plans = [plan for key, plan in self._plans.items() if key[0] == options().setting]
        return bool(plans) and all(plan.lost for plan in plans)

    @property
    def op_count(self) -> int:
        """Operations taken, constants not counted."""
        return sum(op.type != "Const" for op in self.stage.ops)

    def _refuse_aliases(self, values: list[Any]) -> None:
        handles = [values[i] for i in self.resource_slots]
        if len({identity(h) for h in handles}) != len(handles):
            raise NotTaken("one variable comes in under two handles")

    def _read_variables(self, values: list[Any]) -> tuple[dict[FlatTensor, TensorType], list[Known]]:
        """The types of the variables, and records of what was read to tell them, which the first run need not read."""
        types, records = {}, []
        dtypes, moment = variable_dtypes(self.stage.ops), clock.now
        for tensor, slot in zip(self.stage.resources, self.resource_slots, strict=True):
            dtype = dtypes.get(tensor)
            if dtype is None:
                continue
            handle = values[slot]
            record = known(handle)
            before = record.value
            try:
                value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
            except (tf.errors.FailedPreconditionError, tf.errors.NotFoundError):
                raise NotYet from None
            types[tensor] = TensorType(ir_dtype(dtype), value._shape_tuple())  # noqa: SLF001
            records.append(record)
            remember([record], [before], [value], moment)
        return types, records

    def _give_up(self, key: Any, when: str, error: Exception) -> None:
        self._failed.add(key[0])
        for other in [k for k in self._plans if k[0] == key[0]]:
            del self._plans[other]
        what = failures.describe(self.name, when, error)
        if options().strict:
            raise StrictError(what) from error
        self.engine.recorder.failed(self.entry, what)


def _may_decide(tensor: Any) -> bool:
    """Whether a tensor's values may become constants of what is compiled."""
    return tensor.dtype.is_integer and tensor.shape.num_elements() <= _STATIC_ELEMENTS
