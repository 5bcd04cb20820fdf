"""What a seed stands for: endpoints, settings, and what producers, people, receivers, clocks and kills do, and when.

Schedules are short (a few endpoints, some dozen events, a few virtual hours) and crowded: that finds most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from webhookd.config import Budget, Config, Delivery, Hold, Mail, Retention

TYPES = ("message.received", "message.sent")
WORKSPACES = ("default", "acme")
HOUR, DAY = 3600.0, 86400.0
# The share of schedules in which the log is pruned.
MODES = ("ok", "fail", "flaky", "slow", "hang", "late", "refused", "dns", "local", "ill", "wild")


@dataclass(frozen=True, slots=True)
class Hook:
    """An endpoint of the script; `mode` is how its receiver behaves at first, `ordering` as the API takes it."""

    workspace: str
    url: str
    types: tuple[str, ...]
    mode: str
    ordering: Any = "endpoint"


@dataclass(frozen=True, slots=True)
class Action:
    """Something that happens at `at` (virtual seconds); which of the fields count depends on `what`."""

    at: float
    what: str
    hook: int = 0
    workspace: str = "default"
    ids: tuple[str, ...] = ()
    event_type: str = TYPES[0]
    text: str = ""
    flag: bool = False
    seconds: float = 0.0
    ordering: Any = "endpoint"


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill -9 at the `step`-th step of the store or the network after the start; then `down_seconds` of nothing."""

    step: int
    down_seconds: float


@dataclass(slots=True)
class Script:
    seed: int
    rng: Random
    config: Config = field(default_factory=Config)
    hooks: list[Hook] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    until: float = 0.0
    in_order: bool = False
    slowest_seconds: float = 0.005
    orders_by_key: bool = False
    constants: dict[str, float] = field(default_factory=dict)


def write(seed: int, *, orders_by_key: bool | None = None) -> Script:
    """The script of a seed; whether its endpoints order by key is drawn, unless it is given."""
    rng = Random(seed)
    script = Script(seed, rng, in_order=rng.random() < 0.3)
    script.until = rng.choice((0.5, 1, 2, 5, 10)) * HOUR
    script.slowest_seconds = rng.choice((0.001, 0.02, 0.3, 1.5))
    script.config = _config(rng, script.until)
    script.constants = {
        "webhookd.delivery.queue.QUEUE_EVENTS": rng.choice((64, 64, 2, 3)),
        "webhookd.delivery.queue.INLINE_BYTES": rng.choice((8192, 8192, 70)),
        "webhookd.delivery.queue.SHARED_BYTES": rng.choice((2**25, 2**25, 200)),
        "webhookd.store.writer.BATCH_SIZE": rng.choice((400, 400, 1, 2)),
        # 1: nothing is gathered.  By dice of its own, so that the rest of a kept seed stays as it was.
        "webhookd.store.writer.WORTHWHILE_SIZE": Random(~seed).choice((48, 1)),
        "webhookd.delivery.held_events.STEP_ROWS": rng.choice((500, 1, 2)),
        "webhookd.delivery.replay.STEP": rng.choice((500, 1, 2)),
        # Every second, as in the daemon, most of a virtual hour would go into looks that find nothing.
        "webhookd.delivery.held_events.LOOK_SECONDS": script.until / 40,
    }
    # How long batches really take must not decide how large the next ones are.
    for name in ("LEAST_SIZE", "MOST_SIZE"):
        script.constants[f"webhookd.store.writer.{name}"] = script.constants["webhookd.store.writer.BATCH_SIZE"]
    _people_it(rng, script)
    # By dice of their own, so that the rest of a kept seed stays as it was.
    dice = Random(f"lanes {seed}")
    script.orders_by_key = dice.random() < 0.4 if orders_by_key is None else orders_by_key
    if script.orders_by_key:
        _order_by_key(dice, script)
    script.actions.sort(key=lambda action: action.at)
    return script


def _config(rng: Random, until: float) -> Config:
    waits = rng.choice(((30.0, 60.0, 90.0), (30.0, 60.0, 90.0), (30.0, 60.0, 90.0), (5.0,), ()))
    return Config(
        delivery=Delivery(retry_seconds=waits),
        budget=Budget(
            limit=rng.choice((30, 30, 12, 5, 2)),
            window_seconds=rng.choice((1800, 1800, 400)),
            disables="all" if rng.random() < 0.15 else "failing",
        ),
        hold=Hold(max_events=rng.choice((100_000, 100_000, 4)), max_age_hours=rng.choice((72, 72, 0.4))),
        retention=Retention(
            max_age_days=rng.choice((30, 30, until / DAY / 3)), idempotency_hours=rng.choice((72, 0.5))
        ),
        mail=Mail(host="mail.test"),  # so that notices are written; none is sent here
    )


def _people_it(rng: Random, script: Script) -> None:
    places = WORKSPACES if rng.random() < 0.3 else WORKSPACES[:1]
    for number in range(rng.choice((1, 2, 2, 3, 4))):
        types = rng.choice((("*",), ("*",), TYPES[:1], TYPES[1:], TYPES))
        mode = rng.choice(("ok", "ok", "fail", "fail", *MODES))
        script.hooks.append(Hook(rng.choice(places), f"https://{number}.example/hook", types, mode))
    moments = _peaked(rng, script.until)
    pipe_at, is_pipe = moments(), rng.random() < 0.4
    for number in range(8 if is_pipe else rng.choice((2, 3, 6))):
        ids = tuple(f"e{number}-{place}" for place in range(rng.choice((1, 2, 5) if is_pipe else (1, 2, 5, 12))))
        place, kind = rng.choice(places), rng.choice(TYPES)
        at = pipe_at + rng.uniform(0, 100 * script.slowest_seconds**0.5) if is_pipe else moments()
        script.actions.append(Action(at, "send", workspace=place, ids=ids, event_type=kind))
        if rng.random() < 0.1:
            script.actions.append(Action(moments(), "send", workspace=place, ids=ids, event_type=kind))
    sent = [action.at for action in script.actions]
    for _ in range(rng.choice((0, 2, 5, 9))):
        while_busy = rng.choice(sent) + rng.uniform(0, rng.choice((0.05, 1.0, 10.0, 100.0)))
        at = while_busy if rng.random() < 0.5 else moments()
        script.actions.append(_operation(rng, at, len(script.hooks), rng.choice(places)))
    for _ in range(rng.choice((0, 1, 3))):
        hook, mode = rng.randrange(len(script.hooks)), rng.choice(("ok", "fail", *MODES))
        script.actions.append(Action(moments(), "mode", hook=hook, text=mode))
    _set_clocks(rng, script, moments)
    for _ in range(rng.choice((0, 1, 1, 2))):
        step = int(10 ** rng.uniform(0.5, 2.8))
        script.kills.append(Kill(step, rng.choice((0.1, 1.0, 45.0, 400.0))))


def _order_by_key(dice: Random, script: Script) -> None:
    """Most endpoints order by key, and some get another order, mostly while there is work."""
    script.hooks = [replace(hook, ordering=_ordering(dice)) for hook in script.hooks]
    script.constants["webhookd.delivery.queue.LANE_EVENTS"] = dice.choice((16, 1, 2))
    sent = [action.at for action in script.actions if action.what == "send"]
    for _ in range(dice.choice((0, 1, 2, 4))):
        at = dice.choice(sent) + dice.uniform(0, dice.choice((0.05, 1.0, 10.0, 100.0)))
        hook = dice.randrange(len(script.hooks))
        script.actions.append(Action(at, "ordering", hook=hook, ordering=_ordering(dice)))


def _ordering(dice: Random) -> Any:
    if dice.random() < 0.2:
        return "endpoint"
    key = dice.choice(("contact.id", "contact.id", "conversation.id", "contact.nothing"))
    return {"key": key, "lanes": dice.choice((2, 2, 3, 8, 64))}


def _set_clocks(rng: Random, script: Script, moments: Callable[[], float]) -> None:
    if rng.random() < 0.25:
        at, seconds = moments(), rng.choice((-86400.0, -3600.0, -40.0, 40.0, 3600.0, 86400.0))
        if rng.random() < 0.5:  # while something waits for its retry
            at = script.actions[0].at + rng.uniform(0, 100)
        script.actions.append(Action(at, "clock", seconds=seconds))
        if rng.random() < 0.7:
            script.actions.append(Action(at + rng.uniform(0, 60), "restart"))
    elif rng.random() < 0.3:
        at = rng.choice(script.actions).at + rng.uniform(0, 100) if rng.random() < 0.7 else moments()
        script.actions.append(Action(at, "restart"))


def _peaked(rng: Random, until: float) -> Callable[[], float]:
    """Moments of which many lie close together: what falls together is what goes wrong."""
    peaks = [rng.uniform(1, until) for _ in range(3)]

    def moment() -> float:
        near = rng.random()
        if near < 0.45:
            later = rng.choice((0.0, 0.0, 5.0, 30.0, 90.0))  # when a late answer, or a retry, is due
            return min(until, rng.choice(peaks) + later + rng.uniform(0, rng.choice((0.0, 0.02, 0.5, 6.0))))
        if near < 0.7:
            return min(until, rng.choice(peaks) + rng.uniform(0, 200))
        return rng.uniform(1, until)

    return moment


def _operation(rng: Random, at: float, hooks: int, workspace: str) -> Action:
    hook = rng.randrange(hooks)
    draw = rng.random()
    if draw < 0.15:
        return Action(at, "disable", hook=hook)
    if draw < 0.45:
        return Action(at, "enable", hook=hook, flag=rng.random() < 0.3)
    if draw < 0.60:
        return Action(at, "off-and-on", hook=hook, flag=rng.random() < 0.3)
    if draw < 0.66:
        return Action(at, "delete", hook=hook)
    if draw < 0.74:
        return Action(at, "plan", workspace=workspace, text=rng.choice(("starter", "advanced")))
    if draw < 0.84:
        return Action(at, "replay", hook=hook)
    if draw < 0.90:
        return Action(at, "replay-all", workspace=workspace, hook=hook, flag=rng.random() < 0.5)
    if draw < 0.96:
        return Action(at, "types", hook=hook, text=rng.choice(("*", *TYPES)))
    return Action(at, "test", hook=hook)
