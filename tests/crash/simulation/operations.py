"""What producers and people do, as the API would; the observer sees what they ask and what they are answered."""

from __future__ import annotations

import json
import zlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.crash.simulation.script import Action
from webhookd.app import App
from webhookd.errors import ApiError
from webhookd.models import NewEvent
from webhookd.store import delivery_log
from webhookd.store.delivery_log.log_filter import LogFilter

if TYPE_CHECKING:
    from tests.crash.simulation.world import World

Operation = Callable[["World", App, Action], Awaitable[None]]


def _workspace_seq(app: App, workspace: str) -> int:
    return app.registry.workspace(workspace).seq


def _endpoint_id(world: World, app: App, action: Action) -> tuple[str, str, int]:
    """The workspace, the id and the number of the endpoint that an action is about; ApiError if it was deleted."""
    url = world.script.hooks[action.hook].url
    for endpoint in app.registry.endpoints():
        if endpoint.url == url:
            return endpoint.workspace, endpoint.id, endpoint.seq
    raise ApiError("not_found", "It was deleted.")


async def _create(world: World, app: App, action: Action) -> None:
    hook = world.script.hooks[action.hook]
    if hook.workspace not in [each.id for each in app.registry.workspaces()]:
        await app.services.workspaces.create(hook.workspace)
    await app.services.endpoints.create(
        hook.workspace, url=hook.url, event_types=list(hook.types), ordering=hook.ordering
    )


async def _send(world: World, app: App, action: Action) -> None:
    seq = _workspace_seq(app, action.workspace)
    bodies = {each: _body(world, action.event_type, each) for each in action.ids}
    asked = world.observer.sending(seq, action.event_type, bodies, world.loop.time())
    new = [NewEvent(event_id, action.event_type, body) for event_id, body in bodies.items()]
    results = await app.services.ingest.accept(action.workspace, new)
    world.observer.answered(seq, asked, results, world.loop.time())


def _body(world: World, event_type: str, event_id: str) -> bytes:
    """An event; where endpoints order by key, with a contact and mostly a conversation that the id decides."""
    fields: dict[str, object] = {"event_type": event_type, "event_id": event_id, "n": event_id * 9}
    if world.script.orders_by_key:
        draw = zlib.crc32(event_id.encode())
        fields |= {"contact": {"id": draw % 5}, "conversation": {"id": f"c{draw // 5 % 3}"} if draw % 7 else None}
    return json.dumps(fields, separators=(",", ":")).encode()


async def _disable(world: World, app: App, action: Action) -> None:
    workspace, endpoint_id, _ = _endpoint_id(world, app, action)
    await app.services.endpoints.disable(workspace, endpoint_id)


async def _enable(world: World, app: App, action: Action) -> None:
    workspace, endpoint_id, seq = _endpoint_id(world, app, action)
    await app.services.endpoints.enable(workspace, endpoint_id, skip_held=action.flag)
    world.observer.forgotten(seq, world.loop.time())


async def _off_and_on(world: World, app: App, action: Action) -> None:
    await _disable(world, app, action)
    await _enable(world, app, action)


async def _delete(world: World, app: App, action: Action) -> None:
    workspace, endpoint_id, seq = _endpoint_id(world, app, action)
    await app.services.endpoints.delete(workspace, endpoint_id)
    world.observer.forgotten(seq, world.loop.time())


async def _plan(world: World, app: App, action: Action) -> None:
    seq = _workspace_seq(app, action.workspace)
    world.observer.changing_plan[seq] += 1
    await app.services.workspaces.change(action.workspace, plan=action.text)
    world.observer.changing_plan[seq] -= 1
    world.observer.plan_settled(seq, world.loop.time())


async def _types(world: World, app: App, action: Action) -> None:
    workspace, endpoint_id, _ = _endpoint_id(world, app, action)
    await app.services.endpoints.change(workspace, endpoint_id, {"event_types": [action.text]})


async def _ordering(world: World, app: App, action: Action) -> None:
    workspace, endpoint_id, _ = _endpoint_id(world, app, action)
    await app.services.endpoints.change(workspace, endpoint_id, {"ordering": action.ordering})


async def _replay(world: World, app: App, action: Action) -> None:
    workspace, _, seq = _endpoint_id(world, app, action)
    finished = [each for each in world.observer.deliveries.values() if each.hook == seq and each.state]
    if finished:
        chosen = world.rng.choice(finished).seq
        paused = app.registry.paused(workspace)
        workspace_seq = _workspace_seq(app, workspace)
        view = await app.store.read(lambda db: delivery_log.get(db, workspace_seq, chosen, paused=paused))
        if view is not None:
            await app.services.replayer.one(view)


async def _replay_all(world: World, app: App, action: Action) -> None:
    seq = _workspace_seq(app, action.workspace)
    hook = _endpoint_id(world, app, action)[2] if action.flag else None
    wanted = LogFilter(workspace_seq=seq, paused=app.registry.paused(action.workspace), endpoint_seq=hook)
    await app.services.replayer.many(wanted, dry_run=False)


async def _test(world: World, app: App, action: Action) -> None:
    workspace, endpoint_id, _ = _endpoint_id(world, app, action)
    await app.services.test_events.send(workspace, endpoint_id)


async def _mode(world: World, app: App, action: Action) -> None:
    world.modes[world.script.hooks[action.hook].url] = action.text


async def _clock(world: World, app: App, action: Action) -> None:
    world.wall.offset_seconds += action.seconds
    world.observer.clock_set(world.wall.offset_seconds, world.loop.time())


OPERATIONS: dict[str, Operation] = {
    "create": _create,
    "send": _send,
    "disable": _disable,
    "enable": _enable,
    "off-and-on": _off_and_on,
    "delete": _delete,
    "plan": _plan,
    "types": _types,
    "ordering": _ordering,
    "replay": _replay,
    "replay-all": _replay_all,
    "test": _test,
    "mode": _mode,
    "clock": _clock,
}
