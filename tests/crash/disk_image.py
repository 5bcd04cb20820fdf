"""What a disk may hold after its power was cut: everything synced, and any part of what was not.

Of each file the changes since its last sync are kept.  The kernel may have written any of them, in any order, and of a
write any of its sectors; creations and removals last from the next sync of the directory, or of the file itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.disk_trace import Change, Create, Remove, Sync, Truncate, Write

SECTOR_BYTES = 512
SUBSETS = 3
TORN = 3

# A change with its number in the record, and, of a write, the sectors that are kept (None: all).
Kept = tuple[int, Change, frozenset[int] | None]


@dataclass(slots=True)
class Image:
    """One thing that the disk may hold: the synced contents, and the changes that reached it as well.

    `synced` is the disk's own: an image is to be used before the record goes on.
    """

    synced: Mapping[str, bytearray]
    kept: list[Kept]
    signature: tuple[object, ...]

    def files(self) -> dict[str, bytes]:
        contents = {name: bytearray(content) for name, content in self.synced.items()}
        for _, change, sectors in self.kept:
            if isinstance(change, Create):
                contents.setdefault(change.file, bytearray())
            elif isinstance(change, Remove):
                contents.pop(change.file, None)
            elif change.file in contents:
                _apply(contents[change.file], change, sectors)
        return {name: bytes(content) for name, content in contents.items()}

    def lay_out(self, folder: Path) -> None:
        for name, content in self.files().items():
            (folder / name).write_bytes(content)


@dataclass(slots=True)
class Disk:
    synced: dict[str, bytearray] = field(default_factory=dict)
    pending: list[tuple[int, Change]] = field(default_factory=list)
    version: int = 0

    def change(self, number: int, change: Change) -> None:
        self.pending.append((number, change))

    def sync(self, sync: Sync) -> None:
        self.version += 1
        left = []
        for number, change in self.pending:
            of_directory = isinstance(change, Create | Remove)
            if change.file == sync.file or (sync.file == "" and of_directory):
                self._settle(change)
            else:
                left.append((number, change))
        self.pending = left

    def _settle(self, change: Change) -> None:
        if isinstance(change, Create):
            self.synced.setdefault(change.file, bytearray())
        elif isinstance(change, Remove):
            self.synced.pop(change.file, None)
        elif change.file in self.synced:
            _apply(self.synced[change.file], change, None)

    def images(self, chance: random.Random) -> Iterator[Image]:
        """What the disk may hold if the power goes now: nothing unsynced, all of it, some of it, some of it torn."""
        yield self._image([])
        if not self.pending:
            return
        yield self._image([(number, change, None) for number, change in self.pending])
        for _ in range(SUBSETS):
            share = chance.random()
            yield self._image([(n, c, None) for n, c in self.pending if chance.random() < share])
        for _ in range(TORN):
            yield self._image([(n, c, _sectors(c, chance)) for n, c in self.pending if chance.random() < 0.8])

    def _image(self, kept: list[Kept]) -> Image:
        signature = (self.version, *((number, sectors) for number, _, sectors in kept))
        return Image(self.synced, kept, signature)


def _sectors(change: Change, chance: random.Random) -> frozenset[int] | None:
    """Which sectors of a write are kept: mostly all of them, else a random part."""
    if not isinstance(change, Write) or chance.random() < 0.5:
        return None
    first, last = change.offset // SECTOR_BYTES, (change.offset + len(change.data) - 1) // SECTOR_BYTES
    return frozenset(each for each in range(first, last + 1) if chance.random() < 0.5)


def _apply(content: bytearray, change: Change, sectors: frozenset[int] | None) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
    elif isinstance(change, Write):
        if sectors is None:
            _put(content, change.offset, change.data)
        else:
            for sector in sectors:
                begin = max(sector * SECTOR_BYTES, change.offset)
                end = min((sector + 1) * SECTOR_BYTES, change.offset + len(change.data))
                _put(content, begin, change.data[begin - change.offset : end - change.offset])


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data
