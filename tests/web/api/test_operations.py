"""What keeps it running: probes, the look, metrics, the catalogue, the copy, the test of the mail."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Api, running_api
from webhookd import metrics as metric_table
from webhookd.config import Budget, Config, Events, ExtraType, Mail, Store
from webhookd.models import Reason
from webhookd.web.api import metrics, operations

HOOK = "https://hooks.example/in"
DEAD = "https://dead.example/in"


def send_event(event_id: str) -> dict[str, str]:
    return {"event_type": "message.received", "event_id": event_id}


async def scraped(api: Api) -> dict[str, dict[tuple[str, ...], float]]:
    """The metrics as Prometheus' own parser reads them: by name and label values."""
    answer = await api.get("/metrics")
    assert 200 == answer.status and answer.headers["Content-Type"].startswith("text/plain; version=")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            kind = metric_table.METRICS.get(sample.name) or metric_table.METRICS.get(family.name)
            names = (*kind.labels, "le") if kind and sample.name.endswith("_bucket") else kind.labels if kind else ()
            found.setdefault(sample.name, {})[tuple(sample.labels[name] for name in names)] = sample.value
    return found


def samples_of(name: str) -> set[str]:
    histogram = metric_table.METRICS[name].kind == "histogram"
    return {f"{name}_{part}" for part in ("bucket", "sum", "count")} if histogram else {name}


async def test_a_probe_says_what_is_missing(api: Api) -> None:
    """readyz is 503 with Retry-After while the daemon stops; healthz is not."""
    assert {"status": "ok"} == (await api.get("/healthz", token=None)).json
    assert {"status": "ready"} == (await api.get("/readyz", token=None)).json
    api.app.services.ingest.close()
    answer = await api.get("/readyz", token=None)
    assert (503, "unavailable") == (answer.status, answer.code)
    assert "1" == answer.headers["Retry-After"]
    assert 200 == (await api.get("/healthz", token=None)).status


async def test_the_metrics_tell_what_happened(api: Api) -> None:
    """Every metric of the table is there with its help, and the figures are those of what was done."""
    api.engine.network.answer = lambda url, webhook_id: 500 if url == DEAD else 200
    await api.engine.endpoint(HOOK)
    by_key = {"key": "contact.id"}
    await api.app.services.endpoints.create("default", url=DEAD, event_types=["*"], ordering=by_key)
    stopped = await api.engine.endpoint("https://stopped.example/in")
    await api.app.services.endpoints.disable("default", stopped.id)
    await api.post("/v1/events", [send_event("a"), send_event("b"), {}])
    await api.engine.quiet()
    await api.engine.clock.advance(7)
    await api.engine.quiet()
    found = await scraped(api)
    alone = [name for name in metric_table.METRICS if not name.startswith("webhookd_cluster_")]
    ours = set().union(*map(samples_of, alone))
    assert ours == {name for name in found if not name.startswith("process_")}
    assert found["process_open_fds"][()] > 3 and found["process_resident_memory_bytes"][()] > 1e6
    assert {(): 2} == found["webhookd_events_accepted_total"]
    refused = found["webhookd_events_refused_total"]
    assert (1, 0) == (refused["missing_event_type",], refused["storage_full",])
    attempts = found["webhookd_attempts_total"]
    assert {("delivered", ""): 2, ("failed", "status"): 1} == {key: n for key, n in attempts.items() if n}
    assert {("delivered", ""), *(("failed", reason) for reason in Reason)} == attempts.keys()
    assert {("delivered",): 2, ("failed",): 1} == found["webhookd_attempt_seconds_count"]
    assert found["webhookd_commits_total"] == found["webhookd_commit_seconds_count"]
    assert found["webhookd_commit_seconds_bucket"]["+Inf",] == found["webhookd_commits_total"][()]
    assert {("default",): 4} == found["webhookd_deliveries_waiting"]
    assert {("default",): 2} == found["webhookd_deliveries_held"]
    assert {("default",): 7} == found["webhookd_oldest_waiting_seconds"]
    dead = api.app.registry.endpoints()[1].id
    listed = {("default", dead, "active"): 2, ("default", stopped.id, "disabled"): 2}
    assert listed == found["webhookd_endpoint_waiting"]
    assert dict.fromkeys(listed, 7) == found["webhookd_endpoint_oldest_seconds"]
    assert {("default", "active"): 2, ("default", "disabled"): 1} == found["webhookd_endpoints"]
    assert {("default",): 1} == found["webhookd_budget_failures"]
    assert {(): 30} == found["webhookd_budget_limit"]
    assert found["webhookd_database_bytes"][()] > 0 and found["webhookd_wal_bytes"][()] > 0


async def test_the_metrics_name_the_disabled_and_never_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disabled endpoint has a series though nothing waits; past the bound it and the longest queues stay."""
    monkeypatch.setattr(metrics, "LISTED_ENDPOINTS", 2)
    async with running_api(tmp_path, Config(budget=Budget(limit=1))) as api:
        api.engine.network.answer = lambda url, webhook_id: 500
        bad = await api.engine.endpoint(DEAD, ["comment.created"])
        await api.engine.send("x", event_type="comment.created")
        await api.engine.advance(31)
        await api.app.services.endpoints.enable("default", bad.id, skip_held=True)
        await api.engine.send("y", event_type="comment.created")
        await api.engine.advance(31)
        assert "auto_disabled" == api.app.registry.endpoint("default", bad.id).state
        one = await api.engine.endpoint(HOOK, ["message.received"])
        both = await api.engine.endpoint("https://both.example/", ["message.received", "message.sent"])
        for each in (one, both):
            await api.app.services.endpoints.disable("default", each.id)
        await api.engine.send("a")
        await api.engine.send("b", event_type="message.sent")
        found = await scraped(api)
        assert [("default", bad.id, "auto_disabled"), ("default", both.id, "disabled")] == list(
            found["webhookd_endpoint_waiting"]
        )
        assert {(): 1} == found["webhookd_endpoints_unlisted"]
        assert {("default",): 4} == found["webhookd_deliveries_waiting"]


def test_a_histogram_counts_by_its_bounds() -> None:
    """A bound includes itself, counts add up, the last is all of them."""
    made = metric_table.Histogram()
    for seconds in (0.001, 0.0011, 5.0, 61.0):
        made.observe(seconds)
    counted = dict(made.buckets())
    assert (1, 2, 3, 3, 4) == tuple(counted[bound] for bound in ("0.001", "0.0025", "5.0", "60.0", "+Inf"))
    assert 66.0021 == pytest.approx(made.sum_seconds)


def test_a_metric_needs_its_row() -> None:
    """What the table doesn't have can't be said."""
    with pytest.raises(KeyError):
        metric_table.render({"webhookd_nonsense": {(): 1}})


async def test_the_status_is_one_look(api: Api) -> None:
    """Version, uptime, backlog, rates, slowest endpoints, database size, unsent mail, last errors."""
    look = (await api.get("/v1/status")).json
    expected = {"version", "uptime_seconds", "backlog", "rates_per_second", "slowest_endpoints", "database"}
    assert expected | {"unsent_mail", "last_errors", "warnings"} <= look.keys()


async def test_the_catalogue_is_listed_with_everything_about_a_type(tmp_path: Path) -> None:
    """The built-in ones and those of the configuration, in pages, each with label, description, fields and a sample."""
    config = Config(
        events=Events(types={"order.paid": ExtraType(label="Order Paid", description="An order was paid.")})
    )
    async with running_api(tmp_path, config) as api:
        whole = (await api.get("/v1/event-types")).json
        assert (12, None) == (len(whole["data"]), whole["next"])
        assert "conversation.closed" == whole["data"][0]["name"]
        assert "order.paid" == whole["data"][-1]["name"]
        assert {"name", "label", "description", "notes", "fields", "sample"} == whole["data"][0].keys()
        assert {"path", "type", "meaning"} == whole["data"][0]["fields"][0].keys()
        first = (await api.get("/v1/event-types?limit=6")).json
        rest = (await api.get(f"/v1/event-types?limit=6&cursor={first['next']}")).json
        assert whole["data"] == first["data"] + rest["data"]
        assert rest["next"] is None


async def test_a_backup_is_a_whole_database(tmp_path: Path) -> None:
    """What was accepted is in the copy; nothing is left behind in the state directory."""
    (tmp_path / "state").mkdir()
    async with running_api(tmp_path / "state") as api:
        left = tmp_path / "state" / f"{operations.COPY_PREFIX}left-by-a-kill"
        left.write_bytes(b"x")
        for number in range(20):
            await api.post("/v1/events", send_event(f"e{number}"))
        answer = await api.post("/v1/backup")
        assert (200, "application/octet-stream") == (answer.status, answer.headers["Content-Type"])
        assert str(len(answer.body)) == answer.headers["Content-Length"]
        assert [] == list((tmp_path / "state").glob(f"{operations.COPY_PREFIX}*"))
    copy = tmp_path / "copy.db"
    copy.write_bytes(answer.body)
    db = sqlite3.connect(copy)
    assert "ok" == db.execute("PRAGMA integrity_check").fetchone()[0]
    assert 20 == db.execute("SELECT count(*) FROM events").fetchone()[0]
    db.close()


async def test_two_backups_at_once_are_made_one_after_the_other(api: Api) -> None:
    """Both are whole."""
    one, two = await asyncio.gather(api.post("/v1/backup"), api.post("/v1/backup"))
    assert (200, 200) == (one.status, two.status)
    assert one.body[:16] == two.body[:16] == b"SQLite format 3\0"


async def test_a_backup_needs_room(tmp_path: Path) -> None:
    """507 where the copy would fill the disk."""
    async with running_api(tmp_path, Config(store=Store(min_free_mb=999_999_999))) as api:
        answer = await api.post("/v1/backup")
        assert (507, "storage_full") == (answer.status, answer.code)


async def test_a_test_mail_goes_to_whom_is_named(tmp_path: Path) -> None:
    """`to`, else mail.notify; the answer says who; what is no address is refused."""
    async with running_api(tmp_path, Config(mail=Mail(host="mail.example", notify=("ops@example.com",)))) as api:
        sent: list[list[str]] = []

        async def send(to: Sequence[str]) -> None:
            sent.append(list(to))

        object.__setattr__(api.app.services, "send_test_mail", send)
        assert {"to": ["ops@example.com"]} == (await api.post("/v1/mail/test")).json
        assert {"to": ["a@example.com"]} == (await api.post("/v1/mail/test", {"to": ["a@example.com"]})).json
        assert [["ops@example.com"], ["a@example.com"]] == sent
        for wrong in ([], ["nobody"], ["a@b\r\nBcc: c@d"], "a@example.com", ["a@example.com"] * 21):
            answer = await api.post("/v1/mail/test", {"to": wrong})
            assert (422, "invalid_field", "to") == (
                answer.status,
                answer.code,
                answer.json["error"]["details"]["field"],
            )


async def test_a_test_mail_without_a_server_is_refused(api: Api) -> None:
    """409 `mail_disabled` says which setting is missing."""
    answer = await api.post("/v1/mail/test")
    assert (409, "mail_disabled") == (answer.status, answer.code)
    assert "mail.host" in answer.json["error"]["message"]
