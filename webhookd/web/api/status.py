"""The status of the whole daemon, for `GET /v1/status`, `webhookd status` and the metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from webhookd import log
from webhookd._version import __version__
from webhookd.clock import rfc3339
from webhookd.config.warnings import warnings
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.delivery.held_events import HeldEvents
from webhookd.delivery.ingest import Ingest
from webhookd.delivery.queue_view import BLOCKED_SHOWN, QueueView
from webhookd.delivery.recorder import Recorder
from webhookd.delivery.watchdog import Watchdog
from webhookd.mail.mailer import Mailer
from webhookd.models import Endpoint, Json
from webhookd.store import attempts
from webhookd.store.store import SQLITE_VERSION, Db
from webhookd.web.api.schemas import blocked_json

RATE_BEATS = 60
SLOWEST = 5
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters at one beat, and how late it came."""

    at: float
    lag_seconds: float
    accepted: int
    delivered: int
    failed: int


class Status:
    """Gathers the look; `beat` is called once a second for the rates."""

    def __init__(
        self,
        deps: Deps,
        dispatcher: Dispatcher,
        ingest: Ingest,
        recorder: Recorder,
        held_events: HeldEvents,
        watchdog: Watchdog,
        mailer: Mailer,
    ) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._clustered = deps.clustered
        self._dispatcher, self._ingest, self._recorder = dispatcher, ingest, recorder
        self._held_events, self._watchdog, self._mailer = held_events, watchdog, mailer
        self._started_ms, self._started = self._clock.wall_ms(), self._clock.monotonic()
        self._samples: deque[Sample] = deque(maxlen=RATE_BEATS)

    def beat(self, lag_seconds: float) -> None:
        """Take a sample of the counters."""
        self._samples.append(
            Sample(
                self._clock.monotonic(),
                lag_seconds,
                self._ingest.accepted_count,
                self._recorder.delivered_count,
                self._recorder.failed_count,
            )
        )

    async def show(self, workspace_seq: int | None = None) -> Json:
        """The look, as JSON; of one workspace alone, without what concerns the whole daemon, if it is given."""
        endpoints = self._registry.endpoints(workspace_seq)
        look = {**self._endpoints_json(endpoints, workspace_seq), "dropping_endpoints": await self._dropping(endpoints)}
        return {**look, **await self._daemon_json()} if workspace_seq is None else look

    async def _dropping(self, endpoints: Sequence[Endpoint]) -> list[Json]:
        """The endpoints that dropped events in the last hour, and how many."""
        since_ms = self._clock.wall_ms() - HOUR_MS

        def question(db: Db) -> list[Json]:
            counts = [(attempts.dropped_since(db, each, since_ms), each) for each in endpoints]
            return [
                {"id": each.id, "workspace": each.workspace, "url": log.loggable_url(each.url), "dropped": count}
                for count, each in counts
                if count
            ]

        return await self._store.read_status(question)

    def _endpoints_json(self, endpoints: Sequence[Endpoint], workspace_seq: int | None) -> Json:
        views = {each.seq: self._dispatcher.view(each.seq) for each in endpoints}
        return {
            "version": __version__,
            "started_at": rfc3339(self._started_ms),
            "uptime_seconds": round(self._clock.monotonic() - self._started, 1),
            "workspaces": len(self._registry.workspaces()) if workspace_seq is None else 1,
            "endpoints": {
                "total": len(endpoints),
                "active": sum(1 for each in endpoints if self._registry.runs(each)),
                "auto_disabled": sum(1 for each in endpoints if each.state == "auto_disabled"),
            },
            "backlog": {
                "waiting": sum(view.waiting for view in views.values()),
                "waiting_bytes": sum(view.waiting_bytes for view in views.values()),
                "held": sum(view.held for view in views.values()),
                "in_flight": sum(view.in_flight for view in views.values()),
            },
            "slowest_endpoints": self._slowest(endpoints),
            "blocked_lanes": _blocked(endpoints, views),
            "budgets": self._budgets(workspace_seq),
        }

    async def _daemon_json(self) -> Json:
        return {
            "sqlite_version": SQLITE_VERSION,
            "totals": {
                "accepted": self._ingest.accepted_count,
                "delivered": self._recorder.delivered_count,
                "failed": self._recorder.failed_count,
                "dropped": self._recorder.dropped_count,
                "expired": self._held_events.expired_count,
            },
            "failures_by_reason": {str(reason): count for reason, count in self._recorder.failures_by_reason.items()},
            "rates_per_second": self._rates(),
            "loop_lag_ms": round(max((each.lag_seconds for each in self._samples), default=0.0) * 1000, 1),
            "database": {
                "full": self._store.disk_space.short(),
                "size_bytes": self._store.size_bytes(),
                "wal_bytes": self._store.wal_bytes(),
                "free_bytes": self._store.disk_space.free_bytes(),
                "encrypted": self._store.encrypted,
            },
            "unsent_mail": await self._mailer.unsent(),
            "warnings": [{"key": key, "message": message} for key, message in self._warnings()],
            "last_errors": [_shown(error) for error in log.recent_errors()],
        }

    def _warnings(self) -> Iterator[tuple[str, str]]:
        yield from warnings(self._settings())
        if self._clustered is not None and not self._clustered.may_attempt():
            yield "cluster", "the lease of a partition could not be renewed, so nothing is delivered for its workspaces"

    def _rates(self) -> Json:
        if len(self._samples) < 2:
            return {"accepted": 0.0, "delivered": 0.0, "failed": 0.0}
        first, last = self._samples[0], self._samples[-1]
        seconds = max(last.at - first.at, 1e-9)
        return {
            "accepted": round((last.accepted - first.accepted) / seconds, 2),
            "delivered": round((last.delivered - first.delivered) / seconds, 2),
            "failed": round((last.failed - first.failed) / seconds, 2),
        }

    def _slowest(self, endpoints: Sequence[Endpoint]) -> list[Json]:
        durations = self._recorder.durations_ms
        found = [(durations[each.seq], each) for each in endpoints if each.seq in durations]
        found.sort(key=lambda pair: -pair[0])
        return [
            {
                "id": each.id,
                "workspace": each.workspace,
                "url": log.loggable_url(each.url),
                "attempt_ms": round(duration_ms, 1),
            }
            for duration_ms, each in found[:SLOWEST]
        ]

    def _budgets(self, only: int | None) -> list[Json]:
        shown = []
        for workspace in self._registry.workspaces():
            if only is not None and workspace.seq != only:
                continue
            view = self._watchdog.view(workspace.seq)
            if view.failures:
                shown.append({"workspace": workspace.id, "failures": view.failures, "limit": view.limit})
        return shown


def _blocked(endpoints: Sequence[Endpoint], views: Mapping[int, QueueView]) -> list[Json]:
    """The lanes that have waited longest for a retry, of endpoints that order by key."""
    found = [(lane, each) for each in endpoints if (lanes := views[each.seq].lanes) for lane in lanes.blocked]
    found.sort(key=lambda pair: pair[0].since_ms)
    return [
        {
            "id": each.id,
            "workspace": each.workspace,
            "url": log.loggable_url(each.url),
            "path": each.ordering.key,
            **blocked_json(lane),
        }
        for lane, each in found[:BLOCKED_SHOWN]
    ]


def _shown(error: Json) -> Json:
    fields = {name: value for name, value in error.items() if name not in ("at_unix_seconds", "event")}
    return {"at": rfc3339(round(error["at_unix_seconds"] * 1000)), "event": error["event"], "fields": fields}
