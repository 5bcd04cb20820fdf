"""What the page says, in the reader's language: one catalogue file per language, chosen by cookie or `Accept-Language`.

What counts something has a key with `.one` and one with `.other`.  `meanings.<language>.json` has the meanings of
events' fields (`rules.event_types`), which are in English, in another language; `refusals.<language>.json` has the
API's error messages, with `{}` where a message has a value.
"""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass
from functools import cache

import orjson

from webhookd.models import LANGUAGES

# Units of a short length of time: how long each is, and from when on it is used; both in seconds.
_GAPS = (("hours", 3600, 7200), ("minutes", 60, 120))


@dataclass(frozen=True, slots=True)
class Texts:
    """One language's catalogue."""

    language: str
    texts: dict[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, filled in; KeyError if there is none."""
        text = self.texts[key]
        return text.format_map(values) if values else text

    def count(self, key: str, number: int, **values: object) -> str:
        """The text that counts: `key.one` for one, else `key.other`; `n` in it is the number."""
        return self(f"{key}.{'one' if number == 1 else 'other'}", n=self.number(number), **values)

    def maybe(self, key: str, otherwise: str) -> str:
        """The text of a key, or `otherwise` where the catalogue has none."""
        return self.texts.get(key, otherwise)

    def meaning(self, english: str) -> str:
        """What a field of the catalogue means, in this language; the catalogue itself speaks English."""
        return _meanings(self.language).get(english, english)

    def refusal(self, english: str) -> str:
        """An error message of the API, or why an attempt failed, in this language; as it is if it isn't known.

        A value of it that is a phrase of the catalogue is in this language too.
        """
        for pattern, text in _refusals(self.language):
            found = pattern.fullmatch(english)
            if found is not None:
                return text.format(*map(self.refusal, found.groups()))
        return english

    def number(self, number: int) -> str:
        """A whole number with its thousands set apart as the language does it."""
        grouped = f"{number:,}"
        return grouped.replace(",", ".") if self.language == "vi" else grouped

    def about(self, number: int, *, exact: bool) -> str:
        """`number`; an estimate, which is never small, is rounded to two digits and called so."""
        if exact or number < 100:
            return self.number(number)
        return self("unit.about", n=self.number(int(float(f"{number:.2g}"))))

    def duration_ms(self, milliseconds: float) -> str:
        """A duration for reading: `41 ms`, `1.2 s`."""
        if milliseconds < 999.5:
            return self.decimal(f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms")
        return self("unit.seconds", n=self.decimal(f"{milliseconds / 1000:.1f}"))

    def percent(self, percent: float) -> str:
        """A share for reading: `99.9%`, `100%`."""
        return self.decimal(f"{percent:.1f}".removesuffix(".0") + "%")

    def decimal(self, number: str) -> str:
        """A number with a fraction, its point as the language writes it."""
        return number.replace(".", ",") if self.language == "vi" else number

    def gap(self, seconds: float) -> str:
        """A short length of time: `30 s`, `5 min`, `3 h`."""
        unit, length = next(((u, n) for u, n, least in _GAPS if seconds >= least), ("seconds", 1))
        return self(f"unit.{unit}", n=self.decimal(f"{seconds / length:.0f}" if seconds >= 1 else f"{seconds:.1f}"))

    def span(self, seconds: float) -> str:
        """A length of time in its largest unit, whole: `5 minutes`."""
        for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
            if seconds >= length:
                return self.count(f"span.{unit}", round(seconds // length))
        return self.count("span.second", max(0, round(seconds)))


@cache
def texts(language: str) -> Texts:
    """The catalogue of one of `LANGUAGES`."""
    file = importlib.resources.files("webhookd.web.ui") / "texts" / f"{language}.json"
    return Texts(language, orjson.loads(file.read_bytes()))


@cache
def _meanings(language: str) -> dict[str, str]:
    file = importlib.resources.files("webhookd.web.ui") / "texts" / f"meanings.{language}.json"
    found: dict[str, str] = orjson.loads(file.read_bytes()) if file.is_file() else {}
    return found


@cache
def _refusals(language: str) -> list[tuple[re.Pattern[str], str]]:
    file = importlib.resources.files("webhookd.web.ui") / "texts" / f"refusals.{language}.json"
    found: dict[str, str] = orjson.loads(file.read_bytes()) if file.is_file() else {}
    return [
        (re.compile("(.+?)".join(map(re.escape, english.split("{}"))), re.DOTALL), text)
        for english, text in found.items()
    ]


def choose(cookie: str | None, accept_language: str) -> str:
    """The reader's language: what the switch was set to, else the first that `Accept-Language` ranks, else English."""
    if cookie in LANGUAGES:
        return cookie
    ranked = []
    for place, part in enumerate(accept_language.split(",")[:20]):
        tag, _, parameters = part.partition(";")
        language = tag.strip().lower().partition("-")[0]
        if language in LANGUAGES:
            ranked.append((-_quality(parameters), place, language))
    best = min(ranked, default=None)
    return best[2] if best and best[0] < 0 else LANGUAGES[0]


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    try:
        return float(value) if name.strip().lower() == "q" else 1.0
    except ValueError:
        return 0.0
