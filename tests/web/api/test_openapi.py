"""The document and the routes are one: everything served is described, everything described is served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.api import Api
from webhookd.admin.tokens import Scope
from webhookd.errors import ERRORS
from webhookd.rules.event_types import BUILT_IN
from webhookd.web.api.openapi import document, paths_of, with_webhooks
from webhookd.web.router import ROUTES

DOCUMENT: dict[str, Any] = orjson.loads(with_webhooks(document(ROUTES), BUILT_IN))
OPERATIONS = [
    (path, method, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (ref for name, ref in value.items() if name == "$ref")
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from refs(each)


async def test_what_is_served_and_what_is_described_are_the_same(api: Api) -> None:
    """Both ways, the page's own paths, HEAD and the probes' OPTIONS apart; and it is served as it was made."""
    served = {
        (resource.canonical, route.method)
        for route in api.application.router.routes()
        if (resource := route.resource) is not None
        and (resource.canonical.startswith("/v1") or resource.canonical in DOCUMENT["paths"])
        and route.method not in ("HEAD", "OPTIONS")
    }
    described = {(path, method.upper()) for path, method, _ in OPERATIONS}
    assert served == described
    assert DOCUMENT == (await api.get("/openapi.json")).json


def test_every_workspaced_path_has_its_shorthand() -> None:
    """Below /v1 for `default`, as in `manual/api.md`."""
    paths = set(DOCUMENT["paths"])
    prefix = "/v1/workspaces/{workspace}"
    assert [] == [path for path in paths if path.startswith(prefix + "/") and "/v1" + path[len(prefix) :] not in paths]


def test_the_paths_of_the_contract_are_there() -> None:
    """Every path that `manual/api.md` names."""
    endpoint = [
        f"endpoints/{{}}{action}"
        for action in ("", "/enable", "/disable", "/test", "/rotate-key", "/signing-key", "/backfill")
    ]
    deliveries = ["deliveries", "deliveries/{}", "deliveries/stream", "deliveries/{}/replay", "replay"]
    below = ["endpoints", *endpoint, "events", "events/{}", *deliveries, "budget"]
    shown = ["/v1/event-types", "/healthz", "/readyz", "/metrics", "/v1/status", "/v1/backup", "/openapi.json"]
    whole = ["/v1/workspaces", "/v1/workspaces/{}", *shown, "/v1/tokens", "/v1/tokens/{}", "/v1/mail/test"]
    expected = {*whole, *(f"/v1/{path}" for path in below), *(f"/v1/workspaces/{{}}/{path}" for path in below)}
    assert set() == expected - {re.sub(r"\{[^}]+\}", "{}", path) for path in DOCUMENT["paths"]}


def test_references_lead_somewhere() -> None:
    """Every `$ref` names a schema that is there, and every schema is used."""
    names = {ref.removeprefix("#/components/schemas/") for ref in refs(DOCUMENT)}
    assert set() == names - set(DOCUMENT["components"]["schemas"])


def test_operations_have_names_of_their_own() -> None:
    """`operationId` is unique: programs that make clients need that."""
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert sorted(set(ids)) == sorted(ids)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda value: str(value)[:60])
def test_an_operation_is_complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """A summary, every path parameter, an answer of success, and the refusals with codes of the table."""
    assert operation["summary"] and operation["description"]
    named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
    assert set(re.findall(r"\{([^}:]+)", path)) == named
    assert any(status.startswith("2") for status in operation["responses"])
    assert "421" in operation["responses"]
    opened = operation.get("security") == []
    assert opened == (path in ("/healthz", "/readyz"))
    assert opened != ("401" in operation["responses"])
    for status, answer in operation["responses"].items():
        examples = answer.get("content", {}).get("application/json", {}).get("examples", {})
        assert [] == [code for code in examples if ERRORS[code].status != int(status)]


def test_the_rows_of_the_routes_are_sound() -> None:
    """Codes of the table, each route once, scopes that fit, handlers that tell what they do."""
    seen = [(route.method, path) for route in ROUTES for path in paths_of(route)]
    assert len(set(seen)) == len(seen)
    for route in ROUTES:
        assert set(route.errors) <= set(ERRORS)
        assert route.handler.__doc__
        assert not (route.unbound and route.workspaced)
        assert (route.scope is None) == (route.path in ("/healthz", "/readyz"))
        assert (route.scope is Scope.INGEST) == (route.path == "/events" and route.method == "POST")


async def test_every_route_wants_its_token(api: Api) -> None:
    """Not one of them answers anything but 401 to a caller without a token, the two probes apart."""
    for route in ROUTES:
        for path in paths_of(route):
            target = re.sub(r"\{[^}]+\}", "x", path)
            answer = await api.call(route.method, target, token=None)
            assert (path, 200 if route.scope is None else 401) == (path, answer.status)


def test_the_schema_of_an_error_lists_the_codes() -> None:
    """Programs can rely on the list."""
    assert list(ERRORS) == DOCUMENT["components"]["schemas"]["ErrorDetail"]["properties"]["code"]["enum"]
