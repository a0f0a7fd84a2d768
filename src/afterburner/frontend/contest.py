"""Who runs a compiled stage: one of our devices, or TensorFlow; measured where that cannot be known.

Every step of a trial is a step of the program: run once, by one candidate, on the inputs, variables and random keys
of that step. TensorFlow takes part as it does in a fallback, by running the operations of the stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tensorflow.python.framework import config

from ..ir import Graph, print_graph
from ..options import options
from ..report import ChoiceReport
from ..runtime.buffers import BufferPool
from ..runtime.decisions import Decision, Decisions
from ..runtime.trial import Trial
from .import_graph import Imported
from .second_opinion import SecondOpinion
from .variant import Variant

STOCK = "TensorFlow"  # the candidate that is none of our devices
CPU, ANY = "cpu", "any"


@dataclass(frozen=True)
class Choices:
    """What there is to choose from, put in place by ``compile``.

    Attributes:
        devices: ours, the preferred first.
        doubt: why TensorFlow may be faster than our cpu code for a graph; None where it is known not to be.
        identity: text that determines the outcome of a trial: the graph, the machine, and all versions.
        decisions: earlier outcomes; None where nothing is kept.
        clock: seconds from some moment on.
        whole: as ``identity``, of the text of a function in pieces; None where these are not tried.
        label: what reports call a candidate.
        room: whether TensorFlow's intermediate values of a graph fit in memory.
    """

    devices: Callable[[], tuple[str, ...]] = lambda: (CPU,)
    doubt: Callable[[Graph], str | None] = lambda graph: None
    identity: Callable[[Graph], str] = lambda graph: print_graph(graph, locations=False)
    decisions: Callable[[], Decisions | None] = lambda: None
    clock: Callable[[], float] = time.perf_counter
    whole: Callable[[str], str] | None = None
    label: Callable[[str], str] = str
    room: Callable[[Graph], bool] = lambda graph: True

    def candidates(self, graph: Graph, stock_may_run: bool) -> tuple[str, ...]:
        """Who may run a graph under the options in force, the preferred first.

        Args:
            graph: as imported.
            stock_may_run: whether TensorFlow has run the function before, or would take little memory for it.
        """
        settings = options()
        if settings.device != ANY:
            return (settings.device,)
        if is_deterministic():
            return (CPU,)
        devices = self.devices()
        return (*devices, STOCK) if self._is_stock_tried(graph, len(devices) > 1, stock_may_run) else devices

    def _is_stock_tried(self, graph: Graph, is_trial: bool, may_run: bool) -> bool:
        """Whether TensorFlow is measured as well: wherever there is a trial of devices and the memory for it, else
        only where it may be the fastest."""
        if is_trial:
            return may_run or self.room(graph)
        return may_run and self.doubt(graph) is not None

    def kept(self, graph: Graph, candidates: tuple[str, ...]) -> Decision | None:
        """The outcome of an earlier trial of these candidates."""
        decisions = self.decisions()
        if decisions is None or not decisions.any():
            return None
        return decisions.get(self.identity(graph), candidates)

    def report(self, signature: str, decision: Decision, measured: bool,
               dropped: Mapping[str, str] = MappingProxyType({})) -> ChoiceReport:
        """An outcome as the report keeps it."""
        label = self.label
        return ChoiceReport(signature, label(decision.chosen),
                            {label(name): seconds for name, seconds in decision.seconds.items()}, decision.steps,
                            "measured" if measured else "cache", {label(name): why for name, why in dropped.items()})

    def keep(self, graph: Graph, candidates: tuple[str, ...], decision: Decision) -> None:
        """Remember an outcome."""
        decisions = self.decisions()
        if decisions is not None:
            decisions.put(self.identity(graph), candidates, decision)


def is_deterministic() -> bool:
    """Whether nothing may depend on measured time."""
    return options().deterministic or bool(config.is_op_determinism_enabled())


@dataclass
class Contest:
    """A stage for one set of shapes, while candidates take turns.

    Attributes:
        imported: what they compute.
        signature: the shapes, as the report tells them.
        variants: our candidates that are compiled.
        broken: whether one failed, or cannot take part in this process, so that the outcome is not kept.
        fast: whether they are compiled with fast precision.
        stopped: whether measuring was forbidden on the way, so that the outcome is nothing that was found.
        unconfirmed: devices whose results nothing was compared with yet; the cpu's are what others are compared with.
    """

    imported: Imported
    signature: str
    candidates: tuple[str, ...]
    variants: dict[str, Variant] = field(default_factory=dict)
    broken: bool = False
    stopped: bool = False
    fast: bool = field(default_factory=lambda: options().fast)

    def __post_init__(self) -> None:
        self.trial = Trial(self.candidates)
        self.unconfirmed = set(self.candidates) - {CPU, STOCK}

    def heed(self) -> None:
        """Measure no more where the program has asked for determinism since the trial began."""
        if not self.stopped and self.trial.chosen is None and is_deterministic():
            self.stopped = True
            self.trial.stop()

    def name_of(self, variant: Variant) -> str:
        """The candidate that a variant belongs to."""
        return next(name for name, made in self.variants.items() if made is variant)

    def opinion_on(self, name: str, pool: BufferPool) -> SecondOpinion | None:
        """What the first step of a device is compared with; None for all others, and where the cpu cannot tell."""
        if name not in self.unconfirmed or CPU not in self.variants or CPU in self.trial.dropped:
            return None
        return SecondOpinion(self.variants[CPU].executable, self.imported.graph, pool, self.fast)

    def decision(self) -> Decision:
        """The outcome.

        Raises:
            ValueError: there is none yet.
        """
        if self.trial.chosen is None:
            raise ValueError("the trial is not over")
        return Decision(self.trial.chosen, self.trial.seconds, self.trial.steps)


@dataclass
class Plan:
    """Who runs a stage for one set of shapes.

    Attributes:
        variant: our code; None where TensorFlow runs it.
        contest: while candidates take turns.
    """

    variant: Variant | None
    contest: Contest | None = None

    @property
    def lost(self) -> bool:
        """Whether TensorFlow was found faster."""
        return self.variant is None and self.contest is None
