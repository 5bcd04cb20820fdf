"""Around every handler: the Host check, authentication (token, scope, workspace), and errors as JSON.

What depends on the route alone is decided once, when the routes are registered (`Guard.protect`); each request then
takes one look-up by a hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

import orjson
from aiohttp import hdrs, web

from webhookd.admin.audit import DONE, TARGET_CHARACTERS
from webhookd.admin.tokens import Scope
from webhookd.config import Listen
from webhookd.errors import ApiError
from webhookd.models import DEFAULT_WORKSPACE, Token, Workspace
from webhookd.text import is_loopback
from webhookd.web.server.caller_address import caller_address
from webhookd.web.server.memory_limit import release_memory
from webhookd.web.server.question_limit import question
from webhookd.web.server.requests import CALLER, WORKSPACE, Handler, NoFields, Route, is_question, read_query
from webhookd.web.server.responses import SECURITY_HEADERS, error_response, internal_error
from webhookd.web.services import Services

SHORTAGE_RETRY_SECONDS = 2
# Load balancers and orchestrators ask these by address, or over HTTP/1.0 without a Host.  The answers tell nothing that
# a page whose name was rebound could use.
PROBES = ("/healthz", "/readyz")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")
# A request with one of these came through a proxy or from a page in a browser, not directly from a local program.
_NOT_LOCAL = ("Forwarded", "Origin", "Sec-Fetch-Site", "Via", "X-Real-IP")
_NOT_LOCAL_PREFIX = "x-forwarded-"

# aiohttp's own errors, in our form.
_OF_AIOHTTP = {
    400: ("invalid_request", "The request is malformed."),
    404: ("not_found", "There is nothing at this path. GET /openapi.json lists what there is."),
    413: ("payload_too_large", "The request is larger than allowed."),
    415: ("unsupported_media_type", "The body's type is not one that this path takes."),
    421: ("wrong_host", "The Host header names none of webhookd's own names."),
}


class Guard:
    """Decides who may call what.  The `listen` settings can't change while running, so they are read once."""

    def __init__(self, services: Services) -> None:
        listen = services.settings().listen
        self._check = services.tokens.check
        self._registry = services.registry
        self._audit = services.audit
        self._trusts_local = listen.trust_local_ingest
        self._trusts_loopback = not listen.public_url  # else a proxy on this machine calls for strangers
        own = urlsplit(services.settings().cluster.advertise).hostname or ""  # by which other machines call
        self._knows_host = lru_cache(1024)(host_check(listen, own))

    async def answer(self, request: web.Request, handle: Handler) -> web.StreamResponse:
        """Around the whole application: check the Host header (but for probes), turn every failure into an answer."""
        try:
            if request.path not in PROBES:
                self._check_host(request)
            response = await handle(request)
        except ApiError as error:
            response = error_response(error)
        except web.HTTPException as error:
            response = await self._of_aiohttp(request, error)
        except ConnectionError:
            raise  # the caller has gone; aiohttp closes the connection
        except Exception as error:
            fault = internal_error(request.method, request.path, error)
            if request.writer.output_size > 0:  # a broken answer is better than a wrong one
                raise ConnectionResetError("the answer had begun") from error
            response = error_response(fault)
        finally:
            release_memory(request)
        if not response.prepared:
            headers = response.headers
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        return response

    def protect(self, route: Route) -> Handler:
        """The route's handler behind the checks of its row."""
        handler, scope, query = route.handler, route.scope, route.query
        if scope is None:
            return handler
        admit = self._admission(route, scope)
        changes = scope is Scope.ADMIN and (route.method != "GET" or route.path.endswith("/signing-key"))
        handle = self._audited(handler) if changes else handler
        bounded = is_question(route)

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                admit(request)
            except ApiError as error:
                await self._note_refused(request, error)
                raise
            if query is None and request.rel_url.raw_query_string:
                read_query(request, NoFields)
            if not bounded:
                return await handle(request)
            async with question(request):
                return await handle(request)

        return guarded

    def _admission(self, route: Route, scope: Scope) -> Callable[[web.Request], None]:
        """A function that notes the caller and the workspace in a request, or refuses it."""
        trusts_local = self._trusts_local and scope is Scope.INGEST
        names_workspace = route.workspaced or "{workspace}" in route.path

        def admit(request: web.Request) -> None:
            token = self._caller(request, trusts_local=trusts_local)
            if token is not None:
                request[CALLER] = token
                _check_scope(token, scope)
                if token.workspace_seq is not None and route.unbound:
                    raise _bound(token, "and this call concerns the whole of webhookd.")
            if names_workspace:
                request[WORKSPACE] = self._workspace(token, request.match_info.get("workspace", DEFAULT_WORKSPACE))

        return admit

    def _workspace(self, token: Token | None, named: str) -> Workspace:
        workspace = self._registry.find_workspace(named)
        bound = None if token is None else token.workspace_seq
        if token is not None and bound is not None and (workspace is None or workspace.seq != bound):
            # The same answer for a workspace of somebody else and for none.
            raise _bound(token, f"so call /v1/workspaces/{token.workspace}/….")
        return workspace or self._registry.workspace(named)  # raises `not_found`

    def producers_workspace(self, authorization: str, named: str) -> Workspace:
        """The workspace of this id, for a caller with this `Authorization` who posts events to it.

        Raises ApiError as for a request.
        """
        token = self._token(authorization)
        _check_scope(token, Scope.INGEST)
        return self._workspace(token, named)

    def _audited(self, handler: Handler) -> Handler:
        """A handler whose calls go to the audit trail, whatever comes of them."""

        async def audited(request: web.Request) -> web.StreamResponse:
            target, outcome = request.path[:TARGET_CHARACTERS], "internal_error"
            try:
                response = await handler(request)
                outcome = DONE
                if response.status == HTTPStatus.CREATED and isinstance(response, web.Response):
                    made = orjson.loads(response.body or b"{}").get("id")  # type: ignore[arg-type]
                    target += f"/{made}" if made else ""
            except ApiError as error:
                outcome = error.code
                raise
            finally:
                await self._audit.note(
                    handler.__name__,
                    target,
                    outcome,
                    address=caller_address(request),
                    token=request.get(CALLER),
                    workspace=request.get(WORKSPACE),
                )
            return response

        return audited

    async def _note_refused(self, request: web.Request, error: ApiError) -> None:
        """A secret that is refused, or one that reaches for more than it may, goes to the audit trail."""
        if hdrs.AUTHORIZATION in request.headers and error.code in ("unauthorized", "forbidden"):
            target = request.path[:TARGET_CHARACTERS]
            await self._audit.refused(caller_address(request), target, error.code, request.get(CALLER))

    def _caller(self, request: web.Request, *, trusts_local: bool) -> Token | None:
        """The caller's token; None for a local program that is trusted without one."""
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is None:
            if trusts_local and is_local_program(request, loopback=self._trusts_loopback):
                return None
            raise ApiError(
                "unauthorized",
                "This call needs a token: send it as `Authorization: Bearer …`. The first ones are in the files "
                "admin-token and ingest-token of webhookd's state directory.",
            )
        return self._token(header)

    def _token(self, authorization: str) -> Token:
        scheme, _, secret = authorization.partition(" ")
        return self._check(secret.strip() if scheme.lower() == "bearer" else "")

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

    async def _of_aiohttp(self, request: web.Request, error: web.HTTPException) -> web.StreamResponse:
        if error.status in (404, 405) and request.path.startswith("/v1/"):
            try:
                self._caller(request, trusts_local=False)  # only callers may learn which paths exist under /v1
            except ApiError as fault:
                await self._note_refused(request, fault)
                return error_response(fault)
        if isinstance(error, web.HTTPMethodNotAllowed):
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{request.method[:20]} is not possible here; {allowed} is."
            return error_response(ApiError("method_not_allowed", message), {"Allow": allowed})
        code, message = _OF_AIOHTTP.get(error.status, ("invalid_request", "The request is malformed."))
        return error_response(ApiError(code, message))


GUARD = web.AppKey("guard", Guard)


def host_check(listen: Listen, advertised: str = "") -> Callable[[str], bool]:
    """A function that tells whether a Host header, of any port, is one of webhookd's own names."""
    own = {listen.host, *listen.allowed_hosts, urlsplit(listen.public_url).hostname or "", advertised} - {""}
    names = frozenset(map(_bare_name, own))

    def knows(host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = _bare_name(found[1])
        return name in names or _is_loopback_name(name)

    return knows


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Handle `Expect: 100-continue`, the only expectation there is (RFC 9110, section 10.1.1); refuse any other."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return error_response(ApiError("invalid_request", "Of Expect, only 100-continue is understood."))
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # this is not part of the answer
    return None


def _is_loopback_name(name: str) -> bool:
    """Whether only this machine is called so: *.localhost too (RFC 6761, section 6.3), which no DNS can rebind."""
    return is_loopback(name) or name.endswith(".localhost")


def _bare_name(host: str) -> str:
    """A host in the form used to compare: lower case, without brackets and the root's dot."""
    return host.lower().strip("[]").rstrip(".")


def _check_scope(token: Token, needed: Scope) -> None:
    if token.scope in (Scope.ADMIN, needed):
        return
    raise ApiError(
        "forbidden",
        f"A token of scope {token.scope!r} is not good for this; it needs {needed.value!r}"
        + ("." if needed is Scope.ADMIN else " or 'admin'."),
        details={"scope": token.scope, "needed": needed.value},
    )


def _bound(token: Token, why: str) -> ApiError:
    return ApiError(
        "forbidden",
        f"This token is bound to workspace {token.workspace!r}, {why}",
        details={"workspace": token.workspace},
    )


def is_local_program(request: web.Request, *, loopback: bool) -> bool:
    """Whether a program on this machine sent it, not through a proxy: over the unix socket or, with `loopback`, TCP.

    Over TCP it has to call webhookd by a loopback name: a proxy that adds no header passes on the caller's name.
    """
    headers = request.headers
    if any(name in headers for name in _NOT_LOCAL) or any(
        name.lower().startswith(_NOT_LOCAL_PREFIX) for name in headers
    ):
        return False
    peer, own = request.protocol.peername, request.protocol.sockname
    if isinstance(peer, tuple):
        named = _HOST.fullmatch(headers.get(hdrs.HOST, ""))
        return (
            loopback
            and named is not None
            and _is_loopback_name(_bare_name(named[1]))
            and _is_loopback_address(str(peer[0]))
        )
    return isinstance(own, str | bytes)  # the unix socket; a TCP connection that was reset has no peer name


@lru_cache(256)
def _is_loopback_address(address: str) -> bool:
    parsed = ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
