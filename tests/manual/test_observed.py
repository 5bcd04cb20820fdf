"""`etc/grafana-dashboard.json` and `etc/prometheus-alerts.yml` ask for what a daemon really exports, and mean it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import daemon
from tests.support.receiver import receiver
from webhookd.errors import ERRORS
from webhookd.models import EndpointState, Reason

ETC = Path(__file__).resolve().parents[2] / "etc"
DASHBOARD: dict[str, Any] = json.loads((ETC / "grafana-dashboard.json").read_text("utf-8"))
ALERTS = (ETC / "prometheus-alerts.yml").read_text("utf-8")
PROMTOOL = shutil.which("promtool")
NEEDS_PROMTOOL = pytest.mark.skipif(PROMTOOL is None, reason="no promtool (Debian's prometheus): PromQL not checked")
# What Prometheus itself adds to every series.
ADDED = {"job", "instance"}
VALUES = {
    "state": {*EndpointState, "paused"},
    "reason": {*Reason},
    "outcome": {"delivered", "failed"},
    "code": set(ERRORS),
}
SELECTOR = re.compile(r"(?<![\w$])((?:webhookd|process)_\w+|up)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def panel_queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def alerts() -> dict[str, str]:
    """Each alert's name and expression; in this file every expression stands on one line."""
    return dict(re.findall(r"^      - alert: (\w+)\n        expr: (.+)$", ALERTS, re.MULTILINE))


def matchers(inside: str) -> list[tuple[str, str, str]]:
    """The label, the operator and the value of each matcher between braces."""
    return re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)


@pytest.fixture
async def exported(tmp_path: Path) -> AsyncIterator[dict[str, set[str]]]:
    """Every sample that a real daemon exports, with its labels, after a delivery, a failure and an error."""
    config = '[egress]\nallow = ["127.0.0.0/8"]\n[delivery]\nretry_seconds = [60]\n'
    async with receiver(lambda name: 200 if name == "good" else 500) as where, daemon(tmp_path / "state", config) as d:
        for name in ("good", "bad"):
            await d.call("POST", "/v1/endpoints", {"url": f"{where.url}/{name}", "event_types": ["*"]}, expect=201)
        await d.call("POST", "/v1/events", {"event_type": "message.sent"}, expect=202)
        await d.call("POST", "/v1/events", {"event_type": "nonsense"}, expect=422)
        text = await d.call("GET", "/metrics", expect=200)
        found: dict[str, set[str]] = {"up": set()}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        yield found


@pytest.mark.slow
async def test_every_name_and_label_is_exported(exported: dict[str, set[str]]) -> None:
    """Panels and alerts select by names, labels and values that are there; the daemon's job is called webhookd."""
    wrong = []
    for query in [*panel_queries(), *alerts().values()]:
        assert SELECTOR.search(query), query
        known: set[str] = set(ADDED)
        for name, inside in SELECTOR.findall(query):
            labels = exported.get(name)
            wrong += [f"{name} is not exported: {query}"] if labels is None else []
            known |= labels or set()
            for label, _, value in matchers(inside):
                if label not in (labels or set()) | ADDED:
                    wrong.append(f"{name} has no label {label}: {query}")
                if label in VALUES and value not in VALUES[label]:
                    wrong.append(f"{label} is never {value}: {query}")
                if label == "job" and value not in ("webhookd", "$job"):
                    wrong.append(f"another job: {query}")
        named = {label.strip() for group in GROUPING.findall(query) for label in group.split(",") if label.strip()}
        wrong += [f"{label} is in no series: {query}" for label in named - known]
    assert [] == wrong


@pytest.mark.slow
async def test_everything_that_is_exported_is_on_the_dashboard(exported: dict[str, set[str]]) -> None:
    """A metric without a panel needn't be counted; only a few of the process's own figures have no panel."""
    asked = {name for query in panel_queries() for name, _ in SELECTOR.findall(query)} | {
        name for variable in DASHBOARD["templating"]["list"] for name in re.findall(r"webhookd_\w+", str(variable))
    }
    left_out = {re.sub(r"_(sum|count)$", "_bucket", name) for name in exported} - asked
    assert {"process_virtual_memory_bytes", "process_start_time_seconds"} == left_out


def test_the_dashboard_can_be_imported() -> None:
    """A schema version, a choice of the data source, panels that don't overlap, each with its own id and title."""
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] == "webhookd" and "id" not in DASHBOARD
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert "datasource" == variables["datasource"]["type"] and "prometheus" == variables["datasource"]["query"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["title"]
    for panel in panels():
        assert {"type": "prometheus", "uid": "${datasource}"} == panel["datasource"]
        used = set(re.findall(r"\$(\w+)", str(panel["targets"]))) - {"__rate_interval"}
        assert used <= set(variables), panel["title"]


def test_every_alert_says_what_to_do() -> None:
    """A severity, a summary, a description that names a command or a setting; commands exist."""
    names = re.findall(r"^      - alert: (\w+)$", ALERTS, re.MULTILINE)
    assert len(names) == len(set(names)) == len(alerts())
    for block in ALERTS.split("      - alert: ")[1:]:
        assert re.search(r"labels: \{severity: (critical|warning)\}", block), block
        assert "          summary: " in block
        assert "`" in block.split("          description: >-\n", 1)[1], block


# What happens, as Prometheus' own notation for series has it (one sample a minute), and the alert that it must raise.
CASES: dict[str, list[tuple[str, str]]] = {
    "WebhookdDown": [('up{job="webhookd"}', "1x5 0x25")],
    "WebhookdRestarts": [('process_start_time_seconds{job="webhookd"}', "1x20 100x4 200x6")],
    "WebhookdRefusesEvents": [('webhookd_store_full{job="webhookd"}', "0x20 1x10")],
    "WebhookdDiskNearlyFull": [
        ('webhookd_disk_free_bytes{job="webhookd"}', "200000000x30"),
        ('webhookd_disk_reserved_bytes{job="webhookd"}', "67108864x30"),
    ],
    "WebhookdTooFarBehind": [('webhookd_events_refused_total{job="webhookd", code="too_far_behind"}', "0x26 5x4")],
    "WebhookdEndpointAutoDisabled": [
        ('webhookd_endpoint_waiting{job="webhookd", workspace="a", endpoint_id="ep_1", state="auto_disabled"}', "0x30"),
        ('webhookd_endpoint_waiting{job="webhookd", workspace="a", endpoint_id="ep_2", state="active"}', "9x30"),
    ],
    "WebhookdHeldEventsExpireSoon": [
        ('webhookd_endpoint_oldest_seconds{job="webhookd", endpoint_id="ep_1", state="disabled"}', "200000x30"),
        ('webhookd_endpoint_oldest_seconds{job="webhookd", endpoint_id="ep_2", state="active"}', "200000x30"),
    ],
    "WebhookdEventsExpired": [('webhookd_deliveries_expired_total{job="webhookd"}', "0x20 7x10")],
    "WebhookdDeliveriesDropped": [('webhookd_deliveries_dropped_total{job="webhookd"}', "0x20 1x10")],
    "WebhookdBudgetNearlySpent": [
        ('webhookd_budget_failures{job="webhookd", workspace="a"}', "25x30"),
        ('webhookd_budget_failures{job="webhookd", workspace="b"}', "24x30"),
        ('webhookd_budget_limit{job="webhookd"}', "30x30"),
    ],
    "WebhookdDeliveriesLate": [('webhookd_oldest_waiting_seconds{job="webhookd", workspace="a"}', "601x30")],
    "WebhookdOwnMachineFails": [
        ('webhookd_attempts_total{job="webhookd", outcome="failed", reason="local"}', "0+2x30"),
        ('webhookd_attempts_total{job="webhookd", outcome="failed", reason="status"}', "0+2x30"),
    ],
    "WebhookdMailUnsent": [('webhookd_mail_unsent{job="webhookd"}', "1x30")],
    "WebhookdLoopLag": [('webhookd_loop_lag_seconds{job="webhookd"}', "0.3x30")],
    "WebhookdCommitsSlow": [
        ('webhookd_commit_seconds_bucket{job="webhookd", le="0.25"}', "0+1x30"),
        ('webhookd_commit_seconds_bucket{job="webhookd", le="0.5"}', "0+60x30"),
        ('webhookd_commit_seconds_bucket{job="webhookd", le="+Inf"}', "0+60x30"),
    ],
    "WebhookdLogGrows": [('webhookd_wal_bytes{job="webhookd"}', "300000000x30")],
    "WebhookdDescriptorsRunOut": [
        ('process_open_fds{job="webhookd"}', "850x30"),
        ('process_max_fds{job="webhookd"}', "1000x30"),
    ],
}


def promtool(*words: str, folder: Path) -> None:
    assert PROMTOOL is not None
    ran = subprocess.run([PROMTOOL, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == ran.returncode, ran.stdout + ran.stderr


@NEEDS_PROMTOOL
def test_each_alert_rises_when_it_should(tmp_path: Path) -> None:
    """Prometheus' own test of rules: in each case this alert fires once, and no other; in quiet times none does."""
    (tmp_path / "alerts.yml").write_text(ALERTS, "utf-8")
    alive = ('up{job="webhookd"}', "1x30")
    cases = [(name, [*series, *([] if name == "WebhookdDown" else [alive])]) for name, series in CASES.items()]
    assert list(CASES) == list(alerts())
    tests = []
    for name, series in [*cases, ("", [alive])]:
        fires = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name else []
        counted = {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": "29m",
            "exp_samples": fires,
        }
        input_series = [{"series": selector, "values": values} for selector, values in series]
        tests.append({"interval": "1m", "input_series": input_series, "promql_expr_test": [counted]})
    whole = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(json.dumps(whole), "utf-8")  # JSON is YAML
    promtool("check", "rules", "alerts.yml", folder=tmp_path)
    promtool("test", "rules", "test.yml", folder=tmp_path)


@NEEDS_PROMTOOL
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """With Grafana's variables filled in, Prometheus takes each of them."""
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(panel_queries())
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    promtool("check", "rules", "rules.yml", folder=tmp_path)
