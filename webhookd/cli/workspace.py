"""`webhookd workspace …`, `webhookd token …`, `webhookd session …`: tenants, API tokens, who is signed in."""

from __future__ import annotations

from typing import Any

import click

from webhookd.cli.options import (
    Call,
    bound_to_workspace,
    common,
    complete_session,
    complete_token,
    complete_workspace,
    confirm,
    examples,
    with_call,
)
from webhookd.cli.output import fields, local_time, moment_to_come, print_done, print_json, table, without_none
from webhookd.text import escape

_ID = click.argument("workspace_id", metavar="ID", shell_complete=complete_workspace)
_NAME = click.option("--name", metavar="TEXT", help="Its name for people.")
_PLAN = click.option("--plan", metavar="PLAN", help="Its plan, for instance starter, growth, advanced or enterprise.")
_LANGUAGE = click.option("--language", type=click.Choice(["en", "vi"]), help="The language of its mails.")
_NOTIFY = click.option("--notify", multiple=True, metavar="ADDRESS", help="Who gets the notices by mail. Repeat it.")


@click.group(epilog=examples("webhookd workspace add acme --name 'ACME Ltd'", "webhookd workspace list"))
@common
def workspace() -> None:
    """Add, list and change workspaces (tenants).

    `default` exists from the start; you need workspaces only when you have two.
    """


@workspace.command(epilog=examples("webhookd workspace add acme --name 'ACME Ltd' --notify ops@acme.example"))
@_ID
@_NAME
@_PLAN
@_NOTIFY
@_LANGUAGE
@with_call
def add(
    call: Call, workspace_id: str, name: str | None, plan: str | None, notify: tuple[str, ...], language: str | None
) -> None:
    """Add a workspace."""
    given = without_none(name=name, plan=plan, notify=list(notify) or None, language=language)
    body = {"id": workspace_id, **given}
    _print(call, call.client().post("/v1/workspaces", body))


@workspace.command("list", epilog=examples("webhookd workspace list", "webhookd workspace list --json"))
@with_call
def list_(call: Call) -> None:
    """List the workspaces."""
    found = list(call.client().pages("/v1/workspaces"))
    if call.as_json:
        return print_json({"data": found, "next": None})
    rows = [(one["id"], one["name"], one["plan"], ", ".join(_addresses(one))) for one in found]
    return table(("id", "name", "plan", "notices to"), rows)


@workspace.command(
    epilog=examples(
        "webhookd workspace edit acme --plan enterprise",
        "webhookd workspace edit acme --notify ops@acme.example",
    )
)
@_ID
@_NAME
@_PLAN
@_NOTIFY
@_LANGUAGE
@click.option("--no-notify", is_flag=True, help="No addresses of its own: the notices go to mail.notify.")
@with_call
def edit(
    call: Call,
    workspace_id: str,
    name: str | None,
    plan: str | None,
    notify: tuple[str, ...],
    language: str | None,
    *,
    no_notify: bool,
) -> None:
    """Change a workspace: what isn't named stays. --notify replaces all addresses.

    With a token of the workspace itself a new address gets a mail with a link first, and is added when it confirms.
    """
    if notify and no_notify:
        raise click.UsageError("--notify sets addresses and --no-notify takes them away: name one of them.")
    addresses = list(notify) if notify or no_notify else None
    changes = without_none(name=name, plan=plan, notify=addresses, language=language)
    if not changes:
        raise click.UsageError("nothing to change. See webhookd workspace edit --help.")
    _print(call, call.client().patch(_path(workspace_id), changes))


def _addresses(one: dict[str, Any]) -> list[str]:
    return [*one["notify"], *(f"{each['address']} (to be confirmed)" for each in one.get("pending_notify") or ())]


def _path(workspace_id: str) -> str:
    return Call(workspace=workspace_id).path().rstrip("/")


def _print(call: Call, one: dict[str, Any]) -> None:
    if call.as_json:
        return print_json(one)
    notify = ", ".join(one["notify"]) or "mail.notify of the configuration"
    asked = one.get("pending_notify") or ()
    pending = ", ".join(f"{each['address']} (until {local_time(each['expires_at'])})" for each in asked)
    shown = [("id", one["id"]), ("name", one["name"]), ("plan", one["plan"]), ("notices to", notify)]
    language = [("mails in", one["language"])] if "language" in one else []
    return fields([*shown, *language, *([("to be confirmed", pending)] if pending else [])])


@workspace.command(
    "portal-link",
    epilog=examples(
        "webhookd workspace portal-link acme", "webhookd workspace portal-link acme --read-only --language vi"
    ),
)
@_ID
@click.option(
    "--expires-in", type=click.IntRange(1, 604_800), metavar="SECONDS", help="How long the link works; without it 600."
)
@click.option("--return-url", metavar="URL", help="Where its link back to the product leads.")
@click.option("--language", type=click.Choice(["en", "vi"]), help="The language of the page.")
@click.option("--read-only", is_flag=True, help="Nothing can be changed.")
@with_call
def portal_link(
    call: Call,
    workspace_id: str,
    expires_in: int | None,
    return_url: str | None,
    language: str | None,
    *,
    read_only: bool,
) -> None:
    """Make a link into a workspace's portal.

    It signs in once, to the webhooks and the log of this workspace and to nothing else.
    """
    given = without_none(expires_in_seconds=expires_in, return_url=return_url, language=language)
    made = call.client().post(f"{_path(workspace_id)}/portal-links", {**given, "read_only": read_only})
    return print_json(made) if call.as_json else click.echo(escape(made["url"]))


@workspace.command(epilog=examples("webhookd workspace delete acme"))
@_ID
@click.option("--yes", is_flag=True, help="Don't ask.")
@with_call
def delete(call: Call, workspace_id: str, *, yes: bool) -> None:
    """Delete a workspace that has no endpoints."""
    client = call.client()
    confirm(f"Delete the workspace {escape(workspace_id)}?", yes=yes)
    client.delete(_path(workspace_id))
    print_done(call, {"deleted": workspace_id}, f"Deleted {escape(workspace_id)}.")


@click.group(epilog=examples("webhookd token add --scope observe --note Prometheus", "webhookd token list"))
@common
def token() -> None:
    """Add, list and revoke API tokens.

    An admin and an ingest token are made at the first start, as files in the state directory; these are further ones.
    """


@token.command(
    "add",
    epilog=examples(
        "webhookd token add --workspace acme --scope ingest --note 'the helpdesk'",
        "webhookd token add --scope observe --expires 90d",
    ),
)
@click.option(
    "--scope",
    type=click.Choice(["admin", "ingest", "observe"]),
    required=True,
    help="admin: everything; ingest: post events; observe: /metrics and /v1/status.",
)
@click.option("--note", metavar="TEXT", help="Who has it.")
@click.option("--expires", metavar="TIME", callback=moment_to_come, help="When it ends: 90d (from now), or a time.")
@bound_to_workspace
@with_call
def add_token(call: Call, scope: str, note: str | None, expires: str | None) -> None:
    """Make a token and print it, once. With --workspace it sees and changes that workspace alone."""
    given = without_none(workspace=call.workspace, note=note, expires_at=expires)
    made = call.client().post("/v1/tokens", {"scope": scope, **given})
    if call.as_json:
        return print_json(made)
    click.echo(escape(made["secret"]))
    return click.echo(
        f"This is the only time it is shown. To end it: webhookd token revoke {escape(made['id'])}", err=True
    )


@token.command("list", epilog=examples("webhookd token list"))
@with_call
def list_tokens(call: Call) -> None:
    """List the tokens (never what they read)."""
    found = list(call.client().pages("/v1/tokens"))
    if call.as_json:
        return print_json({"data": found, "next": None})
    rows = [
        (
            one["id"],
            one["scope"],
            one["workspace"] or "every one",
            local_time(one["created_at"]),
            local_time(one["expires_at"]),
            local_time(one["last_used_at"]),
            one.get("note"),
        )
        for one in found
    ]
    return table(("id", "scope", "workspace", "made", "expires", "last used", "note"), rows)


@token.command(epilog=examples("webhookd token revoke tok_…"))
@click.argument("token_id", metavar="ID", shell_complete=complete_token)
@with_call
def revoke(call: Call, token_id: str) -> None:
    """End a token, at once."""
    from urllib.parse import quote

    call.client().delete(f"/v1/tokens/{quote(token_id, safe='')}")
    print_done(call, {"revoked": token_id}, f"Revoked {escape(token_id)}.")


@click.group(epilog=examples("webhookd session list", "webhookd session end ses_…", "webhookd session end --all"))
@common
def session() -> None:
    """See who is signed in to the page, and sign them out.

    A session ends with its token, when it isn't used for sessions.idle_minutes, and after sessions.max_hours.
    """


@session.command("list", epilog=examples("webhookd session list"))
@with_call
def list_sessions(call: Call) -> None:
    """List who is signed in to the page."""
    found = list(call.client().pages("/v1/sessions"))
    if call.as_json:
        return print_json({"data": found, "next": None})
    rows = [
        (
            one["id"],
            one["token_id"],
            f"{one['workspace'] or 'every one'}{' (portal)' if one.get('portal') else ''}",
            one["address"],
            local_time(one["created_at"]),
            local_time(one["last_used_at"]),
            local_time(one["expires_at"]),
        )
        for one in found
    ]
    return table(("id", "token", "workspace", "address", "signed in", "last used", "ends"), rows)


@session.command(epilog=examples("webhookd session end ses_…", "webhookd session end --all"))
@click.argument("session_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_session)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@with_call
def end(call: Call, session_ids: tuple[str, ...], *, everything: bool) -> None:
    """Sign somebody out of the page, at once."""
    from urllib.parse import quote

    if bool(session_ids) == everything:
        raise click.UsageError("name the sessions, or --all. `webhookd session list` shows them.")
    client = call.client()
    for each in [one["id"] for one in client.pages("/v1/sessions")] if everything else session_ids:
        client.delete(f"/v1/sessions/{quote(each, safe='')}")
        print_done(call, {"ended": each}, f"Ended {escape(each)}.")
