"""The event types that there are: the built-in ones of the catalogue, and those that the configuration adds.

*Send test* sends the samples; every field of theirs is described, for the page and `GET /v1/event-types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from webhookd.catalogue.types import EventType, bare_type, built_in_types, event_type
from webhookd.config import Events
from webhookd.errors import ApiError, did_you_mean, field_error
from webhookd.models import EVERY_TYPE, Json
from webhookd.rules.validation import Validator

BUILT_IN = built_in_types()
NO_EVENTS = Events()


class EventTypes:
    """The built-in event types and those of the configuration; of these, one without a file has a name and words.

    `validation` is what becomes of an event that doesn't fit its type's schema: "off" means that none is looked at.
    """

    def __init__(self, events: Events = NO_EVENTS) -> None:
        self.validation = events.validate
        self._validators: dict[str, Validator] = {}
        self._types = {each.name: each for each in BUILT_IN}
        for name, added in events.types.items():
            known = self._types.get(name) or bare_type(name)
            if added.file is not None:
                known = event_type(name, added.file)
            self._types[name] = replace(known, label=added.label or name, description=added.description)
        self.names: tuple[str, ...] = tuple(self._types)

    def get(self, name: str) -> EventType | None:
        """The type of this name; None if there is none."""
        return self._types.get(name)

    def all(self) -> list[EventType]:
        """All types, in their order."""
        return list(self._types.values())

    def mismatch(self, event_type: str, event: Json) -> ApiError | None:
        """The error `schema_mismatch` if an event doesn't fit the schema of its type, which is compiled once."""
        validator = self._validators.get(event_type)
        if validator is None:
            validator = self._validators[event_type] = Validator(self._types[event_type])
        return validator.mismatch(event)

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
