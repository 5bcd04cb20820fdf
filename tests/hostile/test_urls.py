"""Every hostile URL at each of the three gates, judged by what is dialled in the end and not by our own error alone.

Each gate is tried by itself, as if those before it had failed: the first by the API, the second by the sender with a
URL (or a name that a real name server answers for) that was never checked, the third with another reading of the URL
and a resolver that lies, so that only the socket factory is in between.  Python's audit hook sees every connect, and
lets none through.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.hostile.urls import CASES, OWN_PORT, Case, Saved, Sent
from tests.support.api import Api, running_api
from tests.support.nameserver import NameServer
from tests.support.watch import Watch, watch
from webhookd.clock import SystemClock
from webhookd.config import Config, Limits
from webhookd.config import Egress as EgressSettings
from webhookd.models import Outcome, Reason, Request
from webhookd.rules.ip_policy import Address, Network, OwnAddress
from webhookd.sender.attempt_trace import AttemptTrace
from webhookd.sender.client import HttpSender, default_ssl_context
from webhookd.sender.egress import DnsResolver, Egress

OWN = OwnAddress(ip_address("127.0.0.1"), OWN_PORT)
NOTHING: list[Network] = []
EVERYTHING: list[Network] = [ip_network("0.0.0.0/0"), ip_network("::/0")]
TLS = default_ssl_context()

EACH = pytest.mark.parametrize("case", [pytest.param(case, id=f"{name} | {case.url[:60]!a}") for name, case in CASES])


# --- saved ------------------------------------------------------------------------------------------------------
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Api, Api]]:
    """Two webhookds: one with nothing in egress.allow, one with everything."""
    folders = tmp_path_factory.mktemp("closed"), tmp_path_factory.mktemp("open")
    async with _api(folders[0], ()) as closed, _api(folders[1], ("0.0.0.0/0", "::/0")) as opened:
        yield closed, opened


@asynccontextmanager
async def _api(state_dir: Path, allow: Sequence[str]) -> AsyncIterator[Api]:
    settings = Config(egress=EgressSettings(allow=tuple(allow)), limits=Limits(endpoints=10_000))
    async with running_api(state_dir, settings) as api:
        api.app.client.set_own([OWN])
        yield api


@EACH
@pytest.mark.asyncio(loop_scope="module")
async def test_saved(apis: tuple[Api, Api], case: Case) -> None:
    """Made or changed over the API, the URL is kept or refused with its code; one sentence, no raw character in it."""
    for api, expected in zip(apis, case.saved, strict=True):
        made = await _save(api, "POST", "/v1/endpoints", {"url": case.url, "event_types": ["*"]})
        if expected is Saved.KEPT:
            assert "" == made, case
            continue
        other = await api.post("/v1/endpoints", {"url": f"https://other.example/{id(case)}", "event_types": ["*"]})
        changed = await _save(api, "PATCH", f"/v1/endpoints/{other.json['id']}", {"url": case.url})
        await api.call("DELETE", f"/v1/endpoints/{other.json['id']}")
        assert [_code(case, expected)] * 2 == [made, changed]


async def _save(api: Api, method: str, path: str, fields: dict[str, object]) -> str:
    headers = {"Content-Type": "application/json"}
    answer = await api.call(method, path, data=json.dumps(fields).encode(), headers=headers)
    if answer.status < 400:
        await api.call("DELETE", f"/v1/endpoints/{answer.json['id']}")
        return ""
    assert answer.json["error"]["message"].isprintable()
    return answer.code


def _code(case: Case, expected: Saved) -> str:
    return "invalid_json" if "\ud800" in case.url else expected


# --- resolved ---------------------------------------------------------------------------------------------------
@EACH
async def test_resolved(case: Case) -> None:
    """Used though it was never checked: blocked, its name never asked for; and so is a name that leads there."""
    async with NameServer({"leads.test": case.leads_to}) as names:
        for allowed, saved in zip((NOTHING, EVERYTHING), case.saved, strict=True):
            if saved is not Saved.KEPT:
                with watch(through=False) as watching:
                    outcome = await _post(names, allowed, case.url)
                assert (Reason.BLOCKED_ADDRESS, [], []) == (outcome.reason, watching.dialled, names.asked)
            with watch(through=False) as watching:
                outcome = await _post(names, allowed, f"http://leads.test:{_port(case)}/")
            _check(case, allowed, watching, outcome)
            names.asked.clear()


def _check(case: Case, allowed: list[Network], watching: Watch, outcome: Outcome) -> None:
    """Nothing dialled where it is denied; where it isn't, exactly the addresses that were judged."""
    if _may_be_dialled(case, allowed):
        assert set(case.leads_to) == watching.hosts, outcome
        assert Reason.BLOCKED_ADDRESS != outcome.reason
    else:
        assert (Reason.BLOCKED_ADDRESS, []) == (outcome.reason, watching.dialled)


def _may_be_dialled(case: Case, allowed: list[Network]) -> bool:
    return case.sent is Sent.PUBLIC or (case.sent is Sent.IF_ALLOWED and allowed is EVERYTHING)


async def _post(names: NameServer, allowed: list[Network], url: str) -> Outcome:
    egress = _egress(names, allowed)
    sender = HttpSender(egress, timeout_seconds=5.0, clock=SystemClock(), ssl_context=TLS)
    try:
        return await sender.post(Request(url, (), b"{}", False))
    finally:
        await sender.close()


def _egress(names: NameServer, allowed: list[Network]) -> Egress:
    egress = Egress(allowed, allow_http=True, resolver=DnsResolver([names.address]))
    egress.set_own([OWN])
    return egress


def _port(case: Case) -> int:
    return OWN_PORT if f":{OWN_PORT}" in case.url else 80


# --- connected --------------------------------------------------------------------------------------------------
@EACH
async def test_connected(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another parser and a resolver that lies: the socket factory alone keeps it from being dialled."""
    async with NameServer({}) as names:
        for allowed in (NOTHING, EVERYTHING):
            egress = _egress(names, allowed)
            monkeypatch.setattr(egress, "resolve", _liar(case))
            with watch(through=False) as watching:
                await _dial(egress, case.url)
            if not _may_be_dialled(case, allowed):
                assert [] == watching.dialled
            with watch(through=False) as watching:
                trace = await _dial(egress, f"http://leads.test:{_port(case)}/")
            if _may_be_dialled(case, allowed):
                assert set(case.leads_to) == watching.hosts
            else:
                assert trace.failure is not None
                assert (Reason.BLOCKED_ADDRESS, []) == (trace.failure.reason, watching.dialled)
            await egress.close()


def _liar(case: Case) -> object:
    async def resolve(name: str, port: int) -> list[Address]:
        return [ip_address(text) for text in case.leads_to]

    return resolve


async def _dial(egress: Egress, url: str) -> AttemptTrace:
    trace = AttemptTrace()
    with suppress(OSError, ValueError):
        read = urlsplit(url)
        (await egress.dial(read.hostname or "", read.port or 80, trace)).close()
    return trace
