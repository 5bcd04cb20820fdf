"""`python -m tests.hostile.crowd`: 10,000 connections to a real daemon, and how a healthy caller fares beside them.

A third of them says nothing, a third begins a header and a third a body of 8 MiB, of which 16 KiB come; all stay.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection, socket

from tests.support.api import wire
from tests.support.process import Daemon, daemon
from tests.support.results import recorded

EVENT = b'{"event_type":"message.received"}'
HEAD = (
    "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
)
# The daemon takes callers on half of the descriptors that it may have; where that is too few it is told to take more.
SERVE = (
    "import webhookd.web.server.http_server as server; half = server._connections_max; "
    "server._connections_max = lambda: max(half(), {connections} + 10); from webhookd.cli import main; main()"
)
BODY_SENT = 16 * 1024
HEALTHY_CALLS = 300
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """How the daemon and the healthy caller did: bytes of memory, and seconds of each call."""

    connections: int
    taken_seconds: float
    grown_bytes: int
    old_line: list[float]
    new_lines: list[float]

    def __str__(self) -> str:
        told = [
            f"{self.connections:,} connections, made in {self.taken_seconds:.1f} s",
            f"memory: {self.grown_bytes / MIB:.0f} MiB more, {self.grown_bytes / self.connections / 1024:.1f} KiB each",
        ]
        for name, seconds in (("on its own connection", self.old_line), ("each on a new connection", self.new_lines)):
            percentiles = statistics.quantiles(seconds, n=100)
            told.append(
                f"a healthy caller, {name}: {len(seconds)} of {len(seconds)} events accepted, "
                f"median {percentiles[49] * 1000:.1f} ms, p99 {percentiles[98] * 1000:.1f} ms"
            )
        return "\n".join(told)


async def crowd(folder: Path, connections: int, *, calls: int = HEALTHY_CALLS) -> Seen:
    """Make so many connections to a daemon of its own, and call it beside them."""
    state_dir = folder / "state"
    command = [
        "-c",
        SERVE.format(connections=connections),
        "serve",
        "--config",
        "CONFIG",
        "--state-dir",
        str(state_dir),
    ]
    async with daemon(state_dir, command=command) as d:
        for pid in (d.process.pid, 0):  # the daemon's descriptors, and ours
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        token = (d.state_dir / "ingest-token").read_text().strip()
        port = int(d.url.rpartition(":")[2])
        good = HEAD.format(token=token, length=len(EVENT)).encode() + EVENT
        async with wire(port) as own:
            own.send(good)
            assert 202 == (await own.answer())[0]
            at_rest, began = d.resident_bytes(), time.monotonic()
            with _crowded(port, token, connections):
                taken_seconds = time.monotonic() - began
                old, new = [], []
                for _ in range(calls):
                    began = time.monotonic()
                    own.send(good)
                    assert 202 == (await own.answer())[0]
                    old.append(time.monotonic() - began)
                for _ in range(calls):
                    began = time.monotonic()
                    async with wire(port) as line:
                        line.send(good)
                        assert 202 == (await line.answer())[0]
                    new.append(time.monotonic() - began)
                grown = d.resident_bytes() - at_rest
                assert connections <= _established(d), "the daemon closed some"
        return Seen(connections, taken_seconds, grown, old, new)


@contextmanager
def _crowded(port: int, token: str, connections: int) -> Iterator[None]:
    parts = (
        b"",
        b"POST /v1/events HTTP/1.1\r\nHost: loc",
        HEAD.format(token=token, length=8 * MIB).encode() + b"[" * BODY_SENT,
    )
    with ExitStack() as stack:
        for number in range(connections):
            line: socket = stack.enter_context(create_connection(("127.0.0.1", port), timeout=30))
            line.sendall(parts[number % len(parts)])
        yield


def _established(d: Daemon) -> int:
    """How many sockets it has; one that is closed while they are counted is none."""
    found = 0
    for link in Path(f"/proc/{d.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(link.readlink()).startswith("socket:")
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--connections", type=int, default=10_000)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="webhookd-crowd-") as folder:
        print(asyncio.run(crowd(Path(folder), chosen.connections)))


if __name__ == "__main__":
    sys.exit(recorded(main))
