"""Before a machine joins: its name, the shared secret, streams and buckets, and whether NATS keeps what it takes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import msgspec
import orjson
from msgspec import structs
from nats.js.errors import APIError

from webhookd import log
from webhookd.cluster import names
from webhookd.cluster.jetstream import Conflict, JetStream, Unreachable
from webhookd.config import Cluster, Config
from webhookd.config.secret_files import credential, secret_file
from webhookd.errors import ConfigError, TemporaryFailure

NODE_FILE = "node-id"
SECRET_BYTES_MIN = 16
MONITOR_SECONDS = 3.0
HOUR_SECONDS = 3600.0
_FIRST_TOKENS = ("admin", "ingest")
BUCKETS = (names.CLUSTER_BUCKET, names.CONFIG_BUCKET, names.PROGRESS_BUCKET)


class Settings(msgspec.Struct, frozen=True):
    """What stands under `settings`."""

    partitions: int
    version: int = 1


def node_of(state_dir: Path) -> str:
    """This machine's name in the cluster: made once, and kept with its state."""
    path = state_dir / NODE_FILE
    if path.exists():
        return path.read_text("ascii").strip()
    node = secrets.token_hex(6)
    aside = path.with_name(f"{NODE_FILE}.new")
    aside.write_text(node + "\n", "ascii")
    aside.rename(path)
    return node


def shared_secret(settings: Cluster, environ: Mapping[str, str]) -> str:
    """The secret that the machines share; ConfigError if there is none, or a short one."""
    secret = credential("cluster-token", environ)
    if secret is None and settings.token_file:
        secret = secret_file(Path(settings.token_file), "cluster.token_file")
    if secret is None or len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(
            "cluster.token_file: the machines need one secret, the same on each, of at least "
            f"{SECRET_BYTES_MIN} characters (openssl rand -base64 32), in this file or in the credential cluster-token"
        )
    return secret


def make_first_tokens(state_dir: Path, secret: str) -> None:
    """Make the files of the first two tokens where they are missing: the same on every machine with this secret."""
    for scope in _FIRST_TOKENS:
        path = state_dir / f"{scope}-token"
        if path.exists():
            continue
        derived = hmac.new(secret.encode(), f"webhookd first token {scope}".encode(), hashlib.sha256).digest()
        token = urlsafe_b64encode(derived).decode().rstrip("=")
        aside = path.with_name(path.name + ".new")
        aside.unlink(missing_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"whk_{scope}_{token}\n")
        aside.rename(path)


async def prepare(jetstream: JetStream, config: Config) -> list[str]:
    """Make what is missing in NATS, and check the rest; returns what is unsafe and allowed.

    Raises ConfigError for a cluster that could lose events, unless `cluster.allow_unsafe`, and TemporaryFailure.
    """
    settings = config.cluster
    unsafe = await _lazy_servers(settings.monitor)
    try:
        replicas = await _make_buckets(jetstream, settings)
        await _check_settings(jetstream, settings)
        age_seconds = max(config.hold.max_age_hours, config.retention.idempotency_hours) * HOUR_SECONDS + HOUR_SECONDS
        await asyncio.gather(
            *(
                jetstream.ensure_stream(
                    names.stream_name(each),
                    [names.stream_subjects(each)],
                    replicas=replicas,
                    max_age=age_seconds,
                    duplicate_window=names.DUPLICATE_WINDOW_SECONDS,
                )
                for each in range(settings.partitions)
            ),
            jetstream.ensure_stream(
                names.DEAD_STREAM, [f"{names.DEAD}.*"], replicas=replicas, max_age=names.DEAD_LETTER_DAYS * 86_400.0
            ),
        )
        for stream in (*(f"KV_{each}" for each in BUCKETS), names.stream_name(0)):
            found = await jetstream.ask("look", lambda stream=stream: jetstream.replicas_of(stream), within_seconds=10)  # type: ignore[misc]
            if found < names.REPLICAS:
                unsafe.append(f"the stream {stream} has {found} replicas, not {names.REPLICAS}")
    except (Unreachable, APIError) as error:
        raise TemporaryFailure(f"NATS doesn't answer as it should: {error}") from error
    if unsafe and not settings.allow_unsafe:
        raise ConfigError(
            f"cluster.servers: {'; '.join(unsafe)}. What is accepted could get lost: see webhookd help scaling-out, or "
            "set cluster.allow_unsafe = true for a trial"
        )
    for each in unsafe:
        log.emit("cluster.unsafe", message=each)
    return unsafe


async def _make_buckets(jetstream: JetStream, settings: Cluster) -> int:
    """Make the buckets; returns how many replicas streams get."""
    for replicas in (names.REPLICAS, 1):
        try:
            for bucket in BUCKETS:
                await jetstream.ensure_bucket(bucket, replicas=replicas)
        except ConfigError:
            if replicas == 1 or not settings.allow_unsafe:
                raise
        else:
            return replicas
    raise AssertionError


async def _check_settings(jetstream: JetStream, settings: Cluster) -> None:
    wanted = Settings(settings.partitions)
    try:
        await jetstream.ask(
            "write the settings",
            lambda: jetstream.put(names.CLUSTER_BUCKET, names.SETTINGS_KEY, msgspec.json.encode(wanted), 0),
            within_seconds=10,
        )
    except Conflict:
        entry = await jetstream.ask(
            "read the settings", lambda: jetstream.get(names.CLUSTER_BUCKET, names.SETTINGS_KEY), within_seconds=10
        )
        found = msgspec.json.decode(entry.value, type=Settings) if entry else wanted
        if found.partitions != wanted.partitions:
            raise ConfigError(
                f"cluster.partitions is {wanted.partitions}, and this cluster was made with {found.partitions}"
            ) from None


async def _lazy_servers(monitors: tuple[str, ...]) -> list[str]:
    """Which servers say that they don't sync every write; those that don't answer are left out."""
    lazy = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=MONITOR_SECONDS)) as session:
        for url in monitors:
            try:
                async with session.get(f"{url.rstrip('/')}/jsz?config=true") as answer:
                    found = orjson.loads(await answer.read()).get("config", {})
            except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
                log.emit("cluster.unsafe", message=f"{url} can't be asked how it syncs ({type(error).__name__})")
                continue
            if not found.get("sync_always"):
                lazy.append(f"the server at {url} syncs now and then only: set sync_interval = always")
    return lazy


def settings_of(config: Config, number: int) -> Config:
    """The settings for one partition: a database of its own, and its share of what all have."""
    count = config.cluster.partitions
    store = structs.replace(
        config.store, path=f"partitions/{number}/{config.store.path}", min_free_mb=config.store.min_free_mb / count
    )
    retention = structs.replace(config.retention, max_size_mb=config.retention.max_size_mb / count)
    return structs.replace(config, store=store, retention=retention)
