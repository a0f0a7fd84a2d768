"""``Session.run`` of TensorFlow 1 programs: runs that are repeated are compiled.

A run is cut into stages like a function. What stays on TensorFlow is run by the session itself, fed with what compiled
stages gave. Variables are fetched from the session before the first compiled stage and assigned after the last, by the
graph's own assign operations; nothing is added to the graph. Their values are kept from run to run, unless a run of
TensorFlow's that may have written them came between.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.client import session as tf_session

from ..errors import NotTaken, StrictError
from ..options import options
from . import failures, graph_log
from .flatten import FlatOp, FlatTensor
from .function import Engine, describe_left
from .import_graph import supported
from .importer import Refused
from .partition import MIN_OPS, Kind, Stage, partition, why_too_few
from .session_graph import SessionGraph, needed, session_graph
from .session_stage import Arrays, SessionStage, dense
from .variant import CheckFailed

_ATTRIBUTE = "_afterburner"
_MIN_SHARE = 0.5
_MAX_STAGES = 5
_MAX_REFUSALS = 16
_WITHOUT_EFFECT = ("Const", "NoOp", "Identity", "PlaceholderWithDefault")
_REPEATABLE = ("Assert", "ReadVariableOp", "VarHandleOp", "VarIsInitializedOp", "Variable", "VariableV2")

_do_run = tf_session.BaseSession._do_run  # noqa: SLF001
_make_callable = tf_session.BaseSession._make_callable_from_options  # noqa: SLF001
_engine: Engine | None = None
_installed = 0  # how often


class _LeftToTensorFlow(Exception):
    """TensorFlow is to run the whole run, with what its stages have given so far fed to it."""

    def __init__(self, given: dict[Any, Any]) -> None:
        super().__init__()
        self.given = given


class _StockStage:
    """Operations that the session runs, fed with what they need."""

    def __init__(self, stage: Stage, found: SessionGraph) -> None:
        if stage.resources or any(t.dtype in (tf.resource, tf.variant) for t in (*stage.inputs, *stage.outputs)):
            raise NotTaken(f"{stage.ops[-1].type} takes a variable or handle from elsewhere")
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self.fed = [_symbol(t, found) for t in self.inputs]
        self.fetched = [_symbol(t, found) for t in self.outputs]
        self.targets = [op.source for op in stage.ops if op.stateful]
        inside = {op.name for op in stage.ops}
        for op in needed(self.fetched, self.targets, self.fed):
            if op.name not in inside and op.type not in _WITHOUT_EFFECT:
                raise NotTaken(f"{op.name} would run twice: {stage.ops[-1].name} waits for it")


def _symbol(tensor: FlatTensor, found: SessionGraph) -> Any:
    """The session's tensor."""
    if tensor.op is None:
        return found.feeds[tensor.index]
    if tensor.op.source.graph is not found.graph:
        raise NotTaken(f"{tensor.op.type} inside a function")
    return tensor.op.source.outputs[tensor.index]


class _Plan:
    """What is known of runs with the same fetches, targets and fed tensors.

    Attributes:
        harmless: TensorFlow's run of it writes no variable.
    """

    def __init__(self, engine: Engine, fetches: Sequence[Any], targets: Sequence[Any], feeds: Sequence[Any]) -> None:
        names = [t.name for t in (*targets, *(f.op for f in fetches))]
        self.name = f"session.run({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
        self._entry = engine.recorder.entry(self.name)
        self._engine = engine
        self._symbols = (fetches, targets, feeds)
        self._refused: dict[FlatOp, str] = {}
        self._found: SessionGraph | None = None
        self._stages: list[SessionStage | _StockStage] = []
        self._left = False
        self._seen: dict[Any, int] = {}
        self.harmless = False

    def wants(self, session: Any, shapes: Any) -> bool:
        """Whether this call is to be taken."""
        report = self._entry.report
        report.calls += 1
        if self._left or report.calls <= options().compile_after:
            return False
        if self._found is None:
            self._prepare(session)
        if self._left:
            return False
        seen = self._seen[shapes] = self._seen.get(shapes, 0) + 1
        others = len(self._seen) > 1 and shapes != next(iter(self._seen))
        # The first shapes are compiled at once, others (a short last batch) when they recur.
        return not others or (seen > options().compile_after + 1 and self._position(shapes) < options().variants)

    def _position(self, shapes: Any) -> int:
        return list(self._seen).index(shapes)

    def _leave(self, reason: str) -> None:
        self._left = True
        self._engine.recorder.left(self._entry, reason)

    def _prepare(self, session: Any) -> None:
        try:
            others = {d.device_type for d in session.list_devices()} - {"CPU", "XLA_CPU"}
            if others:
                raise NotTaken(f"TensorFlow computes on a {'/'.join(sorted(others))} here")
            self._found = session_graph(self.name, session.graph, *self._symbols)
            self._cut(self._found)
        except NotTaken as error:
            self._leave(str(error))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the program goes on
            if options().strict:
                raise StrictError(f"{self.name}: {error}") from error
            self._leave(f"{type(error).__name__}: {error}")

    def _cut(self, found: SessionGraph) -> None:
        self.harmless = all(not op.stateful or op.type == "ReadVariableOp" for op in found.flat.ops)
        cut = partition(found.flat, self._reason)
        if options().log_graphs:
            self._engine.recorder.log(graph_log.lines(found.flat, cut))
        report = self._entry.report
        report.left = describe_left(cut.left)
        report.seen_ops = sum(op.type != "Const" for s in cut.stages for op in s.ops)
        report.taken_ops = cut.native_ops
        report.arithmetic_share = report.taken_ops / max(report.seen_ops, 1)
        if cut.native_ops < max(MIN_OPS, _MIN_SHARE * report.seen_ops):
            raise NotTaken(why_too_few(cut, cut.native_ops, report.seen_ops))
        if len(cut.stages) > _MAX_STAGES:
            raise NotTaken(f"it would take {len(cut.stages)} stages")
        written = {t for op in found.flat.ops if op.stateful and op.type != "ReadVariableOp" for t in op.inputs}
        for handle, variable in found.variables.items():
            if handle in written and variable.assign is None:
                raise NotTaken(f"nothing assigns the variable {variable.name} at any time")
        label = "session_" + "".join(c if c.isalnum() else "_" for c in self.name)
        self._stages = [SessionStage(stage, self._engine, self._entry, label) if stage.kind is Kind.NATIVE
                        else _StockStage(stage, found) for stage in cut.stages]
        self._refuse_repeats()

    def _refuse_repeats(self) -> None:
        """A compiled stage may leave the run to TensorFlow, which is then fed with what is known: what earlier stages
        did must not happen once more.

        Raises:
            NotTaken: it would.
        """
        fetches, targets, feeds = self._symbols
        given, done = list(feeds), set[str]()
        for stage in self._stages:
            if isinstance(stage, _StockStage):
                given += stage.fetched
                done |= {op.name for op in stage.targets if op.type not in _REPEATABLE}
                continue
            for op in needed(fetches, targets, given) if done else ():
                if op.name in done:
                    raise NotTaken(f"{op.name} ({op.type}) would run twice if a compiled part were left to TensorFlow")

    def _reason(self, op: FlatOp) -> str | None:
        if op in self._refused:
            return self._refused[op]
        if options().skips_op(op.type):
            return "left out by AFTERBURNER_SKIP_OPS"
        return supported(op)

    def run(self, session: Any, kept: dict[str, Any], feeds: Sequence[Any]) -> list[Any]:
        """The fetched values. ``kept`` holds values of the session's variables, and is brought up to date.

        Raises:
            _LeftToTensorFlow: no variable was written.
        """
        try:
            return self._run(session, kept, feeds)
        finally:
            self._engine.recorder.tell(self._entry)

    def _run(self, session: Any, kept: dict[str, Any], feeds: Sequence[Any]) -> list[Any]:
        found = self._found
        assert found is not None  # it was prepared by wants
        given: dict[Any, Any] = {}
        variables = self._read(session, kept, found)
        before = dict(variables)
        values: Arrays = dict(zip(found.flat.arguments, feeds, strict=False))
        for stage in self._stages:
            if isinstance(stage, _StockStage):
                feed = {s.ref(): values[t] for s, t in zip(stage.fed, stage.inputs, strict=True)}
                try:
                    results = _do_run(session, None, stage.targets, stage.fetched, feed, None, None)
                except tf.errors.OpError:  # what was assigned before an operation fails stays assigned
                    self._write(session, kept, found, _changed(variables, before))
                    raise
                values.update(zip(stage.outputs, results, strict=True))
                given.update(zip((s.ref() for s in stage.fetched), results, strict=True))
            elif not self._computes(found, stage, values, variables):
                raise _LeftToTensorFlow(given)
        outputs = [_fetched(values, t) for t in found.flat.outputs]
        self._write(session, kept, found, _changed(variables, before))
        return outputs

    def _computes(self, found: SessionGraph, stage: SessionStage, values: Arrays, variables: Arrays) -> bool:
        """Run a compiled stage; False where TensorFlow is to do it."""
        try:
            stage.run(values, variables)
            return True
        except CheckFailed:
            return False
        except Refused as error:
            self._refused[error.op] = error.reason
            self._recut(found, error)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the program goes on
            what = failures.describe(self.name, "run", error)
            if options().strict:
                raise StrictError(what) from error
            self._left = True
            self._engine.recorder.failed(self._entry, what)
        return False

    def _recut(self, found: SessionGraph, error: Refused) -> None:
        if len(self._refused) > _MAX_REFUSALS:
            self._leave(f"more than {_MAX_REFUSALS} operations turned out not to be compilable, the last: {error}")
            return
        try:
            self._cut(found)
        except NotTaken as reason:
            self._leave(str(reason))

    def _read(self, session: Any, kept: dict[str, Any], found: SessionGraph) -> Arrays:
        """Values of all variables; those that are not kept come from the session.

        Raises:
            _LeftToTensorFlow: one has no value yet.
        """
        missing = [v for v in found.variables.values() if v.name not in kept]
        if missing:
            try:
                values = _do_run(session, None, [], [v.read for v in missing], {}, None, None)
            except tf.errors.FailedPreconditionError:
                raise _LeftToTensorFlow({}) from None
            kept.update(zip((v.name for v in missing), map(dense, values), strict=True))
        return {handle: kept[v.name] for handle, v in found.variables.items()}

    def _write(self, session: Any, kept: dict[str, Any], found: SessionGraph, new: Arrays) -> None:
        """Assign new values, all in one run."""
        if not new:
            return
        assigns: list[Any] = [found.variables[handle].assign for handle in new]
        feed = {assign.inputs[1].ref(): value for assign, value in zip(assigns, new.values(), strict=True)}
        known = kept | {found.variables[handle].name: value for handle, value in new.items()}
        kept.clear()  # should the run fail
        _do_run(session, None, assigns, [], feed, None, None)
        kept.update(known)


def _changed(variables: Arrays, before: Arrays) -> Arrays:
    return {handle: value for handle, value in variables.items() if value is not before[handle]}


def _fetched(values: Arrays, tensor: FlatTensor) -> Any:
    """What a program gets: scalars are no arrays."""
    if tensor.op is not None and tensor.op.type == "Const" and tensor not in values:
        array = tf.make_ndarray(tensor.op.attr("value"))
    else:
        array = values[tensor]
    return array[()] if isinstance(array, np.ndarray) and array.ndim == 0 else array


class _State:
    """What is known of a session.

    Attributes:
        kept: values of variables, by name, that nothing has written since.
        callables: whether it made callables, whose runs are not seen.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running = 0  # runs of TensorFlow's
        self._plans: dict[Any, _Plan] = {}
        self._installed = _installed
        self.kept: dict[str, Any] = {}
        self.callables = False

    def run(self, engine: Engine, session: Any, targets: Sequence[Any], fetches: Sequence[Any],
            feed: dict[Any, Any]) -> list[Any]:
        """One run, by us or by TensorFlow."""
        feeds = [t.deref() for t in feed]
        key = tuple(tuple(item.name for item in items) for items in (fetches, targets, feeds))
        given: dict[Any, Any] = {}
        with self._lock:
            if self._installed != _installed:  # runs in between were not seen
                self._installed = _installed
                self.kept.clear()
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = _Plan(engine, list(fetches), list(targets), feeds)
            if self._running == 0 and plan.wants(session, tuple(value.shape for value in feed.values())):
                try:
                    return plan.run(session, self.kept, list(feed.values()))
                except _LeftToTensorFlow as left:
                    given = left.given
        rest = [t for t in fetches if t.ref() not in given]
        results = iter(self.stock(plan.harmless, session, None, targets, rest, feed | given, None, None))
        return [given[t.ref()] if t.ref() in given else next(results) for t in fetches]

    def stock(self, harmless: bool, *arguments: Any) -> Any:
        """A run by TensorFlow; unless it is harmless, values of variables are not known any more."""
        self._begin(1, harmless)
        try:
            return _do_run(*arguments)
        finally:
            self._begin(-1, harmless)

    def _begin(self, count: int, harmless: bool) -> None:
        with self._lock:
            self._running += count
            if not harmless:
                self.kept.clear()


def _state(session: Any) -> _State:
    return session.__dict__.setdefault(_ATTRIBUTE, _State())  # type: ignore[no-any-return]


def _hooked_do_run(self: Any, handle: Any, target_list: Any, fetch_list: Any, feed_dict: Any, run_options: Any,
                   run_metadata: Any) -> Any:
    engine, state = _engine, _state(self)
    plain = handle is None and run_options is None and run_metadata is None and not self._target
    if engine is None or not plain or state.callables:
        return state.stock(False, self, handle, target_list, fetch_list, feed_dict, run_options, run_metadata)
    return state.run(engine, self, target_list, fetch_list, feed_dict)


def _hooked_make_callable(self: Any, callable_options: Any) -> Any:
    _state(self).callables = True
    return _make_callable(self, callable_options)


def install(engine: Engine) -> None:
    """Begin to take runs of sessions."""
    global _engine, _installed
    _engine = engine
    _installed += 1
    tf_session.BaseSession._do_run = _hooked_do_run
    tf_session.BaseSession._make_callable_from_options = _hooked_make_callable


def uninstall() -> None:
    """Leave TensorFlow as it was."""
    global _engine
    _engine = None
    tf_session.BaseSession._do_run = _do_run
    tf_session.BaseSession._make_callable_from_options = _make_callable
