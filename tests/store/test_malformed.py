"""Rows that a damaged disk or another program left malformed: the daemon starts, and the rest goes on."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import daemon, start
from tests.support.receiver import receiver
from webhookd.errors import EXIT_CONFIG

pytestmark = pytest.mark.slow
CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[delivery]\nretry_seconds = [0.1, 3600]\n[budget]\nlimit = 1000\n'


def spoil(state_dir: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(state_dir / "webhookd.db")) as db, db:
        assert db.execute(sql, values).rowcount


@pytest.mark.parametrize(
    ("column", "value", "field", "repair"),
    [
        ("headers", "[[1", "headers", {"X-A": "1"}),
        ("headers", '[["X-A", 7]]', "headers", {}),
        ("headers", '[["X-A", "a\\r\\nX-B: 1"]]', "headers", {}),
        ("event_types", "{}", "event_types", ["*"]),
        ("previous_keys", "[[1]]", "signing_key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("signing_key", "whsec_?", "signing_key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("state", "sleepy", "state", None),
    ],
)
async def test_a_malformed_endpoint_is_disabled_and_can_be_repaired(
    tmp_path: Path, column: str, value: str, field: str, repair: Any
) -> None:
    """The other endpoint gets its events; this one's are held until the column is set again."""
    event = {"event_type": "message.received", "text": "hello"}
    async with receiver() as where:
        async with daemon(tmp_path / "state", CONFIG) as d:
            bad, _ = [
                await d.call("POST", "/v1/endpoints", {"url": where.url + path, "event_types": ["*"]}, expect=201)
                for path in ("/bad", "/good")
            ]
        spoil(tmp_path / "state", f"UPDATE endpoints SET {column} = ? WHERE id = ?", value, bad["id"])
        async with daemon(tmp_path / "state", CONFIG) as d:
            path = f"/v1/endpoints/{bad['id']}"
            shown = await d.call("GET", path, expect=200)
            assert ("disabled", "malformed") == (shown["state"], shown["disabled"]["reason"])
            assert field in shown["disabled"]["message"]
            await d.call("POST", "/v1/events", event, expect=202)
            await where.until(1)
            assert 1 == len(where.ids("good"))
            if repair is not None:
                refused = await d.call("POST", f"{path}/enable", expect=409)
                assert ("endpoint_malformed", [field]) == (
                    refused["error"]["code"],
                    refused["error"]["details"]["fields"],
                )
                await d.call("PATCH", path, {"description": "x"}, expect=409)
                await d.call("POST", f"{path}/test", expect=409)
                await d.call("PATCH", path, {field: repair}, expect=200)
            await d.call("POST", f"{path}/enable", expect=200)
            await where.until(2)
            assert where.ids("good") == where.ids("bad")
            assert '"event":"endpoint.quarantined"' in d.log_file.read_text()


@pytest.mark.parametrize(
    ("lost", "shown_id"),
    [("UPDATE events SET body = NULL WHERE id = 'first'", "first"), ("DELETE FROM events WHERE id = 'first'", "")],
    ids=["body", "row"],
)
@pytest.mark.parametrize("record", [b"{not JSON", b'{"duration_ms":"long"}', b'{"request":[]}'])
async def test_a_malformed_attempt_and_a_lost_event_stop_nothing(
    tmp_path: Path, lost: str, shown_id: str, record: bytes
) -> None:
    """The attempt is shown as one that can't be read; the delivery without its event ends, the next one arrives."""
    async with receiver() as where:
        where.answer = lambda name: 500
        async with daemon(tmp_path / "state", CONFIG) as d:
            added = {"url": where.url + "/hook", "event_types": ["*"]}
            endpoint = await d.call("POST", "/v1/endpoints", added, expect=201)
            for event_id in ("first", "second", "third"):
                event = {"event_type": "message.received", "event_id": event_id, "text": "hello"}
                await d.call("POST", "/v1/events", event, expect=202)
            await where.until(2)
        spoil(tmp_path / "state", "UPDATE attempts SET record = ?", record)
        spoil(tmp_path / "state", lost)
        spoil(tmp_path / "state", "UPDATE deliveries SET next_attempt_at = 1 WHERE attempt_count > 0")
        where.answer = lambda name: 200
        async with daemon(tmp_path / "state", CONFIG) as d:
            await where.until(4)
            assert ["second", "third"] == where.ids("hook")[-2:]
            async with asyncio.timeout(10):
                while (found := await d.call("GET", "/v1/deliveries", expect=200))["data"][0]["state"] == "pending":
                    await asyncio.sleep(0.01)
            assert {shown_id: "expired", "second": "delivered", "third": "delivered"} == {
                each["event_id"]: each["state"] for each in found["data"]
            }
            (first,) = [each for each in found["data"] if each["event_id"] == shown_id]
            assert "can't be read" in first["last_attempt"]["detail"]
            await d.call("GET", f"/v1/deliveries/{first['id']}", expect=200)
            shown = await d.call("GET", f"/v1/endpoints/{endpoint['id']}", expect=200)
            assert 0 == shown["queue"]["waiting"]
            await d.call("GET", "/readyz", expect=200)
            lines = d.log_file.read_text()
            assert '"event":"delivery.quarantined"' in lines
            assert ('"event":"store.malformed"' in lines) == (record == b"{not JSON")


@pytest.mark.parametrize(
    "spoiled",
    [f"UPDATE deliveries SET {column} = {2**63 - 1} WHERE endpoint_seq = 1" for column in ("size", "next_attempt_at")]
    + [
        f"UPDATE deliveries SET accepted_at = {-(2**63)} WHERE endpoint_seq = 1",
        f"UPDATE endpoints SET created_at = {2**63 - 1} WHERE seq = 1",
        "UPDATE endpoints SET workspace_seq = 77 WHERE seq = 1",
    ],
)
async def test_numbers_that_make_no_sense_stop_nothing(tmp_path: Path, spoiled: str) -> None:
    """The daemon starts, shows everything, and delivers what waits for the other endpoint."""
    async with receiver() as where:
        where.answer = lambda name: 500
        async with daemon(tmp_path / "state", CONFIG) as d:
            for path in ("/hook", "/other"):
                await d.call("POST", "/v1/endpoints", {"url": where.url + path, "event_types": ["*"]}, expect=201)
            events = [{"event_type": "message.received", "event_id": each} for each in ("first", "second")]
            await d.call("POST", "/v1/events", events, expect=202)
            await where.until(4)
        spoil(tmp_path / "state", "UPDATE deliveries SET next_attempt_at = 1 WHERE attempt_count > 0")
        spoil(tmp_path / "state", spoiled)
        where.answer = lambda name: 200
        async with daemon(tmp_path / "state", CONFIG) as d:
            for path in ("deliveries", "endpoints", "status"):
                await d.call("GET", f"/v1/{path}", expect=200)
            async with asyncio.timeout(10):
                while "second" not in where.ids("other"):
                    await asyncio.sleep(0.01)
            await d.call("GET", "/readyz", expect=200)


@pytest.mark.parametrize("body", [b"\xff\x00", b'{"text":"\xff"}', b'{"text":tru}', b"[1]", b""])
async def test_a_malformed_payload_is_shown_as_none(tmp_path: Path, body: bytes) -> None:
    """The answer stays JSON."""
    async with receiver() as where:
        async with daemon(tmp_path / "state", CONFIG) as d:
            await d.call("POST", "/v1/endpoints", {"url": where.url + "/hook", "event_types": ["*"]}, expect=201)
            await d.call("POST", "/v1/events", {"event_type": "message.sent", "event_id": "a"}, expect=202)
            await where.until(1)
        spoil(tmp_path / "state", "UPDATE events SET body = ? WHERE id = 'a'", body)
        async with daemon(tmp_path / "state", CONFIG) as d:
            assert (await d.call("GET", "/v1/events/a", expect=200))["payload"] is None


@pytest.mark.parametrize(
    "content",
    ["short", "with spaces in it, and long", "one-of-two-tokens\nthe-other-one", "é" * 20, b"\xff" * 20],
)
async def test_a_malformed_token_file_stops_the_start(tmp_path: Path, content: str | bytes) -> None:
    """Exit code 78 with the file and the right form, never with the secret."""
    code, lines = await _started_with(tmp_path / "state", {"admin-token": content})
    assert EXIT_CONFIG == code
    assert f"{tmp_path / 'state' / 'admin-token'}: " in lines
    assert "with spaces in it" not in lines and "the-other-one" not in lines


async def test_identical_tokens_stop_the_start(tmp_path: Path) -> None:
    """The ingest token would have an admin's rights, or the other way round."""
    secret = "one-secret-for-both-of-them"
    code, lines = await _started_with(tmp_path / "state", {"admin-token": secret, "ingest-token": secret})
    assert EXIT_CONFIG == code
    assert f"{tmp_path / 'state' / 'ingest-token'}: the same token as the admin token" in lines
    assert secret not in lines


async def _started_with(state_dir: Path, files: dict[str, str | bytes]) -> tuple[int, str]:
    """The exit code and the log of a daemon that finds these files."""
    state_dir.mkdir(mode=0o700)
    for name, content in files.items():
        (state_dir / name).write_bytes(content.encode() if isinstance(content, str) else content)
    d = await start(state_dir, alive=False)
    code = await d.until_dead()
    await d.session.close()
    return code, d.log_file.read_text()
