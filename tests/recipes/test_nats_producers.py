"""The manual's recipes for producers that publish straight to NATS, over TLS and with the producer's own user."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest
import trustme
from nats.aio.client import Client

from tests.cluster.nats_servers import HOW_TO_GET_ONE, find_server, free_ports
from tests.recipes.languages import EVERYTHING, Program, fetch, needs
from webhookd.cluster.names import event_subject, stream_name, stream_subjects

pytestmark = pytest.mark.skipif(find_server() is None, reason=HOW_TO_GET_ONE)

MANUAL = (Path(__file__).resolve().parents[2] / "webhookd" / "manual" / "scaling-out.md").read_text("utf-8")
PARTITIONS = 16  # as the manual's mapping has it
CONFIG = """\
listen: 127.0.0.1:{port}
jetstream {{ store_dir: "{folder}/store" }}
tls {{ cert_file: "{folder}/nats.pem", key_file: "{folder}/nats.key" }}
"""
PYTHON = "import asyncio, json, ssl, nats\n\n\nasync def main():\n{}\n    await nc.close()\n\n\nasyncio.run(main())\n"
NODE = """\
import { connect } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
%s
await nc.close();
"""
GO = """\
package main

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, event := context.Background(), []byte(`{"event_type":"message.received","event_id":"m-1","text":"hello"}`)
	%s
	if err != nil || ack == nil {
		panic(err)
	}
	nc.Close()
}
"""


@dataclass
class Nats:
    """A server with the manual's users and mapping, and a connection of webhookd's user."""

    port: int
    folder: Path
    client: Client

    def recipe(self, name: str) -> str:
        """Its lines in the manual, with this server's address and authority."""
        block = re.search(rf"^{name}.*?:\n\n((?:    .*\n)+)", MANUAL, re.MULTILINE)
        assert block is not None, name
        text = re.sub("^    ", "", block[1], flags=re.MULTILINE)
        return text.replace("nats-1", f"localhost:{self.port}").replace("/etc/nats/ca.pem", f"{self.folder}/ca.pem")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Nats]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = authority.issue_cert("localhost", "127.0.0.1")
    made.private_key_pem.write_to_path(tmp_path / "nats.key")
    made.cert_chain_pems[0].write_to_path(tmp_path / "nats.pem")
    (port,) = free_ports(1)
    users = MANUAL[MANUAL.index("    authorization {") :].split("\n    cluster {")[0]
    mapping = re.search(r"^    mappings = .*$", MANUAL, re.MULTILINE)
    assert mapping is not None
    (tmp_path / "nats.conf").write_text(CONFIG.format(port=port, folder=tmp_path) + users + "\n" + mapping[0] + "\n")
    with (tmp_path / "nats.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(find_server()), "-c", str(tmp_path / "nats.conf"), stdout=log, stderr=log
        )
    try:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        client = await nats.connect(
            f"tls://webhookd:FIRST@localhost:{port}", tls=trusted, allow_reconnect=True, max_reconnect_attempts=50,
            reconnect_time_wait=0.1,
        )  # fmt: skip
        subject = event_subject("acme", PARTITIONS)
        partition = int(subject.split(".")[2])
        await client.jetstream().add_stream(name=stream_name(partition), subjects=[stream_subjects(partition)])
        try:
            yield Nats(port, tmp_path, client)
        finally:
            await client.close()
    finally:
        process.kill()
        await process.wait()


async def came_once(server: Nats, program: Program, *words: str) -> None:
    """The program runs twice, and its event is in the partition's stream, once."""
    for _ in range(2):
        ran = await program.run(*words)
        assert 0 == ran.code, ran.out + ran.err
    partition = int(event_subject("acme", PARTITIONS).split(".")[2])
    stream = server.client.jetstream()
    info = await stream.stream_info(stream_name(partition))
    assert 1 == info.state.messages
    found = await stream.get_last_msg(stream_name(partition), event_subject("acme", PARTITIONS))
    assert {"event_type": "message.received", "event_id": "m-1", "text": "hello"} == json.loads(found.data or b"")
    assert found.headers is not None and "acme.m-1" == found.headers["Nats-Msg-Id"]


async def test_python(server: Nats, tmp_path: Path) -> None:
    """With nats-py."""
    text = "".join(f"    {line}\n" for line in server.recipe("Python").splitlines())
    (tmp_path / "send.py").write_text(PYTHON.format(text))
    await came_once(server, Program("send.py", tmp_path), needs("python3"), "send.py")


async def test_node(server: Nats, tmp_path: Path) -> None:
    """With the packages of NATS' own, which are fetched."""
    needs("node")
    program = Program("send.mjs", tmp_path)
    words = ("install", "--silent", "--no-audit", "--no-fund", "@nats-io/transport-node", "@nats-io/jetstream")
    await fetch(program, needs("npm"), *words)
    (tmp_path / "send.mjs").write_text(NODE % server.recipe("Node"))
    await came_once(server, program, "node", "send.mjs")


async def test_go(server: Nats, tmp_path: Path) -> None:
    """With nats.go, which is fetched and built."""
    go = needs("go")
    if not os.environ.get(EVERYTHING):
        pytest.skip("nothing was checked, as a build takes a minute: python -m tests.recipes runs it")
    program = Program("send.go", tmp_path)
    (tmp_path / "send.go").write_text(GO % server.recipe("Go").replace("\n", "\n\t"))
    await fetch(program, go, "mod", "init", "sender")
    await fetch(program, go, "get", "github.com/nats-io/nats.go")
    built = await program.run(go, "build", "-o", "sender", "send.go", timeout_seconds=600)
    assert 0 == built.code, built.err
    await came_once(server, program, str(tmp_path / "sender"))


async def test_the_nats_command(server: Nats, tmp_path: Path) -> None:
    """As it is typed."""
    needs("nats")
    (tmp_path / "send.sh").write_text(server.recipe("The `nats` command"))
    await came_once(server, Program("send.sh", tmp_path), "sh", "send.sh")
