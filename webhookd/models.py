"""The nouns: what webhookd talks about, as frozen values.

Times that are kept or shown are wall clock, in milliseconds since 1970 (`…_ms`); waits inside the process are
monotonic seconds and never stand in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from msgspec import Struct

Json = dict[str, Any]

DEFAULT_WORKSPACE = "default"
LANGUAGES = ("en", "vi")  # of the page and of mails
MALFORMED = "malformed"  # why an endpoint is disabled whose row can't be read
# A workspace's number or its id: see `Registry`.
WorkspaceKey = int | str
EVERY_TYPE = "*"


class EndpointState(StrEnum):
    """Whether an endpoint gets its events, and if not, who stopped it."""

    ACTIVE = "active"
    DISABLED = "disabled"
    AUTO_DISABLED = "auto_disabled"


class DeliveryState(StrEnum):
    """`HELD`, and the time before rows have followed a mark, are derived; the table knows `PENDING` and the ends."""

    PENDING = "pending"
    HELD = "held"
    DELIVERED = "delivered"
    DROPPED = "dropped"
    EXPIRED = "expired"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why an attempt failed; `LOCAL` is a fault of webhookd's own machine."""

    STATUS = "status"
    TIMEOUT = "timeout"
    DNS = "dns"
    REFUSED = "refused"
    RESET = "reset"
    TLS = "tls"
    BLOCKED_ADDRESS = "blocked_address"
    PROTOCOL = "protocol"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class PendingAddress:
    """An address for notices that has yet to confirm it, by a link that works until `expires_at_ms`."""

    address: str
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Workspace:
    """A tenant: its plan, its notice addresses.  `plan_changed_at_ms`: since when its plan has, or lacks, webhooks."""

    seq: int
    id: str
    name: str
    plan: str
    notify: tuple[str, ...]
    created_at_ms: int
    plan_changed_at_ms: int
    language: str = "en"  # of its mails
    pending: tuple[PendingAddress, ...] = ()

    def pending_at(self, now_ms: int) -> tuple[PendingAddress, ...]:
        """The addresses whose links still work."""
        return tuple(each for each in self.pending if now_ms < each.expires_at_ms)


class PreviousKey(NamedTuple):
    """A replaced signing key and the time until it signs too; `signs_body`: `X-Webhook-Signature` as well."""

    key: str
    until_ms: int
    signs_body: bool = True


class Barrier(NamedTuple):
    """Deliveries up to this number go by an earlier order: by its key (`keyed`), else one by one."""

    upto_seq: int
    keyed: bool


@dataclass(frozen=True, slots=True)
class Ordering:
    """In which order an endpoint gets its events: one by one, or by the key at a path, in lanes.

    What an earlier path holds for is finished before the rest begins: `barriers`, in order.
    """

    key: str | None = None
    lanes: int = 1
    barriers: tuple[Barrier, ...] = ()


STRICT = Ordering()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook: a URL, the event types that it wants, a signing key, a state.

    `seq` is the table's own number, used inside; `id` is what others see, and `workspace` that of its workspace.
    Deliveries up to `skipped_upto` were skipped by a person, attempts up to `forgiven_upto` no longer count against
    the budget.  `previous_keys` are the replaced signing keys, newest first.  `x_webhook_signature`: whether requests
    have that header, keyed with `x_webhook_signature_key` if there is one, else with a signing key.  `filters` as in
    `rules.filters`.  `selected_at_ms`: since when event types and filters are as they are.
    """

    seq: int
    id: str
    workspace_seq: int
    workspace: str
    url: str
    event_types: tuple[str, ...]
    description: str
    success: str
    headers: tuple[tuple[str, str], ...]
    signing_key: str
    previous_keys: tuple[PreviousKey, ...]
    x_webhook_signature: bool
    x_webhook_signature_key: str | None
    state: EndpointState
    disabled_reason: str | None
    disabled_at_ms: int | None
    disabled_message: str | None
    skipped_upto: int
    forgiven_upto: int
    created_at_ms: int
    updated_at_ms: int
    deleted_at_ms: int | None
    ordering: Ordering = STRICT
    filters: str = ""
    selected_at_ms: int = 0
    malformed: tuple[str, ...] = ()  # the columns that can't be read: it gets nothing until they are set again

    def live_previous_keys(self, now_ms: int) -> tuple[PreviousKey, ...]:
        """The replaced keys that sign at `now_ms`."""
        return tuple(each for each in self.previous_keys if now_ms < each.until_ms)

    @property
    def active(self) -> bool:
        """Whether it gets events as far as its own state goes (its workspace's plan apart)."""
        return self.state is EndpointState.ACTIVE and self.deleted_at_ms is None and not self.malformed


# Made for every event, so Structs: a frozen dataclass takes several times as long.  `gc=False`: they hold no cycles.


class NewEvent(Struct, frozen=True, gc=False):
    """An event that passed the checks and waits to be accepted: `body` is what will be delivered, byte for byte."""

    id: str
    type: str
    body: bytes


class QueuedDelivery(Struct, frozen=True, gc=False):
    """A delivery as a consumer needs it.  `body` is None when it has to be read from the table first.

    `attempt_count` numbers all attempts ever made; `tries` those of the present schedule, which starts again when the
    endpoint is enabled again.  `after_local_failure` says what it waits for until `next_attempt_at_ms`: after a failure
    of webhookd's own machine that is no step of the schedule.  `trace`: see `rules.trace_context`.  Where the endpoint
    orders by key: the key's hash, the delivery's number and the event before it in its lane.
    """

    seq: int
    endpoint_seq: int
    event_id: str
    event_type: str
    body: bytes | None
    size: int
    accepted_at_ms: int
    replay_of: int | None = None
    attempt_count: int = 0
    tries: int = 0
    next_attempt_at_ms: int | None = None
    after_local_failure: bool = False
    backfill: bool = False
    trace: str | None = None
    lane_hash: int | None = None
    sequence: int | None = None
    lane_previous: str | None = None


class Accepted(Struct, frozen=True, gc=False):
    """What the store did with one event.  `conflict` means that the id was accepted before with another body."""

    event_id: str
    deliveries: int
    duplicate: bool = False
    conflict: bool = False
    queued: tuple[QueuedDelivery, ...] = ()

    @property
    def is_new(self) -> bool:
        """Whether the event was added by this."""
        return not self.duplicate and not self.conflict


class Request(Struct, frozen=True, gc=False):
    """One HTTP request to make: everything that is on the wire but the connection."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    accept_any_2xx: bool
    secret_headers: frozenset[str] = frozenset()


class Outcome(Struct, frozen=True, gc=False):
    """What came of one attempt, as the sender saw it.  `reason` is None exactly when it was delivered."""

    started_at_ms: int
    duration_ms: float
    reason: Reason | None = None
    status: int | None = None
    detail: str = ""
    connection_retried: bool = False
    response_headers: tuple[tuple[str, str], ...] = ()
    response_body: bytes = b""
    truncated: bool = False

    @property
    def delivered(self) -> bool:
        """Whether the receiver answered as its endpoint's success rule wants."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as the log shows it; `last_attempt` is in the API's own form already."""

    seq: int
    workspace_seq: int
    workspace: str
    endpoint_seq: int
    endpoint_id: str
    event_id: str
    event_type: str
    state: DeliveryState
    replay_of: int | None
    is_test: bool
    is_backfill: bool
    accepted_at_ms: int
    next_attempt_at_ms: int | None
    finished_at_ms: int | None
    attempt_count: int
    last_attempt: Json | None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class EventView:
    """An event as the log shows it.  `body` is None once it was pruned and only its id is remembered."""

    seq: int
    workspace: str
    id: str
    type: str
    accepted_at_ms: int
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt that counts: whose, and when it ended (monotonic seconds)."""

    endpoint_seq: int
    ended_at: float


@dataclass(frozen=True, slots=True)
class BudgetView:
    """The budget of a workspace at one moment: the count, who spent it, and when its oldest failure leaves it."""

    limit: int
    window_seconds: float
    failures: int
    by_endpoint: dict[str, int] = field(default_factory=dict)
    oldest_expires_in_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change, or a refused secret: who (token, session, address), what, on what, with which outcome."""

    seq: int
    at_ms: int
    workspace_seq: int | None
    workspace: str | None
    token_id: str | None
    session_id: str | None
    address: str
    action: str
    target: str
    outcome: str


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries of the audit trail: of a workspace's number, of a token, session or address, of an action, …

    `what` is an action, an outcome, or a part of the target.  None means any.
    """

    workspace_seq: int | None = None
    who: str | None = None
    what: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """An API token, without its secret.  `workspace_seq` None means every workspace; `workspace` is for showing."""

    id: str
    scope: str
    workspace: str | None
    workspace_seq: int | None
    created_at_ms: int
    note: str = ""
    expires_at_ms: int | None = None
    last_used_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Portal:
    """What a link into the portal gives: one workspace's webhooks and log, and how its page greets the reader.

    `language` and `return_url` are "" where the link names none.
    """

    workspace_seq: int
    read_only: bool = False
    language: str = ""
    return_url: str = ""


@dataclass(frozen=True, slots=True)
class SessionView:
    """Somebody who is signed in to the page: with which token, where from, until when at the latest."""

    id: str
    token_id: str
    workspace: str | None
    address: str
    created_at_ms: int
    last_used_at_ms: int
    expires_at_ms: int
    portal: Portal | None = None  # of a session of the portal: its token's rights, narrowed to this
