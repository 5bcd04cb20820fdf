"""A webhookd that writes down each address it connects to, and asks a name server of the test.

    python -m tests.support.watched NAMESERVER FILE serve …

Python's audit hook sees what is dialled, whatever asked for it, and keeps it on loopback; nothing else is different
from `python -m webhookd`.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import partial
from typing import Any

from webhookd.cli import main
from webhookd.sender import client
from webhookd.sender.egress import DnsResolver


def run(nameserver: str, file: str) -> None:
    written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(args[1], tuple):
            os.write(written, f"{args[1][0]} {args[1][1]}\n".encode())
            if not str(args[1][0]).startswith("127."):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "a test dials nothing beside loopback")

    sys.addaudithook(audit)
    client.DnsResolver = partial(DnsResolver, [nameserver])  # type: ignore[assignment,misc]
    main()


if __name__ == "__main__":
    _, address, where, *sys.argv[1:] = sys.argv
    run(address, where)
