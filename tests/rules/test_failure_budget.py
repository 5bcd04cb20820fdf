"""The failure budget, against the rule written down in a few lines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from webhookd.models import BudgetView, Failure
from webhookd.rules.failure_budget import FailureBudget, FailureWindow, Verdict

THIRTY_IN_THIRTY = FailureBudget(30, 1800.0)


def test_the_31st_failure_in_30_minutes_exceeds() -> None:
    """30 are in the budget; the next one is not."""
    window = FailureWindow(THIRTY_IN_THIRTY)
    verdicts = [window.fail(seq % 3, float(seq)) for seq in range(32)]
    assert [False] * 30 + [True] * 2 == [verdict.exceeded for verdict in verdicts]
    assert Verdict(30, 31, True, ()) == verdicts[30]


def test_while_the_count_is_past_the_limit_each_failure_exceeds_for_its_own_endpoint() -> None:
    """Another endpoint's first failure disables it too, until the count has come down."""
    window = FailureWindow(FailureBudget(2, 100.0))
    assert [False, False, True, True] == [window.fail(seq, float(seq)).exceeded for seq in range(4)]
    assert not window.fail(9, 102.5).exceeded  # those of 0, 1 and 2 are gone


def test_a_failure_counts_until_exactly_one_window_has_passed() -> None:
    """`now - ended_at < window`: at the window's end it no longer does."""
    window = FailureWindow(FailureBudget(1, 100.0))
    window.fail(1, 0.0)
    assert 1 == window.view(99.999).failures
    assert 0 == window.view(100.0).failures


def test_an_endpoint_forgotten_leaves_the_count() -> None:
    """Enabled or deleted: its failures are gone, those of the others stay."""
    window = FailureWindow(THIRTY_IN_THIRTY)
    for seq in (1, 2, 1, 3, 1):
        window.fail(seq, 10.0)
    window.forget(1)
    assert {"2": 1, "3": 1} == window.view(10.0).by_endpoint
    assert Verdict(2, 3, False, ()) == window.fail(1, 11.0)


def test_the_view_says_how_many_who_and_until_when() -> None:
    """The endpoint that spent most comes first, under the id that others see."""
    window = FailureWindow(THIRTY_IN_THIRTY)
    for seq, ended_at in ((7, 100.0), (8, 160.0), (8, 220.0)):
        window.fail(seq, ended_at)
    view = window.view(300.0, {7: "ep_a", 8: "ep_b"}.__getitem__)
    assert BudgetView(30, 1800.0, 3, {"ep_b": 2, "ep_a": 1}, 1600.0) == view
    assert ["ep_b", "ep_a"] == list(view.by_endpoint)


def test_an_empty_budget_has_nothing_that_expires() -> None:
    """Nothing failed yet."""
    assert BudgetView(30, 1800.0, 0, {}, None) == FailureWindow(THIRTY_IN_THIRTY).view(5.0)


def test_spent_until_is_when_one_more_failure_no_longer_disables() -> None:
    """Below the limit: None. At it or past it: when enough have aged out."""
    window = FailureWindow(FailureBudget(2, 100.0))
    window.fail(1, 10.0)
    assert window.spent_until(10.0) is None
    window.fail(1, 20.0)
    assert 110.0 == window.spent_until(20.0)
    window.fail(1, 30.0)
    assert 120.0 == window.spent_until(30.0)
    assert 120.0 == window.spent_until(115.0)
    assert window.spent_until(120.0) is None


@pytest.mark.parametrize(
    ("limit", "warn_at", "expected"),
    [
        (30, (0.5, 0.8), {15: (0.5,), 24: (0.8,)}), (5, (0.5, 0.8), {3: (0.5,), 4: (0.8,)}),
        (1, (0.5, 0.8), {1: (0.5, 0.8)}), (100, (0.07,), {7: (0.07,)}), (10, (1.0,), {10: (1.0,)}), (10, (), {}),
    ],
)  # fmt: skip
def test_a_threshold_is_crossed_once_on_the_way_up(
    limit: int, warn_at: tuple[float, ...], expected: dict[int, tuple[float, ...]]
) -> None:
    """By the failure that reaches the share of the limit, and by no other."""
    window = FailureWindow(FailureBudget(limit, 1000.0, warn_at))
    verdicts = [window.fail(1, float(at)) for at in range(limit + 5)]
    assert expected == {verdict.count: verdict.crossed for verdict in verdicts if verdict.crossed}


def test_a_count_that_fell_and_climbs_again_crosses_again() -> None:
    """Once per upward crossing, not once for ever."""
    window = FailureWindow(FailureBudget(4, 100.0, (0.5,)))
    crossed = [window.fail(1, ended_at).crossed for ended_at in (0.0, 1.0, 2.0, 150.0, 151.0)]
    assert [(), (0.5,), (), (), (0.5,)] == crossed


def test_a_failure_that_comes_late_is_counted_beside_those_that_overtook_it() -> None:
    """Its place in the window is by its end, not by its arrival."""
    window = FailureWindow(FailureBudget(2, 100.0))
    window.fail(1, 10.0)
    window.fail(2, 12.0)
    assert Verdict(2, 3, True, ()) == window.fail(3, 11.0)
    assert 1.0 == window.view(109.0).oldest_expires_in_seconds
    assert {"2": 1} == window.view(111.5).by_endpoint


def test_a_failure_older_than_the_window_does_not_count() -> None:
    """It aged out before it was reported; the count is as it was."""
    window = FailureWindow(FailureBudget(1, 100.0))
    window.fail(1, 200.0)
    assert Verdict(1, 1, False, ()) == window.fail(2, 100.0)
    assert {"1": 1} == window.view(200.0).by_endpoint


def test_restored_failures_count_as_if_they_were_new() -> None:
    """In any order, in place of whatever was there."""
    window = FailureWindow(FailureBudget(2, 100.0))
    window.fail(9, -50.0)
    window.restore([Failure(2, 30.0), Failure(1, 10.0), Failure(1, 20.0)])
    assert {"1": 2, "2": 1} == window.view(40.0).by_endpoint
    assert 120.0 == window.spent_until(40.0)
    assert window.fail(3, 41.0).exceeded


def test_nothing_restored_is_an_empty_window() -> None:
    """The first start."""
    window = FailureWindow(FailureBudget(2, 100.0))
    window.fail(1, 0.0)
    window.restore([])
    assert 0 == window.view(0.0).failures


def test_a_budget_replaced_holds_from_the_next_failure_on() -> None:
    """A reload changes the limit, not the failures."""
    window = FailureWindow(FailureBudget(1, 100.0))
    window.fail(1, 0.0)
    window.budget = FailureBudget(5, 100.0)
    assert Verdict(1, 2, False, ()) == window.fail(1, 1.0)


def test_the_window_does_not_outgrow_itself() -> None:
    """Memory is bounded by what one window holds, however long the daemon runs."""
    window = FailureWindow(FailureBudget(30, 10.0))
    counts = [window.fail(1, float(at)).count for at in range(1000)]
    assert 10 == max(counts) == len(window._failures)


LIMIT, WINDOW = 4, 16.0
# Quarters of seconds, so that sums are exact and ends coincide; near the latest time, mostly after it.
STEPS = st.integers(-24, 24).map(lambda quarters: quarters / 4)
ENDPOINTS = st.integers(1, 4)


class AnyHistory(RuleBasedStateMachine):
    """Any history, given to the window and to a list of all failures, from which the rule is computed each time."""

    def __init__(self) -> None:
        super().__init__()
        self.window = FailureWindow(FailureBudget(LIMIT, WINDOW))
        self.failures: list[Failure] = []
        self.now = 0.0
        self.window.view(self.now)

    def counted(self, now: float | None = None) -> list[Failure]:
        now = self.now if now is None else now
        return [failure for failure in self.failures if now - failure.ended_at < WINDOW]

    @rule(endpoint_seq=ENDPOINTS, step=STEPS)
    def fail(self, endpoint_seq: int, step: float) -> None:
        ended_at = self.now + step
        self.now = max(self.now, ended_at)
        before = len(self.counted())
        self.failures.append(Failure(endpoint_seq, ended_at))
        after = len(self.counted())
        crossed = tuple(share for share in (0.5, 0.8) if before < math.ceil(share * LIMIT) <= after)
        assert Verdict(before, after, after > LIMIT, crossed) == self.window.fail(endpoint_seq, ended_at)

    @rule(endpoint_seq=ENDPOINTS)
    def forget(self, endpoint_seq: int) -> None:
        self.failures = [failure for failure in self.failures if failure.endpoint_seq != endpoint_seq]
        self.window.forget(endpoint_seq)

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        self.window = FailureWindow(FailureBudget(LIMIT, WINDOW))
        self.window.restore(data.draw(st.permutations(self.failures)))

    @rule(step=STEPS)
    def wait(self, step: float) -> None:
        self.now = max(self.now, self.now + step)

    @invariant()
    def views_agree(self) -> None:
        counted = self.counted()
        view = self.window.view(self.now)
        assert len(counted) == view.failures
        assert {str(f.endpoint_seq): [g.endpoint_seq for g in counted].count(f.endpoint_seq) for f in counted} == (
            view.by_endpoint
        )
        oldest = min((failure.ended_at for failure in counted), default=None)
        assert (None if oldest is None else oldest + WINDOW - self.now) == view.oldest_expires_in_seconds

    @invariant()
    def spent_until_is_the_first_moment_below_the_limit(self) -> None:
        moments = sorted([self.now, *(failure.ended_at + WINDOW for failure in self.counted())])
        first = next(moment for moment in moments if len(self.counted(moment)) < LIMIT)
        assert (None if first == self.now else first) == self.window.spent_until(self.now)


TestAnyHistory = AnyHistory.TestCase


@given(st.lists(st.tuples(ENDPOINTS, st.floats(0, 1e6)), max_size=60), st.floats(0.01, 1e5))
def test_any_fractions_of_seconds_agree_with_the_rule(failures: list[tuple[int, float]], seconds: float) -> None:
    """Times as a clock gives them: the last count is that of the failures whose expiry is yet to come."""
    window = FailureWindow(FailureBudget(3, seconds))
    counts = [window.fail(*each).count for each in failures]
    latest = max((ended_at for _, ended_at in failures), default=0.0)
    assert sum(ended_at + seconds > latest for _, ended_at in failures) == (counts[-1] if counts else 0)
