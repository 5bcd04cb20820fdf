"""Event patterns in the syntax of Amazon EventBridge, compiled to functions.

A pattern has the shape of the event, with a list of rules at each field that it names: every field has to match, each
by one of its rules.  The syntax, with the published examples: "Comparison operators for use in event patterns" in the
EventBridge user guide, and the README of aws/event-ruler.  `manual/filters-and-ordering.md` says what is chosen where
these are silent.
"""

from __future__ import annotations

import ipaddress
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from webhookd.errors import ApiError, field_error
from webhookd.models import Json

DEPTH_MAX = 10
# In all patterns of an endpoint: an event is held against them on the event loop.
RULES_MAX = 100  # fields and operators; the values of one list are looked up at once
STARS_MAX = 20

OR = "$or"
OF_ALL = "$"  # the path of the pattern itself
MISSING: Any = object()
Test = Callable[[Any], bool]
_Scalar = (str, int, float, bool, type(None))
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def _flat(value: Any) -> Iterable[Any]:
    """The elements of an array, those of arrays in it too; of anything else itself."""
    if type(value) is not list:
        return (value,)
    found: list[Any] = []
    waiting = [iter(value)]
    while waiting:
        for each in waiting[-1]:
            if type(each) is list:
                waiting.append(iter(each))
                break
            found.append(each)
        else:
            waiting.pop()
    return found


@dataclass(slots=True)
class Budget:
    """What may still be named in the filters of an endpoint."""

    rules: int = RULES_MAX
    stars: int = STARS_MAX


class Compiler:
    """Makes functions of the pattern of one event type; each mistake names its path."""

    def __init__(self, event_type: str, budget: Budget) -> None:
        self._event_type = event_type
        self._budget = budget

    def _wrong(self, path: str, mistake: str) -> ApiError:
        path = path or OF_ALL
        error = field_error("filters", f"The filter of {self._event_type!r} is wrong at {path!r}. {mistake}")
        error.details.update(event_type=self._event_type, path=path)
        return error

    def _take(self, path: str) -> None:
        self._budget.rules -= 1
        if self._budget.rules < 0:
            raise self._wrong(path, f"An endpoint's filters have at most {RULES_MAX} fields and operators.")

    def pattern(self, pattern: Any, path: str, depth: int) -> Test:
        """The test of an object: every field matches."""
        if not isinstance(pattern, dict) or not pattern:
            raise self._wrong(path, "A pattern is an object that names at least one field.")
        if depth > DEPTH_MAX:
            raise self._wrong(path, f"A pattern is at most {DEPTH_MAX} objects deep.")
        fields: list[tuple[str, Test]] = []
        others: list[Test] = []
        for name, wanted in pattern.items():
            at = f"{path}.{name}" if path else name
            self._take(at)
            if name == OR:
                others.append(self._or(wanted, path, at, depth))
            elif isinstance(wanted, dict):
                fields.append((name, self.pattern(wanted, at, depth + 1)))
            else:
                fields.append((name, self.rules(wanted, at)))
        return _object_test(tuple(fields), tuple(others))

    def _or(self, wanted: Any, path: str, at: str, depth: int) -> Test:
        if not isinstance(wanted, list) or len(wanted) < 2:
            raise self._wrong(at, "$or is a list of at least two patterns.")
        tests = [self.pattern(each, path, depth + 1) for each in wanted]
        return _any(tests)

    def rules(self, rules: Any, path: str) -> Test:
        """The test of a field: one of the rules matches."""
        if not isinstance(rules, list) or not rules:
            raise self._wrong(
                path, "A field has an object for its own fields, or a list of at least one value or rule."
            )
        tests: list[Test] = []
        for place, rule in enumerate(rules):
            at = f"{path}[{place}]"
            if isinstance(rule, dict):
                if not _is_absence(rule):
                    tests.append(self._operator(rule, at))
            elif not isinstance(rule, _Scalar):
                raise self._wrong(at, "A rule is a text, a number, true, false, null, or an object with an operator.")
        equal = [rule for rule in rules if isinstance(rule, _Scalar)]
        if equal:
            tests.insert(0, _among(equal))
        return _field_test(_any(tests), is_absent_wanted=any(map(_is_absence, rules)))

    def _operator(self, rule: Json, path: str) -> Test:
        self._take(path)
        if len(rule) != 1:
            raise self._wrong(path, "A rule has one operator.")
        ((name, value),) = rule.items()
        if name == "exists":
            if value is not True:
                raise self._wrong(path, "exists is true or false.")
            return lambda found: True
        if name == "anything-but":
            test = self._anything_but(value, path)
            return lambda found: not test(found)
        if name == "numeric":
            return self._numeric(value, path)
        if name == "cidr":
            return self._cidr(value, path)
        return self._text(name, value, path)

    def _text(self, name: str, value: Any, path: str) -> Test:
        """The operators on texts, which nothing else matches."""
        if name in ("prefix", "suffix"):
            check = str.startswith if name == "prefix" else str.endswith
            if isinstance(value, dict) and value.keys() == {"equals-ignore-case"}:
                part = self._string(value["equals-ignore-case"], path).casefold()
                return lambda found: type(found) is str and check(found.casefold(), part)
            part = self._string(value, path)
            return lambda found: type(found) is str and check(found, part)
        if name == "equals-ignore-case":
            folded = self._string(value, path).casefold()
            return lambda found: type(found) is str and found.casefold() == folded
        if name == "wildcard":
            return self._wildcard(self._string(value, path), path)
        raise self._wrong(path, f"It has no operator {name[:40]!r}: see the page Filters and ordering.")

    def _string(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or not value:
            raise self._wrong(path, "The operator takes a text of at least one character.")
        return value

    def _anything_but(self, value: Any, path: str) -> Test:
        """The test of what is not to be."""
        if isinstance(value, dict):
            if len(value) != 1:
                raise self._wrong(path, "A rule has one operator.")
            ((name, texts),) = value.items()
            tests = [self._text(name, each, path) for each in (texts if isinstance(texts, list) else [texts])]
            if not tests:
                raise self._wrong(path, "The operator takes a text of at least one character.")
            return _any(tests)
        values = value if isinstance(value, list) else [value]
        kinds = {str if isinstance(each, str) else float if _is_number(each) else None for each in values}
        if len(kinds) != 1 or None in kinds:
            raise self._wrong(path, "anything-but takes texts or numbers, not both, or an object with an operator.")
        return _among(values)

    def _numeric(self, value: Any, path: str) -> Test:
        good = isinstance(value, list) and len(value) in (2, 4) and all(map(_is_number, value[1::2]))
        names = value[::2] if good else []
        if not good or not all(isinstance(name, str) and name in _COMPARISONS for name in names):
            raise self._wrong(path, 'numeric takes a comparison, as ["=", 5], or a range, as [">", 0, "<=", 5].')
        if len(names) == 1:
            compare, limit = _COMPARISONS[names[0]], value[1]
            return lambda found: type(found) in (int, float) and compare(found, limit)
        (low_name, low), (high_name, high) = sorted([value[:2], value[2:]], key=lambda each: each[0] < ">")
        if low_name[0] != ">" or high_name[0] != "<" or low >= high:
            raise self._wrong(path, 'A range has a lower bound and a higher one, as [">", 0, "<=", 5].')
        above, below = _COMPARISONS[low_name], _COMPARISONS[high_name]
        return lambda found: type(found) in (int, float) and above(found, low) and below(found, high)

    def _cidr(self, value: Any, path: str) -> Test:
        try:
            network = ipaddress.ip_network(self._string(value, path), strict=False)
        except ValueError:
            raise self._wrong(path, "cidr takes a network, as 10.0.0.0/24 or 2001:db8::/32.") from None

        def test(found: Any) -> bool:
            if type(found) is not str or len(found) > 45:
                return False
            try:
                return ipaddress.ip_address(found) in network
            except ValueError:
                return False

        return test

    def _wildcard(self, text: str, path: str) -> Test:
        """`*` is any number of characters, `\\*` and `\\\\` are themselves."""
        parts = [""]
        characters = iter(text)
        for character in characters:
            if character == "*":
                self._budget.stars -= 1
                parts.append("")
                continue
            if character == "\\":
                character = next(characters, "")
                if character not in ("*", "\\"):
                    raise self._wrong(path, "In a wildcard \\ stands before * or another \\ only.")
            parts[-1] += character
        if "" in parts[1:-1]:
            raise self._wrong(path, "A wildcard has no two * in a row.")
        if self._budget.stars < 0:
            raise self._wrong(path, f"An endpoint's filters have at most {STARS_MAX} * in wildcards.")
        return _wildcard_test(parts)


def _is_absence(rule: Any) -> bool:
    return isinstance(rule, dict) and rule == {"exists": False} and rule["exists"] is False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _among(values: Sequence[Any]) -> Test:
    """Whether something is one of these scalars; numbers by their value, `1` isn't `true`."""
    strings = frozenset(each for each in values if isinstance(each, str))
    numbers = frozenset(each for each in values if _is_number(each))
    words = frozenset(repr(each) for each in values if each is None or isinstance(each, bool))

    def test(found: Any) -> bool:
        kind = type(found)
        if kind is str:
            return found in strings
        return found in numbers if kind is int or kind is float else repr(found) in words

    return test


def _wildcard_test(parts: Sequence[str]) -> Test:
    first, last, middle = parts[0], parts[-1], parts[1:-1]
    if len(parts) == 1:
        return lambda found: type(found) is str and found == first

    def test(found: Any) -> bool:
        if type(found) is not str or not found.startswith(first) or not found.endswith(last):
            return False
        at, end = len(first), len(found) - len(last)
        for part in middle:
            at = found.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return at <= end

    return test


def _any(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def test(found: Any) -> bool:
        for one in tests:  # noqa: SIM110 - any() takes twice as long, and an event is held against many
            if one(found):
                return True
        return False

    return test


def _field_test(one: Test, *, is_absent_wanted: bool) -> Test:
    """The test of what stands at a field: of an array one element has to match; an object is no value."""

    def test(found: Any) -> bool:
        kind = type(found)
        if kind is list:
            leaves = [each for each in _flat(found) if type(each) is not dict]
            return any(one(each) for each in leaves) if leaves else is_absent_wanted
        if kind is dict or found is MISSING:
            return is_absent_wanted
        return one(found)

    return test


def _object_test(fields: Sequence[tuple[str, Test]], others: Sequence[Test]) -> Test:
    """The test of an object, or of an array in which one has to match; anything else has no fields."""

    def test(found: Any) -> bool:
        if type(found) is not dict:
            objects = [each for each in _flat(found) if type(each) is dict]
            return any(test(each) for each in objects or ({},))
        for name, one in fields:
            if not one(found.get(name, MISSING)):
                return False
        return not others or all(one(found) for one in others)

    return test


def failed(compiler: Compiler, pattern: Json, value: Any, above: str) -> Iterator[tuple[str, list[Any], Any]]:
    """The fields of a value that no rule of the pattern matches: path, rules, and what is there (or `MISSING`)."""
    objects = [each for each in _flat(value) if type(each) is dict] or [{}]
    if any(compiler.pattern(pattern, above, 1)(each) for each in objects):
        return
    for name, wanted in pattern.items():
        path = f"{above}.{name}" if above else name
        here = objects[0].get(name, MISSING)
        if name == OR:
            if not any(compiler.pattern(each, above, 1)(objects[0]) for each in wanted):
                for each in wanted:
                    yield from failed(compiler, each, objects[0], above)
        elif isinstance(wanted, dict):
            yield from failed(compiler, wanted, here, path)
        elif not compiler.rules(wanted, path)(here):
            yield path, wanted, here
