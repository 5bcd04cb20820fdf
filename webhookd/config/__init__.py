"""The settings: every key with its type, default and range.

A section of the TOML file is a Struct here, a key is an attribute of the same name (only `mail.from` is `from_`).
A value is checked by its type and range, by `RULES`, and by `contradictions` between keys.  `_kb` and `_mb` are KiB and
MiB.  Durations and sizes may be fractions.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from webhookd.catalogue.types import TypeFile
from webhookd.text import is_host, is_loopback, is_mail_address

NEED_RESTART = ("listen", "store", "cluster")

# What a lease of a partition lasts longer than an attempt, at the least.
LEASE_MARGIN_SECONDS = 4.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TYPE_NAME = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PLAN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _from_to(low: float, high: int, of: str) -> Meta:
    return Meta(ge=low, le=high, description=f"{of} from {low} to {high}")


def _up_to(high: int, of: str) -> Meta:
    return Meta(gt=0, le=high, description=f"{of} above 0, at most {high}")


TenYearsOfHours = Annotated[float, _up_to(87_600, "a number of hours")]
Megabytes = Annotated[float, _up_to(1_000_000_000, "a number of MiB")]
Count = Annotated[int, _from_to(1, 1_000_000_000, "a whole number")]
Port = Annotated[int, _from_to(0, 65_535, "a port number")]
RetrySeconds = Annotated[float, _from_to(0.01, 86_400, "a number of seconds")]
Origin = Annotated[str, Meta(pattern=r"^https?://([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?$")]
Share = Annotated[float, _up_to(1, "a share")]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Listen(_Section, frozen=True, kw_only=True):
    """`[listen]`: where the API and the page are served."""

    host: str = "127.0.0.1"
    port: Port = 8780
    unix_socket: str = ""
    unix_group: str = ""
    trust_local_ingest: bool = False
    allowed_hosts: tuple[str, ...] = ()
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    frame_ancestors: Annotated[tuple[Origin, ...], Meta(description='origins: ["https://app.example.com"]')] = ()
    ingest_token_file: str = ""
    insecure_public: bool = False


class Store(_Section, frozen=True, kw_only=True):
    """`[store]`: the database; `path` is relative to the state directory."""

    path: str = "webhookd.db"
    key_file: str = ""
    min_free_mb: Annotated[float, _from_to(0, 1_000_000_000, "a number of MiB")] = 64


class Delivery(_Section, frozen=True, kw_only=True):
    """`[delivery]`: one attempt, and the schedule of its retries."""

    timeout_seconds: Annotated[float, _from_to(0.1, 60, "a number of seconds")] = 5
    retry_seconds: Annotated[
        tuple[RetrySeconds, ...],
        Meta(max_length=20, description="a list of at most 20 numbers of seconds from 0.01 to 86400: [30, 60, 90]"),
    ] = (30, 60, 90)
    success: Literal["200", "2xx"] = "200"
    max_body_kb: Annotated[float, _up_to(8192, "a number of KiB")] = 256


class Budget(_Section, frozen=True, kw_only=True):
    """`[budget]`: how many failures a workspace may have in the window, and what happens past that."""

    limit: Count = 30
    window_seconds: Annotated[float, _from_to(1, 86_400, "a number of seconds")] = 1800
    disables: Literal["failing", "all"] = "failing"
    warn_at: Annotated[
        tuple[Share, ...], Meta(max_length=10, description="a list of shares above 0, at most 1: [0.5, 0.8]")
    ] = (0.5, 0.8)
    warn_by_mail: bool = False


class Hold(_Section, frozen=True, kw_only=True):
    """`[hold]`: how much is kept for an endpoint that isn't active; the oldest beyond that expires."""

    max_age_hours: TenYearsOfHours = 72
    max_events: Count = 100_000
    max_mb: Megabytes = 1024


class Egress(_Section, frozen=True, kw_only=True):
    """`[egress]`: which addresses requests may go to."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    allow_http: bool = True


class Mail(_Section, frozen=True, kw_only=True, rename={"from_": "from"}):
    """`[mail]`: the server for the notices; without `host` no mail is sent."""

    host: str = ""
    port: Port = 25
    tls: Literal["none", "starttls", "tls"] = "none"
    user: str = ""
    password: str = ""
    from_: str = ""
    notify: tuple[str, ...] = ()
    digest_seconds: Annotated[float, _from_to(0, 3600, "a number of seconds")] = 3
    max_per_hour: Annotated[int, _from_to(1, 1_000_000, "a whole number")] = 20
    on_drop: bool = True

    @property
    def sender(self) -> str:
        """`from`, by default `webhookd@` and this machine's name."""
        return self.from_ or f"webhookd@{socket.gethostname() or 'localhost'}"

    def __repr__(self) -> str:
        return f"Mail(host={self.host!r}, port={self.port}, tls={self.tls!r}, user={self.user!r})"


class Plans(_Section, frozen=True, kw_only=True):
    """`[plans]`: the plans from the lowest up, and the lowest that has webhooks."""

    order: tuple[str, ...] = ("starter", "growth", "advanced", "enterprise")
    webhooks_from: str = "advanced"


class Limits(_Section, frozen=True, kw_only=True):
    """`[limits]`: how much one workspace may have."""

    endpoints: Annotated[int, _from_to(1, 1_000_000, "a whole number")] = 35
    waiting_per_workspace: Count = 1_000_000
    waiting_mb_per_workspace: Megabytes = 2048
    log_mb_per_workspace: Annotated[float, _from_to(0, 1_000_000_000, "a number of MiB")] = 0
    events_per_second: Annotated[float, _from_to(0, 1_000_000, "a number")] = 0
    questions_per_token: Annotated[int, _from_to(1, 1_000_000, "a whole number")] = 10


class Sessions(_Section, frozen=True, kw_only=True):
    """`[sessions]`: how long somebody stays signed in to the page."""

    idle_minutes: Annotated[float, _up_to(1440, "a number of minutes")] = 120
    max_hours: Annotated[float, _up_to(720, "a number of hours")] = 12


class Page(_Section, frozen=True, kw_only=True):
    """`[page]`: the product's own name, logo and accent on the page."""

    name: Annotated[str, Meta(max_length=60, description="a text of at most 60 characters")] = ""
    logo: str = ""
    accent: Annotated[str, Meta(pattern=r"^(#[0-9a-fA-F]{6})?$", description='a colour: "#2a55cc"')] = ""


class Log(_Section, frozen=True, kw_only=True):
    """`[log]`: the lines on stdout."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Retention(_Section, frozen=True, kw_only=True):
    """`[retention]`: how long finished events stay in the log, and ids for the detection of duplicates."""

    max_age_days: Annotated[float, _up_to(3650, "a number of days")] = 30
    max_size_mb: Megabytes = 2048
    idempotency_hours: TenYearsOfHours = 72
    audit_days: Annotated[float, _up_to(3650, "a number of days")] = 365


class Cluster(_Section, frozen=True, kw_only=True):
    """`[cluster]`: several machines over NATS JetStream; without `servers` `webhookd.cluster` isn't loaded."""

    servers: tuple[str, ...] = ()
    credentials: str = ""
    ca_file: str = ""
    monitor: tuple[str, ...] = ()
    token_file: str = ""
    advertise: str = ""
    partitions: Annotated[int, _from_to(1, 1024, "a whole number")] = 16
    lease_seconds: Annotated[float, _from_to(5, 300, "a number of seconds")] = 15
    allow_unsafe: bool = False


class ExtraType(_Section, frozen=True, kw_only=True):
    """One `[events."…"]`, or a file of the folder: an event type beside the built-in ones, or another form of one."""

    label: str = ""
    description: str = ""
    file: TypeFile | None = None


class Events(_Section, frozen=True, kw_only=True):
    """`[events]`: event types beside the built-in ones, and whether events have to fit their types."""

    validate: Literal["off", "warn", "refuse"] = "off"
    types_folder: str = ""
    types: dict[str, ExtraType] = {}


class Config(Struct, frozen=True, kw_only=True):
    """All settings, with their defaults."""

    listen: Listen = Listen()
    store: Store = Store()
    delivery: Delivery = Delivery()
    budget: Budget = Budget()
    hold: Hold = Hold()
    egress: Egress = Egress()
    mail: Mail = Mail()
    plans: Plans = Plans()
    limits: Limits = Limits()
    sessions: Sessions = Sessions()
    page: Page = Page()
    log: Log = Log()
    retention: Retention = Retention()
    cluster: Cluster = Cluster()
    events: Events = Events()


SECTIONS: dict[str, type[_Section]] = {field.name: field.type for field in msgspec.structs.fields(Config)}
SECRETS = {"mail.password": "mail-password"}


class Rule(NamedTuple):
    """A check beyond the type, and the right form in words."""

    holds: Callable[[Any], bool]
    form: str


def networks(cidrs: Iterable[str]) -> tuple[Network, ...]:
    """Valid CIDRs, parsed."""
    return tuple(map(ipaddress.ip_network, cidrs))


def _is_cidr(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def _is_public_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and is_host(parts.hostname or "")
        and port != 0
        and "@" not in parts.netloc
        and not re.search(r"[\s?#\\]", value)
    )


_CIDRS = Rule(
    lambda value: all(map(_is_cidr, value)),
    'a list of networks as CIDR, no bit set after the prefix: ["10.0.0.0/8", "fd00::/8"]',
)

_NATS_URL = re.compile(r"(nats|tls)://([^\s/?#@]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?")

RULES: dict[str, Rule] = {
    "cluster.servers": Rule(
        lambda value: all(map(_NATS_URL.fullmatch, value)),
        'a list of URLs: ["nats://10.0.0.1:4222", "tls://nats.example.com"]',
    ),
    "cluster.monitor": Rule(lambda value: all(map(_is_public_url, value)), 'a list of URLs: ["http://10.0.0.1:8222"]'),
    "cluster.advertise": Rule(
        lambda value: not value or _is_public_url(value), 'the URL of this machine\'s API: "http://10.0.0.1:8780"'
    ),
    "listen.host": Rule(is_host, 'an address or name to listen on: "127.0.0.1", "::1", "localhost"'),
    "listen.unix_socket": Rule(
        lambda value: len(os.fsencode(value)) <= 107, 'a path of at most 107 bytes: "/run/webhookd/socket"'
    ),
    "listen.allowed_hosts": Rule(
        lambda value: all(map(is_host, value)), 'a list of host names without scheme and port: ["hooks.example.com"]'
    ),
    "listen.trusted_proxies": _CIDRS,
    "listen.public_url": Rule(
        lambda value: not value or _is_public_url(value),
        'an http or https URL without user, query and fragment: "https://hooks.example.com"',
    ),
    "store.path": Rule(lambda value: value != "", 'a file name: "webhookd.db"'),
    "egress.allow": _CIDRS,
    "egress.deny": _CIDRS,
    "mail.host": Rule(lambda value: not value or is_host(value), 'a host name or address: "mail.example.com"'),
    "mail.from": Rule(lambda value: not value or is_mail_address(value), 'one address: "webhookd@example.com"'),
    "mail.notify": Rule(
        lambda value: all(map(is_mail_address, value)), 'a list of addresses: ["ops@example.com", "dev@example.com"]'
    ),
    "plans.order": Rule(
        lambda value: len(set(value)) == len(value) > 0 and all(map(_PLAN_NAME.fullmatch, value)),
        'a list of different plan names of A-Z a-z 0-9 _ -, from the lowest up: ["basic", "pro"]',
    ),
}


class Contradiction(NamedTuple):
    """Keys that contradict each other; the message names the first of `keys`."""

    keys: tuple[str, ...]
    what: str
    form: str


def contradictions(config: Config) -> Iterator[Contradiction]:
    """What is wrong between keys that are valid on their own."""
    listen, mail, plans, cluster = config.listen, config.mail, config.plans, config.cluster
    if not is_loopback(listen.host) and not listen.insecure_public:
        yield Contradiction(
            ("listen.host", "listen.insecure_public"),
            f'"{listen.host}" can be reached from other machines, in clear text',
            'a loopback address such as "127.0.0.1" behind a reverse proxy, or listen.insecure_public = true as well',
        )
    if listen.unix_group and not listen.unix_socket:
        yield Contradiction(("listen.unix_group", "listen.unix_socket"), "no socket for it", "listen.unix_socket too")
    if mail.user and not mail.password:
        form = "mail.password too, or a systemd credential named mail-password"
        yield Contradiction(("mail.user", "mail.password"), "a user without a password", form)
    if mail.password and not mail.user:
        yield Contradiction(("mail.password", "mail.user"), "a password without a user", "mail.user too")
    if plans.webhooks_from not in plans.order:
        form = "one of plans.order: " + ", ".join(plans.order)
        yield Contradiction(("plans.webhooks_from", "plans.order"), f'no such plan: "{plans.webhooks_from}"', form)
    if config.events.validate != "off" and not find_spec("jsonschema_rs"):
        form = "pip install 'webhookd[validate]'"
        yield Contradiction(("events.validate",), "the package jsonschema-rs isn't installed", form)
    least_seconds = config.delivery.timeout_seconds + LEASE_MARGIN_SECONDS
    if cluster.servers and cluster.lease_seconds < least_seconds:
        yield Contradiction(
            ("cluster.lease_seconds", "delivery.timeout_seconds"),
            "an attempt could outlast the lease",
            f"at least {least_seconds:g}: delivery.timeout_seconds and {LEASE_MARGIN_SECONDS:g} more",
        )


def reloadable(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """The keys that differ, as `section.key`: those that a reload applies, and those that need a restart."""
    changed = [
        f"{section}.{field.encode_name}"
        for section, struct in SECTIONS.items()
        for field in msgspec.structs.fields(struct)
        if field.name != "types"
        and getattr(getattr(old, section), field.name) != getattr(getattr(new, section), field.name)
    ]
    changed += [
        f'events."{name}"'
        for name in sorted(old.events.types.keys() | new.events.types.keys())
        if old.events.types.get(name) != new.events.types.get(name)
    ]
    fixed = [key for key in changed if key.startswith(tuple(f"{section}." for section in NEED_RESTART))]
    return [key for key in changed if key not in fixed], fixed
