"""A few hundred of the images of `python -m tests.crash.power_loss`, and the reading of a record they rest on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crash import disk_trace
from tests.crash.disk_image import Disk
from tests.crash.disk_trace import Accepted, Attempted, Create, Remove, Sync, Truncate, Write
from tests.crash.power_loss import LANES, cut
from tests.crash.supervisor import why_no_kill_points

WHY_NOT = why_no_kill_points()


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
async def test_a_power_cut_loses_nothing_that_was_promised() -> None:
    """Whatever of the unsynced writes is on the disk: sound, nothing lost, in order, one repeat per lane."""
    result = await cut("FULL", 200, 1, rounds=3)
    assert (200, 1) == (result.images, result.started)
    assert ([], 0) == (result.examples, result.broken.total())
    assert result.most_repeats <= LANES


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
async def test_with_a_sync_too_few_the_same_test_fails() -> None:
    """`synchronous=NORMAL` loses events that were answered with 202: the test can tell."""
    result = await cut("NORMAL", 300, 0, rounds=3)
    assert result.lost > 0


def test_a_record_is_read_in_the_order_of_what_was_done(tmp_path: Path) -> None:
    """Writes and syncs count from their end, what is sent from its beginning; files of others don't matter."""

    def hexed(text: str) -> str:
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    db, wal = (hexed(f"{tmp_path}/webhookd.db{suffix}") for suffix in ("", "-wal"))
    asked = hexed('POST /v1/events HTTP/1.1\r\n\r\n{"event_id": "a"}')
    attempt = hexed("POST /hook HTTP/1.1\r\nwebhook-id: a\r\nX-Webhook-Attempt: 2\r\n\r\n{}")
    lines = (
        f'7 openat(AT_FDCWD</>, "{db}", O_RDWR|O_CREAT, 0600) = 3<{db}>',
        f'7 openat(AT_FDCWD</>, "{hexed("/etc/passwd")}", O_RDONLY) = 4<{hexed("/etc/passwd")}>',
        f'7 pwrite64(3<{wal}>, "{hexed("abc")}", 3, 32) = 3',
        f"7 fdatasync(3<{wal}> <unfinished ...>",
        f'8 recvfrom(5<TCP:[1->2]>, "{asked}", 100, 0, NULL, NULL) = 50',
        "7 <... fdatasync resumed>) = 0",
        f'8 sendto(5<TCP:[1->2]>, "{hexed("HTTP/1.1 202 Accepted")}", 21, 0, NULL, 0 <unfinished ...>',
        f"7 ftruncate(3<{wal}>, 0) = 0",
        "8 <... sendto resumed>) = 21",
        f'8 sendto(6<TCP:[3->4]>, "{attempt}", 60, 0, NULL, 0) = 60',
        f"7 fdatasync(9<{hexed(str(tmp_path))}>) = 0",
        f'7 unlink("{wal}") = 0',
    )
    trace = tmp_path / "trace"
    trace.write_text("\n".join(lines))
    assert [
        Create("webhookd.db"),
        Write("webhookd.db-wal", 32, b"abc"),
        Sync("webhookd.db-wal"),
        Accepted(("a",)),
        Truncate("webhookd.db-wal", 0),
        Attempted("hook", "a", 2),
        Sync(""),
        Remove("webhookd.db-wal"),
    ] == disk_trace.read(trace, tmp_path)


def test_an_image_has_all_that_was_synced_and_any_part_of_the_rest() -> None:
    """A file's sync leaves other files' changes open; a torn write keeps whole sectors."""
    disk = Disk()
    disk.change(0, Create("a"))
    disk.change(1, Create("b"))
    disk.sync(Sync(""))
    disk.change(2, Write("a", 0, b"1" * 1024))
    disk.change(3, Write("b", 0, b"2" * 1024))
    disk.sync(Sync("a"))
    chance = random.Random(1)
    seen = {tuple(image.files().items()) for _ in range(50) for image in disk.images(chance)}
    assert {b"1" * 1024} == {dict(files)["a"] for files in seen}
    torn = {b"", b"2" * 512, b"2" * 1024, bytes(512) + b"2" * 512}
    assert torn == {dict(files)["b"] for files in seen}
