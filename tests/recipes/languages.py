"""The recipes of `etc/recipes` as programs to run, and what of their languages is on this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "etc" / "recipes"
# Set by `python -m tests.recipes`: also what takes minutes.
EVERYTHING = "WEBHOOKD_RECIPES_EVERYTHING"
INSTALL_SECONDS = 60.0

# What `receive.php` asks for, where its library can't be fetched (Packagist needs Composer): the same by the text of
# Standard Webhooks 1.0.0, "Verifying signatures".
PHP_STAND_IN = r"""<?php
namespace StandardWebhooks\Exception { class WebhookVerificationException extends \Exception {} }
namespace StandardWebhooks {
    class Webhook {
        public function __construct(private string $key) {}
        public function verify(string $body, array $headers) {
            [$id, $at] = [$headers['webhook-id'] ?? '', $headers['webhook-timestamp'] ?? '0'];
            $key = base64_decode(substr($this->key, strlen('whsec_')));
            $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$at.$body", $key, true));
            $right = array_filter(explode(' ', $headers['webhook-signature'] ?? ''),
                fn ($given) => hash_equals($expected, $given));
            if (!$right || abs(time() - (int) $at) > 300) {
                throw new Exception\WebhookVerificationException('no');
            }
            return json_decode($body, true);
        }
    }
}
"""


@dataclass(slots=True)
class Ended:
    code: int
    out: str
    err: str


@dataclass(slots=True)
class Program:
    name: str
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    out: str = ""

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        # With the machine's authorities, which the tests leave out (`tests/conftest.py`): Go fetches by them.
        inherited = {name: value for name, value in os.environ.items() if name not in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        return await asyncio.create_subprocess_exec(
            *words,
            cwd=self.folder,
            env={**inherited, **self.environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *words: str, timeout_seconds: float = 60.0) -> Ended:
        process = await self.start(*words)
        try:
            async with asyncio.timeout(timeout_seconds):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())


def needs(command: str) -> str:
    """The command's path; skips the test, with the reason, where the machine hasn't got it."""
    found = sys.executable if command == "python3" else shutil.which(command)
    if found is None:
        pytest.skip(f"no {command} on this machine: the recipe was not tried")
    return found


async def prepare(program: Program) -> list[str]:
    """Fetch what a receiver's library is, and build it; returns the words that start it."""
    made = {"py": _python, "mjs": _node, "php": _php, "go": _go}
    shutil.copy(RECIPES / program.name, program.folder)
    return await made[program.name.rpartition(".")[2]](program)


async def _python(program: Program) -> list[str]:
    if importlib.util.find_spec("standardwebhooks") is None:
        pytest.skip("no standardwebhooks in this environment (pip install -e '.[test]')")
    return [needs("python3"), program.name]


async def _node(program: Program) -> list[str]:
    needs("node")
    await fetch(program, needs("npm"), "install", "--silent", "--no-audit", "--no-fund", "standardwebhooks")
    return ["node", program.name]


async def _php(program: Program) -> list[str]:
    needs("php")
    if os.environ.get(EVERYTHING) and shutil.which("composer"):
        await fetch(program, "composer", "require", "--quiet", "standard-webhooks/standard-webhooks")
    else:
        (program.folder / "vendor").mkdir()
        (program.folder / "vendor" / "autoload.php").write_text(PHP_STAND_IN, "utf-8")
    return ["php", "-S", f"127.0.0.1:{program.environ['PORT']}", program.name]


async def _go(program: Program) -> list[str]:
    go = needs("go")
    ran = await program.run("gofmt", "-l", program.name)
    assert Ended(0, "", "") == ran
    if not os.environ.get(EVERYTHING):
        pytest.skip("only its form was checked, as a build takes a minute: python -m tests.recipes runs it")
    await fetch(program, go, "mod", "init", "receiver")
    await fetch(program, go, "get", "github.com/standard-webhooks/standard-webhooks/libraries")
    ran = await program.run(go, "build", "-o", "receiver", program.name, timeout_seconds=600)
    assert 0 == ran.code, ran.err
    return [str(program.folder / "receiver")]


async def fetch(program: Program, *words: str) -> None:
    """Run a package manager; skips the test where it reaches nothing."""
    try:
        ran = await program.run(*words, timeout_seconds=INSTALL_SECONDS)
    except TimeoutError:
        pytest.skip(f"{words[0]} reached nothing in {INSTALL_SECONDS:g} s: the recipe was not tried")
    if ran.code:
        pytest.skip(f"{' '.join(words)} failed, so the recipe was not tried: {ran.err[-200:]}")
