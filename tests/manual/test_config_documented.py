"""`etc/webhookd.toml` shows every setting with its real default, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from webhookd.config import SECTIONS, Config, Events, ExtraType
from webhookd.config.loader import KEYS, load

FILE = Path(__file__).parents[2] / "etc" / "webhookd.toml"
EXAMPLE = "order.paid"

SETTING = re.compile(r'#(?=[a-z_]+ = |\[events\.")')


def uncommented() -> str:
    """The file with the `#` before its settings taken away; prose has a space after its `#`."""
    return "\n".join(SETTING.sub("", line, count=1) if SETTING.match(line) else line for line in lines())


def lines() -> list[str]:
    return FILE.read_text("utf-8").split("\n")


def documented() -> dict[tuple[str, str], Any]:
    tree = tomllib.loads(uncommented())
    return {
        (section, key): value
        for section, table in tree.items()
        for key, value in table.items()
        if not isinstance(value, dict)
    }


def test_every_key_of_the_code_is_in_the_file_and_the_other_way_round() -> None:
    """A new setting without a place in the file fails here, as does one that is gone from the code."""
    assert sorted(KEYS) == sorted(documented())


def test_the_sections_stand_in_the_order_of_the_code() -> None:
    """Who reads both finds the way."""
    assert list(SECTIONS) == list(tomllib.loads(uncommented()))


def test_each_default_is_the_real_one() -> None:
    """The value in the file is what the code takes when the key is left out."""
    defaults = msgspec.json.decode(msgspec.json.encode(Config()))
    expected = {path: defaults[path[0]][path[1]] for path in documented()}
    assert expected == documented()


def test_the_file_as_it_is_changes_nothing() -> None:
    """Copying it to a machine is safe."""
    assert Config() == load(FILE, {})


def test_the_file_with_every_setting_active_loads_the_defaults(tmp_path: Path) -> None:
    """What the file teaches is accepted, and the example adds its event type."""
    path = tmp_path / "webhookd.toml"
    path.write_text(uncommented(), "utf-8")
    extra = ExtraType(label="Order Paid", description="An order was paid in full.")
    assert Config(events=Events(types={EXAMPLE: extra})) == load(path, {})


def test_each_setting_has_a_comment_of_its_own() -> None:
    """The line above a setting says what it is."""
    bare = [
        line
        for above, line in zip(lines(), lines()[1:], strict=False)
        if SETTING.match(line) and "events." not in line and not above.startswith("# ")
    ]
    assert bare == []
