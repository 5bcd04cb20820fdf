"""Finds the daemon: its address and its tokens in the state directory.

`WEBHOOKD_URL` and `WEBHOOKD_TOKEN` come first.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click

from webhookd.cli.client import Address, Client, Unreachable
from webhookd.config import Config
from webhookd.config.loader import load
from webhookd.config.paths import find_config, find_state_dir
from webhookd.errors import ConfigError
from webhookd.rules.ids import is_token
from webhookd.text import escape

_FILE_BYTES = 4096
_FROM_VARIABLE = "with the token from WEBHOOKD_TOKEN"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, not listened on


def find_daemon(
    config_file: str | None, state_dir: str | None, environ: Mapping[str, str], *, ingest: bool = False
) -> Client:
    """A client of the daemon that the options and the environment name; with `ingest`, an ingest token is enough.

    A token of a state directory goes to the daemon that runs in this directory, to no other.  Raises `click.UsageError`
    if the configuration or `WEBHOOKD_URL` can't be used, `Unreachable` if no daemon runs in the state directory.
    """
    url = environ.get("WEBHOOKD_URL", "")
    token = environ.get("WEBHOOKD_TOKEN", "")
    if url:
        addresses = [parse_address(url)]
        if token or not _is_local(addresses[0]):
            unset = "without a token: WEBHOOKD_TOKEN is not set, and the token of this machine goes nowhere else"
            return Client(addresses, token or None, _FROM_VARIABLE if token else unset)
    config = _config(config_file, environ)
    directory = find_state_dir(state_dir, environ, of_running=True)
    if not url:
        named = state_dir or environ.get("WEBHOOKD_STATE_DIR") or environ.get("STATE_DIRECTORY")
        addresses = _addresses(config, directory, elsewhere=bool(token and not named))
    if token:
        return Client(addresses, token, _FROM_VARIABLE)
    found, source = _token(_token_files(config, directory, ingest=ingest), Path(config.listen.ingest_token_file))
    return Client(addresses, found, source)


def parse_address(url: str) -> Address:
    """The address in `WEBHOOKD_URL`: `http://host:port`, `https://…`, or `unix:/path/of/the.sock`."""
    if url.startswith("unix:"):
        return Address("unix", "/" + url.removeprefix("unix:").lstrip("/"))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(
            f"WEBHOOKD_URL is {url!r}: write it as http://127.0.0.1:8780 or unix:/run/webhookd/webhookd.sock."
        )
    return Address(
        parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")
    )


def _is_local(address: Address) -> bool:
    return address.scheme == "unix" or address.host in _LOOPBACK_NAMES or address.host.startswith("127.")


def _config(file: str | None, environ: Mapping[str, str]) -> Config:
    try:
        return load(find_config(file, environ), environ)
    except ConfigError as error:
        raise click.UsageError(f"the configuration, which says where webhookd is, can't be used: {error}") from error


def _addresses(config: Config, state_dir: Path, *, elsewhere: bool) -> list[Address]:
    """Where the daemon of a state directory listens: the address that it wrote there, then its unix socket.

    The configured address may be another daemon's.  It is asked where the directory isn't ours to read (then neither
    are its tokens) and, with `elsewhere`, where no daemon runs in it.
    """
    listen = config.listen
    sockets = [Address("unix", str(state_dir / listen.unix_socket))] if listen.unix_socket else []
    try:
        if _is_free(state_dir / "lock"):
            raise FileNotFoundError
        address = parse_address(_own_file(state_dir / "address"))
        if _is_local(address) or address.host in (listen.host, *_EVERYWHERE):
            return [address, *sockets]
        raise Unreachable(
            f"{escape(state_dir / 'address')} names no loopback address. Say where it is with WEBHOOKD_URL."
        )
    except (FileNotFoundError, NotADirectoryError):
        if not elsewhere:
            raise Unreachable(
                f"no webhookd runs with the state directory {escape(state_dir)}: it has no file `address`, or a daemon "
                "that was killed left it.\nIf it runs with another one, say so with --state-dir or WEBHOOKD_URL."
            ) from None
    except (OSError, ValueError, click.UsageError):
        pass  # not readable for us
    configured = [Address("http", _EVERYWHERE.get(listen.host, listen.host), listen.port)] if listen.port else []
    if not configured and not sockets:
        raise Unreachable(f"webhookd can't be found: listen.port is 0, and {state_dir / 'address'} can't be read.")
    return configured + sockets


def _is_free(lock: Path) -> bool:
    """Whether no daemon holds the lock of its state directory; a daemon that is starting tries again in a moment."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _own_file(path: Path) -> str:
    """What a file of the state directory says.  Its content may be hostile: never show it.

    Root reads here what the service's user wrote.  So no link is followed, and a file that doesn't belong to the
    directory's owner, or is no small regular file, is refused: OSError or ValueError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != path.parent.stat().st_uid or found.st_nlink != 1:
            raise ValueError("it is no file of the state directory's owner")
        try:
            return file.read(_FILE_BYTES).decode("ascii").strip()
        except UnicodeDecodeError:
            raise ValueError("it is not ASCII") from None


def _token_files(config: Config, state_dir: Path, *, ingest: bool) -> list[Path]:
    files = [state_dir / "admin-token"]
    if ingest:
        files.append(state_dir / "ingest-token")
        if config.listen.ingest_token_file:
            files.append(Path(config.listen.ingest_token_file))
    return files


def _token(files: list[Path], configured: Path) -> tuple[str | None, str]:
    """The first token that can be read, and where it came from (or why there is none); `configured` may be a link."""
    problems = []
    for file in files:
        try:
            token = file.read_text("utf-8").strip() if file == configured else _own_file(file)
            if not is_token(token):
                raise ValueError("it holds no token")
            return token, f"with the token from {file}"
        except FileNotFoundError:
            problems.append(f"{file} isn't there")
        except (OSError, ValueError) as error:
            why = "not UTF-8" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or error
            problems.append(f"{file} can't be read ({why})")
    hint = "Run this as root or as the user that webhookd runs as, or set WEBHOOKD_TOKEN"
    return None, f"without a token: {', '.join(problems)}. {hint}"
