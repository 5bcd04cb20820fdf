"""`python -m tests.hostile.many_connections`: 10,000 connections to a daemon, and a healthy caller beside them.

A third of them says nothing, a third begins a header and a third a body of 8 MiB, of which 16 KiB come; all stay.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from socket import create_connection

from tests.support.api import wire
from tests.support.process import daemon
from tests.support.results import recorded

EVENT = b'{"event_type":"message.received"}'
HEAD = (
    "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
)
# The daemon takes callers on half of the descriptors that it may have; where that is too few its setting raises it.
SERVE = (
    "import webhookd.web.server.http_server as server; half = server._connections_max; "
    "server._connections_max = lambda: max(half(), {connections} + 10); from webhookd.cli import main; main()"
)
HEALTHY_CALLS = 300
KIB = 1024


async def connect_many(
    folder: Path, connections: int, *, calls: int = HEALTHY_CALLS
) -> tuple[int, list[float], list[float]]:
    """Bytes of memory that so many connections take, and seconds of each call beside them: on a line kept, on new ones.

    AssertionError if a call isn't answered 202, or a connection of them is closed.
    """
    async with daemon(folder / "state", program=("-c", SERVE.format(connections=connections))) as d:
        for pid in (d.process.pid, 0):  # the daemon's descriptors, and ours
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        token, port = (folder / "state" / "ingest-token").read_text().strip(), d.port
        good = HEAD.format(token=token, length=len(EVENT)).encode() + EVENT
        body = HEAD.format(token=token, length=8 * KIB * KIB).encode() + b"[" * 16 * KIB
        parts = (b"", b"POST /v1/events HTTP/1.1\r\nHost: loc", body)
        kept, fresh = [], []
        async with wire(port) as own:
            own.send(good)
            assert 202 == (await own.answer())[0]
            at_rest = d.resident_bytes()
            with ExitStack() as stack:
                for number in range(connections):
                    line = stack.enter_context(create_connection(("127.0.0.1", port), timeout=30))
                    line.sendall(parts[number % len(parts)])
                for _ in range(calls):
                    began = time.monotonic()
                    own.send(good)
                    assert 202 == (await own.answer())[0]
                    kept.append(time.monotonic() - began)
                    began = time.monotonic()
                    async with wire(port) as new:
                        new.send(good)
                        assert 202 == (await new.answer())[0]
                    fresh.append(time.monotonic() - began)
                grown = d.resident_bytes() - at_rest
                established = sum(link.is_socket() for link in Path(f"/proc/{d.process.pid}/fd").iterdir())
                assert connections <= established, "the daemon closed some"
        return grown, kept, fresh


def main() -> None:
    connections = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="webhookd-connections-") as folder:
        grown, *calls = asyncio.run(connect_many(Path(folder), connections))
    print(f"{connections:,} connections: {grown / KIB / KIB:.0f} MiB more, {grown / connections / KIB:.1f} KiB each")
    for name, seconds in zip(("on its own connection", "each on a new connection"), calls, strict=True):
        percentiles = statistics.quantiles(seconds, n=100)
        median, p99 = percentiles[49] * 1000, percentiles[98] * 1000
        print(f"a healthy caller, {name}: {len(seconds)} accepted, median {median:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    sys.exit(recorded(main))
