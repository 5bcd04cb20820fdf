"""One conversation with the mail server, and exactly what it took.

Whether a mail without an answer *may* have been taken decides if it can be written again, so every failure says how far
it came (RFC 5321, section 4.2.5).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiosmtplib

from webhookd import config
from webhookd.store.outbox import Envelope
from webhookd.text import ascii_name, one_line

STEP_SECONDS = 30.0
QUIT_SECONDS = 2.0
_LONGEST_WORDS = 300
_ERRORS = (aiosmtplib.SMTPException, OSError, ValueError)  # TimeoutError and ssl's are OSErrors


class ServerAway(Exception):
    """The mail server can't be reached or went away; `uncertain`: it may have taken the mail that was under way."""

    def __init__(self, why: str, *, uncertain: bool = False) -> None:
        super().__init__(why)
        self.uncertain = uncertain


@dataclass(slots=True)
class Receipt:
    """Which recipients the server took a mail for, which it deferred (4xx) and which it refused (5xx)."""

    taken: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    replies: dict[str, list[str]] = field(default_factory=dict)

    def add_refused(self, recipient: str, code: int, message: str) -> None:
        """Add a reply that refuses, in the server's own words."""
        (self.refused if code >= 500 else self.deferred).append(recipient)
        self.replies.setdefault(one_line(f"{code} {message}", _LONGEST_WORDS), []).append(recipient)

    @property
    def error(self) -> str | None:
        """The server's replies where it didn't take the mail, each with the recipients it is about, or None."""
        return "; ".join(f"{', '.join(recipients)}: {reply}" for reply, recipients in self.replies.items()) or None


class Conversation:
    """An open connection to the mail server, logged in."""

    def __init__(self, smtp: aiosmtplib.SMTP, where: str, timeout_seconds: float) -> None:
        self._smtp = smtp
        self._where = where
        self._timeout_seconds = timeout_seconds
        self._content_under_way = False

    async def send(self, envelope: Envelope, recipient: str, receipt: Receipt) -> bool:
        """Send a mail to one of its recipients, as an envelope of its own; whether the server took it.

        The answer goes into `receipt`.  ServerAway when the connection ends before the server has answered.
        """
        self._content_under_way = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                refused = await self._hand_over(envelope, recipient)
                self._content_under_way = False
                if refused is None:
                    receipt.taken.append(recipient)
                    return True
                receipt.add_refused(recipient, *refused)
                with contextlib.suppress(aiosmtplib.SMTPException):
                    await self._smtp.rset()
                return False
        except _ERRORS as error:
            raise ServerAway(_words(self._where, error), uncertain=self._content_under_way) from error

    async def _hand_over(self, envelope: Envelope, recipient: str) -> tuple[int, str] | None:
        """MAIL, RCPT and DATA; the server's code and words where it refuses one of them."""
        try:
            await self._smtp.mail(envelope.sender)
            await self._smtp.rcpt(recipient)
            self._content_under_way = True
            await self._smtp.data(envelope.message)
        except aiosmtplib.SMTPSenderRefused as error:
            return error.code, f"{error.message} (about the sender {error.sender})"
        except (aiosmtplib.SMTPRecipientRefused, aiosmtplib.SMTPDataError) as error:
            return error.code, error.message
        except ValueError:  # it would need SMTPUTF8, which few servers have
            return 553, "only ASCII addresses can be sent to"
        return None


@asynccontextmanager
async def conversation(
    mail: config.Mail, *, tls_context: ssl.SSLContext | None = None, timeout_seconds: float = STEP_SECONDS
) -> AsyncIterator[Conversation]:
    """Connect as `mail` says, log in, and QUIT at the end; ServerAway when that fails.

    With `starttls` and `tls` a server must prove its name to the system's CAs (or to `tls_context`) before the login.
    Connecting and sending a mail take at most `timeout_seconds` each.
    """
    where = f"{mail.host}:{mail.port}"
    try:
        if tls_context is None and mail.tls != "none":
            # Reading all the CAs would block the event loop for long.
            tls_context = await asyncio.to_thread(ssl.create_default_context)
        smtp = aiosmtplib.SMTP(
            hostname=mail.host,
            port=mail.port,
            username=mail.user or None,
            password=mail.password or None,
            local_hostname=_own_name(mail),
            use_tls=mail.tls == "tls",
            start_tls=mail.tls == "starttls",
            tls_context=tls_context,
            timeout=timeout_seconds,
        )
        async with asyncio.timeout(timeout_seconds):
            await smtp.connect()
    except _ERRORS as error:
        raise ServerAway(_words(where, error)) from error
    try:
        yield Conversation(smtp, where, timeout_seconds)
        with contextlib.suppress(*_ERRORS):
            await smtp.quit(timeout=QUIT_SECONDS)
    finally:
        smtp.close()


def _own_name(mail: config.Mail) -> str:
    """What to greet with: the domain that the mail comes from; looking our own name up could block."""
    return ascii_name(mail.sender.rpartition("@")[2])


def _words(where: str, error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return one_line(f"{where}: {error.code} {error.message}", _LONGEST_WORDS)
    return one_line(f"{where}: {error}" if str(error) else f"{where}: no answer in time", _LONGEST_WORDS)
