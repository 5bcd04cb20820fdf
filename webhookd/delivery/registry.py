"""The workspaces and endpoints as they stand committed, in memory: looked up everywhere, without waiting.

The table is the truth; this is changed only by the `on_commit` of the command that changed the table, in commit order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from webhookd.errors import ApiError
from webhookd.models import EVERY_TYPE, Endpoint, Workspace, WorkspaceKey
from webhookd.rules.filters import Filters, compiled
from webhookd.rules.plans import Plans

# Called with what was put, or removed (False).
Changed = Callable[[Workspace | Endpoint, bool], None]


class NeededFacts(NamedTuple):
    """What has to be known of an event's body, for some endpoint: the hash of the key at each path, each filter's word.

    `Ingest.body_facts` finds these out, once for all endpoints.
    """

    key_paths: tuple[str, ...]
    filters: tuple[Filters, ...]


class Registry:
    """Workspaces and endpoints by number and by id.  Deleted ones are gone from here at once.

    A workspace's id can be given again after it was deleted, its number never: code that keeps a workspace over an
    `await`, or compares two, uses the number.  The look-ups take either.
    """

    def __init__(self, plans: Callable[[], Plans], changed: Changed | None = None) -> None:
        self._plans = plans
        self._changed = changed or (lambda what, is_there: None)
        self._workspaces: dict[int, Workspace] = {}
        self._seq_by_id: dict[str, int] = {}
        self._by_seq: dict[int, Endpoint] = {}
        self._by_id: dict[str, Endpoint] = {}
        self._subscriptions: Counter[tuple[int, str]] = Counter()  # by workspace and event type
        # Those that order by key or have filters, by workspace and number.
        self._needing_facts: dict[int, dict[int, Endpoint]] = {}
        self._needed_facts: dict[int, dict[str, NeededFacts]] = {}  # by workspace and event type, as far as asked for

    def load(self, workspaces: Iterable[Workspace], endpoints: Iterable[Endpoint]) -> None:
        """Take what the table has at the start."""
        for workspace in workspaces:
            self.put_workspace(workspace)
        self.put_all(endpoints)

    # Workspaces

    def put_workspace(self, workspace: Workspace) -> None:
        """Add a workspace or replace it."""
        self._workspaces[workspace.seq] = workspace
        self._seq_by_id[workspace.id] = workspace.seq
        self._changed(workspace, True)

    def remove_workspace(self, workspace: Workspace) -> None:
        """Remove a deleted workspace."""
        self._workspaces.pop(workspace.seq, None)
        if self._seq_by_id.get(workspace.id) == workspace.seq:
            del self._seq_by_id[workspace.id]
        self._changed(workspace, False)

    def workspaces(self) -> list[Workspace]:
        """All of them, oldest first."""
        return sorted(self._workspaces.values(), key=lambda workspace: workspace.seq)

    def find_workspace(self, key: WorkspaceKey) -> Workspace | None:
        """The workspace with this number or id; None if there is none (any more)."""
        seq = self._seq_by_id.get(key) if isinstance(key, str) else key
        return None if seq is None else self._workspaces.get(seq)

    def workspace(self, key: WorkspaceKey) -> Workspace:
        """The workspace with this number or id; ApiError `not_found` if there is none."""
        workspace = self.find_workspace(key)
        if workspace is None:
            named = f"There is no workspace {key!r}" if isinstance(key, str) else "The workspace was deleted just now"
            raise ApiError("not_found", f"{named}. `webhookd workspace list` shows them.")
        return workspace

    def paused(self, key: WorkspaceKey) -> bool:
        """Whether the workspace's plan has no webhooks, so that nothing is delivered for it."""
        workspace = self.find_workspace(key)
        return workspace is None or not self._plans().has_webhooks(workspace.plan)

    # Endpoints

    def put(self, endpoint: Endpoint) -> None:
        """Add an endpoint or replace it."""
        self._unsubscribe(self._by_seq.get(endpoint.seq))
        self._subscriptions.update((endpoint.workspace_seq, each) for each in endpoint.event_types)
        self._by_seq[endpoint.seq] = endpoint
        self._by_id[endpoint.id] = endpoint
        if endpoint.ordering.key is not None or endpoint.filters:
            self._needing_facts.setdefault(endpoint.workspace_seq, {})[endpoint.seq] = endpoint
            self._needed_facts.pop(endpoint.workspace_seq, None)
        self._changed(endpoint, True)

    def put_all(self, endpoints: Iterable[Endpoint]) -> None:
        """`put` for several."""
        for endpoint in endpoints:
            self.put(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        """Remove a deleted endpoint."""
        self._unsubscribe(self._by_seq.pop(endpoint.seq, None))
        self._by_id.pop(endpoint.id, None)
        self._changed(endpoint, False)

    def fan_out(self, workspace_seq: int, event_type: str) -> int:
        """How many endpoints of a workspace want events of a type."""
        return self._subscriptions[workspace_seq, event_type] + self._subscriptions[workspace_seq, EVERY_TYPE]

    def needs_body_facts(self, workspace_seq: int) -> bool:
        """Whether an endpoint of a workspace orders by key or has filters."""
        return workspace_seq in self._needing_facts

    def needed_facts(self, workspace_seq: int, event_type: str) -> NeededFacts:
        """What the endpoints of a workspace need to know of the body of an event of this type."""
        of_workspace = self._needed_facts.setdefault(workspace_seq, {})
        if event_type not in of_workspace:
            needing = [
                each
                for each in self._needing_facts.get(workspace_seq, {}).values()
                if not {event_type, EVERY_TYPE}.isdisjoint(each.event_types)
            ]
            of_workspace[event_type] = NeededFacts(
                tuple({each.ordering.key for each in needing if each.ordering.key is not None}),
                tuple({each.filters: compiled(each.filters) for each in needing if each.filters}.values()),
            )
        return of_workspace[event_type]

    def _unsubscribe(self, endpoint: Endpoint | None) -> None:
        if endpoint is not None:
            needing = self._needing_facts.get(endpoint.workspace_seq, {})
            if needing.pop(endpoint.seq, None) is not None:
                self._needed_facts.pop(endpoint.workspace_seq, None)
                if not needing:
                    del self._needing_facts[endpoint.workspace_seq]
            self._subscriptions.subtract((endpoint.workspace_seq, each) for each in endpoint.event_types)

    def get(self, seq: int) -> Endpoint | None:
        """The endpoint with this number, unless it was deleted."""
        return self._by_seq.get(seq)

    def endpoint_id(self, seq: int) -> str:
        """The id of the endpoint with this number, for showing."""
        endpoint = self._by_seq.get(seq)
        return endpoint.id if endpoint else f"(deleted {seq})"

    def endpoint(self, workspace: WorkspaceKey, endpoint_id: str) -> Endpoint:
        """An endpoint of a workspace by its id; ApiError `not_found` if there is none."""
        of = self.workspace(workspace)
        endpoint = self._by_id.get(endpoint_id)
        if endpoint is None or endpoint.workspace_seq != of.seq:
            raise ApiError(
                "not_found",
                f"There is no endpoint {endpoint_id!r} in workspace {of.id!r}. `webhookd endpoint list` shows them.",
            )
        return endpoint

    def readable(self, workspace: WorkspaceKey, endpoint_id: str, *, setting: Collection[str] = ()) -> Endpoint:
        """`endpoint`; ApiError `endpoint_malformed` if columns but those of `setting` can't be read."""
        endpoint = self.endpoint(workspace, endpoint_id)
        left = [name for name in endpoint.malformed if name not in setting]
        if left:
            raise ApiError(
                "endpoint_malformed",
                f"In the database {' and '.join(left)} of this endpoint can't be read. Set {' and '.join(left)} again "
                "with one change, then enable it.",
                details={"fields": left},
            )
        return endpoint

    def endpoints(self, workspace: WorkspaceKey | None = None) -> list[Endpoint]:
        """The endpoints of a workspace (or all), oldest first."""
        if workspace is None:
            return list(self._by_seq.values())
        found = self.find_workspace(workspace)
        return [] if found is None else [e for e in self._by_seq.values() if e.workspace_seq == found.seq]

    def runs(self, endpoint: Endpoint) -> bool:
        """Whether events go out to it now: it is active and its workspace's plan has webhooks."""
        return endpoint.active and not self.paused(endpoint.workspace_seq)
