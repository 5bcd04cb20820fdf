"""`etc/prometheus-alerts-cluster.yml` asks for metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

from webhookd.metrics import METRICS

ALERTS = (Path(__file__).resolve().parents[2] / "etc" / "prometheus-alerts-cluster.yml").read_text("utf-8")


def test_every_name_is_a_metric_of_a_cluster() -> None:
    """In expressions and in no other form; each alert has a severity and says what to do."""
    names = {name for line in re.findall(r"expr: (.+)", ALERTS) for name in re.findall(r"webhookd_\w+", line)}
    assert names <= set(METRICS) and len(names) > 4
    for block in ALERTS.split("      - alert: ")[1:]:
        assert re.search(r"labels: \{severity: (critical|warning)\}", block), block
        assert "`" in block.split("          description: >-\n", 1)[1], block
