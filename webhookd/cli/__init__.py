"""The command line: one file per family of commands, each talking to the running daemon over its API.

Exit codes: 0 done, 1 refused (the API's message is on stderr), 2 wrong usage, 3 daemon not reachable; 130 after Ctrl-C.
Modules that are slow to import are imported where they are used: help takes 0.11 s instead of 0.24 s.
"""

from __future__ import annotations

import io
import os
import sys

import click

from webhookd._version import __version__
from webhookd.cli import cluster, endpoint, event_types, listen, log, operations, replay, send, serve, status, workspace
from webhookd.cli.help import help_
from webhookd.cli.options import common, examples, in_workspace
from webhookd.cli.output import json_text

# For the help; `find_config` and `find_state_dir` define the exact rules.
_VARIABLES = (
    ("WEBHOOKD_CONFIG", "The configuration file."),
    ("WEBHOOKD_STATE_DIR", "The state directory."),
    (
        "WEBHOOKD_URL, WEBHOOKD_TOKEN",
        "The daemon's address and a token, instead of those in the state directory.",
    ),
    ("WEBHOOKD_INGEST_TOKEN", "The token that the recipes post events with."),
    ("WEBHOOKD_LISTEN__PORT, …", "Any setting, as WEBHOOKD_<SECTION>__<KEY>."),
    ("NO_COLOR", "No colours."),
)
_FILES = (
    ("/etc/webhookd/webhookd.toml", "The service's settings; only the systemd unit reads it from there."),
    ("STATE/webhookd.db", "The database; STATE is the state directory."),
    ("STATE/admin-token", "The token that the commands use."),
    ("STATE/ingest-token", "A token that may only post events, for producers."),
)
_EXIT_INTERRUPTED = 130
_EXIT_PIPE_CLOSED = 141
_SECTIONS = {
    "To begin": (serve.demo, serve.serve, serve.check_config, operations.open_, help_),
    "Events": (send.send, listen.listen, log.log, replay.replay),
    "Who gets them": (endpoint.endpoint, event_types.types, workspace.workspace, workspace.token),
    "Looking after it": (
        status.status,
        status.budget,
        operations.audit,
        workspace.session,
        operations.mail,
        operations.backup,
        operations.cluster,
    ),
}


class _Root(click.Group):
    """The top command: its help shows the commands in sections rather than from A to Z."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        limit = formatter.width - 6 - max(len(name) for name in self.commands)
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(command.name or "", command.get_short_help_str(limit)) for command in commands])
        for title, rows in (("Variables", _VARIABLES), ("Files", _FILES)):
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> None:
        """Run a command; a reader of our output that left (`webhookd log | head`) ends it quietly."""
        try:
            super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(_EXIT_PIPE_CLOSED)


@click.group(
    cls=_Root,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=examples(
        "webhookd demo                 see it work, in five seconds",
        "webhookd endpoint add https://example.com/hook -e message.received",
        "cat events.ndjson | webhookd send",
        "webhookd log -f",
        "Completion in this shell (or zsh_source, fish_source):",
        'eval "$(_WEBHOOKD_COMPLETE=bash_source webhookd)"',
    ),
)
@click.version_option(__version__, message="webhookd %(version)s")
@in_workspace
@common
@click.pass_context
def cli(ctx: click.Context) -> None:
    """webhookd delivers your product's events to webhooks: signed, in order, never lost once accepted.

    webhookd COMMAND --help explains a command, webhookd help shows the manual.
    """
    if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        ctx.color = False
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _commands in _SECTIONS.values():
    for _command in _commands:
        cli.add_command(_command)


for _command in (cluster.import_, cluster.export):
    operations.cluster.add_command(_command)


def _error_json(error: click.ClickException) -> str:
    """An error in the API's form; where it isn't the API's own, the code is the meaning of the exit code."""
    codes = {2: "wrong_usage", 3: "unreachable"}
    code = getattr(error, "code", "") or codes.get(error.exit_code, "refused")
    details = getattr(error, "details", {})
    return json_text({"error": {"code": code, "message": error.format_message(), "details": details}}, indent=None)


def main() -> None:
    """The program's entry point: run a command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # write what the encoding can't show as \\u…
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(prog_name="webhookd", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(_EXIT_INTERRUPTED)
    except click.ClickException as error:
        if "--json" in sys.argv:
            click.echo(_error_json(error), err=True)
        else:
            error.show()
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
