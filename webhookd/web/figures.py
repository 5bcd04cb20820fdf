"""The figures behind `GET /metrics`: asked of the house when somebody wants to know."""

from __future__ import annotations

from collections import Counter, defaultdict

from webhookd.metrics import METRICS, Values
from webhookd.model import Endpoint, Json
from webhookd.store import deliveries
from webhookd.store.store import Db
from webhookd.web.services import Services


async def figures(house: Services, refusals: Counter[str], workspace: str | None) -> dict[str, Values]:
    """The value of every metric of `metrics.METRICS`, as they are now; only those of one workspace, if it is named."""
    values = await _all(house, refusals)
    if workspace is None:
        return values
    own = {name: rows for name, rows in values.items() if METRICS[name].labels[:1] == ("workspace",)}
    return {name: {row: value for row, value in rows.items() if row[0] == workspace} for name, rows in own.items()}


async def _all(house: Services, refusals: Counter[str]) -> dict[str, Values]:
    look = await house.status(None)
    totals, database = look["totals"], look["database"]
    return {
        "webhookd_info": {(look["version"],): 1},
        "webhookd_uptime_seconds": {(): look["uptime_seconds"]},
        "webhookd_events_accepted_total": {(): totals["accepted"]},
        "webhookd_events_refused_total": {(code,): count for code, count in refusals.items()},
        "webhookd_attempts_total": _attempts(look),
        "webhookd_deliveries_dropped_total": {(): totals["dropped"]},
        **_queues(house),
        "webhookd_deliveries_in_flight": {(): look["backlog"]["in_flight"]},
        "webhookd_oldest_waiting_seconds": await _oldest(house),
        "webhookd_endpoints": _endpoints(house),
        "webhookd_budget_failures": _budgets(house),
        "webhookd_budget_limit": {(): house.settings().budget.limit},
        "webhookd_mail_unsent": {(): look["unsent_mail"]["count"]},
        "webhookd_database_bytes": {(): database["size_bytes"]},
        "webhookd_wal_bytes": {(): database["wal_bytes"]},
        "webhookd_disk_free_bytes": {(): database["free_bytes"]},
        "webhookd_commits_total": {(): house.store.writer.commits},
        "webhookd_loop_lag_seconds": {(): (look["loop_lag_ms"] or 0) / 1000},
    }


def _attempts(look: Json) -> Values:
    failed: dict[tuple[str, ...], float] = {
        ("failed", str(reason)): count for reason, count in look["failures_by_reason"].items()
    }
    return {("delivered", ""): look["totals"]["delivered"], **failed}


def _queues(house: Services) -> dict[str, Values]:
    waiting: Counter[tuple[str, ...]] = Counter()
    size: Counter[tuple[str, ...]] = Counter()
    held: Counter[tuple[str, ...]] = Counter()
    for workspace in house.directory.workspaces():  # each is there, also with nothing that waits
        waiting[workspace.id,] = size[workspace.id,] = held[workspace.id,] = 0
    for endpoint in house.directory.endpoints():
        view = house.dispatcher.view(endpoint.seq)
        waiting[endpoint.workspace,] += view.waiting
        size[endpoint.workspace,] += view.waiting_bytes
        held[endpoint.workspace,] += 0 if house.directory.runs(endpoint) else view.waiting
    return {
        "webhookd_deliveries_waiting": waiting,
        "webhookd_deliveries_waiting_bytes": size,
        "webhookd_deliveries_held": held,
    }


async def _oldest(house: Services) -> Values:
    running = [
        endpoint
        for endpoint in house.directory.endpoints()
        if house.directory.runs(endpoint) and house.dispatcher.view(endpoint.seq).waiting
    ]
    found = await house.store.read(lambda db: _oldest_of(db, running))
    now_ms = house.clock.wall_ms()
    ages: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for workspace in house.directory.workspaces():
        ages[workspace.id,] = 0.0
    for workspace_id, accepted_at_ms in found:
        ages[workspace_id,] = max(ages[workspace_id,], (now_ms - accepted_at_ms) / 1000)
    return ages


def _oldest_of(db: Db, endpoints: list[Endpoint]) -> list[tuple[str, int]]:
    """Whose workspace, and when its oldest waiting delivery was accepted, of each endpoint that has one."""
    found = ((each, deliveries.oldest_waiting(db, each.seq, each.skipped_upto)) for each in endpoints)
    return [(each.workspace, oldest[1]) for each, oldest in found if oldest is not None]


def _endpoints(house: Services) -> Values:
    return Counter((endpoint.workspace, endpoint.state.value) for endpoint in house.directory.endpoints())


def _budgets(house: Services) -> Values:
    return {
        (workspace.id,): house.budgets.view(workspace.id, house.directory.endpoint_id).failures
        for workspace in house.directory.workspaces()
    }
