"""The README's table of a hostile world counts what is really collected, class by class."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.hostile.callers import CALLERS
from tests.hostile.urls import URLS
from tests.support.bad_receivers import KINDS

ROOT = Path(__file__).resolve().parents[2]
FILES = ("tests/hostile", "tests/rules/test_urls.py", "tests/process/test_shortages.py")
CALLER_KINDS = list(dict.fromkeys(caller.kind for caller in CALLERS))
GATES = ("test_saved", "test_resolved", "test_connected")


@cache
def collected() -> Counter[str]:
    """How many tests there are: by `file::function`, and by `file::function[class` where the cases say their class."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *FILES],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        match = re.match(r"tests/\w+/(\w+\.py::\w+)(?:(\[.*) \| )?", line)
        if match:
            found[match[1]] += 1
            found[match[1] + (match[2] or "[")] += 1
    return found


def at_the_gates(file: str, kind: str) -> int:
    """How many cases of a class are tried: at each of the three gates the same."""
    numbers = {collected()[f"{file}::{gate}[{kind}"] for gate in GATES}
    assert 1 == len(numbers), numbers
    return numbers.pop()


def receivers(kind: str) -> int:
    """How many receivers of a kind are played, over http and https."""
    return collected()[f"test_receivers.py::test_each_receiver_leads_to_its_own_outcome[{kind}"]


def callers(kind: str) -> int:
    """How many callers of a class call."""
    return collected()[f"test_callers.py::test_each_caller_gets_its_verdict[{kind}"]


def on_the_page(*tests: str) -> str:
    """How many cases these tests of the page and the tokens have."""
    return str(sum(collected()[f"test_page_and_tokens.py::{each}"] for each in tests))


def all_in(file: str) -> int:
    """All tests of a file."""
    return sum(number for name, number in collected().items() if name.startswith(f"{file}::") and "[" not in name)


def expected() -> dict[str, str]:
    """What the second column says, by the first one."""
    headers = (
        "test_reserved_and_broken_header_names_are_refused",
        "test_header_values_that_are_not_plain_text_are_refused",
    )
    return {
        **{f"URLs: {kind}": f"{at_the_gates('test_urls.py', kind)} × 3 gates" for kind in URLS},
        "URLs: DNS": f"{at_the_gates('test_names.py', 'DNS')} names × 3 gates",
        "custom headers": str(sum(collected()[f"test_urls.py::{each}"] for each in headers)),
        **{
            f"receivers: {kind}": f"{receivers(kind)} (https)"
            if kind == "handshakes"
            else f"{receivers(kind) // 2} × http, https"
            for kind in KINDS
        },
        "receivers: kept connections": str(all_in("test_keep_alive.py")),
        **{f"callers: {kind}": str(callers(kind)) for kind in CALLER_KINDS},
        "callers: slow": str(all_in("test_slow_callers.py")),
        "callers: no descriptors, no memory, too much at once": str(all_in("test_shortages.py")),
        "page: another name": on_the_page("test_under_another_name_there_is_no_page"),
        "page: posts from elsewhere": on_the_page("test_no_change_is_taken_from_another_page"),
        "page: in place of a trusted program": on_the_page("test_a_trusted_program_is_no_page"),
        "page: policy": on_the_page("test_every_page_has_the_policy", "test_every_refusal_has_the_policy"),
        "page: guessing, fixing, injecting": on_the_page(
            "test_secrets_are_looked_up_by_a_hash_and_compared_in_constant_time",
            "test_guessing_at_the_page_is_slowed_down",
            "test_a_session_can_not_be_chosen_or_guessed",
            "test_no_header_is_injected_and_nobody_is_led_elsewhere",
        ),
        "texts in the log": str(all_in("test_log_injection.py")),
    }


def written() -> dict[str, str]:
    """The README's table."""
    section = (ROOT / "README.md").read_text("utf-8").split("\n## A hostile world\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows[1:] if set(row[0]) - set("- ")}


@pytest.mark.parametrize("row", sorted(written()))
def test_the_table_counts_what_is_tried(row: str) -> None:
    """A number in the table is the number of tests."""
    assert expected()[row] == written()[row]


def test_no_class_is_missing_and_there_are_enough() -> None:
    """Every class has its row; at least 200 URLs at the gates, 60 receivers over http and https, 100 callers."""
    assert expected().keys() == written().keys()
    assert sum(at_the_gates("test_urls.py", kind) for kind in URLS) >= 200
    assert sum(receivers(kind) for kind in KINDS) >= 120
    assert len(CALLERS) == sum(callers(kind) for kind in CALLER_KINDS) >= 100
