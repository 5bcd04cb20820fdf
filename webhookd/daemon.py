"""The process: state directory, lock, sockets, signals, and the order of starting and stopping."""

from __future__ import annotations

import asyncio
import errno
import gc
import grp
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from msgspec import structs

from webhookd import log
from webhookd._version import __version__
from webhookd.app import App
from webhookd.clock import SystemClock
from webhookd.config import NEED_RESTART, Config, Listen, reloadable
from webhookd.config.secret_files import credential, secret_file
from webhookd.errors import ConfigError, FatalError, TemporaryFailure
from webhookd.rules.encryption import PLAIN, Cipher, parse_keys
from webhookd.rules.ip_policy import OwnAddress
from webhookd.store.connection import StateLock
from webhookd.systemd import activated_sockets, extend_timeout, notify
from webhookd.tasks import TaskOwner
from webhookd.web.server.http_server import Runner

ADDRESS_FILE = "address"
DATABASE_KEYS = ("database-key", "webhookd.database-key")  # the latter as `ImportCredential=webhookd.*` names it
SWITCH_SECONDS = 0.0003


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """Where a daemon that is ready can be found; `sign_in_link` makes a link to the page that signs in by itself."""

    url: str
    state_dir: Path
    sign_in_link: Callable[[], str | None]


class Served(Protocol):
    """What a process serves: an `App`, or in a cluster the node of several; see `App` for each of these."""

    tasks: TaskOwner

    def settings(self) -> Config: ...  # noqa: D102
    async def start(self, environ: Mapping[str, str]) -> None: ...  # noqa: D102
    def runner(self) -> Runner: ...  # noqa: D102
    def listening(self, own: Sequence[OwnAddress], url: str) -> None: ...  # noqa: D102
    def waiting(self) -> int: ...  # noqa: D102
    def sign_in_link(self, page: str) -> str | None: ...  # noqa: D102
    def reload(self, config: Config) -> None: ...  # noqa: D102
    def stop_delivering(self) -> None: ...  # noqa: D102
    def end_streams(self) -> None: ...  # noqa: D102
    async def stop(self) -> None: ...  # noqa: D102


async def serve(
    config: Config,
    state_dir: Path,
    *,
    environ: Mapping[str, str],
    reload: Callable[[], Config] | None = None,
    ready: Callable[[DaemonInfo], None] | None = None,
    stop: asyncio.Event | None = None,
) -> int:
    """Run the daemon until SIGTERM, SIGINT or `stop`; returns the exit code.

    `reload` reads the configuration again at SIGHUP; `ready` is called once events are taken.
    """
    log.configure(config.log.format, config.log.level)
    stop = stop or asyncio.Event()
    try:
        return await _serve(config, state_dir, environ, reload, ready, stop)
    except FatalError as error:
        log.emit("daemon.failed", error=str(error), exit_code=error.exit_code)
        return error.exit_code
    finally:
        log.flush()


async def _serve(
    config: Config,
    state_dir: Path,
    environ: Mapping[str, str],
    reload: Callable[[], Config] | None,
    ready: Callable[[DaemonInfo], None] | None,
    stop: asyncio.Event,
) -> int:
    began = time.monotonic()
    log.emit("daemon.started", version=__version__, pid=os.getpid(), state_dir=str(state_dir))
    prepare_state_dir(state_dir)
    lock = StateLock(state_dir)
    await lock.acquire()
    try:
        async with extend_timeout(environ):  # a migration of millions of events
            app = await _open(config, state_dir, environ)
        try:
            _watch_signals(app, stop, reload)
            async with extend_timeout(environ):  # everything that waits is counted
                await app.start(environ)
            _tune_interpreter()
            listeners = await _listen(app, config, state_dir, environ)
            try:
                _announce(app, listeners, began, ready, state_dir, environ)
                ended = await app.tasks.run_until_stopped(stop)
                if ended is not None:
                    log.emit("task.ended", task=ended.name, error=str(ended))
                notify("STOPPING=1", environ)
                log.emit("daemon.stopping", reason="a task ended" if ended else "a signal")
                app.stop_delivering()
                await listeners.runner.drain()
                app.end_streams()
            finally:
                await listeners.runner.cleanup()
        finally:
            async with extend_timeout(environ):
                await app.stop()
        if ended is not None:
            raise ended
    finally:
        (state_dir / ADDRESS_FILE).unlink(missing_ok=True)
        lock.release()
    log.emit("daemon.stopped")
    return 0


async def _open(config: Config, state_dir: Path, environ: Mapping[str, str]) -> Served:
    cipher = database_cipher(config.store.key_file, environ)
    if not config.cluster.servers:
        return await App.open(config, state_dir, clock=SystemClock(), cipher=cipher)
    try:
        from webhookd.cluster.node import Node
    except ModuleNotFoundError as error:
        if error.name != "nats":
            raise
        raise ConfigError("cluster.servers needs the package nats-py: pip install 'webhookd[cluster]'") from error
    return await Node.open(config, state_dir, environ, cipher)


def database_cipher(key_file: str, environ: Mapping[str, str]) -> Cipher:
    """What encrypts secrets in the database: the credential `database-key`, else `store.key_file`, else nothing."""
    name = next((each for each in DATABASE_KEYS if credential(each, environ) is not None), None)
    if name is None and not key_file:
        return PLAIN
    where = f"store.key_file: {key_file}" if name is None else f"the credential {name}"
    text = secret_file(Path(key_file), "store.key_file") if name is None else credential(name, environ) or ""
    try:
        return parse_keys(text, os.urandom)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def prepare_state_dir(state_dir: Path) -> None:
    """Make the state directory, mode 0700; one that is ours and open to others is tightened, with a warning."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = state_dir.stat()
        if stat.S_IMODE(found.st_mode) & 0o077:
            state_dir.chmod(0o700)
            log.emit("state.tightened", path=str(state_dir), mode=f"{stat.S_IMODE(found.st_mode):04o}")
    except OSError as error:
        raise ConfigError(
            f"the state directory {state_dir} can't be used ({error.strerror}); name another one with --state-dir"
        ) from error
    if not os.access(state_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"the state directory {state_dir} can't be written to; name another one with --state-dir")


@dataclass(frozen=True, slots=True)
class _Listeners:
    """The listening sockets, and how to reach them."""

    runner: Runner
    url: str
    unix_socket: str


async def _listen(app: Served, config: Config, state_dir: Path, environ: Mapping[str, str]) -> _Listeners:
    listen = config.listen
    runner = app.runner()
    await runner.setup()
    try:
        families = await _listen_on_activated(runner, listen, environ)
        if families.isdisjoint({socket.AF_INET, socket.AF_INET6}):
            await runner.listen_tcp(listen.host, listen.port)
        if listen.unix_socket and socket.AF_UNIX not in families:
            await _open_unix_socket(runner, state_dir / listen.unix_socket, listen.unix_group)
    except (OSError, ConfigError) as error:
        await runner.cleanup()
        raise _cannot_listen(error, f"{listen.host}:{listen.port}") from error
    addresses = [address for address in runner.addresses if isinstance(address, tuple)]
    host, port = addresses[0][:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    app.listening([OwnAddress(ip_address(host.partition("%")[0]), port) for host, port, *_ in addresses], url)
    aside = state_dir / f"{ADDRESS_FILE}.new"
    aside.write_text(url + "\n", "ascii")
    aside.rename(state_dir / ADDRESS_FILE)  # a reader sees all of it or nothing
    unix_sockets = [os.fsdecode(address) for address in runner.addresses if isinstance(address, str | bytes)]
    return _Listeners(runner, url, ", ".join(unix_sockets))


async def _listen_on_activated(runner: Runner, listen: Listen, environ: Mapping[str, str]) -> set[socket.AddressFamily]:
    """Serve on the sockets that systemd opened; they take the place of the configured one of their family."""
    sockets = activated_sockets(environ, insecure_public=listen.insecure_public)
    for each in sockets:
        await runner.listen_on(each)
    return {each.family for each in sockets}


def _cannot_listen(error: OSError | ConfigError, where: str) -> FatalError:
    """An address that is taken, or not there yet, may be free in a moment; a restart helps with nothing else."""
    if isinstance(error, ConfigError):
        return error
    why = os.strerror(error.errno) if error.errno else str(error)
    message = f"webhookd can't listen on {where}: {why}; is another program there? Set listen.port"
    return TemporaryFailure(message) if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL) else ConfigError(message)


async def _open_unix_socket(runner: Runner, path: Path, group: str) -> None:
    previous = os.umask(0o117)  # 0660 from the first moment on
    try:
        await runner.listen_unix(path)
    finally:
        os.umask(previous)
    if group:
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except KeyError as error:
            raise ConfigError(f"listen.unix_group: there is no group {group!r} on this machine") from error
        except OSError as error:  # EINVAL where PrivateUsers= hides the group, EPERM where this user isn't in it
            raise ConfigError(
                f"listen.unix_group: the socket can't be given to the group {group!r} ({error.strerror}). webhookd's "
                "own user has to be in it; as systemd's service, set ListenStream= and SocketGroup= in webhookd.socket"
            ) from error


def _announce(
    app: Served,
    listeners: _Listeners,
    began: float,
    ready: Callable[[DaemonInfo], None] | None,
    state_dir: Path,
    environ: Mapping[str, str],
) -> None:
    notify("READY=1\nSTATUS=taking events at " + listeners.url, environ)
    log.emit(
        "daemon.ready",
        address=listeners.url,
        unix_socket=listeners.unix_socket or None,
        waiting=app.waiting(),
        duration_ms=round((time.monotonic() - began) * 1000, 1),
    )
    if ready is not None:
        page = app.settings().listen.public_url.rstrip("/") or listeners.url
        ready(DaemonInfo(listeners.url, state_dir, lambda: app.sign_in_link(page)))


def _tune_interpreter() -> None:
    """Keep the garbage collector's rounds short and rare: each blocks the event loop (manual/decisions.md).

    And let SQLite's threads have the interpreter's lock soon: a busy loop keeps it for a whole interval each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    sys.setswitchinterval(SWITCH_SECONDS)


def _watch_signals(app: Served, stop: asyncio.Event, reload: Callable[[], Config] | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, _reload, app, reload)


def _reload(app: Served, reload: Callable[[], Config]) -> None:
    """SIGHUP: take what may change while running, log what may not; with a mistake in it nothing changes."""
    try:
        config = reload()
    except ConfigError as error:
        log.emit("config.not_reloadable", error=str(error))
        return
    changed, fixed = reloadable(app.settings(), config)
    if fixed:
        log.emit("config.not_reloadable", changed=fixed, error="these need a restart")
    kept = {section: getattr(app.settings(), section) for section in NEED_RESTART}
    app.reload(structs.replace(config, **kept))
    log.configure(config.log.format, config.log.level)
    log.emit("config.reloaded", changed=changed)
