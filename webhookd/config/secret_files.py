"""Secrets from outside the configuration: systemd's credentials, and files that a setting names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from webhookd.errors import ConfigError


def credential(name: str, environ: Mapping[str, str]) -> str | None:
    """The systemd credential `$CREDENTIALS_DIRECTORY/<name>` without surrounding white space; None if there is none.

    Raises ConfigError if it can't be read, isn't UTF-8 or is empty.
    """
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    path = Path(directory) / name
    try:
        secret = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the credential can't be read: {error}") from error
    if not secret:
        raise ConfigError(f"{path}: the credential is empty; expected the secret as text")
    return secret


def secret_file(path: Path, key: str) -> str:
    """The text of the file that the setting `key` names, without surrounding white space; ConfigError without one."""
    try:
        secret = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path} can't be read ({why(error)})") from error
    if not secret:
        raise ConfigError(f"{key}: {path} is empty; expected the secret as text")
    return secret


def why(error: OSError | UnicodeDecodeError) -> str:
    """Why a file of text can't be read, in words."""
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"
