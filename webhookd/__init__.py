"""webhookd: outgoing webhooks, signed, in order, never lost once accepted.

The map of the house, in reading order:

- `model`, `errors`, `clock`: the nouns, the refusals, time.
- `rules`: what is *decided*.  Pure: the catalogue, the parsing of events, signing, retries, the budget, URLs.
- `store`: what is *remembered*.  SQLite, one writer with group commit, readers apart.
- `delivery`: what is *carried*.  From ingest over the dispatcher and an endpoint's consumer to the HTTP request.
- `upkeep`: what is *looked after*.  The watchdog of the budget, mail, holding, retention, the heartbeat.
- `web`: what is *shown*.  The API, its OpenAPI document, the page.
- `house`: all of these wired.  `daemon`: the process around it, with its sockets, signals and the order of stopping.
- `cli`: the commands, which talk to a running daemon.

How one event flows: `web.api_events` → `delivery.ingest` → `rules.events` → `store.writer` (one group commit) → 202 →
`delivery.dispatcher` → the endpoint's `delivery.consumer` → `delivery.sender` → `rules.retry` → `store.writer` → next.
"""

from webhookd._version import __version__

__all__ = ["__version__"]
