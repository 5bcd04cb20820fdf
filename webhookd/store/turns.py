"""Whose turn it is: in which order the writer takes commands, and how many of them make a batch.

Commands without a workspace (outcomes of attempts, changes by people) go first, because an endpoint gets its next event
only after the outcome of the one before is durable.  Commands with a workspace (accepted events, replays) wait in one
queue per workspace, and the workspaces take turns by *deficit round robin*: at each turn a workspace gets a credit of
`QUANTUM` rows, and its commands go as long as the credit pays for them.  So one that submits a lot waits behind itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from webhookd.store.batch import Command

QUANTUM = 50
# Of each batch, so that outcomes of thousands of endpoints can't keep events from being accepted.
SHARE_OF_WORKSPACES = 0.25


class Turns:
    """Commands that wait for the writer."""

    def __init__(self) -> None:
        self._first: deque[Command[Any]] = deque()
        self._workspaces: OrderedDict[int, deque[Command[Any]]] = OrderedDict()  # whose turn it is comes first
        self._credits: dict[int, int] = {}
        # A command that must keep its place, and everything after it: added when all before it was taken.
        self._after: deque[tuple[Command[Any], int | None, bool]] = deque()
        self._count = 0

    def __len__(self) -> int:
        """How many commands wait."""
        return self._count

    def add(self, command: Command[Any], workspace_seq: int | None = None, *, in_order: bool = False) -> None:
        """Let a command wait; with `in_order` none that is added later is taken before it, none earlier after it."""
        self._count += 1
        if self._after or in_order:
            self._after.append((command, workspace_seq, in_order))
        else:
            self._place(command, workspace_seq)

    def put_back(self, commands: list[Command[Any]]) -> None:
        """Let commands that were taken go next, in their order."""
        self._count += len(commands)
        self._first.extendleft(reversed(commands))

    def take(self, size: int, worthwhile_size: int) -> list[Command[Any]]:
        """The next batch: up to about `size` rows, half of what waits if that is worthwhile; an exclusive one alone.

        Its last command may be larger than what was left of `size`.
        """
        if not self._first and not self._workspaces:
            return self._take_in_order()
        half = self._count // 2
        batch: list[Command[Any]] = []
        taken = 0
        for_first = size * (1 - SHARE_OF_WORKSPACES) if self._workspaces else size
        while self._count and taken < size and not (taken >= worthwhile_size and len(batch) >= half):
            if self._first and taken < for_first:
                if batch and self._first[0].exclusive:
                    break
                batch.append(self._first.popleft())
            elif self._workspaces:
                batch.append(self._next_of_workspaces())
            else:
                break
            self._count -= 1
            taken += batch[-1].size
            if batch[-1].exclusive:
                break
        return batch

    def _place(self, command: Command[Any], workspace_seq: int | None) -> None:
        if workspace_seq is None:
            self._first.append(command)
        else:
            self._workspaces.setdefault(workspace_seq, deque()).append(command)

    def _take_in_order(self) -> list[Command[Any]]:
        self._count -= 1
        batch = [self._after.popleft()[0]]
        while self._after and not self._after[0][2]:
            self._place(*self._after.popleft()[:2])
        return batch

    def _next_of_workspaces(self) -> Command[Any]:
        while True:
            workspace_seq, commands = next(iter(self._workspaces.items()))
            credit = self._credits.get(workspace_seq, QUANTUM)
            if len(self._workspaces) == 1 or commands[0].size <= credit:
                command = commands.popleft()
                self._credits[workspace_seq] = max(0, credit - command.size)
                if not commands:
                    del self._workspaces[workspace_seq]
                    self._credits.pop(workspace_seq, None)
                return command
            self._credits[workspace_seq] = credit + QUANTUM
            self._workspaces.move_to_end(workspace_seq)
