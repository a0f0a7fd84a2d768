"""Groups of nodes that stay free of cycles while they are merged.

Two groups may become one unless a path leads from one to the other through a third: the third
would then have to run both after and before the merged group. The groups are kept in a topological
order; a path between two of them can only pass through groups whose positions lie between theirs,
so the search is local (Pearce and Kelly, "A dynamic topological sort algorithm", 2006).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

_SEARCH_LIMIT = 4000  # groups visited for one question; beyond that the answer is "rather not"
_SMALLEST_STEP = 1e-9


class Clusters:
    """An acyclic graph of groups, each named by one of its members, numbered 0 to n-1.

    Args:
        predecessors: of each member, members with smaller numbers.
    """

    def __init__(self, predecessors: Sequence[Iterable[int]]) -> None:
        count = len(predecessors)
        self.before: list[set[int]] = [set(p) for p in predecessors]
        self.after: list[set[int]] = [set() for _ in range(count)]
        for member, sources in enumerate(self.before):
            for source in sources:
                self.after[source].add(member)
        self._leader = list(range(count))
        self._position: list[float] = [float(i) for i in range(count)]
        self._taken = [float(i) for i in range(count)]  # sorted; positions now or once in use
        self._alive = set(range(count))

    def find(self, member: int) -> int:
        """The name of the group that holds ``member``."""
        while self._leader[member] != member:
            self._leader[member] = self._leader[self._leader[member]]
            member = self._leader[member]
        return member

    def position(self, group: int) -> float:
        """Where a group stands in the topological order."""
        return self._position[group]

    def order(self) -> list[int]:
        """The groups in topological order."""
        return sorted(self._alive, key=self._position.__getitem__)

    def merge(self, a: int, b: int) -> int | None:
        """Make groups ``a`` and ``b`` one and return its name; None if that would close a cycle."""
        if self._position[a] > self._position[b]:
            a, b = b, a
        between = self._reachable(a, b)
        if between is None:
            return None
        self._reorder(b, between)
        return self._unite(a, b)

    def leads_to(self, a: int, b: int) -> bool:
        """Whether a path leads from group ``a`` to group ``b``, or the search became too long."""
        if a == b:
            return True
        if self._position[a] > self._position[b]:
            return False
        return b in self.after[a] or self._reachable(a, b) is None

    def _reachable(self, a: int, b: int) -> set[int] | None:
        """Groups before ``b`` that ``a`` leads to; None if one of them leads to ``b``."""
        limit = self._position[b]
        seen: set[int] = set()
        stack = [g for g in self.after[a] if g != b and self._position[g] < limit]
        while stack:
            group = stack.pop()
            if group in seen:
                continue
            seen.add(group)
            if len(seen) > _SEARCH_LIMIT:
                return None
            for successor in self.after[group]:
                if successor == b:
                    return None
                if self._position[successor] < limit and successor not in seen:
                    stack.append(successor)
        return seen

    def _reorder(self, b: int, later: set[int]) -> None:
        """Move ``later`` right behind ``b``, in their order; all else keeps its place."""
        if not later:
            return
        here = self._position[b]
        behind = bisect_right(self._taken, here)
        following = self._taken[behind] if behind < len(self._taken) else here + 1.0
        step = (following - here) / (len(later) + 1)
        if step < _SMALLEST_STEP:
            self._renumber()
            self._reorder(b, later)
            return
        moved = sorted(later, key=self._position.__getitem__)
        for i, group in enumerate(moved, start=1):
            self._position[group] = here + i * step
        self._taken[behind:behind] = [self._position[g] for g in moved]

    def _renumber(self) -> None:
        for i, group in enumerate(self.order()):
            self._position[group] = float(i)
        self._taken = [float(i) for i in range(len(self._alive))]

    def _unite(self, a: int, b: int) -> int:
        """``b`` takes in ``a``: what is before ``b`` and what comes after ``a`` surround both."""
        self._leader[a] = b
        self._alive.discard(a)
        for source in self.before[a]:
            self.after[source].discard(a)
            if source != b:
                self.after[source].add(b)
                self.before[b].add(source)
        for target in self.after[a]:
            self.before[target].discard(a)
            if target != b:
                self.before[target].add(b)
                self.after[b].add(target)
        self.before[b].discard(a)
        self.after[b].discard(a)
        self.before[a], self.after[a] = set(), set()
        return b
