"""Merging groups never closes a cycle: against the obvious check on random graphs."""

import random

import pytest

from afterburner.passes.clusters import Clusters


def acyclic(predecessors: list[list[int]], groups: dict[int, set[int]]) -> bool:
    """Whether the graph of groups has no cycle, by removing groups that nothing precedes."""
    group_of = {m: g for g, members in groups.items() for m in members}
    before = {g: {group_of[p] for m in members for p in predecessors[m]} - {g} for g, members in groups.items()}
    while before:
        free = [g for g, sources in before.items() if not sources]
        if not free:
            return False
        for group in free:
            del before[group]
        for sources in before.values():
            sources.difference_update(free)
    return True


@pytest.mark.parametrize("seed", range(150))
def test_merges_exactly_what_stays_acyclic(seed: int) -> None:
    choose = random.Random(seed)
    count = choose.randint(2, 16)
    predecessors = [[j for j in range(i) if choose.random() < 0.25] for i in range(count)]
    clusters = Clusters(predecessors)
    groups = {i: {i} for i in range(count)}
    for _ in range(2 * count):
        if len(groups) < 2:
            break
        a, b = choose.sample(sorted(groups), 2)
        merged = {g: m for g, m in groups.items() if g not in (a, b)}
        merged[b] = groups[a] | groups[b]
        legal = acyclic(predecessors, merged)
        name = clusters.merge(a, b)
        assert (name is not None) == legal
        if name is not None:
            merged[name] = merged.pop(b)
            groups = merged
        place = {g: i for i, g in enumerate(clusters.order())}
        assert set(place) == set(groups)
        for member, sources in enumerate(predecessors):
            for source in sources:
                first, second = clusters.find(source), clusters.find(member)
                assert first == second or place[first] < place[second]


def test_knows_paths() -> None:
    clusters = Clusters([[], [0], [1], []])
    assert clusters.leads_to(0, 2)
    assert not clusters.leads_to(2, 0)
    assert not clusters.leads_to(0, 3)
