"""The daemon as systemd's service: its word to systemd, the sockets handed over, the unit files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.process import trial
from tests.support import changed, process
from tests.support.callers import calling
from tests.support.engine import engine
from tests.support.process import ROOT, Daemon
from tests.support.receiver import receiver
from webhookd import app
from webhookd.config import Delivery
from webhookd.errors import EXIT_CONFIG, ConfigError
from webhookd.systemd import BEATS_PER_CHECK, EXTENSION_SECONDS, activated_sockets

SERVICE = changed.UNIT
SOCKET = SERVICE.with_suffix(".socket")
BACKUP = SERVICE.with_name("webhookd-backup.service")
UNITS = (SERVICE, SOCKET, BACKUP, BACKUP.with_suffix(".timer"))
LOOPBACK = '[egress]\nallow = ["127.0.0.0/8"]\n'
PUBLIC = 'insecure_public = true\nallowed_hosts = ["0.0.0.0"]\n'
MORE_TIME = f"EXTEND_TIMEOUT_USEC={changed.EXTENSION_SECONDS * 1_000_000:.0f}"
BLOCKED_SECONDS = 1.0
PAUSE_SECONDS = 0.4
CALLERS = 8
RESTARTS = 3


def one(name: str, unit: Path = SERVICE) -> str:
    (value,) = (value for each, value in changed.directives(unit) if each == name)
    return value


def seconds(name: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|min|s|)", one(name)).groups()  # type: ignore[union-attr]
    return int(number) * {"ms": 0.001, "min": 60, "s": 1, "": 1}[unit]


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not on this machine (Debian: apt-get install systemd)")
    return found


# The word to systemd
class Notified:
    """What a service's manager hears: one end of the datagram socket that `$NOTIFY_SOCKET` names."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.heard: list[str] = []

    async def until(self, line: str, times: int = 1) -> None:
        await self._hear(lambda: self.heard.count(line) >= times)

    async def until_said(self, *words: str) -> None:
        await self._hear(lambda: any(all(word in each for word in words) for each in self.heard))

    async def _hear(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not enough():
                data = await asyncio.get_running_loop().sock_recv(self._listening, 4096)
                self.heard += data.decode().splitlines()

    def take(self) -> list[str]:
        came: list[str] = []
        while True:
            try:
                came += self._listening.recv(4096).decode().splitlines()
            except BlockingIOError:
                return came


@pytest.fixture
def notified(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Notified, str]]:
    """A manager that listens, and its address as the environment writes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.setblocking(False)
        if getattr(request, "param", "path") == "path":
            address = str(tmp_path / "notify")
            listening.bind(address)
        else:
            listening.bind("")  # the kernel chooses an abstract name
            address = "@" + listening.getsockname()[1:].decode()
        yield Notified(listening), address


@asynccontextmanager
async def reporting(
    notified: tuple[Notified, str], folder: Path, stuck: str = "", config: str = "", *, alive: bool = True
) -> AsyncIterator[tuple[Notified, Daemon]]:
    """A daemon that reports to the manager; for `stuck` see `tests.support.changed`."""
    manager, address = notified
    environ = {"NOTIFY_SOCKET": address} | ({} if stuck == "migration" else {"WATCHDOG_USEC": "300000"})
    program = ("-m", "tests.support.changed", stuck) if stuck else ("-m", "webhookd")
    d = await process.start(folder / "state", config, alive=alive, environ=environ, program=program)
    try:
        yield manager, d
    finally:
        await end(d, kill=stuck in ("consumer", "missing", "loop"))


@pytest.mark.parametrize("notified", ["path", "abstract"], indirect=True)
async def test_systemd_is_notified_of_the_start_each_beat_and_the_stop(
    notified: tuple[Notified, str], tmp_path: Path
) -> None:
    """READY=1 with a status once events are taken, WATCHDOG=1 again and again, STOPPING=1 at SIGTERM."""
    async with reporting(notified, tmp_path, alive=False) as (manager, d):
        await manager.until("READY=1")
        assert await process.until_ready(d)
        assert [f"STATUS=taking events at {d.url}"] == [each for each in manager.heard if each.startswith("STATUS=")]
        await manager.until("WATCHDOG=1", times=3)
        d.process.terminate()
        more = f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000:.0f}"
        await manager.until(more, times=3)
        assert 0 == await d.until_dead()
        kinds = [each for each in manager.heard if not each.startswith(("STATUS=", "WATCHDOG="))]
        assert [more, more, "READY=1", "STOPPING=1", more] == kinds


async def test_a_writer_that_hangs_stops_the_heartbeat(notified: tuple[Notified, str], tmp_path: Path) -> None:
    """The loop runs and the process lives, but the database answers no write: no WATCHDOG=1 until it does again."""
    async with reporting(notified, tmp_path) as (manager, d):
        await manager.until("WATCHDOG=1")
        memory_limit = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLD_THE_DATABASE, str(d.state_dir / "webhookd.db"),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert memory_limit.stdin is not None and memory_limit.stdout is not None
        await memory_limit.stdout.readline()
        manager.take()
        await asyncio.sleep(BLOCKED_SECONDS)
        silent = manager.take().count("WATCHDOG=1")
        memory_limit.stdin.close()
        await memory_limit.wait()
        before = manager.heard.count("WATCHDOG=1")
        await manager.until("WATCHDOG=1", times=before + 2)
        assert silent <= BEATS_PER_CHECK  # before the next check


HOLD_THE_DATABASE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("what", "said"), [("consumer", "late with its present step"), ("missing", "no consumer")])
async def test_a_consumer_that_does_not_move_stops_the_heartbeat(
    what: str, said: str, notified: tuple[Notified, str], tmp_path: Path
) -> None:
    """Loop and writer are alive: no WATCHDOG=1 all the same, /readyz says 503, and all name the endpoint."""
    config = LOOPBACK + "[delivery]\ntimeout_seconds = 0.1\n"
    async with reporting(notified, tmp_path, what, config) as (manager, d):
        made = {"url": "http://127.0.0.1:9/", "event_types": ["*"]}
        endpoint = (await d.call("POST", "/v1/endpoints", made, expect=201))["id"]
        await manager.until("WATCHDOG=1", times=2)
        await d.call("POST", "/v1/events", {"event_type": "message.sent"}, expect=202)
        await manager.until_said("STATUS=no heartbeat: ", said, endpoint)
        manager.take()
        await asyncio.sleep(BLOCKED_SECONDS)
        assert 0 == manager.take().count("WATCHDOG=1")
        answer = await d.call("GET", "/readyz", expect=503)
        assert endpoint in answer["error"]["message"]
        assert 1 == sum(endpoint in line["reason"] for line in lines_of(d, "heartbeat.missed"))


async def test_an_endless_retry_wait_is_no_stuck_consumer(tmp_path: Path) -> None:
    """All through the schedule of a failing endpoint the daemon finds nothing wrong."""
    async with engine(tmp_path) as e:
        e.network.answer = lambda url, webhook_id: 500
        await e.endpoint("https://dead.example/hook")
        await e.send("a", "b")
        for _ in range(40):
            await e.advance(5)
            assert "" == await e.app.trouble()
        assert 4 < len(e.network.posted)


async def test_a_loop_that_is_blocked_is_reported_before_it_is_killed(
    notified: tuple[Notified, str], tmp_path: Path
) -> None:
    """No WATCHDOG=1, and a log line with the place where the loop stands."""
    async with reporting(notified, tmp_path, "loop") as (manager, d):
        await manager.until("WATCHDOG=1")
        d.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(30):
            while not any(line["stack"][-1].endswith(" block") for line in lines_of(d, "heartbeat.missed")):
                await asyncio.sleep(0.05)
        assert all("the event loop has stood still" in line["reason"] for line in lines_of(d, "heartbeat.missed"))
        manager.take()
        await asyncio.sleep(BLOCKED_SECONDS)
        assert 0 == manager.take().count("WATCHDOG=1")


async def test_systemd_is_asked_for_time_while_the_schema_is_migrated(
    notified: tuple[Notified, str], tmp_path: Path
) -> None:
    """EXTEND_TIMEOUT_USEC again and again, each before the one before it ran out, until READY=1."""
    async with reporting(notified, tmp_path, "migration", alive=False) as (manager, _):
        await manager.until("READY=1")
        before = manager.heard[: manager.heard.index("READY=1")]
        assert {MORE_TIME} == set(before)
        assert 3 < len(before)


async def test_systemd_is_asked_for_time_while_an_attempt_ends(notified: tuple[Notified, str], tmp_path: Path) -> None:
    """The same while it stops."""
    async with receiver() as where, reporting(notified, tmp_path, "migration", LOOPBACK) as (manager, d):
        where.gates["hook"] = asyncio.Event()
        made = {"url": where.url + "/hook", "event_types": ["*"]}
        await d.call("POST", "/v1/endpoints", made, expect=201)
        await d.call("POST", "/v1/events", {"event_type": "message.sent"}, expect=202)
        await where.until(1)
        d.process.terminate()
        await manager.until("STOPPING=1")
        so_far = manager.heard.count(MORE_TIME)
        await manager.until(MORE_TIME, times=so_far + 3)
        where.gates["hook"].set()
        assert 0 == await d.until_dead()


def lines_of(d: Daemon, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in d.log_file.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def end(d: Daemon, *, kill: bool = False) -> int:
    if kill and d.process.returncode is None:
        d.process.kill()
    code = await d.stop()
    await d.session.close()
    return code


# Sockets handed over
def listening(family: socket.AddressFamily = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.bind(address)  # type: ignore[arg-type]
    opened.listen(1024)
    return opened


async def start_with(state_dir: Path, handed_over: Sequence[socket.socket], config: str = "") -> Daemon:
    """A daemon with these sockets as descriptors 3 and on; not waited for."""
    fds = [each.fileno() for each in handed_over]
    program = ("-m", "tests.support.changed", f"sockets={','.join(map(str, fds))}")
    return await process.start(state_dir, config, program=program, alive=False, pass_fds=fds)


@asynccontextmanager
async def serving(state_dir: Path, handed_over: Sequence[socket.socket], config: str = "") -> AsyncIterator[Daemon]:
    d = await start_with(state_dir, handed_over, config)
    try:
        assert await process.until_ready(d), d.log_file.read_text()
        yield d
    finally:
        await end(d)


async def test_a_tcp_socket_handed_over_is_served_on(tmp_path: Path) -> None:
    """Its address is the daemon's, in place of the configured one."""
    with listening() as opened:
        async with serving(tmp_path / "state", [opened]) as d:
            assert f"http://127.0.0.1:{opened.getsockname()[1]}" == d.url
            assert {"deliveries"} <= (await d.call("POST", "/v1/events", {"event_type": "message.sent"})).keys()


async def test_tcp_and_unix_sockets_are_served_on_together(tmp_path: Path) -> None:
    """Both answer, and the unix socket stays in its place when the daemon ends: it is systemd's."""
    path = tmp_path / "webhookd.sock"
    with listening() as tcp, listening(socket.AF_INET6, ("::1", 0)) as tcp6, listening(socket.AF_UNIX, str(path)) as un:
        async with serving(tmp_path / "state", [tcp, tcp6, un]) as d:
            urls = [d.url, f"http://[::1]:{tcp6.getsockname()[1]}"]
            for url in urls:
                async with d.session.get(url + "/healthz") as answer:
                    assert 200 == answer.status
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
                session.get("http://localhost/healthz") as answer,
            ):
                assert 200 == answer.status
        assert f'"unix_socket":"{path}"' in d.log_file.read_text()
        assert path.is_socket()


async def test_a_unix_socket_handed_over_leaves_the_configured_address_open(tmp_path: Path) -> None:
    """A socket takes the place of its own kind alone, whatever `listen.unix_socket` says."""
    path = tmp_path / "webhookd.sock"
    with listening(socket.AF_UNIX, str(path)) as opened:
        async with serving(tmp_path / "state", [opened], 'unix_socket = "other"\n') as d:
            assert d.url.startswith("http://127.0.0.1:")
            assert not (d.state_dir / "other").exists()


async def test_a_public_socket_needs_the_same_word_as_a_public_host(tmp_path: Path) -> None:
    """78 with the reason; served on once `listen.insecure_public` is true."""
    with listening(address=("0.0.0.0", 0)) as opened:
        d = await start_with(tmp_path / "state", [opened])
        assert EXIT_CONFIG == await d.until_dead()
        await d.session.close()
        assert "insecure_public" in d.log_file.read_text()
        async with serving(tmp_path / "allowed", [opened], PUBLIC) as d:
            assert (await d.call("GET", "/v1/status"))["version"]


async def test_what_is_no_listening_stream_socket_is_refused(tmp_path: Path) -> None:
    """`ListenDatagram=` or a socket of one connection (`Accept=yes`) in the socket unit: 78, and how to say it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        d = await start_with(tmp_path / "state", [datagram])
        assert EXIT_CONFIG == await d.until_dead()
        await d.session.close()
        assert "use ListenStream=" in d.log_file.read_text()


def test_sockets_of_another_process_are_not_taken() -> None:
    """The environment is inherited, its meaning is not: `$LISTEN_PID` decides."""
    for pid in ("1", ""):
        assert [] == activated_sockets({"LISTEN_PID": pid, "LISTEN_FDS": "1"}, insecure_public=False)
    assert [] == activated_sockets({}, insecure_public=False)


@pytest.mark.parametrize("count", ["", "x", "-1"])
def test_a_count_that_is_none_is_reported(count: str) -> None:
    """A broken environment is no reason to listen elsewhere in silence."""
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        activated_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}, insecure_public=False)


async def all_events(d: Daemon) -> set[str]:
    known: set[str] = set()
    cursor = ""
    while True:
        page = await d.call("GET", f"/v1/events?limit=500{cursor}")
        known |= {each["event_id"] for each in page["data"]}
        if not page["next"]:
            return known
        cursor = f"&cursor={page['next']}"


@pytest.mark.parametrize(
    ("number", "keep"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, False)],
    ids=["restart-fresh", "restart-kept", "kill-fresh"],
)
async def test_no_caller_is_refused_over_restarts(number: signal.Signals, keep: bool, tmp_path: Path) -> None:
    """Under load no connection is refused and what was accepted stays; a restart answers every single request.

    Whom a kill leaves without an answer sends again.
    """
    state = tmp_path / "state"
    with listening() as opened:
        d = await start_with(state, [opened])
        assert await process.until_ready(d)
        async with calling(d.url, d.admin(), [f"c{n}" for n in range(CALLERS)], kept=keep) as them:
            for _ in range(RESTARTS):
                await them.until_more()
                d.process.send_signal(number)
                await d.until_dead()
                await d.session.close()
                d = await start_with(state, [opened])
                assert await process.until_ready(d)
            await them.until_more()
        assert set() == them.accepted - await all_events(d)
        await end(d)
    print(dict(them.answers))
    assert 0 == them.answers["refused"]
    if number is signal.SIGTERM:
        assert {"202"} == set(them.answers)


async def test_who_was_connected_before_the_end_is_still_answered(tmp_path: Path) -> None:
    """A connection that was taken, but whose request comes only after SIGTERM: answered, and asked to connect again."""
    async with process.daemon(tmp_path / "state") as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        d.process.terminate()
        async with asyncio.timeout(30):
            while not lines_of(d, "daemon.stopping"):
                await asyncio.sleep(0.01)
        await asyncio.sleep(PAUSE_SECONDS)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = (await reader.read()).lower()
        writer.close()
        assert answer.startswith(b"http/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert 0 == await d.until_dead()


# Exit codes that systemd acts on
async def test_a_wrong_setting_exits_with_the_code_that_is_not_started_again(tmp_path: Path) -> None:
    """78, which the unit names; its reason is a line of the log like any other.  A kill isn't it."""
    assert str(EXIT_CONFIG) == one("RestartPreventExitStatus")
    assert f'"$$EXIT_STATUS" != {EXIT_CONFIG} ||' in one("ExecStopPost")
    d = await process.start(tmp_path / "state", "prot = 1\n", alive=False, environ={"JOURNAL_STREAM": "8:1"})
    assert EXIT_CONFIG == await d.until_dead()
    await d.session.close()
    (line,) = map(json.loads, d.log_file.read_text().splitlines())
    assert ("daemon.failed", EXIT_CONFIG) == (line["event"], line["exit_code"])
    assert "listen.prot" in line["error"]
    d = await process.start(tmp_path / "other")
    d.process.kill()
    assert -signal.SIGKILL == await d.until_dead()
    await d.session.close()


# The unit files
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_each_directive_has_a_reason_above(unit: Path) -> None:
    """The line above a directive is a comment of its own."""
    lines = unit.read_text("utf-8").splitlines()
    bare = [
        line for above, line in zip(["", *lines], lines, strict=False) if re.match(r"\w+=", line) and above[:2] != "# "
    ]
    assert [] == bare


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units_as_they_are(unit: Path, analyze: str, tmp_path: Path) -> None:
    """No unknown directive, no value that doesn't fit; the program stands in a place of this test's."""
    for each in UNITS:
        text = each.read_text("utf-8").replace("/opt/webhookd/bin/webhookd", "/bin/true")
        (tmp_path / each.name).write_text(text)
    checked = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit.name)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (0, "") == (checked.returncode, checked.stderr)


@pytest.mark.parametrize(("unit", "exposure_max"), [(SERVICE, 1.2), (BACKUP, 2.0)])
def test_systemd_finds_little_exposed(unit: Path, exposure_max: float, analyze: str) -> None:
    """`systemd-analyze security` gives little, of 10; the copy runs as root, for files that only root can read."""
    shown = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    found = re.search(rf"Overall exposure level for {unit.name}: ([\d.]+)", shown)
    assert found is not None
    assert float(found[1]) <= exposure_max


def test_a_stop_has_the_time_that_the_daemon_may_need() -> None:
    """The longest timeout of an attempt, what follows it, and the end of the callers' answers."""
    (longest,) = (each for each in Delivery.__annotations__.items() if each[0] == "timeout_seconds")
    assert "60" in longest[1]
    assert seconds("TimeoutStopSec") > 60 + app.STOP_SECONDS + app.SHUTDOWN_SECONDS + 5


def test_no_secret_is_needed_for_a_start() -> None:
    """systemd.exec(5): a credential with an absolute path must be there; one with a name is left out if it is not."""
    loaded = [value.split(":") for name, value in changed.directives(SERVICE) if name == "LoadCredential"]
    assert {"mail-password", "admin-token", "ingest-token", "database-key"} == {name for name, _ in loaded}
    assert [] == [source for _, source in loaded if "/" in source]


async def test_the_daemon_works_within_what_the_unit_allows(analyze: str, tmp_path: Path) -> None:
    """The unit's system calls and address families, no memory both written and run: events come in and go out.

    So does the database key, with the library that it needs.
    """
    program = ("-m", "tests.support.changed", "confined")
    (tmp_path / "database-key").write_text("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    running = process.daemon(tmp_path / "state", LOOPBACK, program=program, environ=environ)
    async with receiver() as where, running as d:
        status = Path(f"/proc/{d.process.pid}/status").read_text()
        assert "Seccomp:\t2" in status
        for host in ("127.0.0.1", "localhost"):
            url = where.url.replace("127.0.0.1", host) + "/hook"
            await d.call("POST", "/v1/endpoints", {"url": url, "event_types": ["*"]}, expect=201)
        await d.call("POST", "/v1/events", {"event_type": "message.sent", "event_id": "a"}, expect=202)
        assert ["a", "a"] == [each.id for each in await where.until(2)]
        async with d.session.post(d.url + "/v1/backup", headers=d.admin()) as answer:
            assert answer.status < 300
            assert (await answer.read()).startswith(b"SQLite format 3")


def test_the_way_out_is_seen_where_only_processes_are_in_proc() -> None:
    """`ProcSubset=pid` hides /proc/net; a machine that has a way out must not seem cut off there."""
    look = "from webhookd.sender.host import has_default_route; print(has_default_route())"
    outside = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    mounted = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount -t proc -o subset=pid proc /proc && exec "$@"', "sh",
         sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"this process may not mount a /proc of its own: {mounted.stderr.strip()[:200]}")
    assert outside.stdout == mounted.stdout


def test_the_trial_finds_the_manual_s_commands() -> None:
    """Each block that `tests.process.trial` types is there once; the first event is the second line of its block."""
    first = trial.block("webhookd endpoint add").splitlines()
    assert "| webhookd send" in first[1]
    for beginning in (
        "apt-get install -y python3-venv",
        "install -d -m 700 /etc/credstore",
        "webhookd backup",
        "systemctl stop webhookd.socket webhookd\n",
        "systemctl disable --now",
    ):
        assert "\n" in trial.block(beginning)


def test_the_manual_s_service_is_the_unit_s() -> None:
    """The paths that the manual names are those that the unit uses."""
    page = (ROOT / "webhookd" / "manual" / "installing.md").read_text("utf-8")
    program, _, _, config = one("ExecStart").split()
    assert program.removesuffix("/bin/webhookd") + "/" in page
    assert config in page
    for name, value in changed.directives(SERVICE):
        if name == "LoadCredential":
            assert value.split(":")[1] in page
