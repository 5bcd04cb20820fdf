"""Starts webhookd as systemd does: with sockets handed over, or confined to what the unit lets it do.

python -m tests.support.handed FD,FD ARGUMENT…     descriptors 3 and on are those, $LISTEN_PID is this process
python -m tests.support.handed confined ARGUMENT…  the unit's filter of system calls and address families
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "webhookd.service"
HIGH_FD = 200
ALLOW = 0x7FFF0000  # of seccomp.h, as the three below
FAIL_EPERM = 0x00050000 | errno.EPERM
EQUAL = 4
PR_SET_MDWE = 65  # of linux/prctl.h; Linux 6.3 and newer, an error elsewhere


class Compared(ctypes.Structure):
    """`struct scmp_arg_cmp`: a system call's argument that is to be equal to something."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def directives(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith(("#", "["))]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def system_calls() -> set[str]:
    allowed: set[str] = set()
    for name, value in directives(UNIT):
        if name == "SystemCallFilter":
            calls = {call for group in value.lstrip("~").split() for call in members(group)}
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def members(name: str) -> set[str]:
    """A call is itself; a set is its calls, those of the sets in it included."""
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    listed = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return {call for each in listed if each and not each.startswith("#") for call in members(each)}


def confine() -> None:
    """Let this process, and what it becomes, do only what the unit allows."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(FAIL_EPERM)))

    def allow(number: int, *compared: Compared) -> None:
        array = (Compared * len(compared))(*compared)
        assert seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, len(compared), array) == 0

    families = dict(directives(UNIT))["RestrictAddressFamilies"].split()
    for call in system_calls():
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if call == "socket":
            for family in families:
                allow(number, Compared(0, EQUAL, getattr(socket, family), 0))
        elif number >= 0:  # else another machine's call
            allow(number)
    ctypes.CDLL(None).prctl(PR_SET_MDWE, 1, 0, 0, 0)
    assert seccomp.seccomp_load(context) == 0


def hand_over(fds: list[int]) -> None:
    """Move the descriptors to 3 and on, and say in the environment that they are ours."""
    for index, fd in enumerate(fds):
        os.dup2(fd, HIGH_FD + index)
    for index in range(len(fds)):
        os.dup2(HIGH_FD + index, 3 + index)
        os.close(HIGH_FD + index)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))


if __name__ == "__main__":
    if sys.argv[1] == "confined":
        confine()
    else:
        hand_over([int(fd) for fd in sys.argv[1].split(",")])
    os.execv(sys.executable, [sys.executable, "-m", "webhookd", *sys.argv[2:]])
