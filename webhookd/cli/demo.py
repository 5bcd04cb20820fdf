"""What `webhookd demo` runs: a daemon of its own on a temporary database, two receivers, one event of each type.

One receiver answers 200 throughout, the other 500 until its endpoint is disabled.  They check signatures and order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.discovery import find_daemon
from webhookd.cli.listen import Received, Receiver, serving
from webhookd.cli.ndjson import new_id
from webhookd.cli.output import state
from webhookd.rules.event_types import BUILT_IN
from webhookd.text import escape

if TYPE_CHECKING:
    from webhookd.cli.client import Client

_DEADLINE_SECONDS = 30.0
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.05
_OWN_VARIABLES = ("WEBHOOKD_", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")

# The first event is dropped after its four attempts (1.2 s); the seventh failure, of the second event, disables.
_CONFIG = """\
[listen]
port = 0
[store]
min_free_mb = 0
[delivery]
retry_seconds = [0.2, 0.4, 0.6]
[budget]
limit = 6
[egress]
allow = ["127.0.0.0/8"]
"""


class _Failed(click.ClickException):
    """What was expected didn't happen (exit code 1)."""

    exit_code = 1


async def run(*, stay: bool) -> int:
    """Run the demo and return the exit code; Ctrl-C, SIGTERM or a closed terminal end it early, and cleanly."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    running = asyncio.create_task(_show(stay=stay))
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if running.done():
        await running
        return 0
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return 0 if stay else 130


async def _show(*, stay: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="webhookd-demo-")))
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                client = await stack.enter_async_context(_daemon(folder))
                demo = _Demo(client)
                await demo.set_up(stack)
                await demo.deliver()
                await demo.recover()
        except TimeoutError:
            raise _Failed(f"not everything arrived within {_DEADLINE_SECONDS:.0f} s.\n{_end_of_log(folder)}") from None
        if not stay:
            click.echo(f"\nThe page: {escape(client.address)}  (until now: it stays up on a terminal, without --once)")
        else:
            link = (await asyncio.to_thread(client.post, "/v1/sign-in-links"))["url"]
            click.echo(f"\nThe page: {escape(client.address)}  (sign in with {escape(link)})")
            click.echo(f"It stays up until Ctrl-C. From another terminal: WEBHOOKD_URL={escape(client.address)} \\")
            click.echo(f"  WEBHOOKD_TOKEN={escape(client.token)} webhookd log")
            await asyncio.Event().wait()


@asynccontextmanager
async def _daemon(folder: Path) -> AsyncIterator[Client]:
    """A real daemon, as a process of its own, until the context ends."""
    config, state_dir = folder / "webhookd.toml", folder / "state"
    config.write_text(_CONFIG)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
    with (folder / "log").open("wb") as log:
        # A session of its own: Ctrl-C reaches us alone, and we then stop the daemon.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "webhookd", "serve", "--config", config, "--state-dir", state_dir),
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = state_dir / "address"
        while not (address.exists() and address.read_text("utf-8")):
            if process.returncode is not None:
                raise _Failed(f"the daemon ended with code {process.returncode}.\n{_end_of_log(folder)}")
            await asyncio.sleep(_POLL_SECONDS)
        yield find_daemon(str(config), str(state_dir), environ)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except (TimeoutError, asyncio.CancelledError):
                process.kill()
                await process.wait()


def _end_of_log(folder: Path) -> str:
    lines = (folder / "log").read_text("utf-8", "replace").splitlines()
    return "\n".join(escape(line) for line in lines[-10:])


class _Demo:
    """The steps of the demo, and what the receivers got."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._began = time.monotonic()
        self._good, self._failing = Receiver(()), Receiver((), fail=None)
        self._arrived: dict[str, list[str]] = {"A": [], "B": []}
        self._ids: list[str] = []
        self._failing_id = ""
        self._changed = asyncio.Event()
        self._wrong: str | None = None

    async def set_up(self, stack: AsyncExitStack) -> None:
        """Start the receivers and add an endpoint for each."""
        self._say(f"A daemon of its own listens on {self._client.address}; nothing of yours is touched.")
        for name, receiver in (("A", self._good), ("B", self._failing)):
            url = await stack.enter_async_context(serving(receiver, "127.0.0.1", 0, self._watch(name)))
            body = {"url": url, "event_types": ["*"], "description": f"demo: receiver {name}"}
            made = await asyncio.to_thread(self._client.post, "/v1/endpoints", body)
            receiver.keys.append(made["signing_key"])
            self._failing_id = made["id"]
            self._say(f"Endpoint {name} is {url}" + ("" if name == "A" else ", whose receiver fails for now"))

    def _watch(self, name: str) -> Callable[[Received, int], None]:
        """The callback of a receiver: print and keep each request."""

        def on_request(received: Received, status: int) -> None:
            verdict = click.style(received.verdict, fg="green" if received.verified else "red")
            answer = click.style(str(status), fg="green" if status == 200 else "red")
            words = f"{received.event_type:<25}  attempt {received.attempt}  {verdict}, answered {answer}"
            self._say(f"  {name} ← {words}")
            if not received.verified:
                self._wrong = f"the signature of an event at {name}: {received.verdict}"
            if status == 200:
                self._arrived[name].append(received.event_id)
            self._changed.set()

        return on_request

    async def deliver(self) -> None:
        """Send one event of each type, and wait until the good receiver has them and the other is disabled."""
        self._say(f"Sending {len(BUILT_IN)} events, one of each type.")
        self._ids = [new_id() for _ in BUILT_IN]
        for event_id, kind in zip(self._ids, BUILT_IN, strict=True):
            event = {**kind.sample, "event_type": kind.name, "event_id": event_id}
            await asyncio.to_thread(self._client.post, "/v1/events", event)
        await self._until(lambda: len(self._arrived["A"]) >= len(self._ids))
        self._say(f"A has all {len(self._ids)}.")
        failing = await self._endpoint_in_state("auto_disabled")
        drops = await asyncio.to_thread(self._client.get, "/v1/deliveries", endpoint=self._failing_id, state="dropped")
        self._say(f"B failed four times for its first event: {state('dropped')} (it can be replayed).")
        held = failing["queue"]["held"]
        self._say(f"Then its failures spent the budget: {state('auto_disabled')}, {held} events held for it.")
        if [one["event_id"] for one in drops["data"]] != self._ids[:1]:
            raise _Failed("the first event of B should have been dropped, and no other.")

    async def recover(self) -> None:
        """Repair the failing receiver, enable its endpoint, and wait for what was held."""
        self._failing.recover()
        self._say("B is repaired: webhookd endpoint enable")
        await asyncio.to_thread(self._client.post, f"/v1/endpoints/{self._failing_id}/enable")
        expected = self._ids[1:]
        await self._until(lambda: len(self._arrived["B"]) >= len(expected))
        if self._arrived != {"A": self._ids, "B": expected}:
            raise _Failed("the events did not arrive in the order in which they were sent.")
        self._say(f"B has the {len(expected)} held ones, in order. Nothing was lost.")

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._changed.clear()
            await self._changed.wait()
            if self._wrong:
                raise _Failed(self._wrong)

    async def _endpoint_in_state(self, wanted: str) -> dict[str, Any]:
        """The failing endpoint, once it is in the state `wanted`."""
        while True:
            one: dict[str, Any] = await asyncio.to_thread(self._client.get, f"/v1/endpoints/{self._failing_id}")
            if one["state"] == wanted:
                return one
            await asyncio.sleep(_POLL_SECONDS)

    def _say(self, words: str) -> None:
        click.echo(f"{time.monotonic() - self._began:5.1f} s  {words}")
