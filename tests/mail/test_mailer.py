"""Mail: every notice once, whatever the mail server does.  Against a real SMTP server."""

from __future__ import annotations

import asyncio
import contextlib
import email.policy
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import START_WALL_MS, ManualClock
from tests.support.log_lines import Lines
from tests.support.mailserver import PASSWORD, USER, Certificates, MailServer, certificates, mail_server
from tests.support.stores import open_store
from webhookd.config import Config, Mail
from webhookd.errors import ApiError
from webhookd.mail.mailer import GIVE_UP_MS, Mailer
from webhookd.store import outbox
from webhookd.store.outbox import Envelope
from webhookd.store.store import Store

OPS = ("ops@example.com",)


@dataclass
class Bench:
    store: Store
    clock: ManualClock
    config: Config
    to: tuple[str, ...] = OPS
    context: Any = None
    language: str = "en"
    mailer: Mailer = field(init=False)
    running: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> None:
        self.mailer = Mailer(
            self.store,
            self.clock,
            lambda: self.config,
            lambda workspace_seq: self.to,
            lambda workspace_seq: self.language,
            tls_context=self.context,
            timeout_seconds=10,
        )

    def run(self) -> None:
        self.running = asyncio.create_task(self.mailer.run())

    async def run_to_first_try(self) -> None:
        self.run()
        await self.advance_after_due(3)

    async def first_try(self) -> str:
        message_id = await self.add()
        await self.run_to_first_try()
        return message_id

    async def kill_at_record(self, monkeypatch: pytest.MonkeyPatch, *, recorded: bool) -> None:
        """Send a mail, and kill the mailer right before or after it records what the server took."""
        there, reached = asyncio.Event(), self.mailer._reached

        async def stuck(*given: Any) -> None:
            if recorded:
                await reached(*given)
            there.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(self.mailer, "_reached", stuck)
        await self.run_to_first_try()
        async with asyncio.timeout(20):
            await there.wait()
        await self.kill()

    async def advance_after_due(self, seconds: float) -> float:
        due_in = await self.due_in()
        await self.clock.advance(seconds)
        return due_in

    async def kill(self) -> None:
        if self.running is not None:
            self.running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.running

    async def restart(self) -> None:
        await self.kill()
        self.build()
        self.run()

    async def add(self, name: str = "1", *, workspace_seq: int = 1, **facts: Any) -> str:
        message_id = f"<{name}@hooks.example.com>"
        payload = disabling(**facts)
        await self.store.write(
            lambda db: outbox.insert(
                db,
                workspace_seq=workspace_seq,
                kind="auto_disabled",
                message_id=message_id,
                payload=payload,
                now_ms=self.clock.wall_ms(),
            )
        )
        self.mailer.wake()
        return message_id

    async def until_sent(self, server: MailServer, number: int) -> list[EmailMessage]:
        """All that the server took, once that is `number` mails and none is left."""
        mails = await server.until(number)
        await self.until_unsent(0)
        return mails

    async def until_unsent(self, number: int) -> dict[str, Any]:
        return await self.until(lambda unsent: unsent["count"] == number)

    async def until(self, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while not good(unsent := await self.mailer.unsent()):
                await asyncio.sleep(0.005)
        return unsent

    async def due_in(self) -> float:
        async with asyncio.timeout(20):
            while self.mailer._woken.is_set() or not self.clock.waiters:
                await asyncio.sleep(0.001)
        due = self.clock.next_due_in_seconds
        assert due is not None
        return due


def disabling(**facts: Any) -> dict[str, Any]:
    return {
        "workspace": "default",
        "endpoint": {"id": "ep_1", "url": "https://example.com/hook", "description": "Helpdesk"},
        "at": "2026-01-01T00:00:00.000Z",
        "message": "31 failed attempts in 30 minutes in this workspace, 30 are allowed; the last one: answered 503.",
        "failures": [],
        "waiting": 12,
        "spent_until": None,
        "limit": 30,
        "window_seconds": 1800,
        **facts,
    }


def configured(server: MailServer, **settings: Any) -> Config:
    values: dict[str, Any] = {"host": "127.0.0.1", "from_": "hooks@example.com", **settings}
    return Config(mail=Mail(port=server.port, **values))


@asynccontextmanager
async def tls_bench(
    folder: Path, tls: str, made: Certificates, context: ssl.SSLContext | None, password: str = PASSWORD
) -> AsyncIterator[tuple[MailServer, Bench]]:
    """A server that wants TLS and a login, and a mailer that trusts what `context` does."""
    starttls, immediately = (made.server, None) if tls == "starttls" else (None, made.server)
    async with mail_server(login=True, starttls=starttls, tls=immediately) as server:
        config = configured(server, host="localhost", tls=tls, user=USER, password=password)
        async with bench(folder, config, context=context) as b:
            yield server, b


@asynccontextmanager
async def bench(folder: Path, config: Config, **more: Any) -> AsyncIterator[Bench]:
    async with open_store(folder) as store:
        made = Bench(store, ManualClock(), config, **more)
        try:
            yield made
        finally:
            await made.kill()


async def test_a_notice_leaves_after_the_digest_seconds(tmp_path: Path) -> None:
    """It waits 3 s for others, goes to each recipient in an envelope of its own, and is done."""
    async with mail_server() as server, bench(tmp_path, configured(server), to=("a@example.com", "b@example.com")) as b:
        b.run()
        await b.clock.until_waiters(1)
        message_id = await b.add()
        assert pytest.approx(3) == await b.due_in()
        await b.clock.advance(2.9)
        assert [] == server.taken
        await b.clock.advance(0.1)
        mails = await b.until_sent(server, 2)
        assert [["a@example.com"], ["b@example.com"]] == [to for to, _ in server.taken]
        assert server.taken[0][1] == server.taken[1][1]
        assert (message_id, "auto-generated") == (mails[0]["Message-ID"], mails[0]["Auto-Submitted"])
        assert "hooks@example.com" == mails[0]["From"].addresses[0].addr_spec


async def test_what_comes_together_goes_as_one_per_workspace(tmp_path: Path) -> None:
    """Notices of one workspace within the digest's time share a mail under the first one's Message-ID; others don't."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        first = await b.add("1", endpoint={"id": "ep_1", "url": "https://a.example/", "description": ""})
        await b.clock.advance(2)
        await b.add("2", endpoint={"id": "ep_2", "url": "https://b.example/", "description": ""})
        other = await b.add("3", workspace_seq=2, workspace="acme")
        b.run()
        assert pytest.approx(1.0) == await b.advance_after_due(1)
        await server.until(1)
        await b.until_unsent(1)
        assert pytest.approx(2.0) == await b.advance_after_due(2)
        mails = await b.until_sent(server, 2)
        assert [first, other] == [mail["Message-ID"] for mail in mails]
        assert "2 webhooks disabled: more than 30 failures in 30 minutes (a.example, b.example)" in mails[0]["Subject"]
        assert "[webhookd acme] Webhook disabled" in mails[1]["Subject"]


async def test_later_notices_go_in_another_mail(tmp_path: Path) -> None:
    """A digest that was sealed takes nothing more in, even if the server never answered for it."""
    async with mail_server(MailServer(hang_up_after_data=True)) as server, bench(tmp_path, configured(server)) as b:
        first = await b.first_try()
        await server.until(1)
        await b.until(lambda unsent: unsent["last_error"] is not None)
        server.hang_up_after_data = False
        second = await b.add("2")
        await b.advance_after_due(5)
        mails = await b.until_sent(server, 3)
        assert {first, second} == {mail["Message-ID"] for mail in mails}
        assert 1 == len({raw for _, raw in server.taken if first.encode() in raw})


async def test_kill_after_the_servers_answer_repeats_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the server's 250 and the record sends the same mail again, whatever came or changed since."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        message_id = await b.add("1")
        await b.kill_at_record(monkeypatch, recorded=False)
        b.config = configured(server, from_="other@example.com")
        b.to = ("new@example.com",)
        late = await b.add("2")
        await b.restart()
        await server.until(2)
        await b.clock.until_waiters(1)
        await b.clock.advance(3)
        mails = await b.until_sent(server, 3)
        assert [message_id, message_id, late] == [mail["Message-ID"] for mail in mails]
        assert server.taken[0] == server.taken[1]
        assert ["new@example.com"] == server.taken[2][0]


async def test_kill_before_the_seal_sends_one_mail(tmp_path: Path) -> None:
    """A kill between settling the digest and writing its mail loses nothing and repeats nothing."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        message_id = await b.add("1")
        digest = (await b.store.read(outbox.waiting))[0]
        await b.store.write(lambda db: outbox.claim(db, digest))
        late = await b.add("2")
        b.run()
        await server.until(1)
        await b.advance_after_due(3)
        mails = await b.until_sent(server, 2)
        assert [message_id, late] == [mail["Message-ID"] for mail in mails]


async def test_an_unreachable_server_is_tried_again(tmp_path: Path) -> None:
    """After 5, 10, 20, 40 and then every 60 s; what came meanwhile goes along; nothing is silent."""
    async with mail_server() as gone:
        port = gone.port
    async with bench(tmp_path, configured(gone)) as b:
        first = await b.first_try()
        waits = []
        for _ in range(6):
            waits.append(await b.due_in())
            seen = await b.mailer.unsent()
            await b.clock.advance(waits[-1])
        assert pytest.approx([5, 10, 20, 40, 60, 60]) == waits
        assert f"127.0.0.1:{port}" in seen["last_error"]
        assert (1, pytest.approx(3 + 135)) == (seen["count"], seen["oldest_age_seconds"])
        await b.add("2")
        async with mail_server(port=port) as server:
            await b.advance_after_due(60)
            mails = await b.until_sent(server, 1)
        assert [first] == [mail["Message-ID"] for mail in mails]
        assert "2 webhooks disabled" in mails[0]["Subject"]


async def test_a_changed_server_is_tried_at_once(tmp_path: Path) -> None:
    """A reload that changes `[mail]` doesn't wait for the backoff."""
    async with mail_server() as gone:
        pass
    async with mail_server() as server, bench(tmp_path, configured(gone)) as b:
        await b.first_try()
        await b.until(lambda unsent: unsent["last_error"] is not None)
        b.config = configured(server)
        b.mailer.wake()
        await b.until_sent(server, 1)


@pytest.mark.parametrize(("command", "answer"), [("", "550 no such user"), ("DATA ", "554 looks like spam")])
async def test_one_refused_recipient_delays_no_other(command: str, answer: str, tmp_path: Path) -> None:
    """5xx for one address, or for the content after it was accepted: the others have the mail, once, and it is done."""
    gone, other = "gone@example.com", "ops@example.com"
    server = MailServer(says={command + gone: answer})
    async with mail_server(server), bench(tmp_path, configured(server), to=(gone, other)) as b:
        await b.first_try()
        await b.until_sent(server, 1)
        await b.advance_after_due(3600)
        await b.due_in()
        assert [[other]] == [to for to, _ in server.taken]
        row = await b.store.read(lambda db: db.execute("SELECT last_error, envelope FROM outbox").fetchone())
        assert (f"{gone}: {answer}", None) == row


async def test_a_deferred_recipient_gets_the_same_mail_later(tmp_path: Path) -> None:
    """4xx for one address (greylisting): only that one gets it again, the same bytes."""
    says = {"slow@example.com": "451 come back later"}
    to = ("slow@example.com", "ops@example.com")
    async with mail_server(MailServer(says=says)) as server, bench(tmp_path, configured(server), to=to) as b:
        await b.first_try()
        unsent = await b.until(lambda unsent: unsent["last_error"] is not None)
        assert (1, "slow@example.com: 451 come back later") == (unsent["count"], unsent["last_error"])
        says.clear()
        await b.advance_after_due(5)
        await b.until_sent(server, 2)
        assert [["ops@example.com"], ["slow@example.com"]] == [to for to, _ in server.taken]
        assert server.taken[0][1] == server.taken[1][1]


async def test_a_kill_between_two_recipients_repeats_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server took for one is recorded before the next: the same bytes go to the other alone."""
    to = ("a@example.com", "b@example.com")
    async with mail_server() as server, bench(tmp_path, configured(server), to=to) as b:
        await b.add("1")
        await b.kill_at_record(monkeypatch, recorded=True)
        b.to = ("new@example.com",)
        await b.restart()
        await b.until_sent(server, 2)
        assert [["a@example.com"], ["b@example.com"]] == [to for to, _ in server.taken]
        assert server.taken[0][1] == server.taken[1][1]


async def test_so_many_mails_an_hour_go_to_a_workspace(tmp_path: Path) -> None:
    """Beyond them notices wait, over a restart too, and go as one mail when there is room; others aren't delayed."""
    lines = Lines()
    to = ("a@example.com", "b@example.com")  # a mail counts once, however many it reaches
    async with mail_server() as server, bench(tmp_path, configured(server, max_per_hour=2), to=to) as b:
        b.run()
        sent, first_ms = [], 2**63
        for number in range(2):
            sent.append(await b.add(f"{number}"))
            await b.advance_after_due(3)
            first_ms = min(first_ms, b.clock.wall_ms())
            await b.until_sent(server, 2 * number + 2)
            await b.advance_after_due(600)
        late = await b.add("2")
        await b.advance_after_due(3)
        await b.add("3", endpoint={"id": "ep_2", "url": "https://b.example/", "description": ""})
        other = await b.add("4", workspace_seq=2, workspace="acme")
        await b.restart()
        await b.advance_after_due(3)
        await server.until(6)
        assert 2 == (await b.until_unsent(2))["count"]
        due_in = await b.due_in()
        assert pytest.approx(first_ms / 1000 + 3600, abs=0.01) == b.clock.wall_ms() / 1000 + due_in
        await b.clock.advance(due_in - 1)
        assert 6 == len(server.taken)
        await b.advance_after_due(2)
        mails = await b.until_sent(server, 8)
        assert [*sent, other, late] == [mail["Message-ID"] for mail in mails[::2]]
        assert "2 webhooks disabled" in mails[6]["Subject"]
        text = mails[6].get_body(("plain",)).get_content()
        assert "2 notices that waited, as at most 2 mails\r\nan hour go to a workspace." in text
        assert all("that waited" not in mail.get_body(("plain",)).get_content() for mail in mails[:6])
    assert {2} == {each["limit"] for each in lines.records() if each["event"] == "mail.limited"}


async def test_a_recipient_that_is_put_off_leaves_no_way_around_the_limit(tmp_path: Path) -> None:
    """A mail counts from the first recipient that it reached, also while another's server says: later."""
    says = {"slow@example.com": "451 come back later"}
    to = ("slow@example.com", "ops@example.com")
    async with (
        mail_server(MailServer(says=says)) as server,
        bench(tmp_path, configured(server, max_per_hour=1), to=to) as b,
    ):
        await b.first_try()
        await server.until(1)
        await b.add("2")
        for _ in range(10):
            await b.advance_after_due(60)
        await b.due_in()
        assert 1 == len(server.taken)


@pytest.mark.parametrize("step", ["MAIL", "DATA", "ops@example.com"])
async def test_a_mail_refused_for_good_waits_longer_and_blocks_nothing(tmp_path: Path, step: str) -> None:
    """5xx for every recipient: tried ever more rarely, up to every 15 minutes, visible; a corrected address is used."""
    says = {step: "554 not from you"}
    async with mail_server(MailServer(says=says)) as server, bench(tmp_path, configured(server)) as b:
        await b.first_try()
        waits = []
        for number in range(9):
            await b.until(lambda unsent: unsent["last_error"] is not None)
            waits.append(await b.due_in())
            if number < 8:
                await b.clock.advance(waits[-1])
        assert pytest.approx([5, 10, 20, 40, 80, 160, 320, 640, 900]) == waits
        unsent = await b.mailer.unsent()
        assert 1 == unsent["count"] and "554 not from you" in unsent["last_error"]
        says.clear()
        b.to = ("fixed@example.com",)
        other = await b.add("2", workspace_seq=2)
        assert pytest.approx(3) == await b.advance_after_due(3)
        mails = await server.until(1)
        assert [other] == [mail["Message-ID"] for mail in mails]
        await b.advance_after_due(900)
        await b.until_sent(server, 2)
        assert ["fixed@example.com"] == server.taken[1][0]


async def test_one_that_the_server_hangs_up_on_delays_no_other(tmp_path: Path) -> None:
    """A mail after which the server is gone goes last in the next round, and never in another form."""
    async with mail_server(MailServer(hang_up_after_data=True)) as server, bench(tmp_path, configured(server)) as b:
        first = await b.add("1")
        second = await b.add("2", workspace_seq=2)
        await b.run_to_first_try()
        await server.until(1)
        await b.advance_after_due(5)
        await server.until(2)
        await b.due_in()
        server.hang_up_after_data = False
        await b.clock.advance(60)
        mails = await b.until_sent(server, 4)
        assert [first, second] == [mail["Message-ID"] for mail in mails[:2]]
        assert {first: 1, second: 1} == {
            message_id: len({raw for _, raw in server.taken if message_id.encode() in raw})
            for message_id in (first, second)
        }


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_login_over_tls(tmp_path: Path, tls: str) -> None:
    """STARTTLS and TLS, with a certificate that is verified, and a login."""
    made = certificates()
    async with tls_bench(tmp_path, tls, made, made.client) as (server, b):
        await b.first_try()
        await b.until_sent(server, 1)
        assert ([USER], [True]) == (server.users, server.over_tls)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [("unknown CA", "(?i)certificate|verify"), ("other name", "(?i)certificate|verify"), ("password", "535")],
)
async def test_without_proof_of_either_side_no_mail_goes(tmp_path: Path, tls: str, fault: str, words: str) -> None:
    """A certificate of an unknown CA or for another name, or a wrong password: the error has the reason alone."""
    made = certificates("mail.example.com" if fault == "other name" else "localhost")
    context = None if fault == "unknown CA" else made.client
    password = "wr0ng" if fault == "password" else PASSWORD
    async with tls_bench(tmp_path, tls, made, context, password) as (server, b):
        with pytest.raises(ApiError, match=words) as refused:
            await b.mailer.send_test(OPS)
        assert ("mail_failed", 502, [], []) == (refused.value.code, refused.value.status, server.taken, server.users)
        assert password not in refused.value.message


async def test_a_server_without_starttls_gets_nothing(tmp_path: Path) -> None:
    """`tls = "starttls"` never falls back to clear text."""
    async with mail_server() as server, bench(tmp_path, configured(server, tls="starttls")) as b:
        with pytest.raises(ApiError, match="STARTTLS"):
            await b.mailer.send_test(OPS)
        assert [] == server.taken


async def test_the_test_mail_goes_at_once(tmp_path: Path) -> None:
    """`send_test` returns when the server took it, beside the outbox and without its waiting."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        await b.add("1")
        await b.mailer.send_test(["me@example.com", "you@bücher.example", "ops@faß.de"])
        mail = server.mails[0]
        to = ["me@example.com", "you@xn--bcher-kva.example", "ops@xn--fa-hia.de"]
        assert [[each] for each in to] == [taken for taken, _ in server.taken]
        assert "Test" in mail["Subject"]
        assert {"text/plain", "text/html"} == {part.get_content_type() for part in mail.iter_parts()}


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"b@example.com": "550 no such user"}, "b@example.com: 550 no such user (It took it for a@example.com.)"),
        ({"DATA": "554 looks like spam"}, "a@example.com, b@example.com: 554 looks like spam"),
        ({"DATA b@example.com": "554 no"}, "b@example.com: 554 no (It took it for a@example.com.)"),
        ({"MAIL": "553 not yours"}, "553 not yours (about the sender hooks@example.com)"),
    ],
)
async def test_a_refused_test_mail_gives_the_reason(tmp_path: Path, says: dict[str, str], words: str) -> None:
    """The error has the server's own words."""
    async with mail_server(MailServer(says=says)) as server, bench(tmp_path, configured(server)) as b:
        with pytest.raises(ApiError) as refused:
            await b.mailer.send_test(["a@example.com", "b@example.com"])
    assert words in refused.value.message


async def test_without_server_or_recipients_the_test_mail_names_the_setting(tmp_path: Path) -> None:
    """No `mail.host`, or no recipient: the error names the key."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        with pytest.raises(ApiError, match=r"mail\.notify"):
            await b.mailer.send_test([])
        b.config = Config()
        with pytest.raises(ApiError, match=r"mail\.host"):
            await b.mailer.send_test(OPS)


async def test_a_silent_server_is_left_in_time(tmp_path: Path) -> None:
    """A server that accepts and says nothing costs the time limit, no more."""
    silent = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    async with silent, bench(tmp_path, Config()) as b:
        b.config = Config(mail=Mail(host="127.0.0.1", port=silent.sockets[0].getsockname()[1], from_="a@example.com"))
        b.mailer = Mailer(b.store, b.clock, lambda: b.config, lambda seq: OPS, timeout_seconds=0.2)
        with pytest.raises(ApiError, match=r"(?i)timed out|in time"):
            await b.mailer.send_test(OPS)


async def test_a_notice_is_in_its_workspaces_language(tmp_path: Path) -> None:
    """As it is when the mail is written."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        await b.add()
        b.language = "vi"
        await b.run_to_first_try()
        (mail,) = await b.until_sent(server, 1)
        assert "Webhook bị tắt: hơn 30 lỗi trong 30 phút" in mail["Subject"]


async def test_without_recipients_a_notice_is_closed(tmp_path: Path) -> None:
    """Without notice addresses a notice is closed, and doesn't come back when addresses do."""
    async with mail_server() as server, bench(tmp_path, configured(server), to=()) as b:
        await b.first_try()
        await b.until_unsent(0)
        b.to = OPS
        kept = await b.add("2")
        assert pytest.approx(3) == await b.advance_after_due(3)
        mails = await server.until(1)
        assert [kept] == [mail["Message-ID"] for mail in mails]


async def test_without_a_host_notices_wait_and_go_as_one_later(tmp_path: Path) -> None:
    """`mail.host` taken away and given back: one mail has what waited, none is lost."""
    async with mail_server() as server, bench(tmp_path, Config()) as b:
        b.run()
        await b.due_in()
        first = await b.add("1")
        await b.clock.advance(600)
        await b.add("2")
        assert 2 == (await b.mailer.unsent())["count"]
        b.config = configured(server)
        b.mailer.wake()
        mails = await b.until_sent(server, 1)
        assert [first] == [mail["Message-ID"] for mail in mails]
        assert "2 webhooks disabled" in mails[0]["Subject"]


async def test_a_notice_of_30_days_is_given_up(tmp_path: Path) -> None:
    """What couldn't be sent for 30 days is closed with the reason."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        await b.add("1")
        b.clock.jump_wall(GIVE_UP_MS / 1000 + 1)
        b.run()
        await b.until_unsent(0)
        await b.due_in()
        row = await b.store.read(lambda db: db.execute("SELECT last_error, sent_at FROM outbox").fetchone())
        assert row[0].startswith("given up after 30 days") and START_WALL_MS < row[1]
        assert [] == server.taken


async def test_a_clock_set_back_delays_a_notice_by_the_digests_time_at_most(tmp_path: Path) -> None:
    """A row stamped in the future goes after `digest_seconds` all the same."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        await b.add("1")
        b.clock.jump_wall(-3600)
        b.run()
        assert pytest.approx(3.0) == await b.advance_after_due(3)
        await server.until(1)


async def test_a_notice_that_cant_be_written_delays_no_other(tmp_path: Path) -> None:
    """A payload that the templates don't understand stays, counted; the others go."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        await b.add("1", endpoint=None)
        good = await b.add("2", workspace_seq=2)
        await b.run_to_first_try()
        mails = await server.until(1)
        await b.until_unsent(1)
        assert [good] == [mail["Message-ID"] for mail in mails]


async def test_stopping_lets_the_mail_under_way_be_recorded(tmp_path: Path) -> None:
    """`stop` waits until what the server took is recorded, and starts no other."""
    async with mail_server() as server, bench(tmp_path, configured(server)) as b:
        for number in range(3):
            await b.add(str(number), workspace_seq=number)
        b.run()
        await b.due_in()
        advancing = asyncio.create_task(b.clock.advance(3))
        await server.until(1)
        await b.mailer.stop()
        await b.kill()
        await advancing
        unsent = await b.mailer.unsent()
        assert 3 == len(server.taken) + unsent["count"]
        await b.restart()
        await b.until_sent(server, 3)
        assert 3 == len({mail["Message-ID"] for mail in server.mails}) == len(server.taken)


def test_an_envelope_is_what_was_kept(tmp_path: Path) -> None:
    """The bytes of a mail survive the table: CR LF and all."""
    mail = EmailMessage(policy=email.policy.SMTP)
    mail.set_content("a\r\nb – c\r\n", cte="quoted-printable")
    text = mail.as_bytes().decode()
    assert Envelope("a@b", ("c@d",), text).message.encode() == mail.as_bytes()
