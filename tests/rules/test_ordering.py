"""Order by key: what is at a path, which hash it has, which orders are taken."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from webhookd.errors import ApiError
from webhookd.models import STRICT, Ordering
from webhookd.rules.filters import wants
from webhookd.rules.ordering import HASHES, NO_KEY, check_ordering, is_ordering, key_of, lane_hash, ordering_json


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"contact": {"id": 4711}}', 4711),
        (b'{"a": 1, "contact": {"name": "x", "id": "4711"}}', "4711"),
        (b'{"contact": {"id": {"b": [1], "a": null}}}', {"a": None, "b": [1]}),
        (b'{"contact": {"id": 123456789012345678901234567890}}', 123456789012345678901234567890),
        (b'{"contact": {"id": null}}', None),
        (b'{"contact": {"ID": 1}}', None),
        (b'{"contact": [{"id": 1}]}', None),
        (b'{"contact": "id"}', None),
        (b'{"contact.id": 1}', None),
        (b"{}", None),
        (b"[]", None),
        (b"", None),
        (b'{"contact": {"id": 1e999}}', None),
        (b'{"contact": {"id": "\\ud800"}}', "\ud800"),
        (b'{"text": "\\ud800", "contact": {"id": 5}}', 5),
        (b'{"text": "\\ud800", "contact": 5}', None),
    ],
)
def test_the_key_is_the_value_at_the_path(body: bytes, key: Any) -> None:
    assert key == key_of("contact.id", body)
    assert (lane_hash("contact.id", body) == NO_KEY) is (key is None)


def test_equal_values_have_equal_hashes_however_they_are_written() -> None:
    same = [
        (b'{"k": 1}', b'{"x": 2, "k":   1.0}'),
        (b'{"k": "A"}', b'{"k": "\\u0041"}'),
        (b'{"k": {"a": 1, "b": 2}}', b'{"k": {"b": 2, "a": 1}}'),
        (b'{"k": 1e300}', b'{"k": 1.0e300}'),
        (b'{"k": "x"}', b'{"k": "x", "text": "\\ud800"}'),
        (b'{"k": "\\ud800"}', b'{"k": "\\uD800", "text": "a"}'),
    ]
    for one, other in same:
        assert lane_hash("k", one) == lane_hash("k", other)
    assert lane_hash("k", b'{"k": 1}') != lane_hash("k", b'{"k": "1"}')
    assert 47 == lane_hash("contact.id", b'{"contact": {"id": 4711}}'), "it is kept in the database: never change it"


def test_an_event_as_deep_as_is_accepted_keeps_its_key() -> None:
    """What stands beside the key decides nothing, how much of the stack is in use neither."""
    deep = b"[" * 1020 + b"]" * 1020
    assert 4711 == key_of("contact.id", b'{"x": %b, "contact": {"id": 4711}}' % deep)
    assert 47 == lane_hash("contact.id", b'{"contact": {"id": 4711, "x": %b}}' % deep)
    assert NO_KEY == lane_hash("x", b'{"x": %b}' % deep)
    assert wants('{"*": {"contact": {"id": [4711]}}}', "a", b'{"x": %b, "contact": {"id": 4711}}' % deep)


def test_keys_spread_evenly() -> None:
    counts = Counter(lane_hash("k", orjson.dumps({"k": number})) for number in range(20_000))
    assert set(range(HASHES)) == set(counts)
    assert max(counts.values()) < 1.6 * 20_000 / HASHES


def test_an_order_is_taken_as_it_is_shown() -> None:
    for given, ordering in (
        ("endpoint", STRICT),
        ({"key": "contact.id", "lanes": 2}, Ordering("contact.id", 2)),
        ({"key": "a-b.c_d.0", "lanes": 64}, Ordering("a-b.c_d.0", 64)),
    ):
        assert ordering == check_ordering(given)
        assert given == ordering_json(ordering)
    assert Ordering("id", 8) == check_ordering({"key": "id"})


@pytest.mark.parametrize(
    "given",
    [
        None,
        "key",
        {},
        {"lanes": 8},
        {"key": "contact.id", "lane": 8},
        {"key": "contact.id", "lanes": 1},
        {"key": "contact.id", "lanes": 65},
        {"key": "contact.id", "lanes": "8"},
        {"key": "contact.id", "lanes": True},
        {"key": None},
        {"key": 5},
        *({"key": key} for key in ("", ".", "a.", ".a", "a..b", "a b", 'a"b', "a'b", "$.a", "a[0]", "é", "a\n")),
        {"key": "x" * 101},
        {"key": ".".join("abcdefghijk")},
    ],
)
def test_other_orders_are_refused(given: Any) -> None:
    with pytest.raises(ApiError) as refused:
        check_ordering(given)
    assert ("invalid_field", {"field": "ordering"}) == (refused.value.code, refused.value.details)


@pytest.mark.parametrize(
    ("key", "lanes", "usable"),
    [
        (None, 1, True),
        (None, 2, False),
        ("contact.id", 2, True),
        ("contact.id", 64, True),
        ("contact.id", 1, False),
        ("contact.id", 65, False),
        ("a..b", 8, False),
        ("", 8, False),
    ],
)
def test_an_order_from_the_table_is_usable_within_the_same_limits(key: str | None, lanes: int, usable: bool) -> None:
    assert usable is is_ordering(Ordering(key, lanes))
