"""The event types that there are: the built-in ones of the catalogue, and those that the configuration adds.

*Send test* sends the samples; every field of theirs is described, for the page and `GET /v1/event-types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from webhookd.errors import ApiError, did_you_mean, field_error
from webhookd.models import EVERY_TYPE
from webhookd.rules.type_files import EventType, bare_type, built_in_types

BUILT_IN = built_in_types()


class EventTypes:
    """The built-in event types and those of the configuration: `extra` maps names to label and description."""

    def __init__(self, extra: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._types = {each.name: each for each in BUILT_IN}
        for name, (label, description) in (extra or {}).items():
            known = self._types.get(name) or bare_type(name)
            self._types[name] = replace(known, label=label, description=description)
        self.names: tuple[str, ...] = tuple(self._types)

    def get(self, name: str) -> EventType | None:
        """The type of this name; None if there is none."""
        return self._types.get(name)

    def require(self, name: str, *, kept: Sequence[str] = ()) -> EventType:
        """The type of this name; else ApiError `unknown_event_type`, naming the nearest one.

        `kept` are the types that an endpoint has: one that the configuration lost meanwhile is known by its name.
        """
        known = self._types.get(name)
        if known is None and name != EVERY_TYPE and name in kept:
            known = bare_type(name)
        if known is not None:
            return known
        shown = name[:100]
        nearest = did_you_mean(name, self.names, cutoff=0.0)
        raise ApiError(
            "unknown_event_type",
            f'The catalogue has no event type {shown!r}: did you mean "{nearest}"? (GET /v1/event-types lists all; '
            "the configuration can add types.)",
            details={"event_type": shown, "nearest": nearest},
        )

    def check_types(self, names: Sequence[str], *, kept: Sequence[str] = ()) -> tuple[str, ...]:
        """An endpoint's `event_types` as stored: each once, in the order given, or `("*",)` for every type.

        `kept` are those that it has already; it may keep them.  Raises ApiError: invalid_field if there are none or
        `*` isn't alone, unknown_event_type.
        """
        distinct = tuple(dict.fromkeys(names))
        if not distinct:
            message = 'event_types is empty: name at least one, or ["*"] for all; to stop an endpoint, disable it.'
            raise field_error("event_types", message)
        if EVERY_TYPE in distinct:
            if len(distinct) > 1:
                message = 'event_types: "*" means every type, so it stands alone; leave it or the others out.'
                raise field_error("event_types", message)
            return distinct
        return tuple(self.require(name, kept=kept).name for name in distinct)
