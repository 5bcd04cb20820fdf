"""A success's record is kept shortened, and reads as it was."""

from __future__ import annotations

import orjson
import pytest
from msgspec.structs import replace

from tests.support.stores import new_endpoint
from webhookd.delivery.attempt_record import attempt_record
from webhookd.models import Outcome, Reason
from webhookd.sender.request_builder import RequestBuilder
from webhookd.store import malformed
from webhookd.store.records import in_full, shortened

AT_MS = 1_767_225_600_123
ANSWERED = Outcome(
    AT_MS,
    4.2,
    status=200,
    detail="answered 200",
    response_headers=(("Content-Length", "2"), ("Content-Type", "text/plain")),
    response_body=b"ok",
)
# As it was kept when this came.
KEPT = (
    b"\x032026-01-01T00:00:00.123Z\x044.2\x01https://example.com/hook\x020.1.0\x05order-7\x061767225600\x07c2ln"
    b'\x08Ym9keQ==\x091\x0a\x0f2","\x0etext/plain\x0bok\x0c'
)


def record_of(outcome: Outcome, number: int = 1) -> bytes:
    endpoint = new_endpoint(headers=(("X-Own", "secret"),) if number > 1 else ())
    request = RequestBuilder(endpoint, AT_MS).build("order-7", b"{}", number=number, now_ms=AT_MS)
    return orjson.dumps(attempt_record(number, outcome, request, counted=False))


def test_an_ordinary_one_takes_a_third() -> None:
    """Of what is in nearly every record a byte each is left."""
    whole = record_of(ANSWERED)
    assert len(shortened(whole)) < len(whole) / 3 and in_full(shortened(whole)) == whole
    assert malformed.attempt(shortened(whole)) == orjson.loads(whole)


@pytest.mark.parametrize(
    "outcome",
    [
        replace(ANSWERED, response_body="".join(map(chr, range(0x200))).encode()),
        replace(ANSWERED, response_headers=tuple((f"X-{n}", chr(n)) for n in range(32))),
        replace(ANSWERED, truncated=True, connection_retried=True),
        replace(ANSWERED, response_body=shortened(record_of(ANSWERED))),
        replace(ANSWERED, response_body=record_of(ANSWERED)),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_whatever_was_answered_reads_as_it_was(outcome: Outcome, number: int) -> None:
    """Control characters, a record within a record, an endpoint's own headers."""
    whole = record_of(outcome, number)
    assert in_full(shortened(whole)) == whole


def test_what_is_no_ordinary_success_is_kept_in_full() -> None:
    """SQL reads the status of these."""
    failed = replace(ANSWERED, reason=Reason.STATUS, status=500, detail="answered 500")
    for outcome in (replace(ANSWERED, status=204, detail="answered 204"), failed):
        assert shortened(record_of(outcome)) == record_of(outcome)


def test_a_record_of_the_first_version_with_these_reads_the_same() -> None:
    """The texts are part of the database."""
    read = malformed.attempt(KEPT)
    assert 200 == read["status"] and 4.2 == read["duration_ms"]
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "webhookd/0.1.0",
        "webhook-id": "order-7",
        "webhook-timestamp": "1767225600",
        "webhook-signature": "v1,c2ln",
        "X-Webhook-Signature": "Ym9keQ==",
        "X-Webhook-Attempt": "1",
    }
    assert {"url": "https://example.com/hook", "headers": headers} == read["request"]
    answered = {"Content-Length": "2", "Content-Type": "text/plain"}
    assert {"headers": answered, "body": "ok", "truncated": False} == read["response"]
