"""A rate limit lets so many through on average, whatever their number at once."""

from __future__ import annotations

from webhookd.rules.rate_limit import RateLimit


def test_after_a_seconds_worth_the_next_waits_for_its_turn() -> None:
    """Ten a second: ten at once, and the eleventh a tenth of a second later."""
    limit = RateLimit(10, 0)
    waits = []
    for _ in range(11):
        waits.append(limit.wait_seconds(1, 10, 5))
        limit.took(1)
    assert [0.0] * 10 + [0.1] == [round(wait, 6) for wait in waits]


def test_many_at_once_go_and_are_paid_for_afterwards() -> None:
    """A thousand at ten a second go as a full second's worth does, and nothing more for a hundred seconds."""
    limit = RateLimit(10, 0)
    assert 0 == limit.wait_seconds(1000, 10, 0)
    limit.took(1000)
    assert (99.1, 0.0) == (limit.wait_seconds(1, 10, 0), limit.wait_seconds(1, 10, 99.1))


def test_less_than_one_a_second() -> None:
    """Every other second."""
    limit = RateLimit(1, 0)
    limit.took(1)
    assert (2, 0) == (limit.wait_seconds(1, 0.5, 0), limit.wait_seconds(1, 0.5, 2))
