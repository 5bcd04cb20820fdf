"""Opening the database: whose eyes it is for."""

from __future__ import annotations

from pathlib import Path

from webhookd.store.database import open_writer


async def test_a_restored_copy_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Signing keys are in it: a copy that everybody may read is tightened before SQLite makes its side files."""
    path = tmp_path / "webhookd.db"
    for mode in (0o600, 0o644):
        if path.exists():
            path.chmod(mode)
        connection, _, _ = await open_writer(path)
        try:
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        finally:
            await connection.close()
        assert {"webhookd.db": 0o600, "webhookd.db-shm": 0o600, "webhookd.db-wal": 0o600} == modes
