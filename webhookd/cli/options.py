"""What every command shares: the options that name the daemon, shell completion, and the shape of the help.

The options of `common` may stand before the command's name or after it: `webhookd --json status` and
`webhookd status --json` are the same.  Both write into the one `Call` of the run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from webhookd.text import escape

if TYPE_CHECKING:
    from webhookd.cli.client import Client

# A page of a list is enough to choose from, and comes in some milliseconds.
_COMPLETED = 200
_COMPLETION_SECONDS = 0.5

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Call:
    """The shared options of one run: where the daemon is, which workspace, and how to print."""

    config: str | None = None
    state_dir: str | None = None
    as_json: bool = False
    wide: bool = False
    workspace: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def client(self, *, ingest: bool = False) -> Client:
        """A client of the daemon; with `ingest`, a token of scope ingest is enough.

        Raises `click.UsageError` (exit code 2) if the configuration that says where to look can't be used.
        """
        # Imported here, as everywhere in the CLI: help and usage errors shouldn't wait for an HTTP library.
        from webhookd.cli.discovery import find_daemon

        return find_daemon(self.config, self.state_dir, self.environ, ingest=ingest)

    def path(self, *parts: str) -> str:
        """The API's path of something in the run's workspace; `default` has the short paths (manual/api.md)."""
        from urllib.parse import quote

        start = ("workspaces", self.workspace) if self.workspace else ()
        return "/v1/" + "/".join(quote(part, safe="") for part in (*start, *parts))


def find(call: Call, which: str) -> str:
    """The id of the endpoint given by id or URL, which is found in every form that makes the same requests."""
    if "://" not in which:
        return which
    from webhookd.rules.urls import normal_form

    wanted = normal_form(which)
    same = [one for one in call.client().pages(call.path("endpoints")) if normal_form(one["url"]) == wanted]
    # An older webhookd let them be added side by side.
    found = [one["id"] for one in same if one["url"] == which] or [one["id"] for one in same]
    if len(found) == 1:
        return str(found[0])
    where = f"workspace {call.workspace or 'default'}"
    if not found:
        raise click.ClickException(
            f"no endpoint of {where} has the URL {escape(which)}. `webhookd endpoint list` shows them."
        )
    raise click.UsageError(f"several endpoints of {where} have this URL: name one by its id: {', '.join(found)}.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed, unless `yes`; anything but yes exits with 1.

    Where nothing can be read (a script, cron): `click.UsageError`, which asks for --yes.
    """
    if yes:
        return
    click.echo(f"{question} [y/N]: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        click.echo(err=True)
        raise click.UsageError(f"{question} Without a terminal it takes --yes; nothing was done.")
    if answer.strip().lower() not in ("y", "yes"):
        click.echo("Nothing was done.", err=True)
        click.get_current_context().exit(1)


def secret_file_option(name: str, text: str) -> Callable[[Command], Command]:
    """An option that names a file with a secret, "-" for standard input: arguments are seen by every user's `ps`."""
    file = click.File("r", encoding="utf-8")
    return click.option(name, type=file, metavar="FILE", callback=_read_secret, help=f"{text}  [- is standard input]")


def _read_secret(ctx: click.Context, param: click.Parameter, file: IO[str] | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter("it can't be read as UTF-8 text.", ctx, param) from error


class Words(click.Choice[str]):
    """One of some words; another one is an error with the nearest of them."""

    def __init__(self, *words: str) -> None:
        super().__init__(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises `click.BadParameter`."""
        if value in self.choices:
            return value
        from webhookd.errors import did_you_mean

        nearest = did_you_mean(str(value), self.choices, cutoff=0.0)
        return self.fail(f"{value!r}: did you mean {nearest}? It is one of {', '.join(self.choices)}.", param, ctx)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Write an option into the run's `Call`; one that is absent keeps the value given before the command's name."""
    call = ctx.ensure_object(Call)
    if value:
        assert param.name is not None
        setattr(call, param.name, value)


def common(command: Command) -> Command:
    """Add `--config`, `--state-dir`, `--json` and `--wide`."""
    for name, text, *names in (
        ("wide", "Don't shorten tables to fit the terminal.", "--wide"),
        ("as_json", "For scripts: print JSON, errors too.", "--json"),
    ):
        command = click.option(*names, name, is_flag=True, expose_value=False, callback=_keep, help=text)(command)
    return where(command)


def with_call(command: Command) -> Command:
    """Add the options of `common`, and pass the run's `Call` first."""
    return common(cast("Command", click.pass_obj(command)))


def for_workspace(command: Command) -> Command:
    """`with_call`, and `--workspace`."""
    return in_workspace(with_call(command))


def where(command: Command) -> Command:
    """Add `--config` and `--state-dir`: where the daemon is found."""
    path = click.Path()  # for completion alone: it isn't checked here
    for name, text in (
        (
            "--state-dir",
            "The daemon's state directory  [else $STATE_DIRECTORY, /var/lib/webhookd, ~/.local/state/webhookd]",
        ),
        ("--config", "The daemon's configuration  [else $WEBHOOKD_CONFIG]"),
    ):
        command = click.option(name, type=path, expose_value=False, callback=_keep, help=text)(command)
    return command


def in_workspace(command: Command) -> Command:
    """Add `--workspace`; `default` without it."""
    return _workspace(command, "The workspace's id  [else default]")


def bound_to_workspace(command: Command) -> Command:
    """Add `--workspace` to a command that concerns all of them without it."""
    return _workspace(command, "The only workspace that it is good for  [else every one]")


def _workspace(command: Command, text: str) -> Command:
    return click.option(
        *("--workspace", "-w"),
        metavar="ID",
        expose_value=False,
        callback=_keep,
        shell_complete=complete_workspace,
        help=text,
    )(command)


def complete_workspace(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shell completion: ids of workspaces, with their names."""
    return _complete(context.ensure_object(Call), "/v1/workspaces", "id", "name", begun)


def complete_endpoint(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shell completion: ids of endpoints and their URLs, each with the other and the description beside it."""
    call = context.ensure_object(Call)
    path = call.path("endpoints")
    return _complete(call, path, "id", "url description", begun) + (
        _complete(call, path, "url", "id description", begun) if begun else []
    )


def complete_event_type(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shell completion: names of event types; the built-in ones where the daemon doesn't answer."""
    from webhookd.rules.event_types import BUILT_IN

    found = _complete(context.ensure_object(Call), "/v1/event-types", "name", "description", begun)
    return found or [
        CompletionItem(each.name, help=each.description) for each in BUILT_IN if each.name.startswith(begun)
    ]


def complete_event(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shell completion: ids of the newest events, with type and time."""
    call = context.ensure_object(Call)
    return _complete(call, call.path("events"), "event_id", "event_type accepted_at", begun)


def complete_logged(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shell completion: ids of the newest deliveries, with state, type and time; then of the newest events."""
    call = context.ensure_object(Call)
    found = _complete(call, call.path("deliveries"), "id", "state event_type accepted_at", begun)
    return found + complete_event(context, parameter, begun)


def complete_token(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shell completion: ids of tokens, with scope and note."""
    return _complete(context.ensure_object(Call), "/v1/tokens", "id", "scope note", begun)


def complete_session(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shell completion: ids of sessions, with token and address."""
    return _complete(context.ensure_object(Call), "/v1/sessions", "id", "token_id address", begun)


def _complete(call: Call, path: str, value: str, help_: str, begun: str) -> list[CompletionItem]:
    """The first items of a list of the API whose `value` starts with `begun`; `help_` names the fields beside it.

    None where the daemon doesn't answer at once: a person waits for it.
    """
    try:
        page = call.client().call("GET", path, query={"limit": _COMPLETED}, timeout_seconds=_COMPLETION_SECONDS)
    except (click.ClickException, click.exceptions.Exit):
        return []
    return [
        CompletionItem(escape(each[value]), help=_beside(each, help_.split()))
        for each in page["data"]
        if each[value].startswith(begun)
    ]


def _beside(item: dict[str, Any], names: list[str]) -> str:
    """Some fields of an item on one line."""
    return escape(" ".join(" ".join(str(item.get(name) or "") for name in names).split()))


def examples(*lines: str, exits: str = "0 done, 1 refused, 2 wrong usage, 3 the daemon can't be reached.") -> str:
    """The end of a command's help: its examples, one per line, kept as they are, and its exit codes."""
    shown = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{shown}\n\nExit codes: {exits}"
