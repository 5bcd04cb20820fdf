"""What a daemon wrote, synced and said, in the order in which the kernel saw it: strace's record, read.

A write, a truncation and a sync count from their end, what is sent over a socket from its beginning: so each moment is
judged as if as little as possible had reached the disk, and as much as possible had been promised.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CALLS = "pwrite64,write,ftruncate,fdatasync,fsync,unlink,openat,sendto,recvfrom"
# Files of which every change is followed; the index of the log (-shm) is made anew at each start.
FOLLOWED = ("webhookd.db", "webhookd.db-wal", "webhookd.db-journal")

_LINE = re.compile(rb"^(\d+) +(.*)$")
_UNFINISHED = re.compile(rb"^(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(rb"^<\.\.\. \w+ resumed>(.*)$")
_CALL = re.compile(rb"^(\w+)\((.*)\) += (-?\d+)")
_DESCRIPTOR = re.compile(rb"^(\d+)<(.*?)>(?:, |$)")
_TEXT = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_ID = re.compile(rb'"event_id":\s*"([\w-]+)"')


@dataclass(frozen=True, slots=True)
class Create:
    file: str


@dataclass(frozen=True, slots=True)
class Write:
    file: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Remove:
    file: str


@dataclass(frozen=True, slots=True)
class Sync:
    file: str


@dataclass(frozen=True, slots=True)
class Accepted:
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attempted:
    """A request left for a receiver: the path of its URL, the event, the attempt's number."""

    endpoint: str
    event_id: str
    number: int


Change = Create | Write | Truncate | Remove
Step = Change | Sync | Accepted | Attempted


def read(trace: Path, state_dir: Path) -> list[Step]:
    """Everything that matters of a record made with `-f -yy -xx -s 1000000 -e trace=CALLS`."""
    return list(_Reader(state_dir).steps(trace))


class _Reader:
    def __init__(self, state_dir: Path) -> None:
        self._folder = str(state_dir)
        self._begun: dict[bytes, bytes] = {}
        self._asked: dict[bytes, list[str]] = {}
        self._known: set[str] = set()

    def steps(self, trace: Path) -> Iterator[Step]:
        with trace.open("rb") as lines:
            for line in lines:
                matched = _LINE.match(line.rstrip(b"\n"))
                if matched is None:
                    continue
                pid, text = matched.groups()
                unfinished, resumed = _UNFINISHED.match(text), _RESUMED.match(text)
                if unfinished is not None:
                    self._begun[pid] = unfinished[1]
                    if unfinished[1].startswith(b"sendto("):
                        yield from self._sent(unfinished[1])
                    continue
                whole = self._begun.pop(pid) + resumed[1] if resumed is not None else text
                if whole.startswith(b"sendto("):
                    if resumed is None:
                        yield from self._sent(whole)
                    continue
                yield from self._done(whole)

    def _done(self, line: bytes) -> Iterator[Step]:
        matched = _CALL.match(line)
        if matched is None:
            return
        call, given, result = matched[1], matched[2], int(matched[3])
        if result < 0:
            return
        if call == b"recvfrom":
            self._received(given)
        elif call in (b"openat", b"unlink"):
            yield from self._named(call, given)
        else:
            yield from self._written(call, given, result)

    def _named(self, call: bytes, given: bytes) -> Iterator[Step]:
        file = self._followed(_bytes(given))
        if file is None:
            return
        if call == b"unlink":
            self._known.discard(file)
            yield Remove(file)
        elif b"O_CREAT" in given and file not in self._known:
            self._known.add(file)
            yield Create(file)

    def _written(self, call: bytes, given: bytes, result: int) -> Iterator[Step]:
        descriptor = _DESCRIPTOR.match(given)
        assert descriptor is not None, given[:200]
        path = _unhex(descriptor[2])
        if call in (b"fdatasync", b"fsync") and path.decode() == self._folder:
            yield Sync("")
        file = self._followed(path)
        if file is None:
            return
        if call == b"pwrite64":
            data = _bytes(given)
            assert len(data) == result, "strace cut a string short"
            yield Write(file, int(given.rsplit(b", ", 1)[1]), data)
        elif call == b"ftruncate":
            yield Truncate(file, int(given.rsplit(b", ", 1)[1]))
        elif call in (b"fdatasync", b"fsync"):
            yield Sync(file)
        else:
            raise AssertionError(f"{call.decode()} of {file} isn't understood")

    def _received(self, given: bytes) -> None:
        descriptor = _DESCRIPTOR.match(given)
        if descriptor is not None:
            self._asked.setdefault(descriptor[2], []).extend(each.decode() for each in _ID.findall(_bytes(given)))

    def _sent(self, line: bytes) -> Iterator[Step]:
        given = line[len(b"sendto(") :]
        descriptor = _DESCRIPTOR.match(given)
        data = _bytes(given)
        assert descriptor is not None
        if data.startswith(b"HTTP/1.1 202"):
            yield Accepted(tuple(self._asked.pop(descriptor[2], ())))
        elif data.startswith(b"HTTP/1.1"):
            self._asked.pop(descriptor[2], None)
        elif data.startswith(b"POST /"):
            head = data.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in head[1:])}
            endpoint = head[0].split()[1].lstrip("/")
            yield Attempted(endpoint, headers["webhook-id"], int(headers["x-webhook-attempt"]))

    def _followed(self, path: bytes) -> str | None:
        folder, _, name = path.decode("utf-8", "replace").rpartition("/")
        return name if folder == self._folder and name in FOLLOWED else None


def _bytes(given: bytes) -> bytes:
    matched = _TEXT.search(given)
    assert matched is not None and matched[2] is None, given[:200]
    return _unhex(matched[1])


def _unhex(text: bytes) -> bytes:
    return bytes.fromhex(text.decode().replace("\\x", "")) if text.startswith(b"\\x") else text
