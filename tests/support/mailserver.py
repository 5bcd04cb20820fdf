"""A real mail server (aiosmtpd) on loopback that does what a test says, and the certificates that it needs."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "webhookd", "s3cret"


@dataclass
class MailServer:
    """Keeps what it took; `says` answers RCPT by address, DATA as "DATA" or "DATA a@b" and MAIL as "MAIL", instead."""

    port: int = 0
    taken: list[tuple[list[str], bytes]] = field(default_factory=list)
    says: dict[str, str] = field(default_factory=dict)
    hang_up_after_data: bool = False
    users: list[str] = field(default_factory=list)
    over_tls: list[bool] = field(default_factory=list)
    connections: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def mails(self) -> list[EmailMessage]:
        return [email.message_from_bytes(raw, policy=email.policy.default) for _, raw in self.taken]

    async def until(self, number: int, *, timeout_seconds: float = 20.0) -> list[EmailMessage]:
        async with asyncio.timeout(timeout_seconds):
            while len(self.taken) < number:
                self.arrived.clear()
                await self.arrived.wait()
        return self.mails

    # aiosmtpd's hooks

    async def handle_MAIL(  # noqa: N802 - the hook's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "MAIL" in self.says:
            return self.says["MAIL"]
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - the hook's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.says:
            return self.says[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - the hook's name
        for step in ("DATA", f"DATA {', '.join(envelope.rcpt_tos)}"):
            if step in self.says:
                return self.says[step]
        assert isinstance(envelope.content, bytes)
        self.taken.append((list(envelope.rcpt_tos), envelope.content))
        assert server.transport is not None
        self.over_tls.append(server.transport.get_extra_info("sslcontext") is not None)
        self.arrived.set()
        if self.hang_up_after_data:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        return "250 taken"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: object
    ) -> AuthResult:
        assert isinstance(auth_data, LoginPassword)
        good = auth_data == LoginPassword(USER.encode(), PASSWORD.encode())
        if good:
            self.users.append(auth_data.login.decode())
        return AuthResult(success=good, handled=False)


@dataclass(frozen=True)
class Certificates:
    """A CA of the test's own: what a server shows, and what a client has to trust."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def certificates(name: str = "localhost") -> Certificates:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificates(server, client)


@asynccontextmanager
async def mail_server(
    server: MailServer | None = None,
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    login: bool = False,
    port: int = 0,
) -> AsyncIterator[MailServer]:
    """Serve on 127.0.0.1, with STARTTLS or TLS and a login that is required, if asked for."""
    kept = server or MailServer()
    transports: list[asyncio.Transport] = []

    class Protocol(SMTP):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            kept.connections += 1
            transports.append(transport)
            super().connection_made(transport)

    def protocol() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it doesn't know of the TLS around it
            return Protocol(
                kept,
                hostname="mail.test",
                tls_context=starttls,
                require_starttls=starttls is not None,
                authenticator=kept.authenticate if login else None,
                auth_required=login,
                auth_require_tls=starttls is not None,
                timeout=30,
            )

    listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, ssl=tls)
    kept.port = listening.sockets[0].getsockname()[1]
    try:
        yield kept
    finally:
        listening.close()
        for transport in transports:
            transport.abort()
        await listening.wait_closed()
        await asyncio.sleep(0)
