"""What the shell completes beside words and files: endpoints, event types, workspaces, asked of the daemon.

A completion that can't be had is no error: the person goes on typing.  The types that are built in are known anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from webhookd.cli.options import Call

Completing = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def endpoints(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ids of endpoints; with their URLs beside them in shells that show a help."""
    call = context.ensure_object(Call)
    return _asked(call, call.path("endpoints"), "id", "url", begun)


def workspaces(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Ids of workspaces, with their names."""
    return _asked(context.ensure_object(Call), "/v1/workspaces", "id", "name", begun)


def event_types(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Names of event types, with when each fires."""
    found = _asked(context.ensure_object(Call), "/v1/event-types", "name", "description", begun)
    return found or _built_in(begun)


def _asked(call: Call, path: str, value: str, help_: str, begun: str) -> list[CompletionItem]:
    try:
        found = list(call.client().pages(path))
    except (click.ClickException, click.exceptions.Exit):
        return []
    return [
        CompletionItem(each[value], help=" ".join(str(each[help_]).split()))
        for each in found
        if each[value].startswith(begun)
    ]


def _built_in(begun: str) -> list[CompletionItem]:
    from webhookd.rules.event_types import BUILT_IN

    return [CompletionItem(each.name, help=each.description) for each in BUILT_IN if each.name.startswith(begun)]
