"""`webhookd serve`: the daemon itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from webhookd.cli.options import Call, examples, where

if TYPE_CHECKING:
    import asyncio


@click.command(
    epilog=examples(
        "webhookd serve",
        "webhookd serve --config /etc/webhookd/webhookd.toml",
        "WEBHOOKD_LISTEN__PORT=9780 webhookd serve --state-dir ./state",
        exits="0 stopped, 75 and 78 as above, 2 wrong usage, else it failed.",
    )
)
@where
@click.pass_obj
def serve(call: Call) -> None:
    """Run the daemon, in the foreground, until SIGTERM or Ctrl-C.

    Without a configuration file it runs on its defaults. Log lines go to stdout; on a terminal a link to the page is
    printed as well. SIGHUP reloads the configuration.
    Exits 78 if the configuration or the database can't be used, 75 if another daemon has the state directory.
    """
    import asyncio

    from webhookd import daemon, log
    from webhookd.config import Config, find_config, find_state_dir
    from webhookd.config_loader import load
    from webhookd.errors import FatalError

    def read() -> Config:
        return load(find_config(call.config, call.environ), call.environ)

    def greet(info: daemon.DaemonInfo) -> None:
        # For a person alone: stdout is for log lines, and a pipe keeps what it was given.
        link = info.sign_in_link() if sys.stdout.isatty() else None
        if link is not None:
            click.echo(f"The page: {link}  (signs you in, once, within 10 minutes)", err=True)

    try:
        config = read()
        state_dir = find_state_dir(call.state_dir, call.environ)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(daemon.serve(config, state_dir, environ=call.environ, reload=read, ready=greet))
    except FatalError as error:
        code = error.exit_code
        if not sys.stdout.isatty():
            log.configure()
            log.emit("daemon.failed", error=str(error), exit_code=code)
            log.flush()
        if "JOURNAL_STREAM" not in call.environ:  # systemd.exec(5): there, both are the journal, which has it now
            click.echo(f"webhookd can't run: {error}", err=True)
    sys.exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where the extra `fast` is installed (up to a tenth faster, see the README); else asyncio's own."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory
