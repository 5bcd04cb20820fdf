"""The dispatcher: one consumer for each lane that has work, if its endpoint may be sent to, none for the others.

Everything is counted and decided on the event loop, in commit order.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from webhookd.delivery.consumer import STEP_MARGIN_SECONDS, Consumer
from webhookd.delivery.deps import Deps
from webhookd.delivery.queue import Backlog, EndpointQueue, Lane, QueuedBytes
from webhookd.delivery.queue_view import EndpointStatus, QueueView, lanes_view
from webhookd.delivery.recorder import Recorder
from webhookd.models import Endpoint, QueuedDelivery
from webhookd.sender.client import Transport
from webhookd.store import attempts, deliveries
from webhookd.store.store import Db

HOUR_MS = 3_600_000


class Dispatcher:
    """Offers new deliveries to the endpoints' queues and runs consumers where there is work."""

    def __init__(self, deps: Deps, recorder: Recorder, transport: Transport) -> None:
        self._deps = deps
        self._registry = deps.registry
        self._may_attempt = deps.clustered.may_attempt if deps.clustered else _always
        self._recorder = recorder
        self._transport = transport
        self._queues: dict[int, EndpointQueue] = {}
        self._backlogs: defaultdict[int, Backlog] = defaultdict(Backlog)
        self._shared = QueuedBytes()
        self._consumers: dict[Lane, Consumer] = {}
        self._tasks: dict[Lane, asyncio.Task[None]] = {}
        self._blocked: Counter[int] = Counter()  # endpoints that get no consumer, see `block`
        self._unattended: dict[int, float] = {}  # since when there is work and no consumer, as `stuck` saw it
        self.marks = 0  # how many were set since the start; `HeldEvents` lets the rows behind them follow
        self._running = False
        self._crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Begin with everything that waits in the table, each queue from its start."""
        for found in await self._deps.store.read_for_delivery(deliveries.waiting):
            if self._registry.get(found.endpoint_seq):  # else its workspace's row is lost
                queue = self._queue(found.endpoint_seq)
                queue.restore(found.count, found.size, found.newest_seq, found.by_hash)
        self._running = True
        for endpoint_seq in list(self._queues):
            self.wake(endpoint_seq)

    async def run(self) -> None:
        """A root task: waits until a consumer fails, and raises its error."""
        await self._crashed

    def halt(self) -> None:
        """Start no further attempt; what is offered from now on waits for the next start of the daemon."""
        self._running = False
        for consumer in self._consumers.values():
            consumer.stop()

    async def stop(self) -> None:
        """`halt`, and wait until the attempts in flight have ended and are recorded."""
        self.halt()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    # What waits

    def offer(self, new: Iterable[QueuedDelivery]) -> None:
        """Take deliveries that were just committed, in commit order."""
        for delivery in new:
            endpoint = self._registry.get(delivery.endpoint_seq)
            if endpoint is None:
                continue  # deleted in the meantime; its row is cancelled by the mark
            queue = self._queue(delivery.endpoint_seq)
            lane = queue.lane_for(delivery)
            starts = self._running and lane is not None and lane not in self._tasks and self._may_start(queue, endpoint)
            if starts and lane is not None:
                lane.open()  # before the offer, so that the consumer needn't read this delivery from the table
            queue.offer(delivery, lane)
            self._recorder.publish_accepted(endpoint, delivery)
            if starts and lane is not None:
                self._start(endpoint, queue, lane)
            elif lane is None:
                self.wake(endpoint.seq)

    def settle(self, endpoint_seq: int, finished: Iterable[tuple[int, int | None]]) -> None:
        """Deliveries of an endpoint, of which size and hash are given, no longer wait."""
        queue = self._queues.get(endpoint_seq)
        if queue is not None:
            for size, lane_hash in finished:
                queue.settled(size, lane_hash)

    def clear(self, endpoint_seq: int) -> None:
        """Nothing waits for an endpoint any more: a mark up to its newest delivery is committed."""
        self.marks += 1
        queue = self._queues.get(endpoint_seq)
        if queue is not None:
            queue.clear()

    def forget(self, endpoint_seq: int) -> None:
        """An endpoint was deleted: nothing waits for it any more; an attempt in flight ends by itself."""
        self.stop_consumer(endpoint_seq)
        self.clear(endpoint_seq)
        self._queues.pop(endpoint_seq, None)
        self._recorder.forget(endpoint_seq)

    # Consumers

    def wake(self, endpoint_seq: int) -> None:
        """Start a consumer for each lane that has work and none yet, if the endpoint may be sent to."""
        queue, endpoint = self._queues.get(endpoint_seq), self._registry.get(endpoint_seq)
        if not self._running or queue is None or endpoint is None:
            return
        self.reorder(endpoint)
        if self._may_start(queue, endpoint):
            for lane in self._lacking(queue):
                self._start(endpoint, queue, lane)

    def reorder(self, endpoint: Endpoint) -> None:
        """Take another order of an endpoint: its lanes stop, and new ones start when their attempts have ended."""
        queue = self._queues.get(endpoint.seq)
        if queue is None or queue.ordering == endpoint.ordering:
            return
        self.stop_consumer(endpoint.seq)
        if not self._runs(queue):
            queue.take_ordering(endpoint.ordering)

    def stop_consumer(self, endpoint_seq: int) -> None:
        """Let no further attempt of an endpoint start; those in flight end and are recorded.

        For an endpoint that is stopped in the registry already; before that, `block`.
        """
        queue = self._queues.get(endpoint_seq)
        for lane in queue.lanes.values() if queue else ():
            if lane in self._consumers:
                self._consumers[lane].stop()

    def block(self, endpoint_seq: int) -> None:
        """`stop_consumer`, and start none until `unblock`, as often as this was called.

        For while a change that stops the endpoint is committed, or what goes before its newer events is queued.
        """
        self._blocked[endpoint_seq] += 1
        self.stop_consumer(endpoint_seq)

    def unblock(self, endpoint_seq: int) -> None:
        """What `block` was for is committed, or failed: the registry decides again."""
        self._blocked -= Counter([endpoint_seq])
        self.wake(endpoint_seq)

    async def wait_idle(self, endpoint_seq: int) -> None:
        """Wait until an endpoint that was stopped has no attempt in flight."""
        queue = self._queues.get(endpoint_seq)
        tasks = [self._tasks[lane] for lane in queue.lanes.values() if lane in self._tasks] if queue else []
        if tasks:
            await asyncio.wait(tasks)

    def reschedule(self) -> None:
        """The retry schedule changed: waits under way that are longer than it says are cut."""
        for consumer in self._consumers.values():
            consumer.reschedule()

    def review(self, endpoints: Iterable[Endpoint]) -> None:
        """Start or stop consumers as the endpoints' states and plans now say."""
        for endpoint in endpoints:
            if self._registry.runs(endpoint):
                self.wake(endpoint.seq)
            else:
                self.stop_consumer(endpoint.seq)

    # Status

    def waiting_endpoints(self) -> list[Endpoint]:
        """The endpoints for which anything waits, without a look at all the others."""
        found = (self._registry.get(seq) for seq, queue in self._queues.items() if queue.waiting)
        return [each for each in found if each is not None]

    def view(self, endpoint_seq: int) -> QueueView:
        """An endpoint's queue, now."""
        queue = self._queues.get(endpoint_seq)
        endpoint = self._registry.get(endpoint_seq)
        runs = endpoint is not None and self._registry.runs(endpoint)
        waiting = queue.waiting if queue else 0
        consumers = [self._consumers[lane] for lane in queue.lanes.values() if lane in self._consumers] if queue else []
        due_ms = [each.next_attempt_at_ms for each in consumers if each.next_attempt_at_ms is not None]
        return QueueView(
            waiting=waiting,
            waiting_bytes=queue.waiting_bytes if queue else 0,
            held=0 if runs else waiting,
            next_attempt_at_ms=min(due_ms, default=None) if runs else None,
            in_flight=sum(each.in_flight for each in consumers),
            retrying=len(due_ms),
            queued=sum(each.waits_for_slot for each in consumers),
            lanes=lanes_view(queue, consumers) if queue else None,
        )

    async def statuses(self, shown: Sequence[Endpoint]) -> list[EndpointStatus]:
        """The status of each endpoint; one question to the table for all of them."""

        def question(db: Db) -> list[EndpointStatus]:
            return [self._status(db, each) for each in shown]

        return await self._deps.store.read_status(question) if shown else []

    def _status(self, db: Db, endpoint: Endpoint) -> EndpointStatus:
        queue = self.view(endpoint.seq)
        oldest = deliveries.oldest_waiting(db, endpoint.seq, endpoint.skipped_upto) if queue.waiting else None
        return EndpointStatus(
            endpoint,
            paused=self._registry.paused(endpoint.workspace_seq),
            queue=queue,
            oldest_at_ms=oldest[1] if oldest else None,
            last_attempt=attempts.last_of_endpoint(db, endpoint.seq),
            dropped_last_hour=attempts.dropped_since(db, endpoint, self._deps.clock.wall_ms() - HOUR_MS),
        )

    def backlog(self, workspace_seq: int) -> Backlog:
        """What waits for all endpoints of a workspace."""
        return self._backlogs[workspace_seq]

    def stuck(self) -> str:
        """Which consumer is stuck or missing, and since when; "" when all of them work.

        Each step of a consumer (an attempt, a wait for a retry, a read) has a time limit, and there is a consumer
        wherever work waits.  To be called every few seconds: a missing one counts from the second call.
        """
        now = self._deps.clock.monotonic()
        for lane, consumer in self._consumers.items():
            if now > consumer.due_at:
                late = now - consumer.due_at + STEP_MARGIN_SECONDS
                return f"the consumer of {self._named(lane.endpoint_seq)} is {late:.0f} s late with its present step"
        missing = {each for each in self._queues if self._lacks_consumer(each)} if self._running else set()
        self._unattended = {each: self._unattended.get(each, now) for each in missing}
        for endpoint_seq, since in self._unattended.items():
            if now - since > STEP_MARGIN_SECONDS:
                return f"{self._named(endpoint_seq)} has had work and no consumer for {now - since:.0f} s"
        return ""

    @property
    def alive(self) -> int:
        """How many consumers run."""
        return len(self._tasks)

    def _lacks_consumer(self, endpoint_seq: int) -> bool:
        """Whether there is work, the endpoint may be sent to, and no consumer runs."""
        queue, endpoint = self._queues.get(endpoint_seq), self._registry.get(endpoint_seq)
        if queue is None or not queue.waiting or endpoint is None:
            return False
        return self._may_start(queue, endpoint) and bool(self._lacking(queue))

    def _lacking(self, queue: EndpointQueue) -> list[Lane]:
        """The lanes that have work and no consumer, behind the barrier if everything up to it is finished."""
        while True:
            found = [lane for lane in queue.lanes_with_work() if lane not in self._tasks]
            if found or not queue.is_barred or self._runs(queue):
                return found
            queue.pass_barrier()

    def _runs(self, queue: EndpointQueue) -> bool:
        return any(lane in self._tasks for lane in queue.lanes.values())

    def _may_start(self, queue: EndpointQueue, endpoint: Endpoint) -> bool:
        if self._blocked[endpoint.seq] or not self._registry.runs(endpoint):
            return False
        return (queue.ordering is endpoint.ordering or queue.ordering == endpoint.ordering) and self._may_attempt()

    def _start(self, endpoint: Endpoint, queue: EndpointQueue, lane: Lane) -> None:
        lane.open()
        consumer = self._consumers[lane] = Consumer(lane, self._deps, self._recorder, self._transport)
        self._tasks[lane] = asyncio.create_task(self._run(queue, lane, consumer), name=f"consumer {endpoint.id}")

    def _named(self, endpoint_seq: int) -> str:
        endpoint = self._registry.get(endpoint_seq)
        return "a deleted endpoint" if endpoint is None else endpoint.id

    def _queue(self, endpoint_seq: int) -> EndpointQueue:
        queue = self._queues.get(endpoint_seq)
        if queue is None:
            endpoint = self._registry.get(endpoint_seq)
            assert endpoint is not None
            backlog = self._backlogs[endpoint.workspace_seq]
            queue = EndpointQueue(endpoint_seq, backlog, self._shared, endpoint.ordering)
            self._queues[endpoint_seq] = queue
        return queue

    async def _run(self, queue: EndpointQueue, lane: Lane, consumer: Consumer) -> None:
        emptied = False
        try:
            emptied = await consumer.run()
        except Exception as error:  # noqa: BLE001 - any error ends the daemon (`run`)
            self._running = False
            if not self._crashed.done():
                self._crashed.set_exception(error)
        finally:
            # Nothing is awaited between the consumer's last look at its queue and this, so no offer is missed.
            lane.close(emptied=emptied)
            del self._consumers[lane], self._tasks[lane]
            if emptied:
                queue.emptied(lane)
            if not emptied or queue.is_barred or consumer.stopped:
                self.wake(queue.endpoint_seq)  # it may have been stopped and allowed again while its attempt ended


def _always() -> bool:
    return True
