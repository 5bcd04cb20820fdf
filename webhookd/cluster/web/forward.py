"""Passes a request on to the machine that has its partition, and the answer back, both as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from webhookd.cluster.names import CALLER_HEADER, PARTITION_CHOICE_HEADER, TOKEN_HEADER
from webhookd.errors import ApiError
from webhookd.web.server.responses import SECURITY_HEADERS

# Of a request that another machine passed on: the address of its caller.
FORWARDED_FROM = web.RequestKey("forwarded_from", str)
CONNECT_SECONDS = 2.0
LOOK_SECONDS = 1.0
T = TypeVar("T")
# Of one connection only, or made anew by whoever sends it on (RFC 9110, section 7.6.1).
_OF_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect", "via"}
)


@dataclass(frozen=True, slots=True)
class Owner:
    """The machine that has a partition, by its address, as long as the partition `goes_on` there."""

    advertise: str
    partition: int
    goes_on: Callable[[], bool] = field(compare=False)


class Forwarder:
    """One HTTP client for all other machines."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def forward(
        self,
        request: web.Request,
        owner: Owner,
        *,
        caller: str,
        extra: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> web.StreamResponse:
        """Have the owner answer.

        `extra` headers replace the caller's, `body` its body.  ApiError `unavailable` if it can't be reached.
        """
        headers = self._headers(request, caller, owner.partition)
        headers.update(extra or {})
        has_body = request.body_exists or body is not None
        data = (request.content if body is None else body) if has_body else None
        url = owner.advertise.rstrip("/") + request.raw_path
        if not url.startswith("http"):
            raise unreachable(owner.advertise)
        asking = self._client().request(
            request.method,
            URL(url, encoded=True),
            headers=headers,
            data=data,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
        try:
            answer = await while_it_goes_on(asking, owner)
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise unreachable(owner.advertise) from error
        async with answer:
            return await _pass_back(request, answer)

    async def ask(
        self, request: web.Request, advertise: str, *, caller: str, partition: int, path_qs: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Ask the machine at `advertise` the same with another query: status, body, headers.  As `forward`."""
        headers = self._headers(request, caller, partition)
        headers.pop(hdrs.CONTENT_LENGTH, None)
        try:
            async with self._client().request(
                request.method,
                URL(advertise.rstrip("/") + path_qs, encoded=True),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=10, sock_connect=CONNECT_SECONDS),
            ) as answer:
                return answer.status, await answer.read(), answer.headers
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(advertise) from error

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    def _headers(self, request: web.Request, caller: str, partition: int) -> CIMultiDict[str]:
        headers = _passed_on(request.headers)
        headers.update({TOKEN_HEADER: self._token, CALLER_HEADER: caller, hdrs.VIA: "1.1 webhookd"})
        headers[PARTITION_CHOICE_HEADER] = str(partition)
        return headers

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=15),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Content-Type", "Accept-Encoding", "Accept"),
            )
        return self._session


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_CONNECTION)


async def _pass_back(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = _passed_on(answer.headers)
    for name in SECURITY_HEADERS:  # the guard of the other machine set these
        if name not in headers:
            headers[name] = SECURITY_HEADERS[name]
    if hdrs.CONTENT_LENGTH in answer.headers and int(answer.headers[hdrs.CONTENT_LENGTH]) < 1024 * 1024:
        if request.method != hdrs.METH_HEAD:
            headers.pop(hdrs.CONTENT_LENGTH, None)
        return web.Response(status=answer.status, headers=headers, body=await answer.read())
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except aiohttp.ClientError as error:
        raise ConnectionResetError("the other machine's answer ended early") from error
    await response.write_eof()
    return response


async def while_it_goes_on(asking: Awaitable[T], owner: Owner) -> T:
    """What the owner answers; ApiError once it stands still and another has taken over."""
    task = asyncio.ensure_future(asking)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=LOOK_SECONDS)
            if not task.done() and not owner.goes_on():
                raise unreachable(owner.advertise)
        return task.result()
    finally:
        task.cancel()


def unreachable(advertise: str) -> ApiError:
    """The error where the machine that has a partition doesn't answer."""
    return ApiError(
        "unavailable",
        f"The machine that has this workspace ({advertise or 'none'}) can't be reached; another takes over in seconds.",
        retry_after_seconds=2,
    )
