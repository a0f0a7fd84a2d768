"""Where TensorFlow's graph functions pass, and where all that we hook in TensorFlow is installed and taken back.

Tested with TensorFlow 2.18 to 2.21. ``AtomicFunction.call_flat`` receives every call of a graph function
from Python, from Keras, from tapes and from loaded models, with flat eager tensors.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import op_def_registry

from ..errors import NotTaken, StrictError
from ..options import options
from ..report import Entry, say
from ..runtime.collector import paused_collector
from . import arrays, fastpath, graph_log, iterators, joined, known_order, session, single_trace, tracebacks, traced
from .contest import CPU, STOCK
from .flatten import LOOPS, FlatGraph, FlatOp, branch_graph, called_functions, flatten, must_use_xla, xla_differs
from .function import Take, TakenFunction, branch_names, describe_left, is_control, is_quick
from .import_graph import supported
from .native import Engine
from .partition import MIN_OPS, Kind, Partition, partition, why_too_few
from .streams import draw_from_streams
from .variables import forget_all, run_by_tensorflow, unwatch, watch
from .whole import WholeContests, contests

_ATTRIBUTE = "_afterburner"
_MAX_STAGES = 9
_MIN_SHARE = 0.5  # of the operations; below, TensorFlow keeps the whole function
_MAX_REFUSALS = 16  # operations found out one by one; each costs an import
_MIN_STEP_OPS = 20  # a loop over an iterator with less inside turns faster in TensorFlow,
_MIN_LOOP_OPS = 150  # and so does any other loop
_STACKS = ("TensorListPushBack", "TensorListPopBack")
_OPTIONALS = ("OptionalFromValue", "OptionalGetValue")  # how a conditional hands values to its gradient
_UPDATES = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")
_LARGE_STEP_VARIABLES = 100  # updated by one call: a training step of a network with some dozens of layers
_MAX_STRAYS = 24  # calls whose shapes or sizes were not compiled, less those whose were
_MAX_RESIZED = 2  # cuts anew since sizes differ from call to call
_MAX_BETS = 2  # functions of one name compiled at their first call and not called again: then others wait
_bets: Counter[str] = Counter()  # such functions by name
_MAX_YOUNG, _MAX_YOUNG_IN_ALL = 8, 24  # functions, of one name and of all, compiled and called fewer than
_FEW_CALLS = 16  # times: others then wait until they have been called as often
_young: Counter[str] = Counter()  # such functions by name
_TOO_SHORT_LIVED = f"for {_FEW_CALLS} calls, as {_MAX_YOUNG} functions of its name were called less often"
_AMONG_SHORT_LIVED = f"for {_FEW_CALLS} calls, as {_MAX_YOUNG_IN_ALL} functions were called less often"


class FunctionState:
    """What we know of one AtomicFunction; kept on it, so that it goes when the function goes."""

    def __init__(self, function: Any, engine: Engine) -> None:
        joined.install()  # Keras may have been imported since TensorFlow was
        self._engine = engine
        self._lock = threading.Lock()
        self._entry: Entry = engine.recorder.entry(_readable(function.name))
        self._refused: dict[Any, str] = {}
        self._flat: FlatGraph | None = None
        self._is_bet = self._is_young = False
        self._has_stream: bool | None = None  # not known yet
        self._strays = 0
        self._resized = 0
        self._whole: WholeContests | None = None  # of a function in pieces
        self.taken: TakenFunction | None = None
        self.left = False
        self._given_back: set[Any] = set()  # settings and shapes of calls that TensorFlow runs faster
        self.writes = any(t.dtype == tf.resource for t in function.graph.inputs)

    def call_unsealed(self, function: Any, arguments: Sequence[Any]) -> Sequence[Any] | None:
        """``call``, but an optional may be given as what it is made of."""
        outputs = self.call(function, arguments, unsealed=True)
        if outputs is None:
            self._entry.report.calls -= 1  # it comes again by the long way
        return outputs

    def call(self, function: Any, arguments: Sequence[Any], unsealed: bool = False) -> Sequence[Any] | None:
        """The outputs, or None where TensorFlow should run this call."""
        report = self._entry.report
        report.calls += 1
        if context.context().op_callbacks:
            self._watched(function)
            return None
        if _is_elsewhere():
            return None
        if self._given_back and _kind_of_call(arguments) in self._given_back:
            return None
        if self.taken is None:
            if self._has_stream is None:
                self._has_stream = self._draws(function)
            if self.left or self._waits(function):
                return None
            self._prepare(function)
            if self.taken is None:
                return None
        if not self.taken.fits(arguments):
            return None
        if report.calls >= _FEW_CALLS:
            self._grow_up()
        if self._is_bet and report.calls > 1:
            self._is_bet = False
            _bets[report.name] -= 1
        taken = self.taken
        contested = self._whole is not None and self.turn(arguments)
        if contested == STOCK:
            return None
        started = self._engine.choices.clock() if contested else 0.0
        try:
            outputs = taken.call(arguments, unsealed)
        finally:
            compiled = bool(self._entry.untold)
            if compiled:
                self._engine.recorder.tell(self._entry)
        if contested:
            settled = not (compiled or taken.take.strayed or any(s.is_contested() for s in taken.native_stages()))
            self.timed(arguments, CPU, started, settled)
        self._learn_refusals(function, taken)
        if taken.take.lost:
            self._give_back(taken, arguments)
        if taken.take.strayed or self._strays:
            self._count_strays(taken)
        return outputs

    def _waits(self, function: Any) -> bool:
        """Whether TensorFlow runs this call, since there were too few. A program that makes functions of one name anew,
        or very many, and calls each only a few times, would compile each for little."""
        report, after = self._entry.report, options().compile_after
        reason = _why_short_lived(report.name) if 0 < after < _FEW_CALLS else ""
        if report.calls > (_FEW_CALLS if reason else after) or self._is_wanted_at_once(function):
            return False
        if reason and not self.left:
            self._engine.recorder.waits(self._entry, reason)
        return True

    def turn(self, arguments: Sequence[Any]) -> str | None:
        """Who runs this call of a function in pieces while that is found out; None where it is known."""
        if self._whole is None or self.taken is None or context.context().op_callbacks or _is_elsewhere():
            return None
        kind = _kind_of_call(arguments)
        if kind in self._given_back:
            return None
        if self._whole.was_lost(kind):
            self._lose(kind)
            return STOCK
        return self._whole.turn(kind)

    def timed(self, arguments: Sequence[Any], name: str, started: float, settled: bool = True) -> None:
        """Note when a call began that has ended, of a function in pieces, and who ran it; ``settled``: nothing was
        compiled meanwhile, or is to be."""
        kind, seconds = _kind_of_call(arguments), self._engine.choices.clock() - started
        if self._whole is not None and self._whole.record(kind, name, seconds, settled):
            self._lose(kind)

    def _grow_up(self) -> None:
        """Keep others waiting no longer: this function has been called often, or will not be compiled again."""
        if self._is_young:
            self._is_young = False
            _young[self._entry.report.name] = max(0, _young[self._entry.report.name] - 1)

    def _lose(self, kind: Any) -> None:
        self._grow_up()
        self._given_back.add(kind)
        self._engine.recorder.given_back(self._entry)

    def _watched(self, function: Any) -> None:
        """TensorFlow runs a call whose operations the program watches; also all later ones of a function whose streams
        of random numbers begin with it."""
        self._engine.recorder.watched(self._entry)
        if self.taken is None and not self.left and self._draws(function):
            self._leave("it draws seeded random numbers, and was called first while tf.debugging watched")

    def _count_strays(self, taken: TakenFunction) -> None:
        """Where most calls have shapes or sizes of their own, TensorFlow runs the function whole: in pieces it is
        slower."""
        self._strays = self._strays + 1 if taken.take.strayed else self._strays - 1
        taken.take.strayed = False
        if self._strays > _MAX_STRAYS and not self._has_stream:
            self._leave("its shapes, or sizes that it computes, differ from call to call")

    def _give_back(self, taken: TakenFunction, arguments: Sequence[Any]) -> None:
        """Where TensorFlow is faster in all that we have compiled, let it run the whole function."""
        taken.take.lost = False
        if not self._has_stream and all(stage.is_lost() for stage in taken.native_stages()):
            self._lose(_kind_of_call(arguments))

    def _is_wanted_at_once(self, function: Any) -> bool:
        """Whether a function is compiled at its first call."""
        if not self._has_stream:
            return self._is_step(function)
        name = self._entry.report.name
        if _bets[name] >= _MAX_BETS:
            self._leave("it draws seeded random numbers, and functions of its name are called only once")
            return False
        self._is_bet = True
        _bets[name] += 1
        return True

    def _draws(self, function: Any) -> bool:
        """Whether a function goes on in a seeded stream of random numbers."""
        try:
            return draw_from_streams(_with_all_inside(self._flattened(function)))
        except Exception:  # noqa: BLE001 - met again, and told, when the function is cut
            return False

    def _is_step(self, function: Any) -> bool:
        """Whether a call trains, and so is sure to be made again. It is compiled at its first call: TensorFlow would
        take memory to optimise it and for intermediate values, and a process's peak stays what it was once.

        Small steps of one name that were called only once (a program that traces a function anew for every call)
        let the next ones wait; large ones never wait.
        """
        if not self.writes:
            return False
        try:
            flat = self._flattened(function)
        except Exception:  # noqa: BLE001 - met again, and told, when the function is cut
            return False
        read = {op.inputs[0] for op in flat.ops if op.type == "ReadVariableOp"}
        updates = [op for op in flat.ops if (op.type in _UPDATES or op.type.startswith("ResourceApply"))
                   and op.inputs[0] in read]
        if len({op.inputs[0] for op in updates}) >= _LARGE_STEP_VARIABLES:
            return True
        name = self._entry.report.name
        if not any(map(_trains, updates)) or _bets[name] >= _MAX_BETS:
            return False
        self._is_bet = True
        _bets[name] += 1
        return True

    def _prepare(self, function: Any) -> None:
        with self._lock:
            if self.taken is not None or self.left:
                return
            try:
                with paused_collector():
                    self._cut(function)
            except NotTaken as error:
                self._leave(str(error))
            except Exception as error:  # noqa: BLE001 - whatever went wrong, training goes on
                if options().strict:
                    raise StrictError(f"{self._entry.report.name}: {error}") from error
                self._leave(f"{type(error).__name__}: {error}")

    def _leave(self, reason: str) -> None:
        self._grow_up()
        self.left = True
        self.taken = None
        self._engine.recorder.left(self._entry, reason)

    def _cut(self, function: Any) -> None:
        _refuse_accelerators()
        _refuse_other_cpus(function)
        flat = self._flattened(function)
        _refuse_missing_devices(flat)
        xla = must_use_xla(function)
        cut = self._partition(flat, xla)
        if options().log_graphs:
            self._engine.recorder.log(graph_log.lines(flat, cut))
        report = self._entry.report
        report.left = describe_left(cut.left)
        looped = [inner for s in cut.stages if s.native for op in s.ops if op.type in LOOPS
                  for inner in _everything_inside(op)]
        turned = sum(op.type != "Const" for op in looped)
        report.seen_ops = sum(op.type != "Const" for s in cut.stages for op in s.ops) + turned
        report.taken_ops = cut.native_ops + turned
        inside = [inner for s in cut.stages if s.kind is Kind.HOST for inner in _everything_inside(s.ops[-1])]
        inner = [op for op in inside if self._reason(op, xla) is None]
        _refuse_poor(cut, report.taken_ops, report.seen_ops, xla, inner)
        report.arithmetic_share = _arithmetic_share(cut, [*inside, *looped], [*inner, *looped])
        report.seen_ops += sum(op.type != "Const" for op in inside)
        report.taken_ops += sum(op.type != "Const" for op in inner)
        take = Take(lambda flat: self._partition(flat, xla), self._engine, self._entry,
                    stock_may_run=report.calls > 1 or self._is_bet)
        self._whole = contests(self._engine, self._entry, cache(lambda: _text(flat))) \
            if _in_pieces(cut, inner) and take.stock_may_run and not self._has_stream else None
        self.taken = TakenFunction(flat, cut, take)
        if not self._is_young and report.calls < _FEW_CALLS:
            self._is_young = True
            _young[report.name] += 1

    def _flattened(self, function: Any) -> FlatGraph:
        if self._flat is None:
            self._flat = flatten(function.graph, self._entry.report.name)
            self._flat.outputs = self._flat.outputs[: len(function.function_type.flat_outputs)]
        return self._flat

    def _partition(self, flat: FlatGraph, xla: bool) -> Partition:
        def reason(op: FlatOp) -> str | None:
            return self._reason(op, xla)

        return partition(flat, reason, lambda op: is_control(op) and self._worthwhile(op, reason), _MAX_STAGES)

    def _worthwhile(self, op: FlatOp, reason: Callable[[FlatOp], str | None]) -> bool:
        """Whether a loop or conditional that is not compiled as a whole runs faster on the host: where each turn is a
        whole step, as behind an iterator."""
        inside = list(_everything_inside(op))
        ours = sum(o.type != "Const" and reason(o) is None for o in inside)
        if _is_over_data(op, inside):
            return ours >= _MIN_STEP_OPS or is_quick(op)
        if _is_differentiated(op):
            return op.type not in LOOPS and ours >= _MIN_STEP_OPS
        return ours >= _MIN_LOOP_OPS

    def _reason(self, op: FlatOp, xla: bool) -> str | None:
        if _place(op) in self._refused:
            return self._refused[_place(op)]
        if options().skips_op(op.type):
            return "left out by AFTERBURNER_SKIP_OPS"
        if xla and xla_differs(op.type):
            return "XLA computes it differently"
        return supported(op)

    def _learn_refusals(self, function: Any, taken: TakenFunction) -> None:
        """Where an operation could not be imported, cut again without it before the next call."""
        refusals = [s.refused for s in taken.native_stages() if s.refused is not None]
        if not refusals or self._has_stream:
            return
        for refusal in refusals:
            self._refused[_place(refusal.op)] = str(refusal)
        if len(self._refused) > _MAX_REFUSALS:
            self._leave(f"more than {_MAX_REFUSALS} operations turned out not to be compilable, the last: {refusal}")
            return
        self._resized += taken.take.resized
        if self._resized > _MAX_RESIZED:
            self._leave(f"sizes that it computes differ from call to call, of the last: {refusal}")
            return
        with self._lock:
            self.taken = None
        self._prepare(function)


def _place(op: FlatOp) -> tuple[Any, ...]:
    """What tells an operation apart each time its graph is flattened: bodies of loops are, whenever they are cut."""
    return id(op.source.graph), op.source.name, op.name


def _kind_of_call(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What decides who runs a call: the options in force, and the shapes of the arguments."""
    shapes = (t._shape_tuple() for t in arguments if t.dtype not in (tf.resource, tf.variant))  # noqa: SLF001
    return (options().setting, *shapes)


def _trains(update: FlatOp) -> bool:
    """Whether an update is one of numbers that are trained: metrics are scalars, seeds are integers."""
    value = update.inputs[1]
    return update.type.startswith("ResourceApply") or (value.dtype.is_floating and value.shape.rank != 0)


def _everything_inside(op: FlatOp) -> Iterator[FlatOp]:
    """Operations of the functions inside a control operation, those inside them too."""
    for name in branch_names(op):
        for inner in flatten(branch_graph(op, name), op.name).ops:
            yield inner
            if is_control(inner):
                yield from _everything_inside(inner)


def _with_all_inside(flat: FlatGraph) -> Iterator[FlatOp]:
    """Operations of a function, and of all functions that they name: branches, bodies, what maps an input."""
    for op in flat.ops:
        yield op
        for function in called_functions(op.source):
            yield from _with_all_inside(flatten(function.graph, op.name))


def _is_differentiated(op: FlatOp) -> bool:
    """Whether a gradient goes through a loop or conditional. Each turn of a loop then puts tens of values on stacks, or
    takes them from there: from the host that takes longer than what is gained, most of which are shapes."""
    kept = _STACKS if op.type in LOOPS else _OPTIONALS
    bodies = (flatten(branch_graph(op, name), op.name) for name in branch_names(op))
    return any(inner.type in kept for body in bodies for inner in body.ops)


def _is_elsewhere() -> bool:
    """Whether a call is to be on another device than the first CPU, one of several logical ones."""
    device = context.context().device_spec
    return device.device_index not in (None, 0)


def _refuse_accelerators() -> None:
    """Where TensorFlow itself has an accelerator, tensors and variables live there."""
    others = {d.device_type for d in context.context().list_logical_devices()} - {"CPU"}
    if others:
        kind = "/".join(sorted(others))
        raise NotTaken(f"TensorFlow computes on a {kind} here; tf.config.set_visible_devices([], {kind!r}) hides it")


def _refuse_other_cpus(function: Any) -> None:
    """Where its variables live on another one of several logical CPUs, each new value would be copied there."""
    for tensor in function.graph.external_captures:
        if tensor.dtype == tf.resource and tf.DeviceSpec.from_string(tensor.device).device_index not in (None, 0):
            raise NotTaken(f"what it reads or writes lives on {tensor.device.rpartition('/')[2]}")


def _why_short_lived(name: str) -> str:
    """Why another function of this name is expected to be called a few times only; empty if it is not."""
    if _young[name] >= _MAX_YOUNG:
        return _TOO_SHORT_LIVED
    return _AMONG_SHORT_LIVED if _young.total() >= _MAX_YOUNG_IN_ALL else ""


def _refuse_missing_devices(flat: FlatGraph) -> None:
    """Without soft placement TensorFlow raises for an operation on a device that is not here."""
    if context.context().soft_device_placement:
        return
    here = {(d.device_type, int(d.name.rpartition(":")[2])) for d in context.context().list_logical_devices()}
    for op in _with_all_inside(flat):
        wanted = tf.DeviceSpec.from_string(op.source.device)
        if wanted.device_type is not None and (wanted.device_type, wanted.device_index or 0) not in here:
            raise NotTaken(f"{op.name} is to run on {op.source.device}, which is not here")


def _refuse_poor(cut: Partition, taken: int, seen: int, xla: bool, inner: Sequence[FlatOp]) -> None:
    if xla and cut.left:
        op, why = cut.left[0]
        raise NotTaken(f"marked jit_compile, and XLA keeps {op.type}: {why}")
    if inner:
        return
    if taken < max(MIN_OPS, _MIN_SHARE * seen):
        raise NotTaken(why_too_few(cut, taken, seen))
    if len(cut.stages) > _MAX_STAGES:
        raise NotTaken(f"it would take {len(cut.stages)} stages")


def _in_pieces(cut: Partition, inner: Sequence[FlatOp]) -> bool:
    """Whether TensorFlow's operations stand between compiled ones, or the host steps through loops and conditionals
    that hold compiled ones (``inner``). Loops over a dataset are not meant: each turn is a whole step, and the last
    call of an epoch may have fewer."""
    if inner:
        stepped = [s.ops[-1] for s in cut.stages if s.kind is Kind.HOST]
        return not any(_is_over_data(op, list(_everything_inside(op))) for op in stepped)
    return [stage.kind for stage in cut.stages].count(Kind.NATIVE) > 1


def _is_over_data(op: FlatOp, inside: Sequence[FlatOp]) -> bool:
    """Whether a loop or conditional takes elements of a dataset, or opens one after asking whether there is one. The
    gradient of a conditional opens optionals too, and does not ask."""
    if any(inner.type.startswith(("IteratorGetNext", "OptionalHasValue")) for inner in inside):
        return True
    return (any(inner.type == "OptionalGetValue" for inner in inside)
            and any(around.type == "OptionalHasValue" for around in op.source.graph.get_operations()))


def _text(flat: FlatGraph) -> str:
    """What a function computes, without names and order, which differ from process to process."""
    return "\n".join(sorted(f"{op.type} {[(t.dtype, t.shape) for t in op.outputs]}" for op in _with_all_inside(flat)))


def _arithmetic_share(cut: Partition, inside: Sequence[FlatOp], inner: Sequence[FlatOp]) -> float:
    """Share of result elements computed by us, as far as static shapes tell; of operations, where these tell of no
    floating-point number. ``inside``: operations inside of loops and branches that we run, ``inner``: those of them
    that are compiled."""
    stages = [s for s in cut.stages if s.kind is not Kind.HOST]
    ours = [*(op for s in stages if s.native for op in s.ops), *inner]
    every = [op for op in (*(op for s in stages for op in s.ops), *inside) if not op.type.startswith("IteratorGetNext")]
    elements = _elements(every)
    return _elements(ours) / elements if elements else len(ours) / max(len(every), 1)


def _elements(ops: Iterable[FlatOp]) -> int:
    """Elements of results that are floating-point numbers."""
    return sum(t.shape.num_elements() or 0 for op in ops for t in op.outputs
               if t.shape.rank is not None and t.dtype.is_floating)


def _readable(name: bytes | str) -> str:
    text = name.decode() if isinstance(name, bytes) else name
    text = text.removeprefix("__inference_").removeprefix("__forward_").removeprefix("__backward_")
    stem, _, number = text.rpartition("_")
    return stem if number.isdigit() and stem else text


_call_flat = atomic_function.AtomicFunction.call_flat
_engine: Engine | None = None


def _hooked_call_flat(self: Any, *args: Any) -> Any:
    engine = _engine
    if engine is None or not context.executing_eagerly():
        return _call_flat(self, *args)
    state = self.__dict__.get(_ATTRIBUTE)
    if state is None:
        state = self.__dict__[_ATTRIBUTE] = FunctionState(self, engine)
    if not state.left:
        with atomic_function.InterpolateRuntimeError(self):
            outputs = state.call(self, args)
        if outputs is not None:
            fastpath.note(self, state.call_unsealed, args)
            return outputs
    if state.turn(args) != STOCK:
        return _run_by_tensorflow(self, state, args)
    started = engine.choices.clock()
    outputs = _run_by_tensorflow(self, state, args)
    state.timed(args, STOCK, started)
    return outputs


def _run_by_tensorflow(function: Any, state: FunctionState, arguments: Sequence[Any]) -> Any:
    if not state.writes:
        return _call_flat(function, *arguments)
    return run_by_tensorflow(arguments, lambda: _call_flat(function, *arguments))


def install(engine: Engine) -> None:
    """Begin to take graph functions."""
    global _engine
    _engine = engine
    _young.clear()
    watch()
    atomic_function.AtomicFunction.call_flat = _hooked_call_flat
    fastpath.install()
    iterators.install()
    traced.install()
    arrays.install()
    known_order.install()
    joined.install()
    single_trace.install()
    tracebacks.install()
    session.install(engine)
    unknown = [name for name in options().skip_ops if op_def_registry.get(name) is None]
    if unknown:
        say(f"AFTERBURNER_SKIP_OPS: TensorFlow has no operation {', '.join(map(repr, unknown))}; give types as "
            "`afterburner explain` names them")


def uninstall() -> None:
    """Leave TensorFlow as it was; what was compiled is kept for the next ``install``."""
    global _engine
    _engine = None
    atomic_function.AtomicFunction.call_flat = _call_flat
    fastpath.uninstall()
    iterators.uninstall()
    traced.uninstall()
    arrays.uninstall()
    known_order.uninstall()
    joined.uninstall()
    single_trace.uninstall()
    tracebacks.uninstall()
    session.uninstall()
    unwatch()
    forget_all()
