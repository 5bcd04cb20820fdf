"""The top of the command line: help, version, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from webhookd import __version__
from webhookd.cli import cli
from webhookd.config.loader import OTHER_VARIABLES, VARIABLES


def every_command(command: click.Command = cli, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [words]
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            found += every_command(child, (*words, name))
    return found


def command_at(words: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


async def test_no_words(run: Any) -> None:
    """`webhookd` alone prints what it can do, and that is no error."""
    ran = await run()
    assert (0, "") == (ran.code, ran.err)
    for name in cli.commands:
        assert f"\n  {name} " in ran.out
    assert "_WEBHOOKD_COMPLETE" in ran.out


def test_every_command_of_the_contract() -> None:
    """Every command of manual/cli.md."""
    expected = """serve demo send listen endpoint endpoint-add endpoint-backfill endpoint-list endpoint-show
    endpoint-edit endpoint-enable endpoint-disable endpoint-delete endpoint-test endpoint-rotate-key endpoint-explain
    workspace workspace-add workspace-list workspace-edit workspace-delete workspace-portal-link types log
    log-show replay status budget open mail mail-test token token-add token-list token-revoke session
    session-list session-end check-config audit backup cluster cluster-status cluster-drain
    cluster-import cluster-export help"""
    assert sorted(expected.split()) == sorted("-".join(words) for words in every_command() if words)


def test_every_command_is_in_a_section() -> None:
    """The help of the top shows each command exactly once."""
    shown = cli.get_help(click.Context(cli, info_name="webhookd")).splitlines()
    for name in cli.commands:
        assert 1 == sum(line.startswith(f"  {name} ") for line in shown)


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_help_is_a_page_of_a_manual(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does, in sentences; options; examples; exit codes; all of it on 80 columns, no sentence cut."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    command = command_at(words)
    help_text = command.get_help(
        click.Context(command, info_name=" ".join(("webhookd", *words)), **cli.context_settings)
    )
    assert [] == [line for line in help_text.splitlines()[1:] if len(line) > 80 or line.endswith("...")]
    parts = ["Usage: ", "Options:", "Examples:\n    ", "Exit codes: 0 "]
    assert parts == sorted((each for each in parts if each in help_text), key=help_text.index)
    assert command.help and command.help.rstrip().endswith(".")


async def test_the_top_of_the_help_names_variables_and_files(run: Any) -> None:
    """Those that other pages mean, and no variable that nothing reads."""
    ran = await run("--help", env={"COLUMNS": "80"})
    variables, files = ran.out.split("\nVariables:\n")[1].split("\n\n  Examples")[0].split("\n\nFiles:\n")
    named = set(re.findall(r"\bWEBHOOKD_\w+", variables)) - {"WEBHOOKD_"}
    assert OTHER_VARIABLES <= named and named - OTHER_VARIABLES <= VARIABLES.keys()
    assert all(name in files for name in ("webhookd.toml", "webhookd.db", "admin-token", "ingest-token"))


async def test_version(run: Any) -> None:
    """`--version` prints name and version."""
    ran = await run("--version")
    assert (0, f"webhookd {__version__}\n") == (ran.code, ran.out)


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",), ("endpoint",), ("endpoint", "add"), ("endpoint", "add", "https://example.com/"),
        ("endpoint", "add", "https://example.com/", "-e", "message.sent", "-H", "no header"),
        ("endpoint", "edit", "ep_1"), ("endpoint", "edit", "ep_1", "--no-headers", "-H", "X-A: 1"),
        ("workspace", "edit", "acme"), ("token", "add", "--scope", "root"), ("log", "--since", "yesterday"),
        ("log", "--state", "lost"), ("replay",), ("replay", "dlv_1", "--since", "2h"), ("send", "/nonexistent/file"),
        ("listen", "--port", "70000"), ("listen", "--key", "whsec_short"), ("listen", "--fail", "often"),
        ("status", "--no-such-option"),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_wrong_usage(run: Any, words: tuple[str, ...]) -> None:
    """Wrong words are exit code 2, said on stderr, without a traceback and without asking a daemon."""
    ran = await run(*words, env={"WEBHOOKD_URL": "http://127.0.0.1:1"})
    assert (2, "") == (ran.code, ran.out)
    assert "Usage:" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("before", [True, False])
async def test_options_before_and_after(api: Any, ask: Any, before: bool) -> None:
    """`--json` and `--workspace` may stand before the command's name or after it."""
    view = {
        "limit": 30,
        "window_seconds": 1800,
        "failures": 0,
        "by_endpoint": {},
        "oldest_expires_at": None,
        "spent_until": None,
    }
    api.answers("GET", "/v1/workspaces/acme/budget", view)
    options = ("--json", "--workspace", "acme")
    ran = await (ask(*options, "budget") if before else ask("budget", *options))
    assert (0, view) == (ran.code, ran.json())


async def test_a_workspace_shows_who_has_yet_to_confirm(api: Any, ask: Any) -> None:
    """In the list and after a change, apart from those who get the notices."""
    pending = [{"address": "new@acme.example", "expires_at": "2026-01-03T00:00:00.000Z"}]
    one = {"id": "acme", "name": "Acme", "plan": "advanced", "notify": ["a@acme.example"], "pending_notify": pending}
    api.answers("GET", "/v1/workspaces", {"data": [one], "next": None})
    api.answers("PATCH", "/v1/workspaces/acme", one)
    assert "a@acme.example, new@acme.example (to be confirmed)" in (await ask("workspace", "list", "--wide")).out
    shown = (await ask("workspace", "edit", "acme", "--notify", "new@acme.example")).out
    assert re.search(r"notices to +a@acme\.example\n *to be confirmed +new@acme\.example \(until 2026-01-0", shown)


async def test_a_link_into_the_portal(api: Any, ask: Any) -> None:
    """The link alone, fit for a pipe; what isn't named is left to the daemon."""
    made = {"url": "https://hooks.example.com/portal#abc", "expires_at": "2026-01-01T00:10:00.000Z"}
    api.answers("POST", "/v1/workspaces/acme/portal-links", made)
    assert made["url"] == (await ask("workspace", "portal-link", "acme")).out.strip()
    assert {"read_only": False} == json.loads(api.asked[-1].body)
    options = ("--expires-in", "60", "--return-url", "https://a.example/", "--language", "vi", "--read-only")
    assert made == (await ask("workspace", "portal-link", "acme", *options, "--json")).json()
    assert {
        "expires_in_seconds": 60,
        "return_url": "https://a.example/",
        "language": "vi",
        "read_only": True,
    } == json.loads(api.asked[-1].body)


async def test_output_into_a_closed_pipe(api: Any, start: Any) -> None:
    """A reader that leaves (`webhookd log | head -1`) ends the command without a traceback."""
    rows = [{"id": f"w{n}", "name": "x" * 1000, "plan": "advanced", "notify": []} for n in range(500)]
    api.answers("GET", "/v1/workspaces", {"data": rows, "next": None})
    process = await start("workspace", "list", env={"WEBHOOKD_URL": api.url, "WEBHOOKD_TOKEN": api.token})
    await process.stdout.readline()
    process.stdout._transport.close()
    err = await process.stderr.read()
    assert b"" == err
    assert 141 == await process.wait()


async def test_completion(run: Any) -> None:
    """Shell completion is click's own."""
    ran = await run(env={"_WEBHOOKD_COMPLETE": "bash_source"})
    assert 0 == ran.code
    assert "_webhookd_completion" in ran.out


def completing(line: str, cursor: int) -> dict[str, str]:
    return {"_WEBHOOKD_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(cursor)}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("webhookd endp", ["endpoint"]),
        ("webhookd endpoint show ep_", ["ep_1", "ep_2"]),
        ("webhookd -w acme endpoint show ep_", ["ep_3"]),
        ("webhookd log --endpoint ep_2", ["ep_2"]),
        ("webhookd endpoint add https://example.com/ -e order.", ["order.paid"]),
        ("webhookd status --workspace a", []),
        ("webhookd budget --workspace a", ["acme"]),
        ("webhookd log --state d", ["delivered", "dropped"]),
    ],
)
async def test_the_daemon_completes(api: Any, ask: Any, line: str, found: list[str]) -> None:
    """Endpoints of the workspace that is meant, types of the catalogue with the product's own, workspaces, states."""
    ids = [{"id": f"ep_{number}", "url": f"https://example.com/{number}"} for number in (1, 2)]
    api.answers("GET", "/v1/endpoints", {"data": ids, "next": None})
    other = {"id": "ep_3", "url": "https://example.com/3"}
    api.answers("GET", "/v1/workspaces/acme/endpoints", {"data": [other], "next": None})
    api.answers("GET", "/v1/workspaces", {"data": [{"id": "acme", "name": "ACME"}], "next": None})
    types = [{"name": "order.paid", "description": "An order was paid."}]
    api.answers("GET", "/v1/event-types", {"data": types, "next": None})
    ran = await ask(env=completing(line, len(line.split()) - 1))
    assert (0, "") == (ran.code, ran.err)
    assert found == [item.split(",")[1] for item in ran.out.split()]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
async def test_completion_cannot_steer_the_terminal(api: Any, ask: Any, shell: str) -> None:
    """These two shells print a help text beside each item, and strangers write the URLs and names."""
    steering = {"id": "ep_1\x1b[2J", "url": "https://example.com/\x1b]0;x\x07\u202e"}
    api.answers("GET", "/v1/endpoints", {"data": [steering], "next": None})
    line = "webhookd endpoint show ep_"
    env = {
        "_WEBHOOKD_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": "3" if shell == "zsh" else "ep_",
    }
    ran = await ask(env=env)
    assert (0, "") == (ran.code, ran.err)
    assert "ep_1" in ran.out and not set("\x1b\x07\u202e") & set(ran.out)


async def test_without_a_daemon_completion_is_quiet(run: Any) -> None:
    """No endpoints, the built-in types, and no complaint in the middle of a line that is being typed."""
    away = {"WEBHOOKD_URL": "http://127.0.0.1:1", "WEBHOOKD_TOKEN": "x"}
    endpoints = await run(env=away | completing("webhookd endpoint show e", 3))
    types = await run(env=away | completing("webhookd log --type message.", 3))
    assert ("\n", "", "") == (endpoints.out, endpoints.err, types.err)
    assert ["message.sent", "message.received"] == [item.split(",")[1] for item in types.out.split()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_takes_the_completion(shell: str) -> None:
    """The script that the README has evaluated is one that the shell can read."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine: its completion was not tried")
    script = subprocess.run(
        [sys.executable, "-m", "webhookd"], env=os.environ | {"_WEBHOOKD_COMPLETE": f"{shell}_source"},
        capture_output=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    checked = subprocess.run([shell, "-n"], input=script, capture_output=True, timeout=60, check=False)
    assert (0, b"") == (checked.returncode, checked.stderr)


@pytest.mark.parametrize("words", [words for words in every_command() if isinstance(command_at(words), click.Group)])
async def test_no_list_of_commands_cuts_a_sentence(words: tuple[str, ...], run: Any) -> None:
    """Each line of a list of commands ends as its sentence does."""
    ran = await run(*words, "--help")
    assert 0 == ran.code
    assert [] == [line for line in ran.out.splitlines() if line.startswith("  ") and line.endswith("...")]


async def test_a_token_without_workspace_is_good_for_every_one(run: Any) -> None:
    """It isn't one for `default`, so its help mustn't say so."""
    ran = await run("token", "add", "--help")
    assert "[else every one]" in " ".join(ran.out.split())
    assert "[else default]" not in ran.out


@pytest.mark.slow
def test_serve_on_a_terminal_prints_a_link_that_signs_in(tmp_path: Path) -> None:
    """The link is for a person at a terminal; it leads to the running page."""
    ours, theirs = pty.openpty()
    environ = {"PATH": os.environ["PATH"], "WEBHOOKD_LISTEN__PORT": "0", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "webhookd", "serve", "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environ) as process:
        shown, deadline = b"", time.monotonic() + 30
        while b"/sign-in#" not in shown and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                shown += os.read(ours, 65536)
        process.terminate()
    os.close(ours)
    os.close(theirs)
    assert 0 == process.returncode
    assert b"The page: http://127.0.0.1:" in shown
