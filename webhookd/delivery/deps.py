"""What the parts of delivery and administration are built on, declared once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from webhookd.clock import Clock
from webhookd.config import Config
from webhookd.delivery.registry import Registry
from webhookd.rules.event_types import EventTypes
from webhookd.rules.plans import Plans
from webhookd.store.store import Store


@dataclass(frozen=True, slots=True)
class Deps:
    """Built by `webhookd.app`.  Settings and what follows from them are callables: a reload replaces the values."""

    store: Store
    registry: Registry
    clock: Clock
    settings: Callable[[], Config]
    plans: Callable[[], Plans]
    event_types: Callable[[], EventTypes]
