"""The table of metrics (name, kind, meaning), and its rendering for Prometheus.

The parts of webhookd count in plain numbers, which a scrape reads.  An endpoint is a label only while something waits
for it or the budget has disabled it, and for at most `LISTED_ENDPOINTS` at once, to bound the number of series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
LISTED_ENDPOINTS = 500


# Upper bounds in seconds: from a commit in the page cache to the longest `delivery.timeout_seconds`.
BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Histogram:
    """Durations, counted by the first of `BOUNDS_SECONDS` that isn't below them, and their sum."""

    __slots__ = ("_counts", "sum_seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with the number of durations up to it, in Prometheus' form."""
        bounds = (*map(str, BOUNDS_SECONDS), "+Inf")
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


@dataclass(frozen=True, slots=True)
class MetricKind:
    """One row of the table.  A counter only grows while the process runs; a gauge is a current value."""

    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


# The value for each combination of label values; () without labels.
Values = Mapping[tuple[str, ...], float | Histogram]

METRICS: dict[str, MetricKind] = {
    "webhookd_info": MetricKind("gauge", "Always 1; the label says which version runs.", ("version",)),
    "webhookd_uptime_seconds": MetricKind("gauge", "How long the process has been running."),
    "webhookd_events_accepted_total": MetricKind("counter", "Events accepted, duplicates apart."),
    "webhookd_events_refused_total": MetricKind("counter", "Events and requests of events refused.", ("code",)),
    "webhookd_events_mismatched_total": MetricKind(
        "counter", "Events accepted though they don't fit their type's schema."
    ),
    "webhookd_auth_failures_total": MetricKind("counter", "Secrets refused: tokens of calls and at the sign-in."),
    "webhookd_attempts_total": MetricKind(
        "counter", "Attempts that ended; reason is empty for those delivered.", ("outcome", "reason")
    ),
    "webhookd_attempt_seconds": MetricKind(
        "histogram", "How long attempts took, the name's resolution to the answer's last byte.", ("outcome",)
    ),
    "webhookd_deliveries_dropped_total": MetricKind("counter", "Deliveries given up after their last retry."),
    "webhookd_deliveries_expired_total": MetricKind("counter", "Deliveries given up because they were held too long."),
    "webhookd_deliveries_waiting": MetricKind("gauge", "Deliveries that wait, those held included.", ("workspace",)),
    "webhookd_deliveries_waiting_bytes": MetricKind("gauge", "Bytes of the deliveries that wait.", ("workspace",)),
    "webhookd_deliveries_held": MetricKind(
        "gauge", "Deliveries that wait for an endpoint that isn't active.", ("workspace",)
    ),
    "webhookd_deliveries_in_flight": MetricKind("gauge", "Attempts under way."),
    "webhookd_oldest_waiting_seconds": MetricKind(
        "gauge", "Age of the oldest delivery that waits for an active endpoint; 0 if none does.", ("workspace",)
    ),
    "webhookd_endpoint_waiting": MetricKind(
        "gauge",
        "Deliveries that wait for this endpoint; only for those where any does or that the budget has disabled.",
        ("workspace", "endpoint_id", "state"),
    ),
    "webhookd_endpoint_oldest_seconds": MetricKind(
        "gauge",
        "Age of the oldest delivery that waits for this endpoint; 0 if none does.",
        ("workspace", "endpoint_id", "state"),
    ),
    "webhookd_endpoint_lanes_busy": MetricKind(
        "gauge",
        "Lanes at work of an endpoint that orders by key; only where any delivery waits.",
        ("workspace", "endpoint_id"),
    ),
    "webhookd_endpoint_lane_waiting_most": MetricKind(
        "gauge",
        "Deliveries that wait in the lane in which most do; only for endpoints that order by key.",
        ("workspace", "endpoint_id"),
    ),
    "webhookd_endpoints_unlisted": MetricKind(
        "gauge", f"Endpoints with waiting deliveries beyond the {LISTED_ENDPOINTS} that are listed one by one."
    ),
    "webhookd_endpoints": MetricKind("gauge", "Endpoints by state.", ("workspace", "state")),
    "webhookd_budget_failures": MetricKind("gauge", "Failures that count against the budget now.", ("workspace",)),
    "webhookd_budget_limit": MetricKind("gauge", "The failure budget: one more than this disables."),
    "webhookd_mail_unsent": MetricKind("gauge", "Notices that the mail server hasn't accepted yet."),
    "webhookd_database_bytes": MetricKind("gauge", "Size of the database file."),
    "webhookd_wal_bytes": MetricKind("gauge", "Size of the write-ahead log; a checkpoint is due at 8 MiB."),
    "webhookd_disk_free_bytes": MetricKind("gauge", "Free space where the database lies."),
    "webhookd_disk_reserved_bytes": MetricKind(
        "gauge", "store.min_free_mb: with less free than this, events are refused."
    ),
    "webhookd_store_full": MetricKind("gauge", "1 while events are refused because the disk is nearly full, else 0."),
    "webhookd_commits_total": MetricKind("counter", "Transactions committed."),
    "webhookd_commit_seconds": MetricKind("histogram", "How long transactions took, their sync to the disk included."),
    "webhookd_cluster_connected": MetricKind("gauge", "In a cluster: 1 while there is a connection to NATS, else 0."),
    "webhookd_cluster_nodes": MetricKind("gauge", "In a cluster: machines that are alive and not drained."),
    "webhookd_cluster_partition_owned": MetricKind(
        "gauge", "In a cluster: 1 for each partition that this machine has.", ("partition",)
    ),
    "webhookd_cluster_partition_fenced": MetricKind(
        "gauge", "1 while no attempt starts, because the lease could not be renewed.", ("partition",)
    ),
    "webhookd_cluster_partition_renewed_seconds": MetricKind(
        "gauge", "How long ago the lease was renewed.", ("partition",)
    ),
    "webhookd_cluster_partition_applied": MetricKind(
        "gauge", "Up to which sequence the partition's stream is applied.", ("partition",)
    ),
    "webhookd_cluster_partition_progress": MetricKind(
        "gauge", "Up to which sequence the progress is kept in the cluster.", ("partition",)
    ),
    "webhookd_cluster_partition_lag": MetricKind(
        "gauge", "Messages of the partition's stream that are not applied yet.", ("partition",)
    ),
    "webhookd_cluster_dead_letters_total": MetricKind(
        "counter", "Messages that could not be applied and went to `webhookd.dead.<workspace>`.", ("partition",)
    ),
    "webhookd_loop_lag_seconds": MetricKind("gauge", "How late the event loop was at worst in the last minute."),
}


def render(values: Mapping[str, Values], *, process: bool = False) -> bytes:
    """The metrics in Prometheus' text format, with those of the process if `process`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(values))
    if process:
        ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Snapshot(Collector):
    """The metrics of one scrape."""

    def __init__(self, values: Mapping[str, Values]) -> None:
        self._families = [_family(name, METRICS[name], rows) for name, rows in values.items()]

    def collect(self) -> Iterable[Metric]:
        """See `Collector.collect`."""
        return self._families

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry serves one scrape."""
        return iter(())


def _family(name: str, kind: MetricKind, rows: Values) -> Metric:
    if kind.kind == "histogram":
        histogram = HistogramMetricFamily(name, kind.meaning, labels=kind.labels)
        for labels, value in rows.items():
            assert isinstance(value, Histogram)
            histogram.add_metric(labels, buckets=value.buckets(), sum_value=value.sum_seconds)
        return histogram
    made: CounterMetricFamily | GaugeMetricFamily
    if kind.kind == "counter":
        made = CounterMetricFamily(name, kind.meaning, labels=kind.labels)
    else:
        made = GaugeMetricFamily(name, kind.meaning, labels=kind.labels)
    for labels, value in rows.items():
        assert not isinstance(value, Histogram)
        made.add_metric(labels, value)
    return made
