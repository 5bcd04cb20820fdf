"""A recorded run replaces the last one of the same command, and nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.support.results import write


def test_a_run_replaces_the_last_one_of_its_command(tmp_path: Path) -> None:
    """What stands before and after stays; a new command goes to the end."""
    path = tmp_path / "RESULTS.md"
    path.write_text("# How fast\n\nBy hand.\n")
    for command, output in (("python -m a", "one"), ("python -m b", "two"), ("python -m a", "three")):
        write(path, command, output)
    text = path.read_text()
    assert "one" not in text
    parts = ["By hand.", "## `python -m a`", "three", "## `python -m b`", "two"]
    assert parts == sorted(parts, key=text.index)
