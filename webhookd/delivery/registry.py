"""The workspaces and endpoints as they stand committed, in memory: looked up everywhere, without waiting.

The table is the truth; this is changed only by the `on_commit` of the command that changed the table, in commit order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from webhookd.errors import ApiError
from webhookd.models import Endpoint, Workspace
from webhookd.rules.plans import Plans


class Registry:
    """Workspaces by id, endpoints by number and by id.  Deleted ones are gone from here at once."""

    def __init__(self, plans: Callable[[], Plans]) -> None:
        self._plans = plans
        self._workspaces: dict[str, Workspace] = {}
        self._by_seq: dict[int, Endpoint] = {}
        self._by_id: dict[str, Endpoint] = {}

    def load(self, workspaces: Iterable[Workspace], endpoints: Iterable[Endpoint]) -> None:
        """Take what the table has at the start."""
        for workspace in workspaces:
            self.put_workspace(workspace)
        self.put_all(endpoints)

    # Workspaces

    def put_workspace(self, workspace: Workspace) -> None:
        """Add a workspace or replace it."""
        self._workspaces[workspace.id] = workspace

    def remove_workspace(self, workspace_id: str) -> None:
        """Remove a deleted workspace."""
        self._workspaces.pop(workspace_id, None)

    def workspaces(self) -> list[Workspace]:
        """All of them, oldest first."""
        return sorted(self._workspaces.values(), key=lambda workspace: workspace.seq)

    def workspace(self, workspace_id: str) -> Workspace:
        """The workspace with this id; ApiError `not_found` if there is none."""
        workspace = self._workspaces.get(workspace_id)
        if workspace is None:
            raise ApiError(
                "not_found", f"There is no workspace {workspace_id!r}. `webhookd workspace list` shows them."
            )
        return workspace

    def paused(self, workspace_id: str) -> bool:
        """Whether the workspace's plan has no webhooks, so that nothing is delivered for it."""
        workspace = self._workspaces.get(workspace_id)
        return workspace is None or not self._plans().has_webhooks(workspace.plan)

    # Endpoints

    def put(self, endpoint: Endpoint) -> None:
        """Add an endpoint or replace it."""
        self._by_seq[endpoint.seq] = endpoint
        self._by_id[endpoint.id] = endpoint

    def put_all(self, endpoints: Iterable[Endpoint]) -> None:
        """`put` for several."""
        for endpoint in endpoints:
            self.put(endpoint)

    def remove(self, endpoint: Endpoint) -> None:
        """Remove a deleted endpoint."""
        self._by_seq.pop(endpoint.seq, None)
        self._by_id.pop(endpoint.id, None)

    def get(self, seq: int) -> Endpoint | None:
        """The endpoint with this number, unless it was deleted."""
        return self._by_seq.get(seq)

    def endpoint_id(self, seq: int) -> str:
        """The id of the endpoint with this number, for showing."""
        endpoint = self._by_seq.get(seq)
        return endpoint.id if endpoint else f"(deleted {seq})"

    def endpoint(self, workspace_id: str, endpoint_id: str) -> Endpoint:
        """An endpoint of a workspace by its id; ApiError `not_found` if there is none."""
        self.workspace(workspace_id)
        endpoint = self._by_id.get(endpoint_id)
        if endpoint is None or endpoint.workspace != workspace_id:
            raise ApiError(
                "not_found",
                f"There is no endpoint {endpoint_id!r} in workspace {workspace_id!r}. "
                "`webhookd endpoint list` shows them.",
            )
        return endpoint

    def endpoints(self, workspace_id: str | None = None) -> list[Endpoint]:
        """The endpoints of a workspace (or all), oldest first."""
        return [e for e in self._by_seq.values() if workspace_id is None or e.workspace == workspace_id]

    def runs(self, endpoint: Endpoint) -> bool:
        """Whether events go out to it now: it is active and its workspace's plan has webhooks."""
        return endpoint.active and not self.paused(endpoint.workspace)
