"""`webhookd help`: the manual on a terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator

import click

from webhookd.cli.options import examples

_WIDEST = 100
_INLINE = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|`([^`]*)`|\\([\\*<|])")


@click.command(
    "help",
    epilog=examples(
        "webhookd help", "webhookd help sending", "webhookd help api | less", exits="0 done, 2 no such topic."
    ),
)
@click.argument("topic", required=False, metavar="[TOPIC]", shell_complete=lambda *given: _complete(given[2]))
def help_(topic: str | None) -> None:
    """Show a page of the manual; without TOPIC, list them."""
    from webhookd import manual
    from webhookd.errors import did_you_mean

    if topic is None:
        for section, topics in manual.SECTIONS.items():
            click.secho(section, bold=True)
            for each in topics:
                click.echo(f"  {each:<22}{plain(manual.title(each))}")
        click.echo("\nwebhookd help TOPIC shows one; webhookd COMMAND --help explains a command.")
        return
    if topic not in manual.TOPICS:
        near = did_you_mean(topic, manual.TOPICS)
        hint = f" Did you mean {near}?" if near else ""
        raise click.UsageError(f"the manual has no topic {topic!r}.{hint} `webhookd help` lists them.")
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    click.echo_via_pager("\n".join(laid_out(manual.read(topic), width)) + "\n")


def _complete(begun: str) -> list[str]:
    from webhookd import manual

    return [topic for topic in manual.TOPICS if topic.startswith(begun)]


def plain(text: str) -> str:
    """Markdown without its marks for emphasis, code and links."""

    def inside(found: re.Match[str]) -> str:
        link, bold, italic, code, escaped = found.groups()
        if code is not None or escaped is not None:
            return str(code or escaped)
        return plain(link or bold or italic)

    return _INLINE.sub(inside, text)


def laid_out(markdown: str, width: int) -> Iterator[str]:
    """The lines of a page: paragraphs and lists filled to `width`, headings styled, code and tables in place."""
    for block in re.split(r"\n{2,}", markdown.strip("\n")):
        first = block.lstrip("\n").split("\n", 1)[0]
        if first.startswith("#"):
            yield click.style(plain(first.lstrip("# ")), bold=True, underline=first.startswith("# "))
        elif first.startswith("    ") and not re.match(r" +(-|\d+\.) ", first):
            yield block
        elif first.startswith("|"):
            yield from _table(block.splitlines(), width)
        else:
            for item in re.split(r"\n(?= *(?:-|\d+\.) )", block):
                yield _filled(item, width)
        yield ""


def _filled(item: str, width: int) -> str:
    """A paragraph or an item of a list; the lines after an item's first are indented below its text."""
    found = re.match(r"( *)((?:-|\d+\.) )?", item)
    assert found is not None
    indent, mark = found[1], found[2] or ""
    text = plain(" ".join(item[found.end() :].split()))
    return textwrap.fill(
        text,
        width,
        initial_indent=indent + mark,
        subsequent_indent=indent + " " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(lines: list[str], width: int) -> Iterator[str]:
    """A table: in columns where it fits into `width`, else each row's first cell with the others below it."""
    rows = [[plain(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    del rows[1]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    *before, _ = widths
    left = width - sum(before) - 2 * len(before)
    if left >= 40:
        for number, row in enumerate(rows):
            head = "".join(f"{cell:<{space + 2}}" for cell, space in zip(row, before, strict=False))
            text = textwrap.wrap(row[-1], left, break_long_words=False) or [""]
            for line in (head + text[0], *(" " * len(head) + line for line in text[1:])):
                yield click.style(line.rstrip(), bold=True) if number == 0 else line.rstrip()
        return
    for row in rows[1:]:
        yield click.style(textwrap.fill(row[0], width), bold=True)
        for name, cell in zip(rows[0][1:], row[1:], strict=True):
            if cell:
                yield textwrap.fill(
                    f"{name}: {cell}" if name else cell, width, initial_indent="  ", subsequent_indent="    "
                )
