"""The table of log events, and every call in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from webhookd import log
from webhookd.log import LOG_EVENTS
from webhookd.log.format import LEADING

SOURCES = Path(log.__file__).parents[1]


def test_each_row_of_the_table_has_the_form_of_the_others() -> None:
    """`noun.past_verb`, a level, a sentence, fields without doubles, and none that would hold a secret."""
    for name, row in LOG_EVENTS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", name), name
        assert row.level in log.LEVELS, name
        assert re.fullmatch(r"[A-Z`].*\.", row.meaning), name
        assert len(set(row.fields)) == len(row.fields), name
        assert not {"token", "signing_key", "password", "secret", "headers", "body"} & set(row.fields), name
        assert [f for f in row.fields if f in LEADING] == [f for f in LEADING if f in row.fields], name


def calls() -> Iterator[tuple[str, str, set[str]]]:
    """Every `emit(…)` and `throttled(…)` of the code: its place, the name it logs, the fields it spells out."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function not in ("emit", "throttled"):
                continue
            fields = {keyword.arg for keyword in node.keywords if keyword.arg}
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    place = f"{path.relative_to(SOURCES)}:{node.lineno}"
                    yield place, part.value, fields - ({"key"} if function == "throttled" else set())


def test_every_line_that_the_code_logs_is_in_the_table_with_its_fields() -> None:
    """The table is the documentation: a name or a field that it doesn't have fails here."""
    found = [*calls()]
    assert found
    unknown = [f"{place}: {name}" for place, name, _ in found if name not in LOG_EVENTS]
    assert [] == unknown
    undocumented = [
        f"{place}: {name} {sorted(fields - set(LOG_EVENTS[name].fields))}"
        for place, name, fields in found
        if fields - set(LOG_EVENTS[name].fields)
    ]
    assert [] == undocumented
