"""Around the handlers: tokens, scopes, workspaces, hosts, errors in one form, malformed requests."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import ClientError, ClientSession, UnixConnector
from msgspec import structs

from tests.support.api import Api, head, running_api, wire
from webhookd.config import Config, Listen
from webhookd.errors import ERRORS, ApiError
from webhookd.web.api.event_stream import STREAMS
from webhookd.web.router import make_app
from webhookd.web.server.guard import GUARD, _is_loopback_address, host_check
from webhookd.web.server.http_server import Runner
from webhookd.web.server.requests import FIELDS_MAX_BYTES, RequestTimeouts

ONE = b'{"event_type":"message.received"}'


async def make_token(api: Api, scope: str, workspace: str | None = None) -> str:
    _, secret = await api.app.services.tokens.add(scope, workspace)
    return secret


async def ask_raw(api: Api, request: str | bytes) -> tuple[int, dict[str, str], bytes]:
    async with wire(api.port) as line:
        line.send(request)
        return await line.answer()


def break_status(api: Api, fault: Exception) -> None:
    async def failing(workspace: str | None) -> dict[str, object]:
        raise fault.with_traceback(None)  # it is raised more than once

    object.__setattr__(api.app.services, "status", failing)


@asynccontextmanager
async def unix_session(api: Api, socket: Path) -> AsyncIterator[ClientSession]:
    """The same services over a unix socket."""
    runner = Runner(make_app(api.app.services), shutdown_seconds=0.2)
    await runner.setup()
    await runner.listen_unix(socket)
    try:
        async with ClientSession(connector=UnixConnector(str(socket))) as session:
            yield session
    finally:
        await runner.cleanup()


# Tokens
@pytest.mark.parametrize("path", ["/v1/status", "/metrics", "/openapi.json", "/v1/tokens", "/v1/endpoints", "/v1/nope"])
async def test_every_call_wants_a_token(api: Api, path: str) -> None:
    """Without one, with a wrong one, with one in the wrong place: 401 that says how."""
    for token, headers in (
        (None, {}),
        ("whk_admin_wrong", {}),
        (None, {"Authorization": api.admin_token}),
        (None, {"Authorization": f"Basic {api.admin_token}"}),
        (None, {"Authorization": "Bearer"}),
        (None, {"Authorization": "Bearer " + "ü" * 20}),
        (None, {"Cookie": f"token={api.admin_token}"}),
    ):
        answer = await api.get(path, token=token, headers=headers)
        assert (401, "unauthorized") == (answer.status, answer.code)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert api.admin_token.encode() not in answer.body


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_are_open(api: Api, path: str) -> None:
    """No token, and a wrong one does no harm; HEAD as well as GET."""
    assert 200 == (await api.get(path, token=None)).status
    assert 200 == (await api.get(path, token="wrong")).status
    assert 200 == (await api.call("HEAD", path, token=None)).status


async def test_scopes(api: Api) -> None:
    """ingest posts events alone, observe looks at figures alone, admin does everything."""
    observe = await make_token(api, "observe")
    calls = {
        ("GET", "/v1/status"): {"admin": 200, "ingest": 403, observe: 200},
        ("GET", "/metrics"): {"admin": 200, "ingest": 403, observe: 200},
        ("POST", "/v1/events"): {"admin": 202, "ingest": 202, observe: 403},
        ("GET", "/v1/tokens"): {"admin": 200, "ingest": 403, observe: 403},
        ("GET", "/v1/endpoints"): {"admin": 200, "ingest": 403, observe: 403},
        ("GET", "/v1/event-types"): {"admin": 200, "ingest": 403, observe: 403},
        ("POST", "/v1/backup"): {"admin": 200, "ingest": 403, observe: 403},
    }
    for (method, path), expected in calls.items():
        data = ONE if path == "/v1/events" else None
        found = {token: (await api.call(method, path, data=data, token=token)).status for token in expected}
        assert (path, expected) == (path, found)


async def test_a_bound_token_sees_its_workspace_alone(api: Api) -> None:
    """403 for another workspace, for `default` and for what concerns the whole daemon."""
    await api.app.services.workspaces.create("acme")
    await api.app.services.workspaces.create("other")
    admin, ingest = await make_token(api, "admin", "acme"), await make_token(api, "ingest", "acme")
    assert 200 == (await api.get("/v1/workspaces/acme/endpoints", token=admin)).status
    assert 202 == (await api.post("/v1/workspaces/acme/events", data=ONE, token=ingest)).status
    assert 200 == (await api.get("/v1/event-types", token=admin)).status
    for method, path, token in (
        ("GET", "/v1/workspaces/other/endpoints", admin),
        ("GET", "/v1/workspaces/nobody/endpoints", admin),
        ("GET", "/v1/workspaces/acme%2F..%2Fother/endpoints", admin),
        ("GET", "/v1/workspaces/other", admin),
        ("GET", "/v1/endpoints", admin),
        ("POST", "/v1/events", ingest),
        ("POST", "/v1/workspaces/other/events", ingest),
        ("GET", "/v1/tokens", admin),
        ("POST", "/v1/backup", admin),
    ):
        answer = await api.call(method, path, data=ONE if method == "POST" else None, token=token)
        assert (path, 403, "forbidden") == (path, answer.status, answer.code)


async def test_whose_events_another_machine_passes_on(api: Api) -> None:
    """The same rights as for a request: of the token, its scope and its workspace."""
    await api.app.services.workspaces.create("acme")
    guard = make_app(api.app.services)[GUARD]
    observe, ingest = await make_token(api, "observe"), await make_token(api, "ingest", "acme")
    assert "acme" == guard.producers_workspace(f"Bearer {ingest}", "acme").id
    for authorization, workspace, code in (
        (f"Bearer {ingest}", "default", "forbidden"),
        (f"Bearer {observe}", "acme", "forbidden"),
        (f"Basic {ingest}", "acme", "unauthorized"),
        ("Bearer nobody", "acme", "unauthorized"),
        (f"Bearer {await make_token(api, 'ingest')}", "nobody", "not_found"),
    ):
        with pytest.raises(ApiError) as refused:
            guard.producers_workspace(authorization, workspace)
        assert code == refused.value.code


@pytest.mark.parametrize("scope", ["observe", "admin"])
async def test_a_bound_token_observes_its_workspace_alone(api: Api, scope: str) -> None:
    """Figures and status of acme, without a word of another workspace or of the whole daemon."""
    await api.app.services.workspaces.create("acme")
    await api.engine.endpoint("https://acme.example/hook", workspace="acme")
    await api.engine.endpoint("https://default.example/hook")
    await api.engine.send("one")
    token = await make_token(api, scope, "acme")
    status, whole = (await api.get("/v1/status", token=token)), (await api.get("/v1/status")).json
    assert 200 == status.status
    assert {"total": 1, "active": 1, "auto_disabled": 0} == status.json["endpoints"]
    assert (1, 2) == (status.json["workspaces"], whole["workspaces"])
    assert {"database", "last_errors", "unsent_mail", "totals"} <= set(whole) - set(status.json)
    figures = await api.get("/metrics", token=token)
    assert 200 == figures.status
    assert b'webhookd_endpoints{state="active",workspace="acme"} 1.0' in figures.body
    assert b"webhookd_budget_failures" in figures.body and b"webhookd_database_bytes" not in figures.body
    for body in (status.body, figures.body):
        assert b"default" not in body


async def test_a_revoked_token_is_worthless_at_once(api: Api) -> None:
    """401 right after the DELETE."""
    made = (await api.post("/v1/tokens", {"scope": "observe"})).json
    assert 200 == (await api.get("/v1/status", token=made["secret"])).status
    assert 204 == (await api.call("DELETE", f"/v1/tokens/{made['id']}")).status
    assert 401 == (await api.get("/v1/status", token=made["secret"])).status


# Host
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("LOCALHOST.", 401),
        ("127.9.8.7", 401),
        ("[::1]:8780", 401),
        ("evil.example", 421),
        ("webhookd.localhost:8780", 401),
        ("localhost.evil.example", 421),
        ("10.0.0.1", 421),
        ("[::2]", 421),
        ("", 400),
        ("a b", 400),
        (None, 400),
        ("localhost\r\nHost: evil.example", 400),
    ],
)
async def test_the_host_is_checked_by_name(api: Api, host: str | None, status: int) -> None:
    """Loopback names pass with any port (401: no token), others are 421; none, two (RFC 9112) or no host are 400."""
    host_line = "" if host is None else f"Host: {host}\r\n"
    found, _, body = await ask_raw(api, f"GET /openapi.json HTTP/1.1\r\n{host_line}\r\n")
    codes = {401: "unauthorized", 421: "wrong_host", 400: "invalid_request"}
    assert (status, codes[status]) == (found, orjson.loads(body)["error"]["code"])


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize(
    "rest",
    [
        "HTTP/1.0\r\n",
        "HTTP/1.1\r\nHost: 10.0.0.7:8780\r\n",
        "HTTP/1.0\r\nHost: evil.example\r\n",
        "HTTP/1.1\r\nHost: \r\n",
    ],
)
async def test_probes_answer_whatever_the_host(api: Api, path: str, rest: str) -> None:
    """HAProxy's (`option httpchk`: OPTIONS) and Kubernetes' checks name an address, or nothing over HTTP/1.0."""
    for method in ("GET", "OPTIONS"):
        assert 200 == (await ask_raw(api, f"{method} {path} {rest}\r\n"))[0]
    assert 200 != (await ask_raw(api, f"GET {path}/../v1/status {rest}\r\n"))[0]


def test_configured_names_are_own_names() -> None:
    """`listen.host`, `listen.allowed_hosts` and the name of `listen.public_url`, in any case, with any port."""
    listen = Listen(
        host="10.1.2.3",
        insecure_public=True,
        allowed_hosts=("Hooks.Example.com", "fd00::5"),
        public_url="https://Page.example:8443/x",
    )
    knows = host_check(listen)
    good = [
        "10.1.2.3:1",
        "hooks.example.com",
        "HOOKS.EXAMPLE.COM.:443",
        "[fd00::5]:80",
        "page.example:8443",
        "localhost",
    ]
    assert good == [host for host in good if knows(host)]
    assert [] == [
        host for host in ("10.1.2.4", "example.com", "x.hooks.example.com", "page.example.evil") if knows(host)
    ]


# The one form of an error
async def test_unknown_paths_and_methods(api: Api) -> None:
    """404 and 405 in the one form, 405 with Allow; under /v1 only for callers with a token."""
    answer = await api.get("/v1/nope")
    assert (404, "not_found") == (answer.status, answer.code)
    answer = await api.call("DELETE", "/v1/events")
    assert (405, "method_not_allowed") == (answer.status, answer.code)
    assert "POST" in answer.headers["Allow"]
    assert 401 == (await api.call("DELETE", "/v1/events", token=None)).status
    assert (404, "not_found") == ((elsewhere := await api.get("/nope.php", token=None)).status, elsewhere.code)


@pytest.mark.parametrize(
    "target",
    [
        "//v1/tokens",
        "http://evil.example/v1/nope",
        "/v1/workspaces/a%0d%0aX-Evil:%201/endpoints",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/%ff",
    ],
)
async def test_path_tricks_are_harmless(api: Api, target: str) -> None:
    """Each is an ordinary error, and the connection's next request is answered as ever."""
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.admin_token}\r\n\r\n"
    status, headers, body = await ask_raw(api, request)
    assert status in (400, 404, 405, 421)
    assert orjson.loads(body)["error"]["code"] in ERRORS
    assert "x-evil" not in headers and b"root:" not in body
    assert 200 == (await api.get("/healthz")).status


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["words", "header", "smuggling"],
)
async def test_malformed_requests_get_the_one_form(api: Api, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """400 in JSON, the connection closed, nothing logged as an error."""
    caplog.set_level(logging.WARNING)
    async with wire(api.port) as line:
        line.send(garbage)
        status, headers, body = await line.answer()
        assert (400, "application/json; charset=utf-8") == (status, headers["content-type"])
        assert "invalid_request" == orjson.loads(body)["error"]["code"]
        assert b"" == await line.ended()
    assert [] == caplog.records


async def test_an_internal_error_shows_only_its_incident_number(api: Api) -> None:
    """500 with an incident that the log has too, with the traceback; the same fault has the same number."""
    break_status(api, RuntimeError("a secret detail"))
    first, second = await api.get("/v1/status"), await api.get("/v1/status")
    assert (500, "internal_error") == (first.status, first.code)
    assert b"secret detail" not in first.body and b"Traceback" not in first.body
    assert first.json["error"]["details"]["incident"] == second.json["error"]["details"]["incident"]
    assert 202 == (await api.post("/v1/events", data=ONE)).status


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (MemoryError(), 503),
        (OSError(errno.EMFILE, "Too many open files"), 503),
        (OSError(errno.ENOBUFS, "No buffer space available"), 503),
        (RuntimeError("can't start new thread"), 503),
        (OSError(errno.EACCES, "Permission denied"), 500),
        (KeyError("x"), 500),
    ],
    ids=repr,
)
async def test_a_shortage_of_the_machine_is_no_fault(api: Api, fault: Exception, status: int) -> None:
    """503 with Retry-After for what passes by itself, of the API and on the page; 500 for what doesn't."""
    break_status(api, fault)
    answer = await api.get("/v1/status")
    assert (status, status == 503) == (answer.status, "Retry-After" in answer.headers)


async def test_a_fault_after_an_answer_began_ends_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """No end of an answer is better than a wrong one: a backup that fails half-way is seen to be no whole one."""
    monkeypatch.setattr("webhookd.web.api.operations.COPY_PIECE_BYTES", "no number")
    with pytest.raises((ClientError, TimeoutError)):
        await api.post("/v1/backup")
    assert 202 == (await api.post("/v1/events", data=ONE)).status


async def test_a_caller_that_has_gone_is_no_fault(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """What a handler finds out by a broken connection is not answered and not complained of."""
    break_status(api, ConnectionResetError())
    with pytest.raises(ClientError):
        await api.get("/v1/status")
    assert [] == caplog.records


async def test_expect_is_understood(api: Api) -> None:
    """100 before the body for HTTP/1.1, nothing for HTTP/1.0, 400 for anything else that is expected."""
    sent = head(api, Content_Length=str(len(ONE)), Expect="100-continue")
    async with wire(api.port) as line:
        line.send(sent)
        assert 100 == (await line.answer())[0]
        line.send(ONE)
        assert 202 == (await line.answer())[0]
    assert 202 == (await ask_raw(api, sent.replace("HTTP/1.1", "HTTP/1.0").encode() + ONE))[0]
    assert 400 == (await ask_raw(api, sent.replace("100-continue", "a miracle")))[0]


async def test_local_programs_can_be_trusted_to_post_events(tmp_path: Path) -> None:
    """`trust_local_ingest`: over loopback and the unix socket; to post events alone, and never through a proxy."""
    async with running_api(tmp_path, Config(listen=Listen(trust_local_ingest=True))) as api:
        async with unix_session(api, tmp_path / "socket") as session:
            for name, value, status in (
                ("X-Request-Id", "1", 202),
                ("X-Forwarded-For", "127.0.0.1", 401),
                ("Forwarded", "for=127.0.0.1", 401),
                ("Sec-Fetch-Site", "none", 401),
                ("X-Real-IP", "127.0.0.1", 401),
                ("Via", "1.1 proxy", 401),
                ("Origin", "http://localhost", 401),
            ):
                headers = {"Content-Type": "application/json", name: value}
                answer = await api.post("/v1/events", data=ONE, token=None, headers=headers)
                async with session.post("http://localhost/v1/events", data=ONE, headers=headers) as over_unix:
                    assert (name, status, status) == (name, answer.status, over_unix.status)
        assert 422 == (await api.post("/v1/events?x=1", data=ONE, token=None)).status
        assert 401 == (await api.post("/v1/events", data=ONE, token="wrong")).status
        assert 401 == (await api.get("/v1/status", token=None)).status


@pytest.mark.parametrize(
    ("listen", "host", "over_tcp"),
    [
        (Listen(), "localhost", 202),
        (Listen(), "127.0.0.1:8780", 202),
        (Listen(), "[::1]", 202),
        (Listen(), "app.localhost", 202),
        (Listen(allowed_hosts=("hooks.example.com",)), "hooks.example.com", 401),
        (Listen(public_url="https://hooks.example.com"), "hooks.example.com", 401),
        (Listen(public_url="https://hooks.example.com"), "localhost", 401),
    ],
)
async def test_loopback_is_trusted_under_its_own_names_and_without_a_public_url(
    tmp_path: Path, listen: Listen, host: str, over_tcp: int
) -> None:
    """A proxy on this machine calls from loopback too; over the unix socket the file's mode decides."""
    async with running_api(tmp_path, Config(listen=structs.replace(listen, trust_local_ingest=True))) as api:
        headers = {"Content-Type": "application/json", "Host": host}
        assert over_tcp == (await api.post("/v1/events", data=ONE, token=None, headers=headers)).status
        async with (
            unix_session(api, tmp_path / "socket") as session,
            session.post("http://localhost/v1/events", data=ONE, headers=headers) as answer,
        ):
            assert 202 == answer.status


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("2606:4700::1111", False),
    ],
)
def test_who_is_a_program_of_this_machine(address: str, local: bool) -> None:
    """Loopback of either family, however it is written."""
    assert local == _is_loopback_address(address)


async def test_security_headers_are_on_every_answer(api: Api) -> None:
    """Success, error, 404 and probes: no sniffing, no storing, no framing, no version of ours."""
    for path, token in (("/v1/tokens", "admin"), ("/v1/tokens", None), ("/nope", None), ("/healthz", None)):
        headers = (await api.get(path, token=token)).headers
        assert ("nosniff", "no-store") == (headers["X-Content-Type-Options"], headers["Cache-Control"])
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "aiohttp" not in headers.get("Server", "")


# Bodies with fields
@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b"\xff", "application/json", 400, "invalid_json"),
        (b"[]", "application/json", 422, "invalid_field"),
        (b"5", "application/json", 422, "invalid_field"),
        (b"{}", "application/json", 422, "invalid_field"),
        (b'{"scope":"root"}', "application/json", 422, "invalid_field"),
        (b'{"scope":["admin"]}', "application/json", 422, "invalid_field"),
        (b'{"scope":"admin","note":5}', "application/json", 422, "invalid_field"),
        (b'{"scope":"admin","workspace":"nobody"}', "application/json", 404, "not_found"),
        (b"scope=admin", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"scope":"admin"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"scope":"admin"}' + b" " * FIELDS_MAX_BYTES, "application/json", 413, "payload_too_large"),
        (b"[" * 100_000, "application/json", 400, "invalid_json"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_faulty_fields_are_refused(api: Api, data: bytes, content_type: str, status: int, code: str) -> None:
    """Each fault has its code, and `details.field` names the field."""
    answer = await api.post("/v1/tokens", data=data, headers={"Content-Type": content_type})
    assert (status, code) == (answer.status, answer.code)
    if code == "invalid_field" and b"{" in data:
        assert answer.json["error"]["details"]["field"] in ("scope", "note")


async def test_unknown_fields_are_all_named(api: Api) -> None:
    """422 with every one of them, and the nearest known name for the first."""
    answer = await api.post("/v1/tokens", {"scop": "admin", "notes": "x", "workspace": None})
    assert (422, "unknown_field") == (answer.status, answer.code)
    assert ["scop", "notes"] == answer.json["error"]["details"]["fields"]
    assert '"scope"' in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("limit=0", 422, "invalid_field"),
        ("limit=501", 422, "invalid_field"),
        ("limit=x", 422, "invalid_field"),
        ("limit=5&limit=6", 422, "invalid_field"),
        ("lmit=5", 422, "unknown_field"),
        ("cursor=%21%21", 400, "invalid_request"),
        ("cursor=" + "A" * 1000, 400, "invalid_request"),
        ("cursor=_w", 400, "invalid_request"),
        ("limit=null", 422, "invalid_field"),
        ("limit=", 200, ""),
        ("limit=500", 200, ""),
    ],
)
async def test_parameters_are_checked(api: Api, query: str, status: int, code: str) -> None:
    """Wrong values, unknown names, cursors of somebody else's; one that is empty counts as left out."""
    answer = await api.get(f"/v1/tokens?{query}")
    assert status == answer.status
    if code:
        assert code == answer.code


async def test_a_slow_body_of_fields_is_given_up(tmp_path: Path) -> None:
    """408 once the request timeout is over, also where bytes keep coming."""
    async with running_api(tmp_path, timeouts=RequestTimeouts(body_seconds=0.15)) as api, wire(api.port) as line:
        line.send(head(api, "POST", "/v1/tokens", Authorization=f"Bearer {api.admin_token}", Content_Length="1000"))
        answering = asyncio.create_task(line.json())
        for _ in range(200):
            line.send(b" ")
            await asyncio.wait([answering], timeout=0.02)
            if answering.done():
                break
        status, report = await answering
        assert (408, "request_timeout") == (status, report["error"]["code"])


# Connections
@pytest.mark.parametrize("requests", [1, 2, 5])
@pytest.mark.parametrize("pieces", [1, 2, 200])
async def test_a_caller_that_has_said_all_is_answered(api: Api, requests: int, pieces: int) -> None:
    """`nc -N` ends its side after the request: each request that came whole is answered, then the connection ends."""
    async with wire(api.port) as line:
        sent = (head(api, Content_Length=str(len(ONE))).encode() + ONE) * requests
        size = -(-len(sent) // pieces)
        for begin in range(0, len(sent), size):
            line.send(sent[begin : begin + size])
            await asyncio.sleep(0)
        line.end()
        assert requests == (await line.ended()).count(b"HTTP/1.1 202 Accepted")


async def test_a_caller_that_ends_before_it_has_said_all_is_not_waited_for(api: Api) -> None:
    """In the headers, in the body, between two requests, or while it listens: the connection ends, nothing is done."""
    whole = head(api, Content_Length=str(len(ONE))).encode() + ONE
    stream = head(api, "GET", "/v1/deliveries/stream", Authorization=f"Bearer {api.admin_token}").encode()
    for sent, answered in ((b"", 0), (whole[:20], 0), (whole[:-1], 0), (whole, 1), (stream, 1)):
        async with wire(api.port) as line:
            line.send(sent)
            if answered:
                await line.answer()
            line.end()
            await line.ended()
    assert 1 == api.app.services.ingest.accepted_count


async def test_at_the_bound_silent_connections_make_room(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the descriptors are for callers; beyond that the oldest that never asked for anything is ended."""
    monkeypatch.setattr("webhookd.web.server.http_server._connections_max", lambda: 3)
    ask = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with wire(api.port) as busy, wire(api.port) as silent, wire(api.port) as other:
        busy.send(ask)
        assert 200 == (await busy.answer())[0]
        async with wire(api.port) as newest:
            assert b"" == await silent.ended()
            for line in (busy, other, newest):
                line.send(ask)
                assert 200 == (await line.answer())[0]


async def test_a_connection_too_many_is_refused_where_all_others_are_busy(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After, asked or not, and the end; no request is cut off for a newcomer."""
    monkeypatch.setattr("webhookd.web.server.http_server._connections_max", lambda: 2)
    async with wire(api.port) as one, wire(api.port) as two:
        for line in (one, two):
            line.send(head(api, Transfer_Encoding="chunked", Content_Type="application/x-ndjson"))
        async with asyncio.timeout(10):
            while len(api.application[STREAMS]) < 2:
                await asyncio.sleep(0.001)
        for asks in (True, False):
            async with wire(api.port) as three:
                three.send(head(api, Content_Length="100000") * asks)
                status, headers, body = await three.answer()
                assert (503, "2", "close") == (status, headers["retry-after"], headers["connection"])
                assert "unavailable" == orjson.loads(body)["error"]["code"]
                assert b"" == await three.ended()
        for line in (one, two):
            line.chunk(b"")
            assert 202 == (await line.answer())[0]


async def test_a_redirect_of_a_page_passes(api: Api) -> None:
    """What isn't an error is left as it is."""
    answer = await api.get("/", token=None)
    assert 303 == answer.status
