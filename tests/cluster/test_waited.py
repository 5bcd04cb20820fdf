"""What a machine that takes over is told: what waited for whom, and what is finished."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import pytest

from tests.support.stores import new_endpoint
from webhookd.cluster import waited
from webhookd.cluster.progress import ProgressValue
from webhookd.cluster.waited import Choices, Waited, before, waited_item, waited_of
from webhookd.models import Ordering, Workspace
from webhookd.store.cluster.config import endpoint_item, workspace_item
from webhookd.store.cluster.stream import POSITIONS

ENDPOINT = new_endpoint()
WORKSPACE = Workspace(1, "default", "", "advanced", (), 0, 0)


def bucket(item: Any) -> Any:
    """As it comes from the bucket."""
    return msgspec.json.decode(msgspec.json.encode(item))


@pytest.mark.parametrize("hashes", [[None, None, None], [7, None, 9]])
def test_what_waited_comes_back_as_it_was(hashes: list[int | None]) -> None:
    """Places far and near, with and without a key."""
    positions = list(zip([1024, 1025, 10**12], hashes, strict=True))
    item = bucket(waited_item("ep_1", 10**12 + 5, positions))
    assert waited_of(item) == Waited(10**12 + 5, dict(positions))


def test_of_more_than_an_entry_holds_the_oldest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is claimed of the others."""
    monkeypatch.setattr(waited, "MOST_BYTES", 10_000)
    random = Random(1)
    positions = [(each * POSITIONS + random.randrange(1000), random.randrange(2**31)) for each in range(5000)]
    item = waited_item("ep_1", 10**15, positions)
    kept = waited_of(bucket(item))
    assert len(item["waited"]) < 4 / 3 * 10_000 + 4
    assert list(kept.positions.items()) == positions[: len(kept.positions)]
    assert kept.upto == positions[len(kept.positions) - 1][0]


def test_what_is_finished() -> None:
    """By the progress, by since when the endpoint is there, and by what waited when it asked for something else."""
    value = ProgressValue("m", 20, {"all": 12 * POSITIONS, "lanes/3": 15 * POSITIONS, "chose": 4 * POSITIONS})
    kept = {
        "chose": Waited(10 * POSITIONS, {4 * POSITIONS: None, 6 * POSITIONS: None}),
        "lanes": Waited(10 * POSITIONS, {5 * POSITIONS: 3}),
    }
    left = before(value, {"new": 18}, kept, {"default": True})
    assert (left.finished_upto, left.asked_upto) == (3, 20)
    assert left.waited_at(4 * POSITIONS) == ["chose"] and left.waited_at(5 * POSITIONS) == ["lanes"]

    def finished(endpoint_id: str | None, sequence: int, lane_hash: int | None = None) -> bool:
        return left.finished(endpoint_id, lane_hash, sequence * POSITIONS)

    assert [finished("all", each) for each in (11, 12, 20, 21)] == [True, False, False, False]
    assert [finished("none waits", each) for each in (1, 20, 21)] == [True, True, False]
    assert [finished("new", each) for each in (18, 19, 21)] == [True, True, False]
    assert [finished("chose", each) for each in (3, 4, 5, 6, 11)] == [True, False, True, False, False]
    assert [finished("lanes", each, 3) for each in (14, 15)] == [True, False]
    assert [finished("lanes", each, 4) for each in (15, 20, 21)] == [True, True, False]
    assert finished("lanes", 5)  # lane 3, as it was then, is behind from 15 on only
    assert finished(None, 30)


def test_which_changes_need_to_know_what_waits() -> None:
    """Another choice of events or another key, and a plan that stops or returns; nothing else, nor a first look."""
    paused = False
    choices = Choices(lambda workspace: paused)
    choices.restore([bucket(workspace_item(WORKSPACE) | {"paused": False})], [bucket(endpoint_item(ENDPOINT))])
    assert not choices.put_workspace(WORKSPACE) and not choices.put_endpoint(ENDPOINT)
    assert not choices.put_endpoint(replace(ENDPOINT, url="https://b.example/"))
    assert not choices.put_endpoint(replace(ENDPOINT, id="ep_new"))
    keyed = replace(ENDPOINT, ordering=Ordering("contact.id", 4))
    assert choices.put_endpoint(keyed) == (ENDPOINT.id,)
    assert not choices.put_endpoint(replace(keyed, ordering=Ordering("contact.id", 8)))
    assert choices.put_endpoint(replace(keyed, event_types=("contact.created",))) == (ENDPOINT.id,)
    assert choices.put_endpoint(replace(keyed, filters="{}")) == (ENDPOINT.id,)
    paused = True
    assert set(choices.put_workspace(WORKSPACE)) == {ENDPOINT.id, "ep_new"}
    assert not choices.put_workspace(replace(WORKSPACE, name="x"))
    choices.remove_endpoint(ENDPOINT)
    paused = False
    assert choices.put_workspace(WORKSPACE) == ["ep_new"]
    choices.remove_workspace(WORKSPACE)
    assert choices.paused == {}
