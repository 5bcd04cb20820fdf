"""The database key: what lies in the file, how keys change, and what a daemon without the right one does."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from base64 import b64encode
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.process import daemon, start
from tests.support.receiver import receiver
from tests.support.stores import add_workspace, new_endpoint
from webhookd.errors import EXIT_CONFIG, StoreUnusable
from webhookd.models import Endpoint, PreviousKey
from webhookd.rules.encryption import PLAIN, Cipher, parse_keys
from webhookd.store import endpoints
from webhookd.store.store import Store

FIRST, SECOND = (b64encode(bytes([number]) * 32).decode() for number in (1, 2))
SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "hush-hush", "whsec_b29vb29vb29vb29vb29vb29vb29vb29v", "old text")


def cipher(*lines: str) -> Cipher:
    return parse_keys("\n".join(lines), os.urandom) if lines else PLAIN


async def opened(folder: Path, *lines: str, add: int = 0) -> list[Endpoint]:
    """Open the store with these lines of keys and close it; with `add`, endpoints with secrets are added."""
    store = await Store.open(folder / "webhookd.db", cipher=cipher(*lines))
    writing = asyncio.create_task(store.writer.run())
    try:
        if add:
            workspace = await add_workspace(store)
            secret = {
                "headers": (("X-Key", SECRETS[1]),),
                "previous_keys": (PreviousKey(SECRETS[2], 99),),
                "x_webhook_signature_key": SECRETS[3],
            }
            made = [new_endpoint(workspace.seq, url=f"https://a.example/{each}", **secret) for each in range(add)]
            await store.write(lambda db: [endpoints.insert(db, each) for each in made])
        return await store.read(endpoints.load)
    finally:
        await store.writer.flushed()
        writing.cancel()
        await asyncio.wait([writing])
        await store.close()


def on_disk(folder: Path) -> set[str]:
    """Which of the secrets lie in the database's files."""
    found = b"".join(file.read_bytes() for file in folder.iterdir())
    return {secret for secret in SECRETS if secret.encode() in found}


async def test_secrets_are_encrypted_and_keys_rotate(tmp_path: Path) -> None:
    """From plain to a key, to another one, and back; each start leaves nothing behind of what was."""
    made = await opened(tmp_path, add=120)  # more than one step
    assert set(SECRETS) == on_disk(tmp_path)
    assert made == await opened(tmp_path, FIRST)
    assert set() == on_disk(tmp_path)
    assert made == await opened(tmp_path, SECOND, FIRST) == await opened(tmp_path, SECOND)
    assert set() == on_disk(tmp_path)
    assert made == await opened(tmp_path, "none", SECOND) == await opened(tmp_path)
    assert set(SECRETS) == on_disk(tmp_path)


async def test_what_is_written_with_a_key_is_never_plain(tmp_path: Path) -> None:
    """Nor in a copy."""
    made = await opened(tmp_path, FIRST, add=1)
    assert (SECRETS[0], 1) == (made[0].signing_key, len(made))
    assert set() == on_disk(tmp_path)
    store = await Store.open(tmp_path / "webhookd.db", cipher=cipher(FIRST))
    await store.backup(tmp_path / "copy.db")
    await store.close()
    assert set() == on_disk(tmp_path)


@pytest.mark.parametrize("lines", [(), (SECOND,), ("none", SECOND)])
async def test_without_the_right_key_nothing_is_opened(tmp_path: Path, lines: tuple[str, ...]) -> None:
    """Whatever else is given: the reason names the key that is missing, and nothing was changed."""
    (made,) = await opened(tmp_path, FIRST, add=1)
    with pytest.raises(StoreUnusable, match=f"database key {cipher(FIRST).name}.*as well"):
        await opened(tmp_path, *lines)
    assert [made] == await opened(tmp_path, FIRST)


async def test_a_lost_key_leaves_endpoints_to_repair(tmp_path: Path) -> None:
    """`lost` in the file: what it encrypted reads as malformed, and can be set again."""
    await opened(tmp_path, FIRST, add=1)
    (found,) = await opened(tmp_path, SECOND, f"lost {cipher(FIRST).name}")
    assert ("headers", "signing_key", "x_webhook_signature_key") == found.malformed


@pytest.mark.slow
@pytest.mark.parametrize("credential", ["database-key", "webhookd.database-key", None])
async def test_the_daemon_takes_its_key_from_a_credential_or_a_file(tmp_path: Path, credential: str | None) -> None:
    """It signs as before, says so in the status, and exits with 78 once the key is gone."""
    name = credential or "key"
    (tmp_path / name).write_text(FIRST + "\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)} if credential else {}
    setting = "" if credential else f'[store]\nkey_file = "{tmp_path / name}"\n'
    config = f'{setting}[egress]\nallow = ["127.0.0.0/8"]\n'
    async with receiver() as where:
        async with daemon(tmp_path / "state", '[egress]\nallow = ["127.0.0.0/8"]\n') as d:
            assert not (await d.call("GET", "/v1/status"))["database"]["encrypted"]
            made = await d.call(
                "POST",
                "/v1/endpoints",
                {"url": where.url + "/hook", "event_types": ["*"], "headers": {"X-A": "hush-hush"}},
            )
        async with daemon(tmp_path / "state", config, environ=environ) as d:
            assert (await d.call("GET", "/v1/status"))["database"]["encrypted"]
            await d.call("POST", "/v1/events", {"event_type": "message.sent"}, expect=202)
            (received,) = await where.until(1)
            assert "hush-hush" == received.headers["x-a"]
            assert (
                made["signing_key"] == (await d.call("GET", f"/v1/endpoints/{made['id']}/signing-key"))["signing_key"]
            )
            with closing(sqlite3.connect(d.state_dir / "webhookd.db")) as db:
                ((headers, key),) = db.execute("SELECT headers, signing_key FROM endpoints").fetchall()
            assert headers.startswith("aes:") and key.startswith("aes:")


@pytest.mark.slow
async def test_the_daemon_says_which_key_it_needs(tmp_path: Path) -> None:
    """Exit code 78 with the reason, which never repeats a key."""
    (tmp_path / "state").mkdir()
    await opened(tmp_path / "state", FIRST, add=1)
    for text, words in (
        ("", "keys given are none"),
        (SECOND, "as well, in the credential"),
        ("no key", "line 1 is no key"),
    ):
        (tmp_path / "given").write_text(text)
        given = f'[store]\nkey_file = "{tmp_path / "given"}"\n' if text else ""
        d = await start(tmp_path / "state", given, alive=False)
        assert EXIT_CONFIG == await d.until_dead()
        await d.session.close()
        assert words in d.log_file.read_text()
        assert SECOND not in d.log_file.read_text() and "no key\n" not in d.log_file.read_text()
