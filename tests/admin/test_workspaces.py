"""Workspaces: concurrent changes, the default plan."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.engine import engine
from webhookd.config import Config, Plans


async def test_two_changes_of_a_workspace_at_once_both_hold(tmp_path: Path) -> None:
    """The name given by one doesn't bring back the plan that the other took away."""
    async with engine(tmp_path) as e:
        workspaces = e.app.services.workspaces
        await asyncio.gather(
            workspaces.change("default", plan="starter"), workspaces.change("default", notify=("ops@example.com",))
        )
        default = e.app.registry.workspace("default")
        assert ("starter", ("ops@example.com",)) == (default.plan, default.notify)


async def test_a_workspace_made_without_a_plan_is_on_advanced(tmp_path: Path) -> None:
    """Also where lower plans have webhooks; the lowest with webhooks only where there is no such plan."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with engine(tmp_path / "one", Config(plans=Plans(webhooks_from="growth"))) as e:
        made = await e.app.services.workspaces.create("acme")
        assert ["advanced"] * 2 == [e.app.registry.workspace("default").plan, made.plan]
    async with engine(tmp_path / "two", Config(plans=Plans(order=("free", "paid"), webhooks_from="paid"))) as e:
        assert "paid" == e.app.registry.workspace("default").plan
