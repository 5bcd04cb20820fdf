"""The judge itself: a history in order passes, and for each rule one that breaks just that rule is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.case import Case
from tests.crash.checker import judge
from tests.crash.history import (
    CANCELLED,
    DELIVERED,
    DROPPED,
    EXPIRED,
    PENDING,
    REPLAY,
    SKIPPED,
    Asked,
    Crash,
    DeliveryRow,
    Enabled,
    EndpointRow,
    FailureRow,
    Final,
    History,
    Received,
    Said,
    Subscriber,
    Terms,
)
from tests.crash.spending import spent

Break = Callable[[History, Final], None]
TERMS = Terms(retry_seconds=(1.0, 2.0), limit=3, window_seconds=60.0, hold_max_events=2)


def asked(event_id: str, at: float, *, request: int, index: int = 0, said: Said = Said.TAKEN) -> Asked:
    """Sent at `at`, answered a tenth of a second later."""
    answered_at = None if said is Said.UNKNOWN else at + 0.1
    return Asked(event_id, "message.sent", "default", body(event_id), at, answered_at, said, request, index)


def body(event_id: str) -> bytes:
    """The bytes of an event."""
    return b'{"event_id":"%b"}' % event_id.encode()


def got(endpoint: str, event_id: str, at: float, answer: int | None = 200, attempt: int = 1) -> Received:
    """A request that took 50 ms."""
    return Received(endpoint, event_id, body(event_id), attempt, False, at, at + 0.05, answer)


def failure(seq: int, delivery: int, endpoint: str, at: float, number: int) -> FailureRow:
    """The record of a failure that `got(…, at, 500)` saw."""
    return FailureRow(seq, delivery, endpoint, "default", at + 0.05, number)


def in_order() -> tuple[History, Final]:
    """One, two and a batch of three and four, to `well` and to `ill`, which fails now and then.

    A crash leaves the outcome of `two` to `well` unknown; `four` to `ill` is dropped.  The budget stands at its limit.
    """
    history = History(
        TERMS,
        [Subscriber("well", "default", ("*",)), Subscriber("ill", "default", ("message.sent",))],
        [
            asked("one", 0.0, request=1),
            asked("two", 1.0, request=2),
            asked("three", 2.0, request=3, said=Said.UNKNOWN),
            asked("three", 4.0, request=4),
            asked("four", 4.0, request=4, index=1),
        ],
        [
            got("well", "one", 0.2),
            got("well", "two", 2.0),
            got("well", "two", 4.0),
            got("well", "three", 4.2),
            got("well", "four", 4.3),
            got("ill", "one", 0.2),
            got("ill", "two", 1.2),
            got("ill", "three", 4.2),
            got("ill", "four", 5.0, 500),
            got("ill", "four", 6.1, 500, 2),
            got("ill", "four", 8.2, 500, 3),
        ],
        [Crash(2.5, 3.5)],
    )
    rows = [
        DeliveryRow(number, event_id, endpoint)
        for number, (event_id, endpoint) in enumerate(
            ((event_id, endpoint) for event_id in ("one", "two", "three", "four") for endpoint in ("well", "ill")), 1
        )
    ]
    rows[7] = replace(rows[7], state=DROPPED, attempt_count=3, final_number=None)
    return history, Final(
        {event_id: body(event_id) for event_id in ("one", "two", "three", "four")},
        rows,
        [failure(1, 8, "ill", 5.0, 1), failure(2, 8, "ill", 6.1, 2), failure(3, 8, "ill", 8.2, 3)],
        {"well": EndpointRow("well"), "ill": EndpointRow("ill")},
    )


def test_a_history_in_order_passes() -> None:
    """Nothing is found where nothing is wrong; the one repeat is counted."""
    judgement = judge(*in_order())
    assert [] == judgement.violations
    assert (4, 11, 1, 1) == (judgement.accepted, judgement.received, judgement.repeats, judgement.most_repeats)


# Each of these breaks one promise.
def forget_event(history: History, final: Final) -> None:
    """Accepted, and not in the table."""
    final.bodies.pop("one")
    final.deliveries = [row for row in final.deliveries if row.event_id != "one"]
    history.received = [each for each in history.received if each.event_id != "one"]


def forget_delivery(history: History, final: Final) -> None:
    """In the table for one of two endpoints."""
    del final.deliveries[1]
    history.received.remove(got("ill", "one", 0.2))


def half_an_unanswered_event(history: History, final: Final) -> None:
    """No answer came, and only half of it is there."""
    history.asked.append(asked("five", 9.0, request=5, said=Said.UNKNOWN))
    history.received.append(got("well", "five", 9.2))
    final.bodies["five"] = body("five")
    final.deliveries.append(DeliveryRow(9, "five", "well"))


def delivered_without_success(history: History, final: Final) -> None:
    """Marked delivered though the receiver never answered."""
    history.received[0].answer = None


def ended_as(state: int) -> Break:
    """The last delivery in a state that nothing accounts for."""

    def break_it(history: History, final: Final) -> None:
        final.deliveries[7] = replace(final.deliveries[7], state=state)

    return break_it


def dropped_early(history: History, final: Final) -> None:
    """Given up after two of three attempts."""
    history.received.pop()
    final.failures.pop()
    final.deliveries[7] = replace(final.deliveries[7], attempt_count=2)


def dropped_late(history: History, final: Final) -> None:
    """A fourth attempt where three are due."""
    history.received.append(got("ill", "four", 10.3, 500, 4))
    final.failures[2:] = [failure(3, 8, "ill", 8.2, 3), failure(4, 8, "ill", 10.3, 4)]
    final.failures[0] = replace(final.failures[0], counted=False)
    final.deliveries[7] = replace(final.deliveries[7], attempt_count=4)


def duplicate_at_first(history: History, final: Final) -> None:
    """A new event called a duplicate."""
    history.asked[0] = replace(history.asked[0], duplicate=True)


def new_twice(history: History, final: Final) -> None:
    """The same id accepted as new a second time."""
    history.asked[0] = replace(history.asked[0], duplicate=False)
    history.asked.append(replace(history.asked[0], asked_at=20.0, answered_at=20.1))


def attempt_missing(history: History, final: Final) -> None:
    """A hole in the recorded attempts."""
    final.deliveries[0] = replace(final.deliveries[0], attempt_count=2)


def attempt_twice(history: History, final: Final) -> None:
    """The same attempt recorded twice."""
    final.failures.insert(1, replace(final.failures[0], seq=9, counted=False))


def success_as_failure(history: History, final: Final) -> None:
    """The last attempt was answered 200 and recorded as a failure."""
    history.received[-1].answer = 200


def phantom(history: History, final: Final) -> None:
    """Delivered, and then not in the table: it went out before it was durable."""
    history.asked.append(asked("five", 9.0, request=5, said=Said.UNKNOWN))
    history.received.append(got("well", "five", 9.2))


def other_bytes(history: History, final: Final) -> None:
    """One byte more than was sent in."""
    history.received[0].body += b" "


def other_bytes_kept(history: History, final: Final) -> None:
    """The table has other bytes."""
    final.bodies["one"] = b"{}"


def swapped(history: History, final: Final) -> None:
    """Two accepted one after the other arrive the other way round."""
    history.received[5:7] = [got("ill", "two", 1.2), got("ill", "one", 1.4)]
    final.deliveries[1:4:2] = [DeliveryRow(2, "two", "ill"), DeliveryRow(4, "one", "ill")]


def swapped_in_batch(history: History, final: Final) -> None:
    """The last of a batch arrives first."""
    history.received[3:5] = [got("well", "four", 4.2), got("well", "three", 4.3)]
    final.deliveries[4:7:2] = [DeliveryRow(5, "four", "well"), DeliveryRow(7, "three", "well")]


def back_again(history: History, final: Final) -> None:
    """The one before comes again, after a crash, though the next one was there already."""
    history.crashes.insert(0, Crash(2.3, 2.35))
    history.received.append(got("well", "one", 2.4))


def two_at_once(history: History, final: Final) -> None:
    """The next one comes while the one before is answered."""
    history.received[0].ended_at = 2.1


def repeated_calmly(history: History, final: Final) -> None:
    """The same attempt twice, and no crash."""
    history.received.append(got("well", "four", 4.5))


def repeated_twice(history: History, final: Final) -> None:
    """One crash, two repeats at one endpoint."""
    history.received.insert(6, got("ill", "two", 2.0))
    history.received.insert(7, got("ill", "two", 4.0))
    history.received.append(got("ill", "two", 4.1))


def again_after_success(history: History, final: Final) -> None:
    """Answered 200, recorded as a failure, and attempted once more: both are wrong."""
    history.received[-2].answer = 200


def number_jumped(history: History, final: Final) -> None:
    """An attempt that no receiver saw."""
    history.received.remove(got("ill", "four", 6.1, 500, 2))


def too_soon(history: History, final: Final) -> None:
    """A retry before its step is over."""
    history.received[-1] = replace(history.received[-1], arrived_at=8.1)


def too_soon_after_a_crash(history: History, final: Final) -> None:
    """A restart in between doesn't shorten the step."""
    history.crashes.append(Crash(6.5, 7.0))
    history.received[-1] = got("ill", "four", 7.1, 500, 3)
    final.failures[2] = failure(3, 8, "ill", 7.1, 3)


def too_long_after_a_crash(history: History, final: Final) -> None:
    """Long after the restart, and no step is so long."""
    history.crashes.append(Crash(6.5, 7.0))
    history.received[-1] = got("ill", "four", 40.0, 500, 3)
    final.failures[2] = failure(3, 8, "ill", 40.0, 3)


def too_late_at_first(history: History, final: Final) -> None:
    """A first attempt long after the one before it had ended."""
    history.received[4].arrived_at = 30.0
    history.received[4].ended_at = 30.1


def too_soon_after_a_local_failure(history: History, final: Final) -> None:
    """This machine's own failure is followed by a wait of its own, not by a step of the schedule."""
    final.failures[1] = replace(final.failures[1], reason="local", counted=False)
    final.deliveries[7] = replace(final.deliveries[7], state=DELIVERED, final_number=3)
    del final.failures[2]
    history.received[-1].answer = 200


def past_the_limit(history: History, final: Final) -> None:
    """The fourth failure in the window, and its endpoint stays active."""
    history.asked.append(asked("five", 9.0, request=5))
    history.received += [got("well", "five", 9.2, 500), got("well", "five", 10.3, 200, 2), got("ill", "five", 9.2)]
    final.bodies["five"] = body("five")
    final.deliveries += [
        DeliveryRow(9, "five", "well", attempt_count=2, final_number=2),
        DeliveryRow(10, "five", "ill"),
    ]
    final.failures.append(failure(4, 9, "well", 9.2, 1))


def sent_to_when_disabled(history: History, final: Final) -> None:
    """The same, disabled after one request too many."""
    past_the_limit(history, final)
    final.endpoints["well"] = EndpointRow("well", "auto_disabled")


def disabled_early(history: History, final: Final) -> None:
    """Three failures, three are allowed, and it is disabled."""
    final.endpoints["ill"] = EndpointRow("ill", "auto_disabled")


def disabled_again_for_nothing(history: History, final: Final) -> None:
    """Enabled, and disabled again by failures that were forgiven."""
    history.enabled.append(Enabled("ill", 8.9, 9.0))
    final.endpoints["ill"] = EndpointRow("ill", "auto_disabled")
    history.terms = replace(TERMS, limit=2)


@pytest.mark.parametrize(
    ("rules", "break_it"),
    [
        ("lost", forget_event),
        ("lost", forget_delivery),
        ("lost", half_an_unanswered_event),
        ("lost", delivered_without_success),
        *(("unaccounted", ended_as(state)) for state in (PENDING, SKIPPED, CANCELLED, EXPIRED)),
        ("unaccounted", dropped_early),
        ("unaccounted", dropped_late),
        ("answers", duplicate_at_first),
        ("answers", new_twice),
        ("recorded", attempt_missing),
        ("recorded", attempt_twice),
        ("recorded", success_as_failure),
        ("recorded", phantom),
        ("altered", other_bytes),
        ("altered", other_bytes_kept),
        ("reordered", swapped),
        ("reordered", swapped_in_batch),
        ("reordered repeated", back_again),
        ("overlapping", two_at_once),
        ("repeated", repeated_calmly),
        ("repeated", repeated_twice),
        ("recorded repeated", again_after_success),
        ("repeated", number_jumped),
        ("gaps", too_soon),
        ("gaps", too_soon_after_a_crash),
        ("gaps", too_long_after_a_crash),
        ("gaps", too_late_at_first),
        ("gaps", too_soon_after_a_local_failure),
        ("disabled", past_the_limit),
        ("disabled", sent_to_when_disabled),
        ("disabled", disabled_early),
        ("disabled", disabled_again_for_nothing),
    ],
)
def test_each_broken_promise_is_caught(rules: str, break_it: Break) -> None:
    """A history that breaks a rule breaks that rule in the judge's eyes."""
    history, final = in_order()
    break_it(history, final)
    assert set(rules.split()) == {violation.rule for violation in judge(history, final).violations}


def test_disabling_when_due_and_enabling_pass() -> None:
    """The failure past the limit disables; enabling forgives; what was skipped on demand is accounted for."""
    history, final = in_order()
    history.terms = replace(TERMS, limit=2)
    history.enabled.append(Enabled("ill", 20.0, 20.1, skip_held=True))
    history.asked += [asked("five", 9.0, request=5), asked("six", 21.0, request=6)]
    history.received += [got("well", "five", 9.2), got("well", "six", 21.2), got("ill", "six", 21.2)]
    final.bodies |= {"five": body("five"), "six": body("six")}
    final.deliveries += [
        DeliveryRow(9, "five", "well"),
        DeliveryRow(10, "five", "ill", SKIPPED, attempt_count=0, final_number=None),
        DeliveryRow(11, "six", "well"),
        DeliveryRow(12, "six", "ill"),
    ]
    final.endpoints["ill"] = EndpointRow("ill", skipped_upto=10)
    assert [] == judge(history, final).violations


def test_held_and_expired_pass() -> None:
    """A disabled endpoint holds what it may; what is past that and oldest has expired."""
    history, final = in_order()
    history.terms = replace(TERMS, limit=2)
    for number in range(3):
        event_id = f"late-{number}"
        history.asked.append(asked(event_id, 20.0 + number, request=10 + number))
        history.received.append(got("well", event_id, 20.2 + number))
        final.bodies[event_id] = body(event_id)
        state = EXPIRED if number == 0 else PENDING
        final.deliveries += [
            DeliveryRow(20 + 2 * number, event_id, "well"),
            DeliveryRow(21 + 2 * number, event_id, "ill", state, attempt_count=0, final_number=None),
        ]
    final.endpoints["ill"] = EndpointRow("ill", "auto_disabled")
    assert [] == judge(history, final).violations


def test_a_wall_clock_that_was_set_excuses_a_wait_restored_after_it() -> None:
    """A restart meanwhile measures the wait by that clock: shorter passes, where without the step it doesn't."""
    history, final = in_order()
    history.received[-1] = replace(history.received[-1], arrived_at=7.5)
    history.restarts.append(7.0)
    assert {"gaps"} == {violation.rule for violation in judge(history, final).violations}
    history.wall_steps.append((6.5, 3600.0))
    assert [] == judge(history, final).violations
    history.plans["ill"], history.restarts = history.restarts, []  # its plan returned, and no daemon started
    assert [] == judge(history, final).violations
    history.terms = replace(TERMS, late_seconds=0.2)
    for returned_at, excused in ((6.4, True), (6.2, False)):  # the wait may be read until 0.2 s later
        history.plans["ill"] = [returned_at]
        early = [each for each in judge(history, final).violations if "before its time" in each.text]
        assert excused is not bool(early)


def test_a_wall_clock_that_was_set_ages_the_failures_of_the_daemon_before() -> None:
    """A daemon that starts an hour later by the clock counts none of them; without a start the clock doesn't matter."""
    history, final = in_order()
    now = 9.0
    assert (3, 3) == spent(Case(history, final), "default", now)
    history.wall_steps.append((8.5, 3600.0))
    assert (3, 3) == spent(Case(history, final), "default", now)
    history.restarts.append(8.8)
    assert (0, 0) == spent(Case(history, final), "default", now)


def test_a_replay_is_no_repeat() -> None:
    """A replay is a delivery of its own, behind everything else."""
    history, final = in_order()
    history.received.append(replace(got("well", "one", 30.0), replay=True))
    final.deliveries.append(DeliveryRow(20, "one", "well", kind=REPLAY))
    assert [] == judge(history, final).violations


def test_an_answer_after_the_deadline_is_a_failure() -> None:
    """Who answers 200 after the sender gave up gets the attempt that is due; that is no repeat without a reason."""
    history, final = in_order()
    history.received[-2].answer = 200
    final.failures[1] = replace(final.failures[1], reason="timeout")
    assert [] == judge(history, final).violations


def test_an_answer_to_a_machine_that_stood_still_is_none() -> None:
    """It can't tell whether that was in time: a failure of its own, after which the attempt comes again."""
    history, final = in_order()
    history.received[-2].answer = 200
    final.failures[1] = replace(final.failures[1], reason="local", counted=False)
    assert not {"recorded", "repeated"} & {each.rule for each in judge(history, final).violations}


def test_an_attempt_that_nobody_read_in_time_may_be_missing() -> None:
    """A receiver too busy to read a request before the sender gave up has nothing to tell of it; the table has."""
    history, final = in_order()
    history.received.remove(got("ill", "four", 6.1, 500, 2))
    final.failures[1] = replace(final.failures[1], reason="timeout")
    assert [] == judge(history, final).violations
