"""Plans: webhooks are part of one plan and those above it."""

from __future__ import annotations

from dataclasses import dataclass

from webhookd.errors import ApiError, did_you_mean, field_error


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans from the lowest to the highest, and the lowest that has webhooks."""

    order: tuple[str, ...]
    webhooks_from: str

    @property
    def default(self) -> str:
        """The plan of `default` and of a workspace made without one: `advanced`, or the lowest that has webhooks."""
        return "advanced" if "advanced" in self.order else self.webhooks_from

    def has_webhooks(self, plan: str) -> bool:
        """Whether a workspace on `plan` gets its events; not with a plan that the configuration no longer has."""
        return plan in self.order and self.order.index(plan) >= self.order.index(self.webhooks_from)

    def check(self, plan: str) -> str:
        """`plan`, if there is such a plan; else ApiError `invalid_field`, naming the nearest."""
        if plan in self.order:
            return plan
        nearest = did_you_mean(plan, self.order)
        hint = f", did you mean {nearest!r}?" if nearest else "."
        raise field_error(
            "plan", f"There is no plan {plan!r}{hint} The plans are {', '.join(self.order)} (plans.order)."
        )

    def require(self, plan: str, doing: str) -> None:
        """Raise ApiError `plan_required` unless `plan` has webhooks; `doing` names the requested action."""
        if not self.has_webhooks(plan):
            raise ApiError(
                "plan_required",
                f"{doing} needs the plan {self.webhooks_from!r} or above; this workspace is on {plan!r}.",
                details={"plan": plan, "required": self.webhooks_from},
            )
