"""Partitions are shared evenly, and move no more than that takes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from webhookd.cluster.membership import assign


@given(
    st.integers(1, 40),
    st.dictionaries(st.integers(0, 39), st.sampled_from("abcde")),
    st.sets(st.sampled_from("abcd"), min_size=1),
)
def test_all_machines_have_as_many_or_one_more(partitions: int, owners: dict[int, str], nodes: set[str]) -> None:
    """Whoever owned what before; and only machines that are there."""
    owners = {each: owner for each, owner in owners.items() if each < partitions}
    assigned = assign(partitions, owners, nodes)
    counts = Counter(assigned.values())
    assert set(assigned) == set(range(partitions))
    assert set(counts) <= nodes
    assert max(counts.values()) - min(counts[node] for node in nodes) <= 1
    assert assign(partitions, assigned, nodes) == assigned  # then it stays so


def test_a_machine_that_joins_takes_only_its_share() -> None:
    """Four of twelve move, none between the others."""
    owners = {each: "ab"[each % 2] for each in range(12)}
    assigned = assign(12, owners, ["a", "b", "c"])
    moved = {each for each in range(12) if assigned[each] != owners[each]}
    assert len(moved) == 4
    assert {assigned[each] for each in moved} == {"c"}


def test_without_machines_nothing_is_assigned() -> None:
    """All are drained."""
    assert assign(4, {0: "a"}, []) == {}
