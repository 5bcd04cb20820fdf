"""`webhookd cluster import` and `export`, and the demo of a cluster: what runs beside the daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from webhookd.cli.options import Call, examples, with_call
from webhookd.cli.output import print_done
from webhookd.text import escape


@click.command(
    "import",
    short_help="Fill a new cluster from a database.",
    epilog=examples("webhookd cluster import /root/webhookd.db --config cluster.toml"),
)
@click.argument("database", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_call
def import_(call: Call, database: Path) -> None:
    """Fill a new cluster from the database of a single daemon, which has ended.

    The configuration names the cluster. No machine of it may have started yet. Workspaces, endpoints and tokens are
    the same there; what waits is delivered there, in order; ids of events are remembered. The log stays behind.
    """
    found = _run(call, "import_database", database.absolute())
    message = f"{found.workspaces} workspaces, {found.endpoints} endpoints and {found.events} events are in the cluster"
    if found.left_out:
        message += f"; {found.left_out} replays that waited are not"
    print_done(call, {each: getattr(found, each) for each in found.__struct_fields__}, f"{message}.")


@click.command(
    "export",
    short_help="Make one database of a cluster.",
    epilog=examples("webhookd cluster export /srv/single --config cluster.toml"),
)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@with_call
def export(call: Call, directory: Path) -> None:
    """Make a state directory for a single daemon from a cluster whose machines have all been stopped.

    What waits is delivered from there, in order; ids of events are remembered. The log has the events that the streams
    still have, without their deliveries.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = _run(call, "export_database", directory.absolute())
    message = (
        f"{escape(directory)} has {found.workspaces} workspaces, {found.endpoints} endpoints, {found.events} events"
    )
    print_done(call, {each: getattr(found, each) for each in found.__struct_fields__}, f"{message}.")


def _run(call: Call, name: str, path: Path) -> Any:
    import asyncio

    from webhookd import log
    from webhookd.config.loader import load
    from webhookd.config.paths import find_config
    from webhookd.daemon import database_cipher
    from webhookd.errors import FatalError

    try:
        config = load(find_config(call.config, call.environ), call.environ)
        if not config.cluster.servers:
            raise click.ClickException("the configuration has no cluster.servers")
        from webhookd.cluster import migrate

        log.configure("console", "error")
        cipher = database_cipher(config.store.key_file, call.environ)
        return asyncio.run(getattr(migrate, name)(config, path, cipher, _progress))
    except FatalError as error:
        raise click.ClickException(str(error)) from error


def _progress(words: str) -> None:
    click.echo(f"\r{words}  ", nl=False, err=True)
