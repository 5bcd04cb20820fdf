"""`webhookd status`: what a person sees at three in the morning."""

from __future__ import annotations

from typing import Any

import pytest

LOOK: dict[str, Any] = {
    "version": "1.2.3",
    "started_at": "2026-01-31T12:00:00.000Z",
    "uptime_seconds": 273600.5,
    "sqlite_version": "3.40.1",
    "workspaces": 2,
    "endpoints": {"total": 12, "active": 11, "auto_disabled": 0},
    "backlog": {"waiting": 1204, "waiting_bytes": 3 << 20, "held": 800, "in_flight": 4},
    "totals": {"accepted": 5000, "delivered": 4000, "failed": 31, "dropped": 2},
    "failures_by_reason": {"status": 1, "timeout": 30},
    "rates_per_second": {"accepted": 12.5, "delivered": 11.0, "failed": 0.25},
    "slowest_endpoints": [
        {"id": "ep_1", "workspace": "acme", "url": "https://example.com/\x1b[2J", "attempt_ms": 4999.6}
    ],
    "blocked_lanes": [
        {
            "id": "ep_1",
            "workspace": "acme",
            "url": "https://example.com/",
            "path": "contact.id",
            "key": 4711,
            "event_id": "e1",
            "since": "2026-01-31T14:02:11.000Z",
            "next_attempt_at": "2026-01-31T14:05:11.000Z",
            "waiting": 12,
        }
    ],
    "budgets": [{"workspace": "acme", "failures": 15, "limit": 30}],
    "loop_lag_ms": 0.4,
    "database": {
        "full": False,
        "size_bytes": 120 << 20,
        "wal_bytes": 3 << 20,
        "free_bytes": 20 << 30,
        "encrypted": False,
    },
    "unsent_mail": {"count": 0, "oldest_age_seconds": None, "last_error": None},
    "warnings": [],
    "last_errors": [],
}


async def test_look(api: Any, ask: Any) -> None:
    """Uptime, backlog, rates, budgets, disk and the slowest, on one screen."""
    api.answers("GET", "/v1/status", LOOK)
    ran = await ask("status")
    assert (0, "") == (ran.code, ran.err)
    assert f"webhookd 1.2.3 at {api.url}, up 3d 4h" == ran.out.splitlines()[0]
    for words in (
        "11 of 12 active, 0 auto-disabled",
        "1,204 events (3.0 MiB), 800 of them held; 4 requests in flight",
        "12.5 accepted, 11 delivered, 0.25 failed a second",
        "5,000 accepted, 4,000 delivered, 31 failed, 2 dropped",
        "30 timeout, 1 status",
        "██████████░░░░░░░░░░ 15 of 30 failures",
        "120.0 MiB, write-ahead log 3.0 MiB, 20.0 GiB free on its disk",
        "signing keys     and header values are not encrypted (webhookd help security)",
        "unsent mail      none",
        "5,000  https://example.com/\\x1b[2J",
        "ep_1  lane of contact.id 4711 waits since 2026-01-31",
        "12 events",
    ):
        assert words in ran.out
    assert "Auto-disabled" not in ran.out
    assert "Last errors" not in ran.out
    assert "What to do: nothing: all is well." == ran.out.splitlines()[-1]


async def test_a_look_at_one_workspace(api: Any, ask: Any) -> None:
    """A token that is bound to a workspace gets less, and that is shown."""
    own = (
        "version", "started_at", "uptime_seconds", "workspaces", "endpoints", "backlog", "slowest_endpoints",
        "blocked_lanes", "budgets",
    )  # fmt: skip
    api.answers("GET", "/v1/status", {name: LOOK[name] for name in own if name in LOOK})
    ran = await ask("status")
    assert (0, "") == (ran.code, ran.err)
    assert "11 of 12 active" in ran.out and "15 of 30 failures" in ran.out
    assert "database" not in ran.out


async def test_dropped_events_are_trouble(api: Any, ask: Any) -> None:
    """Nothing is well while an endpoint drops what it is sent, though the budget isn't spent."""
    dropping = [{"id": "ep_7", "workspace": "acme", "url": "https://example.com/hook", "dropped": 1234}]
    api.answers("GET", "/v1/status", LOOK | {"dropping_endpoints": dropping})
    ran = await ask("status")
    assert "Dropped events in the last hour:" in ran.out and "1,234" in ran.out and "ep_7" in ran.out
    assert "all is well" not in ran.out and "webhookd log --state dropped --since 1h" in ran.out


async def test_json(api: Any, ask: Any) -> None:
    """For scripts, what the API says."""
    api.answers("GET", "/v1/status", LOOK)
    assert LOOK == (await ask("--json", "status")).json()


@pytest.mark.parametrize("allowed", [True, False])
async def test_trouble(api: Any, ask: Any, allowed: bool) -> None:
    """Disabled endpoints by name (unless the token may only see figures), unsent mail with its reason, errors."""
    trouble = LOOK | {
        "endpoints": {"total": 12, "active": 11, "auto_disabled": 1},
        "unsent_mail": {"count": 2, "oldest_age_seconds": 200.0, "last_error": "Connection refused"},
        "last_errors": [{"at": "2026-01-31T12:00:00.000Z", "event": "mail.failed", "fields": {"error": "no\u202e"}}],
    }
    api.answers("GET", "/v1/status", trouble)
    disabled = {
        "id": "ep_9",
        "url": "https://example.com/dead",
        "state": "auto_disabled",
        "disabled": {"reason": "failure_budget", "at": "2026-01-31T12:00:00.000Z", "message": "31 failures"},
        "queue": {"held": 800},
    }
    if allowed:
        api.answers("GET", "/v1/workspaces", {"data": [{"id": "acme"}], "next": None})
        api.answers("GET", "/v1/workspaces/acme/endpoints", {"data": [disabled], "next": None})
    else:
        api.refuses("GET", "/v1/workspaces", 403, "forbidden", "Not with this token.")
    ran = await ask("status")
    assert 0 == ran.code
    assert allowed == ("https://example.com/dead" in ran.out)
    assert "1 auto-disabled" in ran.out
    assert "2 notices, the oldest for 3m 20s: Connection refused" in ran.out
    assert '2026-01-31 12:00:00  mail.failed  {"error": "no\\u202e"}' in ran.out


async def test_what_to_do_next(api: Any, ask: Any) -> None:
    """Each trouble has a sentence with its command, the most urgent first."""
    trouble = LOOK | {
        "endpoints": {"total": 12, "active": 11, "auto_disabled": 1},
        "failures_by_reason": {"local": 2},
        "budgets": [
            {"workspace": "acme", "failures": 24, "limit": 30},
            {"workspace": "calm", "failures": 23, "limit": 30},
        ],
        "database": LOOK["database"] | {"full": True},
        "unsent_mail": {"count": 2, "oldest_age_seconds": 200.0, "last_error": "Connection refused"},
        "loop_lag_ms": 251.0,
    }
    api.answers("GET", "/v1/status", trouble)
    api.refuses("GET", "/v1/workspaces", 403, "forbidden", "Not with this token.")
    said = (await ask("status")).out.split("\nWhat to do: ")[1].splitlines()
    assert ["free", "look", "repair", "see", "repair", "give"] == [line.split()[0] for line in said]
    assert said[3].endswith("webhookd budget --workspace acme")
    empty = {"total": 0, "active": 0, "auto_disabled": 0}
    api.answers("GET", "/v1/status", LOOK | {"endpoints": empty})
    assert "webhookd endpoint add" in (await ask("status")).out.split("\nWhat to do: ")[1]
