"""Who is really dialled: Python's audit hook sees each `socket.connect` of this process, whatever asked for it.

While somebody watches, nothing beside loopback is connected to, so that a test of a broken gate can't reach
anything either.  A name server that c-ares asks is not seen: C code connects without a word.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_watching: list[Watch] = []
_hooked = False


@dataclass(eq=False, slots=True)
class Watch:
    """`dialled` are the hosts and ports in their order; `through` says whether 127.0.0.1 is let through."""

    through: bool
    dialled: list[tuple[str, int]] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        return {host for host, _ in self.dialled}

    def see(self, where: tuple[str, int]) -> None:
        self.dialled.append(where)
        if where[0] != "127.0.0.1" or not self.through:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


@contextmanager
def watch(*, through: bool) -> Iterator[Watch]:
    """Watch every connect of this process until the block ends; nothing beside 127.0.0.1 can be connected to."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)  # for ever: there is no way to take one back
        _hooked = True
    watching = Watch(through)
    _watching.append(watching)
    try:
        yield watching
    finally:
        _watching.remove(watching)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        for watching in _watching:
            watching.see((args[1][0], args[1][1]))
