"""The manual is fresh and whole: what the code knows is in it, and whatever a page names is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from tests.manual.__main__ import MANUAL, ROOT, commands_of, filled
from webhookd import manual
from webhookd.cli import cli
from webhookd.config.loader import KEYS
from webhookd.errors import ERRORS
from webhookd.log import LOG_EVENTS
from webhookd.metrics import METRICS
from webhookd.web.api.openapi import paths_of
from webhookd.web.router import ROUTES
from webhookd.web.ui.help import render, slug

README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path.name: path.read_text("utf-8") for path in sorted(MANUAL.glob("*.md"))}
DOCUMENTS = {
    path.relative_to(ROOT): path.read_text("utf-8")
    for path in (ROOT / "README.md", *MANUAL.glob("*.md"), *ROOT.glob("tests/*/RESULTS.md"))
}
# A path of the repository in backticks; one with a wildcard or a placeholder names no single file.
NAMED = re.compile(r"`((?:webhookd|tests|etc|systemd|\.ci)/[\w./-]*|[A-Z]+\.md|pyproject\.toml)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_parts_are_fresh(name: str) -> None:
    """Stale?  Run `python -m tests.manual`."""
    assert filled(PAGES[name]) == PAGES[name]


def test_every_page_is_a_topic() -> None:
    """Each file is in the contents once, with a heading of its own."""
    assert sorted(PAGES) == sorted(f"{topic}.md" for topic in manual.TOPICS)
    assert len(PAGES) == len({manual.title(topic) for topic in manual.TOPICS})


def test_what_the_code_knows_is_in_the_manual() -> None:
    """Every setting, log event, error, metric, command and path."""
    known = {
        "configuration": [key for _, key in KEYS],
        "operating": [*LOG_EVENTS, *METRICS],
        "cli": [f"webhookd {name}" for name, _ in commands_of(cli)],
        "api": [*ERRORS, *(paths_of(route)[0] for route in ROUTES)],
    }
    assert [] == [name for topic, names in known.items() for name in names if name not in PAGES[f"{topic}.md"]]


def anchors(text: str) -> set[str]:
    return {slug(re.sub(r"[`*]", "", heading)) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_every_link_and_every_named_file_is_there(path: Path) -> None:
    """Files and anchors, from the place of the document as a code host shows it."""
    folder, missing = (ROOT / path).parent, []
    for link in LINK.findall(DOCUMENTS[path]):
        target, _, anchor = link.partition("#")
        file = folder / target if target else ROOT / path
        if link.startswith("https:"):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            missing.append(link)
    missing += [name for name in NAMED.findall(DOCUMENTS[path]) if not (ROOT / name).exists()]
    assert [] == missing


def test_readme_is_short_and_says_the_same() -> None:
    """At most 150 lines; its installation and its test command are those of the manual and of `.ci/run`."""
    lines = README.splitlines()
    assert len(lines) <= 150
    install = README.split("\n## Install as a service\n")[1].split("\n\n")[1]
    assert install.startswith("    apt-get") and install in PAGES["installing.md"]
    (command,) = (line.strip() for line in lines if line.endswith("tests --install"))
    assert command == (ROOT / ".ci" / "run").read_text("utf-8").splitlines()[-1]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("installing.md", ("SSL_CERT_FILE", "/etc/ssl/certs", "`ProtectHome`")),
        ("receiving.md", ("## Restart a receiver", "Reload it gracefully", "35 endpoints")),
        ("decisions.md", ("| Standard Webhooks recommends | webhookd | because |",)),
    ],
)
def test_what_receivers_ran_into_is_answered(page: str, words: tuple[str, ...]) -> None:
    """Private authorities, restarts of receivers, and where webhookd differs from Standard Webhooks' advice."""
    assert [] == [word for word in words if word not in PAGES[page]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_command_shown_can_be_typed(document: Path) -> None:
    """Each line of a document that begins with `webhookd` names a command of the command line."""
    names = {name for name, _ in commands_of(cli)}
    shown = re.findall(r"^ {4,6}webhookd ([a-z-]+)(?: ([a-z-]+))?", DOCUMENTS[document], re.MULTILINE)
    assert [] == [words for words in shown if words[0] not in names]


def test_every_command_has_help_and_an_example() -> None:
    """A group's commands have the examples."""
    bare = [name for name, command in commands_of(cli) if not command.help]
    bare += [name for name, each in commands_of(cli) if not each.epilog and not isinstance(each, click.Group)]
    assert [] == bare


def test_every_dependency_has_its_reason() -> None:
    """One row for each runtime dependency, required or optional."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = [each for name in ("cluster", "fast", "validate") for each in extras[name]]
    named = [re.split(r"[<>=~]", each)[0] for each in (*project["dependencies"], *optional)]
    section = PAGES["decisions.md"].split("\n## Dependencies\n")[1].split("\n## ")[0]
    assert named == re.findall(r"^\| ([a-z0-9-]+) \| [A-Z]", section, re.MULTILINE)


def test_every_log_event_is_used() -> None:
    """A row that nothing logs is a promise that nothing keeps."""
    code = "".join(path.read_text("utf-8") for path in (ROOT / "webhookd").rglob("*.py") if path.parent.name != "log")
    inside = "".join(path.read_text("utf-8") for path in (ROOT / "webhookd" / "log").glob("*.py"))
    assert [] == [name for name in LOG_EVENTS if f'"{name}"' not in code and inside.count(f'"{name}"') < 2]


def test_every_stop_of_the_architecture_is_there() -> None:
    """At most 12 stops in, at most 12 out; each function is defined in its file."""
    page = PAGES["architecture.md"]
    for way in ("## An event's way in", "## A delivery's way out"):
        section = page.split(f"\n{way}\n")[1].split("\n## ")[0]
        stops = re.findall(r"^\| \d+ \| `([^`]+)` \| `(?:\w+\.)?(\w+)` \|", section, re.MULTILINE)
        assert 0 < len(stops) <= 12
        for file, name in stops:
            source = (ROOT / file).read_text("utf-8")
            assert re.search(rf"(?:def |class |^){name}\b", source, re.MULTILINE), (file, name)


@pytest.mark.parametrize("topic", manual.TOPICS)
def test_a_rendered_page_needs_no_style_and_no_outside(topic: str) -> None:
    """The page's policy allows no inline style; links stay in the manual or go to the web by https."""
    html = render(topic)
    assert "style=" not in html and "<!--" not in html and "&lt;!--" not in html
    for href in re.findall(r' (?:href|src)="([^"]*)"', html):
        target, _, anchor = href.partition("#")
        if target.startswith("/help/images/"):
            assert manual.image(target.rpartition("/")[2])
        elif not href.startswith("https:"):
            shown = render(target.removeprefix("/help/")) if target else html
            assert not anchor or f'id="{anchor}"' in shown, href


def test_comments_and_docstrings_cite_only_files_that_are_there() -> None:
    """A Markdown file named in the code is one of the repository (`manual/api.md`), not another's by its URL."""
    known = {f"manual/{name}" for name in PAGES} | {"README.md", "RESULTS.md"}
    cited = {
        (path.relative_to(ROOT), name)
        for folder in ("webhookd", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(
            r"""https?://\S+\.md\b|(?<!["'\w/.-])(?:[\w.-]+/)*[\w-]+\.md\b""", path.read_text("utf-8")
        )
    }
    assert [] == sorted(
        (str(path), name)
        for path, name in cited
        if name.removeprefix("webhookd/") not in known and not (ROOT / name).exists()
    )
