"""The scenarios whose every write is killed at, each short: what a daemon does that must not be cut in halves."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing

import aiohttp

from tests.crash.case import Violation
from tests.crash.history import BACKFILL, DELIVERED, REPLAY, SKIPPED, Final, Received, Said, Terms
from tests.crash.play import DRAIN_SECONDS, Play, Scenario
from tests.crash.producer import Event, events
from tests.crash.witness import Manners, Reply
from webhookd.models import Json
from webhookd.store import connection

DAY_MS = 86_400_000


def all_well(received: Received) -> Reply:
    return Reply()


def silent(received: Received) -> Reply:
    return Reply(None)


def fails_until(attempt: int) -> Manners:
    return lambda received: Reply(200 if received.attempt >= attempt else 500)


def ill(received: Received) -> Reply:
    return Reply(200 if received.endpoint == "well" else 500)


async def nothing(play: Play) -> None:
    """What waits goes out by itself."""


# accept, batch
async def two_endpoints(play: Play) -> None:
    await play.supervisor.start()
    await play.subscribe("well")
    await play.subscribe("other")
    await play.supervisor.stop()


async def send_singly(play: Play) -> None:
    for event in events("single", 5):
        await play.producer.one(event)


async def send_batches(play: Play) -> None:
    await play.producer.array(events("array", 20))
    await play.producer.pipe(events("pipe", 30))


# success, failure, drop: what waits after a kill
async def some_wait(play: Play) -> None:
    """Five events wait for two endpoints, with the first attempts under way as the daemon is killed."""
    await play.supervisor.start()
    await play.subscribe("well")
    await play.subscribe("other")
    await play.producer.array(events("waiting", 5))
    await play.arrived(2)
    await play.supervisor.kill()


# lanes
async def by_key(play: Play) -> None:
    await play.supervisor.start()
    await play.subscribe("keyed", lanes=2)
    await play.subscribe("strict")
    await play.supervisor.stop()


async def send_to_lanes(play: Play) -> None:
    """Events of three contacts; the number of lanes changes between them."""
    await play.producer.array([Event(f"first-{number}", contact=number % 3) for number in range(9)])
    endpoint = (await play.endpoints())["keyed"]
    more = {"ordering": {"key": "contact.id", "lanes": 3}}
    await play.supervisor.call("PATCH", f"/v1/endpoints/{endpoint['id']}", more)
    for number in range(3):
        await play.producer.one(Event(f"second-{number}", contact=number % 3))


def one_contact_fails(received: Received) -> Reply:
    """Twice for each event of contact 1, at the endpoint with lanes."""
    ill = received.endpoint == "keyed" and b'"contact":{"id":1}' in received.body and received.attempt < 3
    return Reply(500 if ill else 200)


# disable, enable
def mailed_once(play: Play, final: Final) -> list[Violation]:
    """Each disabling is in one mail, and a second copy, after a kill, is the same to the byte."""
    found = [
        Violation("disabled", f"{name} is {final.endpoints[name].state} after the budget was spent")
        for name in ("other", "third")
        if final.endpoints[name].state != "auto_disabled"
    ]
    return found + mailed(play, "other", "third")


def drop_mailed_once(play: Play, final: Final) -> list[Violation]:
    """Of several drops in a row the first is in one mail."""
    return mailed(play, "other")


def mailed(play: Play, *names: str) -> list[Violation]:
    """Each of these endpoints is named in one mail, whose copies are the same."""
    found = []
    copies = {(mail["Message-ID"], raw) for mail, (_, raw) in zip(play.mails.mails, play.mails.taken, strict=True)}
    for name in names:
        ids = {message_id for message_id, raw in copies if f"/{name}".encode() in raw}
        if len(ids) != 1:
            found.append(Violation("mail", f"{name} is named in {len(ids)} mails"))
    if len(copies) != len({message_id for message_id, _ in copies}):
        found.append(Violation("mail", "two mails with one Message-ID differ"))
    if len(play.mails.taken) - len(copies) > len(play.history.crashes):
        found.append(Violation("mail", f"{len(play.mails.taken)} mails for {len(copies)}"))
    return found


async def three_wait(play: Play) -> None:
    await play.supervisor.start()
    for name in ("well", "other", "third"):
        await play.subscribe(name)
    await play.producer.array(events("waiting", 5))
    await play.arrived(3)
    await play.supervisor.kill()


async def two_stopped(play: Play) -> None:
    play.witness.manners = ill
    await play.supervisor.start()
    for name in ("well", "other", "third"):
        await play.subscribe(name)
    await play.producer.array(events("held", 6))
    async with asyncio.timeout(DRAIN_SECONDS):
        while [each["state"] for each in (await play.endpoints()).values()].count("auto_disabled") < 2:
            await asyncio.sleep(0.01)
    await play.drained()
    await play.supervisor.kill()


async def enable_both(play: Play) -> None:
    for name, skip_held in (("other", False), ("third", True)):
        if (await play.endpoints())[name]["state"] != "active":
            await play.enable(name, skip_held=skip_held)
    await play.producer.one(events("after", 1)[0])


def held_went_out(play: Play, final: Final) -> list[Violation]:
    states: dict[str, Counter[int]] = {"other": Counter(), "third": Counter()}
    for row in final.deliveries:
        if row.endpoint in states and row.event_id.startswith("held"):
            states[row.endpoint][row.state] += 1
    wrong = states["other"][SKIPPED] or not states["third"][SKIPPED] or not states["other"][DELIVERED]
    return [Violation("enable", f"{states}")] if wrong else []


# replay
async def some_dropped(play: Play) -> None:
    """Four events were delivered to one endpoint and dropped at the other."""
    play.witness.manners = ill
    await play.supervisor.start()
    await play.subscribe("well")
    await play.subscribe("other")
    await play.producer.array(events("past", 4))
    await play.drained()
    await play.supervisor.kill()


async def replay_all(play: Play) -> None:
    """The dropped ones singly, the delivered ones at once; after a silence only what wasn't done is asked again."""
    for each in await deliveries(play, "state=dropped"):
        while not await is_replayed(play, [each["id"]]):
            await ask_once(play, f"/v1/deliveries/{each['id']}/replay")
    endpoint = (await play.endpoints())["well"]["id"]
    past = [each["id"] for each in await deliveries(play, f"endpoint={endpoint}") if each["replay_of"] is None]
    while not await is_replayed(play, past):
        await ask_once(play, "/v1/replay", {"endpoint": endpoint, "state": "delivered"})


async def deliveries(play: Play, query: str) -> list[Json]:
    _, answer = await play.supervisor.call("GET", f"/v1/deliveries?limit=500&{query}")
    return list(reversed(answer["data"]))


async def is_replayed(play: Play, ids: list[str]) -> bool:
    """Whether there is a replay of any of these: those of one call are one transaction."""
    return any(each["replay_of"] in ids for each in await deliveries(play, ""))


async def ask_once(play: Play, path: str, json: Json | None = None) -> None:
    try:
        status, answer = await play.supervisor.ask("POST", path, json=json)
    except aiohttp.ClientError:
        await play.supervisor.again()
        return
    assert status in (200, 201, 202), answer


def replayed_once(play: Play, final: Final) -> list[Violation]:
    replays = Counter((row.event_id, row.endpoint) for row in final.deliveries if row.kind == REPLAY)
    undelivered = [row for row in final.deliveries if row.kind == REPLAY and row.state != DELIVERED]
    good = set(replays.values()) == {1} and len(replays) == 8 and not undelivered
    return [] if good else [Violation("replay", f"{replays}, not delivered: {undelivered}")]


# backfill
PAST = events("past", 120)  # more than go in one step


async def some_past(play: Play) -> None:
    """Past events, and an endpoint that was added after them."""
    play.witness.manners = all_well
    await play.supervisor.start()
    await play.subscribe("well")
    await play.producer.array(PAST)
    await play.drained()
    await play.supervisor.call("POST", "/v1/endpoints", {"url": play.witness.url("later"), "event_types": ["*"]})
    await play.supervisor.kill()


async def backfill_all(play: Play) -> None:
    """Asked again after a silence, until the endpoint has had everything."""
    path = f"/v1/endpoints/{(await play.endpoints())['later']['id']}/backfill"
    since = {"since": "2020-01-01T00:00:00Z"}
    while (await play.supervisor.call("POST", path, since | {"dry_run": True}))[1]["backfilled"]:
        await ask_once(play, path, since)


def backfilled_once(play: Play, final: Final) -> list[Violation]:
    rows = [row for row in final.deliveries if row.kind == BACKFILL]
    ids = [row.event_id for row in sorted(rows, key=lambda row: row.seq)]
    good = ids == [event.event_id for event in PAST] and all(row.state == DELIVERED for row in rows)
    return [] if good else [Violation("backfill", f"queued were {ids}")]


# prune

OLD, REMEMBERED, YOUNG = events("old", 12), events("remembered", 4), events("young", 4)
HELD = events("held", 3, event_type="comment.created")


async def much_is_old(play: Play) -> None:
    """Delivered long ago, delivered a while ago, just delivered; and old events that are still held."""
    play.witness.manners = all_well
    await play.supervisor.start()
    await play.subscribe("well", "message.sent")
    await play.subscribe("other", "message.sent")
    await play.subscribe("off", "comment.created")
    off = (await play.endpoints())["off"]["id"]
    await play.supervisor.call("POST", f"/v1/endpoints/{off}/disable")
    for batch in (OLD, HELD, REMEMBERED, YOUNG):
        await play.producer.array(batch)
    await play.drained()
    await play.supervisor.stop()
    play.history.prunable |= {event.event_id for event in OLD + REMEMBERED + HELD}
    with closing(sqlite3.connect(play.state_dir / "webhookd.db", isolation_level=None)) as db:
        for prefix, days in (("old", 40), ("held", 40), ("remembered", 20)):
            of_these = "(SELECT seq FROM events WHERE id GLOB ?)"
            db.execute(
                f"UPDATE deliveries SET accepted_at = accepted_at - ?, finished_at = finished_at - ? "
                f"WHERE event_seq IN {of_these}",
                (days * DAY_MS, days * DAY_MS, f"{prefix}-*"),
            )
            db.execute(
                "UPDATE events SET accepted_at = accepted_at - ? WHERE id GLOB ?", (days * DAY_MS, f"{prefix}-*")
            )


async def until_pruned(play: Play) -> None:
    """What may go has gone; then a remembered id comes again, and the held ones may go out."""
    async with asyncio.timeout(DRAIN_SECONDS):
        while len((await play.supervisor.call("GET", "/v1/events?limit=500"))[1]["data"]) > len(YOUNG + HELD):
            await asyncio.sleep(0.01)
    again = await play.producer.one(REMEMBERED[0])
    assert again["duplicate"] is True, again
    off = (await play.endpoints())["off"]["id"]
    await play.supervisor.call("POST", f"/v1/endpoints/{off}/enable")


def pruned_rightly(play: Play, final: Final) -> list[Violation]:
    """Old events are gone, of the younger ones the id is known, the rest is whole; nothing went out again.

    What was held went out, and may have been pruned after that, at another start.
    """
    expected = {event.event_id: None for event in REMEMBERED} | {event.event_id: event.body for event in YOUNG}
    held = {event.event_id for event in HELD}
    left = {event_id: body for event_id, body in final.bodies.items() if event_id not in held}
    found = [] if expected == left else [Violation("prune", f"left are {final.bodies}")]
    unsent = held - {each.event_id for each in play.witness.received if each.answer == 200}
    again = [each for each in play.witness.received if each.event_id in play.history.prunable - held]
    found += [Violation("lost", f"{event_id} was held and never went out") for event_id in unsent]
    return found + [Violation("prune", f"{each.event_id} went out again") for each in again]


# migrate, first start

MIGRATION = """
ALTER TABLE deliveries ADD COLUMN shade TEXT NOT NULL DEFAULT 'none';
UPDATE deliveries SET shade = 'shade of ' || seq;
CREATE TABLE shades (seq INTEGER PRIMARY KEY, shade TEXT NOT NULL) STRICT;
INSERT INTO shades SELECT seq, shade FROM deliveries;
CREATE INDEX shades_by_shade ON shades (shade)
"""


def migrated(play: Play, final: Final) -> list[Violation]:
    with closing(sqlite3.connect(play.state_dir / "webhookd.db")) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        rows = db.execute("SELECT count(*), count(DISTINCT shade) FROM shades").fetchone()
    good = version == len(connection._migrations()) + 1 and rows == (len(final.deliveries), len(final.deliveries))
    return [] if good else [Violation("migrate", f"version {version}, rows {rows}")]


async def first_steps(play: Play) -> None:
    await play.subscribe("well")
    await play.subscribe("other")
    await play.producer.one(events("first", 1)[0])


# backup
async def back_up(play: Play) -> None:
    play.notes["taken"] = {each.event_id for each in play.history.asked if each.said is Said.TAKEN}
    status, copy = await play.supervisor.call("POST", "/v1/backup")
    assert status == 200
    (play.state_dir / "copy.db").write_bytes(copy)
    for event in events("after", 2):
        await play.producer.one(event)


def copy_is_whole(play: Play, final: Final) -> list[Violation]:
    """The copy is sound and has all that was accepted before it was asked for; no half a copy is left."""
    with closing(sqlite3.connect(play.state_dir / "copy.db")) as db:
        sound = db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        known = {event_id for (event_id,) in db.execute("SELECT id FROM events")}
    found = [Violation("backup", f"left over: {path.name}") for path in play.state_dir.glob(".backup-*")]
    if not sound or not play.notes["taken"] <= known:
        found.append(Violation("backup", f"sound: {sound}, missing: {play.notes['taken'] - known}"))
    return found


MAIL = '[mail]\nhost = "127.0.0.1"\nport = MAIL_PORT\nnotify = ["ops@example.com"]\ndigest_seconds = 0\n'
PRUNE = "[retention]\nmax_age_days = 10\nidempotency_hours = 720\n"
SCENARIOS = (
    Scenario("accept", send_singly, all_well, two_endpoints),
    Scenario("batch", send_batches, all_well, two_endpoints),
    Scenario("lanes", send_to_lanes, one_contact_fails, by_key),
    Scenario("success", nothing, all_well, some_wait),
    Scenario("failure", nothing, fails_until(3), some_wait),
    Scenario("drop", nothing, ill, some_wait, drop_mailed_once, config=MAIL),
    Scenario("disable", nothing, ill, three_wait, mailed_once, Terms((0.02,), limit=3), MAIL),
    Scenario("enable", enable_both, all_well, two_stopped, held_went_out, Terms((0.02,), limit=3), MAIL),
    Scenario("replay", replay_all, all_well, some_dropped, replayed_once, Terms((), limit=1000)),
    Scenario("backfill", backfill_all, all_well, some_past, backfilled_once),
    Scenario("prune", until_pruned, all_well, much_is_old, pruned_rightly, config=PRUNE),
    Scenario("migrate", nothing, all_well, some_wait, migrated, migration=MIGRATION),
    Scenario("first start", first_steps, all_well),
    Scenario("backup", back_up, all_well, some_wait, copy_is_whole, anywhere=True),
)
