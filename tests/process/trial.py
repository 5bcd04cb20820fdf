"""webhookd as a service on a fresh machine with a real systemd, by the manual's own words.

    python -m tests.process.trial [--suite bookworm|trixie] [--keep]

Needs root, mmdebstrap, systemd-nspawn and nsenter (it installs them by apt where it can), Debian's mirror and PyPI.
The machine is a container (`tests.support.container`); the commands are those of `manual/installing.md`, typed as they
stand there.  `example.com` is a receiver at an address of the machine's own loopback, with a certificate that it
trusts.  Each step prints what was found and how long it took.  Exit code 1: a step failed; 2: something is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import ssl
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trustme

from tests.support.callers import Callers, calling
from tests.support.container import CHECKOUT, PYTHONS, Container, install_what_is_missing
from tests.support.mailserver import PASSWORD, USER, MailServer, mail_server
from tests.support.process import ROOT
from tests.support.receiver import Receiver, receiver
from webhookd import __version__

URL = "http://127.0.0.1:8780"
CONFIG = "/etc/webhookd/webhookd.toml"
TOKENS = "/var/lib/private/webhookd/admin-token /var/lib/private/webhookd/ingest-token"
EXAMPLE_ADDRESS = "93.184.216.34"  # example.com's former one
PAUSE_SECONDS = 0.02  # one endpoint, one at a time, is to keep up with the callers
WAIT_SECONDS = 120.0
RESTARTS = 10
KILLS = 5  # the callers who wait start it again, which the socket allows ten times in a minute
TYPED_A_SECOND = 5  # 60 words a minute
DROP_IN = "/run/systemd/system/webhookd.service.d"


def block(beginning: str) -> str:
    """The one block of commands of `manual/installing.md` that begins so."""
    page = (ROOT / "webhookd" / "manual" / "installing.md").read_text("utf-8")
    blocks = [re.sub(r"(?m)^ {4,6}", "", each).strip("\n") for each in re.findall(r"(?:\n {4,6}\S.*)+\n", page)]
    (found,) = (each for each in blocks if each.startswith(beginning))
    return found


@dataclass(slots=True)
class Machine:
    """Everything a step needs: a root shell, systemd's view, the journal, callers."""

    container: Container
    hook: Receiver
    mail: MailServer
    loads: int = 0

    async def run(self, script: str, *, code: int | None = 0, given: str = "") -> str:
        """What a root shell in the checkout prints, errors included; it has to exit with `code` if that isn't None."""
        script = f"cd {CHECKOUT} && {{ {script}\n}} 2>&1"
        ran = await asyncio.to_thread(self.container.run, script, check=False, given=given)
        assert code in (None, ran.returncode), f"{script!r} gave {ran.returncode}:\n{ran.stdout}"
        return ran.stdout.strip()

    async def types(self, beginning: str) -> None:
        """Type a block of the manual, line by line."""
        for line in block(beginning).splitlines():
            await self.run(line)

    async def journal(self, since: str) -> list[dict[str, Any]]:
        """The journal's entries of the unit, each with `at` (seconds) and `line` (the daemon's log line, or {})."""
        shown = await self.run(f"journalctl --sync; journalctl -u webhookd -o json --all --after-cursor='{since}'")
        entries = [json.loads(entry) for entry in shown.splitlines() if entry.startswith("{")]
        for entry in entries:
            entry["at"] = int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000
            entry["line"] = json.loads(entry["MESSAGE"]) if entry["MESSAGE"].startswith("{") else {}
        return entries

    async def cursor(self) -> str:
        """Where the journal stands now."""
        return (await self.run("journalctl --sync; journalctl -n 0 --show-cursor")).rpartition("-- cursor: ")[2]

    async def lines(self, event: str, since: str) -> list[dict[str, Any]]:
        """The daemon's own log lines of one kind."""
        return [e["line"] for e in await self.journal(since) if e["line"].get("event") == event]

    async def until_ready(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while "ok" not in await self.run(f"curl -fsS -m 20 {URL}/readyz && echo ok", code=None):
                await asyncio.sleep(0.02)

    async def events(self) -> int:
        """How many events the database has, counted in a copy."""
        count = (
            "import sqlite3; print(*sqlite3.connect('/root/copy.db').execute('SELECT count(*) FROM events').fetchone())"
        )
        return int(
            await self.run(f'webhookd backup /root/copy.db >/dev/null && python3 -c "{count}"; rm /root/copy.db')
        )

    @asynccontextmanager
    async def load(self) -> AsyncIterator[Callers]:
        """Callers, half of them on connections that they keep; in the end all of what they sent has to arrive."""
        self.loads += 1
        names = [f"r{self.loads}-c{number}" for number in range(8)]
        admin = {"Authorization": f"Bearer {await self.run(f'cat {TOKENS.split()[0]}')}"}
        async with calling(URL, admin, names, pause_seconds=PAUSE_SECONDS) as them:
            await them.until_more()
            yield them
            await them.until_more()
        async with asyncio.timeout(WAIT_SECONDS):
            while them.accepted - {each.id for each in self.hook.received}:
                await asyncio.sleep(0.1)

    async def back(self, since: str, ended: str) -> list[float]:
        """The times from each such end, as systemd's journal dates it, to the next `daemon.ready`."""
        times, end = [], None
        for entry in await self.journal(since):
            if ended in entry["MESSAGE"]:
                end = entry["at"]
            elif end is not None and entry["line"].get("event") == "daemon.ready":
                times.append(entry["at"] - end)
                end = None
        return times


async def installs(m: Machine) -> str:
    """Installing"""
    began = time.monotonic()
    await m.types("apt-get install -y python3-venv")
    took = time.monotonic() - began
    assert ["active", "active"] == (await m.run("systemctl is-active webhookd.socket webhookd.service")).split()
    lines = block("apt-get install -y python3-venv").splitlines() + block("webhookd endpoint add").splitlines()[:3]
    typed = sum(map(len, lines)) + len(lines)
    return (
        f"{took:.1f} s of the machine's time; with the first event {len(lines)} lines of together {typed} characters, "
        f"{typed / TYPED_A_SECOND:.0f} s at 60 words a minute"
    )


async def delivers(m: Machine) -> str:
    """The first endpoint and the first event"""
    add, send, log, follow = block("webhookd endpoint add").splitlines()
    began = time.monotonic()
    await m.run(add)
    await m.run(send)
    (event,) = await m.hook.until(1)
    took = time.monotonic() - began
    assert b'"text": "hello"' in event.body
    assert "delivered" in await m.run(log)
    assert "delivery.attempted" in await m.run(f"timeout 2 {follow} || true")
    assert "1 of 1 active" in await m.run("webhookd status")
    assert "WEBHOOKD_TOKEN" in await m.run("setpriv --reuid=nobody --clear-groups env HOME=/ webhookd status", code=1)
    return f"delivered {took:.1f} s after Enter"


async def restarts_under_load(m: Machine) -> str:
    """`systemctl restart` under load"""
    since, longest = await m.cursor(), 0.0
    async with m.load() as them:
        for _ in range(RESTARTS):
            began = time.monotonic()
            await m.run("systemctl restart webhookd")
            longest = max(longest, time.monotonic() - began)
            await them.until_more(200)
    assert {"202"} == set(them.answers), them.answers
    assert len(them.accepted) == sum(line.get("count", 1) for line in await m.lines("event.accepted", since))
    assert len(them.accepted) <= len(await m.lines("delivery.attempted", since))
    return (
        f"{len(them.accepted)} requests, all 202 and delivered, 0 refused, 0 unanswered; a restart took at most "
        f"{longest:.2f} s, an answer at most {them.longest_seconds:.2f} s; the journal has a line for each"
    )


async def is_killed_under_load(m: Machine) -> str:
    """SIGKILL under load"""
    since = await m.cursor()
    async with m.load() as them:
        for _ in range(KILLS):
            await m.run("systemctl kill -s KILL webhookd")
            await them.until_more()
    assert {"202"} == {each for each in them.answers if each.isdecimal()}, them.answers
    assert 0 == them.answers["refused"]
    back = sorted(await m.back(since, "code=killed, status=9/KILL"))
    return (
        f"{len(them.accepted)} accepted, all delivered; 0 refused, {them.unanswered} unanswered; from the kill until "
        f"it takes events {back[0]:.2f} to {back[-1]:.2f} s"
    )


async def watchdog_sees_a_blocked_loop(m: Machine) -> str:
    """Killed by the heartbeat when its loop is blocked"""
    await m.run(
        f"""mkdir -p /opt/trial {DROP_IN} && cp -r tests /opt/trial/ && cat > {DROP_IN}/trial.conf <<END
[Service]
WorkingDirectory=/opt/trial
ExecStart=
ExecStart=/opt/webhookd/bin/python -m tests.support.changed loop serve --config {CONFIG}
END
systemctl daemon-reload && systemctl restart webhookd"""
    )
    since, began = await m.cursor(), time.time()
    await m.run("systemctl kill --kill-whom=main -s USR1 webhookd")
    while not (back := await m.back(since, "Watchdog timeout")):
        assert time.time() - began < WAIT_SECONDS
        await asyncio.sleep(1)
    end = next(each["at"] for each in await m.journal(since) if "Watchdog timeout" in each["MESSAGE"])
    missed = (await m.lines("heartbeat.missed", since))[0]
    assert missed["stack"][-1].endswith(" block"), missed
    await m.run(f"rm {DROP_IN}/trial.conf && systemctl daemon-reload && systemctl restart webhookd")
    return f"killed {end - began:.0f} s after, ready again {back[0]:.2f} s after the kill"


async def wrong_setting_ends_it_once(m: Machine) -> str:
    """A wrong setting: exit code 78, one start, the address closed"""
    kept, since = await m.run(f"cat {CONFIG}"), await m.cursor()
    await m.run(f"printf '[listen]\\nprot = 1\\n' > {CONFIG}")
    assert "prot" in await m.run(f"webhookd check-config {CONFIG}", code=1)
    callers = [asyncio.create_task(m.run(f"sleep 0.0{n}; curl -m 20 {URL}/healthz", code=None)) for n in range(10)]
    await m.run("! systemctl restart webhookd")
    await asyncio.gather(*callers)
    await asyncio.sleep(3)
    assert ["78", "0"] == (await m.run("systemctl show --value -p ExecMainStatus -p NRestarts webhookd")).split()
    assert ["inactive", "failed"] == (await m.run("systemctl is-active webhookd.socket webhookd", code=None)).split()
    starts = [each for each in await m.journal(since) if each["MESSAGE"].startswith("Starting webhookd.service")]
    (failed,) = await m.lines("daemon.failed", since)
    assert 1 == len(starts)
    await m.run("webhookd status", code=3)
    await m.run(f"cat > {CONFIG}", given=f"{kept}\n")
    await m.run("systemctl start webhookd")
    await m.until_ready()
    return f"{failed['error']}; started once, the address closed until `systemctl start webhookd`"


async def takes_credentials(m: Machine) -> str:
    """Secrets as credentials"""
    mail = f'host = "127.0.0.1"\nport = {m.mail.port}\nuser = "{USER}"\nfrom = "webhookd@example.com"'
    kept = await m.run(f"cat {CONFIG}")
    await m.run(f"cat > {CONFIG}", given=kept.replace("\n[mail]\n", f"\n[mail]\n{mail}\n", 1))
    make, keep = block("install -d -m 700 /etc/credstore").splitlines()
    await m.run(make)
    await m.run(keep, given=f"{PASSWORD}\n")
    token = f"whk_admin_{'x' * 40}"
    await m.run("umask 077; cat > /etc/credstore/webhookd.admin-token", given=f"{token}\n")
    await m.run("systemctl restart webhookd")
    await m.run(f"WEBHOOKD_TOKEN={token} webhookd mail test --to ops@example.com")
    assert [USER] == m.mail.users
    shown = await m.run("systemctl show webhookd; cat /proc/$(systemctl show --value -p MainPID webhookd)/environ")
    assert PASSWORD not in shown and token not in shown
    await m.run(f"rm -r /etc/credstore && cat > {CONFIG} && systemctl restart webhookd", given=f"{kept}\n")
    await m.run("webhookd status")
    return "a mail password and a token, in no property and no environment"


async def upgrades_and_goes_back(m: Machine) -> str:
    """Upgrading to a version with a migration, and the way back, in one checkout"""
    known, tokens, since = await m.events(), await m.run(f"cat {TOKENS}"), await m.cursor()
    await m.run(
        """echo '__version__ = "0.2.0"' > webhookd/_version.py
        echo 'CREATE TABLE trial (id INTEGER PRIMARY KEY) STRICT;' > webhookd/store/migrations/9999_trial.sql"""
    )
    async with m.load() as them:
        await m.types("webhookd backup")
    assert {"202"} == set(them.answers), them.answers
    assert "webhookd 0.2.0" in await m.run("webhookd status")
    (migrated,) = await m.lines("store.migrated", since)
    assert known + len(them.accepted) == await m.events()
    since = await m.cursor()
    await m.run(f"echo '__version__ = \"{__version__}\"' > webhookd/_version.py; rm webhookd/store/migrations/9999*")
    await m.types("systemctl stop webhookd.socket webhookd\n")
    await m.until_ready()
    assert f"webhookd {__version__}" in await m.run("webhookd status")
    assert {migrated["from_version"]} == {each["schema_version"] for each in await m.lines("store.opened", since)}
    assert tokens == await m.run(f"cat {TOKENS}")
    assert known <= await m.events() < known + len(them.accepted)
    assert "webhookd.db" in await m.run("ls /root/webhookd-newer")
    return f"under load, {len(them.accepted)} requests all 202 and delivered; back again, with the tokens of before"


async def uninstalls(m: Machine) -> str:
    """Uninstalling"""
    await m.types("systemctl disable --now")
    places = "/opt/webhookd /etc/webhookd /var/lib/webhookd /var/lib/private/webhookd /usr/local/bin/webhookd"
    units = "/etc/systemd/system/webhookd* /etc/systemd/system/*.wants/webhookd*"
    assert "" == await m.run(f"ls -d {places} {units} 2>/dev/null; true")
    assert "not-found" == await m.run("systemctl show --value -p LoadState webhookd")
    return "nothing left"


STEPS = (
    installs,
    delivers,
    restarts_under_load,
    is_killed_under_load,
    watchdog_sees_a_blocked_loop,
    wrong_setting_ends_it_once,
    takes_credentials,
    upgrades_and_goes_back,
    uninstalls,
)


async def tried(container: Container) -> int:
    """Take every step in its order; how many failed."""
    authority = trustme.CA()
    container.trust(authority.cert_pem.bytes(), "example.com", EXAMPLE_ADDRESS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.com").configure_cert(context)
    failed = 0
    async with AsyncExitStack() as stack:
        hook = await stack.enter_async_context(receiver(host=EXAMPLE_ADDRESS, port=443, ssl_context=context))
        machine = Machine(container, hook, await stack.enter_async_context(mail_server(login=True)))
        for step in STEPS:
            began = time.monotonic()
            try:
                found, mark = await step(machine), "✓"
            except Exception:  # noqa: BLE001 - whatever it is, the step failed, and the others tell more
                found, mark = traceback.format_exc(), "✗"
                failed += 1
            print(f"{mark} {step.__doc__}: {found} [{time.monotonic() - began:.1f} s]", flush=True)
            if failed and step is installs:
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
    print(f"{len(STEPS)} steps, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
