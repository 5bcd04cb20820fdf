"""An address that a workspace's own admin gives for its notices confirms it before it gets any."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Answer, Api, running_api
from tests.support.clock import ManualClock
from tests.support.engine import engine
from tests.support.mailserver import MailServer, mail_server
from tests.support.reader import Browser
from webhookd.admin.workspaces import CONFIRM_MS
from webhookd.config import Config, Listen, Mail

ACME = "/v1/workspaces/acme"
SITE = "https://hooks.example.com"


def configured(server: MailServer, *, public_url: str = SITE, **mail: Any) -> Config:
    values = {"host": "127.0.0.1", "port": server.port, "from_": "hooks@example.com", **mail}
    return Config(mail=Mail(**values), listen=Listen(public_url=public_url))


class Bench:
    """The API, a mail server, and an admin of the workspace `acme` alone."""

    def __init__(self, api: Api, server: MailServer, secret: str) -> None:
        self.api, self.server, self.secret = api, server, secret

    async def give(self, *addresses: str, **more: Any) -> Answer:
        return await self.api.call("PATCH", ACME, {"notify": list(addresses), **more}, token=self.secret)

    async def now(self) -> tuple[list[str], list[str]]:
        shown = (await self.api.get(ACME)).json
        return shown["notify"], [each["address"] for each in shown["pending_notify"]]

    def path(self, number: int = -1) -> str:
        return path_of(self.server.mails[number])

    async def press(self, path: str, **headers: str) -> Answer:
        code = path.partition("code=")[2]
        return await Browser(self.api).send_form("/confirm-address", {"code": code}, path, **headers)


def path_of(mail: EmailMessage) -> str:
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    found = re.search(rf"{SITE}(/confirm-address\?code=[\w-]{{32}})\s", text)
    assert found is not None
    return found[1]


@asynccontextmanager
async def bench(tmp_path: Path, *, says: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Bench]:
    async with (
        mail_server(MailServer(says=says or {})) as server,
        running_api(tmp_path, configured(server, **settings)) as api,
    ):
        await api.app.services.workspaces.create("acme", name="Acme, see evil.example", notify=("old@example.com",))
        _, secret = await api.app.services.tokens.add("admin", "acme")
        yield Bench(api, server, secret)


async def test_an_address_is_added_by_the_button_of_the_link_in_its_mail(tmp_path: Path) -> None:
    """Not by opening it, which programs do that look at mails; the link works once; the trail has it."""
    async with bench(tmp_path) as b:
        given = await b.give("old@example.com", "new@example.com")
        assert (200, ["old@example.com"]) == (given.status, given.json["notify"])
        (pending,) = given.json["pending_notify"]
        assert ("new@example.com", "2026-01-03T00:00:00.000Z") == (pending["address"], pending["expires_at"])
        assert [["new@example.com"]] == [to for to, _ in b.server.taken]
        assert b"evil.example" not in b.server.taken[0][1]  # what a customer calls the workspace
        for method in ("GET", "HEAD", "GET"):
            assert 200 == (await b.api.call(method, b.path(), token=None)).status
        assert (["old@example.com"], ["new@example.com"]) == await b.now()
        done = await b.press(b.path())
        assert (303, "/confirm-address/done") == (done.status, done.headers["Location"])
        assert 200 == (await b.api.get("/confirm-address/done", token=None)).status
        assert (["old@example.com", "new@example.com"], []) == await b.now()
        assert 404 == (await b.api.get(b.path(), token=None)).status
        (entry,) = [each for each in (await b.api.get("/v1/audit")).json["data"] if each["action"] == "confirm_address"]
        assert ("acme", "/confirm-address", "done") == tuple(entry[name] for name in ("workspace", "target", "outcome"))


async def test_who_is_asked_already_gets_no_second_mail(tmp_path: Path) -> None:
    """The same change again changes nothing; an address without a link that works is asked anew."""
    async with bench(tmp_path) as b:
        for _ in range(2):
            assert 200 == (await b.give("old@example.com", "new@example.com")).status
        assert 1 == len(b.server.taken)
        await b.api.engine.clock.leap(CONFIRM_MS / 1000)
        assert (["old@example.com"], []) == await b.now()
        assert 404 == (await b.api.get(b.path(), token=None)).status
        assert 200 == (await b.give("new@example.com")).status
        assert 2 == len(b.server.taken)
        assert 303 == (await b.press(b.path())).status
        assert (["new@example.com"], []) == await b.now()


@pytest.mark.parametrize("by", ["leaving it out", "an admin of all", "deleting the workspace"])
async def test_a_link_is_withdrawn(tmp_path: Path, by: str) -> None:
    """Also where a workspace of the same name is made: it is for the one that is gone."""
    async with bench(tmp_path) as b:
        await b.give("old@example.com", "new@example.com")
        if by == "leaving it out":
            assert 200 == (await b.give("old@example.com")).status
        elif by == "an admin of all":
            assert 200 == (await b.api.call("PATCH", ACME, {"notify": ["else@example.com"]})).status
        else:
            await b.api.call("DELETE", ACME)
            await b.api.app.services.workspaces.create("acme")
        before = await b.now()
        assert [] == before[1]
        assert 404 == (await b.api.get(b.path(), token=None)).status
        assert 404 == (await b.press("/confirm-address/done?" + b.path().partition("?")[2])).status
        assert before == await b.now()


async def test_an_admin_of_all_adds_what_waits_for_its_link(tmp_path: Path) -> None:
    """It needs none."""
    async with bench(tmp_path) as b:
        await b.give("new@example.com")
        assert 200 == (await b.api.call("PATCH", ACME, {"notify": ["new@example.com"]})).status
        assert (["new@example.com"], []) == await b.now()
        assert 1 == len(b.server.taken)


@pytest.mark.parametrize(
    ("settings", "key"), [({"public_url": ""}, "listen.public_url"), ({"host": ""}, "mail.host")], ids=["url", "mail"]
)
async def test_where_no_link_can_be_sent_nothing_is_changed(tmp_path: Path, settings: dict[str, Any], key: str) -> None:
    """The error names the setting; taking addresses away works all the same."""
    async with bench(tmp_path, **settings) as b:
        refused = await b.give("new@example.com", name="Changed")
        assert (409, "mail_disabled") == (refused.status, refused.code)
        assert key in refused.json["error"]["message"]
        shown = (await b.api.get(ACME)).json
        assert ("Acme, see evil.example", ["old@example.com"], []) == tuple(
            shown[name] for name in ("name", "notify", "pending_notify")
        )
        assert 200 == (await b.give()).status
        assert ([], []) == await b.now()


async def test_where_the_mail_server_refuses_nothing_is_changed(tmp_path: Path) -> None:
    """Of two addresses one is refused: 502 in its words, neither waits, and the link of the other doesn't work."""
    async with bench(tmp_path, says={"gone@example.com": "550 no such user"}) as b:
        refused = await b.give("new@example.com", "gone@example.com", name="Changed")
        assert (502, "mail_failed") == (refused.status, refused.code)
        assert "550 no such user" in refused.json["error"]["message"]
        assert (["old@example.com"], []) == await b.now()
        assert 404 == (await b.api.get(b.path(), token=None)).status
        assert "Acme, see evil.example" == (await b.api.get(ACME)).json["name"]


async def test_so_many_addresses_an_hour_are_asked(tmp_path: Path) -> None:
    """A workspace can't have webhookd write to everybody, by giving and withdrawing either."""
    async with bench(tmp_path, max_per_hour=2) as b:
        for number in range(2):
            assert 200 == (await b.give(f"{number}@example.com")).status
        refused = await b.give("2@example.com")
        assert (429, "rate_limited", "3600") == (refused.status, refused.code, refused.headers["Retry-After"])
        assert 2 == len(b.server.taken)
        assert ([], ["1@example.com"]) == await b.now()
        await b.api.engine.clock.leap(3600)
        assert 200 == (await b.give("2@example.com")).status


async def test_the_form_of_another_site_and_a_guessed_code_confirm_nothing(tmp_path: Path) -> None:
    """403 and 404; both leave the link as it is."""
    async with bench(tmp_path) as b:
        await b.give("old@example.com", "new@example.com")
        assert 403 == (await b.press(b.path(), Origin="https://evil.example")).status
        for code in ("", "x", "x" * 5000, "%00%ff"):
            assert 404 == (await b.api.get(f"/confirm-address?code={code}", token=None)).status
        assert (["old@example.com"], ["new@example.com"]) == await b.now()


async def test_a_link_outlives_a_restart_and_its_code_is_nowhere(tmp_path: Path) -> None:
    """The table has its hash."""
    clock = ManualClock()
    async with mail_server() as server:
        async with engine(tmp_path, configured(server), clock=clock) as e:
            await e.app.services.workspaces.create("acme")
            await e.app.services.workspaces.change("acme", notify=("new@example.com",), confirm=True)
        code = path_of(server.mails[0]).partition("=")[2]
        assert code.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
        async with engine(tmp_path, configured(server), clock=clock) as e:
            (pending,) = e.app.registry.workspace("acme").pending
            assert "new@example.com" == pending.address
            await e.app.services.workspaces.confirm(code)
            assert ("new@example.com",) == e.app.registry.workspace("acme").notify
