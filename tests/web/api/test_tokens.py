"""API tokens: shown once, kept hashed, ended at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.support.api import Api, head, running_api, wire
from tests.support.reader import Browser
from webhookd.admin.last_used import WRITE_SECONDS
from webhookd.clock import rfc3339


async def test_a_token_is_made_shown_and_revoked(tmp_path: Path) -> None:
    """201 with the secret, which no list ever has; 204 ends it; the database has its hash alone."""
    async with running_api(tmp_path) as api:
        made = await api.post("/v1/tokens", {"scope": "ingest", "note": "the helpdesk"})
        assert 201 == made.status
        secret = made.json["secret"]
        report = {name: made.json[name] for name in ("scope", "workspace", "note")}
        assert {"scope": "ingest", "workspace": None, "note": "the helpdesk"} == report
        listed = await api.get("/v1/tokens")
        assert {made.json["id"], "tok_admin", "tok_ingest"} == {each["id"] for each in listed.json["data"]}
        assert secret.encode() not in listed.body
        assert 202 == (await api.post("/v1/events", data=b'{"event_type":"message.received"}', token=secret)).status
        assert 204 == (await api.call("DELETE", f"/v1/tokens/{made.json['id']}")).status
        gone = await api.call("DELETE", f"/v1/tokens/{made.json['id']}")
        assert (404, "not_found") == (gone.status, gone.code)
    for file in tmp_path.glob("webhookd.db*"):
        assert secret.encode() not in file.read_bytes()


async def test_tokens_are_listed_in_pages(api: Api) -> None:
    """`next` leads through all of them, each once, and is null at the end."""
    made = [(await api.post("/v1/tokens", {"scope": "observe"})).json["id"] for _ in range(5)]
    seen: list[str] = []
    path = "/v1/tokens?limit=3"
    for _ in range(5):
        page = (await api.get(path)).json
        seen += [each["id"] for each in page["data"]]
        if page["next"] is None:
            break
        path = f"/v1/tokens?limit=3&cursor={page['next']}"
    assert sorted([*made, "tok_admin", "tok_ingest"]) == seen


@pytest.mark.parametrize("token_id", ["tok_admin", "tok_ingest"])
async def test_the_first_two_are_not_revoked(api: Api, token_id: str) -> None:
    """403: they live in files, and are changed there."""
    answer = await api.call("DELETE", f"/v1/tokens/{token_id}")
    assert (403, "forbidden") == (answer.status, answer.code)
    assert 200 == (await api.get("/v1/tokens")).status


async def test_tokens_outlive_a_restart(tmp_path: Path) -> None:
    """The table has them; the first two are read from their files."""
    async with running_api(tmp_path) as api:
        secret = (await api.post("/v1/tokens", {"scope": "observe"})).json["secret"]
        admin = api.admin_token
    async with running_api(tmp_path) as api:
        assert 200 == (await api.get("/v1/status", token=secret)).status
        assert admin == api.admin_token
        assert 0o600 == (tmp_path / "admin-token").stat().st_mode & 0o777
    with sqlite3.connect(tmp_path / "webhookd.db") as db:
        assert 3 == db.execute("SELECT count(*) FROM tokens").fetchone()[0]
    db.close()


async def test_a_token_expires(api: Api) -> None:
    """401 with that reason, from that moment on; it signs in no longer, its session ends, and it is still listed."""
    at = rfc3339(api.engine.clock.wall_ms() + 60_000)
    made = (await api.post("/v1/tokens", {"scope": "admin", "expires_at": at})).json
    browser = Browser(api)
    assert 303 == (await browser.sign_in(made["secret"])).status
    await api.engine.clock.advance(59)
    assert 200 == (await api.get("/v1/endpoints", token=made["secret"])).status
    assert 200 == (await browser.get("/webhooks")).status
    await api.engine.clock.advance(1)
    refused = await api.get("/v1/endpoints", token=made["secret"])
    assert (401, "unauthorized", {"expired_at": at}) == (
        refused.status,
        refused.code,
        refused.json["error"]["details"],
    )
    assert "expired" in refused.json["error"]["message"]
    assert 303 == (await browser.get("/webhooks")).status
    at_sign_in = await Browser(api).sign_in(made["secret"])
    assert 403 == at_sign_in.status and f"This token expired at {at}." in at_sign_in.body.decode()
    (shown,) = [each for each in (await api.get("/v1/tokens")).json["data"] if each["id"] == made["id"]]
    assert at == shown["expires_at"]


@pytest.mark.parametrize("at", ["2020-01-01T00:00:00Z", "soon", "+99999-01-01T00:00:00Z", "2031-01-01", 5])
async def test_an_end_is_a_time_to_come(api: Api, at: object) -> None:
    """Anything else makes no token."""
    refused = await api.post("/v1/tokens", {"scope": "observe", "expires_at": at})
    assert (422, {"field": "expires_at"}) == (refused.status, refused.json["error"]["details"])
    assert 2 == len((await api.get("/v1/tokens")).json["data"])


async def test_the_last_use_is_reported_and_written_once_a_minute(tmp_path: Path) -> None:
    """No write for a request; shown at once, in the table after a minute or at the end, and there after a restart."""
    async with running_api(tmp_path) as api:
        made = (await api.post("/v1/tokens", {"scope": "observe"})).json

        async def report() -> str | None:
            listed = (await api.get("/v1/tokens")).json["data"]
            return next(each["last_used_at"] for each in listed if each["id"] == made["id"])

        async def stored() -> int | None:
            sql = "SELECT last_used_at FROM tokens WHERE id = ?"
            return (await api.app.store.read(lambda db: db.execute(sql, (made["id"],)).fetchall()))[0][0]

        assert await report() is None
        for _ in range(3):
            await api.get("/v1/status", token=made["secret"])
        used = rfc3339(api.engine.clock.wall_ms())
        assert (used, None) == (await report(), await stored())
        await api.engine.advance(WRITE_SECONDS)
        assert (used, used) == (await report(), rfc3339(await stored() or 0))
        await api.engine.clock.advance(5)
        await api.get("/v1/status", token=made["secret"])
        used = rfc3339(api.engine.clock.wall_ms())
    async with running_api(tmp_path) as api:
        assert used == await report()


@pytest.mark.parametrize("ending", ["revoked", "expired"])
async def test_an_open_stream_of_events_ends_with_its_token(api: Api, ending: str) -> None:
    """Lines after the token's end are not accepted, however long the stream was open before."""
    at = rfc3339(api.engine.clock.wall_ms() + 60_000) if ending == "expired" else None
    made = (await api.post("/v1/tokens", {"scope": "ingest", "expires_at": at})).json
    async with wire(api.port) as caller:
        caller.send(
            head(
                api,
                Authorization=f"Bearer {made['secret']}",
                Content_Type="application/x-ndjson",
                Transfer_Encoding="chunked",
            )
        )
        caller.chunk(b'{"event_type":"message.sent","event_id":"before"}\n')
        while 404 == (await api.get("/v1/events/before")).status:
            pass
        if ending == "revoked":
            await api.call("DELETE", f"/v1/tokens/{made['id']}")
        else:
            await api.engine.clock.advance(60)
        caller.chunk(b'{"event_type":"message.sent","event_id":"after"}\n')
        status, body = await caller.json()
    assert (401, "unauthorized", 1) == (status, body["error"]["code"], body["accepted"])
    assert 404 == (await api.get("/v1/events/after")).status
