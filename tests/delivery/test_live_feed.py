"""The live feed: its ring, its subscriptions, their end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.clock import ManualClock
from webhookd.delivery import live_feed
from webhookd.delivery.live_feed import LiveFeed, Subscription
from webhookd.errors import ApiError
from webhookd.models import DeliveryState, DeliveryView

SOON = 10.0


def subscribe(feed: LiveFeed, workspace_seq: int = 1) -> Subscription:
    """A subscription to everything of a workspace."""
    return feed.subscribe(workspace_seq, lambda view: True)


def a_view(event_id: str = "a", last_attempt: dict[str, Any] | None = None, *, workspace_seq: int = 1) -> DeliveryView:
    """Some delivery."""
    return DeliveryView(
        seq=1,
        workspace_seq=workspace_seq,
        workspace="default",
        endpoint_seq=1,
        endpoint_id="ep_1",
        event_id=event_id,
        event_type="message.sent",
        state=DeliveryState.PENDING,
        replay_of=None,
        is_test=False,
        is_backfill=False,
        accepted_at_ms=0,
        next_attempt_at_ms=None,
        finished_at_ms=None,
        attempt_count=0,
        last_attempt=last_attempt,
    )


async def test_nothing_is_wanted_without_a_subscription() -> None:
    """Only a subscription makes it wanted, and a while after the last one left it isn't any more."""
    clock = ManualClock()
    feed = LiveFeed(clock)
    assert not feed.wanted
    subscription = subscribe(feed)
    assert feed.wanted
    feed.unsubscribe(subscription)
    assert feed.wanted
    await clock.advance(live_feed.LINGER_SECONDS)
    assert not feed.wanted


async def test_a_ring_with_a_gap_is_cleared() -> None:
    """What was not published is missing in it, so it must not answer."""
    clock = ManualClock()
    feed = LiveFeed(clock)
    subscription = subscribe(feed)
    feed.publish("delivery.accepted", a_view())
    (first,) = await subscription.next()
    assert [] == feed.since(first.id)
    feed.unsubscribe(subscription)
    await clock.advance(live_feed.LINGER_SECONDS)
    assert not feed.wanted
    assert None is feed.since(first.id)


async def test_ids_never_go_back() -> None:
    """Whatever the wall clock does."""
    clock = ManualClock()
    feed = LiveFeed(clock)
    subscription = subscribe(feed)
    feed.publish("delivery.accepted", a_view())
    clock.jump_wall(-3600)
    feed.publish("delivery.accepted", a_view())
    first, second = await subscription.next()
    assert first.id.partition("-")[0] == second.id.partition("-")[0] and first.id < second.id


async def test_a_slow_subscriber_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets what was queued for it, in order, and then the end; the others go on."""
    monkeypatch.setattr(live_feed, "SUBSCRIPTION_EVENTS", 3)
    feed = LiveFeed(ManualClock())
    slow, quick = subscribe(feed), subscribe(feed)
    seen = []
    for number in range(5):
        feed.publish("delivery.accepted", a_view(str(number)))
        seen += [event.delivery.event_id for event in await quick.next()]
    assert ["0", "1", "2", "3", "4"] == seen
    assert ["0", "1", "2"] == [event.delivery.event_id for event in await slow.next()]
    assert [] == await slow.next()


async def test_the_end_reaches_subscriptions_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits, one with something left to read, one that is full, one that comes late."""
    monkeypatch.setattr(live_feed, "SUBSCRIPTION_EVENTS", 1)
    feed = LiveFeed(ManualClock())
    full = subscribe(feed)
    feed.publish("delivery.accepted", a_view())
    waiting = subscribe(feed)
    wait = asyncio.create_task(waiting.next())
    await asyncio.sleep(0)
    feed.end()
    async with asyncio.timeout(SOON):
        assert [] == await wait
        assert ["a"] == [event.delivery.event_id for event in await full.next()]
        assert [] == await full.next()
        assert [] == await subscribe(feed).next()


async def test_too_many_subscriptions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """And there is room again when one has left."""
    monkeypatch.setattr(live_feed, "MAX_SUBSCRIPTIONS", 2)
    feed = LiveFeed(ManualClock())
    subscribe(feed)
    second = subscribe(feed)
    with pytest.raises(ApiError, match="live streams"):
        subscribe(feed)
    feed.unsubscribe(second)
    subscribe(feed)


async def test_a_workspace_has_its_own_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has as many streams as it may have leaves the others theirs."""
    monkeypatch.setattr(live_feed, "MAX_PER_WORKSPACE", 1)
    feed = LiveFeed(ManualClock())
    subscribe(feed, 1)
    with pytest.raises(ApiError, match="of this workspace"):
        subscribe(feed, 1)
    subscribe(feed, 2)


async def test_only_what_is_wanted_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of another workspace, or of what the filter leaves out, cuts none off; a namesake's is not its own."""
    monkeypatch.setattr(live_feed, "SUBSCRIPTION_EVENTS", 1)
    feed = LiveFeed(ManualClock())
    subscription = feed.subscribe(1, lambda view: view.event_id == "a")
    for _ in range(5):
        feed.publish("delivery.accepted", a_view("b"))
        feed.publish("delivery.accepted", a_view("a", workspace_seq=2))  # its namesake, deleted before
    feed.publish("delivery.accepted", a_view("a"))
    assert [("a", 1)] == [(each.delivery.event_id, each.delivery.workspace_seq) for each in await subscription.next()]
