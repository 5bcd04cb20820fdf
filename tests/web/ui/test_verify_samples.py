"""The programs on the page that verify a request do so, with what webhookd really signs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from webhookd.rules.signing import Signer, new_key
from webhookd.web.ui.webhooks import verify_samples

KEY = new_key(bytes(range(32)))
BODY = '{"event_type":"message.received","text":"Xin chào 📦"}'.encode()


def signed(body: bytes, *, at: int) -> dict[str, str]:
    return {name.lower(): value for name, value in Signer(KEY).headers("evt_1", at, body)}


def test_the_python_sample_tells_true_from_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good request, while a key rotates too; not a changed body, an old one, another key's."""
    monkeypatch.setenv("WEBHOOK_KEY", KEY)
    program: dict[str, object] = {}
    exec(compile(verify_samples()["python"], "sample", "exec"), program)
    verify = program["verify"]
    assert callable(verify)
    now = int(time.time())
    good = signed(BODY, at=now)
    other = Signer(new_key(b"x" * 32)).headers("evt_1", now, BODY)[2][1]
    both = {**good, "webhook-signature": f"{other} {good['webhook-signature']}"}
    assert [json.loads(BODY)] * 2 == [verify(good, BODY), verify(both, BODY)]
    assert [None] * 3 == [
        verify(good, BODY + b" "),
        verify(signed(BODY, at=now - 301), BODY),
        verify({**good, "webhook-signature": other}, BODY),
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine: its sample was not tried")
def test_the_shell_sample_computes_the_same_signature(tmp_path: Path) -> None:
    """By openssl: what stands in `webhook-signature`."""
    (tmp_path / "body.json").write_bytes(BODY)
    environ = {**os.environ, "WEBHOOK_KEY": KEY, "BODY": "body.json", "ID": "evt_1", "TIMESTAMP": "1614265330"}
    ran = subprocess.run(
        ["sh", "-c", verify_samples()["shell"]],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert signed(BODY, at=1614265330)["webhook-signature"] == ran.stdout.strip()
