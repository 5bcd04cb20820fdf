"""Answers of several partitions made into one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from webhookd import metrics
from webhookd.cluster.web import gather
from webhookd.cluster.web.gather import Answer
from webhookd.errors import ApiError


def answer(body: Any, status: int = 200) -> Answer:
    return Answer(
        status, body if isinstance(body, bytes) else json.dumps(body).encode(), {"Content-Type": "text/plain"}
    )


def scraped(accepted: float, waiting: dict[str, float]) -> Answer:
    values: Any = {
        "webhookd_uptime_seconds": {(): 5.0},
        "webhookd_events_accepted_total": {(): accepted},
        "webhookd_deliveries_waiting": {(name,): count for name, count in waiting.items()},
    }
    return answer(metrics.render(values))


def test_metrics_of_partitions_are_added_family_by_family() -> None:
    """A workspace of the second partition stands beside those of the first; what is the process' own isn't added."""
    made = gather.metrics([scraped(2, {"a": 1}), scraped(3, {"b": 4})], "# HELP x X.\n# TYPE x gauge\nx 1\n")
    assert isinstance(made.body, bytes)
    text = made.body.decode()
    families = list(text_string_to_metric_families(text))
    assert len({each.name for each in families}) == len(families)  # no family stands in two places
    found = {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}
    assert found == {
        ("webhookd_uptime_seconds",): 5.0,
        ("webhookd_events_accepted_total",): 5.0,
        ("webhookd_deliveries_waiting", "a"): 1.0,
        ("webhookd_deliveries_waiting", "b"): 4.0,
        ("x",): 1.0,
    }


async def test_a_list_goes_through_all_partitions() -> None:
    """Page by page, each item once, whatever the limit; an unbound token is in every partition and shown once."""
    tokens = {0: ["t0"], 1: ["t1", "t2"], 2: [], 3: ["t3"]}

    async def ask(request: Any, number: int, path_qs: str) -> Answer:
        query = dict(each.split("=") for each in path_qs.partition("?")[2].split("&"))
        found = [{"id": "all", "workspace": None}, *({"id": each, "workspace": "w"} for each in tokens[number])]
        begin, limit = int(query.get("cursor", "0")), int(query["limit"])
        end = begin + limit
        return answer({"data": found[begin:end], "next": str(end) if end < len(found) else None})

    for limit in (1, 2, 3, 100):
        shown: list[str] = []
        cursor = ""
        while True:
            request = make_mocked_request("GET", f"/v1/tokens?limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
            page = json.loads((await gather.pages(request, 4, 1, ask)).body)  # type: ignore[arg-type]
            shown += [each["id"] for each in page["data"]]
            if page["next"] is None:
                break
            cursor = page["next"]
        assert sorted(shown) == ["all", "t0", "t1", "t2", "t3"]
        assert shown[0] == "all"


async def test_a_token_that_one_partition_knows_gets_its_answer() -> None:
    """The refusals of the others don't count, unless all refuse."""

    knowing = {2}

    async def ask(request: Any, number: int, path_qs: str) -> Answer:
        return answer({"workspaces": 2, "version": "1"}) if number in knowing else answer({"error": 1}, 401)

    request = make_mocked_request("GET", "/v1/status")
    assert (await gather.status(request, 3, ask)).status == 200
    knowing.clear()
    assert (await gather.status(request, 3, ask)).status == 401


async def test_a_cursor_of_nobody_is_refused() -> None:
    """As any other malformed parameter."""
    with pytest.raises(ApiError) as caught:
        await gather.pages(make_mocked_request("GET", "/v1/tokens?cursor=%C3%BC"), 2, 0, lambda *_: None)  # type: ignore[arg-type, return-value]
    assert caught.value.code == "invalid_field"
