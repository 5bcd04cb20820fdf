"""A success's record is kept shortened: what nearly every one has in common is a byte each, a third of it is left.

The bytes are control characters, which JSON has only escaped.  A record that was kept in full reads as it is.
"""

from __future__ import annotations

# A text may be added at the end, as long as there are bytes; none may change, because records are kept by them.
_TEXTS = (
    # First, because a search for a status finds 200 by it (`delivery_log/reading.py`).
    b',"outcome":"delivered","reason":null,"status":200,"detail":"answered 200","counted":false,'
    b'"connection_retried":false,"request":{"url":"',
    b'","headers":{"Content-Type":"application/json","User-Agent":"webhookd/',
    b'{"number":1,"started_at":"',
    b'","duration_ms":',
    b'","webhook-id":"',
    b'","webhook-timestamp":"',
    b'","webhook-signature":"v1,',
    b'","X-Webhook-Signature":"',
    b'","X-Webhook-Attempt":"',
    b'"}},"response":{"headers":{"',
    b'"},"body":"',
    b'","truncated":false}}',
    b'","Date":"',
    b'Content-Type":"',
    b'Content-Length":"',
)
SUCCESS = b"\1"
_SHORTENED = [(bytes([number]), text) for number, text in enumerate(_TEXTS, start=1)]


def shortened(record: bytes) -> bytes:
    """The record of an attempt (JSON) as it is kept: only one that was answered 200, at once, gets shorter."""
    if _TEXTS[0] in record:
        for short, text in _SHORTENED:
            record = record.replace(text, short)
    return record


def in_full(kept: bytes) -> bytes:
    """The record that was kept."""
    if SUCCESS in kept:
        for short, text in _SHORTENED:
            kept = kept.replace(short, text)
    return kept
