"""The values of `GET /metrics`, read from the services at each scrape."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from webhookd.delivery.queue_view import QueueView
from webhookd.metrics import LISTED_ENDPOINTS, METRICS, Values
from webhookd.models import Endpoint, Json, Reason
from webhookd.store import deliveries
from webhookd.store.store import Db
from webhookd.web.services import Services

# Present from the start, at 0: else an alert on a rate would miss the first increase.
_WATCHED_CODES = ("rate_limited", "storage_full", "too_far_behind", "unavailable", "workspace_full")


@dataclass(frozen=True, slots=True)
class _Queue:
    """What waits for one endpoint; `state` is `paused` where only its plan stops it."""

    endpoint: Endpoint
    state: str
    view: QueueView
    oldest_seconds: float


async def metric_values(services: Services, refused: Counter[str], workspace_seq: int | None) -> dict[str, Values]:
    """The current value of every metric of `metrics.METRICS`; if a workspace is given, only of its own."""
    values = await _all(services, refused, workspace_seq)
    if workspace_seq is None:
        return values
    workspace = services.registry.workspace(workspace_seq).id  # asked last: while it is there, no other has its id
    own = {name: rows for name, rows in values.items() if METRICS[name].labels[:1] == ("workspace",)}
    return {name: {row: value for row, value in rows.items() if row[0] == workspace} for name, rows in own.items()}


async def _all(services: Services, refused: Counter[str], workspace_seq: int | None) -> dict[str, Values]:
    status = await services.status(None)
    totals, database = status["totals"], status["database"]
    queues = await _queues(services, workspace_seq)
    return {
        "webhookd_info": {(status["version"],): 1},
        "webhookd_uptime_seconds": {(): status["uptime_seconds"]},
        "webhookd_events_accepted_total": {(): totals["accepted"]},
        "webhookd_events_refused_total": {(code,): refused[code] for code in {*_WATCHED_CODES, *refused}},
        "webhookd_events_mismatched_total": {(): services.ingest.mismatched},
        "webhookd_auth_failures_total": {(): services.audit.refused_count},
        "webhookd_attempts_total": _attempts(status),
        "webhookd_attempt_seconds": {
            ("delivered",): services.recorder.delivered_seconds,
            ("failed",): services.recorder.failed_seconds,
        },
        "webhookd_deliveries_dropped_total": {(): totals["dropped"]},
        "webhookd_deliveries_expired_total": {(): totals["expired"]},
        **_by_workspace(services, queues),
        "webhookd_deliveries_in_flight": {(): status["backlog"]["in_flight"]},
        **_by_endpoint(queues),
        "webhookd_endpoints": _endpoints(services),
        "webhookd_budget_failures": {
            (each.id,): services.watchdog.view(each.seq).failures for each in services.registry.workspaces()
        },
        "webhookd_budget_limit": {(): services.settings().budget.limit},
        "webhookd_mail_unsent": {(): status["unsent_mail"]["count"]},
        "webhookd_database_bytes": {(): database["size_bytes"]},
        "webhookd_wal_bytes": {(): database["wal_bytes"]},
        "webhookd_disk_free_bytes": {(): database["free_bytes"]},
        "webhookd_disk_reserved_bytes": {(): services.settings().store.min_free_mb * 1024**2},
        "webhookd_store_full": {(): int(database["full"])},
        "webhookd_commits_total": {(): services.store.writer.commits},
        "webhookd_commit_seconds": {(): services.store.writer.commit_seconds},
        "webhookd_loop_lag_seconds": {(): status["loop_lag_ms"] / 1000},
    }


def _attempts(status: Json) -> Values:
    failures = status["failures_by_reason"]
    failed: dict[tuple[str, ...], float] = {("failed", reason): failures.get(reason, 0) for reason in Reason}
    return {("delivered", ""): status["totals"]["delivered"], **failed}


async def _queues(services: Services, workspace_seq: int | None) -> list[_Queue]:
    """The endpoints for which anything waits, and those that the budget disabled."""
    views = [(each, services.dispatcher.view(each.seq)) for each in services.registry.endpoints(workspace_seq)]
    wanted = [(each, view) for each, view in views if view.waiting or each.state == "auto_disabled"]
    oldest = await services.store.read_status(lambda db: _oldest(db, [each for each, view in wanted if view.waiting]))
    now_ms = services.clock.wall_ms()
    return [
        _Queue(
            each,
            "paused" if each.active and not services.registry.runs(each) else each.state.value,
            view,
            max(0, now_ms - oldest.get(each.seq, now_ms)) / 1000,
        )
        for each, view in wanted
    ]


def _oldest(db: Db, endpoints: list[Endpoint]) -> dict[int, int]:
    found = {each.seq: deliveries.oldest_waiting(db, each.seq, each.skipped_upto) for each in endpoints}
    return {seq: oldest[1] for seq, oldest in found.items() if oldest is not None}


def _by_workspace(services: Services, queues: list[_Queue]) -> dict[str, Values]:
    names = ("deliveries_waiting", "deliveries_waiting_bytes", "deliveries_held", "oldest_waiting_seconds")
    found = {f"webhookd_{name}": defaultdict[tuple[str, ...], float](float) for name in names}
    waiting, size, held, oldest = found.values()
    for workspace in services.registry.workspaces():  # each appears, also if nothing waits
        for values in found.values():
            values[workspace.id,] = 0
    for queue in queues:
        key = (queue.endpoint.workspace,)
        waiting[key] += queue.view.waiting
        size[key] += queue.view.waiting_bytes
        held[key] += queue.view.held
        if not queue.view.held:
            oldest[key] = max(oldest[key], queue.oldest_seconds)
    return dict(found)


def _by_endpoint(queues: list[_Queue]) -> dict[str, Values]:
    """The first `LISTED_ENDPOINTS`: disabled ones, then those with the most waiting."""
    ranked = sorted(queues, key=lambda queue: (queue.state != "auto_disabled", -queue.view.waiting))
    listed = {(queue.endpoint.workspace, queue.endpoint.id, queue.state): queue for queue in ranked[:LISTED_ENDPOINTS]}
    return {
        "webhookd_endpoint_waiting": {labels: queue.view.waiting for labels, queue in listed.items()},
        "webhookd_endpoint_oldest_seconds": {labels: queue.oldest_seconds for labels, queue in listed.items()},
        **_lanes(listed.values()),
        "webhookd_endpoints_unlisted": {(): len(queues) - len(listed)},
    }


def _lanes(queues: Iterable[_Queue]) -> dict[str, Values]:
    """Of those that order by key."""
    lanes = {(each.endpoint.workspace, each.endpoint.id): each.view.lanes for each in queues if each.view.lanes}
    return {
        "webhookd_endpoint_lanes_busy": {labels: view.busy for labels, view in lanes.items()},
        "webhookd_endpoint_lane_waiting_most": {labels: view.most_waiting for labels, view in lanes.items()},
    }


def _endpoints(services: Services) -> Values:
    return Counter((endpoint.workspace, endpoint.state.value) for endpoint in services.registry.endpoints())
