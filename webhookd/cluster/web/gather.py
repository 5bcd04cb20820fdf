"""What concerns the workspaces of all partitions: lists, the status, and a machine's metrics, made of each one's."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from webhookd.errors import ApiError
from webhookd.web.server.responses import json_response

LISTS = ("/v1/workspaces", "/v1/tokens", "/v1/sessions")
DEFAULT_LIMIT, MOST = 100, 1000
_NOT_SUMMED = ("webhookd_info", "webhookd_uptime", "process_", "python_")
_NOT_ADDED = ("version", "started_at", "sqlite_version", "uptime_seconds", "loop_lag_ms", "free_bytes")


@dataclass(frozen=True, slots=True)
class Answer:
    """One partition's answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def response(self) -> web.Response:
        """As it is."""
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("content-length", "date")}
        kept.pop("Transfer-Encoding", None)
        return web.Response(status=self.status, body=self.body, headers=kept)


# Asks one partition the same with another path and query.
Ask = Callable[[web.Request, int, str], Awaitable[Answer]]


async def pages(request: web.Request, partitions: int, home: int, ask: Ask) -> web.Response:
    """A page of a list: one partition after the other, the home first; the cursor says which."""
    query = dict(request.rel_url.query)
    number, inner = _cursor(query.pop("cursor", ""))
    limit = query.get("limit", "")
    left = min(int(limit), MOST) if limit.isdecimal() and int(limit) else DEFAULT_LIMIT
    order = [home, *(each for each in range(partitions) if each != home)]
    found: list[Any] = []
    refused: Answer | None = None
    for place in range(number, partitions):
        asked = {**query, **({"limit": str(left)} if limit else {}), **({"cursor": inner} if inner else {})}
        answer = await ask(request, order[place], f"{request.path}?{urlencode(asked)}" if asked else request.path)
        if answer.status != 200:
            refused = refused or answer  # a bound token is known in one partition alone
            if answer.status not in (401, 403):
                return answer.response()
            inner = ""
            continue
        page = orjson.loads(answer.body)
        # Unbound tokens and sessions are in every partition.
        found += [each for each in page["data"] if place == 0 or each.get("workspace", each.get("id")) is not None]
        left = max(1, left - len(page["data"]))
        inner = page["next"] or ""
        if inner or (len(found) >= int(limit or DEFAULT_LIMIT) and place + 1 < partitions):
            return json_response({"data": found, "next": _encoded(place if inner else place + 1, inner)})
    if refused is not None and not found:
        return refused.response()
    return json_response({"data": found, "next": None})


async def status(request: web.Request, partitions: int, ask: Ask) -> web.Response:
    """The status of all partitions, added up."""
    total: Any = None
    refused: Answer | None = None
    for number in range(partitions):
        answer = await ask(request, number, request.raw_path)
        if answer.status != 200:
            refused = refused or answer
            continue
        total = orjson.loads(answer.body) if total is None else _added("", total, orjson.loads(answer.body))
    if total is None:
        assert refused is not None
        return refused.response()
    return json_response(total)


def metrics(answers: Sequence[Answer], more: str) -> web.Response:
    """The metrics of several partitions, those with the same labels added up, and `more` of the cluster's own."""
    if answers[0].status != 200:
        return answers[0].response()
    families: dict[str, dict[str, float | None]] = {}  # its lines with their values; None for a comment
    for answer in answers:
        family = families.setdefault("", {})
        for line in answer.body.decode().splitlines():
            if line.startswith("# "):
                family = families.setdefault(line.split()[2], {})
                family.setdefault(line)
                continue
            name, _, value = line.rpartition(" ")
            known = family.get(name)
            if known is None:
                family[name] = float(value)
            elif not name.startswith(_NOT_SUMMED):
                family[name] = known + float(value)
    rows = [row for family in families.values() for row in family.items()]
    lines = [name if value is None else f"{name} {value:.17g}" for name, value in rows]
    text = "\n".join([*lines, more.rstrip("\n"), ""])
    return web.Response(body=text.encode(), headers={"Content-Type": answers[0].headers["Content-Type"]})


def _added(name: str, one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        names = [*one, *(each for each in other if each not in one)]
        return {each: _added(each, one[each], other[each]) if each in one and each in other else
                one.get(each, other.get(each)) for each in names}  # fmt: skip
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *(each for each in other if each not in one)]
    if isinstance(one, bool):
        return one or other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return max(one, other) if name in _NOT_ADDED else round(one + other, 3)
    return one


def _cursor(text: str) -> tuple[int, str]:
    if not text:
        return 0, ""
    try:
        number, _, inner = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
        return int(number), inner
    except (binascii.Error, ValueError) as error:
        raise ApiError("invalid_field", "cursor is not one that a list gave.", details={"field": "cursor"}) from error


def _encoded(place: int, inner: str) -> str:
    return base64.urlsafe_b64encode(f"{place}:{inner}".encode()).decode().rstrip("=")
