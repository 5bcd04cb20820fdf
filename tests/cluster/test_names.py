"""The partitions are those of NATS' own `partition()`."""

from __future__ import annotations

import pytest

from webhookd.cluster.names import event_subject, partition_of


@pytest.mark.parametrize(
    ("workspace_id", "hashed"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968), ("default", 0x933B5BDE)]
)
def test_a_workspace_belongs_to_the_partition_that_nats_maps_it_to(workspace_id: str, hashed: int) -> None:
    """FNV-1a of 32 bits; the first three are the published test vectors."""
    assert partition_of(workspace_id, 2**32) == hashed
    assert partition_of(workspace_id, 7) == hashed % 7


def test_the_subject_of_an_event_names_partition_and_workspace() -> None:
    """A stream takes one partition's."""
    assert event_subject("foobar", 16) == f"webhookd.partition.{0xBF9CF968 % 16}.foobar"
