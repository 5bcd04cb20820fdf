"""The locked dependencies are those of `pyproject.toml`, each with its hashes."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from tests.manual.__main__ import MANUAL, ROOT

LOCK = (ROOT / "etc" / "requirements.txt").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMMAND = "uv pip compile pyproject.toml"
PINS = re.findall(r"^([a-z0-9-]+)==(\S+)(.*(?:\n    --hash=.*)+)((?:\n    #.*)+)", LOCK, re.MULTILINE)
VERSIONS = {name: version for name, version, _, _ in PINS}


def test_the_lock_has_what_the_project_asks_for() -> None:
    """Stale?  Run the command at the head of `etc/requirements.txt`."""
    build = PROJECT["dependency-groups"]["build"]
    assert build == PROJECT["build-system"]["requires"]
    asked = [Requirement(each) for each in (*PROJECT["project"]["dependencies"], *build)]
    assert [] == [str(each) for each in asked if not each.specifier.contains(VERSIONS.get(each.name, ""))]
    direct = {name for name, _, _, why in PINS if "(pyproject.toml" in why}
    assert {each.name for each in asked} == direct


def test_every_locked_package_has_hashes_and_a_reason() -> None:
    """Nothing is left that no package needs, and nothing without a hash."""
    assert len(PINS) == LOCK.count("==")
    assert all("--hash=sha256:" in hashes for _, _, hashes, _ in PINS)
    reasons = {name: set(re.findall(r"[a-z0-9-]+", re.sub(r"\(.*?\)", "", why))) - {"via"} for name, _, _, why in PINS}
    assert [] == [(name, why) for name, why in reasons.items() if not why or not why <= {*VERSIONS, "webhookd"}]


def test_the_command_is_in_the_manual() -> None:
    """The command that made the lock, and the one that `manual/installing.md` names."""
    made = LOCK.splitlines()[1].removeprefix("#").strip()
    assert made.startswith(COMMAND)
    assert made.replace("-o ", "--upgrade -o ") in (MANUAL / "installing.md").read_text("utf-8")
