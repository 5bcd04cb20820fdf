"""The outbox: what a digest is made of, and what each end of a try leaves behind."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from webhookd.store import outbox
from webhookd.store.outbox import Digest, Envelope, Unsent
from webhookd.store.store import Store

ENVELOPE = Envelope("a@example.com", ("b@example.com",), "Subject: x\r\n\r\n\x00ä\r\n")


async def add(store: Store, *, workspace_seq: int = 1, now_ms: int = 1000, **payload: Any) -> None:
    await store.write(
        lambda db: outbox.insert(
            db, workspace_seq=workspace_seq, kind="k", message_id=f"<{now_ms}@x>", payload=payload, now_ms=now_ms
        )
    )


async def claimed(store: Store) -> Digest:
    digest = (await store.read(outbox.waiting))[0]
    await store.write(lambda db: outbox.claim(db, digest))
    return (await store.read(outbox.waiting))[0]


async def test_notices_wait_by_workspace(store: Store) -> None:
    """Before it is claimed, a digest is all that waits of a workspace, dated and named by its first row."""
    await add(store, now_ms=1000)
    await add(store, now_ms=2000, workspace_seq=2)
    await add(store, now_ms=3000)
    assert [Digest(1, 1, 1000, False), Digest(2, 2, 2000, False)] == await store.read(outbox.waiting)


async def test_a_claimed_digest_takes_nothing_more(store: Store) -> None:
    """What comes later is another digest, of the same workspace."""
    await add(store, now_ms=1000, n=1)
    await add(store, now_ms=2000, n=2)
    digest = await claimed(store)
    await add(store, now_ms=3000, n=3)
    assert [Digest(1, 1, 1000, True), Digest(3, 1, 3000, False)] == await store.read(outbox.waiting)
    notices = await store.read(lambda db: outbox.notices(db, digest.first_seq))
    assert [("<1000@x>", {"n": 1}), ("<2000@x>", {"n": 2})] == [(each.message_id, each.payload) for each in notices]


async def test_a_digest_has_a_bound(store: Store) -> None:
    """More than `DIGEST_NOTICES` go in several mails."""
    for number in range(outbox.DIGEST_NOTICES + 1):
        await add(store, now_ms=number)
    await claimed(store)
    expected = [(1, True), (outbox.DIGEST_NOTICES + 1, False)]
    assert expected == [(each.first_seq, each.claimed) for each in await store.read(outbox.waiting)]


async def test_notices_come_without_requests_and_responses(store: Store) -> None:
    """What no mail tells isn't carried along; a warning's number of failures stays a number."""
    await add(store, failures=[{"status": 503, "request": {"headers": {}}, "response": {"body": "x"}}])
    await add(store, failures=15)
    digest = await claimed(store)
    notices = await store.read(lambda db: outbox.notices(db, digest.first_seq))
    assert [[{"status": 503}], 15] == [each.payload["failures"] for each in notices]


async def test_a_seal_keeps_every_byte(store: Store) -> None:
    """The mail comes back as it was sealed, until it is unsealed or the digest closed."""
    await add(store)
    digest = await claimed(store)

    async def kept() -> Envelope | None:
        return await store.read(lambda db: outbox.envelope(db, digest.first_seq))

    assert None is await kept()
    await store.write(lambda db: outbox.seal(db, digest.first_seq, ENVELOPE))
    assert ENVELOPE == await kept()
    await store.write(lambda db: outbox.unseal(db, digest.first_seq))
    assert None is await kept()
    assert digest.claimed


async def test_a_released_digest_is_joined_by_what_came_since(store: Store) -> None:
    """After a try that surely got nowhere, the first row names the digest again, and the others go with it."""
    await add(store, now_ms=1000)
    digest = await claimed(store)
    await store.write(lambda db: outbox.seal(db, digest.first_seq, ENVELOPE))
    await add(store, now_ms=2000)
    await store.write(lambda db: outbox.release(db, digest.first_seq))
    assert [Digest(1, 1, 1000, False)] == await store.read(outbox.waiting)
    again = await claimed(store)
    assert 2 == len(await store.read(lambda db: outbox.notices(db, again.first_seq)))
    assert None is await store.read(lambda db: outbox.envelope(db, again.first_seq))


async def test_closing_ends_all_of_a_digest_and_nothing_else(store: Store) -> None:
    """Its notices are done and keep the reason, its mail is dropped; others wait on."""
    await add(store, now_ms=1000)
    await add(store, now_ms=2000)
    digest = await claimed(store)
    await store.write(lambda db: outbox.seal(db, digest.first_seq, ENVELOPE))
    await add(store, now_ms=3000)
    count = await store.write(lambda db: outbox.close(db, digest.first_seq, error="why", now_ms=9000))
    assert (2, [Digest(3, 1, 3000, False)]) == (count, await store.read(outbox.waiting))
    rows = await store.read(lambda db: db.execute("SELECT sent_at, last_error, envelope FROM outbox").fetchall())
    assert [(9000, "why", None), (9000, "why", None), (None, None, None)] == rows


async def test_unsent_has_how_many_since_when_and_why(store: Store) -> None:
    """An empty outbox has nothing unsent; a failed try leaves its reason."""
    assert Unsent(0, None, None) == await store.read(outbox.unsent)
    await add(store, now_ms=1000)
    await add(store, now_ms=2000, workspace_seq=2)
    assert Unsent(2, 1000, None) == await store.read(outbox.unsent)
    await store.write(lambda db: outbox.failed(db, [1], "away"))
    assert Unsent(2, 1000, "away") == await store.read(outbox.unsent)
    tried = await store.read(lambda db: db.execute("SELECT tried FROM outbox ORDER BY seq").fetchall())
    assert [(1,), (0,)] == tried


async def test_only_closed_notices_are_forgotten(store: Store) -> None:
    """The oldest closed ones first, a few at a time; what waits stays."""
    for number in range(4):
        await add(store, now_ms=number, workspace_seq=number)
    for number in (1, 2, 3):
        await store.write(lambda db, n=number: outbox.close(db, n, error=None, now_ms=n * 1000))
    assert 1 == await store.write(lambda db: outbox.forget_closed(db, before_ms=3000, limit=1))
    assert 1 == await store.write(lambda db: outbox.forget_closed(db, before_ms=3000, limit=9))
    assert [(3,), (4,)] == await store.read(lambda db: db.execute("SELECT seq FROM outbox ORDER BY seq").fetchall())


async def test_a_notice_goes_back_with_its_cause(store: Store) -> None:
    """It is part of the transaction: no cause, no mail."""

    def command(db: sqlite3.Connection) -> None:
        outbox.insert(db, workspace_seq=1, kind="k", message_id="<1@x>", payload={}, now_ms=0)
        raise ValueError("the cause failed")

    with pytest.raises(ValueError, match="the cause"):
        await store.write(command)
    assert [] == await store.read(outbox.waiting)
