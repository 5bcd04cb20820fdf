"""One HTTP attempt: a request goes out, an `Outcome` comes back, and nothing that a receiver does gets any further.

The rules are in manual/behaviour.md, "Delivery".  A request is repeated in one case only: a *reused* connection ended
before any byte of an answer came.  It then goes once more, over a fresh connection, within the same deadline.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from webhookd.clock import Clock
from webhookd.config import Config, networks
from webhookd.errors import ApiError
from webhookd.models import Outcome, Reason, Request
from webhookd.rules.ip_policy import OwnAddress
from webhookd.sender.attempt_trace import AttemptTrace
from webhookd.sender.deadlines import AttemptDeadline, Deadlines
from webhookd.sender.egress import DnsResolver, Egress
from webhookd.sender.failure_reasons import STOOD_STILL_SECONDS, Fault, ended_unanswered, explain, late
from webhookd.sender.http1 import READ_BYTES, Gate, Pool
from webhookd.sender.request_builder import Target

KEPT_OF_SUCCESS_BYTES = 1024
_KEPT_URLS = 4096


class Transport(Protocol):
    """The port to the network: a consumer hands over requests and gets outcomes."""

    async def post(self, request: Request) -> Outcome:
        """Make one attempt.  Raises nothing but CancelledError."""
        ...

    async def close(self) -> None:
        """End all connections."""
        ...


class HttpSender:
    """The transport over HTTP/1.1.  Made inside the running loop; owns its connections and `egress`.

    `ssl_context` replaces the default one, which trusts the system's certificate authorities and speaks TLS 1.2 or
    newer.  Certificates are always verified.  With a `gate` a request goes out through that alone.  Of a success's
    answer the first KiB is kept, or if it `keeps_answers` as much as of any other (16 KiB).
    """

    def __init__(
        self,
        egress: Egress,
        *,
        timeout_seconds: float,
        clock: Clock,
        ssl_context: ssl.SSLContext | None = None,
        gate: Gate | None = None,
        keeps_answers: bool = False,
    ) -> None:
        self._egress = egress
        self._kept_of_success_bytes = READ_BYTES if keeps_answers else KEPT_OF_SUCCESS_BYTES
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._pool = Pool(egress, default_ssl_context() if ssl_context is None else ssl_context, gate)
        self._deadlines: Deadlines[AttemptDeadline] = Deadlines(timeout_seconds, AttemptDeadline.expire)
        self._target = functools.lru_cache(_KEPT_URLS)(lambda url: Target.of(egress.check_url(url)))

    async def post(self, request: Request) -> Outcome:
        """See `Transport.post`.  `duration_ms` is monotonic; `started_at_ms` is wall clock."""
        started_at_ms, started = self._clock.wall_ms(), self._clock.monotonic()
        trace, retried, fault = await self._attempt(request)
        reason, detail = fault if fault is not None else _judge(trace, request)
        kept = self._kept_of_success_bytes if reason is None else READ_BYTES
        return Outcome(
            started_at_ms=started_at_ms,
            duration_ms=round((self._clock.monotonic() - started) * 1000, 1),
            reason=reason,
            status=trace.status,
            detail=detail,
            connection_retried=retried,
            response_headers=trace.headers,
            response_body=bytes(trace.body[:kept]),
            truncated=trace.truncated or len(trace.body) > kept,
        )

    async def close(self) -> None:
        """End all connections at once; attempts under way fail."""
        self._pool.close()
        await self._egress.close()

    async def _attempt(self, request: Request) -> tuple[AttemptTrace, bool, Fault | None]:
        """The try that counts, whether it was the repeated one, and its fault if it failed before a verdict."""
        trace, retried = AttemptTrace(), False
        deadline = AttemptDeadline()
        self._deadlines.start(deadline)
        try:
            target = self._target(request.url)
            error = await self._pool.send(target, request, trace)
            if error is not None and ended_unanswered(error, trace):
                trace, retried = AttemptTrace(), True
                error = await self._pool.send(target, request, trace, fresh=True)
            return trace, retried, None if error is None else explain(error, trace)
        except asyncio.CancelledError:
            if not deadline.is_the_cause():
                raise
            if trace.complete and deadline.overdue_seconds <= STOOD_STILL_SECONDS:  # in the last moment
                return trace, retried, None
            return trace, retried, late(trace, self._timeout_seconds, deadline.overdue_seconds)
        except ApiError as error:
            return trace, retried, (Reason.BLOCKED_ADDRESS, error.message)
        except Exception as error:  # noqa: BLE001  whatever a receiver causes is an outcome, not a crash of the consumer
            fault = explain(error, trace)
            _forget_frames(error)
            return trace, retried, fault
        finally:
            self._deadlines.end(deadline)


@dataclass(slots=True, eq=False)
class _Configured:
    """A sender with the gates and the timeout that it was made with, and how many attempts it has under way."""

    sender: HttpSender
    egress: Egress
    in_flight: int = 0


class Client:
    """The transport of all consumers as configured now; attempts under way keep the settings that they began with."""

    def __init__(self, config: Config, clock: Clock, gate: Gate | None = None) -> None:
        self._clock = clock
        self._gate = gate
        self._own: tuple[OwnAddress, ...] = ()
        self._config = config
        self._current = self._open(config)
        self._retired: list[_Configured] = []

    async def post(self, request: Request) -> Outcome:
        """Make one attempt; see `Transport`."""
        current = self._current
        current.in_flight += 1
        try:
            return await current.sender.post(request)
        finally:
            current.in_flight -= 1
            if self._retired:
                await self._close_idle()

    def check_url(self, url: str) -> str:
        """The first gate: `url` as it is kept; ApiError `invalid_url` or `blocked_address` otherwise."""
        return self._current.egress.check_url(url).text

    def set_own(self, addresses: Iterable[OwnAddress]) -> None:
        """Set the sockets that webhookd listens on: nothing is sent there."""
        self._own = tuple(addresses)
        self._current.egress.set_own(self._own)

    def configure(self, config: Config) -> None:
        """Use other settings from the next attempt on."""
        changed = (config.egress, config.delivery.timeout_seconds) != (
            self._config.egress,
            self._config.delivery.timeout_seconds,
        )
        self._config = config
        if changed:
            self._retired.append(self._current)
            self._current = self._open(config)

    async def close(self) -> None:
        """End all connections."""
        for each in (self._current, *self._retired):
            await each.sender.close()

    async def _close_idle(self) -> None:
        """Close the retired senders without an attempt under way, those included that were idle when they retired."""
        for each in [retired for retired in self._retired if not retired.in_flight]:
            self._retired.remove(each)
            await each.sender.close()

    def _open(self, config: Config) -> _Configured:
        settings = config.egress
        egress = Egress(
            networks(settings.allow),
            networks(settings.deny),
            allow_http=settings.allow_http,
            resolver=DnsResolver(),
        )
        egress.set_own(self._own)
        return _Configured(
            HttpSender(
                egress,
                timeout_seconds=config.delivery.timeout_seconds,
                clock=self._clock,
                gate=self._gate,
            ),
            egress,
        )


def default_ssl_context() -> ssl.SSLContext:
    """The system's certificate authorities, TLS 1.2 or newer, host names checked."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _forget_frames(error: BaseException | None) -> None:
    """Drop the frames of an error and of those behind it: they hold the connection, which holds the error."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _judge(trace: AttemptTrace, request: Request) -> tuple[Reason | None, str]:
    status = trace.status
    if status is None or not 100 <= status <= 599:
        trace.status = None
        return Reason.PROTOCOL, f"answered with the status {status}, which HTTP doesn't have"
    if status == 200 or (request.accept_any_2xx and 200 <= status <= 299):
        return None, f"answered {status}"
    return Reason.STATUS, f"answered {status}"
