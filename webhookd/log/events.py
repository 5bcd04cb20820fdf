"""Every log event: its level, its meaning and its fields.

The manual's table is made from this one, and a test holds every call of `emit` and `throttled` against its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One row of the table: the level, what happened, and the fields that its lines may have."""

    level: Literal["debug", "info", "warning", "error"]
    meaning: str
    fields: tuple[str, ...] = ()


_ENDPOINT = ("workspace", "endpoint_id", "url")
_DELIVERY = ("workspace", "endpoint_id", "event_id", "delivery_id", "event_type")

LOG_EVENTS: dict[str, LogEvent] = {
    "daemon.started": LogEvent("info", "The process began.", ("version", "pid", "state_dir")),
    "daemon.ready": LogEvent(
        "info", "It accepts and delivers events.", ("address", "unix_socket", "waiting", "duration_ms")
    ),
    "daemon.stopping": LogEvent("info", "SIGTERM or SIGINT; attempts in flight end first.", ("reason",)),
    "daemon.stopped": LogEvent("info", "Everything is recorded and closed."),
    "daemon.failed": LogEvent("error", "It can't start or can't continue, and exits.", ("error", "exit_code")),
    "heartbeat.missed": LogEvent(
        "error",
        "The event loop, the database or a consumer doesn't respond; if that lasts, systemd restarts webhookd.",
        ("reason", "stack", "count"),
    ),
    "config.reloaded": LogEvent("info", "SIGHUP: these keys changed.", ("changed",)),
    "config.not_reloadable": LogEvent(
        "warning", "SIGHUP: these keys need a restart, or are wrong.", ("changed", "error")
    ),
    "config.warned": LogEvent(
        "warning", "At a start or reload: a setting is risky, or does less than it seems to.", ("key", "message")
    ),
    "state.tightened": LogEvent(
        "warning", "A file or directory of webhookd was open to others; its mode was tightened.", ("path", "mode")
    ),
    "auth.failed": LogEvent(
        "warning", "A secret was refused: a call's token, or one at the page's sign-in.", ("address", "path", "count")
    ),
    "token.created": LogEvent("info", "A token was created.", ("workspace", "token_id", "scope")),
    "token.revoked": LogEvent("info", "A token was revoked.", ("token_id",)),
    "key.revealed": LogEvent("info", "A signing key was revealed.", ("workspace", "endpoint_id", "token_id")),
    "key.rotated": LogEvent(
        "info", "An endpoint has a new signing key.", ("workspace", "endpoint_id", "overlap_seconds")
    ),
    "workspace.created": LogEvent("info", "A workspace was created.", ("workspace", "plan")),
    "workspace.changed": LogEvent("info", "A workspace was changed.", ("workspace", "plan", "fields")),
    "workspace.deleted": LogEvent("info", "A workspace was deleted.", ("workspace",)),
    "endpoint.created": LogEvent("info", "An endpoint was created.", (*_ENDPOINT, "event_types")),
    "endpoint.changed": LogEvent("info", "An endpoint was changed; `fields` names what.", (*_ENDPOINT, "fields")),
    "endpoint.deleted": LogEvent("info", "An endpoint was deleted; its waiting deliveries are cancelled.", _ENDPOINT),
    "endpoint.enabled": LogEvent(
        "info", "A person enabled an endpoint.", (*_ENDPOINT, "skip_held", "skipped", "waiting")
    ),
    "endpoint.disabled": LogEvent("info", "A person disabled an endpoint.", _ENDPOINT),
    "endpoint.auto_disabled": LogEvent(
        "warning",
        "The failure budget disabled an endpoint.",
        (*_ENDPOINT, "event_id", "delivery_id", "reason", "message", "failures", "limit", "window_seconds", "waiting"),
    ),
    "endpoint.quarantined": LogEvent(
        "error",
        "At a start: columns of its row (`message`) can't be read. It is disabled; set them again, then enable it.",
        (*_ENDPOINT, "message"),
    ),
    "endpoint.tested": LogEvent(
        "info", "A test event was sent to an endpoint.", (*_DELIVERY, "attempt", "status", "reason", "duration_ms")
    ),
    "event.accepted": LogEvent(
        "info",
        "An event, or `count` of one request, is durable and queued.",
        ("workspace", "event_id", "count", "deliveries"),
    ),
    "event.mismatched": LogEvent(
        "warning",
        "An event doesn't fit its type's schema and was accepted, since `events.validate` is `warn`.",
        ("workspace", "event_type", "path", "problem", "count"),
    ),
    "event.refused": LogEvent(
        "debug", "An event, or `count` of one request, was not accepted.", ("workspace", "event_id", "reason", "count")
    ),
    "delivery.attempted": LogEvent(
        "info",
        "One request to an endpoint ended and is recorded.",
        (
            *_DELIVERY,
            "attempt",
            "status",
            "reason",
            "duration_ms",
            "outcome",
            "counted",
            "connection_retried",
            "detail",
        ),
    ),
    "delivery.dropped": LogEvent(
        "warning",
        "The last retry failed; the delivery can be replayed.",
        (*_DELIVERY, "attempt", "status", "reason", "duration_ms"),
    ),
    "delivery.expired": LogEvent(
        "warning",
        "Held events expired: older or more than `hold.*` allows.",
        ("workspace", "endpoint_id", "reason", "count"),
    ),
    "delivery.skipped": LogEvent("info", "A person skipped held deliveries.", ("workspace", "endpoint_id", "count")),
    "delivery.quarantined": LogEvent(
        "error", "A delivery whose event can't be read was ended (`expired`); send the event again.", _DELIVERY
    ),
    "delivery.cancelled": LogEvent(
        "info", "Deliveries were cancelled with their endpoint.", ("workspace", "endpoint_id", "count")
    ),
    "delivery.replayed": LogEvent(
        "info",
        "Past deliveries were queued again.",
        ("workspace", "endpoint_id", "event_id", "delivery_id", "replay_of", "count"),
    ),
    "delivery.backfilled": LogEvent(
        "info", "Past events that an endpoint never had were queued for it.", ("workspace", "endpoint_id", "count")
    ),
    "budget.warned": LogEvent(
        "warning",
        "A share of the failure budget is spent.",
        ("workspace", "failures", "limit", "share", "window_seconds"),
    ),
    "mail.sent": LogEvent(
        "info", "The mail server accepted a notice.", ("workspace", "mail_id", "count", "recipients")
    ),
    "mail.failed": LogEvent(
        "warning",
        "The mail server didn't accept a notice; webhookd retries.",
        ("workspace", "mail_id", "attempt", "error", "count"),
    ),
    "mail.limited": LogEvent(
        "warning",
        "A workspace had as many mails as `mail.max_per_hour` allows; its notices wait and go as one mail.",
        ("workspace", "limit"),
    ),
    "mail.disabled": LogEvent("info", "No `mail.host`: notices are logged and shown, not mailed."),
    "store.opened": LogEvent(
        "info", "The database is open.", ("duration_ms", "path", "sqlite_version", "schema_version", "size_bytes")
    ),
    "store.encrypted": LogEvent(
        "info", "Signing keys and headers are encrypted by this database key from now on, or plain.", ("path", "key")
    ),
    "store.migrated": LogEvent("info", "The database was migrated to a newer schema.", ("from_version", "to_version")),
    "store.malformed": LogEvent(
        "error", "A value of the database can't be read, and counts as empty; `where` names it.", ("where", "count")
    ),
    "store.pruned": LogEvent(
        "info", "Retention removed finished events.", ("reason", "events", "deliveries", "duration_ms")
    ),
    "store.full": LogEvent("error", "The disk is nearly full: events are refused."),
    "store.recovered": LogEvent("info", "There is space again: events are accepted."),
    "cluster.connected": LogEvent("info", "There is a connection to NATS.", ("server",)),
    "cluster.disconnected": LogEvent("warning", "The connection to NATS ended; another is tried."),
    "cluster.nats_failed": LogEvent(
        "warning", "NATS did not answer a call in time; it is tried again.", ("what", "error", "count")
    ),
    "cluster.unsafe": LogEvent(
        "warning", "The cluster may lose what it accepted, and `cluster.allow_unsafe` lets it.", ("message",)
    ),
    "cluster.restored": LogEvent(
        "info",
        "A partition's configuration is here; `count` deliveries were finished elsewhere.",
        ("partition", "sequence", "count"),
    ),
    "cluster.partition_taken": LogEvent(
        "info", "This machine has a partition and serves it.", ("partition", "sequence", "duration_ms")
    ),
    "cluster.partition_released": LogEvent("info", "A partition was handed over.", ("partition", "to")),
    "cluster.partition_lost": LogEvent("warning", "This machine no longer has a partition.", ("partition", "reason")),
    "cluster.not_renewed": LogEvent(
        "warning", "The lease of a partition could not be renewed; it is tried again.", ("partition", "error", "count")
    ),
    "cluster.fenced": LogEvent(
        "error", "A lease wasn't renewed for so long that no attempt starts any more.", ("partition", "seconds")
    ),
    "cluster.unfenced": LogEvent("info", "The lease is renewed: attempts start again.", ("partition", "seconds")),
    "cluster.gap": LogEvent(
        "error",
        "The stream no longer has all that this machine needs: events are missing.",
        ("partition", "sequence", "first"),
    ),
    "cluster.ids_known": LogEvent(
        "info",
        "The ids of `count` events that were accepted before this machine took the partition over are known.",
        ("partition", "count", "seconds"),
    ),
    "cluster.dead_letter": LogEvent(
        "warning", "A message could not be applied; it is kept as a dead letter.", ("workspace", "reason", "message")
    ),
    "backup.made": LogEvent("info", "A copy of the database was written.", ("duration_ms", "size_bytes")),
    "resource.exhausted": LogEvent(
        "warning", "No descriptor, memory or thread is left; callers get 503, or wait.", ("error", "count")
    ),
    "request.failed": LogEvent(
        "error", "An internal error, answered 500.", ("status", "incident", "method", "path", "error", "count")
    ),
    "task.ended": LogEvent("error", "A task that must not end ended; the daemon ends.", ("task", "error")),
    "log.overflowed": LogEvent("warning", "Nothing read stdout; `count` lines were lost.", ("count",)),
    "library.warned": LogEvent("warning", "A library's own warning.", ("logger", "message", "error", "count")),
    "library.failed": LogEvent("error", "A library's own error.", ("logger", "message", "error", "count")),
}
