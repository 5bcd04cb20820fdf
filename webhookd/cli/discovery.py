"""Finding the daemon as it finds itself: its address from the configuration, its tokens from the state directory.

`WEBHOOKD_URL` and `WEBHOOKD_TOKEN` come before all of that.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import click

from webhookd.cli.client import Client, Place, Unreachable
from webhookd.cli.options import Call
from webhookd.config import Config, find_config, find_state_dir
from webhookd.config_loader import load
from webhookd.errors import ConfigError

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, not listened on


def find_daemon(call: Call, *, ingest: bool = False) -> Client:
    """The client of the daemon that `call` means; with `ingest`, a token that may only post events will do.

    Raises `click.UsageError` if the configuration or `WEBHOOKD_URL` can't be used.
    """
    url = call.environ.get("WEBHOOKD_URL", "")
    token = call.environ.get("WEBHOOKD_TOKEN", "")
    if url:
        places = [place_of(url)]
        if token or not _is_here(places[0]):
            story = (
                "It came from WEBHOOKD_TOKEN."
                if token
                else "WEBHOOKD_TOKEN is not set, and the token of this machine goes nowhere else."
            )
            return Client(places, token or None, story)
    config = _config(call)
    state_dir = find_state_dir(call.state_dir, call.environ, of_running=True)
    if not url:
        places = _places(config, state_dir)
    if token:
        return Client(places, token, "It came from WEBHOOKD_TOKEN.")
    found, story = _token(_token_files(config, state_dir, ingest=ingest))
    return Client(places, found, story)


def place_of(url: str) -> Place:
    """The place that `WEBHOOKD_URL` names: `http://host:port`, `https://…`, or `unix:/path/of/the.sock`."""
    if url.startswith("unix:"):
        return Place("unix", "/" + url.removeprefix("unix:").lstrip("/"))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(
            f"WEBHOOKD_URL is {url!r}: write it as http://127.0.0.1:8780 or unix:/run/webhookd/webhookd.sock."
        )
    return Place(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/"))


def _is_here(place: Place) -> bool:
    return place.scheme == "unix" or place.host in _LOOPBACK_NAMES or place.host.startswith("127.")


def _config(call: Call) -> Config:
    try:
        return load(find_config(call.config, call.environ), call.environ)
    except ConfigError as error:
        raise click.UsageError(f"the configuration, which says where webhookd is, can't be used: {error}") from error


def _places(config: Config, state_dir: Path) -> list[Place]:
    """Where to look, best first: the configured address, the one that the daemon wrote down, its unix socket.

    With port 0, or a socket from systemd, only the daemon knows where it listens: it writes the file `address`.
    """
    listen = config.listen
    places = [Place("http", _EVERYWHERE.get(listen.host, listen.host), listen.port)] if listen.port else []
    try:
        written = (state_dir / "address").read_text("utf-8").strip()
        places.append(place_of(written))
    except (OSError, ValueError, click.UsageError):
        pass  # never started, not ours to read, or half written: the other places remain
    if listen.unix_socket:
        places.append(Place("unix", str(state_dir / listen.unix_socket)))
    if not places:
        raise Unreachable(f"webhookd can't be found: listen.port is 0, and no {state_dir / 'address'} tells the port.")
    return list(dict.fromkeys(places))


def _token_files(config: Config, state_dir: Path, *, ingest: bool) -> list[Path]:
    files = [state_dir / "admin-token"]
    if ingest:
        files.append(state_dir / "ingest-token")
        if config.listen.ingest_token_file:
            files.append(Path(config.listen.ingest_token_file))
    return files


def _token(files: list[Path]) -> tuple[str | None, str]:
    """The first token that can be read, and where it came from (or why there is none)."""
    problems = []
    for file in files:
        try:
            return file.read_text("utf-8").strip(), f"It came from {file}."
        except FileNotFoundError:
            problems.append(f"{file} isn't there")
        except (OSError, ValueError) as error:
            problems.append(f"{file} can't be read ({getattr(error, 'strerror', None) or error})")
    hint = "Run this as root or as the user that webhookd runs as, or set WEBHOOKD_TOKEN."
    return None, f"No token was found: {', '.join(problems)}. {hint}"
