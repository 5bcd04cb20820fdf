"""The bound on questions under way: so many of a token, in calls or on the page, in each workspace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from webhookd.errors import ApiError
from webhookd.models import Token
from webhookd.web.server.requests import CALLER, WORKSPACE

RETRY_AFTER_SECONDS = 1
# A refusal waits so long, so that a program that asks again at once doesn't keep the event loop busy.
REFUSAL_SECONDS = 0.2


class QuestionLimit:
    """Counts the questions under way; `most` is the present setting."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._under_way: Counter[tuple[str, int | None]] = Counter()

    @asynccontextmanager
    async def one(self, token: Token, workspace_seq: int | None) -> AsyncIterator[None]:
        """While it lasts, a question about a workspace (None: about all of webhookd) is under way.

        Raises ApiError `too_many_questions`.
        """
        key = (token.id, workspace_seq)
        most = self._most()
        if self._under_way[key] >= most:
            await asyncio.sleep(REFUSAL_SECONDS)
            raise ApiError(
                "too_many_questions",
                f"{most} questions of this token about the same workspace are under way: wait for their answers, or "
                "raise limits.questions_per_token.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]


QUESTION_LIMIT = web.AppKey("question_limit", QuestionLimit)
ONLY_ASKS = web.RequestKey("only_asks", bool)


@asynccontextmanager
async def question(request: web.Request, *, only_asks: bool = True) -> AsyncIterator[None]:
    """While it lasts, a call of the API only asks: it is one of its token's questions, and ends if its caller leaves.

    Raises ApiError `too_many_questions`.
    """
    token, workspace = request.get(CALLER), request.get(WORKSPACE)
    if not only_asks or token is None:
        yield
        return
    request[ONLY_ASKS] = True
    async with request.app[QUESTION_LIMIT].one(token, None if workspace is None else workspace.seq):
        yield
    request[ONLY_ASKS] = False
