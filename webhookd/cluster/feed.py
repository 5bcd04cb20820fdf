"""Messages of a stream from a sequence on, in order and without a gap, whatever happens to servers and connections.

An ordered push consumer: in one server's memory, made anew behind the last message that was taken whenever a gap, a
missing heartbeat or an error shows that it is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from nats.js.api import AckPolicy, DeliverPolicy, ReplayPolicy
from nats.js.errors import APIError

from webhookd import log
from webhookd.cluster.jetstream import JetStream, Unreachable

HEARTBEAT_SECONDS = 0.5
# After so long without a message or a heartbeat the consumer counts as gone.
SILENT_SECONDS = 2.0
RETRY_SECONDS = 0.2
PENDING_BYTES = 256 * 1024 * 1024


class Message(Struct, frozen=True, gc=False):
    """A message of the stream; `at_ms` is when the stream took it."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    body: bytes
    at_ms: int


class Feed:
    """The messages of a stream after `after`; with `subject` the last of each such subject, then what is new."""

    def __init__(self, jetstream: JetStream, stream: str, *, after: int = 0, subject: str = "") -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._after = after
        self._subject = subject
        self._buffer: deque[Message | str] = deque()  # a text is where to answer for more
        self._arrived = asyncio.Event()
        self._consumer = ""
        self._subscription: Any = None
        self._expected = 1
        self._heard_at = 0.0
        self._broken = True

    async def next(self, limit: int, limit_bytes: int) -> list[Message]:
        """The next messages, at least one: as many as are there, up to `limit` or about `limit_bytes`."""
        taken: list[Message] = []
        size = 0
        while not taken:
            if self._broken and not self._buffer:
                await self._open()
            while self._buffer and len(taken) < limit and size < limit_bytes:
                each = self._buffer.popleft()
                if isinstance(each, str):
                    await self._answer(each)
                else:
                    taken.append(each)
                    size += len(each.body)
            if not taken:
                await self._wait()
        return taken

    async def close(self) -> None:
        """End it."""
        await self._leave()

    async def _wait(self) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            if time.monotonic() - self._heard_at > SILENT_SECONDS:
                self._broken = True

    async def _open(self) -> None:
        """Make the consumer, as often as it takes."""
        await self._leave()
        while True:
            try:
                await self._make()
            except (Unreachable, APIError) as error:
                log.throttled("cluster.nats_failed", key=self._stream, what=f"consume {self._stream}", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _make(self) -> None:
        nc = self._jetstream.connection
        inbox = nc.new_inbox()
        self._expected, self._broken, self._heard_at = 1, False, time.monotonic()
        self._subscription = await nc.subscribe(
            inbox, cb=self._receive, pending_msgs_limit=-1, pending_bytes_limit=PENDING_BYTES
        )
        config: dict[str, Any] = {
            "deliver_subject": inbox,
            "ack_policy": AckPolicy.NONE,
            "replay_policy": ReplayPolicy.INSTANT,
            "flow_control": True,
            "idle_heartbeat": HEARTBEAT_SECONDS,
            "inactive_threshold": 30.0,
            "max_deliver": 1,
            "num_replicas": 1,
            "mem_storage": True,
        }
        if self._subject:
            config |= {"filter_subject": self._subject, "deliver_policy": DeliverPolicy.LAST_PER_SUBJECT}
        else:
            config |= {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": self._after + 1}
        try:
            self._consumer = await self._jetstream.add_consumer(self._stream, config)
        except BaseException:
            await self._unsubscribe()  # it may have been made, and would push and beat beside the next one
            raise

    async def _leave(self) -> None:
        await self._unsubscribe()
        if self._consumer and self._jetstream.connected:
            consumer, self._consumer = self._consumer, ""
            await self._jetstream.delete_consumer(self._stream, consumer)
        self._broken = True

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        try:
            await subscription.unsubscribe()
        except Exception as error:  # noqa: BLE001 - the connection is gone, and the subscription with it
            log.throttled("cluster.nats_failed", key="leave", what="unsubscribe", error=type(error).__name__)

    async def _receive(self, raw: Any) -> None:
        """The library's callback: one message at a time."""
        if self._broken or self._subscription is None or raw.sid != self._subscription._id:
            return
        self._heard_at = time.monotonic()
        if not raw.reply or not raw.reply.startswith("$JS.ACK."):
            await self._on_status(raw)
            return
        sequence, number, at_ms = _numbers(raw.reply)
        if number != self._expected:
            self._broken = True  # one was lost on the way: begin again behind the last
            self._arrived.set()
            return
        self._expected += 1
        self._after = sequence
        self._buffer.append(Message(sequence, raw.subject, raw.headers or {}, raw.data, at_ms))
        self._arrived.set()

    async def _on_status(self, raw: Any) -> None:
        headers = raw.headers or {}
        if raw.reply:  # asked whether more may come: answered when what came before is taken
            self._buffer.append(raw.reply)
            self._arrived.set()
        elif stalled := headers.get("Nats-Consumer-Stalled"):
            await self._answer(stalled)

    async def _answer(self, reply: str) -> None:
        if self._jetstream.connected:
            await self._jetstream.connection.publish(reply)


def _numbers(reply: str) -> tuple[int, int, int]:
    """Sequence in the stream, number of the delivery, and time (ms since 1970) of a message, from its reply subject."""
    parts = reply.split(".")
    # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<number>.<time>.<pending>, newer ones with domain and account.
    at = 5 if len(parts) == 9 else 7
    return int(parts[at]), int(parts[at + 1]), int(parts[at + 2]) // 1_000_000
