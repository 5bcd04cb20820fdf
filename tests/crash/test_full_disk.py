"""A real small disk that is full: no false 202, outcomes recorded, and all goes on by itself when space returns."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.small_disk import Filler, filler, small_disk
from tests.support.process import Daemon, daemon
from tests.support.receiver import Receiver, receiver
from tests.support.stores import open_store
from webhookd.errors import ApiError
from webhookd.store.batch import ROW_BYTES
from webhookd.store.disk_space import MIB
from webhookd.store.store import Store

CONFIG = """
[egress]
allow = ["127.0.0.0/8"]
[store]
min_free_mb = 16
[delivery]
retry_seconds = [0.02, 0.02]
timeout_seconds = 60
[budget]
limit = 100000
"""
EVENTS = 20


async def post(d: Daemon, event_id: str, text: str = "") -> tuple[int, Any, str | None]:
    event = {"event_type": "message.received", "event_id": event_id, "text": text}
    async with d.session.post(d.url + "/v1/events", json=event, headers=d.admin()) as answer:
        return answer.status, await answer.json(), answer.headers.get("Retry-After")


async def until_taken(d: Daemon, event_id: str) -> None:
    """Send an event again and again until it is accepted; every other answer is 507."""
    async with asyncio.timeout(60):
        while (answered := await post(d, event_id))[0] != 202:
            assert 507 == answered[0], answered
            await asyncio.sleep(0.1)


async def until_settled(d: Daemon, endpoint_id: str) -> None:
    async with asyncio.timeout(60):
        while (await d.call("GET", f"/v1/endpoints/{endpoint_id}"))["queue"]["waiting"]:
            await asyncio.sleep(0.05)


async def add(d: Daemon, where: Receiver, name: str) -> str:
    answer = await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/{name}", "event_types": ["*"]}, expect=201)
    return str(answer["id"])


def one_fails(name: str) -> int:
    return 500 if name == "ill" else 200


async def test_another_program_fills_the_disk_and_outcomes_are_still_recorded(tmp_path: Path) -> None:
    """To the last byte: 507 for events, the reserve for outcomes (a kill -9 proves it), 202 again by itself."""
    with small_disk(tmp_path / "disk", 48) as disk, filler(disk) as other:
        async with receiver(one_fails) as where:
            where.gates = {"well": asyncio.Event(), "ill": asyncio.Event()}
            async with daemon(disk / "state", CONFIG) as d:
                well, ill = await add(d, where, "well"), await add(d, where, "ill")
                for number in range(EVENTS):
                    assert 202 == (await post(d, f"e{number}", "x" * 500))[0]
                await where.until(2)
                other.fill()
                await asyncio.sleep(0.3)  # as long as a look at the free space holds
                status, answer, retry_after = await post(d, "late")
                assert (507, "storage_full", "10") == (status, answer["error"]["code"], retry_after)
                for gate in where.gates.values():
                    gate.set()
                await until_settled(d, well)
                await until_settled(d, ill)
                assert 507 == (await post(d, "late"))[0]
                d.process.kill()
                await d.until_dead()
            expected = [f"e{number}" for number in range(EVENTS)]
            assert expected == where.ids("well")
            assert [each for each in expected for _ in range(3)] == where.ids("ill")
            # What was recorded stayed recorded: the next daemon, on the disk that is still full, repeats nothing.
            async with daemon(disk / "state", CONFIG) as d:
                assert 507 == (await post(d, "late"))[0]
                assert 0 == (await d.call("GET", f"/v1/endpoints/{ill}"))["queue"]["waiting"]
                other.go()
                await until_taken(d, "late")
                await until_settled(d, well)
            assert [*expected, "late"] == where.ids("well")
            log_lines = (disk / "state.log").read_text()
    assert "task.ended" not in log_lines


async def test_where_not_even_an_outcome_fits_it_is_kept_until_it_does(tmp_path: Path) -> None:
    """Without a reserve, and each byte snatched: endpoints wait, their outcome in memory, then go on, once each."""
    config = CONFIG.replace("min_free_mb = 16", "min_free_mb = 0")
    with small_disk(tmp_path / "disk", 48) as disk, filler(disk) as other:
        async with receiver(one_fails) as where:
            where.gates = {"well": asyncio.Event(), "ill": asyncio.Event()}
            async with daemon(disk / "state", config) as d:
                well, ill = await add(d, where, "well"), await add(d, where, "ill")
                for number in range(EVENTS):
                    assert 202 == (await post(d, f"e{number}", "x" * 500))[0]
                await where.until(2)
                other.snatch()
                await asyncio.sleep(0.3)
                for gate in where.gates.values():
                    gate.set()
                stuck = -1
                while stuck != len(where.received):  # until nothing moves any more
                    stuck = len(where.received)
                    await asyncio.sleep(0.7)
                assert 507 == (await post(d, "late"))[0]
                assert stuck < EVENTS * 4
                recorded = 0
                for each in (well, ill):
                    found = (await d.call("GET", f"/v1/deliveries?endpoint={each}&limit=500"))["data"]
                    recorded += sum(delivery["attempt_count"] for delivery in found)
                assert stuck - 2 <= recorded < stuck  # no attempt without the outcome before it
                other.go()
                await until_taken(d, "late")
                await until_settled(d, well)
                await until_settled(d, ill)
            expected = [f"e{number}" for number in range(EVENTS)] + ["late"]
            assert expected == where.ids("well")
            assert [each for each in expected for _ in range(3)] == where.ids("ill")


async def test_its_own_events_fill_the_disk(tmp_path: Path) -> None:
    """507 in time, everything accepted arrives in order, and retention's space is used again."""
    config = CONFIG + "[retention]\nmax_age_days = 0.00002\nmax_size_mb = 4\nidempotency_hours = 0.0005\n"
    with small_disk(tmp_path / "disk", 64) as disk:
        async with receiver() as where:
            where.gates = {"well": asyncio.Event()}
            async with daemon(disk / "state", config) as d:
                well = await add(d, where, "well")
                taken = []
                async with asyncio.timeout(60):
                    while (answered := await post(d, f"e{len(taken)}", "x" * 200_000))[0] == 202:
                        taken.append(f"e{len(taken)}")
                assert 507 == answered[0]
                where.gates["well"].set()
                await until_settled(d, well)
                assert taken == where.ids("well")
                await until_taken(d, "late")
                await until_settled(d, well)
            assert [*taken, "late"] == where.ids("well")


async def test_arrays_of_several_workspaces_all_resolve(tmp_path: Path) -> None:
    """While the disk is full, and comes back: each is taken whole, in order, or refused whole."""
    config = CONFIG.replace("min_free_mb = 16", "min_free_mb = 0")
    names = [f"w{number}" for number in range(3)]
    taken: dict[str, list[str]] = {name: [] for name in names}
    enough = asyncio.Event()

    async def produce(d: Daemon, name: str) -> None:
        number = 0
        while not enough.is_set():
            number += 1
            ids = [f"{name}-{number}-{index}" for index in range(25)]
            array = [{"event_type": "message.sent", "event_id": each, "text": "x" * 100_000} for each in ids]
            path = f"{d.url}/v1/workspaces/{name}/events"
            headers = d.admin() | {"Content-Type": "application/json"}
            async with d.session.post(path, data=io.BytesIO(json.dumps(array).encode()), headers=headers) as answer:
                if answer.status == 202:
                    taken[name] += ids
                else:
                    assert (507, "storage_full") == (answer.status, (await answer.json())["error"]["code"])
            await asyncio.sleep(0.05)

    with small_disk(tmp_path / "disk", 256) as disk, filler(disk) as other:
        async with receiver() as where, daemon(disk / "state", config) as d:
            for name in names:
                await d.call("POST", "/v1/workspaces", {"id": name}, expect=201)
                fields = {"url": f"{where.url}/{name}", "event_types": ["*"]}
                await d.call("POST", f"/v1/workspaces/{name}/endpoints", fields, expect=201)
            producing = asyncio.gather(*(produce(d, name) for name in names))
            await where.until(30)
            other.snatch()
            async with asyncio.timeout(60):
                number = 0
                while (answered := await post(d, f"late-{number}"))[0] == 202:  # it fits into what the files have
                    number += 1
                assert 507 == answered[0]
                await asyncio.sleep(1)
                other.go()
                await where.until(len(where.received) + 60)
                enough.set()
                await producing
                while (await d.call("GET", "/v1/status"))["backlog"]["waiting"]:
                    await asyncio.sleep(0.05)
        assert taken == {name: where.ids(name) for name in names}


@contextlib.asynccontextmanager
async def full_disk(folder: Path, freed_bytes: int = 0) -> AsyncIterator[tuple[Store, Filler]]:
    """A store whose disk is full but for the reserve of 4 MiB; `freed_bytes` are free inside its file."""
    with small_disk(folder, 48) as disk, filler(disk) as other:
        for step in ("CREATE TABLE noted (name TEXT, filling BLOB)", "INSERT INTO noted VALUES ('', zeroblob(?))",
                     "DELETE FROM noted"):  # fmt: skip
            async with open_store(disk, 16) as store:
                values = (freed_bytes,) if "?" in step else ()
                await store.write(lambda db, sql=step, values=values: db.execute(sql, values))
        async with open_store(disk, 16) as store:
            other.fill()
            try:
                yield store, other
            finally:
                other.go()


def note(store: Store, name: str, filling_bytes: int, workspace_seq: int | None = None) -> asyncio.Future[Any]:
    return store.write(
        lambda db: db.execute("INSERT INTO noted VALUES (?, randomblob(?))", (name, filling_bytes)),
        retry_when_full=True,
        workspace_seq=workspace_seq,
        size=1 if workspace_seq is None else filling_bytes // ROW_BYTES,
    )


async def test_outcomes_dont_wait_for_the_rest_of_an_array(tmp_path: Path) -> None:
    """Which doesn't fit, and waits for space without using up what is kept for outcomes."""
    async with full_disk(tmp_path / "disk") as (store, other):
        rest = [note(store, f"rest {number}", 6 * MIB, workspace_seq=number) for number in (1, 2)]
        async with asyncio.timeout(20):
            for number in range(5):
                await asyncio.gather(*(note(store, f"outcome {number}", 16 * 1024) for _ in range(10)))
        assert not any(each.done() for each in rest)
        assert store.disk_space.release()  # some of it is left
        other.go()
        async with asyncio.timeout(20):
            await asyncio.gather(*rest)
        later = [note(store, "", 1) for _ in range(100)]
        await asyncio.gather(*later)


async def test_of_many_outcomes_some_are_recorded_where_not_all_fit(tmp_path: Path) -> None:
    """A batch that doesn't fit is tried in halves."""
    async with full_disk(tmp_path / "disk", 16 * MIB) as (store, _):
        async with asyncio.timeout(20):
            await asyncio.gather(*(note(store, "outcome", 32 * 1024) for _ in range(300)))


async def test_what_may_be_refused_does_not_wait_for_outcomes_that_do_not_fit(tmp_path: Path) -> None:
    """Events are answered, in the queue as well, and so is the heartbeat, which would else end the daemon."""
    async with full_disk(tmp_path / "disk") as (store, other):
        outcomes = [note(store, f"outcome {number}", 6 * MIB) for number in range(3)]
        events = [store.write(lambda db: None, workspace_seq=number, in_order=number == 3) for number in range(5)]
        async with asyncio.timeout(20):
            refused = await asyncio.gather(*events, return_exceptions=True)
            assert ["storage_full"] * 5 == [each.code for each in refused if isinstance(each, ApiError)]
            for _ in range(3):
                await store.writer.answer()
        assert not any(each.done() for each in outcomes)
        other.go()
        async with asyncio.timeout(20):
            await asyncio.gather(*outcomes)
            await store.write(lambda db: None, workspace_seq=1)


@pytest.mark.parametrize("spoil", ["removed", "cut"])
async def test_the_reserve_is_made_whole_again(spoil: str, tmp_path: Path) -> None:
    """A quarter of what is kept, with blocks behind it; made again by itself if somebody removes it."""
    async with daemon(tmp_path / "state", CONFIG):
        reserve = tmp_path / "state" / "webhookd.db-reserve"
        assert 4 * 1024**2 == reserve.stat().st_size == reserve.stat().st_blocks * 512
        if spoil == "removed":
            reserve.unlink()
        else:
            with reserve.open("r+b") as file:
                file.truncate(100)
        async with asyncio.timeout(10):
            while not reserve.exists() or reserve.stat().st_blocks * 512 != 4 * 1024**2:
                await asyncio.sleep(0.05)
        assert 0o600 == reserve.stat().st_mode & 0o777
