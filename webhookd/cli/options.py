"""What every command shares: the options that say which daemon is meant, and the shape of the help.

The options of `common` may stand before the command's name or after it: `webhookd --json status` and
`webhookd status --json` are the same.  Both write into the one `Call` of the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from webhookd.cli.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Call:
    """What one run was told: where the daemon is, whose workspace is meant, and how to print."""

    config: str | None = None
    state_dir: str | None = None
    as_json: bool = False
    workspace: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def client(self, *, ingest: bool = False) -> Client:
        """The client of the daemon that is meant; with `ingest`, a token that may only post events will do.

        Raises `click.UsageError` (exit code 2) if the configuration that says where to look can't be used.
        """
        # Imported here, as everywhere in the CLI: help and usage errors shouldn't wait for an HTTP library.
        from webhookd.cli.discovery import find_daemon

        return find_daemon(self, ingest=ingest)

    def path(self, *parts: str) -> str:
        """The API's path of something in the workspace that is meant; `default` has the short paths (api.md)."""
        from urllib.parse import quote

        start = ("workspaces", self.workspace) if self.workspace else ()
        return "/v1/" + "/".join(quote(part, safe="") for part in (*start, *parts))


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Write an option into the run's `Call`; one that wasn't given leaves what stood before the command's name."""
    call = ctx.ensure_object(Call)
    if value:
        assert param.name is not None
        setattr(call, param.name, value)


def common(command: Command) -> Command:
    """Add `--config`, `--state-dir` and `--json`."""
    return where(
        click.option(
            "--json", "as_json", is_flag=True, expose_value=False, callback=_keep, help="For scripts: print JSON."
        )(command)
    )


def where(command: Command) -> Command:
    """Add `--config` and `--state-dir`: where the daemon is found."""
    path = click.Path()  # for completion: whether it's good is said by whoever opens it
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
    """Add `--workspace`; without it `default` is meant."""
    return _workspace(command, "Whose: the workspace's id  [else default]")


def bound_to_workspace(command: Command) -> Command:
    """Add `--workspace` to a command that without it means all of them."""
    return _workspace(command, "The only workspace that it is good for  [else every one]")


def _workspace(command: Command, text: str) -> Command:
    # The module asks the daemon, as commands do, and so imports this one.
    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        from webhookd.cli.completion import workspaces

        return workspaces(context, parameter, begun)

    return click.option(
        "--workspace", "-w", metavar="ID", expose_value=False, callback=_keep, shell_complete=complete, help=text
    )(command)


def examples(*lines: str, exits: str = "0 done, 1 refused, 2 wrong usage, 3 the daemon can't be reached.") -> str:
    """The end of a command's help: its examples, one per line, kept as they are, and its exit codes."""
    shown = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{shown}\n\nExit codes: {exits}"
