"""The judge of a cluster: a takeover in order passes, and each broken promise is caught."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.checker import judge
from tests.crash.history import (
    Asked,
    DeliveryRow,
    EndpointRow,
    Final,
    History,
    Received,
    Said,
    Subscriber,
    Takeover,
    Terms,
)

EVENTS = ("one", "two", "three", "four")


def body(event_id: str) -> bytes:
    """The bytes of an event."""
    return b'{"event_id":"%b"}' % event_id.encode()


def got(event_id: str, at: float, sender: str, answer: int = 200, attempt: int = 1) -> Received:
    """A request that took 50 ms."""
    return Received("e", event_id, body(event_id), attempt, False, at, at + 0.05, answer, sender=sender)


def in_order() -> tuple[History, Final]:
    """Machine `a` delivers two events and dies at 3.0; `b` takes over at 10.0 and repeats the second one."""
    history = History(
        Terms(repeat_seconds=1.5, pause_seconds=20.0, outage_seconds=30.0),
        [Subscriber("e", "w", ("*",))],
        [
            Asked(name, "message.sent", "w", body(name), float(at), at + 0.1, Said.TAKEN, at)
            for at, name in enumerate(EVENTS, 1)
        ],
        [
            got("one", 1.2, "a"),
            got("two", 2.2, "a"),
            got("two", 10.1, "b"),
            got("three", 10.2, "b", 500),
            got("three", 11.2, "b", attempt=2),
            got("four", 11.3, "b"),
        ],
        takeovers={"e": [Takeover(0.0, "a", 0.0), Takeover(10.0, "b", 3.0)]},
    )
    rows = [DeliveryRow(seq, name, "e") for seq, name in enumerate(EVENTS, 1)]
    rows[2] = replace(rows[2], attempt_count=2, final_number=2)
    return history, Final({name: body(name) for name in EVENTS}, rows, [], {"e": EndpointRow("e", workspace="w")})


def test_a_takeover_in_order_passes() -> None:
    """Nothing is found where nothing is wrong; the one repeat is counted."""
    judgement = judge(*in_order())
    assert [] == judgement.violations
    assert (4, 6, 1) == (judgement.accepted, judgement.received, judgement.repeats)


def test_a_pause_is_longer_where_what_keeps_the_events_lost_a_server() -> None:
    """25 s, which are too long without that."""
    history, final = in_order()
    history.received[-1] = got("four", 36.4, "b")
    assert ["paused"] == [each.rule for each in judge(history, final).violations]
    history.outages.append(10.0)
    assert [] == judge(history, final).violations


def test_a_pause_begins_when_there_is_something_to_deliver() -> None:
    """25 s after the one before, and 15 s after it was accepted: its producer's requests had come to nothing."""
    history, final = in_order()
    history.received[-1] = got("four", 36.4, "b")
    final.deliveries[-1] = replace(final.deliveries[-1], queued_at=21.4)
    assert [] == judge(history, final).violations
    final.deliveries[-1] = replace(final.deliveries[-1], queued_at=16.3)
    assert ["paused"] == [each.rule for each in judge(history, final).violations]


def skip_one(history: History) -> None:
    """The new owner sends the fourth before the third."""
    history.received[3] = got("four", 10.2, "b")
    history.received[4] = got("three", 10.3, "b")


def skip_one_over_two_takeovers(history: History) -> None:
    """The fourth is sent first, and the next owner begins with the third."""
    history.takeovers["e"].append(Takeover(10.5, "c", 10.5))
    history.received[3:] = [got("four", 10.2, "b"), got("three", 11.0, "c", attempt=2)]


def repeat_too_much(history: History) -> None:
    """What was delivered two seconds before the owner was lost comes again."""
    history.takeovers["e"][1] = Takeover(10.0, "b", 4.0)


def repeat_at_peace(history: History) -> None:
    """A partition that was handed over knows everything, however late it was delivered."""
    history.takeovers["e"][1] = Takeover(10.0, "b", math.inf)
    history.received[1] = got("two", 9.8, "a")


def repeat_without_a_takeover(history: History) -> None:
    """The same owner sends again what it had delivered."""
    history.received.append(got("four", 11.5, "b"))


def send_without_the_lease(history: History) -> None:
    """The former owner goes on."""
    history.received[3] = got("three", 10.2, "a", 500)


def overlap(history: History) -> None:
    """Two requests at once from one owner."""
    history.received[3].ended_at = 11.25


def be_late(history: History) -> None:
    """Nothing arrives for 21 s."""
    history.received[-1] = got("four", 32.4, "b")


def be_late_in_an_outage(history: History) -> None:
    """Nothing arrives for 31 s, when 30 are allowed."""
    history.outages.append(12.0)
    history.received[-1] = got("four", 42.4, "b")


def lose_one(history: History) -> None:
    """What was accepted was never delivered."""
    history.received.pop(4)


BREAKS: list[tuple[Callable[[History], None], str]] = [
    (skip_one, "reordered"),
    (skip_one_over_two_takeovers, "reordered"),
    (repeat_too_much, "repeated"),
    (repeat_at_peace, "repeated"),
    (repeat_without_a_takeover, "repeated"),
    (send_without_the_lease, "by_another"),
    (overlap, "overlapping"),
    (be_late, "paused"),
    (be_late_in_an_outage, "paused"),
    (lose_one, "lost"),
]


@pytest.mark.parametrize(("break_it", "rule"), BREAKS)
def test_each_broken_promise_is_caught(break_it: Callable[[History], None], rule: str) -> None:
    """The rule that says so finds it."""
    history, final = in_order()
    break_it(history)
    assert rule in {each.rule for each in judge(history, final).violations}
