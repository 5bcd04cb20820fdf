"""The commands against the real daemon: `webhookd serve` as a process, found by its state directory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.receiver import Receiver
from tests.support.receiver import receiver as receiving

SAMPLES = sorted((Path(__file__).parents[1] / "rules" / "samples").glob("*.json"))
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SETTINGS = {
    "WEBHOOKD_LISTEN__PORT": "0",
    "WEBHOOKD_EGRESS__ALLOW": "127.0.0.0/8",
    "WEBHOOKD_DELIVERY__RETRY_SECONDS": "0.01,0.01",
    "WEBHOOKD_STORE__MIN_FREE_MB": "0",
}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        made.url += "/hook"
        yield made


async def until_ready(process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while json.loads(line := await process.stdout.readline())["event"] != "daemon.ready":  # type: ignore[union-attr]
            assert line


@pytest.fixture
async def daemon(start: Any, tmp_path: Path) -> Any:
    """The daemon; what it logs goes on being read, so that it never waits for us."""
    process = await start("serve", "--state-dir", str(tmp_path / "state"), env=SETTINGS)
    await until_ready(process)
    reading = asyncio.create_task(process.stdout.read())
    yield process
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        await process.wait()
        await reading


@pytest.fixture
def ask(daemon: Any, run: Any, tmp_path: Path) -> Any:
    """Run a command that finds the daemon as people would have it find it."""

    async def asking(*words: str, **options: Any) -> Any:
        return await run("--state-dir", str(tmp_path / "state"), *words, env=SETTINGS, **options)

    return asking


@pytest.fixture
async def endpoint(ask: Any, receiver: Receiver) -> str:
    ran = await ask("endpoint", "add", receiver.url, "-e", "*", "--json")
    assert (0, "") == (ran.code, ran.err)
    return str(ran.json()["id"])


async def settled(ask: Any, count: int, *words: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(30):
        while True:
            found = (await ask("log", "--json", *words)).json()["data"]
            if count == sum(1 for one in found if one["finished_at"]):
                return list(found)


async def test_an_endpoint_is_found_by_its_url_as_it_was_typed(ask: Any, receiver: Receiver) -> None:
    """And in every other form of the same URL."""
    typed = receiver.url.replace("http://127.0.0.1", "HTTP://LocalHost.").replace("/hook", "?")
    added = (await ask("endpoint", "add", typed, "-e", "*", "--json")).json()
    for url in (typed, added["url"], typed.lower().replace(".", "").replace("?", "/")):
        shown = await ask("endpoint", "show", url, "--json")
        assert (0, added["id"]) == (shown.code, shown.json()["id"])
        assert 0 == (await ask("log", "--endpoint", url)).code
    other = await ask("endpoint", "show", added["url"].replace("?", "/x"))
    assert 1 == other.code and "no endpoint of workspace default has the URL" in other.err


async def test_numbers_of_any_size_go_through(ask: Any, endpoint: str, receiver: Receiver) -> None:
    """Sent, delivered and shown byte for byte; an id that was left out is made by `send`."""
    line = b'{"event_type":"message.sent","x":1.0e+400,"y":%b}' % (b"9" * 5000)
    sent = await ask("send", stdin=line + b'{"event_type":"message.sent","event_id":"b","x":-1e999}')
    assert (0, "") == (sent.code, sent.err) and "1 line had none, got a new one" in sent.out
    event_id = (await receiver.until(2))[0].id
    assert line == receiver.received[0].body.replace(b'"event_id":"%b",' % event_id.encode(), b"")
    for words in (("log", "show", event_id), ("log", "show", event_id, "--json")):
        shown = await ask(*words)
        assert (0, "") == (shown.code, shown.err)
        assert '"x":1.0e+400,"y":99999' in shown.out


async def test_life_of_an_endpoint(ask: Any, endpoint: str, receiver: Receiver) -> None:
    """Added, shown, edited, tested, disabled, enabled, its key rotated and revealed, deleted."""
    listed = await ask("endpoint", "list")
    shown = await ask("endpoint", "show", receiver.url)
    edited = await ask(
        *("endpoint", "edit", endpoint, "-e", "message.sent", "--description", "\x1b[2J", "--success", "2xx", "--json")
    )
    tested = await ask("endpoint", "test", endpoint, "--event-type", "message.sent")
    disabled = await ask("endpoint", "disable", endpoint)
    held = await ask("send", stdin=SAMPLES[-1].read_bytes())
    enabled = await ask("endpoint", "enable", endpoint)
    rotated = await ask("endpoint", "rotate-key", endpoint, "--overlap-seconds", "60", "--json")
    again = await ask("endpoint", "rotate-key", endpoint, "--overlap-seconds", "0")
    revealed = await ask("endpoint", "show", endpoint, "--signing-key", "--json")
    await settled(ask, 1, "--type", "message.sent", "--event-id", json.loads(SAMPLES[-1].read_bytes())["event_id"])
    deleted = await ask("endpoint", "delete", endpoint, "--yes")
    done = (listed, shown, edited, tested, disabled, held, enabled, rotated, again, revealed, deleted)
    assert [(0, "")] * len(done) == [(ran.code, ran.err) for ran in done]
    assert endpoint in listed.out
    assert receiver.url in listed.out
    assert f"id          {endpoint}" in shown.out
    assert (["message.sent"], "\x1b[2J", "2xx") == tuple(
        edited.json()[name] for name in ("event_types", "description", "success")
    )
    assert tested.out.startswith("Delivered: 200 after ")
    assert "thanks" in tested.out
    assert "true" == receiver.received[0].headers["x-webhook-test"]
    assert "its events are held" in disabled.out
    assert f"{endpoint} is active." in enabled.out
    (kept,) = revealed.json()["previous_keys"]
    assert [kept] == rotated.json()["previous_keys"] and "The old one no longer signs.\nOne from before" in again.out
    assert revealed.json()["signing_key"] in again.out
    assert (0, "No endpoints yet.") == ((gone := await ask("endpoint", "list")).code, gone.out[:17])


async def test_an_endpoint_s_order(ask: Any, endpoint: str) -> None:
    """By a key, in other lanes, one by one again; not half of it."""
    for words, ordering, said in (
        (("--order-by", "contact.id"), {"key": "contact.id", "lanes": 8}, "by contact.id, 8 at a time"),
        (("--order-by", "contact.id", "--lanes", "3"), {"key": "contact.id", "lanes": 3}, "by contact.id, 3 at a time"),
        (("--order-by", ""), "endpoint", ""),
    ):
        edited = await ask("endpoint", "edit", endpoint, *words, "--json")
        assert (0, ordering) == (edited.code, edited.json()["ordering"])
        shown = (await ask("endpoint", "show", endpoint)).out
        assert said in shown and ("order" in shown) is bool(said)
    for words in (
        ("--lanes", "3"),
        ("--order-by", "", "--lanes", "3"),
        ("--order-by", "a b"),
        ("--order-by", "a", "--lanes", "65"),
    ):
        refused = await ask("endpoint", "edit", endpoint, *words)
        assert refused.code in (1, 2) and ("lanes" in refused.err or "path" in refused.err)


async def test_an_endpoint_s_filters(ask: Any, endpoint: str, receiver: Receiver, tmp_path: Path) -> None:
    """Set by type, from the argument or a file, and taken away; what is left out isn't sent, and `explain` says why."""
    (tmp_path / "pattern.json").write_text('{"text": [{"prefix": "!"}]}')

    async def edit(*words: str) -> Any:
        edited = await ask("endpoint", "edit", endpoint, *words, "--json")
        assert (0, "") == (edited.code, edited.err)
        return edited.json()["filters"]

    loud = {"text": [{"prefix": "!"}]}
    assert {"*": {"to": [1]}} == await edit("--filter", '*={"to": [1]}')
    by_file = f"message.sent=@{tmp_path / 'pattern.json'}"
    assert {"*": {"to": [1]}, "message.sent": loud} == await edit("--filter", by_file)
    assert {"message.sent": loud} == await edit("--filter", "*=")
    assert 'filter      message.sent: {"text": [{"prefix": "!"}]}' in (await ask("endpoint", "show", endpoint)).out
    lines = b"".join(
        b'{"event_type":"message.sent","event_id":"%b","text":"%b"}\n' % pair for pair in ((b"a", b"hi"), (b"b", b"!"))
    )
    sent = await ask("send", stdin=lines)
    assert (0, "") == (sent.code, sent.err) and "2 accepted" in sent.out and "subscribe" not in sent.out
    assert ["b"] == [each.id for each in await receiver.until(1)]
    explained = await ask("endpoint", "explain", receiver.url, "a")
    assert "filtered" in explained.out and 'at text   found "hi", wanted [{"prefix": "!"}]' in explained.out
    await settled(ask, 1, "--event-id", "b")
    assert "delivered" == (await ask("endpoint", "explain", endpoint, "b", "--json")).json()["reason"]
    assert {} == await edit("--no-filters")
    for words, said in (
        ("message.sent", "is none"),
        ("message.sent={", "no JSON"),
        ("message.sent=@/nowhere/x", "can't be read"),
        ('message.sent={"a": ["x", {"b": 1}]}', "'a[1]'"),
    ):
        refused = await ask("endpoint", "edit", endpoint, "--filter", words)
        assert refused.code in (1, 2) and said in refused.err


async def test_secrets_come_from_files_and_standard_input(ask: Any, tmp_path: Path, receiver: Receiver) -> None:
    """Arguments are seen by every user: signing keys, headers, the receiver's own key, the keys of `listen`."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "headers").write_text("X-One: first\n\nX-Two: second\n")
    added = await ask(
        *(
            "endpoint",
            "add",
            receiver.url,
            "-e",
            "*",
            "--signing-key-file",
            str(tmp_path / "key"),
            "-H",
            "X-Zero: zero",
        ),
        *("--header-file", str(tmp_path / "headers"), "--x-webhook-signature-key-file", "-", "--json"),
        stdin=b" the receiver's \n",
    )
    assert (0, "") == (added.code, added.err)
    assert {"X-Zero": "zero", "X-One": "first", "X-Two": "second"} == added.json()["headers"]
    which = added.json()["id"]
    shown = (await ask("endpoint", "show", which, "--signing-key", "--json")).json()
    assert (KEY, " the receiver's ") == (shown["signing_key"], shown["x_webhook_signature_key"])
    edited = await ask("endpoint", "edit", which, "--no-x-webhook-signature", "--x-webhook-signature-key", "", "--json")
    assert (False, None) == (edited.json()["x_webhook_signature"], edited.json()["x_webhook_signature_key"])
    assert "X-Webhook-Signature  not sent" in (await ask("endpoint", "show", which)).out
    edit = ("endpoint", "edit", which)
    for words, stdin, said in (
        ((*edit, "--signing-key-file", str(tmp_path / "none")), b"", "none"),
        ((*edit, "--signing-key-file", "-", "--signing-key", KEY), b"nothing\n", "name one of them"),
        ((*edit, "--header-file", "-"), b"nothing\n", "is no header"),
        ((*edit, "--signing-key-file", "-"), b"\xff", "UTF-8"),
        (("listen", "--port", "0", "--key-file", "-"), b"whsec_short", "signing_key must be"),
    ):
        refused = await ask(*words, stdin=stdin)
        assert (2, True) == (refused.code, said in refused.err)


async def test_refusals(ask: Any, endpoint: str, receiver: Receiver) -> None:
    """Exit code 1 and the API's message for what the daemon refuses."""
    for words, said in (
        (("endpoint", "add", receiver.url, "-e", "*"), endpoint),
        (("endpoint", "add", "http://169.254.169.254/", "-e", "*"), ""),
        (("endpoint", "add", "https://example.com/", "-e", "message.receivd"), "message.received"),
        (("endpoint", "show", "ep_missing"), "ep_missing"),
        (("workspace", "delete", "default", "--yes"), "default"),
        (("log", "show", "dlv_missing"), ""),
        (("replay", "dlv_missing"), ""),
        (("token", "revoke", "tok_missing"), "tok_missing"),
        (("mail", "test"), "mail.host"),
        (("budget", "--workspace", "nope"), "nope"),
    ):
        ran = await ask(*words)
        assert (1, "") == (ran.code, ran.out), words
        assert ran.err.startswith("Error: "), words
        assert said in ran.err, words


async def test_drop_log_and_replay(ask: Any, endpoint: str, receiver: Receiver) -> None:
    """A drop is in the log with all its attempts, and goes out again by `replay`; a failed test is exit code 1."""
    receiver.answer = lambda _: 500
    await ask("send", stdin=SAMPLES[0].read_bytes())
    [dropped] = await settled(ask, 1, "--state", "dropped", "--endpoint", receiver.url, "--since", "1h")
    shown = await ask("log", "show", dropped["id"])
    budget, status = await ask("budget"), await ask("status")
    receiver.answer = lambda _: 200
    dry = await ask("replay", "--endpoint", endpoint, "--since", "1h", "--dry-run")
    replayed = await ask("replay", dropped["id"])
    await settled(ask, 1, "--state", "delivered")
    assert (0, 3) == (shown.code, shown.out.count("failed: 500"))
    assert "  < thanks" in shown.out
    assert "3 of 30 failures in 30m" in budget.out
    assert receiver.url in budget.out
    assert (0, "") == (status.code, status.err)
    assert "1 accepted, 0 delivered, 3 failed, 1 dropped" in status.out
    assert "1 of 1 active, 0 auto-disabled" in status.out
    assert (0, "1 delivery would go out again.\n") == (dry.code, dry.out)
    assert 0 == replayed.code
    assert ["true"] == [one.headers[name] for one in receiver.received if (name := "x-webhook-replay") in one.headers]
    assert (4, 1) == (len(receiver.received), len({each.body for each in receiver.received}))
    receiver.answer = lambda _: 503
    failed = await ask("endpoint", "test", endpoint)
    assert 1 == failed.code and failed.out.startswith("Failed: 503")


async def test_backfill(ask: Any, endpoint: str, receiver: Receiver) -> None:
    """Past events go to an endpoint added later, once; the log shows it; a missing --since is wrong usage."""
    await ask("send", stdin=b"".join(sample.read_bytes() for sample in SAMPLES))
    await settled(ask, len(SAMPLES), "--state", "delivered")
    later = receiver.url + "/later"
    await ask("endpoint", "add", later, "-e", "*")
    receiver.received.clear()
    dry = await ask("endpoint", "backfill", later, "--since", "1h", "--dry-run")
    done = await ask("endpoint", "backfill", later, "--since", "1h")
    [newest, *_] = await settled(ask, len(SAMPLES), "--endpoint", later, "--state", "delivered")
    again = await ask("endpoint", "backfill", later, "--since", "1h", "--json")
    number = len(SAMPLES)
    assert (0, f"{number} events would go out.\n", f"{number} events go out.\n") == (dry.code, dry.out, done.out)
    assert {"backfilled": 0, "left_out": {"already_had": number}} == json.loads(again.out)
    assert [sample.read_bytes().strip() for sample in SAMPLES] == [one.body for one in receiver.received]
    assert {"true"} == {one.headers["x-webhook-backfill"] for one in receiver.received}
    assert "backfill" in (await ask("log", "show", newest["id"])).out
    assert "(backfill)" in (await ask("log", "--endpoint", later)).out
    none = await ask("endpoint", "backfill", later, "--since", "1h", "--type", "message.received")
    assert "0 events go out. Left out: 1 that it had already.\n" == none.out
    assert 2 == (await ask("endpoint", "backfill", later)).code


async def test_deleting_is_asked_about(ask: Any, endpoint: str) -> None:
    """With how much waits; without an answer it wants --yes (2), "n" is 1, and only yes deletes."""
    await ask("endpoint", "disable", endpoint)
    await ask("send", stdin=b"".join(sample.read_bytes() for sample in SAMPLES))
    waiting = f"{len(SAMPLES)} waiting events"
    silent = await ask("endpoint", "delete", endpoint)
    no = await ask("endpoint", "delete", endpoint, stdin=b"n\n")
    assert [(2, ""), (1, "")] == [(ran.code, ran.out) for ran in (silent, no)]
    assert waiting in silent.err and "--yes" in silent.err and waiting in no.err
    assert 0 == (await ask("endpoint", "show", endpoint)).code
    yes = await ask("endpoint", "delete", endpoint, stdin=b"y\n")
    assert (0, "Deleted.\n") == (yes.code, yes.out)
    assert [2, 1] == [(await ask("workspace", "delete", "default", stdin=given)).code for given in (b"", b"no\n")]


async def test_events_that_nobody_gets(ask: Any, endpoint: str) -> None:
    """No webhook subscribes, or the plan has none: `send` tells it, and the ids that it made up."""
    await ask("endpoint", "edit", endpoint, "-e", "message.sent")
    lines = b'{"event_type":"contact.created"}\n' * 3
    ran = await ask("send", stdin=lines)
    first, *made = ran.out.splitlines()
    assert (0, "", "3 accepted, 0 webhooks subscribe (contact.created).") == (ran.code, ran.err, first)
    ids = [line.split("event_id ")[1] for line in made if line.startswith("line ")]
    assert 3 == len(set(ids)) and 0 == (await ask("log", "show", ids[2])).code
    report = (await ask("send", "--json", stdin=lines + b'{"event_type":"message.sent","event_id":"e1"}\nbad\n')).json()
    assert (4, {"contact.created": 3}) == (report["accepted"], report["unsubscribed"])
    assert [1, 2, 3] == [one["line"] for one in report["made_ids"]]
    mixed = await ask("send", stdin=b'{"event_type":"contact.created"}\n{"event_type":"message.sent"}\n')
    assert mixed.out.startswith("2 accepted, 0 known already, 0 refused; 1 of them: 0 webhooks subscribe (contact.")
    await ask("workspace", "edit", "default", "--plan", "starter")
    below = await ask("send", stdin=lines)
    assert "the workspace's plan has no webhooks, so nothing is delivered" in below.out
    assert "plan" == (await ask("send", "--json", stdin=lines)).json()["paused_by"]


async def test_types(ask: Any) -> None:
    """All of the catalogue; one with its fields and its sample; an unknown one with the nearest."""
    listed = await ask("types")
    assert 12 == len(listed.out.splitlines()) and "A contact sent a message." in listed.out
    shown = await ask("types", "message.received")
    assert "contact.assignee.email" in shown.out and '"event_type": "message.received"' in shown.out
    assert "message.sent" in [one["name"] for one in (await ask("types", "--json")).json()["data"]]
    assert "MessageReceived" == (await ask("types", "message.received", "--schema")).json()["title"]
    assert "message.sent" in (await ask("types", "--openapi")).json()["webhooks"]
    assert "3.0.0" == (await ask("types", "--asyncapi")).json()["asyncapi"]
    assert [2, 2] == [(await ask("types", *words)).code for words in (["--schema"], ["message.sent", "--openapi"])]
    wrong = await ask("types", "message.recieved")
    assert 1 == wrong.code and "did you mean message.received?" in wrong.err


async def test_types_by_list_and_pattern(ask: Any, receiver: Receiver) -> None:
    """`-e a,b` and `-e 'message.*'`, in `add` and in `edit`."""
    words = ("endpoint", "add", receiver.url, "--json", "-e")
    made = (await ask(*words, "contact.created, contact.updated", "-e", "message.*")).json()
    assert ["contact.created", "contact.updated", "message.sent", "message.received"] == made["event_types"]
    edited = await ask("endpoint", "edit", made["id"], "--json", "-e", "*.created")
    assert ["contact.created", "comment.created"] == edited.json()["event_types"]
    wrong = await ask(*words, "mesage.*")
    assert 1 == wrong.code and "did you mean message." in wrong.err


async def test_completion_of_what_the_daemon_knows(
    ask: Any, run: Any, tmp_path: Path, endpoint: str, receiver: Receiver
) -> None:
    """Ids with URLs and descriptions beside them; deliveries, events and tokens where they are wanted."""
    await ask("endpoint", "edit", endpoint, "--description", "the warehouse")
    await ask("send", stdin=b'{"event_type":"message.sent","event_id":"evt1"}')
    [one] = await settled(ask, 1)
    token = (await ask("token", "add", "--scope", "observe", "--note", "Grafana", "--json")).json()["id"]

    async def completed(line: str) -> list[str]:
        words = {"COMP_WORDS": f"webhookd {line}", "COMP_CWORD": line.split()[-1]}
        state = {"_WEBHOOKD_COMPLETE": "fish_complete", "WEBHOOKD_STATE_DIR": str(tmp_path / "state")}
        ran = await run(env=SETTINGS | state | words)
        return [part for part in ran.out.splitlines() if part.startswith("plain")]

    assert [f"plain,{endpoint}\t{receiver.url} the warehouse"] == await completed("endpoint show ep_")
    assert [f"plain,{receiver.url}\t{endpoint} the warehouse"] == await completed("log --endpoint http")
    assert [f"plain,{one['id']}\tdelivered message.sent {one['accepted_at']}"] == await completed("log show dlv_")
    assert [f"plain,evt1\tmessage.sent {one['accepted_at']}"] == await completed("replay evt")
    assert [f"plain,evt1\tmessage.sent {one['accepted_at']}"] == await completed("log --event-id evt")
    assert [f"plain,{token}\tobserve Grafana"] == [
        line for line in await completed("token revoke tok_") if "Grafana" in line
    ]


async def test_listen_adds_an_endpoint_for_itself(ask: Any, start: Any, tmp_path: Path) -> None:
    """It verifies with the key of its endpoint, which is gone after Ctrl-C."""
    words = ("listen", "--add", "--port", "0", "-e", "message.*", "--json", "--state-dir", str(tmp_path / "state"))
    process = await start(*words, env=SETTINGS)
    async with asyncio.timeout(30):
        while b"Added" not in (line := await process.stderr.readline()):
            assert line, "it ended without adding one"
    [made] = (await ask("endpoint", "list", "--json")).json()["data"]
    assert ["message.sent", "message.received"] == made["event_types"]
    await ask("send", stdin=b'{"event_type":"message.sent","event_id":"e1"}')
    async with asyncio.timeout(30):
        received = json.loads(await process.stdout.readline())
    assert ("e1", True, 200) == (received["event_id"], received["verified"], received["status"])
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        assert 0 == await process.wait()
    assert [] == (await ask("endpoint", "list", "--json")).json()["data"]


async def test_follow(ask: Any, endpoint: str, start: Any, tmp_path: Path) -> None:
    """`log -f` shows a delivery as it happens."""
    process = await start("log", "-f", "--json", "--state-dir", str(tmp_path / "state"), env=SETTINGS)
    first = json.loads(SAMPLES[0].read_bytes())
    await ask("send", stdin=SAMPLES[0].read_bytes())
    async with asyncio.timeout(30):
        while (report := json.loads(await process.stdout.readline()))["state"] != "delivered":
            pass
    process.send_signal(signal.SIGINT)
    assert (first["event_id"], first["event_type"], endpoint) == (
        report["event_id"],
        report["event_type"],
        report["endpoint_id"],
    )
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    assert (130, b"") == (process.returncode, err.strip())


async def test_workspaces_and_tokens(ask: Any, run: Any, daemon: Any, tmp_path: Path) -> None:
    """A workspace with a token of its own, which can do what its scope says and nothing else; a sign-in link."""
    added = await ask("workspace", "add", "acme", "--name", "ACME Ltd", "--notify", "ops@acme.example")
    edited = await ask("workspace", "edit", "acme", "--plan", "enterprise", "--no-notify", "--json")
    listed = await ask("workspace", "list")
    made = await ask("token", "add", "--workspace", "acme", "--scope", "ingest", "--note", "helpdesk", "--json")
    tokens = await ask("token", "list")
    url = (tmp_path / "state" / "address").read_text().strip()
    link = await ask("open")
    assert 0 == link.code and link.out.startswith(f"{url}/sign-in#")
    env = {"WEBHOOKD_URL": url, "WEBHOOKD_TOKEN": made.json()["secret"]}
    sent = await run("send", "--workspace", "acme", stdin=SAMPLES[0].read_bytes(), env=env)
    elsewhere = await run("send", stdin=SAMPLES[0].read_bytes(), env=env)
    looking = await run("log", "--workspace", "acme", env=env)
    revoked = await ask("token", "revoke", made.json()["id"])
    ended = await run("send", "--workspace", "acme", stdin=SAMPLES[0].read_bytes(), env=env)
    deleted = await ask("workspace", "delete", "acme", "--yes")
    assert [0] * 7 == [ran.code for ran in (added, edited, listed, made, tokens, sent, revoked)]
    assert ("enterprise", []) == (edited.json()["plan"], edited.json()["notify"])
    assert "ACME Ltd" in listed.out
    assert "helpdesk" in tokens.out
    assert made.json()["secret"] not in tokens.out
    assert (1, 1, 1) == (elsewhere.code, looking.code, ended.code)
    assert 0 == deleted.code


async def test_backup(ask: Any, endpoint: str, tmp_path: Path) -> None:
    """The copy is a database that holds what was accepted before it."""
    await ask("send", stdin=SAMPLES[0].read_bytes())
    file = tmp_path / "copy.db"
    ran = await ask("backup", str(file))
    assert (0, "") == (ran.code, ran.err)
    assert 0o600 == stat.S_IMODE(os.stat(file).st_mode)
    with sqlite3.connect(file) as db:
        assert ("ok",) == db.execute("PRAGMA integrity_check").fetchone()
    db.close()


async def test_send_over_a_restart(ask: Any, daemon: Any, start: Any, receiver: Receiver, tmp_path: Path) -> None:
    """A daemon killed under a pipe: `send` waits for it to come back, wherever it listens then; nothing is lost."""
    state_dir = str(tmp_path / "state")
    await ask("endpoint", "add", receiver.url, "-e", "*")
    sending = await start("send", "--json", "--state-dir", state_dir, env=SETTINGS)

    def line(name: str) -> bytes:
        return b'{"event_type":"message.sent","event_id":"%b"}\n' % name.encode()

    sending.stdin.write(line("before"))
    await receiver.until(1)
    async with asyncio.timeout(30):
        daemon.kill()
        await daemon.wait()
        sending.stdin.write(line("meanwhile"))
        assert (await sending.stderr.readline()).startswith(b"waiting, and trying again: ")
        process = await start("serve", "--state-dir", state_dir, env=SETTINGS)
        await until_ready(process)
        reading = asyncio.create_task(process.stdout.read())
        out, _ = await sending.communicate(line("after"))
    assert 0 == sending.returncode
    assert 3 == json.loads(out)["accepted"] + json.loads(out)["duplicates"]
    while len(ids := list(dict.fromkeys(each.id for each in receiver.received))) < 3:
        await receiver.until(len(receiver.received) + 1)
    assert ["before", "meanwhile", "after"] == ids
    process.send_signal(signal.SIGTERM)
    await reading


async def test_serve_refuses_a_wrong_configuration(run: Any, tmp_path: Path) -> None:
    """Exit code 78, the mistake with its line, and no log line that isn't one."""
    config = tmp_path / "webhookd.toml"
    config.write_text("[listen]\nprot = 1\n")
    ran = await run("serve", "--config", str(config), "--state-dir", str(tmp_path / "state"))
    assert 78 == ran.code
    assert f"{config}:2: listen.prot" in ran.err
    assert all(json.loads(line) for line in ran.out.splitlines())


async def test_serve_ends_well(daemon: Any) -> None:
    """SIGTERM ends it with exit code 0 and nothing on stderr."""
    daemon.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        err = await daemon.stderr.read()
    assert (0, b"") == (await daemon.wait(), err)
