"""What is done to a cluster, one fault after another, and when it was."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.cluster.machines import CLOCK_SEEN_SECONDS, Machine
from tests.cluster.nats_servers import Servers
from tests.cluster.truth import Leases


@dataclass(slots=True)
class Faults:
    """`struck`: when something was lost.  `outages`: when that was a NATS server, so that streams had no leader."""

    servers: Servers
    machines: list[Machine]
    leases: Leases
    chance: random.Random
    lease_seconds: float
    struck: list[float] = field(default_factory=list)
    outages: list[float] = field(default_factory=list)

    def _strike(self) -> None:
        self.struck.append(time.time())

    def _one(self) -> Machine:
        """A machine, one that owns something if possible."""
        owners = self.leases.owners()
        return self.chance.choice([each for each in self.machines if each.name in owners] or self.machines)

    async def kill_daemon(self) -> None:
        """SIGKILL; it comes back at once, or after somebody else took over."""
        machine = self._one()
        self._strike()
        await machine.kill()
        await asyncio.sleep(self.chance.choice((0.0, self.lease_seconds + 2)))
        await machine.start(until_ready=False)

    async def freeze_daemon(self) -> None:
        """Stop it beyond its lease, and let it go on."""
        machine = self._one()
        self._strike()
        machine.signal(signal.SIGSTOP)
        await asyncio.sleep(self.lease_seconds + self.chance.uniform(2.0, 5.0))
        machine.signal(signal.SIGCONT)

    async def empty_disk(self) -> None:
        """SIGKILL, and nothing left on its disk."""
        machine = self._one()
        self._strike()
        await machine.kill()
        machine.empty_disk()
        await asyncio.sleep(self.chance.choice((0.0, self.lease_seconds + 2)))
        await machine.start(until_ready=False)

    async def kill_nats(self) -> None:
        """SIGKILL a NATS server, and start it again a little later."""
        server = self.chance.choice(self.servers.servers)
        self._strike()
        self.outages.append(time.time())
        server.kill()
        await asyncio.sleep(self.chance.uniform(0.5, 6.0))
        server.start()

    async def cut_link(self) -> None:
        """One daemon reaches no NATS server, for less or longer than its lease; then its connections end."""
        machine = self._one()
        self._strike()
        for relay in machine.relays:
            relay.cut()
        await asyncio.sleep(self.chance.choice((2.0, self.lease_seconds + 3)))
        for relay in machine.relays:
            if self.chance.random() < 0.5:
                relay.reset()
            relay.mend()

    async def set_clock(self) -> None:
        """A machine's wall clock is set, by up to two hours either way."""
        machine = self._one()
        self._strike()
        machine.set_clock(self.chance.uniform(-7200, 7200))
        await asyncio.sleep(CLOCK_SEEN_SECONDS + self.chance.uniform(1.0, 3.0))
        machine.set_clock(0)

    async def leave_in_peace(self) -> None:
        """SIGTERM: nothing may come twice."""
        machine = self._one()
        assert 0 == await machine.stop(), machine.log()
        await machine.start(until_ready=False)


FAULTS: dict[str, Callable[[Faults], Awaitable[None]]] = {
    "SIGKILL a daemon": Faults.kill_daemon,
    "stop a daemon beyond its lease": Faults.freeze_daemon,
    "SIGKILL a NATS server": Faults.kill_nats,
    "empty a daemon's disk": Faults.empty_disk,
    "cut a daemon's link": Faults.cut_link,
    "set a clock": Faults.set_clock,
    "SIGTERM a daemon": Faults.leave_in_peace,
}
