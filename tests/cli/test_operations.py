"""The commands that keep webhookd running well: configuration, copy, budget, mail, page, status."""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

COPY = b"SQLite format 3\x00" + b"page" * 1000


@pytest.fixture
def copy_api(api: Any) -> Any:
    api.answers("POST", "/v1/backup", lambda _: web.Response(body=COPY))
    return api


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "webhookd.toml"


async def test_check_config(run: Any, config: Path) -> None:
    """Every mistake with its line and the right form, on stderr; exit code 1; the same as JSON."""
    config.write_text('[listen]\nport = "high"\n\n[delivery]\nretries = 3\n')
    ran = await run("check-config", str(config))
    assert (1, "") == (ran.code, ran.out)
    [first, second] = ran.err.splitlines()
    assert first.startswith(f"{config}:2: listen.port: ")
    assert second.startswith(f"{config}:5: delivery.retries: unknown key")
    config.write_text("[listen]\nprot = 1\n")
    ran = await run("check-config", "--json", "--config", str(config))
    assert (1, False) == (ran.code, ran.json()["ok"])
    [mistake] = ran.json()["mistakes"]
    assert (2, "listen.prot", str(config)) == (mistake["line"], mistake["key"], mistake["source"])


async def test_check_config_without_mistakes(run: Any) -> None:
    """The file that teaches has none."""
    file = Path(__file__).parents[2] / "etc" / "webhookd.toml"
    ran = await run("check-config", str(file))
    assert (0, f"{file}: no mistakes, and nothing differs from the defaults.\n") == (ran.code, ran.out)


async def test_check_config_says_what_differs(run: Any, config: Path) -> None:
    """Each setting with its value, its default and its place; what needs a restart says so; no secret is shown."""
    config.write_text(
        "[listen]\nport = 9000\n[delivery]\nretry_seconds = [1,\n  2]\n[log]\nlevel = 'info'\n"
        "[mail]\nuser = 'x'\npassword = 'keep this'\n[events.'order.paid']\n"
    )
    environ = {"WEBHOOKD_BUDGET__LIMIT": "31"}
    ran = await run("check-config", str(config), env=environ)
    assert (0, "") == (ran.code, ran.err)
    assert f"{config}: no mistakes. What differs from the defaults:" == ran.out.splitlines()[0]
    assert [
        ["delivery.retry_seconds", "[1, 2]", "[30, 60, 90]", "line 4"],
        ["budget.limit", "31", "30", "WEBHOOKD_BUDGET__LIMIT"],
        ["mail.user", '"x"', '""', "line 9"],
        ["mail.password", "a secret", '""', "line 10"],
        ['events."order.paid"', '"order.paid"', "not there", "line 11"],
        ["listen.port", "9000", "8780", "line 2", "needs a restart"],
    ] == [re.split(r"\s{2,}", line) for line in ran.out.splitlines()[3:9]]
    assert "keep this" not in ran.out
    found = (await run("check-config", "--json", str(config), env=environ)).json()["differences"]
    last = {"key": "listen.port", "value": "9000", "default": "8780", "source": str(config), "line": 2}
    assert {**last, "needs_restart": True} == found[-1]


@pytest.mark.parametrize(
    ("more", "trusted"),
    [("", "every program of this machine"), ("public_url = 'https://hooks.example.com'\n", "only the unix socket")],
)
async def test_check_config_says_who_is_trusted(run: Any, config: Path, more: str, trusted: str) -> None:
    """A valid file may still have settings to think about again."""
    config.write_text(f"[listen]\ntrust_local_ingest = true\n{more}")
    ran = await run("check-config", str(config))
    assert 0 == ran.code
    assert "listen.trust_local_ingest: " in ran.out and trusted in ran.out
    (warning,) = (await run("check-config", "--json", str(config))).json()["warnings"]
    assert "listen.trust_local_ingest" == warning["key"] and trusted in warning["message"]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("[mail]\nuser = 'x'\npassword = 'y'\ntls = 'none'\n", ["mail.user"]),
        ("[mail]\nuser = 'x'\npassword = 'y'\ntls = 'starttls'\n", []),
        ('[listen]\ntrusted_proxies = ["10.0.0.0/8", "::/0"]\n', ["listen.trusted_proxies"]),
        ('[listen]\ntrusted_proxies = ["127.0.0.1/32"]\n', []),
    ],
)
async def test_check_config_warns(run: Any, config: Path, text: str, keys: list[str]) -> None:
    """Of a password in clear text; of trusting every address, since a caller would name its own."""
    config.write_text(text)
    found = (await run("check-config", "--json", str(config))).json()["warnings"]
    assert keys == [each["key"] for each in found]


async def test_check_config_without_a_file(run: Any, config: Path) -> None:
    """The variables count all the same; a file that is named and isn't there is a mistake, not a traceback."""
    ran = await run("check-config", env={"WEBHOOKD_LISTEN__PORT": "high"})
    assert 1 == ran.code
    assert ran.err.startswith("WEBHOOKD_LISTEN__PORT: listen.port: ")
    ran = await run("check-config", str(config))
    assert 1 == ran.code
    assert "the file can't be read: No such file or directory" in ran.err


async def test_backup(copy_api: Any, ask: Any, tmp_path: Path) -> None:
    """The copy arrives whole, readable by its owner alone, with nothing left beside it."""
    file = tmp_path / "copies" / "webhookd.db"
    file.parent.mkdir()
    ran = await ask("backup", str(file))
    assert (0, f"{file}: 3.9 KiB.\n") == (ran.code, ran.out)
    assert COPY == file.read_bytes()
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert ["webhookd.db"] == os.listdir(file.parent)


async def test_backup_overwrites_only_by_force(copy_api: Any, ask: Any, tmp_path: Path) -> None:
    """A file that is there stays, unless --force says otherwise."""
    file = tmp_path / "webhookd.db"
    file.write_bytes(b"older")
    refused = await ask("backup", str(file))
    kept = file.read_bytes()
    forced = await ask("backup", "--force", "--json", str(file))
    assert (2, b"older") == (refused.code, kept)
    assert (0, {"file": str(file), "bytes": len(COPY)}) == (forced.code, forced.json())
    assert COPY == file.read_bytes()


@pytest.mark.parametrize("chunked", [True, False])
async def test_backup_cut_short(api: Any, ask: Any, tmp_path: Path, chunked: bool) -> None:
    """A copy that breaks off leaves no file behind, and the older one as it was."""

    class Cut(web.StreamResponse):
        async def prepare(self, request: web.BaseRequest) -> Any:
            if chunked:
                self.enable_chunked_encoding()
            else:
                self.content_length = len(COPY)
            writer = await super().prepare(request)
            await self.write(COPY[:2000])
            assert request.transport is not None
            request.transport.close()
            return writer

    api.answers("POST", "/v1/backup", lambda _: Cut())
    file = tmp_path / "copies" / "webhookd.db"
    file.parent.mkdir()
    file.write_bytes(b"older")
    ran = await ask("backup", "--force", str(file))
    assert 3 == ran.code
    assert "the connection ended in the middle of the answer" in ran.err
    assert ["webhookd.db"] == os.listdir(file.parent)
    assert b"older" == file.read_bytes()


async def test_backup_refused(copy_api: Any, ask: Any, tmp_path: Path) -> None:
    """By the daemon, in its words, and no file is made; a folder that isn't there is said, without a traceback."""
    nowhere = await ask("backup", str(tmp_path / "missing" / "copy.db"))
    assert 1 == nowhere.code
    assert "can't be written: No such file or directory." in nowhere.err
    copy_api.refuses("POST", "/v1/backup", 507, "storage_full", "The disk is nearly full.")
    ran = await ask("backup", str(tmp_path / "copy.db"))
    assert (1, "Error: The disk is nearly full.\n") == (ran.code, ran.err)
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize(("failures", "spent"), [(0, False), (12, False), (30, True), (45, True)])
async def test_budget(api: Any, ask: Any, failures: int, spent: bool) -> None:
    """A bar, who spent it, when the oldest leaves, and whether one more disables."""
    api.answers("GET", "/v1/endpoints", {"data": [{"id": "ep_1", "url": "https://example.com/hook"}], "next": None})
    view = {
        "limit": 30,
        "window_seconds": 1800,
        "failures": failures,
        "by_endpoint": {"ep_2": 1, "ep_1": failures - 1} if failures else {},
        "oldest_expires_at": "2026-01-31T12:00:00.000Z" if failures else None,
        "spent_until": "2026-01-31T12:05:00.000Z" if spent else None,
    }
    api.answers("GET", "/v1/budget", view)
    ran = await ask("budget")
    assert 0 == ran.code
    lines = ran.out.splitlines()
    assert f"{failures} of 30 failures in 30m" == lines[0].split("  ")[1]
    assert spent == lines[-1].startswith("Spent until 2026-01-31 12:05:00: one more failure disables")
    if failures:
        assert [f"{failures - 1:>5}  ep_1  https://example.com/hook", "    1  ep_2  (deleted)"] == lines[1:3]
        assert lines[3].startswith("The oldest failure leaves the count at 2026-01-31 12:00:00 (")


async def test_audit(api: Any, ask: Any) -> None:
    """One line an entry, with the session where there is one; as JSON as it came."""
    entry = {
        "at": "2026-01-31T12:00:00.000Z",
        "workspace": None,
        "token_id": "tok_admin",
        "session_id": None,
        "address": "127.0.0.1",
        "action": "make_workspace",
        "target": "/v1/workspaces/acme\x1b[2J",
        "outcome": "done",
    }
    answer = {"data": [entry, {**entry, "session_id": "ses_1", "workspace": "acme"}], "next": None}
    api.answers("GET", "/v1/audit", answer)
    ran = await ask("audit", "-n", "2")
    assert 0 == ran.code and "\x1b" not in ran.out
    header, first, second = ran.out.splitlines()
    assert "WHO" in header and "tok_admin" in first and "ses_1" in second and "tok_admin" not in second
    assert answer == (await ask("audit", "--json")).json()
    await ask("audit", "--who", "tok_1", "--what", "page", "--until", "2026-01-31T12:00:00Z")
    wanted = {"limit": "50", "who": "tok_1", "what": "page", "until": "2026-01-31T12:00:00.000Z"}
    assert wanted == api.asked[-1].query
    api.answers("GET", "/v1/audit", lambda asked: {"data": [entry], "next": None if "cursor" in asked.query else "x"})
    assert "--all shows them" in (await ask("audit")).err
    assert 3 == len((await ask("audit", "--all")).out.splitlines())


async def test_tokens_with_an_end(api: Any, ask: Any) -> None:
    """`--expires 90d` is from now on; the list has end and last use."""
    api.answers("POST", "/v1/tokens", {"id": "tok_1", "secret": "whk_1"})
    assert 0 == (await ask("token", "add", "--scope", "observe", "--expires", "90d")).code
    days = datetime.fromisoformat(api.asked[-1].json()["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < days < timedelta(days=90, hours=1)
    wrong = await ask("token", "add", "--scope", "observe", "--expires", "tomorrow")
    assert 2 == wrong.code and "from now" in wrong.err
    times = {"created_at": "2026-01-31T12:00:00Z", "expires_at": "2026-02-01T12:00:00Z", "last_used_at": None}
    one = {"id": "tok_1", "scope": "observe", "workspace": None, "note": "", **times}
    api.answers("GET", "/v1/tokens", {"data": [one], "next": None})
    header, line = (await ask("token", "list")).out.splitlines()
    assert "EXPIRES" in header and "LAST USED" in header and "2026-02-01" in line


async def test_sessions(api: Any, ask: Any) -> None:
    """Who is signed in; one ended, or all of them."""
    one = {
        "id": "ses_1",
        "token_id": "tok_1",
        "workspace": None,
        "address": "192.0.2.7",
        "created_at": "2026-01-31T12:00:00Z",
        "last_used_at": "2026-01-31T12:05:00Z",
        "expires_at": "2026-02-01T00:00:00Z",
    }
    api.answers("GET", "/v1/sessions", {"data": [one, {**one, "id": "ses_2"}], "next": None})
    for name in ("ses_1", "ses_2"):
        api.answers("DELETE", f"/v1/sessions/{name}", lambda _: web.Response(status=204))
    lines = (await ask("session", "list")).out.splitlines()
    assert 3 == len(lines) and "192.0.2.7" in lines[1]
    assert "Ended ses_1.\n" == (await ask("session", "end", "ses_1")).out
    assert "Ended ses_1.\nEnded ses_2.\n" == (await ask("session", "end", "--all")).out
    for words in ((), ("ses_1", "--all")):
        assert 2 == (await ask("session", "end", *words)).code


async def test_open(api: Any, ask: Any) -> None:
    """Nothing but the link, so that it can go into another command."""
    api.answers("POST", "/v1/sign-in-links", {"url": "http://127.0.0.1:8780/sign-in#code"})
    ran = await ask("open")
    assert (0, "http://127.0.0.1:8780/sign-in#code\n", "") == (ran.code, ran.out, ran.err)


@pytest.mark.parametrize(
    ("words", "asked"),
    [((), {}), (("--to", "a@example.com", "--to", "b@example.com"), {"to": ["a@example.com", "b@example.com"]})],
)
async def test_mail_test(api: Any, ask: Any, words: tuple[str, ...], asked: dict[str, Any]) -> None:
    """A test mail to the addresses named, or to those of the configuration, which the answer names."""
    api.answers("POST", "/v1/mail/test", {"to": ["a@example.com", "b@example.com"]})
    ran = await ask("mail", "test", *words)
    assert (0, "The mail server took a test mail to a@example.com, b@example.com.\n") == (ran.code, ran.out)
    assert asked == api.asked[-1].json()
