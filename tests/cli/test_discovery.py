"""How a command finds the daemon and its tokens, and what it says when it doesn't."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import pytest
from aiohttp import web

from webhookd.cli.client import Address, Unreachable
from webhookd.cli.discovery import find_daemon, parse_address

BUDGET = {
    "limit": 30,
    "window_seconds": 1800,
    "failures": 0,
    "by_endpoint": {},
    "oldest_expires_at": None,
    "spent_until": None,
}


@pytest.fixture
def state_dir(tmp_path: Path, api: Any) -> Path:
    """A state directory with the address and the token of the small API."""
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    (made / "address").write_text(api.url + "\n")
    (made / "admin-token").write_text(api.token + "\n")
    api.answers("GET", "/v1/budget", BUDGET)
    return made


def port_of(api: Any) -> str:
    return str(api.url.rsplit(":", 1)[1])


@pytest.mark.slow
async def test_by_the_configuration_or_by_the_environment(api: Any, run: Any, state_dir: Path, tmp_path: Path) -> None:
    """The caller brings the token; with `WEBHOOKD_URL` the configuration isn't even read."""
    config = tmp_path / "webhookd.toml"
    config.write_text(f"[listen]\nport = {port_of(api)}\n")
    ran = await run("budget", "--json", "--config", str(config), env={"WEBHOOKD_TOKEN": api.token})
    assert (0, BUDGET, "") == (ran.code, ran.json(), ran.err)
    env = {"WEBHOOKD_URL": api.url, "WEBHOOKD_TOKEN": api.token, "WEBHOOKD_CONFIG": str(tmp_path / "missing.toml")}
    ran = await run("budget", "--json", env=env)
    assert (0, BUDGET) == (ran.code, ran.json())


@pytest.mark.parametrize("named", ["--state-dir", "STATE_DIRECTORY", "WEBHOOKD_STATE_DIR"])
async def test_the_address_file_wins(api: Any, run: Any, state_dir: Path, named: str) -> None:
    """The state directory's own address comes before the configured one, however the directory is named."""
    env = {"WEBHOOKD_LISTEN__PORT": "1"}
    words = ("--state-dir", str(state_dir)) if named == "--state-dir" else ()
    ran = await run("--json", "budget", *words, env=env if words else env | {named: str(state_dir)})
    assert (0, BUDGET) == (ran.code, ran.json())


@pytest.mark.parametrize("left", ["nothing", "the address of a daemon that was killed"])
@pytest.mark.parametrize("env", [{}, {"WEBHOOKD_TOKEN": "somebody's"}])
async def test_a_state_directory_never_reaches_another_daemon(
    api: Any, run: Any, state_dir: Path, left: str, env: dict[str, str]
) -> None:
    """Where no daemon runs in it, its token goes nowhere, though another daemon listens where it would."""
    if left == "nothing":
        (state_dir / "address").unlink()
    else:
        (state_dir / "lock").write_text("4194999\n")
    ran = await run("budget", "--state-dir", str(state_dir), env=env | {"WEBHOOKD_LISTEN__PORT": port_of(api)})
    assert (3, []) == (ran.code, api.asked)
    assert f"no webhookd runs with the state directory {state_dir}" in ran.err


@pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (403, "forbidden")])
async def test_a_refused_token_is_named(api: Any, run: Any, state_dir: Path, status: int, code: str) -> None:
    """401 and 403 name the URL and the file of the token."""
    api.refuses("GET", "/v1/budget", status, code, "Not with this token.")
    ran = await run("budget", "--state-dir", str(state_dir))
    where = f"That was {api.url}, with the token from {state_dir / 'admin-token'}."
    assert (1, f"Error: Not with this token.\n{where}\n") == (ran.code, ran.err)


async def test_by_the_unix_socket(api: Any, run: Any, state_dir: Path, tmp_path: Path) -> None:
    """Where the address doesn't answer, the configured unix socket does."""
    runner = web.ServerRunner(web.Server(api.handle))
    await runner.setup()
    path = str(tmp_path / "socket")
    await web.UnixSite(runner, path).start()
    (state_dir / "address").write_text("http://127.0.0.1:1\n")
    env = {"WEBHOOKD_LISTEN__UNIX_SOCKET": path}
    configured = await run("budget", "--json", "--state-dir", str(state_dir), env=env)
    by_url = await run("budget", "--json", env={"WEBHOOKD_URL": f"unix:{path}", "WEBHOOKD_TOKEN": api.token})
    await runner.cleanup()
    assert (0, BUDGET) == (configured.code, configured.json())
    assert (0, BUDGET) == (by_url.code, by_url.json())


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "no token", "too short", "foreign"])
async def test_a_hostile_token_file_is_neither_sent_nor_shown(
    api: Any, run: Any, state_dir: Path, tmp_path: Path, kind: str
) -> None:
    """Root reads there what the service's user wrote: no link is followed, and only what looks like a token is sent."""
    secret, file = tmp_path / "shadow", state_dir / "admin-token"
    secret.write_text("root:$6$secret-of-the-machine:20000:\n")
    file.unlink()
    if kind == "link":
        file.symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, file)
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.write_text({"no token": "root:x:0:0:root:/root: a shell\n", "too short": "short"}.get(kind, api.token))
    if kind == "foreign":
        if os.geteuid():
            pytest.skip("only root can give a file to another user")
        os.chown(file, 12345, 12345)
    ran = await run("budget", "--state-dir", str(state_dir))
    assert 1 == ran.code
    assert [None] == [each.headers.get("Authorization") for each in api.asked]
    assert "secret-of-the-machine" not in ran.err + ran.out and "a shell" not in ran.err + ran.out
    assert f"{file} can't be read (" in ran.err


@pytest.mark.parametrize("address", ["http://192.0.2.1:8780", "https://evil.example", "root:$6$hidden:1", "unix:/x"])
async def test_a_hostile_address_file_leads_nowhere(api: Any, run: Any, state_dir: Path, address: str) -> None:
    """Only loopback, or the address that the configuration has; what the file says is never shown."""
    (state_dir / "address").write_text(address)
    client_or_error = ""
    try:
        addresses = find_daemon(None, str(state_dir), {"WEBHOOKD_LISTEN__PORT": "1"}).addresses
        assert all(each.host == "127.0.0.1" or each.scheme == "unix" for each in addresses)
    except Unreachable as error:
        client_or_error = str(error)
    assert "192.0.2.1" not in client_or_error and "evil" not in client_or_error and "hidden" not in client_or_error


async def test_a_linked_address_file_is_not_followed(run: Any, state_dir: Path, tmp_path: Path) -> None:
    """Its content could be any file of the machine."""
    (state_dir / "address").rename(tmp_path / "elsewhere")
    (state_dir / "address").symlink_to(tmp_path / "elsewhere")
    ran = await run("budget", "--state-dir", str(state_dir), env={"WEBHOOKD_LISTEN__PORT": "1"})
    assert 3 == ran.code


async def test_no_token_and_no_daemon(api: Any, run: Any, state_dir: Path) -> None:
    """The API's error and where a token was looked for; exit code 3, the address, and what to do."""
    (state_dir / "admin-token").unlink()
    ran = await run("budget", "--state-dir", str(state_dir))
    assert 1 == ran.code
    assert "No token that webhookd knows." in ran.err
    assert f"{state_dir / 'admin-token'} isn't there" in ran.err
    (state_dir / "admin-token").write_text(api.token)
    (state_dir / "address").write_text("http://127.0.0.1:1\n")
    ran = await run("budget", "--state-dir", str(state_dir))
    assert (3, "") == (ran.code, ran.out)
    assert "http://127.0.0.1:1" in ran.err
    assert "Is it running?" in ran.err


async def test_ingest_token_sends(api: Any, run: Any, state_dir: Path) -> None:
    """`send` makes do with the ingest token where it can't have the admin token."""
    (state_dir / "admin-token").rename(state_dir / "ingest-token")
    taken = {"accepted": 1, "duplicates": 0, "rejected": []}
    api.answers("POST", "/v1/events", lambda _: web.json_response(taken, status=202))
    where = ("--state-dir", str(state_dir))
    sent = await run("send", *where, stdin=b'{"event_type":"x"}')
    asked = await run("budget", *where)
    assert (0, 1) == (sent.code, asked.code)


@pytest.mark.parametrize(("url", "taken"), [("http://127.0.0.1:1", True), ("http://192.0.2.1:8780", False)])
def test_files_tokens_stay_on_this_machine(api: Any, state_dir: Path, url: str, taken: bool) -> None:
    """A token read from a file isn't sent to another machine that `WEBHOOKD_URL` names."""
    client = find_daemon(None, str(state_dir), {"WEBHOOKD_URL": url})
    assert (api.token if taken else None) == client.token


async def test_broken_configuration(run: Any, tmp_path: Path) -> None:
    """A configuration that can't be read can't say where the daemon is: wrong usage, with the mistake."""
    config = tmp_path / "webhookd.toml"
    config.write_text("[listen]\nprot = 1\n")
    ran = await run("budget", "--config", str(config))
    assert 2 == ran.code
    assert f"{config}:2: listen.prot" in ran.err


@pytest.fixture
async def raw_server() -> AsyncIterator[Any]:
    """Starts a server that sends fixed bytes to each caller and hangs up; gives its URL."""
    servers = []

    async def starting(answer: bytes, *, stay: bool = False) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if not stay:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield starting
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", 3),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", 3),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nnope!", 1),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", 3),
    ],
)
async def test_something_else_listens(run: Any, raw_server: Any, answer: bytes, code: int) -> None:
    """What isn't webhookd's API is said to be that, without a traceback."""
    url = await raw_server(answer)
    ran = await run("budget", env={"WEBHOOKD_URL": url, "WEBHOOKD_TOKEN": "x"})
    assert (code, "") == (ran.code, ran.out)
    assert ran.err.startswith("Error: ")
    assert "Traceback" not in ran.err


async def test_refusals_are_harmless(api: Any, ask: Any) -> None:
    """A message that holds what a stranger wrote can't steer the terminal."""
    api.refuses("GET", "/v1/budget", 404, "not_found", "no \x1b[2J\u202eworkspace")
    ran = await ask("budget")
    assert (1, "Error: no \\x1b[2J\\u202eworkspace\n") == (ran.code, ran.err)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8780", Address("http", "127.0.0.1", 8780)),
        ("http://127.0.0.1:8780/", Address("http", "127.0.0.1", 8780)),
        ("https://hooks.example.com/webhookd/", Address("https", "hooks.example.com", 443, "/webhookd")),
        ("http://[::1]:8780", Address("http", "::1", 8780)),
        ("unix:/run/webhookd/socket", Address("unix", "/run/webhookd/socket")),
        ("unix:///run/webhookd/socket", Address("unix", "/run/webhookd/socket")),
    ],
)
def test_parse_address(url: str, expected: Address) -> None:
    """What `WEBHOOKD_URL` may hold."""
    assert expected == parse_address(url)


@pytest.mark.parametrize("url", ["127.0.0.1:8780", "ftp://x/", "http://", "http://h:port", "http://[::1"])
def test_parse_address_nothing(url: str) -> None:
    """What it may not hold is a usage error that shows the right form."""
    with pytest.raises(click.UsageError, match=r"write it as http://127\.0\.0\.1:8780"):
        parse_address(url)
