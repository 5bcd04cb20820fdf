"""Settings that are valid but risky, or that do less than they seem to: for the log, the status and `check-config`."""

from __future__ import annotations

from collections.abc import Iterator

from webhookd.config import Config, networks


def warnings(config: Config) -> Iterator[tuple[str, str]]:
    """Each key to think about again, with the reason."""
    listen, mail = config.listen, config.mail
    if any(network.prefixlen == 0 for network in networks(listen.trusted_proxies)):
        yield "listen.trusted_proxies", "with every address trusted, each caller names its own in the audit trail"
    if mail.user and mail.tls == "none":
        yield "mail.user", 'with mail.tls = "none" the password crosses the network in clear text'
    if listen.trust_local_ingest and listen.public_url:
        yield (
            "listen.trust_local_ingest",
            "with listen.public_url, only the unix socket is trusted without a token"
            + ("" if listen.unix_socket else "; listen.unix_socket names none"),
        )
    elif listen.trust_local_ingest:
        yield (
            "listen.trust_local_ingest",
            "every program of this machine may post events without a token, over the unix socket and over loopback "
            "under a loopback name; behind a reverse proxy set listen.public_url, which ends the latter",
        )
