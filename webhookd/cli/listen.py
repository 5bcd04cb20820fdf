"""`webhookd listen`: a receiver for tests.  It verifies and prints each request, and can fail or delay on purpose."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.event_types import expanded
from webhookd.cli.options import Call, complete_event_type, examples, for_workspace, secret_file_option
from webhookd.cli.output import print_json_line
from webhookd.text import escape, escape_lines

if TYPE_CHECKING:
    from aiohttp import web

DEFAULT_PORT = 9000
_TOLERANCE_SECONDS = 300  # what Standard Webhooks' own libraries allow
_ANY_KEY = "whsec_" + "A" * 32  # where only the receiver's own key counts


@dataclass(frozen=True, slots=True)
class Received:
    """One request.  `verdict` describes the check of its signature; `verified` is None without a key."""

    at: datetime
    headers: Mapping[str, str]
    body: bytes
    verified: bool | None
    verdict: str

    @property
    def event_id(self) -> str:
        """Its `webhook-id`."""
        return self.headers.get("webhook-id", "")

    @property
    def event_type(self) -> str:
        """The `event_type` of its body; empty if there is none."""
        try:
            event = json.loads(self.body, parse_int=len)  # an integer may have any length
        except (ValueError, RecursionError):
            return ""
        return str(event.get("event_type", "")) if isinstance(event, dict) else ""

    @property
    def attempt(self) -> str:
        """Its `X-Webhook-Attempt`, as it came."""
        return self.headers.get("X-Webhook-Attempt", "")


def verify(headers: Mapping[str, str], body: bytes, keys: Sequence[str], *, now: float) -> tuple[bool | None, str]:
    """Whether a request is signed with one of `keys`, and the verdict in words; `now` is seconds since 1970.

    Standard Webhooks 1.0.0: one of the signatures in `webhook-signature` must match, and the timestamp must be recent,
    which prevents replays of old requests.  `X-Webhook-Signature` must match too, with a key of the receiver's own if
    there is one among `keys`.
    """
    import hmac

    from webhookd.rules.signing import Signer, is_key

    standard, own = [key for key in keys if is_key(key)], [key for key in keys if not is_key(key)]
    if not keys:
        return None, "not verified: no --key"
    given = headers.get("webhook-signature", "").split()
    older = headers.get("X-Webhook-Signature")
    stamp = headers.get("webhook-timestamp", "")
    if not given or not headers.get("webhook-id") or not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        return False, "NOT SIGNED"
    signers = [Signer(key) for key in standard] + [Signer(_ANY_KEY, body_text=key) for key in own]
    expected = [dict(one.headers(headers["webhook-id"], int(stamp), body)) for one in signers]
    good = [one["webhook-signature"] for one in expected[: len(standard)]]
    if standard and not any(hmac.compare_digest(mine.encode(), theirs.encode()) for mine in good for theirs in given):
        return False, "WRONG SIGNATURE"
    by_own = [one["X-Webhook-Signature"] for one in expected[len(standard) :]]
    by_any = [one["X-Webhook-Signature"] for one in expected]
    if (own and older not in by_own) or (older is not None and len(given) == 1 and older not in by_any):
        return False, "WRONG X-Webhook-Signature"
    if abs(now - int(stamp)) > _TOLERANCE_SECONDS:
        return False, f"SIGNATURE TOO OLD: {round(now - int(stamp))} s"
    return True, "signature good"


Show = Callable[["Received", int], None]


class Receiver:
    """Answers the first `fail` requests (None: all) with `fail_status`, each after `slow_seconds`."""

    def __init__(
        self,
        keys: Sequence[str],
        *,
        fail: int | None = 0,
        fail_status: int = 500,
        status: int = 200,
        slow_seconds: float = 0.0,
    ) -> None:
        self.keys = list(keys)
        self._left_to_fail = fail
        self._fail_status = fail_status
        self._status = status
        self._slow_seconds = slow_seconds

    async def answer(self, request: web.BaseRequest) -> tuple[Received, int]:
        """Read and verify a request; returns it with the status to answer."""
        import asyncio

        body = await request.read()
        verified, verdict = verify(request.headers, body, self.keys, now=time.time())
        if self._slow_seconds:
            await asyncio.sleep(self._slow_seconds)
        received = Received(datetime.now().astimezone(), request.headers, body, verified, verdict)
        if self._left_to_fail is None:
            return received, self._fail_status
        if self._left_to_fail > 0:
            self._left_to_fail -= 1
            return received, self._fail_status
        return received, self._status

    def recover(self) -> None:
        """Stop failing."""
        self._left_to_fail = 0


def line_of(received: Received, status: int) -> str:
    """One readable line about a request."""
    marks = [name for name in ("test", "replay", "backfill") if received.headers.get(f"X-Webhook-{name}") == "true"]
    verdict = (
        received.verdict
        if received.verified is None
        else click.style(received.verdict, fg="green" if received.verified else "red")
    )
    parts = [
        f"{received.at:%H:%M:%S}.{received.at.microsecond // 1000:03d}",
        f"{escape(received.event_type) or '(no event_type)':<25}",
        escape(received.event_id) or "(no webhook-id)",
        f"attempt {escape(received.attempt) or '?'}" + "".join(f", {mark}" for mark in marks),
        verdict,
        f"→ {status}",
    ]
    return "  ".join(parts)


def _json_of(received: Received, status: int) -> dict[str, Any]:
    return {
        "at": received.at.isoformat(timespec="milliseconds"),
        "event_type": received.event_type,
        "event_id": received.event_id,
        "attempt": received.attempt,
        "verified": received.verified,
        "verdict": received.verdict,
        "status": status,
        "headers": dict(received.headers),
        "body": received.body.decode("utf-8", "replace"),
    }


def _times(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    if value == "always":
        return None
    if not value.isascii() or not value.isdigit():
        raise click.BadParameter(f"{value!r} is neither a number nor 'always'", ctx=ctx, param=param)
    return int(value)


def _checked_keys(ctx: click.Context, param: click.Parameter | None, value: Sequence[str]) -> tuple[str, ...]:
    from webhookd.errors import ApiError
    from webhookd.rules.signing import check_key, is_body_key

    try:
        return tuple(
            key if is_body_key(key) and not key.lower().startswith("whsec") else check_key(key) for key in value
        )
    except ApiError as error:
        raise click.BadParameter(error.message, ctx=ctx, param=param) from error


@click.command(
    short_help="Receive webhooks and print each one.",
    epilog=examples(
        "webhookd listen --add                  with an endpoint until Ctrl-C",
        "webhookd listen --port 9000 --key whsec_…",
        "webhookd listen --port 0 --fail 3      answer 500 three times, then 200",
        "webhookd listen --fail always --status 503",
        "webhookd listen --slow 6               later than webhookd waits",
        exits="0 stopped, 2 wrong usage.",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    "-p",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--key",
    "-k",
    "keys",
    multiple=True,
    metavar="whsec_…",
    callback=_checked_keys,
    help="Verify with this signing key, or a receiver's own key. Repeat it.",
)
@secret_file_option("--key-file", "More of them, one a line.")
@click.option("--fail", default="0", callback=_times, metavar="N|always", help="Fail the first N requests, or all.")
@click.option(
    "--status",
    type=click.IntRange(200, 599),
    metavar="CODE",
    help="What to answer; with --fail, what to fail with  [else 200, failing 500]",
)
@click.option("--slow", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Wait before each answer.")
@click.option("--body", is_flag=True, help="Print the bodies too.")
@click.option("--add", is_flag=True, help="Add an endpoint for it, verify with its key, delete it at the end.")
@click.option(
    "--event-type",
    "-e",
    "events",
    multiple=True,
    metavar="TYPE",
    shell_complete=complete_event_type,
    help="With --add: which events it wants  [else all]. Repeat it.",
)
@for_workspace
def listen(
    call: Call,
    *,
    host: str,
    port: int,
    keys: tuple[str, ...],
    key_file: str | None,
    fail: int | None,
    status: int | None,
    slow: float,
    body: bool,
    add: bool,
    events: tuple[str, ...],
) -> None:
    """Receive webhooks and print each one: time, type, event id, attempt, signature check, answer."""
    import asyncio

    keys = (*keys, *_checked_keys(click.get_current_context(), None, (key_file or "").splitlines()))
    if (add and keys) or (events and not add):
        raise click.UsageError("--add brings its own key and takes -e: it doesn't go with --key, nor -e without it.")
    receiver = Receiver(
        keys,
        fail=fail,
        fail_status=status or 500,
        status=(status or 200) if fail == 0 else 200,
        slow_seconds=slow,
    )

    def show(received: Received, answered: int) -> None:
        if call.as_json:
            return print_json_line(_json_of(received, answered))
        click.echo(line_of(received, answered))
        if body:
            for line in escape_lines(received.body.decode("utf-8", "replace")).splitlines():
                click.echo(f"    {line}")
        return None

    added = _Added(call, receiver, expanded(call, events or ("*",))) if add else None
    asyncio.run(_listen(receiver, host, port, show, lambda words: click.echo(words, err=call.as_json), added))


class _Added:
    """The endpoint of `--add`: there while the receiver listens."""

    def __init__(self, call: Call, receiver: Receiver, events: list[str]) -> None:
        self._client, self._path = call.client(), call.path("endpoints")
        self._receiver, self._events = receiver, events

    def add(self, url: str) -> str:
        """Add it, and verify with its key from now on; returns its id."""
        body = {"url": url, "event_types": self._events, "description": "webhookd listen --add"}
        made = self._client.post(self._path, body)
        self._receiver.keys.append(made["signing_key"])
        return str(made["id"])

    def delete(self, endpoint_id: str) -> None:
        """Delete it; one that was deleted meanwhile is no error."""
        from webhookd.cli.client import ApiRefused

        try:
            self._client.delete(f"{self._path}/{endpoint_id}")
        except ApiRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise


@asynccontextmanager
async def serving(receiver: Receiver, host: str, port: int, show: Show) -> AsyncIterator[str]:
    """Serve `receiver` and give its URL; `show` is called with each request and the status of its answer.

    Raises `click.ClickException` where it can't listen.
    """
    from aiohttp import web

    async def handle(request: web.BaseRequest) -> web.Response:
        received, status = await receiver.answer(request)
        show(received, status)
        return web.Response(status=status)

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise click.ClickException(
                f"can't listen on {escape(host)}:{port}: {error.strerror or error}. --port 0 takes a free one."
            ) from error
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}/"
    finally:
        await runner.cleanup()


async def _listen(
    receiver: Receiver, host: str, port: int, show: Show, say: Callable[[str], None], added: _Added | None
) -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(receiver, host, port, show) as url:
        say(f"Listening on {url}")
        if added is not None:
            endpoint_id = await asyncio.to_thread(added.add, url)
            say(f"Added {escape(endpoint_id)} for it, until Ctrl-C.")
            try:
                await stop.wait()
            finally:
                await asyncio.to_thread(added.delete, endpoint_id)
                say(f"Deleted {escape(endpoint_id)}.")
            return
        if not receiver.keys:
            say("No --key whsec_… was given, so signatures aren't verified.")
        say(f"To get events here: --add, or webhookd endpoint add {url} -e '*'  (egress.allow must hold this address)")
        await stop.wait()
