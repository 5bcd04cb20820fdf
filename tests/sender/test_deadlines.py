"""One timer for many deadlines."""

from __future__ import annotations

import asyncio
import time

import pytest

from webhookd.sender.deadlines import AttemptDeadline, Deadlines

SECONDS = 0.05


async def test_what_is_not_ended_expires_in_its_order() -> None:
    """Each once, in time, whatever was ended between; later ones as well."""
    expired: list[tuple[int, float]] = []
    deadlines: Deadlines[int] = Deadlines(
        SECONDS, lambda what, overdue_seconds: expired.append((what, overdue_seconds))
    )
    for what in range(6):
        deadlines.start(what)
    for what in (0, 3, 5, 99):
        deadlines.end(what)
    await asyncio.sleep(SECONDS / 2)
    deadlines.start(6)
    assert [] == expired
    async with asyncio.timeout(5):
        while len(expired) < 4:
            await asyncio.sleep(0.005)
    assert [1, 2, 4, 6] == [what for what, _ in expired]
    assert all(0 <= overdue_seconds < 1 for _, overdue_seconds in expired)


async def test_one_timer_serves_all() -> None:
    """A thousand that begin and end set the loop one timer, not a thousand."""
    loop = asyncio.get_running_loop()
    timers = 0

    class Counting:
        def time(self) -> float:
            return loop.time()

        def call_at(self, *args: object) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return loop.call_at(*args)  # type: ignore[arg-type]

    deadlines: Deadlines[int] = Deadlines(SECONDS, lambda what, _: None)
    deadlines._loop = Counting()  # type: ignore[assignment]
    for what in range(1000):
        deadlines.start(what)
        deadlines.end(what)
    await asyncio.sleep(SECONDS * 2)
    assert 1 == timers
    deadlines.close()


@pytest.mark.parametrize("from_outside", [False, True])
async def test_a_deadline_is_distinguished_from_a_cancellation(from_outside: bool) -> None:
    """Any other cancellation is passed on."""
    deadlines: Deadlines[AttemptDeadline] = Deadlines(SECONDS, AttemptDeadline.expire)

    async def attempt() -> str:
        deadline = AttemptDeadline()
        deadlines.start(deadline)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if not deadline.is_the_cause():
                raise
            return "late"
        return "done"

    task = asyncio.create_task(attempt())
    if from_outside:
        await asyncio.sleep(SECONDS / 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        started = time.monotonic()
        assert "late" == await task
        assert (True, 0) == (time.monotonic() - started < 1, task.cancelling())
