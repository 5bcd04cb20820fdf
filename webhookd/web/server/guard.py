"""Around every handler: whose name was called (Host), who may (token, scope, workspace), and how a refusal is said.

What depends on the route alone is decided once, when the routes are registered (`Guard.protect`); what is left for
each request is one look-up by a hash.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from webhookd import log
from webhookd.admin.tokens import Scope
from webhookd.config import Listen, is_loopback
from webhookd.errors import ApiError
from webhookd.models import Token
from webhookd.sender.host import SHORTAGES
from webhookd.web.server.memory_limit import let_go
from webhookd.web.server.requests import (
    CALLER,
    SECURITY_HEADERS,
    NoFields,
    Route,
    json_response,
    read_query,
    workspace_id,
)
from webhookd.web.server.responses import ReadyResponse
from webhookd.web.services import Services

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SHORTAGE_RETRY_SECONDS = 2
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")
# A request with one of these was passed on by a proxy or sent by a page in a browser: it isn't a local program's own.
_NOT_LOCAL = ("Forwarded", "Origin", "Sec-Fetch-Site")
_NOT_LOCAL_PREFIX = "x-forwarded-"

# aiohttp's own refusals, said in ours.
_OF_AIOHTTP = {
    400: ("invalid_request", "The request is malformed."),
    404: ("not_found", "There is nothing at this path. GET /openapi.json lists what there is."),
    413: ("payload_too_large", "The request is larger than allowed."),
    415: ("unsupported_media_type", "The body's type is not one that this path takes."),
    421: ("wrong_host", "The Host header names none of webhookd's own names."),
}


class Guard:
    """Decides who may call what.  `listen` can't change while running, so it is looked at once."""

    def __init__(self, services: Services) -> None:
        listen = services.settings().listen
        self._check = services.tokens.check
        self._trusts_local = listen.trust_local_ingest
        self._knows_host = lru_cache(1024)(host_check(listen))

    async def answer(self, request: web.Request, handle: Handler) -> web.StreamResponse:
        """Around the whole application: the Host header is checked, every failure becomes an answer.

        aiohttp's own middlewares and signals would do the same for a tenth of a small request's time.
        """
        try:
            self._check_host(request)
            response = await handle(request)
        except ApiError as refusal:
            response = refused(refusal)
        except web.HTTPException as error:
            response = self._of_aiohttp(request, error)
        except ConnectionError:
            raise  # nobody is there any more; aiohttp ends quietly
        except Exception as error:
            said = failure(request.method, request.path, error)
            if request.writer.output_size > 0:  # no end of an answer is better than a wrong one
                raise ConnectionResetError("the answer had begun") from error
            response = refused(said)
        finally:
            let_go(request)
        if type(response) is not ReadyResponse and not response.prepared:
            headers = response.headers
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        return response

    def protect(self, route: Route) -> Handler:
        """The route's handler behind the checks of its row."""
        handler, scope, query = route.handler, route.scope, route.query
        if scope is None:
            return handler
        allowed = frozenset({Scope.ADMIN, scope})
        trusts_local = self._trusts_local and scope is Scope.INGEST
        names_workspace = route.workspaced or "{workspace}" in route.path

        async def guarded(request: web.Request) -> web.StreamResponse:
            token = self._caller(request, trusts_local=trusts_local)
            if token is not None:
                if token.scope not in allowed:
                    raise _wrong_scope(token, scope)
                if token.workspace is not None:
                    _check_workspace(request, token, route, names_workspace=names_workspace)
                request[CALLER] = token
            if query is None and request.rel_url.raw_query_string:
                read_query(request, NoFields)
            return await handler(request)

        return guarded

    def _caller(self, request: web.Request, *, trusts_local: bool) -> Token | None:
        """The caller's token; None for a local program that is trusted without one."""
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is None:
            if trusts_local and _is_local_program(request):
                return None
            raise ApiError(
                "unauthorized",
                "This call needs a token: send it as `Authorization: Bearer …`. The first ones are in the files "
                "admin-token and ingest-token of webhookd's state directory.",
            )
        scheme, _, secret = header.partition(" ")
        token = self._check(secret.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise ApiError(
                "unauthorized", "webhookd doesn't know this token. `webhookd token list` shows those that there are."
            )
        return token

    def _check_host(self, request: web.Request) -> None:
        hosts = request.headers.getall(hdrs.HOST, ())
        if "://" in request.raw_path[:10]:  # a whole URL names the host, whatever the header says (RFC 9112, 3.2.2)
            hosts = [request.raw_path.partition("://")[2].partition("/")[0]]
        if len(hosts) == 1 and self._knows_host(hosts[0]):
            return
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise ApiError("invalid_request", "The request needs one Host header with a name and, maybe, a port.")
        raise ApiError(
            "wrong_host",
            f"The Host header names {hosts[0][:100]!r}, which is none of webhookd's own names. Add it to "
            "listen.allowed_hosts if it is meant.",
        )

    def _of_aiohttp(self, request: web.Request, error: web.HTTPException) -> web.StreamResponse:
        if error.status in (404, 405) and request.path.startswith("/v1/"):
            try:
                self._caller(request, trusts_local=False)  # what there is under /v1 is told to callers alone
            except ApiError as refusal:
                return refused(refusal)
        if isinstance(error, web.HTTPMethodNotAllowed):
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{request.method[:20]} is not possible here; {allowed} is."
            return refused(ApiError("method_not_allowed", message), {"Allow": allowed})
        code, message = _OF_AIOHTTP.get(error.status, ("invalid_request", "The request is malformed."))
        return refused(ApiError(code, message))


GUARD = web.AppKey("guard", Guard)


def host_check(listen: Listen) -> Callable[[str], bool]:
    """A function that says whether a Host header names one of our own names, whatever the port."""
    own = {listen.host, *listen.allowed_hosts, urlsplit(listen.public_url).hostname or ""} - {""}
    names = frozenset(map(_bare_name, own))

    def knows(host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = _bare_name(found[1])
        # *.localhost is loopback's (RFC 6761, section 6.3): nobody can have such a name elsewhere, so none rebinds.
        return name in names or is_loopback(name) or name.endswith(".localhost")

    return knows


def refused(refusal: ApiError, headers: Mapping[str, str] | None = None) -> web.Response:
    """The answer that says a refusal."""
    extra = dict(headers or {})
    if refusal.retry_after_seconds is not None:
        extra["Retry-After"] = str(refusal.retry_after_seconds)
    if refusal.status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="webhookd"'
    return json_response(refusal.body(), refusal.status, extra)


def whole(answer: web.Response) -> bytes:
    """A refusal as it goes over the wire where no request was read, with the end of the connection announced."""
    body = answer.body
    assert isinstance(body, bytes)
    headers = {**SECURITY_HEADERS, **answer.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def failure(method: str, path: str, error: BaseException) -> ApiError:
    """The refusal for a fault of our own, which is logged in full; the same fault has the same incident number.

    That the machine has no descriptor, memory or thread left is none: the caller is to come back (`unavailable`).
    """
    if is_shortage(error):
        log.throttled("resource.exhausted", error=f"{type(error).__name__}: {error}")
        return ApiError(
            "unavailable",
            "The machine has no descriptor, memory or thread left for this. Try again in a moment.",
            retry_after_seconds=SHORTAGE_RETRY_SECONDS,
        )
    text = "".join(traceback.format_exception(error))
    places = [f"{each.filename}:{each.lineno}" for each in traceback.extract_tb(error.__traceback__)]
    incident = hashlib.sha256("\n".join([type(error).__name__, *places]).encode()).hexdigest()[:12]
    log.throttled("request.failed", key=incident, incident=incident, method=method, path=path, status=500, error=text)
    return ApiError(
        "internal_error",
        f"webhookd failed at this, which is a fault of its own. Its log has it as incident {incident}.",
        details={"incident": incident},
    )


def is_shortage(error: BaseException) -> bool:
    """Whether a fault is the machine's, which ran out of something, and passes by itself."""
    if isinstance(error, OSError):
        return error.errno in SHORTAGES
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


async def expect(request: web.Request) -> web.StreamResponse | None:
    """`Expect: 100-continue`, the only one there is (RFC 9110, section 10.1.1); any other is refused."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return refused(ApiError("invalid_request", "Of Expect, only 100-continue is understood."))
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the answer
    return None


def _bare_name(host: str) -> str:
    """A host as it is compared: lower case, without brackets and the root's dot."""
    return host.lower().strip("[]").rstrip(".")


def _wrong_scope(token: Token, needed: Scope) -> ApiError:
    return ApiError(
        "forbidden",
        f"A token of scope {token.scope!r} is not good for this; it needs {needed.value!r}"
        + ("." if needed is Scope.ADMIN else " or 'admin'."),
        details={"scope": token.scope, "needed": needed.value},
    )


def _check_workspace(request: web.Request, token: Token, route: Route, *, names_workspace: bool) -> None:
    """A token bound to a workspace is good for that workspace alone."""
    if route.unbound:
        raise ApiError(
            "forbidden",
            f"This token is bound to workspace {token.workspace!r}, and this call concerns the whole of webhookd.",
            details={"workspace": token.workspace},
        )
    if names_workspace and workspace_id(request) != token.workspace:
        raise ApiError(
            "forbidden",
            f"This token is bound to workspace {token.workspace!r}: call /v1/workspaces/{token.workspace}/….",
            details={"workspace": token.workspace},
        )


def _is_local_program(request: web.Request) -> bool:
    """Whether a program of this machine sent it by itself: over loopback or the unix socket, through no proxy."""
    headers = request.headers
    if any(name in headers for name in _NOT_LOCAL) or any(
        name.lower().startswith(_NOT_LOCAL_PREFIX) for name in headers
    ):
        return False
    peer, own = request.protocol.peername, request.protocol.sockname
    if isinstance(peer, tuple):
        return _is_loopback_address(str(peer[0]))
    return isinstance(own, str | bytes)  # the unix socket; of a TCP connection that was reset the peer is unknown


@lru_cache(256)
def _is_loopback_address(address: str) -> bool:
    parsed = ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
