"""Root tasks: however one ends, its owner notices.  Locks by key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from webhookd.errors import EXIT_CONFIG, StoreFailed, StoreUnusable
from webhookd.tasks import REST_TURNS, KeyedLocks, LoopTurns, TaskEnded, TaskOwner

LIMIT_SECONDS = 20.0


@pytest.fixture
async def owner() -> AsyncIterator[TaskOwner]:
    owner = TaskOwner()
    yield owner
    await owner.cancel_all(LIMIT_SECONDS)


async def forever() -> None:
    await asyncio.Event().wait()


async def returns() -> None:
    return


def failing(error: Exception) -> Callable[[], Coroutine[Any, Any, None]]:
    async def run() -> None:
        raise error

    return run


async def ended(owner: TaskOwner, stop: asyncio.Event | None = None) -> TaskEnded | None:
    async with asyncio.timeout(LIMIT_SECONDS):
        return await owner.run_until_stopped(stop or asyncio.Event())


async def test_a_stop_needs_no_reason(owner: TaskOwner) -> None:
    """The tasks still run then: the order of stopping is the daemon's."""
    task = owner.start("forever", forever)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    assert await ended(owner, stop) is None
    assert not task.done()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(StoreUnusable("foreign"), EXIT_CONFIG), (StoreFailed("EIO"), 1), (OSError("no descriptors"), 1), (KeyError(), 1)],
)
async def test_a_task_that_fails_is_the_reason(owner: TaskOwner, error: Exception, exit_code: int) -> None:
    """With its name, its error and the exit code that systemd acts on: a FatalError's own, else 1."""
    owner.start("forever", forever)
    owner.start("consumer", failing(error))
    end = await ended(owner)
    assert end is not None
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    assert f"the task 'consumer' failed: {text}" == str(end)
    assert ("consumer", exit_code, error) == (end.name, end.exit_code, end.__cause__)


async def test_a_return_and_a_cancellation_are_reasons_too(owner: TaskOwner) -> None:
    """A TaskGroup would overlook the return; also one that ended before `run_until_stopped` began."""
    await owner.start("retention", returns)
    assert "the task 'retention' returned" == str(await ended(owner))
    other = TaskOwner()
    other.start("mail", forever).cancel()
    assert "the task 'mail' was cancelled" == str(await ended(other))


async def test_a_task_started_later_is_watched_too(owner: TaskOwner) -> None:
    """The set of tasks isn't fixed when the watching begins."""
    asyncio.get_running_loop().call_later(0.01, owner.start, "late", failing(OSError("late")))
    assert "the task 'late' failed: OSError: late" == str(await ended(owner))


async def test_of_several_ends_a_failure_is_reported_first(owner: TaskOwner) -> None:
    """A return is often only the consequence."""
    owner.start("consequence", returns)
    owner.start("cause", failing(OSError("the cause")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "the task 'cause' failed: OSError: the cause" == str(await ended(owner))


async def test_a_return_after_the_stop_is_no_reason(owner: TaskOwner) -> None:
    """A failure still is."""
    stop = asyncio.Event()
    stop.set()
    await owner.start("polite", returns)
    assert await ended(owner, stop) is None
    with pytest.raises(OSError, match="while stopping"):
        await owner.start("rude", failing(OSError("while stopping")))
    assert "the task 'rude' failed: OSError: while stopping" == str(await ended(owner, stop))


async def test_cancelling_ends_every_task_and_says_which_failed() -> None:
    """A failure while stopping isn't swallowed; a cancellation is no failure."""
    owner = TaskOwner()

    async def fails_at_the_end() -> None:
        try:
            await forever()
        finally:
            raise OSError("can't close")

    tasks = [owner.start("forever", forever), owner.start("sore", fails_at_the_end)]
    await asyncio.sleep(0)
    failures = await owner.cancel_all(LIMIT_SECONDS)
    assert ["the task 'sore' failed: OSError: can't close"] == [str(failure) for failure in failures]
    assert all(task.done() for task in tasks)
    assert [] == await owner.cancel_all()


async def test_a_task_that_does_not_let_itself_be_cancelled_is_named() -> None:
    """The stop has an end."""
    owner = TaskOwner()
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    task = owner.start("stubborn", stubborn)
    await asyncio.sleep(0)
    failures = await owner.cancel_all(0.01)
    assert ["the task 'stubborn' didn't end within 0.01 s"] == [str(failure) for failure in failures]
    let_go.set()
    await task


async def test_a_cancellation_that_got_lost_is_made_again(owner: TaskOwner) -> None:
    """As nats-py loses one that comes while it flushes: the task would run on, unowned, and end something later."""

    async def loses_one() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        await forever()

    task = owner.start("stream", loses_one)
    await asyncio.sleep(0)
    assert [] == await owner.cancel_all(LIMIT_SECONDS, again_seconds=0.01)
    assert task.cancelled()


async def test_a_name_is_given_once(owner: TaskOwner) -> None:
    """A log line that names a task names one."""
    task = owner.start("writer", forever)
    assert "writer" == task.get_name()
    with pytest.raises(ValueError, match="writer"):
        owner.start("writer", forever)


async def test_who_watches_can_be_cancelled() -> None:
    """Nothing of the watching is left behind."""
    owner = TaskOwner()
    before = asyncio.all_tasks()
    watching = asyncio.create_task(owner.run_until_stopped(asyncio.Event()))
    await asyncio.sleep(0)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert before == asyncio.all_tasks()


# Locks by key
async def test_a_key_s_lock_goes_to_its_tasks_in_order() -> None:
    """Another key's lock doesn't wait for it, and nothing is kept afterwards."""
    locks, seen = KeyedLocks(), []

    async def acquire(key: str, name: str) -> None:
        async with locks.of(key):
            seen.append(f"{name} begins")
            await asyncio.sleep(0)
            seen.append(f"{name} ends")

    await asyncio.gather(acquire("a", "first"), acquire("a", "second"), acquire("b", "other"))
    assert ["first begins", "other begins", "first ends", "other ends", "second begins", "second ends"] == seen
    assert 0 == len(locks)


async def test_heavy_work_has_one_slice_per_turn_of_the_loop_and_keys_take_turns() -> None:
    """However many tasks of one key ask, another key's is at most one slice behind; a cancelled one is passed over."""
    turns, order = LoopTurns(), list[str]()

    async def work(key: str) -> None:
        await turns.next(key)
        order.append(key)

    noise = [asyncio.create_task(work("noise")) for _ in range(8)]
    await asyncio.sleep(0)
    noise[3].cancel()
    quiet = asyncio.create_task(work("quiet"))
    await asyncio.wait([*noise, quiet])
    assert 7 == order.count("noise")
    assert order.index("quiet") <= 2


async def test_between_two_slices_the_loop_has_turns_for_others() -> None:
    """Also where one task alone asks: what needs several turns isn't kept waiting for as many slices."""
    turns, order = LoopTurns(), list[str]()

    async def work() -> None:
        for _ in range(3):
            await turns.next("noise")
            order.append("slice")

    noise = asyncio.create_task(work())
    while not noise.done():
        await asyncio.sleep(0)
        order.append("turn")
    between = " ".join(order).split("slice")[1:-1]
    assert [REST_TURNS + 1] * 2 == [part.count("turn") for part in between]


async def test_a_rest_after_each_slice_is_kept_also_with_nobody_waiting_at_its_begin() -> None:
    """The next that asks has to wait for it as well."""
    now = asyncio.get_running_loop().time
    turns = LoopTurns(lambda: 0.03)
    began = now()
    await turns.next("noise")
    assert now() - began < 0.03
    await asyncio.sleep(0)
    await turns.next("noise")
    assert now() - began >= 0.03
