"""Receivers on express and pydantic, typed by generated code: every sample and variant, by a real daemon, verified."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import venv
from pathlib import Path

import orjson
import pytest

from tests.recipes.languages import Program, needs
from tests.recipes.test_receivers import running
from tests.support.listening import free_port
from tests.support.process import Daemon, daemon
from webhookd import catalogue
from webhookd.rules.event_types import BUILT_IN

TYPED = Path(__file__).parent / "typed"
MANUAL = (Path(__file__).resolve().parents[2] / "webhookd" / "manual" / "receiving.md").read_text("utf-8")
SCHEMAS = Path(catalogue.__file__).parent / "schemas"
CONFIG = '[egress]\nallow = ["127.0.0.0/8"]\n[delivery]\nretry_seconds = []\n[events]\nvalidate = "refuse"\n'
SAMPLES = [sample for kind in BUILT_IN for _, sample in kind.samples()]
OF_AIKIT = ["message.received", "message.sent", "contact.assignee.updated", "conversation.closed"]
FETCH_SECONDS = 400.0
# Keys that receivers have from elsewhere; the last one is not ASCII.
KEYS = {"messages": "rio-secret-of-messages", "all": "p@ss w0rd ~ 42", "vi": "khóa của tôi 🔑"}
PACKAGES = ["openapi-typescript@7", "typescript@5", "express@5", "@types/express@5", "@types/node@20"]
TSCONFIG = {
    "compilerOptions": {
        "strict": True,
        "target": "es2022",
        "module": "nodenext",
        "moduleResolution": "nodenext",
        "skipLibCheck": True,
    },
    "include": ["*.ts"],
}


def program(tmp_path: Path, name: str, **environ: str) -> Program:
    folder = tmp_path / "receiver"
    folder.mkdir()
    for file in TYPED.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return Program(name, folder, {"PORT": str(free_port()), **environ})


async def fetch(of: Program, *words: str) -> None:
    """Run a package manager; skips the test where it reaches nothing."""
    try:
        ran = await of.run(*words, timeout_seconds=FETCH_SECONDS)
    except TimeoutError:
        pytest.skip(f"{words[0]} reached nothing in {FETCH_SECONDS:g} s: typed receivers were not tried")
    if ran.code:
        pytest.skip(f"{' '.join(words)} failed, so typed receivers were not tried: {ran.err[-200:]}")


async def done(of: Program, *words: str, timeout_seconds: float = 300.0) -> str:
    ran = await of.run(*words, timeout_seconds=timeout_seconds)
    assert 0 == ran.code, ran.out + ran.err
    return ran.out


def from_the_manual(command: str) -> list[str]:
    """The words of a command as the manual's section on types has it."""
    section = MANUAL.split("\n## Types for a receiver\n")[1].split("\n## ")[0].replace("\\\n", " ")
    found = re.search(rf"(?m)^ +(?:npx )?{command} (.*)$", section)
    assert found is not None
    return found[1].split()


async def save_document(d: Daemon, of: Program) -> None:
    """What `webhookd types --openapi > webhookd.json` writes."""
    command = [sys.executable, "-m", "webhookd", "types", "--openapi", "--state-dir", str(d.state_dir)]
    caller = Program("webhookd", Path(__file__).resolve().parents[2], {"WEBHOOKD_URL": d.url})
    (of.folder / "webhookd.json").write_text(await done(caller, *command), "utf-8")


async def add(d: Daemon, url: str, key: str, types: list[str]) -> None:
    fields = {"url": url, "event_types": types, "x_webhook_signature_key": key}
    await d.call("POST", "/v1/endpoints", fields, expect=201)


async def send_samples(d: Daemon, deliveries: int) -> None:
    """All of them as `JSON.stringify` writes them, each accepted by the schemas; every endpoint has to take each."""
    headers = {**d.admin(), "Content-Type": "application/json"}
    for sample in SAMPLES:
        async with d.session.post(f"{d.url}/v1/events", data=orjson.dumps(sample), headers=headers) as answer:
            assert 202 == answer.status, await answer.text()
    async with asyncio.timeout(120):
        found: list[str] = []
        while len(found) < deliveries:
            dropped = (await d.call("GET", "/v1/deliveries?state=dropped"))["data"]
            assert [] == [(each["event_id"], each["last_attempt"]["status"]) for each in dropped]
            found = [each["id"] for each in (await d.call("GET", "/v1/deliveries?state=delivered&limit=500"))["data"]]
            await asyncio.sleep(0.1)


async def test_typescript_on_express(tmp_path: Path) -> None:
    """openapi-typescript's types fit every sample; raw and re-serialised bodies verify; a query names a key."""
    node, npm = needs("node"), needs("npm")
    receiver = program(tmp_path, "receiver.js", WEBHOOK_KEYS=json.dumps(KEYS))
    (receiver.folder / "package.json").write_text('{"type": "module", "private": true}', "utf-8")
    (receiver.folder / "tsconfig.json").write_text(json.dumps(TSCONFIG), "utf-8")
    await fetch(receiver, npm, "install", "--silent", "--no-audit", "--no-fund", *PACKAGES)
    async with daemon(tmp_path / "state", CONFIG) as d:
        await save_document(d, receiver)
        await done(receiver, "npx", "openapi-typescript", *from_the_manual("openapi-typescript"))
        typed = 'import type { components } from "./webhookd.js";\nexport const samples: components["schemas"]'
        samples = json.dumps(SAMPLES, ensure_ascii=False)
        (receiver.folder / "samples.ts").write_text(f'{typed}["WebhookEvent"][] = {samples};\n', "utf-8")
        await done(receiver, "npx", "tsc", "-p", ".")
        (receiver.folder / "samples.ts").write_text(
            f'{typed}["WebhookEvent"][] = {samples.replace(chr(34) + "firstName", chr(34) + "firstname", 1)};\n',
            "utf-8",
        )
        assert 0 != (await receiver.run("npx", "tsc", "-p", ".", "--noEmit", timeout_seconds=300)).code
        async with running(receiver, [node, "receiver.js"]) as url:
            messages = ["message.received", "message.sent"]
            for path in ("raw", "parsed"):
                await add(d, f"{url}/{path}?key=messages", KEYS["messages"], messages)
                await add(d, f"{url}/{path}?key=all", KEYS["all"], ["*"])
                await add(d, f"{url}/{path}?key=vi", KEYS["vi"], ["*"])
            ids = [sample["event_id"] for sample in SAMPLES]
            of_messages = [sample["event_id"] for sample in SAMPLES if sample["event_type"] in messages]
            await send_samples(d, 4 * len(ids) + 2 * len(of_messages))
            async with d.session.get(f"{url}/taken") as answer:
                taken = await answer.json()
            assert {f"/{path}?{key}" for path in ("raw", "parsed") for key in KEYS} == taken.keys()
            assert all(found == (of_messages if key.endswith("messages") else ids) for key, found in taken.items())
            async with d.session.post(f"{url}/raw?key=all", json=SAMPLES[0]) as answer:
                assert 401 == answer.status
    assert "Lan: image parcel.jpg" in receiver.out and "closed by auto_close, 600 s" in receiver.out


async def test_pydantic(tmp_path: Path) -> None:
    """datamodel-code-generator's types take every sample and mypy knows them; so do an SDK's shapes."""
    receiver = program(tmp_path, "receiver.py", WEBHOOK_KEY=KEYS["vi"])
    venv.create(receiver.folder / "venv", with_pip=True)
    python = str(receiver.folder / "venv" / "bin" / "python")
    await fetch(receiver, python, "-m", "pip", "install", "-q", "datamodel-code-generator", "pydantic>=2")
    generate = [python, "-W", "ignore", "-m", "datamodel_code_generator"]
    async with daemon(tmp_path / "state", CONFIG) as d:
        await save_document(d, receiver)
        await done(receiver, *generate, *from_the_manual("datamodel-codegen"))
        words = from_the_manual("datamodel-codegen")
        words = [*words[words.index("--output-model-type") :], "--input-file-type", "jsonschema", "--output", "one.py"]
        for name in ("message.sent", "contact.created"):  # the files of the package, each by itself
            await done(receiver, *generate, "--input", str(SCHEMAS / f"{name}.json"), *words)
            await done(receiver, python, "-c", "import one")
        mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--python-executable", python]
        await done(receiver, *mypy, "receiver.py", "aikit.py")
        async with running(receiver, [python, "receiver.py"]) as url:
            await add(d, f"{url}/generated", KEYS["vi"], ["*"])
            await add(d, f"{url}/aikit", KEYS["vi"], OF_AIKIT)
            of_aikit = [sample["event_id"] for sample in SAMPLES if sample["event_type"] in OF_AIKIT]
            await send_samples(d, len(SAMPLES) + len(of_aikit))
            refused = {**SAMPLES[0], "event_id": "bad"}
            del refused["contact"]
            answer = await d.call("POST", "/v1/events", refused, expect=422)
            assert "contact is missing" in answer["error"]["message"]
    taken = [line.split() for line in (receiver.folder / "taken").read_text("utf-8").splitlines()]
    assert [sample["event_id"] for sample in SAMPLES] == [event for path, event in taken if path == "/generated"]
    assert of_aikit == [event for path, event in taken if path == "/aikit"]
    assert "Xin chào!" in receiver.out and "closed by workflow" in receiver.out


async def test_the_asyncapi_document_is_valid(tmp_path: Path) -> None:
    """By AsyncAPI's own parser."""
    node, npm = needs("node"), needs("npm")
    parser = program(tmp_path, "parse.cjs")
    await fetch(parser, npm, "install", "--silent", "--no-audit", "--no-fund", "@asyncapi/parser@3")
    (parser.folder / "parse.cjs").write_text(
        'const { Parser } = require("@asyncapi/parser");\n'
        'const text = require("fs").readFileSync("asyncapi.json", "utf8");\n'
        "new Parser().parse(text).then(({ document, diagnostics }) => {\n"
        "  const errors = diagnostics.filter((each) => each.severity === 0);\n"
        "  console.log(JSON.stringify(errors.map((each) => [each.message, each.path]).slice(0, 5)));\n"
        "  console.log(document ? document.allMessages().all().length : 0);\n"
        "});\n",
        "utf-8",
    )
    async with daemon(tmp_path / "state", CONFIG) as d:
        document = await d.call("GET", "/asyncapi.json")
    (parser.folder / "asyncapi.json").write_text(json.dumps(document), "utf-8")
    assert f"[]\n{len(BUILT_IN)}\n" == await done(parser, node, "parse.cjs")
