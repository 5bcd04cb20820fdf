"""`webhookd demo`: the five-second proof."""

from __future__ import annotations

import sys

import click

from webhookd.cli.options import examples


@click.command(
    short_help="See it work, in five seconds.",
    epilog=examples(
        "webhookd demo", "webhookd demo --once   exit when done", exits="0 all has arrived, 1 not all, 2 wrong usage."
    ),
)
@click.option("--once", is_flag=True, help="Exit when everything has arrived, also on a terminal.")
def demo(*, once: bool) -> None:
    """See webhookd work: events, signatures, retries, a drop, a disabled endpoint, and its events in order after all.

    It runs a daemon of its own on a temporary database and touches nothing of yours. On a terminal it stays up until
    Ctrl-C, for a look at the page; otherwise it exits 0 after the last expected delivery, or 1 after 30 seconds.
    """
    import asyncio

    from webhookd.cli.play import play

    code = asyncio.run(play(stay=sys.stdout.isatty() and not once))
    click.get_current_context().exit(code)
