"""The world around webhookd, cheaper than it: one program on raw sockets that sends events and takes webhooks.

    python -m tests.bench.peer

It says `{"port": …}` and then obeys one JSON order per line of stdin, each answered with one line of JSON.  Every
request to its port is answered 200 and counted, with its time; `load` posts events, all of its callers on keep-alive
connections with one request under way each.  A request costs it about 15 µs, a fifth of what it costs webhookd; how
busy it was is part of each answer, so that a run in which it was the bottleneck shows.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

EVENT_BYTES = 1024
STAMP_EVERY = 50
LATE_SECONDS = 10.0  # for answers, after the time is over
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"
_ID = b'"event_id":"b-'


def event(event_type: str, number: int, size: int = EVENT_BYTES, fields: str = "") -> bytes:
    """An event of `size` bytes, its number in its id; `fields` are members of its own, each with a comma behind it."""
    head = b'{"event_type":"%b","event_id":"b-%012d",%b"text":"' % (event_type.encode(), number, fields.encode())
    return head + b"x" * (size - len(head) - 2) + b'"}'


@dataclass(slots=True)
class Order:
    """Of a `load`: `batch` events a request; `window` bounds those sent and not yet taken back as webhooks."""

    address: tuple[str, int]
    token: str
    types: list[str]
    callers: int = 64
    batch: int = 1
    seconds: float = 1.0
    events: int = 1_000_000_000
    window: int = 1_000_000_000
    fan_out: int = 1
    rate: float = 0.0
    path: str = "/v1/events"
    fields: str = ""  # of each event


@dataclass(slots=True)
class Sink:
    count: int = 0
    stamps: list[tuple[float, int]] = field(default_factory=list)
    keep_times: bool = False
    times: dict[int, float] = field(default_factory=dict)

    def take(self, body: bytes) -> None:
        self.count += 1
        if self.count % STAMP_EVERY == 0:
            self.stamps.append((time.monotonic(), self.count))
        if self.keep_times:
            at = body.find(_ID)
            self.times.setdefault(int(body[at + len(_ID) : at + len(_ID) + 12]), time.monotonic())

    def clear(self) -> None:
        self.count = 0
        self.stamps.clear()
        self.times.clear()


class Peer:
    def __init__(self) -> None:
        self.poll = select.epoll()
        self.sink = Sink()
        self.sockets: dict[int, socket.socket] = {}
        self.partial: dict[int, bytes] = {}
        self.load: Load | None = None
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.poll.register(self.listener, select.EPOLLIN)
        self.port: int = self.listener.getsockname()[1]

    def turn(self, timeout_seconds: float) -> None:
        for descriptor, _ in self.poll.poll(timeout_seconds, 512):
            if self.load is not None and descriptor in self.load.callers:
                self.load.answered(descriptor)
            elif descriptor == self.listener.fileno():
                self._accept()
            elif descriptor in self.sockets:
                self._serve(descriptor)

    def _accept(self) -> None:
        for _ in range(100):
            try:
                taken, _ = self.listener.accept()
            except BlockingIOError:
                return
            taken.setblocking(False)
            self.sockets[taken.fileno()] = taken
            self.poll.register(taken, select.EPOLLIN)

    def _serve(self, descriptor: int) -> None:
        connection = self.sockets[descriptor]
        try:
            data = connection.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.partial.pop(descriptor, None)
            del self.sockets[descriptor]
            connection.close()
            return
        if self.partial:
            data = self.partial.pop(descriptor, b"") + data
        while data:
            end = _request_end(data)
            if not end:
                self.partial[descriptor] = data
                return
            self.sink.take(data[:end] if end < len(data) else data)
            connection.send(_OK)
            data = data[end:]


def _request_end(data: bytes) -> int:
    """Where the first request in `data` ends, 0 if it isn't all there."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return 0
    at = data.find(b"Content-Length: ", 0, head)
    if at < 0:
        at = data.lower().find(b"content-length: ", 0, head)
    length = int(data[at + 16 : data.index(b"\r", at)]) if at >= 0 else 0
    end = head + 4 + length
    return end if end <= len(data) else 0


class Load:
    """Callers that post events until the time or the events are over."""

    def __init__(self, peer: Peer, order: Order) -> None:
        self.peer, self.order = peer, order
        self.callers: dict[int, socket.socket] = {}
        self.idle: deque[int] = deque()
        self.partial: dict[int, bytes] = {}
        self.due: dict[int, float] = {}  # by caller: when what it sends was due
        self.sent_at: dict[int, float] = {}  # by event, where times are kept
        self.latencies: list[float] = []
        self.sent = self.accepted = 0
        self.statuses: dict[str, int] = {}
        self.under_way = 0
        host = f"{order.address[0]}:{order.address[1]}"
        kind = "application/json"
        self.head = (
            f"POST {order.path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {order.token}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: %d\r\n\r\n"
        ).encode()
        for _ in range(order.callers):
            opened = socket.create_connection(order.address)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setblocking(False)
            self.callers[opened.fileno()] = opened
            self.idle.append(opened.fileno())
            peer.poll.register(opened, select.EPOLLIN)

    def run(self, first_number: int) -> dict[str, Any]:
        order, sink = self.order, self.peer.sink
        self.number = first_number
        self.peer.load = self
        began, cpu_began, taken_before = time.monotonic(), _cpu_seconds(), sink.count
        ends = began + order.seconds
        limit = first_number + order.events
        accepted_then = 0
        while True:
            now = time.monotonic()
            # A busy machine may answer nothing in a short time: go on until it did.
            if self.number >= limit or (now >= ends and (self.accepted or now >= ends + LATE_SECONDS)):
                break
            back = sink.count - taken_before
            if order.rate:
                due = began + (self.number - first_number) / order.rate
                while due <= now and self.idle:
                    self._send(due)
                    due = began + (self.number - first_number) / order.rate
                self.peer.turn(min(0.001, max(0.0, due - now)))
                continue
            while (
                self.idle and self.number < limit and (self.number - first_number) * order.fan_out - back < order.window
            ):
                self._send(now)
            self.peer.turn(0.001)
        took = time.monotonic() - began
        accepted_then, taken = self.accepted, sink.count - taken_before
        while self.under_way and time.monotonic() < ends + LATE_SECONDS:
            self.peer.turn(0.01)
        self.peer.load = None
        for each in self.callers.values():
            self.peer.poll.unregister(each)
            each.close()
        return {
            "seconds": took,
            "accepted": accepted_then,
            "accepted_in_all": self.accepted,
            "taken": taken,
            "busy": (_cpu_seconds() - cpu_began) / (time.monotonic() - began),
            "statuses": self.statuses,
            "latencies_ms": _quantiles(self.latencies),
            "next": self.number,
        }

    def _send(self, due: float) -> None:
        order, number = self.order, self.number
        types = order.types
        if order.batch == 1:
            body = event(types[number % len(types)], number, fields=order.fields)
            if order.rate:
                self.sent_at[number] = due
        else:
            events = [
                event(types[each % len(types)], each, fields=order.fields)
                for each in range(number, number + order.batch)
            ]
            body = b"[" + b",".join(events) + b"]"
        self.number += order.batch
        descriptor = self.idle.popleft()
        self.due[descriptor] = due
        self.under_way += 1
        request = self.head % len(body) + body
        done = self.callers[descriptor].send(request)
        if done < len(request):  # a large batch: the rest blocks for a moment, which no measured path notices
            self.callers[descriptor].setblocking(True)
            self.callers[descriptor].sendall(request[done:])
            self.callers[descriptor].setblocking(False)

    def answered(self, descriptor: int) -> None:
        try:
            data = self.partial.pop(descriptor, b"") + self.callers[descriptor].recv(65536)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("webhookd hung up")
        if not _request_end(data):
            self.partial[descriptor] = data
            return
        status = data[9:12].decode()
        if status == "202":
            self.accepted += self.order.batch
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.latencies.append(time.monotonic() - self.due[descriptor])
        self.under_way -= 1
        self.idle.append(descriptor)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _watch(peer: Peer, count: int, timeout_seconds: float) -> dict[str, Any]:
    began, cpu_began = time.monotonic(), _cpu_seconds()
    while peer.sink.count < count and time.monotonic() - began < timeout_seconds:
        peer.turn(0.05)
    took = time.monotonic() - began
    return {
        "taken": peer.sink.count,
        "seconds": took,
        "ended": began + took,
        "stamps": peer.sink.stamps,
        "busy": (_cpu_seconds() - cpu_began) / took if took else 0.0,
    }


def _load(peer: Peer, fields: dict[str, Any], first_number: int) -> dict[str, Any]:
    order = Order(**{**fields, "address": tuple(fields["address"])})
    peer.sink.keep_times = bool(order.rate)
    load = Load(peer, order)
    result = load.run(first_number)
    if order.rate:
        ends = time.monotonic() + 30
        # Others may be there too: of the load before, for more than one endpoint each.
        while not load.sent_at.keys() <= peer.sink.times.keys() and time.monotonic() < ends:
            peer.turn(0.05)
        through = [peer.sink.times[number] - at for number, at in load.sent_at.items() if number in peer.sink.times]
        result["delivered_ms"] = _quantiles(through)
        result["lost"] = len(load.sent_at) - len(through)
        peer.sink.keep_times = False
    return result


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if soft < hard else soft, hard))
    peer = Peer()
    print(json.dumps({"port": peer.port}), flush=True)
    stdin = sys.stdin.fileno()
    peer.poll.register(stdin, select.EPOLLIN)
    pending, number = b"", int(time.time()) % 100_000 * 1_000_000
    while True:
        if select.select([stdin], [], [], 0)[0]:
            read = os.read(stdin, 65536)
            if not read:
                return
            pending += read
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            order = json.loads(line)
            what = order.pop("do")
            if what == "load":
                answer = _load(peer, order, number)
                number = answer["next"]
            elif what == "watch":
                answer = _watch(peer, order["count"], order["timeout_seconds"])
            else:
                peer.sink.clear()
                answer = {}
            print(json.dumps(answer), flush=True)
        peer.turn(0.2)


if __name__ == "__main__":
    main()
