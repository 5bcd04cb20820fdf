"""A small machine of its own: Debian with a real systemd as its first process, in namespaces and a network of its own.

Built by mmdebstrap, run by systemd-nspawn, steered by nsenter; root's alone.  Its network is a loopback: it reaches
nobody, so what it is to install is brought along (Debian's packages in apt's cache, Python's as a directory of wheels).
systemd is never started on the host's own root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.process import ROOT

PLACE = Path("/tmp/nspawn")
PACKAGES = ("systemd-sysv", "dbus", "ca-certificates", "curl", "jq")
BROUGHT = ("python3-venv",)
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
MIRROR = "http://deb.debian.org/debian"
CHECKOUT = "/root/webhookd"
WHEELS = "/opt/wheels"
ENVIRONMENT = {
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PIP_NO_INDEX": "1",  # the one thing that differs from a machine with a network
    "PIP_FIND_LINKS": WHEELS,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}
SHUT_DOWN = signal.SIGRTMIN + 4  # systemd(1): the container is to power off
CLONE_NEWNET = 0x40000000  # of linux/sched.h
WAIT_SECONDS = 60.0


def install_what_is_missing() -> str:
    if os.geteuid() != 0:
        return "this needs root: namespaces, mounts and a systemd of its own"
    needed = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
    packages = [package for program, package in needed.items() if shutil.which(program) is None]
    if packages and shutil.which("apt-get") is not None:
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *command], check=False, stdout=sys.stderr)
    missing = [package for program, package in needed.items() if shutil.which(program) is None]
    return f"missing, and apt can't install it here: {', '.join(missing)}" if missing else ""


def make_base(suite: str) -> Path:
    """The root that containers begin as, built once: a minimal Debian, and in apt's cache what the README installs."""
    base = PLACE / suite
    if not base.exists():
        unfinished = PLACE / f"{suite}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        download = f'chroot "$1" apt-get install -q -y --download-only -o APT::Install-Recommends=1 {" ".join(BROUGHT)}'
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--skip=cleanup/apt",
             f"--customize-hook={download}", suite, str(unfinished), MIRROR], check=True,
        )  # fmt: skip
        (unfinished / "etc/hostname").write_text("trial\n")
        (unfinished / "etc/resolv.conf").unlink(missing_ok=True)
        (unfinished / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        unfinished.rename(base)
    return base


def make_wheels(suite: str) -> Path:
    """The wheels that webhookd needs, for the suite's Python; from PyPI, as pip finds them."""
    wheels = PLACE / f"{suite}.wheels"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels), "--only-binary=:all:",
         "--python-version", PYTHONS[suite], *needed], check=True,
    )  # fmt: skip
    return wheels


def copy_checkout(target: Path) -> None:
    target.mkdir(parents=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    names = "\0".join(name for name in listed if name and (ROOT / name).is_file()).encode()
    copy = ["cp", "--parents", "--preserve=all", f"--target-directory={target}", "--"]
    subprocess.run(["xargs", "-0", *copy], cwd=ROOT, input=names, check=True)


@dataclass(slots=True)
class Container:
    """A machine; `boot` starts it, `halt` ends it and removes its root."""

    root: Path
    _nspawn: subprocess.Popen[bytes] | None = None
    _groups: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, suite: str) -> Container:
        base, wheels = make_base(suite), make_wheels(suite)
        root = PLACE / f"{suite}.{os.getpid()}"
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
        shutil.copytree(wheels, root / WHEELS.lstrip("/"))
        copy_checkout(root / CHECKOUT.lstrip("/"))
        return cls(root)

    def boot(self) -> None:
        # Control groups of its own: two containers at once, each with a webhookd.service, must not share any.
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mounted = {"name=systemd": "systemd", "": "unified"}.get(controllers)
            parent = Path("/sys/fs/cgroup") / (mounted or "")
            if mounted is not None:
                parent = parent if parent.exists() else Path("/sys/fs/cgroup")
                group = parent / path.lstrip("/") / self.root.name
                group.mkdir(exist_ok=True)
                self._groups.append(group)
        join = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self._groups)
        command = f"systemd-nspawn -q -D {self.root} --register=no --keep-unit --private-network --console=pipe -b"
        with (PLACE / f"{self.root.name}.log").open("wb") as log:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", f"{join}exec {command}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if self._leader() is not None:
                state = self.run("systemctl is-system-running --wait", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.2)
        raise TimeoutError(f"systemd did not start; see {PLACE / self.root.name}.log")

    def trust(self, certificate: bytes, name: str, address: str) -> None:
        """Let a name be an address of its loopback, and believe what that certificate signs."""
        (self.root / "usr/local/share/ca-certificates/trial.crt").write_bytes(certificate)
        with (self.root / "etc/hosts").open("a") as hosts:
            hosts.write(f"{address} {name}\n")
        self.run("update-ca-certificates")
        subprocess.run([*self.enter("--net"), "ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)

    def join_network(self) -> None:
        """Let this process, and every thread that it starts from now on, be in the machine's network."""
        with Path(f"/proc/{self._leader()}/ns/net").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def run(
        self, script: str, *, check: bool = True, given: str = "", timeout_seconds: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script in it, in the checkout, as root, with `given` as its input; its output as text."""
        return subprocess.run(
            [*self.enter(), "bash", "-c", f"cd {CHECKOUT} && {{ {script}\n}}"],
            env=ENVIRONMENT, input=given, capture_output=True, text=True, check=check, timeout=timeout_seconds,
        )  # fmt: skip

    def enter(self, *namespaces: str) -> list[str]:
        """The beginning of a command that runs inside: all of it, or in some of its namespaces (`--net`)."""
        leader = self._leader()
        assert leader is not None
        inside = namespaces or ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return ["nsenter", f"--target={leader}", *inside, "--"]

    def halt(self) -> None:
        leader = self._leader()
        if leader is not None:
            os.kill(leader, SHUT_DOWN)
        if self._nspawn is not None:
            try:
                self._nspawn.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait(WAIT_SECONDS)
        for group in self._groups:
            for each in sorted(group.glob("**/"), reverse=True):
                each.rmdir()
        shutil.rmtree(self.root)
        (PLACE / f"{self.root.name}.log").unlink(missing_ok=True)

    def _leader(self) -> int | None:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise RuntimeError((PLACE / f"{self.root.name}.log").read_text("utf-8", "replace"))
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children else None
