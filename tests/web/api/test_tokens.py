"""API tokens: made once, told once, kept hashed, ended at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.support.api import Api, running_api


async def test_a_token_is_made_shown_and_revoked(tmp_path: Path) -> None:
    """201 with the secret, which no list ever has; 204 ends it; the database has its hash alone."""
    async with running_api(tmp_path) as api:
        made = await api.post("/v1/tokens", {"scope": "ingest", "note": "the helpdesk"})
        assert 201 == made.status
        secret = made.json["secret"]
        told = {name: made.json[name] for name in ("scope", "workspace", "note")}
        assert {"scope": "ingest", "workspace": None, "note": "the helpdesk"} == told
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
