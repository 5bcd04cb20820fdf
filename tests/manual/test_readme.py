"""The README says what the code does: errors, log events, dependencies, commands, settings."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from tests.manual.event_types import document
from webhookd.cli import cli
from webhookd.errors import ERRORS
from webhookd.log import LOG_EVENTS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m tests"


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells[1:] if not set(row[0]) <= set("- ")]


def test_the_table_of_errors_is_the_codes() -> None:
    """Every code with its status and its meaning, and no other."""
    expected = [[f"`{code}`", str(kind.status), kind.meaning] for code, kind in ERRORS.items()]
    assert expected == rows_of("The API")


def test_the_table_of_log_events_is_the_logs() -> None:
    """Every log event with its level, its meaning and its fields, and no other."""
    expected = [
        [f"`{name}`", event.level, event.meaning, ", ".join(f"`{each}`" for each in event.fields)]
        for name, event in LOG_EVENTS.items()
    ]
    assert expected == rows_of("The log")


def test_every_log_event_is_used() -> None:
    """A row that nothing logs is a promise that nothing keeps."""
    code = "".join(path.read_text("utf-8") for path in (ROOT / "webhookd").rglob("*.py") if path.parent.name != "log")
    code += (ROOT / "webhookd" / "log" / "logger.py").read_text("utf-8")
    unused = [name for name in LOG_EVENTS if f'"{name}"' not in code]
    assert [] == unused


def test_the_reference_of_the_event_types_is_the_catalogues() -> None:
    """`etc/event-types.md` is what the catalogue says, word for word."""
    assert document() == (ROOT / "etc" / "event-types.md").read_text("utf-8")


def test_every_dependency_has_its_reason() -> None:
    """One row per runtime dependency."""
    project = PROJECT["project"]
    named = [re.split(r"[<>=~]", each)[0] for each in project["dependencies"]]
    reasons = [row[0].split(" ")[0] for row in rows_of("How it is built")]
    assert [*named, "uvloop"] == reasons
    assert ["uvloop>=0.21"] == project["optional-dependencies"]["fast"]


def test_ci_runs_the_readme_s_test_command() -> None:
    """`.ci/run` is that command and nothing else."""
    assert f"    {TEST_COMMAND}\n" in README
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line and not line.startswith(("#", "set", "cd"))
    ]
    assert [TEST_COMMAND] == commands


def commands_of(group: click.Group, prefix: str = "webhookd") -> list[tuple[str, click.Command]]:
    """All commands below a group, with their full names."""
    found = []
    for name, command in group.commands.items():
        found.append((f"{prefix} {name}", command))
        if isinstance(command, click.Group):
            found += commands_of(command, f"{prefix} {name}")
    return found


@pytest.mark.parametrize(
    ("name", "command"), commands_of(cli), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_explains_itself(name: str, command: click.Command) -> None:
    """A help text and an example for each; the README names those a person begins with."""
    assert command.help
    assert command.epilog or isinstance(command, click.Group)


@pytest.mark.parametrize("command", re.findall(r"^    webhookd ([a-z-]+(?: [a-z-]+)?)", README, re.MULTILINE))
def test_the_readme_s_commands_exist(command: str) -> None:
    """Nothing is shown that can't be typed."""
    names = {name.removeprefix("webhookd ") for name, _ in commands_of(cli)}
    assert command in names or command.split(" ")[0] in names
