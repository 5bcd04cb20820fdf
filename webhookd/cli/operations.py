"""What keeps a webhookd running well: its state at one look, its budget, its mail, its configuration, its copy."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from webhookd.cli.options import Call, common, examples, in_workspace
from webhookd.cli.output import ago, bar, given, local_time, print_json, said, size, table
from webhookd.text import duration, escape

if TYPE_CHECKING:
    from webhookd.cli.client import Client
    from webhookd.config_loader import Difference

# How long the daemon may take before the copy's first byte: it makes the copy whole before it sends it.
_BACKUP_SILENCE_SECONDS = 600.0
_MAIL_TIMEOUT_SECONDS = 75.0
_PIECE_BYTES = 1 << 20


@click.command(epilog=examples("webhookd budget", "webhookd budget --workspace acme --json"))
@in_workspace
@common
@click.pass_obj
def budget(call: Call) -> None:
    """Show a workspace's failure budget and who spends it."""
    client = call.client()
    view = client.get(call.path("budget"))
    if call.as_json:
        return print_json(view)
    failures, limit = view["failures"], view["limit"]
    click.echo(f"{bar(failures, limit)}  {failures} of {limit} failures in {duration(view['window_seconds'])}")
    if view["by_endpoint"]:
        urls = {one["id"]: one["url"] for one in client.pages(call.path("endpoints"))}
        for endpoint_id, spent in sorted(view["by_endpoint"].items(), key=lambda pair: -pair[1]):
            click.echo(f"{spent:>5}  {escape(endpoint_id)}  {escape(urls.get(endpoint_id, '(deleted)'))}")
    if view.get("oldest_expires_at"):
        leaves = view["oldest_expires_at"]
        click.echo(f"The oldest failure leaves the count at {local_time(leaves)} ({ago(leaves)}).")
    if view["spent_until"]:
        until = local_time(view["spent_until"])
        click.echo(click.style(f"Spent until {until}: one more failure disables its endpoint.", fg="red"))
    return None


@click.command(
    "open",
    short_help="Print a link that signs you in to the page.",
    epilog=examples("webhookd open", 'xdg-open "$(webhookd open)"'),
)
@common
@click.pass_obj
def open_(call: Call) -> None:
    """Print a link that signs you in to the page; it works once, for 10 minutes."""
    link = call.client().post("/v1/sign-in-links")
    return print_json(link) if call.as_json else click.echo(escape(link["url"]))


@click.group(epilog=examples("webhookd mail test", "webhookd mail test --to ops@example.com"))
@common
def mail() -> None:
    """Try the mail that tells of disabled endpoints."""


@mail.command("test", epilog=examples("webhookd mail test", "webhookd mail test --to ops@example.com"))
@click.option("--to", multiple=True, metavar="ADDRESS", help="To whom  [else mail.notify]. Repeat it.")
@common
@click.pass_obj
def mail_test(call: Call, to: tuple[str, ...]) -> None:
    """Send a test mail, now; what the mail server has against it is said."""
    answer = call.client().post("/v1/mail/test", given(to=list(to) or None), timeout_seconds=_MAIL_TIMEOUT_SECONDS)
    said(call, answer, f"The mail server took a test mail to {escape(', '.join(answer['to']))}.")


@click.command(
    "check-config",
    short_help="Name each mistake of a configuration.",
    epilog=examples(
        "webhookd check-config /etc/webhookd/webhookd.toml",
        "webhookd check-config",
        exits="0 no mistakes, 1 mistakes, 2 wrong usage.",
    ),
)
@click.argument("file", type=click.Path(), required=False)
@common
@click.pass_obj
def check_config(call: Call, file: str | None) -> None:
    """Name each mistake of a configuration with its line and the right form; exit code 1 if there are any.

    Without mistakes it lists what differs from the defaults, and what of that needs a restart. The WEBHOOKD_…
    variables count too. Without FILE it checks what the daemon would read.
    """
    from webhookd.config import find_config
    from webhookd.config_loader import check, differences

    path = find_config(file or call.config, call.environ)
    mistakes = check(path, call.environ)
    changed = [] if mistakes else differences(path, call.environ)
    if call.as_json:
        named = [{"source": m.source, "line": m.line, "key": m.key, "what": m.what, "form": m.form} for m in mistakes]
        print_json({"ok": not mistakes, "mistakes": named, "differences": [asdict(each) for each in changed]})
    elif mistakes:
        for mistake in mistakes:
            click.echo(escape(mistake), err=True)
    else:
        _print_differences(escape(path) if path else "The defaults and the environment", changed)
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
    short_help="Copy the database while the daemon runs.",
    epilog=examples("webhookd backup /var/backups/webhookd.db", "webhookd backup --force latest.db"),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@common
@click.pass_obj
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
    except OSError as error:  # the connection's own errors are said by the client
        raise click.ClickException(f"{escape(file)} can't be written: {error.strerror or error}.") from error
    said(call, {"file": str(file), "bytes": written}, f"{escape(file)}: {size(written)}.")


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
