"""Every hostile caller of `callers`, one by one, against a real daemon: its verdict, and the daemon unharmed by it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hostile.callers import CALLERS, GOOD, Caller, request
from tests.support.process import ROOT
from webhookd.errors import ERRORS

SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Called:
    port: int
    tokens: dict[bytes, bytes]
    process: subprocess.Popen[bytes]
    log_file: Path

    def answers(self, sent: bytes, *, half: bool = False) -> bytes:
        """All that comes back for these bytes until the daemon ends the connection, or has answered."""
        for name, secret in self.tokens.items():
            sent = sent.replace(name, secret)
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as line:
            try:
                line.sendall(sent)
                if half:
                    line.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass  # it was refused before it was read to its end; the answer is there all the same
            return _read(line)


def _read(line: socket.socket) -> bytes:
    got = b""
    try:
        while piece := line.recv(65536):
            got += piece
            head, end, body = got.partition(b"\r\n\r\n")
            if end and len(body) >= _length(head):
                return head + end + body[: _length(head)]  # after a 100 the answer may be in the same piece
    except ConnectionResetError:
        pass
    return got


def _length(head: bytes) -> int:
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
    return next((int(value) for name, _, value in lines if name == b"content-length"), 0)


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Called]:
    state_dir = tmp_path_factory.mktemp("callers") / "state"
    config, log_file = state_dir.with_suffix(".toml"), state_dir.with_suffix(".log")
    config.write_text("[listen]\nport = 0\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    command = [sys.executable, "-m", "webhookd", "serve", "--config", str(config), "--state-dir", str(state_dir)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        port = _port(state_dir / "address", process)
        ingest, admin = ((state_dir / f"{name}-token").read_bytes().strip() for name in ("ingest", "admin"))
        tokens = {b"{TOKEN}": ingest, b"{ADMIN}": admin, b"{CUT}": ingest[:-1], b"{CAPITALS}": ingest.upper()}
        yield Called(port, tokens, process, log_file)
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def _port(address: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if address.exists():
            return int(address.read_text().strip().rpartition(":")[2])
        time.sleep(0.01)
    raise AssertionError("it did not start")


def _verdict(got: bytes) -> tuple[int, str, str]:
    """The status, the error's code and the code of the first event refused."""
    if not got:
        return 0, "", ""
    head, _, body = got.partition(b"\r\n\r\n")
    report = json.loads(body) if body else {}
    rejected = report.get("rejected") or [{}]
    return (
        int(head.split(b" ")[1]),
        report.get("error", {}).get("code", ""),
        rejected[0].get("error", {}).get("code", ""),
    )


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: f"{caller.kind} | {caller.name}")
def test_each_caller_gets_its_verdict(called: Called, caller: Caller) -> None:
    """The status and the code expected, in the one form, without a trace of the inside; and a good event is taken."""
    got = called.answers(caller.sent, half=caller.half)
    assert (*caller.verdict, caller.rejected) == _verdict(got)
    head = got.partition(b"\r\n\r\n")[0].lower()
    assert b"x-evil" not in head
    assert b"Traceback" not in got and b"site-packages" not in got
    for secret in called.tokens.values():
        assert secret not in got
    if caller.verdict[0] >= 400:
        assert b"content-type: application/json; charset=utf-8" in head and b"x-content-type-options: nosniff" in head
        assert ERRORS[caller.verdict[1] or caller.rejected].status in (caller.verdict[0], 400, 413)
    assert (202, "", "") == _verdict(called.answers(request(GOOD)))


def test_afterwards_the_daemon_is_as_it_was(called: Called) -> None:
    """The same process, no warning and no error in its log, and every line of it JSON of less than 16 KiB."""
    assert called.process.poll() is None
    lines = called.log_file.read_bytes().splitlines()
    assert [] == [line for line in lines if len(line) > 16 * 1024]
    entries = [json.loads(line) for line in lines]
    assert [] == [
        entry
        for entry in entries
        if entry["level"] in ("warning", "error") and entry["event"] not in ("state.tightened", "auth.failed")
    ]


def test_no_two_callers_are_the_same() -> None:
    """Each has a name of its own within its class, and sends something of its own."""
    names = [(caller.kind, caller.name) for caller in CALLERS]
    assert sorted(set(names)) == sorted(names)
    assert len({caller.sent for caller in CALLERS}) == len(CALLERS)
