"""Plans: which have webhooks, which stands for a workspace made without one, and what is said to the others."""

from __future__ import annotations

import pytest

from webhookd.errors import ApiError
from webhookd.rules.plans import Plans

PLANS = Plans(("starter", "growth", "advanced", "enterprise"), "advanced")


@pytest.mark.parametrize(
    ("plan", "expected"),
    [("starter", False), ("growth", False), ("advanced", True), ("enterprise", True), ("gone", False), ("", False)],
)
def test_webhooks_belong_to_one_plan_and_those_above(plan: str, expected: bool) -> None:
    """A plan that the configuration no longer knows has none."""
    assert expected == PLANS.has_webhooks(plan)


@pytest.mark.parametrize(("plans", "expected"), [(PLANS, "advanced"), (Plans(("basic", "pro", "max"), "pro"), "pro")])
def test_the_default_is_advanced_or_the_lowest_with_webhooks(plans: Plans, expected: str) -> None:
    """A workspace made without a plan can have webhooks."""
    assert expected == plans.default
    assert plans.has_webhooks(plans.default)


@pytest.mark.parametrize(
    ("plan", "said"), [("advance", "did you mean 'advanced'?"), ("zzz", "There is no plan 'zzz'.")]
)
def test_an_unknown_plan_is_refused_with_the_known_ones(plan: str, said: str) -> None:
    """The nearest is named where there is one."""
    assert "growth" == PLANS.check("growth")
    with pytest.raises(ApiError) as caught:
        PLANS.check(plan)
    assert ("invalid_field", {"field": "plan"}) == (caught.value.code, caught.value.details)
    assert said in caught.value.message
    assert "starter, growth, advanced, enterprise" in caught.value.message


def test_what_needs_webhooks_is_refused_below() -> None:
    """With the plan that there is and the one that is needed."""
    PLANS.require("enterprise", "Adding an endpoint")
    with pytest.raises(ApiError) as caught:
        PLANS.require("growth", "Adding an endpoint")
    assert ("plan_required", {"plan": "growth", "required": "advanced"}) == (caught.value.code, caught.value.details)
    assert caught.value.message.startswith("Adding an endpoint needs the plan 'advanced'")
