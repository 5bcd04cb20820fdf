"""The live stream: what happens is sent as it happens, and after a break what was missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import orjson
import pytest
from aiohttp import ClientResponse

from tests.delivery.test_live_feed import a_view
from tests.support.api import Api, head, running_api, wire
from webhookd.config import Config, Delivery
from webhookd.delivery import live_feed
from webhookd.web import live_stream
from webhookd.web.api.schemas import DeliverySchema

URL = "https://hooks.example/in"
PATH = "/v1/deliveries/stream"
SOON = 10.0


@dataclass
class Stream:
    response: ClientResponse
    last_id: str = ""
    kept: list[dict[str, str]] = field(default_factory=list)

    async def frame(self) -> dict[str, str]:
        """The next frame: its fields, `""` for a comment; {} at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(SOON):
            async for line in self.response.content:
                text = line.decode().rstrip("\n")
                if not text:
                    self.last_id = fields.get("id", self.last_id)
                    return fields
                name, _, value = text.partition(": ")
                fields[name.rstrip(":")] = value
        return {}

    async def event(self) -> dict[str, str]:
        while frame := await self.frame():
            if "data" in frame:
                return frame
        return {}

    async def report(self, count: int) -> list[tuple[str, str, str]]:
        found = []
        for _ in range(count):
            event = await self.event()
            data = orjson.loads(event["data"])
            msgspec.convert(data, DeliverySchema)
            found.append((event["event"].removeprefix("delivery."), data["event_id"], data["state"]))
        return found


@asynccontextmanager
async def listening(
    api: Api, query: str = "", *, last_id: str = "", path: str = PATH, token: str = ""
) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {token or api.admin_token}"} | ({"Last-Event-ID": last_id} if last_id else {})
    async with api.session.get(f"{api.url}{path}?{query}", headers=headers) as response:
        assert 200 == response.status, await response.read()
        stream = Stream(response)
        assert {"retry": "2000"} == await stream.frame()
        yield stream


async def begun(stream: Stream) -> None:
    frame = await stream.frame()
    assert {"", "id"} == frame.keys()


async def test_it_is_a_stream_of_server_sent_events(api: Api) -> None:
    """Its type, no caching and no buffering, and one message for each change with id, kind and the delivery."""
    await api.engine.endpoint(URL)
    async with listening(api) as stream:
        await begun(stream)
        headers = stream.response.headers
        assert ("text/event-stream", "no-store", "no") == tuple(
            headers[name] for name in ("Content-Type", "Cache-Control", "X-Accel-Buffering")
        )
        await api.engine.send("a")
        accepted, attempted = await stream.event(), await stream.event()
        assert ("delivery.accepted", "delivery.attempted") == (accepted["event"], attempted["event"])
        first, last = orjson.loads(accepted["data"]), orjson.loads(attempted["data"])
        assert ("pending", 0, None) == (first["state"], first["attempt_count"], first["last_attempt"])
        await api.engine.quiet()
        listed = (await api.get("/v1/deliveries")).json["data"]
        assert [last] == listed
        assert [int(each["id"].partition("-")[2]) for each in (accepted, attempted)] == [1, 2]


async def test_every_attempt_is_reported(tmp_path: Path) -> None:
    """A retry with its time, a drop, a replay, a test, what is held."""
    async with running_api(tmp_path, Config(delivery=Delivery(retry_seconds=(30,)))) as api:
        endpoint = await api.engine.endpoint(URL)
        async with listening(api) as stream:
            api.engine.network.answer = lambda url, webhook_id: 500
            await api.engine.send("a")
            assert [("accepted", "a", "pending")] == await stream.report(1)
            waiting = orjson.loads((await stream.event())["data"])
            assert ("pending", "2026-01-01T00:00:30.000Z", 1) == tuple(
                waiting[name] for name in ("state", "next_attempt_at", "attempt_count")
            )
            await api.engine.advance(30)
            assert [("attempted", "a", "dropped")] == await stream.report(1)
            api.engine.network.answer = lambda url, webhook_id: 200
            await api.post(f"/v1/deliveries/{waiting['id']}/replay")
            assert [("accepted", "a", "pending"), ("attempted", "a", "delivered")] == await stream.report(2)
            await api.post(f"/v1/endpoints/{endpoint.id}/test")
            test = orjson.loads((await stream.event())["data"])
            assert (True, "delivered") == (test["test"], test["state"])
            await api.post(f"/v1/endpoints/{endpoint.id}/disable")
            await api.engine.send("b")
            assert [("accepted", "b", "held")] == await stream.report(1)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["a", "a", "b", "b", "b", "b"]),
        ("event_type=contact.created", ["b", "b", "b", "b"]),
        ("event_id=a", ["a", "a"]),
        ("state=delivered", ["a", "b", "b"]),
        ("state=delivered&event_type=contact.created", ["b", "b"]),
        ("endpoint=first&state=pending", ["a", "b"]),
        ("endpoint=second", ["b", "b"]),
        ("since=2026-01-01T00:00:00Z&state=delivered", ["a", "b", "b"]),
        ("since=2026-01-01T00:00:01Z", []),
        ("until=2026-01-01T00:00:00Z", []),
    ],
)
async def test_only_what_is_asked_for_is_reported(api: Api, query: str, expected: list[str]) -> None:
    """The same filters as the list, and nothing of another workspace."""
    first, second = await api.engine.endpoint(URL), await api.engine.endpoint(f"{URL}/2", ["contact.created"])
    await api.post("/v1/workspaces", {"id": "acme"})
    await api.engine.endpoint(URL, workspace="acme")
    query = query.replace("first", first.id).replace("second", second.id)
    async with listening(api, query) as stream:
        await api.engine.send("theirs", workspace="acme")
        await api.engine.deliver("a", event_type="message.sent")
        await api.engine.deliver("b", event_type="contact.created")
        api.app.stop_accepting()  # so that the stream has an end
        found = []
        while event := await stream.event():
            found.append(orjson.loads(event["data"])["event_id"])
        assert expected == sorted(found)


async def test_after_a_short_break_it_goes_on_where_it_was(api: Api) -> None:
    """`Last-Event-ID`: each happening of the break once, with its own id, then what comes."""
    await api.engine.endpoint(URL)
    async with listening(api) as stream:
        await api.engine.send("a")
        assert [("accepted", "a", "pending"), ("attempted", "a", "delivered")] == await stream.report(2)
    await api.engine.deliver("b")
    async with listening(api, last_id=stream.last_id) as again:
        assert [("accepted", "b", "pending"), ("attempted", "b", "delivered")] == await again.report(2)
        await api.engine.send("c")
        assert [("accepted", "c", "pending"), ("attempted", "c", "delivered")] == await again.report(2)
    async with listening(api, last_id=again.last_id) as last:
        assert again.last_id == (await last.frame())["id"]


async def test_a_stream_that_sent_nothing_yet_can_go_on_too(api: Api) -> None:
    """Its first frames say an id without data, which a browser remembers."""
    await api.engine.endpoint(URL)
    async with listening(api) as stream:
        await begun(stream)
    await api.engine.deliver("a")
    async with listening(api, last_id=stream.last_id) as again:
        assert [("attempted", "a", "delivered")] == await again.report(1)


async def test_after_a_restart_the_table_knows_what_was_missed(tmp_path: Path) -> None:
    """Accepted, failed or delivered since: each such delivery once, as it is now, and nothing from before."""
    config = Config(delivery=Delivery(retry_seconds=()))
    async with running_api(tmp_path, config) as api:
        await api.engine.endpoint(URL)
        await api.engine.deliver("old")
        stopped = await api.engine.endpoint(f"{URL}/2")
        await api.post(f"/v1/endpoints/{stopped.id}/disable")
        api.engine.clock.jump_wall(60)
        async with listening(api) as stream:
            await begun(stream)
        api.engine.network.answer = lambda url, webhook_id: 500 if webhook_id == "b" else 200
        await api.engine.deliver("a", "b")
    async with running_api(tmp_path, config) as api:
        api.engine.clock.jump_wall(120)
        async with listening(api, last_id=stream.last_id) as again:
            assert [
                ("attempted", "a", "delivered"),
                ("accepted", "a", "held"),
                ("attempted", "b", "dropped"),
                ("accepted", "b", "held"),
            ] == await again.report(4)
            await begun(again)
        async with listening(api, "state=dropped", last_id=stream.last_id) as filtered:
            assert [("attempted", "b", "dropped")] == await filtered.report(1)
        async with listening(api, last_id=again.last_id) as later:
            await begun(later)  # nothing was missed since


async def test_an_id_of_the_future_is_not_gone_on_from(api: Api) -> None:
    """The wall clock was set back meanwhile: what was missed can't be distinguished from what was seen."""
    async with listening(api) as stream:
        await begun(stream)
    api.engine.clock.jump_wall(-60)
    async with listening(api, last_id=stream.last_id) as again:
        assert "reset" == (await again.frame())["event"]


@pytest.mark.parametrize("last_id", ["nonsense", "1-1", "999999999999999999-1", "'; DROP TABLE deliveries", "-"])
async def test_what_it_cannot_go_on_from_it_says(api: Api, last_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that is none, or more missed than is kept: `reset`, and then what comes."""
    monkeypatch.setattr(live_stream, "MISSED", 2)
    await api.engine.endpoint(URL)
    await api.engine.deliver("a", "b", "c")
    async with listening(api, last_id=last_id) as stream:
        reset = await stream.frame()
        assert ("reset", ["reason"]) == (reset["event"], list(orjson.loads(reset["data"])))
        await api.engine.send("d")
        assert [("accepted", "d", "pending")] == await stream.report(1)


async def test_silence_is_broken_by_a_heartbeat(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment that also says how far the stream has come, past what its filter left out."""
    monkeypatch.setattr(live_stream, "HEARTBEAT_SECONDS", 0.05)
    await api.engine.endpoint(URL)
    async with listening(api, "event_id=none") as stream:
        await begun(stream)
        before = stream.last_id
        await api.engine.deliver("a")
        for _ in range(100):
            frame = await stream.frame()
            assert {"", "id"} == frame.keys()
            if frame["id"] != before:
                break
        assert api.app.live_feed.now_id == stream.last_id != before


@pytest.mark.parametrize("ending", ["token", "workspace"])
async def test_it_ends_with_what_allowed_it(api: Api, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is revoked, a workspace that is deleted."""
    monkeypatch.setattr(live_stream, "RIGHTS_SECONDS", 0.05)
    await api.post("/v1/workspaces", {"id": "acme"})
    token, secret = await api.app.services.tokens.add("admin", None if ending == "workspace" else "acme")
    path = "/v1/workspaces/acme/deliveries/stream"
    async with listening(api, path=path, token=secret) as stream:
        await begun(stream)
        if ending == "token":
            await api.app.services.tokens.revoke(token.id)
        else:
            await api.call("DELETE", "/v1/workspaces/acme")
        assert {} == await stream.event()


@pytest.mark.parametrize("reads", [True, False])
async def test_traffic_keeps_no_revoked_token(api: Api, reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights are asked on a clock: it ends in time under a flood, also if its client has stopped reading."""
    monkeypatch.setattr(live_stream, "RIGHTS_SECONDS", 0.05)
    token, secret = await api.app.services.tokens.add("admin", "default")
    feed = api.app.live_feed

    async def flood() -> None:
        while True:
            feed.publish("delivery.attempted", a_view(last_attempt={"body": "x" * 20_000}))
            await asyncio.sleep(0.001)

    async with wire(api.port) as client:
        client.send(head(api, "GET", PATH, Authorization=f"Bearer {secret}", Connection="close"))
        await client.sent()
        flooding = asyncio.create_task(flood())
        try:
            async with asyncio.timeout(SOON):
                reading = asyncio.create_task(client.ended()) if reads else None
                await asyncio.sleep(0.2)
                await api.app.services.tokens.revoke(token.id)
                while await listens(api):
                    await asyncio.sleep(0.02)
                if reading is not None:
                    await reading
        finally:
            flooding.cancel()


async def test_it_ends_when_the_daemon_stops(api: Api) -> None:
    """What had happened is sent, then a clean end; a new one ends at once."""
    await api.engine.endpoint(URL)
    async with listening(api) as stream:
        await api.engine.deliver("a")
        api.app.stop_accepting()
        assert [("accepted", "a", "pending"), ("attempted", "a", "delivered")] == await stream.report(2)
        assert {} == await stream.event()
    async with listening(api) as late:
        assert {} == await late.event()


async def test_whoever_reads_nothing_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the stream nor its events stay: afterwards there is no subscription."""
    monkeypatch.setattr(live_stream, "WRITE_SECONDS", 0.1)
    async with wire(api.port) as deaf:
        deaf.send(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.admin_token}\r\n\r\n")
        await deaf.sent()
        feed = api.app.live_feed
        async with asyncio.timeout(SOON):
            while not feed.wanted:
                await asyncio.sleep(0.01)
        for _ in range(200):
            for _ in range(20):
                feed.publish("delivery.attempted", a_view(last_attempt={"body": "x" * 20_000}))
            await asyncio.sleep(0.01)
            if not await listens(api):
                break
        assert not await listens(api)


async def listens(api: Api) -> bool:
    await api.engine.clock.advance(live_feed.LINGER_SECONDS + 1)
    return api.app.live_feed.wanted


async def test_there_are_so_many_streams_and_no_more(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with `Retry-After`, until one ends."""
    monkeypatch.setattr(live_feed, "MAX_SUBSCRIPTIONS", 1)
    async with listening(api):
        refused = await api.get(PATH)
        assert (503, "unavailable", "30") == (refused.status, refused.code, refused.headers["Retry-After"])


async def test_a_stream_wants_a_token(api: Api) -> None:
    """An admin's, in the header; none in the query."""
    assert 401 == (await api.get(PATH, token=None)).status
    assert 403 == (await api.get(PATH, token="ingest")).status
    assert 401 == (await api.get(f"{PATH}?token={api.admin_token}", token=None)).status
