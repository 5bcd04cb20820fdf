"""`webhookd open`, `mail test`, `backup`, `audit`, `cluster`: what an operator asks of the running daemon."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.options import Call, common, examples, with_call
from webhookd.cli.output import local_time, moment, print_done, print_json, size, table, without_none
from webhookd.text import escape

if TYPE_CHECKING:
    from webhookd.cli.client import Client

# The daemon makes the whole copy before it sends the first byte.
_BACKUP_SILENCE_SECONDS = 600.0
_MAIL_TIMEOUT_SECONDS = 75.0
_PIECE_BYTES = 1 << 20
_DRAIN_SECONDS = 120


@click.command(
    "open",
    short_help="Print a link that signs you in to the page.",
    epilog=examples("webhookd open", 'xdg-open "$(webhookd open)"'),
)
@with_call
def open_(call: Call) -> None:
    """Print a link that signs you in to the page; it works once, for 10 minutes."""
    link = call.client().post("/v1/sign-in-links")
    print_done(call, link, escape(link["url"]))


@click.group(epilog=examples("webhookd mail test", "webhookd mail test --to ops@example.com"))
@common
def mail() -> None:
    """Try the mail that reports disabled endpoints."""


@mail.command("test", epilog=examples("webhookd mail test", "webhookd mail test --to ops@example.com"))
@click.option("--to", multiple=True, metavar="ADDRESS", help="The recipient  [else mail.notify]. Repeat it.")
@with_call
def mail_test(call: Call, to: tuple[str, ...]) -> None:
    """Send a test mail now; print the mail server's error, if any."""
    answer = call.client().post(
        "/v1/mail/test", without_none(to=list(to) or None), timeout_seconds=_MAIL_TIMEOUT_SECONDS
    )
    print_done(call, answer, f"The mail server took a test mail to {escape(', '.join(answer['to']))}.")


@click.command(
    short_help="Copy the database while the daemon runs.",
    epilog=examples("webhookd backup /var/backups/webhookd.db", "webhookd backup --force latest.db"),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@with_call
def backup(call: Call, file: Path, *, force: bool) -> None:
    """Copy the database to FILE, consistent, while the daemon runs.

    FILE appears whole or not at all, readable by you alone. To restore it: stop the daemon, put it in the place of
    webhookd.db (without the files -wal and -shm beside it), start the daemon.
    """
    if not force and os.path.lexists(file):
        raise click.UsageError(f"{escape(file)} is there already: --force replaces it.")
    client = call.client()
    try:
        written = _receive(client, file)
    except OSError as error:  # the client reports the connection's errors itself
        raise click.ClickException(f"{escape(file)} can't be written: {error.strerror or error}.") from error
    print_done(call, {"file": str(file), "bytes": written}, f"{escape(file)}: {size(written)}.")


@click.command(
    short_help="Show who changed what.",
    epilog=examples(
        "webhookd audit", "webhookd audit --who tok_… --since 7d", "webhookd audit --what revoke_token --all"
    ),
)
@click.option("--who", metavar="ID", help="Only of this token, session or address.")
@click.option("--what", metavar="TEXT", help="Only of this action or outcome, or with this in the path.")
@click.option("--since", metavar="TIME", callback=moment, help="Only from then on: 2h, 3d, or a time.")
@click.option("--until", metavar="TIME", callback=moment, help="Only before then.")
@click.option("-n", "--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many at most.")
@click.option("--all", "everything", is_flag=True, help="All of them, page after page.")
@with_call
def audit(call: Call, limit: int, *, everything: bool, **wanted: str | None) -> None:
    """Show who changed what, and whose token was refused, newest first."""
    client = call.client()
    if everything:
        page: dict[str, Any] = {"data": list(client.pages("/v1/audit", **wanted)), "next": None}
    else:
        page = client.get("/v1/audit", limit=limit, **wanted)
    if page["next"] is not None:
        click.echo("There are older ones: --all shows them.", err=True)
    if call.as_json:
        return print_json(page)
    rows = [
        (
            local_time(one["at"]),
            one["session_id"] or one["token_id"],
            one["address"],
            one["workspace"],
            one["action"],
            one["target"],
            one["outcome"],
        )
        for one in page["data"]
    ]
    return table(("at", "who", "address", "workspace", "action", "on", "outcome"), rows)


@click.group(
    short_help="Look after several machines that share the work.",
    epilog=examples("webhookd cluster status", "webhookd cluster drain", "webhookd cluster drain --end"),
)
@common
def cluster() -> None:
    """Look after a cluster: several machines that share the work over NATS (webhookd help scaling-out)."""


@cluster.command(
    "status",
    short_help="Show machines and partitions.",
    epilog=examples("webhookd cluster status", "watch webhookd cluster status"),
)
@with_call
def cluster_status(call: Call) -> None:
    """Show the machines, which of them has which partition, and how far each partition is."""
    look = call.client().get("/v1/cluster")
    if call.as_json:
        return print_json(look)
    nodes = [(one["node"], one["state"], one["partitions"], one["version"], one["advertise"]) for one in look["nodes"]]
    table(("machine", "state", "partitions", "version", "address"), nodes, right=("partitions",))
    click.echo()
    table(
        ("partition", "machine", "renewed", "last", "applied", "lag", "behind"),
        [
            (
                one["partition"],
                one["node"] or "none",
                f"{one['unchanged_seconds']:.1f} s ago",
                *("?" if one[name] is None else one[name] for name in ("last_sequence", "applied", "lag", "behind")),
            )
            for one in look["partitions"]
        ],
        right=("partition", "last", "applied", "lag", "behind"),
    )
    for warning in look["warnings"]:
        click.echo(f"\nWarning: {escape(warning)}.", err=True)
    return None


@cluster.command(
    "drain",
    short_help="Hand over a machine's partitions.",
    epilog=examples("webhookd cluster drain", "webhookd cluster drain --end", "webhookd cluster drain 0a1b2c3d4e5f"),
)
@click.argument("node", default="", metavar="[MACHINE]")
@click.option("--end", is_flag=True, help="Let it have partitions again.")
@with_call
def cluster_drain(call: Call, node: str, *, end: bool) -> None:
    """Hand over all partitions of a machine, this one by default, and wait until it has none."""
    node = node or _own_node(call)
    client = call.client()
    path = f"/v1/cluster/nodes/{node}/drain"
    if end:
        client.delete(path)
        return print_done(call, {"node": node, "draining": False}, f"{escape(node)} gets partitions again.")
    client.post(path)
    for _ in range(_DRAIN_SECONDS):
        left = sum(one["node"] == node for one in client.get("/v1/cluster")["partitions"])
        if not left:
            return print_done(call, {"node": node, "draining": True}, f"{escape(node)} has no partition any more.")
        time.sleep(1)
    raise click.ClickException(f"{escape(node)} still has {left} partitions: is another machine there to take them?")


def _own_node(call: Call) -> str:
    """The name of this machine in the cluster, from the state directory."""
    from webhookd.config.paths import find_state_dir

    file = find_state_dir(call.state_dir, call.environ, of_running=True) / "node-id"
    try:
        return file.read_text("ascii").strip()
    except OSError as error:
        raise click.UsageError(f"{escape(file)} can't be read ({error.strerror}): name the machine.") from error


def _receive(client: Client, file: Path) -> int:
    """Stream the copy into `file`, whole or not at all; returns its bytes."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with (
            os.fdopen(descriptor, "wb") as out,
            client.stream("POST", "/v1/backup", timeout_seconds=_BACKUP_SILENCE_SECONDS) as reply,
        ):
            while piece := reply.read(_PIECE_BYTES):
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
            written = out.tell()
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)
    return written
