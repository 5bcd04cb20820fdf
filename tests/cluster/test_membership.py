"""Partitions are shared evenly and taken in time, progress is saved in time, and who has the lease sends."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import Counter
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from webhookd.cluster.jetstream import JetStream
from webhookd.cluster.lease import Lease, LeaseValue, Moment
from webhookd.cluster.membership import View, assign, free
from webhookd.cluster.progress import LEAST_SECONDS, SAVED_SECONDS, WRITE_SECONDS, seconds_until_next


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


@given(st.floats(0, (SAVED_SECONDS - LEAST_SECONDS) / 2))
def test_what_was_delivered_is_saved_within_the_promise(took_seconds: float) -> None:
    """However long a write takes, the next one ends in time, and none comes sooner than that needs."""
    wait_seconds = seconds_until_next(took_seconds)
    assert LEAST_SECONDS <= wait_seconds <= WRITE_SECONDS
    assert took_seconds + wait_seconds + took_seconds <= SAVED_SECONDS + 1e-9
    assert wait_seconds == WRITE_SECONDS or took_seconds > (SAVED_SECONDS - WRITE_SECONDS) / 2 - 1e-9


def test_a_write_that_takes_longer_than_that_is_followed_by_the_next() -> None:
    """There is no more to be done."""
    assert LEAST_SECONDS == seconds_until_next(60.0)


def view(unchanged_seconds: float, value: LeaseValue, alive: tuple[str, ...] = ("a", "b", "c")) -> View:
    """One partition, whose lease is so and has been for so long."""
    return View(alive, frozenset(), {}, {0: value}, {0: 7}, {0: unchanged_seconds})


def test_a_partition_is_taken_by_the_machine_that_is_to_have_it_or_by_any_that_sees_it_left() -> None:
    """One that has just joined counts the lease from its first look; the others don't wait for that."""
    lost = LeaseValue("x", "http://x")
    assert [] == free(view(15.0, lost), "a", {0: "a"}, 15)
    assert [0] == free(view(15.1, lost), "a", {0: "a"}, 15)
    assert [] == free(view(15.1, lost), "b", {0: "a"}, 15)
    assert [0] == free(view(16.1, lost), "b", {0: "a"}, 15)
    assert [] == free(view(60.0, lost, alive=("a",)), "b", {0: "a"}, 15)  # drained


def test_a_partition_that_was_released_goes_to_whom_it_is_meant_for() -> None:
    """To another only if that one doesn't come; what this machine had before it was started anew, at once."""
    assert [0] == free(view(0.0, LeaseValue(to="a")), "a", {0: "a"}, 15)
    assert [] == free(view(0.0, LeaseValue(to="b")), "a", {0: "a"}, 15)
    assert [0] == free(view(3.1, LeaseValue(to="b")), "a", {0: "a"}, 15)
    assert [0] == free(view(0.0, LeaseValue(to="x")), "a", {0: "a"}, 15)
    assert [0] == free(view(0.0, LeaseValue("a", "http://a")), "a", {0: "a"}, 15)


def test_no_other_thread_runs_between_the_look_at_the_lease_and_the_send() -> None:
    """It would for milliseconds, and a process that is stopped then sends when another machine has the partition."""
    lease = Lease(cast("JetStream", None), 0, LeaseValue("a"), lease_seconds=15, attempt_seconds=lambda: 5.0)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    assert lease.send(ours, b"no lease") is None
    lease._renewed = Moment.now()
    body, turns, done = b"x" * 100_000, 0, False

    def take_turns() -> None:
        nonlocal turns
        while not done:
            turns += 1
            time.sleep(0)

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody is asked to give up the interpreter's lock
    try:
        for thread in threads:
            thread.start()
        for _ in range(300):
            before = turns
            assert lease.send(ours, body) == len(body)
            assert before == turns
            theirs.recv(len(body), socket.MSG_WAITALL)
    finally:
        sys.setswitchinterval(interval)
        done = True
        for thread in threads:
            thread.join()
    while lease.send(ours, body):
        pass
    assert 0 == lease.send(ours, b"no room")
    ours.close()
    theirs.close()
