"""The world around the core for one schedule: its clock, its network, its people, its deaths; and the real core in it.

Real are the app and everything in it: ingest, registry, dispatcher, consumers, queues, recorder, watchdog, held events,
retention, replays, endpoints and workspaces, the writer and all SQL.  Made up are time, the loop, the disk's and the
network's pauses, and what receivers answer.  Left out are what isn't the core: sockets, tokens, the mail's journey.
"""

from __future__ import annotations

import asyncio
import importlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.crash.case import Case
from tests.crash.checker import judge
from tests.crash.simulation.disk import Disk, Note, NoTime, SimulatedStore
from tests.crash.simulation.loop import SimulatedClock, SimulatedLoop, Wall
from tests.crash.simulation.network import NoSender, SimulatedNetwork
from tests.crash.simulation.observer import Broken, Observer
from tests.crash.simulation.operations import OPERATIONS
from tests.crash.simulation.script import Action, Script, write
from tests.crash.spending import spent
from webhookd.app import App
from webhookd.errors import ApiError
from webhookd.store import endpoints, workspaces

DRAIN_SECONDS = 4000.0


class SimulatedApp(App):
    """The app without its listener: no tokens, no mail under way, no heartbeat."""

    async def start(self, environ: Mapping[str, str]) -> None:
        self._writing = self.tasks.start("writer", self.store.writer.run)
        self.registry.load(await self.store.read(workspaces.load), await self.store.read(endpoints.load))
        await self.services.workspaces.ensure_default()
        await self.watchdog.restore()
        await self.dispatcher.start()
        self.tasks.start("dispatcher", self.dispatcher.run)
        self.tasks.start("held_events", self.held_events.run)
        self.tasks.start("watchdog", self.watchdog.run)
        if self.settings().retention.max_age_days < 1:  # else it looks, for hours, at what it doesn't touch
            self.tasks.start("retention", self._prune)

    async def _prune(self) -> None:
        while True:
            with suppress(ApiError):
                await self.retention.sweep()
            await asyncio.sleep(self.settings().retention.max_age_days * 86_400 / 4)


@dataclass(slots=True)
class Report:
    seed: int
    hours: float = 0.0
    events: int = 0
    attempts: int = 0
    delivered: int = 0
    kills: int = 0
    most_repeats: int = 0
    repeats: int = 0
    fingerprint: int = 0
    broken: str = ""
    trace: list[str] = field(default_factory=list)


class World:
    def __init__(self, script: Script, *, traced: bool = False) -> None:
        self.script = script
        self.rng = Random(script.seed ^ 0x5EED)
        self.wall = Wall()
        self.modes = {hook.url: hook.mode for hook in script.hooks}
        self.observer = Observer(script.config, script.slowest_seconds)
        self.disk = Disk(self.rng, script.slowest_seconds, self._committed)
        self.loop = self._new_loop(0.0)
        self.report = Report(script.seed)
        self._traced = traced
        self._kills = list(script.kills)
        self._steps_to_live: int | None = None
        self._actions = [self._making(number) for number in range(len(script.hooks))] + script.actions
        self._unanswered: list[Action] = []
        self._app: App | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None
        self._wants_restart = False
        self._settling = False

    @property
    def clock(self) -> SimulatedClock:
        return SimulatedClock(self.loop, self.wall)

    def _making(self, number: int) -> Action:
        return Action(0.0, "create", hook=number)

    def _new_loop(self, now: float) -> SimulatedLoop:
        return SimulatedLoop(self.rng, now, in_order=self.script.in_order)

    # From the first start to the last stop

    def play(self) -> Report:
        while self._one_life():
            pass
        judgement = judge(self.observer.history, self.observer.final())
        for violation in judgement.violations:
            raise Broken(f"{violation.rule}: {violation.text}")
        report = self.report
        report.hours = self.loop.time() / 3600
        report.events = len(self.observer.event_seqs)
        report.attempts, report.kills = judgement.received, len(self.observer.history.crashes)
        report.repeats, report.most_repeats = judgement.repeats, judgement.most_repeats
        return report

    def _one_life(self) -> bool:
        """From a start to a death or an orderly stop; whether another life follows."""
        kill = self._kills.pop(0) if self._kills else None
        self._steps_to_live = kill.step if kill else None
        self._wants_restart = False
        main = self.loop.create_task(self._live())
        self.loop.run(lambda: main.done() or self._broken is not None)
        if main.done() and main.exception() is not None:
            self._broken = self._broken or main.exception()
        if self._broken is not None:
            self._unwind()
            raise self._broken
        if not self.loop.halted:
            self._check_faults()
            if self._wants_restart:
                self.loop = self._new_loop(self.loop.time())
            return self._wants_restart
        assert kill is not None
        self.note("killed")
        self.observer.died(self.loop.time())
        self._unwind()
        self.loop = self._new_loop(self.loop.time() + kill.down_seconds)
        return True

    def _unwind(self) -> None:
        """Unwind what the kill left standing; none of it can reach the disk or the network any more."""
        assert self._app is not None
        self._app.dispatcher._running = False  # else each consumer that unwinds is followed by another
        self.loop.unwind()
        self.rng.seed((self.script.seed << 8) + len(self.observer.history.crashes))  # how they unwind follows no seed

    async def _live(self) -> None:
        store = SimulatedStore(self.disk, self.loop, self.passed)
        clock = self.clock
        app = self._app = SimulatedApp(self.script.config, Path("."), store, clock, SimulatedNetwork(self), None, None)
        watching = asyncio.create_task(self._watch(app))
        await app.start({})
        self.observer.started(self.loop.time())
        self.note("started")
        await self._act(app)
        if not self._wants_restart:
            await self._settle(app)
        watching.cancel()
        await asyncio.wait([watching])
        app.stop_delivering()
        for task in list(self._pending):  # callers are answered before the app stops
            await task
        self._pending.clear()  # the loop may end before it calls who takes them out
        await app.stop()
        self.note("stopped")

    async def _watch(self, app: App) -> None:
        end = await app.tasks.run_until_stopped(asyncio.Event())
        self.break_(Broken(f"the daemon ended: {end} ({end.__cause__ if end else None!r})"))

    # What happens

    async def _act(self, app: App) -> None:
        """Do what the script says at its times; what had no answer before a kill is sent again first."""
        again, self._unanswered = self._unanswered, []
        for action in again:
            self._begin(app, action)
        while self._actions and not self._wants_restart:
            wait_seconds = self._actions[0].at - self.loop.time()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)
            action = self._actions.pop(0)
            if action.what == "restart":
                self._wants_restart = True
            elif action.what == "create":
                await self._do(app, action)
            else:
                self._begin(app, action)

    def _begin(self, app: App, action: Action) -> None:
        task = asyncio.get_running_loop().create_task(self._do(app, action))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _do(self, app: App, action: Action) -> None:
        try:
            if action.what in ("send", "create"):
                self._unanswered.append(action)
            self.note(action.what, action.hook, action.workspace, *action.ids, action.text)
            await OPERATIONS[action.what](self, app, action)
        except ApiError as error:
            self.note("refused", action.what, error.code)
            if error.code == "unavailable" and action in self._unanswered:
                return
        except (Broken, AssertionError) as broken:
            self.break_(broken)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has to end with it
            self.break_(Broken(f"{action.what} failed: {error!r}"))
        if action in self._unanswered:
            self._unanswered.remove(action)

    async def _settle(self, app: App) -> None:
        """Let everybody be well again, wait until everything went where it belongs, and look at the books."""
        self._settling = True
        self._steps_to_live = None
        await self._all_answered(app)
        for url in self.modes:
            self.modes[url] = "ok"
        for workspace in app.registry.workspaces():
            await self._do(app, Action(0, "plan", workspace=workspace.id, text="advanced"))
        if self.rng.random() < 0.7:
            for number in range(len(self.script.hooks)):
                await self._do(app, Action(0, "enable", hook=number))
        until = self.loop.time() + DRAIN_SECONDS + 2 * self.script.until / 40
        while self.observer.unfinished():
            if self.loop.time() > until:
                raise Broken(f"it doesn't get done: {self.observer.unfinished()}")
            await asyncio.sleep(10.0)
        await app.held_events.look()
        await app.store.writer.flushed()  # what is committed has been published
        self._check_counters(app)

    async def _all_answered(self, app: App) -> None:
        """Wait for the calls under way; what was refused in passing is sent again."""
        until = self.loop.time() + DRAIN_SECONDS
        while self._pending or self._unanswered:
            if self.loop.time() > until:
                raise Broken(f"no answer comes to {self._pending or self._unanswered}")
            for action in list(self._unanswered):
                if not self._pending:
                    self._begin(app, action)
            await asyncio.sleep(1.0)

    def _check_counters(self, app: App) -> None:
        case = Case(self.observer.history, self.observer.final())
        for hook in self.observer.hooks.values():
            if not hook.deleted and app.dispatcher.view(hook.seq).waiting != self.observer.waiting(hook.seq):
                shown = app.dispatcher.view(hook.seq).waiting
                raise Broken(f"endpoint {hook.seq} shows {shown} waiting, there are {self.observer.waiting(hook.seq)}")
        for workspace in app.registry.workspaces():
            waiting = sum(app.dispatcher.view(e.seq).waiting for e in app.registry.endpoints(workspace.id))
            if app.dispatcher.backlog(workspace.seq).waiting != waiting:
                raise Broken(f"{workspace.id} shows a backlog of {app.dispatcher.backlog(workspace.seq)}")
            least, most = spent(case, str(workspace.seq), self.loop.time())
            shown = app.watchdog.view(workspace.id).failures
            if not least <= shown <= most:
                raise Broken(f"{workspace.id} shows {shown} failures, there are {least} to {most}")
        self._check_faults()
        self.report.delivered = sum(each.state == 1 for each in self.observer.deliveries.values())

    def _check_faults(self) -> None:
        for fault in self.loop.faults:
            raise Broken(f"asyncio says: {fault.get('message')} {fault.get('exception')!r}")

    def break_(self, why: BaseException) -> None:
        if self._broken is None:
            self._broken = why

    def passed(self, what: str) -> None:
        if self._steps_to_live is not None:
            self._steps_to_live -= 1
            if self._steps_to_live == 0:
                self.note("kill", what)
                self.loop.halt()

    def note(self, *what: object) -> None:
        """Keep what happens for the fingerprint, and for reading if the run is traced."""
        line = f"{self.loop.time():.6f} {' '.join(map(str, what))}"
        self.report.fingerprint = zlib.crc32(line.encode(), self.report.fingerprint)
        if self._traced:
            self.report.trace.append(line)

    def _committed(self, notes: list[Note]) -> None:
        for note in notes:
            self.note("commit", *(value for value in note if not str(value).startswith("test_")))
        try:
            self.observer.committed(notes, self.loop.time())
        except (Broken, KeyError) as broken:
            self.break_(broken)


@contextmanager
def constants(values: Mapping[str, Any]) -> Iterator[None]:
    """Other values for constants of webhookd's modules, for the time of a schedule."""
    before = []
    for name, value in values.items():
        module_name, _, constant = name.rpartition(".")
        module = importlib.import_module(module_name)
        before.append((module, constant, getattr(module, constant)))
        setattr(module, constant, value)
    try:
        yield
    finally:
        for module, constant, value in before:
            setattr(module, constant, value)


def play(seed: int, *, traced: bool = False, orders_by_key: bool | None = None) -> Report:
    """Play the schedule of a seed (see `write`); what was broken, if anything was, stands in the report."""
    script = write(seed, orders_by_key=orders_by_key)
    stand_ins = {"webhookd.sender.client.HttpSender": NoSender, "webhookd.store.writer.time": NoTime}
    with constants(script.constants | stand_ins):
        world = World(script, traced=traced)
        try:
            return world.play()
        except AssertionError as broken:
            world.report.broken = f"{type(broken).__name__}: {broken}"
            return world.report
        finally:
            world.disk.close()
