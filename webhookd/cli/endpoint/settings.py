"""The options of an endpoint's settings, for `webhookd endpoint add` and `edit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from webhookd.cli.event_types import expanded
from webhookd.cli.options import Call, complete_event_type, secret_file_option
from webhookd.cli.output import without_none


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{one!r} is no header: write it as 'X-Tenant: acme'", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers


def _ordering(path: str | None, lanes: int | None) -> dict[str, Any]:
    if not path and lanes is not None:
        raise click.UsageError("--lanes goes with a key: name that too, as --order-by contact.id.")
    if path is None:
        return {}
    return {"ordering": {"key": path} | without_none(lanes=lanes) if path else "endpoint"}


def _filters(given: tuple[str, ...]) -> dict[str, Any]:
    """Patterns by event type, None for those to take away."""
    filters: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{one!r} is none: write it as TYPE=JSON or TYPE=@FILE", param_hint="--filter")
        try:
            if text.startswith("@"):
                with click.open_file(text[1:], encoding="utf-8") as file:
                    text = file.read()
            filters[name] = json.loads(text) if text.strip() else None
        except OSError as error:
            raise click.BadParameter(f"{text[1:]} can't be read: {error.strerror}", param_hint="--filter") from error
        except (ValueError, RecursionError) as error:
            raise click.BadParameter(f"the filter of {name} is no JSON: {error}", param_hint="--filter") from error
    return filters


_SETTINGS = (
    click.option(
        *("--event-type", "-e", "events"), multiple=True, metavar="TYPE", shell_complete=complete_event_type,
        help="What it wants: a type, several (a,b), 'message.*', or '*' for all. Repeat it.",
    ),
    click.option("--description", metavar="TEXT", help="What it is for."),
    click.option("--success", type=click.Choice(["200", "2xx"]), help="Which answers count as delivered  [else 200]"),
    click.option(
        *("--header", "-H", "headers"), multiple=True, metavar="'NAME: VALUE'",
        help="A header for its requests. Repeat it.",
    ),
    secret_file_option("--header-file", "More headers, one a line."),
    click.option("--signing-key", metavar="whsec_…", help="Sign with this key; it holds at once."),
    secret_file_option("--signing-key-file", "The same, from a file."),
    click.option(
        "--x-webhook-signature/--no-x-webhook-signature", default=None, help="Send X-Webhook-Signature, or don't."
    ),
    click.option(
        "--x-webhook-signature-key", metavar="TEXT", help="The key for it that the receiver has; '': the signing key."
    ),
    secret_file_option("--x-webhook-signature-key-file", "The same, from a file."),
    click.option(
        "--order-by", metavar="PATH",
        help="Deliver in order by this key, as contact.id, others beside; '': all one by one.",
    ),
    click.option(
        "--filter", "filters", multiple=True, metavar="TYPE=JSON",
        help="Only events of TYPE ('*': of every type) that match this pattern, or that in @FILE. Repeat it.",
    ),
    click.option("--lanes", type=int, metavar="N", help="With a key: so many requests at a time, 2 to 64  [else 8]"),
)  # fmt: skip


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of an endpoint's settings; the command gets those given as `settings`, by the API's names."""

    @wraps(command)
    def run(call: Call, *args: Any, **given: Any) -> None:
        events, headers, lines = given.pop("events"), given.pop("headers"), given.pop("header_file")
        settings = without_none(event_types=expanded(call, events) or None)
        if headers or lines is not None:
            settings["headers"] = _headers((*headers, *filter(str.strip, (lines or "").splitlines())))
        for name in ("signing_key", "x_webhook_signature_key"):
            value, of_file = given.pop(name), given.pop(f"{name}_file")
            if value is not None and of_file is not None:
                option = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{option} and {option}-file both set it: name one of them.")
            settings |= without_none(**{name: value if of_file is None else of_file})
        if settings.get("x_webhook_signature_key") == "":
            settings["x_webhook_signature_key"] = None
        settings |= without_none(**{n: given.pop(n) for n in ("description", "success", "x_webhook_signature")})
        settings |= _ordering(given.pop("order_by"), given.pop("lanes"))
        settings |= without_none(filters=_filters(given.pop("filters")) or None)
        command(call, *args, settings=settings, **given)

    for option in reversed(_SETTINGS):
        run = option(run)
    return run
