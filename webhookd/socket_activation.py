"""Listening sockets that systemd opened and hands over: they stay open over a restart, so that it refuses nobody.

The protocol is sd_listen_fds(3): `$LISTEN_PID` says which process they are meant for, `$LISTEN_FDS` how many there
are, and the first is descriptor 3.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from webhookd.config import is_loopback
from webhookd.errors import ConfigError

FIRST_FD = 3


def sockets_handed_over(environ: Mapping[str, str], *, insecure_public: bool) -> list[socket.socket]:
    """The sockets that are meant for this process, TCP or unix, in their order; [] when there are none.

    Raises ConfigError for one that webhookd can't serve on, or may not: beside loopback only if `insecure_public`.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        raise ConfigError(f"LISTEN_FDS is {count!r}; expected the number of sockets that are handed over")
    return [_taken(fd, insecure_public=insecure_public) for fd in range(FIRST_FD, FIRST_FD + int(count))]


def _taken(fd: int, *, insecure_public: bool) -> socket.socket:
    try:
        taken = socket.socket(fileno=fd)
        listens = taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"descriptor {fd}, handed over by LISTEN_FDS, is no socket ({error.strerror})") from error
    if not listens or taken.type != socket.SOCK_STREAM:
        raise ConfigError(f"socket {fd}, handed over by systemd, doesn't listen for streams: use ListenStream=")
    if taken.family != socket.AF_UNIX:
        host = taken.getsockname()[0]
        if not is_loopback(host) and not insecure_public:
            raise ConfigError(
                f'"{host}", which systemd listens on for webhookd, can be reached from other machines, in clear text: '
                "give webhookd.socket a loopback address, or set listen.insecure_public = true"
            )
    taken.set_inheritable(False)
    return taken
