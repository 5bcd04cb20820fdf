"""What a scenario is played with: a daemon that may be killed, receivers, a producer, and the history of all that."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.case import Violation
from tests.crash.history import Enabled, Final, History, Subscriber, Terms
from tests.crash.producer import Body, Producer
from tests.crash.supervisor import KillPoint, Supervisor
from tests.crash.witness import Manners, Witness
from tests.support.mailserver import MailServer
from webhookd.models import Json

DRAIN_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """`prepare` makes the state that every run begins with; `act` is what is killed; `check` judges beyond the rules.

    `act` is made of calls that can be asked again.  `manners` are the receivers' during `act`.
    """

    name: str
    act: Callable[[Play], Awaitable[None]]
    manners: Manners
    prepare: Callable[[Play], Awaitable[None]] | None = None
    check: Callable[[Play, Final], list[Violation]] = lambda play, final: []
    terms: Terms = field(default_factory=lambda: Terms((0.02, 0.02), limit=1000))
    config: str = ""
    migration: str | None = None
    anywhere: bool = False
    survived: tuple[int, ...] = ()  # exit codes that are an end like a kill

    def settings(self, mail_port: int) -> str:
        return (
            '[egress]\nallow = ["127.0.0.0/8"]\n[log]\nformat = "json"\n'
            f"[delivery]\nretry_seconds = {list(self.terms.retry_seconds)}\n"
            f"[budget]\nlimit = {self.terms.limit}\nwindow_seconds = {self.terms.window_seconds}\n"
            + self.config.replace("MAIL_PORT", str(mail_port))
        )


@dataclass
class Play:
    supervisor: Supervisor
    witness: Witness
    mails: MailServer
    history: History
    point: KillPoint | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        first = 1 + max((each.request for each in self.history.asked), default=0)
        self.producer = Producer(self._ask_events, self.supervisor.again, self.history.asked, itertools.count(first))

    async def _ask_events(self, path: str, body: Body, content_type: str) -> tuple[int, Any]:
        return await self.supervisor.ask("POST", path, data=body, content_type=content_type)

    @property
    def state_dir(self) -> Path:
        return self.supervisor.state_dir

    async def subscribe(self, name: str, *event_types: str, lanes: int = 1) -> None:
        wanted = event_types or ("*",)
        fields: Json = {"url": self.witness.url(name), "event_types": list(wanted)}
        if lanes > 1:
            fields["ordering"] = {"key": "contact.id", "lanes": lanes}
        status, answer = await self.supervisor.call("POST", "/v1/endpoints", fields)
        assert status in (201, 409), answer
        subscriber = Subscriber(name, "default", wanted)
        if subscriber not in self.history.subscribers:
            self.history.subscribers.append(subscriber)

    async def endpoints(self) -> dict[str, Json]:
        _, answer = await self.supervisor.call("GET", "/v1/endpoints?limit=500")
        return {each["url"].rsplit("/", 1)[1]: each for each in answer["data"]}

    async def enable(self, name: str, *, skip_held: bool = False) -> None:
        """Enable an endpoint that the budget has stopped; asked again only if it wasn't done."""
        asked_at = time.time()
        endpoint = (await self.endpoints())[name]
        assert endpoint["state"] == "auto_disabled"
        await self.supervisor.call("POST", f"/v1/endpoints/{endpoint['id']}/enable", {"skip_held": skip_held})
        self.history.enabled.append(Enabled(name, asked_at, time.time(), skip_held))

    async def drained(self) -> None:
        """Wait until nothing waits at an active endpoint, and no mail is unsent."""
        async with asyncio.timeout(DRAIN_SECONDS):
            while any(
                each["state"] == "active" and each["queue"]["waiting"] for each in (await self.endpoints()).values()
            ):
                await asyncio.sleep(0.01)
            while "[mail]" in self.supervisor.config and await self._unsent():
                await asyncio.sleep(0.01)

    async def _unsent(self) -> int:
        status: Json = (await self.supervisor.call("GET", "/v1/status"))[1]
        count: int = status["unsent_mail"]["count"]
        return count

    async def arrived(self, count: int) -> None:
        async with asyncio.timeout(DRAIN_SECONDS):
            while len(self.witness.received) < count:
                await asyncio.sleep(0.005)
