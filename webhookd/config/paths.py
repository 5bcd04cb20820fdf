"""Where the configuration and the state are found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_STATE_DIR = Path("/var/lib/webhookd")
USER_STATE_DIR = Path(".local/state/webhookd")


def find_config(option: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file that `--config` or `WEBHOOKD_CONFIG` names; None for neither: the defaults."""
    named = option or environ.get("WEBHOOKD_CONFIG")
    return Path(named).expanduser() if named else None


def find_state_dir(option: str | None, environ: Mapping[str, str], *, of_running: bool = False) -> Path:
    """The directory of the database, the tokens and the lock; it isn't created here.

    In this order: `--state-dir` (or `WEBHOOKD_STATE_DIR`), `$STATE_DIRECTORY` (systemd's; the first of several),
    `/var/lib/webhookd` for root and for users that may write there, `~/.local/state/webhookd`.  Commands pass
    `of_running`, because the daemon may run as another user: then the system's directory counts even if it isn't
    readable, unless the user has a directory of their own, so that the error names the missing permission.
    """
    named = option or environ.get("WEBHOOKD_STATE_DIR") or environ.get("STATE_DIRECTORY", "").split(":")[0]
    if named:
        return Path(named).expanduser().absolute()
    own = Path(environ.get("HOME") or Path.home()) / USER_STATE_DIR
    if os.geteuid() == 0 or os.access(SYSTEM_STATE_DIR, os.W_OK | os.X_OK):
        return SYSTEM_STATE_DIR
    # With DynamicUser= it is a link into a directory that other users may not enter.
    if of_running and os.path.lexists(SYSTEM_STATE_DIR) and not own.is_dir():
        return SYSTEM_STATE_DIR
    return own
