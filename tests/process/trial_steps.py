"""The steps of the trial, in their order.  Each takes the machine and returns what was found; it raises what wasn't."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.process.trial_machine import CONFIG, STATE, URL, Machine, block
from tests.support.mailserver import PASSWORD, USER
from webhookd import __version__

RESTARTS = 10
KILLS = 5  # the callers who wait start it again, which the socket allows ten times in a minute
LINE_BYTES = 16 * 1024
EXPOSURE_MAX = 1.2
TYPED_A_SECOND = 5  # 60 words a minute
DROP_IN = "/run/systemd/system/webhookd.service.d/trial.conf"
STUCK = "/opt/trial"


async def installs(m: Machine) -> str:
    """Installing, as the manual types it."""
    install = block("apt-get install -y python3-venv")
    began = time.monotonic()
    for line in install.splitlines():
        await m.run(line)
    took = time.monotonic() - began
    assert ["active", "active"] == (await m.run("systemctl is-active webhookd.socket webhookd.service")).split()
    lines = install.splitlines() + block("webhookd endpoint add").splitlines()[:3]
    typed = sum(map(len, lines)) + len(lines)
    return (
        f"{took:.1f} s of the machine's time; with the first event {len(lines)} lines of together {typed} characters, "
        f"{typed / TYPED_A_SECOND:.0f} s at 60 words a minute"
    )


async def delivers(m: Machine) -> str:
    """The first endpoint and the first event."""
    add, send, log, follow = block("webhookd endpoint add").splitlines()
    began = time.monotonic()
    await m.run(add)
    await m.run(send)
    (event,) = await m.hook.until(1)
    took = time.monotonic() - began
    assert b'"text": "hello"' in event.body
    assert "delivered" in await m.run(log)
    assert "delivery.attempted" in await m.run(f"timeout 2 {follow} || true")
    return f"delivered {took:.1f} s after Enter"


async def is_seen(m: Machine) -> str:
    """What root and others see of it."""
    assert "1 of 1 active" in await m.run("webhookd status")
    other = await m.ran("setpriv --reuid=nobody --clear-groups env HOME=/ webhookd status")
    assert other.returncode == 1 and "WEBHOOKD_TOKEN" in other.stdout, other.stdout
    status = await m.run("systemctl status --no-pager webhookd")
    assert f'Status: "taking events at {URL}"' in status
    return " ".join(other.stdout.split())


async def is_confined(m: Machine) -> str:
    """systemd's own judgement of the units."""
    assert "" == await m.run("systemd-analyze verify --man=no webhookd.service webhookd.socket")
    shown = await m.run("systemd-analyze security --no-pager webhookd.service")
    found = re.search(r"Overall exposure level for webhookd.service: ([\d.]+)", shown)
    assert found is not None and float(found[1]) <= EXPOSURE_MAX
    return f"exposure {found[1]}"


async def restarts_under_load(m: Machine) -> str:
    """`systemctl restart` under load, ten times."""
    since = await m.cursor()
    longest = 0.0
    async with m.load() as them:
        for _ in range(RESTARTS):
            began = time.monotonic()
            await m.run("systemctl restart webhookd")
            longest = max(longest, time.monotonic() - began)
            await them.until_more(200)
    assert {"202"} == set(them.answers), them.answers
    await journal_has_all(m, len(them.accepted), since)
    return (
        f"{len(them.accepted)} requests, all 202 and delivered, 0 refused, 0 unanswered; a restart took at most "
        f"{longest:.2f} s, an answer at most {them.longest_seconds:.2f} s; the journal has a line for each"
    )


async def journal_has_all(m: Machine, accepted: int, since: str) -> None:
    """Every accepted event and every attempt has its line, whole, and nothing was dropped on the way."""
    entries = await m.journal(since=since)
    lines = [each["line"] for each in entries if each["line"] is not None]
    broken = [each for each in entries if each["_TRANSPORT"] == "stdout" and each["line"] is None]
    assert [] == broken, broken[:3]
    assert accepted == sum(line.get("count", 1) for line in lines if line["event"] == "event.accepted")
    assert accepted <= sum(line["event"] == "delivery.attempted" for line in lines)
    assert [] == [line for line in lines if line["event"] == "log.overflowed"]
    assert "uppressed" not in await m.run("journalctl -u systemd-journald -o cat")


async def is_killed_under_load(m: Machine) -> str:
    """SIGKILL under load, five times."""
    since = await m.cursor()
    async with m.load() as them:
        for _ in range(KILLS):
            await m.run("systemctl kill -s KILL webhookd")
            await them.until_more()
    assert {"202"} == {each for each in them.answers if each.isdecimal()}, them.answers
    assert 0 == them.answers["refused"]
    back = sorted(await between(m, since, "code=killed, status=9/KILL"))
    return (
        f"{len(them.accepted)} accepted, all delivered; 0 refused, {them.unanswered} unanswered; from the kill until "
        f"it takes events {back[0]:.2f} to {back[-1]:.2f} s"
    )


async def between(m: Machine, since: str, ended: str) -> list[float]:
    """The times from each such end, as systemd's journal dates it, to the next `daemon.ready`."""
    times, end = [], None
    for entry in await m.journal(since=since):
        if ended in entry["MESSAGE"]:
            end = entry["at"]
        elif end is not None and entry["line"] and entry["line"]["event"] == "daemon.ready":
            times.append(entry["at"] - end)
            end = None
    return times


async def start_stuck(m: Machine, what: str) -> None:
    """Restart it as a program in which one thing can be made to stand still; the unit is otherwise as it is."""
    await m.run(
        f"""mkdir -p {STUCK} {DROP_IN.rpartition("/")[0]} && cp -r tests {STUCK}/ && cat > {DROP_IN} <<END
[Service]
WorkingDirectory={STUCK}
ExecStart=
ExecStart=/opt/webhookd/bin/python -m tests.support.stuck {what} serve --config {CONFIG}
END
systemctl daemon-reload && systemctl restart webhookd"""
    )


async def end_stuck(m: Machine) -> None:
    """Back to the unit as it was installed."""
    await m.run(f"rm {DROP_IN} && systemctl daemon-reload && systemctl restart webhookd")


async def watchdog_sees_a_blocked_loop(m: Machine) -> str:
    """Killed by the heartbeat when its loop is blocked."""
    await start_stuck(m, "loop")
    since, began = await m.cursor(), time.time()
    await m.run("systemctl kill --kill-whom=main -s USR1 webhookd")
    await asyncio.sleep(1)
    waited = asyncio.create_task(m.ran(f"curl -fsS -m 100 {URL}/healthz"))
    seconds, told = await killed_by_watchdog(m, since, began)
    await end_stuck(m)
    assert told["stack"][-1].endswith(" block"), told
    await waited
    return f"{seconds}; heartbeat.missed had told where: {told['stack'][-1].rpartition('/')[2]}"


async def watchdog_sees_a_stuck_consumer(m: Machine) -> str:
    """Killed by the heartbeat when a consumer doesn't move."""
    await start_stuck(m, "consumer")
    since, began = await m.cursor(), time.time()
    await m.run(block("webhookd endpoint add").splitlines()[1])
    seconds, told = await killed_by_watchdog(m, since, began)
    await end_stuck(m)
    assert "late with its present step" in told["reason"], told
    return f"{seconds}; heartbeat.missed had told: {told['reason']}"


async def killed_by_watchdog(m: Machine, since: str, began: float) -> tuple[str, dict[str, Any]]:
    """Wait for the kill and the start after it: the times, and the first `heartbeat.missed`."""
    while not (back := await between(m, since, "Watchdog timeout")):
        assert time.time() - began < 120
        await asyncio.sleep(1)
    ends = [each for each in await m.journal(since=since) if "Watchdog timeout" in each["MESSAGE"]]
    missed = [each for each in await m.journal(since=since) if each["line"]]
    told = next(each["line"] for each in missed if each["line"]["event"] == "heartbeat.missed")
    assert "code=killed, status=6/ABRT" in str([each["MESSAGE"] for each in await m.journal(since=since)])
    return f"killed {ends[0]['at'] - began:.0f} s after, ready again {back[0]:.2f} s after the kill", told


async def wrong_setting_ends_it_once(m: Machine) -> str:
    """A wrong setting: exit code 78, one start, no storm by callers."""
    kept = await m.run(f"cat {CONFIG}")
    since = await m.cursor()
    await m.run(f"printf '[listen]\\nprot = 1\\n' > {CONFIG}")
    checked = await m.ran(f"webhookd check-config {CONFIG}")
    assert checked.returncode == 1 and "prot" in checked.stdout
    callers = [asyncio.create_task(m.ran(f"sleep 0.0{n}; curl -fsS -m 20 {URL}/healthz")) for n in range(10)]
    restarted = await m.ran("systemctl restart webhookd")
    assert restarted.returncode != 0
    await asyncio.gather(*callers)
    await asyncio.sleep(3)
    assert "78" == await m.shows("webhookd", "ExecMainStatus")
    assert "0" == await m.shows("webhookd", "NRestarts")
    assert ("failed", "inactive") == (
        await m.shows("webhookd", "ActiveState"),
        await m.shows("webhookd.socket", "ActiveState"),
    )
    starts = await m.starts(since)
    assert 1 == starts
    (said,) = await m.lines("daemon.failed", since)
    down = await m.ran("webhookd status")
    assert down.returncode == 3, down.stdout
    await m.run(f"cat > {CONFIG}", given=kept)
    await m.run("systemctl start webhookd")
    assert "active" == await m.shows("webhookd.socket", "ActiveState")
    await m.until_ready()
    return f"{said['error']}; started {starts} time, the address closed until `systemctl start webhookd`"


async def reloads(m: Machine) -> str:
    """`systemctl reload` takes a changed setting, and leaves a wrong one."""
    since = await m.cursor()
    pid = await m.shows("webhookd", "MainPID")
    await m.run(f"sed -i 's/^#timeout_seconds = 5$/timeout_seconds = 4/' {CONFIG} && systemctl reload webhookd")
    changed = await until_line(m, "config.reloaded", since)
    await m.run(f"sed -i 's/^timeout_seconds = 4$/timeout_seconds = 4000/' {CONFIG} && systemctl reload webhookd")
    refused = await until_line(m, "config.not_reloadable", since)
    await m.run(f"sed -i 's/^timeout_seconds = 4000$/timeout_seconds = 5/' {CONFIG} && systemctl reload webhookd")
    assert pid == await m.shows("webhookd", "MainPID")
    assert ["delivery.timeout_seconds"] == changed["changed"]
    return f"{changed['changed']}; a wrong value: {refused['error']}"


async def until_line(m: Machine, event: str, since: str) -> dict[str, Any]:
    """The first log line of a kind, once it is there."""
    for _ in range(100):
        for line in await m.lines(event, since):
            return line
        await asyncio.sleep(0.1)
    raise AssertionError(f"no line {event}")


async def takes_credentials(m: Machine) -> str:
    """Secrets as credentials: the mail password as the manual types it, and tokens."""
    mail = f'host = "127.0.0.1"\nport = {m.mail.port}\nuser = "{USER}"\nfrom = "webhookd@example.com"'
    kept, since = await m.run(f"cat {CONFIG}"), await m.cursor()
    await m.run(f"cat > {CONFIG}", given=kept.replace("\n[mail]\n", f"\n[mail]\n{mail}\n", 1))
    without = await m.ran("systemctl restart webhookd && webhookd mail test --to ops@example.com")
    assert without.returncode != 0, without.stdout
    (said,) = await m.lines("daemon.failed", since)
    make, keep = block("install -d -m 700 /etc/credstore").splitlines()
    await m.run(make)
    await m.run(keep, given=f"{PASSWORD}\n")
    tokens = {scope: f"whk_{scope}_{'x' * 40}" for scope in ("admin", "ingest")}
    for scope, token in tokens.items():
        await m.run(f"(umask 077; cat > /etc/credstore/webhookd.{scope}-token)", given=f"{token}\n")
    await m.run("systemctl restart webhookd")
    await m.run(f"WEBHOOKD_TOKEN={tokens['admin']} webhookd mail test --to ops@example.com")
    assert [USER] == m.mail.users
    send = block("webhookd endpoint add").splitlines()[1]
    await m.run(send.replace("| webhookd", f"| WEBHOOKD_TOKEN={tokens['ingest']} webhookd"))
    wrong = await m.ran(f"WEBHOOKD_TOKEN={tokens['ingest']} webhookd status")
    assert wrong.returncode == 1, wrong.stdout
    status = await m.run("systemctl show webhookd; cat /proc/$(systemctl show --value -p MainPID webhookd)/environ")
    assert PASSWORD not in status and tokens["admin"] not in status
    await m.run(f"rm -r /etc/credstore && cat > {CONFIG} && systemctl restart webhookd", given=kept)
    await m.run("webhookd status")
    return f"without the password: {said['error']}"


async def opens_a_unix_socket(m: Machine) -> str:
    """A unix socket for a group, by the manual's words."""
    await m.run(
        """cd /etc/systemd/system && mkdir -p webhookd.socket.d && cat > webhookd.socket.d/override.conf <<END
[Socket]
ListenStream=/run/webhookd.sock
SocketGroup=users
END
systemctl daemon-reload
systemctl stop webhookd; systemctl restart webhookd.socket; systemctl start webhookd"""
    )
    call = "curl -sS -m 9 --unix-socket /run/webhookd.sock http://localhost/healthz"
    inside = await m.run(f"setpriv --reuid=nobody --regid=nogroup --groups=users {call}")
    outside = await m.ran(f"setpriv --reuid=nobody --regid=nogroup --clear-groups {call}")
    assert "ok" in inside and outside.returncode == 7, outside.stdout
    await m.run(f"cp {CONFIG} /root/kept.toml")
    await m.run(f"cat > {CONFIG}", given='[listen]\nunix_socket = "door"\nunix_group = "users"\n')
    group = await m.ran(
        "rm -r /etc/systemd/system/webhookd.socket.d; systemctl daemon-reload; "
        "systemctl stop webhookd; systemctl restart webhookd.socket; systemctl start webhookd"
    )
    assert group.returncode != 0, "PrivateUsers= hides no group any more: document it"
    (said, *_) = (await m.lines("daemon.failed"))[::-1]
    assert "SocketGroup=" in said["error"]
    await m.run(f"install -m 644 /root/kept.toml {CONFIG} && systemctl start webhookd")
    return f"listen.unix_group instead: {said['error']}"


async def stops_in_time(m: Machine) -> str:
    """Stopping while an attempt is under way."""
    m.hook.gates["hook"] = asyncio.Event()
    before = len(m.hook.received)
    await m.run(block("webhookd endpoint add").splitlines()[1])
    await m.hook.until(before + 1)
    began = time.monotonic()
    await m.run("systemctl stop webhookd.socket webhookd")
    took = time.monotonic() - began
    m.hook.gates.pop("hook").set()
    assert "success" == await m.shows("webhookd", "Result")
    refused = await m.ran(f"curl -sS -m 5 {URL}/healthz")
    assert refused.returncode == 7
    await m.run("systemctl start webhookd")
    await m.until_ready()
    assert took < 8
    return f"{took:.1f} s, the attempt's own 5 s included"


async def upgrades_and_goes_back(m: Machine) -> str:
    """Upgrading to a version with a migration, and the way back, as the manual types them, in one checkout."""
    known = await counted(m)
    tokens = await m.run(f"cat {STATE}/admin-token {STATE}/ingest-token")
    await m.run(
        """echo '__version__ = "0.2.0"' > webhookd/_version.py
        echo 'CREATE TABLE trial (id INTEGER PRIMARY KEY) STRICT;' > webhookd/store/migrations/9999_trial.sql"""
    )
    since = await m.cursor()
    async with m.load() as them:
        for line in block("webhookd backup").splitlines():
            await m.run(line)
            await them.until_more()
    assert {"202"} == set(them.answers), them.answers
    assert "webhookd 0.2.0" in await m.run("webhookd status")
    (migrated,) = await m.lines("store.migrated", since)
    assert known + len(them.accepted) == await counted(m)
    since = await m.cursor()
    await m.run(f"echo '__version__ = \"{__version__}\"' > webhookd/_version.py; rm webhookd/store/migrations/9999*")
    for line in block("systemctl stop webhookd.socket webhookd\n").splitlines():
        await m.run(line)
    await m.until_ready()
    assert f"webhookd {__version__}" in await m.run("webhookd status")
    opened = await m.lines("store.opened", since)
    assert {migrated["from_version"]} == {each["schema_version"] for each in opened}
    assert tokens == await m.run(f"cat {STATE}/admin-token {STATE}/ingest-token")
    assert known <= await counted(m) < known + len(them.accepted)
    assert "webhookd.db" in await m.run("ls /root/webhookd-newer")
    return (
        f"schema {migrated['from_version']} to {migrated['to_version']} under load, {len(them.accepted)} requests all "
        "202 and delivered; back again, with the tokens and the events of before"
    )


async def counted(m: Machine) -> int:
    """How many events the database has, counted in a copy."""
    count = "import sqlite3; print(*sqlite3.connect('/root/copy.db').execute('SELECT count(*) FROM events').fetchone())"
    return int(await m.run(f'webhookd backup /root/copy.db > /root/said && python3 -c "{count}"; rm /root/copy.db'))


async def uninstalls(m: Machine) -> str:
    """Uninstalling, as the manual types it."""
    for line in block("systemctl disable --now").splitlines():
        await m.run(line)
    left = await m.run(
        "ls -d /opt/webhookd /etc/webhookd /var/lib/webhookd /var/lib/private/webhookd /usr/local/bin/webhookd "
        "/etc/systemd/system/webhookd* /etc/systemd/system/*.wants/webhookd* 2>/dev/null; true"
    )
    assert "" == left
    assert "not-found" == await m.shows("webhookd", "LoadState")
    return "nothing left"


STEPS: tuple[Callable[[Machine], Awaitable[str]], ...] = (
    installs,
    delivers,
    is_seen,
    is_confined,
    restarts_under_load,
    is_killed_under_load,
    watchdog_sees_a_blocked_loop,
    watchdog_sees_a_stuck_consumer,
    wrong_setting_ends_it_once,
    reloads,
    takes_credentials,
    opens_a_unix_socket,
    stops_in_time,
    upgrades_and_goes_back,
    uninstalls,
)
