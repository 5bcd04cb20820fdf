"""What follows an attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.models import Reason
from webhookd.rules.retry import (
    LOCAL_RETRY_SECONDS,
    Decision,
    Delivered,
    Dropped,
    RetryIn,
    RetrySchedule,
    decide,
    remaining_wait,
)

DEFAULT = RetrySchedule((30.0, 60.0, 90.0))
REMOTE = [reason for reason in Reason if reason is not Reason.LOCAL]


def test_the_default_schedule_has_four_attempts() -> None:
    """The first one, and one after each wait."""
    assert 4 == DEFAULT.attempts
    assert 1 == RetrySchedule(()).attempts


@pytest.mark.parametrize("reason", REMOTE)
@pytest.mark.parametrize(
    ("tries", "expected"),
    [(1, RetryIn(30.0, True)), (2, RetryIn(60.0, True)), (3, RetryIn(90.0, True)), (4, Dropped())],
)
def test_the_schedule_is_the_same_for_every_reason(reason: Reason, tries: int, expected: Decision) -> None:
    """30, 60 and 90 seconds, then dropped, whatever the receiver did."""
    assert expected == decide(reason, tries, DEFAULT)


@pytest.mark.parametrize("tries", [1, 4])
def test_success_ends_it_at_once(tries: int) -> None:
    """On the first attempt as on the last."""
    assert Delivered() == decide(None, tries, DEFAULT)


@pytest.mark.parametrize("tries", [0, 1, 4, 1000])
def test_a_local_failure_uses_no_attempt_and_never_drops(tries: int) -> None:
    """webhookd's own machine is at fault, so it tries again every 30 seconds for as long as it takes."""
    assert RetryIn(30.0, uses_attempt=False) == decide(Reason.LOCAL, tries, DEFAULT)


def test_without_retries_the_first_failure_drops() -> None:
    """`retry_seconds = []` is allowed."""
    assert Dropped() == decide(Reason.STATUS, 1, RetrySchedule(()))


def test_a_schedule_that_became_shorter_drops() -> None:
    """A delivery on its third attempt, reloaded into a schedule of two."""
    assert Dropped() == decide(Reason.TIMEOUT, 3, RetrySchedule((30.0,)))


@pytest.mark.parametrize(
    ("next_ms", "tries", "expected"),
    [
        (1_000_000, 1, 0.0), (1_010_500, 1, 10.5), (1_030_000, 1, 30.0), (1_030_001, 1, 30.0), (1_059_000, 2, 59.0),
        (9_000_000, 2, 60.0), (9_000_000, 3, 90.0), (900_000, 3, 0.0), (9_000_000, 7, 90.0), (9_000_000, 0, 30.0),
        (1_012_000, 0, 12.0),
    ],
)  # fmt: skip
def test_a_restored_wait_is_what_is_left_of_its_step(next_ms: int, tries: int, expected: float) -> None:
    """The wall clock may have jumped either way; after no attempt it was a local failure's wait."""
    assert expected == remaining_wait(next_ms, 1_000_000, tries, DEFAULT)


@pytest.mark.parametrize(("left_seconds", "expected"), [(12, 12.0), (30, 30.0), (3600, 30.0), (-5, 0.0)])
@pytest.mark.parametrize("tries", [0, 1, 3])
def test_a_wait_after_a_local_failure_has_a_step_of_its_own(left_seconds: int, expected: float, tries: int) -> None:
    """However many attempts were used up, and however short the schedule is."""
    next_ms = 1_000_000 + left_seconds * 1000
    for schedule in (DEFAULT, RetrySchedule((5.0,)), RetrySchedule(())):
        assert expected == remaining_wait(next_ms, 1_000_000, tries, schedule, after_local_failure=True)


def test_a_wait_of_a_schedule_without_waits_is_over() -> None:
    """The retries were taken out of the configuration while one was waiting."""
    assert 0.0 == remaining_wait(1_060_000, 1_000_000, 2, RetrySchedule(()))
    assert LOCAL_RETRY_SECONDS == remaining_wait(1_060_000, 1_000_000, 0, RetrySchedule(()))


@given(
    st.integers(0, 2**45),
    st.integers(0, 2**45),
    st.integers(0, 25),
    st.lists(st.floats(0.01, 86400), max_size=20).map(tuple),
)
def test_a_restored_wait_is_never_negative_and_never_too_long(
    next_ms: int, now_ms: int, tries: int, waits: tuple[float, ...]
) -> None:
    """Whatever the wall clock did (manual/behaviour.md)."""
    wait = remaining_wait(next_ms, now_ms, tries, RetrySchedule(waits))
    assert 0.0 <= wait <= max(*waits, LOCAL_RETRY_SECONDS, 0.0)
    if 1 <= tries <= len(waits):
        assert wait <= waits[tries - 1]
