"""Runs commands without the start of an interpreter: everything is imported once, and each command is a fork of that.

    python -m tests.cli.forkserver DESCRIPTOR

An order comes through the socket as JSON (`words`, `environ`), with four descriptors: the command's stdin, stdout and
stderr, and one for its exit code, a byte.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from webhookd import cli, daemon
from webhookd.config import loader, warnings

ORDER_BYTES = 65536
IMPORTED = (loader, warnings, daemon)  # the commands import these where they use them


def run(order: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    for target, source in enumerate(descriptors[:3]):
        os.dup2(source, target)
    os.environ.clear()
    os.environ |= order["environ"]
    time.tzset()
    sys.argv = ["webhookd", *order["words"]]
    code: Any = 1
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
        sys.stdout.flush()
    except Exception:  # noqa: BLE001  an interpreter would print it too
        traceback.print_exc()
    finally:
        os.write(descriptors[3], bytes([code or 0]))
        os._exit(0)


def main(server: socket.socket) -> None:
    for module in pkgutil.iter_modules(cli.__path__):
        importlib.import_module(f"webhookd.cli.{module.name}")
    gc.freeze()
    while True:
        order, descriptors, _, _ = socket.recv_fds(server, ORDER_BYTES, 4)
        if not order:
            return
        if not os.fork():
            run(json.loads(order), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
