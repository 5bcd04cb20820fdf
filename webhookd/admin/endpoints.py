"""Endpoints: create, change, rotate keys, disable, enable, delete."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from webhookd import log
from webhookd.clock import rfc3339
from webhookd.delivery.deps import Deps
from webhookd.delivery.dispatcher import Dispatcher
from webhookd.delivery.replay import Replayer
from webhookd.delivery.watchdog import Watchdog
from webhookd.errors import ApiError, field_error
from webhookd.models import EVERY_TYPE, MALFORMED, Endpoint, EndpointState, PreviousKey, Workspace, WorkspaceKey
from webhookd.rules import signing
from webhookd.rules.filters import check_filters, filters_json
from webhookd.rules.ids import sortable_id
from webhookd.rules.ordering import check_ordering
from webhookd.rules.urls import check_headers
from webhookd.store import endpoints, workspaces
from webhookd.store.store import Db
from webhookd.tasks import KeyedLocks

DESCRIPTION_CHARACTERS = 500
OVERLAP_SECONDS_MAX = 30 * 86400
# Each adds a signature to every request.
PREVIOUS_KEYS_MAX = 10


class Endpoints:
    """Everything a person or program can do to endpoints; `check_url` as in `sender.client.Client`."""

    def __init__(
        self,
        deps: Deps,
        dispatcher: Dispatcher,
        watchdog: Watchdog,
        replayer: Replayer,
        check_url: Callable[[str], str],
    ) -> None:
        self._store, self._registry, self._clock, self._settings = deps.store, deps.registry, deps.clock, deps.settings
        self._plans, self._event_types = deps.plans, deps.event_types
        self._dispatcher = dispatcher
        self._watchdog = watchdog
        self._replayer = replayer
        self._check_url = check_url
        # One change of an endpoint at a time: each reads, decides and writes.
        self._locks = KeyedLocks()

    async def create(
        self,
        key: WorkspaceKey,
        *,
        url: str,
        event_types: Sequence[str],
        description: str = "",
        success: str | None = None,
        headers: Mapping[str, str] | None = None,
        signing_key: str | None = None,
        x_webhook_signature: bool = True,
        x_webhook_signature_key: str | None = None,
        ordering: Any = "endpoint",
        filters: Any = None,
    ) -> Endpoint:
        """Create an endpoint; it is active at once.

        Raises ApiError: `plan_required`, `invalid_url`, `blocked_address`, `unknown_event_type`, `invalid_field`,
        `endpoint_exists`, `too_many_endpoints`.
        """
        workspace = self._registry.workspace(key)
        self._plans().require(workspace.plan, "Adding an endpoint")
        fields = self._checked(
            url=url,
            event_types=event_types,
            description=description,
            success=success or self._settings().delivery.success,
            headers=headers or {},
            x_webhook_signature=x_webhook_signature,
            x_webhook_signature_key=x_webhook_signature_key,
            ordering=ordering,
            filters=filters or {},
        )
        own_key = _new_key() if signing_key is None else signing.check_key(signing_key)
        endpoint = _new_endpoint(workspace, fields, own_key, self._clock.wall_ms())

        def command(db: Db) -> Endpoint:
            workspaces.require(db, workspace.seq)
            self._check_free(db, endpoint)
            self._check_count(db, workspace)
            return endpoints.insert(db, endpoint)

        created = await self._store.write(command, on_commit=self._registry.put)
        log.emit("endpoint.created", **_named(created), event_types=created.event_types)
        return created

    async def quarantine(self) -> None:
        """At the start: disable the endpoints whose rows can't be read, each with a log line."""
        for endpoint in self._registry.endpoints():
            names = " and ".join(endpoint.malformed)
            if names:
                log.emit("endpoint.quarantined", **_named(endpoint), message=names)
            if names and endpoint.disabled_reason != MALFORMED:
                message = f"In the database {names} can't be read."
                now_ms = self._clock.wall_ms()
                await self._store.write(
                    partial(endpoints.quarantine, seq=endpoint.seq, message=message, now_ms=now_ms),
                    on_commit=self._registry.put,
                )

    async def change(
        self,
        workspace: WorkspaceKey,
        endpoint_id: str,
        changes: Mapping[str, Any],
        *,
        only_if: Callable[[Endpoint], bool] = lambda endpoint: True,
    ) -> Endpoint:
        """Change fields of an endpoint, all or none; what is in flight ends as it was.

        `changes` may have what `create` takes.  ApiError `endpoint_changed` if the endpoint is no longer one that
        `only_if` takes, `replay_running` for another key while events are sent again.
        """
        async with self._locks.of(endpoint_id):
            endpoint = self._registry.readable(workspace, endpoint_id, setting=changes.keys())
            if not only_if(endpoint):
                raise ApiError("endpoint_changed", "The endpoint was changed meanwhile, so nothing was saved.")
            changed = self._changed(endpoint, changes)
            if changed.ordering.key != endpoint.ordering.key and self._replayer.runs_to(endpoint):
                # A backfill's rows get numbers that were set aside before, so a barrier would miss them.
                raise ApiError(
                    "replay_running",
                    "A replay or backfill to this endpoint is running. Change its order when that has ended.",
                    retry_after_seconds=5,
                )

            def command(db: Db) -> Endpoint:
                if changed.url != endpoint.url:
                    self._check_free(db, changed)
                return endpoints.update(db, changed)

            def on_commit(changed: Endpoint) -> None:
                self._registry.put(changed)
                self._dispatcher.reorder(changed)
                self._dispatcher.wake(changed.seq)

            changed = await self._store.write(command, on_commit=on_commit)
        log.emit("endpoint.changed", **_named(changed), fields=sorted(changes))
        return changed

    def _changed(self, endpoint: Endpoint, changes: Mapping[str, Any]) -> Endpoint:
        # Types that it has already stay valid, even if the configuration no longer has them.
        fields = self._checked((*endpoint.event_types, *filters_json(endpoint.filters)), **changes)
        if "signing_key" in changes:
            # A key that is set, not rotated, is the only one from now on.
            key = signing.check_key(changes["signing_key"])
            fields |= {"signing_key": key, "previous_keys": ()}
        changed = replace(endpoint, **fields, updated_at_ms=self._clock.wall_ms())
        if (changed.event_types, changed.filters) != (endpoint.event_types, endpoint.filters):
            changed = replace(changed, selected_at_ms=changed.updated_at_ms)
        return changed

    async def rotate_key(self, workspace: WorkspaceKey, endpoint_id: str, overlap_seconds: float) -> Endpoint:
        """Give it a new signing key; until `overlap_seconds` have passed the one before it signs too.

        Keys replaced earlier sign until their own overlap ends, but without an overlap only in `webhook-signature`.
        ApiError `too_many_keys` if `PREVIOUS_KEYS_MAX` do.
        """
        if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
            raise field_error(
                "overlap_seconds", f"overlap_seconds is a number from 0 to {OVERLAP_SECONDS_MAX} (30 days)."
            )
        async with self._locks.of(endpoint_id):
            endpoint = self._registry.readable(workspace, endpoint_id, setting=("signing_key",))
            now_ms = self._clock.wall_ms()
            previous = endpoint.live_previous_keys(now_ms)
            if len(previous) >= PREVIOUS_KEYS_MAX:
                raise ApiError(
                    "too_many_keys",
                    f"{PREVIOUS_KEYS_MAX} replaced keys still sign, as many as can. Wait until the overlap of one "
                    "ends, or set a key of your own, which then signs alone.",
                    details={"until": rfc3339(min(until_ms for _, until_ms, _ in previous))},
                )
            if not overlap_seconds:
                previous = tuple(each._replace(signs_body=False) for each in previous)
            elif not endpoint.malformed:
                previous = (PreviousKey(endpoint.signing_key, now_ms + round(overlap_seconds * 1000)), *previous)
            rotated = replace(endpoint, signing_key=_new_key(), previous_keys=previous, updated_at_ms=now_ms)
            rotated = await self._store.write(lambda db: endpoints.update(db, rotated), on_commit=self._registry.put)
        log.emit("key.rotated", workspace=rotated.workspace, endpoint_id=endpoint_id, overlap_seconds=overlap_seconds)
        return rotated

    async def disable(self, workspace: WorkspaceKey, endpoint_id: str) -> Endpoint:
        """Disable it for a person: no further attempt starts, its events are held.  On a disabled one: nothing."""
        async with self._locks.of(endpoint_id):
            endpoint = self._registry.endpoint(workspace, endpoint_id)
            if endpoint.state is EndpointState.DISABLED:
                return endpoint
            self._dispatcher.block(endpoint.seq)
            now_ms = self._clock.wall_ms()
            try:
                await self._store.write(
                    lambda db: endpoints.disable(
                        db,
                        [endpoint.seq],
                        state=EndpointState.DISABLED,
                        reason="person",
                        message="Disabled by a person.",
                        now_ms=now_ms,
                    ),
                    on_commit=self._registry.put_all,
                )
            finally:
                self._dispatcher.unblock(endpoint.seq)
        log.emit("endpoint.disabled", **_named(endpoint))
        return self._registry.endpoint(workspace, endpoint_id)

    async def enable(self, workspace: WorkspaceKey, endpoint_id: str, *, skip_held: bool = False) -> Endpoint:
        """Enable it: its held events go out in order, or are skipped; its failures no longer count.

        On an active one nothing changes.  ApiError `plan_required` below the plan that has webhooks.
        """
        async with self._locks.of(endpoint_id):
            plan = self._registry.workspace(workspace).plan
            endpoint = self._registry.readable(workspace, endpoint_id)
            self._plans().require(plan, "Enabling an endpoint")
            if endpoint.active:
                return endpoint
            await self._dispatcher.wait_idle(endpoint.seq)
            now_ms = self._clock.wall_ms()
            waiting = self._dispatcher.view(endpoint.seq).waiting

            def on_commit(enabled: Endpoint) -> None:
                self._registry.put(enabled)
                self._watchdog.forget(enabled.workspace_seq, enabled.seq)
                if skip_held:
                    self._dispatcher.clear(enabled.seq)
                self._dispatcher.wake(enabled.seq)

            enabled = await self._store.write(
                lambda db: endpoints.enable(db, endpoint.seq, skip_held=skip_held, now_ms=now_ms), on_commit=on_commit
            )
        log.emit(
            "endpoint.enabled",
            **_named(enabled),
            skip_held=skip_held,
            waiting=0 if skip_held else waiting,
            skipped=waiting if skip_held else 0,
        )
        return enabled

    async def delete(self, workspace: WorkspaceKey, endpoint_id: str) -> None:
        """Delete it: what waits is cancelled, an attempt in flight ends and is recorded, the log stays."""
        async with self._locks.of(endpoint_id):
            endpoint = self._registry.endpoint(workspace, endpoint_id)
            self._dispatcher.block(endpoint.seq)
            now_ms = self._clock.wall_ms()

            def on_commit(_: None) -> None:
                self._registry.remove(endpoint)
                self._watchdog.forget(endpoint.workspace_seq, endpoint.seq)
                self._dispatcher.forget(endpoint.seq)

            try:
                await self._store.write(lambda db: endpoints.delete(db, endpoint.seq, now_ms), on_commit=on_commit)
            finally:
                self._dispatcher.unblock(endpoint.seq)
        log.emit("endpoint.deleted", **_named(endpoint))

    def _checked(self, kept: Sequence[str] = (), /, **fields: Any) -> dict[str, Any]:
        """The fields that can be set, checked; `kept` are event types that the endpoint has already."""
        checks: dict[str, Callable[[Any], Any]] = {
            "url": self._check_url,
            "event_types": lambda names: self._event_types().check_types(list(names), kept=kept),
            "description": _checked_description,
            "success": _checked_success,
            "headers": check_headers,
            "x_webhook_signature": bool,
            "x_webhook_signature_key": signing.check_body_key,
            "ordering": check_ordering,
            "filters": lambda given: self._checked_filters(given, kept),
        }
        return {name: check(fields[name]) for name, check in checks.items() if name in fields}

    def _checked_filters(self, given: Any, kept: Sequence[str]) -> str:
        text = check_filters(given)
        for name in filters_json(text):
            if name != EVERY_TYPE:
                self._event_types().require(name, kept=kept)
        return text

    def _check_count(self, db: Db, workspace: Workspace) -> None:
        limit = self._settings().limits.endpoints
        if endpoints.count(db, workspace.seq) >= limit:
            raise ApiError(
                "too_many_endpoints",
                f"Workspace {workspace.id!r} has {limit} endpoints, as many as limits.endpoints allows.",
                details={"limit": limit},
            )

    def _check_free(self, db: Db, endpoint: Endpoint) -> None:
        taken = endpoints.id_of_url(db, endpoint.workspace_seq, endpoint.url, beside=endpoint.id)
        if taken is not None:
            raise ApiError(
                "endpoint_exists",
                f"The workspace has an endpoint with this URL: {taken}. Add the event types to that one.",
                details={"id": taken},
            )


def _new_key() -> str:
    return signing.new_key(secrets.token_bytes(signing.KEY_BYTES))


def _new_endpoint(workspace: Workspace, fields: dict[str, Any], signing_key: str, now_ms: int) -> Endpoint:
    return Endpoint(
        seq=0,
        id=sortable_id("ep", now_ms, secrets.token_bytes(10)),
        workspace_seq=workspace.seq,
        workspace=workspace.id,
        signing_key=signing_key,
        previous_keys=(),
        state=EndpointState.ACTIVE,
        disabled_reason=None,
        disabled_at_ms=None,
        disabled_message=None,
        skipped_upto=0,
        forgiven_upto=0,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        selected_at_ms=now_ms,
        deleted_at_ms=None,
        **fields,
    )


def _named(endpoint: Endpoint) -> dict[str, Any]:
    """The fields of a log line that say which endpoint it is about."""
    return {
        "workspace": endpoint.workspace,
        "endpoint_id": endpoint.id,
        "url": log.loggable_url(endpoint.url),
    }


def _checked_description(text: str) -> str:
    if len(text) > DESCRIPTION_CHARACTERS:
        raise field_error("description", f"A description has at most {DESCRIPTION_CHARACTERS} characters.")
    return text


def _checked_success(rule: str) -> str:
    if rule not in ("200", "2xx"):
        raise field_error("success", 'success is "200" (exactly that) or "2xx" (any of them).')
    return rule
