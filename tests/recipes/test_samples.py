"""The samples of the page that verify a request with a library: each tells true from false, with the real library."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.recipes.languages import EVERYTHING, PHP_STAND_IN, Ended, Program, fetch, needs
from webhookd.rules.signing import Signer, new_key
from webhookd.web.ui.webhooks import verify_samples

KEY = new_key(bytes(range(32)))
BODY = '{"event_type":"message.received","text":"Xin chào 📦"}'


def cases() -> list[tuple[dict[str, str], str, bool]]:
    """A good request; then a changed body, an old one, another's key, no headers at all."""
    now, body = int(time.time()), BODY.encode()

    def signed(key: str, at: int) -> dict[str, str]:
        return {name.lower(): value for name, value in Signer(key).headers("evt_1", at, body)}

    good = signed(KEY, now)
    return [
        (good, BODY, True),
        (good, BODY + " ", False),
        (signed(KEY, now - 400), BODY, False),
        (signed(new_key(b"x" * 32), now), BODY, False),
    ]


def expected() -> str:
    return "".join(f"{str(right).lower()}\n" for *_, right in cases())


def program(tmp_path: Path) -> Program:
    told = [{"headers": headers, "body": body} for headers, body, _ in cases()]
    (tmp_path / "cases.json").write_text(json.dumps(told), "utf-8")
    return Program("sample", tmp_path, {"WEBHOOK_KEY": KEY})


async def test_the_node_sample(tmp_path: Path) -> None:
    """With `standardwebhooks` of npm."""
    needs("node")
    sample = program(tmp_path)
    await fetch(sample, needs("npm"), "install", "--silent", "--no-audit", "--no-fund", "standardwebhooks")
    (tmp_path / "sample.js").write_text(verify_samples()["node"], "utf-8")
    script = (
        'const { verify } = require("./sample.js");'
        'for (const { headers, body } of require("./cases.json"))'
        " console.log(verify(headers, Buffer.from(body)) !== null);"
    )
    assert Ended(0, expected(), "") == await sample.run("node", "-e", script)


async def test_the_php_sample(tmp_path: Path) -> None:
    """With the library of Composer, where it is asked for and there; else by the text of the standard."""
    needs("php")
    sample = program(tmp_path)
    if os.environ.get(EVERYTHING):
        await fetch(sample, needs("composer"), "require", "--quiet", "standard-webhooks/standard-webhooks")
    else:
        (tmp_path / "vendor").mkdir()
        (tmp_path / "vendor" / "autoload.php").write_text(PHP_STAND_IN, "utf-8")
    script = (
        "foreach (json_decode(file_get_contents('cases.json'), true) as $each) "
        'echo json_encode(verify($each["headers"], $each["body"]) !== null), "\\n";'
    )
    (tmp_path / "sample.php").write_text(verify_samples()["php"] + script, "utf-8")
    assert Ended(0, expected(), "") == await sample.run("php", "sample.php")


async def test_the_go_sample(tmp_path: Path) -> None:
    """Its form; with the library of its proxy where everything is asked for, as a build takes a minute."""
    go = needs("go")
    sample = program(tmp_path)
    (tmp_path / "sample.go").write_text(verify_samples()["go"], "utf-8")
    assert Ended(0, "", "") == await sample.run("gofmt", "-l", "sample.go")
    if not os.environ.get(EVERYTHING):
        pytest.skip("only its form was checked, as a build takes a minute: python -m tests.recipes runs it")
    (tmp_path / "main.go").write_text(_GO_MAIN, "utf-8")
    await fetch(sample, go, "mod", "init", "sample")
    await fetch(sample, go, "get", "github.com/standard-webhooks/standard-webhooks/libraries")
    assert Ended(0, expected(), "") == await sample.run(go, "run", ".", timeout_seconds=600)


_GO_MAIN = """package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
)

func main() {
	text, _ := os.ReadFile("cases.json")
	var cases []struct {
		Headers map[string]string
		Body    string
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		panic(err)
	}
	for _, each := range cases {
		headers := http.Header{}
		for name, value := range each.Headers {
			headers.Set(name, value)
		}
		fmt.Println(verify(headers, []byte(each.Body)) == nil)
	}
}
"""
