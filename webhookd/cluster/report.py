"""What people and Prometheus see of the cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from webhookd import metrics
from webhookd.cluster import progress
from webhookd.cluster.jetstream import JetStream, Unreachable
from webhookd.cluster.membership import View
from webhookd.cluster.names import PROGRESS_BUCKET, stream_name
from webhookd.cluster.partition import Partition
from webhookd.metrics import Values


class Report:
    """Made from a view of the cluster, NATS itself, and the partitions that are here."""

    def __init__(
        self,
        jetstream: JetStream,
        partitions: int,
        node: str,
        unsafe: list[str],
        owned: Callable[[], list[Partition]],
    ) -> None:
        self._jetstream = jetstream
        self._partitions = partitions
        self._node = node
        self._unsafe = unsafe
        self._owned = owned

    async def status(self, view: View | None) -> dict[str, Any]:
        """The answer to `GET /v1/cluster`."""
        found = await asyncio.gather(*(self._of_stream(number) for number in range(self._partitions)))
        counts = Counter(view.owners().values()) if view else Counter[str]()
        fenced = {each.number for each in self._owned() if each.status()["fenced"]}
        warnings = [*self._unsafe, *(f"partition {each} could not be renewed: no attempt starts" for each in fenced)]
        if not self._jetstream.connected:
            warnings.append("there is no connection to NATS")
        return {
            "node": self._node,
            "connected": self._jetstream.connected,
            "warnings": warnings,
            "nodes": [
                {
                    "node": node,
                    "advertise": value.advertise,
                    "version": value.version,
                    "state": "draining" if node in view.draining else "alive" if node in view.alive else "gone",
                    "partitions": counts[node],
                }
                for node, value in sorted(view.nodes.items())
            ]
            if view
            else [],
            "partitions": [self._partition(view, number, *found[number]) for number in range(self._partitions)],
        }

    def _partition(
        self, view: View | None, number: int, last: int | None, written: progress.ProgressValue | None
    ) -> dict[str, Any]:
        lease = view.leases.get(number) if view else None
        applied = written.applied if written else None
        return {
            "partition": number,
            "node": lease.node if lease else "",
            "unchanged_seconds": round(view.unchanged_seconds[number], 1) if view and lease else 0.0,
            "last_sequence": last,
            "applied": applied,
            "lag": max(0, last - applied) if last is not None and applied is not None else None,
            "behind": len(written.behind) if written else None,
        }

    async def _of_stream(self, number: int) -> tuple[int | None, progress.ProgressValue | None]:
        try:
            (_, last), entry = await asyncio.gather(
                self._jetstream.last_sequence(stream_name(number)),
                self._jetstream.get(PROGRESS_BUCKET, str(number)),
            )
        except Unreachable:
            return None, None
        return last, progress.decode(entry.value) if entry else progress.ProgressValue()

    async def metrics(self, view: View | None) -> str:
        """The cluster's own metrics of this machine, in Prometheus' text format."""
        owned = [each.status() for each in self._owned()]
        lasts = await asyncio.gather(*(self._of_stream(each["partition"]) for each in owned))
        labels = [(str(each["partition"]),) for each in owned]
        values: dict[str, Values] = {
            "webhookd_cluster_connected": {(): float(self._jetstream.connected)},
            "webhookd_cluster_nodes": {(): float(len(view.alive)) if view else 0.0},
            "webhookd_cluster_partition_owned": dict.fromkeys(labels, 1.0),
            "webhookd_cluster_partition_fenced": _column(labels, [float(each["fenced"]) for each in owned]),
            "webhookd_cluster_partition_renewed_seconds": _column(labels, [each["renewed_seconds"] for each in owned]),
            "webhookd_cluster_partition_applied": _column(labels, [float(each["applied"]) for each in owned]),
            "webhookd_cluster_partition_progress": _column(labels, [float(each["progress"]) for each in owned]),
            "webhookd_cluster_partition_lag": _column(
                labels,
                [
                    float(max(0, (last or each["applied"]) - each["applied"]))
                    for each, (last, _) in zip(owned, lasts, strict=True)
                ],
            ),
            "webhookd_cluster_dead_letters_total": _column(labels, [float(each["dead_letters"]) for each in owned]),
        }
        return metrics.render(values).decode()


def _column(labels: list[tuple[str]], values: list[float]) -> dict[tuple[str, ...], float]:
    return dict(zip(labels, values, strict=True))
