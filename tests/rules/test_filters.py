"""Filters: the published examples of EventBridge's patterns, what is refused and where, what keeps an event back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webhookd.errors import ApiError
from webhookd.rules import filters, patterns
from webhookd.rules.filters import check_filters, compiled, is_filters, mismatches, parsed, wants

TYPE = "message.received"
# The sample event of aws/event-ruler's README, as its examples of patterns are about it.
EC2: dict[str, Any] = {
    "version": "0",
    "id": "ddddd4-aaaa-7777-4444-345dd43cc333",
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "account": "012345679012",
    "time": "2017-10-02T16:24:49Z",
    "region": "us-east-1",
    "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-000000aaaaaa00000"],
    "detail": {
        "c-count": 5,
        "d-count": 3,
        "x-limit": 301.8,
        "source-ip": "10.0.0.33",
        "instance-id": "i-000000aaaaaa00000",
        "state": "running",
    },
}
PEOPLE = [["John", "Doe"], ["Anna", "Smith"], ["Peter", "Jones"]]
EMPLOYEES = {"employees": [{"firstName": first, "lastName": last} for first, last in PEOPLE]}


def passes(pattern: Any, event: Any) -> bool:
    return wants(check_filters({"*": pattern}), TYPE, json.dumps(event).encode())


def field(*rules: Any) -> dict[str, Any]:
    return {"f": list(rules)}


@pytest.mark.parametrize(
    "pattern",
    [
        {
            "detail-type": ["EC2 Instance State-change Notification"],
            "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-000000aaaaaa00000"],
            "detail": {"state": ["initializing", "running"]},
        },
        {"time": [{"prefix": "2017-10-02"}]},
        {"source": [{"suffix": "ec2"}]},
        {"source": [{"equals-ignore-case": "AWS.EC2"}]},
        {"detail": {"state": [{"anything-but": "initializing"}]}},
        {"detail": {"x-limit": [{"anything-but": 123}]}},
        {"detail": {"state": [{"anything-but": ["stopped", "overloaded"]}]}},
        {"detail": {"x-limit": [{"anything-but": [100, 200, 300]}]}},
        {"detail": {"state": [{"anything-but": {"prefix": "init"}}]}},
        {
            "detail": {
                "c-count": [{"numeric": [">", 0, "<=", 5]}],
                "d-count": [{"numeric": ["<", 10]}],
                "x-limit": [{"numeric": ["=", 3.018e2]}],
            }
        },
        {"detail": {"source-ip": [{"cidr": "10.0.0.0/24"}]}},
        {"detail": {"c-count": [{"exists": True}]}},
        {"detail": {"e-count": [{"exists": False}]}},
        {
            "time": [{"prefix": "2017-10-02"}],
            "detail": {
                "state": [{"anything-but": "initializing"}],
                "c-count": [{"numeric": [">", 0, "<=", 5]}],
                "d-count": [{"numeric": ["<", 10]}],
                "x-limit": [{"anything-but": [100, 200, 300]}],
                "source-ip": [{"cidr": "10.0.0.0/8"}],
            },
        },
    ],
)
def test_the_published_examples_match_the_published_event(pattern: Any) -> None:
    """As they stand in the README of aws/event-ruler, which says that all match; none matches an event without these
    fields but what asks for their absence."""
    assert passes(pattern, EC2)
    assert passes(pattern, {}) is ("e-count" in pattern.get("detail", ()))
    assert [] == mismatches(check_filters({"*": pattern}), TYPE, EC2)


@pytest.mark.parametrize(
    ("rule", "found", "other"),
    [
        # "Comparison operators for use in event patterns", the table and the sections below it.
        ({"anything-but": "initializing"}, ["running", 5, None], ["initializing"]),
        ({"anything-but": {"prefix": "us-"}}, ["eu-west-1"], ["us-east-1"]),
        ({"anything-but": {"suffix": ".png"}}, ["a.jpg"], ["a.png"]),
        ({"anything-but": {"equals-ignore-case": "initializing"}}, ["running"], ["INITIALIZING", "initializing"]),
        ({"anything-but": {"equals-ignore-case": ["initializing", "stopped"]}}, ["x"], ["Stopped", "INITIALIZING"]),
        ({"anything-but": {"wildcard": "*/lib/*"}}, ["/bin/a"], ["/usr/lib/a"]),
        ({"prefix": "us-"}, ["us-east-1"], ["eu", 5, None, True]),
        ({"prefix": {"equals-ignore-case": "eventb"}}, ["EventBridge", "EVENTBridge"], ["bridge"]),
        ("", [""], ["x", None]),
        ("Alice", ["Alice"], ["alice", ["Bob"]]),
        ({"equals-ignore-case": "alice"}, ["Alice", "ALICE"], ["bob"]),
        ({"suffix": ".png"}, ["a.png"], ["a.PNG"]),
        ({"suffix": {"equals-ignore-case": "tBridge"}}, ["EventBridge", "eventBRIDGE"], ["x"]),
        ({"anything-but": ["Raining"]}, ["Sunny"], ["Raining"]),
        (None, [None], ["", False, 0]),
        ({"numeric": ["=", 100]}, [100, 100.0, 1e2], ["100", 101, True]),
        ({"numeric": [">", 10, "<=", 20]}, [10.5, 20], [10, 21, None]),
        ({"numeric": ["<", 20, ">=", 10]}, [10, 19.9], [20, 9]),
        ({"numeric": ["<", 10]}, [3], [10]),
        ({"wildcard": "dir/*.png"}, ["dir/a.png", "dir/b/a.png", "dir/.png"], ["dir/a.jpg", "x/dir/a.png"]),
        ({"wildcard": "*hello*/*world"}, ["/hello/world", "a hello b/c world"], ["hello world", "hello/worlds"]),
        ({"wildcard": "a*a"}, ["aa", "aba"], ["a"]),
        ({"wildcard": "*"}, ["", "x"], [5]),
        ({"wildcard": r"5 \* 3 \\ *"}, [r"5 * 3 \ 2"], [r"5 x 3 \ 2"]),
        ({"wildcard": "plain"}, ["plain"], ["plainer"]),
        ({"cidr": "10.0.0.0/24"}, ["10.0.0.33"], ["10.0.1.1", "::1", "x", 5, "1" * 50]),
        ({"cidr": "2001:db8::/32"}, ["2001:db8::1"], ["2001:db9::1"]),
        # Equality by value and kind.
        (300, [300, 300.0], ["300", 301]),
        (1, [1], [True]),
        (True, [True], [1, "true", False]),
        ({"exists": True}, [None, "", 0, [1]], [{}, [], {"a": 1}]),
        ({"exists": False}, [{"c1": 100}, []], [None, 1]),
        (12345678901234567890123, [12345678901234567890123], [12345678901234567890124]),
        # Of an array one element has to match.
        ("b", [["a", "b"], [["b"], "a"]], [["a"], [], [{"f": "b"}]]),
        ({"anything-but": "a"}, [["a", "b"]], [["a"], []]),
    ],
)
def test_each_operator_by_its_published_example(rule: Any, found: list[Any], other: list[Any]) -> None:
    """What it matches and what it doesn't; nothing but `exists: false` matches where there is no such field."""
    assert [] == [each for each in found if not passes(field(rule), {"f": each})]
    assert [] == [each for each in other if passes(field(rule), {"f": each})]
    assert passes(field(rule), {}) is (rule == {"exists": False})


def test_one_of_a_fields_rules_is_enough_and_every_field_has_to_match() -> None:
    """Or within a list, and between fields; `$or` is or between patterns, at any depth."""
    assert passes(field("a", {"prefix": "b"}, {"exists": False}), {"f": "bc"})
    assert passes(field("a", {"exists": False}), {})
    assert not passes({"f": ["a"], "g": ["b"]}, {"f": "a", "g": "x"})
    nested = {
        "source": ["aws.cloudwatch"],
        "$or": [
            {"metricName": ["CPUUtilization", "ReadLatency"]},
            {
                "metricType": ["MetricType"],
                "namespace": ["AWS/EC2", "AWS/ES"],
                "$or": [{"metricId": [1234]}, {"spaceId": [1000]}],
            },
            {"scope": ["Service"]},
        ],
    }
    of = {"source": "aws.cloudwatch"}
    both = {"metricType": "MetricType", "namespace": "AWS/ES"}
    assert passes(nested, of | {"scope": "Service"})
    assert passes(nested, of | both | {"spaceId": 1000})
    assert not passes(nested, of | both)
    assert not passes(nested, {"scope": "Service"})


def test_fields_of_objects_in_an_array_belong_together() -> None:
    """aws/event-ruler: no match from two elements of one array, however deep."""
    deeper = {"employees": [EMPLOYEES["employees"][:2], EMPLOYEES["employees"][2:]]}
    for event in (EMPLOYEES, deeper):
        assert passes({"employees": {"firstName": ["Anna"]}}, event)
        assert passes({"employees": {"firstName": ["Anna"], "lastName": ["Smith"]}}, event)
        assert not passes({"employees": {"firstName": ["Anna"], "lastName": ["Jones"]}}, event)
    assert passes({"employees": {"age": [{"exists": False}]}}, EMPLOYEES)


@pytest.mark.parametrize(
    ("pattern", "path", "words"),
    [
        ({}, "$", "names at least one field"),
        ("x", "$", "is an object"),
        ({"a": "x"}, "a", "a list of at least one"),
        ({"a": {"b": []}}, "a.b", "a list of at least one"),
        ({"a": {}}, "a", "names at least one field"),
        ({"a": [["x"]]}, "a[0]", "a text, a number"),
        ({"a": ["x", {"prefix": "x", "suffix": "y"}]}, "a[1]", "one operator"),
        ({"a": [{}]}, "a[0]", "one operator"),
        ({"a": [{"prefixed": "x"}]}, "a[0]", "no operator 'prefixed'"),
        ({"a": [{"prefix": 5}]}, "a[0]", "takes a text"),
        ({"a": [{"suffix": ""}]}, "a[0]", "takes a text"),
        ({"a": [{"exists": 1}]}, "a[0]", "true or false"),
        ({"a": [{"exists": 0}]}, "a[0]", "true or false"),
        ({"a": [{"anything-but": ["x", 1]}]}, "a[0]", "texts or numbers"),
        ({"a": [{"anything-but": []}]}, "a[0]", "texts or numbers"),
        ({"a": [{"anything-but": [True]}]}, "a[0]", "texts or numbers"),
        ({"a": [{"anything-but": {"numeric": ["<", 1]}}]}, "a[0]", "no operator 'numeric'"),
        ({"a": [{"anything-but": {"prefix": []}}]}, "a[0]", "takes a text"),
        ({"a": [{"anything-but": {}}]}, "a[0]", "one operator"),
        ({"a": [{"numeric": []}]}, "a[0]", "numeric takes"),
        ({"a": [{"numeric": ["!", 5]}]}, "a[0]", "numeric takes"),
        ({"a": [{"numeric": ["<", "5"]}]}, "a[0]", "numeric takes"),
        ({"a": [{"numeric": ["<", True]}]}, "a[0]", "numeric takes"),
        ({"a": [{"numeric": [[], 5]}]}, "a[0]", "numeric takes"),
        ({"a": [{"numeric": [">", 5, "<", 5]}]}, "a[0]", "lower bound and a higher"),
        ({"a": [{"numeric": ["<", 5, "<", 9]}]}, "a[0]", "lower bound and a higher"),
        ({"a": [{"numeric": ["=", 5, "<", 9]}]}, "a[0]", "lower bound and a higher"),
        ({"a": [{"cidr": "10.0.0.0/40"}]}, "a[0]", "takes a network"),
        ({"a": [{"wildcard": "a**b"}]}, "a[0]", "no two * in a row"),
        ({"a": [{"wildcard": "a\\b"}]}, "a[0]", "before * or another"),
        ({"a": [{"wildcard": "a\\"}]}, "a[0]", "before * or another"),
        ({"a": [{"wildcard": "*a" * 21}]}, "a[0]", "at most 20 *"),
        ({"$or": [{"a": ["x"]}]}, "$or", "at least two patterns"),
        ({"$or": {"a": ["x"]}}, "$or", "at least two patterns"),
        ({"a": {"$or": [{"b": ["x"]}, {"c": "x"}]}}, "a.c", "a list of at least one"),
        (json.loads('{"a":' * 10 + '["x"]' + "}" * 10), None, ""),
        (json.loads('{"a":' * 11 + '["x"]' + "}" * 11), "a.a.a.a.a.a.a.a.a.a", "10 objects deep"),
        ({f"f{n}": ["x"] for n in range(101)}, "f99", "at most 100 fields"),
        ({"a": ["x" * 9000]}, None, "at most 8192 bytes"),
    ],
)
def test_a_mistake_is_explained_with_its_path(pattern: Any, path: str | None, words: str) -> None:
    """When it is saved; the limits too."""
    if not words:
        assert check_filters({TYPE: pattern})
        return
    with pytest.raises(ApiError) as refused:
        check_filters({TYPE: pattern})
    assert words in refused.value.message and "filters" == refused.value.details["field"]
    if path is not None:
        assert (TYPE, path) == (refused.value.details["event_type"], refused.value.details["path"])
        assert repr(path) in refused.value.message


def test_filters_are_by_type_and_for_all() -> None:
    """Both have to match; a type without one passes unread; the order of keys makes no other text."""
    text = check_filters({TYPE: {"a": ["x"]}, "*": {"b": ["y"]}})
    assert [True, False, False] == [wants(text, TYPE, b) for b in (b'{"a":"x","b":"y"}', b'{"a":"x"}', b'{"b":"y"}')]
    assert wants(text, "other", b'{"b":"y"}') and not wants(text, "other", b"{}")
    only = check_filters({TYPE: {"a": ["x"]}})
    assert wants(only, "other", b"not even JSON") and not compiled(only).concerns("other")
    assert text == check_filters({"*": {"b": ["y"]}, TYPE: {"a": ["x"]}})
    assert "" == check_filters({})
    for wrong in ([], "x", {1: {}}, None):
        with pytest.raises(ApiError, match="filters is an object"):
            check_filters(wrong)
    assert [True, False, False, False, False] == [
        is_filters(each) for each in (text, "{", '{"*":{"a":"x"}}', b"\xff", "[]")
    ]


def test_what_keeps_an_event_back_is_named() -> None:
    """Path, what was found and what was wanted; of `$or` each alternative; null is not the same as nothing."""
    text = check_filters(
        {
            "*": {"contact": {"id": [{"numeric": [">", 5]}]}, "$or": [{"a": ["x"]}, {"b": {"c": ["y"]}}]},
            TYPE: {"items": {"sku": ["s"]}, "n": ["x"]},
        }
    )
    event = {"contact": {"id": 3}, "b": {"c": "z"}, "items": [{"sku": "t"}, {"sku": "u"}], "n": None}
    assert [
        ("*", "a", ["x"], True, None),
        ("*", "b.c", ["y"], False, "z"),
        ("*", "contact.id", [{"numeric": [">", 5]}], False, 3),
        (TYPE, "items.sku", ["s"], False, "t"),
        (TYPE, "n", ["x"], False, None),
    ] == [(m.event_type, m.path, m.wanted, m.is_missing, m.found) for m in mismatches(text, TYPE, event)]
    assert ["contact.id"] == [m.path for m in mismatches(text, "other", {"a": "x"})]
    two = check_filters({TYPE: {"a": ["x"], "b": ["y"]}})
    assert ["b"] == [m.path for m in mismatches(two, TYPE, {"a": "x"})], "what matches isn't named"


def test_filters_that_cannot_be_read_lose_no_event() -> None:
    """Neither text that isn't JSON nor a pattern that is a mistake; no filters at all are good ones."""
    assert wants("{", TYPE, b"{}") and wants('{"*":{"a":"x"}}', TYPE, b"{}")
    assert is_filters("")


def test_filters_that_cannot_be_written_are_refused() -> None:
    """Nesting beyond what the encoder takes."""
    deep: Any = ["x"]
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(ApiError, match="at most 8192 bytes") as refused:
        check_filters({TYPE: deep})
    assert ("invalid_field", {"field": "filters"}) == (refused.value.code, refused.value.details)


def test_no_event_is_too_strange() -> None:
    """Half of a surrogate pair, numbers beyond a double, nesting that Python's own parser gives up at."""
    assert "\ud800" == parsed(b'{"a":"\\ud800"}')["a"]
    assert passes_bytes({"a": [{"numeric": [">", 5]}]}, b'{"a":1e400}')
    assert passes_bytes({"b": ["x"]}, b'{"b":"x","a":"\\ud800"}')
    deep = b'{"b":"x","a":' + b"[" * 900 + b"1" + b"]" * 900 + b"}"
    assert passes_bytes({"b": ["x"]}, deep) and passes_bytes({"a": [1]}, deep)
    assert not passes_bytes({"a": {"c": ["x"]}}, deep)
    assert not passes_bytes({"a": ["x"]}, b"\xff")


def passes_bytes(pattern: Any, body: bytes) -> bool:
    return wants(check_filters({"*": pattern}), TYPE, body)


def test_the_limits_bound_what_an_event_costs() -> None:
    """The most expensive filter, against a body made for it: each value is looked at once, without backtracking."""
    import time

    rules = [{"wildcard": "*a" * 5 + "b"}] * 4 + [{"numeric": ["<", 0]}] * 90
    body = json.dumps({"f": ["a" * 100] * 2_000}).encode()
    began = time.process_time()
    assert not passes_bytes({"f": rules}, body)
    assert time.process_time() - began < 5  # under 0.6 s when traced on a slow machine; backtracking takes hours
    assert patterns.RULES_MAX == 100 and filters.BYTES_MAX == 8192
