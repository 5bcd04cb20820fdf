"""The network of the simulation: what each receiver does is drawn by its mode of the moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.crash.simulation.observer import Attempt, Broken
from webhookd.models import Outcome, Reason, Request

if TYPE_CHECKING:
    from tests.crash.simulation.world import World

TIMEOUT_SECONDS = 5.0


class NoSender:
    """In the place of the HTTP sender, whose TLS contexts would cost more than a whole schedule."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Nothing to make."""

    async def close(self) -> None:
        """Nothing to end."""


class SimulatedNetwork:
    """A `Transport`: what each receiver does is drawn by its mode of the moment."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def post(self, request: Request) -> Outcome:
        world, loop = self._world, self._world.loop
        headers = dict(request.headers)
        began, began_ms = loop.time(), world.clock.wall_ms()
        way_seconds, answer_seconds, answer = self._draw(world.modes[request.url])
        attempt = None
        if "X-Webhook-Test" not in headers:
            attempt = self._begin(request, headers)
        world.passed("a request goes out")
        await asyncio.sleep(way_seconds)
        world.passed("a request arrives")
        await asyncio.sleep(answer_seconds)
        reason = answer if isinstance(answer, Reason) else None if answer == 200 else Reason.STATUS
        status = None if isinstance(answer, Reason) else answer
        if attempt is not None:
            world.note("ended", request.url, answer)
            world.observer.ends(attempt, reason, status, loop.time())
        world.passed("an answer comes")
        return Outcome(began_ms, (loop.time() - began) * 1000, reason, status, f"made up: {answer}")

    async def close(self) -> None:
        """Nothing to end."""

    def _begin(self, request: Request, headers: dict[str, str]) -> Attempt | None:
        world = self._world
        world.note("posts", request.url, headers["webhook-id"], headers["X-Webhook-Attempt"])
        try:
            return world.observer.begins(request.url, headers, request.body, world.loop.time())
        except (Broken, KeyError) as broken:
            world.break_(broken)
            return None

    def _draw(self, mode: str) -> tuple[float, float, int | Reason]:
        """How long it takes there, how long back, and what comes: a status, or a reason why none does."""
        rng = self._world.rng
        if mode == "local" and rng.random() < 0.1:
            mode = "ok"
        if mode == "wild":
            mode = rng.choice(("ok", "ok", "fail", "slow", "hang", "late", "refused", "dns", "local"))
        if mode in ("flaky", "ill"):
            mode = rng.choice(("fail", "ok" if mode == "flaky" else "local"))
        way = rng.choice((0.0, 0.003, 0.02, 0.4))
        if mode == "slow":
            return way, rng.uniform(0.5, TIMEOUT_SECONDS - 0.5), 200
        if mode in ("hang", "late"):
            return way, TIMEOUT_SECONDS - way, Reason.TIMEOUT
        if mode == "dns":
            return way, TIMEOUT_SECONDS - way, Reason.DNS
        if mode in ("refused", "local"):
            return 0.0, 0.001, Reason(mode)
        return way, rng.choice((0.0, 0.005, 0.2)), 200 if mode == "ok" else rng.choice((500, 503, 204, 301, 410, 429))
