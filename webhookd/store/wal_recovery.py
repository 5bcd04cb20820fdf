"""What a daemon that ended early left in the write-ahead log, brought to the disk before anybody is told of it.

A commit writes its frames into the log and then syncs them.  If a kill comes between the two, or the sync fails, the
frames may be in the kernel's memory alone; yet the next daemon would read them from there, answer "duplicate" for an
event in them, and lose it when the power fails.  Another sync is not enough: after one that failed Linux takes the
pages for clean, and the next reports success without writing them.  They have to be written again.  Nor would a
checkpoint do: with a hole in the log on the disk, a power cut would leave a mix of old and new pages.

Which frames these are tells the index of the log (`-shm`): SQLite counts a commit there only after its sync, and the
index is gone when the kernel's memory is.  It is made anew when the database is opened, with every frame counted; so
this comes before that.  The formats: https://sqlite.org/walformat.html, https://sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_HEADER_BYTES = 32
LOG_MAGIC = bytes.fromhex("377f06")
FRAME_HEADER_BYTES = 24
INDEX_HEADER_BYTES = 48  # there are two of them, the same unless it was being written
# Whoever has the database open holds a shared lock on this byte of the index, and who opens it first an exclusive one.
OPEN_LOCK_AT = 128
PIECE_BYTES = 1024 * 1024


def secure(path: Path) -> int:
    """Write again and sync what the log of the database at `path` holds beyond its last sync; how many bytes.

    To be called before SQLite opens the database in this process, whose locks it would end.  Where another program (one
    that replicates the file) has it open, its index lives on without those frames, and nothing is done.  OSError when
    the disk fails.
    """
    log, index = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm"))
    if not log.exists():
        return 0
    with _opened(index, os.O_RDWR | os.O_CREAT) as index_file:
        try:
            fcntl.lockf(index_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, OPEN_LOCK_AT)
        except BlockingIOError:
            return 0
        with _opened(log, os.O_RDWR) as file:
            begin, end = _doubtful(file, os.pread(index_file, 2 * INDEX_HEADER_BYTES, 0))
            if begin < end:
                _write_again(file, begin, end)
                with _opened(path.parent, os.O_RDONLY) as registry:  # the log may be new
                    os.fsync(registry)
    return end - begin


def _doubtful(file: int, index: bytes) -> tuple[int, int]:
    """From where to where the frames reach that belong to the log and aren't counted in its index."""
    header = os.pread(file, LOG_HEADER_BYTES, 0)
    if len(header) < LOG_HEADER_BYTES or not header.startswith(LOG_MAGIC):
        return 0, 0  # SQLite doesn't read it either
    salts = header[16:24]  # a frame with others is of an earlier time, and only hasn't been overwritten yet
    frame_bytes = FRAME_HEADER_BYTES + int.from_bytes(header[8:12], "big")
    synced = _synced_frames(index, salts)
    begin = end = LOG_HEADER_BYTES + synced * frame_bytes
    while os.pread(file, FRAME_HEADER_BYTES, end)[8:16] == salts:
        end += frame_bytes
    if end == begin:
        return 0, 0
    return (begin if synced else 0), min(end, os.fstat(file).st_size)


def _synced_frames(index: bytes, salts: bytes) -> int:
    """How many frames of the log with these salts are certainly on the disk."""
    header = index[:INDEX_HEADER_BYTES]
    if header != index[INDEX_HEADER_BYTES:] or header[32:40] != salts:
        return 0
    return int.from_bytes(header[16:20], sys.byteorder)


def _write_again(file: int, begin: int, end: int) -> None:
    for offset in range(begin, end, PIECE_BYTES):
        _write(file, os.pread(file, min(PIECE_BYTES, end - offset), offset), offset)
    os.fdatasync(file)


def _write(file: int, piece: bytes, offset: int) -> None:
    while piece:
        written = os.pwrite(file, piece, offset)
        piece, offset = piece[written:], offset + written


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
