"""`python -m tests.hostile.schemathesis`: schemathesis against our own document, on a real daemon, finds nothing.

All of its checks are on: no server error, only statuses, types, headers and bodies that the document has, what the
document forbids is refused, what it allows is taken, methods that aren't there are 405, a token is really needed.
Two of our refusals no document can foretell, so they are allowed for where they belong: a cursor is opaque (400), and
what is right in its form may be wrong all the same (422: a type that the catalogue hasn't, a URL of a private host).

Two rounds: with ids of its own making, and with the ids of things that are there.  The daemon dials nothing beside
loopback (`tests.support.changed`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.support import process
from tests.support.results import recorded

CONFIG = "[delivery]\nretry_seconds = []\ntimeout_seconds = 1\n[limits]\nendpoints = 2000\n"
NO_NAMESERVER = "127.0.0.1:9"
# They filter by a type, and which types there are depends on the configuration and on what endpoints kept.
BY_TYPE = "/(events|deliveries|deliveries/stream)$"
USUAL = '"2xx", "3xx", 401, 403, 404, 409'
ALLOWED_FOR = f"""
[[operations]]
include-method = "GET"
exclude-path-regex = '{BY_TYPE}'
[operations.checks.positive_data_acceptance]
expected-statuses = [{USUAL}, 400]

[[operations]]
include-method = "GET"
include-path-regex = '{BY_TYPE}'
[operations.checks.positive_data_acceptance]
expected-statuses = [{USUAL}, 400, 422]

[[operations]]
include-path-regex = '/(events|endpoints|endpoints/.endpoint.|test|workspaces|workspaces/.workspace.|replay|backfill)$'
include-method-regex = "POST|PATCH"
[operations.checks.positive_data_acceptance]
expected-statuses = [{USUAL}, 422]
"""
# Each is the same handler as its long form below /v1/workspaces/{workspace}.
SHORTHANDS = r"^/v1/(events|endpoints|deliveries|replay|budget)"
ALWAYS_THE_SAME = ["--generation-deterministic", "--exclude-path-regex", SHORTHANDS]
ROUND_SECONDS = 900.0


async def run(folder: Path, *, examples: int, deep: bool) -> list[str]:
    """What it found, in its own words; empty where all is well."""
    state_dir = folder / "state"
    watched = ("-m", "tests.support.changed", f"dialled={NO_NAMESERVER},{folder / 'dialled'}")
    async with process.daemon(state_dir, CONFIG, program=watched) as daemon:
        found = []
        for number, parameters in enumerate(("", await _there_is(daemon))):
            if number and not deep:
                break
            (folder / "config.toml").write_text(ALLOWED_FOR + parameters)
            options = ["--phases", "examples,coverage,fuzzing,stateful" if deep else "fuzzing"]
            options += ["--generation-database", "none"] if deep else ALWAYS_THE_SAME
            options += ["--exclude-method", "DELETE"] if number else []
            found += await _round(daemon, folder, ["--max-examples", str(examples), *options])
        lines = daemon.log_file.read_text().splitlines()
        found += [line for line in lines if '"level":"error"' in line]
        if daemon.process.returncode is not None:
            found += [f"the daemon ended, with {daemon.process.returncode}; the end of its log:", *lines[-20:]]
    return found


async def _there_is(daemon: process.Daemon) -> str:
    """Make a workspace, an endpoint and a delivery; the parameters that name them."""
    await daemon.call("POST", "/v1/workspaces", {"id": "acme"}, expect=201)
    fields = {"url": "https://receiver.example/hook", "event_types": ["*"]}
    endpoint = await daemon.call("POST", "/v1/workspaces/acme/endpoints", fields, expect=201)
    sent = {"event_type": "message.received", "event_id": "one"}
    await daemon.call("POST", "/v1/workspaces/acme/events", sent, expect=202)
    (delivery,) = (await daemon.call("GET", "/v1/workspaces/acme/deliveries", expect=200))["data"]
    names = {"workspace": "acme", "endpoint": endpoint["id"], "event": "one", "delivery": delivery["id"]}
    return "\n[parameters]\n" + "".join(f'"path.{name}" = "{value}"\n' for name, value in names.items())


async def _round(daemon: process.Daemon, folder: Path, options: list[str]) -> list[str]:
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(folder / "config.toml"),
        "run", daemon.url + "/openapi.json", "--header", f"Authorization: {daemon.admin()['Authorization']}",
        "--no-color", "--checks", "all", *options,
    ]  # fmt: skip
    running = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(ROUND_SECONDS):
            said, _ = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    text = said.decode()
    print(text[text.find("==== SUMMARY") :], flush=True)
    return [text] if running.returncode else []


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--examples", type=int, default=50, help="how many per operation and phase, at most")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="webhookd-schemathesis-") as folder:
        found = asyncio.run(run(Path(folder), examples=chosen.examples, deep=True))
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(recorded(main))
