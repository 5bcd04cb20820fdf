"""`webhookd help`: the topics, and each page plain on a pipe."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from webhookd import manual
from webhookd.cli import cli
from webhookd.cli.help import laid_out


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["help", *words])
    return result.exit_code, result.output


def test_the_topics_are_listed_in_sections() -> None:
    """Each with its title."""
    code, shown = run()
    assert code == 0
    assert [*manual.SECTIONS] == [line for line in shown.splitlines() if line in manual.SECTIONS]
    assert all(f"  {topic:<22}" in shown for topic in manual.TOPICS)


@pytest.mark.parametrize("topic", manual.TOPICS)
def test_a_piped_page_is_plain_text(topic: str) -> None:
    """No escape codes, no marks of Markdown, no line of prose wider than 100."""
    code, shown = run(topic)
    assert code == 0 and shown.startswith(manual.title(topic))
    prose = [line for line in shown.splitlines() if not line.startswith("    ")]
    assert "\x1b" not in shown and not [line for line in prose if "](" in line or line.startswith(("#", "| "))]
    assert max(len(line) for line in prose if " " in line.strip()) <= 100


def test_an_unknown_topic_is_wrong_usage() -> None:
    """With the nearest one."""
    code, shown = run("sendin")
    assert code == 2 and "Did you mean sending?" in shown


def test_lists_paragraphs_and_tables_are_laid_out() -> None:
    """Filled to the width; a table that doesn't fit becomes a list."""
    text = (
        "# A\n\nOne `two`\n**three**.\n\n- a *b*\n  [c](https://d)\n- e\n\n    code  kept\n\n"
        "| x | y |\n| --- | --- |\n| `1` | 2 \\| 3 |\n"
    )
    assert (
        "\x1b[1m\x1b[4mA\x1b[0m,,One two three.,,- a b c,- e,,    code  kept,,\x1b[1mx  y\x1b[0m,1  2 | 3,"
        == ",".join(laid_out(text, 60))
    )
    assert ["\x1b[1m1\x1b[0m", "  y: 2", ""] == list(laid_out("| x | y |\n| --- | --- |\n| 1 | 2 |", 30))
