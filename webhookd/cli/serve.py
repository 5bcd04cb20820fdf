"""`webhookd serve` runs the daemon, `check-config` validates its configuration, `demo` shows what it does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from webhookd.cli.options import Call, examples, where, with_call
from webhookd.cli.output import print_json, table
from webhookd.text import escape

if TYPE_CHECKING:
    import asyncio

    from webhookd.config.loader import Difference


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
    from webhookd.config import Config
    from webhookd.config.loader import load
    from webhookd.config.paths import find_config, find_state_dir
    from webhookd.errors import FatalError

    def read() -> Config:
        return load(find_config(call.config, call.environ), call.environ)

    def greet(info: daemon.DaemonInfo) -> None:
        # For a person at a terminal; stdout is for log lines.
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
        if "JOURNAL_STREAM" not in call.environ:  # systemd.exec(5): the journal has it already
            click.echo(f"webhookd can't run: {error}", err=True)
    sys.exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where the extra `fast` is installed (up to a tenth faster); else asyncio's own."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


@click.command(
    "check-config",
    short_help="Validate the configuration.",
    epilog=examples(
        "webhookd check-config /etc/webhookd/webhookd.toml",
        "webhookd check-config",
        exits="0 no mistakes, 1 mistakes, 2 wrong usage.",
    ),
)
@click.argument("file", type=click.Path(), required=False)
@with_call
def check_config(call: Call, file: str | None) -> None:
    """Validate the configuration: print each mistake with its line and the right form.

    Exit code 1 if there are mistakes. Without mistakes it lists what differs from the defaults, and which of that
    needs a restart, and what is risky. The WEBHOOKD_… variables count too. Without FILE it checks what the daemon
    would read.
    """
    from webhookd.config.loader import check, differences, load
    from webhookd.config.paths import find_config
    from webhookd.config.warnings import warnings

    path = find_config(file or call.config, call.environ)
    mistakes = check(path, call.environ)
    changed = [] if mistakes else differences(path, call.environ)
    risky = [] if mistakes else list(warnings(load(path, call.environ)))
    if call.as_json:
        named = [{"source": m.source, "line": m.line, "key": m.key, "what": m.what, "form": m.form} for m in mistakes]
        print_json(
            {
                "ok": not mistakes,
                "mistakes": named,
                "differences": [asdict(each) for each in changed],
                "warnings": [{"key": key, "message": message} for key, message in risky],
            }
        )
    elif mistakes:
        for mistake in mistakes:
            click.echo(escape(mistake), err=True)
    else:
        _print_differences(escape(path) if path else "The defaults and the environment", changed)
        for key, message in risky:
            click.echo(f"\n{key}: {message}.")
    if mistakes:
        click.get_current_context().exit(1)


def _print_differences(checked: str, changed: list[Difference]) -> None:
    if not changed:
        return click.echo(f"{checked}: no mistakes, and nothing differs from the defaults.")
    click.echo(f"{checked}: no mistakes. What differs from the defaults:\n")
    rows = [
        (
            each.key,
            each.value,
            each.default,
            f"line {each.line}" if each.line else each.source,
            "needs a restart" if each.needs_restart else "",
        )
        for each in changed
    ]
    return table(("key", "value", "default", "set by", ""), rows)


@click.command(
    short_help="See it work, in five seconds.",
    epilog=examples(
        "webhookd demo",
        "webhookd demo --once      exit when done",
        "webhookd demo --cluster   several machines, of which some are killed",
        exits="0 all has arrived, 1 not all, 2 wrong usage.",
    ),
)
@click.option("--once", is_flag=True, help="Exit when everything has arrived, also on a terminal.")
@click.option("--cluster", is_flag=True, help="Show a cluster instead, one machine of which is killed.")
def demo(*, once: bool, cluster: bool) -> None:
    """See webhookd work: events, signatures, retries, a drop, a disabled endpoint, and its events in order after all.

    It runs a daemon of its own on a temporary database and touches nothing of yours. On a terminal it stays up until
    Ctrl-C, for a look at the page; otherwise it exits 0 after the last expected delivery, or 1 after 30 seconds.
    """
    import asyncio

    from webhookd.cli.demo import run

    if cluster:
        from webhookd.cli.cluster.demo import run as run_cluster

        asyncio.run(run_cluster())
        return
    code = asyncio.run(run(stay=sys.stdout.isatty() and not once))
    click.get_current_context().exit(code)
