"""The connection to NATS: every call has a bound, a retry where that is safe, and a line in the log where it fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import nats
import nats.errors
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from webhookd import log
from webhookd.cluster import names
from webhookd.config import Cluster
from webhookd.errors import ConfigError, TemporaryFailure

T = TypeVar("T")

CONNECT_SECONDS = 30.0
CALL_SECONDS = 1.5
RETRY_SECONDS = 0.2
PING_SECONDS = 1
# Not 10164, "another write of the key is under way": nothing is known yet of what comes of that, so it is tried again.
WRONG_LAST_SEQUENCE = 10071
NO_REPLICAS = 10074  # the servers are no cluster
STREAM_IN_USE = 10058


class Unreachable(Exception):
    """NATS did not answer a call within its bound: it may have been carried out."""


class Conflict(Exception):
    """Somebody else has changed the key meanwhile: nothing was written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value and its revision."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Published:
    """Where a message stands in its stream; `duplicate`: it was there before, by its `Nats-Msg-Id`."""

    sequence: int
    duplicate: bool


class JetStream:
    """One connection, to whichever server answers, and the calls over it."""

    def __init__(self, settings: Cluster, node: str) -> None:
        self._settings = settings
        self._node = node
        self._nc: Any = None
        self._js: Any = None

    async def open(self) -> None:
        """Connect; TemporaryFailure if no server answers, ConfigError if the credentials are refused."""
        options: dict[str, Any] = {"tls": _tls(self._settings)} if _tls(self._settings) else {}
        if self._settings.credentials:
            options["user_credentials"] = self._settings.credentials
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._nc = await nats.connect(
                    list(self._settings.servers),
                    name=f"webhookd {self._node}",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.25,
                    connect_timeout=2,
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=2,
                    error_cb=_on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_connected,
                    **options,
                )
        except TimeoutError as error:
            raise TemporaryFailure(f"no NATS server of cluster.servers answers within {CONNECT_SECONDS:g} s") from error
        except (nats.errors.Error, OSError, ValueError) as error:
            raise ConfigError(f"cluster.servers: NATS can't be used ({type(error).__name__}: {error})") from error
        self._js = self._nc.jetstream(timeout=CALL_SECONDS)
        await self._on_connected()

    async def close(self) -> None:
        """Close the connection."""
        if self._nc is not None:
            await self._nc.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return bool(self._nc.is_connected)

    @property
    def connection(self) -> Any:
        """The library's own connection."""
        return self._nc

    @property
    def max_payload_bytes(self) -> int:
        """How large a message may be."""
        return int(self._nc.max_payload)

    async def ask(self, what: str, call: Callable[[], Awaitable[T]], *, within_seconds: float = CALL_SECONDS) -> T:
        """`call()`, again and again until it succeeds; Unreachable once `within_seconds` have passed."""
        try:
            async with asyncio.timeout(within_seconds):
                while True:
                    try:
                        return await self._once(what, call)
                    except Unreachable:
                        await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError as error:
            raise Unreachable(f"{what}: no answer within {within_seconds:g} s") from error

    async def _once(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        if not self.connected:
            raise Unreachable(f"{what}: not connected")  # the library would send it later, when nobody waits for it
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await call()
        except NotFoundError:
            raise
        except (TimeoutError, nats.errors.Error, OSError) as error:
            if isinstance(error, APIError) and error.err_code == WRONG_LAST_SEQUENCE:
                raise Conflict(what) from error
            log.throttled("cluster.nats_failed", key=what, what=what, error=f"{type(error).__name__}: {error}")
            raise Unreachable(f"{what}: {type(error).__name__}") from error

    # Buckets

    async def get(self, bucket: str, key: str) -> Entry | None:
        """A key's value as the bucket's leader has it; None if there is none.  Raises Unreachable."""
        subject = f"$KV.{bucket}.{key}"
        try:
            found = await self._once(f"get {bucket}", lambda: self._js.get_last_msg(f"KV_{bucket}", subject))
        except NotFoundError:
            return None
        if found.headers and found.headers.get("KV-Operation"):
            return None
        return Entry(key, found.data or b"", found.seq)

    async def revision(self, bucket: str, key: str) -> int:
        """The revision of a key, deleted or not; 0 if there never was one.  Raises Unreachable."""
        try:
            call = self._js.get_last_msg
            found = await self._once(f"get {bucket}", lambda: call(f"KV_{bucket}", f"$KV.{bucket}.{key}"))
        except NotFoundError:
            return 0
        return int(found.seq)

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None = None) -> int:
        """Put a value, if the key is still at `revision` where one is given; returns the new revision.

        Once: it isn't tried again.  Raises Unreachable, Conflict.
        """
        headers = None if revision is None else {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        return await self._put(bucket, key, value, headers)

    async def delete(self, bucket: str, key: str, revision: int | None = None) -> int:
        """Delete a key, as `put`."""
        headers = {} if revision is None else {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        return await self._put(bucket, key, b"", headers | {"KV-Operation": "DEL"})

    async def _put(self, bucket: str, key: str, value: bytes, headers: Mapping[str, str] | None) -> int:
        call = self._js.publish
        ack = await self._once(
            f"put {bucket}", lambda: call(f"$KV.{bucket}.{key}", value, headers=headers, timeout=CALL_SECONDS)
        )
        return int(ack.seq)

    async def all(self, bucket: str, prefix: str = "", *, at_least: int = 0) -> dict[str, Entry]:
        """Every key that begins with `prefix` (whole words), by its name; the leader has got to revision `at_least`.

        Raises Unreachable.
        """
        wanted = f"$KV.{bucket}.{prefix}.>" if prefix else f"$KV.{bucket}.>"
        info = await self._once(f"list {bucket}", lambda: self._js.stream_info(f"KV_{bucket}", subjects_filter=wanted))
        if info.state.last_seq < at_least:
            raise Unreachable(f"list {bucket}: this server lags behind")
        begin = len(f"$KV.{bucket}.")
        found = await asyncio.gather(*(self.get(bucket, subject[begin:]) for subject in info.state.subjects or {}))
        return {each.key: each for each in found if each is not None}

    # Streams

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str], stream: str) -> Published:
        """Publish a message once.  Raises Unreachable."""
        ack = await self._once(
            f"publish to {stream}",
            lambda: self._js.publish(subject, body, headers=dict(headers), stream=stream, timeout=CALL_SECONDS),
        )
        return Published(ack.seq, bool(ack.duplicate))

    async def last_sequence(self, stream: str) -> tuple[int, int]:
        """The first and the last sequence of a stream.  Raises Unreachable."""
        info = await self._once(f"look at {stream}", lambda: self._js.stream_info(stream))
        return info.state.first_seq, info.state.last_seq

    async def ensure_stream(self, name: str, subjects: list[str], *, replicas: int, **more: Any) -> None:
        """Make a stream on files if there is none.  Raises Unreachable."""
        config = api.StreamConfig(
            name=name, subjects=subjects, storage=api.StorageType.FILE, num_replicas=replicas, **more
        )

        async def make() -> None:
            try:
                await self._js.stream_info(name)
            except NotFoundError:
                try:
                    await self._js.add_stream(config)
                except APIError as error:
                    if error.err_code == NO_REPLICAS:
                        raise ConfigError(
                            f"the stream {name} can't have {replicas} replicas: NATS is no cluster"
                        ) from error
                    if error.err_code != STREAM_IN_USE:  # else another machine was quicker
                        raise

        await self.ask(f"make {name}", make, within_seconds=CONNECT_SECONDS)

    async def ensure_bucket(self, bucket: str, *, replicas: int) -> None:
        """Make a bucket if there is none: a stream as NATS' own key-value stores have it."""
        await self.ensure_stream(
            f"KV_{bucket}",
            [f"$KV.{bucket}.>"],
            replicas=replicas,
            max_msgs_per_subject=1,
            allow_rollup_hdrs=True,
            deny_delete=True,
            allow_direct=True,
            discard=api.DiscardPolicy.NEW,
            duplicate_window=names.DUPLICATE_WINDOW_SECONDS,
        )

    async def replicas_of(self, stream: str) -> int:
        """How many replicas a stream has.  Raises Unreachable."""
        info = await self._once(f"look at {stream}", lambda: self._js.stream_info(stream))
        return int(info.config.num_replicas or 1)

    async def add_consumer(self, stream: str, config: dict[str, Any]) -> str:
        """Make a consumer that is gone when nobody listens; returns its name.  Raises Unreachable."""
        made = await self._once(
            f"consume {stream}",
            lambda: self._js.add_consumer(stream, api.ConsumerConfig(**config), timeout=CALL_SECONDS),
        )
        return str(made.name)

    async def delete_consumer(self, stream: str, consumer: str) -> None:
        """Delete a consumer, if NATS answers."""
        try:
            await self._once(f"leave {stream}", lambda: self._js.delete_consumer(stream, consumer))
        except (Unreachable, APIError):
            return

    async def _on_connected(self) -> None:
        log.emit("cluster.connected", server=self._nc.connected_url.netloc.rpartition("@")[2])

    async def _on_disconnected(self) -> None:
        log.emit("cluster.disconnected")


async def _on_error(error: Exception) -> None:
    log.throttled("cluster.nats_failed", key="connection", what="connection", error=f"{type(error).__name__}: {error}")


def _tls(settings: Cluster) -> ssl.SSLContext | None:
    if not settings.ca_file and not any(server.startswith("tls:") for server in settings.servers):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cluster.ca_file: {settings.ca_file} can't be read ({error})") from error
