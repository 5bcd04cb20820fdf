"""Endpoints in the table: their fields, their subscriptions, and the marks that stand for many rows."""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import replace

import pytest

from tests.support.stores import accept, add_endpoint, add_test, add_workspace, deliver, fail
from webhookd.models import Endpoint, EndpointState, NewEvent, PreviousKey
from webhookd.store import attempts, deliveries, endpoints, events
from webhookd.store.events import Ingested
from webhookd.store.store import Store

RECORD = b'{"number":1,"started_at":"2026-01-01T00:00:00.000Z"}'
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def disable(
    store: Store, *seqs: int, state: EndpointState = EndpointState.DISABLED, now_ms: int = 50
) -> list[Endpoint]:
    return await store.write(
        lambda db: endpoints.disable(db, seqs, state=state, reason="r", message="m", now_ms=now_ms)
    )


async def enable(store: Store, seq: int, *, skip_held: bool = False, now_ms: int = 60) -> Endpoint:
    return await store.write(lambda db: endpoints.enable(db, seq, skip_held=skip_held, now_ms=now_ms))


async def wanted_by(store: Store, workspace_seq: int, event_type: str) -> list[int]:
    event = NewEvent(secrets.token_hex(8), event_type, b"{}")
    (accepted,) = await store.write(lambda db: events.accept(db, Ingested(workspace_seq, [event], True, 1)))
    return [delivery.endpoint_seq for delivery in accepted.queued]


async def test_an_endpoint_comes_back_as_it_went_in(store: Store) -> None:
    """Every field, by its number and among all."""
    workspace = await add_workspace(store, now_ms=7)
    endpoint = await add_endpoint(store, workspace)
    changed = replace(
        endpoint,
        url="https://example.com/ünïcode?q=1",
        event_types=("message.sent", "contact.created"),
        description="<b>\x1b[31m",
        success="2xx",
        headers=(("X-B", "b"), ("X-A", "a")),
        signing_key="whsec_bm5ubm5ubm5ubm5ubm5ubm5ubm5ubm5u",
        previous_keys=(
            PreviousKey(KEY, 99),
            PreviousKey("whsec_b29vb29vb29vb29vb29vb29vb29vb29v", 98, signs_body=False),
        ),
        x_webhook_signature=False,
        x_webhook_signature_key="one that the receiver has",
        updated_at_ms=8,
    )
    assert changed == await store.write(lambda db: endpoints.update(db, changed))
    assert changed == await store.read(lambda db: endpoints.get(db, endpoint.seq))
    assert [changed] == await store.read(endpoints.load)


async def test_a_change_of_types_holds_for_what_is_accepted_afterwards(store: Store) -> None:
    """`*` is every type; an endpoint that is deleted wants nothing."""
    workspace = await add_workspace(store)
    every, some = await add_endpoint(store, workspace), await add_endpoint(store, workspace, "https://e.example/2")
    assert [every.seq, some.seq] == await wanted_by(store, workspace.seq, "message.sent")
    narrowed = replace(some, event_types=("contact.created", "message.received"))
    await store.write(lambda db: endpoints.update(db, narrowed))
    assert [every.seq] == await wanted_by(store, workspace.seq, "message.sent")
    assert [every.seq, some.seq] == await wanted_by(store, workspace.seq, "contact.created")
    await store.write(lambda db: endpoints.delete(db, every.seq, 5))
    assert [some.seq] == await wanted_by(store, workspace.seq, "message.received")


async def test_a_url_is_taken_once_per_workspace(store: Store) -> None:
    """The table itself refuses a second one, until the first is deleted."""
    workspace, other = await add_workspace(store), await add_workspace(store, "other")
    first = await add_endpoint(store, workspace)
    assert first.id == await store.read(lambda db: endpoints.id_of_url(db, workspace.seq, first.url))
    assert None is await store.read(lambda db: endpoints.id_of_url(db, other.seq, first.url))
    with pytest.raises(sqlite3.IntegrityError):
        await add_endpoint(store, workspace)
    await add_endpoint(store, other)
    await store.write(lambda db: endpoints.delete(db, first.seq, 5))
    assert None is await store.read(lambda db: endpoints.id_of_url(db, workspace.seq, first.url))
    await add_endpoint(store, workspace)


async def test_one_url_in_two_forms_from_an_older_database(store: Store) -> None:
    """Both stay; each is found beside the other, and neighbours of the name aren't."""
    workspace = await add_workspace(store)
    forms = ("https://e.example/x", "https://e.example:443/x")
    first, second = [await add_endpoint(store, workspace, url) for url in forms]
    for url in ("https://e.example.org/x", "https://e.example/x/", "https://e.exampl/x"):
        await add_endpoint(store, workspace, url)
    await store.write(lambda db: endpoints.update(db, replace(second, description="as before")))
    dotted = "https://e.example./x"
    for one, other in ((first, second), (second, first)):
        assert other.id == await store.read(
            lambda db, one=one: endpoints.id_of_url(db, workspace.seq, dotted, beside=one.id)
        )


async def test_a_deleted_endpoint_is_known_to_the_log_alone(store: Store) -> None:
    """It is neither loaded nor counted; by its id and number it is still found, in its own workspace."""
    workspace, other = await add_workspace(store), await add_workspace(store, "other")
    endpoint = await add_endpoint(store, workspace)
    assert 1 == await store.read(lambda db: endpoints.count(db, workspace.seq))
    await store.write(lambda db: endpoints.delete(db, endpoint.seq, 5))
    assert [] == await store.read(endpoints.load)
    assert 0 == await store.read(lambda db: endpoints.count(db, workspace.seq))
    assert endpoint.seq == await store.read(lambda db: endpoints.seq_of_id(db, workspace.seq, endpoint.id))
    assert None is await store.read(lambda db: endpoints.seq_of_id(db, other.seq, endpoint.id))
    assert None is await store.read(lambda db: endpoints.seq_of_id(db, workspace.seq, "ep_nope"))
    assert 5 == (await store.read(lambda db: endpoints.get(db, endpoint.seq))).deleted_at_ms


@pytest.mark.parametrize(
    ("before", "to", "after"),
    [
        ("active", "disabled", "disabled"),
        ("active", "auto_disabled", "auto_disabled"),
        ("auto_disabled", "disabled", "disabled"),
        ("disabled", "auto_disabled", None),
        ("disabled", "disabled", None),
        ("auto_disabled", "auto_disabled", None),
        ("deleted", "disabled", None),
        ("deleted", "auto_disabled", None),
    ],
)
async def test_which_state_can_follow_which(store: Store, before: str, to: str, after: str | None) -> None:
    """The budget stops active ones only, a person those that the budget stopped too; a deleted one stays."""
    workspace = await add_workspace(store)
    endpoint = await add_endpoint(store, workspace)
    if before == "deleted":
        await store.write(lambda db: endpoints.delete(db, endpoint.seq, 10))
    elif before != "active":
        await disable(store, endpoint.seq, state=EndpointState(before), now_ms=10)
    unchanged = await store.read(lambda db: endpoints.get(db, endpoint.seq))
    changed = await disable(store, endpoint.seq, state=EndpointState(to), now_ms=50)
    assert ([after] if after else []) == [each.state for each in changed]
    now = await store.read(lambda db: endpoints.get(db, endpoint.seq))
    if after is None:
        assert unchanged == now
    else:
        # Its events are held since it was stopped first.
        assert (after, "r", "m", 10 if before == "auto_disabled" else 50) == (
            now.state,
            now.disabled_reason,
            now.disabled_message,
            now.disabled_at_ms,
        )


async def test_enabling_forgets_why_it_stood_still(store: Store) -> None:
    """Active, without reason, its failures up to now forgiven."""
    workspace = await add_workspace(store)
    endpoint = await add_endpoint(store, workspace)
    (waiting,) = await accept(store, workspace, "a", now_ms=1)
    await fail(store, waiting, next_ms=70, record=RECORD, now_ms=40)
    counted = await store.read(lambda db: attempts.counted_since(db, 0, 100))
    assert [(workspace.seq, endpoint.seq, 40)] == [
        (one.workspace_seq, one.endpoint_seq, one.ended_at_ms) for one in counted
    ]
    await disable(store, endpoint.seq)
    enabled = await enable(store, endpoint.seq)
    assert replace(endpoint, forgiven_upto=1, updated_at_ms=60) == enabled
    assert [] == await store.read(lambda db: attempts.counted_since(db, 0, 100))


async def test_enabling_starts_the_schedule_of_the_first_delivery_anew(store: Store) -> None:
    """Its attempts go on being numbered; the others are as they were."""
    workspace = await add_workspace(store)
    endpoint = await add_endpoint(store, workspace)
    first, second = await accept(store, workspace, "a", "b", now_ms=1)
    await fail(store, first, next_ms=70, record=RECORD, now_ms=40)
    await disable(store, endpoint.seq)
    await enable(store, endpoint.seq)
    page = await store.read(lambda db: deliveries.page(db, endpoint.seq, 0, 9, 1000))
    assert [(first.seq, 1, 0, None), (second.seq, 0, 0, None)] == [
        (each.seq, each.attempt_count, each.tries, each.next_attempt_at_ms) for each in page
    ]


async def test_skipping_sets_one_mark(store: Store) -> None:
    """Everything that waits then is behind it, nothing that comes later; a mark never goes back."""
    workspace = await add_workspace(store)
    endpoint = await add_endpoint(store, workspace)
    queued = await accept(store, workspace, "a", "b", now_ms=1)
    await disable(store, endpoint.seq)
    assert 0 == (await enable(store, endpoint.seq)).skipped_upto
    await disable(store, endpoint.seq)
    enabled = await enable(store, endpoint.seq, skip_held=True)
    assert queued[-1].seq == enabled.skipped_upto
    assert [] == await store.read(deliveries.waiting)
    (later,) = await accept(store, workspace, "c", now_ms=2)
    assert [(endpoint.seq, 1, later.seq)] == [
        (each.endpoint_seq, each.count, each.newest_seq) for each in await store.read(deliveries.waiting)
    ]
    await deliver(store, later.seq)
    await disable(store, endpoint.seq)
    assert queued[-1].seq == (await enable(store, endpoint.seq, skip_held=True)).skipped_upto


async def test_the_last_attempt_of_an_endpoint_is_the_newest_of_both_kinds(store: Store) -> None:
    """A failure or a success, whichever began later; tests are none of its attempts."""
    workspace = await add_workspace(store)
    endpoint = await add_endpoint(store, workspace)

    async def last() -> object:
        found = await store.read(lambda db: attempts.last_of_endpoint(db, endpoint.seq))
        return found["started_at"] if found else None

    assert None is await last()
    await add_test(store, endpoint, delivered=True, record=b'{"started_at":"2030-01-01T00:00:00.000Z"}')
    assert None is await last()
    first, second = await accept(store, workspace, "a", "b", now_ms=1)
    await fail(store, first, next_ms=None, record=RECORD, now_ms=40)
    assert "2026-01-01T00:00:00.000Z" == await last()
    record = b'{"started_at":"2026-01-01T00:00:01.000Z"}'
    await deliver(store, second.seq, record=record)
    assert "2026-01-01T00:00:01.000Z" == await last()
