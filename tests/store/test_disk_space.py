"""What counts as room on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from webhookd.store.disk_space import MIB, WAL_BYTES_WHEN_SHORT, DiskSpace


@pytest.mark.parametrize(
    ("free_mb", "inside_mb", "short"),
    [(48, 0, False), (40, 0, True), (40, 7, True), (40, 9, False), (15, 500, True), (17, 500, False)],
)
def test_free_pages_inside_the_file_are_room(
    free_mb: int, inside_mb: int, short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 MiB to be kept 16 are reserved; on the disk itself a quarter has to be free, for the write-ahead log."""
    space = DiskSpace(tmp_path / "webhookd.db", 64)
    space.acquire()
    monkeypatch.setattr(space, "free_bytes", lambda: free_mb * MIB)
    space.free_inside_bytes = inside_mb * MIB
    space._looked_at = float("-inf")
    assert short is space.short()
    assert (space.wal_limit_bytes() == WAL_BYTES_WHEN_SHORT) is (free_mb < 48)
