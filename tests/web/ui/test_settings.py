"""*Settings*: a workspace's name, addresses, language, plan and budget."""

from __future__ import annotations

from pathlib import Path

from tests.support.api import Api, running_api
from tests.support.mailserver import mail_server
from tests.support.reader import Browser
from webhookd.config import Config, Listen, Mail

FIELDS = {"name": "Acme Ltd", "notify": "a@example.com, b@example.com", "plan": "starter", "language": "vi"}


async def test_an_admin_changes_it_all(api: Api, browser: Browser) -> None:
    """Saved at once; what is wrong is said at its field and nothing is changed."""
    saved = await browser.send_form("/settings", FIELDS, "/settings")
    assert (303, "/settings?said=settings_saved") == (saved.status, saved.headers["Location"])
    one = (await api.get("/v1/workspaces/default")).json
    assert ("Acme Ltd", ["a@example.com", "b@example.com"], "starter", "vi") == tuple(
        one[name] for name in ("name", "notify", "plan", "language")
    )
    wrong = await browser.send_form("/settings", {**FIELDS, "name": "B", "notify": "nonsense"}, "/settings")
    assert 422 == wrong.status and 'id="notify-fault"' in wrong.body.decode()
    assert "Acme Ltd" == api.app.registry.workspace("default").name
    shown = (await browser.get("/settings")).body.decode()
    assert "a@example.com\nb@example.com" in shown and '<option value="starter" selected' in shown


async def test_a_workspaces_own_admin_keeps_the_plan_and_confirms_addresses(tmp_path: Path) -> None:
    """A new address waits for its link, in the workspace's language; unticking it withdraws the link."""
    async with mail_server() as server:
        mail = Mail(host="127.0.0.1", port=server.port, from_="hooks@example.com")
        async with running_api(tmp_path, Config(mail=mail, listen=Listen(public_url="http://127.0.0.1"))) as api:
            await api.app.services.workspaces.create("acme", language="vi")
            _, secret = await api.app.services.tokens.add("admin", "acme")
            browser = Browser(api)
            await browser.sign_in(secret)
            assert 'name="plan"' not in (await browser.get("/settings")).body.decode()
            asked = await browser.send_form("/settings", {**FIELDS, "notify": "c@example.com"}, "/settings")
            assert "/settings?said=settings_asked" == asked.headers["Location"]
            workspace = api.app.registry.workspace("acme")
            assert ("advanced", (), "c@example.com") == (workspace.plan, workspace.notify, workspace.pending[0].address)
            assert "Xác nhận" in str(server.mails[-1]["Subject"])
            kept = {**FIELDS, "notify": "", "pending": "c@example.com"}
            await browser.send_form("/settings", kept, "/settings")
            assert ["c@example.com"] == [each.address for each in api.app.registry.workspace("acme").pending]
            await browser.send_form("/settings", {**FIELDS, "notify": ""}, "/settings")
            assert () == api.app.registry.workspace("acme").pending
