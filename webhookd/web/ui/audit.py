"""The page of the audit trail: who changed what, and whose secret was refused."""

from __future__ import annotations

from aiohttp import web

from webhookd.admin.audit import DONE
from webhookd.errors import ApiError
from webhookd.models import AuditFilter
from webhookd.web.ui.log import moment
from webhookd.web.ui.pages import Page

PAGE_ROWS = 50


async def show_audit(page: Page) -> web.StreamResponse:
    """A page of the trail, newest first: of the whole of webhookd, or of the workspace that the reader is bound to."""
    assert page.session is not None
    fields = {name: value for name in ("who", "what", "since", "until") if (value := page.asked(name).strip())}
    fault: ApiError | None = None
    since_ms = until_ms = None
    try:
        since_ms, until_ms = moment(page, fields, "since"), moment(page, fields, "until")
    except ApiError as error:
        fault = error
    own = page.session.token.workspace_seq
    wanted = AuditFilter(own, fields.get("who"), fields.get("what"), since_ms, until_ms)
    entries, after = await page.services.audit.page(wanted, page.before_seq, PAGE_ROWS)
    return page.show(
        "audit.html",
        422 if fault else 200,
        entries=entries,
        done=DONE,
        fields=fields,
        wanted=wanted,
        fault=fault,
        newest=page.before_seq is None,
        older=page.url("/audit", **fields, cursor=after) if after else "",
        search_on=len(entries) < PAGE_ROWS,
    )
