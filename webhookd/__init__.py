"""webhookd: outgoing webhooks, signed, in order, never lost once accepted.

`manual/architecture.md` is the map: the packages, the way of an event in and of a delivery out, the glossary.
"""

from webhookd._version import __version__

__all__ = ["__version__"]
