"""The network as it is configured now: the transport of all consumers, replaced as a whole when settings change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.models import Outcome, Request
from webhookd.rules.ip_policy import OwnAddress
from webhookd.sender.client import HttpSender
from webhookd.sender.egress import Egress
from webhookd.sender.resolver import DnsResolver


@dataclass(slots=True, eq=False)
class _Line:
    """A sender with the gates and the timeout that it was made with, and how many attempts are on it."""

    sender: HttpSender
    egress: Egress
    in_flight: int = 0


class Network:
    """A `Transport`; an attempt that is under way when the settings change ends on what it began with."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        self._own: tuple[OwnAddress, ...] = ()
        self._config = config
        self._line = self._open(config)
        self._retired: list[_Line] = []

    async def post(self, request: Request) -> Outcome:
        """Make one attempt; see `Transport`."""
        line = self._line
        line.in_flight += 1
        try:
            return await line.sender.post(request)
        finally:
            line.in_flight -= 1
            if self._retired:
                await self._close_idle()

    def check_url(self, url: str) -> str:
        """The first gate: `url` as it is kept; Refusal `invalid_url` or `blocked_address` if nothing is sent there."""
        return self._line.egress.check_url(url).text

    def set_own(self, addresses: Iterable[OwnAddress]) -> None:
        """Tell which sockets webhookd listens on: nothing is sent there."""
        self._own = tuple(addresses)
        self._line.egress.set_own(self._own)

    def configure(self, config: Config) -> None:
        """Use other settings from the next attempt on."""
        changed = (config.egress, config.delivery.timeout_seconds) != (
            self._config.egress,
            self._config.delivery.timeout_seconds,
        )
        self._config = config
        if changed:
            self._retired.append(self._line)
            self._line = self._open(config)

    async def close(self) -> None:
        """End all connections."""
        for line in (self._line, *self._retired):
            await line.sender.close()

    async def _close_idle(self) -> None:
        """Close the retired lines that nothing is on any more, those included that were idle when they retired."""
        for line in [each for each in self._retired if not each.in_flight]:
            self._retired.remove(line)
            await line.sender.close()

    def _open(self, config: Config) -> _Line:
        egress = Egress(config.egress.networks, allow_http=config.egress.allow_http, resolver=DnsResolver())
        egress.set_own(self._own)
        return _Line(HttpSender(egress, timeout_seconds=config.delivery.timeout_seconds, clock=self._clock), egress)
