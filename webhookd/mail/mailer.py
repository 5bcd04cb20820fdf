"""The mailer sends the outbox's notices: each at least once, and twice only after a kill at the wrong moment.

Notices of a workspace go together as one *digest*: `outbox.claim` fixes its notices, `outbox.seal` stores the mail, the
mail is sent, what the server took is recorded.  A kill after the server's 250 sends the sealed mail again, the same
bytes under the same Message-ID.  Each recipient has an envelope of its own, and what the server took is recorded after
each.  When the server surely took nothing, the mail is unsealed, so a corrected address or
sender counts for the next try; after a temporary failure later notices may join it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from webhookd import log
from webhookd.clock import Clock
from webhookd.config import Config, Mail
from webhookd.errors import ApiError, FatalError
from webhookd.mail.messages import confirmation_message, mailbox, notice_message, test_message
from webhookd.mail.smtp import STEP_SECONDS, Conversation, Receipt, ServerAway, conversation
from webhookd.models import Json, Workspace
from webhookd.store import outbox
from webhookd.store.outbox import Digest, Envelope, Notice
from webhookd.store.store import Store

FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0
LONGEST_REFUSED_RETRY_SECONDS = 900.0
GIVE_UP_MS = 30 * 24 * 3600 * 1000
STOP_SECONDS = 3.0
IDLE_SECONDS = 3600.0


@dataclass(slots=True)
class _Backoff:
    """When something is tried next (monotonic seconds), and how often in a row it failed."""

    at: float = 0.0
    failures: int = 0

    def after_failure(self, now: float, longest_seconds: float) -> None:
        """Try again in 5 s, then in twice as long each time, at most `longest_seconds`."""
        self.at = now + min(FIRST_RETRY_SECONDS * 2 ** min(self.failures, 20), longest_seconds)
        self.failures += 1


@dataclass(frozen=True, slots=True)
class _Ready:
    """A digest whose mail is sealed; `fresh` if just now, so that no server can have seen it yet."""

    digest: Digest
    notices: list[Notice]
    envelope: Envelope
    fresh: bool


class Mailer:
    """Sends the outbox; `run` is a root task.  `recipients` and `language` are those of a workspace (by its number)."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: Callable[[], Config],
        recipients: Callable[[int], tuple[str, ...]],
        language: Callable[[int], str] = lambda workspace_seq: "en",
        *,
        tls_context: ssl.SSLContext | None = None,
        timeout_seconds: float = STEP_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._recipients, self._language = recipients, language
        self._tls_context = tls_context
        self._timeout_seconds = timeout_seconds
        self._woken = asyncio.Event()
        self._known: Mail | None = None
        self._server = _Backoff()
        self._backoffs: dict[int, _Backoff] = {}
        self._limited: set[int] = set()  # workspaces that had as many mails as an hour allows, and whose notices wait
        self._sending = asyncio.Lock()
        self._stopped = False

    def wake(self) -> None:
        """Look now: a row was committed, or the settings changed."""
        self._woken.set()

    async def run(self) -> None:
        """Send until cancelled; a mail server that is away or refuses never ends it."""
        while True:
            self._woken.clear()
            seconds = await self._round()
            if _cancelled():
                raise asyncio.CancelledError
            await self._clock.wait(self._woken, seconds)

    async def stop(self) -> None:
        """Start no further mail, and let the one under way be sent and recorded (at most `STOP_SECONDS`)."""
        self._stopped = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS), self._sending:
                pass

    async def unsent(self) -> Json:
        """How many notices wait to be sent, how old the oldest is, and what went wrong last, for the status."""
        found = await self._store.read(outbox.unsent)
        age = None if found.oldest_at_ms is None else max(0, self._clock.wall_ms() - found.oldest_at_ms) / 1000
        return {"count": found.count, "oldest_age_seconds": age, "last_error": found.last_error}

    async def send_test(self, to: Sequence[str]) -> None:
        """Send one test mail now, beside the outbox, to all of `to`.

        Raises ApiError: `mail_failed` (also if the server refused one recipient), with the server's own words;
        `mail_disabled`, with the setting that is missing.
        """
        settings = self._settings()
        mail = settings.mail
        if not mail.host:
            raise ApiError(
                "mail_disabled", "No mail server is set: give mail.host (and mail.port) in the configuration."
            )
        if not to:
            raise ApiError("mail_disabled", "There is no recipient: give an address, or set mail.notify.")
        await self._send_now(to, lambda **head: test_message(settings, **head))

    async def send_confirmation(self, address: str, workspace: Workspace, link: str, until_ms: int) -> None:
        """Send the link by which an address confirms that it wants a workspace's notices; raises like `send_test`."""
        settings = self._settings()
        await self._send_now(
            [address],
            lambda **head: confirmation_message(
                settings, workspace=workspace.id, link=link, until_ms=until_ms, language=workspace.language, **head
            ),
        )

    async def _send_now(self, to: Sequence[str], written: Callable[..., str]) -> None:
        mail = self._settings().mail
        sender, recipients = mailbox(mail.sender), tuple(map(mailbox, to))
        message_id = f"<{secrets.token_hex(16)}@{sender.rpartition('@')[2]}>"
        message = written(sender=sender, to=recipients, message_id=message_id, now_ms=self._clock.wall_ms())
        try:
            async with self._conversation(mail) as talk:
                envelope, receipt = Envelope(sender, recipients, message), Receipt()
                for recipient in recipients:
                    await talk.send(envelope, recipient, receipt)
        except ServerAway as away:
            raise ApiError("mail_failed", f"The mail server didn't take the mail. {away}") from away
        if receipt.error:
            taken = f" (It took it for {', '.join(receipt.taken)}.)" if receipt.taken else ""
            raise ApiError("mail_failed", f"The mail server refused the mail. {receipt.error}{taken}")

    # One round: send what is due; returns the seconds until the next

    async def _round(self) -> float:
        mail = self._take_settings()
        if not mail.host or self._stopped:
            return IDLE_SECONDS
        digests = [each for each in await self._store.read(outbox.waiting) if not await self._too_old(each)]
        now = self._clock.monotonic()
        self._backoffs = {
            each.first_seq: self._backoffs.get(each.first_seq) or self._first_backoff(each) for each in digests
        }
        if not digests:
            return IDLE_SECONDS
        if self._server.at > now:
            return self._server.at - now
        allowed_at = await self._allowed_at(digests, mail.max_per_hour)
        due_at = {
            each.first_seq: max(self._backoffs[each.first_seq].at, allowed_at.get(each.first_seq, 0.0))
            for each in digests
        }
        due = sorted(
            (each for each in digests if due_at[each.first_seq] <= now),
            # Those that failed before come last, so that they don't delay the others.
            key=lambda digest: (self._backoffs[digest.first_seq].failures, digest.first_seq),
        )
        if not due:
            return min(due_at.values()) - now
        await self._send(mail, due)
        return 0.0

    async def _allowed_at(self, digests: Sequence[Digest], most: int) -> dict[int, float]:
        """When those that aren't claimed yet may go (monotonic seconds) whose workspaces had `most` in an hour."""
        new = [each for each in digests if not each.claimed]
        now, now_ms = self._clock.monotonic(), self._clock.wall_ms()
        seqs = {each.workspace_seq for each in new}
        full = await self._store.read(lambda db: outbox.full_until(db, seqs, most, now_ms))
        for each in new:
            if each.workspace_seq in full and each.workspace_seq not in self._limited:
                self._limited.add(each.workspace_seq)
                log.emit("mail.limited", workspace=each.workspace, limit=most)
        return {
            each.first_seq: now + (full[each.workspace_seq] - now_ms) / 1000
            for each in new
            if each.workspace_seq in full
        }

    def _take_settings(self) -> Mail:
        """The present settings; after a change everything is tried at once."""
        mail = self._settings().mail
        if mail != self._known:
            self._known = mail
            self._server = _Backoff()
            self._backoffs.clear()
            if not mail.host:
                log.emit("mail.disabled")
        return mail

    def _first_backoff(self, digest: Digest) -> _Backoff:
        """A notice waits `digest_seconds` from its own time, or from now if that lies in the future."""
        gather_seconds = self._settings().mail.digest_seconds
        age_seconds = (self._clock.wall_ms() - digest.created_at_ms) / 1000
        wait_seconds = 0.0 if digest.claimed else min(max(gather_seconds - age_seconds, 0.0), gather_seconds)
        return _Backoff(self._clock.monotonic() + wait_seconds)

    async def _too_old(self, digest: Digest) -> bool:
        now_ms = self._clock.wall_ms()
        if now_ms - digest.created_at_ms <= GIVE_UP_MS:
            return False
        found = await self._store.read(outbox.unsent)
        error = f"given up after 30 days: {found.last_error or 'the mail server was never reached'}"
        await self._close(digest, error)
        log.emit("mail.failed", error=error, count=1)
        return True

    async def _send(self, mail: Mail, due: list[Digest]) -> None:
        """Send what is due in one conversation; if the server can't be reached, put everything off."""
        reached = False
        try:
            async with self._conversation(mail) as talk:
                reached = True
                for digest in due:
                    async with self._sending:
                        if self._stopped:
                            return
                        await self._deliver(talk, digest)
                self._server = _Backoff()
        except ServerAway as away:
            self._server.after_failure(self._clock.monotonic(), LONGEST_RETRY_SECONDS)
            log.throttled("mail.failed", key=str(away), error=str(away), attempt=self._server.failures)
            if not reached:
                error, seqs = str(away), [each.first_seq for each in due]
                await self._store.write(lambda db: outbox.failed(db, seqs, error), retry_when_full=True)

    # One digest

    async def _deliver(self, talk: Conversation, digest: Digest) -> None:
        try:
            ready = await self._prepare(digest)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - one that can't be written must not delay the others
            log.throttled("mail.failed", key=digest.first_seq, error=f"it can't be written: {error!r}")
            self._put_off(digest, LONGEST_REFUSED_RETRY_SECONDS)
            return
        if ready is None:
            return
        envelope, receipt = ready.envelope, Receipt()
        try:
            for recipient in ready.envelope.to:
                if await talk.send(envelope, recipient, receipt):
                    envelope = await self._reached(digest, envelope, recipient)
        except ServerAway as away:
            self._log_receipt(ready, receipt)
            self._put_off(digest, LONGEST_RETRY_SECONDS)
            untouched = ready.fresh and not receipt.taken and not away.uncertain
            await self._keep_failure(digest, str(away), outbox.release if untouched else None)
            raise
        await self._record(ready, envelope, receipt)

    async def _reached(self, digest: Digest, envelope: Envelope, recipient: str) -> Envelope:
        """Record that the server took the mail for a recipient; returns the envelope of those that are left."""
        others = tuple(other for other in envelope.to if other != recipient)
        left, now_ms = Envelope(envelope.sender, others, envelope.message, reached=True), self._clock.wall_ms()
        await self._store.write(lambda db: outbox.reached(db, digest.first_seq, left, now_ms), retry_when_full=True)
        return left

    async def _prepare(self, digest: Digest) -> _Ready | None:
        """The sealed mail and its notices; None if there are no recipients, which closes the digest."""
        first_seq = digest.first_seq
        if not digest.claimed:
            await self._store.write(lambda db: outbox.claim(db, digest), retry_when_full=True)
        notices, sealed = await self._store.read(
            lambda db: (outbox.notices(db, first_seq), outbox.envelope(db, first_seq))
        )
        if sealed is not None:
            return _Ready(digest, notices, sealed, fresh=False)
        envelope = self._written(digest, notices)
        if envelope is None:
            error = "no recipients: the workspace has no notice addresses, and mail.notify is empty"
            await self._close(digest, error)
            log.emit("mail.failed", **_named(notices), error=error, count=len(notices))
            return None
        await self._store.write(lambda db: outbox.seal(db, first_seq, envelope), retry_when_full=True)
        self._limited.discard(digest.workspace_seq)
        return _Ready(digest, notices, envelope, fresh=True)

    def _written(self, digest: Digest, notices: Sequence[Notice]) -> Envelope | None:
        settings = self._settings()
        to = tuple(dict.fromkeys(map(mailbox, self._recipients(digest.workspace_seq))))
        if not to:
            return None
        sender = mailbox(settings.mail.sender)
        return Envelope(
            sender,
            to,
            notice_message(
                notices,
                settings,
                sender=sender,
                to=to,
                now_ms=self._clock.wall_ms(),
                limited=digest.workspace_seq in self._limited,
                language=self._language(digest.workspace_seq),
            ),
        )

    def _log_receipt(self, ready: _Ready, receipt: Receipt) -> None:
        named = {**_named(ready.notices), "count": len(ready.notices)}
        if receipt.taken:
            log.emit("mail.sent", **named, recipients=receipt.taken)
        if receipt.error:
            attempt = self._backoffs[ready.digest.first_seq].failures + 1
            log.emit("mail.failed", **named, attempt=attempt, error=receipt.error)

    async def _record(self, ready: _Ready, envelope: Envelope, receipt: Receipt) -> None:
        """Record how it went with all of its recipients; `envelope` has those that the mail didn't reach."""
        digest = ready.digest
        self._log_receipt(ready, receipt)
        if envelope.reached:
            if not receipt.deferred:
                await self._close(digest, receipt.error)
                return
            left = Envelope(envelope.sender, tuple(receipt.deferred), envelope.message, reached=True)
            self._put_off(digest, LONGEST_RETRY_SECONDS)
            await self._keep_failure(digest, receipt.error, lambda db, seq: outbox.seal(db, seq, left))
            return
        self._put_off(digest, LONGEST_RETRY_SECONDS if receipt.deferred else LONGEST_REFUSED_RETRY_SECONDS)
        # One that may have been taken before stays as it is: the same mail or none.
        undo = outbox.release if receipt.deferred else outbox.unseal
        await self._keep_failure(digest, receipt.error, undo if ready.fresh else None)

    async def _keep_failure(
        self, digest: Digest, error: str | None, change: Callable[[Any, int], None] | None = None
    ) -> None:
        def command(db: Any) -> None:
            outbox.failed(db, [digest.first_seq], error or "")
            if change is not None:
                change(db, digest.first_seq)

        await self._store.write(command, retry_when_full=True)

    async def _close(self, digest: Digest, error: str | None) -> None:
        now_ms = self._clock.wall_ms()
        await self._store.write(
            lambda db: outbox.close(db, digest.first_seq, error=error, now_ms=now_ms), retry_when_full=True
        )

    def _put_off(self, digest: Digest, longest_seconds: float) -> None:
        self._backoffs[digest.first_seq].after_failure(self._clock.monotonic(), longest_seconds)

    def _conversation(self, mail: Mail) -> AbstractAsyncContextManager[Conversation]:
        return conversation(mail, tls_context=self._tls_context, timeout_seconds=self._timeout_seconds)


def _cancelled() -> bool:
    """Whether this task was cancelled: `wait_for`, which aiosmtplib uses, loses the CancelledError when what it waits
    for ends in the same moment (Python 3.11)."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _named(notices: Sequence[Notice]) -> dict[str, Any]:
    """The fields of a log line that say which mail it is about."""
    return {"workspace": notices[0].payload.get("workspace"), "mail_id": notices[0].message_id}
