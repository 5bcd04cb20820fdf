"""webhookd as a service on a fresh machine with a real systemd, by the manual's own words.

    python -m tests.process.trial [--suite bookworm|trixie] [--keep]

Needs root, mmdebstrap, systemd-nspawn and nsenter (it installs them by apt where it can), Debian's mirror and PyPI.
The machine is a container of its own (`tests.support.container`); the commands are those of `manual/installing.md`,
typed as they stand there.  What they call on the net is inside its own network: `example.com` is a receiver with a
certificate that the machine trusts, at an address of its loopback.  Each step prints what was found and how long it
took.  Exit code 1: a step failed; 2: something is missing on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import sys
import time
import traceback
from contextlib import AsyncExitStack

import trustme

from tests.process import trial_steps
from tests.process.trial_machine import Machine
from tests.support.container import PYTHONS, Container, install_what_is_missing
from tests.support.mailserver import mail_server
from tests.support.receiver import receiver

# Of Internet's own examples (example.com's former one): here it is an address of the container's loopback.
EXAMPLE_ADDRESS = "93.184.216.34"


async def tried(container: Container) -> int:
    """Take every step in its order; how many failed."""
    authority = trustme.CA()
    container.trust(authority.cert_pem.bytes(), "example.com", EXAMPLE_ADDRESS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.com").configure_cert(context)
    failed = 0
    async with AsyncExitStack() as stack:
        hook = await stack.enter_async_context(receiver(host=EXAMPLE_ADDRESS, port=443, ssl_context=context))
        mail = await stack.enter_async_context(mail_server(login=True))
        machine = Machine(container, hook, mail)
        for step in trial_steps.STEPS:
            began = time.monotonic()
            try:
                found, mark = await step(machine), "✓"
            except Exception:  # noqa: BLE001 - whatever it is, the step failed, and the others tell more
                found, mark = traceback.format_exc(), "✗"
                failed += 1
            title = (step.__doc__ or "").splitlines()[0].rstrip(".")
            print(f"{mark} {title}: {found} [{time.monotonic() - began:.1f} s]", flush=True)
            if failed and step is trial_steps.STEPS[0]:
                break
    return failed


def main() -> int:
    """Make the machine, try everything, remove it."""
    parser = argparse.ArgumentParser(prog="python -m tests.process.trial")
    parser.add_argument("--suite", choices=sorted(PYTHONS), default="bookworm", help="of Debian  [bookworm]")
    parser.add_argument("--keep", action="store_true", help="wait for Enter before the machine is removed")
    chosen = parser.parse_args()
    missing = install_what_is_missing()
    if missing:
        print(missing, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # by way of `finally`
    container = Container.of(chosen.suite)
    try:
        container.boot()
        container.join_network()
        failed = asyncio.run(tried(container))
        if chosen.keep:
            input(f"Look around with: {' '.join(container.enter())} bash\nEnter removes it. ")
    finally:
        container.halt()
    print(f"{len(trial_steps.STEPS)} steps, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
