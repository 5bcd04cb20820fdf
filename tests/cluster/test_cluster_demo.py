"""`webhookd demo --cluster` as its user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server
from tests.support.process import ROOT

ELSEWHERE = "import sys; sys.executable = '/'; from webhookd.cli import main; main()"  # no server beside Python either


@pytest.mark.slow
@pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE)
def test_the_demo_kills_one_of_each_and_loses_nothing() -> None:
    """It says who has what, what was killed and what the receivers saw."""
    server = find_server()
    assert server is not None
    environ = {**os.environ, "PATH": f"{server.parent}:{os.environ['PATH']}"}
    ran = subprocess.run(
        [sys.executable, "-m", "webhookd", "demo", "--cluster"],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    assert "nats-1 is killed" in ran.stdout and "webhookd-2 is killed" in ran.stdout
    assert 3 == len(re.findall(r"40 of 40 events, in order", ran.stdout))
    assert "Nothing was lost." in ran.stdout


@pytest.mark.slow
def test_without_a_server_it_says_what_to_install() -> None:
    """In one line."""
    ran = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "demo", "--cluster"],
        cwd=ROOT, env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert 1 == ran.returncode
    assert "no nats-server" in ran.stderr and "apt-get install nats-server" in ran.stderr
