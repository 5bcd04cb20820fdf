"""A small part of what `python -m tests.hostile.many_connections` does."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.hostile.many_connections import connect_many


async def test_a_healthy_caller_beside_900_that_stay(tmp_path: Path) -> None:
    """None of 900 is refused, memory grows by less than 64 KiB for each, and each request is answered."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        pytest.skip("this machine doesn't allow the descriptors")
    grown_bytes, kept, fresh = await connect_many(tmp_path, 900, calls=20)
    assert grown_bytes / 900 < 64 * 1024
    assert (20, 20) == (len(kept), len(fresh))
