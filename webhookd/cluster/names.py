"""What a cluster is called in NATS: partitions, subjects, streams, buckets, keys, and the values under them.

This is the interface to everything outside the daemon: producers that publish by themselves, migrations, tests.  JSON
values may get more fields; readers ignore those that they don't know.

Events
    A producer publishes an event (one flat JSON object, as in `POST /v1/events`) to `webhookd.events.<workspace>`.  The
    NATS account maps that subject to the partition's own, by the same hash as `partition_of`::

        mappings = { "webhookd.events.*": "webhookd.partition.{{partition(16,1)}}.{{wildcard(1)}}" }

    The daemon publishes to `event_subject` directly and needs no mapping.  The stream of a partition takes
    `webhookd.partition.<p>.*`.  Headers, all optional: `Nats-Msg-Id` (`message_id`: a publish that is repeated counts
    once), `Webhookd-Event-Id` (for a body without an `event_id`), `traceparent` and `tracestate`.

    Many events are one message to `webhookd.partition.<p>._` with the header `Webhookd-Batch: 1`: a msgpack array of
    `[workspace, body, trace or null, event_id or ""]`, the last two optional.  Events are applied in the order of the
    stream, those of a batch in its order.

Dead letters
    A message that can't be applied goes to `webhookd.dead.<workspace>`, as it came, with the headers `Webhookd-Reason`
    (a code of the API's errors), `Webhookd-Message`, `Webhookd-Partition` and `Webhookd-Sequence`.  The stream
    `webhookd_dead` keeps them for `DEAD_LETTER_DAYS`.

Bucket `webhookd_cluster`
    `settings`       `{"version": 1, "partitions": 16}`, written once.
    `node.<node>`    `{"node", "advertise", "version", "draining"}`, put twice a second by the living machine.
    `drain.<node>`   exists while the machine is to own nothing.
    `lease.<p>`      `{"node", "advertise", "boot", "to"}`: the owner, renewed every second by compare-and-set.  After a
                     peaceful release `node` is "", and `to` the machine that it is meant for ("" for any).

Bucket `webhookd_config`
    `p<p>.owner`           the machine that took the partition over last
    `p<p>.workspace.<id>`  `{"id", "name", "plan", "notify", "created_at_ms", "plan_changed_at_ms", "language",
                           "paused"}`, the last: whether its plan has no webhooks
    `p<p>.endpoint.<id>`   its fields but the numbers, and `from_sequence`: it gets the events after that
    `p<p>.waited.<id>`     what waited for an endpoint when it began to ask for other events, or its workspace's plan
                           changed: `{"id", "upto", "waited"}`, see `webhookd.cluster.waited`
    `p<p>.link.<hash>`     an unused link into the portal, by the hash of its code
    `p<p>.confirmation.<hash>`  an address that was asked to confirm, by the hash of its link's code
    `p<p>.token.<id>`      a token bound to a workspace of the partition; the secret is hashed
    `all.token.<id>`       an unbound token
    `all.session.<id>`     a session of the page

Bucket `webhookd_progress`
    `<p>`            `{"node", "applied", "behind": {<endpoint id>: <position>}, "numbers": {<endpoint id>: [<newest>,
                     <position>, <number>]}}`, zlib-compressed JSON, put once a second while it changes.
                     All events up to the sequence `applied` are finished but those of an endpoint in `behind` from
                     that position on: 1024 times the sequence, and the place in its batch.
                     Where an endpoint orders by key, there is `<endpoint id>/<hash of the key>` for each hash, and
                     in `numbers` the newest delivery's number, and position and number of the first that waits, or 0.
"""

from __future__ import annotations

FNV_OFFSET, FNV_PRIME = 2166136261, 16777619

EVENTS = "webhookd.events"  # + .<workspace>: where producers publish
PARTITION = "webhookd.partition"  # + .<p>.<workspace>: what the streams take
DEAD = "webhookd.dead"  # + .<workspace>
MANY = "_"  # in a subject, in place of a workspace's id: a batch of several
DEAD_STREAM = "webhookd_dead"
DEAD_LETTER_DAYS = 30

CLUSTER_BUCKET = "webhookd_cluster"
CONFIG_BUCKET = "webhookd_config"
PROGRESS_BUCKET = "webhookd_progress"
SETTINGS_KEY = "settings"

MSG_ID_HEADER = "Nats-Msg-Id"
REQUEST_HEADER = "Webhookd-Request"  # which call of which daemon waits for the message
EVENT_ID_HEADER = "Webhookd-Event-Id"
BATCH_HEADER = "Webhookd-Batch"
REASON_HEADER = "Webhookd-Reason"
MESSAGE_HEADER = "Webhookd-Message"
PARTITION_HEADER = "Webhookd-Partition"
SEQUENCE_HEADER = "Webhookd-Sequence"

# Between machines, over HTTP.
TOKEN_HEADER = "X-Webhookd-Cluster"  # noqa: S105 - a header's name
CALLER_HEADER = "X-Webhookd-Caller"
PARTITION_CHOICE_HEADER = "X-Webhookd-Partition"
PASSED_EVENTS_PATH = "/v1/cluster/events"

REPLICAS = 3
# For how long NATS itself recognises a message that is published again; SQLite remembers events' ids for longer.
DUPLICATE_WINDOW_SECONDS = 120


def partition_of(workspace_id: str, partitions: int) -> int:
    """The partition of a workspace: FNV-1a (32 bits) of its id, as in NATS' own `partition()`."""
    found = FNV_OFFSET
    for byte in workspace_id.encode():
        found = ((found ^ byte) * FNV_PRIME) & 0xFFFFFFFF
    return found % partitions


def stream_name(partition: int) -> str:
    """The stream of a partition's events."""
    return f"webhookd_events_{partition}"


def stream_subjects(partition: int) -> str:
    """What the stream of a partition takes."""
    return f"{PARTITION}.{partition}.*"


def subject_of(partition: int, workspace_id: str) -> str:
    """Where the daemon publishes events of a workspace, or of `MANY`."""
    return f"{PARTITION}.{partition}.{workspace_id}"


def event_subject(workspace_id: str, partitions: int) -> str:
    """Where the events of a workspace come to."""
    return subject_of(partition_of(workspace_id, partitions), workspace_id)


def message_id(workspace_id: str, event_id: str) -> str:
    """The `Nats-Msg-Id` of a single event."""
    return f"{workspace_id}.{event_id}"


def lease_key(partition: int) -> str:
    """The lease of a partition, in `CLUSTER_BUCKET`."""
    return f"lease.{partition}"


def node_key(node: str) -> str:
    """The sign of life of a machine, in `CLUSTER_BUCKET`."""
    return f"node.{node}"


def drain_key(node: str) -> str:
    """There while a machine is to own nothing, in `CLUSTER_BUCKET`."""
    return f"drain.{node}"


def config_key(partition: int | None, kind: str, item_id: str) -> str:
    """A workspace, endpoint, token or session in `CONFIG_BUCKET`; `partition` None: of all partitions."""
    return f"{'all' if partition is None else f'p{partition}'}.{kind}.{item_id}"


def progress_key(partition: int) -> str:
    """The progress of a partition, in `PROGRESS_BUCKET`."""
    return str(partition)
